"""The mirror's witness counts the bytes that left the process: parity holds what was born against them (DESIGN §6.5).

The bytes are counted where the write returns, and by nothing that decides what is to be written. So a line written
twice is seen although each of the two has a partner: the second one is carried back, as nobody knows that it is ours.
"""

from __future__ import annotations

from bridge.core.model import ZERO_ID, EntryId, format_id
from bridge.kinds.target import PendingWrite, Target
from bridge.ledger.bytes_written import BytesPut, forget_puts, puts_of, save_put
from bridge.ledger.ranges import WrittenEntry
from bridge.ledger.store import Ledger


class WriteWitness:
    """Counts the bytes that one mapping's mirror puts out, by file or folder. `begin` before anything is counted."""

    def __init__(self, ledger: Ledger, stream: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._base = BytesPut(0, ZERO_ID, 0)
        self._puts: dict[str, BytesPut] = {}
        self._next: dict[str, BytesPut] = {}

    def begin(self, cursor: EntryId, removed: int, *, anew: bool) -> None:
        """The witness counts on; or anew from the cursor where entries were removed since, or lost.

        Those entries were born and are not there. Raises LedgerError.
        """
        self._base = BytesPut(0, cursor, removed)
        self._puts = puts_of(self._ledger, self._stream)
        if anew or any(account.removed != removed for account in self._puts.values()):
            forget_puts(self._ledger, self._stream)
            self._puts = {}

    def count(self, to: Target, write: PendingWrite, written: list[WrittenEntry]) -> None:
        """Counts, in the transaction of the ranges, what left the process for a write, less what is nobody's line."""
        torn = sum(piece.b - piece.a for piece in write.pieces if piece.torn)
        lost = sum(length for entry, length in written if entry == ZERO_ID)
        before = self._next.get(to.label) or self._puts.get(to.label, self._base)
        now = self._next[to.label] = before._replace(put=before.put + to.put_out - write.excused - torn - lost)
        save_put(self._ledger, self._stream, to.label, now)

    def committed(self, destinations: list[Target]) -> None:
        """The witness takes over what it counted, as the ledger has committed it; destinations begin at 0 again."""
        self._puts |= self._next
        self._next.clear()
        for destination in destinations:
            destination.put_out = 0

    def rolled_back(self) -> None:
        """The witness forgets what it counted in a transaction that the ledger did not commit."""
        self._next.clear()

    def word(self, label: str) -> dict[str, object]:
        """The witness's count for a file or folder, as `bridge:{S}:mirror` has it in Redis beside the cursor."""
        account = self._puts.get(label, self._base)
        return {"put": account.put, "base": format_id(account.base).decode(), "removed": account.removed}
