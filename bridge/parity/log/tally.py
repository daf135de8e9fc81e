"""The tally of a comparison: what it expects of a stream and its files, what it counted, and the late marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.core.model import EntryId
from bridge.parity.acknowledgements import Acknowledged, TakenOut
from bridge.parity.log.classify import Difference
from bridge.parity.log.items import ComparedFile, ExtraLine, MissingLine
from bridge.parity.log.moved_places import MovedPlaces
from bridge.streams.connect import Connection


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a comparison expects to find in the files, before it fills its tally.

    `entry`: Redis-born entries up to this ID have their lines. `mirrored`: Redis-born entries may have lines; `dual`: a
    bridge is there to write the lines that are not there yet. `late` returns which of the given origins and IDs stand
    out of order and may, None: none does; `aside`: whether a line or an entry is in quarantine that could be translated
    by now. `gone`: the generations of each file that are not found.
    """

    entry: EntryId
    mirrored: bool
    dual: bool
    late: Callable[[list[bytes]], set[bytes]] | None
    aside: Callable[[ExtraLine | MissingLine], bool]
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)
    both: frozenset[bytes] = frozenset()
    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    """What somebody acknowledged."""
    moved: Mapping[str, MovedPlaces] = field(default_factory=dict)
    """By their log: where lines stand now that were sent from a file which another file replaced."""
    kept: Callable[[ComparedFile, int, bytes], bool] | None = None
    """Whether the line at a place of a source is in quarantine with these bytes; None: nobody can tell."""


@dataclass(slots=True)
class ComparisonTally:
    """The tally of a comparison: how many messages agree, differ, are in flight, or cannot be compared.

    `why` says in words what is unverifiable, and how many messages each time.
    """

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
    """Messages whose file was rewritten since, with the same identity; they count as compared."""
    taken_away: int = 0
    """Messages whose file is gone since."""
    copies: int = 0
    """Files that hold a message which another file holds as well."""
    unproved: int = 0
    """Lines that were passed over on somebody's word, `--as-edit`, and are compared with nothing."""
    acknowledged: int = 0
    """Differences that somebody acknowledged."""
    redacted: int = 0
    """Entries that were deleted on purpose."""
    taken_out: list[TakenOut] = field(default_factory=list)
    """Entries whose lines were changed or taken out of their log, in rows, and that nobody acknowledged."""
    unverifiable: int = 0
    why: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, int] = field(default_factory=dict)
    """Differences beyond `MOST_DIFFERENCES`, by kind."""
    marked: bool = False
    """Whether any message of the stream is marked late."""
    differences: list[Difference] = field(default_factory=list)
    digest: str = ""
    entries: int = 0
    """Entries that were read and are new since the last time."""

    @property
    def compared(self) -> int:
        """How many messages the tally counts as the same in files and stream."""
        return self.file_born + self.redis_born


class LateMarks:
    """Looks up late marks in the Redis hash `bridge:{S}:late`: origins and entry IDs that may stand out of order."""

    def __init__(self, connection: Connection, key: bytes) -> None:
        self._connection = connection
        self._key = key

    def __call__(self, fields: list[bytes]) -> set[bytes]:
        """Returns which of the given origins and entry IDs have a late mark in Redis."""
        found = set()
        for at in range(0, len(fields), 500):
            part = fields[at : at + 500]
            marks = self._connection.call("HMGET", self._key, *part)
            found |= {name for name, mark in zip(part, marks, strict=True) if mark is not None}
        return found
