"""Keeps in the ledger the acknowledgements: differences that somebody acknowledged, and entries deleted on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.model import EntryId, format_id, parse_id
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class AcknowledgedDifference:
    """Differences between stream and files, of one kind, that somebody acknowledged, with a reason.

    `first` and `last` are the IDs of the first entry and of the last; of a line without an entry both are its place,
    `log:generation:offset`. `count` differences lie between. `digest` is that of both sides of a single one.
    """

    kind: str
    first: str
    last: str
    count: int = 1
    digest: str = ""


@dataclass(frozen=True, slots=True)
class RedactedLine:
    """A redacted entry, deleted on purpose, and the line that it was made of or that the mirror made of it.

    The line was sent from `offset` of a generation of the log `name`, or written there by the mirror; it has `length`
    bytes with its newline, and this digest without. Empty and 0: no file had it.
    """

    entry: EntryId
    name: str = ""
    generation: int = 0
    offset: int = 0
    length: int = 0
    digest: str = ""


def save_accepted(
    ledger: Ledger, stream: str, found: Sequence[AcknowledgedDifference], who: str, why: str, at: float
) -> None:
    """Writes into the ledger the differences that somebody acknowledged, by whom and why; inside a transaction."""
    for row in found:
        ledger.write(
            "INSERT INTO accepted (stream, kind, first, last, count, digest, at, who, why)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                stream,
                row.kind,
                row.first,
                row.last,
                row.count,
                row.digest,
                at,
                who,
                why,
            ),
        )


def accepted_of(ledger: Ledger, stream: str) -> list[AcknowledgedDifference]:
    """Reads from the ledger the differences of a stream that somebody acknowledged."""
    rows = ledger.rows("SELECT kind, first, last, count, digest FROM accepted WHERE stream = ?", (stream,))
    return [AcknowledgedDifference(*row) for row in rows]


def save_redacted(ledger: Ledger, stream: str, found: RedactedLine, who: str, why: str, at: float) -> None:
    """Writes into the ledger that an entry is redacted, deleted on purpose, before the entry is deleted."""
    ledger.write(
        "INSERT OR REPLACE INTO redacted (stream, entry, name, generation, offset, length, digest, at, who, why)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, format_id(found.entry).decode(), found.name, found.generation, found.offset, found.length,
         found.digest, at, who, why),
    )  # fmt: skip


def redacted_of(ledger: Ledger, stream: str, name: str | None = None) -> list[RedactedLine]:
    """Reads from the ledger the redacted entries of a stream, with their lines; those of one log, or of all."""
    rows = ledger.rows(
        "SELECT entry, name, generation, offset, length, digest FROM redacted WHERE stream = ?"
        " AND (? IS NULL OR name = ?) ORDER BY generation, offset",
        (stream, name, name),
    )
    return [RedactedLine(parse_id(entry.encode()), *row) for entry, *row in rows]
