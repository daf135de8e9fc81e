"""Follows a stream for a person who reads along, as `tail` does: its newest entries, and those that come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from bridge.core.config import Settings
from bridge.core.errors import RedisLost, RedisRefused
from bridge.core.model import EntryId, before, format_id, paired
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.entry_budget import EntryBudget
from bridge.streams.keys import Keys
from bridge.streams.reader import BlockingReader, Entry, entries, entries_back, stream_info
from bridge.streams.stream_news import StreamNews

FOLLOW_BLOCK_MS = 1000
PAUSES = (0.1, 0.3, 1.0)
"""Seconds between tries to connect again while a stream is followed; the last one stays."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """A filter for entries that a person follows: from ID `since` on, below ID `until`, of these roles and types.

    Empty: of any.
    """

    since: EntryId | None = None
    until: EntryId | None = None
    roles: frozenset[bytes] = frozenset()
    types: frozenset[bytes] = frozenset()

    def has(self, entry: Entry) -> bool:
        """Whether an entry passes the filter by its role and type."""
        if not (self.roles or self.types):
            return True
        values = paired(entry.fields)
        right = not self.roles or values.get(b"role") in self.roles
        return right and (not self.types or values.get(b"type") in self.types)


def newest(
    connection: Connection, stream: bytes, wanted: EntryFilter, count: int | None
) -> tuple[list[Entry], EntryId]:
    """Reads the last `count` entries (None: all) of a stream that pass the filter, oldest first, before following.

    Returns also the ID behind which new entries come. Raises RedisRefused (the key is no stream), RedisLost.
    """
    last = stream_info(connection, stream).last_id
    top = last if wanted.until is None else min(last, before(wanted.until))
    start = b"-" if wanted.since is None else format_id(wanted.since)
    if count is None:
        found = [entry for entry in entries(connection, stream, start, format_id(top)) if wanted.has(entry)]
        return found, last
    back = entries_back(connection, stream, format_id(top), start)
    return list(islice(filter(wanted.has, back), count))[::-1] if count else [], last


def follow(
    dial: Callable[[], Connection], keys: Keys, cursor: EntryId, wanted: EntryFilter, wait: Callable[[float], object],
    say: Callable[[str], None],
) -> Iterator[Entry]:  # fmt: skip
    """Follows a stream: yields its new entries behind `cursor`, without end, as far as they pass the filter.

    Where Redis is lost, it connects again and says so.
    """
    tries = 0
    while True:
        connection = None
        try:
            connection = dial()
            reader = BlockingReader(connection, keys)
            if tries:
                say("connected again")
            tries = 0
            while True:
                reader.ask(cursor, count=500, block_ms=FOLLOW_BLOCK_MS, before=[])
                for entry in reader.answer()[0]:
                    cursor = entry.id
                    if wanted.until is not None and cursor >= wanted.until:
                        return
                    if (wanted.since is None or cursor >= wanted.since) and wanted.has(entry):
                        yield entry
        except (RedisLost, RedisRefused) as error:
            if isinstance(error, RedisRefused) and error.code != "LOADING":
                raise
            if not tries:
                say(f"{error}; it is tried again")
            wait(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        finally:
            if connection is not None:
                connection.close()


def follow_all(
    settings: Settings, cursors: dict[bytes, EntryId], wanted: EntryFilter, wait: Callable[[float], object],
    say: Callable[[str], None],
) -> Iterator[tuple[bytes, Entry]]:  # fmt: skip
    """Follows several streams: yields each new entry with its stream's key, in order within the stream, without end.

    `cursors` are the entries behind which each stream is followed. Where Redis is lost, it connects again and says so.
    """
    tries, budget = 0, EntryBudget()
    while True:
        servers = Connections(settings, budget=budget)
        news = StreamNews(settings, timeout=FOLLOW_BLOCK_MS / 1000 + 10.0, budget=budget)
        try:
            while True:
                found = news.ask({stream: format_id(at) for stream, at in cursors.items()}, FOLLOW_BLOCK_MS)
                if tries:
                    say("connected again")
                tries = 0
                for stream in found:
                    start = b"(" + format_id(cursors[stream])
                    for entry in entries(servers.to(stream), stream, start):
                        cursors[stream] = entry.id
                        below = wanted.until is None or entry.id < wanted.until
                        if below and (wanted.since is None or entry.id >= wanted.since) and wanted.has(entry):
                            yield stream, entry
                if wanted.until is not None and min(cursors.values()) >= wanted.until:
                    return
                if not news.waits:
                    wait(PAUSES[0])
        except RedisLost as error:
            if not tries:
                say(f"{error}; it is tried again")
            wait(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        finally:
            news.close()
            servers.close()
