"""Reads and writes the heartbeats of bridges in Redis, `bridge:health:<instance>[/<group>]`.

A heartbeat is of a whole process and not of one stream: in a cluster another node may serve it, so that it is read over
a connection of its own.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from bridge.core.config import Settings
from bridge.core.errors import RedisLost
from bridge.streams.connect import Connection
from bridge.streams.dial import dialler
from bridge.streams.keys import health


def read_heartbeat(settings: Settings, connection: Connection, process: str) -> dict[str, Any] | None:
    """Reads a process's heartbeat, by `Settings.process_name`, from Redis; None: there is none, or it has expired.

    `connection` is used where its server has all keys. Raises RedisLost, RedisRefused.
    """
    if not connection.in_cluster:
        return _parsed(connection.call("GET", health(process)))
    with closing(dialler(settings, health(process), may_start=False)()) as own:
        return _parsed(own.call("GET", health(process)))


def heartbeat_if_told(settings: Settings, connection: Connection, process: str) -> dict[str, Any] | None:
    """Reads a process's heartbeat as `read_heartbeat` does; None also where the node of a cluster that has it is away.

    Raises RedisLost where the one server is, RedisRefused.
    """
    try:
        return read_heartbeat(settings, connection, process)
    except RedisLost:
        if not connection.in_cluster:
            raise
        return None


def _parsed(raw: bytes | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(raw) if raw else None
    return found
