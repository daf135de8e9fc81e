"""Decides by the limits of `[retention]` which entries of a stream are over, and up to where a trim is allowed. Pure.

A stream is trimmed only up to a position at which parity found both sides equal, and never its newest entry. An
obstacle, such as a consumer group that still needs an entry, holds that entry and all that come after it.
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
    """Holds how much a stream uses now, to compare with the limits of its retention.

    `added`: entries ever added; `length`: entries in the stream; `bytes`: of the server's memory; `now_ms`: the
    server's clock.
    """

    added: int
    length: int
    bytes: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class TrimObstacle:
    """Describes an obstacle to a trim: who still needs the entries from `first` on, and a hint what to do about it."""

    first: EntryId
    who: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AllowedTrim:
    """Holds up to where a trim of a stream is wanted by the limits of its retention, and up to where it is allowed.

    `wanted`: the last entry that is over, at a point; `upto`: the last point up to which the trim may go; `holds`: the
    obstacles for which these two are not the same.
    """

    wanted: EntryId | None
    upto: TrimPoint | None
    holds: list[TrimObstacle]
    free: Sequence[TrimPoint] = ()
    """All the points up to which the entries may be trimmed."""


def over(policy: RetentionSection, size: StreamUsage, entry: EntryId, behind: int) -> bool:
    """Whether an entry of a stream, and all before it, is over one of the retention's limits: days, entries or bytes.

    `behind`: how many entries come after it; the newest entry is never over.
    """
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
    """Finds the last trim point that is over the retention's limits, and the last that lies before every obstacle.

    `points` in stream order.
    """
    due = [point for point in points if over(policy, size, point.entry, size.added - point.added)]
    if not due:
        return AllowedTrim(None, None, [])
    wanted = due[-1].entry
    against = sorted((hold for hold in holds if hold.first <= wanted), key=lambda obstacle: obstacle.first)
    free = [point for point in due if not against or point.entry < against[0].first]
    return AllowedTrim(wanted, free[-1] if free else None, against, free)
