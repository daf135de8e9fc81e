"""Keeps in the ledger how many bytes the mirror has written into each file or folder, counted at the write.

DESIGN §6.5.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.core.model import EntryId, format_id, parse_id
from bridge.ledger.store import Ledger


class BytesPut(NamedTuple):
    """The count of bytes that the mirror wrote into a file or folder: `put` bytes of lines since entry `base`.

    `removed`: how many entries had been removed from the stream at that time.
    """

    put: int
    base: EntryId
    removed: int


def puts_of(ledger: Ledger, stream: str) -> dict[str, BytesPut]:
    """Reads from the ledger how many bytes the mirror of a stream wrote, and since which entry, by file or folder."""
    rows = ledger.rows("SELECT label, put, base, removed FROM witness WHERE stream = ?", (stream,))
    return {label: BytesPut(put, parse_id(base.encode()), removed) for label, put, base, removed in rows}


def save_put(ledger: Ledger, stream: str, label: str, account: BytesPut) -> None:
    """Writes into the ledger how many bytes the mirror has written into a file or folder.

    Inside the transaction that notes the ranges.
    """
    ledger.write(
        "INSERT OR REPLACE INTO witness (stream, label, put, base, removed) VALUES (?, ?, ?, ?, ?)",
        (stream, label, account.put, format_id(account.base).decode(), account.removed),
    )


def forget_puts(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger the counts of bytes that the mirror wrote: counting begins anew from its cursor."""
    ledger.write("DELETE FROM witness WHERE stream = ?", (stream,))
