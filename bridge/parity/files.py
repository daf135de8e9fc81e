"""Files as plain lines, read from the beginning to the end; and which of them is which generation.

This is not how forward reads: no cursor, no ranges, no inodes. A generation is known by the digests that Redis holds of
it; where those do not hold any more, because somebody altered the file, by one of them, by its size, or by its place.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from operator import add
from pathlib import Path
from typing import Any

from bridge.errors import SourceError
from bridge.files.content import COMPRESSED, HEAD
from bridge.files.generation import TAIL
from bridge.model import Fingerprint, hex_digest
from bridge.parity.sides import LONG, OFFSETS, Block, File

PIECE, LAST = 1 << 18, 1 << 20
"""Bytes that are read at once, of which short lines make thousands of objects; and of a file's end."""
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


@dataclass(frozen=True, slots=True)
class Generation:
    """What Redis, or the ledger, holds of one: `at.offset` is its size, or how far it was carried while it is open."""

    number: int
    at: Fingerprint
    closed: bool


class Held(io.RawIOBase):
    """An open file, whatever becomes of its name, up to the size it had when it was opened."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Always true of a file that parity has open, as io asks before it reads."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills io's buffer with the next bytes of the file that parity has open; returns how many, 0 at its end."""
        part = memoryview(buffer)[: max(0, self._size - self._at)]
        got = os.preadv(self._fd, [part], self._at) if len(part) else 0
        self._at += got
        return got


