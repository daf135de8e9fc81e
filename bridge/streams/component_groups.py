"""Reads and makes the consumer groups of components, and reads what their workers announce in Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from bridge.core.errors import RedisRefused
from bridge.core.model import ZERO_ID, EntryId, format_id, paired, parse_id
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import groups_of

ALIVE_MS = 10_000
"""Milliseconds after its last heartbeat in which a component's worker counts as alive."""


@dataclass(frozen=True, slots=True)
class ComponentGroup:
    """A component's consumer group: the last ID that was delivered to it, and its pending entries.

    `pending` holds for each how often it was delivered.
    """

    last: EntryId
    pending: dict[EntryId, int]


def group_of(connection: Connection, stream: bytes, name: str) -> ComponentGroup | None:
    """Reads a component's consumer group, with its pending entries; None: there is none.

    Raises RedisRefused, RedisLost.
    """
    found = next((group for group in groups_of(connection, stream) if group.name == name.encode()), None)
    if found is None:
        return None
    pending: dict[EntryId, int] = {}
    start = b"-"
    while len(pending) < found.pending:
        page = connection.call("XPENDING", stream, name, start, "+", 10_000)
        pending |= {parse_id(raw): int(count) for raw, _, _, count in page}
        if len(page) < 10_000:
            break
        start = b"(" + page[-1][0]
    return ComponentGroup(found.last, pending)


def asked_last(connection: Connection, stream: bytes, name: str) -> float | None:
    """Returns the seconds since any consumer of a component's group asked for entries.

    None: none ever did, or our rights do not tell.
    """
    try:
        rows = connection.call("XINFO", "CONSUMERS", stream, name)
    except RedisRefused:
        return None
    ages = [int(paired(row)[b"idle"]) for row in rows]
    return min(ages) / 1000 if ages else None


def make_group(
    connection: Connection, stream: bytes, name: str, last: EntryId, unread: Sequence[EntryId], again: Set[EntryId]
) -> None:
    """Creates a component's consumer group anew: all up to `last` was delivered, and `unread` of that is pending.

    Those in `again` count as delivered once, the others never. They are pending for a consumer called `bridge` and
    count as idle for a day, so that the first XAUTOCLAIM finds them.
    """
    drop_group(connection, stream, name)
    connection.call("XGROUP", "CREATE", stream, name, format_id(last), "MKSTREAM")
    for times, some in (
        (0, [entry_id for entry_id in unread if entry_id not in again]),
        (1, [entry_id for entry_id in unread if entry_id in again]),
    ):
        for at in range(0, len(some), 1000):
            part = [format_id(entry_id) for entry_id in some[at : at + 1000]]
            options = ("IDLE", 86_400_000, "RETRYCOUNT", times, "FORCE", "JUSTID")
            connection.call("XCLAIM", stream, name, "bridge", 0, *part, *options)


def drop_group(connection: Connection, stream: bytes, name: str) -> None:
    """Destroys a component's consumer group; nothing happens when there is none."""
    try:
        connection.call("XGROUP", "DESTROY", stream, name)
    except RedisRefused as error:
        if "no such key" not in str(error) and "requires the key to exist" not in str(error):
            raise


def announced_positions(connection: Connection, keys: Keys) -> dict[str, dict[str, Any]]:
    """Reads from Redis the positions that components and their workers announce, by `<component>[/<worker>]`.

    Values that are no JSON objects are left out.
    """
    found = {}
    for name, raw in paired(connection.call("HGETALL", keys.positions)).items():
        said = _announcement(raw)
        if said is not None:
            found[name.decode(errors="replace")] = said
    return found


def announced_position(connection: Connection, keys: Keys, component: str) -> dict[str, Any] | None:
    """Reads from Redis the position that one component announces, which it may do itself; None: it announces none.

    A value that is no JSON object is none. Raises RedisLost, RedisRefused.
    """
    raw = connection.call("HGET", keys.positions, component)
    return None if raw is None else _announcement(raw)


def _announcement(raw: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(raw)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


@dataclass(frozen=True, slots=True)
class ComponentWorker:
    """A worker, one process of a component, by its last announcement in Redis.

    `paused` holds the tokens of the switches it waits for; `at` is in milliseconds since 1970.
    """

    name: str
    at: int
    following: bool
    reads: str
    paused: frozenset[str]
    where: str


def workers_of(announced: dict[str, dict[str, Any]], component: str, now_ms: int) -> list[ComponentWorker]:
    """Lists the workers of a component that are alive, by the announced positions."""
    found = []
    for name, said in announced.items():
        of, _, worker = name.partition("/")
        at = said.get("at")
        if of != component or not worker or not isinstance(at, int) or now_ms - at > ALIVE_MS:
            continue
        told = said.get("paused")
        paused = frozenset(map(str, told if isinstance(told, list) else ()))
        where = f"process {said.get('pid', '?')} on {said.get('host', '?')}"
        found.append(
            ComponentWorker(worker, at, bool(said.get("following")), str(said.get("reads", "")), paused, where)
        )
    return found


def to_id(said: object) -> EntryId:
    """Parses an entry ID out of a component's JSON; 0-0 for anything else."""
    try:
        return parse_id(str(said).encode())
    except ValueError:
        return ZERO_ID
