"""Keeps in the ledger what is known of each stream, its sources and the generations of each source."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bridge.core.model import ZERO_ID, EntryId, Fingerprint, Position, format_id, parse_id
from bridge.files.generation_record import GenerationRecord
from bridge.ledger.staleness_mark import read_mark
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class StreamMemory:
    """The ledger's memory of a stream: the newest ID seen, the count of entries ever added, the mirror's cursor.

    `first_id` is the oldest ID. `timeline` is `meta.timeline` of the data that all this is true of: the nonce under
    which its last loss was settled, empty before any. `commits` is how often the mirror noted its work, to compare with
    the ledger's mark.
    """

    last_id: EntryId = ZERO_ID
    added: int = 0
    mirror_cursor: EntryId = ZERO_ID
    first_id: EntryId = ZERO_ID
    timeline: str = ""
    commits: int = 0

    def and_seen(self, last_id: EntryId, added: int) -> StreamMemory:
        """Returns the ledger's memory of a stream, raised to the last ID and the count that were seen since."""
        return replace(self, last_id=max(self.last_id, last_id), added=max(self.added, added))


@dataclass(frozen=True, slots=True)
class MirrorCounts:
    """The mirror's counts for a stream: `entries` it has passed, `ours` of them from forward, and `gone` ones.

    Entries that are gone were removed before the mirror came to them; somebody has acknowledged `acknowledged` of them.
    """

    entries: int = 0
    ours: int = 0
    gone: int = 0
    acknowledged: int = 0


@dataclass(frozen=True, slots=True)
class SourceMemory:
    """The ledger's memory of a source: its number, its checkpoint, and how far its history and a refill go.

    `stored` is the checkpoint as Redis held it. Lines before `history` get their own time as entry ID, until the source
    is `live`: it got there, or another producer's newer entries made that impossible. Up to `refill` a stream that
    began anew is filled again; lines whose entry stands are passed over.
    """

    number: int
    stored: bytes | None = None
    live: bool = False
    history: Position | None = None
    refill: Position | None = None


def stream_memory(ledger: Ledger, stream: str) -> StreamMemory | None:
    """Reads the ledger's memory of a stream; None when the stream was never carried."""
    rows = ledger.rows(
        "SELECT last_id, added, mirror_cursor, coalesce(first_id, '0-0'), coalesce(timeline, ''), coalesce(commits, 0)"
        " FROM streams"
        " WHERE stream = ?",
        (stream,),
    )
    if not rows:
        return None
    last_id, added, cursor, first_id, timeline, commits = rows[0]
    ids = [parse_id(told.encode()) for told in (last_id, cursor, first_id)]
    return StreamMemory(ids[0], added, ids[1], ids[2], timeline, commits)


def save_stream(ledger: Ledger, stream: str, last_id: EntryId, added: int, first_id: EntryId = ZERO_ID) -> None:
    """Writes into the ledger's memory of a stream what was seen of the stream; the mirror's cursor stays."""
    ledger.write(
        "INSERT INTO streams (stream, last_id, added, mirror_cursor, first_id) VALUES (?, ?, ?, '0-0', ?)"
        " ON CONFLICT (stream) DO UPDATE SET last_id = excluded.last_id, added = excluded.added,"
        " first_id = excluded.first_id",
        (stream, format_id(last_id).decode(), added, format_id(first_id).decode()),
    )


def save_timeline(ledger: Ledger, stream: str, timeline: str) -> None:
    """Writes into the ledger the timeline of the stream that it knows; inside the transaction that settles a loss."""
    ledger.write("UPDATE streams SET timeline = ? WHERE stream = ?", (timeline, stream))


def agree_with_mark(ledger: Ledger, stream: str) -> None:
    """Sets the count of the mirror's commits in the ledger's memory of a stream to what the ledger's mark says.

    For a ledger that was made anew; inside a transaction.
    """
    marked = read_mark(ledger.path, ledger.uuid, stream)
    ledger.write("UPDATE streams SET commits = ? WHERE stream = ?", (marked, stream))


