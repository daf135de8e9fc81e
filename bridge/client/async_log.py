"""A component's log for asyncio: the log of `open_log`, of which worker threads do what waits for disk or Redis.

One thread reads and one writes, each for one log, so that messages keep their order. All else - the switch, the outbox,
the position, what is given twice - is the log's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from collections.abc import Mapping as MappingType
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from functools import partial
from threading import Event
from typing import Any, Generic, Self, TypeVar

from bridge.client.component_log import Log
from bridge.client.log_set import LogSet
from bridge.client.message import Message
from bridge.client.worker_thread import WorkerThread, at_last, ended
from bridge.core.errors import BridgeError

L = TypeVar("L", Log, LogSet)


class AsyncFollower(AsyncIterator[Message]):
    """The messages of a component's log for one `async for`: those of `follow`, which a worker thread asks for.

    Cancelled while it waits, it can be asked again, and nothing is lost. `aclose` ends it, and so does the end of
    `async with`; what it had fetched by then and nobody was given comes again, as new.
    """

    def __init__(
        self, log: Log | LogSet, thread: WorkerThread, make: Callable[[Event], Generator[Message]],
        before: AsyncFollower | None,
    ) -> None:  # fmt: skip
        self._log, self._thread, self._before = log, thread, before
        self._stop = Event()
        self._messages = make(self._stop)
        self._next: Future[Message | None] | None = None
        self._asked = self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Gives the next message of a component's log, and so acknowledges the one before. Raises as `Log.follow`."""
        if self._asked:
            raise BridgeError("the next message is asked for already", hint="one task at a time reads a follower")
        if self._over:
            raise StopAsyncIteration
        self._asked = True
        try:
            if self._before is not None:
                await self._before.aclose()
                self._before = None
            self._next = self._next or self._thread.begin(lambda: next(self._messages, None))
            await ended(self._next)
        finally:
            self._asked = False
        future, self._next = self._next, None
        if (message := future.result()) is None:
            self._over = True
            raise StopAsyncIteration
        return message

    @property
    def waits(self) -> bool:
        """Whether a task waits for the next message of a component's log."""
        return self._asked

    async def acknowledge(self) -> None:
        """Acknowledges the message that was given last, before the next one is asked for."""
        if self._next is None and not self._over:  # who asked for the next one has acknowledged the one before
            await self._thread.do(self._log.acknowledge)

    async def aclose(self) -> None:
        """Ends the following of a component's log; a message that is not acknowledged comes again at the next."""
        if not self._over:
            self._over = True
            self._stop.set()
            self._log.nudge()
            ending = self._thread.begin(partial(self._end, self._next if not self._asked else None))
            await at_last(ending)
            ending.result()

    def _end(self, unmet: Future[Message | None] | None) -> None:
        """Ends a follower's loop over messages, in its worker thread, and takes back what nobody was given."""
        if unmet is not None and unmet.exception() is None and unmet.result() is not None:
            self._log.withdraw()
        self._messages.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Base(Generic[L]):
    """What the logs of asyncio have in common. Any event loop may append, follow and close."""

    def __init__(self, log: L, writer: WorkerThread, reader: WorkerThread) -> None:
        self._log: L = log
        self._writer, self._reader = writer, reader
        self._follower: AsyncFollower | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def component(self) -> str:
        """The name of the component whose log this is."""
        return self._log.component

    @property
    def state(self) -> str:
        """The state of the log's connection to Redis: "connecting", "connected", "reconnecting", "closed"."""
        return self._log.state

    def _follow(self, make: Callable[[Event], Generator[Message]]) -> AsyncFollower:
        if self._follower is not None and self._follower.waits:
            raise BridgeError("this log is followed already", hint="open another one for another reader")
        self._follower = AsyncFollower(self._log, self._reader, make, self._follower)
        return self._follower

    def stop(self) -> None:
        """Ends `follow` for good, from any thread or a signal handler, when the message in hand is done."""
        self._log.stop()

    async def acknowledge(self) -> None:
        """Acknowledges the message that the log gave last, before the next one is asked for."""
        if self._follower is not None:
            await self._follower.acknowledge()

    async def close(self) -> None:
        """Closes the log, when what it was asked to append is appended, and ends its threads.

        Messages that wait for Redis stay on disk for the component's next log. A cancellation waits for the end.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        cancelled = False
        while not self._closing.done():
            try:
                await asyncio.shield(self._closing)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        if not self._closing.cancelled():  # else the loop ended meanwhile: the log is closed all the same
            self._closing.result()

    async def _close(self) -> None:
        try:
            if self._follower is not None:
                await self._follower.aclose()
        finally:
            closing = self._writer.begin(self._log.close)
            try:
                await at_last(closing)
            finally:
                self._reader.end()
                self._writer.end()
        closing.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncLog(_Base[Log]):
    """One component's log of one mapping for asyncio: a `Log` of which threads of its own do the work."""

    @property
    def reads(self) -> str:
        """The side that the log reads now, "file" or "redis"; empty while unknown or nobody follows."""
        return self._log.reads

    @property
    def writes(self) -> str:
        """The side to which the log appends messages: "file", "redis", or "both" in dual write."""
        return self._log.writes

    async def append(self, type: str, data: str | bytes, *, role: str | None = None, timestamp: str | None = None,
                     durable: bool = False, **fields: str | bytes) -> None:  # fmt: skip
        """Appends a message, as `Log.append` does.

        A cancelled call has appended it whole or not at all, and is over when CancelledError is raised.
        """
        await self._writer.do(
            lambda: self._log.append(type, data, role=role, timestamp=timestamp, durable=durable, **fields)
        )

    async def append_line(self, line: bytes, *, role: str | None = None, durable: bool = False) -> None:
        """Appends a message that is given as its line, as `Log.append_line` does."""
        await self._writer.do(lambda: self._log.append_line(line, role=role, durable=durable))

    async def append_json(
        self, value: MappingType[str, Any], *, role: str | None = None, durable: bool = False
    ) -> None:
        """Appends a message that is given as its JSON object, as `Log.append_json` does."""
        await self._writer.do(lambda: self._log.append_json(value, role=role, durable=durable))

    def follow(
        self, *, since: datetime | str | float | None = None, idle: float | None = None, timeout: float | None = None
    ) -> AsyncFollower:
        """Follows the log: an `async for` over it is given what `Log.follow` yields.

        A message is acknowledged when the next one is asked for. Another call ends the one before.
        """
        return self._follow(lambda stop: self._log.follow(since=since, idle=idle, timeout=timeout, stop=stop))


