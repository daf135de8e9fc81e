"""One source on its way to the stream: lines out of its generations, rows out of lines, a batch out of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bridge.carry.draft import Draft, closed_fingerprint, closed_value
from bridge.carry.longline import LongLine, Piece
from bridge.carry.provenance import Cut, Lines, foreign, split
from bridge.carry.refill import Compared, Resume
from bridge.carry.rejects import Rejects
from bridge.carry.shared import keep_news
from bridge.codecs import Codec
from bridge.errors import BridgeError, LedgerError
from bridge.files.generation import Generation, Known
from bridge.files.tail import Tail
from bridge.ledger.mirrored import drop_range
from bridge.ledger.quarantine import Quarantined, mark_retried, still_aside
from bridge.ledger.sources import SourceMemory
from bridge.ledger.store import Ledger
from bridge.log import log
from bridge.mapping import Mapping
from bridge.model import Checkpoint, Fingerprint, Origin, Position, Row
from bridge.points import reached
from bridge.streams.keys import Keys
from bridge.streams.writer import Cursor

READ_LINES = 2.1
READ_BYTES = (1 << 16, 1 << 20)
"""A piece of the file holds about two batches, within these bytes: reading more at once would leave the server idle."""

BATCH_BYTES = 1 << 20


@dataclass(slots=True)
class _Read:
    """Lines of one generation that are read and not yet in a batch."""

    generation: Generation
    start: int
    data: bytes
    lines: Lines
    more: bool = False
    at: int = 0

    def serves(self, limit: int) -> bool:
        """Whether a batch can be made of it; the last few lines of a piece are read again, with what follows them."""
        left = len(self.lines.lines) - self.at
        return left > 0 and (left >= limit or not self.more or self.at == 0)


class Source:
    """Forward's half of a source. Not thread-safe; only its `tail` is shared, with the mirror."""

    def __init__(self, mapping: Mapping, keys: Keys, tail: Tail, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.name = tail.name
        self.tail = tail
        self.memory = SourceMemory(0)
        self.stored: bytes | None = None
        self.late_stored: dict[int, bytes | None] = {}
        self.trouble: BridgeError | None = None
        self.skipped_since: float | None = None
        self.standing: dict[tuple[int, int], set[int]] = {}
        """While a stream that began anew is filled again: the offsets whose entries stand, by source and generation."""
        self.clamped = 0
        self.carried = 0
        self.codec: Codec = mapping.codec(tail.name)
        self._rejects = Rejects(mapping, tail.name, ledger, clock, self.tail.notices.append)
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._read: _Read | None = None
        self._longs: dict[int, LongLine] = {}
        self._piece = READ_BYTES[0]
        self._aside: dict[tuple[int, int, str], int] = {}
        self._barred = 0
        """The generation whose bytes wait for the mirror's intent; it is not at its end."""
        self._closing: list[Known] = []
        self._max_line = mapping.format.max_line_bytes
        self._stream = mapping.stream.key

    def go_live(self, why: str) -> None:
        """From here on lines get the time of sending as entry ID."""
        self.memory = replace(self.memory, live=True)
        later = f"; {self.clamped} lines have a later time as entry ID than their own" if self.clamped else ""
        log.info("%s: %s%s", self.name, why, later, extra={"facts": {"source": self.name, "clamped": self.clamped}})

    # -- the cursor ------------------------------------------------------------------------------------------

    def begin(self, number: int) -> SourceMemory:
        """What is remembered of a source that was never carried: all that stands in it now is its history."""
        last = self.tail.current()
        history = None if last is None else Position(last.number, last.size())
        return SourceMemory(number, None, history is None, history)

    def seek(self, number: int, at: Fingerprint) -> None:
        """Goes on from a place Redis confirmed. What was read beyond it is forgotten."""
        self._forget()
        self.tail.seek(number, at)
        self.keep_news()

    def _forget(self) -> None:
        self._read, self._closing, self.skipped_since = None, [], None
        self._longs.clear()

    def seek_offset(self, number: int, offset: int) -> bool:
        """Goes on from a place whose digests nobody wrote down; False when that generation was never known."""
        self._forget()
        found = self.tail.seek_offset(number, offset)
        self.keep_news()
        return found

    def place(self, resume: Resume, compared: Compared) -> None:
        """Goes on where the comparison says, in the finished generations too. Raises LedgerError: one is not known."""
        tail = self.tail
        if resume.behind is not None:
            if not self.seek_offset(*resume.behind):
                raise LedgerError(
                    f"knows no generation {resume.behind.generation} of {self.name}, but the stream does",
                    where=str(self._ledger.path),
                    hint="is it an older copy? `bridge repair` rebuilds it",
                )
            first = tail.first()
            if first is not None and first.number == resume.behind.generation:
                self.step_over(first, resume.behind.offset)
        elif resume.checkpoint is not None:
            self.seek(resume.checkpoint.generation, resume.checkpoint.at)
        elif tail.records():
            self.seek_offset(tail.records()[0].number, 0)
        for known in [known for known in tail.records() if known.closed]:
            stored = compared.books.generations.get(b"%d.%d" % (self.memory.number, known.number))
            self.late_stored[known.number] = stored
            one = tail.of_number(known.number)
            if one is None or one in tail.pending():
                continue
            tail.seek_late(known.number, closed_fingerprint(stored) if stored else known.at)
            high = compared.standing.get((self.memory.number, known.number))
            if high is not None and one.fd >= 0:
                self.step_over(one, high[0])
        aside = still_aside(self._ledger, self._stream, "forward", self.name)
        self._aside = {key: n for key, n in aside.items() if (one := tail.of_number(key[0])) and key[1] >= one.read_to}

    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether the line at this origin is the one an entry of these fields was made of, as far as can be told.

        The ledger knows every generation that was sent from.
        """
        one = self.tail.of_number(origin.generation)
        if one is None or one.fd < 0:
            return any(record.number == origin.generation for record in self.tail.records())
        at, size = origin.offset, sum(map(len, fields)) + 256
        if at and self.tail.read(one, 1, at - 1) != b"\n":
            return False
        while raw := self.tail.read(one, size, at):
            data, cuts = self._foreign(one, at, raw)
            lines = split(data, at, cuts).lines
            if lines:
                values = dict(zip(fields[0::2], fields[1::2], strict=True))
                return self.codec.decode(lines[:1]).rows[0] == tuple(values.get(name) for name in self.codec.fields)
            if len(data) < len(raw):
                return True  # a line of the mirror's is under way there: nobody can tell yet
            if len(raw) < size or size > self._max_line:
                return False
            size *= 4
        return False

    def step_over(self, generation: Generation, offset: int) -> None:
        """Moves over the lines up to the one that begins at `offset`: its entry stands in the stream."""
        while generation.read_to <= offset and (found := self._fetch(generation)) is not None:
            passed = sum(begin <= offset for begin in found.lines.offsets)
            if not passed:
                return
            self.tail.advance(generation, found.data[: found.lines.ends[passed - 1] - found.start])

    def checkpoint(self) -> tuple[Position, bytes] | None:
        """Where the reader stands, as a position and as the checkpoint's value."""
        first = self.tail.first()
        if first is None:
            return None
        value = Checkpoint(first.number, first.fingerprint())
        return value.position, value.to_json()

    def keep_news(self) -> list[str]:
        """Writes new generations into the ledger; returns notices for the log."""
        return keep_news(self.tail, self._ledger, self._stream)

    # -- drafts ----------------------------------------------------------------------------------------------

    def next_draft(self, limit: int) -> Draft | None:
        """Up to `limit` entries from where the reader stands; None when there are no whole lines.

        A stretch without entries (mirrored lines, empty lines) makes no draft: `flush` moves the cursor over it.
        Raises RejectStop, SourceError, LedgerError.
        """
        while True:
            generation = self.tail.first()
            if generation is None:
                return None
            draft = self._draft_from(generation, limit, late=False)
            if draft is not None:
                return draft
            if self._barred == generation.number or (record := self.tail.finish()) is None:
                break
            if left := generation.size() - generation.read_to:
                said = f"{left} bytes of an unfinished line stand at the end of {generation.path.name}"
                self.tail.notices.append(f"{self.name}: {said}; they are carried if the line is ever ended")
            self._closing.append(record)
            self._note_skip()
        late = self.tail.late()
        if late and self._closing:
            return self.here()  # where they ended comes first, else it would overwrite how far they are carried since
        if self.tail.news:
            self.keep_news()
        for generation in late:
            draft = self._draft_from(generation, limit, late=True)
            if draft is not None:
                return draft
        return None

    def flush(self) -> Draft | None:
        """A draft without entries that moves the cursor over what was skipped; None when nothing was."""
        return self.here() if self.skipped_since is not None else None

    def here(self) -> Draft | None:
        """A draft without entries that sets the cursor to where the reader stands; None when there is no file."""
        first = self.tail.first()
        if first is None:
            return None
        last = Checkpoint.from_json(self.stored).entry if self.stored else None
        cursor = self._cursor(first, late=False)
        cursor = Cursor(cursor.key, cursor.field, Checkpoint(first.number, first.fingerprint(), last).to_json())
        return self._seal(Draft(self, cursor, Position(first.number, first.read_to)))

    def _note_skip(self) -> None:
        if self.skipped_since is None:
            self.skipped_since = self._clock()

    def _seal(self, draft: Draft) -> Draft:
        draft.closing = tuple(self._closing)
        self._closing = []
        self.skipped_since = None
        return draft

    def _draft_from(self, generation: Generation, limit: int, *, late: bool) -> Draft | None:
        while (read := self._lines(generation, limit)) is not None:
            lines, i = read.lines, read.at
            j = min(i + limit, len(lines.lines))
            while j - i > 1 and lines.ends[j - 1] - lines.offsets[i] > BATCH_BYTES:
                j = (i + j) // 2
            piece = lines.lines[i:j]
            if lines.offsets[i] == 0 and not late:
                self.tail.introduce(generation)
                if self.tail.news:
                    self.tail.notices.extend(self.keep_news())
            rows, times = self.codec.decode(piece)
            good = [k for k, row in enumerate(rows) if row.__class__ is tuple]
            if len(good) != len(rows) or max(map(len, piece), default=0) > self._max_line:
                good, j = self._set_aside(generation, read, rows, i, j)
            if self.standing:
                stands = self.standing.get((self.memory.number, generation.number), set())
                good = [k for k in good if lines.offsets[i + k] not in stands]
            end = lines.ends[j - 1] if j < len(lines.lines) else lines.end
            self.tail.advance(generation, read.data[generation.read_to - read.start : end - read.start])
            read.at = j
            if not good:
                self._note_skip()
                continue
            whole = len(good) == j - i == len(piece)
            offsets = lines.offsets[i:j] if whole else [lines.offsets[i + k] for k in good]
            draft = Draft(self, self._cursor(generation, late=late), Position(generation.number, end))
            draft.rows = rows if whole else [rows[k] for k in good]  # type: ignore[assignment,misc]
            draft.first = Position(generation.number, offsets[0])
            draft.prefix, draft.offsets = b"%d.%d:" % (self.memory.number, generation.number), offsets
            if self._aside:  # lines that an earlier mapping could not translate are forward's now
                draft.taken_out = [(o, n) for o in offsets if (n := self._aside.pop((generation.number, o, ""), 0))]
            if not late and self._in_history(generation.number, offsets[0]):
                draft.times = times if whole else [times[k] for k in good]
            if late:
                draft.ended = generation.known(closed=True)
            return draft if late else self._seal(draft)
        return None

    def landed(self, draft: Draft, count: int) -> None:
        """A batch of `count` entries is in: what was in quarantine of it has left it."""
        self.carried += count
        for offset, number in draft.taken_out:
            mark_retried(self._ledger, number, f"origin {draft.prefix.decode()}{offset}", self._clock())

    def _in_history(self, generation: int, offset: int) -> bool:
        history = self.memory.history
        return history is not None and not self.memory.live and (generation, offset) < history

    def _cursor(self, generation: Generation, *, late: bool) -> Cursor:
        value = Checkpoint(generation.number, generation.fingerprint()).to_json()
        if late:
            name = b"%d.%d" % (self.memory.number, generation.number)
            return Cursor(self._keys.generations, name, closed_value(generation.known()))
        return Cursor(self._keys.checkpoint, self.name.encode("utf-8", "surrogateescape"), value)

    # -- lines -----------------------------------------------------------------------------------------------

    def _lines(self, generation: Generation, limit: int) -> _Read | None:
        """Lines that are read and not yet in a batch: those at hand, or the next piece of the file."""
        read = self._read
        if read is not None and read.generation is generation and read.serves(limit):
            return read
        self._read = None
        reached("forward.read.before")
        found = self._fetch(generation)
        reached("forward.read.after")
        if found is None:
            return None
        if not found.lines.lines:
            if found.lines.end > found.start:  # nothing but mirrored bytes
                self.tail.advance(generation, found.data[: found.lines.end - found.start])
                self._note_skip()
                return self._lines(generation, limit)
            return None
        self._read = found
        each = (found.lines.end - found.start) / len(found.lines.lines)
        self._piece = max(READ_BYTES[0], min(READ_BYTES[1], int(each * limit * READ_LINES)))
        return found

    def _fetch(self, generation: Generation) -> _Read | None:
        """The next piece of the file with at least one whole line, or with nothing but mirrored bytes at its start."""
        size, self._barred = self._piece, 0
        while True:
            if generation.number in self._longs and not self._through_long(generation):
                return None
            start = generation.read_to
            raw = self.tail.peek(generation, size)
            if not raw:
                return None
            data, cuts = self._foreign(generation, start, raw)
            full = len(raw) == size and len(data) >= size  # it was not cut off at an intent of the mirror's
            lines = split(data, start, cuts)
            if lines.lines or lines.end > start or not full:
                return _Read(generation, start, data, lines, full)
            if len(data) - sum(b - a for a, b in cuts) > self._max_line:
                self._longs[generation.number] = LongLine(start)
            size *= 4

    def _foreign(self, generation: Generation, start: int, data: bytes) -> tuple[bytes, list[Cut]]:
        """What of `data`, read at `start`, forward may look at, and the mirror's ranges in it."""

        def read(size: int, offset: int) -> bytes:
            return self.tail.read(generation, size, offset)

        given = len(data)
        data, cuts, stale = foreign(self._ledger, self._stream, self.name, generation.number, start, data, read)
        self._barred = generation.number if len(data) < given else 0
        for one in stale:
            said = f"bytes {one.start} to {one.end} are not what the mirror wrote there any more"
            self.tail.notices.append(f"{self.name}: {said}; they are carried as the file's own")
            drop_range(self._ledger, self._stream, one)
        return data, cuts

    def _through_long(self, generation: Generation) -> bool:
        """Reads on in a line that is too long; False while its end is not there.

        With its end it goes into quarantine, and the reader moves over it.
        """

        def read(offset: int) -> Piece:
            return self._foreign(generation, offset, self.tail.read(generation, 1 << 20, offset))

        if generation.fd < 0:  # its content is gone, and the line with it
            del self._longs[generation.number]
            return False
        long = self._longs[generation.number]
        if not long.scan(read) or long.end is None:
            return False
        self._rejects.keep([self._rejects.too_long(generation.number, long.start, long.kept, long.length, long.digest)])
        self.tail.pass_over(generation, long.end)
        del self._longs[generation.number]
        self._note_skip()
        return True

    def _set_aside(
        self, generation: Generation, read: _Read, rows: list[Row | str], i: int, j: int
    ) -> tuple[list[int], int]:
        """Puts what cannot be an entry into quarantine; returns the good lines' places and where the batch ends."""
        good: list[int] = []
        aside: list[Quarantined] = []
        for k, row in enumerate(rows):
            line, offset = read.lines.lines[i + k], read.lines.offsets[i + k]
            if not line:
                continue
            one = self._rejects.of(generation.number, offset, line, row if isinstance(row, str) else "")
            if one is None:
                good.append(k)
                continue
            if self._rejects.stops:
                if k == 0:
                    raise self._rejects.stop(one)
                return [g for g in good if g < k], i + k
            aside.append(one)
        self._rejects.keep(aside)
        return good, j
