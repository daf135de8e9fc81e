"""Copies keys from one Redis server to another of any version: by commands, as only newer servers read a DUMP.

A stream goes with its counters, its consumer groups, their consumers and pending entries. What a key holds is summed up
in one digest on either side, by which a copy is verified.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bridge.core.errors import RedisRefused
from bridge.core.model import paired
from bridge.streams.connect import Connection, Reply
from bridge.streams.reader import pages
from bridge.streams.resp import pack

COPY_PAGE, PAGE_BYTES = 1000, 1 << 20
"""Entries, members or fields that are read at once of a key to be copied, and bytes of entries."""

KEY_TYPES = ("string", "hash", "list", "set", "zset", "stream")

MERGE = b"""for i = 1, #KEYS, 2 do
  if ARGV[(i + 1) / 2] == 'merge' then
    local fields = redis.call('HGETALL', KEYS[i])
    for j = 1, #fields, 2 do
      local there = redis.call('HGET', KEYS[i + 1], fields[j])
      if there and there ~= fields[j + 1] then return {KEYS[i + 1], fields[j]} end
    end
  elseif redis.call('EXISTS', KEYS[i + 1]) == 1 then return {KEYS[i + 1]} end
end
for i = 1, #KEYS, 2 do
  if ARGV[(i + 1) / 2] == 'merge' then
    local fields = redis.call('HGETALL', KEYS[i])
    for j = 1, #fields, 2 do redis.call('HSET', KEYS[i + 1], fields[j], fields[j + 1]) end
    redis.call('DEL', KEYS[i])
  else redis.call('RENAME', KEYS[i], KEYS[i + 1]) end
end
return 1"""
"""A script that gives all copies of keys their names at once, or none where a name is taken.

