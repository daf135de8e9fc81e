"""The mirror writes a stream's entries into files (DESIGN §6.3): intent first, then lines, then range and cursor."""

from __future__ import annotations

from collections.abc import Callable

from bridge.continuity.lost_entries import missing_entries, what_was_lost
from bridge.continuity.ownership import claim_stream
from bridge.core.errors import NotYet, TargetError
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.mapping_sections import MirrorSection
from bridge.core.model import ZERO_ID, EntryId, format_id, parse_id
from bridge.engine.mirror_cursor import MirrorCursor
from bridge.engine.mirror_progress import MirrorProgress
from bridge.engine.removed_entries import RemovedEntries, counts_of
from bridge.engine.write_witness import WriteWitness
from bridge.kinds.log.dual_write import DualWrittenEntries
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.rejects import RejectKinds
from bridge.kinds.spool.target import DocumentTranslator
from bridge.kinds.target import PendingWrite
from bridge.kinds.target_registry import Targets
from bridge.kinds.translation import EntryTranslator, MirrorBatch
from bridge.ledger.quarantine import add_quarantined, mark_retried, still_aside
from bridge.ledger.ranges import add_intent, add_range, drop_intent, entries_of, intents_of, written_above
from bridge.ledger.seen_entries import note_released
from bridge.ledger.sources import seen_by_mirror, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from bridge.streams.reader import BlockingReader, stream_info

READ_ENTRIES = 1000
MIRROR_READ_BYTES = 1 << 20
"""The mirror reads entries a thousand at a time, or fewer where they are long: about this many bytes at once."""

TORN_LINE_SECONDS = 0.5
"""Seconds in which a file must not change before a torn line at its end counts as the mirror's own."""

FOREIGN = -1
"""The epoch of a `MirrorBatch` that does not move the cursor: one of an earlier process, or out of quarantine."""

BLOCKED_PAUSE = 0.05
BLOCKED_TRIES = 200
"""Seconds between two tries of the mirror to write while another writer is in the way, and how many tries."""


