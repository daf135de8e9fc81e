"""The reader of a component's log: takes messages from the side that is switched, and gives them one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from bridge.client.bookmark import Bookmark
from bridge.client.coordinator import Coordinator
from bridge.client.group_reader import GROUP_BLOCK_MS
from bridge.client.message import Message
from bridge.client.read_routing import ReadRouting
from bridge.client.read_side import FileSide, GroupSide, InFlight, ReadSide
from bridge.client.replay import from_files, from_stream
from bridge.client.start import Start
from bridge.core.errors import BridgeError
from bridge.core.logger import logger
from bridge.core.model import format_id
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.components import FILE, READS, REDIS, ComponentModes, SwitchInProgress
from bridge.streams.connect import Connection


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a component's reader delivers, and what becomes of what nobody acknowledges.

    `start`: from where at the first start; `claim_ms`: milliseconds after which another worker's message is taken over;
    `most`: deliveries after which it is set aside; `block_ms`: how long a request for new entries waits for some.
    """

    start: Start
    claim_ms: int
    most: int
    block_ms: int = GROUP_BLOCK_MS


@dataclass(slots=True)
class _Given:
    """The message that a component's reader gave last, which is not acknowledged: its read side and its token there."""

    side: ReadSide
    token: object


class ComponentReader:
    """The reader of one component's log of one stream; for one thread, but for what says otherwise.

    `closed` tells whether the log was closed.
    """

    def __init__(
        self, shared: MappingContext, component: str, folder: Path, bookmark: Bookmark, coordinator: Coordinator,
        whence: ReadRouting, dial: Callable[[], Connection], delivery: Delivery, closed: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.component = component
        self.bookmark = bookmark
        self.whence = whence
        self.following = False
        """Whether somebody follows the log."""
        self._shared = shared
        self._folder = folder
        self._coordinator = coordinator
        self._shown = coordinator.shown
        self._dial = dial
        self._delivery = delivery
        self._closed = closed
        self._pid = os.getpid()
        self._lock = RLock()
        self._hand = InFlight()
        self._given: _Given | None = None
        self._side: ReadSide | None = None
        self._why = ""

    def turn(self) -> Generator[Message, None, None]:
        """Yields the messages of a component's log that are there now; none while a switch is under way.

        Whoever asks for the next acknowledges the one before. Raises RedisLost, RedisRefused, NotYet: then `stumble`.
        """
        if self._asked() is not None:
            self.leave()
            return
        modes = self.whence.modes()
        side = self._side_of(modes)
        found, self._why = self._taken(side), ""
        for message, token in found:
            if self._asked() is not None or self._turned(modes) or self._closed():
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
            self.whence.begun()
        return found

    def stumble(self, error: BridgeError) -> None:
        """Leaves the side that a component's log reads after an error of `turn`, and logs why, once for each reason."""
        if str(error) != self._why:
            logger.warning("%s reads nothing for now: %s", self.component, error)
        self._why = str(error)
        self.leave()

    def acknowledge(self) -> None:
        """Acknowledges the message that the component's log gave last: the component is done with it."""
        given, self._given = self._given, None
        if given is not None:
            with self._lock:
                given.side.done(given.token)

    def withdraw(self) -> None:
        """Takes back the message that the log gave last, as the component has not met it: it comes again, as new.

        To be called before `follow` is left.
        """
        given, self._given = self._given, None
        if given is not None:
            with self._lock:
                given.side.withdrawn(given.token)

    def again(self, since_ms: int) -> Iterator[Message]:
        """Yields once more the messages of a component's log that were read already, from the time `since_ms` on."""
        modes = self.whence.awaited()
        if modes.reads == FILE:
            yield from from_files(self._shared, self.bookmark.marks, since_ms, time.time)
            return
        connection = self._dial()
        try:
            yield from from_stream(connection, self._shared.keys.stream, self.component, since_ms)
        finally:
            connection.close()

    @contextmanager
    def one_follower(self) -> Iterator[None]:
        """Keeps a component's reader for one follower while the block runs. Raises BridgeError: there is another."""
        self.begin_to_follow()
        try:
            yield
        finally:
            self.end_to_follow()

    def begin_to_follow(self) -> None:
        """Notes that the component's log is followed from here on. Raises BridgeError: it is already."""
        with self._lock:
            if self.following:
                raise BridgeError("this log is followed already", hint="open another one for another reader")
            self.following = self._shown.following = True

    def end_to_follow(self) -> None:
        """Notes in a component's reader that nobody follows its log any more, and frees the component's bookmark."""
        self.following = self._shown.following = False
        self._shown.reads = ""
        if os.getpid() == self._pid:
            self.bookmark.close()
            self._coordinator.wake()

    def _asked(self) -> SwitchInProgress | None:
        """The switch of reads for which this component's log has to pause; None where there is none."""
        known = self._coordinator.known
        return known.switch if known is not None and known.switch is not None and known.switch.side == READS else None

    def _turned(self, modes: ComponentModes) -> bool:
        """Whether a switch was made since the log read the component's `modes`: begun and ended between two looks."""
        known = self._coordinator.known
        return known is not None and known.epoch != modes.epoch

    def leave(self) -> None:
        """Closes the read side of a component's log in its own process; the bookmark stays locked for the next side."""
        side, self._side = self._side, None
        if side is not None and os.getpid() == self._pid:
            clean, self._given = self._given is None, None
            with self._lock:
                side.close(clean=clean)

    def pauses(self) -> bool:
        """Whether a switch is under way for which the component's log has to pause; the coordinator is told of it."""
        switch = self._asked()
        if switch is not None and self._shown.paused.get(READS) != switch.token:
            self.leave()
            marks = self.bookmark.marks
            if self.bookmark.locked:
                marks.doubt = switch.token
                self.bookmark.save()
            self._shown.paused[READS] = switch.token
            self._coordinator.wake()
        elif switch is None and self._shown.paused.pop(READS, None) is not None:
            self._coordinator.wake()
        return switch is not None

    # -- where to read ---------------------------------------------------------------------------------------

    def _side_of(self, modes: ComponentModes) -> ReadSide:
        """Returns the read side of a component's log for the given modes: the open one if it fits, else a new one."""
        if self._side is not None and self._side.name == modes.reads:
            return self._side
        self.leave()
        side: ReadSide
        if modes.reads == FILE:
            side = FileSide(self._shared, self.bookmark, time.time, self._delivery.start)
        else:
            connection = self._dial()
            side = GroupSide(
                connection, self._shared.keys.stream, self.component, self._shown.worker, self._delivery.claim_ms,
                self._delivery.most, self._folder / f"{self._shared.mapping.name}.aside", self._hand,
                self.whence.first_start(connection), self.whence.remedy(modes), self._delivery.block_ms,
            )  # fmt: skip
        self._side, self._shown.reads = side, side.name
        self._coordinator.wake()
        return side

    def position(self) -> dict[str, Any] | None:
        """Returns the component's position as its reader reports it: in files, or in Redis, where each worker does."""
        with self._lock:
            if self._shown.reads == REDIS and self._hand.last is not None:
                return {"epoch": self._shown.epoch, "entry": format_id(self._hand.last).decode()}
            if self._shown.reads != FILE or not self.bookmark.locked:  # the lock may be held only to write
                return None
            said = self.bookmark.marks.to_json()
            return {name: said[name] for name in ("epoch", "files", "entry", "aside", "unclean")}

    def confirm(self) -> None:
        """Sends once more what a component's reader acknowledged and Redis has not confirmed; in its own process."""
        if os.getpid() == self._pid:
            self._hand.confirm(self._dial, self._shared.keys.stream, self.component)
