"""Looks at all paths of one source: opens all files of the source as they lie at one moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bridge.core.errors import SourceError
from bridge.core.model import Fingerprint
from bridge.files.catalog import Catalog
from bridge.files.content import HEAD_BYTES, Content
from bridge.files.folder_listing import stat_of
from bridge.files.generation import TAIL, Generation, is_copy, open_regular
from bridge.files.generation_record import GenerationRecord
from bridge.files.piece_age import Piece, TimeSpan, contradicted, in_age_order, tells_age
from bridge.files.piece_times import Times, span_of

SURVEYS = 50
"""How often a source's files are opened again, because one was renamed, before the next look has to do it."""


GROWING = 5
"""How often a source's files are met again because a rotated one was written to, which may go on for ever."""

SURE_BYTES = 4096
"""So many equal bytes two files hardly have by chance."""

Stamps = dict[Path, tuple[int, int, int, int]]


def same(before: Stamps, after: Stamps, *, grown: bool) -> bool:
    """Whether a source's rotated paths have the same stamps as before; `grown`: but for files that grew. Pure."""
    if before == after or not grown or before.keys() != after.keys():
        return before == after
    return all(after[path][:2] == facts[:2] and after[path][2] >= facts[2] for path, facts in before.items())


class PathsProvider:
    """Provides the files at the paths of one source: at its own path, and at those that its `rotated` globs match."""

    def __init__(self, catalog: Catalog, name: str, say_once: Callable[..., None], times: Times | None) -> None:
        self._catalog = catalog
        self._name = name
        self._path = catalog.root / name
        self._say_once = say_once
        self._times = times
        self.rotated_copies: set[int] = set()
        """The open generations of which a rotation made one of the copies that were closed last, by number."""
        self._spans: dict[tuple[tuple[int, int], tuple[int, int]], TimeSpan | None] = {}

    def take(self) -> tuple[list[Generation], Generation | None]:
        """Opens the files at all paths of a source: returns the rotated ones, by name, and the one at its own path.

        A rotation renames one file after the other. All are opened again until nothing moved meanwhile: else a file
        could slip from a name that is yet to be looked at to one that was. Raises SourceError.
        """
        for _ in range(SURVEYS):
            before = self._catalog.files_of(self._name)
            rotated = [file for path in sorted(before) if path != self._path and (file := open_regular(path))]
            always = not self._catalog.many and self._name == self._catalog.path
            always = always and not self._catalog.is_foreign(self._name)
            fresh = open_regular(self._path) if always or self._path in before else None
            seen = {file.path: file.identity for file in (*rotated, *([fresh] if fresh else []))}
            if seen == before == self._catalog.files_of(self._name):
                return rotated, fresh
            for file in (*rotated, *([fresh] if fresh else [])):
                file.close()
        raise SourceError("its files are renamed faster than they can be looked at", where=str(self._path))

    def stranger(self, at: Fingerprint) -> Generation | None:
        """Opens an unknown file, outside the source's paths, that holds what a lost generation is recognised by.

        Its reader is placed there. The file is a log by itself that nobody has carried: somebody copied the log there
        and emptied it, under a name that the mapping takes for a log's. None: there is none. Raises SourceError.
        """
        named = sorted(self._catalog.named.items()) if at.head_len and self._catalog.many else []
        for name, listed in named:
            odd = name == self._name or listed.log != name or listed.of or listed.aside or listed.rotated
            if odd or self._catalog.is_claimed(listed.identity):
                continue
            file = open_regular(listed.path)
            if file is not None and file.size() >= at.offset and file.place(at):
                return file
            if file is not None:
                file.close()
        return None

    def stranger_of(self, record: GenerationRecord) -> Generation | None:
        """Opens an unknown file, as `stranger` does, that holds a generation which left the source's paths unseen.

        Only where the log's own file was emptied, or the generation is too long for chance; else None.
        """
        here = self.at_path()
        emptied = here is not None and (here.st_dev, here.st_ino) == (record.device, record.inode)
        return self.stranger(record.at) if emptied or record.at.offset >= SURE_BYTES else None

    def at_path(self) -> os.stat_result | None:
        """Returns the stat of the file at the source's own path; None: there is none. Raises SourceError."""
        return self._catalog.at_path(self._name)

    def in_age_order(
        self, files: list[Generation], seen: Callable[[Generation], tuple[int, int] | None]
    ) -> list[Generation]:
        """Sorts the files at a source's rotated paths by age, oldest first.

        `seen` tells as which generation a file was seen, and when that was written to last, in ns since 1970.

        Says where the evidence is against what the names alone would tell of a file that nobody knows. Raises
        SourceError.
        """
        pieces = []
        for file in files:
            number, written = seen(file) or (None, file.written())
            span, packed = partial(self._span, file), bool(file.packed)
            pieces.append(Piece(file.path.name, written, span, number, packed=packed, born=file.born))
        ordered = in_age_order(pieces, self._catalog.order)
        if any(piece.number is None for piece in pieces) and (why := contradicted(pieces, ordered)):
            self._say_once(f"order: {why}", "", why)
        for placed in ordered:
            files[placed.index].decided = placed.decided
        return [files[placed.index] for placed in ordered]

    def _span(self, file: Generation) -> TimeSpan | None:
        if self._times is None or file.content is None:
            return None
        now = file.content.stat()
        key = file.identity, (now.st_size, now.st_mtime_ns)
        if key not in self._spans:
            self._spans[key] = span_of(file, self._times)
        return self._spans[key]

    def holds(self, identity: tuple[int, int], head: bytes, start: int, data: bytes) -> bool:
        """Whether a file at the source's paths begins with `head`, has another identity, and holds `data` at `start`.

        Raises SourceError.
        """
        rotated, fresh = self.take()
        files = [*rotated, *([fresh] if fresh else [])]
        head = head[:start]
        try:
            return any(
                file.identity != identity and file.read(len(head), 0) == head and file.read(len(data), start) == data
                for file in files
            )
        finally:
            for file in files:
                file.close()

    def without_copies(
        self, files: list[Generation], fresh: Generation | None, held: list[Generation],
        seen: Callable[[Generation], bool],
    ) -> list[Generation]:  # fmt: skip
        """Closes those of a source's rotated files that merely repeat the beginning of another; returns the others.

        `cp log log.bak` makes such a file. Of two that are alike the one whose name ends in a number or a date stays.
        Two generations may well begin with the same line, so a short file of such a name is no copy; nor is one that
        was `seen` as a generation. `held` are the generations that are open already.
        """
        self.rotated_copies = set()
        known = {file.identity for file in held}
        odd = {id(file) for file in files if not tells_age(file.path.name)}
        dropped: set[int] = set()
        begins = {id(file): file.read(TAIL, 0) for file in (*files, *held, *([fresh] if fresh else []))}

        def repeats(file: Generation, older: list[Generation], others: list[Generation | None]) -> bool:
            """Whether one of a source's files is how one of these others begins; or an older one, which goes on."""
            first = begins[id(file)]

            def alike(some: list[Generation | None]) -> Iterator[Content]:
                return (
                    other.content for other in some
                    if other is not None and other.content is not None and begins[id(other)].startswith(first)
                )  # fmt: skip

            if file.content is None or not first:
                return False
            content = file.content
            if any(is_copy(content, other) for other in alike(others)):
                return True
            return any(is_copy(content, other, longer=True) for other in alike([*older]))

        for file in sorted(files, key=lambda file: id(file) not in odd):
            if file.identity in known or file.content is None or seen(file):
                continue
            place = next(i for i, other in enumerate(files) if other is file)
            others = [other for other in files if other is not file and id(other) not in dropped]
            if id(file) not in odd:
                if len(file.read(HEAD_BYTES, 0)) < HEAD_BYTES:
                    continue
                older = [other for other in files[:place] if other in others]
            else:
                older = []
            younger = [other for other in others if other not in older]
            if repeats(file, older, [*younger, *held, fresh]):
                dropped.add(id(file))
                of = {generation.number for generation in held if repeats(file, [], [generation])}
                if file.packed is not None:
                    self.rotated_copies |= of
                if file.packed is None or not of:  # else it is the open generation, compressed
                    self._say_once(file.path.name, "repeats lines of another file of this source; it is left alone")
        for file in files:
            if id(file) in dropped:
                file.close()
        return [file for file in files if id(file) not in dropped]

    def marks(self) -> tuple[int, ...]:
        """Returns the times at which the folders of a source's paths changed: while they stand, no piece is renamed.

        0 stands in it where nobody can tell.
        """
        return self._catalog.marks()

    def stamps(self) -> Stamps:
        """Maps the path of each rotated piece of a source to its device, inode, size and mtime. Raises SourceError."""
        found = {}
        for path in self._catalog.files_of(self._name):
            if path != self._path and (now := stat_of(path)) is not None:
                found[path] = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
        return found

    def rotated_names(self) -> dict[tuple[int, int], Path]:
        """Maps the device and inode of each rotated piece of a source to its path. Raises SourceError."""
        return {identity: path for path, identity in self._catalog.files_of(self._name).items() if path != self._path}
