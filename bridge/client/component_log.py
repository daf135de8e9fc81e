"""A component's log, as `open_log` returns it: reads and appends messages in files or Redis, as it is switched."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from collections.abc import Mapping as MappingType
from datetime import datetime
from threading import Event
from types import TracebackType
from typing import Any

from bridge.client.bookmark import Bookmark
from bridge.client.carried_still import FileVoucher
from bridge.client.component_reader import ComponentReader, Delivery
from bridge.client.composing import Composer, Values
from bridge.client.coordinator import Coordinator, WorkerStatus
from bridge.client.following import Ending
from bridge.client.forked import OPEN
from bridge.client.group_reader import GROUP_BLOCK_MS
from bridge.client.message import Message
from bridge.client.read_routing import ReadRouting
from bridge.client.read_side import worker_slot
from bridge.client.replay import milliseconds
from bridge.client.rotation import NEVER, Rotation
from bridge.client.shared_worker import Among
from bridge.client.start import BEGINNING, Start
from bridge.client.write_routing import WriteRouting
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ConfigError, NotYet, RedisLost, RedisRefused
from bridge.core.mapping import Mapping
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.components import FILE, READS, WRITES, ComponentModes
from bridge.streams.dial import Backoff, dialler

IDLE_PAUSE = 0.02
"""Seconds between two looks at files that hold nothing new."""

CLAIM_MS = 60_000
MOST_DELIVERIES = 10


class Log:
    """One component's log of one mapping: `follow` reads its messages, `append` writes new messages.

    `append` may be called by any thread, `follow` by one at a time. A log belongs to the process that opened it: a
    process that was forked opens its own.
    """

    def __init__(
        self, settings: Settings, mapping: Mapping, component: str, *, start: Start = BEGINNING,
        on_state: Callable[[str], object] | None = None, claim_ms: int = CLAIM_MS, most: int = MOST_DELIVERIES,
        among: Among | None = None, rotation: Rotation = NEVER, durable: bool = False,
    ) -> None:  # fmt: skip
        if not mapping.kind.lines:
            kind = mapping.source.kind
            raise ConfigError(f"mapping '{mapping.name}' is of kind '{kind}', and open_log is for logs")
        self.component = component
        self._closed = self._stopped = False
        self._durable = durable
        self._settings = settings
        self._mapping = mapping
        self._shared = MappingContext(mapping, settings)
        self._pid = os.getpid()
        self._folder = settings.home / "components" / component
        bookmark = Bookmark(settings.home, component, mapping.name)
        self._dial = dialler(settings, mapping.stream.key, may_start=False)
        self._among = among
        number, self._slot = worker_slot(self._folder) if among is None else among.slot
        self._shown = WorkerStatus(f"{settings.instance}-{number}")
        marks = Bookmark(settings.home, component, mapping.name).load()
        vouched = FileVoucher(self._shared)
        most_known = vouched.known(marks)
        if among is not None and not marks.begun and not marks.places and most_known.epoch < among.modes.epoch:
            most_known = among.modes  # of a stream that it never met it knows what holds for all of them
        self._writing = WriteRouting(self._shared, component, self._folder, self._dial, most_known, vouched,
                                lambda: self.coordinator.unheard, rotation)  # fmt: skip
        self.coordinator = Coordinator(
            self._shared.components, component, self._dial if among is None else among.dial, most_known, self._shown,
            self._switched, self._work, on_state or (lambda state: None), vouched.dead,
        )  # fmt: skip
        whence = ReadRouting(self._shared, settings, component, bookmark, self.coordinator, self._dial, vouched, start)
        delivery = Delivery(start, claim_ms, most, GROUP_BLOCK_MS if among is None else 0)
        self.reader = ComponentReader(self._shared, component, self._folder, bookmark, self.coordinator, whence,
                                      self._dial, delivery, lambda: self._closed)  # fmt: skip
        self._shown.position = self.reader.position
        self._composer = Composer(mapping, settings, component)
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
               durable: bool = False, **fields: str | bytes) -> None:  # fmt: skip
        """Appends a message to the log; on return the message is in the file, the stream, or on disk on its way there.

        `role`: the component's, where it has one alone in bridge.toml; `timestamp`: now. `durable`: on return it is on
        disk in any case, this machine's or the server's, or on the replicas that bridge.toml waits for. Raises
        TargetError, ConfigError, BridgeError: the message is nowhere; Unfit: the server cannot say what is on its disk.
        """
        self._append(*self._composer.message(type, data, role, timestamp, fields), durable=durable)

    def append_line(self, line: bytes, *, role: str | None = None, durable: bool = False) -> None:
        """Appends a message that is given as its line, a newline behind it or none, as `append` does.

        `role`: where the line does not tell it and the component has several. Raises as `append`.
        """
        self._append(*self._composer.line(line, role), durable=durable)

    def append_json(self, value: MappingType[str, Any], *, role: str | None = None, durable: bool = False) -> None:
        """Appends a message that is given as its JSON object, as `append` does, to a log of JSON lines.

        Time and role are put in where the mapping looks for them and the object has none. Raises as `append`.
        """
        self._append(*self._composer.json(value, role), durable=durable)

    def append_text(self, type: str, text: str, *, role: str, moment: datetime) -> None:
        """Appends a message of any text, of several lines too, in the form of the log's mapping, as `append` does.

        `moment`: its time, with a time zone. Raises as `append`.
        """
        self._append(*self._composer.text(type, text, role, moment))

    def _append(self, role: str, values: Values, *, durable: bool = False) -> None:
        self._check()
        self.coordinator.wait_first()
        self._writing.append(role, values, durable=durable or self._durable)

    # -- reading ---------------------------------------------------------------------------------------------

    def follow(
        self, *, since: datetime | str | float | None = None, idle: float | None = None, timeout: float | None = None,
        stop: Event | None = None,
    ) -> Generator[Message, None, None]:  # fmt: skip
        """Yields the messages of a component's log as they come, for ever, or until it ends.

        It ends when none came for `idle` seconds, `timeout` seconds after its beginning, when `stop` is set, and when
        the log is stopped or closed: with the message in hand, within a fifth of a second. `since`: messages of that
        time and later that the component has read already come first, marked as redelivered. A message is acknowledged
        when the next one is asked for. A caller that leaves the loop before gets the last one again, unless
        `acknowledge` is called. Raises BridgeError; what waits for Redis or for a file does not.
        """
        self._check()
        ending = Ending(lambda: self._closed or self._stopped, stop, idle, timeout)
        with self.reader.one_follower():
            if since is not None:
                for message in self.reader.again(milliseconds(since)):
                    yield message
                    if ending.is_due():
                        return
            pause = Backoff(0.02, 2.0)
            try:
                while not ending.is_due():
                    try:
                        self._pause(ending)
                        for message in self.reader.turn():
                            yield message
                            self.reader.acknowledge()
                            ending.met()
                            if ending.is_due():
                                return
                        if self._shown.reads == FILE and ending.quiet >= IDLE_PAUSE:
                            self._rest(IDLE_PAUSE)
                        pause.reset()
                    except (RedisLost, RedisRefused, NotYet) as error:
                        self.reader.stumble(error)
                        self._rest(ending.at_most(pause.next()))
                    if ending.is_idle():
                        return
            finally:
                self.reader.leave()
                self.reader.confirm()

    def acknowledge(self) -> None:
        """Acknowledges the message that the component's log gave last: the component is done with it."""
        self.reader.acknowledge()

    def withdraw(self) -> None:
        """Takes back the message that the log gave last, as the component has not met it: it comes again, as new.

        To be called before `follow` is left.
        """
        self.reader.withdraw()

    def stop(self) -> None:
        """Ends `follow` for good, from any thread or a signal handler, when the message in hand is done.

        What was fetched and not given comes again, as new. Messages may be appended still.
        """
        self._stopped = True
        self.nudge()

    def nudge(self) -> None:
        """Makes whoever follows the component's log look at once whether to end."""
        with self.coordinator.turn:
            self.coordinator.turn.notify_all()

    def _rest(self, seconds: float) -> None:
        with self.coordinator.turn:
            self.coordinator.turn.wait(seconds)

    def _pause(self, ending: Ending) -> None:
        """Pauses the component's log for a switch, until that is done, given up or lapsed, or until following ends."""
        if self.reader.pauses():
            self.reader.leave()
            while not ending.is_due() and self.reader.pauses():
                self._rest(ending.at_most(1.0))

    # -- for the coordinator ---------------------------------------------------------------------------------

    def _switched(self, modes: ComponentModes) -> None:
        switch = modes.switch
        if switch is not None and switch.side == READS and not self.reader.following:
            self._shown.paused[READS] = switch.token
        elif switch is None and not self.reader.following:
            self._shown.paused.pop(READS, None)
        self._writing.switched(modes, self._shown.paused)

    def _work(self) -> None:
        known = self.coordinator.known
        if known is not None:
            self.reader.whence.remember(known)
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
        self.reader.bookmark.close()
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
        if not self.reader.following:
            self.reader.bookmark.close()
        self._shared.close()
        if self._among is None:
            OPEN.discard(self)  # another file may get its descriptors' numbers
            os.close(self._slot)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
