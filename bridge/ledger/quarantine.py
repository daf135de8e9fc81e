"""Keeps the quarantine in the ledger: lines that cannot be entries and entries that cannot be lines (P7).

Of each the raw bytes, the position and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bridge.core.model import EntryId, parse_id
from bridge.ledger.store import Ledger

KEPT_LINE_BYTES = 1 << 16
"""How many first bytes quarantine keeps of a line over `max_line_bytes`, with its length and digest."""


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """A message in quarantine, a line or an entry that could not be translated.

    `direction` is forward, mirror, or record: a whole record within a quarantined line. `entry_id` is empty for lines
    and records. `reason` is what is wrong, and after a colon the particulars. `number` is what a person calls the
    message by; `retried` says where it went at last. `lost`: Redis lost this entry, nobody removed it.
    """

    direction: str
    name: str
    generation: int
    offset: int
    entry_id: str
    reason: str
    raw: bytes
    length: int
    digest: str = ""
    number: int = 0
    noted_at: float = 0.0
    retried: str = ""
    lost: int = 0

    @property
    def kind(self) -> str:
        """The kind of reason for which a message is in quarantine, without the particulars."""
        return self.reason.partition(":")[0]


TAKEN_APART = "taken apart"
"""Where a line went that held whole records and nothing else: each of them is a message of its own now."""

_FACTS = "direction, name, generation, offset, entry_id, reason, {raw}, length, digest, id, noted_at"
_RETRIED = ", coalesce(retried, ''), coalesce(lost, 0)"
_MESSAGE_COLUMNS = _FACTS.format(raw="raw") + _RETRIED
_SHORT = _FACTS.format(raw="coalesce(substr(raw, 1, 200), x'')") + _RETRIED


def add_quarantined(ledger: Ledger, stream: str, found: Iterable[QuarantinedMessage], now: float) -> None:
    """Puts messages into quarantine in the ledger.

    A message that is there already stays as it is, so a replay adds nothing, and a message that had left is back.
    """
    for quarantined_message in found:
        ledger.write(
            "INSERT INTO quarantine (stream, direction, name, generation, offset, entry_id, reason, raw, length,"
            " digest, noted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stream, direction, name,"
            " generation, offset, entry_id) DO UPDATE SET retried = NULL, retried_at = NULL, acknowledged = NULL"
            " WHERE retried IS NOT NULL",
            (
                stream,
                quarantined_message.direction,
                quarantined_message.name,
                quarantined_message.generation,
                quarantined_message.offset,
                quarantined_message.entry_id,
                quarantined_message.reason,
                quarantined_message.raw,
                quarantined_message.length,
                quarantined_message.digest,
                now,
            ),
        )


def quarantine_counts(ledger: Ledger, stream: str) -> list[tuple[str, str, int]]:
    """Counts what is still in quarantine, by direction and kind of reason, the commonest first."""
    return [
        (str(direction), str(kind), int(count))
        for direction, kind, count in ledger.rows(
            "SELECT direction, substr(reason, 1, instr(reason || ':', ':') - 1), count(*) FROM quarantine"
            " WHERE stream = ? AND retried IS NULL GROUP BY 1, 2 ORDER BY 3 DESC, 2",
            (stream,),
        )
    ]


def unacknowledged(ledger: Ledger, stream: str) -> int:
    """Counts the messages in quarantine that nobody has acknowledged."""
    sql = "SELECT count(*) FROM quarantine WHERE stream = ? AND retried IS NULL AND acknowledged IS NULL"
    return int(ledger.rows(sql, (stream,))[0][0])


def first_in_quarantine(ledger: Ledger, stream: str, floor: EntryId) -> EntryId | None:
    """Finds the first entry from `floor` on that is in quarantine and that nobody has acknowledged."""
    sql = (
        "SELECT entry_id FROM quarantine WHERE stream = ? AND direction = 'mirror' AND retried IS NULL"
        " AND acknowledged IS NULL"
    )
    ids = [parse_id(entry_id.encode()) for (entry_id,) in ledger.rows(sql, (stream,))]
    return min((id_entry_id for id_entry_id in ids if id_entry_id >= floor), default=None)


def acknowledge(ledger: Ledger, stream: str, numbers: Iterable[int] | None, who: str, now: float) -> int:
    """Notes that somebody acknowledged the messages in quarantine of these numbers, None: all of them.

    Returns how many were not acknowledged before.
    """
    todo = "stream = ? AND retried IS NULL AND acknowledged IS NULL"
    rows = ledger.rows(f"SELECT id FROM quarantine WHERE {todo}", (stream,))
    wanted = None if numbers is None else set(numbers)
    found = [number for (number,) in rows if wanted is None or number in wanted]
    with ledger.transaction():
        for number in found:
            ledger.write("UPDATE quarantine SET acknowledged = ?, acknowledged_at = ? WHERE id = ?", (who, now, number))
    return len(found)


def quarantined(
    ledger: Ledger, stream: str, *, everything: bool = False, whole: bool = False
) -> Iterator[QuarantinedMessage]:
    """Reads the messages in quarantine, oldest first, a few at a time; with `everything` also those that have left it.

    `raw` has the first 200 bytes of a message; with `whole`, all that quarantine keeps.
    """
    last = 0
    while rows := ledger.rows(
        f"SELECT {_MESSAGE_COLUMNS if whole else _SHORT} FROM quarantine"
        " WHERE stream = ? AND id > ? AND (retried IS NULL OR ?) ORDER BY id LIMIT 50",
        (stream, last, everything),
    ):
        for row in rows:
            yield _row(row)
        last = int(rows[-1][9])


def _row(row: tuple[Any, ...]) -> QuarantinedMessage:
    return QuarantinedMessage(*row)


def quarantined_number(ledger: Ledger, number: int) -> tuple[str, QuarantinedMessage] | None:
    """Reads the message of this number from quarantine, and its stream; None: there is none."""
    rows = ledger.rows(f"SELECT {_MESSAGE_COLUMNS}, stream FROM quarantine WHERE id = ?", (number,))
    return (str(rows[0][-1]), _row(rows[0][:-1])) if rows else None


def find_quarantined(
    ledger: Ledger, stream: str, *, name: str = "", generation: int = 0, offset: int = 0, entry_id: str = ""
) -> QuarantinedMessage | None:
    """Finds the line at this place, or the entry of this ID, if it is or was in quarantine."""
    rows = ledger.rows(
        f"SELECT {_MESSAGE_COLUMNS} FROM quarantine WHERE stream = ? AND name = ? AND generation = ? AND offset = ?"
        " AND entry_id = ?",
        (stream, name, generation, offset, entry_id),
    )
    return _row(rows[0]) if rows else None


def anything_aside(ledger: Ledger, stream: str) -> bool:
    """Whether a line or a file of this stream is in quarantine."""
    return bool(ledger.rows(
        "SELECT 1 FROM quarantine WHERE stream = ? AND direction = 'forward' AND retried IS NULL LIMIT 1", (stream,)
    ))  # fmt: skip


def records_within(ledger: Ledger, stream: str, line: QuarantinedMessage) -> list[QuarantinedMessage]:
    """Reads the records that were taken out of a quarantined line, wherever they went since."""
    rows = ledger.rows(
        f"SELECT {_MESSAGE_COLUMNS} FROM quarantine WHERE stream = ? AND direction = 'record' AND name = ?"
        " AND generation = ? AND offset >= ? AND offset < ? ORDER BY offset",
        (stream, line.name, line.generation, line.offset, line.offset + max(1, line.length)),
    )
    return [*map(_row, rows)]


def rename_aside(
    ledger: Ledger, stream: str, quarantined_message: QuarantinedMessage, is_gone: Callable[[str], bool]
) -> bool:  # fmt: skip
    """Renames a file in quarantine that was moved; returns whether it was.

    It is the same file if all that quarantine keeps of it is the same and the file of the old name is gone.
    """
    rows = ledger.rows(
        "SELECT id, name FROM quarantine WHERE stream = ? AND direction = 'forward' AND retried IS NULL AND length = ?"
        " AND raw = ? AND digest = ?",
        (stream, quarantined_message.length, quarantined_message.raw, quarantined_message.digest),
    )
    found = next((number for number, name in rows if name != quarantined_message.name and is_gone(name)), None)
    if found is None or find_quarantined(ledger, stream, name=quarantined_message.name) is not None:
        return False
    ledger.write("UPDATE quarantine SET name = ? WHERE id = ?", (quarantined_message.name, found))
    return True


def mark_retried(ledger: Ledger, number: int, where: str, now: float) -> None:
    """Notes that a message left quarantine, after a retry, as an entry ID or as the place of a line (`where`)."""
    ledger.write("UPDATE quarantine SET retried = ?, retried_at = ? WHERE id = ?", (where, now, number))


def note_reason(ledger: Ledger, number: int, reason: str) -> None:
    """Replaces the reason for which a message stays in quarantine."""
    ledger.write("UPDATE quarantine SET reason = ? WHERE id = ?", (reason, number))


def still_aside(ledger: Ledger, stream: str, direction: str, name: str = "") -> dict[tuple[int, int, str], int]:
    """Reads generation, offset and entry ID of what is in quarantine now, each with its number.

    Of one source, or of the mirror.
    """
    rows = ledger.rows(
        "SELECT generation, offset, entry_id, id FROM quarantine WHERE stream = ? AND direction = ? AND name = ?"
        " AND retried IS NULL",
        (stream, direction, name),
    )
    return {(generation, offset, entry_id): number for generation, offset, entry_id, number in rows}


def kept_lines(ledger: Ledger, stream: str, name: str) -> tuple[dict[tuple[int, int], int], set[tuple[int, bytes]]]:
    """Reads which lines of a source are in quarantine: lengths by generation and offset, and with first bytes.

    A line that was taken apart is among them: it is no message by itself.
    """
    rows = ledger.rows(
        "SELECT generation, offset, length, raw FROM quarantine WHERE stream = ? AND direction = 'forward'"
        " AND name = ? AND (retried IS NULL OR retried = ?)",
        (stream, name, TAKEN_APART),
    )
    return {(row[0], row[1]): row[2] for row in rows}, {(row[2], bytes(row[3])[:KEPT_LINE_BYTES]) for row in rows}


def carried_aside(ledger: Ledger, stream: str, name: str) -> Iterator[tuple[int, int, bytes, int]]:
    """Reads the lines of a log that are or were in quarantine, some at a time: generation, offset, bytes, length."""
    last = 0
    while rows := ledger.rows(
        "SELECT id, generation, offset, raw, length FROM quarantine WHERE stream = ? AND direction = 'forward'"
        " AND name = ? AND id > ? ORDER BY id LIMIT 50",
        (stream, name, last),
    ):
        for _, generation, offset, raw, length in rows:
            yield generation, offset, bytes(raw), length
        last = int(rows[-1][0])


def in_doubt(ledger: Ledger, stream: str, *, lost: bool) -> list[QuarantinedMessage]:
    """Reads the lines that a retry sent from quarantine, whose entries Redis may have lost.

    Their `retried` is an entry ID. Where Redis `lost` something, also what is still in quarantine.
    """
    rows = ledger.rows(
        f"SELECT {_SHORT} FROM quarantine WHERE stream = ? AND (direction != 'mirror' AND retried LIKE '%-%'"
        " OR ? AND retried IS NULL)",
        (stream, lost),
    )
    return [_row(row) for row in rows]


def mark_lost(ledger: Ledger, number: int) -> None:
    """Notes that Redis lost the entry of a message that is or was in quarantine.

    A line that a retry had sent is back in quarantine; the line of an entry is the file's own now, for forward to send.
    """
    ledger.write("UPDATE quarantine SET retried = NULL, retried_at = NULL, lost = 1 WHERE id = ?", (number,))
