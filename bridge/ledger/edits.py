"""Keeps in the ledger the edits of logs: files that took a log's place, and those of their lines carried before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge.core.model import Position
from bridge.ledger.store import Ledger

ALIGNED, NEW, STOPPED, AS_NEW, AS_EDIT = "aligned", "new", "stopped", "as-new", "as-edit"
"""The results for a file that took a log's place, and what a person says that the file is.

The latter two count until forward acts on them.
"""


class CarriedSpan(NamedTuple):
    """A span of an edited log, whole lines in bytes `start` to `end`, that was carried before as another generation's.

    The lines are those from byte `of_start` on of generation `of`; 0: nobody can tell which, as they were trimmed.
    """

    start: int
    end: int
    of: int
    of_start: int
    crc: int = -1
    """The CRC-32 of the span's bytes, -1 where nobody noted it: a file that was edited since has other bytes there."""


@dataclass(frozen=True, slots=True)
class LogEdit:
    """An edit of a log: a file took the log's place, as generation `generation` behind generation `of`.

    Counts of messages: `changed`, `put_in`, `taken_out`, `passed` over, and of those `put_in` the ones that stood in
    the file before (`again`). `at` is in seconds since 1970; `how` is one of the results above, `why` says it in words;
    for a rotated file that is aligned, `why` is that file's name.
    """

    name: str
    generation: int
    of: int
    at: float
    how: str
    passed: int = 0
    changed: int = 0
    put_in: int = 0
    taken_out: int = 0
    again: int = 0
    why: str = ""


def carried_spans(ledger: Ledger, stream: str, name: str, generation: int) -> list[CarriedSpan]:
    """Reads from the ledger the spans of an edited log's generation that were carried before, in file order."""
    rows = ledger.rows(
        "SELECT start, end, of, of_start, crc FROM aligned WHERE stream = ? AND name = ? AND generation = ?"
        " ORDER BY start",
        (stream, name, generation),
    )
    return [CarriedSpan(*row) for row in rows]


def all_carried_spans(ledger: Ledger, stream: str) -> dict[str, dict[int, list[CarriedSpan]]]:
    """Reads from the ledger the spans of a stream's edited logs that were carried before, by log and generation."""
    found: dict[str, dict[int, list[CarriedSpan]]] = {}
    rows = ledger.rows(
        "SELECT name, generation, start, end, of, of_start, crc FROM aligned WHERE stream = ?"
        " ORDER BY name, generation, start",
        (stream,),
    )
    for name, generation, *row in rows:
        found.setdefault(name, {}).setdefault(generation, []).append(CarriedSpan(*row))
    return found


def sent_as(ledger: Ledger, stream: str, name: str, at: Position) -> Position:
    """Finds in the ledger from which position a line of an edited log was first sent: here, or in an earlier file."""
    rows = ledger.rows(
        "SELECT of, of_start + ? - start FROM aligned WHERE stream = ? AND name = ? AND generation = ? AND start <= ?"
        " AND end > ? AND of > 0",
        (at.offset, stream, name, at.generation, at.offset, at.offset),
    )
    return Position(*rows[0]) if rows else at


def stands_at(ledger: Ledger, stream: str, name: str, at: Position) -> Position | None:
    """Finds in the ledger where a line stands now that was sent from a position of a log that was edited since.

    None: the line was changed, or taken out.
    """
    replaced = ledger.rows(
        "SELECT 1 FROM generations WHERE stream = ? AND name = ? AND rewrites = ? AND NOT in_doubt",
        (stream, name, at.generation),
    )
    if not replaced:
        return at
    rows = ledger.rows(
        "SELECT generation, start + ? - of_start FROM aligned AS here WHERE stream = ? AND name = ? AND of = ?"
        " AND of_start <= ? AND of_start + end - start > ? AND NOT EXISTS (SELECT 1 FROM generations AS later WHERE"
        " later.stream = here.stream AND later.name = here.name AND later.rewrites = here.generation"
        " AND NOT later.in_doubt)",
        (at.offset, stream, name, at.generation, at.offset, at.offset),
    )
    return Position(*rows[0]) if rows else None


def save_carried_spans(ledger: Ledger, stream: str, name: str, generation: int, found: Sequence[CarriedSpan]) -> None:
    """Writes into the ledger the spans of an edited generation that were carried before, in place of older ones."""
    ledger.write("DELETE FROM aligned WHERE stream = ? AND name = ? AND generation = ?", (stream, name, generation))
    for stretch in found:
        ledger.write(
            "INSERT INTO aligned (stream, name, generation, start, end, of, of_start, crc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (stream, name, generation, *stretch),
        )


def save_rewrite(ledger: Ledger, stream: str, found: LogEdit) -> None:
    """Writes into the ledger the result for an edit: a file that took a log's place."""
    ledger.write(
        "INSERT OR REPLACE INTO rewrites (stream, name, generation, of, at, how, passed, changed, put_in, taken_out,"
        " again, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, found.name, found.generation, found.of, found.at, found.how, found.passed, found.changed,
         found.put_in, found.taken_out, found.again, found.why),
    )  # fmt: skip


def waiting(ledger: Ledger, stream: str) -> set[str]:
    """Reads from the ledger the logs that wait for a person to say what the file is that took the log's place."""
    latest = {found.name: found.how for found in rewrites_of(ledger, stream)}
    return {name for name, how in latest.items() if how == STOPPED}


def rewrites_of(ledger: Ledger, stream: str, name: str | None = None) -> list[LogEdit]:
    """Reads from the ledger the edits of a stream's logs, oldest first; of one log, or of all."""
    rows: Iterable[tuple[object, ...]] = ledger.rows(
        "SELECT name, generation, of, at, how, passed, changed, put_in, taken_out, again, coalesce(why, '')"
        " FROM rewrites WHERE stream = ? AND (? IS NULL OR name = ?) ORDER BY at, generation",
        (stream, name, name),
    )
    return [LogEdit(*row) for row in rows]  # type: ignore[arg-type]
