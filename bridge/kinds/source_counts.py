"""Counts what became of a source's lines since the process began: entries, rejects, empty lines, clamped entry IDs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SourceCounts:
    """The counts of one source: lines that became entries, rejected and empty lines, and entries of another time as ID.

    `clamped` are the last. `earliest` and `latest` are times of messages, in ms since 1970, 0: none.
    """

    entries: int = 0
    rejected: int = 0
    empty: int = 0
    clamped: int = 0
    earliest: int = 0
    latest: int = 0

    @property
    def read(self) -> int:
        """How many messages of the source became entries or were rejected."""
        return self.entries + self.rejected

    def timed(self, times: list[int]) -> None:
        """Extends a source's earliest and latest time to these times of entries, of which 0 is none."""
        first = min(filter(None, times), default=0)
        if not first:
            return
        self.earliest = min(first, self.earliest) if self.latest else first
        self.latest = max(self.latest, max(times))
