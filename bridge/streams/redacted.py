"""Keeps in the Redis hash `bridge:{S}:redacted` the entries deleted on purpose, so that a lost ledger can be rebuilt.

By the entry's ID, JSON of where its line was sent from, its length and digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from bridge.core.model import EntryId, format_id, parse_id
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.resp import pack
from bridge.streams.validation import WRONG, junk


class RedactedEntry(NamedTuple):
    """A redacted entry, deleted on purpose, and its line in the log `name`; empty: no line.

    The line was sent from `offset` of `generation`.
    """

    entry: EntryId
    name: str
    generation: int
    offset: int
    length: int
    digest: str


def write_deleted(connection: Connection, keys: Keys, deleted: Iterable[RedactedEntry]) -> None:
    """Writes redacted entries, deleted on purpose or about to be, into Redis. Raises RedisLost, RedisRefused."""
    parts = [part for gone in deleted for part in (format_id(gone.entry), json.dumps(gone[1:]))]
    if parts:
        connection.calls(pack("HSET", keys.redacted, *parts))


def read_deleted(connection: Connection, keys: Keys) -> list[RedactedEntry]:
    """Reads the redacted entries of a stream, deleted on purpose, from Redis. Raises RedisLost, RedisRefused."""
    found, reply = [], connection.call("HGETALL", keys.redacted)
    for field, raw in zip(reply[::2], reply[1::2], strict=True):
        try:
            name, generation, offset, length, digest = json.loads(raw)
            found.append(
                RedactedEntry(parse_id(field), str(name), int(generation), int(offset), int(length), str(digest))
            )
        except WRONG:
            raise junk(keys.redacted, field, raw) from None
    return found
