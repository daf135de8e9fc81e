"""Reads streams: blocking after a cursor, forwards, backwards, by ID; and what the server knows about a stream."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bridge.core.errors import RedisLost
from bridge.core.model import (
    ORIGIN_FIELD,
    ZERO_ID,
    EntryId,
    Origin,
    after,
    before,
    format_id,
    parse_id,
    parse_ids,
    parse_origin,
)
from bridge.streams.connect import Connection, Refusal, Reply, refused
from bridge.streams.keys import Keys
from bridge.streams.resp import pack

READER_PAGE_BYTES, AT_ONCE = 1 << 20, 500
"""About how many bytes a page of entries has; and how many entries the reader asks for by their IDs at once."""


class Entry(NamedTuple):
    """An entry of a stream as the reader has it: its ID, and field, value, field, value … as they stand."""

    id: EntryId
    fields: list[bytes]

    def origin(self) -> bytes | None:
        """The value of an entry's `origin` field, which the bridge writes last; None for a Redis-born entry."""
        names = self.fields[0::2]
        return self.fields[2 * names.index(ORIGIN_FIELD) + 1] if ORIGIN_FIELD in names else None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The facts about a stream from XINFO STREAM; a stream that does not exist has last ID 0-0 and 0 added.

    `first_id` is its oldest entry's, 0-0 when it holds none.
    """

    last_id: EntryId
    added: int
    length: int
    first_id: EntryId = ZERO_ID
    deleted: EntryId = ZERO_ID
    """The highest ID of the entries that were deleted or trimmed."""

    @property
    def exists(self) -> bool:
        """Whether anything was ever added to the stream."""
        return self.last_id > ZERO_ID


def stream_info(connection: Connection, stream: bytes) -> StreamInfo:
    """Asks the server for the facts about a stream (XINFO STREAM).

    Raises RedisRefused (WRONGTYPE): the key is no stream.
    """
    connection.send(pack("XINFO", "STREAM", stream))
    return to_info(connection.read(), stream)


def to_info(reply: Reply, stream: bytes) -> StreamInfo:
    """Turns an XINFO STREAM reply into the facts about a stream; "no such key" is an answer, not an error."""
    if isinstance(reply, Refusal):
        if "no such key" in str(reply):
            return StreamInfo(ZERO_ID, 0, 0)
        raise refused(reply, stream.decode(errors="replace"))
    facts = dict(zip(reply[0::2], reply[1::2], strict=True))
    last, added, first = (
        parse_id(facts[b"last-generated-id"]),
        int(facts.get(b"entries-added", 0)),
        facts[b"first-entry"],
    )
    deleted = parse_id(facts.get(b"max-deleted-entry-id", b"0-0"))
    return StreamInfo(last, added, int(facts[b"length"]), parse_id(first[0]) if first else ZERO_ID, deleted)


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """The memory of a Redis server: bytes in use, `maxmemory` (0: no limit), the machine's (0: not told), policy."""

    used: int
    limit: int
    system: int
    policy: str


class GroupInfo(NamedTuple):
    """A consumer group of a stream, as XINFO GROUPS has it. `lag` is None where the server cannot tell it."""

    name: bytes
    last: EntryId
    pending: int
    consumers: int
    lag: int | None


def groups_of(connection: Connection, stream: bytes) -> list[GroupInfo]:
    """Reads the consumer groups of a stream; none where it does not exist. Raises RedisLost, RedisRefused."""
    connection.send(pack("XINFO", "GROUPS", stream))
    groups = connection.read()
    if isinstance(groups, Refusal):
        if "no such key" in str(groups):
            return []
        raise refused(groups, stream.decode(errors="replace"))
    found = []
    for group in groups:
        facts = dict(zip(group[0::2], group[1::2], strict=True))
        lag, last = facts.get(b"lag"), parse_id(facts[b"last-delivered-id"])
        found.append(GroupInfo(facts[b"name"], last, int(facts[b"pending"]), int(facts[b"consumers"]), lag))
    return found


