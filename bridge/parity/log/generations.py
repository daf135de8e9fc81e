"""Matches a mapping's files with the generations that Redis and the ledger recorded, for parity.

A generation is known by the digests that Redis holds of it. Where those do not hold any more, because somebody altered
the file, it is known by one of them, by its size, or by its place. An inode is a hint, and only where the digests hold
as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from zlib import crc32

from bridge.core.model import NO_BYTES, Fingerprint, hex_digest
from bridge.files.content import HEAD_BYTES
from bridge.files.content_form import not_lines
from bridge.files.generation import TAIL
from bridge.files.named_file import FileStamp
from bridge.parity.log.items import OFFSETS, ComparedFile
from bridge.parity.log.plain_lines import LAST, PlainLines


@dataclass(frozen=True, slots=True)
class RecordedGeneration:
    """A generation as Redis, or the ledger, recorded it: its number, its fingerprint, and whether it is closed.

    `at.offset` is its size, or how far it was carried while it is open. `inode`: the device and inode that the ledger
    names.
    """

    number: int
    at: Fingerprint
    closed: bool
    inode: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class CutFile:
    """A generation's file that is not as the bridge left it at `offset`, but was cut or altered.

    At `offset` the last 128 bytes had the digest `tail`. The file ends with `torn` bytes behind its last newline, which
    stands before `whole`; before that stand `before`.
    """

    generation: int
    offset: int
    tail: str
    size: int
    whole: int
    torn: bytes
    before: bytes

    @classmethod
    def of(cls, file: PlainLines, wanted: RecordedGeneration) -> CutFile:
        """Describes a generation's file that is not as the bridge left it, and may be cut."""
        last = file.read(LAST, max(0, file.size - LAST))
        whole = file.size - len(last) + last.rfind(b"\n") + 1
        before = file.read(min(TAIL, whole), max(0, whole - TAIL))
        return cls(wanted.number, wanted.at.offset, wanted.at.tail, file.size, whole, last[whole - file.size :]
                   if whole < file.size else b"", before)  # fmt: skip

    def in_words(self, name: str) -> str:
        """Says in words that a generation's file was cut or altered, and what the bridge will do."""
        how = f"ends at byte {self.size:,}" if self.size < self.offset else "holds other bytes"
        left = f"the bridge left it at byte {self.offset:,}"
        return f"{name} {how}, {left}: when it runs, it finds out what of it was carried, and sends the rest"


@dataclass(slots=True)
class SourceFiles:
    """A source's files, matched with its generations and in their order; `strangers` are pieces of no known generation.

    `held` are the files that are open, `changed` those that are not as they were left, by generation.
    """

    files: list[ComparedFile]
    strangers: list[str]
    held: list[PlainLines]
    changed: dict[int, PlainLines]


def written(name: str, paths: Sequence[Path], known: int, limit: int) -> SourceFiles:
    """Assigns generations to the pieces of a file that only the mirror writes, oldest first.

    The newest piece is generation `known`, if told. What is in the pieces is told by content alone. `limit` is the
    longest line, in bytes. Raises SourceError.
    """
    held = [file for path in paths if (file := _opened(path, limit)) is not None]
    held.sort(key=lambda file: (file.path.name == Path(name).name, file.written))
    newest = known or len(held)
    first = newest - len(held) + 1
    strangers = [file.path.name for file in held[: max(0, 1 - first)]]
    files = [
        ComparedFile(file.path.name, name, n, OFFSETS, file.blocks, file.section, file.damage, file.end, foreign=True,
                     mark=file.mark)
        for n, file in enumerate(held, first) if n > 0
    ]  # fmt: skip
    return SourceFiles(files, strangers, held, {})


