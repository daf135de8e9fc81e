"""Handlers for `logging` whose records are messages of a component's log: in the file, or in Redis after the switch."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Mapping as MappingType
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition, RLock, Thread
from typing import Literal
from weakref import WeakSet

from bridge.client.component_log import Log
from bridge.client.opening import check_opening, open_log
from bridge.client.rotation import Rotation
from bridge.core.logger import logger
from bridge.kinds.stream_family import with_streams

DROPPED = "records were dropped here, as the queue was full"


_HANDLERS: WeakSet[BridgeHandler] = WeakSet()


def _begin_anew() -> None:
    for handler in list(_HANDLERS):
        handler._forked()


os.register_at_fork(after_in_child=_begin_anew)


class BridgeHandler(logging.Handler):
    """A handler for `logging` that appends each record to a component's log, in the form of the log's mapping.

    `role`: of all records, where none has a `role` of its own (`extra={"role": …}`); by default the component's role
    in bridge.toml, or the logger's name where it has several. The type is the record's `type`, else its level's name,
    or what `types` says for that. A traceback is part of the message: as further lines where the mapping reads such,
    else on the same line. `rotate`, `max_bytes` and `backups` rotate the file as long as the component writes one
    (`Rotation`). What the bridge itself logs is left out. Each process opens the log with its first record.

    Raises ConfigError: bridge.toml or the mapping cannot be used so.
    """

    def __init__(
        self, mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
        role: str | None = None, types: MappingType[str, str] | None = None,
        rotate: Literal["midnight", "hour"] | None = None, max_bytes: int = 0, backups: int = 0,
        level: int | str = logging.NOTSET,
    ) -> None:  # fmt: skip
        self._forked()
        super().__init__(level)  # from here on `logging` may close it, if what follows raises
        _HANDLERS.add(self)
        self.addFilter(lambda record: record.name != logger.name)  # it would come back to it
        self._mapping, self._component, self._config, self._redis = mapping, component, config, redis
        self._rotation = Rotation(rotate, max_bytes, backups)
        settings = with_streams(check_opening(mapping, component, config, redis, self._rotation))
        settings.mapping(mapping)
        roles = settings.components.get(component, frozenset())
        self._role = role or (next(iter(roles)) if len(roles) == 1 else None)
        self._types = dict(types or {})

    def _forked(self) -> None:
        """Lets the handler begin anew in a process that was forked: log and locks are the parent's."""
        self._opening = RLock()
        self._log: Log | None = None
        self._pid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Appends a record of `logging` to the component's log."""
        try:
            self._append(*self._parts(record))
        except Exception:  # noqa: BLE001 - `logging` has a place for what a handler cannot do
            self.handleError(record)

    def _parts(self, record: logging.LogRecord) -> tuple[str, str, str, float]:
        role = str(getattr(record, "role", None) or self._role or record.name)
        type = str(getattr(record, "type", None) or self._types.get(record.levelname, record.levelname))
        return role, type, self.format(record), record.created

    def _append(self, role: str, type: str, text: str, created: float) -> None:
        self._opened().append_text(type, text, role=role, moment=datetime.fromtimestamp(created, UTC))

    def _opened(self) -> Log:
        with self._opening:
            if self._log is None or self._pid != os.getpid():
                self._log = open_log(self._mapping, self._component, config=self._config, redis=self._redis,
                                     rotation=self._rotation)  # fmt: skip
                self._pid = os.getpid()
            return self._log

    def close(self) -> None:
        """Closes the handler and the component's log: messages that wait for Redis stay on disk for the next."""
        with self._opening:
            log, self._log = self._log, None
            if log is not None and self._pid == os.getpid():
                log.close()
        super().close()


class BridgeQueueHandler(BridgeHandler):
    """A `BridgeHandler` for `logging` that never blocks: a thread of its own appends what waits in its queue.

    `capacity`: records that may wait; beyond, records are dropped, and a message in the log says how many. `flush`
    waits for the queue, `close` for `close_seconds` at most.
    """

    def __init__(
        self, mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
        role: str | None = None, types: MappingType[str, str] | None = None,
        rotate: Literal["midnight", "hour"] | None = None, max_bytes: int = 0, backups: int = 0,
        level: int | str = logging.NOTSET, capacity: int = 10_000, close_seconds: float = 10.0,
    ) -> None:  # fmt: skip
        self._capacity, self._close_seconds = capacity, close_seconds
        self.dropped = 0
        """Records that were dropped since the handler was made, as its queue was full."""
        super().__init__(mapping, component, config=config, redis=redis, role=role, types=types, rotate=rotate,
                         max_bytes=max_bytes, backups=backups, level=level)  # fmt: skip

    def _forked(self) -> None:
        super()._forked()
        self._queue: queue.Queue[tuple[str, str, str, float] | None] = queue.Queue(self._capacity)
        self._thread: Thread | None = None
        self._turn = Condition()
        self._told, self._given, self._done = self.dropped, 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Puts a record of `logging` into the handler's queue, or drops it where that is full."""
        try:
            parts = self._parts(record)
        except Exception:  # noqa: BLE001 - `logging` has a place for what a handler cannot do
            self.handleError(record)
            return
        if self._thread is None:  # `logging` holds the handler's lock
            self._thread = Thread(target=self._work, name=f"bridge {self._component} logs", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(parts)
            self._given += 1
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        while (parts := self._queue.get()) is not None:
            self._try(parts)
            if self.dropped > self._told:
                missing, self._told = self.dropped - self._told, self.dropped
                role = self._role or self._component
                self._try((role, self._types.get("WARNING", "WARNING"), f"{missing} {DROPPED}", time.time()))
            with self._turn:
                self._done += 1
                self._turn.notify_all()

    def _try(self, parts: tuple[str, str, str, float]) -> None:
        try:
            self._append(*parts)
        except Exception as error:  # noqa: BLE001 - the thread goes on, and `logging` has a place for what it cannot do
            role, type, text, created = parts
            said = logging.LogRecord(role, logging.ERROR, "", 0, f"{type} {text}: {error}", None, None)
            said.created = created
            self.handleError(said)

    def flush(self) -> None:
        """Waits until what `logging` gave the handler so far is in the component's log, `close_seconds` at most."""
        given = self._given
        with self._turn:
            self._turn.wait_for(lambda: self._done >= given, self._close_seconds)

    def close(self) -> None:
        """Closes the handler, when what waits in its queue is appended, and the component's log."""
        self.flush()
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
                self._thread.join(self._close_seconds)
            except queue.Full:
                logger.warning("%s: %d records were not written in time", self._component, self._queue.qsize())
            self._thread = None
        super().close()