def save_mirror_cursor(ledger: Ledger, stream: str, cursor: EntryId, seen: MirrorCounts | None = None) -> None:
    """Writes the mirror's cursor of a stream into the ledger: Redis-born entries up to it are in files or quarantine.

    `seen` counts what the mirror passed up to here, None: nobody goes on counting from here.
    """
    counts = (seen.entries, seen.ours, seen.gone) if seen is not None else (None, None, None)
    ledger.write(
        "UPDATE streams SET mirror_cursor = ?, mirror_seen = ?, mirror_ours = ?,"
        " mirror_gone = coalesce(?, mirror_gone) WHERE stream = ?",
        (format_id(cursor).decode(), *counts, stream),
    )


class OwnStretch(NamedTuple):
    """A stretch of a stream in which all `entries` are forward's: behind the ID `behind` and up to `last`."""

    behind: EntryId
    last: EntryId
    entries: int


def pass_own(ledger: Ledger, stream: str, own: OwnStretch) -> None:
    """Moves the mirror's cursor of a stream, in the ledger, over entries that are all forward's, if it stands there.

    So the mirror need not read them. Counts go on, or begin where the stream does.
    """
    ledger.write(
        "UPDATE streams SET mirror_cursor = ?,"
        " mirror_seen = CASE WHEN mirror_cursor = '0-0' THEN coalesce(mirror_seen, 0) ELSE mirror_seen END + ?,"
        " mirror_ours = coalesce(mirror_ours, 0) + ?"
        " WHERE stream = ? AND mirror_cursor = ?",
        (format_id(own.last).decode(), own.entries, own.entries, stream, format_id(own.behind).decode()),
    )


def mirror_cursors(ledger: Ledger) -> dict[str, bytes]:
    """Reads from the ledger the mirror's cursor of every stream that was ever carried, as Redis writes an entry ID."""
    rows = ledger.rows("SELECT stream, CAST(mirror_cursor AS BLOB) FROM streams")
    return {str(name): bytes(cursor) for name, cursor in rows}


def seen_by_mirror(ledger: Ledger, stream: str) -> MirrorCounts | None:
    """Reads from the ledger the mirror's counts for a stream; None: it never counted, or does not any more."""
    rows = ledger.rows(
        "SELECT mirror_seen, coalesce(mirror_ours, 0), coalesce(mirror_gone, 0), coalesce(mirror_acknowledged, 0)"
        " FROM streams WHERE stream = ? AND mirror_seen IS NOT NULL",
        (stream,),
    )
    return MirrorCounts(*rows[0]) if rows else None


def gone_before_mirrored(ledger: Ledger, stream: str) -> tuple[int, int]:
    """Reads from the ledger how many entries were removed before they were mirrored, and how many are acknowledged."""
    rows = ledger.rows(
        "SELECT coalesce(mirror_gone, 0), coalesce(mirror_acknowledged, 0) FROM streams WHERE stream = ?", (stream,)
    )
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


def acknowledge_gone(ledger: Ledger, stream: str) -> int:
    """Notes in the ledger that somebody acknowledged all entries removed before they were mirrored.

    Returns how many were not acknowledged before.
    """
    gone, known = gone_before_mirrored(ledger, stream)
    ledger.write("UPDATE streams SET mirror_acknowledged = ? WHERE stream = ?", (gone, stream))
    return int(gone - known)


def sources_of(ledger: Ledger, stream: str, names: Sequence[str] | None = None) -> dict[str, SourceMemory]:
    """Reads the ledger's memory of the sources of a stream, by name: those of these names, or all."""
    columns = "name, number, stored, live, history_generation, history_offset, refill_generation, refill_offset"
    asked = f"SELECT {columns} FROM sources WHERE stream = ?"
    if names is None:
        rows = ledger.rows(asked, (stream,))
    else:
        rows = [row for name in names for row in ledger.rows(f"{asked} AND name = ?", (stream, name))]
    return {
        name: SourceMemory(
            number,
            stored,
            bool(live),
            None if hg is None else Position(hg, ho),
            None if rg is None else Position(rg, ro),
        )
        for name, number, stored, live, hg, ho, rg, ro in rows
    }


