"""Counts what each direction of a mapping carried since the process began, and how long each message was on its way."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from bridge.files.generation import Generation

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Upper bounds, in seconds, of the buckets that count the latency of messages."""

MOST_TIMES = 1000
"""How many times of writing are kept of one file, at most, while forward does not read on."""

RATED = 10.0
"""Seconds over which the heartbeat averages a direction's rates, in messages a second."""


class Rates:
    """Computes a direction's rates, in messages a second over the last `RATED` seconds, from counters read at times."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._grown: deque[tuple[float, dict[str, int]]] = deque()

    def of(self, counts: dict[str, int], now: float) -> dict[str, float]:
        """Returns the rates, in messages a second, of those counters that changed within the last `RATED` seconds.

        `now` in seconds of any steady clock.
        """
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
    """Counts in buckets how many messages of a direction took how long from one side to the other.

    `counts`: the messages of each bucket in `BOUNDS`, and at last of those above all bounds; `total` in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Adds to a direction's latency so many messages that each took so many seconds from one side to the other.

        A negative time, from clocks that disagree, counts as 0.
        """
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count


class SourceRates(NamedTuple):
    """Counts for the rates of one source the messages that were carried or set aside, and those not complete yet."""

    done: int
    settling: int


@dataclass(slots=True)
class DirectionStats:
    """The statistics of one direction of a mapping: messages, bytes, batches, rejects, retries and latency.

    The one thread that carries the direction counts; any other thread may read. `bytes` are those given to the other
    side: requests to Redis, or lines into files. `batches`: for forward the transactions, for the mirror the writes
    that each put lines into one file. `retries`: how often something failed and was tried again.
    """

    messages: int = 0
    bytes: int = 0
    batches: int = 0
    rejects: int = 0
    retries: int = 0
    connections: int = 0
    latency: Latency = field(default_factory=Latency)
    parts: dict[str, SourceRates] | None = None
    """For forward, the counts of each source, by the source's name; None for the mirror."""

    def carried(self, messages: int, size: int) -> None:
        """Counts in a direction's statistics a batch of so many messages and bytes that has reached the other side."""
        self.messages += messages
        self.bytes += size
        self.batches += 1


class WriteTimes:
    """Statistics: records by when the bytes of a growing file were written, for the latency of a direction.

    The file's modification time tells that at each look.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[tuple[int, int], float]] = []

    def note(self, generation: Generation) -> None:
        """Records the modification time of a growing file: bytes new since the last look were written by then."""
        if generation.content is None:
            return
        facts = generation.content.stat()
        place = generation.number, facts.st_size
        if self._marks and place <= self._marks[-1][0]:
            return
        written = facts.st_mtime_ns / 1e9
        if len(self._marks) == MOST_TIMES:  # keeps of each two marks the later place and the earlier time
            marks = [*self._marks]
            self._marks = [(b[0], a[1]) for a, b in zip(marks[::2], marks[1::2], strict=True)]
        self._marks.append((place, written))

    def of(self, number: int, offset: int) -> float:
        """Returns by when the byte at an offset of a generation was written, in seconds since 1970; 0: nobody looked.

        Forgets the recorded times of the bytes before it: nobody asks for those any more.
        """
        passed = bisect_right(self._marks, (number, offset), key=itemgetter(0))
        if passed:
            del self._marks[:passed]
        return self._marks[0][1] if self._marks else 0.0
