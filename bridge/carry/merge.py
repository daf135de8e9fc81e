"""The merge puts several sources' history into one stream by the lines' times; each keeps its order (DESIGN §5.3)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

from bridge.carry.draft import Draft, Parcel
from bridge.errors import BridgeError, LedgerError, RejectStop, SourceError, as_bridge_error
from bridge.files.lines import Lines
from bridge.model import Row

if TYPE_CHECKING:
    from bridge.carry.source import Source

AT_HAND = 16_000
"""How many lines the merge of several sources' history holds of all of them together; of many sources few of each."""

FEWEST = 16

BATCH_BYTES = 1 << 20

T = TypeVar("T")


class Failed(Exception):
    """The merge of several sources got no lines of `source`: its file cannot be read, or holds what stops it."""

    def __init__(self, source: Source, error: BridgeError) -> None:
        super().__init__(str(error))
        self.source = source
        self.error = error


@dataclass(frozen=True, slots=True)
class Head:
    """The next lines of history that one source offers to the merge with other sources.

    Offered are `keys`, the times to merge by, and `lines`, from `begin` to `end`; `more`: others follow that are not
    read yet.
    """

    keys: Sequence[int]
    begin: int
    end: int
    more: bool
    lines: Lines

    def bytes(self, begin: int, end: int) -> int:
        """How many bytes of the source's file the offered lines from `begin` to `end` take."""
        return self.lines.ends[end - 1] - self.lines.offsets[begin]


def merge(heads: Sequence[Head], limit: int) -> list[tuple[int, int, int]]:
    """Merges several files' next lines, up to `limit`, by key and then by file, into runs of (file, begin, end). Pure.

    The keys of a file never fall: a line whose clock ran backwards has the latest time before it, and so comes right
    behind the line before it, as if only the files' first lines were ever compared. The merge ends where a file's lines
    are used up and others follow that are not read yet.
    """
    begins = [head.begin for head in heads]
    waiting = [(head.keys[head.begin], i) for i, head in enumerate(heads) if head.begin < head.end]
    heapify(waiting)
    runs = []
    while waiting and limit > 0:
        _, i = heappop(waiting)
        head, begin = heads[i], begins[i]
        end = min(head.end, begin + limit)
        if waiting:
            bound, j = waiting[0]
            end = (bisect_right if i < j else bisect_left)(head.keys, bound, begin, end)
        runs.append((i, begin, end))
        limit -= end - begin
        begins[i] = end
        if end < head.end:
            heappush(waiting, (head.keys[end], i))
        elif head.more:
            break
    return runs


def gather(sources: Sequence[Source], limit: int, offered: dict[str, Head]) -> Parcel | None:
    """Takes the next lines of these sources' history as one parcel, by time and then by name; None: there are none now.

    The parcel is of at most `limit` lines. `offered` has what each source offers that was not asked to give any since:
    of thousands of sources few are asked again. Raises Failed.
    """
    share = max(FEWEST, AT_HAND // len(sources))
    while True:
        heads: list[tuple[Source, Head]] = []
        waits = False
        for source in sources:
            head = offered.get(source.name) or _of(source, lambda asked: asked.head(limit, share))
            if head is not None:
                offered[source.name] = head
                heads.append((source, head))
            waits = waits or (head is None and source.waits)
        if not heads or waits:
            return None
        most = limit
        while True:
            runs, ends = merge([head for _, head in heads], most), dict[int, tuple[int, int]]()
            for i, begin, end in runs:
                ends[i] = (ends[i][0] if i in ends else begin, end)
            if most == 1 or sum(heads[i][1].bytes(*ends[i]) for i in ends) <= BATCH_BYTES:
                break
            most //= 2
        drafts: dict[int, Draft] = {}
        try:
            for i in sorted(ends):
                begin, end = ends[i]
                del offered[heads[i][0].name]
                draft = _of(heads[i][0], lambda asked, many=end - begin: asked.take(many))  # type: ignore[misc]
                if draft is not None:
                    drafts[i] = draft
        except Failed:
            for i, draft in drafts.items():
                heads[i][0].give_back(draft)
            raise
        if drafts:
            return _interleaved(runs, drafts, ends)


def _of(source: Source, act: Callable[[Source], T]) -> T:
    try:
        return act(source)
    except (SourceError, RejectStop, LedgerError, OSError) as error:
        raise Failed(source, as_bridge_error(error)) from error


def _interleaved(
    runs: list[tuple[int, int, int]], drafts: dict[int, Draft], ends: dict[int, tuple[int, int]]
) -> Parcel:
    """Makes one parcel of merged sources' drafts, rows in the order of the runs; lines that became no rows are out."""
    rows: list[Row] = []
    times: list[int] = []
    origins: list[bytes] = []
    bases: dict[int, int] = {}
    for i, draft in drafts.items():
        bases[i] = len(rows)
        rows += draft.rows
        times += draft.times
        origins += [draft.prefix + b"%d" % offset for offset in draft.offsets]
    order: list[int] = []
    for i, begin, end in runs:
        if i not in drafts:
            continue
        places, first, base = drafts[i].places, ends[i][0], bases[i]
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
    return Parcel([*drafts.values()], rows, times, order, origins)
