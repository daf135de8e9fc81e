"""The streams of a mapping that a component knows of: those that the bridge named, with a file, or in Redis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from fnmatch import fnmatchcase

from bridge.core.config import Settings
from bridge.core.errors import ConfigError, LedgerError, SourceError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.kinds.stream_family import StreamFamily, StreamsInRedis
from bridge.ledger.store import Ledger
from bridge.streams.dial import Connections

UNNAMED_SECONDS = 5.0
"""Seconds that a new log waits for the bridge to fix the name of its stream, as far as that may be another one's."""

SCANS = 10


class KnownStreams:
    """The streams that a component reads by name or pattern, as far as they are known; `family` names their logs."""

    def __init__(self, mapping: Mapping, settings: Settings, streams: str | Sequence[str]) -> None:
        self.family = StreamFamily(mapping, settings, None)
        self.uuid = b""
        """The identity of the bridge's ledger; empty: there is none, so nobody fixes the names of streams."""
        self._mapping, self._settings = mapping, settings
        self._patterns = (streams,) if isinstance(streams, str) else tuple(streams)
        self._unnamed: dict[str, float] = {}
        self._redis: StreamsInRedis | None = None

    def is_wanted(self, stream: str) -> bool:
        """Whether a component reads the stream of this name, by one of its patterns."""
        return any(stream == pattern or fnmatchcase(stream, pattern) for pattern in self._patterns)

    def learn(self) -> None:
        """Learns the names of a component's streams that the bridge has fixed, and finds files that have none yet."""
        try:
            if (path := self._settings.state_dir / "ledger.db").exists():
                with closing(Ledger(path)) as ledger:  # anew each time: it belongs to one thread
                    self.uuid = ledger.uuid
                    self.family.learn(ledger)
        except LedgerError as error:
            logger.debug("%s: %s", self._mapping.name, error)
        try:
            new = self.family.find()
        except SourceError as error:
            logger.debug("%s: %s", self._mapping.name, error)
            new = []
        for log in new:
            self._unnamed.setdefault(log, time.monotonic())

    def scan(self, servers: Connections) -> None:
        """Finds some more of a component's streams that began in Redis. Raises RedisLost, RedisRefused, SourceError."""
        redis = self._redis = self._redis or StreamsInRedis(self.family, self.uuid)
        redis.some(servers, SCANS)

    def scan_anew(self) -> None:
        """Begins the search in Redis for a component's streams anew, as its connections are other ones by now."""
        if self._redis is not None:
            self._redis.begin_anew()

    def named(self, *, first: bool) -> list[str]:
        """Lists the logs of a component's streams whose names stand, or are waited for no longer.

        `first`: at the beginning, when a name that no other log could have is not waited for.
        """
        found = []
        for log in self.family.logs:
            since = self._unnamed.get(log)
            if since is not None and self.uuid and not self.family.is_fixed(log):
                plain = self.family.is_plain(log)
                if not plain or (not first and time.monotonic() - since < UNNAMED_SECONDS):
                    continue
            self._unnamed.pop(log, None)
            if self.is_wanted(self.family.name_of(log)):
                found.append(log)
        return found

    def begun(self, stream: str) -> str:
        """Returns the log of a stream that a component begins, and makes its folder. Raises ConfigError."""
        before, behind = self.family.around
        log = self.family.take(f"{before}{stream}{behind}")
        if log is None:
            hint = "it is the path of a log below the glob's fixed part, without suffix"
            raise ConfigError(f"'{stream}' names no log of mapping '{self._mapping.name}'", hint=hint)
        folder = (self._settings.root / log).parent
        if not folder.resolve().is_relative_to(self._settings.root.resolve()):
            raise ConfigError(f"'{stream}' lies outside of the root, behind a link", where=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        return log
