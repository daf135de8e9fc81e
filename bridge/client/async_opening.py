"""Opens the log of an asyncio component: `async with bridge.aio.open_log(…)`, or `await` it and close it oneself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from bridge.client import opening
from bridge.client.async_log import AsyncLog, AsyncLogSet, in_loop
from bridge.client.component_log import CLAIM_MS, MOST_DELIVERIES, Log
from bridge.client.rotation import NEVER, Rotation
from bridge.client.worker_thread import WorkerThread

A = TypeVar("A", AsyncLog, AsyncLogSet)


class Opening(Awaitable[A], Generic[A]):
    """The opening of a component's log for asyncio, to be awaited, or used with `async with`."""

    def __init__(self, component: str, options: dict[str, Any]) -> None:
        self._component, self._options = component, options
        self._opened: A | None = None

    def __await__(self) -> Generator[Any, None, A]:
        return self._open().__await__()

    async def __aenter__(self) -> A:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _open(self) -> A:
        options = self._options | {"on_state": in_loop(self._options["on_state"])}
        writer = WorkerThread(f"bridge {self._component} writes")
        try:
            make = partial(opening.open_log, component=self._component, **options)
            log = await writer.do(make, lambda opened: opened.close())
        except BaseException:
            writer.end()
            raise
        reader = WorkerThread(f"bridge {self._component} reads")
        made: Any = AsyncLog(log, writer, reader) if isinstance(log, Log) else AsyncLogSet(log, writer, reader)
        return made  # type: ignore[no-any-return]


@overload
def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str | datetime | int = "beginning", on_state: Callable[[str], object] | None = None,
    claim_after: float = CLAIM_MS / 1000, set_aside_after: int = MOST_DELIVERIES,
    streams: None = None, rotation: Rotation = ..., durable: bool = False,
) -> Opening[AsyncLog]: ...  # fmt: skip


@overload
def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str | datetime | int = "beginning", on_state: Callable[[str], object] | None = None,
    claim_after: float = CLAIM_MS / 1000, set_aside_after: int = MOST_DELIVERIES,
    streams: str | Sequence[str],
) -> Opening[AsyncLogSet]: ...  # fmt: skip


def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str | datetime | int = "beginning", on_state: Callable[[str], object] | None = None,
    claim_after: float = CLAIM_MS / 1000, set_aside_after: int = MOST_DELIVERIES,
    streams: str | Sequence[str] | None = None, rotation: Rotation = NEVER,
    durable: bool = False,
) -> Opening[AsyncLog] | Opening[AsyncLogSet]:  # fmt: skip
    """Opens a mapping's log for an asyncio component, as `bridge.open_log` does for any other.

    `async with` it, or `await` it. `on_state` is called in the event loop that opened it. Raises ConfigError when it is
    awaited.
    """
    options = {"mapping": mapping, "config": config, "redis": redis, "start": start, "on_state": on_state,
               "claim_after": claim_after, "set_aside_after": set_aside_after, "streams": streams,
               "rotation": rotation, "durable": durable}  # fmt: skip
    return Opening(component, options)
