"""Keeps in the ledger the process's last heartbeat and the last error of each worker, for `status` without Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bridge.ledger.store import Ledger

SILENT_AFTER = 15.0
"""Seconds without a heartbeat after which a process that exists does not count as working; it sends one every two."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a worker waits for, as an error in words with a hint, and since when (seconds since 1970).

    `over` is when it ended, None: the worker still waits. `plain` is what may be told to everybody; the ledger does not
    keep it.
    """

    error: str
    hint: str
    since: float
    over: float | None = None
    plain: str = ""


def note_trouble(ledger: Ledger, worker: str, trouble: Trouble) -> None:
    """Writes a worker's last trouble, or its end, into the ledger, where `status` finds it beside the heartbeat."""
    ledger.write(
        "INSERT OR REPLACE INTO health (worker, error, hint, since, over) VALUES (?, ?, ?, ?, ?)",
        (worker, trouble.error, trouble.hint, trouble.since, trouble.over),
    )


def forget_troubles(ledger: Ledger) -> None:
    """Deletes the troubles beside the last heartbeat from the ledger, as a new process begins.

    The process before waited for them: they are over, or will be met again.
    """
    ledger.write("DELETE FROM health")


def troubles(ledger: Ledger) -> dict[str, Trouble]:
    """Reads from the ledger, for `status` beside the heartbeat, the last trouble of each worker in this process.

    `over` is None where the worker still waits.
    """
    return {row[0]: Trouble(*row[1:]) for row in ledger.rows("SELECT worker, error, hint, since, over FROM health")}


def save_heartbeat(ledger: Ledger, pulse: dict[str, Any]) -> None:
    """Writes the process's latest heartbeat into the ledger, a JSON object with at least `instance` and `at`."""
    ledger.write(
        "INSERT OR REPLACE INTO heartbeat (instance, pulse) VALUES (?, ?)", (pulse["instance"], json.dumps(pulse))
    )


def heartbeat(ledger: Ledger, instance: str) -> dict[str, Any] | None:
    """Reads from the ledger the latest heartbeat of a bridge's instance; None when it never ran."""
    rows = ledger.rows("SELECT pulse FROM heartbeat WHERE instance = ?", (instance,))
    found: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
    return found
