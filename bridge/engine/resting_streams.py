"""Streams at rest, of a mapping with many: looks in turn whether they are as the ledger knows them, and for new ones.

Nobody is connected for a stream at rest. Redis may lose entries of it all the same, as a server goes back to an older
data set: so all are looked at when Redis was away, and each now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.engine.streams_at_rest import standing_logs
from bridge.kinds.stream_family import StreamFamily, StreamsInRedis, carried_logs
from bridge.ledger.store import Ledger
from bridge.streams.dial import Connections
from bridge.streams.entry_budget import EntryBudget

SCANS = 10
"""Times in a sweep that Redis is asked for some of its keys, to find streams that began there."""

REVIEWS, REVIEWED_IN = 50, 600.0
"""Resting streams looked at between two turns after Redis was away, and seconds in which all are else, in turn."""


class RestingStreams:
    """The streams at rest of one mapping. `sweep`: seconds between two looks at some of them. For one thread."""

    def __init__(self, family: StreamFamily, settings: Settings, sweep: float) -> None:
        self._family, self._settings, self._sweep = family, settings, sweep
        self._worker = f"forward {family.mapping.name}"
        self._unreviewed: dict[str, None] = {}
        self._rolling: list[str] = []
        self._links: Connections | None = None
        self._budget = EntryBudget()
        self._redis: StreamsInRedis | None = None
        self._review_at = self._away_until = 0.0

    def doubt(self) -> None:
        """Has forward look at all streams at rest again, as Redis was away and may hold other data than before."""
        self.close()
        if self._redis is not None:
            self._redis.begin_anew()
        self._unreviewed = dict.fromkeys(self._family.logs)

    def close(self) -> None:
        """Closes the connections to Redis over which forward looks at streams at rest."""
        if self._links is not None:
            self._links.close()
        self._links = None

    def review(self, ledger: Ledger, attended: Callable[[str], bool]) -> tuple[list[str], bool]:
        """Looks for forward at some streams at rest: those not seen since Redis was away, else the next in turn.

        Returns the logs of those that are not as the ledger knows them, and whether more are to be looked at at once.
        """
        now, changed = time.monotonic(), list[str]()
        if now < self._away_until or (not self._unreviewed and now < self._review_at):
            return [], False
        some = list(self._unreviewed)[:REVIEWS]
        try:
            links = self._links = self._links or Connections(self._settings, budget=self._budget)
            if not some:
                self._review_at = now + self._sweep
                some = self._in_turn()
                if some and self._was_away(links, some[0]):
                    return [], True
            resting = [log for log in some if not attended(log)]
            standing = {log for log, _ in standing_logs(self._family, links, ledger, resting)}
            changed = [log for log in resting if log not in standing]
            for log in some:
                self._unreviewed.pop(log, None)
        except RedisLost as error:
            self._lost(error)
        return changed, bool(self._unreviewed) and now >= self._away_until

    def _lost(self, error: BridgeError) -> None:
        logger.debug("%s: the streams at rest are not looked at: %s", self._worker, error)
        self.doubt()
        self._away_until = time.monotonic() + self._sweep

    def name_new(self, ledger: Ledger) -> None:
        """Names for forward the streams of new logs, and takes up streams that began in Redis, if there is a mirror.

        Nothing is named while Redis is away, as only Redis knows which stream an earlier ledger gave a log. Raises
        SourceError.
        """
        family = self._family
        if time.monotonic() < self._away_until:
            return
        try:
            links = self._links = self._links or Connections(self._settings, budget=self._budget)
            redis = self._redis = self._redis or StreamsInRedis(family, ledger.uuid)
            before = len(redis.strange)
            if not family.knows_names:  # the ledger that knew them may have been lost: first what Redis knows
                redis.whole(links)
            elif family.mapping.mirror is not None:
                redis.some(links, SCANS)
            if len(redis.strange) > before:
                some = ", ".join(sorted(redis.strange)[:5])
                logger.warning("%s: streams that have such a name, and are of no log: %s", self._worker, some)
            family.find(carried_logs(links))
        except (RedisLost, RedisRefused) as error:  # forward and the mirror report what matters
            self._lost(error)

    def _in_turn(self) -> list[str]:
        """Takes the next resting streams of the round in which all are looked at."""
        if not self._rolling:
            self._rolling = self._family.logs
        count = max(1, int(len(self._family.logs) * self._sweep / REVIEWED_IN))
        some, self._rolling = self._rolling[:count], self._rolling[count:]
        return some

    def _was_away(self, links: Connections, log: str) -> bool:
        """Whether a server closed its connection or was replaced since the last look: then all streams are doubted."""
        connection = links.to(self._family.of(log).stream.key)
        connection.look()
        if connection.closed() or (self._settings.replicas and connection.replaced()):
            self.doubt()
            return True
        return False
