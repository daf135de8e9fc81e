"""A survey finds all files of one source, as they lie at one moment."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from bridge.errors import SourceError
from bridge.files.content import COMPRESSED, HEAD, Content
from bridge.files.generation import TAIL, Generation, bare, in_age_order, is_copy, open_regular, tells_age
from bridge.files.listing import ABSENT, Listing
from bridge.globs import is_glob

SURVEYS = 50
"""How often a survey of the files is taken again before it is given up until the next look."""


GROWING = 5
"""How often files are met again because a rotated one was written to, which may go on for ever."""

Stamps = dict[Path, tuple[int, int, int, int]]


def same(before: Stamps, after: Stamps, *, grown: bool) -> bool:
    """Whether the rotated pieces are as they were; with `grown`: but for those that became longer. Pure."""
    if before == after or not grown or before.keys() != after.keys():
        return before == after
    return all(after[path][:2] == facts[:2] and after[path][2] >= facts[2] for path, facts in before.items())


def matches(root: Path, pattern: str) -> list[Path]:
    """Lists the paths that a glob finds below the root. Raises SourceError."""
    try:
        return [*root.glob(pattern)]
    except OSError as error:
        hint = "`ulimit -n` says how many files may be open" if error.errno == errno.EMFILE else ""
        raise SourceError(f"cannot be listed: {error.strerror}", where=str(root / pattern), hint=hint) from None


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path is a link to somewhere outside the root."""
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return True


class Survey:
    """Looks through the names a source's pieces have: its path, and what its `rotated` globs match."""

    def __init__(
        self,
        root: Path,
        path: Path,
        rotated: tuple[str, ...],
        say_once: Callable[[str, str], None],
        *,
        one_of_many: bool,
        listing: Listing,
    ) -> None:
        self._root = root
        self._path = path
        self._rotated = rotated
        self._say_once = say_once
        self._one_of_many = one_of_many
        self._listing = listing

    def take(self) -> tuple[list[Generation], Generation | None]:
        """Opens all files of a source: returns the rotated ones, oldest first, and the one at its path.

        A rotation renames one file after the other. The survey is taken again until nothing moved while it was taken:
        else a file could slip from a name that is yet to be looked at to one that was.
        """
        for _ in range(SURVEYS):
            before = self._names()
            aside = in_age_order([path for path in before if path != self._path])
            rotated = [file for path in aside if (file := open_regular(path)) is not None]
            fresh = open_regular(self._path)
            seen = {file.path: file.identity for file in (*rotated, *([fresh] if fresh else []))}
            if seen == before == self._names():
                return rotated, fresh
            for file in (*rotated, *([fresh] if fresh else [])):
                file.close()
        raise SourceError("its files are renamed faster than they can be looked at", where=str(self._path))

    def at_path(self) -> os.stat_result | None:
        """What stat says of the file at the source's path; None: there is none. Raises SourceError."""
        return _stat(self._path)

    def holds(self, identity: tuple[int, int], head: bytes, start: int, data: bytes) -> bool:
        """Whether a file of the source that begins with `head`, and has not this identity, holds `data` at `start`.

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
        self, files: list[Generation], fresh: Generation | None, held: list[Generation]
    ) -> list[Generation]:
        """Closes rotated files that merely repeat the beginning of another, as `cp log log.bak` makes; returns others.

        Of two that are alike the one whose name ends in a number or a date stays. Two generations may well begin with
        the same line, so a short file of such a name is no copy. `held` are the generations that are open already.
        """
        known = {file.identity for file in held}
        odd = {id(file) for file in files if not tells_age(file.path.name)}
        dropped: set[int] = set()
        begins = {id(file): file.read(TAIL, 0) for file in (*files, *held, *([fresh] if fresh else []))}

        def repeats(file: Generation, older: list[Generation], others: list[Generation | None]) -> bool:
            """Whether a file is what one of these begins with; of older ones, and that goes on."""
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
            if file.identity in known or file.content is None:
                continue
            place = next(i for i, other in enumerate(files) if other is file)
            others = [other for other in files if other is not file and id(other) not in dropped]
            if id(file) not in odd:
                if len(file.read(HEAD, 0)) < HEAD:
                    continue
                older = [other for other in files[:place] if other in others]
            else:
                older = []
            younger = [other for other in others if other not in older]
            if repeats(file, older, [*younger, *held, fresh]):
                dropped.add(id(file))
                if file.packed is None or not repeats(file, [], [*held]):  # what is held was compressed
                    self._say_once(file.path.name, "repeats lines of another file of this source; it is left alone")
        for file in files:
            if id(file) in dropped:
                file.close()
        return [file for file in files if id(file) not in dropped]

    def _names(self) -> dict[Path, tuple[int, int]]:
        """Maps the path of every piece of a source that lies there now to the device and inode behind it."""
        paths = {path for pattern in self._rotated for path in self._matches(pattern)}
        if self._one_of_many:  # a glob of rotated names serves every source: its own begin with its name
            paths = {path for path in paths if path.name.startswith((self._path.name + ".", self._path.name + "-"))}
        names = {}
        for path in paths | {self._path}:
            kept = [path.with_name(bare(path.name) + suffix) for suffix in ("", *COMPRESSED)]
            if path.suffix in COMPRESSED and any(plain in paths for plain in kept[: kept.index(path)]):
                continue  # it is being compressed, or compressed anew, or was and the other was kept
            now = _stat(path)
            if now is not None and (path == self._path or stat.S_ISREG(now.st_mode)):
                names[path] = (now.st_dev, now.st_ino)
        return names

    def _matches(self, pattern: str) -> list[Path]:
        """Lists what a glob of rotated names finds; beside a file of many only names that begin with the file's own."""
        folder, _, last = pattern.rpartition("/")
        if is_glob(folder) or (self._one_of_many and self._root / folder != self._path.parent):
            return matches(self._root, pattern)
        names = self._listing.names(self._root / folder)
        if self._one_of_many:
            own = self._path.name
            names = names[bisect_left(names, own) : bisect_left(names, own + chr(0x10FFFF))]
        return [self._root / folder / name for name in names if fnmatchcase(name, last)]

    def marks(self) -> tuple[int, ...]:
        """The times at which the folders of rotated pieces changed: while they stand, no piece has another name.

        Nothing of it can be told of a pattern over many folders: then 0 stands in it.
        """
        folders = {pattern.rpartition("/")[0] for pattern in self._rotated}
        return tuple(0 if is_glob(folder) else self._listing.changed(self._root / folder) for folder in sorted(folders))

    def stamps(self) -> Stamps:
        """Maps the path of each rotated piece to its device, inode, size and time of writing. Raises SourceError."""
        found = {}
        for path in self._names():
            if path != self._path and (now := _stat(path)) is not None:
                found[path] = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
        return found

    def rotated_names(self) -> dict[tuple[int, int], Path]:
        """Maps the device and inode of each rotated piece of a source to where the piece lies. Raises SourceError."""
        return {identity: path for path, identity in self._names().items() if path != self._path}


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise SourceError(f"cannot be looked at: {error.strerror}", where=str(path)) from None
