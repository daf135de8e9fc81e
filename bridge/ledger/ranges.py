"""Keeps in the ledger what the mirror is about to write (intents) and which bytes of files it wrote (ranges)."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.model import ZERO_ID, EntryId, Position
from bridge.ledger.store import Ledger

LARGEST = (1 << 63) - 1
"""The largest of SQLite's integers; an entry ID's milliseconds may be larger."""

WrittenEntry = tuple[EntryId, int]
"""An entry that the mirror writes: its ID, and the length of its line in bytes, newline included."""


def pack_written(written: Sequence[WrittenEntry]) -> bytes:
    """Packs the entry IDs and line lengths of an intent or a range for the ledger: 20 bytes an entry, as columns.

    In this machine's byte order. All milliseconds come first, then all sequences, then all lengths.
    """
    if not written:
        return b""
    ids, lengths = zip(*written, strict=True)
    ms, seq = zip(*ids, strict=True)
    return array("Q", ms + seq).tobytes() + array("I", lengths).tobytes()


def unpack_written(blob: bytes) -> list[WrittenEntry]:
    """Unpacks the entry IDs and line lengths of an intent or a range from the bytes that `pack_written` made."""
    n = len(blob) // 20
    ids, lengths = array("Q", blob[: 16 * n]), array("I", blob[16 * n :])
    return list(zip(zip(ids[:n], ids[n:], strict=True), lengths, strict=True))


def range_digest(content: bytes) -> bytes:
    """Computes the digest of a range's bytes, which tells them from others in their place: BLAKE2b-64."""
    return hashlib.blake2b(content, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Intent:
    """An intent: whole lines that the mirror is about to append to a file that had `size` bytes then.

    `standing` are the entries, with 0-0 in place of those that Redis lost since: their lines will be file-born.
    """

    id: int
    name: str
    generation: int
    size: int
    content: bytes
    entries: list[WrittenEntry]
    standing: list[WrittenEntry]


@dataclass(frozen=True, slots=True)
class Range:
    """A range: bytes of a generation that the mirror wrote.

    Torn bytes that were written again whole have no entries.
    """

    name: str
    generation: int
    start: int
    end: int
    digest: bytes
    entries: list[WrittenEntry]


def add_intent(
    ledger: Ledger, stream: str, name: str, generation: int, size: int, content: bytes, entries: Sequence[WrittenEntry]
) -> int:
    """Writes an intent into the ledger: what the mirror is about to write, and where; returns the intent's number."""
    rows = ledger.rows(
        "INSERT INTO intents (stream, name, generation, size, content, entries, noted) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " RETURNING id",
        (stream, name, generation, size, content, pack_written(entries), pack_written(entries)),
    )
    return int(rows[0][0])


def intents_of(ledger: Ledger, stream: str) -> list[Intent]:
    """Reads from the ledger the intents of a stream's mirror that are not resolved, oldest first."""
    rows = ledger.rows(
        "SELECT id, name, generation, size, content, noted, entries FROM intents WHERE stream = ? ORDER BY id",
        (stream,),
    )
    return [
        Intent(i, name, g, size, content, unpack_written(noted), unpack_written(standing))
        for i, name, g, size, content, noted, standing in rows
    ]


def streams_begun(ledger: Ledger) -> set[str]:
    """Lists from the ledger the streams of which a mirror has intents that are not resolved."""
    return {str(stream) for (stream,) in ledger.rows("SELECT DISTINCT stream FROM intents")}


def contents_of_intents(ledger: Ledger, stream: str) -> list[tuple[str, bytes]]:
    """Reads from the ledger the file names and contents of a stream's open intents."""
    return [
        (str(name), bytes(content))
        for name, content in ledger.rows("SELECT name, content FROM intents WHERE stream = ?", (stream,))
    ]


def drop_intent(ledger: Ledger, number: int) -> None:
    """Deletes an intent from the ledger: the mirror has written the lines, and they are noted as ranges."""
    ledger.write("DELETE FROM intents WHERE id = ?", (number,))


def move_intent(
    ledger: Ledger, number: int, generation: int, size: int, content: bytes, entries: Sequence[WrittenEntry],
    standing: Sequence[WrittenEntry],
) -> None:  # fmt: skip
    """Changes an open intent in the ledger to another place in the file and other lines.

    Its file was replaced, or what stood was followed.
    """
    ledger.write(
        "UPDATE intents SET generation = ?, size = ?, content = ?, noted = ?, entries = ? WHERE id = ?",
        (generation, size, content, pack_written(entries), pack_written(standing), number),
    )


def rename_intent(ledger: Ledger, number: int, name: str) -> None:
    """Changes an open intent in the ledger to a file of this name, as the other name was taken."""
    ledger.write("UPDATE intents SET name = ? WHERE id = ?", (name, number))


def add_range(ledger: Ledger, stream: str, written_range: Range) -> None:
    """Writes a range into the ledger: bytes of a file that the mirror wrote."""
    ledger.write(
        "INSERT OR REPLACE INTO ranges (stream, name, generation, start, end, digest, entries, last_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            stream,
            written_range.name,
            written_range.generation,
            written_range.start,
            written_range.end,
            written_range.digest,
            pack_written(written_range.entries),
            min(max(written_range.entries)[0][0], LARGEST) if written_range.entries else 0,
        ),
    )


