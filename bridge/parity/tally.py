"""What a comparison is to expect, and what it counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.model import EntryId
from bridge.parity.classify import Difference
from bridge.parity.sides import Extra, Missing


@dataclass(frozen=True, slots=True)
class Due:
    """What must be there. `entry`: Redis-born entries up to here have their lines. `mirrored`: they may have any;
    `dual`: a bridge is there to write those that have none yet.

    `late` tells which of these origins and IDs stand out of order and may, None: none does; `aside` whether a line or
    an entry is in quarantine that could be translated by now. `gone`: the generations of each file that are not found.
    """

    entry: EntryId
    mirrored: bool
    dual: bool
    late: Callable[[list[bytes]], set[bytes]] | None
    aside: Callable[[Extra | Missing], bool]
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)
    both: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class Tally:
    """What the comparison counted. `why` says in words what is unverifiable, and how many messages each time."""

    file_born: int = 0
    redis_born: int = 0
    in_flight: int = 0
    oldest_ms: int = 0
    not_mirrored: int = 0
    quarantined: int = 0
    late: int = 0
    unordered: int = 0
    foreign: int = 0
    rewritten: int = 0
    """Messages whose file says something else since, with the same identity; they count as compared."""
    taken_away: int = 0
    """Messages whose file is gone since."""
    copies: int = 0
    """Files that hold a message which another file holds as well."""
    unverifiable: int = 0
    why: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, int] = field(default_factory=dict)
    """Differences beyond `MOST`, by kind."""
    marked: bool = False
    """Whether any message of the stream is marked late."""
    differences: list[Difference] = field(default_factory=list)
    digest: str = ""
    entries: int = 0
    """Entries that were read and are new since the last time."""

    @property
    def compared(self) -> int:
        """Messages that were found to be the same on both sides."""
        return self.file_born + self.redis_born
