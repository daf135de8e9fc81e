"""The ledger keeps what the mirror has put out, in bytes, for each file or folder: counted as it left the process.

DESIGN §6.5.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.core.model import EntryId, format_id, parse_id
from bridge.ledger.store import Ledger


class BytesPut(NamedTuple):
    """What the mirror has put out into a file or folder: `put` bytes of lines since entry `base`.

    `removed`: how many entries had been removed from the stream then.
    """

    put: int
    base: EntryId
    removed: int


def puts_of(ledger: Ledger, stream: str) -> dict[str, BytesPut]:
    """How many bytes the mirror of a stream has put out since which entry, by file or folder."""
    rows = ledger.rows("SELECT label, put, base, removed FROM witness WHERE stream = ?", (stream,))
    return {label: BytesPut(put, parse_id(base.encode()), removed) for label, put, base, removed in rows}


def save_put(ledger: Ledger, stream: str, label: str, account: BytesPut) -> None:
    """Notes in the ledger what the mirror has put out into a file or folder; inside the ranges' transaction."""
    ledger.write(
        "INSERT OR REPLACE INTO witness (stream, label, put, base, removed) VALUES (?, ?, ?, ?, ?)",
        (stream, label, account.put, format_id(account.base).decode(), account.removed),
    )


def forget_puts(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger what the mirror has put out: the count begins anew from where the mirror is."""
    ledger.write("DELETE FROM witness WHERE stream = ?", (stream,))
