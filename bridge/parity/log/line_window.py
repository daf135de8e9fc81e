"""A window onto the lines of one compared file, read ahead as far as claims need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import Row
from bridge.parity.log.items import ComparedFile, OverlongLine

Unit = tuple[int, int, bytes]
"""A message of a file: the indexes of its first line and of the line behind its last, and its text."""


def messages(file: ComparedFile, codec: Codec) -> Iterator[tuple[int, bytes]]:
    """Yields place and text of each message of a compared file, or of a line that is none, in file order.

    The lines of a multiline message are joined.
    """
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
    """A window of lines: those of one file from the walk's place on, as far as they were asked for."""

    def __init__(self, file: ComparedFile) -> None:
        self.file = file
        self.lines: list[bytes] = []
        self.places: list[int] = []
        self.at = 0
        self._number = file.first
        self._blocks = file.blocks()

    def more(self) -> bool:
        """Reads the next block of lines into the window; False at the end of the file."""
        block = next(self._blocks, None)
        if block is None:
            return False
        base = self.file.base
        self.lines += block.lines
        self.places += map(base.__add__, block.offsets) if base else block.offsets
        return True

    def trim(self) -> None:
        """Drops from the window the lines that were passed: the line at the walk's place becomes the first one held."""
        self._number += self.at
        del self.lines[: self.at], self.places[: self.at]
        self.at = 0

    def ahead(self, count: int) -> None:
        """Reads lines into the window until it holds `count` of them behind the walk's place, or the file ends."""
        while len(self.lines) - self.at < count and self.more():
            pass

    def left(self) -> bool:
        """Whether the window has a line left; reads on in the file if need be."""
        if self.at < len(self.lines):
            return True
        self.trim()
        return self.more()

    def followed(self, i: int, count: int, continued: MultilineCodec | None) -> list[int]:
        """Returns the indexes of a message's lines in the window: the i-th, and the next `count` that begin none."""
        found = [i]
        while continued is not None and len(found) <= count:
            i += 1
            if i == len(self.lines) and not self.more():
                break
            if not continued.begins([self.lines[i]])[0]:
                found.append(i)
        return found

    def text(self, found: Sequence[int]) -> bytes:
        """Joins lines of the window, by their indexes, into the text of one message."""
        return self.lines[found[0]] if len(found) == 1 else b"\n".join([self.lines[k] for k in found])

    def units(self, count: int, continued: MultilineCodec | None) -> list[tuple[int, int, bytes]]:
        """Groups the window's next `count` lines into messages.

        Returns for each the index of its first line, that of the line behind its last, and its text.
        """
        end = min(len(self.lines), self.at + count)
        starts = list(range(self.at, end))
        if continued is not None:
            begins = continued.begins(self.lines[self.at : end])
            starts = [k for k, first in zip(starts, begins, strict=True) if first or k == self.at]
        return [(a, b, self.text(range(a, b))) for a, b in pairwise([*starts, end])]

    def damage(self) -> str:
        """Says why the window's file could not be read to its end, as far as it was read; empty: it could."""
        why = self.file.damage()
        return f"{self.file.name} {why}" if why else ""

    def number(self, i: int) -> int:
        """Returns the line number in the file of the i-th line that the window holds."""
        return self._number + i


def around(at: dict[int, Unit], place: int, row: Row, codec: Codec) -> Unit | None:
    """Finds among a window's messages the one at a place, or the one that holds `row` from that place on.

    In the second case, a torn piece of ours stands before the place.
    """
    before = max((start for start in at if start < place), default=None) if place not in at else None
    if before is None:
        return at.get(place)
    return at[before] if codec.decode((at[before][2][place - before :],)).rows[0] == row else None
