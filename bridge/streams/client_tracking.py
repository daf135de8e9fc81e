"""Hears from Redis, by client tracking, which keys anybody changed, instead of asking for each of them."""

from __future__ import annotations

from bridge.streams.connect import Connection
from bridge.streams.resp import pack

ASKED = 1.0
"""Seconds between two PINGs on the tracking connection: the server may close a silent client, or be gone unnoticed."""


class ClientTracking:
    """Hears by client tracking of every change of a key that begins with `prefix`, on a connection that it owns.

    Redis calls that client-side caching with broadcasts; the server keeps nothing for it but the prefix. It does not
    tell of SWAPDB, nor of what changed before. Raises RedisRefused where the server does not know or not allow client
    tracking; then the connection is closed.
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
        """Returns the keys that Redis said were changed since the last call; None: any key may have been changed.

        Raises RedisLost.
        """
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
        """Closes the connection of client tracking, on which Redis tells of changed keys; never raises."""
        self._connection.close()
