"""Looks at the files of a followed source: one logical file with all its generations, as a log or a context is."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.errors import SourceError
from bridge.core.model import Origin, Position
from bridge.files.generation import Generation
from bridge.files.tail import Tail
from bridge.kinds.direction_stats import WriteTimes
from bridge.kinds.log.dual_write import DualWrittenLines
from bridge.kinds.log.edited_log import EditedLog
from bridge.kinds.log.line_reader import LineReader
from bridge.kinds.mapping_context import keep_news
from bridge.kinds.source_files import SourceFiles, SourceLag
from bridge.ledger.ranges import Range, range_digest
from bridge.ledger.store import Ledger

LINE_LOOKS = 20
"""How often a followed source's files are looked at for a line, while they are replaced as it is read."""


class FollowedFiles(SourceFiles):
    """The files of a followed source: one logical file and its generations, whose `tail` alone the mirror shares.

    `edited` finds out which lines of a file that took the log's place were carried before; None: nobody asks.
    """

    def __init__(self, tail: Tail, reader: LineReader, dual: DualWrittenLines, ledger: Ledger, stream: str) -> None:
        self.tail = tail
        self.edited: EditedLog | None = None
        self.unended: dict[int, int] = {}
        """How many bytes without a newline stand at the end of finished generations, by generation."""
        self._reader = reader
        self._dual = dual
        self._ledger = ledger
        self._stream = stream
        self._arrivals = WriteTimes()

    def look(self, paths: set[str] | None) -> bool:
        """Looks at a followed source's file and its rotated pieces for changes, and for windows of dual write.

        `paths` are files that something happened to. Where that is the source's own path alone, finished generations
        are not looked at. Always True. Raises SourceError, LedgerError.
        """
        path = str(self.tail.path)
        with self.tail.lock:
            self.tail.look()
            if paths is None or not paths <= {path}:
                self.tail.watch_finished()
            if (current := self.tail.current()) is not None:
                self._arrivals.note(current)
        first = self.tail.first()
        self._dual.look(Position(first.number, first.read_to) if first is not None else Position(0, 0))
        return True

    def take_news(self) -> list[str]:
        """Writes new generations of a followed file into the ledger; returns notices for the log."""
        return keep_news(self.tail, self._ledger, self._stream)

    def holds(self, origin: Origin, holds: Callable[[Generation, int], bool]) -> bool:
        """Whether a followed file holds at this origin the message that `holds` finds in a generation at an offset.

        As far as it seems. The ledger knows every generation that was sent from. A file that was emptied or replaced as
        it was read does not disprove the origin: the message may stand in a copy. Raises SourceError.
        """
        for _ in range(LINE_LOOKS):
            generation = self.tail.of_number(origin.generation)
            if generation is None or generation.content is None:
                return any(record.number == origin.generation for record in self.tail.records())
            identity = generation.identity
            if holds(generation, origin.offset):
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

    @property
    def is_new(self) -> bool:
        """Whether a followed source is new: nobody has seen a byte of its file yet."""
        return not any(known.at.head_len or known.closed for known in self.tail.records())

    @property
    def present(self) -> bool:
        """Whether a followed source has a file: at its path, an older generation, or a finished one that grew."""
        return self.tail.first() is not None or bool(self.tail.late())

    @property
    def restless(self) -> bool:
        """Whether a followed source must be looked at although none of its files changed.

        The source reads a file that has no name, is in doubt about one, waits for an intent of the mirror, or has more
        to read.
        """
        first = self.tail.first()
        in_doubt = first is not None and first.in_doubt
        return self.tail.restless or bool(self._reader.barred) or self._left() > 0 or in_doubt

    def skipped(self) -> list[tuple[str, int, int]]:
        """Returns, once, the stretches of a followed file that its source's cursor passed unread: path, start, end."""
        found, self._reader.skipped = self._reader.skipped, []
        return [(str(generation.path), start, end) for generation, start, end in found]

    def written(self, generation: Generation, offset: int) -> float:
        """Returns by when the byte at this offset of a followed file was written, in seconds since 1970; 0: unknown."""
        with self.tail.lock:
            self._arrivals.note(generation)
        return self._arrivals.of(generation.number, offset)

    @property
    def waits(self) -> bool:
        """Whether a followed file's next message is not ended, or the file is not at rest, so that forward waits."""
        return self._reader.settling or (self.edited is not None and self.edited.waits)

    @property
    def settling(self) -> int:
        """How many messages of a followed file are not complete yet: its bytes left at most, 0 while none waits."""
        return self._left() if self.waits else 0

    def lag(self) -> SourceLag:
        """Measures what is left to carry of a followed source's generations; an unended last line is unfinished."""
        left, first = self._left(), self.tail.first()
        closed = [record for record in self.tail.records() if record.closed]
        done = sum(record.packed[0] if record.packed else record.at.offset for record in closed)
        on_disk = done + sum(generation.left(0) for generation in self.tail.pending())
        current = first is not None and first is self.tail.current() and not first.packed
        unfinished = sum(self.unended.values()) + (left if current else 0)
        return SourceLag(left, on_disk, unfinished)

    def _left(self) -> int:
        return sum(generation.left() for generation in self.tail.pending())

    def end(self) -> Position | None:
        """Returns the position at which a followed source's newest file ends now; None: the source has no file."""
        last = self.tail.current()
        if last is None:
            return None
        return Position(last.number + 1, 0) if last.packed else Position(last.number, last.size())
