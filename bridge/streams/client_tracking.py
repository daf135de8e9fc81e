"""The server tells which keys were changed, by anybody, instead of being asked for each of them: client tracking."""

from __future__ import annotations

from bridge.streams.connect import Connection
from bridge.streams.resp import pack

ASKED = 1.0
"""Seconds between two questions whether the server is there still: it may close who is silent, or be gone unsaid."""


class ClientTracking:
    """Hears of every change of a key that begins with `prefix`, on a connection of its own, which it closes.

    Redis calls that client-side caching with broadcasts; the server keeps nothing for it but the prefix. It does not
    tell of SWAPDB, nor of what changed before. Raises RedisRefused where the server, or its rules, have no such thing.
    """

    def __init__(self, connection: Connection, prefix: bytes) -> None:
        self._connection = connection
        self._asked_at = 0.0
        try:
            connection.call("HELLO", 3)  # else a push could not be told from a reply
            connection.call("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
        except BaseException:
            connection.close()
            raise

    def changed(self, now: float) -> set[bytes] | None:
        """Returns the keys that were changed since it was asked last; None: any of them may be. Raises RedisLost."""
        found: set[bytes] | None = set()
        pushes = self._connection.pushes()
        if now >= self._asked_at + ASKED:
            self._asked_at = now
            self._connection.send(pack("PING"))
            while isinstance(told := self._connection.read(), list):
                pushes.append(told)
        for push in pushes:
            keys = push[1] if push and push[0] == b"invalidate" else ()
            found = None if keys is None or found is None else found | {*keys}
        return found

    def close(self) -> None:
        """Closes the connection on which the server tells of changed keys; never raises."""
        self._connection.close()
