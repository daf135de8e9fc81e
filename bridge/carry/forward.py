"""File → stream (DESIGN §6.1): lines become entries, and the cursor travels with them in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bridge.carry.draft import Batcher, Draft, closed_value
from bridge.carry.refill import (
    Compared,
    Resume,
    compare,
    forget_lost,
    in_words,
    number_for,
    own,
    put_back,
    what_was_lost,
)
from bridge.carry.shared import Shared
from bridge.carry.source import Source
from bridge.errors import BridgeError, LedgerError, RejectStop, SourceError
from bridge.files.generation import Known, pread
from bridge.ledger.mirrored import Range
from bridge.ledger.sources import (
    SourceMemory,
    StreamMemory,
    save_generation,
    save_mirror_cursor,
    save_source,
    save_stream,
    sources_of,
    stream_memory,
)
from bridge.ledger.store import Ledger
from bridge.log import Troubles, log
from bridge.model import ZERO_ID, Checkpoint, Origin
from bridge.points import reached
from bridge.streams.connect import Connection
from bridge.streams.reader import StreamInfo, stream_info
from bridge.streams.writer import Batch, Cursor, Landed, Newer, Overtaken, StreamWriter

BATCH = 400
"""Entries in a transaction: with 400 other clients' p99 stays under 2 ms, at a tenth less than the best rate."""

SETTLED = 0.1
"""Seconds a cursor may stay behind bytes without entries, so that mirrored lines do not cost a transaction each."""

REMEMBERED = 0.5
"""Seconds between two looks at what the server holds, each with the ledger's copy of it."""


