"""A component's log, as `open_log` returns it: reads and appends messages in files or Redis, as it is switched."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import RLock
from types import TracebackType
from typing import Any
from weakref import WeakSet

from bridge.client.bookmark import Bookmark
from bridge.client.carried_still import FileVoucher
from bridge.client.coordinator import Coordinator, WorkerStatus
from bridge.client.group_reader import GROUP_BLOCK_MS
from bridge.client.message import Message
from bridge.client.read_routing import ReadRouting
from bridge.client.read_side import FileSide, GroupSide, InFlight, ReadSide, worker_slot
from bridge.client.replay import from_files, from_stream, milliseconds
from bridge.client.shared_worker import Among
from bridge.client.write_routing import WriteRouting
from bridge.core.codecs.timestamps import shown_time
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ConfigError, NotYet, RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import format_id
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.components import FILE, READS, REDIS, WRITES, ComponentModes, SwitchInProgress
from bridge.streams.dial import Backoff, dialler

IDLE_PAUSE = 0.02
"""Seconds between two looks at files that hold nothing new."""

CLAIM_MS = 60_000
MOST_DELIVERIES = 10


OPEN: WeakSet[Any] = WeakSet()


def _let_go() -> None:
    """Closes in a forked child the locks of every component log, which stay the parent's alone and end with it."""
    for component_log in list(OPEN):
        component_log.let_go()


os.register_at_fork(after_in_child=_let_go)


@dataclass(slots=True)
class _Given:
    """The message that a component's log gave last and that is not acknowledged: its read side and its token."""

    side: ReadSide
    token: object


