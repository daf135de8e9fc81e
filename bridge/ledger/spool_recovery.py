"""Changes the ledger's memory of a spool for recovery: forgets messages that Redis or a person lost, learns others.

It learns again those that come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bridge.files.folder import FileFacts
from bridge.ledger.spool_messages import (
    NOWHERE,
    STALE_INODE,
    DueMessage,
    facts_of,
    last_batch,
    note_file,
    save_carried,
    unsend,
)
from bridge.ledger.store import Ledger

NOBODY = FileFacts(0, 0, 0, 0)
"""The facts that are noted of a spool message without a file."""

HIGHEST = b"highest"
"""The key under which a spool's highest batch number is noted; no message has this key, as those are digests."""


@dataclass(frozen=True, slots=True)
class KnownMessage:
    """A spool message that is known when a loss is repaired, with the file that holds it, or none where that is gone.

    `digest` is that of the row it is sent as, empty where that is not known.
    """

    key: bytes
    alike: bytes
    name: bytes = b""
    facts: FileFacts = NOBODY
    digest: bytes = b""


def forget_all(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger all that it knows of the messages and files of a spool's folder.

    A due message that is kept with its bytes stays due: its file may be taken.
    """
    _keep_highest(ledger, stream)
    ledger.write("DELETE FROM spool_messages WHERE stream = ? AND key != ?", (stream, HIGHEST))
    ledger.write("DELETE FROM spool_files WHERE stream = ?", (stream,))
    ledger.write("DELETE FROM spool_due WHERE stream = ? AND raw IS NULL", (stream,))
    unsend(ledger, stream)


def _keep_highest(ledger: Ledger, stream: str) -> None:
    """Notes in the ledger the highest batch number of a spool, so that no other batch gets a number that was in use.

    Another past of the stream has the batches of these numbers.
    """
    highest = last_batch(ledger, stream)
    save_carried(ledger, stream, HIGHEST, b"", highest, NOWHERE, b"", NOBODY)


def learn(
    ledger: Ledger, stream: str, key: bytes, alike: bytes, batch: int, place: int, digest: bytes, facts: FileFacts,
    name: bytes,
) -> bool:  # fmt: skip
    """Notes in the ledger, in recovery, that a spool message stands in the stream as that place of that batch.

    In a transaction. What was noted of that place was sent into another past of the stream. `name`: the file that holds
    the message, if any does. Returns False where the ledger knew it.
    """
    rows = ledger.rows("SELECT batch, place FROM spool_messages WHERE stream = ? AND key = ?", (stream, key))
    ledger.write("DELETE FROM spool_due WHERE stream = ? AND key = ?", (stream, key))
    if [(batch, place)] == rows:
        return False
    _forget(ledger, stream, "batch = ? AND place = ? AND key != ?", (batch, place, key))
    save_carried(ledger, stream, key, alike, batch, place, digest, facts)
    if name:
        note_file(ledger, stream, name, facts, key)
    return True


def forget_file(ledger: Ledger, stream: str, name: bytes) -> None:
    """Deletes from the ledger the message in this spool file, so that forward sends it as if it was never met."""
    with ledger.transaction():
        ledger.write(
            "DELETE FROM spool_messages WHERE stream = ? AND key IN"
            " (SELECT key FROM spool_files WHERE stream = ? AND name = ?)",
            (stream, stream, name),
        )
        ledger.write("DELETE FROM spool_files WHERE stream = ? AND name = ?", (stream, name))


def forget_aside(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger the spool files whose messages were set aside in quarantine: they are read again."""
    ledger.write("DELETE FROM spool_files WHERE stream = ? AND key = x''", (stream,))


def forget_mirrored(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger a spool's mirrored messages without a range: Redis lost them, and forward sends them."""
    _forget(
        ledger, stream,
        "batch = 0 AND NOT EXISTS (SELECT 1 FROM ranges WHERE ranges.stream = spool_messages.stream"
        " AND ranges.generation || ':' || ranges.name = spool_messages.mirrored)", (),
    )  # fmt: skip


def forget_above(ledger: Ledger, stream: str, batch: int, standing: dict[int, set[int]]) -> None:
    """Deletes from the ledger the spool messages that Redis lost, in batches above this one; they are sent again.

    Except those that still stand in the stream, in `standing`, as places by batch. Messages on their way are due again
    too. In a transaction.
    """
    _keep_highest(ledger, stream)
    unsend(ledger, stream)
    ledger.write("CREATE TEMP TABLE IF NOT EXISTS standing (batch INTEGER, place INTEGER, PRIMARY KEY (batch, place))")
    ledger.write("DELETE FROM standing")
    for number, places in standing.items():
        for place in places:
            ledger.write("INSERT INTO standing VALUES (?, ?)", (number, place))
    gone = (
        f"batch > ? AND place != {NOWHERE} AND NOT EXISTS (SELECT 1 FROM standing AS s"
        " WHERE s.batch = spool_messages.batch AND s.place = spool_messages.place)"
    )
    _forget(ledger, stream, gone, (batch,))


def messages_known(ledger: Ledger, stream: str, names: Sequence[bytes]) -> dict[bytes, KnownMessage]:
    """Reads from the ledger which of these spool files, at most 1000, were carried, with the message of each."""
    marks = ",".join("?" * len(names))
    rows = ledger.rows(
        "SELECT f.name, f.size, f.written, f.device, f.inode, m.key, m.alike, m.digest FROM spool_files AS f"
        f" JOIN spool_messages AS m USING (stream, key) WHERE stream = ? AND f.name IN ({marks})",
        (stream, *names),
    )
    return {row[0]: KnownMessage(row[5], row[6], row[0], facts_of(row[1:5]), row[7]) for row in rows}


def messages_at(ledger: Ledger, stream: str, batch: int, place: int, digest: bytes) -> list[KnownMessage]:
    """Finds in the ledger the spool message that went as this place of this batch with this row's digest, or none."""
    rows = ledger.rows(
        "SELECT key, alike, digest FROM spool_messages WHERE stream = ? AND batch = ? AND place = ? AND digest = ?",
        (stream, batch, place, digest),
    )
    return [KnownMessage(key, alike, digest=row) for key, alike, row in rows]


def messages_mirrored(ledger: Ledger, stream: str) -> dict[str, list[KnownMessage]]:
    """Reads from the ledger a spool's mirrored messages of which it knows a file, by the marks of their ranges."""
    found: dict[str, list[KnownMessage]] = {}
    for mark, key, alike in ledger.rows(
        "SELECT mirrored, key, alike FROM spool_messages AS m WHERE stream = ? AND batch = 0 AND mirrored != ''"
        " AND EXISTS (SELECT 1 FROM spool_files AS f WHERE f.stream = m.stream AND f.key = m.key)",
        (stream,),
    ):
        found.setdefault(mark, []).append(KnownMessage(key, alike))
    return found


def unread(ledger: Ledger, stream: str) -> set[bytes]:
    """Reads from the ledger the spool files that could not be read when their folder was compared after a loss.

    Their messages may stand in the stream: each is compared before it is taken for one that was never sent. A name that
    ends with a slash is a folder's, and stands for all files in it.
    """
    return {row[0] for row in ledger.rows("SELECT name FROM spool_unread WHERE stream = ?", (stream,))}


def save_unread(ledger: Ledger, stream: str, names: Iterable[bytes]) -> None:
    """Writes into the ledger, in a transaction, the spool files that recovery could not read, in place of those before.

    None of them stays due.
    """
    ledger.write("DELETE FROM spool_unread WHERE stream = ?", (stream,))
    for name in names:
        ledger.write("INSERT INTO spool_unread VALUES (?, ?)", (stream, name))
        ledger.write(
            "DELETE FROM spool_due WHERE stream = ? AND (name = ? OR (? AND substr(name, 1, ?) = ?))"
            " AND +batch = 0 AND raw IS NULL",
            (stream, name, name.endswith(b"/"), len(name), name),
        )


def is_among(name: bytes, unread: set[bytes]) -> bool:
    """Whether a spool file could not be read in recovery, or lies in a folder that could not be read."""
    return name in unread or any(name.startswith(folder) for folder in unread if folder.endswith(b"/"))


def kept_due(ledger: Ledger, stream: str, size: int = 500) -> Iterator[list[DueMessage]]:
    """Reads from the ledger the spool messages that are due, or on their way, with their bytes, some at a time."""
    last = b""
    while rows := ledger.rows(
        "SELECT key, alike, iif(inode = ?, x'', name), size, written, device, inode, time, raw, digest, batch, place"
        " FROM spool_due WHERE stream = ? AND raw IS NOT NULL AND key > ? ORDER BY key LIMIT ?",
        (STALE_INODE, stream, last, size),
    ):
        last = rows[-1][0]
        yield [DueMessage(r[0], r[1], r[2], facts_of(r[3:7]), *r[7:]) for r in rows]


def _forget(ledger: Ledger, stream: str, which: str, args: tuple[object, ...]) -> None:
    ledger.write(
        "DELETE FROM spool_files WHERE stream = ? AND key IN"
        f" (SELECT key FROM spool_messages WHERE stream = ? AND {which})",
        (stream, stream, *args),
    )
    ledger.write(f"DELETE FROM spool_messages WHERE stream = ? AND {which}", (stream, *args))


KEPT_TABLES = (
    "journal", "parity", "quarantine", "confirmed", "archive_spans", "archive_parts", "archive_ends", "archive_begun",
)  # fmt: skip
"""The tables of the ledger that keep their rows when a stream is forgotten.

They tell what was done and found, and hold messages that may be nowhere else.
"""


def forget_stream(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger, in a transaction, how far a stream was carried, as if it never was."""
    ledger.write("DELETE FROM twofold_files WHERE stretch IN (SELECT id FROM twofold WHERE stream = ?)", (stream,))
    for (table,) in ledger.rows(
        "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'stream'"
    ):
        if table not in KEPT_TABLES:
            ledger.write(f"DELETE FROM {table} WHERE stream = ?", (stream,))
