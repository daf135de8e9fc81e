"""Merges several sources' history into one stream by the lines' times; each source keeps its order (DESIGN §5.3)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from operator import itemgetter

from bridge.core.errors import BridgeError, LedgerError, RejectStop, SourceError, as_bridge_error
from bridge.core.model import Row
from bridge.engine.batch_encoder import Batch
from bridge.kinds.kind import BATCH_BYTES, HistoryHead, MergedHistory, Source, SourceBatch

AT_HAND = 64_000
"""How many lines the merge of several sources' history holds of all sources together: of many sources, few each."""

FEWEST_LINES = 4

STALE_RATIO = 4
"""The merge's heap is rebuilt when it holds this many times as many items as there are valid ones."""


class MergeFailed(Exception):
    """Raised as the merge gets no lines of `source`: its file cannot be read, or a message in the file stops it."""

    def __init__(self, source: Source, error: BridgeError) -> None:
        super().__init__(str(error))
        self.source = source
        self.error = error


def merge(
    waiting: list[tuple[int, str, int]],
    heads: Mapping[str, HistoryHead],
    turns: Mapping[str, int],
    limit: int,
    room: int,
) -> list[tuple[str, int, int]]:
    """Merges several files' next lines, up to `limit`, by key and then by name, into runs of (name, begin, end).

    `waiting` is the heap of the files' next lines, each by its key, its file's name and that one's turn; the runs leave
    it, and an item whose turn is over by `turns` counts no more. The keys of a file never fall: a line whose clock ran
    backwards has the latest time before it, and so comes right behind the line before it, as if only the files' first
    lines were ever compared. The merge ends where a file's lines are used up and others follow that are not read yet,
    and where another line would not fit into `room` bytes; one line always does.
    """
    begins: dict[str, int] = {}
    runs: list[tuple[str, int, int]] = []
    while waiting and limit > 0:
        key, name, turn = heappop(waiting)
        if turns.get(name) != turn:
            continue
        head = heads[name]
        begin = begins.get(name, head.begin)
        end = min(head.end, begin + limit)
        while waiting and turns.get(waiting[0][1]) != waiting[0][2]:
            heappop(waiting)
        if waiting:
            bound, other, _ = waiting[0]
            end = max(begin + 1, (bisect_right if name < other else bisect_left)(head.keys, bound, begin, end))
        size = head.bytes(begin, end)
        if full := size > room:
            end = bisect_right(head.lines.ends, head.lines.offsets[begin] + room, begin, end)
            end = max(end, begin + (not runs))
            if end == begin:
                heappush(waiting, (key, name, turn))
                break
        runs.append((name, begin, end))
        limit, room, begins[name] = limit - (end - begin), room - size, end
        if end < head.end:
            heappush(waiting, (head.keys[end], name, turn))
        if full or (end == head.end and head.more):
            break
    return runs