class FilePieces:
    """Opens all files of a mapping, each inode once, and matches these pieces with the recorded generations.

    `names` are their paths below the root.
    """

    def __init__(self, root: Path, paths: Iterable[Path], limit: int) -> None:
        self.names: dict[int, str] = {}
        self.links: dict[str, str] = {}
        """The names that are other names of a file (links), each with the name that counts."""
        self._held: list[PlainLines] = []
        first: dict[tuple[int, int], str] = {}
        try:
            for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
                name, file = str(path.relative_to(root)), _opened(path, limit)
                if file is None:
                    continue
                if file.inode in first:
                    self.links[name] = first[file.inode]
                    file.close()
                    continue
                first[file.inode] = name
                self.names[id(file)] = name
                self._held.append(file)
        except BaseException:
            self.close()
            raise
        self._free = {id(file): file for file in self._held}
        self._is_of: dict[tuple[str, int], PlainLines] = {}
        self._mine: dict[str, list[PlainLines]] = defaultdict(list)

    def sort_out(
        self, known: Mapping[str, Sequence[RecordedGeneration]], near: Callable[[str], str]
    ) -> dict[str, SourceFiles]:
        """Matches the open files with the `known` generations of each source. Raises SourceError.

        `near` names the source that a file belongs to by its name. Files that came after the known generations follow
        them, with nothing due in them.
        """
        for file in self._held:
            self._mine[near(self.names[id(file)])].append(file)
        for source, generations in known.items():
            self._claim_seen(source, generations)
            self._claim(source, generations, (_exactly,))
        self._renamed(known)
        exact = set(self._is_of)
        return {source: self._found(source, known.get(source, ()), exact) for source in {*known, *self._mine}}

    def holds(self, wanted: RecordedGeneration, crc: int, but: set[tuple[int, int]]) -> bool:
        """Whether an open file is a recorded generation, whole and with this CRC-32; inodes in `but` do not count."""
        size = wanted.at.offset
        alike = (file for file in self._held if file.inode not in but and file.length() == size)
        return any(_exactly(file, wanted.at) and _sum(file, size) == crc for file in alike)

    def _pool(self, source: str) -> list[PlainLines]:
        """Lists the files that are a source's by name and have no generation yet.

        Pieces come first, compressed ones behind the others, and then the source's own file.
        """
        mine = [file for file in self._mine[source] if id(file) in self._free]
        return sorted(mine, key=lambda file: (self.names[id(file)] == source, file.packed))

    def _assign(self, source: str, wanted: RecordedGeneration, file: PlainLines | None) -> None:
        if file is not None:
            self._is_of[source, wanted.number] = self._free.pop(id(file))

    def _claim(
        self,
        source: str,
        known: Sequence[RecordedGeneration],
        tests: Sequence[Callable[[PlainLines, Fingerprint], bool]],
    ) -> None:
        pool = self._pool(source)
        for test in tests:
            for wanted in sorted(known, key=lambda generation: generation.number):
                if (source, wanted.number) not in self._is_of:
                    order = (file for file in (pool if wanted.closed else pool[::-1]) if id(file) in self._free)
                    self._assign(source, wanted, next((file for file in order if test(file, wanted.at)), None))

    def _claim_seen(self, source: str, known: Sequence[RecordedGeneration]) -> None:
        """Assigns to generations the files under the inode that the ledger names, if their digests hold as well.

        Another file may begin alike. The newest generation comes first, as a file that is deleted leaves its inode to a
        later one.
        """
        by_inode = {file.inode: file for file in self._pool(source)}
        for wanted in sorted(known, key=lambda generation: -generation.number):
            file = by_inode.get(wanted.inode)
            if file is not None and id(file) in self._free and wanted.at.head_len and _exactly(file, wanted.at):
                self._assign(source, wanted, file)

    def _renamed(self, known: Mapping[str, Sequence[RecordedGeneration]]) -> None:
        """Finds generations in files under names of other sources: renamed inside the glob, or moved."""
        missing = [
            (source, wanted) for source, generations in known.items() for wanted in generations
            if (source, wanted.number) not in self._is_of and wanted.at.head_len
        ]  # fmt: skip
        if not missing or not self._free or len(self._mine) < 2:
            return
        by_inode = {file.inode: file for file in self._free.values()}
        for source, wanted in missing:
            file = by_inode.get(wanted.inode)
            if file is not None and id(file) in self._free and _exactly(file, wanted.at):
                self._assign(source, wanted, file)
        for source, wanted in missing:
            if (source, wanted.number) not in self._is_of and wanted.at.head_len >= HEAD_BYTES:
                alike = (file for file in self._free.values() if _exactly(file, wanted.at))
                self._assign(source, wanted, next(alike, None))

    def _found(self, source: str, known: Sequence[RecordedGeneration], exact: set[tuple[str, int]]) -> SourceFiles:
        self._claim(source, known, (_partly, _by_size))
        pool = self._pool(source)
        here = next((file for file in self._mine[source] if self.names[id(file)] == source), None)
        doubtful = set()
        left = [
            generation for generation in known if generation.closed and (source, generation.number) not in self._is_of
        ]
        spare = sorted((file for file in pool if file is not here), key=lambda file: file.written)
        for wanted, file in zip(sorted(left, key=lambda wanted: -wanted.number), spare[::-1], strict=False):
            self._assign(source, wanted, file)  # both ends were altered: only the order of age is left
            doubtful.add(wanted.number)
        open_record = next((generation for generation in known if not generation.closed), None)
        is_free = here is not None and id(here) in self._free
        if open_record is not None and (source, open_record.number) not in self._is_of and is_free:
            self._assign(source, open_record, here)
            doubtful.add(open_record.number)
        is_of = {number: file for (name, number), file in self._is_of.items() if name == source}
        files = [
            self._file(source, is_of[wanted.number], wanted, doubtful=wanted.number in doubtful)
            for wanted in sorted(known, key=lambda file: file.number) if wanted.number in is_of
        ]  # fmt: skip
        newest = max((generation.number for generation in known), default=0)
        since = is_of[open_record.number].written if open_record is not None and open_record.number in is_of else -1
        known_here = open_record is not None and is_of.get(open_record.number) is here
        strangers = []
        for file in sorted(self._pool(source), key=lambda file: (file is here, file.written)):
            if file is here or not known or (open_record is not None and not known_here and file.written > since >= 0):
                newest += 1
                files.append(self._file(source, file, RecordedGeneration(newest, NO_BYTES, False)))
            else:
                strangers.append(self.names[id(file)])
        changed = {number: file for number, file in is_of.items() if (source, number) not in exact}
        return SourceFiles(files, strangers, [], changed)

    def _file(self, name: str, file: PlainLines, wanted: RecordedGeneration, *, doubtful: bool = False) -> ComparedFile:
        """Makes the compared file of a generation.

        In a closed generation that was edited since, all lines count as carried.
        """
        is_edited = wanted.closed and wanted.at.head_len and not _exactly(file, wanted.at)
        due = OFFSETS if is_edited else wanted.at.offset
        return ComparedFile(
            file.path.name, name, wanted.number, due, file.blocks, file.section, file.damage, file.end,
            doubtful, mark=file.mark, path=self.names[id(file)],
        )  # fmt: skip

    def _named(self, name: str) -> PlainLines:
        return next(file for file in self._held if self.names[id(file)] == name)

    def size_of(self, name: str) -> int:
        """Returns how many bytes, unpacked, an open piece of a mapping's files holds."""
        return self._named(name).length()

    def not_lines(self, name: str, *, json: bool) -> str:
        """Says what an open piece of a mapping's files is whose first bytes are none of lines; empty: it may be."""
        return not_lines(self._named(name).head, json=json)

    def is_as(self, name: str, facts: FileStamp | None) -> bool:
        """Whether parity finds a log's file with the device, inode, size and time of writing that the ledger noted."""
        file = self._named(name)
        return facts is not None and (*file.inode, file.size, file.written) == facts[:4]

    def changed(self, name: str) -> float:
        """Returns when an open piece was written to, or got its name, in seconds since 1970."""
        return self._named(name).changed / 1e9

    def copied_of(self, name: str) -> str:
        """Returns the name of a generation's file that begins with all bytes of this piece; empty: there is none."""
        file = self._named(name)
        size = file.length()
        for other in [*self._is_of.values()]:
            alike = size and other is not file and other.read(len(file.head), 0) == file.head
            if alike and all(a == b for a, b in zip_longest(file.section(0, size), other.section(0, size))):
                return self.names[id(other)]
        return ""

    def close(self) -> None:
        """Closes every file of the mapping that was opened to be matched with generations."""
        for file in self._held:
            file.close()
        self._held = []


