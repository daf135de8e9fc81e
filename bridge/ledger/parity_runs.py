"""Parity runs: what each found, and up to where a stream and its files were found equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bridge.ledger.store import Ledger

KEPT_RUNS = 1000
"""Runs that are kept of each stream."""


@dataclass(frozen=True, slots=True)
class ParityRun:
    """One mapping's part of a run. `began` in seconds since 1970; `report` is its `--json`, without the differences."""

    mapping: str
    stream: str
    began: float
    seconds: float
    who: str
    verdict: str
    report: dict[str, Any]
    number: int = 0

    @property
    def ended(self) -> float:
        """Seconds since 1970: the verdict holds for this moment."""
        return self.began + self.seconds

    @property
    def differences(self) -> int:
        """How many there were."""
        return sum(self.report["counts"].values())

    def in_short(self, now: float) -> dict[str, Any]:
        """For `status` and the heartbeat: the verdict, its age in seconds, what it says it of, and up to where."""
        return {
            "verdict": self.verdict, "at": self.ended, "age": round(max(0.0, now - self.ended), 3),
            "compared": self.report["compared"], "differences": self.differences, "position": self.report["position"],
        }  # fmt: skip


_RUN_COLUMNS = "mapping, stream, began, seconds, who, verdict, report, id"


def save_run(ledger: Ledger, run: ParityRun) -> int:
    """Notes a run, or what became of it: with a number it takes that one's place. Returns its number."""
    values = (run.mapping, run.stream, run.began, run.seconds, run.who, run.verdict, json.dumps(run.report))
    if run.number:
        ledger.write(
            "UPDATE parity SET mapping = ?, stream = ?, began = ?, seconds = ?, who = ?, verdict = ?, report = ?"
            " WHERE id = ?",
            (*values, run.number),
        )
        return run.number
    rows = ledger.rows(
        "INSERT INTO parity (mapping, stream, began, seconds, who, verdict, report) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " RETURNING id",
        values,
    )
    number = int(rows[0][0])
    ledger.write("DELETE FROM parity WHERE stream = ? AND id <= ?", (run.stream, number - KEPT_RUNS))
    return number


def runs(ledger: Ledger, stream: str, count: int) -> list[ParityRun]:
    """The latest runs of a stream, newest first."""
    rows = ledger.rows(f"SELECT {_RUN_COLUMNS} FROM parity WHERE stream = ? ORDER BY id DESC LIMIT ?", (stream, count))
    return [
        ParityRun(mapping, where, began, seconds, who, verdict, json.loads(report), number)
        for mapping, where, began, seconds, who, verdict, report, number in rows
    ]


def save_verified(ledger: Ledger, stream: str, position: dict[str, Any] | None) -> None:
    """Up to where both sides were found equal; None: start over next time."""
    if position is None:
        ledger.write("DELETE FROM verified WHERE stream = ?", (stream,))
    else:
        ledger.write("INSERT OR REPLACE INTO verified (stream, position) VALUES (?, ?)", (stream, json.dumps(position)))


def verified(ledger: Ledger, stream: str) -> dict[str, Any] | None:
    """Up to where both sides were found equal; None where they never were."""
    rows = ledger.rows("SELECT position FROM verified WHERE stream = ?", (stream,))
    found: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
    return found
