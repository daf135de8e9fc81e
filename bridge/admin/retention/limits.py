"""What is over a mapping's `[retention]`, and up to where it may go. Pure.

A stream is trimmed only up to a position at which parity found both sides equal, and never its newest entry. Whatever
still needs an entry holds it, and all that come after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.core.mapping_sections import RetentionSection
from bridge.core.model import EntryId
from bridge.ledger.trim_points import TrimPoint

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """A stream, now: entries ever added and standing, bytes it takes of the server's memory, the server's clock."""

    added: int
    length: int
    bytes: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class TrimObstacle:
    """Who needs the entries from `first` on, in words; and what to do about it."""

    first: EntryId
    who: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AllowedTrim:
    """`wanted`: up to where entries are over; `upto`: up to where they may go. `holds`: why these are not the same."""

    wanted: EntryId | None
    upto: TrimPoint | None
    holds: list[TrimObstacle]
    free: Sequence[TrimPoint] = ()
    """All the points up to which they may go."""


def over(policy: RetentionSection, size: StreamUsage, entry: EntryId, behind: int) -> bool:
    """Whether entries up to this one are over one of the limits, where `behind` come after it."""
    if behind < 1:
        return False
    if policy.keep_days is not None and entry[0] < size.now_ms - policy.keep_days * DAY_MS:
        return True
    if policy.keep_entries is not None and behind >= policy.keep_entries:
        return True
    each = size.bytes / max(1, size.length)
    return policy.keep_bytes is not None and behind * each >= policy.keep_bytes


def allowed(
    points: Iterable[TrimPoint], policy: RetentionSection, size: StreamUsage, holds: Iterable[TrimObstacle]
) -> AllowedTrim:
    """The last of these points, in stream order, that is over the limits; and the last that nobody holds."""
    due = [point for point in points if over(policy, size, point.entry, size.added - point.added)]
    if not due:
        return AllowedTrim(None, None, [])
    wanted = due[-1].entry
    against = sorted((hold for hold in holds if hold.first <= wanted), key=lambda obstacle: obstacle.first)
    free = [point for point in due if not against or point.entry < against[0].first]
    return AllowedTrim(wanted, free[-1] if free else None, against, free)
