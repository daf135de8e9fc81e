"""Keeps in the ledger the messages of a spool that were carried, the files that hold them, and those that are due.

A message is known by its `key`: a digest of its own identity, or of its content and the time of writing. `alike` is a
digest of the content, empty where the message has an identity. A message stays known when its file is gone; a file of a
message that was set aside in quarantine has an empty key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge.files.folder import FileFacts
from bridge.ledger.store import Ledger

SECOND = 1_000_000_000
"""One second, in ns."""

STALE_INODE = "-1"
"""The inode that is noted of a spool message which is due and whose file holds another message by now."""

GONE_INODE = "-2"
"""The inode that is noted of a spool file which was seen to be gone."""

NOWHERE = -1
"""The place in a batch that is noted of what is no spool message in any batch."""

MIRRORED = 0
"""The batch number of spool messages that the mirror put into the folder; batches that forward sends begin at 1."""


@dataclass(frozen=True, slots=True)
class DueMessage:
    """A message of a spool that is due: forward is to send it.

    `time` in ms since 1970; `raw` None: too much was kept, the file is read again. `batch` and `place` are 0 until the
    message is on its way; then the batch is sent again as it was, if it must be.
    """

    key: bytes
    alike: bytes
    name: bytes
    facts: FileFacts
    time: int
    raw: bytes | None
    digest: bytes = b""
    batch: int = 0
    place: int = 0


def files_known(ledger: Ledger, stream: str, names: Sequence[bytes]) -> dict[bytes, tuple[FileFacts, bytes]]:
    """Reads from the ledger which of these spool files were read before: their facts then, and their message's key.

    At most 1000 names.
    """
    found: dict[bytes, tuple[FileFacts, bytes]] = {}
    marks = ",".join("?" * len(names))
    for table in ("spool_files", "spool_due"):
        rows = ledger.rows(
            f"SELECT name, size, written, device, inode, key FROM {table} WHERE stream = ? AND name IN ({marks})"
            " AND inode != ?",
            (stream, *names, STALE_INODE),
        )
        found.update((row[0], (facts_of(row[1:5]), row[5])) for row in rows)
    return found


def facts_of(row: Sequence[object]) -> FileFacts:
    """Makes the facts of a spool file from the ledger's columns: size, written, device, inode."""
    return FileFacts(int(str(row[0])), int(str(row[1])), int(str(row[2])), int(str(row[3])))


def note_file(ledger: Ledger, stream: str, name: bytes, facts: FileFacts, key: bytes) -> None:
    """Writes into the ledger that a file of a spool, with these facts, holds the message of this key."""
    ledger.write(
        "INSERT OR REPLACE INTO spool_files (stream, name, size, written, device, inode, key)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (stream, name, facts.size, facts.written, str(facts.device), str(facts.inode), key),
    )


def standing(ledger: Ledger, stream: str, key: bytes) -> str:
    """Tells from the ledger what became of a spool message: `carried` (either way), `sent` or `due`; empty: unknown."""
    rows = ledger.rows(
        "SELECT 'carried' FROM spool_messages WHERE stream = ? AND key = ? UNION ALL"
        " SELECT iif(batch, 'sent', 'due') FROM spool_due WHERE stream = ? AND key = ?",
        (stream, key, stream, key),
    )
    return str(rows[0][0]) if rows else ""


def alike(ledger: Ledger, stream: str, content: bytes, written: int) -> list[bytes]:
    """Reads from the ledger the keys of spool messages without identity that have this content and time of writing.

    Carried or due. A time in whole seconds, as copies have it, matches any time within that second.
    """
    second = written - written % SECOND
    when = "written >= ? AND written < ?" if second == written else "written IN (?, ?)"
    times = (second, second + SECOND) if second == written else (second, written)
    return [
        row[0]
        for table in ("spool_messages", "spool_due")
        for row in ledger.rows(
            f"SELECT key FROM {table} WHERE stream = ? AND alike = ? AND {when}", (stream, content, *times)
        )
    ]


