"""Finds streams by a pattern of their keys (SCAN), some keys of a server at a time, so that it has time for others."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bridge.streams.connect import Connection
from bridge.streams.dial import Connections

SCANNED = 500
"""Keys that a server looks at in one SCAN."""


class StreamScan:
    """Finds the streams of which the key begins and ends so: round after round through all keys."""

    def __init__(self, before: str, behind: str) -> None:
        self._before, self._behind = before, behind
        self._pattern = "*".join(re.sub(r"([*?\[\]\\^-])", r"\\\1", part) for part in (before, behind))
        self._left: list[tuple[Connection, bytes]] = []

    def some(self, servers: Connections, times: int) -> Iterator[str]:
        """Scans Redis on, `times` times, from where the call before ended, and yields the keys of streams.

        A key may come more than once. Raises RedisLost, RedisRefused.
        """
        for _ in range(times):
            if not self._left:
                self._left = [(connection, b"0") for connection in servers.everywhere(self._before)]
            yield from self._next()

    def whole(self, servers: Connections) -> Iterator[str]:
        """Scans all keys of Redis once, and yields those of streams. Raises RedisLost, RedisRefused."""
        self._left = [(connection, b"0") for connection in servers.everywhere(self._before)]
        while self._left:
            yield from self._next()

    def begin_anew(self) -> None:
        """Begins the scan for streams anew, as the connections to the servers are other ones by now."""
        self._left = []

    def _next(self) -> Iterator[str]:
        connection, cursor = self._left.pop()
        cursor, keys = connection.call("SCAN", cursor, "MATCH", self._pattern, "COUNT", SCANNED, "TYPE", "stream")
        if cursor != b"0":
            self._left.append((connection, cursor))
        for key in keys:
            try:
                name = key.decode()
            except UnicodeDecodeError:
                continue
            long_enough = len(name) > len(self._before) + len(self._behind)
            if long_enough and name.startswith(self._before) and name.endswith(self._behind):
                yield name
