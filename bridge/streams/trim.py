"""Trims a stream on purpose: sets the floor first, then removes what stands below it, a few stream nodes at a time.

The floor is the ID below which entries were trimmed on purpose: who compares or fills again looks at nothing below it,
be it gone yet or not. So a trim that dies in between is finished by whoever comes next.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bridge.core.model import ZERO_ID, EntryId, Position, after, before, format_id, parse_id
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.layout import owner_of
from bridge.streams.lease import writing
from bridge.streams.reader import RidingCommand, StreamInfo, groups_of, to_entries
from bridge.streams.resp import pack
from bridge.streams.stream_metadata import StreamMetadata, read_stream
from bridge.streams.validation import parsed

STEP = 1000
"""Entries that one trim command removes, at most: under a millisecond of the server's time."""

# The script that sets the floor also looks for entries that a consumer group still needs: a group may have been made,
# or set back, since anybody looked.
_SET = b"""local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  return less(ams, bms) or (ams == bms and less(aseq, bseq))
end
local owner = redis.call('HGET', KEYS[4], 'owner')
if owner ~= ARGV[1] and owner ~= ARGV[7] then return {'owner'} end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return {'moved'} end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local facts = {}
  for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
  local last, from = facts['last-delivered-id'], ARGV[2] == '' and '-' or ARGV[2]
  local pending = redis.call('XPENDING', KEYS[1], facts['name'], from, ARGV[4], 1)[1]
  if pending then return {'pending', facts['name'], pending[1]} end
  local fresh = (from == '-' or not before(last, from)) and '(' .. last or from
  local unread = redis.call('XRANGE', KEYS[1], fresh, ARGV[4], 'COUNT', 1)[1]
  if unread then return {'unread', facts['name'], unread[1]} end
end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[3], 'origins', ARGV[5], 'base', ARGV[6])
return {'set'}"""

_STEP = b"""local floor = redis.call('GET', KEYS[2])
if not floor then return 0 end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local facts = {}
  for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
  local pending = redis.call('XPENDING', KEYS[1], facts['name'], '-', '(' .. floor, 1)[1]
  if pending and redis.call('XRANGE', KEYS[1], pending[1], pending[1])[1] then return {facts['name'], pending[1]} end
end
local gone = redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', ARGV[1])
if gone == 0 and ARGV[2] ~= '' then gone = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2]) end
if gone > 0 then redis.call('HINCRBY', KEYS[3], 'count', gone) end
return gone"""


class TrimmedSource(NamedTuple):
    """The trimmed lines of one source: mirrored ones before `stays`, its own up to `low`, and those at `beyond`.

    The sides interleave differently: `low` is before `stays`, and behind that stand some whose entries went earlier.
    """

    low: Position | None
    beyond: tuple[Position, ...] = ()
    stays: Position | None = None

    @classmethod
    def of(cls, positions: Iterable[Position], stays: Position | None, end: Position | None = None) -> TrimmedSource:
        """Sums up the positions of a source's own lines that a trim removed.

        `stays`: the first mirrored line that stays; None: all went up to `end`.
        """
        low = [position for position in positions if stays is None or position < stays]
        beyond = sorted(position for position in positions if stays is not None and position >= stays)
        return cls(max(low, default=None), tuple(beyond), stays if stays is not None else end)

    def has(self, at: Position) -> bool:
        """Whether the line at this position was trimmed, if no entry that stands claims it."""
        own = self.low is not None and at <= self.low
        return own or (self.stays is not None and at < self.stays) or at in self.beyond

    @property
    def positions(self) -> list[Position]:
        """All positions of a source's own trimmed lines that are named: `low`, and `beyond`."""
        return [*([self.low] if self.low is not None else []), *self.beyond]