class Plain:
    """One file, open from when the comparison began, at the size it had then."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SourceError(f"cannot be opened: {error.strerror}", where=str(path)) from None
        self.packed = path.suffix in COMPRESSED
        self._limit = limit
        self._damage = ""
        try:
            now = os.fstat(self._fd)
            self.regular = stat.S_ISREG(now.st_mode)
            self.size = now.st_size
            self.written = now.st_mtime_ns
            self.head = self.read(HEAD, 0) if self.regular else b""
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Closes it."""
        os.close(self._fd)

    def damage(self) -> str:
        """Why it could not be read to its end; empty: it could."""
        return self._damage

    def read(self, size: int, offset: int) -> bytes:
        """Bytes at an offset; of a compressed file it is read from the beginning for them."""
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
        """The bytes from `start` to `end`, a piece at a time."""
        if not self.packed:
            for at in range(start, end, PIECE):
                yield self.read(min(PIECE, end - at), at)
            return
        at = 0
        for piece in self._pieces():
            yield piece[max(0, start - at) : max(0, end - at)]
            at += len(piece)
            if at >= end:
                return

    def length(self) -> int:
        """Its size; of a compressed file that of what is packed in it, for which it is read through."""
        return sum(map(len, self._pieces())) if self.packed else self.size

    def _pieces(self) -> Iterator[bytes]:
        raw: Any = io.BufferedReader(Held(self._fd, self.size), PIECE)
        held = b""
        try:
            stream = _unpacked(raw, self.path.suffix) if self.packed else raw
            while piece := stream.read1(PIECE):  # `read` would lose what comes before a damage
                held += piece
                if len(held) >= PIECE:
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

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Its whole lines from `start` on; in the place of one over the limit stands LONG."""
        at, begun, rest, skips = start, 0, b"", False
        pieces = self._pieces() if not start else self.section(start, self.size if not self.packed else 1 << 62)
        for piece in pieces:
            if skips:
                end = piece.find(b"\n")
                if end < 0:
                    at += len(piece)
                    continue
                yield Block([LONG], [begun])
                at, piece, skips = at + end + 1, piece[end + 1 :], False
            lines = (rest + piece).split(b"\n") if rest else piece.split(b"\n")
            rest = lines.pop()
            if lines:
                ends = list(map(add, accumulate(map(len, lines)), count(at + 1)))
                if max(map(len, lines)) > self._limit:
                    lines = [LONG if len(line) > self._limit else line for line in lines]
                yield Block(lines, [at, *ends[:-1]])
                at = ends[-1]
            if len(rest) > self._limit:
                begun, at, rest, skips = at, at + len(rest), b"", True


def _unpacked(raw: Any, suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    try:
        import zstandard
    except ImportError:
        raise SourceError("needs a library to be read", hint="pip install 'hestai-bridge[zstd]'") from None
    return zstandard.ZstdDecompressor(max_window_size=1 << 28).stream_reader(raw, read_across_frames=True)


@dataclass(frozen=True, slots=True)
class Cut:
    """A file that is not as the bridge left it at `offset`, where the last 128 bytes had the digest `tail`.

    It ends with `torn` bytes behind its last newline, which stands before `whole`; before that stand `before`.
    """

    generation: int
    offset: int
    tail: str
    size: int
    whole: int
    torn: bytes
    before: bytes

    @classmethod
    def of(cls, one: Plain, wanted: Generation) -> Cut:
        """What can be said of it."""
        last = one.read(LAST, max(0, one.size - LAST))
        whole = one.size - len(last) + last.rfind(b"\n") + 1
        before = one.read(min(TAIL, whole), max(0, whole - TAIL))
        return cls(wanted.number, wanted.at.offset, wanted.at.tail, one.size, whole, last[whole - one.size :]
                   if whole < one.size else b"", before)  # fmt: skip

    def in_words(self, name: str) -> str:
        """What became of the file `name`, and what will."""
        how = f"ends at byte {self.size:,}" if self.size < self.offset else "holds other bytes"
        left = f"the bridge left it at byte {self.offset:,}"
        return f"{name} {how}, {left}: when it runs, it takes it for a new file and carries all of it again"


@dataclass(slots=True)
class Found:
    """A source's files in the order of their generations; `strangers` are pieces that no generation is known for.

    `changed`: those that are not as they were left, by generation.
    """

    files: list[File]
    strangers: list[str]
    held: list[Plain]
    changed: dict[int, Plain]


def written(name: str, paths: Sequence[Path], known: int, limit: int) -> Found:
    """The pieces of a file that only the mirror writes, oldest first; the newest is generation `known`, if told.

    What is in them is told by content alone. `limit` is the longest line, in bytes. Raises SourceError.
    """
    held = [one for path in paths if (one := _opened(path, limit)) is not None]
    held.sort(key=lambda one: (one.path.name == Path(name).name, one.written))
    newest = known or len(held)
    first = newest - len(held) + 1
    strangers = [one.path.name for one in held[: max(0, 1 - first)]]
    files = [
        File(one.path.name, name, n, OFFSETS, one.blocks, one.section, one.damage, foreign=True)
        for n, one in enumerate(held, first) if n > 0
    ]  # fmt: skip
    return Found(files, strangers, held, {})


def find(name: str, current: Path, rotated: Sequence[Path], known: Sequence[Generation], limit: int) -> Found:
    """Which file is which of the `known` generations. Files that came after them follow, with nothing due in them.

    `limit` is the longest line, in bytes. Raises SourceError.
    """
    held = [one for path in [*sorted(rotated), current] if (one := _opened(path, limit)) is not None]
    here = next((one for one in held if one.path == current), None)
    aside = sorted((one for one in held if one is not here), key=lambda one: one.packed)
    free = {id(one): one for one in [*aside, *([here] if here else [])]}
    is_of: dict[int, Plain] = {}
    open_one = next((one for one in known if not one.closed), None)

    def assign(wanted: Generation, one: Plain | None) -> None:
        if one is not None:
            is_of[wanted.number] = free.pop(id(one))

    exact: set[int] = set()
    for test in (_exactly, _partly, _by_size):
        for wanted in sorted(known, key=lambda one: one.number):
            if wanted.number not in is_of:
                order = [*free.values()] if wanted.closed else [*reversed(free.values())]
                assign(wanted, next((one for one in order if test(one, wanted.at)), None))
        exact |= set(is_of) if test is _exactly else set()
    doubtful = set()
    left = [one for one in known if one.closed and one.number not in is_of]
    spare = sorted((one for one in free.values() if one is not here), key=lambda one: one.written)
    for wanted, one in zip(sorted(left, key=lambda one: -one.number), spare[::-1], strict=False):
        assign(wanted, one)  # somebody altered both ends: the order is all there is to go by
        doubtful.add(wanted.number)
    if open_one is not None and open_one.number not in is_of and here is not None and id(here) in free:
        assign(open_one, here)
        doubtful.add(open_one.number)
    files = []
    for wanted in sorted(known, key=lambda one: one.number):
        if wanted.number in is_of:
            files.append(_file(name, is_of[wanted.number], wanted, doubtful=wanted.number in doubtful))
    newest = max((one.number for one in known), default=0)
    since = is_of[open_one.number].written if open_one is not None and open_one.number in is_of else -1
    known_here = open_one is not None and is_of.get(open_one.number) is here
    strangers = []
    later = sorted((one for one in free.values()), key=lambda one: (one is here, one.written))
    for one in later:
        if one is here or not known or (open_one is not None and not known_here and one.written > since >= 0):
            newest += 1
            files.append(_file(name, one, Generation(newest, Fingerprint(0, 0, "", ""), False)))
        else:
            strangers.append(one.path.name)
    changed = {one.number: is_of[one.number] for one in known if one.number in is_of and one.number not in exact}
    return Found(files, strangers, held, changed)


def _opened(path: Path, limit: int) -> Plain | None:
    try:
        one = Plain(path, limit)
    except FileNotFoundError:
        return None
    if one.regular:
        return one
    one.close()
    return None


def _file(name: str, one: Plain, wanted: Generation, *, doubtful: bool = False) -> File:
    return File(one.path.name, name, wanted.number, wanted.at.offset, one.blocks, one.section, one.damage, doubtful)


def _head_holds(one: Plain, at: Fingerprint) -> bool:
    return bool(at.head_len) and len(one.head) >= at.head_len and hex_digest(one.head[: at.head_len]) == at.head


def _tail_holds(one: Plain, at: Fingerprint) -> bool:
    if at.offset == 0:
        return False
    back = min(TAIL, at.offset)
    tail = one.read(back, at.offset - back)
    return len(tail) == back and hex_digest(tail) == at.tail


def _ends_alike(one: Plain, at: Fingerprint) -> bool:
    """Whether its last bytes are those it was left with, wherever they stand now."""
    size = one.length()
    back = min(TAIL, at.offset, size)
    return at.offset > 0 and hex_digest(one.read(back, size - back)) == at.tail


def _exactly(one: Plain, at: Fingerprint) -> bool:
    return _head_holds(one, at) and (at.offset == 0 or _tail_holds(one, at))


def _partly(one: Plain, at: Fingerprint) -> bool:
    return _head_holds(one, at) or _tail_holds(one, at) or _ends_alike(one, at)


def _by_size(one: Plain, at: Fingerprint) -> bool:
    return at.offset > 0 and one.length() == at.offset