class Merge:
    """Merges several sources' history by time, and asks only sources whose lines were taken for their next lines.

    Each source that the merge asks is added to `asked`.
    """

    def __init__(self, asked: dict[str, Source]) -> None:
        self._asked = asked
        self._sources: dict[str, Source] = {}
        self._histories: dict[str, MergedHistory] = {}
        """The histories of the sources that were asked for lines, by the source's name."""
        self._heads: dict[str, HistoryHead] = {}
        self._turns: dict[str, int] = {}
        self._turn = count(1)  # a turn never comes again: heap items of an earlier turn are void
        self._waiting: list[tuple[int, str, int]] = []
        self._to_ask: set[str] = set()
        self._for_more: set[str] = set()

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, source: Source) -> None:
        """Adds a source to the merge; a source that is already in the merge is asked anew for its next lines."""
        self._sources[source.name] = source
        self._withdraw(source.name)

    def drop(self, name: str) -> None:
        """Removes the source of this name from the merge."""
        if self._sources.pop(name, None) is not None:
            self._withdraw(name)
            self._to_ask.discard(name)
            self._histories.pop(name, None)
            del self._turns[name]

    def clear(self) -> None:
        """Removes all sources from the merge."""
        for name in [*self._sources]:
            self.drop(name)
        self._waiting.clear()

    def touch(self, name: str) -> None:
        """Has the merge ask a merged source anew for its next lines, as lines were taken from it outside the merge."""
        if name in self._sources:
            self._withdraw(name)

    def _withdraw(self, name: str) -> None:
        self._turns[name] = next(self._turn)
        self._heads.pop(name, None)
        self._to_ask.add(name)

    def _ask(self, limit: int) -> bool:
        """Asks merged sources for their next lines, where unknown; returns whether the merge must wait for a source.

        A source that has no history any more is removed. Raises MergeFailed.
        """
        share, waits = max(FEWEST_LINES, AT_HAND // max(1, len(self._sources))), False
        for name in sorted(self._to_ask):
            source = self._asked[name] = self._sources[name]
            ahead = max(share, limit) if name in self._for_more else share
            with _failing(source):
                history = source.history()
                head = history.head(limit, ahead) if history is not None else None
            if history is not None:
                self._histories[name] = history
            self._for_more.discard(name)
            if head is not None:
                self._to_ask.discard(name)
                self._offer(name, head)
            elif source.next_wake() is not None:
                waits = True
            else:
                self.drop(name)
        return waits

    def next(self, limit: int) -> Batch | None:
        """Takes merged sources' next lines, up to `limit`, by time and then by name, as one batch; None: no lines.

        Raises MergeFailed.
        """
        asked_for_more: set[str] = set()
        if len(self._waiting) > STALE_RATIO * (len(self._heads) + 1):
            self._waiting = [found for found in self._waiting if self._turns.get(found[1]) == found[2]]
            heapify(self._waiting)
        while not self._ask(limit) and self._heads:
            runs = merge(self._waiting, self._heads, self._turns, limit, BATCH_BYTES)
            if (used_up := self._used_up(runs, limit)) and used_up not in asked_for_more:
                asked_for_more.add(used_up)
                self._for_more.add(used_up)
                self._take_back(runs, used_up)
                continue
            ends: dict[str, tuple[int, int]] = {}
            for name, begin, end in runs:
                ends[name] = (ends[name][0] if name in ends else begin, end)
            for name in ends:
                self._withdraw(name)
            parts: dict[str, SourceBatch] = {}
            try:
                for name in sorted(ends):
                    begin, end = ends[name]
                    with _failing(self._sources[name]):
                        part = self._histories[name].take(end - begin)
                    if part is not None:
                        parts[name] = part
            except MergeFailed:
                for name, part in parts.items():
                    self._histories[name].give_back(part)
                raise
            if parts:
                return _interleaved(runs, parts, ends)
        return None

    def _offer(self, name: str, head: HistoryHead) -> None:
        self._heads[name] = head
        heappush(self._waiting, (head.keys[head.begin], name, self._turns[name]))

    def _take_back(self, runs: Sequence[tuple[str, int, int]], to_ask: str) -> None:
        """Puts the lines of these runs' sources back into the merge, but for one source to be asked for more."""
        for name in {name for name, _, _ in runs}:
            head = self._heads[name]
            self._withdraw(name)
            if name != to_ask:
                self._to_ask.discard(name)
                self._offer(name, head)

    def _used_up(self, runs: Sequence[tuple[str, int, int]], limit: int) -> str:
        """Names the merged source whose lines ran out far from `limit` although its file has more; empty: none did."""
        name, _, end = runs[-1]
        head = self._heads[name]
        few = sum(end - begin for _, begin, end in runs) < limit // 2
        return name if few and head.more and end == head.end else ""


@contextmanager
def _failing(source: Source) -> Iterator[None]:
    """Raises MergeFailed for any error by which a source cannot give the merge its lines."""
    try:
        yield
    except (SourceError, RejectStop, LedgerError, OSError) as error:
        raise MergeFailed(source, as_bridge_error(error)) from error


def _interleaved(
    runs: list[tuple[str, int, int]], parts: dict[str, SourceBatch], ends: dict[str, tuple[int, int]]
) -> Batch:
    """Interleaves merged sources' rows as one batch, in the order of the runs; lines without rows are left out."""
    rows: list[Row] = []
    times: list[int] = []
    origins: list[bytes] = []
    bases: dict[str, int] = {}
    for name, part in parts.items():
        bases[name] = len(rows)
        rows += part.rows
        times += part.times
        origins += [part.prefix + b"%d" % offset for offset in part.offsets]
    order: list[int] = []
    for name, begin, end in runs:
        if name not in parts:
            continue
        places, first, base = parts[name].places, ends[name][0], bases[name]
        a, b = begin - first, end - first
        if places is not None:
            a, b = bisect_left(places, a), bisect_left(places, b)
        if b - a == 1:
            order.append(base + a)
        else:
            order += range(base + a, base + b)
    if len(order) > 1:
        pick = itemgetter(*order)
        rows, times, origins = [*pick(rows)], [*pick(times)], [*pick(origins)]
    return Batch([*parts.values()], rows, times, order, origins)
