"""The write witness counts the bytes that the mirror writes; parity compares them with born entries (DESIGN §6.5).

The bytes are counted where the write returns, and by nothing that decides what is to be written. So a line that
was written twice is seen although an entry matches each: the second is carried back, as nobody knows that it is ours.
"""

from __future__ import annotations

from bridge.core.model import ZERO_ID, EntryId, format_id
from bridge.kinds.target import PendingWrite, Target
from bridge.ledger.bytes_written import BytesPut, forget_puts, puts_of, save_put
from bridge.ledger.ranges import WrittenEntry
from bridge.ledger.store import Ledger


class WriteWitness:
    """The write witness of one mapping's mirror: counts the bytes written, by file or folder. Call `begin` first."""

    def __init__(self, ledger: Ledger, stream: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._base = BytesPut(0, ZERO_ID, 0)
        self._puts: dict[str, BytesPut] = {}
        self._next: dict[str, BytesPut] = {}

    def begin(self, cursor: EntryId, removed: int, *, anew: bool) -> None:
        """Begins the write witness's counts, as the ledger has them, or anew if entries were removed since, or lost.

        The counts begin anew at the cursor: such entries were born and are not there. Raises LedgerError.
        """
        self._base = BytesPut(0, cursor, removed)
        self._puts = puts_of(self._ledger, self._stream)
        if anew or any(account.removed != removed for account in self._puts.values()):
            forget_puts(self._ledger, self._stream)
            self._puts = {}

    def count(self, to: Target, write: PendingWrite, written: list[WrittenEntry]) -> None:
        """Adds a write's bytes to the witness, in the transaction of the ranges, less those that are nobody's line."""
        torn = sum(piece.b - piece.a for piece in write.pieces if piece.torn)
        lost = sum(length for entry, length in written if entry == ZERO_ID)
        before = self._next.get(to.label) or self._puts.get(to.label, self._base)
        now = self._next[to.label] = before._replace(put=before.put + to.put_out - write.excused - torn - lost)
        save_put(self._ledger, self._stream, to.label, now)

    def committed(self, destinations: list[Target]) -> None:
        """Takes over the witness's counts, as the ledger has committed them; each destination counts from 0 again."""
        self._puts |= self._next
        self._next.clear()
        for destination in destinations:
            destination.put_out = 0

    def rolled_back(self) -> None:
        """Drops the witness's counts of a transaction that the ledger did not commit."""
        self._next.clear()

    def word(self, label: str) -> dict[str, object]:
        """Returns the witness's count for a file or folder, kept in `bridge:{S}:mirror` with the cursor."""
        account = self._puts.get(label, self._base)
        return {"put": account.put, "base": format_id(account.base).decode(), "removed": account.removed}
