"""Implements forward's source for a log: lines come out of generations, rows out of lines, batches out of rows."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from bridge.core.codecs import Codec
from bridge.core.errors import LedgerError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Fingerprint, Origin, Position
from bridge.files.generation import Generation
from bridge.files.generation_record import GenerationRecord
from bridge.files.tail import Tail
from bridge.kinds.kind import HistoryHead, MergedHistory, Source, SourceBatch
from bridge.kinds.log.dual_write import DualWrittenLines
from bridge.kinds.log.followed import FollowedFiles
from bridge.kinds.log.generation_walk import GenerationWalk
from bridge.kinds.log.line_reader import LineReader, ReadLines
from bridge.kinds.log.passed_over import forget_carried
from bridge.kinds.mapping_context import keep_generations
from bridge.kinds.rejects import Rejects
from bridge.kinds.resume import Reconciliation, Resume
from bridge.kinds.source_counts import SourceCounts
from bridge.ledger.quarantine import mark_retried, still_aside
from bridge.ledger.store import Ledger
from bridge.streams.keys import Keys
from bridge.streams.writer import Cursor


def nothing_to_undo() -> None:
    """Undoes nothing: the log source took no lines that are not in the stream."""


class LogSource(Source):
    """Forward's source for one logical log file with all its generations, read line by line."""

    files: FollowedFiles

    def __init__(self, mapping: Mapping, keys: Keys, tail: Tail, ledger: Ledger, clock: Callable[[], float]) -> None:
        stream, counts, codec = mapping.stream.key, SourceCounts(), mapping.codec(tail.name)
        self._rejects = Rejects(mapping, tail.name, ledger, clock, tail.notices.append, counts)
        self._reader = self._made_reader(mapping, tail, ledger, codec, clock)
        self._dual = DualWrittenLines(ledger, stream, tail.name)
        files = FollowedFiles(tail, self._reader, self._dual, ledger, stream)
        super().__init__(mapping, tail.name, files, tail.notices, counts, codec, ledger)
        self.tail = tail
        self._walk = GenerationWalk(files, self._reader, self.damage)
        self._ledger = ledger
        self._clock = clock
        self._keys = keys
        self._latest = 0
        self._sent = 0  # entries of the log that were ever sent, with those that are on their way
        self._under_way = 0
        self._undo: Callable[[], None] = nothing_to_undo
        self._aside: dict[tuple[int, int, str], int] = {}
        self._closed: list[GenerationRecord] = []
        self._max_line = mapping.format.max_line_bytes
        self._stream = stream

    def _made_reader(
        self, mapping: Mapping, tail: Tail, ledger: Ledger, codec: Codec, clock: Callable[[], float]
    ) -> LineReader:
        return LineReader(mapping, tail, ledger, self._rejects, codec, clock)

    @property
    def skipped_since(self) -> float | None:  # type: ignore[override]
        """Since when a log's reader is ahead of its cursor, over bytes without entries; None: it is not ahead."""
        return self._reader.skipped_since

    def next_wake(self) -> float | None:
        """Returns after how many seconds a log is looked at again, as its next message is not ended.

        None: all its messages are ended.
        """
        return self.patience if self.files.waits else None

    def seek(self, number: int, at: Fingerprint) -> None:
        """Puts the log source's reader at a place that Redis confirmed, and forgets the lines that were read beyond."""
        self._forget()
        self.tail.seek(number, at)
        self.files.take_news()

    def _forget(self) -> None:
        self._reader.forget()
        self._walk.ended, self._under_way = [], 0

    def seek_offset(self, number: int, offset: int) -> bool:
        """Puts the log source's reader at an offset without known digests; False: the generation is unknown."""
        self._forget()
        found = self.tail.seek_offset(number, offset)
        self.files.take_news()
        return found

    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """Puts the log source's reader where the comparison with Redis says, in the finished generations too.

        Raises LedgerError: the ledger knows no generation that the stream names.
        """
        tail = self.tail
        self._sent = checkpoint.sent if (checkpoint := self.progress.checkpoint) else 0
        if resume.behind is not None:
            if not self.seek_offset(*resume.behind):
                raise LedgerError(
                    f"knows no generation {resume.behind.generation} of {self.name}, but the stream does",
                    where=str(self._ledger.path),
                    hint="is it an older copy? `bridge repair` rebuilds it",
                )
            first = tail.first()
            if first is not None and first.number == resume.behind.generation:
                self._reader.step_over(first, resume.behind.offset)
        elif resume.checkpoint is not None:
            self.seek(resume.checkpoint.generation, resume.checkpoint.at)
        elif tail.records():
            self.seek_offset(tail.records()[0].number, 0)
        begins = first.number if (first := tail.first()) is not None else 0
        self._closed = [known for known in self._closed if known.number < begins]  # the others are read again
        for known in [known for known in tail.records() if known.closed]:
            stored = compared.books.generations.get(b"%d.%d" % (self.progress.number, known.number))
            self.progress.late_stored[known.number] = stored
            end = Fingerprint.from_json(stored) if stored else known.at
            # The generation ended without the ledger's knowing; or lines added to it later are lost.
            if end.offset > known.at.offset or (compared.lost and end.offset < known.at.offset):
                tail.amend(known.number, end)
            generation = tail.of_number(known.number)
            if generation is None or generation in tail.pending():
                continue
            tail.seek_late(known.number, Fingerprint.from_json(stored) if stored else known.at)
            high = compared.standing.get((self.progress.number, known.number))
            if high is not None and generation.content is not None:
                self._reader.step_over(generation, high[0])
        if self.mentions is not None and (first := tail.first()) is not None:
            self.mentions.place(Position(first.number, first.read_to))
        aside = still_aside(self._ledger, self._stream, "forward", self.name)
        self._aside = {
            key: n
            for key, n in aside.items()
            if (generation := tail.of_number(key[0])) and key[1] >= generation.read_to
        }

    def go_back(self, to: Position, compared: Reconciliation) -> bytes | None:
        """Puts the log source's reader back to a line that is to be sent after all.

        Of the lines behind it, those whose entries stand are not sent again. Returns the checkpoint's value; None where
        the reader did not move back. Raises SourceError, LedgerError.
        """
        if (here := self.position()) is None or here[0] <= to or not self.seek_offset(*to):
            return None
        self.progress.memory = replace(
            self.progress.memory, refill=max(here[0], self.progress.memory.refill or here[0])
        )
        self.progress.standing = compared.offsets
        return (self.position() or here)[1]

    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether a log's file holds at this origin the line that an entry of these fields was made of.

        As far as it seems. Raises SourceError: the files change faster than they can be looked at.
        """
        return self.files.holds(origin, lambda generation, offset: self._stands(generation, offset, fields))

    def _stands(self, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        return self._reader.stands(generation, offset, fields)

    def forget_lost(self, compared: Reconciliation) -> None:
        """Makes the ledger forget that lines of an edited log were carried, where Redis lost their entries.

        Inside a ledger transaction.
        """
        if any(known.rewrites for known in self.tail.records()):
            forget_carried(self.tail, self._ledger, self._stream, self.progress.number, self.codec, compared)
            self._reader.forget()

    def position(self) -> tuple[Position, bytes] | None:
        """Returns where the log source's reader stands, as a position and as the checkpoint's value; None: no file.

        Where only finished generations are left, the reader stands where Redis has it.
        """
        if (first := self.tail.first()) is None:
            here = self.progress.stored if self.tail.late() else None
            return (Checkpoint.from_json(here).position, here) if here else None
        value = Checkpoint(first.number, first.fingerprint(), sent=self._sent)
        return value.position, value.to_json()

    def remember(self) -> None:
        """Writes how far the log was carried, and the log's generations, into the ledger; inside a transaction."""
        self.progress.save()
        keep_generations(self.tail, self._closed, self._ledger, self._stream)
        self._ledger.after_commit(self._closed.clear)

    def next_batch(self, limit: int) -> SourceBatch | None:
        """Makes a source batch of up to `limit` entries from where the log's reader stands; None: no whole lines.

        A stretch without entries (mirrored lines, empty lines) makes no batch: `flush` moves the cursor over it. Raises
        RejectStop, SourceError, LedgerError.
        """
        if self._dual.waits:
            return None
        while (read := self._next(limit)) is not None:
            batch = self._batch_of(read, read.fits(limit), late=False)
            if batch is not None:
                return batch
        late = self.tail.late()
        if late and self._walk.ended:  # the ends go first: they would overwrite how far those are carried since
            return self.cursor_batch()
        if self.tail.news:
            self.files.take_news()
        for generation in late:
            while (read := self._reader.next(generation, limit)) is not None:
                batch = self._batch_of(read, read.fits(limit), late=True)
                if batch is not None:
                    return batch
            if not self._reader.settling:
                self._walk.end(generation)
        if not self._under_way and self.tail.finished.note_read():
            self.files.take_news()
        return None

    @property
    def _in_history(self) -> bool:
        """Whether the log's next message stood in its file when the log was first met, or when an import began."""
        first, history = self.tail.first(), self.progress.memory.history
        return history is not None and first is not None and (first.number, first.read_to) < history

    def history(self) -> MergedHistory | None:
        """Offers the log to the merge of history by time, as long as its next message is history; else None."""
        return self if self._in_history else None

    def head(self, limit: int, ahead: int) -> HistoryHead | None:
        """Offers the log's next lines to the merge, as far as these are history read in one go; None: no more now.

        About `ahead` lines are held, and no fewer than `limit` offered where there are more.
        """
        if (
            self._dual.waits
            or not self._in_history
            or (read := self._next(limit, ahead)) is None
            or self.progress.memory.history is None
        ):
            return None
        end, more = len(read.lines.lines), True
        if read.generation.number == self.progress.memory.history.generation:
            end = bisect_left(read.lines.offsets, self.progress.memory.history.offset)
            more = read.lines.end < self.progress.memory.history.offset
        keys = read.order(self.codec, self._latest)
        if self._rejects.stops:  # a line that cannot be an entry is offered alone, as forward stops there
            bad = next((i for i in range(read.at, end) if read.stops(i, self._max_line)), end)
            end, more = (max(bad, read.at + 1), True) if bad < end else (end, more)
        return HistoryHead(keys, read.at, end, more, read.lines) if end > read.at else None

    def take(self, count: int) -> SourceBatch | None:
        """Makes a source batch of the next `count` lines that the log's `head` offered; None: none becomes an entry."""
        read, latest, skipped = self._reader.held, self._latest, self.skipped_since
        at, place, sent = read.at, read.generation.bookmark, self._sent
        self._latest = read.keys[at + count - 1]
        batch = self._batch_of(read, count, late=False)

        def undo() -> None:
            self._sent, self._latest, self._reader.skipped_since, read.at = sent, latest, skipped, at
            read.generation.go_back(place)
            self._reader.handed_out(read.generation, place[0])

        self._undo = undo
        return batch

    def give_back(self, batch: SourceBatch) -> None:
        """Takes back the source batch that was made last and is not sent: the log's lines come again."""
        self._undo()
        self._under_way -= 1
        self._walk.ended = list(batch.closing)
        self._aside |= {(batch.position.generation, offset, ""): number for offset, number in batch.out_of_quarantine}

    def _next(self, limit: int, ahead: int = 0) -> ReadLines | None:
        return self._walk.next(limit, ahead, under_way=self._under_way > 0)

    def cursor_batch(self) -> SourceBatch | None:
        """Makes a source batch without entries that sets the log's cursor to where the reader stands; None: no file."""
        first = self.tail.first()
        if first is None:
            return None
        last = stored.entry if (stored := self.progress.checkpoint) else None
        cursor = self._cursor(first, late=False)
        cursor = Cursor(
            cursor.key, cursor.field, Checkpoint(first.number, first.fingerprint(), last, self._sent).to_json()
        )
        return self._seal(SourceBatch(self, cursor, Position(first.number, first.read_to)))

    def _seal(self, batch: SourceBatch) -> SourceBatch:
        batch.closing = tuple(self._walk.ended)
        self._walk.ended, batch.among_earlier = [], self._reader.among_earlier(batch.first)
        self._under_way += 1
        self._reader.skipped_since = None
        return batch

    def _batch_of(self, read: ReadLines, count: int, *, late: bool) -> SourceBatch | None:
        """Makes a source batch of the next `count` lines of a log's generation, and moves the log's reader over them.

        None: there is no entry in them.
        """
        generation, lines, i, j = read.generation, read.lines, read.at, read.at + count
        piece = lines.lines[i:j]
        if lines.offsets[i] == 0 and not late:
            self.tail.introduce(generation)
            if self.tail.news:
                self.tail.notices.extend(self.files.take_news())
        rows, times = read.rows(self.codec, i, j)
        good = [k for k, row in enumerate(rows) if row.__class__ is tuple]
        if len(good) != len(rows) or max(map(len, piece), default=0) > self._max_line:
            good, taken = self._rejects.sort_out(generation.number, piece, lines.offsets[i:j], rows)
            j = i + taken
        if self._dual.stretches:
            number, has = generation.number, self._dual.has
            good = [k for k in good if not has(rows[k][0], Position(number, lines.offsets[i + k]))]  # type: ignore[arg-type]
        if self.progress.standing:
            stands = self.progress.standing.get((self.progress.number, generation.number), set())
            good = [k for k in good if lines.offsets[i + k] not in stands]
        end = lines.ends[j - 1] if j < len(lines.lines) else lines.end
        self.tail.advance(generation, read.data[generation.read_to - read.start : end - read.start])
        self._reader.handed_out(generation, end)
        read.at = j
        if not good:
            self._reader.note_skip()
            return None
        whole = len(good) == j - i == len(piece)
        offsets = lines.offsets[i:j] if whole else [lines.offsets[i + k] for k in good]
        self._sent += len(good)
        batch = SourceBatch(self, self._cursor(generation, late=late), Position(generation.number, end))
        batch.rows = rows if whole else [rows[k] for k in good]  # type: ignore[assignment,misc]
        batch.places = None if whole else good
        batch.first = Position(generation.number, offsets[0])
        batch.prefix, batch.offsets = b"%d.%d:" % (self.progress.number, generation.number), offsets
        if self.mentions is not None and any(kind in read.data for kind in self.mentions.types):
            batch.rows = self.mentions.widened(batch.rows, generation.number, offsets)
        if self._aside:  # lines that an earlier mapping could not translate are sent now
            batch.out_of_quarantine = [(o, n) for o in offsets if (n := self._aside.pop((generation.number, o, ""), 0))]
        if not late and self._is_history(generation.number, offsets[0]):
            batch.times = times if whole else [times[k] for k in good]
        elif not late and self.progress.memory.refill is None:
            batch.written = self.files.written(generation, lines.ends[i + good[0]] - 1)
        if late:
            batch.ended = generation.known(closed=True)
            self._under_way += 1
        return batch if late else self._seal(batch)

    def committed(self, batch: SourceBatch, stored: bytes) -> None:
        """Notes that the entries of a log's source batch are in the stream, and that Redis holds `stored` as cursor.

        Marks the lines of the batch that were in quarantine as retried.
        """
        self._undo = nothing_to_undo
        self._under_way = max(0, self._under_way - 1)
        self._reader.let_go()
        if batch.ended is not None:
            self.progress.late_stored[batch.position.generation] = stored
            self._closed.append(batch.ended)
            self.tail.amend(batch.ended.number, batch.ended.at, batch.ended.packed)
        else:
            self.progress.stored = stored
        for known in batch.closing:
            logger.info("%s: generation %d is carried to its end, byte %d", self.name, known.number, known.at.offset)
            self.progress.late_stored[known.number] = known.at.to_json()
            self._closed.append(known)
        self.counts.entries += len(batch.rows)
        if batch.times:
            self.counts.timed(batch.times)
        for offset, number in batch.out_of_quarantine:
            mark_retried(self._ledger, number, f"origin {batch.prefix.decode()}{offset}", self._clock())
        memory = self.progress.memory
        if memory.refill is not None and not batch.late and batch.position > memory.refill:
            self.progress.refilled()
            memory = self.progress.memory
        if not batch.late and not memory.live and memory.history is not None and batch.position >= memory.history:
            self.progress.go_live("its history is in the stream")

    def _is_history(self, generation: int, offset: int) -> bool:
        history = self.progress.memory.history
        return history is not None and (generation, offset) < history

    def _cursor(self, generation: Generation, *, late: bool) -> Cursor:
        value = Checkpoint(generation.number, generation.fingerprint(), sent=self._sent).to_json()
        if late:
            name = b"%d.%d" % (self.progress.number, generation.number)
            return Cursor(self._keys.generations, name, generation.known().at.to_json())
        return Cursor(self._keys.checkpoint, os.fsencode(self.name), value)