def server_info(connection: Connection, *sections: str) -> dict[str, str]:
    """Reads sections of the Redis server's INFO as facts by name. Raises RedisLost, RedisRefused."""
    text = connection.call("INFO", *sections).decode(errors="replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def room(connection: Connection) -> ServerMemory:
    """Reads from INFO the memory of the Redis server. Raises RedisLost, RedisRefused."""
    facts = server_info(connection, "memory")
    return ServerMemory(
        int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0)), int(facts.get("total_system_memory", 0)),
        facts.get("maxmemory_policy", ""),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Durability:
    """How durably a Redis server keeps its data: append-only file or not, eviction, and failing saves.

    `evicts` is the policy by which it may throw keys away; empty: none.
    """

    aof: bool
    evicts: str
    failing: str


def durability(connection: Connection) -> Durability:
    """Reads from INFO how durably the Redis server keeps its data. Raises RedisLost, RedisRefused."""
    memory, facts = room(connection), server_info(connection, "persistence")
    statuses = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    failing = [f"{name} is {facts[name]}" for name in statuses if facts.get(name, "ok") != "ok"]
    evicts = memory.policy if memory.limit and memory.policy != "noeviction" else ""
    return Durability(facts.get("aof_enabled") == "1", evicts, ", ".join(failing))


def to_entries(rows: Reply) -> list[Entry]:
    """Turns an XRANGE reply into entries; an entry that was deleted while it was read has no fields and is left out."""
    whole = [row for row in rows or () if row[1] is not None]
    return list(map(Entry, parse_ids([row[0] for row in whole]), [row[1] for row in whole]))


@dataclass(slots=True)
class RidingCommand:
    """A packed command that the reader sends along with the request for each page of a stream.

    `reply` is its answer, as of just after the page was read.
    """

    command: bytes
    reply: Reply = None


def pages(
    connection: Connection, stream: bytes, start: bytes, end: bytes, page: int, *, most_bytes: int = 0,
    beside: RidingCommand | None = None,
) -> Generator[list[Reply], None, None]:  # fmt: skip
    """Reads a stream in pages, XRANGE replies of `page` entries at most.

    The next page is asked for before this one is looked at, so that the server works meanwhile; the connection is of no
    other use until the iteration is over. A page has about `most_bytes` at most (a megabyte, where none are said):
    where entries are long, it has fewer. `beside` is sent along with each request.
    """
    budget, most_bytes = connection.budget, most_bytes or READER_PAGE_BYTES
    asked, also = budget.first(page), beside.command if beside else b""

    def read() -> Reply:
        try:
            rows = connection.read()
            if beside is not None:
                beside.reply = connection.read()
        except RedisLost as error:
            raise budget.lost(asked, error) from None
        return rows

    connection.send(pack("XRANGE", stream, start, end, "COUNT", asked) + also)
    owed = True
    try:
        while owed:
            begun = connection.received
            rows, owed = read(), False
            if isinstance(rows, Refusal):
                raise refused(rows, stream.decode(errors="replace"))
            if len(rows) == asked:
                asked = budget.next(page, most_bytes, asked, len(rows), connection.received - begun)
                start = after(parse_id(rows[-1][0]))
                connection.send(pack("XRANGE", stream, start, end, "COUNT", asked) + also)
                owed = True
            yield rows
    finally:
        if owed:
            read()


def entries(
    connection: Connection, stream: bytes, start: bytes = b"-", end: bytes = b"+", *, page: int = 1000
) -> Iterator[Entry]:
    """Reads the entries of a stream from `start` to `end`, in order, a page at a time."""
    for rows in pages(connection, stream, start, end, page):
        yield from to_entries(rows)


def entries_back(
    connection: Connection, stream: bytes, end: bytes = b"+", start: bytes = b"-", *, page: int = 200
) -> Iterator[Entry]:
    """Reads the entries of a stream from `end` back to `start`, newest first, a page at a time."""
    budget = connection.budget
    asked = budget.first(page)
    while True:
        begun = connection.received
        try:
            rows = connection.call("XREVRANGE", stream, end, start, "COUNT", asked)
        except RedisLost as error:
            raise budget.lost(asked, error) from None
        yield from to_entries(rows)
        if len(rows) < asked:
            return
        asked = budget.next(page, READER_PAGE_BYTES, asked, len(rows), connection.received - begun)
        end = format_id(before(parse_id(rows[-1][0])))


