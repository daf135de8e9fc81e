"""Looks at the files of a spool: which messages of the folder are due, and how many bytes that is."""

from __future__ import annotations

import os
import time

from bridge.core.model import Position
from bridge.kinds.source_files import SourceFiles, SourceLag
from bridge.kinds.spool.scanner import FolderScanner
from bridge.ledger import spool_messages
from bridge.ledger.ranges import Range
from bridge.ledger.store import Ledger


class SpoolFiles(SourceFiles):
    """The files of a spool: one folder with a file for each message, which `scanner` takes in when they are complete.

    A file may have `limit` bytes at most.
    """

    def __init__(self, scanner: FolderScanner, ledger: Ledger, stream: str, limit: int) -> None:
        self._scanner = scanner
        self._ledger = ledger
        self._stream = stream
        self._limit = limit
        self._counted_at = -2.0
        self._totals: tuple[int, int, int, int | None] = (0, 0, 0, None)

    def look(self, paths: set[str] | None) -> bool:
        """Takes complete files of a spool's folder in as due, or only those at `paths`; False: no path is the spool's.

        A file that cannot be read is reported, and the others go on. Raises SourceError, LedgerError.
        """
        looked, scanner = self._scanner.look(paths), self._scanner
        tight = [scanner.tight] if scanner.tight is not None else []
        self.unreadable = next(iter([*tight, *scanner.unreadable.values(), *scanner.folder.unreadable]), None)
        return looked

    def take_news(self) -> list[str]:
        """Returns the spool's notices for the log, once."""
        said = list(self._scanner.notices)
        self._scanner.notices.clear()
        return said

    def end(self) -> Position | None:
        """Returns a position as a sign that the spool has due or incomplete files; None: nothing.

        What is in the folder when it is first met is history.
        """
        self.count_anew()
        return Position(1, 0) if self._count()[1] or self._scanner.waiting else None

    def content_of(self, span: Range) -> bytes:
        """Reads the spool file that the mirror wrote for this range; empty when the file is gone."""
        taken = self._scanner.folder.read(os.fsencode(span.name), self._limit + 1)
        return taken.raw if taken is not None else b""

    @property
    def settling(self) -> int:
        """How many files of the spool wait to be complete before their messages are due; rather too many."""
        return len(self._scanner.waiting)

    def lag(self) -> SourceLag:
        """Measures what is left of a spool: messages that are due, also those on their way, and incomplete files."""
        carried, _, due, _ = self._count()
        return SourceLag(due, carried + due, sum(file.facts.size for file in self._scanner.waiting.values()))

    def count_anew(self) -> None:
        """Makes the next question for a spool's messages count them anew in the ledger."""
        self._counted_at = -2.0

    def _count(self) -> tuple[int, int, int, int | None]:
        """Counts the carried and due messages of a spool, once a second at most: there may be many.

        Returns the bytes of carried files; number, bytes and earliest time, in ms, of due messages.
        """
        now = time.monotonic()
        if now >= self._counted_at + 1:
            self._counted_at, self._totals = now, spool_messages.totals(self._ledger, self._stream)
        return self._totals