def drop_range(ledger: Ledger, stream: str, written_range: Range) -> None:
    """Deletes a range from the ledger, as lines in it are not the mirror's any more but are sent as file-born ones."""
    ledger.write(
        "DELETE FROM ranges WHERE stream = ? AND name = ? AND generation = ? AND start = ?",
        (stream, written_range.name, written_range.generation, written_range.start),
    )


def ranges_between(ledger: Ledger, stream: str, name: str, generation: int, start: int, end: int) -> list[Range]:
    """Reads from the ledger the mirror's ranges that touch these bytes of a generation, in order, without entries.

    Ranges do not overlap, so of those that begin before `start` only the last can reach it.
    """
    here = (stream, name, generation)
    rows = ledger.rows(
        "SELECT start, end, digest FROM ranges WHERE stream = ? AND name = ? AND generation = ? AND start < ?"
        " AND end > ? AND start >= coalesce((SELECT max(start) FROM ranges WHERE stream = ? AND name = ?"
        " AND generation = ? AND start <= ?), 0) ORDER BY start",
        (*here, end, start, *here, start),
    )
    return [Range(name, generation, a, b, digest, []) for a, b, digest in rows]


def barrier(ledger: Ledger, stream: str, name: str, generation: int) -> int | None:
    """Finds the byte of a generation from which forward must not read, as the mirror has an open intent; None: none.

    An intent on an earlier generation bars all bytes: the file may have been emptied or replaced just before the write.
    """
    rows = ledger.rows(
        "SELECT min(CASE WHEN generation < ? THEN 0 ELSE size END) FROM intents"
        " WHERE stream = ? AND name = ? AND generation <= ?",
        (generation, stream, name, generation),
    )
    return None if rows[0][0] is None else int(rows[0][0])


def disown(ledger: Ledger, number: int, entries: Sequence[WrittenEntry]) -> None:
    """Notes in the ledger which entries of an open intent stand in Redis: `entries` has 0-0 for the others.

    Their lines will be file-born, unless the entries come back before the intent is resolved.
    """
    ledger.write("UPDATE intents SET entries = ? WHERE id = ?", (pack_written(entries), number))


def entries_of(ledger: Ledger, number: int) -> list[WrittenEntry]:
    """Reads from the ledger the entries of an open intent, with 0-0 for those that Redis lost."""
    rows = ledger.rows("SELECT entries FROM intents WHERE id = ?", (number,))
    return unpack_written(rows[0][0])


def written_above(ledger: Ledger, stream: str, cursor: EntryId) -> set[EntryId]:
    """Reads from the ledger's ranges the mirrored entries above the mirror's cursor.

    There are none, unless the cursor was set back behind some.
    """
    rows = ledger.rows(
        "SELECT entries FROM ranges WHERE stream = ? AND last_ms >= ?", (stream, min(cursor[0], LARGEST))
    )
    return {entry_id for (blob,) in rows for entry_id, _ in unpack_written(blob) if entry_id > cursor}


