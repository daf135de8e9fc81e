"""The coordinator: a component's thread that polls Redis for switches, sends heartbeats, and has the outbox emptied."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import Any

from bridge.core.errors import BridgeError, RedisRefused
from bridge.core.logger import logger
from bridge.streams.components import LOOK, ComponentHash, ComponentModes, modes_from_reply
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.dial import Backoff
from bridge.streams.layout import FORMAT
from bridge.streams.resp import pack

TICK = 0.1
"""Seconds between two looks in Redis for a switch."""

FIRST_WORD_SECONDS = 1.0
"""Seconds that a component waits for Redis to say where to read and write, before it goes on without an answer."""

HEARTBEAT_SECONDS = 2.0
"""Seconds between two heartbeats."""


@dataclass(slots=True)
class WorkerStatus:
    """A worker's status, which the coordinator sends to Redis as heartbeat: what it reads, its position, its pauses.

    `paused` holds, for each side, the token of the switch that the worker waits for.
    """

    worker: str
    following: bool = False
    reads: str = ""
    paused: dict[str, str] = field(default_factory=dict)
    waiting: int = 0
    epoch: int = 0
    """The epoch of the component's position."""
    position: Callable[[], dict[str, Any] | None] = lambda: None


class Coordinator:
    """A component's thread that keeps in touch with Redis: it sends the heartbeats, and learns of switches.

    `turn` guards what the coordinator knows. `known`: the modes that Redis said last, None before it ever answered;
    `most`: the modes that are remembered to have been said. `dead` tells whether this machine knows that the mapping is
    retired.
    """

    def __init__(
        self, components: ComponentHash, component: str, dial: Callable[[], Connection], most: ComponentModes,
        shown: WorkerStatus, on_switch: Callable[[ComponentModes], None], work: Callable[[], None],
        on_state: Callable[[str], object], dead: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.turn = Condition()
        self.known: ComponentModes | None = None
        self.reached = 0.0
        """When Redis answered last, by the monotonic clock."""
        self.tried = False
        self.shown = shown
        self.state = "connecting"
        self._components = components
        self._keys = components.keys
        self._component = component
        self._dial = dial
        self._most = most
        self._on_switch = on_switch
        self._work = work
        self._on_state = on_state
        self._dead = dead
        self._may_ask = True
        """Whether the component's rights in Redis let it ask whether the mapping is retired."""
        self._stop = False
        self._wake = Event()
        self._server_ms = 0
        self._told: dict[str, Any] = {}
        self._due = 0.0
        self._link: Connection | None = None
        self._thread = Thread(target=self._run, name=f"{component}/{components.mapping}", daemon=True)

    @property
    def channel(self) -> bytes:
        """The channel on which changes of the stream's components are announced."""
        return self._keys.components

    @property
    def unheard(self) -> float:
        """Seconds since Redis last answered the coordinator's heartbeat, or since 1970 where it never did."""
        return time.monotonic() - self.reached if self.reached else time.time()

    def start(self) -> None:
        """Starts the coordinator's thread."""
        self._thread.start()

    def wait_first(self) -> None:
        """Waits until the coordinator has an answer from Redis, or could not reach it, for a second at most."""
        with self.turn:
            self.turn.wait_for(lambda: self.known is not None or self.tried, FIRST_WORD_SECONDS)

    def wake(self) -> None:
        """Makes the coordinator send its worker's heartbeat to Redis at once."""
        self._due = 0.0
        self._wake.set()

    def stop(self) -> None:
        """Ends the coordinator's thread, and waits until it has ended."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        pause = Backoff()
        while not self._stop:
            rest = self.tick(pause)
            self._wake.wait(rest)
            self._wake.clear()
        self.end()

    def tick(self, pause: Backoff) -> float:
        """Has the coordinator ask Redis once, and do what is to be done; returns the seconds until the next time."""
        try:
            if self._link is not None:
                self._link.look()
                if self._link.aged or self._link.replaced():
                    self._link.close()
                    self._link = None
            self._link = self._link or self._dial()
            self._beat(self._link)
            self._work()
            pause.reset()
            rest = TICK
        except BridgeError as error:
            self._drop(error)
            rest = pause.next()
        self.tried = True
        with self.turn:
            self.turn.notify_all()
        return rest

    def woken(self) -> bool:
        """Whether the coordinator was woken since the last call."""
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    def end(self, *, close: bool = True) -> None:
        """Takes the worker's heartbeat out of Redis, if that is there, and may close the coordinator's connection."""
        if self._link is not None:
            try:
                self._link.call("HDEL", self._keys.positions, f"{self._component}/{self.shown.worker}")
            except BridgeError as error:
                logger.debug("the worker's heartbeat stays: %s", error)
            if close:
                self._link.close()
        self._say("closed")

    def _drop(self, error: BridgeError) -> None:
        if self.state != "reconnecting":
            logger.log(20 if self.state == "connected" else 10, "%s: %s; it is tried again", self._component, error)
        if self._link is not None:
            self._link.close()
        self._link = None
        self._say("reconnecting")

    def _say(self, state: str) -> None:
        if state != self.state:
            self.state = state
            try:
                self._on_state(state)
            except Exception:  # noqa: BLE001 - the component's own function must not end the heartbeat
                logger.exception("%s: on_state failed", self._component)

    def _beat(self, link: Connection) -> None:
        now, told = time.monotonic(), self._telling()
        due = now >= self._due or any(told[name] != self._told.get(name) for name in told if name != "at")
        if due:
            position = self.shown.position()
            command = self._components.packed_tell(
                link, self._component, self.shown.worker, json.dumps(told), self.shown.epoch,
                "" if position is None else json.dumps(position),
            )  # fmt: skip
        else:
            command = self._components.packed(link, LOOK, self._component)
        reply, ended = self._asked(link, command)
        modes, self._server_ms = modes_from_reply(reply)
        if due:
            self._told, self._due = told, now + HEARTBEAT_SECONDS
        self.reached = time.monotonic()
        self._say("connected")
        if modes.epoch < self._most.epoch:  # Redis has lost the modes, or they were purged
            self._components.restore(link, self._component, self._most)
            modes = self._most
        if ended or (self._most.retired and not self._begun_again(link)):
            modes = modes.ended()
        self._most = ComponentModes(modes.reads, modes.writes, modes.epoch, retired=modes.retired)
        with self.turn:
            changed, self.known = modes != self.known, modes
        if changed:
            self._on_switch(modes)
            self._wake.set()

    def _asked(self, link: Connection, command: bytes) -> tuple[Any, bool]:
        """Sends the coordinator's command to Redis, and asks along with it whether the mapping is retired.

        Returns the reply to the command, and whether it is. Raises RedisLost, RedisRefused.
        """
        link.send(command + pack("EXISTS", self._keys.retired))
        reply, ended = link.read(), link.read()
        if isinstance(reply, Refusal):
            raise refused(reply, link.shown)
        if not isinstance(ended, Refusal):
            return reply, bool(ended)
        error = refused(ended, link.shown)
        if not isinstance(error, RedisRefused) or error.code != "NOPERM":
            raise error  # a slot that moves may have taken this key along already, and not the others
        if self._may_ask:
            self._may_ask = False
            said = "%s may not ask whether its mapping is retired: %s; `bridge acl` prints the rights that it needs"
            logger.warning(said, self._component, ended)
        return reply, False

    def _begun_again(self, link: Connection) -> bool:
        """Whether a mapping that the coordinator knew as retired has begun again, where Redis names no retirement.

        A Redis that has merely lost the note of the retirement has no stream metadata either, or this machine knows of
        the end.
        """
        return bool(link.call("EXISTS", self._keys.meta)) and not self._dead()

    def _telling(self) -> dict[str, Any]:
        shown = self.shown
        at = self._server_ms + int(1000 * (time.monotonic() - self.reached)) if self._server_ms else 0
        return {
            "at": at or int(time.time() * 1000), "epoch": self._most.epoch, "following": shown.following,
            "reads": shown.reads, "paused": sorted(filter(None, shown.paused.values())), "waiting": shown.waiting,
            "pid": os.getpid(), "host": socket.gethostname(), "layout": FORMAT,
        }  # fmt: skip