A hash that others use too is merged.
"""


@dataclass(frozen=True, slots=True)
class KeyContent:
    """A summary of what a key holds, to compare the key with its copy: its kind, a digest of all, and counts.

    `size` counts members, fields, bytes of a string, or entries; `groups` and `pending` are a stream's. `expires`: when
    the key does, in milliseconds since 1970; 0: never. `deleted`: pending entries whose message is no more: no server
    gives them to anybody.
    """

    kind: str
    digest: str
    size: int
    groups: int = 0
    pending: int = 0
    expires: int = 0
    deleted: int = field(default=0, compare=False)


def names(connection: Connection, prefix: bytes = b"") -> list[bytes]:
    """Lists the keys of a database that begin with a prefix, sorted. Raises RedisLost, RedisRefused."""
    return sorted(key for key in set(_scanned(connection, "SCAN")) if key.startswith(prefix))


def _scanned(connection: Connection, *command: bytes | str) -> Iterator[bytes]:
    cursor = b"0"
    while True:
        cursor, found = connection.call(command[0], *command[1:], cursor, "COUNT", COPY_PAGE)
        yield from found
        if cursor == b"0":
            return


def kind_of(connection: Connection, key: bytes) -> str:
    """Asks Redis for the type of a key to be copied, as TYPE does; `none`: the key is not there.

    Raises RedisLost, RedisRefused.
    """
    return str(connection.call("TYPE", key).decode())


def held(connection: Connection, key: bytes, tend: Callable[[], object] = lambda: None) -> KeyContent | None:
    """Reads all that a key holds, to compare it with its copy, and sums it up; None: the key is not there.

    `tend` is called between two pages. Raises RedisRefused for a type that is not in `KEY_TYPES`, RedisLost.
    """
    kind = kind_of(connection, key)
    if kind == "none":
        return None
    expires = max(0, int(connection.call("PEXPIRETIME", key)))
    hasher, size = hashlib.sha256(), 0
    if kind == "stream":
        return _held_stream(connection, key, expires, tend)
    for part in _parts(connection, key, kind):
        size += len(part[0]) if kind == "string" else 1
        for piece in part:
            hasher.update(b"%d:" % len(piece) + piece)
        tend()
    return KeyContent(kind, hasher.hexdigest(), size, expires=expires)


def _parts(connection: Connection, key: bytes, kind: str) -> Iterable[Sequence[bytes]]:
    """Reads what a key to be copied holds, but a stream, in an order that is the same on every server."""
    if kind == "string":
        return [(bytes(connection.call("GET", key) or b""),)]
    if kind == "list":
        return ((item,) for item in _items(connection, key))
    if kind == "set":
        return [(item,) for item in sorted(set(_scanned(connection, "SSCAN", key)))]
    if kind in ("hash", "zset"):
        flat = list(_scanned(connection, "HSCAN" if kind == "hash" else "ZSCAN", key))
        return sorted(paired(flat).items())
    raise RedisRefused(f"is a {kind}, which cannot be copied", code="WRONGTYPE", where=key.decode(errors="replace"))


def _items(connection: Connection, key: bytes) -> Iterator[bytes]:
    at = 0
    while found := connection.call("LRANGE", key, at, at + COPY_PAGE - 1):
        yield from found
        at += len(found)


def _held_stream(connection: Connection, key: bytes, expires: int, tend: Callable[[], object]) -> KeyContent:
    hasher, size = hashlib.sha256(), 0
    for rows in pages(connection, key, b"-", b"+", COPY_PAGE, most_bytes=PAGE_BYTES):
        for raw_id, fields in rows:
            size += 1
            for piece in (raw_id, *fields):
                hasher.update(b"%d:" % len(piece) + piece)
        tend()
    about = paired(connection.call("XINFO", "STREAM", key))
    said = [about[name] for name in (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added")]
    hasher.update(repr(said).encode())
    groups, count, gone = _groups(connection, key), 0, 0
    for group in groups:
        hasher.update(repr((group.name, group.last, group.read, group.consumers)).encode())
        for entry, consumer, _, times in group.pending:
            hasher.update(repr((entry, consumer, times)).encode())
        count += len(group.pending)
        gone += group.deleted
    return KeyContent("stream", hasher.hexdigest(), size, len(groups), count, expires, gone)


@dataclass(slots=True)
class _Group:
    """A consumer group of a stream to be copied; `pending`: ID, consumer, ms since it was given, how often."""

    name: bytes
    last: bytes
    read: Reply
    consumers: list[bytes]
    pending: list[tuple[bytes, bytes, int, int]] = field(default_factory=list)
    deleted: int = 0


def _groups(connection: Connection, key: bytes) -> list[_Group]:
    found = []
    for row in connection.call("XINFO", "GROUPS", key):
        facts = paired(row)
        consumers = [paired(found)[b"name"] for found in connection.call("XINFO", "CONSUMERS", key, facts[b"name"])]
        group = _Group(facts[b"name"], facts[b"last-delivered-id"], facts.get(b"entries-read"), sorted(consumers))
        start: bytes = b"-"
        while rows := connection.call("XPENDING", key, group.name, start, "+", COPY_PAGE):
            there = connection.calls(*(pack("XRANGE", key, raw, raw) for raw, *_ in rows))
            for (raw, consumer, idle, times), stands in zip(rows, there, strict=True):
                if stands:
                    group.pending.append((raw, consumer, int(idle), int(times)))
                else:
                    group.deleted += 1
            start = b"(" + rows[-1][0]
        found.append(group)
    return sorted(found, key=lambda group: group.name)


def copy(
    source: Connection, target: Connection, key: bytes, to: bytes, tend: Callable[[], object] = lambda: None
) -> None:  # fmt: skip
    """Copies what a key holds to a key `to` of another Redis server, which must not exist yet.

    `tend` is called between two pages. Raises RedisLost, RedisRefused.
    """
    kind = kind_of(source, key)
    expires = int(source.call("PEXPIRETIME", key))
    if kind == "stream":
        _copy_stream(source, target, key, to, tend)
    else:
        command = {"string": "SET", "hash": "HSET", "list": "RPUSH", "set": "SADD", "zset": "ZADD"}.get(kind, "")
        parts = iter(_parts(source, key, kind))
        while some := list(islice(parts, COPY_PAGE)):
            # ZSCAN gives member and score, ZADD takes score and member
            flat = [piece for part in some for piece in (reversed(part) if kind == "zset" else part)]
            target.call(command, to, *flat)
            tend()
    if expires > 0:
        target.call("PEXPIREAT", to, expires)


def _copy_stream(
    source: Connection, target: Connection, key: bytes, to: bytes, tend: Callable[[], object]
) -> None:  # fmt: skip
    for rows in pages(source, key, b"-", b"+", COPY_PAGE, most_bytes=PAGE_BYTES):
        if rows:
            target.calls(*(pack("XADD", to, raw_id, *fields) for raw_id, fields in rows))
        tend()
    about: dict[bytes, Any] = paired(source.call("XINFO", "STREAM", key))
    if not about[b"length"]:  # XADD made no key, and an empty stream has counters too
        target.call("XGROUP", "CREATE", to, "made", "0", "MKSTREAM")
        target.call("XGROUP", "DESTROY", to, "made")
    target.call(
        "XSETID", to, about[b"last-generated-id"], "ENTRIESADDED", about[b"entries-added"], "MAXDELETEDID",
        about[b"max-deleted-entry-id"],
    )  # fmt: skip
    for group in _groups(source, key):
        read: tuple[str | int, ...] = () if group.read is None else ("ENTRIESREAD", int(group.read))
        target.call("XGROUP", "CREATE", to, group.name, group.last, *read)
        for consumer in group.consumers:
            target.call("XGROUP", "CREATECONSUMER", to, group.name, consumer)
        now = int(time.time() * 1000)
        for at in range(0, len(group.pending), COPY_PAGE):
            target.calls(*(
                pack("XCLAIM", to, group.name, consumer, 0, raw, "TIME", now - idle, "RETRYCOUNT", times, "FORCE",
                     "JUSTID")
                for raw, consumer, idle, times in group.pending[at : at + COPY_PAGE]
            ))  # fmt: skip
            tend()