class LastContent(NamedTuple):
    """The ledger's record of what a spool file last held, sent or due: the message's key, content digest, inode."""

    key: bytes
    alike: bytes
    inode: int

    @property
    def removed(self) -> bool:
        """Whether the spool file was seen to be gone since its content was recorded."""
        return self.inode == int(GONE_INODE)


def last_of(ledger: Ledger, stream: str, name: bytes) -> LastContent | None:
    """Reads from the ledger the last content of a spool file, as a message's key; None: the file was never met."""
    rows = ledger.rows(
        "SELECT key, alike, inode FROM spool_due WHERE stream = ? AND name = ? AND inode != ?",
        (stream, name, STALE_INODE),
    )
    rows = rows or ledger.rows(
        "SELECT m.key, m.alike, f.inode FROM spool_files AS f JOIN spool_messages AS m USING (stream, key)"
        " WHERE stream = ? AND name = ?",
        (stream, name),
    )
    return LastContent(rows[0][0], rows[0][1], int(rows[0][2])) if rows else None


def touch(ledger: Ledger, stream: str, name: bytes, facts: FileFacts) -> None:
    """Writes new facts of a spool file into the ledger: it holds the same message, at another time or place."""
    for table in ("spool_files", "spool_due"):
        ledger.write(
            f"UPDATE {table} SET size = ?, written = ?, device = ?, inode = ?"
            " WHERE stream = ? AND name = ? AND inode != ?",
            (facts.size, facts.written, str(facts.device), str(facts.inode), stream, name, STALE_INODE),
        )


def touched(ledger: Ledger, stream: str, key: bytes, facts: FileFacts) -> None:
    """Writes into the ledger time and inode of the file that holds a spool message now, to know it when it is moved."""
    ledger.write(
        "UPDATE spool_messages SET written = ?, inode = ? WHERE stream = ? AND key = ? AND written != ?",
        (facts.written, str(facts.inode), stream, key, facts.written),
    )


def gone(ledger: Ledger, stream: str, name: bytes) -> None:
    """Notes in the ledger that a spool file was seen to be gone.

    A file of its name is another one, even on the same inode.
    """
    for table in ("spool_files", "spool_due"):
        ledger.write(
            f"UPDATE {table} SET inode = ? WHERE stream = ? AND name = ? AND inode != ?",
            (GONE_INODE, stream, name, STALE_INODE),
        )


def names_of(ledger: Ledger, stream: str, key: bytes) -> list[tuple[bytes, FileFacts]]:
    """Reads from the ledger which spool files hold a message, due or carried, and the facts each had when read."""
    return [
        (row[0], facts_of(row[1:5]))
        for table in ("spool_files", "spool_due")
        for row in ledger.rows(
            f"SELECT name, size, written, device, inode FROM {table} WHERE stream = ? AND key = ?", (stream, key)
        )
    ]


def add_due(ledger: Ledger, stream: str, due_message: DueMessage) -> None:
    """Notes in the ledger that a spool message is due to be sent, or updates one that is not on its way yet."""
    # A message whose bytes are kept is sent, although another message took its file. The plus keeps SQLite from using
    # the index by batch and looking for the name among all messages that are in no batch yet.
    ledger.write(
        "DELETE FROM spool_due WHERE stream = ? AND name = ? AND +batch = 0 AND raw IS NULL", (stream, due_message.name)
    )
    ledger.write(
        "UPDATE spool_due SET inode = ? WHERE stream = ? AND name = ? AND key != ?",
        (STALE_INODE, stream, due_message.name, due_message.key),
    )
    ledger.write(
        "INSERT INTO spool_due"
        " (stream, key, alike, batch, place, digest, name, time, size, written, device, inode, raw)"
        " VALUES (?, ?, ?, 0, 0, x'', ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stream, key) DO UPDATE SET"
        " name = excluded.name, time = excluded.time, size = excluded.size, written = excluded.written,"
        " device = excluded.device, inode = excluded.inode, raw = excluded.raw WHERE batch = 0",
        (
            stream,
            due_message.key,
            due_message.alike,
            due_message.name,
            due_message.time,
            due_message.facts.size,
            due_message.facts.written,
            str(due_message.facts.device),
            str(due_message.facts.inode),
            due_message.raw,
        ),
    )


