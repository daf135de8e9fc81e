"""Dials Redis for the bridge, by url, through Sentinels or as the embedded server, and backs off between tries."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from bridge.core.config import Settings
from bridge.core.errors import RedisLost
from bridge.core.server_address import sentinel_address
from bridge.streams.connect import Connection, EntryBudget
from bridge.streams.embedded import embedded_server
from bridge.streams.sentinel import Sentinels


class Backoff:
    """Exponential backoff with jitter between tries to reach Redis, from 50 ms to 5 s."""

    def __init__(self, first: float = 0.05, most: float = 5.0) -> None:
        self._first, self._most, self._tries = first, most, 0

    def next(self) -> float:
        """Returns the seconds to back off before the next try, which grow with each call."""
        wait = min(self._most, self._first * 2 ** min(self._tries, 16))
        self._tries += 1
        return float(wait * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        """Sets the backoff to its shortest time again, after a try that worked."""
        self._tries = 0


def url_dialler(
    url: str, sentinel_login: str = "", *, timeout: float = 5.0, budget: EntryBudget | None = None
) -> Callable[[], Connection]:  # fmt: skip
    """Returns the function that dials the Redis server of a url, or the master that the url's Sentinels name."""
    address = sentinel_address(url)
    if address is not None:
        return partial(Sentinels(address, sentinel_login, timeout=timeout).dial, budget)
    return partial(Connection, url, timeout=timeout, budget=budget)


def dialler(settings: Settings, *, timeout: float = 5.0, may_start: bool = True) -> Callable[[], Connection]:
    """Returns the function by which the bridge dials Redis: by url, through Sentinels, or the embedded one.

    The embedded server is started if it never was, and again if it died; but not for a command that only looks
    (`may_start` is False), which gets RedisLost.
    """

    budget = EntryBudget()
    dial_url = url_dialler(settings.redis_url, settings.sentinel_login, timeout=timeout, budget=budget)

    def dial() -> Connection:
        if settings.redis_url == "embedded":
            if not may_start and not embedded_server.running(settings.state_dir):
                raise RedisLost("the embedded server does not run", hint="`bridge server start`")
            connection = embedded_server.dial(settings.state_dir, timeout, budget)
        else:
            connection = dial_url()
        try:
            budget.met(connection)
        except RedisLost:
            connection.close()
            raise
        return connection

    return dial
