"""The ledger remembers which lines of a file that took a log's place were carried before, and what was found of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge.core.model import Position
from bridge.ledger.store import Ledger

ALIGNED, NEW, STOPPED, AS_NEW, AS_EDIT = "aligned", "new", "stopped", "as-new", "as-edit"
"""What was found of a file that took a log's place; and what a person says that it is, until forward acts on that."""


class CarriedSpan(NamedTuple):
    """Whole lines of a generation, bytes `start` to `end`, that were carried before as another generation's.

    Those are the lines from byte `of_start` on of generation `of`; 0: nobody can tell which, as they were trimmed.
    """

    start: int
    end: int
    of: int
    of_start: int
    crc: int = -1
    """The CRC-32 of the bytes, -1 where nobody noted it: in a file that was edited since, others stand there."""


@dataclass(frozen=True, slots=True)
class LogEdit:
    """What was found of a file that took a log's place, as generation `generation` behind generation `of`.

    Counts of messages: `changed`, `put_in`, `taken_out`, passed over, and of those `put_in` the ones that stood in the
    file before (`again`). `at` is in seconds since 1970; `how` is one of the words above, `why` says it in
    words; of a rotated file that is aligned it is that one's name.
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


def stretches_of(ledger: Ledger, stream: str, name: str, generation: int) -> list[CarriedSpan]:
    """Reads from the ledger the stretches of a log's generation that were carried before, in file order."""
    rows = ledger.rows(
        "SELECT start, end, of, of_start, crc FROM aligned WHERE stream = ? AND name = ? AND generation = ?"
        " ORDER BY start",
        (stream, name, generation),
    )
    return [CarriedSpan(*row) for row in rows]


def all_stretches(ledger: Ledger, stream: str) -> dict[str, dict[int, list[CarriedSpan]]]:
    """Reads from the ledger the stretches of a stream's logs that were carried before, by log and generation."""
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
    """Where the line at a position of a log was first sent from: there, or from an earlier file of the log."""
    rows = ledger.rows(
        "SELECT of, of_start + ? - start FROM aligned WHERE stream = ? AND name = ? AND generation = ? AND start <= ?"
        " AND end > ? AND of > 0",
        (at.offset, stream, name, at.generation, at.offset, at.offset),
    )
    return Position(*rows[0]) if rows else at


def stands_at(ledger: Ledger, stream: str, name: str, at: Position) -> Position | None:
    """Where a line of a log stands now that was sent from a position; None: it was changed, or taken out."""
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


def save_stretches(ledger: Ledger, stream: str, name: str, generation: int, found: Sequence[CarriedSpan]) -> None:
    """Writes into the ledger which stretches of a generation were carried before, in place of those it had."""
    ledger.write("DELETE FROM aligned WHERE stream = ? AND name = ? AND generation = ?", (stream, name, generation))
    for stretch in found:
        ledger.write(
            "INSERT INTO aligned (stream, name, generation, start, end, of, of_start, crc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (stream, name, generation, *stretch),
        )


def save_rewrite(ledger: Ledger, stream: str, found: LogEdit) -> None:
    """Writes into the ledger what was found of a file that took a log's place."""
    ledger.write(
        "INSERT OR REPLACE INTO rewrites (stream, name, generation, of, at, how, passed, changed, put_in, taken_out,"
        " again, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, found.name, found.generation, found.of, found.at, found.how, found.passed, found.changed,
         found.put_in, found.taken_out, found.again, found.why),
    )  # fmt: skip


def waiting(ledger: Ledger, stream: str) -> set[str]:
    """The logs of a stream that wait for a person to say what the file is that took their place."""
    latest = {found.name: found.how for found in rewrites_of(ledger, stream)}
    return {name for name, how in latest.items() if how == STOPPED}


def rewrites_of(ledger: Ledger, stream: str, name: str | None = None) -> list[LogEdit]:
    """Reads from the ledger what was found of files that took a log's place, oldest first; of one log, or of all."""
    rows: Iterable[tuple[object, ...]] = ledger.rows(
        "SELECT name, generation, of, at, how, passed, changed, put_in, taken_out, again, coalesce(why, '')"
        " FROM rewrites WHERE stream = ? AND (? IS NULL OR name = ?) ORDER BY at, generation",
        (stream, name, name),
    )
    return [LogEdit(*row) for row in rows]  # type: ignore[arg-type]
