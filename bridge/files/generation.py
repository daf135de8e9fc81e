"""Which file is this (DESIGN §6.2): a generation is known by its content, its inode is only a hint."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from bridge.errors import SourceError
from bridge.model import Fingerprint

HEAD = 1024
TAIL = 128
COMPARED = 1 << 18
_NUMBERED = re.compile(r"\.(\d{1,4})$")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def digest(raw: bytes) -> str:
    """BLAKE2b-128 in hex."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def pread(fd: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`, in one read; short at the end of the file. Raises SourceError.

    A second read for what is missing could find the file emptied and written anew in between.
    """
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=f"offset {offset}") from None


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger remembers of a generation. `at.offset` is how far it was carried; closed: to its end."""

    number: int
    device: int
    inode: int
    at: Fingerprint
    closed: bool = False


@dataclass(slots=True)
class Generation:
    """One physical file, held open. `read_to` is the reader's place, ahead of what Redis has confirmed.

    `head` and `tail` are the file's first bytes (up to 1 KiB) and the up to 128 before `read_to`, as they were read.
    `fd` is -1 when the content is gone. `checked` is size and mtime at the last comparison.
    """

    number: int
    fd: int
    path: Path
    identity: tuple[int, int]
    head: bytes = b""
    read_to: int = 0
    tail: bytes = b""
    checked: tuple[int, int] = (-1, -1)
    _head_digest: tuple[int, str] = field(default=(-1, ""))

    def fingerprint(self) -> Fingerprint:
        """What it is known by at `read_to`."""
        length = self._known_head()
        if self._head_digest[0] != length:
            self._head_digest = (length, digest(self.head[:length]))
        return Fingerprint(self.read_to, length, self._head_digest[1], digest(self.tail))

    def _known_head(self) -> int:
        """How many first bytes it is known by: those that were read; before any was, all that stand there.

        So a line that is not carried yet may be mended in place.
        """
        return min(len(self.head), self.read_to) if self.read_to else len(self.head)

    def known(self, *, closed: bool = False) -> Known:
        """The record for the ledger."""
        return Known(self.number, *self.identity, self.fingerprint(), closed)

    def size(self) -> int:
        """The file's size now; what was read of it when the content is gone."""
        return os.fstat(self.fd).st_size if self.fd >= 0 else self.read_to

    def extend_head(self) -> None:
        """Takes in more of the first bytes while there are fewer than 1 KiB of them."""
        if len(self.head) < HEAD and self.fd >= 0:
            self.head += pread(self.fd, HEAD - len(self.head), len(self.head))

    def changed(self) -> str | None:
        """Why the open file is no longer the one that was read up to `read_to`; None when it is."""
        if self.fd < 0:
            return None
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) == self.checked:
            return None
        if now.st_size < self.read_to:
            return f"it shrank from {self.read_to} to {now.st_size} bytes"
        known = self._known_head()
        if pread(self.fd, known, 0) != self.head[:known]:
            return "its first bytes are others"
        if not self.head and not now.st_size and self.checked != (-1, -1):
            return "it was written to and emptied"
        self.head = self.head[:known]
        if pread(self.fd, len(self.tail), self.read_to - len(self.tail)) != self.tail:
            return f"the bytes before offset {self.read_to} are others"
        self.extend_head()
        self.checked = (now.st_size, now.st_mtime_ns)
        return None

    def place(self, at: Fingerprint) -> bool:
        """Moves the reader to `at`, if the file holds there what `at` says; False when it does not."""
        if self.fd < 0 or not holds(self.fd, at):
            return False
        self.read_to = at.offset
        self.tail = pread(self.fd, min(TAIL, at.offset), max(0, at.offset - TAIL))
        self.head = pread(self.fd, HEAD, 0)
        self.checked = (-1, -1)
        return True

    def close(self) -> None:
        """Closes the descriptor; further calls do nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def holds(fd: int, at: Fingerprint) -> bool:
    """Whether the open file's content is what `at` describes: both digests, and the size reaches the offset."""
    if os.fstat(fd).st_size < max(at.offset, at.head_len):
        return False
    if digest(pread(fd, at.head_len, 0)) != at.head:
        return False
    return digest(pread(fd, min(TAIL, at.offset), max(0, at.offset - TAIL))) == at.tail


def is_copy(fd: int, other: int) -> bool:
    """Whether the first file's content, which is not empty, is what the second begins with."""
    size = os.fstat(fd).st_size
    if not 0 < size <= os.fstat(other).st_size:
        return False
    first, last = min(TAIL, size), max(0, size - COMPARED)
    if pread(fd, first, 0) != pread(other, first, 0) or pread(fd, COMPARED, last) != pread(other, size - last, last):
        return False  # nearly always decided here
    return all(
        pread(fd, min(COMPARED, last - at), at) == pread(other, min(COMPARED, last - at), at)
        for at in range(0, last, COMPARED)
    )


def open_regular(path: Path) -> Generation | None:
    """The file, open for reading and not numbered yet; None when there is none. Raises SourceError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "give the bridge's user the right to read it" if isinstance(error, PermissionError) else ""
        raise SourceError(f"cannot be opened: {error.strerror}", where=str(path), hint=hint) from None
    now = os.fstat(fd)
    if not stat.S_ISREG(now.st_mode):
        os.close(fd)
        raise SourceError("is not a regular file", where=str(path))
    return Generation(0, fd, path, (now.st_dev, now.st_ino))


def in_age_order(paths: list[Path]) -> list[Path]:
    """Rotated files, oldest first: `.1` is younger than `.2`; other names go by modification time, then by name."""
    numbers = [_NUMBERED.search(path.name) for path in paths]
    if all(numbers):
        return sorted(paths, key=lambda path: -int(_NUMBERED.search(path.name)[1]))  # type: ignore[index]
    timed = []
    for path in paths:
        try:
            timed.append((path.stat().st_mtime_ns, path.name, path))
        except OSError:
            continue
    return [path for _, _, path in sorted(timed)]
