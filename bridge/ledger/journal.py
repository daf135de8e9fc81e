"""The journal: who changed what by hand, when, and on what evidence."""

from __future__ import annotations

import json
from typing import Any

from bridge.ledger.store import Ledger


def note(ledger: Ledger, at: float, who: str, what: str, stream: str, facts: dict[str, Any]) -> None:
    """Writes an entry. `at` in seconds since 1970; `facts` whatever JSON holds."""
    ledger.write(
        "INSERT INTO journal (at, who, what, stream, facts) VALUES (?, ?, ?, ?, ?)",
        (at, who, what, stream, json.dumps(facts)),
    )


def journal(ledger: Ledger, count: int) -> list[dict[str, Any]]:
    """The latest `count` entries, oldest first."""
    rows = ledger.rows("SELECT at, who, what, stream, facts FROM journal ORDER BY id DESC LIMIT ?", (count,))
    return [
        {"at": at, "who": who, "what": what, "stream": stream, "facts": json.loads(facts)}
        for at, who, what, stream, facts in rows[::-1]
    ]