class Log:
    """One component's log of one mapping: `follow` reads its messages, `append` writes new messages.

    `append` may be called by any thread, `follow` by one at a time. A log belongs to the process that opened it: a
    process that was forked opens its own.
    """

    def __init__(
        self, settings: Settings, mapping: Mapping, component: str, *, at_end: bool = False,
        on_state: Callable[[str], object] | None = None, claim_ms: int = CLAIM_MS, most: int = MOST_DELIVERIES,
        among: Among | None = None,
    ) -> None:  # fmt: skip
        if not mapping.kind.lines:
            kind = mapping.source.kind
            raise ConfigError(f"mapping '{mapping.name}' is of kind '{kind}', and open_log is for logs")
        self.component = component
        self._settings = settings
        self._mapping = mapping
        self._shared = MappingContext(mapping, settings)
        self._at_end = at_end
        self._claim_ms = claim_ms
        self._most = most
        self._pid = os.getpid()
        self._folder = settings.home / "components" / component
        self._bookmark = Bookmark(settings.home, component, mapping.name)
        self._dial = dialler(settings, mapping.stream.key, may_start=False)
        self._lock = RLock()
        self._among = among
        number, self._slot = worker_slot(self._folder) if among is None else among.slot
        self._shown = WorkerStatus(f"{settings.instance}-{number}")
        marks = Bookmark(settings.home, component, mapping.name).load()
        vouched = FileVoucher(self._shared)
        most_known = vouched.known(marks)
        if among is not None and not marks.begun and not marks.places and most_known.epoch < among.modes.epoch:
            most_known = among.modes  # of a stream that it never met it knows what holds for all of them
        self._writing = WriteRouting(self._shared, component, self._folder, self._dial, most_known, vouched,
                                lambda: self.coordinator.unheard)  # fmt: skip
        self._shown.position = self._position
        self.coordinator = Coordinator(
            self._shared.components, component, self._dial if among is None else among.dial, most_known, self._shown,
            self._switched, self._work, on_state or (lambda state: None), vouched.dead,
        )  # fmt: skip
        self._whence = ReadRouting(
            self._shared, settings, component, self._bookmark, self.coordinator, self._dial, vouched, at_end=at_end
        )
        self._hand = InFlight()
        self._given: _Given | None = None
        self._side: ReadSide | None = None
        self._following = False
        self._closed = False
        self._why = ""
        if among is None:
            self.coordinator.start()
            OPEN.add(self)

    @property
    def state(self) -> str:
        """The state of a component log's connection to Redis: "connecting", "connected", "reconnecting", "closed"."""
        return self.coordinator.state

    @property
    def reads(self) -> str:
        """The side that the component's log reads now, "file" or "redis"; empty while unknown or nobody follows."""
        return self._shown.reads

    @property
    def writes(self) -> str:
        """The side to which the component's log appends messages: "file", "redis", or "both" in dual write."""
        return self._writing.mode

    # -- writing ---------------------------------------------------------------------------------------------

    def append(self, type: str, data: str | bytes, *, role: str | None = None, timestamp: str | None = None,
               **fields: str | bytes) -> None:  # fmt: skip
        """Appends a message to the log; on return the message is in the file, the stream, or on disk on its way there.

        `role`: the component's, where it has one alone in bridge.toml; `timestamp`: now. Raises TargetError,
        ConfigError, BridgeError: the message is nowhere.
        """
        self._check()
        role = role if role is not None else self._settings.role_of(self.component)
        if timestamp is None:
            timestamp = shown_time(self._mapping.format.timestamp, self._mapping.format.timezone, datetime.now(UTC))
        values = {b"role": role.encode(), b"timestamp": timestamp.encode(), b"type": type.encode(),
                  b"data": data.encode() if isinstance(data, str) else data}  # fmt: skip
        self.coordinator.wait_first()
        extra = {name.encode(): value.encode() if isinstance(value, str) else value for name, value in fields.items()}
        self._writing.append(role, values | extra)

    # -- reading ---------------------------------------------------------------------------------------------

    def follow(
        self, *, since: datetime | str | float | None = None, idle: float | None = None
    ) -> Generator[Message, None, None]:
        """Yields the messages of a component's log as they come, for ever, or until none came for `idle` seconds.

        `since`: messages of that time and later that the component has read already come first, marked as redelivered.
        A message is acknowledged when the next one is asked for. A caller that leaves the loop before gets the last one
        again, unless `acknowledge` is called. Raises BridgeError; what waits for Redis or for a file does not.
        """
        self._check()
        with self._one_follower():
            if since is not None:
                yield from self._again(milliseconds(since))
            pause, quiet = Backoff(0.02, 2.0), time.monotonic()
            try:
                while not self._closed:
                    try:
                        self._pause()
                        for message in self.turn():
                            yield message
                            self.acknowledge()
                            quiet = time.monotonic()
                        if self._shown.reads == FILE and time.monotonic() - quiet >= IDLE_PAUSE:
                            self._rest(IDLE_PAUSE)
                        pause.reset()
                    except (RedisLost, RedisRefused, NotYet) as error:
                        self.stumble(error)
                        self._rest(pause.next())
                    if idle is not None and time.monotonic() - quiet >= idle:
                        return
            finally:
                self.leave()
                if os.getpid() == self._pid:
                    self._hand.confirm(self._dial, self._shared.keys.stream, self.component)

    def turn(self) -> Generator[Message, None, None]:
        """Yields the messages of a component's log that are there now; none while a switch is under way.

        Whoever asks for the next acknowledges the one before. Raises RedisLost, RedisRefused, NotYet: then `stumble`.
        """
        if self._asked() is not None:
            self.leave()
            return
        modes = self._whence.modes()
        side = self._side_of(modes)
        found, self._why = self._taken(side), ""
        for message, token in found:
            if self._asked() is not None or self._turned(modes) or self._closed:
                self.leave()  # a message that was fetched and is not given comes again
                break
            if side.given(token):
                self._given = _Given(side, token)
                yield message

    def rest(self) -> None:
        """Closes the connection over which the log reads a stream, until its next turn."""
        if self._side is not None and self._side.name == REDIS and self._given is None:
            self.leave()
            self._shown.reads = REDIS

    def _taken(self, side: ReadSide) -> Sequence[tuple[Message, object]]:
        with self._lock:
            found = side.take()
        if side.name == REDIS:
            self._whence.begun()
        return found

    def stumble(self, error: BridgeError) -> None:
        """Leaves the side that a component's log reads after an error of `turn`, and logs why, once for each reason."""
        if str(error) != self._why:
            logger.warning("%s reads nothing for now: %s", self.component, error)
        self._why = str(error)
        self.leave()

    def _again(self, since_ms: int) -> Iterator[Message]:
        """Yields once more the messages of a component's log that were read already, from the time `since_ms` on."""
        modes = self._whence.awaited()
        if modes.reads == FILE:
            yield from from_files(self._shared, self._bookmark.marks, since_ms, time.time)
            return
        connection = self._dial()
        try:
            yield from from_stream(connection, self._shared.keys.stream, self.component, since_ms)
        finally:
            connection.close()

    def acknowledge(self) -> None:
        """Acknowledges the message that the component's log gave last: the component is done with it."""
        given, self._given = self._given, None
        if given is not None:
            with self._lock:
                given.side.done(given.token)

    def _rest(self, seconds: float) -> None:
        with self.coordinator.turn:
            self.coordinator.turn.wait(seconds)

    @contextmanager
    def _one_follower(self) -> Iterator[None]:
        self.begin_to_follow()
        try:
            yield
        finally:
            self.end_to_follow()

    def begin_to_follow(self) -> None:
        """Notes that the component's log is followed from here on. Raises BridgeError: it is already."""
        with self._lock:
            if self._following:
                raise BridgeError("this log is followed already", hint="open another one for another reader")
            self._following = self._shown.following = True

    def end_to_follow(self) -> None:
        """Notes that the component's log is followed no more, and frees its bookmark."""
        self._following = self._shown.following = False
        self._shown.reads = ""
        if os.getpid() == self._pid:
            self._bookmark.close()
            self.coordinator.wake()

    def _asked(self) -> SwitchInProgress | None:
        """The switch of reads for which this component's log has to pause; None where there is none."""
        known = self.coordinator.known
        return known.switch if known is not None and known.switch is not None and known.switch.side == READS else None

    def _turned(self, modes: ComponentModes) -> bool:
        """Whether a switch was made since the log read the component's `modes`: begun and ended between two looks."""
        known = self.coordinator.known
        return known is not None and known.epoch != modes.epoch

    def leave(self) -> None:
        """Closes the read side of a component's log in its own process; the bookmark stays locked for the next side."""
        side, self._side = self._side, None
        if side is not None and os.getpid() == self._pid:
            clean, self._given = self._given is None, None
            with self._lock:
                side.close(clean=clean)

    def _pause(self) -> None:
        """Pauses the component's log for a switch, until that is done, given up or lapsed."""
        if self.pauses():
            self.leave()
            while not self._closed and self.pauses():
                self._rest(1.0)

    def pauses(self) -> bool:
        """Whether a switch is under way for which the component's log has to pause; the coordinator is told of it."""
        switch = self._asked()
        if switch is not None and self._shown.paused.get(READS) != switch.token:
            self.leave()
            marks = self._bookmark.marks
            if self._bookmark.locked:
                marks.doubt = switch.token
                self._bookmark.save()
            self._shown.paused[READS] = switch.token
            self.coordinator.wake()
        elif switch is None and self._shown.paused.pop(READS, None) is not None:
            self.coordinator.wake()
        return switch is not None

    # -- where to read ---------------------------------------------------------------------------------------

    def _side_of(self, modes: ComponentModes) -> ReadSide:
        """Returns the read side of a component's log for the given modes: the open one if it fits, else a new one."""
        if self._side is not None and self._side.name == modes.reads:
            return self._side
        self.leave()
        side: ReadSide
        if modes.reads == FILE:
            side = FileSide(self._shared, self._bookmark, time.time, at_end=self._at_end)
        else:
            connection = self._dial()
            side = GroupSide(
                connection, self._shared.keys.stream, self.component, self._shown.worker, self._claim_ms, self._most,
                self._folder / f"{self._mapping.name}.aside", self._hand, self._whence.first_start(connection),
                self._whence.remedy(modes), GROUP_BLOCK_MS if self._among is None else 0,
            )  # fmt: skip
        self._side, self._shown.reads = side, side.name
        self.coordinator.wake()
        return side

    # -- for the coordinator ---------------------------------------------------------------------------------

    def _position(self) -> dict[str, Any] | None:
        """Returns the component's position as its log reports it: in files by the reader, in Redis by each worker."""
        with self._lock:
            if self._shown.reads == REDIS and self._hand.last is not None:
                return {"epoch": self._shown.epoch, "entry": format_id(self._hand.last).decode()}
            if self._shown.reads != FILE or not self._bookmark.locked:  # the lock may be held only to write
                return None
            said = self._bookmark.marks.to_json()
            return {name: said[name] for name in ("epoch", "files", "entry", "aside", "unclean")}

    def _switched(self, modes: ComponentModes) -> None:
        switch = modes.switch
        if switch is not None and switch.side == READS and not self._following:
            self._shown.paused[READS] = switch.token
        elif switch is None and not self._following:
            self._shown.paused.pop(READS, None)
        self._writing.switched(modes, self._shown.paused)

    def _work(self) -> None:
        known = self.coordinator.known
        if known is not None:
            self._whence.remember(known)
        if known is not None and known.switch is not None and known.switch.side == WRITES:
            self._writing.switched(known, self._shown.paused)
        self._shown.waiting = self._writing.tend()

    # -- the process -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise BridgeError("this log was opened by another process", hint="open it after the fork")
        if self._closed:
            raise BridgeError("this log is closed")

    def let_go(self) -> None:
        """Closes in a forked child the file locks that a component's log inherited, so only the parent has them."""
        self._bookmark.close()
        if self._among is None:
            os.close(self._slot)

    def close(self) -> None:
        """Closes a component's log: messages that wait for Redis stay on disk for the component's next log."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        if self._among is None:
            self.coordinator.stop()
        self._writing.close()
        if not self._following:
            self._bookmark.close()
        self._shared.close()
        if self._among is None:
            OPEN.discard(self)  # another file may get its descriptors' numbers
            os.close(self._slot)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
