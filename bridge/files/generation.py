"""Tells which generation a file is (DESIGN §6.2): a generation is known by its content, its inode is only a hint."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from bridge.core.errors import SourceError
from bridge.core.model import Fingerprint, hex_digest
from bridge.files.content import HEAD_BYTES, Content, PackedContent, PlainContent
from bridge.files.content_form import HEAD, packing_of
from bridge.files.descriptor_pool import POOL, DeletedWhileParked, PooledFile
from bridge.files.generation_record import UNREAD, GenerationRecord

T = TypeVar("T")

TAIL = 128
COMPARED = 1 << 18

Bookmark = tuple[int, bytes, tuple[int, int]]
"""The place of a generation's reader, the bytes before it, and what is known of the CRC-32 of all before."""

LINE_LOOK = 1 << 16
"""How many bytes before damage are searched for the end of a line."""


@dataclass(slots=True, eq=False)
class Generation:
    """A generation: one physical file of a source, held open, and how far its reader has read it.

    `read_to` is the reader's place, ahead of what Redis has confirmed. `head` and `tail` are the file's first bytes (up
    to 1 KiB) and the up to 128 before `read_to`, as they were read. `content` is None when it is gone. `checked` is
    size and mtime at the last comparison. `born`: when the file was made, in ns since 1970, 0 where nobody can tell.
    """

    number: int
    content: Content | None
    path: Path
    identity: tuple[int, int]
    head: bytes = b""
    read_to: int = 0
    tail: bytes = b""
    checked: tuple[int, int] = (-1, -1)
    born: int = 0
    decided: str = ""
    """What put the generation behind the one before, as `bridge.files.piece_age` has it."""
    seen_written: int = 0
    """When the file was written to last, as far as a comparison saw, in ns since 1970."""
    rewrites: int = 0
    """The generation whose file this one's took the place of, 0 for none."""
    in_doubt: bool = False
    """Whether nobody has found out yet which lines of the file were carried as those of the `rewrites` generation."""
    summed: tuple[int, int] = (0, 0)
    """An offset (mostly the reader's) up to which the CRC-32 of the file's bytes is known, and that CRC-32."""
    copied: bool = False
    """Whether the generation was found in another file than the one it was written to."""
    placed: tuple[int, int] = (-1, -1)
    """Size and mtime when the reader was put in its place: what is written between that and a comparison is seen."""
    why: str = ""
    """The sign, in words, by which the file was seen to be another one than before."""
    _head_digest: tuple[int, str] = field(default=(-1, ""))

    def fingerprint(self) -> Fingerprint:
        """Computes the fingerprint by which a generation that was read up to `read_to` is recognised again."""
        length = self._known_head()
        if self._head_digest[0] != length:
            self._head_digest = (length, hex_digest(self.head[:length]))
        return Fingerprint(self.read_to, length, self._head_digest[1], hex_digest(self.tail))

    def _known_head(self) -> int:
        """Returns how many first bytes identify a generation: those read so far, or before any read all that there are.

        So a line that is not carried yet may be mended in place.
        """
        return min(len(self.head), self.read_to) if self.read_to else len(self.head)

    def known(self, *, closed: bool = False) -> GenerationRecord:
        """Makes the record of a generation, as the ledger keeps it, from its file and reader."""
        written = self.packed[1] if self.packed else self.seen_written
        packed = UNREAD if closed and self.packed and self.holds_more(self.read_to) else self.packed
        return GenerationRecord(
            self.number, *self.identity, self.fingerprint(), closed, packed, self.born, written, self.decided,
            self.rewrites, self.in_doubt, self.summed[1] if self.summed[0] == self.read_to else -1,
        )  # fmt: skip

    def rivals(self, other: Generation) -> bool:
        """Whether two generations are in doubt, and may both have taken the place of the same earlier generation."""
        return self is not other and self.in_doubt and other.in_doubt and self.rewrites == other.rewrites

    def becomes(self, known: GenerationRecord) -> None:
        """Makes a file that was opened the generation that a record describes."""
        self.number, self.decided = known.number, known.decided or self.decided
        self.rewrites, self.in_doubt = known.rewrites, known.in_doubt
        self.copied = self.identity != (known.device, known.inode) and not self.packed
        self.summed = (known.at.offset, known.crc) if known.crc >= 0 else (-1, 0)

    def differs_within(self, at: int, crc: int) -> bool:
        """Whether a generation's bytes before an offset, all read for it, have another CRC-32 than a known one."""
        if crc < 0 or self.content is None or self.packed:
            return False
        return self.sum_of(0, at) != crc

    def sum_of(self, start: int, end: int) -> int:
        """Computes the CRC-32 of the bytes from `start` to `end` of a generation's file, as they are now."""
        found = 0
        for offset in range(start, end, COMPARED):
            found = crc32(self.read(min(COMPARED, end - offset), offset), found)
        return found

    @property
    def packed(self) -> tuple[int, int] | None:
        """Size and mtime of the compressed file in which a generation lies; None for a plain one."""
        return self.content.packed if self.content is not None else None

    def __del__(self) -> None:
        """Closes the file of a generation to which nothing refers any more.

        After an error amid several open files nothing else would close them.
        """
        self.close()

    def _asked(self, what: Callable[[Content], T], gone: T) -> T:
        """Asks a generation's content; returns `gone` where there is none, or its file was parked and deleted."""
        try:
            return what(self.content) if self.content is not None else gone
        except DeletedWhileParked:
            self.close()
            return gone

    def size(self) -> int:
        """Returns how many bytes of a generation can be read now; when its content is gone, how many were read."""
        return self._asked(lambda content: content.size(), self.read_to)

    def written(self) -> int:
        """Asks when a generation's file was written to last, in ns since 1970; 0 when it is gone."""
        return self._asked(lambda content: content.stat().st_mtime_ns, 0)

    @property
    def nameless(self) -> bool:
        """Whether a generation's open file was deleted: no name leads to it. Raises SourceError."""
        return self._asked(lambda content: content.stat().st_nlink == 0, gone=False)

    def grown(self) -> bool:
        """Whether a generation's file holds anything behind the reader's place."""
        return self._asked(lambda content: bool(content.read(1, self.read_to)), gone=False)

    def holds_more(self, offset: int) -> bool:
        """Whether a generation's compressed file holds what can be carried behind an offset: of damage, whole lines."""
        rest = self.read(LINE_LOOK, offset)
        return bool(rest) and (b"\n" in rest or self.content is None or not self.content.damage())

    def left(self, offset: int | None = None) -> int:
        """Returns how many bytes on disk lie behind a generation's reader, or `offset`; of a compressed file about."""
        return self._asked(lambda content: content.left(self.read_to if offset is None else offset), 0)

    def read(self, size: int, offset: int) -> bytes:
        """Reads up to `size` bytes of a generation at `offset`; none when its content is gone. Raises SourceError."""
        try:
            return self._asked(lambda content: content.read(size, offset), b"")
        except SourceError as error:
            raise SourceError(error.what, where=f"{self.path} {error.where}".rstrip(), hint=error.hint) from None

    def peek(self, limit: int) -> bytes:
        """Reads up to `limit` bytes behind a generation's reader; none where its file may hold another content."""
        back = len(self.tail)
        raw = self.read(back + limit, self.read_to - back)
        if raw[:back] != self.tail or not (self.head and self.begins_as_it_did()):
            self.checked = (-1, -1)
            return b""
        return raw[back:]

    def advance(self, consumed: bytes) -> None:
        """Moves a generation's reader forward over the bytes that were read behind it."""
        if self.summed[0] == self.read_to:
            self.summed = self.read_to + len(consumed), crc32(consumed, self.summed[1])
        self.read_to += len(consumed)
        self.tail = (self.tail + consumed[-TAIL:])[-TAIL:]
        if len(self.head) < self.read_to:
            self.extend_head()

    @property
    def bookmark(self) -> Bookmark:
        """The bookmark of a generation's reader: the place to go back to."""
        return self.read_to, self.tail, self.summed

    def go_back(self, to: Bookmark) -> None:
        """Moves a generation's reader back to a bookmark."""
        self.read_to, self.tail, self.summed = to

    def pass_over(self, end: int) -> None:
        """Moves a generation's reader forward to a byte, if the generation's file has not changed."""
        back = min(TAIL, end)
        tail, summed = self.read(back, end - back), self.summed
        for at in range(self.read_to, end, COMPARED) if summed[0] == self.read_to else ():
            piece = self.read(min(COMPARED, end - at), at)
            summed = at + len(piece), crc32(piece, summed[1])
        if self.content is not None and self.changed() is None:  # asked after the read, to catch a change during it
            self.read_to, self.tail, self.summed = end, tail, summed
            self.extend_head()

    def begin(self) -> None:
        """Notes the state of a generation's file when it is first met, so that later changes are noticed.

        Raises SourceError.
        """
        now = None if self.packed else self._asked(lambda content: content.stat(), None)
        self.extend_head()
        self.checked = (now.st_size, now.st_mtime_ns) if now is not None else (-1, -1)
        self.seen_written = max(0, self.checked[1])

    def equals(self, other: Generation) -> bool:
        """Whether the files of two generations hold the same bytes, packed or not. Raises SourceError."""
        if self.content is None or other.content is None or self.size() != other.size():
            return False
        return is_copy(self.content, other.content)

    def goes_on_in(self, other: Generation) -> bool:
        """Whether another file holds all that a generation's file holds: it was saved anew, or its own file is gone."""
        if not self.head or not other.holds(at := self.fingerprint()):
            return False
        if self.summed[0] == self.read_to and other.differs_within(*self.summed):
            return False
        unread = self.size() - at.offset if self.content is not None else 0
        return unread <= 0 or other.read(unread, at.offset) == self.read(unread, at.offset)

    def extend_head(self) -> None:
        """Reads more of a generation's first bytes while fewer than 1 KiB of them are known."""
        if len(self.head) < HEAD_BYTES:
            self.head += self.read(HEAD_BYTES - len(self.head), len(self.head))

    def changed(self) -> str | None:
        """Says why a generation's open file is no longer the one that was read up to `read_to`; None when it is."""
        now = self._asked(lambda content: content.stat(), None)
        if now is None:
            return None
        if (now.st_size, now.st_mtime_ns) == self.checked:
            return None
        if not self.packed and now.st_size < self.read_to:
            return f"it shrank from {self.read_to} to {now.st_size} bytes"
        known = self._known_head()
        if self.read(known, 0) != self.head[:known]:
            return "its first bytes are others"
        if not self.head and not now.st_size and self.checked != (-1, -1):
            return "it was written to and emptied"
        self.head = self.head[:known]
        if self.read(len(self.tail), self.read_to - len(self.tail)) != self.tail:
            return f"the bytes before offset {self.read_to} are others"
        before = self.checked if self.checked != (-1, -1) else self.placed
        touched = before[0] == now.st_size and before[1] != now.st_mtime_ns and self.summed[0] == self.read_to
        if touched and self.differs_within(*self.summed):  # written to, but not longer
            return f"some of the bytes before offset {self.read_to} are others"
        self.extend_head()
        self.checked = (now.st_size, now.st_mtime_ns)
        self.seen_written = now.st_mtime_ns
        return None

    def begins_as_it_did(self) -> bool:
        """Whether a generation's file begins with the bytes that the generation is known by. Raises SourceError.

        Asked behind a read: bytes of a file that was emptied and filled again are not this generation's.
        """
        known = self._known_head()
        return self.read(known, 0) == self.head[:known]

    def holds(self, at: Fingerprint) -> bool:
        """Whether a generation's content matches the fingerprint `at`: both digests, and it reaches the offset."""
        return self._read_around(at) is not None

    def may_be_edited(self, at: Fingerprint) -> bool:
        """Whether a file begins or ends as the whole generation of a fingerprint did: perhaps it was edited since."""
        if at.head_len and hex_digest(self.read(HEAD_BYTES, 0)[: at.head_len]) == at.head:
            return True
        back = min(TAIL, at.offset)
        size = 0 if self.packed is not None else self.size()
        return size >= back > 0 and hex_digest(self.read(back, size - back)) == at.tail

    def place(self, at: Fingerprint) -> bool:
        """Moves a generation's reader to a fingerprint's offset, if the file matches the fingerprint; else False."""
        now = self._asked(lambda content: content.stat(), None)  # before the read, to catch a change during it
        found = self._read_around(at)
        if found is None or now is None:
            return False
        self.head, self.tail = found
        self.read_to, self.checked, self.placed = at.offset, (-1, -1), (now.st_size, now.st_mtime_ns)
        return True

    def _read_around(self, at: Fingerprint) -> tuple[bytes, bytes] | None:
        """Reads the first bytes of a generation and those before an offset; None unless both match a fingerprint.

        Read once: a second reading may be of a file that was emptied and filled again.
        """
        head, back = self.read(HEAD_BYTES, 0), min(TAIL, at.offset)
        if self.content is None or len(head) < at.head_len or hex_digest(head[: at.head_len]) != at.head:
            return None
        tail = self.read(back, at.offset - back)
        return (head, tail) if len(tail) == back and hex_digest(tail) == at.tail else None

    def take_over(self, other: Generation, path: Path) -> None:
        """Gives a generation the open file of another one, which lies at `path` and leaves the other without a file."""
        self.close()
        self.content, other.content = other.content, None
        self.path, self.identity, self.born, self.checked = path, other.identity, other.born, (-1, -1)

    def close(self) -> None:
        """Closes a generation's file; further calls do nothing."""
        if self.content is not None:
            self.content.close()
            self.content = None


