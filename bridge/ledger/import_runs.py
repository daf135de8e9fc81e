"""Keeps in the ledger the import runs: how much of history each brought over, as far as it came.

The report is the run's own summary, kept as JSON.
"""

from __future__ import annotations

import json
from typing import Any

from bridge.ledger.store import Ledger


def begin_import(ledger: Ledger, stream: str, began: float, report: dict[str, Any]) -> int:
    """Writes into the ledger an import run that begins; returns the run's number."""
    with ledger.transaction():
        ledger.write(
            "INSERT INTO imports (stream, began, report) VALUES (?, ?, ?)", (stream, began, json.dumps(report))
        )
        return int(ledger.rows("SELECT max(id) FROM imports")[0][0])


def save_import(ledger: Ledger, number: int, report: dict[str, Any]) -> None:
    """Writes into the ledger the report of an import run, as far as the run has come."""
    ledger.write("UPDATE imports SET report = ? WHERE id = ?", (json.dumps(report), number))


def last_import(ledger: Ledger, stream: str) -> dict[str, Any] | None:
    """Reads from the ledger the report of a stream's latest import run that had something to do; None: no run."""
    rows = ledger.rows("SELECT report FROM imports WHERE stream = ? ORDER BY id DESC LIMIT 20", (stream,))
    reports: list[dict[str, Any]] = [json.loads(row[0]) for row in rows]
    return next(
        (report for report in reports if report["lines"] or report["state"] != "done"), reports[0] if reports else None
    )
