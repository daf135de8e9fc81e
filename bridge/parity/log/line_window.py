"""A window onto the lines of one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import Row
from bridge.parity.log.items import ComparedFile, OverlongLine

Unit = tuple[int, int, bytes]
"""A message of a file: the numbers of its first line and of the one behind its last, and its text."""


def messages(file: ComparedFile, codec: Codec) -> Iterator[tuple[int, bytes]]:
    """Place and text of each message, or line that is none, in file order; those of several lines put together."""
    base, held, place = file.base, list[bytes](), -1
    for block in file.blocks():
        if not isinstance(codec, MultilineCodec):
            yield from zip(map(base.__add__, block.offsets), block.lines, strict=True)
            continue
        begins = codec.begins([line if not isinstance(line, OverlongLine) else b"" for line in block.lines])
        for offset, line, first in zip(block.offsets, block.lines, begins, strict=True):
            if first and held:
                yield place, b"\n".join(held)
                held = []
            if not held:
                place = base + offset
            held.append(line)
    if held:
        yield place, b"\n".join(held)


class LineWindow:
    """The lines of one file from the walk's place on, as far as they were asked for."""

    def __init__(self, file: ComparedFile) -> None:
        self.file = file
        self.lines: list[bytes] = []
        self.places: list[int] = []
        self.at = 0
        self._number = file.first
        self._blocks = file.blocks()

    def more(self) -> bool:
        """Reads on; False at the end of the file."""
        block = next(self._blocks, None)
        if block is None:
            return False
        base = self.file.base
        self.lines += block.lines
        self.places += map(base.__add__, block.offsets) if base else block.offsets
        return True

    def trim(self) -> None:
        """Forgets the lines that were passed: the walk's place is the first that is held."""
        self._number += self.at
        del self.lines[: self.at], self.places[: self.at]
        self.at = 0

    def ahead(self, count: int) -> None:
        """Reads on in parity's file until so many of its lines are in the window, or all."""
        while len(self.lines) - self.at < count and self.more():
            pass

    def left(self) -> bool:
        """Whether a line is left, read now if need be."""
        if self.at < len(self.lines):
            return True
        self.trim()
        return self.more()

    def followed(self, i: int, count: int, continued: MultilineCodec | None) -> list[int]:
        """The lines of one message, by their indexes: the i-th, and the next `count` that begin none."""
        found = [i]
        while continued is not None and len(found) <= count:
            i += 1
            if i == len(self.lines) and not self.more():
                break
            if not continued.begins([self.lines[i]])[0]:
                found.append(i)
        return found

    def text(self, found: Sequence[int]) -> bytes:
        """Lines that are held, by their indexes, as one message."""
        return self.lines[found[0]] if len(found) == 1 else b"\n".join([self.lines[k] for k in found])

    def units(self, count: int, continued: MultilineCodec | None) -> list[tuple[int, int, bytes]]:
        """Takes the next `count` lines of a file as messages: from which line to which each goes, and its text."""
        end = min(len(self.lines), self.at + count)
        starts = list(range(self.at, end))
        if continued is not None:
            begins = continued.begins(self.lines[self.at : end])
            starts = [k for k, first in zip(starts, begins, strict=True) if first or k == self.at]
        return [(a, b, self.text(range(a, b))) for a, b in pairwise([*starts, end])]

    def damage(self) -> str:
        """Why the file could not be read to its end, as far as it was read; empty: it could."""
        why = self.file.damage()
        return f"{self.file.name} {why}" if why else ""

    def number(self, i: int) -> int:
        """The line number of the i-th line that is held."""
        return self._number + i


def around(at: dict[int, Unit], place: int, row: Row, codec: Codec) -> Unit | None:
    """The line at a place, by places; or the one that holds this row from there on, behind a torn piece of ours."""
    before = max((start for start in at if start < place), default=None) if place not in at else None
    if before is None:
        return at.get(place)
    return at[before] if codec.decode((at[before][2][place - before :],)).rows[0] == row else None