def drop_due(ledger: Ledger, stream: str, key: bytes) -> None:
    """Deletes a due spool message that is not on its way from the ledger: its file is gone, or another file by now."""
    ledger.write("DELETE FROM spool_due WHERE stream = ? AND key = ? AND +batch = 0", (stream, key))


def due(ledger: Ledger, stream: str, count: int, *, batch: int = 0) -> list[DueMessage]:
    """Reads the spool's next due messages from the ledger, in the order of times, then names; or a batch on its way."""
    order = "place" if batch else "time, name"
    rows = ledger.rows(
        "SELECT key, alike, name, size, written, device, inode, time, raw, digest, batch, place FROM spool_due"
        f" WHERE stream = ? AND batch = ? ORDER BY {order} LIMIT ?",
        (stream, batch, count),
    )
    return [DueMessage(r[0], r[1], r[2], facts_of(r[3:7]), *r[7:]) for r in rows]


def send(ledger: Ledger, stream: str, batch: int, messages: Iterable[tuple[bytes, bytes, bytes]]) -> None:
    """Notes in a transaction that these spool messages (key, bytes, row's digest) are on their way in this batch."""
    for place, (key, raw, digest) in enumerate(messages):
        ledger.write(
            "UPDATE spool_due SET batch = ?, place = ?, raw = ?, digest = ? WHERE stream = ? AND key = ?",
            (batch, place, raw, digest, stream, key),
        )


def batches(ledger: Ledger, stream: str) -> dict[int, int]:
    """Reads from the ledger the spool's batches that are on their way, ascending, with their counts of messages."""
    rows = ledger.rows(
        "SELECT batch, count(*) FROM spool_due WHERE stream = ? AND batch > 0 GROUP BY batch ORDER BY batch", (stream,)
    )
    return {int(batch): int(count) for batch, count in rows}


def last_batch(ledger: Ledger, stream: str) -> int:
    """Finds in the ledger the highest number that a batch of the spool's messages was given, as far as it is known."""
    rows = ledger.rows(
        "SELECT max(n) FROM (SELECT max(batch) AS n FROM spool_messages WHERE stream = ?"
        " UNION ALL SELECT max(batch) FROM spool_due WHERE stream = ?)",
        (stream, stream),
    )
    return int(rows[0][0] or 0)


def last_landed(ledger: Ledger, stream: str) -> int:
    """Finds in the ledger the highest number of a batch of spool messages that is in the stream; 0: none is."""
    rows = ledger.rows(f"SELECT max(batch) FROM spool_messages WHERE stream = ? AND place != {NOWHERE}", (stream,))
    return int(rows[0][0] or 0)


def has_batch(ledger: Ledger, stream: str, batch: int) -> bool:
    """Whether the ledger knows a spool message that was sent in the batch of this number."""
    which = f"stream = ? AND batch = ? AND place != {NOWHERE}"
    return any(
        ledger.rows(f"SELECT 1 FROM {table} WHERE {which} LIMIT 1", (stream, batch))
        for table in ("spool_messages", "spool_due")
    )


def landed(ledger: Ledger, stream: str, batch: int) -> list[bytes]:
    """Notes in a transaction that a batch of spool messages is in the stream, carried. Returns their files' names."""
    names = [
        row[0] for row in ledger.rows("SELECT name FROM spool_due WHERE stream = ? AND batch = ?", (stream, batch))
    ]
    ledger.write(
        "INSERT OR REPLACE INTO spool_messages (stream, key, alike, batch, place, digest, written, inode, mirrored)"
        " SELECT stream, key, alike, batch, place, digest, written, inode, '' FROM spool_due"
        " WHERE stream = ? AND batch = ?",
        (stream, batch),
    )
    ledger.write(
        "INSERT OR REPLACE INTO spool_files (stream, name, size, written, device, inode, key)"
        " SELECT stream, name, size, written, device, inode, key FROM spool_due"
        " WHERE stream = ? AND batch = ? AND inode != ?",
        (stream, batch, STALE_INODE),
    )
    ledger.write("DELETE FROM spool_due WHERE stream = ? AND batch = ?", (stream, batch))
    return names