@dataclass(frozen=True, slots=True)
class TrimState:
    """The trim state of a stream: all below `floor` was trimmed on purpose (0-0: nothing), `count` entries so far.

    `origins`: which lines of each source, by number, went with their entries. `base`: the position on both sides that
    the floor stands for, as parity noted it; None of a stream whose files have no order.
    """

    floor: EntryId = ZERO_ID
    count: int = 0
    origins: Mapping[int, TrimmedSource] = field(default_factory=dict)
    base: dict[str, Any] | None = None

    def origins_json(self) -> str:
        """Makes the JSON of each source's trimmed lines, as Redis and the ledger keep it."""
        return json.dumps(
            {str(number): [origin.low, origin.beyond, origin.stays] for number, origin in self.origins.items()}
        )

    def base_json(self) -> str:
        """Makes the JSON of the position that a trim floor stands for, as Redis and the ledger keep it; empty: none."""
        return json.dumps(self.base) if self.base is not None else ""

    @classmethod
    def of(cls, floor: bytes | None, count: bytes | None, origins: bytes | None, base: bytes | None) -> TrimState:
        """Parses a stream's trim state from what Redis or the ledger keep. Raises ValueError for what is none."""
        ends = {
            int(number): TrimmedSource(_place(low), tuple(Position(*at) for at in beyond), _place(stays))
            for number, (low, beyond, stays) in json.loads(origins or b"{}").items()
        }
        return cls(parse_id(floor) if floor else ZERO_ID, int(count or 0), ends, json.loads(base) if base else None)


def read_trimmed(connection: Connection, keys: Keys) -> TrimState:
    """Reads the trim state of a stream from Redis. Raises RedisLost, RedisRefused."""
    return _trimmed(keys, *connection.calls(pack("GET", keys.floor), _facts_of(keys)))


def read_all(connection: Connection, keys: Keys) -> tuple[StreamInfo, StreamMetadata, TrimState]:
    """Reads, at one moment, what `read_stream` does of a stream, and its trim state; `meta` is watched from there on.

    Raises as `read_stream` does.
    """
    beside = RidingCommand(_facts_of(keys))
    info, books = read_stream(connection, keys, beside)
    return info, books, _trimmed(keys, format_id(books.floor) if books.floor else None, beside.reply)


def _facts_of(keys: Keys) -> bytes:
    return pack("HMGET", keys.trimmed, "count", "origins", "base")


def _trimmed(keys: Keys, floor: bytes | None, rest: list[bytes | None]) -> TrimState:
    parsed(keys.floor, floor or b"", lambda: parse_id(floor) if floor else ZERO_ID)
    return parsed(keys.trimmed, b" ".join(part or b"" for part in rest), lambda: TrimState.of(floor, *rest))


def _place(at: list[int] | None) -> Position | None:
    return Position(*at) if at else None


@dataclass(frozen=True, slots=True)
class HoldingGroup:
    """A consumer group that holds up a trim, as the entry `first` is pending or was not delivered to it yet."""

    group: str
    first: EntryId
    pending: bool


class FloorConflict(Exception):
    """The trim floor cannot be set: somebody else set it meanwhile, or took the stream over."""


def set_floor(
    connection: Connection, keys: Keys, owner: bytes, now: TrimState, upto: EntryId, then: TrimState
) -> HoldingGroup | None:
    """Sets a stream's trim floor behind `upto`, unless a consumer group still needs an entry up to there.

    Returns that group, else None. Raises FloorConflict where the floor is not `now`'s any more or the stream another's,
    RedisLost, RedisRefused.
    """
    expected = format_id(now.floor) if now.floor > ZERO_ID else b""
    reply = connection.call(
        "EVAL", _SET, 4, keys.stream, keys.floor, keys.trimmed, keys.meta, owner, expected, after(upto),
        format_id(upto), then.origins_json(), then.base_json(), owner_of(owner),
    )  # fmt: skip
    if reply[0] in (b"owner", b"moved"):
        raise FloorConflict
    if reply[0] == b"set":
        return None
    return HoldingGroup(reply[1].decode(errors="replace"), parse_id(reply[2]), reply[0] == b"pending")


