"""The line reader: reads whole lines from a source's generations, without mirrored bytes, grouped into messages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import FIELDS, UTF8_MARK, Position, Row, hex_digest, paired
from bridge.files.content_form import ENDS_HEAD, not_lines
from bridge.files.generation import Generation
from bridge.files.lines import Cut, Lines, begins_line, grouped, split
from bridge.files.tail import Tail
from bridge.kinds.kind import BATCH_BYTES
from bridge.kinds.log.long_line import LongLine, Piece
from bridge.kinds.provenance import exclude_mirrored
from bridge.kinds.rejects import Rejects
from bridge.ledger.acknowledgements import redacted_of
from bridge.ledger.edits import CarriedSpan, carried_spans
from bridge.ledger.ranges import drop_range
from bridge.ledger.store import Ledger

READ_LINES = 2.1
READ_BYTES = (1 << 16, 1 << 20)
"""One read of a file fetches about two batches, within these bytes: reading more would leave the server idle."""


@dataclass(slots=True)
class ReadLines:
    """Read lines of one generation that are not yet in a batch, from the line `at` on.

    `more`: the generation goes on behind them. `wanted`: how many were asked for. `keys`: their times, never falling,
    for the merge with other files.
    """

    generation: Generation
    start: int
    data: bytes
    lines: Lines
    more: bool = False
    at: int = 0
    wanted: int = 0
    keys: list[int] = field(default_factory=list)
    _rows: list[Row | str] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)

    def serves(self, limit: int, wanted: int) -> bool:
        """Whether a batch can be made of the read lines; else the last few lines are read again, with what follows."""
        left = len(self.lines.lines) - self.at
        return left > 0 and (left >= limit or not self.more or (self.at == 0 and self.wanted >= wanted))

    def fits(self, limit: int) -> int:
        """Counts how many of the next read lines go into a batch of `limit` entries."""
        lines, i = self.lines, self.at
        j = min(i + limit, len(lines.lines))
        while j - i > 1 and lines.ends[j - 1] - lines.offsets[i] > BATCH_BYTES:
            j = (i + j) // 2
        return j - i

    def rows(self, codec: Codec, begin: int, end: int) -> tuple[list[Row | str], list[int]]:
        """Decodes the read lines from `begin` to `end`: returns rows, or the reasons for having none, and times."""
        if self.keys:
            return self._rows[begin:end], self._times[begin:end]
        return codec.decode(self.lines.lines[begin:end])

    def given(self, rows: Sequence[Row], times: list[int]) -> None:
        """Sets rows and times of read lines, where the codec cannot tell them from the lines alone."""
        self._rows, self._times, self.keys = [*rows], times, [*accumulate(times, max)]

    def stops(self, i: int, limit: int) -> bool:
        """Whether a read line, of which `order` was asked before, cannot be an entry."""
        line = self.lines.lines[i]
        return len(line) > limit or (bool(line) and isinstance(self._rows[i], str))

    def order(self, codec: Codec, latest: int) -> Sequence[int]:
        """Returns the times of read lines, in ms, never falling, by which other files' lines are merged with them.

        A line that is no message, or tells no time, goes with the one before it; a file's first ones with the next.
        """
        if not self.keys:
            self._rows, self._times = codec.decode(self.lines.lines)
            latest = latest or next(filter(None, self._times), 0)
            self.keys = [*accumulate(self._times, max, initial=latest)][1:]
        return self.keys


class LineReader:
    """The line reader of one source: reads whole lines for forward, and knows the place up to which it read.

    `skipped_since`: when the reader got ahead of its cursor, in s since 1970; None: it is not ahead.
    """

    def __init__(
        self, mapping: Mapping, tail: Tail, ledger: Ledger, rejects: Rejects, codec: Codec, clock: Callable[[], float]
    ) -> None:
        self.skipped_since: float | None = None
        self.barred = 0
        """The generation whose bytes wait for an intent of the mirror, so its end is not reached; 0: none."""
        self.settling = False
        """Whether the last message may go on, or the file is still being compressed: a look is due in a moment."""
        self._tail = tail
        self._ledger = ledger
        self._rejects = rejects
        self._clock = clock
        self._stream = mapping.stream.key
        self._of_json = mapping.of_json
        self._max_line = mapping.format.max_line_bytes
        self._codec = codec
        self._continued = codec if isinstance(codec, MultilineCodec) else None
        self._settle = mapping.source.settle_ms / 1000
        self._read: ReadLines | None = None
        self._longs: dict[int, LongLine] = {}
        self._piece = 0
        self._stretches: dict[int, list[CarriedSpan]] = {}
        self._ends: dict[int, int] = {}
        """Up to which offset each generation was handed out or passed over, as counted here."""
        self.skipped: list[tuple[Generation, int, int]] = []
        """Stretches of generations that the reader's place passed and that nobody read, which must not happen."""

    def forget(self) -> None:
        """Makes the line reader forget the lines beyond its place: these lines are read again."""
        self._read, self.skipped_since = None, None
        self._longs.clear()
        self._ends.clear()
        self._stretches.clear()

    def let_go(self) -> None:
        """Frees the read lines once all of them are in batches: of thousands of sources few are read on."""
        if self._read is not None and self._read.at >= len(self._read.lines.lines):
            self._read = None

    def handed_out(self, generation: Generation, end: int) -> None:
        """Notes that the lines of a generation before `end` were handed out or passed over by the line reader."""
        self._ends[generation.number] = end

    @property
    def held(self) -> ReadLines:
        """The read lines that the line reader handed out last."""
        if self._read is None:
            raise AssertionError("nothing is read")
        return self._read

    def note_skip(self) -> None:
        """Notes that the line reader passed over bytes that make no entry, and since when."""
        if self.skipped_since is None:
            self.skipped_since = self._clock()

    def next(self, generation: Generation, limit: int, ahead: int = 0) -> ReadLines | None:
        """Returns read lines that are not yet in a batch: those at hand, or lines read from the file now; or None.

        One read is for about two batches of `limit` lines, or has about `ahead` lines.
        """
        limit, wanted = (min(limit, max(1, ahead // 2)), ahead) if ahead else (limit, int(limit * READ_LINES))
        read = self._read
        if read is not None and read.generation is generation and read.serves(limit, wanted):
            return read
        self._read, self.settling = None, False
        low = min(READ_BYTES[0], max(1 << 9, wanted << 7))  # a smaller read of each file where many are merged
        self._piece = max(self._piece, low)
        while True:
            failpoint("forward.read.before")
            found = self.fetch(generation)
            failpoint("forward.read.after")
            if found is None or found.lines.lines:
                break
            if found.lines.end == found.start:
                return None
            # Nothing but mirrored bytes.
            self._tail.advance(generation, found.data[: found.lines.end - found.start])
            self.handed_out(generation, found.lines.end)
            self.note_skip()
        self._read = found
        if found is not None:
            found.wanted = wanted
            each = (found.lines.end - found.start) / len(found.lines.lines)
            self._piece = max(low, min(READ_BYTES[1], int(each * wanted)))
        return found

    def fetch(self, generation: Generation, *, ended: bool = False) -> ReadLines | None:
        """Reads from a generation at least one whole line, or mirrored bytes, if there are any; None: no bytes now.

        `ended`: nothing can follow the last message.
        """
        size, self.barred = self._piece or READ_BYTES[0], 0
        end = self._ends.setdefault(generation.number, generation.read_to)
        if end < generation.read_to:
            self.skipped.append((generation, end, generation.read_to))
        self._ends[generation.number] = generation.read_to
        while True:
            if generation.number in self._longs and not self._through_long(generation):
                return None
            if not self._over_carried(generation):
                return None
            start = generation.read_to
            raw = self._tail.peek(generation, size)
            if not start and not_lines(raw[:ENDS_HEAD], json=self._of_json):
                return None  # the catalog's next look sets the file aside
            if not start and raw.startswith(UTF8_MARK):
                self._tail.advance(generation, UTF8_MARK)
                self.handed_out(generation, len(UTF8_MARK))
                self.note_skip()
                continue
            ahead = self._next_carried(generation, start)
            met = ahead is not None and ahead.start < start + len(raw)
            raw = raw[: ahead.start - start] if ahead is not None and met else raw
            if not raw:
                self.settling = self.settling or self._young(generation)
                return None
            data, cuts = self.foreign(generation, start, raw)
            full = len(raw) == size and len(data) >= size  # it was not cut off at an intent of the mirror's
            lines = split(data, start, cuts)
            over = len(data) - sum(b - a for a, b in cuts) > self._max_line
            if self._continued and lines.lines:
                last = ended or met or (not full and not self.barred and self._ended(generation))
                begins = self._continued.begins(lines.lines)
                whole = grouped(lines, begins, self._max_line, ended=last)
                if not whole.lines and full and over:  # one message that is too long
                    whole = grouped(lines, begins, self._max_line, ended=True)
                lines = whole
                self.settling = not full and not lines.lines
            if lines.lines or lines.end > start or not full:
                return ReadLines(generation, start, data, lines, full)
            if over:
                self._longs[generation.number] = LongLine(start)
            size *= 4

    def carried_before(self, generation: int) -> list[CarriedSpan]:
        """Reads from the ledger the stretches of a generation that the line reader passes over, and keeps them.

        The stretches were carried before, as an earlier generation's, or their entries were deleted on purpose.
        """
        if generation not in self._stretches:
            name = self._tail.name
            found = carried_spans(self._ledger, self._stream, name, generation)
            gone = [part for part in redacted_of(self._ledger, self._stream, name) if part.generation == generation
                    and self._is_line(generation, part.offset, part.length, part.digest)]  # fmt: skip
            found += [CarriedSpan(part.offset, part.offset + part.length, generation, part.offset) for part in gone]
            self._stretches[generation] = sorted(found)
        return self._stretches[generation]

    def _is_line(self, number: int, offset: int, length: int, told: str) -> bool:
        """Whether a redacted line of this digest still stands at an offset of a generation."""
        held = self._tail.of_number(number)
        return held is not None and length > 0 and hex_digest(held.read(length - 1, offset)) == told

    def among_earlier(self, first: Position | None) -> bool:
        """Whether a read line stands before lines of its file that were sent earlier as an earlier generation's."""
        stretches = self.carried_before(first.generation) if first is not None else []
        return any(part.of != first.generation and first.offset < part.start for part in stretches) if first else False

    def _next_carried(self, generation: Generation, start: int) -> CarriedSpan | None:
        """Finds the first stretch from an offset of a generation on that was carried before; None: there is none."""
        stretches = self.carried_before(generation.number)
        at = bisect_left(stretches, (start,)) if stretches else 0
        return stretches[at] if at < len(stretches) else None

    def _over_carried(self, generation: Generation) -> bool:
        """Moves the line reader over stretches that were carried before; False: the file changed meanwhile."""
        while (ahead := self._next_carried(generation, generation.read_to)) is not None:
            if ahead.start > generation.read_to:
                break
            if ahead.crc >= 0 and generation.sum_of(ahead.start, ahead.end) != ahead.crc:
                if self._tail.distrust(generation, f"bytes {ahead.start} to {ahead.end} are not those of before"):
                    return False
                self._stretches[generation.number].remove(ahead)  # its bytes were edited: all of the stretch is sent
                continue
            self._tail.pass_over(generation, ahead.end)
            if generation.read_to != ahead.end:
                return False
            self.handed_out(generation, ahead.end)
            self.note_skip()
        return True

    def _ended(self, generation: Generation) -> bool:
        """Whether a generation will get no more lines that could belong to its last read message."""
        if generation.packed or self._tail.current() is not generation:
            return not self._young(generation)
        return self._clock() - generation.written() / 1e9 >= self._settle

    @staticmethod
    def _young(generation: Generation) -> bool:
        return generation.content is not None and generation.content.settling()

    def foreign(self, generation: Generation, start: int, data: bytes) -> tuple[bytes, list[Cut]]:
        """Separates bytes read from a generation into those that forward may look at and the mirror's ranges.

        `data` was read at `start`. Drops ranges from the ledger whose bytes are not the mirror's any more.
        """

        def read(size: int, offset: int) -> bytes:
            return self._tail.read(generation, size, offset)

        given, name = len(data), self._tail.name
        data, cuts, stale = exclude_mirrored(self._ledger, self._stream, name, generation.number, start, data, read)
        if stale and not generation.begins_as_it_did():  # the file was emptied as it was read: the next look tells
            return b"", []
        self.barred = generation.number if len(data) < given else 0
        for written_range in stale:
            said = f"bytes {written_range.start} to {written_range.end} are not what the mirror wrote there any more"
            self._tail.notices.append(f"{name}: {said}; they are carried as the file's own")
            drop_range(self._ledger, self._stream, written_range)
        return data, cuts

    def lines_at(self, generation: Generation, offset: int, count: int, size: int) -> bytes | None:
        """Reads `count` lines from an offset of a generation, with the newlines between them.

        `size` is about their bytes. None: no line begins there, or there are fewer. Empty where nobody can tell yet: a
        line of the mirror's is under way there.
        """
        if not begins_line(partial(self._tail.read, generation), offset):
            return None
        most = max(size, self._max_line) * 4
        while raw := self._tail.read(generation, size, offset):
            data, cuts = self.foreign(generation, offset, raw)
            lines = split(data, offset, cuts).lines
            if len(lines) >= count:
                return b"\n".join(lines[:count])
            if len(data) < len(raw):
                return b""
            if len(raw) < size or size > most:
                return None
            size *= 4
        return None

    def stands(self, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        """Whether the line read at an offset of a generation is the one that an entry of these fields was made of.

        As far as can be told: a line that the mirror is writing there counts.
        """
        values = paired(fields)
        count = values.get(FIELDS[3], b"").count(b"\n") + 1 if self._continued is not None else 1
        line = self.lines_at(generation, offset, count, sum(map(len, fields)) + 256)
        if not line:
            return line is not None
        return self._codec.decode((line,)).rows[0] == tuple(values.get(name) for name in self._codec.fields)

    def step_over(self, generation: Generation, offset: int) -> None:
        """Moves the line reader over the lines up to the one at `offset`, whose entry stands in the stream."""
        while generation.read_to <= offset and (found := self.fetch(generation, ended=True)) is not None:
            passed = sum(begin <= offset for begin in found.lines.offsets)
            if not passed:
                return
            self._tail.advance(generation, found.data[: found.lines.ends[passed - 1] - found.start])
            self.handed_out(generation, found.lines.ends[passed - 1])

    def end_packed(self, generation: Generation) -> None:
        """Puts the unfinished line at the end of a compressed file into quarantine, as no newline will ever come.

        Not a line before damage: it may be read whole when the file is mended.
        """
        left, at = generation.size() - generation.read_to, generation.read_to
        if generation.content is None or generation.content.damage() or not left or self.barred:
            return
        long = LongLine(at)
        long.scan(lambda offset: (self._tail.read(generation, READ_BYTES[1], offset), []))
        reason = "unfinished: the compressed file ends without a newline"
        self._rejects.keep([self._rejects.rest(generation.number, at, long.kept, long.length, long.digest, reason)])
        self._tail.pass_over(generation, at + left)
        self.handed_out(generation, at + left)
        self.note_skip()

    def _through_long(self, generation: Generation) -> bool:
        """Moves the line reader on in a line that is too long; False while the line's end is not there.

        When the end is there, the line goes into quarantine, and the reader moves over it.
        """

        def read(offset: int) -> Piece:
            return self.foreign(generation, offset, self._tail.read(generation, READ_BYTES[1], offset))

        if generation.content is None:  # its content is gone, and the line with it
            del self._longs[generation.number]
            return False
        long = self._longs[generation.number]
        if not long.scan(read) or long.end is None:
            return False
        self._rejects.keep([self._rejects.too_long(generation.number, long.start, long.kept, long.length, long.digest)])
        self._tail.pass_over(generation, long.end)
        self.handed_out(generation, long.end)
        del self._longs[generation.number]
        self.note_skip()
        return True