def unsend(ledger: Ledger, stream: str) -> None:
    """Makes all spool messages that were on their way due again in the ledger, in the order of their time."""
    ledger.write("UPDATE spool_due SET batch = 0, place = 0 WHERE stream = ?", (stream,))


def mirrored(
    ledger: Ledger, stream: str, key: bytes, content: bytes, name: bytes, facts: FileFacts, mark: str,
) -> None:  # fmt: skip
    """Notes in a transaction that the mirror put this message into the spool, as this file; `mark` tells its range."""
    ledger.write(
        "INSERT OR REPLACE INTO spool_messages (stream, key, alike, batch, place, digest, written, inode, mirrored)"
        " VALUES (?, ?, ?, 0, 0, x'', ?, ?, ?)",
        (stream, key, content, facts.written, str(facts.inode), mark),
    )
    if name:
        note_file(ledger, stream, name, facts, key)


def save_carried(
    ledger: Ledger, stream: str, key: bytes, content: bytes, batch: int, place: int, digest: bytes, facts: FileFacts
) -> None:  # fmt: skip
    """Notes in the ledger that this spool message stands in the stream at this place of this batch."""
    ledger.write(
        "INSERT OR REPLACE INTO spool_messages (stream, key, alike, batch, place, digest, written, inode, mirrored)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')",
        (stream, key, content, batch, place, digest, facts.written, str(facts.inode)),
    )


def mirrored_as(name: str, generation: int) -> str:
    """Makes the mark by which a mirrored spool message names the range that it is in."""
    return f"{generation}:{name}"


def digest_at(ledger: Ledger, stream: str, batch: int, place: int) -> bytes | None:
    """Reads the row's digest of the spool message at this place of this batch, sent or on its way; None: no message."""
    for table in ("spool_messages", "spool_due"):
        rows = ledger.rows(
            f"SELECT digest FROM {table} WHERE stream = ? AND batch = ? AND place = ?", (stream, batch, place)
        )
        if rows:
            return bytes(rows[0][0])
    return None


def totals(ledger: Ledger, stream: str) -> tuple[int, int, int, int | None]:
    """Counts the messages of a spool: bytes of carried files; number, bytes and earliest time in ms of due ones."""
    carried = ledger.rows("SELECT coalesce(sum(size), 0) FROM spool_files WHERE stream = ? AND key != x''", (stream,))
    rows = ledger.rows("SELECT count(*), coalesce(sum(size), 0), min(time) FROM spool_due WHERE stream = ?", (stream,))
    return int(carried[0][0]), int(rows[0][0]), int(rows[0][1]), rows[0][2]


def kept_bytes(ledger: Ledger, stream: str) -> int:
    """Counts the bytes that the ledger keeps as content of spool messages that are due."""
    return int(ledger.rows("SELECT coalesce(sum(length(raw)), 0) FROM spool_due WHERE stream = ?", (stream,))[0][0])


def files_of(ledger: Ledger, stream: str, batch: int, place: int, mark: str = "") -> list[bytes]:
    """Reads from the ledger the spool files with the message of this place of a batch; with batch 0, of this range."""
    rows = ledger.rows(
        "SELECT name FROM spool_files JOIN spool_messages USING (stream, key)"
        " WHERE stream = ? AND batch = ? AND place = ? AND mirrored = ? ORDER BY name",
        (stream, batch, place, mark),
    )
    return [bytes(name) for (name,) in rows]


def in_parts(names: Sequence[bytes], size: int = 1000) -> Iterator[Sequence[bytes]]:
    """Cuts a list of spool files' names into parts of `size` names at most."""
    for at in range(0, len(names), size):
        yield names[at : at + size]


def carried(ledger: Ledger, stream: str, name: bytes) -> tuple[int, int, str] | None:
    """Tells from the ledger how the message in a spool file was carried: batch, place, and the range if mirrored.

    None: it was not carried, as far as the ledger knows.
    """
    rows = ledger.rows(
        "SELECT batch, place, mirrored FROM spool_messages JOIN spool_files USING (stream, key)"
        " WHERE stream = ? AND name = ?",
        (stream, name),
    )
    return (int(rows[0][0]), int(rows[0][1]), str(rows[0][2])) if rows else None
