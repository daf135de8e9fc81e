"""Keeps in the ledger the trim points, up to which parity found all equal, and what retention trimmed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge.core.model import ZERO_ID, EntryId, parse_id
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class TrimPoint:
    """A trim point: up to entry `entry` parity found both sides equal; `added` entries had been added by then.

    `position` is what parity needs to begin there (`bridge.parity.proof_point`), as JSON; None where it needs nothing.
    """

    entry: EntryId
    added: int
    position: str | None


NOTHING = "null"
"""The position of a trim point at which parity needs nothing to begin, in JSON."""


def key_of(entry: EntryId) -> str:
    """Makes a text of an entry ID that sorts as IDs do, for the ledger; SQLite's integers are too small for IDs."""
    return f"{entry[0]:020}-{entry[1]:020}"


def save_points(ledger: Ledger, stream: str, points: Sequence[TrimPoint]) -> None:
    """Writes trim points, up to which parity found both sides of a stream equal, into the ledger."""
    for point in points:
        ledger.write(
            "INSERT OR REPLACE INTO points (stream, entry, added, position) VALUES (?, ?, ?, ?)",
            (stream, key_of(point.entry), point.added, point.position or NOTHING),
        )


def drop_points(ledger: Ledger, stream: str, upto: EntryId | None = None) -> None:
    """Deletes the trim points of a stream up to this entry from the ledger.

    None: all of them, when parity does not find all equal any more.
    """
    if upto is None:
        ledger.write("DELETE FROM points WHERE stream = ?", (stream,))
    else:
        ledger.write("DELETE FROM points WHERE stream = ? AND entry <= ?", (stream, key_of(upto)))


def points_of(ledger: Ledger, stream: str, start: EntryId = ZERO_ID) -> list[TrimPoint]:
    """Reads from the ledger the trim points of a stream from an entry on, in order."""
    rows = ledger.rows(
        "SELECT entry, added, position FROM points WHERE stream = ? AND entry >= ? ORDER BY entry",
        (stream, key_of(start)),
    )
    return [
        TrimPoint(parse_id(entry.encode()), added, position if position != NOTHING else None)
        for entry, added, position in rows
    ]


def save_report(ledger: Ledger, stream: str, at: float, report: dict[str, Any]) -> None:
    """Writes into the ledger the last report of a stream's retention; `at` in seconds since 1970."""
    ledger.write("INSERT OR REPLACE INTO retention VALUES (?, ?, ?)", (stream, at, json.dumps(report)))


def last_report(ledger: Ledger, stream: str) -> tuple[float, dict[str, Any]] | None:
    """Reads from the ledger the last report of a stream's retention, and when it was made; None: there is none."""
    rows = ledger.rows("SELECT at, report FROM retention WHERE stream = ?", (stream,))
    return (float(rows[0][0]), json.loads(rows[0][1])) if rows else None


def save_trimmed(ledger: Ledger, stream: str, floor: bytes, count: int, origins: str, base: str) -> None:
    """Writes into the ledger a copy of what Redis says was trimmed of a stream on purpose.

    For the time when Redis does not say it any more.
    """
    ledger.write(
        "INSERT OR REPLACE INTO trimmed (stream, floor, count, origins, base) VALUES (?, ?, ?, ?, ?)",
        (stream, floor, count, origins, base),
    )


def trimmed_of(ledger: Ledger, stream: str) -> tuple[bytes, int, str, str] | None:
    """Reads from the ledger its copy of what was trimmed of a stream on purpose; None: nothing was."""
    rows = ledger.rows("SELECT floor, count, origins, base FROM trimmed WHERE stream = ?", (stream,))
    return (bytes(rows[0][0]), int(rows[0][1]), str(rows[0][2]), str(rows[0][3])) if rows else None


def confirmed(ledger: Ledger, stream: str) -> str | None:
    """Reads from the ledger the limits of a stream's retention that somebody confirmed last, as JSON; None: none."""
    rows = ledger.rows("SELECT limits FROM confirmed WHERE stream = ?", (stream,))
    return str(rows[0][0]) if rows else None


def confirm(ledger: Ledger, stream: str, limits: str, at: float, who: str) -> None:
    """Writes into the ledger that somebody has confirmed these limits of a stream's retention."""
    ledger.write("INSERT OR REPLACE INTO confirmed VALUES (?, ?, ?, ?)", (stream, limits, at, who))
