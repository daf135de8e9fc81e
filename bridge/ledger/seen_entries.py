"""Keeps in the ledger the entries seen in a stream, and the mirrored lines whose entries the stream lost.

By both the bridge tells that the stream is a fork.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bridge.core.model import ZERO_ID, EntryId, format_id, parse_id
from bridge.ledger.ranges import intents_of, last_mirrored
from bridge.ledger.store import Ledger

SeenEntry = tuple[EntryId, bytes]
"""An entry that was seen in a stream: its ID and the digest of its fields."""


def save_seen(ledger: Ledger, stream: str, way: str, entries: Iterable[SeenEntry]) -> None:
    """Writes into the ledger the last entries that one direction saw in the stream, in place of those before."""
    told = json.dumps([[format_id(entry_id).decode(), digest.hex()] for entry_id, digest in entries])
    ledger.write("INSERT OR REPLACE INTO seen (stream, way, entries) VALUES (?, ?, ?)", (stream, way, told))


def all_seen(ledger: Ledger, stream: str) -> list[SeenEntry]:
    """Reads from the ledger the entries of a stream that were seen last, mirrored last, or are about to be mirrored.

    Entries that are not from the first group have an empty digest: nobody noted one.
    """
    rows = ledger.rows("SELECT entries FROM seen WHERE stream = ?", (stream,))
    told = [sighting for (some,) in rows for sighting in json.loads(some)]
    seen = {(parse_id(entry.encode()), bytes.fromhex(digest)) for entry, digest in told}
    under_way = {entry for intent in intents_of(ledger, stream) for entry, _ in intent.standing if entry != ZERO_ID}
    return sorted(seen | {(entry, b"") for entry in under_way.union(last_mirrored(ledger, stream))})


class ReleasedLine(NamedTuple):
    """A released line: a mirrored line whose entry Redis lost, so that it is file-born now.

    `digest` is the line's, empty where nobody could read it.
    """

    entry: EntryId
    digest: bytes
    name: str
    generation: int
    start: int
    length: int


def note_released(ledger: Ledger, stream: str, lines: Iterable[ReleasedLine]) -> None:
    """Notes in the ledger, in a transaction, the mirrored lines whose entries Redis lost: the entries may come back."""
    for line in lines:
        ledger.write(
            "INSERT OR REPLACE INTO released (stream, entry, digest, name, generation, start, length)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (stream, format_id(line.entry).decode(), *line[1:]),
        )


def released_of(ledger: Ledger, stream: str, size: int = 500) -> Iterator[Sequence[ReleasedLine]]:
    """Reads from the ledger all mirrored lines of a stream whose entries Redis lost, some at a time."""
    last = 0
    while True:
        rows = ledger.rows(
            "SELECT rowid, entry, digest, name, generation, start, length FROM released"
            " WHERE stream = ? AND rowid > ? ORDER BY rowid LIMIT ?",
            (stream, last, size),
        )
        if not rows:
            return
        last = rows[-1][0]
        yield [ReleasedLine(parse_id(row[1].encode()), bytes(row[2]), *row[3:]) for row in rows]


def forget_released(ledger: Ledger, stream: str, entries: Iterable[EntryId]) -> None:
    """Deletes mirrored lines from the ledger's list of those whose entries Redis lost, inside a transaction.

    Their entries stand again, or were trimmed on purpose.
    """
    for entry_id in entries:
        ledger.write("DELETE FROM released WHERE stream = ? AND entry = ?", (stream, format_id(entry_id).decode()))
