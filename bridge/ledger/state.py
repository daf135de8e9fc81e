"""What was last carried of each state, the digest and the time of its value; and which side owns them by now."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Owner:
    """Which side's values count, `file` or `redis`. `asked`: the other's are to, and nothing is carried until then."""

    side: str
    asked: bool = False
    noted: bool = False
    """Whether the bridge knows that something is asked."""


def owner_of(ledger: Ledger | None, stream: str, declared: str) -> Owner:
    """Of the values of a stream: as the mapping declares it, until a component that writes them is switched."""
    rows = ledger.rows("SELECT owner, asked, noted FROM state_owners WHERE stream = ?", (stream,)) if ledger else []
    for side, asked, noted in rows:
        return Owner(side or declared, asked is not None, bool(noted))
    return Owner(declared)


def ask_owner(ledger: Ledger, stream: str, component: str, side: str, now: float) -> None:
    """Asks the bridge to carry nothing, until that side owns them or does not."""
    ledger.write(
        "INSERT INTO state_owners (stream, component, asked, asked_at, noted) VALUES (?, ?, ?, ?, 0) ON CONFLICT DO"
        " UPDATE SET component = excluded.component, asked = excluded.asked, asked_at = excluded.asked_at, noted = 0",
        (stream, component, side, now),
    )


def note_asked(ledger: Ledger, stream: str) -> None:
    """The bridge knows, and carries nothing."""
    ledger.write("UPDATE state_owners SET noted = 1 WHERE stream = ?", (stream,))


def settle_owner(ledger: Ledger, stream: str, *, made: bool) -> None:
    """The side that was asked for owns them; or not."""
    owner = "owner = coalesce(asked, owner), " if made else ""
    ledger.write(f"UPDATE state_owners SET {owner}asked = NULL, asked_at = NULL WHERE stream = ?", (stream,))


def asked_owners(ledger: Ledger, before: float) -> list[tuple[str, str]]:
    """The streams and components for which another owner was asked before then, seconds since 1970."""
    rows = ledger.rows("SELECT stream, component FROM state_owners WHERE asked_at < ?", (before,))
    return [(str(stream), str(component)) for stream, component in rows]
