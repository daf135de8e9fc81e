"""Lists the folders of a mapping's globs, and again only when they changed: thousands of logs may share a folder."""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path

from bridge.core.errors import SourceError
from bridge.core.globs import is_glob

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""The error numbers which say that there is no file of a name; any other says that nobody could look."""

SURE_SECONDS = 0.1
"""Seconds after which a listed folder that changes again is sure to get another mtime."""


@dataclass(slots=True)
class ListedFolder:
    """The listing of one folder: the inode of each name, negative for a link, and the folders below it."""

    changed: int
    files: dict[str, int] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


class FolderListing:
    """Lists the folders below `root` in which files of these globs may lie, and tells which files came and went."""

    def __init__(self, root: Path, patterns: Iterable[str]) -> None:
        self._root = root
        self._bases = sorted({_base(pattern) for pattern in patterns})
        self._came, self._went, self._whole = list[tuple[str, int]](), list[str](), False
        self.known: dict[str, ListedFolder] = {}
        """The last listing of each folder, by its path below the root."""

    def refresh(self) -> tuple[list[tuple[str, int]], list[str]]:
        """Lists again the folders that changed: returns the files that came, with their inodes, and those that went.

        The inode of a link is negative. A file whose name has another inode by now went and came. Raises SourceError;
        what came and went until then the next refresh returns.
        """
        came, went, seen = self._came, self._went, set[str]()
        if self._whole and all(starmap(self._stands, self.known.items())):
            return [], []
        self._whole = False  # after an error the next refresh looks at all folders again
        for base, deep in self._bases:
            for folder in self._walk(base, deep):
                if folder not in seen:
                    seen.add(folder)
                    self._compare(folder, came, went)
        for folder in self.known.keys() - seen:
            went += [below(folder, name) for name in self.known.pop(folder).files]
        self._came, self._went, self._whole = [], [], True
        return came, went

    def _stands(self, folder: str, listed: ListedFolder) -> bool:
        """Whether the mtime of a listed folder says that it is as it was when it was listed."""
        try:
            return os.stat(f"{self._root}/{folder}").st_mtime_ns == listed.changed
        except OSError:
            return False

    def _walk(self, base: str, deep: int) -> Iterator[str]:
        waiting = [(base, deep)]
        while waiting:
            folder, left = waiting.pop()
            yield folder
            known = self.known.get(folder)
            if left and known is not None:
                waiting += [(below(folder, name), left - 1) for name in known.folders]

    def _compare(self, folder: str, came: list[tuple[str, int]], went: list[str]) -> None:
        """Lists a folder again, if its mtime says that it changed, and notes which names came and which went."""
        before = self.known.get(folder)
        try:
            changed = os.stat(self._root / folder).st_mtime_ns
            if before is not None and before.changed == changed:
                return
            found = ListedFolder(changed if time.time() - changed / 1e9 > SURE_SECONDS else -1)
            with os.scandir(self._root / folder) as listed:
                for entry in listed:
                    if entry.is_dir(follow_symlinks=False):
                        found.folders.append(entry.name)
                    else:
                        found.files[entry.name] = -entry.inode() if entry.is_symlink() else entry.inode()
        except OSError as error:
            if error.errno not in ABSENT:
                hint = "`ulimit -n` says how many files may be open" if error.errno == errno.EMFILE else ""
                where = str(self._root / folder)
                raise SourceError(f"cannot be listed: {error.strerror}", where=where, hint=hint) from None
            found = ListedFolder(-1)
        self.known[folder] = found
        old = before.files if before is not None else {}
        if old != found.files:
            new = found.files
            went += [below(folder, name) for name, inode in old.items() if new.get(name) != inode]
            came += [(below(folder, name), inode) for name, inode in new.items() if old.get(name) != inode]

    def marks(self) -> tuple[int, ...]:
        """Returns the mtimes of the listed folders: while the mtimes stand, no file has another name.

        0 stands in it where another change may have the same time.
        """
        now, times = time.time(), []
        for folder in sorted(self.known):
            try:
                changed = os.stat(self._root / folder).st_mtime_ns
            except OSError:
                changed = 0
            times.append(changed if now - changed / 1e9 > SURE_SECONDS else 0)
        return tuple(times) or (0,)


@functools.lru_cache(maxsize=1024)
def _base(pattern: str) -> tuple[str, int]:
    """Returns the folder to list first for a glob, where its fixed part ends, and how many levels deep files lie."""
    parts = pattern.split("/")
    fixed = next((i for i, part in enumerate(parts[:-1]) if is_glob(part)), len(parts) - 1)
    return "/".join(parts[:fixed]), 1 << 16 if "**" in parts else len(parts) - 1 - fixed


def below(folder: str, name: str) -> str:
    """Joins the path of a listed folder and a name in it; the root is the folder without a name."""
    return f"{folder}/{name}" if folder else name


def stat_of(path: Path) -> os.stat_result | None:
    """Returns the stat of a file in a listed folder, links followed; None: there is none.

    Raises SourceError: nobody could look.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise SourceError(f"cannot be looked at: {error.strerror}", where=str(path)) from None


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path in a listed folder is a link to somewhere outside the root."""
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return True
