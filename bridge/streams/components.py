"""Reads and changes the Redis hash `bridge:components`: where each component reads and writes, and its switch.

Every change is one script: it happens wholly or not at all, and only if the hash is still as it was seen. A switch that
is under way stands in the same JSON object until it is done, given up, or has lapsed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from bridge.core.errors import BridgeError, RedisRefused
from bridge.core.model import ZERO_ID, EntryId, format_id, paired, parse_id
from bridge.streams.connect import Connection, Reply
from bridge.streams.keys import Keys
from bridge.streams.reader import groups_of
from bridge.streams.resp import pack

COMPONENTS = b"bridge:components"
"""The hash `bridge:components`, and the channel on which its changes are announced: `<component>/<mapping>`."""

FILE, REDIS, BOTH = "file", "redis", "both"
READS, WRITES = "reads", "writes"

ALIVE_MS = 10_000
"""Milliseconds after its last heartbeat in which a component's worker counts as alive."""


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
        """Makes the modes of a component after a switch of this side, as `bridge:components` will hold them."""
        reads, writes = (to, self.writes) if side == READS else (self.reads, to)
        return ComponentModes(reads, writes, self.epoch + 1)

    def to_json(self) -> bytes:
        """Makes the JSON of a component's modes, as the hash `bridge:components` holds it, without a switch."""
        return json.dumps({"reads": self.reads, "writes": self.writes, "epoch": self.epoch}).encode()

    @classmethod
    def from_json(cls, raw: bytes | None) -> ComponentModes:
        """Parses a component's modes from the hash `bridge:components`; None: the component was never switched.

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
    return BridgeError(f"says {said}, which names no side", where=COMPONENTS.decode(), hint=hint)


def field_of(component: str, mapping: str) -> bytes:
    """Makes the field of a component and a mapping in the Redis hash `bridge:components`."""
    return f"{component}/{mapping}".encode()


_NOW = b"""local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local raw = redis.call('HGET', KEYS[1], ARGV[1])
local said = raw and cjson.decode(raw) or {reads = 'file', writes = 'file', epoch = 0}
if said.switch and tonumber(said.switch['until']) <= now then
  said.switch = nil
  raw = cjson.encode(said)
  redis.call('HSET', KEYS[1], ARGV[1], raw)
  redis.call('PUBLISH', KEYS[1], ARGV[1])
end
"""
"""The beginning of every script on the hash `bridge:components`: a switch that has lapsed is removed."""

LOOK_SCRIPT = _NOW + b"return {raw or false, now}"

BEGIN = (
    _NOW
    + b"""if said.switch or said.epoch ~= tonumber(ARGV[2]) then return raw or false end
said.switch = {token = ARGV[3], side = ARGV[4], to = ARGV[5], who = ARGV[6],
  ['until'] = string.format('%.0f', now + ARGV[7])}
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(said))
redis.call('PUBLISH', KEYS[1], ARGV[1])
return cjson.encode(said)"""
)

HOLD = (
    _NOW
    + b"""if not said.switch or said.switch.token ~= ARGV[2] then return 0 end
said.switch['until'] = string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(said))
return 1"""
)

GIVE_UP = (
    _NOW
    + b"""if not said.switch or said.switch.token ~= ARGV[2] then return 0 end
said.switch = nil
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(said))
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1"""
)

FLIP = (
    _NOW
    + b"""if not said.switch or said.switch.token ~= ARGV[2] then return 'lapsed' end
if ARGV[6] ~= '' then
  local found = false
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[3])) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == ARGV[6] then
      if facts['last-delivered-id'] ~= ARGV[7] or facts['pending'] ~= tonumber(ARGV[8]) then return 'moved' end
      found = true
    end
  end
  if not found then return 'moved' end
  redis.call('XGROUP', 'DESTROY', KEYS[3], ARGV[6])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], ARGV[4], ARGV[5]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 'flipped'"""
)


def packed_look(component: str, mapping: str) -> bytes:
    """Packs the command that asks Redis for a component's modes; `seen` parses its answer."""
    return pack("EVAL", LOOK_SCRIPT, 1, COMPONENTS, field_of(component, mapping))


