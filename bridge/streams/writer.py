"""Writes batches of entries to a stream: the entries and the cursor behind them in one transaction (DESIGN §6.1).

WATCH and read the cursor; MULTI, the XADDs, a guard script that sets the cursor only if the stream's last entry is this
batch's; EXEC. A reply that is lost leaves nothing to guess: the next connection reads the cursor. An EXEC of an older
connection that arrives late finds the watched key changed, or makes this connection's EXEC find it so.

Only EXEC has to wait for what was read under WATCH. So in a backlog all the rest of a batch is sent while the batch
before it is executed; and WATCH and the reads for a batch travel with the EXEC before it, so that they are answered
together and the server is never idle. In quiet times a batch takes one round trip.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from bridge.core.errors import RedisRefused
from bridge.core.model import ZERO_ID, EntryId, format_id, parse_id
from bridge.streams.connect import Connection, Refusal, Reply, refused
from bridge.streams.keys import Keys
from bridge.streams.layout import ownership
from bridge.streams.notice import packed_notice
from bridge.streams.reader import to_info
from bridge.streams.resp import pack

GUARD = b"""local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then return 0 end
local fields = last[2]
for i = 1, #fields, 2 do
  if fields[i] == 'origin' and fields[i + 1] == ARGV[1] then
    for j = 2, #ARGV, 2 do
      redis.call('HSET', KEYS[2], ARGV[j], string.sub(ARGV[j + 1], 1, -2) .. ',"entry":"' .. last[1] .. '"}')
    end
    return 1
  end
end
return 0"""


REFILLED, RETRIED, REPAIRED = b'{"why":"refill"}', b'{"why":"retry"}', b'{"why":"repair"}'
REWRITTEN = b'{"why":"rewrite"}'
"""The reasons in `bridge:{S}:late` for which an origin or an entry ID stands out of order."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A cursor that a batch of the stream writer moves: a field of the Redis hash `key`, to `value`.

    `key` is the checkpoint's, or a closed generation's; a line from quarantine sets its mark in `late` instead. `value`
    is a JSON object; with entries the guard adds `entry`, the ID of the batch's last one.
    """

    key: bytes
    field: bytes
    value: bytes

    def stored(self, last: EntryId | None) -> bytes:
        """Returns the value that Redis holds of a cursor after a batch with this last entry; None: with no entries."""
        return self.value if last is None else self.value[:-1] + b',"entry":"%d-%d"}' % last


@dataclass(frozen=True, slots=True)
class Transaction:
    """A batch of the stream writer for one transaction: packed XADDs, their count, the last origin, and the cursors.

    The cursors are all of one key. `watch_stream` is for explicit IDs: the stream must not hold an ID above `first_ms`,
    and nobody may write meanwhile. `closing` holds fields of the generations hash that are set alongside, `late`
    origins that stand out of order.
    """

    cursors: tuple[Cursor, ...]
    packed: bytes = b""
    count: int = 0
    last_origin: bytes = b""
    watch_stream: bool = False
    first_ms: int = 0
    closing: tuple[tuple[bytes, bytes], ...] = ()
    late: tuple[bytes, ...] = ()
    why_late: bytes = REFILLED

    @property
    def arm(self) -> Watch:
        """The WATCH that a transaction of the stream writer has to be sent under."""
        return Watch(self.cursors[0].key, tuple(cursor.field for cursor in self.cursors), self.watch_stream)


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch of the stream writer that is in the stream: first and last entry ID, None when it held no entries.

    `behind`: the stream's last ID before it, so that all entries from there to `last` are this batch's; None: others
    may have written between.
    """

    first: EntryId | None
    last: EntryId | None
    count: int
    behind: EntryId | None = None


class Watch(NamedTuple):
    """The writer's WATCH for a batch: the cursors that are read under it, and whether the stream is watched too."""

    key: bytes
    fields: tuple[bytes, ...]
    watches_stream: bool

    def serves(self, wanted: Watch) -> bool:
        """Whether a batch that needs the WATCH `wanted` can be sent under this one, if other cursors are read again."""
        return self.key == wanted.key and self.watches_stream >= wanted.watches_stream


@dataclass(frozen=True, slots=True)
class Watched:
    """The values that the writer read under WATCH: stored cursors, owner and nonce of `meta`, the stream's last ID."""

    stored: tuple[bytes | None, ...]
    holder: tuple[bytes | None, ...]
    last_id: EntryId


class Conflict(Exception):
    """The writer's EXEC answered nil, or a cursor was not where it was left: somebody else wrote.

    Reconnect and compare.
    """


FULL = (1 << 64) - (1 << 32)
"""The sequence number above which the writer takes a millisecond to be full."""


