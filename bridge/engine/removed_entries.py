"""Counts entries that were removed from a stream before the mirror read them, so that no file will ever hold them.

Redis counts every entry that was ever added. An entry that was added, and neither stands nor was read, was removed
unseen; of forward's own entries, whose removal is no loss, forward has a count in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bridge.core.logger import logger
from bridge.core.model import ORIGIN_FIELD, Checkpoint, EntryId
from bridge.ledger.sources import MirrorCounts
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import Entry, StreamInfo, stream_info
from bridge.streams.stream_metadata import read_stream

COUNT_SECONDS = 1.0
"""Seconds between two times that Redis is asked how many entries were ever added."""


def counts_of(found: Sequence[Entry], last: EntryId) -> tuple[int, int]:
    """Counts the entries that the mirror has read up to `last`, and forward's among them, to find removed entries."""
    upto = [entry for entry in found if entry.id <= last] if found and found[-1].id > last else found
    return len(upto), sum(ORIGIN_FIELD in entry.fields[0::2] for entry in upto)


class RemovedEntries:
    """Counts the entries of a stream that were removed before the mirror read them; does nothing unless `counts`."""

    def __init__(self, clock: Callable[[], float], *, counts: bool) -> None:
        self._clock = clock
        self._counts = counts
        self._due = 0.0
        self.seen: MirrorCounts | None = None
        self.suspects = False
        """Whether entries seem to be removed: the next look asks for forward's count as well."""
        self.uncounted = False
        """Whether entries came since they were last counted, and no more come now: the next look counts."""
        self._came = False
        self._told: tuple[StreamInfo, int | None] | None = None

    def begin(self, seen: MirrorCounts | None, info: StreamInfo, *, first: bool) -> None:
        """Begins to count removed entries, from the mirror's counts in the ledger.

        `seen` is None: the mirror never counted; with `first`, as it has read nothing, the counts begin here.
        """
        self._told, self._due = None, 0.0
        self.suspects = self.uncounted = self._came = False
        self.seen = MirrorCounts(info.added - info.length) if seen is None and first else seen

    def read(self, entries: int, ours: int) -> None:
        """Adds the entries that the mirror has read, `ours` of them forward's, to the counts that tell removed ones."""
        if self.seen is not None:
            seen = self.seen
            self.seen = MirrorCounts(seen.entries + entries, seen.ours + ours, seen.gone, seen.acknowledged)

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Undoes the counts for removed entries made in a block that fails, as the ledger did not commit them."""
        before = self.seen
        try:
            yield
        except BaseException:
            self.seen = before
            raise

    def look(self, connection: Connection | None, keys: Keys) -> None:
        """Asks Redis for the stream's counts now and then, before the mirror reads on, to find removed entries.

        Raises RedisLost, RedisRefused.
        """
        if connection is None or not self._counts:
            return
        if self.suspects:
            info, books = read_stream(connection, keys)
            self._told = info, sum(Checkpoint.from_json(raw).sent for raw in books.checkpoint.values())
        elif self.uncounted or self._clock() >= self._due:
            self._due = self._clock() + COUNT_SECONDS
            self._told = stream_info(connection, keys.stream), None

    def something_came(self) -> None:
        """Makes the count of removed entries void, as entries came: the mirror may have read some that it lacks."""
        self._told, self._came, self.uncounted = None, self._counts, False

    def nothing_came(self, worker: str) -> int:
        """Counts the entries removed before the mirror read them, as it has read all others; returns how many are new.

        `worker` is the mirror's name in the log.
        """
        told, self._told = self._told, None
        if told is None:
            self.uncounted = self._came
            return 0
        info, sent = told
        self._came = self.uncounted = False
        if self.seen is None or info.added < self.seen.entries:
            self.seen = MirrorCounts(
                info.added, sent or 0, *((self.seen.gone, self.seen.acknowledged) if self.seen else ())
            )
            return 0
        missing = info.added - self.seen.entries
        self.suspects = bool(missing) and sent is None
        if not missing or sent is None:
            return 0
        gone = max(0, missing - max(0, sent - self.seen.ours))
        seen = self.seen
        self.seen = MirrorCounts(info.added, max(sent, seen.ours), seen.gone + gone, seen.acknowledged)
        if gone:
            said = "%s: %d entries were removed from the stream before they were mirrored"
            logger.warning(said, worker, gone, extra={"facts": {"gone": gone}})
        return gone
