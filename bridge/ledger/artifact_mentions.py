"""Keeps in the ledger the lines of logs that mention artifacts, until size and digest of each artifact are in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.model import Position
from bridge.ledger.store import Ledger


def add(ledger: Ledger, stream: str, name: str, found: Sequence[tuple[int, int, bytes]]) -> None:
    """Notes in the ledger the lines about to be sent that mention artifacts, and the paths of these artifacts."""
    with ledger.transaction():
        for generation, offset, path in found:
            ledger.write(
                "INSERT OR REPLACE INTO mentions (stream, name, generation, offset, path) VALUES (?, ?, ?, ?, ?)",
                (stream, name, generation, offset, path),
            )


def naming_lines(ledger: Ledger, stream: str) -> list[str]:
    """Reads from the ledger the names of logs with lines that mention artifacts of which Redis was not told yet."""
    return [name for (name,) in ledger.rows("SELECT DISTINCT name FROM mentions WHERE stream = ?", (stream,))]


def settle(ledger: Ledger, stream: str, name: str, at: Position) -> None:
    """Deletes from the ledger a log's mentions of artifacts from this position on: these lines are read again."""
    ledger.write(
        "DELETE FROM mentions WHERE stream = ? AND name = ? AND (generation > ? OR (generation = ? AND offset >= ?))",
        (stream, name, at.generation, at.generation, at.offset),
    )


def ready(
    ledger: Ledger, stream: str, name: str, upto: Position, behind: Position, count: int
) -> list[tuple[int, int, bytes]]:
    """Reads from the ledger a log's mentions of artifacts between two positions, oldest first, `count` at most."""
    rows = ledger.rows(
        "SELECT generation, offset, path FROM mentions WHERE stream = ? AND name = ?"
        " AND (generation, offset) < (?, ?) AND (generation, offset) > (?, ?) ORDER BY generation, offset LIMIT ?",
        (stream, name, *upto, *behind, count),
    )
    return [(int(generation), int(offset), bytes(path)) for generation, offset, path in rows]


def forget(ledger: Ledger, stream: str, name: str, places: Sequence[tuple[int, int]]) -> None:
    """Deletes from the ledger a log's mentions of artifacts whose sizes and digests are in Redis."""
    with ledger.transaction():
        for generation, offset in places:
            ledger.write(
                "DELETE FROM mentions WHERE stream = ? AND name = ? AND generation = ? AND offset = ?",
                (stream, name, generation, offset),
            )
