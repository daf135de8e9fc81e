"""Tells the layout of a stream's keys, and moves those of layout 1 to layout 2, this version's (DESIGN §5.3).

In layout 2 the components of each stream are in `bridge:{S}:components`, so that all of a stream is in one slot of a
cluster. Bridges that know layout 1 alone must leave such a stream to others. They ask who owns it, so that its owner is
called `2:<ledger's UUID>`, of the bridge `2:<instance>:{S}`, which no such bridge is; and before they take a stream
over they ask for its bridge's heartbeat, so that `bridge:health:2:<instance>:{S}` is one that never ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bridge.core.errors import NewerLayout, Unfit
from bridge.core.groups import process_name
from bridge.core.model import NO_BYTES, Checkpoint, shown
from bridge.streams.components import FIRST_COMPONENTS
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys, health

FORMAT = 2
"""The version of the layout of the bridge's keys, which the field `format` of `bridge:{S}:meta` tells."""

_MARK = f"{FORMAT}:"
GROUP = b"group"
"""The field of `bridge:{S}:meta` with the group of bridge.toml whose process carries the stream, if it is of one."""

OWN_STREAMS = (
    'bridges do not share a stream: "{instance}" in stream.key gives each its own; only where that one is gone for'
    " good, and its files are here, `bridge repair --take-over`"
)
"""What to try where a stream is another bridge's."""

NO_SOURCE, NO_GENERATION = b"", b"0.0"
"""The fields, of a source that there is not, by which `checkpoint` and `generations` exist from the claim on."""

PREPARE = b"""if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[3], 'bridge', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[3], 'bridge')
end
redis.call('HSETNX', KEYS[2], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1"""
"""Script that makes the keys which forward WATCHes and the empty stream, if they are not there yet."""

MOVE = b"""if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
if KEYS[3] then
  local first = redis.call('HGETALL', KEYS[3])
  for i = 1, #first, 2 do
    local component = string.match(first[i], '^([^/]*)/(.*)$')
    local good, was = pcall(cjson.decode, first[i + 1])
    local ours = not good or type(was) ~= 'table' or not was.of or was.of == KEYS[2]
    if component and first[i] == component .. '/' .. ARGV[2] and ours then
      redis.call('HSETNX', KEYS[2], component .. '@' .. ARGV[3], first[i + 1])
    end
  end
  redis.call('SET', KEYS[4], ARGV[6])
end
redis.call('HSET', KEYS[1], 'format', ARGV[4], 'owner', ARGV[4] .. ':' .. ARGV[1],
  'instance', ARGV[5])
return 1"""
"""Script that moves one stream to layout 2, if its owner is still the one that was read."""


def owner_of(ledger: bytes) -> bytes:
    """Makes the name by which a ledger, by its UUID, owns a stream of this layout."""
    return _MARK.encode() + ledger


def is_owner(owner: bytes | None, ledger: bytes) -> bool:
    """Whether the field `owner` of a stream, of this layout or of layout 1, names the ledger of this UUID."""
    return owner in (ledger, owner_of(ledger))


def instance_in(meta: Mapping[bytes, bytes]) -> str:
    """Reads from a stream's `meta` the instance of the bridge that owns it; empty where nothing is told."""
    told = meta.get(b"instance", b"").decode(errors="replace")
    return told.removeprefix(_MARK).partition(":{")[0] if told.startswith(_MARK) else told


def process_in(meta: Mapping[bytes, bytes]) -> str:
    """Reads from a stream's `meta` the process that carries it, under whose name its heartbeat is; empty: not told."""
    instance, group = instance_in(meta), meta.get(GROUP, b"").decode(errors="replace")
    return process_name(instance, group) if instance else ""


def name_group(connection: Connection, keys: Keys, meta: Mapping[bytes, bytes], group: str) -> None:
    """Writes into a stream's `meta`, read before, which group's process carries it; empty: that of no group.

    Raises RedisLost, RedisRefused.
    """
    if meta.get(GROUP, b"") != group.encode():
        connection.call(*(("HSET", keys.meta, GROUP, group) if group else ("HDEL", keys.meta, GROUP)))


def others_stream(meta: Mapping[bytes, bytes], ledger: bytes, instance: str) -> str:
    """Says in words whose stream it is, by its `meta`, where another bridge owns it; empty: this one's, or nobody's.

    `ledger` is the UUID of this bridge's ledger, empty where it has none, and `instance` the bridge's name.
    """
    other = instance_in(meta)
    if other in ("", instance) or is_owner(meta.get(b"owner"), ledger):
        return ""
    host = f" on host {shown(meta[b'host'], 64)}" if meta.get(b"host") else ""
    return f"this is the stream of bridge '{other}'{host}"


def check_layout(meta: Mapping[bytes, bytes], stream: bytes) -> None:
    """Raises NewerLayout where a stream's `meta` tells a layout that this version of the bridge does not know."""
    told = meta.get(b"format", b"1")
    if told.isdigit() and int(told) <= FORMAT:
        return
    said = f"its keys have layout {shown(told, 20)}, and this version of the bridge knows {FORMAT}: it is left alone"
    hint = "a newer version carries it: install that one here too"
    raise NewerLayout(said, where=stream.decode(errors="replace"), hint=hint)


