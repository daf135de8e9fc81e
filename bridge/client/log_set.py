"""A component's logs of several streams of one mapping, read in one loop: each stream in its own order.

One worker, one thread that asks Redis for switches, and one connection for that serve all of them. A stream in which
nothing happens costs a look at its file, or a place in one request for news.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from collections.abc import Mapping as MappingType
from dataclasses import replace
from threading import Event, RLock
from types import TracebackType
from typing import Any

from bridge.client.component_log import Log
from bridge.client.coordinators import Coordinators
from bridge.client.following import Ending
from bridge.client.forked import OPEN
from bridge.client.known_streams import KnownStreams
from bridge.client.message import Message
from bridge.client.read_side import worker_slot
from bridge.client.shared_worker import Among
from bridge.client.start import BEGINNING, Start
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ConfigError, NotYet, RedisLost, RedisRefused, SourceError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import ZERO_ID, EntryId, format_id
from bridge.streams.components import FILE, REDIS
from bridge.streams.dial import Backoff, Connections
from bridge.streams.reader import stream_info
from bridge.streams.stream_news import StreamNews

FOUND_SECONDS = 1.0
"""Seconds between two looks for streams that are new."""

LOOK_SECONDS, LOOK_SECONDS_OF_A_STREAM, LONGEST_LOOK = 0.02, 0.0002, 0.2
"""Seconds that the loop waits for news before it looks at the files again, and how much longer for each stream."""

FRESH_SECONDS, FRESH_PAUSE = 2.0, 0.1
"""Seconds for which a file that changed is looked at again every `FRESH_PAUSE`: its last message may end later."""

CLAIMED_SECONDS = 5.0
"""Seconds between two looks for what another worker of the component has left unacknowledged in a stream."""

IDLE_SECONDS = 3.0
"""Seconds without a message after which a stream's own connection is closed."""