def put_floor(connection: Connection, keys: Keys, now: TrimState, nonce: str) -> bool:
    """Writes a trim floor and the trim state into Redis in one go, for a stream that begins anew.

    Returns False where the process of this nonce does not carry the stream. Raises RedisLost, RedisRefused.
    """
    facts = ("count", now.count, "origins", now.origins_json(), "base", now.base_json())
    replies = connection.calls(
        pack("MULTI"), writing(keys, nonce, "SET", keys.floor, format_id(now.floor)),
        writing(keys, nonce, "HSET", keys.trimmed, *facts), pack("EXEC"),
    )[-1]  # fmt: skip
    for reply in replies or ():
        if isinstance(reply, Refusal):
            raise refused(reply, keys.stream.decode(errors="replace"))
    return bool(replies and all(replies))


def groups_hold(connection: Connection, keys: Keys, floor: EntryId) -> list[HoldingGroup]:
    """Lists the consumer groups that hold up a trim behind the floor, each with the first entry that it needs."""
    held = []
    for group in groups_of(connection, keys.stream):
        last = max(group.last, before(floor))
        pending, unread = connection.calls(
            pack("XPENDING", keys.stream, group.name, format_id(floor), "+", 1),
            pack("XRANGE", keys.stream, after(last), "+", "COUNT", 1),
        )
        first = [(parse_id(rows[0][0]), rows is pending) for rows in (pending, unread) if rows]
        if first:
            held.append(HoldingGroup(group.name.decode(errors="replace"), *min(first)))
    return held


def step(connection: Connection, keys: Keys) -> int | HoldingGroup:
    """Trims about `STEP` entries that stand below the floor; returns how many. 0: at most a part of a node is left.

    A consumer group that was made since and was given one of them holds them all, and is returned. Raises RedisLost,
    RedisRefused.
    """
    gone = connection.call("EVAL", _STEP, 3, keys.stream, keys.floor, keys.trimmed, STEP, "")
    if isinstance(gone, list):
        return HoldingGroup(gone[0].decode(errors="replace"), parse_id(gone[1]), pending=True)
    floor = connection.call("GET", keys.floor)
    if gone or floor is None:
        return int(gone)
    rows = connection.call("XRANGE", keys.stream, "-", b"(" + floor, "COUNT", STEP)
    if len(rows) < STEP:
        return 0
    exactly = after(parse_id(rows[-1][0]))  # `~` with LIMIT leaves a node of more entries alone
    gone = connection.call("EVAL", _STEP, 3, keys.stream, keys.floor, keys.trimmed, STEP, exactly)
    return gone if isinstance(gone, int) else 0


def cut(connection: Connection, keys: Keys) -> HoldingGroup | None:
    """Trims exactly what stands below the stream's floor, so that an archive ends where the stream begins.

    Returns the consumer group that still needs some of it, and holds it; None: nothing stands there. Raises RedisLost,
    RedisRefused.
    """
    floor = connection.call("GET", keys.floor)
    while floor is not None and connection.call("XRANGE", keys.stream, "-", b"(" + floor, "COUNT", 1):
        gone = connection.call("EVAL", _STEP, 3, keys.stream, keys.floor, keys.trimmed, STEP, floor)
        if isinstance(gone, list):
            return HoldingGroup(gone[0].decode(errors="replace"), parse_id(gone[1]), pending=True)
    return None


def trimmed_to(connection: Connection, keys: Keys, info: StreamInfo) -> EntryId:
    """Returns the ID of the first entry in a stream from which some entries were trimmed; 0-0: none were."""
    if info.added <= info.length:
        return ZERO_ID
    first = to_entries(connection.call("XRANGE", keys.stream, "-", "+", "COUNT", 1))
    return first[0].id if first else ZERO_ID
