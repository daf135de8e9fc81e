"""One thread for the coordinators of a component's logs of several streams, over one connection to each server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

from bridge.client.coordinator import TICK, Coordinator
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.logger import logger
from bridge.streams.components import LEARNED, ComponentHash, ComponentModes
from bridge.streams.connect import Connection
from bridge.streams.dial import Backoff, Connections
from bridge.streams.keys import Keys

TICK_OF_A_STREAM = 0.002
"""Seconds that a round of the coordinators takes at least for each stream, so that many do not keep Redis busy."""


class Coordinators:
    """The coordinators of one component in several streams of a mapping, each asked in turn by one thread."""

    def __init__(self, settings: Settings, component: str, on_state: Callable[[str], object]) -> None:
        [mapping] = settings.families.values()
        self.turn = Event()
        """Set when Redis said something new."""
        self._hash = ComponentHash(Keys.of(mapping.stream.key), mapping.name, settings.instance)
        self._component, self._on_state = component, on_state
        self._servers = Connections(settings, may_start=False)
        self._lock = Lock()
        self._all: list[Coordinator] = []
        self._pauses: dict[int, Backoff] = {}
        self._due: dict[int, float] = {}
        self._stop = Event()
        self.state = "connecting"
        self.default = ComponentModes()
        """From where the component reads streams that it has never met, and where it writes."""
        self._thread = Thread(target=self._run, name=f"{component}/{mapping.name}", daemon=True)

    def dial(self, key: str) -> Callable[[], Connection]:
        """Makes the function by which a coordinator gets the connection to its stream's server, which all share."""

        def shared() -> Connection:
            connection = self._servers.to(key)
            if connection.closed():
                self._servers.close()
                connection = self._servers.to(key)
            return connection

        return shared

    def add(self, coordinator: Coordinator) -> None:
        """Adds the coordinator of one stream."""
        with self._lock:
            self._all.append(coordinator)

    def start(self) -> None:
        """Starts the thread; before that it learns what holds for streams that the component has never met."""
        self._learn()
        self._thread.start()

    def _learn(self) -> None:
        with suppress(BridgeError):
            self.default = self._hash.default(self._servers.to(self._hash.keys.stream), self._component)

    def _run(self) -> None:
        learn_at = time.monotonic() + LEARNED
        while not self._stop.is_set():
            with self._lock:
                every = list(self._all)
            if time.monotonic() >= learn_at:
                learn_at = time.monotonic() + LEARNED
                self._learn()
            for coordinator in every:
                if self._stop.is_set():
                    return
                number, now = id(coordinator), time.monotonic()
                if now < self._due.get(number, 0.0) and not coordinator.woken():
                    continue
                rest = coordinator.tick(self._pauses.setdefault(number, Backoff()))
                self._due[number] = now + (max(rest, TICK_OF_A_STREAM * len(every)) if rest == TICK else rest)
            self._say(every)
            self.turn.set()
            self.turn.clear()
            self._stop.wait(TICK / 4)

    def _say(self, every: list[Coordinator]) -> None:
        states = {coordinator.state for coordinator in every} or {"connecting"}
        state = next(state for state in ("reconnecting", "connecting", "connected", "closed") if state in states)
        if state != self.state:
            self.state = state
            try:
                self._on_state(state)
            except Exception:  # noqa: BLE001 - the component's own function must not end the heartbeats
                logger.exception("%s: on_state failed", self._component)

    def stop(self) -> None:
        """Ends the thread, takes the worker's heartbeats out of Redis, and closes the connections."""
        self._stop.set()
        self._thread.join()
        for coordinator in self._all:
            coordinator.end(close=False)
        self._servers.close()
        self.state = "closed"
