"""Writes files into a folder atomically: whole under a hidden name, synced, and renamed to a name that is free.

The hidden file is written before anything is promised, and is gone in the moment in which the file has its name. So
after a crash it tells whether the file was put in place, whatever a program did with the file since.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.core.errors import TargetError
from bridge.files.appender import folder_below, link_or
from bridge.files.folder import FileFacts

PREFIX, SUFFIX = ".bridge-", ".tmp"

_NOT_HERE = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL)
"""The errors that tell that a system or file system does not support a way to rename or link."""


class AtomicFolder:
    """A folder below `root` into which the bridge puts whole files atomically; made where it is missing.

    Never through a link. Raises TargetError.
    """

    def __init__(self, root: Path, folder: str) -> None:
        self.path = root / folder
        self.closed = False
        try:
            self._fd = folder_below(root, Path(folder).parts)
        except OSError as error:
            raise link_or(error, self.path) from None

    def close(self) -> None:
        """Closes the descriptor of the folder into which files are put atomically."""
        os.close(self._fd)
        self.closed = True

    def write(self, mark: str, data: bytes) -> FileFacts:
        """Writes a new file atomically under the hidden name of its mark, whole and synced, and returns its facts.

        A hidden file that is there already stays until the new one is whole: its absence would say that the file has
        its name. Raises TargetError, with nothing left of the new one.
        """
        hidden, begun = PREFIX + mark + SUFFIX, mark + "-begun"
        self.forget(begun)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(PREFIX + begun + SUFFIX, flags, 0o644, dir_fd=self._fd)
            try:
                left = data
                while left:
                    left = left[os.write(fd, left) :]
                os.fsync(fd)
                facts = FileFacts.of(os.fstat(fd))
            finally:
                os.close(fd)
            os.rename(PREFIX + begun + SUFFIX, hidden, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            self.forget(begun)
            raise link_or(error, self.path / hidden) from None
        return facts

    def put(self, mark: str, name: str) -> bool:
        """Renames the hidden file of this mark atomically to its name in the folder; False when that name is taken.

        A name is taken also in another case of letters, where the file system does not tell cases apart. Nothing is
        ever overwritten. Where the system has no rename that never overwrites, the file is linked and the hidden name
        removed; on a file system without links an empty file of the bridge takes the name first.
        """
        hidden = PREFIX + mark + SUFFIX
        for way in (_rename, _link, _take):
            try:
                way(self._fd, hidden, name)
                os.fsync(self._fd)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NOT_HERE or way is _take:
                    raise link_or(error, self.path / name) from None
        return False

    def replace(self, mark: str, name: str, data: bytes) -> FileFacts:
        """Replaces the content of a file in the folder atomically and returns its facts.

        The file keeps its rights. Raises TargetError.
        """
        mode = self._mode(name)
        if mode is not None and not stat.S_ISREG(mode):
            hint = "move it away: the bridge replaces files only"
            raise TargetError("is no regular file, and was left alone", where=str(self.path / name), hint=hint)
        facts = self.write(mark, data)
        try:
            if mode is not None:
                os.chmod(PREFIX + mark + SUFFIX, mode & 0o7777, dir_fd=self._fd)
            os.rename(PREFIX + mark + SUFFIX, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            os.fsync(self._fd)
        except OSError as error:
            self.forget(mark)
            raise link_or(error, self.path / name) from None
        return facts

    def _mode(self, name: str) -> int | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None
        except OSError as error:
            raise link_or(error, self.path / name) from None

    def waits(self, mark: str) -> bool:
        """Whether the hidden file of this mark is in the atomic folder and did not get its name yet."""
        try:
            return os.stat(PREFIX + mark + SUFFIX, dir_fd=self._fd, follow_symlinks=False).st_nlink == 1
        except FileNotFoundError:
            return False
        except OSError as error:
            raise link_or(error, self.path) from None

    def still_there(self) -> bool:
        """Whether the path still names the folder that is open for atomic writes."""
        try:
            now, mine = os.stat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)

    def facts(self, name: str) -> FileFacts | None:
        """Returns the facts of the file of this name in the atomic folder; None when there is none."""
        try:
            return FileFacts.of(os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise link_or(error, self.path / name) from None

    def facts_of_hidden(self, mark: str) -> FileFacts | None:
        """Returns the facts of the hidden file of this mark in the atomic folder; None when there is none."""
        return self.facts(PREFIX + mark + SUFFIX)

    def holds(self, name: str, data: bytes) -> bool:
        """Whether a file of this name is in the atomic folder and holds just these bytes."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return False
        try:
            return os.fstat(fd).st_size == len(data) and os.read(fd, len(data) + 1) == data
        except OSError:
            return False
        finally:
            os.close(fd)

    def forget(self, mark: str) -> None:
        """Removes the hidden file of this mark from the atomic folder, if it is there."""
        try:
            os.unlink(PREFIX + mark + SUFFIX, dir_fd=self._fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise link_or(error, self.path) from None

    def marks(self) -> list[str]:
        """Lists the marks of all hidden files that the bridge wrote in the atomic folder."""
        try:
            names = os.listdir(self._fd)  # noqa: PTH208 - of a descriptor
        except OSError as error:
            raise link_or(error, self.path) from None
        mine = [name for name in names if name.startswith(PREFIX) and name.endswith(SUFFIX)]
        return [name[len(PREFIX) : -len(SUFFIX)] for name in mine]


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _rename(fd: int, old: str, new: str) -> None:
    """Renames a file atomically, and never over another one.

    That is renameat2 with RENAME_NOREPLACE on Linux, renameatx_np with RENAME_EXCL on macOS.
    """
    name, flag = ("renameat2", 1) if sys.platform == "linux" else ("renameatx_np", 4)
    call: Callable[..., int] | None = getattr(_libc(), name, None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(fd, os.fsencode(old), fd, os.fsencode(new), ctypes.c_uint(flag)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _link(fd: int, old: str, new: str) -> None:
    os.link(old, new, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    os.unlink(old, dir_fd=fd)


def _take(fd: int, old: str, new: str) -> None:
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=fd))
    try:
        os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError:
        os.unlink(new, dir_fd=fd)  # the bridge's own empty file
        raise


def another(name: str, mark: str) -> str:
    """Makes another name for a file to be put atomically, where `name` is taken: the mark goes before the suffix."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{mark}.{suffix}" if dot else f"{name}-{mark}"
