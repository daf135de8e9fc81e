"""Puts rejected lines, which cannot be entries, into quarantine, and logs one line for each kind of reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bridge.core.errors import RejectStop
from bridge.core.mapping import Mapping
from bridge.core.model import Row, hex_digest, shown
from bridge.kinds.source_counts import SourceCounts
from bridge.ledger.quarantine import KEPT_LINE_BYTES, QuarantinedMessage, add_quarantined
from bridge.ledger.store import Ledger


class RejectKinds:
    """Logs each kind of reason for a reject once in a process: a thousand rejected lines are one line in the log."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._said: set[str] = set()

    def tell(self, found: Iterable[QuarantinedMessage]) -> None:
        """Logs the first rejected message of each kind of reason that this process has not logged before."""
        for quarantined in found:
            if quarantined.kind not in self._said:
                self._said.add(quarantined.kind)
                line = f"the line at offset {quarantined.offset}" if quarantined.generation else quarantined.name
                what = f"entry {quarantined.entry_id}" if quarantined.entry_id else line
                why = f"{quarantined.reason} (`bridge quarantine list` shows it, and any more)"
                self._say(f"{self._name}: quarantined {what}: {why}")


class Rejects:
    """Puts the rejected lines of one source, which cannot be entries, into quarantine, and counts them."""

    def __init__(
        self, mapping: Mapping, name: str, ledger: Ledger, clock: Callable[[], float], say: Callable[[str], None],
        counts: SourceCounts,
    ) -> None:  # fmt: skip
        self._counts = counts
        self.stops = mapping.policy.on_reject == "stop"
        self._limit = mapping.format.max_line_bytes
        self._stream = mapping.stream.key
        self._name = name
        self._ledger = ledger
        self._clock = clock
        self._kinds = RejectKinds(name, say)

    def of(self, generation: int, offset: int, line: bytes, reason: str) -> QuarantinedMessage | None:
        """Makes the quarantined message of a rejected line: over the limit, or with a reason; None: a good line."""
        if len(line) > self._limit:
            digest = hex_digest(line)
            return self.too_long(generation, offset, line[:KEPT_LINE_BYTES], len(line), digest)
        if reason:
            return QuarantinedMessage("forward", self._name, generation, offset, "", reason, line, len(line))
        return None

    def too_long(self, generation: int, offset: int, kept: bytes, length: int, digest: str) -> QuarantinedMessage:
        """Makes the quarantined message of a line over `max_line_bytes`: its first bytes, length and digest."""
        reason = f"over max_line_bytes: a line of {length} bytes, the limit is {self._limit}"
        return self.rest(generation, offset, kept, length, digest, reason)

    def rest(
        self, generation: int, offset: int, kept: bytes, length: int, digest: str, reason: str
    ) -> QuarantinedMessage:
        """Makes the quarantined message of a rejected line of which only first bytes, length and digest are known."""
        return QuarantinedMessage("forward", self._name, generation, offset, "", reason, kept, length, digest)

    def keep(self, aside: list[QuarantinedMessage]) -> None:
        """Writes rejected lines into quarantine. Raises RejectStop where the mapping stops at rejects, LedgerError."""
        if aside and self.stops:
            raise self.stop(aside[0])
        with self._ledger.transaction():
            add_quarantined(self._ledger, self._stream, aside, self._clock())
        self._counts.rejected += len(aside)
        self._kinds.tell(aside)

    def sort_out(
        self, generation: int, lines: Sequence[bytes], offsets: Sequence[int], rows: Sequence[Row | str]
    ) -> tuple[list[int], int]:
        """Separates the lines of a batch that are entries from rejected ones, which go into quarantine.

        `rows` has each line's row, or the reason why it has none; empty lines are counted. Returns the places of the
        good lines, and how many lines were looked at: under `on_reject = "stop"` all before the first reject. Raises
        RejectStop where that is the first line, LedgerError.
        """
        good: list[int] = []
        aside: list[QuarantinedMessage] = []
        for place, row in enumerate(rows):
            if not lines[place]:
                self._counts.empty += 1
                continue
            reason = row if isinstance(row, str) else ""
            quarantined = self.of(generation, offsets[place], lines[place], reason)
            if quarantined is None:
                good.append(place)
                continue
            if self.stops:
                if place == 0:
                    raise self.stop(quarantined)
                return [before for before in good if before < place], place
            aside.append(quarantined)
        self.keep(aside)
        return good, len(rows)

    def stop(self, quarantined: QuarantinedMessage) -> RejectStop:
        """Makes the error that a rejected line raises under `on_reject = "stop"`."""
        return RejectStop(
            f"{quarantined.reason}: {shown(quarantined.raw, 80)}",
            where=f"{self._name} offset {quarantined.offset}",
            hint='mend the line or the mapping, or set policy.on_reject = "quarantine"',
        )
