"""The pool of file descriptors: where fewer files may be open than there are logs, the least recently used are parked.

A parked file is opened again by its name, or by any name beside it that leads to the same inode, when it is asked for.
One without a name, which could not be opened again, is never parked.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import RLock

from bridge.core.errors import SourceError
from bridge.files.birth_time import born

RESERVED_DESCRIPTORS, EACH, FEWEST = 20, 4, 8
"""`RESERVED_DESCRIPTORS`: descriptors that are left to the watcher, the log, the lock and whatever else is open.

`EACH`: how many are left to each thread that carries, for Redis, the ledger, its WAL and what the thread writes.
`FEWEST`: how many the files of sources have at least.
"""

LISTINGS = 50
"""How often the folder of a parked file that is to be opened again is listed, until nothing moves in it."""

MOST_DESCRIPTORS = 1 << 16
"""How many descriptors this process asks of the system, where it gives so many."""


def raise_limit() -> None:
    """Raises this process's limit of file descriptors as far as the system lets it: macOS gives 256 to begin with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a limit of its own below what it says
            return


class DeletedWhileParked(SourceError):
    """The error raised when a file that the pool parked has no name any more by which to open it again.

    What was not read of it is gone.
    """


class DescriptorPool:
    """A pool of descriptors: keeps at most `most` files open and parks the least recently used. Thread-safe.

    `most` None: as many as the process's limit allows. `carriers` is how many threads carry, whose descriptors are
    reserved.
    """

    def __init__(self, most: int | None = None) -> None:
        self._lock = RLock()
        self._open: OrderedDict[PooledFile, int] = OrderedDict()
        self._busy: dict[PooledFile, int] = {}
        self._most = most
        self.carriers = 2

    @property
    def most(self) -> int:
        """Returns how many files the descriptor pool keeps open at once, at most."""
        if self._most is not None:
            return self._most
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(FEWEST, soft - RESERVED_DESCRIPTORS - EACH * self.carriers)

    def open(self, path: Path) -> int:
        """Opens a file for reading and returns its descriptor; parks some of the pool's files if none is left.

        The caller adds it to the pool. Raises OSError.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(path, flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._lock:
            self._park(FEWEST)
        return os.open(path, flags)

    def add(self, handle: PooledFile, fd: int) -> None:
        """Adds a file that was opened just now to the descriptor pool, which parks others for it."""
        with self._lock:
            self._open[handle] = fd
            self._park(len(self._open) - self.most, handle)

    def acquire(self, handle: PooledFile, reopen: Callable[[], int]) -> int:
        """Acquires a file's descriptor from the pool, opened again if it was parked; keeps it open until its release.

        Raises SourceError.
        """
        with self._lock:
            fd = self._open.get(handle)
            if fd is None:
                fd = self._open[handle] = reopen()
                self._park(len(self._open) - self.most, handle)
            self._open.move_to_end(handle)
            self._busy[handle] = self._busy.get(handle, 0) + 1
            return fd

    def release(self, handle: PooledFile) -> None:
        """Releases an acquired file, so that the descriptor pool may park it again."""
        with self._lock:
            if self._busy[handle] == 1:
                del self._busy[handle]
            else:
                self._busy[handle] -= 1

    def drop(self, handle: PooledFile) -> None:
        """Closes a file's descriptor, if it is open, and takes the file out of the descriptor pool."""
        with self._lock:
            fd = self._open.pop(handle, None)
            if fd is not None:
                os.close(fd)

    def _park(self, surplus: int, but: PooledFile | None = None) -> None:
        if surplus <= 0:
            return
        for handle in list(self._open):
            if surplus <= 0:
                return
            if handle is not but and handle not in self._busy and handle.may_be_parked(self._open[handle]):
                self.drop(handle)
                surplus -= 1


POOL = DescriptorPool()
"""The one descriptor pool of this process: the limit of descriptors holds for all of its files together."""


class PooledFile:
    """A file in the descriptor pool that is open for reading, or parked: closed for now, until it is asked for.

    `path` is where it was found last.
    """

    def __init__(self, fd: int, path: Path, pool: DescriptorPool = POOL) -> None:
        now = os.fstat(fd)
        self.identity = (now.st_dev, now.st_ino)
        self.born = born(fd)
        self.path = path
        self._pool = pool
        self._closed = False
        pool.add(self, fd)

    def stat(self) -> os.stat_result:
        """Asks the system for the stat of a pooled file, which is opened again if it was parked. Raises SourceError."""
        fd = self._pool.acquire(self, self._reopen)
        try:
            return os.fstat(fd)
        except OSError as error:
            raise SourceError(f"cannot be looked at: {error.strerror}") from None
        finally:
            self._pool.release(self)

    def read(self, size: int, offset: int) -> bytes:
        """Reads up to `size` bytes of a pooled file at `offset`, in one read; short at its end. Raises SourceError.

        A second read for what is missing could find the file emptied and written anew in between.
        """
        fd = self._pool.acquire(self, self._reopen)
        try:
            return os.pread(fd, size, offset)
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}", where=f"offset {offset}") from None
        finally:
            self._pool.release(self)

    def close(self) -> None:
        """Closes a pooled file for good, whether it is open or parked: the pool does not open it again."""
        self._closed = True
        self._pool.drop(self)

    def may_be_parked(self, fd: int) -> bool:
        """Whether the pool can park a file and open it again: a name leads to the file, as far as can be told."""
        try:
            return os.fstat(fd).st_nlink > 0
        except OSError:
            return True

    def _reopen(self) -> int:
        if self._closed:
            raise SourceError("is closed")
        fd, listed = self._opened(self.path), list[tuple[str, int]]()
        for _ in range(LISTINGS):
            if fd is not None:
                return fd
            before, listed = listed, self._listed()
            fd = self._found([name for name, inode in listed if inode == self.identity[1]])
            if fd is None and listed == before:
                raise DeletedWhileParked("was deleted while more files were to be followed than may be open",
                              hint="raise the limit of open files (`ulimit -n`)")  # fmt: skip
        raise SourceError("is renamed faster than it can be opened", where=str(self.path))

    def _found(self, names: list[str]) -> int | None:
        """Opens the parked file under one of these names beside it; None: none of them leads to it by now."""
        refusal: SourceError | None = None
        for path in map(self.path.with_name, names):
            try:
                fd = self._opened(path)
            except SourceError as error:  # it may be there, or under the next name
                refusal = error
                continue
            if fd is not None:
                self.path = path
                return fd
        if refusal is not None:
            raise refusal
        return None

    def _listed(self) -> list[tuple[str, int]]:
        """Lists the names beside the parked file, with their inodes; two that are alike tell that nothing moved."""
        try:
            with os.scandir(self.path.parent) as found:
                return sorted((listed.name, listed.inode()) for listed in found)
        except OSError as error:
            raise SourceError(f"cannot be listed: {error.strerror}", where=str(self.path.parent)) from None

    def _opened(self, path: Path) -> int | None:
        try:
            fd = self._pool.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"cannot be opened: {error.strerror}", where=str(path)) from None
        try:
            now = os.fstat(fd)
        except OSError as error:
            os.close(fd)
            raise SourceError(f"cannot be looked at: {error.strerror}", where=str(path)) from None
        if (now.st_dev, now.st_ino) == self.identity:
            return fd
        os.close(fd)
        return None
