"""Counts what became of a source's lines since the process began: entries, empty lines, and clamped entry IDs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SourceCounts:
    """The counts of one source: lines that became entries, empty lines, and entries whose ID is not their own time.

    `clamped` are the last. `earliest` and `latest` are times of messages, in ms since 1970, 0: none.
    """

    entries: int = 0
    empty: int = 0
    clamped: int = 0
    earliest: int = 0
    latest: int = 0

    def timed(self, times: list[int]) -> None:
        """Extends a source's earliest and latest time to these times of entries."""
        first = min(times)
        self.earliest = min(first, self.earliest) if self.latest else first
        self.latest = max(self.latest, max(times))