def modes_from_reply(reply: Reply) -> tuple[ComponentModes, int]:
    """Parses Redis's answer to `packed_look`: a component's modes, and the server's time in ms since 1970."""
    return ComponentModes.from_json(reply[0]), int(reply[1])


def read_modes(connection: Connection, component: str, mapping: str) -> tuple[ComponentModes, int]:
    """Asks Redis for a component's modes in `bridge:components`, and the server's time in milliseconds since 1970."""
    return modes_from_reply(connection.calls(packed_look(component, mapping))[0])


def all_modes(connection: Connection) -> dict[tuple[str, str], ComponentModes]:
    """Reads the modes of all components and mappings from `bridge:components`; values that are none are left out."""
    stored = paired(connection.call("HGETALL", COMPONENTS))
    found = {}
    for name, raw in stored.items():
        component, _, mapping = name.decode(errors="replace").partition("/")
        with contextlib.suppress(BridgeError):  # `look` tells what is wrong with it
            found[component, mapping] = ComponentModes.from_json(raw)
    return found


def named_in(connection: Connection, mapping: str) -> set[str]:
    """Lists the components that have a field for this mapping in the hash `bridge:components`, valid or not."""
    names = (name.decode(errors="replace").partition("/") for name in connection.call("HKEYS", COMPONENTS))
    return {component for component, _, its in names if its == mapping}


def begin(
    connection: Connection, component: str, mapping: str, epoch: int, switch: SwitchInProgress, hold_ms: int
) -> tuple[bool, ComponentModes]:
    """Announces a component's switch in `bridge:components`, if none is under way and its epoch is still `epoch`.

    Returns whether it did, and the modes as they are now. The switch holds for `hold_ms` milliseconds; the component
    pauses meanwhile.
    """
    raw = connection.call(
        "EVAL", BEGIN, 1, COMPONENTS, field_of(component, mapping), epoch, switch.token, switch.side, switch.to,
        switch.who, hold_ms,
    )  # fmt: skip
    modes = ComponentModes.from_json(raw)
    return modes.switch is not None and modes.switch.token == switch.token, modes


def hold(connection: Connection, component: str, mapping: str, token: str, hold_ms: int) -> bool:
    """Prolongs a component's switch in `bridge:components` by so many ms; False: Redis does not know it any more."""
    return bool(connection.call("EVAL", HOLD, 1, COMPONENTS, field_of(component, mapping), token, hold_ms))


def give_up(connection: Connection, component: str, mapping: str, token: str) -> bool:
    """Takes a component's unfinished switch out of `bridge:components`; False: it is not under way any more."""
    return bool(connection.call("EVAL", GIVE_UP, 1, COMPONENTS, field_of(component, mapping), token))


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


def make_switch(
    connection: Connection, keys: Keys, component: str, mapping: str, token: str, modes: ComponentModes,
    position: dict[str, Any] | None, group: ComponentGroup | None,
) -> str:  # fmt: skip
    """Switches a component to the other side in `bridge:components`, with its position, and says how that went.

    "flipped": done; "lapsed": no switch is under way; "moved": its group was given something meanwhile. `group` is the
    component's consumer group, as it was looked at. It is destroyed, if nobody was given or acknowledged anything
    since.
    """
    last, count = (format_id(group.last), len(group.pending)) if group is not None else (b"", 0)
    return bytes(connection.call(
        "EVAL", FLIP, 3, COMPONENTS, keys.positions, keys.stream, field_of(component, mapping), token, modes.to_json(),
        component, "" if position is None else json.dumps(position), component if group is not None else "", last,
        count,
    )).decode()  # fmt: skip


def announced_positions(connection: Connection, keys: Keys) -> dict[str, dict[str, Any]]:
    """Reads from Redis the positions that components and their workers announce, by `<component>[/<worker>]`.

    Values that are no JSON objects are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, raw in paired(connection.call("HGETALL", keys.positions)).items():
        try:
            said = json.loads(raw)
        except ValueError:
            continue
        if isinstance(said, dict):
            found[name.decode(errors="replace")] = said
    return found


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
