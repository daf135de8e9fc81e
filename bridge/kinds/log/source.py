"""Implements forward's source for a log: lines come out of generations, rows out of lines, batches out of rows."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from bridge.core.errors import LedgerError, SourceError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Fingerprint, Position
from bridge.files.generation import Generation, GenerationRecord
from bridge.files.tail import Tail
from bridge.kinds.kind import HistoryHead, MergedHistory, SourceBatch
from bridge.kinds.log.dual_write import DualWrittenLines
from bridge.kinds.log.followed import FollowedSource
from bridge.kinds.log.line_reader import ReadLines
from bridge.kinds.mapping_context import keep_generations
from bridge.kinds.resume import Reconciliation, Resume
from bridge.ledger.quarantine import mark_retried, still_aside
from bridge.ledger.store import Ledger
from bridge.streams.keys import Keys
from bridge.streams.writer import Cursor


def nothing_to_undo() -> None:
    """Undoes nothing: the log source took no lines that are not in the stream."""


class LogSource(FollowedSource):
    """Forward's source for one logical log file with all its generations, read line by line."""

    def __init__(self, mapping: Mapping, keys: Keys, tail: Tail, ledger: Ledger, clock: Callable[[], float]) -> None:
        super().__init__(mapping, keys, tail, ledger, clock)
        self._latest = 0
        self._sent = 0  # entries of the log that were ever sent, with those that are on their way
        self._undo: Callable[[], None] = nothing_to_undo
        self._aside: dict[tuple[int, int, str], int] = {}
        self._closing: list[GenerationRecord] = []
        self._closed: list[GenerationRecord] = []
        self._max_line = mapping.format.max_line_bytes
        self._own = DualWrittenLines(ledger, mapping.stream.key, tail.name)

    def look(self, paths: set[str] | None) -> bool:
        """Looks at the log's files, and whether a component writes both sides itself by now (dual write).

        `paths` as in FollowedSource. Raises SourceError, LedgerError.
        """
        found = super().look(paths)
        first = self.tail.first()
        self._own.look(Position(first.number, first.read_to) if first is not None else Position(0, 0))
        return found

    def seek(self, number: int, at: Fingerprint) -> None:
        """Puts the log source's reader at a place that Redis confirmed, and forgets the lines that were read beyond."""
        self._forget()
        self.tail.seek(number, at)
        self.take_news()

    def _forget(self) -> None:
        self._reader.forget()
        self._closing, self._under_way = [], 0

    def seek_offset(self, number: int, offset: int) -> bool:
        """Puts the log source's reader at an offset without known digests; False: the generation is unknown."""
        self._forget()
        found = self.tail.seek_offset(number, offset)
        self.take_news()
        return found

    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """Puts the log source's reader where the comparison with Redis says, in the finished generations too.

        Raises LedgerError: the ledger knows no generation that the stream names.
        """
        tail = self.tail
        self._sent = Checkpoint.from_json(self.stored).sent if self.stored else 0
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
            stored = compared.books.generations.get(b"%d.%d" % (self.memory.number, known.number))
            self.late_stored[known.number] = stored
            end = Fingerprint.from_json(stored) if stored else known.at
            # The generation ended without the ledger's knowing; or lines added to it later are lost.
            if end.offset > known.at.offset or (compared.lost and end.offset < known.at.offset):
                tail.amend(known.number, end)
            generation = tail.of_number(known.number)
            if generation is None or generation in tail.pending():
                continue
            tail.seek_late(known.number, Fingerprint.from_json(stored) if stored else known.at)
            high = compared.standing.get((self.memory.number, known.number))
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
        self.memory = replace(self.memory, refill=max(here[0], self.memory.refill or here[0]))
        self.standing = compared.offsets
        return (self.position() or here)[1]

    def _stands(self, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        return self._reader.stands(generation, offset, fields)

    def position(self) -> tuple[Position, bytes] | None:
        """Returns where the log source's reader stands, as a position and as the checkpoint's value; None: no file.

        Where only finished generations are left, the reader stands where Redis has it.
        """
        if (first := self.tail.first()) is None:
            here = self.stored if self.tail.late() else None
            return (Checkpoint.from_json(here).position, here) if here else None
        value = Checkpoint(first.number, first.fingerprint(), sent=self._sent)
        return value.position, value.to_json()

    def remember(self) -> None:
        """Writes how far the log was carried, and the log's generations, into the ledger; inside a transaction."""
        super().remember()
        keep_generations(self.tail, self._closed, self._ledger, self._stream)

    def remembered(self) -> None:
        """Forgets the log's generations that are carried to their end, now that the ledger has committed them."""
        self._closed.clear()

    def next_batch(self, limit: int) -> SourceBatch | None:
        """Makes a source batch of up to `limit` entries from where the log's reader stands; None: no whole lines.

        A stretch without entries (mirrored lines, empty lines) makes no batch: `flush` moves the cursor over it. Raises
        RejectStop, SourceError, LedgerError.
        """
        if self._own.waits:
            return None
        while (read := self._next(limit)) is not None:
            batch = self._batch_of(read, read.fits(limit), late=False)
            if batch is not None:
                return batch
        late = self.tail.late()
        if late and self._closing:
            return (
                self.cursor_batch()
            )  # the ends of generations go first, else they would overwrite how far those are carried since
        if self.tail.news:
            self.take_news()
        for generation in late:
            while (read := self._reader.next(generation, limit)) is not None:
                batch = self._batch_of(read, read.fits(limit), late=True)
                if batch is not None:
                    return batch
        return None

    @property
    def _in_history(self) -> bool:
        """Whether the log's next message stood in its file when the log was first met, or when an import began."""
        first, history = self.tail.first(), self.memory.history
        return history is not None and first is not None and (first.number, first.read_to) < history

    def history(self) -> MergedHistory | None:
        """Returns the log source itself as history for the merge, as long as its next message is history."""
        return self if self._in_history else None

    def head(self, limit: int, ahead: int) -> HistoryHead | None:
        """Offers the log's next lines to the merge, as far as these are history read in one go; None: no more now.

        About `ahead` lines are held, and no fewer than `limit` offered where there are more.
        """
        if (
            self._own.waits
            or not self._in_history
            or (read := self._next(limit, ahead)) is None
            or self.memory.history is None
        ):
            return None
        end, more = len(read.lines.lines), True
        if read.generation.number == self.memory.history.generation:
            end = bisect_left(read.lines.offsets, self.memory.history.offset)
            more = read.lines.end < self.memory.history.offset
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
        self._closing = list(batch.closing)
        self._aside |= {(batch.position.generation, offset, ""): number for offset, number in batch.out_of_quarantine}

    def _next(self, limit: int, ahead: int = 0) -> ReadLines | None:
        """Returns lines of the log's first generation that has any left, and ends the generations before it."""
        while (generation := self.tail.first()) is not None:
            if self.rewritten is not None and not self.rewritten.knows(generation, under_way=self._under_way > 0):
                return None
            last = self.tail.current() is generation  # asked before the read: lines written up to a rotation are read
            read = self._reader.next(generation, limit, ahead)
            if read is not None:
                return read
            if self._reader.barred == generation.number or self._reader.settling:
                return None
            if last and self.tail.current() is not generation:
                continue
            self._at_end(generation)
            if last or (record := self.tail.finish()) is None:
                return None
            left = (size := generation.size()) - generation.read_to
            if left > 0 and generation.read(1, size - 1) != b"\n":  # else whole lines came meanwhile
                self._unended[generation.number] = left
                said = f"{left} bytes of an unfinished line stand at the end of {generation.path.name}"
                self.tail.notices.append(f"{self.name}: {said}; they are carried if the line is ever ended")
            self._closing.append(record)
            self._reader.note_skip()
        return None

    def _at_end(self, generation: Generation) -> None:
        """Reports damage of a log's compressed generation that was read to its end, if there is any.

        An unfinished last line, which will never be ended, goes into quarantine where nothing is damaged.
        """
        if generation.content is None or generation.packed is None:
            return
        damage = generation.content.damage()
        if damage and generation.number not in self.damage:
            hint = "what stands before it was carried; with a whole copy in its place the next start goes on from there"
            self.damage[generation.number] = SourceError(damage, where=generation.path.name, hint=hint)
            self.tail.notices.append(f"{self.name}: {generation.path.name} {damage}; what could be read is carried")
        self._reader.end_packed(generation)

    def cursor_batch(self) -> SourceBatch | None:
        """Makes a source batch without entries that sets the log's cursor to where the reader stands; None: no file."""
        first = self.tail.first()
        if first is None:
            return None
        last = Checkpoint.from_json(self.stored).entry if self.stored else None
        cursor = self._cursor(first, late=False)
        cursor = Cursor(
            cursor.key, cursor.field, Checkpoint(first.number, first.fingerprint(), last, self._sent).to_json()
        )
        return self._seal(SourceBatch(self, cursor, Position(first.number, first.read_to)))

    def _seal(self, batch: SourceBatch) -> SourceBatch:
        batch.closing = tuple(self._closing)
        self._closing, batch.among_earlier = [], self._reader.among_earlier(batch.first)
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
                self.tail.notices.extend(self.take_news())
        rows, times = read.rows(self.codec, i, j)
        good = [k for k, row in enumerate(rows) if row.__class__ is tuple]
        if len(good) != len(rows) or max(map(len, piece), default=0) > self._max_line:
            good, taken = self._rejects.sort_out(generation.number, piece, lines.offsets[i:j], rows)
            j = i + taken
        if self._own.stretches:
            good = [k for k in good if not self._own.has(rows[k][0], Position(generation.number, lines.offsets[i + k]))]  # type: ignore[arg-type]
        if self.standing:
            stands = self.standing.get((self.memory.number, generation.number), set())
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
        batch.prefix, batch.offsets = b"%d.%d:" % (self.memory.number, generation.number), offsets
        if self.mentions is not None and any(kind in read.data for kind in self.mentions.types):
            batch.rows = self.mentions.widened(batch.rows, generation.number, offsets)
        if self._aside:  # lines that an earlier mapping could not translate are sent now
            batch.out_of_quarantine = [(o, n) for o in offsets if (n := self._aside.pop((generation.number, o, ""), 0))]
        if not late and self._is_history(generation.number, offsets[0]):
            batch.times = times if whole else [times[k] for k in good]
        elif not late and self.memory.refill is None:
            batch.written = self._written(generation, lines.ends[i + good[0]] - 1)
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
            self.late_stored[batch.position.generation] = stored
            self._closed.append(batch.ended)
            self.tail.amend(batch.ended.number, batch.ended.at)
        else:
            self.stored = stored
        for known in batch.closing:
            logger.info("%s: generation %d is carried to its end, byte %d", self.name, known.number, known.at.offset)
            self.late_stored[known.number] = known.at.to_json()
            self._closed.append(known)
        self.counts.entries += len(batch.rows)
        if batch.times:
            self.counts.timed(batch.times)
        for offset, number in batch.out_of_quarantine:
            mark_retried(self._ledger, number, f"origin {batch.prefix.decode()}{offset}", self._clock())
        memory = self.memory
        if memory.refill is not None and not batch.late and batch.position > memory.refill:
            self.memory = memory = replace(memory, refill=None)
            self.standing = {}
        if not batch.late and not memory.live and memory.history is not None and batch.position >= memory.history:
            self.go_live("its history is in the stream")

    def _is_history(self, generation: int, offset: int) -> bool:
        history = self.memory.history
        return history is not None and (generation, offset) < history

    def _cursor(self, generation: Generation, *, late: bool) -> Cursor:
        value = Checkpoint(generation.number, generation.fingerprint(), sent=self._sent).to_json()
        if late:
            name = b"%d.%d" % (self.memory.number, generation.number)
            return Cursor(self._keys.generations, name, generation.known().at.to_json())
        return Cursor(self._keys.checkpoint, os.fsencode(self.name), value)
