"""Items of the log comparison: files as plain lines, passed, extra and missing lines, and the receiver of findings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bridge.core.model import EntryId, Row

SHIFT = 48
OFFSETS = (1 << SHIFT) - 1
"""A place in a source is one number: the generation in the upper bits, the offset in the lower 48 bits."""

_LONG = b"over max_line_bytes " + os.urandom(16)


class OverlongLine(bytes):
    """Stands for a line of `size` bytes that is too long to be held in memory; no real line is ever equal to it."""

    size = 0

    @classmethod
    def of(cls, size: int) -> OverlongLine:
        """Makes the stand-in for an overlong line of `size` bytes."""
        line = cls(_LONG)
        line.size = size
        return line


def size_of(line: bytes) -> int:
    """Returns how many bytes a line, or an overlong line's stand-in, takes in its file with its newline."""
    return (line.size if isinstance(line, OverlongLine) else len(line)) + 1


class LineBlock(NamedTuple):
    """A block of whole lines that follow each other in a compared file, without newlines, with each one's offset."""

    lines: list[bytes]
    offsets: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedFile:
    """One physical file as the log comparison sees it: a generation of a source, with the means to read its lines.

    `name` is the name it has now; `source` is the log of which it is a piece. Lines from `due` on were not carried yet.
    `doubtful`: nothing but the file's place says that it is this generation. `foreign`: only the mirror's lines in the
    file are this mapping's. The file is read from `start` on, where line `first` begins; `blocks_from` reads lines from
    any offset, `section` gives bytes, and `damage` says why the file could not be read to its end.
    """

    name: str
    source: str
    generation: int
    due: int
    blocks_from: Callable[[int], Iterator[LineBlock]]
    section: Callable[[int, int], Iterator[bytes]]
    damage: Callable[[], str]
    read: Callable[[], tuple[int, int, str | None]] = lambda: (0, 0, None)
    """How many bytes were read up to the file's end, how many of these stand behind the last newline, and what became
    of those: None where they wait for the rest of their line."""
    doubtful: bool = False
    start: int = 0
    first: int = 1
    foreign: bool = False
    mark: int = 0
    """Bytes of the UTF-8 mark that the file begins with."""
    path: str = ""
    """The file's path below the root."""

    @property
    def base(self) -> int:
        """The place of a compared file's first byte: its generation with the offset 0."""
        return self.generation << SHIFT

    def blocks(self) -> Iterator[LineBlock]:
        """Reads the lines of a compared file, a block at a time, from `start` on."""
        return self.blocks_from(self.start)


@dataclass(slots=True)
class PassedLines:
    """Lines of a compared file that no file-born entry claimed, in file order; `numbers` count from 1, as editors do.

    `shift`: by how many bytes lines hereabouts stand behind the places that their origins name. `due`: the lines must
    be Redis-born.
    """

    file: ComparedFile
    lines: list[bytes]
    places: list[int]
    numbers: list[int]
    shift: int = 0
    due: bool = True
    tails: dict[int, bytes] = field(default_factory=dict)
    """By a line's index: the lines that follow it and may belong to its message, with their newlines."""


@dataclass(frozen=True, slots=True)
class ExtraLine:
    """A line of a compared file that no entry accounts for, at first; `home` is the origin its entry would name.

    `gap` numbers the stretches of disagreement of a file: what stands in one was to be found in one place. `broken`:
    the line is no message, and counted as such, unless it turns out to be what became of an entry's line.
    """

    file: ComparedFile
    place: int
    number: int
    line: bytes
    home: int
    gap: int = 0
    broken: bool = False


@dataclass(frozen=True, slots=True)
class MissingLine:
    """An entry whose line was not found in the compared files, at first; `home` is the place its origin names.

    `home` is -1 for a Redis-born entry. `row` are the entry's fields, `line` the line that they make, where a codec can
    tell. A Redis-born entry's line was to stand `between` these two places. A `stray` entry comes behind entries of
    later places, `excused`: the entry, or those, came late and are marked so.
    """

    name: str
    entry: bytes
    row: Row
    line: bytes | None
    home: int = -1
    file: ComparedFile | None = None
    gap: int = 0
    between: tuple[int, int] = (-1, 1 << 62)
    stray: bool = False
    excused: bool = False


class Findings(Protocol):
    """Receives the findings of the log comparison from claims and matches; numbers are counts of messages."""

    def claimed(self, file: ComparedFile, lines: list[bytes], places: list[int], count: int) -> None:
        """Receives lines of a compared file, as `count` messages, that agree with their file-born entries."""
        ...

    def passed(self, passed: PassedLines) -> None:
        """Receives lines of a compared file that no file-born entry claims."""
        ...

    def extra(self, extra_line: ExtraLine) -> None:
        """Receives a line of a compared file that has no entry."""
        ...

    def missing(self, missing_line: MissingLine) -> None:
        """Receives an entry that has no line in the compared files."""
        ...

    def came_late(self, missing: MissingLine) -> None:
        """Receives an entry whose line was found out of order, as the entry's late mark allows."""
        ...

    def unverifiable(self, count: int, why: str) -> None:
        """Receives a number of file-born entries whose lines cannot be compared, and why."""
        ...

    def aside(self, count: int) -> None:
        """Receives a number of lines or entries that cannot be translated."""
        ...

    def accounted(self, file: ComparedFile, kind: str, size: int) -> None:
        """Receives what became of a number of bytes of a compared file, one of `account.BYTE_KINDS`."""
        ...

    def kept(self, file: ComparedFile, place: int, line: bytes) -> None:
        """Receives a line of a compared file that is no message, and must be in quarantine."""
        ...

    def in_flight(self, count: int, oldest_ms: int) -> None:
        """Receives a number of messages not due on the other side yet, and the oldest one's time, 0 if unknown."""
        ...

    def waiting(self, entry: EntryId) -> None:
        """Receives a Redis-born entry whose line is not due in its file yet."""
        ...

    def without_line(self, entry_id: bytes) -> None:
        """Receives a Redis-born entry that no codec can write as a line."""
        ...

    def matched(self, name: str, ids: list[bytes], lines: list[bytes]) -> None:
        """Receives Redis-born entries and the lines of one compared file that agree with them."""
        ...
