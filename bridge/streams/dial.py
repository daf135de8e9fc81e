"""Dials Redis for the bridge, by url, through Sentinels or as the embedded server, and backs off between tries."""

from __future__ import annotations

import random
from collections.abc import Callable

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


def dialler(settings: Settings, *, timeout: float = 5.0, may_start: bool = True) -> Callable[[], Connection]:
    """Returns the function by which the bridge dials Redis: by url, through Sentinels, or the embedded one.

    The embedded server is started if it never was, and again if it died; but not for a command that only looks
    (`may_start` is False), which gets RedisLost.
    """

    budget = EntryBudget()
    address = sentinel_address(settings.redis_url)
    sentinels = Sentinels(address, settings.sentinel_login, timeout=timeout) if address is not None else None

    def dial() -> Connection:
        if settings.redis_url == "embedded":
            if not may_start and not embedded_server.running(settings.state_dir):
                raise RedisLost("the embedded server does not run", hint="`bridge server start`")
            connection = embedded_server.dial(settings.state_dir, timeout, budget)
        elif sentinels is not None:
            connection = sentinels.dial(budget)
        else:
            connection = Connection(settings.redis_url, timeout=timeout, budget=budget)
        try:
            budget.met(connection)
        except RedisLost:
            connection.close()
            raise
        return connection

    return dial
