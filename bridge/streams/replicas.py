"""Waits until replicas have what a connection wrote, so that a failover to one of them loses nothing of it.

From 7.2 on, Redis answers WAIT for the writes of its own connection alone: a connection that only reads gets an answer
at once, with every replica frozen. So something is written over the same connection before.
"""

from __future__ import annotations

import time

from bridge.core.errors import RedisLost, RedisRefused, ReplicasBehind, Unfit
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.resp import pack

SLICE_MS = 1000
"""Milliseconds of one WAIT, which is sent again until the time is over: no connection is silent for longer."""


def check_disk(connection: Connection) -> None:
    """Checks that the Redis server can say when a write is on its disk. Raises Unfit, RedisLost, RedisRefused."""
    hint = "Redis 7.2+ or Valkey with `appendonly yes`; or redis.replicas in bridge.toml, to wait for replicas instead"
    try:
        connection.call("WAITAOF", 1, 0, 1)
    except RedisRefused as error:
        lowered = error.what.lower()
        if "unknown command" in lowered:
            said = "the server cannot say when a write is on its disk: it has no WAITAOF"
            raise Unfit(said, where=connection.shown, hint=hint) from None
        if "appendonly is disabled" in lowered:
            said = "the server writes no append-only file, so nothing is sure to be on its disk"
            raise Unfit(said, where=connection.shown, hint=hint) from None
        raise


def wait_for_disk(connection: Connection, seconds: float) -> None:
    """Waits until the Redis server has on its disk what this connection wrote, for so many seconds at most.

    Raises ReplicasBehind: it has it not; RedisLost.
    """
    until = time.monotonic() + seconds
    while True:
        left = int(1000 * (until - time.monotonic()))
        connection.send(pack("WAITAOF", 1, 0, max(1, min(SLICE_MS, left))))
        reply = connection.read()
        if isinstance(reply, Refusal):
            error = refused(reply, connection.shown)
            if isinstance(error, RedisLost) or "UNBLOCKED" in str(reply) or "replica" in str(reply):
                raise RedisLost(f"the server became a replica: {reply}", where=connection.shown)
            raise ReplicasBehind(f"the server refuses WAITAOF: {reply}", where=connection.shown, hint=error.hint)
        if int(reply[0]):
            return
        if left <= SLICE_MS:
            said = "the server has not the latest messages on its disk: they are held"
            raise ReplicasBehind(
                said, where=connection.shown, hint="is its disk full or slow, or its appendfsync `no`?"
            )


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
