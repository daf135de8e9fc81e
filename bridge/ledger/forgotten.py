"""What the ledger forgets of a spool when Redis or a person lost it, and learns again when it comes back."""

from __future__ import annotations

from bridge.files.spool import Facts
from bridge.ledger.spool import NOWHERE, last_batch, note_file, save_carried, unsend
from bridge.ledger.store import Ledger

HIGHEST = b"highest"
"""The key under which the highest number of a spool's batch is noted: no message's, those are digests."""


def forget_all(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger all that it knows of the messages and files of a spool's folder.

    What is due and kept with its bytes stays due: its file may be taken.
    """
    _keep_highest(ledger, stream)
    ledger.write("DELETE FROM spool_messages WHERE stream = ? AND key != ?", (stream, HIGHEST))
    ledger.write("DELETE FROM spool_files WHERE stream = ?", (stream,))
    ledger.write("DELETE FROM spool_due WHERE stream = ? AND raw IS NULL", (stream,))
    unsend(ledger, stream)


def _keep_highest(ledger: Ledger, stream: str) -> None:
    """Notes the highest number of a spool's batch: another past of the stream has it, so it is given to no other."""
    highest = last_batch(ledger, stream)
    save_carried(ledger, stream, HIGHEST, b"", highest, NOWHERE, b"", Facts(0, 0, 0, 0))


def learn(
    ledger: Ledger, stream: str, key: bytes, alike: bytes, batch: int, place: int, digest: bytes, facts: Facts,
    name: bytes,
) -> bool:  # fmt: skip
    """Notes in a transaction that a spool's message stands in the stream as that place of that batch, and is not due.

    What was noted of that place was sent into another past of the stream. `name`: the file that holds the message, if
    any does. Returns False where the ledger knew it.
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
    """The ledger forgets the message in this spool file, so that it is sent as if it was never met."""
    with ledger.transaction():
        ledger.write(
            "DELETE FROM spool_messages WHERE stream = ? AND key IN"
            " (SELECT key FROM spool_files WHERE stream = ? AND name = ?)",
            (stream, stream, name),
        )
        ledger.write("DELETE FROM spool_files WHERE stream = ? AND name = ?", (stream, name))


def forget_aside(ledger: Ledger, stream: str) -> None:
    """The ledger forgets the spool files that were set aside, so that they are read again."""
    ledger.write("DELETE FROM spool_files WHERE stream = ? AND key = x''", (stream,))


def forget_mirrored(ledger: Ledger, stream: str) -> None:
    """Forgets mirrored messages whose range is no more: Redis lost their entries, so the folder is to send them."""
    _forget(
        ledger, stream,
        "batch = 0 AND NOT EXISTS (SELECT 1 FROM ranges WHERE ranges.stream = spool_messages.stream"
        " AND ranges.generation || ':' || ranges.name = spool_messages.mirrored)", (),
    )  # fmt: skip


def forget_above(ledger: Ledger, stream: str, batch: int, standing: dict[int, set[int]]) -> None:
    """Forgets in a transaction the spool messages that Redis lost, so that they are sent again.

    Those are of the batches above this one, but for what still stands, as places by batch.
    """
    _keep_highest(ledger, stream)
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


def _forget(ledger: Ledger, stream: str, which: str, args: tuple[object, ...]) -> None:
    ledger.write(
        "DELETE FROM spool_files WHERE stream = ? AND key IN"
        f" (SELECT key FROM spool_messages WHERE stream = ? AND {which})",
        (stream, stream, *args),
    )
    ledger.write(f"DELETE FROM spool_messages WHERE stream = ? AND {which}", (stream, *args))
