"""What Redis keeps of entries that were deleted on purpose, so that a ledger which is lost can be rebuilt with it.

A hash, `bridge:{S}:redacted`: by the entry's ID, JSON of where its line was sent from, its length and digest.
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
    """An entry that was deleted on purpose, and its line in the log `name`, which was sent from there; empty: none."""

    entry: EntryId
    name: str
    generation: int
    offset: int
    length: int
    digest: str


def write_deleted(connection: Connection, keys: Keys, deleted: Iterable[RedactedEntry]) -> None:
    """Writes entries that were, or will be, deleted on purpose into Redis. Raises RedisLost, RedisRefused."""
    parts = [part for gone in deleted for part in (format_id(gone.entry), json.dumps(gone[1:]))]
    if parts:
        connection.calls(pack("HSET", keys.redacted, *parts))


def read_deleted(connection: Connection, keys: Keys) -> list[RedactedEntry]:
    """Reads the entries of a stream that were deleted on purpose. Raises RedisLost, RedisRefused."""
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
