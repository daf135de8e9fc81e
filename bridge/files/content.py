"""A file's content: the bytes as its writer wrote them, plain, or unpacked in place out of a compressed file.

Offsets and sizes are those of uncompressed bytes. Nothing is unpacked to disk, and of a compressed file no more than a
few pieces are in memory, whatever it claims to hold (DESIGN §10).
"""

from __future__ import annotations

import bz2
import lzma
import os
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from bridge.core.errors import SourceError
from bridge.files.descriptor_pool import PooledFile

HEAD_BYTES = 1024
KEPT_BYTES = 1 << 18
"""How many unpacked bytes of a compressed file stay in memory behind the reader.

A read of earlier bytes unpacks the file from its beginning again.
"""

MOST_OUT = 1 << 20
MOST_MEMORY = 1 << 28
"""`MOST_OUT`: bytes that a decompressor may give at once; `MOST_MEMORY`: bytes that it may need for itself."""

TRUNCATED_SECONDS = 1.0
"""Seconds for which a compressed file that ends too early must lie unchanged: it may be written still."""


class Content(Protocol):
    """The content of an open file of a source, compressed or not: the bytes that the file's writer wrote.

    `packed`: size and mtime of the compressed file, None for a plain one.
    """

    @property
    def packed(self) -> tuple[int, int] | None: ...  # noqa: D102

    def stat(self) -> os.stat_result:
        """Asks the system for the stat of a content's file, as it lies on disk, compressed or not."""
        ...

    def read(self, size: int, offset: int) -> bytes:
        """Reads up to `size` uncompressed bytes of a file's content at `offset`; short, or none, at the end.

        Raises SourceError.
        """
        ...

    def size(self) -> int:
        """Returns how many uncompressed bytes of a file's content can be read.

        A compressed file is read through for it, once.
        """
        ...

    def left(self, offset: int) -> int:
        """Returns how many bytes a file has on disk before byte `offset` of its content; about, if it is compressed."""
        ...

    def disown(self, start: int, end: int) -> None:
        """Excludes from a content the bytes that the mirror wrote into a log's file after the file was deleted."""
        ...

    def damage(self) -> str:
        """Says what is wrong with a file's content, as far as it was read; empty: nothing."""
        ...

    def settling(self) -> bool:
        """Whether a file's content ends too early, and was written to a moment ago: it may be written still."""
        ...

    def close(self) -> None:
        """Closes the file of a content."""
        ...


class PlainContent:
    """The content of an open file of a source that is not compressed: its bytes are read as they stand."""

    packed = None

    def __init__(self, handle: PooledFile) -> None:
        self._handle = handle
        self._void: tuple[int, int] | None = None

    def disown(self, start: int, end: int) -> None:
        """Ends the content of a deleted, uncompressed file at `start`, as long as nothing stands behind `end`.

        In between stands what the mirror wrote to the deleted file without knowing, and writes again elsewhere.
        """
        self._void = start, end

    def stat(self) -> os.stat_result:
        """Asks the system for the stat of the open, uncompressed file. Raises SourceError."""
        return self._handle.stat()

    def read(self, size: int, offset: int) -> bytes:
        """Reads up to `size` bytes of an uncompressed file at `offset`, in one read. Raises SourceError."""
        if self._void is None:
            return self._handle.read(size, offset)
        return self._handle.read(max(0, min(size, self.size() - offset)), offset)

    def size(self) -> int:
        """Returns how many bytes an open, uncompressed file of a log holds now. Raises SourceError."""
        size = self._handle.stat().st_size
        return self._void[0] if self._void is not None and size <= self._void[1] else size

    def left(self, offset: int) -> int:
        """Returns how many bytes the content of an uncompressed file has behind the offset. Raises SourceError."""
        return max(0, self.size() - offset)

    def damage(self) -> str:
        """Returns an empty text: the content of an uncompressed file is never damaged; its bytes count as they are."""
        return ""

    def settling(self) -> bool:
        """Returns False: the content of an uncompressed file has no end that could be missing."""
        return False

    def close(self) -> None:
        """Closes the descriptor of the uncompressed file whose content was read."""
        self._handle.close()


class PackingForm:
    """A form of compression that file content may have, such as gzip, by its usual suffix (`files.content_form`).

    `make` makes its decompressor, `feed` is how many bytes that is fed at once, and `magic` is what a file begins with.
    """

    def __init__(self, make: Callable[[], Any], feed: int, magic: bytes) -> None:
        self.make = make
        self.feed = feed
        self.magic = magic


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise SourceError("needs a library to be read", hint="pip install 'hestai-bridge[zstd]'") from None
    return zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY).decompressobj()


FORMS = {
    ".gz": PackingForm(lambda: zlib.decompressobj(wbits=31), 1 << 16, b"\x1f\x8b"),
    ".bz2": PackingForm(bz2.BZ2Decompressor, 1 << 16, b"BZh"),
    ".xz": PackingForm(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY), 1 << 16, b"\xfd7zXZ\x00"),
    # zstandard cannot be told to give less at once: a block is up to 128 KiB, made of as few as 4 bytes.
    ".zst": PackingForm(_zstd, 512, b"\x28\xb5\x2f\xfd"),
}
"""The forms of compression that can be read, by the usual suffix of their files' names."""


