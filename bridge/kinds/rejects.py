"""Lines that cannot be entries: what is kept of them, and one word in the log for each kind of reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bridge.core.errors import RejectStop
from bridge.core.mapping import Mapping
from bridge.core.model import hex_digest, shown
from bridge.ledger.quarantine import KEPT_LINE_BYTES, QuarantinedMessage, add_quarantined
from bridge.ledger.store import Ledger


class RejectKinds:
    """Says each kind of reason once a process: a thousand broken lines are one line in the log."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._said: set[str] = set()

    def tell(self, found: Iterable[QuarantinedMessage]) -> None:
        """Logs the first of each kind that was not met before."""
        for quarantined in found:
            if quarantined.kind not in self._said:
                self._said.add(quarantined.kind)
                line = f"the line at offset {quarantined.offset}" if quarantined.generation else quarantined.name
                what = f"entry {quarantined.entry_id}" if quarantined.entry_id else line
                why = f"{quarantined.reason} (`bridge quarantine list` shows it, and any more)"
                self._say(f"{self._name}: quarantined {what}: {why}")


class Rejects:
    """The lines of one source that cannot be entries."""

    def __init__(
        self, mapping: Mapping, name: str, ledger: Ledger, clock: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self.count = 0
        self.stops = mapping.policy.on_reject == "stop"
        self._limit = mapping.format.max_line_bytes
        self._stream = mapping.stream.key
        self._name = name
        self._ledger = ledger
        self._clock = clock
        self._kinds = RejectKinds(name, say)

    def of(self, generation: int, offset: int, line: bytes, reason: str) -> QuarantinedMessage | None:
        """A line that is over the limit, or has a reason already, as what is kept of it; else None."""
        if len(line) > self._limit:
            digest = hex_digest(line)
            return self.too_long(generation, offset, line[:KEPT_LINE_BYTES], len(line), digest)
        if reason:
            return QuarantinedMessage("forward", self._name, generation, offset, "", reason, line, len(line))
        return None

    def too_long(self, generation: int, offset: int, kept: bytes, length: int, digest: str) -> QuarantinedMessage:
        """A line over `max_line_bytes`: its first bytes, length and digest."""
        reason = f"over max_line_bytes: a line of {length} bytes, the limit is {self._limit}"
        return self.rest(generation, offset, kept, length, digest, reason)

    def rest(
        self, generation: int, offset: int, kept: bytes, length: int, digest: str, reason: str
    ) -> QuarantinedMessage:
        """What has no end, or too late a one: its first bytes, length and digest."""
        return QuarantinedMessage("forward", self._name, generation, offset, "", reason, kept, length, digest)

    def keep(self, aside: list[QuarantinedMessage]) -> None:
        """Puts them into quarantine. Raises RejectStop where the mapping says so, LedgerError."""
        if aside and self.stops:
            raise self.stop(aside[0])
        with self._ledger.transaction():
            add_quarantined(self._ledger, self._stream, aside, self._clock())
        self.count += len(aside)
        self._kinds.tell(aside)

    def stop(self, quarantined: QuarantinedMessage) -> RejectStop:
        """The error of `on_reject = "stop"`."""
        return RejectStop(
            f"{quarantined.reason}: {shown(quarantined.raw, 80)}",
            where=f"{self._name} offset {quarantined.offset}",
            hint='mend the line or the mapping, or set policy.on_reject = "quarantine"',
        )
