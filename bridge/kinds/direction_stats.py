"""Counts what went each way since the process began, and how long each message was on its way."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from bridge.files.generation import Generation

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Seconds up to which each bucket of a message's latency goes."""

MOST_TIMES = 1000
"""Times of arrival that are kept of a file which forward does not read on meanwhile."""

RATED = 10.0
"""Seconds over which the heartbeat tells rates."""


class Rates:
    """Works out messages a second over the last `RATED` seconds, from counters that are looked at now and then."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._grown: deque[tuple[float, dict[str, int]]] = deque()

    def of(self, counts: dict[str, int], now: float) -> dict[str, float]:
        """Returns messages a second for those of these counters that moved. `now` in seconds of any steady clock."""
        grown = {name: n - self._counts.get(name, 0) for name, n in counts.items() if n != self._counts.get(name, 0)}
        self._counts |= counts
        self._grown.append((now, grown))
        while len(self._grown) > 2 and now - self._grown[1][0] >= RATED:
            self._grown.popleft()
        then, sums = self._grown[0][0], Counter[str]()
        for _, more in list(self._grown)[1:]:
            sums.update(more)
        return {name: n / (now - then) for name, n in sums.items() if now > then}


@dataclass(slots=True)
class Latency:
    """Counts how many messages took how long from one side to the other.

    `counts` for each of `BOUNDS`, and what is above; `total` in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts so many messages that took so many seconds from one side to the other.

        Clocks that disagree make it no less than nothing.
        """
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count


class SourceRates(NamedTuple):
    """What became of one source: how many messages were carried or set aside, and how many are not complete yet."""

    done: int
    settling: int


@dataclass(slots=True)
class DirectionStats:
    """Counts what one direction of a mapping carried; the one thread that carries it counts, any other may read.

    `bytes` are those given to the other side: requests to Redis, lines into files. `batches` are transactions there,
    and here what was written to one file at once. `retries`: how often what was tried failed and was tried again.
    """

    messages: int = 0
    bytes: int = 0
    batches: int = 0
    rejects: int = 0
    retries: int = 0
    connections: int = 0
    latency: Latency = field(default_factory=Latency)
    parts: dict[str, SourceRates] | None = None
    """For forward, what became of each source, by name; None for a mirror."""

    def carried(self, messages: int, size: int) -> None:
        """Counts a batch of so many messages and bytes that is on the other side."""
        self.messages += messages
        self.bytes += size
        self.batches += 1


class WriteTimes:
    """Notes when the bytes of a file that grows were there at the latest.

    The file's times tell that whenever somebody looks.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[tuple[int, int], float]] = []

    def note(self, generation: Generation) -> None:
        """Looks at a file that grows: what is new in it was there when it was written to last."""
        if generation.content is None:
            return
        facts = generation.content.stat()
        place = generation.number, facts.st_size
        if self._marks and place <= self._marks[-1][0]:
            return
        written = facts.st_mtime_ns / 1e9
        if len(self._marks) == MOST_TIMES:  # of two the later place, and the time of the earlier
            marks = [*self._marks]
            self._marks = [(b[0], a[1]) for a, b in zip(marks[::2], marks[1::2], strict=True)]
        self._marks.append((place, written))

    def of(self, number: int, offset: int) -> float:
        """Returns when the byte at an offset of a generation was there at the latest, in seconds since 1970.

        0 where nobody looked. Forgets what stands before: nobody asks for that any more.
        """
        passed = bisect_right(self._marks, (number, offset), key=itemgetter(0))
        if passed:
            del self._marks[:passed]
        return self._marks[0][1] if self._marks else 0.0