def is_copy(content: Content, other: Content, *, longer: bool = False) -> bool:
    """Whether a generation's content, which is not empty, is how another one begins; `longer`: and that goes on."""
    first = content.read(TAIL, 0)
    if not first or other.read(len(first), 0) != first:
        return False
    if content.packed is None and other.packed is None:
        size = content.size()
        last = max(0, size - COMPARED)
        if size > other.size() or content.read(COMPARED, last) != other.read(size - last, last):
            return False  # most files that differ are told apart here
    at = 0
    while piece := content.read(COMPARED, at):
        if other.read(len(piece), at) != piece:
            return False
        at += len(piece)
    return not longer or bool(other.read(1, at))


def open_regular(path: Path) -> Generation | None:
    """Opens a regular file for reading, as a generation without a number yet; None when there is none.

    Raises SourceError.
    """
    try:
        fd = POOL.open(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "give the bridge's user the right to read it" if isinstance(error, PermissionError) else ""
        raise SourceError(f"cannot be opened: {error.strerror}", where=str(path), hint=hint) from None
    try:
        handle = PooledFile(fd, path)
    except OSError as error:
        os.close(fd)
        raise SourceError(f"cannot be looked at: {error.strerror}", where=str(path)) from None
    try:
        if not stat.S_ISREG(handle.stat().st_mode):
            raise SourceError("is not a regular file")
        form = packing_of(handle.read(HEAD, 0), path.suffix)
        content = PackedContent(handle, form) if form else PlainContent(handle)
    except SourceError as error:
        handle.close()
        raise SourceError(error.what, where=str(path), hint=error.hint) from None
    return Generation(0, content, path, handle.identity, born=handle.born)


def shut(files: list[Generation], fresh: Generation | None = None, *, but: Generation | None = None) -> None:
    """Closes the files of these generations, except the file of `but`."""
    for file in [*files, *([fresh] if fresh else [])]:
        if file is not but:
            file.close()
