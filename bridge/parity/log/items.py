"""What the comparison is told of, and what it tells: files as plain lines, and where the two sides do not agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bridge.core.model import EntryId, Row

SHIFT = 48
OFFSETS = (1 << SHIFT) - 1
"""A place in a source is one number: its generation, and in the lower 48 bits the offset."""

_LONG = b"over max_line_bytes " + os.urandom(16)


class OverlongLine(bytes):
    """Stands for a line of `size` bytes that is too long to be held. No line is ever equal to it."""

    size = 0

    @classmethod
    def of(cls, size: int) -> OverlongLine:
        """Stands for a line of so many bytes."""
        line = cls(_LONG)
        line.size = size
        return line


def size_of(line: bytes) -> int:
    """How many bytes a line takes in its file, with its newline."""
    return (line.size if isinstance(line, OverlongLine) else len(line)) + 1


class LineBlock(NamedTuple):
    """Whole lines that follow each other in a file, without their newlines, and the offset of the first one."""

    lines: list[bytes]
    offsets: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedFile:
    """One physical file. `name` is the one it has now; `source` that of the log it is a piece of.

    Lines from `due` on were not carried yet. `doubtful`: nothing but its place says that it is this generation.
    `foreign`: only the mirror's lines in it are this mapping's.
    It is read from `start` on, where line `first` begins; `blocks_from` reads it from any offset, `section` gives bytes
    of it, and `damage` says why it could not be read to its end.
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
    path: str = ""
    """Where it lies below the root."""

    @property
    def base(self) -> int:
        """The place of the first byte of a file among all of parity's places."""
        return self.generation << SHIFT

    def blocks(self) -> Iterator[LineBlock]:
        """Reads the lines of a file from `start` on."""
        return self.blocks_from(self.start)


@dataclass(slots=True)
class PassedLines:
    """Lines of a file that no file-born entry claimed, in file order; `numbers` count from 1, as editors do.

    `shift`: by how much lines hereabouts stand behind the places their origins name. `due`: they must be Redis-born.
    """

    file: ComparedFile
    lines: list[bytes]
    places: list[int]
    numbers: list[int]
    shift: int = 0
    due: bool = True
    tails: dict[int, bytes] = field(default_factory=dict)
    """By their index, what follows those lines and may belong to their messages, with its newlines."""


@dataclass(frozen=True, slots=True)
class ExtraLine:
    """A line that no entry accounts for, at first. `home` is the origin an entry of it would name.

    `gap` numbers the stretches of disagreement of a file: what stands in one was to be found in one place. `broken`:
    it is no message, and counted among those; unless it turns out to be what became of an entry's line.
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
    """An entry whose line was not found at first. `home` is the place its origin names, -1 for a Redis-born one.

    `row` are its fields, `line` what they make as a line, where a codec can tell. Of a Redis-born one the line was to
    stand `between` these two places. A `stray` one comes behind entries of later places,
    `excused`: it, or they, came late and are marked so.
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
    """Where claims and matches go. Numbers are counts of messages."""

    def claimed(self, file: ComparedFile, lines: list[bytes], places: list[int], count: int) -> None:
        """File-born: these lines, which are `count` messages, and their entries agree."""
        ...

    def passed(self, passed: PassedLines) -> None:
        """Parity's matcher hands on lines that no file-born entry claims."""
        ...

    def extra(self, extra_line: ExtraLine) -> None:
        """Parity's matcher tells of a line that has no entry."""
        ...

    def missing(self, missing_line: MissingLine) -> None:
        """Parity's matcher tells of an entry that has no line."""
        ...

    def came_late(self, missing: MissingLine) -> None:
        """Parity's matcher tells of an entry whose line was found out of order, as the entry is marked to be."""
        ...

    def unverifiable(self, count: int, why: str) -> None:
        """File-born entries whose lines cannot be looked at."""
        ...

    def aside(self, count: int) -> None:
        """Lines, or entries, that cannot be translated."""
        ...

    def accounted(self, file: ComparedFile, kind: str, size: int) -> None:
        """What became of so many bytes of a file (`account.KINDS`)."""
        ...

    def kept(self, file: ComparedFile, place: int, line: bytes) -> None:
        """A line that is no message: it must be in quarantine."""
        ...

    def in_flight(self, count: int, oldest_ms: int) -> None:
        """Messages of one side that are not due on the other; the time of the oldest, 0 where none is told."""
        ...

    def waiting(self, entry: EntryId) -> None:
        """A Redis-born entry that is not due in its file yet."""
        ...

    def without_line(self, entry_id: bytes) -> None:
        """A Redis-born entry that can be no line."""
        ...

    def matched(self, name: str, ids: list[bytes], lines: list[bytes]) -> None:
        """Redis-born: these entries, and the lines of this file, agree."""
        ...
