"""One thread for the coordinators of a component's logs of several streams, over one connection to each server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

from bridge.client.coordinator import HEARTBEAT_SECONDS, TICK, Coordinator
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.logger import logger
from bridge.core.mapping_sections import NAME
from bridge.streams.components import LEARNED, ComponentHash, ComponentModes
from bridge.streams.connect import Connection
from bridge.streams.dial import Backoff, Connections
from bridge.streams.keys import Keys

TICK_OF_A_STREAM, SUBSCRIBED_TICK_OF_A_STREAM = 0.002, 0.01
"""Seconds that a round of the coordinators takes at least for each stream, so that many do not keep Redis busy.

The second where a switch is announced to a subscriber, and nobody need ask for it.
"""

AGAIN = 5.0
"""Seconds between two tries to subscribe to the announcements of switches."""


class Coordinators:
    """The coordinators of one component in several streams of a mapping, each asked in turn by one thread."""

    def __init__(self, settings: Settings, component: str, on_state: Callable[[str], object]) -> None:
        [mapping] = settings.families.values()
        self.turn = Event()
        """Set when Redis told any of the component's coordinators something new."""
        self._hash = ComponentHash(Keys.of(mapping.stream.key), mapping.name, settings.instance)
        self._component, self._on_state = component, on_state
        self._servers = Connections(settings, may_start=False)
        self._lock = Lock()
        self._all: list[Coordinator] = []
        self._pauses: dict[int, Backoff] = {}
        self._due: dict[int, float] = {}
        self._by_channel: dict[bytes, Coordinator] = {}
        self._announced: Connection | None = None
        self._subscribe_at = 0.0
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
        """Adds the coordinator of one stream to those that the component's one thread asks."""
        with self._lock:
            self._all.append(coordinator)
            self._by_channel[coordinator.channel] = coordinator

    def start(self) -> None:
        """Starts the thread of a component's coordinators, once Redis said what holds for streams it has never met."""
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
            self._listen()
            each = TICK_OF_A_STREAM if self._announced is None else SUBSCRIBED_TICK_OF_A_STREAM
            for coordinator in every:
                if self._stop.is_set():
                    return
                number, now = id(coordinator), time.monotonic()
                if now < self._due.get(number, 0.0) and not coordinator.woken():
                    continue
                before = coordinator.known
                rest = coordinator.tick(self._pauses.setdefault(number, Backoff()))
                if coordinator.known != before:
                    self.turn.set()
                share = min(HEARTBEAT_SECONDS, each * len(every)) if rest == TICK else 0.0
                self._due[number] = now + max(rest, share)
            self._say(every)
            self.turn.clear()
            self._stop.wait(TICK / 4)

    def _listen(self) -> None:
        """Has a component's thread ask at once the coordinators of streams of which Redis announced a change."""
        try:
            if self._announced is None:
                if time.monotonic() < self._subscribe_at or not self._all:
                    return
                self._subscribe_at = time.monotonic() + AGAIN
                announced = self._servers.another(self._hash.keys.stream)
                pattern = re.sub(rb"([*?\\[\]])", rb"\\\1", self._hash.keys.components).replace(NAME.encode(), b"*")
                announced.call("PSUBSCRIBE", pattern)
                self._announced = announced
                self._due.clear()  # what was announced before
            for push in self._announced.pushes():
                if isinstance(push, list) and len(push) == 4 and (known := self._by_channel.get(push[2])) is not None:
                    self._due[id(known)] = 0.0
        except BridgeError as error:  # without the right to subscribe, or without Redis, each asks by itself
            logger.debug("%s: switches are not announced: %s", self._component, error)
            if self._announced is not None:
                self._announced.close()
            self._announced = None

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
        """Ends the thread of a component's coordinators, and takes the worker's heartbeats out of Redis."""
        self._stop.set()
        self._thread.join()
        for coordinator in self._all:
            coordinator.end(close=False)
        if self._announced is not None:
            self._announced.close()
        self._servers.close()
        self.state = "closed"
