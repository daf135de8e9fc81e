"""Keeps forward and mirror from carrying messages that a component writes to both sides itself (dual write).

Such a component has `writes = "both"`. An operator asks for dual write in the ledger. Each direction notes its position
when it learns of the request, waits there until the component is switched or the switch is undone, and does not carry
the component's messages after that position. So each message is either carried or not, and both directions agree which.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bridge.core.model import EntryId, Position
from bridge.ledger import dual_writes
from bridge.ledger.store import Ledger
from bridge.streams.reader import Entry

LEDGER_SECONDS = 0.2
"""Seconds between two reads of the ledger's dual-write windows."""


class DualWrittenLines:
    """Tells forward which lines of a source it must skip as dual-written: a component writes both sides itself."""

    def __init__(self, ledger: Ledger, stream: str, name: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._name = name
        self._due = 0.0
        self.stretches: list[dual_writes.DualWriteWindow] = []

    def look(self, at: Position) -> None:
        """Reads a source's dual-write windows from the ledger, and notes forward's position where a window changes.

        `at` is forward's position. Does nothing until LEDGER_SECONDS after the last read. Raises LedgerError.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LEDGER_SECONDS
        for _ in range(2):  # twice: a window that has ended already gets both its beginning and its end here
            self.stretches = dual_writes.in_file(self._ledger, self._stream, self._name)
            for stretch in self.stretches:
                if stretch.begin is None or (stretch.end is None and not stretch.open):
                    dual_writes.note_in_file(self._ledger, stretch.number, self._name, at, begins=stretch.begin is None)
                    self._due = 0.0
            if self._due:
                return
        self.stretches = dual_writes.in_file(self._ledger, self._stream, self._name)

    @property
    def waits(self) -> bool:
        """Whether forward must wait, as a component's switch to or from dual write is not made yet.

        Until then nobody knows which lines after forward's position are the component's own.
        """
        return any(stretch.token for stretch in self.stretches)

    def has(self, role: bytes, at: Position) -> bool:
        """Whether the line of this role at this position is dual-written, so that forward does not carry it."""
        return any(stretch.holds(role, at) for stretch in self.stretches)


class DualWrittenEntries:
    """Tells the mirror which entries of a stream it must skip as dual-written: a component writes both sides itself."""

    def __init__(self, ledger: Ledger, stream: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._due = 0.0
        self._stretches: list[dual_writes.DualWriteWindow] = []

    def look(self, after: EntryId) -> None:
        """Reads a stream's dual-write windows from the ledger, and notes the mirror's position where a window changes.

        The mirror has handled all entries up to `after`. Does nothing until LEDGER_SECONDS after the last read.
        Raises LedgerError.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LEDGER_SECONDS
        self._stretches = dual_writes.in_stream(self._ledger, self._stream)
        at = (after[0], after[1] + 1)
        for stretch in self._stretches:
            if stretch.begin is None or (stretch.end is None and not stretch.open):
                dual_writes.note_in_stream(self._ledger, stretch.number, at, begins=stretch.begin is None)
                self._due = 0.0
        if not self._due:
            self._stretches = dual_writes.in_stream(self._ledger, self._stream)

    @property
    def waits(self) -> bool:
        """Whether the mirror must wait, as a component's switch to or from dual write is not made yet.

        Until then nobody knows which entries after the mirror's position are the component's own.
        """
        return any(stretch.token for stretch in self._stretches)

    def without(self, found: Sequence[Entry]) -> list[Entry]:
        """Returns the entries that are not dual-written, and so are to be mirrored."""
        if not self._stretches:
            return [*found]
        return [
            entry for entry in found
            if not any(stretch.holds(_role(entry), entry.id) for stretch in self._stretches)
        ]  # fmt: skip


def _role(entry: Entry) -> bytes:
    names = entry.fields[0::2]
    return entry.fields[2 * names.index(b"role") + 1] if b"role" in names else b""
