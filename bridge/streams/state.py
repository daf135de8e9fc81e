"""The hash that holds a state's latest value: all of it changes at once, and only from what was seen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from bridge.model import EntryId, parse_id
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.resp import pack

LIMIT = 1 << 28
"""Bytes of the largest value."""


@dataclass(frozen=True)
class Value:
    """A state's value. `version` counts the bridge's writes; other programs need not mind it."""

    data: bytes
    timestamp: bytes
    role: bytes
    version: int = 0

    @cached_property
    def sha256(self) -> bytes:
        """Of the data, in hex."""
        return hashlib.sha256(self.data).hexdigest().encode()


def key_of(keys: Keys, name: bytes) -> bytes:
    """The hash of the state of this name."""
    return b"bridge:{%b}:state:%b" % (keys.stream, name)


DIGESTS = b"""local said = redis.call('HGET', KEYS[1], 'sha256') or ''
if redis.call('HSTRLEN', KEYS[1], 'data') > 1048576 then return {said, ''} end
return {said, redis.sha1hex(redis.call('HGET', KEYS[1], 'data') or '')}"""


def digests(connection: Connection, keys: Keys, names: list[bytes]) -> dict[bytes, tuple[bytes, str]]:
    """What each hash says its data's SHA-256 is, and the SHA-1 of the data itself, taken by the server.

    Both are empty where there is none; the latter also where the data are too long to be hashed in passing. Raises
    RedisRefused, RedisLost.
    """
    if not names:
        return {}
    replies = connection.calls(*(pack("EVAL", DIGESTS, 1, key_of(keys, name)) for name in names))
    return {name: (said, sha1.decode()) for name, (said, sha1) in zip(names, replies, strict=True)}


def read(connection: Connection, keys: Keys, name: bytes) -> tuple[Value, bytes] | None:
    """The value, and what the hash says its SHA-256 is (of its data, where it says nothing); None: there is none."""
    raw = connection.call("HGETALL", key_of(keys, name))
    found = dict(zip(raw[0::2], raw[1::2], strict=True))
    if b"data" not in found:
        return None
    version = found.get(b"version", b"0")
    value = Value(found[b"data"], found.get(b"timestamp", b""), found.get(b"role", b""),
                  int(version) if version.isdigit() else 0)  # fmt: skip
    return value, found.get(b"sha256", value.sha256)


def put(
    connection: Connection, keys: Keys, owner: bytes, name: bytes, value: Value, notify: bytes, *,
    fields: list[bytes] | None = None, only_entry: bool = False,
) -> tuple[bool, EntryId | None]:  # fmt: skip
    """Sets the hash to `value`, with an entry of these fields if there are any, in one transaction.

    Nothing is done where the hash is so already; an entry that was added says so in the hash, so it is added once.
    `only_entry`: the hash is the owner's and stays as it is, but for that word. Returns False where somebody else wrote
    meanwhile, or owns the stream: try again. Raises RedisRefused, RedisLost.
    """
    key, digest = key_of(keys, name), value.sha256
    replies = connection.calls(
        pack("WATCH", keys.meta, key),
        pack("HGET", keys.meta, "owner"),
        pack("HMGET", key, "sha256", "version", "entered"),
    )
    holder, (there, version, entered) = replies[1], replies[2]
    wants_entry = fields is not None and entered != digest
    same = there == digest and connection.call("HGET", key, "data") == value.data
    if holder != owner or (same and not wants_entry):
        connection.call("UNWATCH")
        return holder == owner, None
    number = b"%d" % ((int(version) if version and version.isdigit() else 0) + 1)
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
    commands += [pack("PUBLISH", notify, said), pack("EXEC")]
    done = connection.calls(*commands)[-1]
    if done is None:
        return False, None
    for one in done:
        if isinstance(one, Refusal):
            raise refused(one, key.decode(errors="replace"))
    return True, parse_id(done[0]) if wants_entry else None
