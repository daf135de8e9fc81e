"""Decides whose lines forward sends next: history of many files by time, everything else a source at a time."""

from __future__ import annotations

from bridge.carry.draft import Parcel
from bridge.carry.merge import Failed, Head, gather
from bridge.carry.source import Source
from bridge.errors import BridgeError, LedgerError, RejectStop, SourceError, as_bridge_error
from bridge.ledger.store import Ledger
from bridge.log import Troubles


class Turns:
    """Decides which of one mapping's sources sends next. `placed` are the names of those that know where they go on."""

    def __init__(self, placed: set[str], troubles: Troubles, ledger: Ledger, worker: str) -> None:
        self._placed = placed
        self._troubles = troubles
        self._ledger = ledger
        self._worker = worker
        self._active: dict[str, Source] = {}
        self._offered: dict[str, Head] = {}
        self._history: list[Source] | None = None
        self.strict = False
        """Whether a source that fails in a merge stops the others: their lines could not be put in order later."""

    def add(self, source: Source) -> None:
        """Gives this source a turn, as something happened to its files."""
        self._active[source.name] = source
        self._offered.pop(source.name, None)
        self._history = None

    def next(self, limit: int) -> Parcel | None:
        """Takes up to `limit` entries of the source, or sources, whose turn it is; None: nothing is to be carried.

        A source that fails is noted and left out. With `strict` its error in a merge is raised: SourceError,
        RejectStop, LedgerError.
        """
        history = self._in_history()
        while len(history) > 1:
            try:
                parcel = gather(history, limit, self._offered)
            except Failed as failed:
                self._give_up(failed.source, failed.error)
                if self.strict:
                    raise failed.error from None
                history.remove(failed.source)
                continue
            if parcel is not None:
                if not all(draft.source.in_history for draft in parcel.drafts):
                    self._history = None
                return parcel
            self._history = None
            if any(source.waits for source in history):
                return parcel
            break
        for name, source in [*self._active.items()]:
            try:
                draft = source.next_draft(limit) if name in self._placed else None
            except (SourceError, RejectStop, LedgerError, OSError) as error:
                self._give_up(source, as_bridge_error(error))
                continue
            if draft is not None:
                return Parcel.of(draft)
            if source.waits:
                continue
            del self._active[name]
            if source.trouble is None:
                self._troubles.clear(self._ledger, f"{self._worker}: {name}")
        return None

    def _in_history(self) -> list[Source]:
        """The sources whose turn it is and whose next lines are history, by name; listed again when that changed."""
        if self._history is None:
            self._offered.clear()
            ready = sorted(self._active.items())
            self._history = [source for name, source in ready if name in self._placed and source.in_history]
        return self._history

    def _give_up(self, source: Source, error: BridgeError) -> None:
        """Leaves a source that failed out until its next look; it goes on from what Redis confirmed.

        The source's memory may be ahead of what was sent. A message that stops it is found before anything is read
        beyond the one before.
        """
        if not isinstance(error, RejectStop):
            self._placed.discard(source.name)
        source.trouble = error
        self._troubles.note(self._ledger, f"{self._worker}: {source.name}", error)
        self._active.pop(source.name, None)
        self._offered.pop(source.name, None)
        self._history = None
