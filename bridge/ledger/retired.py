"""Which streams are retired: nothing is carried for them any more."""

from __future__ import annotations

from bridge.ledger.store import Ledger


def retired(ledger: Ledger) -> dict[str, float]:
    """The streams, and since when, in seconds since 1970."""
    return {str(stream): float(at) for stream, at in ledger.rows("SELECT stream, at FROM retired")}


def retire(ledger: Ledger, stream: str, mapping: str, who: str, at: float) -> None:
    """Notes that it is, once and for all."""
    ledger.write(
        "INSERT OR IGNORE INTO retired (stream, mapping, at, who) VALUES (?, ?, ?, ?)", (stream, mapping, at, who)
    )
