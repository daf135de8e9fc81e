"""Keeps in the ledger the index of the archive: which entries lie in which part of which archive file."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.core.model import ZERO_ID, EntryId, Origin, parse_id
from bridge.ledger.store import Ledger
from bridge.ledger.trim_points import key_of


@dataclass(frozen=True, slots=True)
class ArchivedEntry:
    """An entry in an archive part: its ID, the length of its line with the newline, its origin (None: Redis-born)."""

    id: EntryId
    length: int
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class ArchivePart:
    """A part of an archive file, packed by itself: lines of the source `name`, or JSON where the name is empty.

    `path` is relative to the archive, `at` and `size` count packed bytes, `digest` is of the unpacked bytes, and
    `entries` is the digest of the entries that were packed: IDs and fields. `index` lists these entries, packed as
    well.
    """

    path: str
    name: str
    at: int
    size: int
    digest: bytes
    entries: bytes
    index: bytes

    @property
    def listed(self) -> list[ArchivedEntry]:
        """The entries of an archive part, in order, unpacked from its index."""
        return _unpacked(self.index)


@dataclass(frozen=True, slots=True)
class ArchivedSpan:
    """An archived span: all entries of a stream from `first` to `last`, in the stream's order, in parts.

    `base`: where parity would begin if the archive began here (`bridge.parity.proof_point`), as JSON; null: it needs
    none.
    """

    first: EntryId
    last: EntryId
    base: str = "null"
    parts: list[ArchivePart] = field(default_factory=list)


class ArchiveFile(NamedTuple):
    """A run of lines in an archive part, behind `between` redacted lines: its unpacked length in bytes, and digest."""

    between: int
    length: int
    digest: bytes


def index_of(listed: Sequence[ArchivedEntry]) -> bytes:
    """Packs the index of an archive part: IDs, lengths and origins of its entries, as columns. Pure."""
    origins = [archived.origin if archived.origin is not None else Origin(0, 0, 0) for archived in listed]
    columns = [
        array("Q", [archived.id[0] for archived in listed]), array("Q", [archived.id[1] for archived in listed]),
        array("Q", [archived.length for archived in listed]), array("Q", [origin.source for origin in origins]),
        array("Q", [origin.generation for origin in origins]), array("Q", [origin.offset for origin in origins]),
    ]  # fmt: skip
    return zlib.compress(b"".join(column.tobytes() for column in columns))


def _unpacked(blob: bytes) -> list[ArchivedEntry]:
    numbers = array("Q", zlib.decompress(blob))
    n = len(numbers) // 6
    columns = [numbers[i * n : (i + 1) * n] for i in range(6)]
    return [
        ArchivedEntry((ms, seq), length, Origin(source, generation, offset) if source else None)
        for ms, seq, length, source, generation, offset in zip(*columns, strict=True)
    ]


def save_span(ledger: Ledger, stream: str, span: ArchivedSpan) -> None:
    """Writes an archived span and its parts into the ledger's index of the archive; inside a transaction."""
    ledger.write(
        "INSERT OR REPLACE INTO archive_spans (stream, last, first, base) VALUES (?, ?, ?, ?)",
        (stream, key_of(span.last), key_of(span.first), span.base),
    )
    for number, part in enumerate(span.parts):
        ledger.write(
            "INSERT OR REPLACE INTO archive_parts (stream, span, number, path, name, at, size, digest, entries,"
            " listed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (stream, key_of(span.last), number, part.path, part.name, part.at, part.size, part.digest, part.entries,
             part.index),
        )  # fmt: skip
        ledger.write("DELETE FROM archive_begun WHERE stream = ? AND path = ?", (stream, part.path))


def drop_span(ledger: Ledger, stream: str, span: ArchivedSpan, *, keep: bool) -> None:
    """Deletes an archived span from the ledger's index of the archive; inside a transaction.

    With `keep` its bytes stay in the archive file, though nothing is looked for in them.
    """
    for part in parts_of(ledger, stream, span) if keep else ():
        ledger.write(
            "INSERT INTO archive_ends VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
            (stream, part.path, part.at + part.size),
        )
    for table, column in (("archive_spans", "last"), ("archive_parts", "span")):
        ledger.write(f"DELETE FROM {table} WHERE stream = ? AND {column} = ?", (stream, key_of(span.last)))


