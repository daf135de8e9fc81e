"""The scheduler picks the source whose lines forward sends next: history merged by time, else source by source."""

from __future__ import annotations

from collections.abc import Iterable

from bridge.core.errors import BridgeError, LedgerError, RejectStop, SourceError, as_bridge_error
from bridge.engine.batch_encoder import Batch
from bridge.engine.merge import Merge, MergeFailed
from bridge.kinds.kind import Source
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles


class Scheduler:
    """Schedules a mapping's sources: picks which one sends next. `placed` names sources that know where they go on."""

    def __init__(self, placed: set[str], troubles: Troubles, ledger: Ledger, worker: str) -> None:
        self._placed = placed
        self._troubles = troubles
        self._ledger = ledger
        self._worker = worker
        self._active: dict[str, Source] = {}
        self.asked: dict[str, Source] = {}
        """The sources that were asked for lines since forward last cleared this."""
        self._history = Merge(self.asked)
        self.strict = False
        """Whether a source that fails in a merge stops the others: its lines could not be put in order later."""

    def add(self, source: Source) -> None:
        """Schedules a source for a turn, because its files changed or it was put in its place."""
        self._active[source.name] = source
        if source.name in self._placed and source.history() is not None:
            self._history.add(source)
        else:
            self._history.drop(source.name)

    def forget(self) -> None:
        """Takes all sources out of the schedule until each gets a turn again, as their positions are found out anew."""
        self._active.clear()
        self._history.clear()

    @property
    def active(self) -> Iterable[Source]:
        """The scheduled sources: those whose turn it is, and those that wait for an unfinished write in their files."""
        return self._active.values()

    def next_batch(self, limit: int) -> Batch | None:
        """Takes a batch of up to `limit` entries from the scheduled source, or sources; None: nothing is to be carried.

        A source that fails is noted and left out. With `strict` its error in a merge is raised: SourceError,
        RejectStop, LedgerError.
        """
        while len(self._history) > 1:
            try:
                batch = self._history.next(limit)
            except MergeFailed as failed:
                self._give_up(failed.source, failed.error)
                if self.strict:
                    raise failed.error from None
                continue
            if batch is not None or len(self._history) > 0:  # else those that are left wait for what is under way
                return batch
        for name in [*self._active]:
            source = self.asked[name] = self._active[name]
            self._history.touch(name)
            try:
                source_batch = source.next_batch(limit) if name in self._placed else None
            except (SourceError, RejectStop, LedgerError, OSError) as error:
                self._give_up(source, as_bridge_error(error))
                continue
            if source_batch is not None:
                return Batch.of(source_batch)
            if source.next_wake() is not None:
                continue
            del self._active[name]
            if source.trouble is None:
                self._troubles.clear(self._ledger, f"{self._worker}: {name}")
        return None

    def _give_up(self, source: Source, error: BridgeError) -> None:
        """Takes a failed source out of the schedule until its next look; it goes on from what Redis confirmed.

        The source's memory may be ahead of what was sent. A message that stops it is found before anything is read
        beyond the one before.
        """
        if not isinstance(error, RejectStop):
            self._placed.discard(source.name)
        source.trouble = error
        self._troubles.note(self._ledger, f"{self._worker}: {source.name}", error)
        self._active.pop(source.name, None)
        self._history.drop(source.name)
