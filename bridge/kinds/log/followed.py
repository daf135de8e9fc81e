"""Implements the followed source: one logical file with all its generations, and how much of them is left to carry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from bridge.core.errors import SourceError
from bridge.core.mapping import Mapping
from bridge.core.model import Origin, Position
from bridge.files.generation import Generation
from bridge.files.tail import Tail
from bridge.kinds.direction_stats import WriteTimes
from bridge.kinds.kind import Source
from bridge.kinds.log.edited_log import EditedLog
from bridge.kinds.log.line_reader import LineReader
from bridge.kinds.log.passed_over import forget_carried
from bridge.kinds.mapping_context import keep_news
from bridge.kinds.rejects import Rejects
from bridge.kinds.resume import Reconciliation
from bridge.ledger.ranges import Range, range_digest
from bridge.ledger.store import Ledger
from bridge.streams.keys import Keys

LINE_LOOKS = 20
"""How often a followed source's files are looked at for a line, while they are replaced as it is read."""


class FollowedSource(Source):
    """A followed source: one logical file with all its generations, whose `tail` alone is shared, with the mirror."""

    def __init__(self, mapping: Mapping, keys: Keys, tail: Tail, ledger: Ledger, clock: Callable[[], float]) -> None:
        super().__init__(mapping, tail.name, tail.notices, ledger, clock)
        self.tail = tail
        self._unended: dict[int, int] = {}
        """How many bytes without a newline stand at the end of finished generations, by generation."""
        self._rejects = Rejects(mapping, tail.name, ledger, clock, self.notices.append, self.counts)
        self._keys = keys
        self._arrivals = WriteTimes()
        self._reader = self._made_reader(mapping)
        self.rewritten: EditedLog | None = None
        """Finds out which lines of a file that took the log's place were carried before; None: nobody asks."""
        self._under_way = 0

    def _made_reader(self, mapping: Mapping) -> LineReader:
        return LineReader(mapping, self.tail, self._ledger, self._rejects, self.codec, self._clock)

    def look(self, paths: set[str] | None) -> bool:
        """Looks at a followed source's file and its rotated pieces for changes. Raises SourceError.

        `paths` are files that something happened to. Where that is the source's own path alone, finished generations
        are not looked at. Always True.
        """
        path = str(self.tail.path)
        with self.tail.lock:
            self.tail.look()
            if paths is None or not paths <= {path}:
                self.tail.watch_finished()
            if (current := self.tail.current()) is not None:
                self._arrivals.note(current)
        return True

    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether a followed file holds at this origin the message that an entry of these fields was made of.

        As far as it seems. The ledger knows every generation that was sent from. A file that was emptied or replaced as
        it was read does not disprove the origin: the message may stand in a copy. Raises SourceError.
        """
        for _ in range(LINE_LOOKS):
            generation = self.tail.of_number(origin.generation)
            if generation is None or generation.content is None:
                return any(record.number == origin.generation for record in self.tail.records())
            identity = generation.identity
            if self._stands(generation, origin.offset, fields):
                return True
            if not self._moved(generation, identity):
                return False
        raise SourceError("its files change faster than they can be looked at", where=str(self.tail.path))

    def _moved(self, generation: Generation, identity: tuple[int, int]) -> bool:
        """Looks at a followed source again; True: a generation is in another file than that of this identity by now.

        Raises SourceError.
        """
        self.tail.look()
        return self.tail.of_number(generation.number) is not generation or generation.identity != identity

    @abstractmethod
    def _stands(self, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        """Whether a followed file's generation holds at an offset now the message of an entry with these fields."""

    def skipped(self) -> list[tuple[str, int, int]]:
        """Returns, once, the stretches of a followed file that its source's cursor passed unread: path, start, end."""
        found, self._reader.skipped = self._reader.skipped, []
        return [(str(generation.path), start, end) for generation, start, end in found]

    @property
    def restless(self) -> bool:
        """Whether a followed source must be looked at although none of its files changed.

        The source reads a file that has no name, is in doubt about one, waits for an intent of the mirror, or has more
        to read.
        """
        return self.tail.restless or bool(self._reader.barred) or self.left() > 0 or self._in_doubt

    @property
    def is_new(self) -> bool:
        """Whether a followed source is new: nobody has seen a byte of its file yet."""
        return not any(known.at.head_len or known.closed for known in self.tail.records())

    @property
    def _in_doubt(self) -> bool:
        first = self.tail.first()
        return first is not None and first.in_doubt

    def _written(self, generation: Generation, offset: int) -> float:
        """Returns by when the byte at this offset of a followed file was written, in seconds since 1970; 0: unknown."""
        with self.tail.lock:
            self._arrivals.note(generation)
        return self._arrivals.of(generation.number, offset)

    @property
    def present(self) -> bool:
        """Whether a followed source has a file: at its path, an older generation, or a finished one that grew."""
        return self.tail.first() is not None or bool(self.tail.late())

    def content_of(self, span: Range) -> bytes:
        """Reads from a followed file the bytes of a mirror's range; empty when the range's generation is not open."""
        for _ in range(LINE_LOOKS):
            held, content = self.tail.of_number(span.generation), b""
            if held is None:
                break
            identity, content = held.identity, held.read(span.end - span.start, span.start)
            if range_digest(content) == span.digest or not self._moved(held, identity):
                break
        return content

    def forget_lost(self, compared: Reconciliation) -> None:
        """Makes the ledger forget that lines of an edited followed file were carried, where Redis lost their entries.

        Inside a ledger transaction.
        """
        if any(known.rewrites for known in self.tail.records()):
            forget_carried(self.tail, self._ledger, self._stream, self.memory.number, self.codec, compared)
            self._reader.forget()

    def unfinished(self) -> int:
        """Counts the bytes of a followed source that stand in last lines without a newline."""
        first, total = self.tail.first(), sum(self._unended.values())
        current = first is not None and first is self.tail.current() and not first.packed
        return total + (self.left() if current else 0)

    @property
    def skipped_since(self) -> float | None:
        """Since when a followed source's reader is ahead of its cursor, over bytes without entries; None: it is not."""
        return self._reader.skipped_since

    def next_wake(self) -> float | None:
        """Returns after how many seconds a followed file is looked at again, as its next message is not ended.

        None: all its messages are ended.
        """
        return self.patience if self._waits else None

    @property
    def _waits(self) -> bool:
        return self._reader.settling or (self.rewritten is not None and self.rewritten.waits)

    @property
    def settling(self) -> int:
        """How many messages of a followed file are not complete yet: its bytes left at most, 0 while none waits."""
        return self.left() if self._waits else 0

    def left(self) -> int:
        """Counts the bytes of a followed source's generations on disk that are still to be read."""
        return sum(generation.left() for generation in self.tail.pending())

    def on_disk(self) -> int:
        """Counts the bytes that all known generations of a followed source have on disk, as far as that is known."""
        done = [
            record.packed[0] if record.packed else record.at.offset for record in self.tail.records() if record.closed
        ]
        return sum(done) + sum(generation.left(0) for generation in self.tail.pending())

    def end(self) -> Position | None:
        """Returns the position at which a followed source's newest file ends now; None: the source has no file."""
        last = self.tail.current()
        if last is None:
            return None
        return Position(last.number + 1, 0) if last.packed else Position(last.number, last.size())

    def take_news(self) -> list[str]:
        """Writes new generations of a followed file into the ledger; returns notices for the log."""
        return keep_news(self.tail, self._ledger, self._stream)