def file_born(
    connection: Connection, stream: bytes, start: bytes = b"-", *, page: int = 1000
) -> Iterator[tuple[Entry, Origin]]:
    """Reads the file-born entries of a stream from `start` on, in order, with their origins; passes others quickly."""
    for rows in pages(connection, stream, start, b"+", page):
        for raw_id, fields in rows:
            if fields is not None and ORIGIN_FIELD in fields:
                entry = Entry(parse_id(raw_id), fields)
                raw = entry.origin()
                origin = parse_origin(raw) if raw is not None else None
                if origin is not None:
                    yield entry, origin


def origins_taken(connection: Connection, keys: Keys, origins: set[bytes]) -> set[bytes]:
    """Finds those of these origins that an entry of the stream has already. Raises RedisLost, RedisRefused."""
    return {raw for entry, _ in file_born(connection, keys.stream) if (raw := entry.origin()) in origins and raw}


def existing(connection: Connection, stream: bytes, ids: list[EntryId]) -> dict[EntryId, list[bytes]]:
    """Reads by their IDs those of these entries that stand in the stream, and returns their fields by ID."""
    standing: dict[EntryId, list[bytes]] = {}
    budget, at = connection.budget, 0
    asked = budget.first(AT_ONCE)
    while at < len(ids):
        part, begun = ids[at : at + asked], connection.received
        try:
            replies = connection.calls(*(pack("XRANGE", stream, format_id(i), format_id(i)) for i in part))
        except RedisLost as error:
            raise budget.lost(asked, error) from None
        standing.update((i, reply[0][1]) for i, reply in zip(part, replies, strict=True) if reply)
        at += len(part)
        asked = budget.next(AT_ONCE, READER_PAGE_BYTES, asked, len(part), connection.received - begun)
    return standing


class BlockingReader:
    """Reads a stream with XREAD BLOCK after a cursor: `ask`, then `answer`.

    Who carries the stream is read in the same write, so it is known as of these entries.
    """

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._owed = 0
        self._asked = 0

    @property
    def asked(self) -> bool:
        """Whether a blocking request for entries of the stream is under way."""
        return bool(self._owed)

    def ask(self, cursor: EntryId, *, count: int, block_ms: int, before: list[bytes]) -> None:
        """Asks Redis for the stream's entries after the cursor (XREAD), without waiting for them.

        `answer` waits for them up to `block_ms`, 0: takes what is there. `before` is packed commands that go out in the
        same write. The connection's timeout must exceed `block_ms`. Raises RedisLost.
        """
        count = self._asked = min(count, self._connection.budget.most)
        head: tuple[bytes | str | int, ...] = ("XREAD", "COUNT", count)
        if block_ms:
            head += ("BLOCK", block_ms)
        request = pack(*head, "STREAMS", self._keys.stream, format_id(cursor))
        self._connection.send(b"".join((*before, request, pack("HMGET", self._keys.meta, "owner", "nonce"))))
        self._owed = len(before) + 2

    def answer(self) -> tuple[list[Entry], tuple[bytes | None, bytes | None], int]:
        """Waits for the entries that the mirror's blocking read asked the stream for with `ask`, and returns them.

        With them the ledger that owns the stream and the nonce of the process that carries it, and the answer's size in
        bytes. Raises RedisRefused, RedisLost.
        """
        begun = self._connection.received
        try:
            replies = [self._connection.read() for _ in range(self._owed)]
        except RedisLost as error:
            raise self._connection.budget.lost(self._asked, error) from None
        self._owed = 0
        for reply in replies:
            if isinstance(reply, Refusal):
                raise refused(reply, self._keys.stream.decode(errors="replace"))
        (found, (owner, nonce)), size = replies[-2:], self._connection.received - begun
        entries = to_entries(found[0][1]) if found else []
        return entries, (owner, nonce), size
