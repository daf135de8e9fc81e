"""The index of the archive: which entries lie in which part of which file, and what they were taken from."""

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
    """One entry of a part: its ID, the length of its line with the newline, its origin (None: born in Redis)."""

    id: EntryId
    length: int
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class ArchivePart:
    """Some bytes of an archive's file, packed by themselves: lines of the source `name`; of no name, JSON.

    `path` is relative to the archive, `at` and `size` count packed bytes, `digest` is of the unpacked ones, and
    `entries` of what was packed: IDs and fields. `index` tells which entries these are, packed as well.
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
        """Its entries, in order."""
        return _unpacked(self.index)


@dataclass(frozen=True, slots=True)
class ArchivedSpan:
    """All entries of a stream from `first` to `last`, in the order they stood in, in parts.

    `base`: where parity would begin if the archive began here (`bridge.parity.proof_point`), as JSON; null: at both
    """

    first: EntryId
    last: EntryId
    base: str = "null"
    parts: list[ArchivePart] = field(default_factory=list)


class ArchiveFile(NamedTuple):
    """What stands in a part behind `between` lines that were redacted: its length in bytes, unpacked, and digest."""

    between: int
    length: int
    digest: bytes


def index_of(listed: Sequence[ArchivedEntry]) -> bytes:
    """As a part keeps it. Pure."""
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
    """Inside a ledger transaction: adds it."""
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
    """Inside a ledger transaction: forgets it. With `keep` its bytes stay, though nothing is looked for in them."""
    for part in parts_of(ledger, stream, span) if keep else ():
        ledger.write(
            "INSERT INTO archive_ends VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
            (stream, part.path, part.at + part.size),
        )
    for table, column in (("archive_spans", "last"), ("archive_parts", "span")):
        ledger.write(f"DELETE FROM {table} WHERE stream = ? AND {column} = ?", (stream, key_of(span.last)))


def spans(ledger: Ledger, stream: str, start: EntryId = ZERO_ID) -> list[ArchivedSpan]:
    """Those that hold something from `start` on, in the stream's order, without their parts."""
    rows = ledger.rows(
        "SELECT first, last, base FROM archive_spans WHERE stream = ? AND last >= ? ORDER BY last",
        (stream, key_of(start)),
    )
    return [ArchivedSpan(parse_id(first.encode()), parse_id(last.encode()), base) for first, last, base in rows]


def parts_of(ledger: Ledger, stream: str, span: ArchivedSpan) -> list[ArchivePart]:
    """A span's parts."""
    rows = ledger.rows(
        "SELECT path, name, at, size, digest, entries, listed FROM archive_parts WHERE stream = ? AND span = ?"
        " ORDER BY number",
        (stream, key_of(span.last)),
    )
    return [ArchivePart(*row) for row in rows]


def save_pieces(ledger: Ledger, stream: str, part: ArchivePart, pieces: Sequence[ArchiveFile], entries: bytes) -> None:
    """Writes into the ledger what of a part stands beside redacted lines; `entries`: the digest of those that stay."""
    told = json.dumps([[piece.between, piece.length, piece.digest.hex()] for piece in pieces])
    ledger.write(
        "INSERT OR REPLACE INTO redacted_parts (stream, path, at, pieces, entries) VALUES (?, ?, ?, ?, ?)",
        (stream, part.path, part.at, told, entries),
    )


def redacted_parts(ledger: Ledger, stream: str) -> dict[tuple[str, int], tuple[list[ArchiveFile], bytes]]:
    """Reads from the ledger what of parts stands beside redacted lines, by file and place, with a digest of entries."""
    rows = ledger.rows("SELECT path, at, pieces, entries FROM redacted_parts WHERE stream = ?", (stream,))
    return {
        (path, at): ([ArchiveFile(n, length, bytes.fromhex(told)) for n, length, told in json.loads(pieces)], entries)
        for path, at, pieces, entries in rows
    }


def parts_in(ledger: Ledger, stream: str, path: str) -> list[ArchivePart]:
    """All parts of an archive's file, in the order they stand in it."""
    rows = ledger.rows(
        "SELECT path, name, at, size, digest, entries, listed FROM archive_parts WHERE stream = ? AND path = ?"
        " ORDER BY at",
        (stream, path),
    )
    return [ArchivePart(*row) for row in rows]


def begin_part(ledger: Ledger, stream: str, path: str, at: int) -> None:
    """Notes that bytes are about to be written there, so that what is left of a try that died may be cut off."""
    ledger.write("INSERT OR REPLACE INTO archive_begun VALUES (?, ?, ?)", (stream, path, at))


def begun_at(ledger: Ledger, stream: str, path: str) -> int | None:
    """Where a try began that was not ended; None: there is none in this file."""
    rows = ledger.rows("SELECT at FROM archive_begun WHERE stream = ? AND path = ?", (stream, path))
    return int(rows[0][0]) if rows else None


def end_of(ledger: Ledger, stream: str, path: str) -> int:
    """Where the next part of this file goes: what stands behind was never finished."""
    rows = ledger.rows(
        "SELECT max(e) FROM (SELECT at + size AS e FROM archive_parts WHERE stream = ? AND path = ?"
        " UNION ALL SELECT until FROM archive_ends WHERE stream = ? AND path = ?)",
        (stream, path, stream, path),
    )
    return int(rows[0][0] or 0)
