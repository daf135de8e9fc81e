"""A thread that does one call after another for coroutines, so that no event loop waits for a disk or for Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from bridge.core.errors import BridgeError

T = TypeVar("T")


class WorkerThread:
    """A daemon thread that does the calls given to it, in their order. Any thread and any event loop may give some."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._ended = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the call
                future.set_exception(error)
            del future, call, given  # what a call gave must not live on in a thread that waits

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """Gives the worker thread a call, and returns the future of its result. Raises BridgeError: it has ended."""
        if self._ended:
            raise BridgeError("this log is closed")
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    async def do(self, call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Does a call in the worker thread, and returns its result or raises its error.

        Cancelled before the call began, it is never done; after that, the cancellation waits until the call is over:
        nothing is under way any more when CancelledError is raised. `undo` is then done with what the call returned.
        """
        future = self.begin(call)
        try:
            await ended(future)
        except asyncio.CancelledError:
            if not future.cancel():
                with suppress(asyncio.CancelledError):
                    await at_last(future)
                if undo is not None and future.exception() is None:
                    with suppress(asyncio.CancelledError):
                        await at_last(self.begin(partial(undo, future.result())))
            raise
        return future.result()

    def end(self) -> None:
        """Ends the worker thread, when all calls that were given to it are done."""
        self._ended = True
        self._calls.put(None)
        self._thread.join()


async def ended(future: Future[Any]) -> None:
    """Waits until a worker thread's future is done. The future goes on if the waiting is cancelled."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def tell() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell)

    future.add_done_callback(wake)
    await waiter


async def at_last(future: Future[Any]) -> None:
    """Waits until a worker thread's future is done, whoever cancels the waiting; then raises the cancellation."""
    cancelled = False
    while not future.done():
        try:
            await ended(future)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
