"""Keeps in the ledger the last carried value of each state, by digest and time, and which side owns the values."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.ledger.store import Ledger


def values(ledger: Ledger, stream: str) -> dict[bytes, tuple[bytes, bytes]]:
    """Reads from the ledger SHA-256 (hex) and timestamp of each state's value that both sides held last, by name."""
    rows = ledger.rows("SELECT name, sha256, timestamp FROM state_values WHERE stream = ?", (stream,))
    return {name: (sha.encode(), stamp) for name, sha, stamp in rows}


def save_value(
    ledger: Ledger, stream: str, name: bytes, sha256: bytes, timestamp: bytes, version: int = 0
) -> None:  # fmt: skip
    """Writes into the ledger digest and timestamp of a state's value that both sides hold, of this version.

    A lower version than one before leaves that as it is.
    """
    ledger.write(
        "INSERT INTO state_values (stream, name, sha256, timestamp, version) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (stream, name) DO UPDATE SET sha256 = excluded.sha256, timestamp = excluded.timestamp,"
        " version = max(coalesce(version, 0), excluded.version)",
        (stream, name, sha256.decode(), timestamp, version),
    )


def version_of(ledger: Ledger, stream: str, name: bytes) -> int:
    """Reads from the ledger the highest version that a state ever had, as far as it was noted.

    The version never goes back, whatever Redis loses.
    """
    rows = ledger.rows("SELECT coalesce(version, 0) FROM state_values WHERE stream = ? AND name = ?", (stream, name))
    return int(rows[0][0]) if rows else 0


@dataclass(frozen=True, slots=True)
class StateOwner:
    """The owner of a stream's states: the side, `file` or `redis`, whose values count, and the component switched last.

    `asked`: a switch has been asked for and not made, and nothing is carried until then; `token` is the switch's.
    """

    side: str
    component: str = ""
    asked: bool = False
    token: str = ""
    since: float = 0.0
    """When the switch of the owner was asked for, in seconds since 1970."""
    noted: bool = False
    """Whether the running bridge knows that a switch of the owner is asked for."""


def owner_of(ledger: Ledger | None, stream: str, declared: str) -> StateOwner:
    """Reads from the ledger which side owns the values of a stream's states.

    It is the declared side until a component that writes states is switched.
    """
    sql = "SELECT owner, component, token, asked_at, noted FROM state_owners WHERE stream = ?"
    for side, component, token, since, noted in ledger.rows(sql, (stream,)) if ledger else []:
        return StateOwner(side or declared, component or "", token is not None, token or "", since or 0.0, bool(noted))
    return StateOwner(declared)


def ask_owner(ledger: Ledger, stream: str, component: str, side: str, token: str, now: float) -> bool:
    """Asks the bridge, through the ledger, to carry no state of a stream until a switch settles which side owns them.

    Returns False when another component's switch asks. What was asked for this component before is void, as only one
    switch of a component is under way.
    """
    ledger.write(
        "INSERT INTO state_owners (stream, component, asked, token, asked_at, noted) VALUES (?, ?, ?, ?, ?, 0)"
        " ON CONFLICT DO UPDATE SET asked = excluded.asked, token = excluded.token, asked_at = excluded.asked_at,"
        " component = excluded.component, noted = 0 WHERE token IS NULL OR component = excluded.component",
        (stream, component, side, token, now),
    )
    return owner_of(ledger, stream, "").token == token


def note_asked(ledger: Ledger, stream: str, token: str) -> None:
    """Notes in the ledger that the running bridge knows of a switch of the states' owner, and carries no state."""
    ledger.write("UPDATE state_owners SET noted = 1 WHERE stream = ? AND token = ?", (stream, token))


def set_owner(ledger: Ledger, stream: str, component: str, side: str, token: str) -> None:
    """Writes into the ledger that a component was switched and which side owns the values of a stream's states.

    What another switch has asked for meanwhile stays asked.
    """
    ledger.write(
        "INSERT INTO state_owners (stream, component, owner, noted) VALUES (?, ?, ?, 0)"
        " ON CONFLICT DO UPDATE SET owner = excluded.owner, component = excluded.component,"
        " asked = CASE WHEN token = ? THEN NULL ELSE asked END,"
        " asked_at = CASE WHEN token = ? THEN NULL ELSE asked_at END,"
        " token = CASE WHEN token = ? THEN NULL ELSE token END",
        (stream, component, side, token, token, token),
    )


def unask_owner(ledger: Ledger, token: str) -> None:
    """Takes back in the ledger what a switch asked for about the states' owner, as the component was not switched."""
    ledger.write("UPDATE state_owners SET asked = NULL, token = NULL, asked_at = NULL WHERE token = ?", (token,))


def asked_owners(ledger: Ledger, before: float) -> list[str]:
    """Reads from the ledger the tokens of unsettled switches that asked to own states before `before`.

    `before` is in seconds since 1970.
    """
    return [str(token) for (token,) in ledger.rows("SELECT token FROM state_owners WHERE asked_at < ?", (before,))]


def forget_value(ledger: Ledger, stream: str, name: bytes) -> None:
    """Deletes from the ledger the value of a state that both sides held."""
    ledger.write("DELETE FROM state_values WHERE stream = ? AND name = ?", (stream, name))
