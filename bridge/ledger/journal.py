"""Keeps the journal in the ledger: who changed what by hand, when, and on what evidence."""

from __future__ import annotations

import json
from typing import Any

from bridge.ledger.store import Ledger


def note(ledger: Ledger, at: float, who: str, what: str, stream: str, facts: dict[str, Any]) -> None:
    """Writes a record into the journal of changes by hand. `at` in seconds since 1970; `facts` whatever JSON holds."""
    ledger.write(
        "INSERT INTO journal (at, who, what, stream, facts) VALUES (?, ?, ?, ?, ?)",
        (at, who, what, stream, json.dumps(facts)),
    )


def begin(ledger: Ledger, at: float, who: str, what: str, stream: str, facts: dict[str, Any]) -> int:
    """Writes a record into the journal that `amend` will change later; returns the record's number."""
    rows = ledger.rows(
        "INSERT INTO journal (at, who, what, stream, facts) VALUES (?, ?, ?, ?, ?) RETURNING id",
        (at, who, what, stream, json.dumps(facts)),
    )
    return int(rows[0][0])


def amend(ledger: Ledger, number: int, facts: dict[str, Any]) -> None:
    """Replaces the facts of a record in the journal."""
    ledger.write("UPDATE journal SET facts = ? WHERE id = ?", (json.dumps(facts), number))


def facts_of(ledger: Ledger, number: int) -> dict[str, Any]:
    """Reads the facts of a record in the journal, as they are now."""
    [(facts,)] = ledger.rows("SELECT facts FROM journal WHERE id = ?", (number,))
    found: dict[str, Any] = json.loads(facts)
    return found


def unfinished(ledger: Ledger, before: float | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    """Reads from the journal the switches that were decided but are not known to be made: number, stream, facts.

    `before`: only what was decided before then, in seconds since 1970.
    """
    rows = ledger.rows(
        "SELECT id, stream, facts FROM journal WHERE what IN ('cutover', 'rollback')"
        " AND json_extract(facts, '$.state') = 'decided' AND at < coalesce(?, at + 1) ORDER BY id",
        (before,),
    )
    return [(int(number), str(stream), json.loads(facts)) for number, stream, facts in rows]


def journal(ledger: Ledger, count: int) -> list[dict[str, Any]]:
    """Reads the latest `count` records of the journal, oldest first."""
    rows = ledger.rows("SELECT at, who, what, stream, facts FROM journal ORDER BY id DESC LIMIT ?", (count,))
    return [
        {"at": at, "who": who, "what": what, "stream": stream, "facts": json.loads(facts)}
        for at, who, what, stream, facts in rows[::-1]
    ]


def noted(ledger: Ledger, what: str, stream: str) -> list[dict[str, Any]]:
    """Reads from the journal the facts of all records of this kind about a stream, oldest first."""
    rows = ledger.rows("SELECT facts FROM journal WHERE what = ? AND stream = ? ORDER BY id", (what, stream))
    return [json.loads(facts) for (facts,) in rows]
