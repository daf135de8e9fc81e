"""What the messages that agree are made of: how many of each role and type, and when. Only for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bridge.core.codecs import Codec
from bridge.core.model import shown

BUCKETS = 240


class Timeline:
    """Counts over time, in at most `BUCKETS` buckets that widen as the span grows."""

    def __init__(self) -> None:
        self.width = 1
        self.counts: Counter[int] = Counter()

    def add(self, times: Iterable[int]) -> None:
        """Moments in milliseconds since 1970; 0 is none."""
        self.counts.update(time // self.width for time in times if time > 0)
        while self.counts and max(self.counts) - min(self.counts) >= BUCKETS:
            self.width *= 2
            wider: Counter[int] = Counter()
            for bucket, count in self.counts.items():
                wider[bucket // 2] += count
            self.counts = wider


class MessageStatistics:
    """Fed with the lines that agree."""

    def __init__(self) -> None:
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.timeline = Timeline()

    def add(self, codec: Codec, lines: list[bytes]) -> None:
        """Lines of one source."""
        rows, times = codec.decode(lines)
        self.timeline.add(times)
        for (role, kind), count in Counter((row[0], row[2]) for row in rows if isinstance(row, tuple)).items():
            self.kinds[shown(role, 40), shown(kind, 40)] += count
