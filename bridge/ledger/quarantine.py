"""Lines that cannot be entries and entries that cannot be lines: raw bytes, position, reason (P7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bridge.ledger.store import Ledger

KEPT = 1 << 16
"""Of a line over `max_line_bytes`, this many first bytes are kept, with its length and digest."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One message that stays behind. `direction` is forward or mirror; `entry_id` is empty for a line."""

    direction: str
    name: str
    generation: int
    offset: int
    entry_id: str
    reason: str
    raw: bytes
    length: int
    digest: str = ""


def add_quarantined(ledger: Ledger, stream: str, found: Iterable[Quarantined], now: float) -> None:
    """Keeps them; one that is kept already stays as it is, so a replay adds nothing."""
    for one in found:
        ledger.write(
            "INSERT OR IGNORE INTO quarantine (stream, direction, name, generation, offset, entry_id, reason, raw,"
            " length, digest, noted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (stream, one.direction, one.name, one.generation, one.offset, one.entry_id, one.reason, one.raw, one.length,
             one.digest, now),
        )  # fmt: skip


def quarantine_counts(ledger: Ledger, stream: str) -> list[tuple[str, str, int]]:
    """(direction, reason, count), the commonest first."""
    return [
        (str(direction), str(reason), int(count))
        for direction, reason, count in ledger.rows(
            "SELECT direction, reason, count(*) FROM quarantine WHERE stream = ? GROUP BY 1, 2 ORDER BY 3 DESC",
            (stream,),
        )
    ]
