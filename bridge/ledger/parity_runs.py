"""Keeps in the ledger the parity runs: the result of each, and up to where a stream and its files were found equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bridge.ledger.store import Ledger

KEPT_RUNS = 1000
"""Parity runs that the ledger keeps of each stream."""


@dataclass(frozen=True, slots=True)
class ParityRun:
    """One mapping's part of a parity run: verdict and report, when it ran, and who started it.

    `began` in seconds since 1970; `report` is its `--json`, without the differences.
    """

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
        """When the parity run ended, in seconds since 1970: its verdict holds for this moment."""
        return self.began + self.seconds

    @property
    def differences(self) -> int:
        """How many differences the parity run found."""
        return sum(self.report["counts"].values())

    def in_short(self, now: float) -> dict[str, Any]:
        """Summarizes a parity run for `status` and the heartbeat: verdict, age in seconds, counts, position."""
        return {
            "verdict": self.verdict, "at": self.ended, "age": round(max(0.0, now - self.ended), 3),
            "compared": self.report["compared"], "differences": self.differences, "position": self.report["position"],
        }  # fmt: skip


def told_proof(ledger: Ledger, run: ParityRun, now: float) -> dict[str, Any]:
    """Summarizes a parity run for the heartbeat, by which other hosts join it to theirs: also of which stream it was.

    Of a run that found both sides equal, with the entries that the stream had then (`length`), and ever had (`added`).
    """
    facts = (verified(ledger, run.stream) if run.verdict == "equal" else None) or {}
    return {**run.in_short(now), "stream": run.stream, **{k: facts[k] for k in ("length", "added") if k in facts}}


WORST = ("differs", "inconclusive", "equal")
"""The verdicts of parity, the worst first."""


def proof_of_many(ledger: Ledger, family: str) -> dict[str, Any] | None:
    """Summarizes for the heartbeat the last parity runs of all streams of a mapping with many; None: there were none.

    As `told_proof` does for one stream: the worst verdict, the time of the oldest run, sums of the counts, and of how
    many streams (`streams`).
    """
    latest = (
        "SELECT verdict, began + seconds, json_extract(report, '$.compared'), json_extract(report, '$.counts'),"
        " json_extract(position, '$.length'), json_extract(position, '$.added')"
        " FROM parity LEFT JOIN verified USING (stream) WHERE id IN"
        " (SELECT max(id) FROM parity WHERE mapping > ? AND mapping < ? GROUP BY stream)"
    )
    rows = ledger.rows(latest, (f"{family}:", f"{family};"))  # the names of its streams: `family:name`
    if not rows:
        return None
    differences = sum(sum(json.loads(row[3]).values()) for row in rows)
    return {
        "verdict": min((str(row[0]) for row in rows), key=WORST.index), "at": min(float(row[1]) for row in rows),
        "streams": len(rows), "compared": sum(int(row[2]) for row in rows), "differences": differences,
        "length": sum(int(row[4] or 0) for row in rows), "added": sum(int(row[5] or 0) for row in rows),
    }  # fmt: skip


def proofs_stand(ledger: Ledger) -> tuple[Any, ...]:
    """Returns what changes with each parity run that the ledger takes: while it stands, so does `proof_of_many`."""
    return ledger.rows("SELECT count(*), max(id), max(began) FROM parity")[0]


_RUN_COLUMNS = "mapping, stream, began, seconds, who, verdict, report, id"


def save_run(ledger: Ledger, run: ParityRun) -> int:
    """Writes a parity run into the ledger, and returns its number.

    A run that has a number replaces the record of that number.
    """
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
    """Reads from the ledger the latest parity runs of a stream, newest first."""
    rows = ledger.rows(f"SELECT {_RUN_COLUMNS} FROM parity WHERE stream = ? ORDER BY id DESC LIMIT ?", (stream, count))
    return [
        ParityRun(mapping, where, began, seconds, who, verdict, json.loads(report), number)
        for mapping, where, began, seconds, who, verdict, report, number in rows
    ]


def save_verified(ledger: Ledger, stream: str, position: dict[str, Any] | None) -> None:
    """Writes into the ledger the position up to which parity found stream and files equal.

    None: the next parity run starts over.
    """
    if position is None:
        ledger.write("DELETE FROM verified WHERE stream = ?", (stream,))
    else:
        ledger.write("INSERT OR REPLACE INTO verified (stream, position) VALUES (?, ?)", (stream, json.dumps(position)))


def verified(ledger: Ledger, stream: str) -> dict[str, Any] | None:
    """Reads from the ledger the position up to which parity found stream and files equal; None: never."""
    rows = ledger.rows("SELECT position FROM verified WHERE stream = ?", (stream,))
    found: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
    return found
