"""Encodes forward's batches of rows as Redis transactions: entry IDs, packed XADDs, cursors and marks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from bridge.core.codecs.named_path import EXTRA
from bridge.core.model import ORIGIN_FIELD, Row
from bridge.kinds.kind import SourceBatch
from bridge.streams.resp import Packer, Places, entry_packer
from bridge.streams.writer import REFILLED, REPAIRED, REWRITTEN, Transaction


@dataclass(slots=True)
class Batch:
    """A batch: the source batches that forward sends in one transaction, and their rows in the order of the entries.

    `order`: where in the parts' rows, one part after the other, each row stands; empty for one part. `clamped`
    counts for each part the entries whose ID is not their message's own time.
    """

    parts: list[SourceBatch]
    rows: list[Row]
    times: list[int]
    order: list[int] = field(default_factory=list)
    origins: list[bytes] = field(default_factory=list)
    clamped: list[int] = field(default_factory=list)
    floor_ms: int = 0

    @classmethod
    def of(cls, part: SourceBatch) -> Batch:
        """Makes a batch of a single source batch, which forward encodes and sends in a transaction of its own."""
        return cls([part], part.rows, part.times)

    def last_fields(self) -> list[bytes]:
        """Returns the fields of the batch's last entry, name, value, name, value …, as they stand in the stream."""
        row, first = self.rows[-1], self.parts[0]
        origin = self.origins[-1] if self.origins else first.prefix + b"%d" % first.offsets[-1]
        names = first.source.codec.fields
        names += EXTRA[: len(row) - len(names)]
        return [part for pair in zip((*names, ORIGIN_FIELD), (*row, origin), strict=True) for part in pair]

    @property
    def live(self) -> bool:
        """Whether the entries of the batch get the time of sending as ID."""
        return not self.times or any(part.source.progress.memory.live for part in self.parts)


class BatchEncoder:
    """Encodes forward's batches for one stream as transactions: chooses entry IDs and packs the rows.

    IDs of history ascend over all of the stream's sources, from `floor_ms` on.
    """

    def __init__(self, stream: bytes, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._packers: dict[tuple[bytes, ...], Packer] = {}
        self.floor_ms = 0
        self.server_ahead_ms = 0

    def batch(self, batch: Batch, *, exists: bool) -> Transaction:
        """Encodes a batch as a transaction: entry IDs of history are the messages' own times, else the time of sending.

        `exists`: the stream is known to exist.
        """
        parts, ids = batch.parts, None
        batch.floor_ms = self.floor_ms
        batch.clamped = [len(part.times) for part in parts]
        if not batch.live:
            ids, clamped = history_times(batch.times, self.floor_ms, int(self._clock() * 1000) + self.server_ahead_ms)
            batch.clamped = _shared_out(batch, ids) if clamped else [0] * len(parts)
            self.floor_ms = ids[-1]
        fields = parts[0].source.codec.fields
        last, packed = b"", b""
        if len(parts) > 1:
            packed, last = self._packed(batch.rows, ids, None, batch.origins, fields, exists), batch.origins[-1]
        elif batch.rows:
            [part] = parts
            packed = self._packed(batch.rows, ids, part.prefix, part.offsets, fields, exists)
            last = part.prefix + b"%d" % part.offsets[-1]
        closing = tuple(
            (b"%d.%d" % (part.source.progress.number, record.number), record.at.to_json())
            for part in parts for record in part.closing
        )  # fmt: skip
        late = tuple(origin for part in parts for origin in part.out_of_order)
        cursors = tuple(part.cursor for part in parts)
        why = REPAIRED if any(part.source.comes_late for part in parts) else REFILLED
        why = REWRITTEN if any(part.among_earlier for part in parts) else why
        return Transaction(
            cursors, packed, len(batch.rows), last, ids is not None, ids[0] if ids else 0, closing, late, why
        )

    def _packed(
        self, rows: list[Row], ids: list[int] | None, prefix: bytes | None, places: Places, fields: tuple[bytes, ...],
        exists: bool,
    ) -> bytes:  # fmt: skip
        """Packs a batch's rows into XADDs; rows longer than `fields` name an artifact and get its fields as well."""
        plain, wide = self._packer(fields), self._packer(fields + EXTRA)
        if sum(map(len, rows)) == len(rows) * len(fields):
            return plain(rows, ids, prefix, places, exists)
        packed, at = [], 0
        while at < len(rows):
            size, end = len(rows[at]), at + 1
            while end < len(rows) and len(rows[end]) == size:
                end += 1
            packer = plain if size == len(fields) else wide
            packed.append(packer(rows[at:end], ids and ids[at:end], prefix, places[at:end], exists))
            at = end
        return b"".join(packed)

    def _packer(self, fields: tuple[bytes, ...]) -> Packer:
        if fields not in self._packers:
            self._packers[fields] = entry_packer(self._stream, fields)
        return self._packers[fields]


def _shared_out(batch: Batch, ids: list[int]) -> list[int]:
    """Counts, for each source batch of a batch, the entries that have another ID than their message's own time."""
    counts = [0] * len(batch.parts)
    bounds = [*accumulate(len(part.rows) for part in batch.parts)]
    for n, (given, own) in enumerate(zip(ids, batch.times, strict=True)):
        if own and given != own:
            counts[bisect_right(bounds, batch.order[n]) if batch.order else 0] += 1
    return counts


def history_times(times: list[int], floor_ms: int, now_ms: int) -> tuple[list[int], int]:
    """Makes entry IDs of history from the messages' own times (DESIGN §5.3): ascending, and never above the clock.

    A message without a time, 0, has that of the one before it, or, as the stream's first, that of the next one. Returns
    the milliseconds of the IDs, and how many were clamped. Pure.
    """
    if 0 < times[0] >= floor_ms and times[-1] <= now_ms and times == sorted(times):
        return times, 0
    if floor_ms <= 0 and not times[0]:
        floor_ms = min(next(filter(None, times), 0), now_ms)
    bounded = [*accumulate((min(time, now_ms) for time in times), max, initial=max(0, floor_ms))][1:]
    return bounded, sum(time != 0 and given != time for given, time in zip(bounded, times, strict=True))