def save_source(ledger: Ledger, stream: str, name: str, memory: SourceMemory) -> None:
    """Writes into the ledger how far a source was carried."""
    ledger.write(
        "INSERT OR REPLACE INTO sources (stream, name, number, stored, live, history_generation, history_offset,"
        " refill_generation, refill_offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, name, memory.number, memory.stored, int(memory.live), *(memory.history or (None, None)),
         *(memory.refill or (None, None))),
    )  # fmt: skip


def generations_of(ledger: Ledger, stream: str, name: str) -> list[GenerationRecord]:
    """Reads from the ledger the known generations of a source, oldest first."""
    rows = ledger.rows(
        f"SELECT {_KNOWN} FROM generations WHERE stream = ? AND name = ? ORDER BY number", (stream, name)
    )
    return [_known(row) for row in rows]


def all_generations(ledger: Ledger, stream: str) -> list[tuple[str, GenerationRecord]]:
    """Reads from the ledger the known generations of all sources of a stream, each with its source's name."""
    rows = ledger.rows(f"SELECT name, {_KNOWN} FROM generations WHERE stream = ? ORDER BY name, number", (stream,))
    return [(name, _known(row)) for name, *row in rows]


def generations_by_inode(
    ledger: Ledger, inodes: Collection[tuple[int, int]]
) -> dict[tuple[int, int], list[tuple[str, GenerationRecord]]]:
    """Reads from the ledger which generations of any log the files of these devices and inodes were seen to be.

    Each generation with its log's name.
    """
    found: dict[tuple[int, int], list[tuple[str, GenerationRecord]]] = {}
    for name, *row in ledger.rows(f"SELECT name, {_KNOWN} FROM generations"):
        if (int(row[1]), int(row[2])) in inodes:
            known = _known(row)
            found.setdefault((known.device, known.inode), []).append((name, known))
    return found


def in_doubt(ledger: Ledger, stream: str) -> list[str]:
    """Reads from the ledger the logs of a stream whose place another file took and is not compared yet.

    So nobody knows yet which lines of the log that file holds.
    """
    rows = ledger.rows(
        "SELECT DISTINCT name FROM generations WHERE stream = ? AND in_doubt AND NOT closed AND head_len > 0"
        " ORDER BY name",
        (stream,),
    )
    return [name for (name,) in rows]


_KNOWN = (
    "number, device, inode, offset, head_len, head, tail, closed, packed_size, packed_mtime, coalesce(born, 0),"
    " coalesce(written, 0), coalesce(decided, ''), coalesce(rewrites, 0), coalesce(in_doubt, 0), coalesce(crc, -1)"
)


def _known(row: Sequence[Any]) -> GenerationRecord:
    number, device, inode, offset, head_len, head, tail, closed, size, mtime, born, written, decided, *since = row
    packed, at = None if size is None else (size, mtime), Fingerprint(offset, head_len, head, tail)
    of, doubt, crc = since
    return GenerationRecord(
        number, int(device), int(inode), at, bool(closed), packed, born, written, decided, of, bool(doubt), crc
    )


def save_generation(ledger: Ledger, stream: str, name: str, known: GenerationRecord) -> None:
    """Writes into the ledger the record by which a generation of a source is known again."""
    at = known.at
    ledger.write(
        "INSERT OR REPLACE INTO generations (stream, name, number, device, inode, generation, offset, head_len, head,"
        " tail, closed, packed_size, packed_mtime, born, written, decided, rewrites, in_doubt, crc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, name, known.number, str(known.device), str(known.inode), known.number, at.offset, at.head_len, at.head,
         at.tail, int(known.closed), *(known.packed or (None, None)), known.born, known.written, known.decided,
         known.rewrites, int(known.in_doubt), known.crc),
    )  # fmt: skip
