"""The last error of each worker, so that `status` can tell it when Redis is away too."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a worker waits for, in words, and since when (seconds since 1970)."""

    error: str
    hint: str
    since: float


def note_trouble(ledger: Ledger, worker: str, trouble: Trouble | None) -> None:
    """Remembers a worker's trouble, or that it has none."""
    if trouble is None:
        ledger.write("DELETE FROM health WHERE worker = ?", (worker,))
    else:
        ledger.write(
            "INSERT OR REPLACE INTO health (worker, error, hint, since) VALUES (?, ?, ?, ?)",
            (worker, trouble.error, trouble.hint, trouble.since),
        )


def forget_troubles(ledger: Ledger) -> None:
    """A new process begins: what the one before waited for is over, or will be met again."""
    ledger.write("DELETE FROM health")


def troubles(ledger: Ledger) -> dict[str, Trouble]:
    """All workers that wait for something."""
    return {
        row[0]: Trouble(row[1], row[2], row[3]) for row in ledger.rows("SELECT worker, error, hint, since FROM health")
    }
