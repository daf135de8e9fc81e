"""What its writer puts on both sides himself, and neither direction carries (`writes = "both"`).

An operator asks for it in the ledger. Each direction notes where it stands when it learns of that, waits there until
the component is switched or is not, and leaves alone what comes behind: so every message is carried, or it is not, and
both know which.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bridge.core.model import EntryId, Position
from bridge.ledger import dual_writes
from bridge.ledger.store import Ledger
from bridge.streams.reader import Entry

LEDGER_SECONDS = 0.2
"""Seconds between two looks into the ledger."""


class DualWrittenLines:
    """The stretches of one source's file in which lines are a component's own, as it writes both sides itself."""

    def __init__(self, ledger: Ledger, stream: str, name: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._name = name
        self._due = 0.0
        self.stretches: list[dual_writes.DualWriteWindow] = []

    def look(self, at: Position) -> None:
        """Takes in what is asked for, if it is time; `at` is where forward stands. Raises LedgerError."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LEDGER_SECONDS
        for _ in range(2):  # of one that has ended already both its beginning and its end are here
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
        """Whether somebody is being switched: from where forward stands on, nobody knows yet what is his own."""
        return any(stretch.token for stretch in self.stretches)

    def has(self, role: bytes, at: Position) -> bool:
        """Whether a line of this role that begins there is none of ours."""
        return any(stretch.holds(role, at) for stretch in self.stretches)


class DualWrittenEntries:
    """The stretches of a stream in which entries are a component's own, so that the mirror leaves them alone."""

    def __init__(self, ledger: Ledger, stream: str) -> None:
        self._ledger = ledger
        self._stream = stream
        self._due = 0.0
        self._stretches: list[dual_writes.DualWriteWindow] = []

    def look(self, after: EntryId) -> None:
        """Takes in what is asked for, if it is time; the mirror has done all up to `after`. Raises LedgerError."""
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
        """Whether somebody is being switched: from where the mirror stands on, nobody knows yet what is his own."""
        return any(stretch.token for stretch in self._stretches)

    def without(self, found: Sequence[Entry]) -> list[Entry]:
        """The entries that are to be mirrored."""
        if not self._stretches:
            return [*found]
        return [
            entry for entry in found
            if not any(stretch.holds(_role(entry), entry.id) for stretch in self._stretches)
        ]  # fmt: skip


def _role(entry: Entry) -> bytes:
    names = entry.fields[0::2]
    return entry.fields[2 * names.index(b"role") + 1] if b"role" in names else b""
