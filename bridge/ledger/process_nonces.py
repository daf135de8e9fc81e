"""Keeps in the ledger the nonces of the processes that carried a stream with it, and where the ledger lay then."""

from __future__ import annotations

from bridge.ledger.store import Ledger

KEPT_NONCES = 1000
"""Nonces of processes that are kept of each stream: they tell a Redis that went back in time from a ledger that did."""


def nonces(ledger: Ledger, stream: str) -> dict[str, str]:
    """Reads from the ledger the nonces of processes that carried a stream, oldest first, and where it lay then."""
    rows = ledger.rows("SELECT nonce, place FROM nonces WHERE stream = ? ORDER BY id", (stream,))
    return {str(nonce): str(place) for nonce, place in rows}


def note_nonce(ledger: Ledger, stream: str, nonce: str, place: str) -> None:
    """Notes in the ledger that the process of this nonce begins to carry the stream, before Redis is told.

    From then on this very ledger vouches for the stream's files (`bridge.ledger.retired.doubt`).
    """
    with ledger.transaction():
        note_begun(ledger, stream)
        ledger.write("DELETE FROM nonces WHERE stream = ? AND nonce = ?", (stream, nonce))
        ledger.write("INSERT INTO nonces (stream, nonce, place) VALUES (?, ?, ?)", (stream, nonce, place))
        ledger.write(
            "DELETE FROM nonces WHERE stream = ? AND id <= (SELECT max(id) FROM nonces WHERE stream = ?) - ?",
            (stream, stream, KEPT_NONCES),
        )


def note_begun(ledger: Ledger, stream: str) -> None:
    """Notes in the ledger that a process carries a stream with this ledger, or is about to: Redis was asked."""
    ledger.write("INSERT OR REPLACE INTO identity (name, value) VALUES (?, ?)", (f"begun {stream}", ledger.birth))


def adopt_nonces(ledger: Ledger, stream: str, nonce: str) -> None:
    """Makes a ledger that was rebuilt the one with which the processes of these nonces carried a stream.

    Inside a transaction. The ledger was made anew from what those processes left. `nonce` is that of the last of them,
    empty: none. Redis may go back to what any of them wrote.
    """
    ledger.write("UPDATE nonces SET place = '' WHERE stream = ?", (stream,))
    if nonce:
        ledger.write("DELETE FROM nonces WHERE stream = ? AND nonce = ?", (stream, nonce))
        ledger.write("INSERT INTO nonces (stream, nonce, place) VALUES (?, ?, '')", (stream, nonce))
