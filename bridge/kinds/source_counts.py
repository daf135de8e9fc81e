"""What became of a source's lines since the process began."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SourceCounts:
    """What was read of a source: lines that became entries, and those that were empty; of the entries how many
    have another ID than their own time. `earliest` and `latest` are times of messages, in ms since 1970, 0: none."""

    entries: int = 0
    empty: int = 0
    clamped: int = 0
    earliest: int = 0
    latest: int = 0

    def timed(self, times: list[int]) -> None:
        """Takes in the times of entries."""
        first = min(times)
        self.earliest = min(first, self.earliest) if self.latest else first
        self.latest = max(self.latest, max(times))
