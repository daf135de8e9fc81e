"""From rows to a batch: entry IDs, packing, and what goes along with the entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from operator import ne
from typing import TYPE_CHECKING

from bridge.files.generation import Known
from bridge.model import Fingerprint, Position, Row
from bridge.streams.resp import Packer, entry_packer
from bridge.streams.writer import Batch, Cursor

if TYPE_CHECKING:
    from bridge.carry.source import Source


@dataclass(slots=True)
class Draft:
    """A batch before its IDs are known. `times` are milliseconds since 1970 for history, else empty.

    `ended` is the generation of a late one, as it stands behind the batch; `taken_out` are the offsets and numbers of
    lines that leave quarantine with it.
    """

    source: Source
    cursor: Cursor
    position: Position
    first: Position | None = None
    rows: list[Row] = field(default_factory=list)
    prefix: bytes = b""
    offsets: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    closing: tuple[Known, ...] = ()
    ended: Known | None = None
    clamped: int = 0
    taken_out: list[tuple[int, int]] = field(default_factory=list)

    @property
    def late(self) -> bool:
        """Whether its lines stand in a generation that had ended: they move that one's cursor, not the source's."""
        return self.ended is not None


class Batcher:
    """Makes batches for one stream. IDs of history ascend over all of its sources."""

    def __init__(self, stream: bytes, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._packers: dict[tuple[bytes, ...], Packer] = {}
        self.id_ms = 0
        self.server_ahead_ms = 0

    def batch(self, draft: Draft, *, exists: bool) -> Batch:
        """The message's own time as ID in history, else the time of sending. `exists`: the stream is known to."""
        source = draft.source
        ids: list[int] | None = None
        draft.clamped = len(draft.times)
        if draft.times and not source.memory.live:
            now_ms = int(self._clock() * 1000) + self.server_ahead_ms
            ids, draft.clamped = history_times(draft.times, self.id_ms, now_ms)
            self.id_ms = ids[-1]
        fields = source.codec.fields
        packer = self._packers.get(fields)
        if packer is None:
            packer = self._packers[fields] = entry_packer(self._stream, fields)
        packed = packer(draft.rows, ids, draft.prefix, draft.offsets, exists)
        closing = tuple((b"%d.%d" % (source.memory.number, one.number), closed_value(one)) for one in draft.closing)
        last = draft.prefix + b"%d" % draft.offsets[-1] if draft.offsets else b""
        late: tuple[bytes, ...] = ()
        if source.memory.refill and draft.first and draft.first <= source.memory.refill:
            late = tuple(draft.prefix + b"%d" % offset for offset in draft.offsets)
        elif draft.taken_out:  # the mark tells a retry that they were sent, whatever becomes of them
            late = tuple(draft.prefix + b"%d" % offset for offset, _ in draft.taken_out)
        first_ms = ids[0] if ids else 0
        return Batch(draft.cursor, packed, len(draft.rows), last, ids is not None, first_ms, closing, late)


def closed_value(known: Known) -> bytes:
    """A closed generation as `bridge:{S}:generations` holds it."""
    at = known.at
    return b'{"size":%d,"head_len":%d,"head":"%b","tail":"%b"}' % (
        at.offset, at.head_len, at.head.encode(), at.tail.encode(),
    )  # fmt: skip


def history_times(times: list[int], floor_ms: int, now_ms: int) -> tuple[list[int], int]:
    """Entry IDs' milliseconds from the messages' own times (DESIGN §5.3): ascending, and never above the clock.

    Returns them, and how many were clamped. Pure.
    """
    if times[0] >= floor_ms and times[-1] <= now_ms and times == sorted(times):
        return times, 0
    bounded = [*accumulate((min(time, now_ms) for time in times), max, initial=max(0, floor_ms))][1:]
    return bounded, sum(map(ne, bounded, times))


def closed_fingerprint(stored: bytes) -> Fingerprint:
    """A field of `bridge:{S}:generations` as what the generation is known by at its end."""
    facts = json.loads(stored)
    return Fingerprint(int(facts["size"]), int(facts["head_len"]), str(facts["head"]), str(facts["tail"]))