class Mirror:
    """The mirror of one mapping: writes a stream's entries into files, in one thread; if `step` fails, attach again."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger, troubles: Troubles, clock: Callable[[], float],
        dial: Callable[[], Connection],
    ) -> None:  # fmt: skip
        mirror = shared.mapping.mirror
        if mirror is None:
            raise ValueError("this mapping has no [mirror]")
        self.shared = shared
        self.worker = f"mirror {shared.mapping.name}"
        self._section: MirrorSection = mirror
        self._ledger = ledger
        self._troubles = troubles
        self._clock = clock
        self._dial = dial
        self._stream = shared.mapping.stream.key
        files = shared.folder is not None
        kind = DocumentTranslator if files else EntryTranslator
        self.translator = kind(shared.mapping, mirror, shared.settings.roles, shared.settings.paths)
        self._files = Targets(shared, ledger, mirror)
        self._kinds = RejectKinds(self._stream, logger.warning)
        self._batch: MirrorBatch | None = None
        self._connection: Connection | None = None
        self._reader: BlockingReader | None = None
        self._already: set[EntryId] = set()
        self._aside: dict[tuple[int, int, str], int] = {}
        self._count = 64
        self._books_epoch = shared.books_epoch
        self._announced, self._nonce = MirrorProgress(shared.keys), ""
        self._witness = WriteWitness(ledger, self._stream)
        self._own = DualWrittenEntries(ledger, self._stream)
        self._removed = RemovedEntries(clock, counts=not files)
        self._cursor, self._told = MirrorCursor(shared, ledger, clock, self._removed), 0
        self.waits_for: tuple[TargetError, float] | None = None
        """Why lines of the mirror wait to be written into their file, and since when; None: no line waits."""

    def resolve(self, settle: Callable[[float], object]) -> None:
        """Takes up the mirror's open intents of an earlier process: written, written in part, or not. Needs no Redis.

        `settle` waits so many seconds: a line that seems ours and unfinished is ours only if nobody goes on with it.
        """
        open_intents = intents_of(self._ledger, self._stream)
        if self._batch is not None or not open_intents:
            return
        last = max(entry_id for intent in open_intents for entry_id, _ in intent.entries)
        # The cursor stays: it may have been taken back since, and entries that the mirror reads again are known.
        taken = MirrorBatch(last, begun=True, epoch=FOREIGN)
        taken.writes = self._files.resolved(open_intents, self.translator.codec, lambda: settle(TORN_LINE_SECONDS))
        self._batch = taken

    @property
    def attached(self) -> bool:
        """Whether the mirror is connected to Redis and has its cursor, so that `step` may read."""
        return self._reader is not None

    @property
    def aged(self) -> bool:
        """Whether the password of the mirror's connection ends soon: it attaches anew between two steps."""
        return self._connection is not None and self._connection.aged

    def attach(self) -> None:
        """Connects the mirror to Redis and reads its cursor. Raises NotYet until forward compared stream and files."""
        self.detach()
        memory = stream_memory(self._ledger, self._stream)
        if memory is None:
            raise NotYet("forward has not met this stream yet")
        connection = self._connection = self._dial()
        claim_stream(connection, self.shared.components, self._ledger, memory, self.shared.settings.group)
        self._nonce = self.shared.hold.check(connection)
        with self.shared.cursor_lock:
            self._forget_books()
            anew = self._cursor.adopt()
            if anew:  # the progress to be told may be of entries that are lost
                self._announced.take_back()
            memory = stream_memory(self._ledger, self._stream) or memory
        info = stream_info(connection, self.shared.keys.stream)
        gone, _ = missing_entries(connection, self.shared.keys, self.shared.sighted.all, info, ZERO_ID)
        if gone or what_was_lost(memory, {}, info, None):
            self.shared.ask_to_compare()
            raise NotYet("forward refills the stream first")
        self._cursor.begin(memory.mirror_cursor, info.last_id)
        self._witness.begin(self._cursor.at, info.added - info.length, anew=anew)
        seen = None if anew else seen_by_mirror(self._ledger, self._stream)
        self._removed.begin(seen, info, first=self._cursor.at == ZERO_ID)
        self._already = written_above(self._ledger, self._stream, self._cursor.at)
        aside = still_aside(self._ledger, self._stream, "mirror")
        self._aside = {key: number for key, number in aside.items() if parse_id(key[2].encode()) > self._cursor.at}
        self._reader = BlockingReader(connection, self.shared.keys)
        self.shared.mirror.connections += 1
        logger.debug("%s: connected to %s, goes on behind entry %d-%d", self.worker, connection.shown, *self._cursor.at)

    def detach(self) -> None:
        """Closes the mirror's connection to Redis. Lines that are begun (their intents are noted) stay begun."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._reader = None, None
        self._announced.dropped()
        if self._batch is not None and not self._batch.begun:
            self._batch = None

    def _forget_books(self) -> None:
        """Has the mirror forget what it read of a ledger that forward rebuilt since, and the lines it had begun.

        The rebuild has found the begun lines in the files. Raises NotYet: a batch was under way.
        """
        if self._books_epoch == self.shared.books_epoch:
            return
        self._books_epoch, under_way, self._batch = self.shared.books_epoch, self._batch, None
        self._files.forget_books()
        self._announced = MirrorProgress(self.shared.keys)
        if under_way is not None:
            raise NotYet("the ledger was made anew")

    def interrupt(self) -> None:
        """Ends the mirror's blocking read of the stream, from another thread."""
        if (connection := self._connection) is not None:
            connection.interrupt()

    def leave_replaced(self) -> None:
        """Ends, from another thread, the mirror's read from a master that was replaced by an election."""
        if (connection := self._connection) is not None and connection.replaced():
            connection.interrupt()

    def close(self) -> None:
        """Closes the mirror's connection to Redis and the files that the mirror writes to."""
        self.detach()
        self._files.close()

    @property
    def at(self) -> EntryId:
        """The last entry that the mirror has read, and written where a line was to be made of it."""
        return self._cursor.at

    @property
    def carried(self) -> int:
        """How many entries the mirror has made into lines since the process began."""
        return self.shared.mirror.messages

    def settle(self, wait: Callable[[float], object]) -> None:
        """Finishes writes that this or an earlier mirror began. Raises TargetError: another writer is in the way.

        `wait` waits so many seconds. Raises as `finish` does besides.
        """
        self.resolve(wait)
        for _ in range(BLOCKED_TRIES):
            if self.finish():
                return
            wait(BLOCKED_PAUSE)
        if self.waits_for is not None:
            raise self.waits_for[0]

    def finish(self) -> bool:
        """Writes entries that the mirror read into files; False while another program is in the way: see `waits_for`.

        Raises TargetError (a full disk), LedgerError, RejectStop, NotYet (cursor or ledger changed); call again later.
        """
        if (taken := self._batch) is None:
            return True
        with self.shared.cursor_lock:
            self._forget_books()
            try:
                if not taken.begun:
                    if taken.epoch not in (FOREIGN, self.shared.cursor_epoch):
                        self._batch = None
                        raise NotYet("the mirror's cursor was taken back")
                    if not self._begin(taken):
                        return False
                for write in taken.writes:
                    if self._waits(write, self._files.of(write).put(write, self._ledger, self._clock())):
                        return False
                self._record(taken)
            finally:
                for write in taken.writes:
                    self._files.of(write).release()
        for write in taken.writes:
            self.shared.wake(str(self.shared.settings.root / write.name))  # forward may read on behind the lines
        if taken.stop is not None:
            raise taken.stop
        return True

    def write_late(self, writes: list[PendingWrite], retried: list[tuple[int, str]]) -> None:
        """Gives the mirror lines that leave quarantine, with their numbers and files, which `finish` is to write.

        Lines have left quarantine when their intents are in the ledger: from then on they are written, whatever
        happens.
        """
        if self._batch is not None:
            raise AssertionError("finish what was read first")
        self._batch = MirrorBatch(ZERO_ID, writes, retried=retried, epoch=FOREIGN)

    def _waits(self, write: PendingWrite, why: str) -> bool:
        if why:
            since = self.waits_for[1] if self.waits_for is not None else self._clock()
            hint = "if that program is gone, end the line, or set mirror.abandoned_line_s" if "middle" in why else ""
            self.waits_for = TargetError(f"{why}; the mirror waits for it", where=write.name, hint=hint), since
        return bool(why)

    def step(self, block_ms: int) -> bool:
        """Reads entries once for the mirror and writes them into files; False: nothing was to be done in `block_ms`.

        Raises RedisLost, RedisRefused, NotOwner, NotYet, and what `finish` raises.
        """
        if self._reader is None:
            raise AssertionError("not attached")
        if not self._reader.asked:
            self._removed.look(self._connection, self.shared.keys)
            self._ask(self._cursor.at, block_ms)
        failpoint("mirror.read.before")
        asked = self._count
        found, holder, size = self._reader.answer()
        failpoint("mirror.read.after")
        self.shared.hold.check_read(holder, self._ledger)
        if self._announced.confirmed():
            failpoint("mirror.checkpoint.after")
        self._cursor.check()
        self._own.look(self._cursor.at)
        if self._own.waits:
            raise NotYet("a component is being switched")
        if found:
            self._removed.something_came()
            self._await_replicas()
            self._count = max(1, min(READ_ENTRIES, MIRROR_READ_BYTES * len(found) // (size + 1)))
            if len(found) == asked:
                self._ask(found[-1].id, 0)  # a backlog: the server reads the next ones while these are written
            carried, last = self._own.without(found), found[-1].id
            self.shared.sighted.note("mirror", last, found[-1].fields)
            self._batch = self.translator.translate(carried, last, self._already, self._cursor.at, self._cursor.epoch)
            self._batch.read = counts_of(found, self._batch.last)
            self.finish()
            met = bool(self._already) and max(self._already) <= self._cursor.at  # written before, untold to Redis
            if (met or len(carried) < len(found)) and self.caught_up():
                self.keep()  # the ledger first: if Redis knew more, the ledger would look older than it is
                path = self._section.path
                if self._cursor.saved == self._cursor.at:
                    self._announced.passed(path, last, self._witness.word(path))
            if met:
                self._already.clear()
        elif self._removed.nothing_came(self.worker):
            self._cursor.save(counted=True)
        self._keep_cursor()
        return bool(found or self._announced.waits or self._removed.suspects or self._removed.uncounted)

    def _await_replicas(self) -> None:
        """Has the mirror wait until as many replicas as are wanted have the entries that it read, before a file has.

        Raises ReplicasBehind, NotYet, RedisLost, RedisRefused.
        """
        settings = self.shared.settings
        if settings.replicas and self._connection is not None:
            self.shared.hold.await_replicas(self._connection, settings.replicas, settings.replicas_timeout)

    def _ask(self, cursor: EntryId, block_ms: int) -> None:
        if self._reader is None:
            raise AssertionError("not attached")
        self._reader.ask(cursor, count=self._count, block_ms=block_ms, before=self._announced.commands(self._nonce))

    def caught_up(self) -> bool:
        """Whether no entry that the mirror read waits to be written to its file."""
        return self._batch is None

    def _begin(self, taken: MirrorBatch) -> bool:
        """Notes a mirror batch's intents and rejects in a ledger transaction; False: another program is in the way."""
        for write in taken.writes:
            if self._waits(write, self._files.of(write).take(self._ledger, self._clock())):
                return False
        if not (taken.writes or taken.aside):
            taken.begun = True
            return True
        met = {
            format_id(entry_id).decode(): write.name
            for write in taken.writes for entry_id, _ in write.entries
        } if self._aside else {}  # fmt: skip
        back = {key: (number, met[key[2]]) for key, number in self._aside.items() if key[2] in met}
        places = [self._files.of(write).place() for write in taken.writes]
        intents: list[int] = []
        failpoint("mirror.intent.before")
        with self._ledger.transaction(marked=self._stream):
            add_quarantined(self._ledger, self._stream, taken.aside, self._clock())
            for number, where in (*taken.retried, *back.values()):
                mark_retried(self._ledger, number, where, self._clock())
            for write, (generation, size) in zip(taken.writes, places, strict=True):
                intents.append(
                    add_intent(self._ledger, self._stream, write.name, generation, size, write.content, write.entries)
                )
        for write, place, intent in zip(taken.writes, places, intents, strict=True):
            (write.generation, write.size), write.intent = place, intent
        taken.begun = True
        for key in back:
            del self._aside[key]
        failpoint("mirror.intent.after")
        self.shared.mirror.rejects += len(taken.aside)
        self._kinds.tell(taken.aside)
        return True

    def _record(self, taken: MirrorBatch) -> None:
        """Replaces a mirror batch's intents by ranges and moves the cursor in one transaction, then in memory."""
        moves = taken.epoch == self.shared.cursor_epoch
        noted = bool(taken.writes or taken.aside)
        entries = [write.entries if moves else entries_of(self._ledger, write.intent) for write in taken.writes]
        if noted:
            failpoint("mirror.range.before")
            self._witness.rolled_back()
            with self._removed.unless_it_fails(), self._ledger.transaction(marked=self._stream):
                for write, written in zip(taken.writes, entries, strict=True):
                    for span in write.ranges(written):
                        add_range(self._ledger, self._stream, span)
                    note_released(self._ledger, self._stream, write.lost(written))
                    drop_intent(self._ledger, write.intent)
                    if self.shared.folder is None or any(entry_id != ZERO_ID for entry_id, _ in written):
                        self._files.of(write).remember(self._ledger)
                    self._witness.count(self._files.of(write), write, written)
                if moves:
                    self._removed.read(*taken.read)
                    self._cursor.write(taken.last)
            self._witness.committed([self._files.of(write) for write in taken.writes])
            if moves:
                self._cursor.written(taken.last)
        elif moves:
            self._removed.read(*taken.read)
        self._batch, self.waits_for = None, None
        if taken.epoch != FOREIGN:
            self._cursor.passed(taken.last)
        for write, written in zip(taken.writes, entries, strict=True):
            label = self._files.of(write).label
            self._announced.ends(label, write.generation, write.end)
            if moves:  # else Redis would know more than the ledger, which would look older than it is
                self._announced.passed(label, max(written)[0], self._witness.word(label))
        now, flow, history = self._clock(), self.shared.mirror, self._cursor.history or ZERO_ID
        for write, written in zip(taken.writes, entries, strict=True):
            flow.carried(len(written), len(write.content))
            for entry_id, _ in written:
                if entry_id > history:
                    flow.latency.add(now - entry_id[0] / 1000)
        if noted:
            failpoint("mirror.range.after")
        if self._announced.waits:
            failpoint("mirror.checkpoint.before")

    def _keep_cursor(self) -> None:
        moved = self._cursor.at != self._cursor.saved
        if self._cursor.save_now_and_then() and (moved or self._told != self.carried):
            logger.debug("%s: %d entries mirrored since the start", self.worker, self.carried)
            self._told = self.carried

    def keep(self) -> None:
        """Saves the mirror's cursor in the ledger, if the cursor moved and forward did not take it back meanwhile."""
        self._cursor.save()
