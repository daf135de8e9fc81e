"""The process's last heartbeat and the last error of each worker: `status` tells them when Redis is away too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bridge.ledger.store import Ledger

SILENT_AFTER = 15.0
"""Seconds without a heartbeat after which a process is not at work, although it is there; it gives one every two."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a worker waits for, in words, and since when; or waited for until `over` (seconds since 1970).

    `plain` is what may be told to everybody; the ledger does not keep it.
    """

    error: str
    hint: str
    since: float
    over: float | None = None
    plain: str = ""


def note_trouble(ledger: Ledger, worker: str, trouble: Trouble) -> None:
    """Remembers a worker's trouble, or that it is over; the last one of each is kept."""
    ledger.write(
        "INSERT OR REPLACE INTO health (worker, error, hint, since, over) VALUES (?, ?, ?, ?, ?)",
        (worker, trouble.error, trouble.hint, trouble.since, trouble.over),
    )


def forget_troubles(ledger: Ledger) -> None:
    """A new process begins: what the one before waited for is over, or will be met again."""
    ledger.write("DELETE FROM health")


def troubles(ledger: Ledger) -> dict[str, Trouble]:
    """The last trouble of every worker that ever had one in this process; `over` is None where it still waits."""
    return {row[0]: Trouble(*row[1:]) for row in ledger.rows("SELECT worker, error, hint, since, over FROM health")}


def save_heartbeat(ledger: Ledger, pulse: dict[str, Any]) -> None:
    """Remembers the process's latest heartbeat, a JSON object with at least `instance` and `at`."""
    ledger.write(
        "INSERT OR REPLACE INTO heartbeat (instance, pulse) VALUES (?, ?)", (pulse["instance"], json.dumps(pulse))
    )


def heartbeat(ledger: Ledger, instance: str) -> dict[str, Any] | None:
    """The latest heartbeat of this instance; None when it never ran."""
    rows = ledger.rows("SELECT pulse FROM heartbeat WHERE instance = ?", (instance,))
    found: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
    return found