def spans(ledger: Ledger, stream: str, start: EntryId = ZERO_ID) -> list[ArchivedSpan]:
    """Reads from the ledger the archived spans that hold something from `start` on, in order, without their parts."""
    rows = ledger.rows(
        "SELECT first, last, base FROM archive_spans WHERE stream = ? AND last >= ? ORDER BY last",
        (stream, key_of(start)),
    )
    return [ArchivedSpan(parse_id(first.encode()), parse_id(last.encode()), base) for first, last, base in rows]


def parts_of(ledger: Ledger, stream: str, span: ArchivedSpan) -> list[ArchivePart]:
    """Reads from the ledger's index of the archive the parts of an archived span, in order."""
    rows = ledger.rows(
        "SELECT path, name, at, size, digest, entries, listed FROM archive_parts WHERE stream = ? AND span = ?"
        " ORDER BY number",
        (stream, key_of(span.last)),
    )
    return [ArchivePart(*row) for row in rows]


def save_pieces(ledger: Ledger, stream: str, part: ArchivePart, pieces: Sequence[ArchiveFile], entries: bytes) -> None:
    """Writes into the ledger the runs of lines that stand between the redacted lines of an archive part.

    `entries` is the digest of the entries that stay.
    """
    told = json.dumps([[piece.between, piece.length, piece.digest.hex()] for piece in pieces])
    ledger.write(
        "INSERT OR REPLACE INTO redacted_parts (stream, path, at, pieces, entries) VALUES (?, ?, ?, ?, ?)",
        (stream, part.path, part.at, told, entries),
    )


def redacted_parts(ledger: Ledger, stream: str) -> dict[tuple[str, int], tuple[list[ArchiveFile], bytes]]:
    """Reads from the ledger the archive parts with redacted lines, by file and offset.

    For each part: the runs of lines between the redacted ones, and the digest of the entries that stay.
    """
    rows = ledger.rows("SELECT path, at, pieces, entries FROM redacted_parts WHERE stream = ?", (stream,))
    return {
        (path, at): ([ArchiveFile(n, length, bytes.fromhex(told)) for n, length, told in json.loads(pieces)], entries)
        for path, at, pieces, entries in rows
    }


def parts_in(ledger: Ledger, stream: str, path: str) -> list[ArchivePart]:
    """Reads from the ledger's index of the archive all parts of one archive file, in the order they stand in it."""
    rows = ledger.rows(
        "SELECT path, name, at, size, digest, entries, listed FROM archive_parts WHERE stream = ? AND path = ?"
        " ORDER BY at",
        (stream, path),
    )
    return [ArchivePart(*row) for row in rows]


def begin_part(ledger: Ledger, stream: str, path: str, at: int) -> None:
    """Notes in the ledger that a part is about to be written into an archive file, at this offset.

    So what a try left that died may be cut off.
    """
    ledger.write("INSERT OR REPLACE INTO archive_begun VALUES (?, ?, ?)", (stream, path, at))


def begun_at(ledger: Ledger, stream: str, path: str) -> int | None:
    """Reads from the ledger the offset in an archive file at which an unfinished try began; None: there is none."""
    rows = ledger.rows("SELECT at FROM archive_begun WHERE stream = ? AND path = ?", (stream, path))
    return int(rows[0][0]) if rows else None


def end_of(ledger: Ledger, stream: str, path: str) -> int:
    """Finds in the ledger's index the end of an archive file's last part: what stands behind was never finished."""
    rows = ledger.rows(
        "SELECT max(e) FROM (SELECT at + size AS e FROM archive_parts WHERE stream = ? AND path = ?"
        " UNION ALL SELECT until FROM archive_ends WHERE stream = ? AND path = ?)",
        (stream, path, stream, path),
    )
    return int(rows[0][0] or 0)
