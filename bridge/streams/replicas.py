"""Waits until replicas have what a connection wrote, so that a failover to one of them loses nothing of it.

From 7.2 on, Redis answers WAIT for the writes of its own connection alone: a connection that only reads gets an answer
at once, with every replica frozen. So something is written over the same connection before.
"""

from __future__ import annotations

import time

from bridge.core.errors import RedisLost, ReplicasBehind
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.resp import pack

SLICE_MS = 1000
"""Milliseconds of one WAIT, which is sent again until the time is over: no connection is silent for longer."""


def wait_for_replicas(connection: Connection, wanted: int, seconds: float) -> None:
    """Waits until `wanted` replicas have all that this connection wrote, for so many seconds at most.

    Raises ReplicasBehind: they have it not; RedisLost.
    """
    until, have = time.monotonic() + seconds, 0
    while True:
        left = int(1000 * (until - time.monotonic()))
        connection.send(pack("WAIT", wanted, max(1, min(SLICE_MS, left))))
        reply = connection.read()
        if isinstance(reply, Refusal):  # what was written before stands all the same
            error = refused(reply, connection.shown)
            if isinstance(error, RedisLost) or "UNBLOCKED" in str(reply) or "replica" in str(reply):
                raise RedisLost(f"the server became a replica: {reply}", where=connection.shown)
            raise ReplicasBehind(f"the server refuses WAIT: {reply}", where=connection.shown, hint=error.hint)
        have = int(reply)
        if have >= wanted:
            return
        if left <= SLICE_MS:
            break
    said = f"{have} of {wanted} wanted replicas have the latest messages: they are held"
    hint = "is each replica running and linked? INFO replication; redis.replicas says how many are waited for"
    raise ReplicasBehind(said, where=connection.shown, hint=hint)
