"""What was last carried of each state: the digest and the time of its value."""

from __future__ import annotations

from bridge.ledger.store import Ledger


def values(ledger: Ledger, stream: str) -> dict[bytes, tuple[bytes, bytes]]:
    """SHA-256 in hex and timestamp of the value that both sides held last, by name."""
    rows = ledger.rows("SELECT name, sha256, timestamp FROM state_values WHERE stream = ?", (stream,))
    return {name: (sha.encode(), stamp) for name, sha, stamp in rows}


def save_value(ledger: Ledger, stream: str, name: bytes, sha256: bytes, timestamp: bytes) -> None:
    """Both sides hold this value."""
    ledger.write(
        "INSERT OR REPLACE INTO state_values (stream, name, sha256, timestamp) VALUES (?, ?, ?, ?)",
        (stream, name, sha256.decode(), timestamp),
    )