class StaleId(Exception):
    """The stream holds entries newer than an explicit ID of the writer's batch, up to `last`.

    Nothing was sent: pack the batch again.
    """

    def __init__(self, last: EntryId) -> None:
        super().__init__(last)
        self.last = last


class StreamWriter:
    """Writes batches to a stream over one connection: `stage` the next, `finish` the one before, `execute` the staged.

    `holder`: the ledger that owns the stream, and the nonce of the process that carries it.
    """

    def __init__(self, connection: Connection, keys: Keys, holder: tuple[bytes, bytes]) -> None:
        self._connection = connection
        self._keys = keys
        self._holder = holder
        self._arm: Watch | None = None
        self._armed: Watched | None = None
        self._read_again: Watch | None = None
        self._staged: Transaction | None = None
        self._executed: Transaction | None = None
        self._behind: EntryId | None = None
        self._unsent: list[bytes] = []
        self._owed = 0

    def stage(self, batch: Transaction) -> None:
        """Sends the transaction of a batch but for EXEC; the batch before it may still be under way."""
        cursors, keys = batch.cursors, self._keys
        wanted, commands = batch.arm, []
        if self._arm is None or not self._arm.serves(wanted):
            if self._executed is not None:
                raise AssertionError("finish the batch under way first: it arms another cursor")
            commands.append(self._arming(wanted))
        elif self._arm.fields != wanted.fields:
            self._read_again = Watch(wanted.key, wanted.fields, self._arm.watches_stream)
            commands.append(self._reads(self._read_again))
        commands += [pack("MULTI"), batch.packed]
        values = [part for cursor in cursors for part in (cursor.field, cursor.value)]
        if batch.count:
            commands.append(pack("EVAL", GUARD, 2, keys.stream, wanted.key, batch.last_origin, *values))
        else:
            commands.append(pack("HSET", wanted.key, *values))
        commands += [pack("HSET", keys.generations, name, value) for name, value in batch.closing]
        if batch.late:
            commands.append(
                pack("HSET", keys.late, *(part for origin in batch.late for part in (origin, batch.why_late)))
            )
        self._staged = batch
        self._connection.send(b"".join(commands))

    def stages(self, batch: Transaction) -> bool:
        """Whether the stream writer may stage this batch now, perhaps while another is under way."""
        return self._executed is None or (self._arm is not None and self._arm.serves(batch.arm))

    def execute(self, expected: tuple[bytes | None, ...]) -> None:
        """Sends EXEC for the staged batch, if the cursors are as `expected` and this process carries the stream.

        The cursors are watched and read again in the same write, for the batch after it. Raises Conflict when one is
        another, StaleId when an explicit ID would stand below another producer's entry.
        """
        batch, self._staged = self._staged, None
        if batch is None:
            raise AssertionError("nothing is staged")
        armed = self._read_armed()
        if self._read_again is not None:
            self._arm, self._read_again = self._read_again, None
            armed = self._armed = self._read_reads(self._arm)
        if armed.stored != expected or armed.holder != self._holder:
            raise Conflict
        if batch.watch_stream and armed.last_id >= (batch.first_ms, FULL):
            self._connection.send(pack("DISCARD"))
            self._read_queued(batch)
            self._connection.read_small()
            self._arm = self._armed = None
            raise StaleId(armed.last_id)
        self._executed, self._armed = batch, None
        self._behind = armed.last_id if batch.watch_stream else None
        again = self._arming(batch.arm)
        self._connection.send(b"".join((pack("EXEC"), again, *self._waiting())))

    def finish(self) -> Committed:
        """Waits until the executed batch has landed in the stream, and returns its IDs.

        Raises Conflict, RedisRefused, RedisLost; then discard the connection.
        """
        batch, self._executed = self._executed, None
        if batch is None:
            raise AssertionError("nothing is under way")
        errors = self._read_queued(batch)
        extra = len(batch.closing) + bool(batch.late)
        lines = None if errors else self._connection.read_array_lines(batch.count, 1 + extra)
        landed = None
        if lines is not None and batch.count and lines[2 * batch.count + 1] == b":1":
            first, last = parse_id(lines[2]), parse_id(lines[2 * batch.count])
            landed = Committed(first, last, batch.count, self._behind)
        elif lines is not None and not batch.count:
            landed = Committed(None, None, 0)
        if landed is not None:
            self._read_armed()
            return landed
        result: Reply = errors or lines or self._connection.read_small()
        if result is None:
            raise Conflict
        for reply in result if isinstance(result, list) else [result]:
            if isinstance(reply, Refusal):
                raise refused(reply, self._keys.stream.decode(errors="replace"))
        raise RedisRefused("the guard found another entry at the stream's end", code="GUARD")

    def rest(self, cursor: Cursor | None) -> None:
        """Sends the stream writer's unsent commands, as no batch follows now, and arms a WATCH on `cursor` for later.

        The stream is not watched meanwhile: others write into it.
        """
        arming = b""
        if cursor is not None and self._arm != Watch(cursor.key, (cursor.field,), False):
            arming = self._arming(Watch(cursor.key, (cursor.field,), False))
        if arming or self._unsent:
            self._connection.send(b"".join((arming, *self._waiting())))
            self.quiet()

    def quiet(self) -> None:
        """Sends the stream writer's unsent commands and reads all replies, so that its connection is free."""
        if self._unsent:
            self._connection.send(b"".join(self._waiting()))
        if self._arm is not None:
            self._read_armed()
        self._settle()

    def publish(self, channel: bytes, landed: Committed) -> None:
        """Announces on a channel a batch that the writer has landed, best effort, with the next write.

        The reply is not looked at.
        """
        if landed.first is None or landed.last is None:
            return
        word = json.dumps({
            "stream": self._keys.stream.decode(errors="replace"), "first": format_id(landed.first).decode(),
            "last": format_id(landed.last).decode(), "count": landed.count,
        })  # fmt: skip
        self._unsent.append(packed_notice(self._connection, self._keys, channel, word))

    def _waiting(self) -> list[bytes]:
        """Takes the writer's unsent commands, which go out with the next write; their replies are read later."""
        waiting, self._unsent = self._unsent, []
        self._owed += len(waiting)
        return waiting

    def _settle(self) -> None:
        for _ in range(self._owed):
            self._connection.read_small()
        self._owed = 0

    def _read_queued(self, batch: Transaction) -> list[Refusal]:
        queued = batch.count + 1 + len(batch.closing) + bool(batch.late)
        return self._connection.read_expected(b"+OK\r\n" + b"+QUEUED\r\n" * queued, queued + 1)

    def _arming(self, arm: Watch) -> bytes:
        """Packs the writer's UNWATCH, WATCH and reads of the cursors for a batch.

        UNWATCH comes first, as less may have to be watched than before; the reads come after the WATCH, so they hold.
        """
        keys = self._keys
        watched = (keys.meta, keys.checkpoint, keys.generations) + ((keys.stream,) if arm.watches_stream else ())
        watched += (arm.key,) if arm.key not in watched else ()
        self._arm, self._armed, self._read_again = arm, None, None
        return pack("UNWATCH") + pack("WATCH", *watched) + self._reads(arm)

    def _reads(self, arm: Watch) -> bytes:
        reads = pack("HMGET", arm.key, *arm.fields) + pack("HMGET", self._keys.meta, "owner", "nonce")
        if arm.watches_stream:  # the last entry may have been deleted: only XINFO knows which ID the next must exceed
            reads += pack("XINFO", "STREAM", self._keys.stream)
        return reads

    def _read_armed(self) -> Watched:
        """Returns what the stream writer read under its last WATCH, or read again since, reading replies if it must.

        The replies to whatever was sent along with the WATCH are read as well.
        """
        if self._armed is None:
            if self._arm is None:
                raise AssertionError("not armed")
            for reply in (self._connection.read_small(), self._connection.read_small()):
                if isinstance(reply, Refusal):
                    raise refused(reply, self._keys.stream.decode(errors="replace"))
            self._armed = self._read_reads(self._arm)
            self._settle()
        return self._armed

    def _read_reads(self, arm: Watch) -> Watched:
        stored, holder = self._connection.read_small(), self._connection.read_small()
        for reply in (stored, holder):
            if isinstance(reply, Refusal):
                raise refused(reply, self._keys.stream.decode(errors="replace"))
        last = to_info(self._connection.read_small(), self._keys.stream).last_id if arm.watches_stream else ZERO_ID
        return Watched(tuple(stored), tuple(holder), last)


_CLAIM = b"""local owner = redis.call('HGET', KEYS[1], 'owner')
if owner then return owner end
redis.call('HSET', KEYS[1], unpack(ARGV))
return redis.call('HGET', KEYS[1], 'owner')"""


def claim(connection: Connection, keys: Keys, ledger: bytes, instance: str) -> bytes:
    """Makes the ledger of this UUID the owner of a stream in `bridge:{S}:meta` if the stream has none.

    Returns the owner. Raises RedisRefused, RedisLost.
    """
    fields = ownership(keys, ledger, instance)
    return bytes(connection.call("EVAL", _CLAIM, 1, keys.meta, *fields))
