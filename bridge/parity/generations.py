"""Which of a mapping's files is which generation, for parity.

A generation is known by the digests that Redis holds of it; where those do not hold any more, because somebody altered
the file, by one of them, by its size, or by its place. An inode is a hint, and only where the digests hold as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bridge.files.content import HEAD
from bridge.files.generation import TAIL
from bridge.model import Fingerprint, hex_digest
from bridge.parity.files import LAST, Plain
from bridge.parity.sides import OFFSETS, File


@dataclass(frozen=True, slots=True)
class Generation:
    """What Redis, or the ledger, holds of one: `at.offset` is its size, or how far it was carried while it is open.

    `inode`: the device and inode that the ledger names.
    """

    number: int
    at: Fingerprint
    closed: bool
    inode: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Cut:
    """A file that is not as the bridge left it at `offset`, where the last 128 bytes had the digest `tail`.

    It ends with `torn` bytes behind its last newline, which stands before `whole`; before that stand `before`.
    """

    generation: int
    offset: int
    tail: str
    size: int
    whole: int
    torn: bytes
    before: bytes

    @classmethod
    def of(cls, one: Plain, wanted: Generation) -> Cut:
        """What can be said of it."""
        last = one.read(LAST, max(0, one.size - LAST))
        whole = one.size - len(last) + last.rfind(b"\n") + 1
        before = one.read(min(TAIL, whole), max(0, whole - TAIL))
        return cls(wanted.number, wanted.at.offset, wanted.at.tail, one.size, whole, last[whole - one.size :]
                   if whole < one.size else b"", before)  # fmt: skip

    def in_words(self, name: str) -> str:
        """What became of the file `name`, and what will."""
        how = f"ends at byte {self.size:,}" if self.size < self.offset else "holds other bytes"
        left = f"the bridge left it at byte {self.offset:,}"
        return f"{name} {how}, {left}: when it runs, it takes it for a new file and carries all of it again"


@dataclass(slots=True)
class Found:
    """A source's files in the order of their generations; `strangers` are pieces that no generation is known for.

    `held` are the files that are open, `changed` those that are not as they were left, by generation.
    """

    files: list[File]
    strangers: list[str]
    held: list[Plain]
    changed: dict[int, Plain]


def written(name: str, paths: Sequence[Path], known: int, limit: int) -> Found:
    """The pieces of a file that only the mirror writes, oldest first; the newest is generation `known`, if told.

    What is in them is told by content alone. `limit` is the longest line, in bytes. Raises SourceError.
    """
    held = [one for path in paths if (one := _opened(path, limit)) is not None]
    held.sort(key=lambda one: (one.path.name == Path(name).name, one.written))
    newest = known or len(held)
    first = newest - len(held) + 1
    strangers = [one.path.name for one in held[: max(0, 1 - first)]]
    files = [
        File(one.path.name, name, n, OFFSETS, one.blocks, one.section, one.damage, one.end, foreign=True)
        for n, one in enumerate(held, first) if n > 0
    ]  # fmt: skip
    return Found(files, strangers, held, {})


class Pieces:
    """All files of a mapping that lie there, open, each inode once; `names` are their paths below the root."""

    def __init__(self, root: Path, paths: Iterable[Path], limit: int) -> None:
        self.names: dict[int, str] = {}
        self.links: dict[str, str] = {}
        """The names that are other names of a file, each with the one that counts."""
        self._held: list[Plain] = []
        first: dict[tuple[int, int], str] = {}
        try:
            for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
                name, one = str(path.relative_to(root)), _opened(path, limit)
                if one is None:
                    continue
                if one.inode in first:
                    self.links[name] = first[one.inode]
                    one.close()
                    continue
                first[one.inode] = name
                self.names[id(one)] = name
                self._held.append(one)
        except BaseException:
            self.close()
            raise
        self._free = {id(one): one for one in self._held}
        self._is_of: dict[tuple[str, int], Plain] = {}
        self._mine: dict[str, list[Plain]] = defaultdict(list)

    def sort_out(self, known: Mapping[str, Sequence[Generation]], near: Callable[[str], str]) -> dict[str, Found]:
        """Says which file is which of the `known` generations of each source. Raises SourceError.

        `near` names the source that a file belongs to by its name. Files that came after the known generations follow
        them, with nothing due in them.
        """
        for one in self._held:
            self._mine[near(self.names[id(one)])].append(one)
        for source, generations in known.items():
            self._claim(source, generations, (_exactly,))
        self._renamed(known)
        exact = set(self._is_of)
        return {source: self._found(source, known.get(source, ()), exact) for source in {*known, *self._mine}}

    def _pool(self, source: str) -> list[Plain]:
        """The files that are a source's by name and are nobody's yet: pieces, packed ones last, then its own file."""
        mine = [one for one in self._mine[source] if id(one) in self._free]
        return sorted(mine, key=lambda one: (self.names[id(one)] == source, one.packed))

    def _assign(self, source: str, wanted: Generation, one: Plain | None) -> None:
        if one is not None:
            self._is_of[source, wanted.number] = self._free.pop(id(one))

    def _claim(
        self, source: str, known: Sequence[Generation], tests: Sequence[Callable[[Plain, Fingerprint], bool]]
    ) -> None:
        pool = self._pool(source)
        for test in tests:
            for wanted in sorted(known, key=lambda generation: generation.number):
                if (source, wanted.number) not in self._is_of:
                    order = (one for one in (pool if wanted.closed else pool[::-1]) if id(one) in self._free)
                    self._assign(source, wanted, next((one for one in order if test(one, wanted.at)), None))

    def _renamed(self, known: Mapping[str, Sequence[Generation]]) -> None:
        """Finds generations under names of other sources: renamed inside the glob, or moved."""
        missing = [
            (source, wanted) for source, generations in known.items() for wanted in generations
            if (source, wanted.number) not in self._is_of and wanted.at.head_len
        ]  # fmt: skip
        if not missing or not self._free or len(self._mine) < 2:
            return
        by_inode = {one.inode: one for one in self._free.values()}
        for source, wanted in missing:
            one = by_inode.get(wanted.inode)
            if one is not None and id(one) in self._free and _exactly(one, wanted.at):
                self._assign(source, wanted, one)
        for source, wanted in missing:
            if (source, wanted.number) not in self._is_of and wanted.at.head_len >= HEAD:
                alike = (one for one in self._free.values() if _exactly(one, wanted.at))
                self._assign(source, wanted, next(alike, None))

    def _found(self, source: str, known: Sequence[Generation], exact: set[tuple[str, int]]) -> Found:
        self._claim(source, known, (_partly, _by_size))
        pool = self._pool(source)
        here = next((one for one in self._mine[source] if self.names[id(one)] == source), None)
        doubtful = set()
        left = [one for one in known if one.closed and (source, one.number) not in self._is_of]
        spare = sorted((one for one in pool if one is not here), key=lambda one: one.written)
        for wanted, one in zip(sorted(left, key=lambda one: -one.number), spare[::-1], strict=False):
            self._assign(source, wanted, one)  # somebody altered both ends: the order is all there is to go by
            doubtful.add(wanted.number)
        open_one = next((one for one in known if not one.closed), None)
        is_free = here is not None and id(here) in self._free
        if open_one is not None and (source, open_one.number) not in self._is_of and is_free:
            self._assign(source, open_one, here)
            doubtful.add(open_one.number)
        is_of = {number: one for (name, number), one in self._is_of.items() if name == source}
        files = [
            self._file(source, is_of[wanted.number], wanted, doubtful=wanted.number in doubtful)
            for wanted in sorted(known, key=lambda one: one.number) if wanted.number in is_of
        ]  # fmt: skip
        newest = max((one.number for one in known), default=0)
        since = is_of[open_one.number].written if open_one is not None and open_one.number in is_of else -1
        known_here = open_one is not None and is_of.get(open_one.number) is here
        strangers = []
        for one in sorted(self._pool(source), key=lambda one: (one is here, one.written)):
            if one is here or not known or (open_one is not None and not known_here and one.written > since >= 0):
                newest += 1
                files.append(self._file(source, one, Generation(newest, Fingerprint(0, 0, "", ""), False)))
            else:
                strangers.append(self.names[id(one)])
        changed = {number: one for number, one in is_of.items() if (source, number) not in exact}
        return Found(files, strangers, [], changed)

    def _file(self, name: str, one: Plain, wanted: Generation, *, doubtful: bool = False) -> File:
        return File(
            one.path.name, name, wanted.number, wanted.at.offset, one.blocks, one.section, one.damage, one.end,
            doubtful, path=self.names[id(one)],
        )  # fmt: skip

    def _named(self, name: str) -> Plain:
        return next(one for one in self._held if self.names[id(one)] == name)

    def size_of(self, name: str) -> int:
        """How many bytes, unpacked, a file holds."""
        return self._named(name).length()

    def written(self, name: str) -> int:
        """When a file was written to last, in ns since 1970."""
        return self._named(name).written

    def copied_of(self, name: str) -> str:
        """The file whose first bytes are all that this one holds, one that is compared; empty: there is none."""
        one = self._named(name)
        size = one.length()
        for other in [*self._is_of.values()]:
            alike = size and other is not one and other.read(len(one.head), 0) == one.head
            if alike and all(a == b for a, b in zip_longest(one.section(0, size), other.section(0, size))):
                return self.names[id(other)]
        return ""

    def close(self) -> None:
        """Closes every file of the mapping that parity has open."""
        for one in self._held:
            one.close()
        self._held = []


def _opened(path: Path, limit: int) -> Plain | None:
    try:
        one = Plain(path, limit)
    except FileNotFoundError:
        return None
    if one.regular:
        return one
    one.close()
    return None


def _head_holds(one: Plain, at: Fingerprint) -> bool:
    return bool(at.head_len) and len(one.head) >= at.head_len and hex_digest(one.head[: at.head_len]) == at.head


def _tail_holds(one: Plain, at: Fingerprint) -> bool:
    if at.offset == 0:
        return False
    back = min(TAIL, at.offset)
    tail = one.read(back, at.offset - back)
    return len(tail) == back and hex_digest(tail) == at.tail


def _ends_alike(one: Plain, at: Fingerprint) -> bool:
    """Whether its last bytes are those it was left with, wherever they stand now."""
    size = one.length()
    back = min(TAIL, at.offset, size)
    return at.offset > 0 and hex_digest(one.read(back, size - back)) == at.tail


def _exactly(one: Plain, at: Fingerprint) -> bool:
    return _head_holds(one, at) and (at.offset == 0 or _tail_holds(one, at))


def _partly(one: Plain, at: Fingerprint) -> bool:
    return _head_holds(one, at) or _tail_holds(one, at) or _ends_alike(one, at)


def _by_size(one: Plain, at: Fingerprint) -> bool:
    return at.offset > 0 and one.length() == at.offset
