"""Forward carries lines of files into a stream as entries (DESIGN §6.1), with the checkpoint in one transaction."""

from __future__ import annotations

import os
from collections.abc import Callable

from bridge.continuity import trim_floor
from bridge.continuity.lost_entries import missing_entries, what_was_lost
from bridge.continuity.ownership import claim_stream
from bridge.core.errors import BridgeError
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.model import ZERO_ID, Origin
from bridge.engine.batch_encoder import Batch, BatchEncoder
from bridge.engine.comparison import in_words, reconcile_checkpoints
from bridge.engine.discovery import SourceDiscovery
from bridge.engine.reconcile import catch_up, put_back, settle_loss
from bridge.engine.resume_points import ResumePoints
from bridge.engine.scheduler import Scheduler
from bridge.engine.sender import Sender
from bridge.kinds.carrier import Carrier
from bridge.kinds.direction_stats import DirectionStats, SourceRates
from bridge.kinds.kind import Source
from bridge.kinds.log.edit_records import save_edit_records
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.resume import Reconciliation
from bridge.ledger.artifact_mentions import naming_lines
from bridge.ledger.seen_entries import all_seen, save_seen
from bridge.ledger.sources import OwnStretch, StreamMemory, pass_own, save_stream, sources_of, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from bridge.streams.reader import StreamInfo
from bridge.streams.writer import Committed, Conflict, Transaction

BATCH = 400
"""Most entries in forward's transaction: with 400, other clients' p99 stays under 2 ms, at 9/10 of the best rate."""

EMPTY_CURSOR_SECONDS = 0.1
"""Seconds that forward's cursor may lag over bytes without entries, so mirrored lines cost no transaction each."""

SERVER_LOOK_SECONDS = 0.5
"""Seconds between two times that forward asks Redis what the stream holds and saves that in the ledger."""

DIGEST_SECONDS, DIGEST_PAUSE = 60.0, 0.05
"""Seconds that forward waits for the digests of artifacts as a run ends, and seconds between two checks for them."""


