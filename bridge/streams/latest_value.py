"""Reads and writes the Redis hash with a state's latest value: all of it at once, and only if nobody changed it.

Somebody may change the hash between reading and writing; then nothing is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from bridge.core.model import EntryId, paired, parse_id
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.notice import packed_notice
from bridge.streams.resp import pack

LIMIT = 1 << 28
"""Bytes of the largest value that a state may have."""

IN_PASSING = 1 << 16
"""Bytes of a state's data, at most, that the server hashes for the bridge.

Other clients wait meanwhile, a fifth of a millisecond.
"""


@dataclass(frozen=True)
class StateValue:
    """The latest value of a state: its data, timestamp and role."""

    data: bytes
    timestamp: bytes
    role: bytes

    @cached_property
    def sha256(self) -> bytes:
        """The SHA-256 of the data of a state's value, in hex."""
        return hashlib.sha256(self.data).hexdigest().encode()

    @cached_property
    def sha1(self) -> bytes:
        """The SHA-1 of the data of a state's value, in hex, as the server computes it."""
        return hashlib.sha1(self.data, usedforsecurity=False).hexdigest().encode()


class SeenValue(NamedTuple):
    """What the Redis hash of a state's latest value says: digest, timestamp, role and size.

    `kind` is the key's type, `none` where there is no key; `size` that of the data, or -1. `sha1` of the data is empty
    where it was not asked for, or the data are too long for the server to hash.
    """

    kind: bytes
    sha256: bytes = b""
    timestamp: bytes = b""
    role: bytes = b""
    size: int = -1
    sha1: bytes = b""

    def says(self, value: StateValue) -> bool:
        """Whether the Redis hash of a state holds this value, as far as the hash was read."""
        said = (self.sha256, self.timestamp, self.role, self.size)
        if said != (value.sha256, value.timestamp, value.role, len(value.data)):
            return False
        return not self.sha1 or self.sha1 == value.sha1

    def differs(self, before: SeenValue, *, deep: bool) -> bool:
        """Whether the Redis hash of a state may hold another value than before.

        With `deep`, data too long for the server's digest count as different, so that they are read.
        """
        if self.sha1 and before.sha1 and self.sha1 != before.sha1:
            return True
        return self[:-1] != before[:-1] or (deep and not self.sha1)


def key_of(keys: Keys, name: bytes) -> bytes:
    """Makes the key of the Redis hash that holds the latest value of a state."""
    return b"bridge:{%b}:state:%b" % (keys.stream, name)


VALUE_SCRIPT = b"""local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' then return {kind} end
local said = redis.call('HMGET', KEYS[1], 'sha256', 'timestamp', 'role')
local size, sha1 = -1, ''
if redis.call('HEXISTS', KEYS[1], 'data') == 1 then size = redis.call('HSTRLEN', KEYS[1], 'data') end
if size >= 0 and size <= tonumber(ARGV[1]) then sha1 = redis.sha1hex(redis.call('HGET', KEYS[1], 'data')) end
return {kind, said[1] or '', said[2] or '', said[3] or '', size, sha1}"""


def look(connection: Connection, keys: Keys, names: Sequence[tuple[bytes, bool]]) -> dict[bytes, SeenValue]:
    """Reads from Redis what the hashes of these states' latest values say: digest, timestamp, role and size.

    For a state with True, also the server's digest of its data, if they are short. Raises RedisRefused, RedisLost.
    """
    if not names:
        return {}
    asked = (pack("EVAL", VALUE_SCRIPT, 1, key_of(keys, name), IN_PASSING if deep else -1) for name, deep in names)
    return {name: SeenValue(*reply) for (name, _), reply in zip(names, connection.calls(*asked), strict=True)}


def read(connection: Connection, keys: Keys, name: bytes) -> tuple[StateValue, bytes] | None:
    """Reads a state's latest value from its Redis hash, and the SHA-256 that the hash says; None: there is no value.

    Where the hash says no SHA-256, that of its data. Raises RedisLost, RedisRefused.
    """
    raw = connection.call("HGETALL", key_of(keys, name))
    found = paired(raw)
    if b"data" not in found:
        return None
    value = StateValue(found[b"data"], found.get(b"timestamp", b""), found.get(b"role", b""))
    return value, found.get(b"sha256", value.sha256)


def put(
    connection: Connection, keys: Keys, mine: tuple[bytes, bytes], name: bytes, value: StateValue, notify: bytes, *,
    fields: list[bytes] | None = None, only_entry: bool = False, above: int = 0,
) -> tuple[bool, EntryId | None, int]:  # fmt: skip
    """Sets the Redis hash of a state to its latest value, with an entry of these fields if any, in one transaction.

    Nothing is done where the hash is so already; an entry that was added is noted in the hash (`entered`), so it is
    added once. `mine` is the owner and nonce that `meta` must have. `only_entry`: the hash is its owner's and stays as
    it is, but for that note. `\\0version` in a field is this write's number, which is higher than `above`. Returns
    False where somebody else wrote meanwhile, or carries the stream (try again), the entry's ID, and the number. Raises
    RedisRefused, RedisLost.
    """
    key, digest = key_of(keys, name), value.sha256
    replies = connection.calls(
        pack("WATCH", keys.meta, key),
        pack("HMGET", keys.meta, "owner", "nonce"),
        pack("HMGET", key, "sha256", "timestamp", "role", "version", "entered"),
    )
    holder, (there, at, role, version, entered) = replies[1], replies[2]
    wants_entry = fields is not None and entered != digest
    same = only_entry or (
        (there, at, role) == (digest, value.timestamp, value.role)
        and connection.call("HGET", key, "data") == value.data
    )
    if tuple(holder) != mine or (same and not wants_entry):
        connection.call("UNWATCH")
        return tuple(holder) == mine, None, int(version) if version and version.isdigit() else 0
    number = b"%d" % (max(above, int(version) if version and version.isdigit() else 0) + 1)
    facts: list[bytes] = []
    if not only_entry:
        facts = [b"data", value.data, b"sha256", digest, b"timestamp", value.timestamp, b"role", value.role,
                 b"version", number]  # fmt: skip
    commands = [pack("MULTI")]
    if wants_entry and fields is not None:
        commands.append(pack("XADD", keys.stream, "*", *(part.replace(b"\0version", number) for part in fields)))
        facts += [b"entered", digest]
    commands.append(pack("HSET", key, *facts))
    said = json.dumps({"stream": keys.stream.decode(errors="replace"), "state": name.decode(errors="replace"),
                       "sha256": digest.decode(), "version": int(number)})  # fmt: skip
    commands += [packed_notice(connection, keys, notify, said), pack("EXEC")]
    done = connection.calls(*commands)[-1]
    if done is None:
        return False, None, 0
    for reply in done:
        if isinstance(reply, Refusal):
            raise refused(reply, key.decode(errors="replace"))
    return True, parse_id(done[0]) if wants_entry else None, int(number)
