"""Statistics of the messages that agree: how many of each role and type, and when. Only for the report's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bridge.core.codecs import Codec
from bridge.core.model import shown

BUCKETS = 240


class Timeline:
    """Statistics of messages over time: counts in at most `BUCKETS` buckets, which widen as the time span grows."""

    def __init__(self) -> None:
        self.width = 1
        self.counts: Counter[int] = Counter()

    def add(self, times: Iterable[int]) -> None:
        """Adds the times of messages to the statistics, in milliseconds since 1970; 0 stands for no time."""
        self.counts.update(time // self.width for time in times if time > 0)
        while self.counts and max(self.counts) - min(self.counts) >= BUCKETS:
            self.width *= 2
            wider: Counter[int] = Counter()
            for bucket, count in self.counts.items():
                wider[bucket // 2] += count
            self.counts = wider


class MessageStatistics:
    """Statistics by role, type and time of the messages that parity finds equal on both sides."""

    def __init__(self) -> None:
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.timeline = Timeline()

    def add(self, codec: Codec, lines: list[bytes]) -> None:
        """Adds lines of one source that agree to the statistics of roles, types and times."""
        rows, times = codec.decode(lines)
        self.timeline.add(times)
        for (role, kind), count in Counter((row[0], row[2]) for row in rows if isinstance(row, tuple)).items():
            self.kinds[shown(role, 40), shown(kind, 40)] += count