class PackedContent:
    """The content of a compressed file, of one or many members, unpacked from its beginning; going back begins anew.

    What stands before a damage is read to the last byte that can be had. No decompressor is held for a file of which
    only the first KiB was asked for, so that many may be open.
    """

    def __init__(self, handle: PooledFile, form: str, clock: Callable[[], float] = time.time) -> None:
        self._handle = handle
        self._form = FORMS[form]
        self._clock = clock
        now = handle.stat()
        self._stat = (now.st_size, now.st_mtime_ns)
        self._head: bytes | None = None
        self._length: int | None = None
        self._damage = ""
        self._early = False
        self._careful_from = 1 << 62
        self._rewind()

    @property
    def packed(self) -> tuple[int, int] | None:
        """The compressed file's size in bytes and its mtime in ns, as they were at the last look."""
        return self._stat

    def stat(self) -> os.stat_result:
        """Looks whether a compressed file was written to since its content was read; if so, the content is read anew.

        Raises SourceError.
        """
        now = self._handle.stat()
        if (now.st_size, now.st_mtime_ns) != self._stat:
            self._stat = (now.st_size, now.st_mtime_ns)
            self._head = self._length = None
            self._damage, self._early, self._careful_from = "", False, 1 << 62
            self._rewind()
        return now

    def read(self, size: int, offset: int) -> bytes:
        """Unpacks up to `size` bytes of a compressed file's content at `offset`, as far as they can be had.

        Raises SourceError: no library, unreadable.
        """
        if self._head is None:
            self._head = self._fill(HEAD_BYTES, 0)
            self._rewind()
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        if self._length is not None and offset >= self._length:
            return b""
        return self._fill(size, offset)

    def size(self) -> int:
        """Unpacks the content of a compressed file to its end, once, and returns how many uncompressed bytes it has."""
        while self._length is None:
            self.read(MOST_OUT, self._at + len(self._out))
        return self._length

    def left(self, offset: int) -> int:
        """Returns how many bytes of the compressed file a reader at `offset` of its content has yet to unpack."""
        if self._length is not None and offset >= self._length:
            return 0
        return self._stat[0] - (self._raw_at if offset else 0)

    def disown(self, start: int, end: int) -> None:
        """Does nothing: the mirror writes to no compressed file."""

    def damage(self) -> str:
        """Says where the content of a compressed file is damaged, and how; empty: it is not, as far as it was read."""
        return self._damage

    def settling(self) -> bool:
        """Whether compressed content ends too early in a file that was written to a moment ago, and may be so still."""
        if self._early:
            self.stat()
        return self._early and self._clock() - self._stat[1] / 1e9 < TRUNCATED_SECONDS

    def close(self) -> None:
        """Closes the descriptor of the compressed file and forgets the decompressor."""
        self._rewind()
        self._handle.close()

    # -- unpacking -------------------------------------------------------------------------------------------

    def _rewind(self) -> None:
        self._at = 0
        """The offset, in uncompressed bytes, at which what is unpacked in `_out` begins."""
        self._out = bytearray()
        self._raw_at = 0
        self._pending = b""
        self._member: Any = None
        self._members = 0

    def _fill(self, size: int, offset: int) -> bytes:
        if offset < self._at:
            self._rewind()
        while self._at + len(self._out) < offset + size and self._length != self._at + len(self._out):
            try:
                self._more()
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, _zstd_error()) as error:
                if self._careful_from == 1 << 62:
                    # Unpack again to just before the damage, then byte by byte, to get every byte before it.
                    self._careful_from = max(0, self._raw_at - 2 * self._form.feed)
                    self._rewind()
                else:
                    self._end(str(error))
            spare = min(len(self._out) - KEPT_BYTES, offset - self._at)
            if spare >= KEPT_BYTES:
                del self._out[:spare]
                self._at += spare
        begin = offset - self._at
        return bytes(self._out[begin : begin + size]) if begin >= 0 else b""

    def _take(self) -> bytes:
        raw = self._handle.read(self._form.feed if self._raw_at < self._careful_from else 1, self._raw_at)
        self._raw_at += len(raw)
        return raw

    def _more(self) -> None:
        """Unpacks one more piece of a compressed file's content, or finds its end."""
        hungry = self._member is None or getattr(self._member, "needs_input", True)
        raw = self._pending or (self._take() if hungry else b"")  # else its input buffer would grow
        self._pending = b""
        if self._member is None:
            raw = self._begin(raw)
            if self._member is None:
                return
        member = self._member
        piece = member.decompress(raw) if self._form.feed < MOST_OUT >> 10 else member.decompress(raw, MOST_OUT)
        self._out += piece
        if member.eof:
            self._pending, self._member = member.unused_data, None
        elif not raw and not piece:
            self._early = True
            self._end("it ends too early")
        else:
            self._pending = getattr(member, "unconsumed_tail", b"")

    def _begin(self, raw: bytes) -> bytes:
        """Begins the next member of compressed content with these bytes and more; returns them for its decompressor.

        None begins at the end of the file, where padding may stand.
        """
        magic = self._form.magic
        while True:
            raw = raw.lstrip(b"\0") if self._members else raw
            more = self._take() if len(raw) < len(magic) else b""
            if not more:
                break
            raw += more
        if raw.startswith(magic) or (magic == FORMS[".zst"].magic and raw[1:4] == b"\x2a\x4d\x18"):  # skippable frame
            self._member = self._form.make()
            self._members += 1
        elif magic.startswith(raw):
            self._early = bool(raw) or not self._members
            self._end("it ends too early" if self._early else "")
        else:
            self._raw_at -= len(raw)
            self._end("what follows is not compressed")
        return raw

    def _end(self, damage: str = "") -> None:
        self._length = self._at + len(self._out)
        if damage:
            self._damage = f"is damaged at byte {self._raw_at}, byte {self._length} of what is packed in it: {damage}"
        self._member, self._pending = None, b""


def _zstd_error() -> type[Exception]:
    module = sys.modules.get("zstandard")
    return module.ZstdError if module is not None else ValueError
