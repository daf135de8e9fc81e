"""Dials Redis for the bridge, by url, through Sentinels, as a cluster's node or as the embedded server.

It backs off between tries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

from redis.crc import key_slot

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, RedisLost
from bridge.core.server_address import cluster_address, sentinel_address
from bridge.streams.cluster import Cluster, Node, SlotRange
from bridge.streams.connect import Connection
from bridge.streams.connector import Connector
from bridge.streams.embedded import embedded_server
from bridge.streams.entry_budget import EntryBudget
from bridge.streams.sentinel import Sentinels


class Backoff:
    """Exponential backoff with jitter between tries to reach Redis, from 50 ms to 5 s."""

    def __init__(self, first: float = 0.05, most: float = 5.0) -> None:
        self._first, self._most, self._tries = first, most, 0

    def next(self) -> float:
        """Returns the seconds to back off before the next try to reach Redis, which grow with each call."""
        wait = min(self._most, self._first * 2 ** min(self._tries, 16))
        self._tries += 1
        return float(wait * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        """Sets the time to back off before a try to reach Redis to the shortest again, after a try that worked."""
        self._tries = 0


def url_dialler(
    url: str, key: bytes, sentinel_login: str = "", connect: Connector | None = None
) -> Callable[[], Connection]:
    """Returns the function that dials, by a url, the Redis server that serves a key.

    That is the server of the url, the master that the url's Sentinels name, or the node that the url's cluster names.
    """
    connect = connect or Connector()
    address = sentinel_address(url)
    if address is not None:
        return Sentinels(address, sentinel_login, connect).dial
    cluster = cluster_address(url)
    if cluster is not None:
        return partial(Cluster(cluster, connect).dial, key)
    return partial(connect, url)


def dialler(
    settings: Settings, key: str | bytes, *, timeout: float = 5.0, may_start: bool = True,
    budget: EntryBudget | None = None,
) -> Callable[[], Connection]:  # fmt: skip
    """Returns the function by which the bridge dials the Redis server of a key: by url, or the embedded one.

    The key is a stream's, and serves for all that the bridge keeps of that stream. The embedded server is started if
    it never was, and again if it died; but not for a command that only looks (`may_start` is False), which gets
    RedisLost. `budget` bounds the pages of entries of all its connections; by default one of its own does.
    """

    budget = budget or EntryBudget()
    name = key.encode() if isinstance(key, str) else key
    connect = Connector.of(settings, timeout=timeout, budget=budget)
    dial_url = url_dialler(settings.redis_url, name, settings.sentinel_login, connect)

    def dial() -> Connection:
        if settings.redis_url == "embedded":
            if not may_start and not embedded_server.running(settings.home):
                raise RedisLost("the embedded server does not run", hint="`bridge server start`")
            connection = embedded_server.dial(settings.home, timeout, budget)
        else:
            connection = dial_url()
        try:
            budget.met(connection.call)
        except RedisLost:
            connection.close()
            raise
        return connection

    return dial


class Connections:
    """The connections of a command that looks at several streams: one to each server that serves any of them.

    `budget` bounds the pages of entries of all of them, also of those that came before; by default one of their own.
    Where there is one server, all streams are looked at over one connection. `close` closes all.
    """

    def __init__(
        self, settings: Settings, *, timeout: float = 5.0, may_start: bool = True, budget: EntryBudget | None = None
    ) -> None:
        self._settings, self._timeout, self._may_start = settings, timeout, may_start
        self._cluster = cluster_of(settings, timeout=timeout)
        self._slots: list[SlotRange] | None = None
        self._open: dict[Node | None, Connection] = {}
        self._lent: list[Connection] = []
        self._budget = budget or EntryBudget()
        self._ended = False

    def to(self, key: str | bytes) -> Connection:
        """Returns a command's connection to the Redis server of a key, a new one where there is none yet.

        Raises RedisLost, RedisRefused.
        """
        node = self._node(key_slot(key.encode() if isinstance(key, str) else key))
        if node not in self._open:
            self._open[node] = dialler(
                self._settings, key, timeout=self._timeout, may_start=self._may_start, budget=self._budget
            )()
        return self._open[node]

    def lending(self, key: str | bytes) -> Callable[[], Connection]:
        """Returns the function that dials the Redis server of a key, or lends a connection again that was closed.

        For a command that looks at thousands of streams, one after another, and closes what it was lent once, when it
        needs it no more. In a cluster it always dials.
        """
        dial = dialler(self._settings, key, timeout=self._timeout, may_start=self._may_start, budget=self._budget)
        if self._cluster is not None:
            return dial

        def lend() -> Connection:
            while self._lent:
                if (connection := self._lent.pop()).be_as_new():
                    break
                connection.hang_up()
            else:
                connection = dial()
            connection.give_back = self._take_back
            self._budget.met(connection.call)  # another one may have been lost in reading a page
            return connection

        return lend

    def _take_back(self, connection: Connection) -> bool:
        if self._ended:
            return False
        self._lent.append(connection)
        return True

    def another(self, key: str | bytes) -> Connection:
        """Dials a key's Redis server anew: the caller closes the connection. Raises RedisLost, RedisRefused."""
        return dialler(self._settings, key, timeout=self._timeout, may_start=self._may_start)()

    def reach(self, keys: Iterable[str]) -> tuple[dict[str, Connection], dict[str, BridgeError]]:
        """Returns a connection to the Redis server of each key whose server is there, and the error of each other key.

        Raises RedisLost, RedisRefused where no server of any key is there.
        """
        found: dict[str, Connection] = {}
        errors: dict[str, BridgeError] = {}
        for key in keys:
            try:
                found[key] = self.to(key)
            except BridgeError as error:
                errors[key] = error
        if errors and not found:
            raise next(iter(errors.values()))
        return found, errors

    def everywhere(self, key: str) -> list[Connection]:
        """Returns a connection to each server that may hold keys: all masters of a cluster; else the one server.

        `key` is any stream's. Raises RedisLost, RedisRefused.
        """
        if self._cluster is None:
            return [self.to(key)]
        self._node(0)
        if any(part.master is None for part in self._slots or ()):
            raise RedisLost("some slots of the cluster have no master", hint="`bridge doctor` tells of its nodes")
        masters = dict.fromkeys(part.master for part in self._slots or () if part.master is not None)
        for master in masters:
            if master not in self._open:
                self._open[master] = self._cluster.dial_node(master)
        return [self._open[master] for master in masters]

    def _node(self, slot: int) -> Node | None:
        """Returns the master of a slot, as the cluster named it at the first look; None where there is no cluster."""
        if self._cluster is None:
            return None
        if self._slots is None:
            self._slots = self._cluster.slots()
        return next((part.master for part in self._slots if part.first <= slot <= part.last), None)

    def close(self) -> None:
        """Closes all connections to Redis of the command that looks at several streams."""
        self._ended = True
        for connection in [*self._open.values(), *self._lent]:
            connection.hang_up()
        self._open.clear()
        self._lent.clear()


def cluster_of(settings: Settings, *, timeout: float = 5.0) -> Cluster | None:
    """Returns the cluster that the url of bridge.toml names; None: it names none."""
    address = cluster_address(settings.redis_url)
    return None if address is None else Cluster(address, Connector.of(settings, timeout=timeout))
