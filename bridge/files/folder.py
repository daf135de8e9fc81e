"""Reads a message folder, with one file per message: scans for files, and tells when a file is complete.

State values and artifacts lie in such folders as well. Names are bytes, as the file system has them: any byte but `/`
and NUL may stand in one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bridge.core.errors import SourceError
from bridge.core.globs import is_glob, translated
from bridge.core.model import shown_name
from bridge.files.folder_listing import ABSENT
from bridge.files.temporary_names import leftover

SCAN_FILES = 1000
"""How many files a scan of a folder gives at once."""

BUSY = 60.0
"""Seconds for which a file that did not change is left alone while a program has it open for writing."""

LATEST_MTIME_NS = (1 << 63) - 1
"""The latest time of writing that the facts of a file hold, in ns since 1970: in the year 2262."""

MTIME_SURE_AFTER = 1.0
"""Seconds after which a folder that changes again is sure to get another mtime."""


class FileFacts(NamedTuple):
    """The facts of a file in a message folder: size in bytes, mtime in ns since 1970, device and inode.

    Any of them tells a change.
    """

    size: int
    written: int
    device: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileFacts:
        """Makes the facts by which a file of a message folder is known from its stat."""
        written = max(
            -LATEST_MTIME_NS, min(LATEST_MTIME_NS, found.st_mtime_ns)
        )  # a file system may hold times that the ledger cannot
        return cls(found.st_size, written, found.st_dev, found.st_ino)

    def age(self, now: float, since: float) -> float:
        """Returns for how many seconds a file of a message folder, seen so `since`, did not change.

        Its time of writing may lie in the future.
        """
        return max(now - self.written / 1e9, now - since)


class FoundFile(NamedTuple):
    """A regular file that was found in a message folder: its path below the root, and its facts."""

    name: bytes
    facts: FileFacts


class ReadFile(NamedTuple):
    """A file of a message folder that was read: its facts, and its bytes (of one over the limit the first `limit`).

    `busy`: somebody has it open for writing.
    """

    facts: FileFacts
    raw: bytes
    busy: bool


class MessageFolder:
    """A message folder below `root`: the files that a glob matches, without excluded, hidden and temporary ones.

    Links below the pattern's fixed part are not followed.
    """

    def __init__(self, root: Path, pattern: str, exclude: Sequence[str] = ()) -> None:
        self.root = os.fsencode(root)
        parts = pattern.split("/")
        fixed = next((i for i, part in enumerate(parts[:-1]) if is_glob(part)), len(parts) - 1)
        self._base = os.fsencode("/".join(parts[:fixed]))
        self._deep = len(parts) - 1 - fixed if "**" not in parts else 1 << 16
        self._wanted = translated(pattern)
        self._unwanted = [translated(name) for name in exclude]
        self._seen: dict[bytes, tuple[int, float]] = {}
        self._real = b""
        self.removed: set[bytes] = set()
        """Names of files that the watcher saw taken away, although new files may have these names by now."""
        self.watched = True
        """Whether a watcher tells what happens in the folder; else only a scan finds what was rewritten in place."""
        self.unreadable: list[SourceError] = []
        """Why folders below the first one could not be read by the last scan."""
        self.unlisted: list[bytes] = []
        """The paths below the root of the folders that the last scan could not read."""

    @property
    def folders(self) -> set[Path]:
        """The paths of the folders that the last scan of the message folder found, and of the first one."""
        return {Path(os.fsdecode(_below(self.root, name))) for name in {self._base, *self._seen}}

    def has(self, name: bytes) -> bool:
        """Whether a file of this path below the root would be one of the message folder's files, by its name."""
        last = name.rpartition(b"/")[2]
        if last.startswith(b".") or self._wanted.fullmatch(name) is None or self._is_leftover(name, last):
            return False
        return not any(pattern.fullmatch(name) for pattern in self._unwanted)

    def _is_leftover(self, name: bytes, last: bytes) -> bool:
        def there(other: str) -> bool:
            return os.path.lexists(_below(self.root, name[: len(name) - len(last)] + os.fsencode(other)))

        return leftover(os.fsdecode(last), there)

    def below(self, path: str) -> bytes | None:
        """Turns an absolute path into one below the message folder's root; None when it lies elsewhere."""
        raw = os.fsencode(path)
        return raw[len(self.root) + 1 :] if raw.startswith(self.root + b"/") else None

    def was_removed(self, path: str) -> None:
        """Notes that the file of this absolute path was taken away from the message folder, or moved."""
        name = self.below(path)
        if name is not None and self.has(name):
            self.removed.add(name)

    def changed(self) -> bool:
        """Whether a file of the message folder came, went or was renamed since the last scan, as mtimes tell."""
        if not self.watched:
            return True
        if not self._seen:
            return self._time_of(self._base) is not None
        return any(
            self._time_of(name) != at or at / 1e9 > seen - MTIME_SURE_AFTER for name, (at, seen) in self._seen.items()
        )

    def _time_of(self, name: bytes) -> int | None:
        try:
            return os.stat(_below(self.root, name)).st_mtime_ns
        except OSError:
            return None

    def scan(self) -> Iterator[list[FoundFile]]:
        """Scans the message folder for the files that its glob matches, and yields some at a time, in no order.

        Raises SourceError when the first folder cannot be read.
        """
        some: list[FoundFile] = []
        seen: dict[bytes, tuple[int, float]] = {}
        self.unreadable, self.unlisted = [], []
        waiting = [(self._base, 0)]
        while waiting:
            name, deep = waiting.pop()
            try:
                seen[name] = (os.stat(_below(self.root, name)).st_mtime_ns, time.time())
                with os.scandir(_below(self.root, name)) as listed:
                    for dir_entry in listed:
                        path = _below(name, dir_entry.name)
                        if dir_entry.is_dir(follow_symlinks=False):
                            if deep < self._deep and not dir_entry.name.startswith(b"."):
                                waiting.append((path, deep + 1))
                        elif self.has(path) and dir_entry.is_file(follow_symlinks=False):
                            try:
                                some.append(FoundFile(path, FileFacts.of(dir_entry.stat(follow_symlinks=False))))
                            except FileNotFoundError:
                                continue
                            if len(some) >= SCAN_FILES:
                                yield some
                                some = []
            except FileNotFoundError:
                seen.pop(name, None)
            except OSError as error:
                if name == self._base:
                    raise _unreadable(error, _below(self.root, name)) from None
                self.unreadable.append(_unreadable(error, _below(self.root, name)))
                self.unlisted.append(name)
        self._seen = seen
        if some:
            yield some

    def find(self, name: bytes) -> FoundFile | None:
        """Looks for the file of this name in the message folder; None: not there, or none of the folder's files.

        Raises SourceError where nobody can tell.
        """
        if not self.has(name):
            return None
        try:
            found = os.lstat(_below(self.root, name))
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise SourceError(f"cannot be looked at: {error.strerror}", where=shown_name(name)) from None
        return FoundFile(name, FileFacts.of(found)) if stat.S_ISREG(found.st_mode) else None

    def exists(self, name: str) -> bool:
        """Whether anything of this name exists below the message folder's root."""
        return os.path.lexists(_below(self.root, os.fsencode(name)))

    def busy(self, name: bytes) -> bool:
        """Whether a program has this file of the message folder open for writing, as far as can be told."""
        try:
            fd = os.open(_below(self.root, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return written_to(fd)
        finally:
            os.close(fd)

    def _lies_here(self, fd: int, name: bytes) -> bool:
        """Whether an open file lies in the message folder where its name says: no link on the way leads elsewhere.

        Only links below the first folder count.
        """
        where = path_of(fd, _below(self.root, name))
        rest = name[len(self._base) :].lstrip(b"/")
        if where != _below(self._real, rest):
            self._real = os.path.realpath(_below(self.root, self._base))
        return where == _below(self._real, rest)

    def digest(self, name: bytes) -> str:
        """Computes the BLAKE2b-128 digest, in hex, of a whole file in the message folder; empty if it is unreadable."""
        hasher = hashlib.blake2b(digest_size=16)
        try:
            fd = os.open(_below(self.root, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return ""
        with os.fdopen(fd, "rb") as file:
            if not self._lies_here(fd, name):
                return ""
            while part := file.read(1 << 20):
                hasher.update(part)
        return hasher.hexdigest()

    def read(self, name: bytes, limit: int) -> ReadFile | None:
        """Reads a file of the message folder; None: somebody changed it meanwhile, or it is gone.

        Raises SourceError when it may not be read.
        """
        path = _below(self.root, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise _unreadable(error, path) from None
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode) or not self._lies_here(fd, name):
                return None
            raw = _all(fd, min(before.st_size, limit))
            busy = written_to(fd)
            now = os.fstat(fd)
        except OSError as error:
            raise _unreadable(error, path) from None
        finally:
            os.close(fd)
        if FileFacts.of(now) != FileFacts.of(before) or len(raw) < min(now.st_size, limit):
            return None
        return ReadFile(FileFacts.of(now), raw, busy)


def path_of(fd: int, path: bytes) -> bytes:
    """Returns the path at which an open file of a folder lies, as the system knows it; `path` is how it was opened."""
    try:
        if hasattr(fcntl, "F_GETPATH"):
            return fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")
        return os.readlink(b"/proc/self/fd/%d" % fd)  # noqa: PTH115 - bytes
    except OSError:
        return os.path.realpath(path)


def _below(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder and name else folder or name


def written_to(fd: int) -> bool:
    """Whether a program has this file of a message folder open for writing, as far as the system tells.

    Elsewhere than on Linux the answer is always no. The kernel grants a read lease on a file only while nobody has it
    open for writing (fcntl(2), "Leases"). It is given back at once; a program that opens the file in between waits for
    that moment. Its signal is one that is ignored.
    """
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN  # other errors: another user's file, or a file system without leases
    return False


def _all(fd: int, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := os.read(fd, size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _unreadable(error: OSError, path: bytes) -> SourceError:
    hint = "give the bridge's user the right to read it" if error.errno in (errno.EACCES, errno.EPERM) else ""
    return SourceError(f"cannot be read: {error.strerror}", where=shown_name(path), hint=hint)
