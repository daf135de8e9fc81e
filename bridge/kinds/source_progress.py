"""The progress of one source: how far forward carried it, as Redis confirmed, and what the ledger remembers of that."""

from __future__ import annotations

import logging
from dataclasses import replace

from bridge.core.logger import logger
from bridge.core.model import Checkpoint, Position
from bridge.kinds.source_counts import SourceCounts
from bridge.ledger.sources import SourceMemory, save_source
from bridge.ledger.store import Ledger


class SourceProgress:
    """The progress of one source of any kind: its number, its cursor in Redis, and how far its history goes.

    `stored` is the checkpoint's value in Redis, `late_stored` those of ended generations. `standing`, while a stream
    that began anew is filled again: the offsets whose entries stand, by source and generation.
    """

    __slots__ = ("_ledger", "_name", "_of_many", "_stream", "counts", "late_stored", "memory", "standing", "stored")

    def __init__(self, ledger: Ledger, stream: str, name: str, counts: SourceCounts, *, of_many: bool) -> None:
        self.memory = SourceMemory(0)
        self.stored: bytes | None = None
        self.late_stored: dict[int, bytes | None] = {}
        self.standing: dict[tuple[int, int], set[int]] = {}
        self.counts = counts
        self._ledger = ledger
        self._stream = stream
        self._name = name
        self._of_many = of_many

    @property
    def number(self) -> int:
        """The number that stands for the source in the origins of its entries; 0: it has none yet."""
        return self.memory.number

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The source's checkpoint, as Redis holds it; None: Redis holds none."""
        return Checkpoint.from_json(self.stored) if self.stored else None

    def begin(self, number: int, history: Position | None) -> SourceMemory:
        """Makes the ledger's memory of a source that was never carried: all up to `history`, its end, is history."""
        return SourceMemory(number, None, history is None, history)

    def extend_history(self, end: Position | None) -> None:
        """Marks all of a source up to its `end` as history, as if forward met the source for the first time."""
        if end is not None and (self.memory.history is None or self.memory.history < end):
            self.memory = replace(self.memory, live=False, history=end)

    def go_live(self, why: str) -> None:
        """Marks a source as live: from here on its lines get the time of sending as entry ID; the log says `why`."""
        self.memory = replace(self.memory, live=True)
        clamped = self.counts.clamped
        later = f"; {clamped} lines have another time as entry ID than their own" if clamped else ""
        level = logging.DEBUG if self._of_many else logging.INFO  # thousands of sources would say the same
        facts = {"source": self._name, "clamped": clamped}
        logger.log(level, "%s: %s%s", self._name, why, later, extra={"facts": facts})

    def refilled(self) -> None:
        """Ends the refill of a source, as all lines are sent again that a stream which began anew had lost."""
        self.memory, self.standing = replace(self.memory, refill=None), {}

    def save(self) -> None:
        """Saves into the ledger how far a source was carried, as Redis confirmed. Raises LedgerError."""
        save_source(self._ledger, self._stream, self._name, replace(self.memory, stored=self.stored))
