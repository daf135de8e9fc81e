"""A stream for a person who reads along: its newest entries, and those that come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from bridge.core.errors import RedisLost, RedisRefused
from bridge.core.model import EntryId, before, format_id, paired
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import BlockingReader, Entry, entries, entries_back, stream_info

FOLLOW_BLOCK_MS = 1000
PAUSES = (0.1, 0.3, 1.0)
"""Seconds between tries to connect again; the last one stays."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Entries from ID `since` on, below ID `until`, of one of these roles and types; empty: of any."""

    since: EntryId | None = None
    until: EntryId | None = None
    roles: frozenset[bytes] = frozenset()
    types: frozenset[bytes] = frozenset()

    def has(self, entry: Entry) -> bool:
        """Whether role and type are among those."""
        if not (self.roles or self.types):
            return True
        values = paired(entry.fields)
        right = not self.roles or values.get(b"role") in self.roles
        return right and (not self.types or values.get(b"type") in self.types)


def newest(
    connection: Connection, stream: bytes, wanted: EntryFilter, count: int | None
) -> tuple[list[Entry], EntryId]:
    """The last `count` entries (None: all) that are wanted, oldest first; and the ID behind which new ones come.

    Raises RedisRefused (the key is no stream), RedisLost.
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
    """Yields a stream's new entries behind `cursor`, without end; connects again, and says so, where Redis is lost."""
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