class AsyncLogSet(_Base[LogSet]):
    """One component's logs of several streams for asyncio: a `LogSet` of which threads of its own do the work."""

    @property
    def streams(self) -> list[str]:
        """The names of the streams that the component reads in one loop, as far as they are known by now."""
        return self._log.streams

    def reads(self, stream: str) -> str:
        """The side that the component reads a stream from now, "file" or "redis"; empty while nobody follows."""
        return self._log.reads(stream)

    async def append(self, type: str, data: str | bytes, *, stream: str, role: str | None = None,
                     timestamp: str | None = None, durable: bool = False, **fields: str | bytes) -> None:  # fmt: skip
        """Appends a message to a stream's log, as `AsyncLog.append` does."""
        await self._writer.do(
            lambda: self._log.append(
                type, data, stream=stream, role=role, timestamp=timestamp, durable=durable, **fields
            )
        )

    async def append_line(self, line: bytes, *, stream: str, role: str | None = None) -> None:
        """Appends a message that is given as its line to a stream's log, as `Log.append_line` does."""
        await self._writer.do(lambda: self._log.append_line(line, stream=stream, role=role))

    async def append_json(self, value: MappingType[str, Any], *, stream: str, role: str | None = None) -> None:
        """Appends a message that is given as its JSON object to a stream's log, as `Log.append_json` does."""
        await self._writer.do(lambda: self._log.append_json(value, stream=stream, role=role))

    def follow(self, *, idle: float | None = None, timeout: float | None = None) -> AsyncFollower:
        """Follows all streams in one loop: an `async for` over it is given what `LogSet.follow` yields."""
        return self._follow(lambda stop: self._log.follow(idle=idle, timeout=timeout, stop=stop))


def in_loop(on_state: Callable[[str], object] | None) -> Callable[[str], object] | None:
    """Makes of a component's function for states one that is called in the event loop that runs now."""
    if on_state is None:
        return None
    loop = asyncio.get_running_loop()

    def call(state: str) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(on_state, state)

    return call
