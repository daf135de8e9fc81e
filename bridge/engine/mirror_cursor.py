"""The mirror's cursor in a stream: one object on its way, and one row of the ledger at rest (DESIGN §6.3)."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.errors import NotYet
from bridge.core.model import ZERO_ID, EntryId
from bridge.engine.removed_entries import RemovedEntries
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.sources import save_mirror_cursor
from bridge.ledger.store import Ledger

CURSOR_SECONDS = 1.0
"""Seconds after which the mirror's cursor is saved in the ledger although the mirror wrote nothing."""


class MirrorCursor:
    """Holds up to which entry the mirror has read a stream, and up to which the ledger knows that it has."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger, clock: Callable[[], float], removed: RemovedEntries
    ) -> None:
        self._shared = shared
        self._ledger = ledger
        self._clock = clock
        self._removed = removed
        self._save_at = 0.0
        self._epoch = 0
        """The value of `shared.cursor_epoch`, which forward raises to take the cursor back, that the cursor is of."""
        self.at = ZERO_ID
        """The last entry that the mirror has read, and written where a line was to be made of it."""
        self.saved = ZERO_ID
        """The last entry that the mirror has read by what the ledger knows."""
        self.history: EntryId | None = None
        """The last ID of the stream when the mirror first met it, else 0-0: nobody waited for what was there before."""

    @property
    def epoch(self) -> int:
        """The epoch that the mirror's cursor is of; forward begins another one to take the cursor back."""
        return self._epoch

    @property
    def taken_back(self) -> bool:
        """Whether forward took the mirror's cursor back since `adopt`: what was read counts no more."""
        return self._shared.cursor_epoch != self._epoch

    def check(self) -> None:
        """Raises NotYet where forward took the mirror's cursor back: the mirror attaches again then."""
        if self.taken_back:
            raise NotYet("the mirror's cursor was taken back")

    def adopt(self) -> bool:
        """Takes over the epoch that forward set; returns whether it is another one. Call under `shared.cursor_lock`."""
        anew, self._epoch = self.taken_back, self._shared.cursor_epoch
        return anew

    def begin(self, saved: EntryId, last: EntryId) -> None:
        """Puts the mirror's cursor where the ledger saved it, in a stream whose last entry is `last`."""
        if self.history is None:
            self.history = last if saved == ZERO_ID else ZERO_ID
        self.at = self.saved = saved

    def passed(self, entry: EntryId) -> None:
        """Moves the mirror's cursor in memory up to an entry."""
        self.at = max(self.at, entry)

    def write(self, entry: EntryId) -> None:
        """Writes the mirror's cursor into the ledger; inside a transaction, of which `written` tells that it is in."""
        save_mirror_cursor(self._ledger, self._shared.mapping.stream.key, entry, self._removed.seen)

    def written(self, entry: EntryId) -> None:
        """Notes that the ledger has committed the mirror's cursor up to an entry."""
        self.saved = entry

    def save(self, *, counted: bool = False) -> None:
        """Saves the mirror's cursor in the ledger, if it moved and forward did not take it back meanwhile.

        `counted`: also if only the counts of removed entries changed. Raises LedgerError.
        """
        if self.at == self.saved and not counted:
            return
        with self._shared.cursor_lock:
            if not self.taken_back:
                self.write(self.at)
                self.saved = self.at

    def save_now_and_then(self) -> bool:
        """Saves the mirror's cursor every second, as entries without lines move it too; tells whether it was time."""
        if self._clock() < self._save_at:
            return False
        self.save()
        self._save_at = self._clock() + CURSOR_SECONDS
        return True