def ownership(keys: Keys, ledger: bytes, instance: str) -> tuple[bytes | str | int, ...]:
    """Makes the fields of a stream's `meta`, with their values, that say who owns it, in this layout."""
    return "format", FORMAT, "owner", owner_of(ledger), "instance", _instance(keys, instance)


def move_layout(connection: Connection, keys: Keys, ledger: bytes, mapping: str, instance: str) -> bool:
    """Moves a stream of layout 1 that a ledger owns to this layout, in one script; False: it was not of that kind.

    `instance` is the bridge's, and names the components too. Raises RedisLost, RedisRefused.
    """
    first = () if connection.in_cluster else (FIRST_COMPONENTS, permanent(keys, instance))
    own = (keys.meta, keys.components, *first)
    args = (ledger, mapping, instance, FORMAT, _instance(keys, instance), _word(ledger))
    return bool(connection.call("EVAL", MOVE, len(own), *own, *args))


def prepare_for_moves(connection: Connection, keys: Keys) -> None:
    """Makes, in a cluster, the keys of a stream that forward WATCHes or writes to first, as a slot that moves wants.

    There a command on a key that is missing answers ASK or TRYAGAIN. Raises RedisLost, RedisRefused.
    """
    if connection.in_cluster:
        empty = Checkpoint(0, NO_BYTES)
        args = (NO_SOURCE, empty.to_json(), NO_GENERATION, NO_BYTES.to_json())
        connection.call("EVAL", PREPARE, 3, keys.checkpoint, keys.generations, keys.stream, *args)


MOVE_BACK = b"""if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'format', 1, 'owner', ARGV[2], 'instance', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3])
return 1"""
"""Script that moves one stream back to layout 1, if its owner is still the one that was read.

What it removes stands in the hash `bridge:components` as well: every switch was written there too.
"""


def move_back(connection: Connection, keys: Keys, ledger: bytes, instance: str) -> bool:
    """Moves a stream that a ledger owns back to layout 1, in one script; False: it has that layout, or another owner.

    Raises Unfit in a cluster, where layout 1 is not possible; RedisLost, RedisRefused.
    """
    if connection.in_cluster:
        raise Unfit("layout 1 is not possible in a cluster", where=keys.stream.decode(errors="replace"))
    own = (keys.meta, keys.components, permanent(keys, instance))
    args = (owner_of(ledger), ledger, instance)
    return bool(connection.call("EVAL", MOVE_BACK, len(own), *own, *args))


RENAME = b"""local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], -#ARGV[1]) == ARGV[1] then
    local name = string.sub(all[i], 1, -#ARGV[1] - 1) .. ARGV[2]
    local good, was = pcall(cjson.decode, all[i + 1])
    local there, is = pcall(cjson.decode, redis.call('HGET', KEYS[1], name) or '')
    if not there or not good or (tonumber(was.epoch) or 0) > (tonumber(is.epoch) or 0) then
      redis.call('HSET', KEYS[1], name, all[i + 1])
    end
    redis.call('HDEL', KEYS[1], all[i])
  end
end
redis.call('HSET', KEYS[2], 'instance', ARGV[3])"""
"""Script that gives the components of a stream, and its owner, the name of another instance."""


def rename_instance(connection: Connection, keys: Keys, before: str, instance: str) -> None:
    """Gives a stream the instance by which its bridge is called now: a bridge that took it over, or was renamed.

    The components keep their modes. Raises RedisLost, RedisRefused.
    """
    if before in ("", instance):
        return
    if not connection.in_cluster:
        connection.call("DEL", permanent(keys, before))
    args = (f"@{before}", f"@{instance}", _instance(keys, instance))
    connection.call("EVAL", RENAME, 2, keys.components, keys.meta, *args)


def say_alive(connection: Connection, keys: Keys, ledger: bytes, instance: str) -> None:
    """Writes the heartbeat that keeps bridges of layout 1 from taking over a stream, where there may be any.

    In a cluster there are none. Raises RedisLost, RedisRefused.
    """
    if not connection.in_cluster:
        connection.call("SET", permanent(keys, instance), _word(ledger))


def permanent(keys: Keys, instance: str) -> bytes:
    """Makes the name of the heartbeat that never ends, by which bridges of layout 1 leave a stream alone."""
    return health(_instance(keys, instance))


def _instance(keys: Keys, instance: str) -> str:
    return f"{_MARK}{instance}:{{{keys.stream.decode()}}}"


def _word(ledger: bytes) -> bytes:
    """Makes the JSON of the heartbeat, as bridges of layout 1 read it: of the ledger that owns the stream."""
    return json.dumps({"ledger": owner_of(ledger).decode()}).encode()


HAND_OVER = b"""local owner = redis.call('HGET', KEYS[1], 'owner')
if owner ~= ARGV[1] and owner ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[3])
return 1"""
"""Script that gives a stream another owner, if its owner is still the one that it was."""


def hand_over(connection: Connection, keys: Keys, ledger: bytes, to: bytes) -> None:
    """Gives a stream that a ledger owns to another ledger, each by its UUID; a stream of others stays as it is.

    Raises RedisLost, RedisRefused.
    """
    connection.call("EVAL", HAND_OVER, 1, keys.meta, ledger, owner_of(ledger), owner_of(to))
