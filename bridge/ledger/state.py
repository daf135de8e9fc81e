"""What was last carried of each state, the digest and the time of its value; and which side owns them by now."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.ledger.store import Ledger


def values(ledger: Ledger, stream: str) -> dict[bytes, tuple[bytes, bytes]]:
    """SHA-256 in hex and timestamp of the value that both sides held last, by name."""
    rows = ledger.rows("SELECT name, sha256, timestamp FROM state_values WHERE stream = ?", (stream,))
    return {name: (sha.encode(), stamp) for name, sha, stamp in rows}


def save_value(
    ledger: Ledger, stream: str, name: bytes, sha256: bytes, timestamp: bytes, version: int = 0
) -> None:  # fmt: skip
    """Both sides hold this value, of this version; a lower one than before leaves that as it is."""
    ledger.write(
        "INSERT INTO state_values (stream, name, sha256, timestamp, version) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (stream, name) DO UPDATE SET sha256 = excluded.sha256, timestamp = excluded.timestamp,"
        " version = max(coalesce(version, 0), excluded.version)",
        (stream, name, sha256.decode(), timestamp, version),
    )


def version_of(ledger: Ledger, stream: str, name: bytes) -> int:
    """The highest version that a state ever had, as far as it was noted: it never goes back, whatever Redis loses."""
    rows = ledger.rows("SELECT coalesce(version, 0) FROM state_values WHERE stream = ? AND name = ?", (stream, name))
    return int(rows[0][0]) if rows else 0


@dataclass(frozen=True, slots=True)
class Owner:
    """Which side's values count, `file` or `redis`, and the component that was switched last and so said it.

    `asked`: a switch has been asked for and not made, and nothing is carried until then; `token` is its.
    """

    side: str
    component: str = ""
    asked: bool = False
    token: str = ""
    since: float = 0.0
    """When it was asked, in seconds since 1970."""
    noted: bool = False
    """Whether the bridge knows that something is asked."""


def owner_of(ledger: Ledger | None, stream: str, declared: str) -> Owner:
    """Of the values of a stream: as the mapping declares it, until a component that writes them is switched."""
    sql = "SELECT owner, component, token, asked_at, noted FROM state_owners WHERE stream = ?"
    for side, component, token, since, noted in ledger.rows(sql, (stream,)) if ledger else []:
        return Owner(side or declared, component or "", token is not None, token or "", since or 0.0, bool(noted))
    return Owner(declared)


def ask_owner(ledger: Ledger, stream: str, component: str, side: str, token: str, now: float) -> bool:
    """Asks the bridge to carry nothing, until that side owns them or does not. False: another component's switch asks.

    What was asked for this component before is void: who asks now has it to himself.
    """
    ledger.write(
        "INSERT INTO state_owners (stream, component, asked, token, asked_at, noted) VALUES (?, ?, ?, ?, ?, 0)"
        " ON CONFLICT DO UPDATE SET asked = excluded.asked, token = excluded.token, asked_at = excluded.asked_at,"
        " component = excluded.component, noted = 0 WHERE token IS NULL OR component = excluded.component",
        (stream, component, side, token, now),
    )
    return owner_of(ledger, stream, "").token == token


def note_asked(ledger: Ledger, stream: str, token: str) -> None:
    """The bridge knows, and carries nothing."""
    ledger.write("UPDATE state_owners SET noted = 1 WHERE stream = ? AND token = ?", (stream, token))


def set_owner(ledger: Ledger, stream: str, component: str, side: str, token: str) -> None:
    """The component was switched: that side owns them. What another switch has asked for meanwhile stays asked."""
    ledger.write(
        "INSERT INTO state_owners (stream, component, owner, noted) VALUES (?1, ?2, ?3, 0)"
        " ON CONFLICT DO UPDATE SET owner = ?3, component = ?2,"
        " asked = CASE WHEN token = ?4 THEN NULL ELSE asked END,"
        " asked_at = CASE WHEN token = ?4 THEN NULL ELSE asked_at END,"
        " token = CASE WHEN token = ?4 THEN NULL ELSE token END",
        (stream, component, side, token),
    )


def unask_owner(ledger: Ledger, token: str) -> None:
    """It was not switched."""
    ledger.write("UPDATE state_owners SET asked = NULL, token = NULL, asked_at = NULL WHERE token = ?", (token,))


def asked_owners(ledger: Ledger, before: float) -> list[str]:
    """The switches that asked before then, seconds since 1970, and are not settled: their tokens."""
    return [str(token) for (token,) in ledger.rows("SELECT token FROM state_owners WHERE asked_at < ?", (before,))]


def forget_value(ledger: Ledger, stream: str, name: bytes) -> None:
    """Nobody knows any more what both sides held."""
    ledger.write("DELETE FROM state_values WHERE stream = ? AND name = ?", (stream, name))
