"""A source that is one logical file, with all its generations: what there is of that, and how much is left to carry."""

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
"""How often a source's files are looked at for a line, while they are replaced as it is read."""


class FollowedSource(Source):
    """A source that is one logical file, with all its generations. Only its `tail` is shared, with the mirror."""

    def __init__(self, mapping: Mapping, keys: Keys, tail: Tail, ledger: Ledger, clock: Callable[[], float]) -> None:
        super().__init__(mapping, tail.name, tail.notices, ledger, clock)
        self.tail = tail
        self._unended: dict[int, int] = {}
        """How many bytes without a newline stand at the end of finished generations, by generation."""
        self._rejects = Rejects(mapping, tail.name, ledger, clock, self.notices.append)
        self._keys = keys
        self._arrivals = WriteTimes()
        self._reader = self._made_reader(mapping)
        self.rewritten: EditedLog | None = None
        """What finds out which lines of a file that took the log's place were carried; None: nobody asks."""
        self._under_way = 0

    def _made_reader(self, mapping: Mapping) -> LineReader:
        return LineReader(mapping, self.tail, self._ledger, self._rejects, self.codec, self._clock)

    def look(self, paths: set[str] | None) -> bool:
        """The source looks at its file and the file's pieces; something happened to `paths`, if any are given.

        Raises SourceError.
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
        """Whether the source's file holds at this origin what an entry of these fields was made of, as far as it seems.

        The ledger knows every generation that was sent from. A file that was emptied or replaced as it was read does
        not speak against it: what stood there may stand in a copy. Raises SourceError.
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
        """Whether a generation stands in another file than that of this identity by now. Raises SourceError."""
        self.tail.look()
        return self.tail.of_number(generation.number) is not generation or generation.identity != identity

    @abstractmethod
    def _stands(self, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        """Whether a generation holds at an offset what an entry of these fields was made of, as it is read now."""

    def skipped(self) -> list[tuple[str, int, int]]:
        """Takes the stretches of files that the source's cursor went over unread: path, and from where to where."""
        found, self._reader.skipped = self._reader.skipped, []
        return [(str(generation.path), start, end) for generation, start, end in found]

    @property
    def restless(self) -> bool:
        """Whether the source must be looked at although none of its files changed.

        One is read that has no name, or there is more to read than was read by now.
        """
        return self.tail.restless or bool(self._reader.barred) or self.left() > 0 or self._in_doubt

    @property
    def is_new(self) -> bool:
        """Whether nobody has seen a byte of the source's file yet."""
        return not any(known.at.head_len or known.closed for known in self.tail.records())

    @property
    def _in_doubt(self) -> bool:
        first = self.tail.first()
        return first is not None and first.in_doubt

    def _written(self, generation: Generation, offset: int) -> float:
        """When the byte at this offset of a generation was there, in seconds since 1970; 0 where nobody can tell."""
        with self.tail.lock:
            self._arrivals.note(generation)
        return self._arrivals.of(generation.number, offset)

    @property
    def present(self) -> bool:
        """Whether the source has a file: the one at its path, an older generation, or a finished one that grew."""
        return self.tail.first() is not None or bool(self.tail.late())

    def content_of(self, span: Range) -> bytes:
        """Reads the bytes of a range that the mirror wrote to the file; empty when its generation is not open."""
        for _ in range(LINE_LOOKS):
            held, content = self.tail.of_number(span.generation), b""
            if held is None:
                break
            identity, content = held.identity, held.read(span.end - span.start, span.start)
            if range_digest(content) == span.digest or not self._moved(held, identity):
                break
        return content

    def forget_lost(self, compared: Reconciliation) -> None:
        """Forgets, inside a ledger transaction, that lines of edited files were carried whose entries Redis lost."""
        if any(known.rewrites for known in self.tail.records()):
            forget_carried(self.tail, self._ledger, self._stream, self.memory.number, self.codec, compared)
            self._reader.forget()

    def unfinished(self) -> int:
        """How many bytes of the source stand in last lines without a newline."""
        first, total = self.tail.first(), sum(self._unended.values())
        current = first is not None and first is self.tail.current() and not first.packed
        return total + (self.left() if current else 0)

    @property
    def skipped_since(self) -> float | None:
        """Since when the source's reader is ahead of its cursor, over bytes without entries; None when it is not."""
        return self._reader.skipped_since

    def next_wake(self) -> float | None:
        """Returns the seconds after which the file is looked at again, as its next message is not ended; else None."""
        return self.patience if self._waits else None

    @property
    def _waits(self) -> bool:
        return self._reader.settling or (self.rewritten is not None and self.rewritten.waits)

    @property
    def rejected(self) -> int:
        """How many lines of the file were set aside in quarantine."""
        return self._rejects.count

    @property
    def settling(self) -> int:
        """How many messages of the file are not complete yet: no more than it has bytes left, 0 while none waits."""
        return self.left() if self._waits else 0

    def left(self) -> int:
        """How many bytes of the source's generations on disk are still to be read."""
        return sum(generation.left() for generation in self.tail.pending())

    def on_disk(self) -> int:
        """How many bytes all known generations of the source have on disk, as far as that is known."""
        done = [
            record.packed[0] if record.packed else record.at.offset for record in self.tail.records() if record.closed
        ]
        return sum(done) + sum(generation.left(0) for generation in self.tail.pending())

    def end(self) -> Position | None:
        """The position at which a log's newest file ends now, generation and offset; None: the log has no file."""
        last = self.tail.current()
        if last is None:
            return None
        return Position(last.number + 1, 0) if last.packed else Position(last.number, last.size())

    def take_news(self) -> list[str]:
        """The source writes new generations of its file into the ledger; returns notices for the log."""
        return keep_news(self.tail, self._ledger, self._stream)
