"""Implements forward's source for a context, a file that grows by chunks: what is appended until a pause is one entry.

The data of all the entries, joined, are the file, byte for byte. The cursor, the generations and the recovery after a
loss are a log's.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.codecs import Codec
from bridge.core.codecs.chunk import CHUNK, ChunkCodec, whole_characters
from bridge.core.codecs.document import iso_time
from bridge.core.mapping import Mapping
from bridge.core.model import FIELDS, Checkpoint, Position, paired
from bridge.files.generation import Generation
from bridge.files.lines import Lines
from bridge.files.tail import Tail
from bridge.kinds.kind import MergedHistory, SourceBatch
from bridge.kinds.log.line_reader import LineReader, ReadLines
from bridge.kinds.log.source import LogSource
from bridge.kinds.rejects import Rejects
from bridge.kinds.resume import Reconciliation, Resume
from bridge.ledger.store import Ledger
from bridge.streams.keys import Keys

MOST_CHUNKS = 16
"""How many chunks of a context's file forward reads at once."""

UNENDED = 10.0
"""Seconds after which forward sends bytes that begin a character and do not end it, at a context's end, as they are."""


class ChunkReader(LineReader):
    """Reads a context's file in chunks instead of lines: what was appended until the writer paused, 64 KiB at most."""

    def __init__(
        self, mapping: Mapping, tail: Tail, ledger: Ledger, rejects: Rejects, codec: Codec, clock: Callable[[], float]
    ) -> None:
        super().__init__(mapping, tail, ledger, rejects, codec, clock)
        self.began = 0
        """The number of the context's generation whose beginning was last announced by an entry without data."""
        self.sizes: dict[tuple[int, int], int] = {}
        """Sizes in bytes of the context's chunks that may have to be stepped over, by generation and offset."""
        self._idle = mapping.source.idle_ms / 1000
        self._quiet = (0, 0, 0.0)
        """The number of the context's generation last looked at, its size in bytes, and since when it has that size."""

    def note_skip(self) -> None:
        """Does nothing for a context: its cursor moves with entries only.

        Otherwise the cursor could not tell whether an entry has said that the file began anew.
        """

    def fetch(self, generation: Generation, *, ended: bool = False) -> ReadLines | None:
        """Returns the next chunks of a context's generation; None when none is due yet.

        Before the first chunk of a file that began anew comes an empty one.
        """
        self.barred, start = 0, generation.read_to
        if generation.number > 1 and start == 0 and self.began != generation.number and generation.content is not None:
            self.began = generation.number
            return self._found(generation, b"", [b""])
        raw = self._tail.peek(generation, CHUNK * MOST_CHUNKS)
        if not raw:
            return None
        chunks, at = [], 0
        while len(raw) - at >= CHUNK:
            size = whole_characters(raw[at : at + CHUNK])
            chunks.append(raw[at : at + size])
            at += size
        rest = raw[at:]
        pause = self._pause(generation) if len(raw) < CHUNK * MOST_CHUNKS else 0.0
        whole = len(rest) if ended or pause >= UNENDED else whole_characters(rest) if pause >= self._idle else 0
        if whole:
            chunks.append(rest[:whole])
        self.settling = whole < len(rest) and not chunks
        return self._found(generation, raw, chunks) if chunks else None

    def _found(self, generation: Generation, raw: bytes, chunks: list[bytes]) -> ReadLines:
        ends: list[int] = []
        start = generation.read_to
        for chunk in chunks:
            ends.append((ends[-1] if ends else start) + len(chunk))
        lines = Lines(chunks, [start, *ends[:-1]], ends, ends[-1])
        written = generation.written()
        codec, at = self._codec, iso_time(written)
        rows = [codec.row(chunk, at) for chunk in chunks] if isinstance(codec, ChunkCodec) else []
        found = ReadLines(generation, start, raw, lines, more=True)
        found.given(rows, [written // 1_000_000] * len(rows))
        return found

    def _pause(self, generation: Generation) -> float:
        """Returns the seconds since a context's file was last seen to grow.

        `UNENDED` for a generation that another follows: it grows no more.
        """
        if self._tail.current() is not generation:
            return UNENDED
        now, size = self._clock(), generation.size()
        if self._quiet[:2] != (generation.number, size):
            self._quiet = (generation.number, size, now)
        return max(now - self._quiet[2], now - generation.written() / 1e9)

    def step_over(self, generation: Generation, offset: int) -> None:
        """Moves the reader of a context's file over the chunk at `offset`, whose entry stands in the stream."""
        end = offset + self.sizes.get((generation.number, offset), 0)
        if generation.read_to < end:
            self._tail.advance(generation, self._tail.read(generation, end - generation.read_to, generation.read_to))


class ContextSource(LogSource):
    """Forward's source for one context: a file that is sent in chunks, and what stood in it before it was emptied."""

    def __init__(self, mapping: Mapping, keys: Keys, tail: Tail, ledger: Ledger, clock: Callable[[], float]) -> None:
        super().__init__(mapping, keys, tail, ledger, clock)
        self.patience = mapping.source.idle_ms / 1000

    def _made_reader(
        self, mapping: Mapping, tail: Tail, ledger: Ledger, codec: Codec, clock: Callable[[], float]
    ) -> LineReader:
        self._chunks = ChunkReader(mapping, tail, ledger, self._rejects, codec, clock)
        return self._chunks

    def history(self) -> MergedHistory | None:
        """Returns None for a context: its chunks have no times of their own, and are not merged by time."""
        return None

    def _is_history(self, generation: int, offset: int) -> bool:
        return False

    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """Puts a context's reader behind the chunk that the last entry which stands was made of, or at the checkpoint.

        Raises LedgerError.
        """
        if resume.refill is not None and (compared.lost or self.progress.memory.refill is not None):
            resume = Resume(behind=resume.refill)  # the stream was filled again in order: entries before that stand too
        elif resume.refill is not None:
            resume = Resume(resume.checkpoint, self._last_in_row(resume.checkpoint, compared))
        stored = self.progress.checkpoint if not compared.lost else None
        self._chunks.began = stored.generation if stored is not None else 0
        if resume.behind is not None:
            self._chunks.began = resume.behind.generation
        self._chunks.sizes = {
            (generation, offset): size
            for (source, generation), found in compared.sizes.items() if source == self.progress.number
            for offset, size in found.items()
        }  # fmt: skip
        super().resume(resume, compared)

    def _last_in_row(self, checkpoint: Checkpoint | None, compared: Reconciliation) -> Position | None:
        """Returns where the last chunk beyond the checkpoint begins whose entry stands with those of all before it.

        None: not even the next chunk's entry stands.
        """
        generation, at = checkpoint.position if checkpoint is not None else Position(1, 0)
        found = compared.sizes.get((self.progress.number, generation), {})
        last = None
        while found.get(at):
            last = Position(generation, at)
            at += found[at]
        return last

    def cursor_batch(self) -> SourceBatch | None:
        """Makes a source batch without entries that sets a context's cursor to where the reader stands.

        None when there is no file, or where a file begins anew, which an entry has to say first.
        """
        first = self.tail.first()
        return None if first is not None and first.number > 1 and first.read_to == 0 else super().cursor_batch()

    def _stands(self, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        data = _data(fields)
        return self.tail.read(generation, len(data), offset) == data


def _data(fields: list[bytes]) -> bytes:
    return paired(fields).get(FIELDS[3], b"")
