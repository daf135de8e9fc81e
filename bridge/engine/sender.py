"""The sender of forward's batches: Redis executes one batch while forward encodes the next (pipelining)."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.failpoints import failpoint
from bridge.engine.batch_encoder import Batch, BatchEncoder
from bridge.kinds.kind import SourceBatch
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.writer import FULL, Committed, Conflict, Cursor, StaleId, StreamWriter, Transaction

NEWER = 3
"""How often the sender raises a batch's IDs above others' newer entries, before entries get the time of sending."""


class Sender:
    """Sends forward's batches into one stream over one connection; after an exception a sender must be thrown away.

    `exists`: the stream is known to exist. `committed` is called for every batch that is in the stream.
    """

    def __init__(
        self, connection: Connection, keys: Keys, holder: tuple[bytes, bytes], encoder: BatchEncoder,
        committed: Callable[[Batch, Transaction, Committed], None], notify: bytes,
    ) -> None:  # fmt: skip
        self.exists = False
        self._writer = StreamWriter(connection, keys, holder)
        self._encoder = encoder
        self._committed = committed
        self._notify = notify
        self._under_way: tuple[Batch, Transaction] | None = None
        self._last_cursor: Cursor | None = None

    def send(self, batch: Batch) -> None:
        """Sends a batch to Redis and returns while the server executes it; waits first until the batch before is done.

        Raises Conflict, RedisLost, RedisRefused.
        """
        transaction = self._encoder.batch(batch, exists=self.exists)
        if not self._writer.stages(transaction):
            self.complete()
        failpoint("forward.send.before")
        self._writer.stage(transaction)
        self.complete()
        self._execute(batch, transaction)

    def set(self, part: SourceBatch) -> None:
        """Sends a source batch in a batch of its own, and waits until the server has executed it."""
        self.send(Batch.of(part))
        self.complete()

    def _execute(self, batch: Batch, transaction: Transaction) -> None:
        """Has Redis execute a sent batch, with higher IDs, or `*`, where others' entries are newer (DESIGN §5.3)."""
        for tries in range(NEWER + 1):
            try:
                self._writer.execute(tuple(
                    progress.late_stored.get(part.position.generation) if part.late else progress.stored
                    for part in batch.parts for progress in (part.source.progress,)
                ))  # fmt: skip
                break
            except StaleId as newer:
                if tries + 1 == NEWER:
                    self._give_way(batch)
                after = newer.last[0] + (newer.last[1] >= FULL)
                self._encoder.floor_ms = max(batch.floor_ms, after)
                transaction = self._encoder.batch(batch, exists=self.exists)
                self._writer.stage(transaction)
        failpoint("forward.send.after")
        self._under_way = (batch, transaction)
        self._last_cursor = transaction.cursors[-1]

    @staticmethod
    def _give_way(batch: Batch) -> None:
        for part in batch.parts:
            part.source.progress.go_live("others write into the stream: further lines get the time of sending as ID")
            part.source.remember()

    def complete(self) -> None:
        """Waits until the sender's batch under way is in the stream. Raises Conflict, RedisLost, RedisRefused."""
        if self._under_way is None:
            return
        (batch, transaction), self._under_way = self._under_way, None
        failpoint("forward.reply.before")
        try:
            committed = self._writer.finish()
        except Conflict:
            if transaction.watch_stream:
                self._give_way(batch)
            raise
        failpoint("forward.reply.after")
        self.exists = self.exists or committed.count > 0
        for part, clamped in zip(batch.parts, batch.clamped, strict=True):
            part.source.counts.clamped += clamped
        self._committed(batch, transaction, committed)
        self._writer.publish(self._notify, committed)

    def rest(self) -> None:
        """Completes the sender's batch under way and sends delayed commands, as forward has no further batch now."""
        self.complete()
        self._writer.rest(self._last_cursor)

    def quiet(self) -> None:
        """Completes the sender's batch under way, so that its connection may be used for other commands."""
        self.complete()
        self._writer.quiet()
