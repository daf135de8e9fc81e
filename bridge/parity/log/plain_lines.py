"""Reads files as plain lines for parity, from beginning to end: not as forward reads, without cursor and ranges."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from itertools import accumulate, count
from operator import add
from pathlib import Path
from typing import Any

from bridge.core.errors import SourceError
from bridge.core.model import UTF8_MARK
from bridge.files.content import HEAD_BYTES
from bridge.files.content_form import HEAD, packing_of
from bridge.parity.log.items import LineBlock, OverlongLine

PLAIN_BLOCK, LAST = 1 << 18, 1 << 20
"""Bytes that are read at once (short lines make thousands of objects of them), and bytes of a file's end."""
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class HeldFile(io.RawIOBase):
    """An open file of plain lines, whatever becomes of its name, up to the size it had when it was opened."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Always True for a held file of plain lines, as io asks before it reads."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills io's buffer with the next bytes of a held file of plain lines; returns how many, 0 at its end."""
        part = memoryview(buffer)[: max(0, self._size - self._at)]
        got = os.preadv(self._fd, [part], self._at) if len(part) else 0
        self._at += got
        return got


class PlainLines:
    """Reads one file as plain lines: open since the comparison began, at the size it had then."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SourceError(f"cannot be opened: {error.strerror}", where=str(path)) from None
        self._form = ""
        self._limit = limit
        self._damage = ""
        self._read = (0, 0)
        try:
            now = os.fstat(self._fd)
            self.regular = stat.S_ISREG(now.st_mode)
            self.inode = (now.st_dev, now.st_ino)
            self.size = now.st_size
            self.written = now.st_mtime_ns
            self.changed = max(now.st_mtime_ns, now.st_ctime_ns)
            self._form = packing_of(os.pread(self._fd, HEAD, 0), path.suffix) if self.regular else ""
            self.head = self.read(HEAD_BYTES, 0) if self.regular else b""
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def packed(self) -> bool:
        """Whether the file of plain lines is compressed."""
        return bool(self._form)

    @property
    def mark(self) -> int:
        """How many bytes the UTF-8 mark has that a file of plain lines begins with; 0: there is none."""
        return len(UTF8_MARK) if self.head.startswith(UTF8_MARK) else 0

    def close(self) -> None:
        """Closes the file of plain lines that parity had open."""
        os.close(self._fd)

    def damage(self) -> str:
        """Says why a file of plain lines could not be read to its end; empty: it could."""
        return self._damage

    def end(self) -> tuple[int, int, str | None]:
        """Returns how many bytes of plain lines were read, how many of them follow the last newline, and their fate.

        The fate is None where they wait for the rest of their line. A compressed file gets no more: its rest is in
        quarantine, if it is not damaged.
        """
        return (*self._read, "quarantined" if self.packed and not self._damage else None)

    def read(self, size: int, offset: int) -> bytes:
        """Reads bytes at an offset of a file of plain lines; a compressed one is read from its beginning for that."""
        if not self.packed:
            try:
                return os.pread(self._fd, size, offset)
            except OSError as error:
                raise SourceError(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        found, at = b"", 0
        for piece in self._pieces():
            found += piece[max(0, offset - at) : offset + size - at]
            at += len(piece)
            if at >= offset + size:
                break
        return found

    def section(self, start: int, end: int) -> Iterator[bytes]:
        """Yields the plain, unpacked bytes of a file from `start` to `end`, a piece at a time."""
        if not self.packed:
            for at in range(start, end, PLAIN_BLOCK):
                yield self.read(min(PLAIN_BLOCK, end - at), at)
            return
        at = 0
        for piece in self._pieces():
            yield piece[max(0, start - at) : max(0, end - at)]
            at += len(piece)
            if at >= end:
                return

    def length(self) -> int:
        """Returns how many plain bytes a file holds; a compressed one is unpacked to its end to count them."""
        return sum(map(len, self._pieces())) if self.packed else self.size

    def _pieces(self) -> Iterator[bytes]:
        raw: Any = io.BufferedReader(HeldFile(self._fd, self.size), PLAIN_BLOCK)
        held = b""
        try:
            stream = _unpacked(raw, self._form) if self.packed else raw
            while piece := stream.read1(PLAIN_BLOCK):  # `read` would lose what comes before a damage
                held += piece
                if len(held) >= PLAIN_BLOCK:
                    yield held
                    held = b""
        except BROKEN as error:
            self._damage = f"cannot be read to its end: {error}"
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("zstandard", "zstd"):
                raise
            self._damage = f"cannot be read to its end: {error}"
        if held:
            yield held

    def blocks(self, start: int = 0) -> Iterator[LineBlock]:
        """Yields a file's whole plain lines from `start` on, in blocks; an `OverlongLine` for one over the limit."""
        at, begun, rest, skips = start, 0, b"", False
        pieces = self._pieces() if not start else self.section(start, self.size if not self.packed else 1 << 62)
        for piece in pieces:
            if not at and not rest and piece.startswith(UTF8_MARK):
                at, piece = len(UTF8_MARK), piece[len(UTF8_MARK) :]
            if skips:
                end = piece.find(b"\n")
                if end < 0:
                    at += len(piece)
                    continue
                yield LineBlock([OverlongLine.of(at + end - begun)], [begun])
                at, piece, skips = at + end + 1, piece[end + 1 :], False
            lines = (rest + piece).split(b"\n") if rest else piece.split(b"\n")
            rest = lines.pop()
            if lines:
                ends = list(map(add, accumulate(map(len, lines)), count(at + 1)))
                if max(map(len, lines)) > self._limit:
                    lines = [OverlongLine.of(len(line)) if len(line) > self._limit else line for line in lines]
                yield LineBlock(lines, [at, *ends[:-1]])
                at = ends[-1]
            if len(rest) > self._limit:
                begun, at, rest, skips = at, at + len(rest), b"", True
        self._read = (at + len(rest), at + len(rest) - begun if skips else len(rest))


def _unpacked(raw: Any, form: str) -> Any:
    if form == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if form == ".bz2":
        return bz2.BZ2File(raw)
    if form == ".xz":
        return lzma.LZMAFile(raw)
    try:
        import zstandard
    except ImportError:
        raise SourceError("needs a library to be read", hint="pip install 'hestai-bridge[zstd]'") from None
    return zstandard.ZstdDecompressor(max_window_size=1 << 28).stream_reader(raw, read_across_frames=True)
