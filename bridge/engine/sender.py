"""Sends parcels of entries into a stream: the server executes one while forward makes the next."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.failpoints import failpoint
from bridge.engine.batch_encoder import Batch, BatchEncoder
from bridge.kinds.kind import SourceBatch
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.writer import FULL, Committed, Conflict, Cursor, StaleId, StreamWriter, Transaction

NEWER = 3
"""How often forward sets a parcel's IDs behind others' newer entries before its entries get the time of sending."""


class Sender:
    """Sends forward's parcels into one stream over one connection; after an exception a sender must be thrown away.

    `exists`: the stream is known to. `landed` is told of every parcel that is in the stream.
    """

    def __init__(
        self, connection: Connection, keys: Keys, holder: tuple[bytes, bytes], batcher: BatchEncoder,
        landed: Callable[[Batch, Transaction, Committed], None], notify: bytes,
    ) -> None:  # fmt: skip
        self.exists = False
        self._writer = StreamWriter(connection, keys, holder)
        self._batcher = batcher
        self._landed = landed
        self._notify = notify
        self._under_way: tuple[Batch, Transaction] | None = None
        self._last_cursor: Cursor | None = None

    def send(self, parcel: Batch) -> None:
        """Sends a parcel to the server and returns while that executes it; waits for the parcel before it first.

        Raises Overtaken, RedisLost, RedisRefused.
        """
        batch = self._batcher.batch(parcel, exists=self.exists)
        if not self._writer.stages(batch):
            self.complete()
        failpoint("forward.send.before")
        self._writer.stage(batch)
        self.complete()
        self._execute(parcel, batch)

    def set(self, draft: SourceBatch) -> None:
        """Sends a draft in a parcel of its own and waits until the server has executed that."""
        self.send(Batch.of(draft))
        self.complete()

    def _execute(self, parcel: Batch, batch: Transaction) -> None:
        """Has the server execute a parcel, with later IDs, or `*`, where others' entries are newer (DESIGN §5.3)."""
        for tries in range(NEWER + 1):
            try:
                self._writer.execute(tuple(
                    draft.source.late_stored.get(draft.position.generation) if draft.late else draft.source.stored
                    for draft in parcel.drafts
                ))  # fmt: skip
                break
            except StaleId as newer:
                if tries + 1 == NEWER:
                    self._give_way(parcel)
                after = newer.last[0] + (newer.last[1] >= FULL)
                self._batcher.floor_ms = max(parcel.floor_ms, after)
                batch = self._batcher.batch(parcel, exists=self.exists)
                self._writer.stage(batch)
        failpoint("forward.send.after")
        self._under_way = (parcel, batch)
        self._last_cursor = batch.cursors[-1]

    @staticmethod
    def _give_way(parcel: Batch) -> None:
        for draft in parcel.drafts:
            draft.source.go_live("others write into the stream: further lines get the time of sending as ID")
            draft.source.remember()
            draft.source.remembered()

    def complete(self) -> None:
        """Waits until the parcel under way is in the stream. Raises Overtaken, RedisLost, RedisRefused."""
        if self._under_way is None:
            return
        (parcel, batch), self._under_way = self._under_way, None
        failpoint("forward.reply.before")
        try:
            landed = self._writer.finish()
        except Conflict:
            if batch.watch_stream:
                self._give_way(parcel)
            raise
        failpoint("forward.reply.after")
        self.exists = self.exists or landed.count > 0
        for draft, clamped in zip(parcel.drafts, parcel.clamped, strict=True):
            draft.source.tally.clamped += clamped
        self._landed(parcel, batch, landed)
        self._writer.publish(self._notify, landed)

    def rest(self) -> None:
        """Waits for the parcel under way and sends what waits to go out: forward has nothing more to send now."""
        self.complete()
        self._writer.rest(self._last_cursor)

    def quiet(self) -> None:
        """Waits for the parcel under way; the connection may be used for something else after this."""
        self.complete()
        self._writer.quiet()