class LogSet:
    """One component's logs of several streams: `follow` reads their messages, `append` writes to one of them.

    `append` may be called by any thread, `follow` by one at a time. A log set belongs to the process that opened it.
    """

    def __init__(
        self, settings: Settings, mapping: Mapping, component: str, streams: str | Sequence[str], *, start: Start,
        on_state: Callable[[str], object] | None, claim_ms: int, most: int,
        durable: bool,
    ) -> None:  # fmt: skip
        self.component = component
        self._settings = replace(settings, families={mapping.name: mapping}, shared={})
        self._start, self._claim_ms, self._most = start, claim_ms, most
        self._durable = durable
        self._pid = os.getpid()
        self._lock = RLock()
        self._slot = worker_slot(settings.home / "components" / component)
        self._coordinators = Coordinators(self._settings, component, on_state or (lambda state: None))
        self._known = KnownStreams(mapping, self._settings, streams)
        self._family = self._known.family
        self._logs: dict[str, Log] = {}
        self._keys: dict[str, bytes] = {}
        self._due: dict[str, float] = {}
        self._fresh: dict[str, float] = {}
        self._used: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._claim_at: dict[str, float] = {}
        self._upto: dict[str, EntryId] = {}
        self._pauses: dict[str, Backoff] = {}
        self._news: StreamNews | None = None
        self._servers: Connections | None = None
        self._find_at = 0.0
        self._current: Log | None = None
        self._following = self._closed = self._stopped = False
        self._find(first=True)
        self._coordinators.start()
        OPEN.add(self)

    @property
    def streams(self) -> list[str]:
        """The names of the streams that the component reads in one loop, as far as they are known by now."""
        with self._lock:
            return sorted(self._logs)

    @property
    def state(self) -> str:
        """The state of the component's connection to Redis: "connecting", "connected", "reconnecting", "closed"."""
        return self._coordinators.state

    def reads(self, stream: str) -> str:
        """The side that the component reads a stream from now, "file" or "redis"; empty while nobody follows."""
        return self._log(stream).reads

    # -- writing ---------------------------------------------------------------------------------------------

    def append(self, type: str, data: str | bytes, *, stream: str, role: str | None = None,
               timestamp: str | None = None, durable: bool = False, **fields: str | bytes) -> None:  # fmt: skip
        """Appends a message to a stream's log, as `Log.append`; a stream of a new name begins with it.

        Raises TargetError, ConfigError, BridgeError: the message is nowhere.
        """
        self._check()
        self._log(stream).append(type, data, role=role, timestamp=timestamp, durable=durable, **fields)

    def append_line(self, line: bytes, *, stream: str, role: str | None = None) -> None:
        """Appends a message that is given as its line to a stream's log, as `Log.append_line` does."""
        self._check()
        self._log(stream).append_line(line, role=role)

    def append_json(self, value: MappingType[str, Any], *, stream: str, role: str | None = None) -> None:
        """Appends a message that is given as its JSON object to a stream's log, as `Log.append_json` does."""
        self._check()
        self._log(stream).append_json(value, role=role)

    def _log(self, stream: str) -> Log:
        with self._lock:
            if stream in self._logs:
                return self._logs[stream]
            if not self._known.is_wanted(stream):
                raise ConfigError(f"stream '{stream}' is none of those that were opened", hint="say it in `streams`")
            self._find()
            if stream not in self._logs:
                self._open(self._known.begun(stream), BEGINNING)
            return self._logs[stream]

    # -- which streams there are -----------------------------------------------------------------------------

    def _find(self, *, first: bool = False) -> None:
        """Opens for a component the logs of new streams: those that the bridge named, with a file, or in Redis."""
        self._find_at = time.monotonic() + FOUND_SECONDS
        self._known.learn()
        if self._coordinators.default.reads == REDIS or not self._known.uuid:  # then no bridge tells of those in Redis
            try:
                servers = self._servers = self._servers or Connections(self._settings, may_start=False)
                self._known.scan(servers)
            except (RedisLost, RedisRefused, SourceError) as error:
                logger.debug("%s: new streams are not looked for: %s", self.component, error)
                self._drop_servers()
        for log in self._known.named(first=first):
            if self._family.name_of(log) not in self._logs:
                self._open(log, self._start if first else BEGINNING)

    def _drop_servers(self) -> None:
        if self._servers is not None:
            self._servers.close()
        self._servers = None
        self._known.scan_anew()

    def _open(self, log: str, start: Start) -> None:
        mapping, name = self._family.of(log), self._family.name_of(log)
        among = Among(self._slot, self._coordinators.dial(mapping.stream.key), self._coordinators.default)
        made = Log(
            self._settings, mapping, self.component, start=start, claim_ms=self._claim_ms, most=self._most,
            durable=self._durable,
            among=among,
        )  # fmt: skip
        with self._lock:
            self._logs[name], self._keys[name] = made, mapping.stream.key.encode()
            self._due[name] = 0.0
            if self._following:
                made.reader.begin_to_follow()
        self._coordinators.add(made.coordinator)

    # -- reading ---------------------------------------------------------------------------------------------

    def follow(
        self, *, idle: float | None = None, timeout: float | None = None, stop: Event | None = None
    ) -> Generator[Message, None, None]:
        """Yields the messages of a component's streams as they come, for ever, or until it ends, as `Log.follow` does.

        Each names its `stream`, and those of one stream come in its order. A message is acknowledged when the next one
        is asked for; a caller that leaves the loop before gets the last one again, unless `acknowledge` is called.
        Raises BridgeError; what waits for Redis or for a file does not.
        """
        self._check()
        ending = Ending(lambda: self._closed or self._stopped, stop, idle, timeout)
        with self._lock:
            if self._following:
                raise BridgeError("these logs are followed already", hint="open others for another reader")
            self._following = True
            for log in self._logs.values():
                log.reader.begin_to_follow()
        try:
            while not ending.is_due():
                if time.monotonic() >= self._find_at:
                    self._find()
                gave = False
                for name in self._ready():
                    for message in self._turn(name):
                        gave = True
                        yield message
                        self.acknowledge()
                        ending.met()
                        if ending.is_due():
                            return
                    if ending.is_due():
                        return
                if ending.is_idle():
                    return
                if not gave:
                    self._wait()
        finally:
            self._current = None
            self._following = False
            for log in self._logs.values():
                log.reader.leave()
                log.reader.end_to_follow()
            self._drop_news()

    def acknowledge(self) -> None:
        """Acknowledges the message that the component's loop over streams was given last: it is done with that."""
        log, self._current = self._current, None
        if log is not None:
            log.acknowledge()

    def stop(self) -> None:
        """Ends `follow` for good, from any thread or a signal handler, when the message in hand is done."""
        self._stopped = True

    def nudge(self) -> None:
        """Does nothing: who follows several logs looks often enough whether to end."""

    def withdraw(self) -> None:
        """Takes back the message that the loop over streams was given last, as `Log.withdraw` does."""
        log, self._current = self._current, None
        if log is not None:
            log.withdraw()

    def _turn(self, name: str) -> Generator[Message, None, None]:
        """Yields what one of a component's streams has now, and notes when the stream is to have its next turn."""
        log, now, gave = self._logs[name], time.monotonic(), False
        self._due.pop(name, None)
        try:
            last = self._last(name) if log.reads == REDIS else ZERO_ID
            for message in log.reader.turn():
                gave, self._current = True, log
                yield replace(message, stream=name)
            self._pauses.pop(name, None)
            if log.reads == REDIS and not gave:
                self._upto[name] = max(self._upto.get(name, ZERO_ID), last)
        except (RedisLost, RedisRefused, NotYet) as error:
            log.reader.stumble(error)
            self._drop_servers()
            self._due[name] = now + self._pauses.setdefault(name, Backoff(0.02, 2.0)).next()
            return
        self._epochs[name] = self._epoch(log)
        self._claim_at[name] = now + CLAIMED_SECONDS
        self._used.setdefault(name, now)
        if gave:
            self._used[name], self._due[name] = time.monotonic(), 0.0
        elif log.reads == FILE and self._fresh.get(name, 0.0) > now:
            self._due[name] = now + FRESH_PAUSE
        elif log.reads == REDIS and name not in self._upto:
            self._due[name] = now

    def _last(self, name: str) -> EntryId:
        servers = self._servers = self._servers or Connections(self._settings, may_start=False)
        return stream_info(servers.to(self._keys[name]), self._keys[name]).last_id

    def _has_pending(self, name: str) -> bool:
        """Whether a stream has entries that a worker of the component was given and has not acknowledged."""
        self._claim_at[name] = time.monotonic() + CLAIMED_SECONDS * (1 + len(self._logs) / 50)
        servers = self._servers = self._servers or Connections(self._settings, may_start=False)
        try:
            return bool(servers.to(self._keys[name]).call("XPENDING", self._keys[name], self.component)[0])
        except (RedisLost, RedisRefused):
            return True  # its turn tells what is wrong

    @staticmethod
    def _epoch(log: Log) -> int:
        known = log.coordinator.known
        return known.epoch if known is not None else -1

    def _ready(self) -> list[str]:
        """Lists the component's streams whose turn it is; those that pause for a switch have none."""
        now, found = time.monotonic(), []
        for name, log in list(self._logs.items()):
            if log.reader.pauses():
                self._due[name] = now
                continue
            if not (log.coordinator.tried or log.coordinator.known):
                continue  # Redis is asked first from where to read
            turned = self._epochs.get(name, -1) != self._epoch(log)
            left = log.reads == REDIS and now >= self._claim_at.get(name, 0.0) and self._has_pending(name)
            if turned or left or self._due.get(name, now + 1) <= now:
                found.append(name)
            elif log.reads == REDIS and now - self._used.get(name, now) > IDLE_SECONDS:
                del self._used[name]
                log.reader.rest()
        return found

    def _wait(self) -> None:
        """Has a component wait a moment for news of any of its streams: a changed file, or an entry that came."""
        try:
            _, logs = self._family.catalog.sweep()
        except SourceError as error:
            logger.debug("%s: %s", self.component, error)
            logs = set()
        now = time.monotonic()
        for log in logs:
            if log in self._family and (name := self._family.name_of(log)) in self._logs:
                self._fresh[name], self._due[name] = now + FRESH_SECONDS, 0.0
        pause = min(LONGEST_LOOK, LOOK_SECONDS + LOOK_SECONDS_OF_A_STREAM * len(self._logs))
        asked = {self._keys[name]: name for name, log in self._logs.items()
                 if log.reads == REDIS and name in self._upto and name not in self._due}  # fmt: skip
        if not asked:
            self._coordinators.turn.wait(pause)
            return
        try:
            news = self._news = self._news or StreamNews(self._settings, timeout=10.0)
            cursors = {stream: format_id(self._upto[name]) for stream, name in asked.items()}
            for stream in news.ask(cursors, int(pause * 1000)):
                self._due[asked[stream]] = 0.0
            for stream in news.refused:
                self._due[asked[stream]] = now + 1.0
            if not news.waits:
                self._coordinators.turn.wait(pause)
        except (RedisLost, RedisRefused) as error:
            logger.debug("%s: %s", self.component, error)
            self._drop_news()
            for name in asked.values():
                self._due[name] = now  # each finds out by itself, and waits
            self._coordinators.turn.wait(pause)

    def _drop_news(self) -> None:
        if self._news is not None:
            self._news.close()
        self._news = None
        self._drop_servers()

    # -- the process -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise BridgeError("these logs were opened by another process", hint="open them after the fork")
        if self._closed:
            raise BridgeError("these logs are closed")

    def let_go(self) -> None:
        """Closes in a forked child the file locks of a component's logs, so that only the parent has them."""
        for log in self._logs.values():
            log.let_go()
        os.close(self._slot[1])

    def close(self) -> None:
        """Closes a component's logs of several streams: messages that wait for Redis stay on disk for its next ones."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._coordinators.stop()
        for log in self._logs.values():
            log.close()
        if not self._following:  # else its thread does so
            self._drop_news()
        OPEN.discard(self)
        os.close(self._slot[1])

    def __enter__(self) -> LogSet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