class Forward(Carrier):
    """Forward of one mapping: carries lines of all its sources from files into their stream. Used by one thread.

    `attach` connects and compares, `step` carries a batch; after any error from either, `detach` and attach again.
    A source that cannot be read is noted in `troubles` and does not hold up the others.
    """

    def __init__(
        self, shared: MappingContext, ledger: Ledger, troubles: Troubles, clock: Callable[[], float],
        dial: Callable[[], Connection],
    ) -> None:  # fmt: skip
        super().__init__(shared)
        self._ledger = ledger
        self._clock, self._dial = clock, dial
        self._stream = shared.mapping.stream.key
        self._sources: dict[str, Source] = {}
        self._placed: set[str] = set()
        self._compared: Reconciliation | None = None
        self._moved: set[str] = set()
        self._ahead: dict[str, Source] = {}
        """The sources whose reader is ahead of their cursor, over bytes that make no entries."""
        self._scheduler = Scheduler(self._placed, troubles, ledger, self.worker)
        self._encoder = BatchEncoder(shared.keys.stream, clock)
        self._sender: Sender | None = None
        self.batch = BATCH
        self._memory, self._since, self._remember_at = StreamMemory(), 0, 0.0
        self._dirty = False
        self._own: OwnStretch | None = None
        """The stretch of entries sent last that are all forward's, until the ledger knows that the mirror may pass."""
        self._discovery = SourceDiscovery(shared, ledger, troubles, clock, self._sources, self._scheduler, dial)
        self._resume_points = ResumePoints(shared, ledger, self._discovery, self._placed, self._moved, self._scheduler)

    # -- the files, with or without Redis --------------------------------------------------------------------

    def look(self, paths: set[str] | None = None) -> None:
        """Has forward look at the sources of changed files, new sources too; None: forward sweeps over all files."""
        self._discovery.look(paths)

    # -- connecting ------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether forward is connected to Redis and has compared the stream with the ledger, so that it may carry."""
        return self._sender is not None

    def attach(self) -> None:
        """Connects forward to Redis: claims the stream, compares checkpoint and stream, and puts each source in place.

        Raises RedisLost, RedisRefused, NotOwner, LedgerError.
        """
        self.detach()
        connection = self._connection = self._dial()
        logger.debug("%s: connected to %s", self.worker, connection.shown)
        known = stream_memory(self._ledger, self._stream)
        claim_stream(connection, self.shared.components, self._ledger, known, self.shared.settings.group)
        if catch_up(connection, self.shared, self._ledger):
            self._sources.clear()
            self._discovery.begin_anew()
            self.look()
        server_ms = self.shared.hold.take(connection, self._ledger)
        self._encoder.server_ahead_ms = int(server_ms - self._clock() * 1000)
        self._compare(connection)
        self.shared.forward.connections += 1

    def _begin_sending(self, connection: Connection) -> Sender:
        notify, mine = self.shared.mapping.notify.encode(), self.shared.hold.holder(self._ledger)
        self._sender = Sender(connection, self.shared.keys, mine, self._encoder, self._committed, notify)
        return self._sender

    def release(self) -> None:
        """Releases forward's lease on the stream for others; only while attached. Raises RedisLost, RedisRefused."""
        self.shared.hold.release(self._live[0])

    def detach(self) -> None:
        """Drops forward's connection and the batch under way; the next `attach` asks Redis which lines it has."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._sender, self._compared, self._own = None, None, None, None
        self._placed.clear()
        self._ahead.clear()
        self._scheduler.forget()

    @property
    def _live(self) -> tuple[Connection, Sender]:
        if self._connection is None or self._sender is None:
            raise AssertionError("not attached")
        return self._connection, self._sender

    def _compare(self, connection: Connection) -> None:
        if self._sender is not None:
            self._sender.quiet()
        self._own = None  # entries of it may be lost
        sender = self._begin_sending(connection)
        self.look()
        memory = stream_memory(self._ledger, self._stream)
        if memory is not None:
            memory = memory.and_seen(self._memory.last_id, self._memory.added + self._since)
        remembered = sources_of(self._ledger, self._stream)
        by_number = {memory.number: name for name, memory in remembered.items()}

        def vouch(origin: Origin, fields: list[bytes]) -> bool:
            source = self._discovery.woken(by_number.get(origin.source, ""))
            return source is not None and source.vouches(origin, fields)

        kept = trim_floor.remembered(self._ledger, self._stream)
        seen = sorted({*self.shared.sighted.all, *all_seen(self._ledger, self._stream)})
        self.shared.compare_again = False
        known = {name: source.knows for name, source in self._sources.items()}
        compared = reconcile_checkpoints(connection, self.shared.keys, memory, remembered, vouch, kept, seen, known)
        if compared.lost:  # before the loss makes anything change
            self._discovery.wake_all()
            self.shared.hold.take_anew(connection, self._ledger, compared.books)
            sender = self._begin_sending(connection)
        else:
            self.shared.hold.confirm(connection)
        for said in in_words(compared, self._stream):
            logger.warning("%s", said)
        put_back(connection, self.shared, self._ledger, compared)
        self._scheduler.forget()
        for name, resume in compared.resume.items():
            stored = compared.books.checkpoint.get(os.fsencode(name))
            if stored != remembered[name].stored or resume.behind is not None or resume.refill is not None:
                self._discovery.woken(name)
        self._resume_points.begin(compared, remembered)
        self._resume_points.put(self._sources.values(), compared, remembered, connection, sender)
        sender.quiet()
        self._settle_loss(compared)
        save_edit_records(connection, self.shared, self._ledger, lost=bool(compared.lost))
        sender = self._begin_sending(connection)  # the WATCH of the sender before holds no more
        self.shared.hold.settle()
        sender.exists = compared.info.last_id > ZERO_ID
        self._encoder.floor_ms = compared.trimmed.floor[0] + 1 if compared.trimmed.floor > ZERO_ID else 0
        self._compared = compared

    def _put_new(self) -> None:
        """Puts sources in place whose files appeared or became readable since forward compared stream and ledger."""
        looked = [self._sources[name] for name in self._discovery.looked - self._placed if name in self._sources]
        self._discovery.looked.clear()
        due = [
            source for source in looked if source.files.present and source.trouble in (None, source.files.unreadable)
        ]
        if self._compared is None or any(source.name in self._resume_points.put_once for source in due):
            self._compare(self._live[0])  # the batch under way at a failure may be in the stream or not
        elif due:
            connection, sender = self._live
            sender.quiet()
            names = [source.name for source in due]
            self._resume_points.put(
                due, self._compared, sources_of(self._ledger, self._stream, names), connection, sender
            )
            sender.quiet()
            with self._ledger.transaction():  # before anything is sent: a new source is known nowhere else
                for source in due:
                    if source.name in self._placed:
                        source.remember()

    def _settle_loss(self, compared: Reconciliation) -> None:
        """Makes ledger, Redis and forward's memory agree on which entries the stream lost and which it holds."""
        info = settle_loss(self._live[0], self.shared, self._ledger, compared, self._sources, self._save)
        self._memory, self._since = StreamMemory(info.last_id, info.added), 0
        self._remember_at = self._clock() + SERVER_LOOK_SECONDS

    # -- carrying --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Sends forward's next batch of lines, encoded while Redis executes the batch before; False: there is none.

        Raises Conflict, RedisLost, RedisRefused, LedgerError: then detach and attach.
        """
        if self._discovery.looked:
            self._put_new()
        if self.shared.compare_again:
            raise Conflict
        if self._clock() >= self._remember_at:
            self._remember()
        batch = self._scheduler.next_batch(self.batch)
        for name, source in self._scheduler.asked.items():
            if source.notices:
                self._discovery.say(source)
            if source.skipped_since is not None:
                self._ahead[name] = source
        self._scheduler.asked.clear()
        batch = batch or self._skipped()
        _, sender = self._live
        if batch is None:
            sender.rest()
            return False
        sender.send(batch)
        return True

    def _skipped(self) -> Batch | None:
        """Makes the batch that moves forward's cursor of a source over bytes without entries, after a short delay."""
        now = self._clock()
        for name, source in [*self._ahead.items()]:
            since = source.skipped_since
            if since is None:
                del self._ahead[name]
            elif name in self._placed and now - since >= EMPTY_CURSOR_SECONDS:
                source_batch = source.cursor_batch()
                if source_batch is not None:
                    return Batch.of(source_batch)
        return None

    def flush(self) -> bool:
        """Moves forward's cursors at once over bytes that make no entries; False: there was no cursor to move."""
        _, sender = self._live
        sender.complete()
        placed = [source for source in self._sources.values() if source.name in self._placed]
        batches = [source.cursor_batch() for source in placed if source.skipped_since is not None]
        for source_batch in (moved := [source_batch for source_batch in batches if source_batch is not None]):
            sender.set(source_batch)
        self._remember()
        return bool(moved)

    def tell(self, wait: Callable[[float], object]) -> None:
        """Waits until artifacts that forward's lines name are hashed, and tells Redis the digests. Raises as `step`."""
        connection, sender = self._live
        sender.quiet()
        for _ in range(int(DIGEST_SECONDS / DIGEST_PAUSE)):
            if not self._tell(connection):
                return
            wait(DIGEST_PAUSE)

    def _tell(self, connection: Connection) -> bool:
        """Tells Redis the known digests of artifacts that forward's lines name; returns whether any is missing."""
        naming = [self._sources[name] for name in naming_lines(self._ledger, self._stream) if name in self._sources]
        for source in naming:
            sent = source.progress.checkpoint
            if source.mentions is not None and sent is not None:
                source.mentions.tell(connection, source.progress.number, sent.position)
        return any(source.mentions is not None and source.mentions.waits for source in naming)

    def rest(self) -> float:
        """Returns the seconds until forward has something to do without a wake-up."""
        wakes = [source.next_wake() for source in self._scheduler.active]
        soon = [seconds for seconds in wakes if seconds is not None]
        soon += [EMPTY_CURSOR_SECONDS] * any(source.skipped_since is not None for source in self._ahead.values())
        return min(soon, default=SERVER_LOOK_SECONDS if self._dirty else 1.0)

    def failures(self) -> list[BridgeError]:
        """Returns the errors that keep forward from carrying the mapping's sources to their end."""
        troubles = [self._discovery.unlisted, *(source.trouble for source in self._sources.values())]
        damage = [error for source in self._sources.values() for error in source.damage.values()]
        return [*(error for error in troubles if error is not None), *damage]

    @property
    def waits(self) -> bool:
        """Whether forward must `step` again soon, as a source's last message or compressed file is not ended."""
        return any(source.next_wake() is not None for source in self._scheduler.active)

    @property
    def sources(self) -> list[Source]:
        """All sources of the mapping that forward knows, by name."""
        return [self._sources[name] for name in sorted(self._sources)]

    @property
    def resting(self) -> dict[str, int]:
        """The sources that are carried whole, so that forward need not look at them, each with its bytes on disk."""
        return self._discovery.asleep

    def take_as_history(self) -> None:
        """Has forward take all lines now in the files as history, with their own times as entry IDs where possible.

        The ledger notes that. From here on a file that fails stops all others too.
        """
        self._scheduler.strict = True
        placed = [source for source in self._sources.values() if source.name in self._placed]
        with self._ledger.transaction():
            for source in placed:
                source.progress.extend_history(source.files.end())
                source.remember()
        for source in placed:
            self._scheduler.add(source)

    @property
    def carried(self) -> int:
        """How many lines, or other messages, forward has made into entries."""
        return self.shared.forward.messages

    def measure(self) -> DirectionStats:
        """Brings forward's statistics up to date, and returns them. May be asked by any thread."""
        flow, sources = self.shared.forward, self.sources
        flow.rejects = sum(source.counts.rejected for source in sources)
        flow.parts = {source.name: SourceRates(source.counts.read, source.files.settling) for source in sources}
        return flow

    def _committed(self, batch: Batch, transaction: Transaction, committed: Committed) -> None:
        flow = self.shared.forward
        flow.carried(committed.count, len(transaction.packed))
        for part, cursor in zip(batch.parts, transaction.cursors, strict=True):
            if part.written:
                flow.latency.add(self._clock() - part.written, len(part.rows))
            self._moved.add(part.source.name)
            part.source.committed(part, cursor.stored(committed.last) if committed.last else cursor.value)
            if part.source.notices:
                self._discovery.say(part.source)
        self._since += committed.count
        self._dirty = True
        if committed.first is not None and committed.last is not None:
            self.shared.sighted.note("forward", committed.last, batch.last_fields())
            if (behind := committed.behind) is not None:
                before = self._own if self._own and self._own.last == behind else OwnStretch(behind, behind, 0)
                self._own = OwnStretch(before.behind, committed.last, before.entries + committed.count)
            self.span = (self.span[0] if self.span else committed.first, committed.last)

    def _save(self, info: StreamInfo) -> None:
        """Saves in the ledger, in forward's transaction, what the stream holds and how far each source was carried."""
        save_stream(self._ledger, self._stream, info.last_id, info.added, info.first_id)
        save_seen(self._ledger, self._stream, "forward", self.shared.sighted.of("forward"))
        save_seen(self._ledger, self._stream, "mirror", self.shared.sighted.of("mirror"))
        for name in self._moved & self._placed & self._sources.keys():
            self._sources[name].remember()
        self._ledger.after_commit(self._moved.clear)
        if self._own is not None:
            pass_own(self._ledger, self._stream, self._own)

    @property
    def passing(self) -> bool:
        """Whether forward is about to move the mirror's cursor over its own entries. May be asked by any thread."""
        return self._own is not None

    def _remember(self) -> None:
        """Asks Redis what the stream holds, and saves in the ledger how far that confirms the lines forward sent."""
        connection, sender = self._live
        sender.quiet()
        self._remember_at = self._clock() + SERVER_LOOK_SECONDS
        self._tell(connection)
        renewed, info = self.shared.hold.renewed_and_info(connection, self._clock())
        seen = StreamMemory(self._memory.last_id, self._memory.added + self._since)
        fresh = (sighted := self.shared.sighted).fresh
        quiet = not self._dirty and info.last_id == self._memory.last_id
        wanted = sighted.all[-1:] if quiet and not fresh else sighted.all  # another past may have the same last ID
        if (
            not renewed
            or what_was_lost(seen, {}, info, None)
            or missing_entries(connection, self.shared.keys, wanted, info, ZERO_ID)[0]
        ):
            raise Conflict
        sighted.found(len(fresh))
        if quiet:
            return
        failpoint("forward.checkpoint.before")
        with self._ledger.transaction():
            self._save(info)
        failpoint("forward.checkpoint.after")
        logger.debug("%s: %d lines carried since the start", self.worker, self.carried)
        self._memory, self._since = StreamMemory(info.last_id, info.added), 0
        self._dirty, self._own = False, None