def _opened(path: Path, limit: int) -> PlainLines | None:
    try:
        file = PlainLines(path, limit)
    except FileNotFoundError:
        return None
    if file.regular:
        return file
    file.close()
    return None


def _sum(file: PlainLines, size: int) -> int:
    found = 0
    for part in file.section(0, size):
        found = crc32(part, found)
    return found


def _head_holds(file: PlainLines, at: Fingerprint) -> bool:
    return bool(at.head_len) and len(file.head) >= at.head_len and hex_digest(file.head[: at.head_len]) == at.head


def _tail_holds(file: PlainLines, at: Fingerprint) -> bool:
    if at.offset == 0:
        return False
    back = min(TAIL, at.offset)
    tail = file.read(back, at.offset - back)
    return len(tail) == back and hex_digest(tail) == at.tail


def _ends_alike(file: PlainLines, at: Fingerprint) -> bool:
    """Whether a file's last bytes are those recorded of a generation, wherever they stand now."""
    size = file.length()
    back = min(TAIL, at.offset, size)
    return at.offset > 0 and hex_digest(file.read(back, size - back)) == at.tail


def _exactly(file: PlainLines, at: Fingerprint) -> bool:
    return _head_holds(file, at) and (at.offset == 0 or _tail_holds(file, at))


def _partly(file: PlainLines, at: Fingerprint) -> bool:
    return _head_holds(file, at) or _tail_holds(file, at) or _ends_alike(file, at)


def _by_size(file: PlainLines, at: Fingerprint) -> bool:
    return at.offset > 0 and file.length() == at.offset