def last_mirrored(ledger: Ledger, stream: str) -> list[EntryId]:
    """Reads from the ledger the entry IDs, ascending, in the ranges that the mirror noted last."""
    rows = ledger.rows("SELECT entries FROM ranges WHERE stream = ? ORDER BY rowid DESC LIMIT 8", (stream,))
    return sorted(entry_id for (blob,) in rows for entry_id, _ in unpack_written(blob)[-64:] if entry_id != ZERO_ID)


def first_line_from(ledger: Ledger, stream: str, name: str, entry: EntryId) -> Position | None:
    """Finds in the ledger's ranges the first line, in file order, that the mirror made of an entry from this one on."""
    rows = ledger.rows(
        "SELECT generation, start, entries FROM ranges WHERE stream = ? AND name = ? AND last_ms >= ?"
        " ORDER BY generation, start",
        (stream, name, min(entry[0], LARGEST)),
    )
    for generation, at, blob in rows:
        for entry_id, length in unpack_written(blob):
            if entry_id >= entry:
                return Position(generation, at)
            at += length
    return None


def last_end(ledger: Ledger, stream: str, name: str) -> Position | None:
    """Finds in the ledger the end of the last range that the mirror wrote into a file; None: there is none."""
    rows = ledger.rows(
        "SELECT generation, end FROM ranges WHERE stream = ? AND name = ? ORDER BY generation DESC, end DESC LIMIT 1",
        (stream, name),
    )
    return Position(*rows[0]) if rows else None


def forget_entries_below(ledger: Ledger, stream: str, floor: EntryId) -> None:
    """Removes the IDs of entries below `floor`, which were trimmed, from a stream's ranges: none is looked for again.

    The bytes stay the mirror's.
    """
    rows = ledger.rows(
        "SELECT rowid, entries FROM ranges WHERE stream = ? AND last_ms BETWEEN 1 AND ?",
        (stream, min(floor[0], LARGEST)),
    )
    for rowid, blob in rows:
        written = unpack_written(blob)
        left = [(ZERO_ID if entry_id < floor else entry_id, length) for entry_id, length in written]
        if left != written:
            last_ms = min(max(left)[0][0], LARGEST)
            ledger.write(
                "UPDATE ranges SET entries = ?, last_ms = ? WHERE rowid = ?", (pack_written(left), last_ms, rowid)
            )


def all_ranges(ledger: Ledger, stream: str) -> list[Range]:
    """Reads from the ledger every range of a stream's mirror that holds entries."""
    rows = ledger.rows("SELECT name, generation, start, end, digest, entries FROM ranges WHERE stream = ?", (stream,))
    return [Range(name, g, a, b, digest, unpack_written(blob)) for name, g, a, b, digest, blob in rows if blob]


def ranges_of(ledger: Ledger, stream: str, name: str) -> list[Range]:
    """Reads from the ledger the ranges that the mirror wrote into one file, with their entries."""
    rows = ledger.rows(
        "SELECT generation, start, end, digest, entries FROM ranges WHERE stream = ? AND name = ?", (stream, name)
    )
    return [Range(name, g, a, b, digest, unpack_written(blob)) for g, a, b, digest, blob in rows]


def range_at(ledger: Ledger, stream: str, name: str, generation: int, offset: int) -> Range | None:
    """Finds in the ledger the mirror's range that holds this byte of a generation, with its entries; None: no range."""
    rows = ledger.rows(
        "SELECT start, end, digest, entries FROM ranges WHERE stream = ? AND name = ? AND generation = ? AND start <= ?"
        " AND end > ? ORDER BY start DESC LIMIT 1",
        (stream, name, generation, offset, offset),
    )
    for start, end, digest, blob in rows:
        return Range(name, generation, start, end, digest, unpack_written(blob))
    return None


def range_of(ledger: Ledger, stream: str, entry_id: EntryId) -> tuple[Range, int] | None:
    """Finds in the ledger the mirror's range with the line of this entry, and the line's offset; None: no range."""
    rows = ledger.rows(
        "SELECT name, generation, start, end, digest, entries FROM ranges WHERE stream = ? AND last_ms >= ?"
        " ORDER BY last_ms",
        (stream, min(entry_id[0], LARGEST)),
    )
    for name, generation, start, end, digest, blob in rows:
        at = start
        for written_id, length in unpack_written(blob):
            if written_id == entry_id:
                return Range(name, generation, start, end, digest, []), at
            at += length
    return None
