"""An appender adds whole lines to a file that other programs append to as well.

After an O_APPEND write the descriptor's position is the end of our own write, whoever else writes (measured: 100,000
writes by four processes). On a full disk a short write comes first and ENOSPC after it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from bridge.core.errors import TargetError
from bridge.files.lines import begins_line


class Appender:
    """The appender of one file that lines are appended to: opens the file, and creates one that does not exist.

    Never follows a link below `root`.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name
        self.fd = _open_below(root, name)
        try:
            now = self._stat()
        except TargetError:
            self.close()
            raise
        self.identity = (now.st_dev, now.st_ino)

    def size(self) -> int:
        """Returns the size in bytes of the appender's file. Raises TargetError."""
        return self._stat().st_size

    def written(self) -> float:
        """Returns when the appender's file was written to last, in seconds since 1970. Raises TargetError."""
        return self._stat().st_mtime

    @property
    def nameless(self) -> bool:
        """Whether no name leads to the appender's open file any more, so that lines appended to it would be lost.

        Raises TargetError.
        """
        return self._stat().st_nlink == 0

    def _stat(self) -> os.stat_result:
        try:
            return os.fstat(self.fd)
        except OSError as error:
            raise target_error(error, self.path) from None

    def still_there(self) -> bool:
        """Whether the path still names the appender's open file: it was not rotated, replaced or deleted."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == self.identity

    def ends_whole(self) -> bool:
        """Whether the appender's file is empty, but for a UTF-8 mark, or ends with a newline: a line may follow.

        Raises TargetError.
        """
        size = self.size()
        return begins_line(self._read, size)

    def holds(self, start: int, data: bytes) -> bool:
        """Whether the bytes `data` stand at offset `start` of the appender's file. Raises TargetError."""
        return self._read(len(data), start) == data

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self.fd, size, offset)
        except OSError as error:
            raise target_error(error, self.path, "read") from None

    def append(self, data: bytes) -> int:
        """Appends `data` to the appender's file in one write and returns how many bytes went in.

        Fewer went in when the disk filled up. `position` is their end. Raises TargetError, with nothing written.
        """
        try:
            written = os.write(self.fd, data)
        except OSError as error:
            raise target_error(error, self.path) from None
        if not written:
            raise TargetError("cannot be written: nothing went in", where=str(self.path), hint="is the disk full?")
        return written

    def to_disk(self) -> None:
        """Returns when the appender's file is on disk. Raises TargetError: what was appended stands in the file."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            said = f"is in the file, and not sure to be on disk: {error.strerror}"
            raise TargetError(said, where=str(self.path), hint="do not append it again") from None

    def position(self) -> int:
        """The offset at which the last write through this appender's descriptor ended, whoever else writes.

        Raises TargetError.
        """
        try:
            return os.lseek(self.fd, 0, os.SEEK_CUR)
        except OSError as error:
            raise target_error(error, self.path) from None

    def try_lock(self) -> bool:
        """Takes the exclusive flock on the appender's file that legacy writers hold to append; False: one has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise target_error(error, self.path) from None
        return True

    def unlock(self) -> None:
        """Releases the flock on the appender's file, so that other writers may take it.

        Raises TargetError: closing the file gives it back as well.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except OSError as error:
            raise target_error(error, self.path) from None

    def close(self) -> None:
        """Closes the appender's file, which releases a flock on the file as well."""
        os.close(self.fd)


def target_error(error: OSError, path: Path, what: str = "written") -> TargetError:
    """Turns an OSError about a file that lines are appended to into a TargetError that says what to do about it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = (
        "make room on this disk; the mirror goes on by itself" if full else "the entries stay in the stream meanwhile"
    )
    return TargetError(f"cannot be {what}: {error.strerror}", where=str(path), hint=hint)


def folder_below(root: Path, folders: Sequence[str]) -> int:
    """Opens the folder below `root` of a file to append to, makes it where it is missing, and returns its descriptor.

    Follows no link below `root`. Raises OSError.
    """
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, dir_fd=at)
            except FileExistsError:
                pass
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
    except BaseException:
        os.close(at)
        raise
    return at


def _open_below(root: Path, name: str) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    *folders, last = Path(name).parts
    where = root / name
    try:
        at = folder_below(root, folders)
        try:
            fd = os.open(last, flags, 0o644, dir_fd=at)
        finally:
            os.close(at)
    except OSError as error:
        raise link_or(error, where) from None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError as error:
        os.close(fd)
        raise target_error(error, where) from None
    if not regular:
        os.close(fd)
        raise TargetError("is not a regular file", where=str(where))
    return fd


def link_or(error: OSError, where: Path) -> TargetError:
    """Turns an OSError about a file to append to into a TargetError, in words where a symbolic link is in the way."""
    if error.errno == errno.ELOOP:
        hint = "let mirror.path name the file itself, below the root"
        return TargetError("is a symbolic link, which the mirror does not follow", where=str(where), hint=hint)
    return target_error(error, where)
