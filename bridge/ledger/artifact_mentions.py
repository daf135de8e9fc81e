"""Artifacts that lines of logs named, until their sizes and digests are in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.model import Position
from bridge.ledger.store import Ledger


def add(ledger: Ledger, stream: str, name: str, found: Sequence[tuple[int, int, bytes]]) -> None:
    """Notes in the ledger the places of lines that are about to be sent, and the artifacts that they name."""
    with ledger.transaction():
        for generation, offset, path in found:
            ledger.write(
                "INSERT OR REPLACE INTO mentions (stream, name, generation, offset, path) VALUES (?, ?, ?, ?, ?)",
                (stream, name, generation, offset, path),
            )


def naming_lines(ledger: Ledger, stream: str) -> list[str]:
    """The names of the logs that have lines of whose files Redis was not told yet."""
    return [name for (name,) in ledger.rows("SELECT DISTINCT name FROM mentions WHERE stream = ?", (stream,))]


def settle(ledger: Ledger, stream: str, name: str, at: Position) -> None:
    """Forgets which lines of a log named artifacts from this place on: they are read again."""
    ledger.write(
        "DELETE FROM mentions WHERE stream = ? AND name = ? AND (generation > ? OR (generation = ? AND offset >= ?))",
        (stream, name, at.generation, at.generation, at.offset),
    )


def ready(
    ledger: Ledger, stream: str, name: str, upto: Position, behind: Position, count: int
) -> list[tuple[int, int, bytes]]:
    """Lists a log's lines between two places whose artifacts Redis was not told of yet, oldest first."""
    rows = ledger.rows(
        "SELECT generation, offset, path FROM mentions WHERE stream = ? AND name = ?"
        " AND (generation, offset) < (?, ?) AND (generation, offset) > (?, ?) ORDER BY generation, offset LIMIT ?",
        (stream, name, *upto, *behind, count),
    )
    return [(int(generation), int(offset), bytes(path)) for generation, offset, path in rows]


def forget(ledger: Ledger, stream: str, name: str, places: Sequence[tuple[int, int]]) -> None:
    """Forgets lines of a log that named artifacts: what was to be known of those is in Redis."""
    with ledger.transaction():
        for generation, offset in places:
            ledger.write(
                "DELETE FROM mentions WHERE stream = ? AND name = ? AND generation = ? AND offset = ?",
                (stream, name, generation, offset),
            )
