"""Reads and changes the Redis hash `bridge:{S}:components`: where each component reads and writes, and its switch.

Every change is one script: it happens wholly or not at all, and only if the hash is still as it was seen. A switch that
is under way stands in the same JSON object until it is done, given up, or has lapsed.

Where one server has all keys, the scripts keep the hash `bridge:components` of layout 1 beside it, for programs that
know no other; a switch that was made there, by its higher epoch, is taken over. In a cluster there is no such hash.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.mapping import Mapping
from bridge.core.model import format_id, paired
from bridge.streams.component_groups import ComponentGroup
from bridge.streams.connect import Connection, Reply
from bridge.streams.keys import Keys
from bridge.streams.resp import pack

FIRST_COMPONENTS = b"bridge:components"
"""The hash of layout 1 with the components of all streams, and the channel of its changes: `<component>/<mapping>`."""

LEARNED = 1.0
"""Seconds between two looks of a program at the modes of its component in streams that it has never met."""

FILE, REDIS, BOTH = "file", "redis", "both"
READS, WRITES = "reads", "writes"


@dataclass(frozen=True, slots=True)
class SwitchInProgress:
    """A component's switch under way: which side (`reads`, `writes`) goes where, and who asked for it.

    The switch lapses at `until`, in milliseconds since 1970 by the server's clock.
    """

    token: str
    side: str
    to: str
    who: str
    until: int


@dataclass(frozen=True, slots=True)
class ComponentModes:
    """The modes of a component: from where it reads one mapping and where it writes; `epoch` counts the switches.

    `retired`: the mapping's migration has ended, and its files are dead. Then the component reads and writes Redis.
    """

    reads: str = FILE
    writes: str = FILE
    epoch: int = 0
    switch: SwitchInProgress | None = None
    retired: bool = False

    def ended(self) -> ComponentModes:
        """Makes the modes of a component whose mapping is retired; a switch that is under way is dropped.

        A component that was never switched counts as one that was, so that it stays with Redis if all begins again.
        """
        return ComponentModes(REDIS, REDIS, max(1, self.epoch), retired=True)

    def after(self, side: str, to: str) -> ComponentModes:
        """Makes the modes of a component after a switch of this side, as `bridge:{S}:components` will hold them."""
        reads, writes = (to, self.writes) if side == READS else (self.reads, to)
        return ComponentModes(reads, writes, self.epoch + 1)

    def to_json(self) -> bytes:
        """Makes the JSON of a component's modes, as the hash `bridge:{S}:components` holds it, without a switch."""
        return json.dumps({"reads": self.reads, "writes": self.writes, "epoch": self.epoch}).encode()

    @classmethod
    def from_json(cls, raw: bytes | None) -> ComponentModes:
        """Parses a component's modes from the hash `bridge:{S}:components`; None: the component was never switched.

        Raises BridgeError for a value that is no such JSON.
        """
        if raw is None:
            return cls()
        try:
            said = json.loads(raw)
            reads, writes, epoch = str(said["reads"]), str(said["writes"]), int(said["epoch"])
            under_way = said.get("switch")
            switch = None if under_way is None else SwitchInProgress(
                str(under_way["token"]), str(under_way["side"]), str(under_way["to"]), str(under_way["who"]),
                int(under_way["until"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _strange(raw) from None
        if reads not in (FILE, REDIS) or writes not in (FILE, REDIS, BOTH):
            raise _strange(raw)
        return cls(reads, writes, epoch, switch)


def _strange(raw: bytes) -> BridgeError:
    said = raw[:200].decode(errors="backslashreplace")
    hint = 'it should be {"reads": "file", "writes": "file", "epoch": 0}, or another switch of these'
    return BridgeError(f"says {said}, which names no side", where="bridge:{S}:components", hint=hint)


_NOW = b"""local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local old = KEYS[2] ~= KEYS[1] and KEYS[2]
local moved = not old or redis.call('HGET', KEYS[3], 'format') ~= '1'
local raw = moved and redis.call('HGET', KEYS[1], ARGV[1])
local said = raw and cjson.decode(raw) or {reads = 'file', writes = 'file', epoch = 0}
if old then
  local there = redis.call('HGET', old, ARGV[2])
  local good, theirs = pcall(cjson.decode, there or '')
  good = good and type(theirs) == 'table' and tonumber(theirs.epoch) and (not theirs.of or theirs.of == KEYS[1])
  if good and (not raw or theirs.epoch > said.epoch) then
    raw, said = there, theirs
    if moved then
      redis.call('HSET', KEYS[1], ARGV[1], raw)
      redis.call('PUBLISH', KEYS[1], ARGV[1])
    end
  elseif there and not moved and not good then
    raw = there
  end
end
local function keep(value, quiet)
  if moved then
    redis.call('HSET', KEYS[1], ARGV[1], value)
    if not quiet then redis.call('PUBLISH', KEYS[1], ARGV[1]) end
  end
  if old then
    local told = cjson.decode(value)
    told.of = KEYS[1]
    redis.call('HSET', old, ARGV[2], cjson.encode(told))
    if not quiet then redis.call('PUBLISH', old, ARGV[2]) end
  end
end
if said.switch and tonumber(said.switch['until']) <= now then
  said.switch = nil
  raw = cjson.encode(said)
  keep(raw)
end
"""
"""The beginning of every script on the hash: layout 1 is taken over, and a switch that has lapsed is removed.

A stream that still has layout 1 is left with it. In the hash of layout 1 `of` says for which stream a value was
written: mappings of several bridges may have one name there.
"""

LOOK = _NOW + b"return {raw or false, now}"

BEGIN = (
    _NOW
    + b"""if said.switch or said.epoch ~= tonumber(ARGV[3]) then return raw or false end
said.switch = {token = ARGV[4], side = ARGV[5], to = ARGV[6], who = ARGV[7],
  ['until'] = string.format('%.0f', now + ARGV[8])}
raw = cjson.encode(said)
keep(raw)
return raw"""
)

HOLD = (
    _NOW
    + b"""if not said.switch or said.switch.token ~= ARGV[3] then return 0 end
said.switch['until'] = string.format('%.0f', now + ARGV[4])
keep(cjson.encode(said), true)
return 1"""
)

GIVE_UP = (
    _NOW
    + b"""if not said.switch or said.switch.token ~= ARGV[3] then return 0 end
said.switch = nil
keep(cjson.encode(said))
return 1"""
)

FLIP = (
    _NOW
    + b"""if not said.switch or said.switch.token ~= ARGV[3] then return 'lapsed' end
if ARGV[7] ~= '' then
  local found = false
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[5])) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == ARGV[7] then
      if facts['last-delivered-id'] ~= ARGV[8] or facts['pending'] ~= tonumber(ARGV[9]) then return 'moved' end
      found = true
    end
  end
  if not found then return 'moved' end
  redis.call('XGROUP', 'DESTROY', KEYS[5], ARGV[7])
end
keep(ARGV[4])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[4], ARGV[5], ARGV[6]) end
return 'flipped'"""
)

TELL = (
    _NOW
    + b"""if redis.call('EXISTS', KEYS[3]) == 0 then return {raw or false, now} end
redis.call('HSET', KEYS[4], ARGV[6], ARGV[7])
if ARGV[5] ~= '' and said.epoch == tonumber(ARGV[3]) then redis.call('HSET', KEYS[4], ARGV[4], ARGV[5]) end
return {raw or false, now}"""
)
"""Script that writes a worker's heartbeat, and its component's position if the epoch is still the same.

So a position that a switch has written is not overwritten. Where the stream has no metadata of the bridge, nothing is
written: there never was any, or it was purged.
"""

RESTORE = (
    _NOW
    + b"""if redis.call('EXISTS', KEYS[3]) == 0 or said.epoch >= tonumber(ARGV[3]) then return 0 end
keep(ARGV[4], true)
return 1"""
)


@dataclass(frozen=True, slots=True)
class ComponentHash:
    """The components of one mapping's stream, as Redis has them in the hash `bridge:{S}:components`.

    Its fields are `<component>@<instance>`, of the bridge that carries the stream.
    """

    keys: Keys
    mapping: str
    instance: str

    @classmethod
    def of(cls, mapping: Mapping, settings: Settings) -> ComponentHash:
        """Describes the components of a mapping of bridge.toml."""
        return cls(Keys.of(mapping.stream.key), mapping.name, settings.instance)

    def field(self, component: str) -> bytes:
        """Makes the field of a component in the hash `bridge:{S}:components`."""
        return f"{component}@{self.instance}".encode()

    def first_field(self, component: str) -> bytes:
        """Makes the field of a component in the hash `bridge:components` of layout 1."""
        return f"{component}/{self.mapping}".encode()

    def packed(
        self, connection: Connection, script: bytes, component: str, *args: bytes | str | int,
        keys: tuple[bytes, ...] = (),
    ) -> bytes:  # fmt: skip
        """Packs a script on a component's field; `keys` are further keys of the stream that the script uses."""
        beside = self.keys.components if connection.in_cluster else FIRST_COMPONENTS
        every = (self.keys.components, beside, self.keys.meta, *keys)
        return pack("EVAL", script, len(every), *every, self.field(component), self.first_field(component), *args)

    def _run(
        self, connection: Connection, script: bytes, component: str, *args: bytes | str | int,
        keys: tuple[bytes, ...] = (),
    ) -> Reply:  # fmt: skip
        return connection.calls(self.packed(connection, script, component, *args, keys=keys))[0]

    def packed_tell(
        self, connection: Connection, component: str, worker: str, told: str, epoch: int, position: str
    ) -> bytes:
        """Packs the script TELL: a worker's heartbeat, and the component's position; empty: it tells none."""
        return self.packed(connection, TELL, component, epoch, component, position, f"{component}/{worker}", told,
                           keys=(self.keys.positions,))  # fmt: skip

    def restore(self, connection: Connection, component: str, modes: ComponentModes) -> None:
        """Writes a component's modes into Redis where it has lost them, and has other metadata of the stream."""
        self._run(connection, RESTORE, component, modes.epoch, modes.to_json())

    def read(self, connection: Connection, component: str) -> tuple[ComponentModes, int]:
        """Asks Redis for a component's modes, and for the server's time in milliseconds since 1970.

        Raises RedisLost, RedisRefused; BridgeError: what Redis has is no component's modes.
        """
        return modes_from_reply(self._run(connection, LOOK, component))

    def all(self, connection: Connection) -> dict[str, ComponentModes]:
        """Reads from Redis where each component of the stream reads and writes; what is no such value is left out."""
        found: dict[str, ComponentModes] = {}
        for component, raw in self._stored(connection):
            with contextlib.suppress(BridgeError):  # `read` tells what is wrong with it
                modes = ComponentModes.from_json(raw)
                if component not in found or modes.epoch > found[component].epoch:
                    found[component] = modes
        return found

    def default(self, connection: Connection, component: str) -> ComponentModes:
        """Reads the modes of a component in streams that it has never met, of a mapping with many streams.

        Raises RedisLost, RedisRefused; BridgeError: what Redis has is no component's modes.
        """
        return ComponentModes.from_json(connection.call("HGET", self.keys.components, self.field(component)))

    def set_default(self, connection: Connection, component: str, modes: ComponentModes) -> None:
        """Writes the modes of a component in streams that it has never met. Raises RedisLost, RedisRefused."""
        connection.call("HSET", self.keys.components, self.field(component), modes.to_json())

    def names(self, connection: Connection) -> set[str]:
        """Lists the components of which Redis has a value in the stream's hash of components, valid or not."""
        return {component for component, _ in self._stored(connection)}

    def _stored(self, connection: Connection) -> list[tuple[str, bytes]]:
        """Reads the fields of all components of the stream, then those that the hash of layout 1 has of them."""
        found = []
        for name, raw in paired(connection.call("HGETALL", self.keys.components)).items():
            component, _, instance = name.decode(errors="replace").rpartition("@")
            if instance == self.instance:
                found.append((component, raw))
        for name, raw in self.first_fields(connection).items():
            found.append((name.decode(errors="replace").partition("/")[0], raw))
        return found

    def first_fields(self, connection: Connection) -> dict[bytes, bytes]:
        """Reads the fields that the hash of layout 1 has of the stream's components, with their values."""
        if connection.in_cluster:
            return {}
        end = f"/{self.mapping}".encode()
        all_of_them = paired(connection.call("HGETALL", FIRST_COMPONENTS))
        return {name: raw for name, raw in all_of_them.items() if name.endswith(end) and self._is_ours(raw)}

    def _is_ours(self, raw: bytes) -> bool:
        """Whether a value in the hash of layout 1 is of this stream, or says of none: then it is by its mapping."""
        try:
            said = json.loads(raw)
            return str(said.get("of", "")).encode() in (b"", self.keys.components)
        except (ValueError, AttributeError):
            return True

    def begin(
        self, connection: Connection, component: str, epoch: int, switch: SwitchInProgress, hold_ms: int
    ) -> tuple[bool, ComponentModes]:
        """Announces a component's switch, if none is under way and its epoch is still `epoch`.

        Returns whether it did, and the modes as they are now. The switch holds for `hold_ms` milliseconds; the
        component pauses meanwhile.
        """
        raw = self._run(connection, BEGIN, component, epoch, switch.token, switch.side, switch.to, switch.who, hold_ms)
        modes = ComponentModes.from_json(raw)
        return modes.switch is not None and modes.switch.token == switch.token, modes

    def hold(self, connection: Connection, component: str, token: str, hold_ms: int) -> bool:
        """Prolongs a component's switch under way in Redis by so many ms; False: Redis does not know it any more."""
        return bool(self._run(connection, HOLD, component, token, hold_ms))

    def give_up(self, connection: Connection, component: str, token: str) -> bool:
        """Takes a component's unfinished switch out of the hash; False: it is not under way any more."""
        return bool(self._run(connection, GIVE_UP, component, token))

    def flip(
        self, connection: Connection, component: str, token: str, modes: ComponentModes,
        position: dict[str, Any] | None, group: ComponentGroup | None,
    ) -> str:  # fmt: skip
        """Switches a component to the other side, with its position, and says how that went.

        "flipped": done; "lapsed": no switch is under way; "moved": its group was given something meanwhile. `group` is
        the component's consumer group, as it was looked at. It is destroyed, if nobody was given or acknowledged
        anything since.
        """
        last, count = (format_id(group.last), len(group.pending)) if group is not None else (b"", 0)
        return bytes(self._run(
            connection, FLIP, component, token, modes.to_json(), component,
            "" if position is None else json.dumps(position), component if group is not None else "", last, count,
            keys=(self.keys.positions, self.keys.stream),
        )).decode()  # fmt: skip

    def restore_after_end(self, connection: Connection, component: str, modes: ComponentModes) -> None:
        """Writes a component's modes where Redis has none of it, as a retired mapping begins again."""
        connection.call("HSETNX", self.keys.components, self.field(component), modes.to_json())
        if not connection.in_cluster:
            connection.call("HSETNX", FIRST_COMPONENTS, self.first_field(component), modes.to_json())


def modes_from_reply(reply: Reply) -> tuple[ComponentModes, int]:
    """Parses the answer to LOOK or TELL: a component's modes, and the server's time in ms since 1970."""
    return ComponentModes.from_json(reply[0]), int(reply[1])