class Forward:
    """All sources of one mapping, into one stream. Used by one thread.

    `attach` connects and compares, `step` carries a batch; after any error from either, `detach` and attach again.
    A source that cannot be read is noted in `troubles` and does not hold up the others.
    """

    def __init__(
        self,
        shared: Shared,
        ledger: Ledger,
        troubles: Troubles,
        clock: Callable[[], float],
        dial: Callable[[], Connection],
    ) -> None:
        self.shared = shared
        self.worker = f"forward {shared.mapping.name}"
        self._ledger = ledger
        self._troubles = troubles
        self._clock = clock
        self._dial = dial
        self._stream = shared.mapping.stream.key
        self._sources: dict[str, Source] = {}
        self._active: dict[str, Source] = {}
        self._placed: set[str] = set()
        self._batcher = Batcher(shared.keys.stream, clock)
        self._connection: Connection | None = None
        self._writer: StreamWriter | None = None
        self._inflight: tuple[Draft, Batch] | None = None
        self._last_cursor: Cursor | None = None
        self._memory = StreamMemory()
        self._since = 0
        self._closed: list[tuple[str, Known]] = []
        self._remember_at = 0.0
        self._dirty = False

    # -- the files, with or without Redis --------------------------------------------------------------------

    def look(self, paths: set[str] | None = None) -> None:
        """Looks at the files something happened to; when `paths` is None at all of them, and for new sources."""
        if paths is None:
            for name in self.shared.source_names(sources_of(self._ledger, self._stream)):
                if name not in self._sources:
                    tail = self.shared.tail(name, self._ledger)
                    self._sources[name] = Source(self.shared.mapping, self.shared.keys, tail, self._ledger, self._clock)
        for source in self._sources.values():
            tail = source.tail
            if paths is None or str(tail.path) in paths or any(p.startswith(str(tail.path)) for p in paths):
                try:
                    with tail.lock:
                        tail.look()
                        self._say(source)
                    source.trouble = None
                except (SourceError, LedgerError) as error:
                    source.trouble = error
                    self._troubles.note(self._ledger, f"{self.worker}: {source.name}", error)
                self._active[source.name] = source

    def _say(self, source: Source) -> None:
        for notice in source.keep_news():
            log.warning("%s", notice, extra={"facts": {"source": source.name}})

    # -- connecting ------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether `step` may be called."""
        return self._writer is not None

    def attach(self) -> None:
        """Connects, makes sure of the ownership, compares checkpoint and stream, and puts every source in its place.

        Raises RedisLost, RedisRefused, NotOwner, LedgerError.
        """
        self.detach()
        connection = self._connection = self._dial()
        log.debug("%s: connected to %s", self.worker, connection.shown)
        known, instance = stream_memory(self._ledger, self._stream), self.shared.settings.instance
        own(connection, self.shared.keys, self._ledger, known, instance)
        seconds, micros = connection.call("TIME")
        self._batcher.server_ahead_ms = int(int(seconds) * 1000 + int(micros) / 1000 - self._clock() * 1000)
        self._writer = StreamWriter(connection, self.shared.keys, self._ledger.uuid)
        self._compare()

    def detach(self) -> None:
        """Drops the connection and whatever was on its way; what Redis confirmed is asked for on the next attach."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._writer, self._inflight = None, None, None
        self._placed.clear()
        self._closed.clear()

    @property
    def _live(self) -> tuple[Connection, StreamWriter]:
        if self._connection is None or self._writer is None:
            raise AssertionError("not attached")
        return self._connection, self._writer

    def _compare(self) -> None:
        connection, writer = self._live
        writer.quiet()
        self.look()
        memory = stream_memory(self._ledger, self._stream)
        if memory is not None:
            memory = memory.and_seen(self._memory.last_id, self._memory.added + self._since)
        remembered = sources_of(self._ledger, self._stream)
        by_number = {one.number: self._sources.get(name) for name, one in remembered.items()}

        def vouch(origin: Origin, fields: list[bytes]) -> bool:
            source = by_number.get(origin.source)
            return source is not None and source.vouches(origin, fields)

        compared = compare(connection, self.shared.keys, memory, remembered, vouch)
        for said in in_words(compared, self._stream):
            log.warning("%s", said)
        put_back(connection, self.shared.keys, self._ledger, compared)
        for source in self._sources.values():
            self._resume(source, compared, remembered.get(source.name))
        self._settle_loss(compared)
        self._batcher.id_ms = 0

    def _resume(self, source: Source, compared: Compared, memory: SourceMemory | None) -> None:
        connection, _ = self._live
        name = source.name.encode("utf-8", "surrogateescape")
        books = compared.books
        fresh = memory is None
        if memory is None:
            taken = [one.number for one in sources_of(self._ledger, self._stream).values()]
            taken += [one.memory.number for one in self._sources.values()]
            memory = source.begin(number_for(name, compared.books, taken))
        if name not in books.sources:
            connection.call("HSET", self.shared.keys.sources, name, memory.number)
        if compared.lost and memory.live and memory.history is not None:
            memory = replace(memory, live=False)  # what is sent again of the history gets its times again, where it can
        resume = compared.resume.get(source.name, Resume())
        source.memory = memory = replace(memory, refill=resume.refill)
        source.standing = compared.offsets if resume.refill is not None else {}
        source.stored = books.checkpoint.get(name)
        source.place(resume, compared)
        self._say(source)
        reader = source.checkpoint()
        if reader is None:
            return
        self._placed.add(source.name)
        log.debug("%s: goes on in generation %d at byte %d", source.name, *reader[0])
        stored = Checkpoint.from_json(source.stored).position if source.stored else None
        if reader[0] != stored and not (fresh and stored is None) and (draft := source.here()) is not None:
            self._set(draft)

    def _settle_loss(self, compared: Compared) -> None:
        """One ledger transaction: what was lost is not the mirror's any more, and the ledger counts from here."""
        connection, _ = self._live

        def read(one: Range) -> bytes:
            held = self._sources[one.name].tail.of_number(one.generation) if one.name in self._sources else None
            return pread(held.fd, one.end - one.start, one.start) if held and held.fd >= 0 else b""

        info, line_of = stream_info(connection, self.shared.keys.stream), self.shared.line_of
        with self.shared.cursor_lock, self._ledger.transaction():
            self._save(info)
            if compared.lost:
                refilled = forget_lost(connection, self.shared.keys, self._ledger, compared, read, line_of)
                save_mirror_cursor(self._ledger, self._stream, refilled.mirror_cursor)
                self.shared.cursor_epoch += 1
                log.warning("%s: %s", self._stream, refilled.in_words())
        self._memory, self._since = StreamMemory(info.last_id, info.added), 0

    # -- carrying --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Carries one batch: encodes it while the server executes the one before. False when there is nothing to do.

        Raises Overtaken, RedisLost, RedisRefused, LedgerError: then detach and attach.
        """
        if any(name not in self._placed and source.tail.first() for name, source in self._sources.items()):
            self._complete()
            self._compare()
        if self._clock() >= self._remember_at:
            self._complete()
            self._remember()
        _, writer = self._live
        draft = self._next_draft()
        if draft is None:
            self._complete()
            writer.rest(self._last_cursor)
            return False
        batch = self._batcher.batch(draft, exists=self._memory.last_id > ZERO_ID or self._since > 0)
        if not writer.stages(batch.cursor, watch_stream=batch.watch_stream):
            self._complete()
        reached("forward.send.before")
        writer.stage(batch)
        self._complete()
        self._execute(draft, batch)
        return True

    def flush(self) -> bool:
        """Moves the cursors over what holds no entries, now. False when there was nothing to move."""
        self._complete()
        moved = False
        for source in self._sources.values():
            draft = source.flush() if source.name in self._placed else None
            if draft is not None:
                self._set(draft)
                moved = True
        self._remember()
        return moved

    def rest(self) -> float:
        """Seconds until there is something to do without a wake-up."""
        waiting = any(source.skipped_since is not None for source in self._sources.values())
        return SETTLED if waiting else REMEMBERED if self._dirty else 1.0

    def failures(self) -> list[BridgeError]:
        """What keeps sources from being carried to their end."""
        return [source.trouble for source in self._sources.values() if source.trouble is not None]

    @property
    def carried(self) -> int:
        """Lines that became entries."""
        return sum(source.carried for source in list(self._sources.values()))

    def counts(self) -> dict[str, int]:
        """The same for each source, by the name it has in `troubles`."""
        return {f"{self.worker}: {source.name}": source.carried for source in list(self._sources.values())}

    def _next_draft(self) -> Draft | None:
        while self._active:
            name, source = next(iter(self._active.items()))
            try:
                draft = source.next_draft(BATCH) if name in self._placed else None
            except (SourceError, RejectStop, LedgerError) as error:
                source.trouble = error
                self._troubles.note(self._ledger, f"{self.worker}: {name}", error)
                del self._active[name]
                continue
            if source.tail.notices:
                self._say(source)
            if draft is not None:
                return draft
            del self._active[name]
            if source.trouble is None:
                self._troubles.clear(self._ledger, f"{self.worker}: {name}")
        now = self._clock()
        for source in self._sources.values():
            since = source.skipped_since
            if since is not None and source.name in self._placed and now - since >= SETTLED:
                draft = source.flush()
                if draft is not None:
                    return draft
        return None

    def _execute(self, draft: Draft, batch: Batch) -> None:
        """Lets the staged batch in, with `*` instead of its own IDs where another producer's entries are newer."""
        _, writer = self._live
        source = draft.source
        expected = source.late_stored.get(draft.position.generation) if draft.late else source.stored
        try:
            writer.execute(expected)
        except Newer:
            source.go_live("others have written into the stream already: further lines get the time of sending as ID")
            batch = self._batcher.batch(draft, exists=self._memory.last_id > ZERO_ID or self._since > 0)
            writer.stage(batch)
            writer.execute(expected)
        reached("forward.send.after")
        source.clamped += draft.clamped
        self._inflight = (draft, batch)
        self._last_cursor = draft.cursor

    def _set(self, draft: Draft) -> None:
        """A batch on its own, from beginning to end."""
        _, writer = self._live
        batch = self._batcher.batch(draft, exists=self._memory.last_id > ZERO_ID or self._since > 0)
        writer.stage(batch)
        self._execute(draft, batch)
        self._complete()

    def _complete(self) -> None:
        if self._inflight is None:
            return
        (draft, batch), self._inflight = self._inflight, None
        _, writer = self._live
        source = draft.source
        reached("forward.reply.before")
        try:
            landed = writer.finish()
        except Overtaken:
            if batch.watch_stream:
                source.go_live("others write into the stream: further lines get the time of sending as ID")
                save_source(self._ledger, self._stream, source.name, replace(source.memory, stored=source.stored))
            raise
        reached("forward.reply.after")
        self._landed(draft, batch, landed)
        writer.publish(self.shared.mapping.notify.encode(), landed)

    def _landed(self, draft: Draft, batch: Batch, landed: Landed) -> None:
        source = draft.source
        stored = batch.cursor.stored(landed.last) if landed.last else batch.cursor.value
        if draft.ended is not None:
            source.late_stored[draft.position.generation] = stored
            self._closed.append((source.name, draft.ended))
        else:
            source.stored = stored
        for known in draft.closing:
            log.info("%s: generation %d is carried to its end, byte %d", source.name, known.number, known.at.offset)
            source.late_stored[known.number] = closed_value(known)
            self._closed.append((source.name, known))
        source.landed(draft, landed.count)
        self._since += landed.count
        self._dirty = True
        memory = source.memory
        if memory.refill is not None and not draft.late and draft.position > memory.refill:
            source.memory = memory = replace(memory, refill=None)
            source.standing = {}
        if not draft.late and not memory.live and memory.history is not None and draft.position >= memory.history:
            source.go_live("its history is in the stream")

    def _save(self, info: StreamInfo) -> None:
        """Inside a ledger transaction: what the stream holds, and how far each source was carried."""
        save_stream(self._ledger, self._stream, info.last_id, info.added)
        for source in self._sources.values():
            if source.name in self._placed:
                save_source(self._ledger, self._stream, source.name, replace(source.memory, stored=source.stored))
                first = source.tail.first()
                if first is not None:
                    save_generation(self._ledger, self._stream, source.name, first.known())

    def _remember(self) -> None:
        """Looks at the server's side of the stream, and lets the ledger know what is confirmed up to there."""
        connection, writer = self._live
        writer.quiet()
        self._remember_at = self._clock() + REMEMBERED
        info = stream_info(connection, self.shared.keys.stream)
        seen = StreamMemory(self._memory.last_id, self._memory.added + self._since)
        if what_was_lost(seen, {}, info, None):
            raise Overtaken
        if not self._dirty and info.last_id == self._memory.last_id:
            return
        reached("forward.checkpoint.before")
        with self._ledger.transaction():
            self._save(info)
            for name, known in self._closed:  # one that was empty when it ended is known by more since
                since = self._sources[name].tail.record(known.number)
                save_generation(self._ledger, self._stream, name, max(known, since, key=lambda one: one.at.head_len))
        reached("forward.checkpoint.after")
        log.debug("%s: %d lines carried since the start", self.worker, self.carried)
        self._closed.clear()
        self._memory, self._since = StreamMemory(info.last_id, info.added), 0
        self._dirty = False
