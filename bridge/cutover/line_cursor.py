"""The line cursor: tells where in the files the lines of a stream's entries stand, from the ledger's ranges."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.core.model import EntryId, Position
from bridge.ledger.ranges import LARGEST, unpack_written
from bridge.ledger.store import Ledger

Where = tuple[str, Position]
"""A message's place in the files: the name of the file, and the generation and offset of the line."""


class LineCursor:
    """Tells where in the files the mirror wrote the lines of entries, from ledger ranges that are loaded on demand."""

    def __init__(self, ledger: Ledger, stream: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._from: int | None = None
        self._at: dict[EntryId, Where] = {}

    def load(self, ms: int) -> None:
        """Loads into the line cursor the ledger's ranges with entries of the time `ms` and later, unless loaded."""
        low = min(ms, LARGEST)
        if self._from is not None and low >= self._from:
            return
        sql = "SELECT name, generation, start, entries FROM ranges WHERE stream = ? AND last_ms >= ?"
        above = () if self._from is None else (self._from,)
        rows = self._ledger.rows(sql + " AND last_ms < ?" * len(above), (self._stream, low, *above))
        self._from = low
        for name, generation, start, blob in rows:
            at = start
            for entry_id, length in unpack_written(blob):
                self._at[entry_id] = name, Position(generation, at)
                at += length

    def of(self, entry_id: EntryId) -> Where | None:
        """Returns where the mirror wrote an entry's line; None: the line cursor has loaded no range with that entry."""
        return self._at.get(entry_id)

    def all(self) -> Iterator[tuple[EntryId, Where]]:
        """Iterates over the mirrored entries that the line cursor has loaded, each with where its line begins."""
        return iter(self._at.items())
