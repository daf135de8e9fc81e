"""Keeps the edits of logs in the Redis hash `bridge:{S}:aligned`: which spans of a file were carried before.

The ledger knows the same; where the ledger is lost, nothing else tells it, as the earlier file is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.validation import WRONG, junk

FIELD_SPANS = 1000
"""Spans of an edited log in one field of the Redis hash, at most."""


class LogEditRecord(NamedTuple):
    """An edit of a log as Redis keeps it: a generation whose file took the place of generation `rewrites`.

    `stretches` of it were carried before, each as (start, end, generation, offset in that one, CRC-32), in file order.
    """

    rewrites: int
    stretches: Sequence[tuple[int, int, int, int, int]]


def packed(source: int, generation: int, edit: LogEditRecord) -> Iterator[bytes]:
    """Makes the fields for HSET that hold an edit of a log, names and values in turn; `source` is a number."""
    parts = max(1, -(-len(edit.stretches) // FIELD_SPANS))
    for n in range(parts):
        some = [*map(list, edit.stretches[n * FIELD_SPANS : (n + 1) * FIELD_SPANS])]
        yield b"%d.%d.%d" % (source, generation, n)
        yield json.dumps({"rewrites": edit.rewrites, "parts": parts, "stretches": some}, separators=(",", ":")).encode()


def edits_of(connection: Connection, keys: Keys) -> dict[int, dict[int, LogEditRecord]]:
    """Reads all edits of a stream's logs from the Redis hash `bridge:{S}:aligned`, by source number and generation.

    An edit of which a part is missing is left out. Raises RedisLost, RedisRefused.
    """
    found: dict[tuple[int, int], dict[int, tuple[int, int, list[tuple[int, int, int, int, int]]]]] = {}
    reply = connection.call("HGETALL", keys.aligned)
    for field, raw in zip(reply[::2], reply[1::2], strict=True):
        try:
            number, generation, n = map(int, field.split(b"."))
            told = json.loads(raw)
            rows = [(int(a), int(b), int(of), int(at), int(crc)) for a, b, of, at, crc in told["stretches"]]
            found.setdefault((number, generation), {})[n] = int(told["rewrites"]), int(told["parts"]), rows
        except WRONG:
            raise junk(keys.aligned, field, raw) from None
    edits: dict[int, dict[int, LogEditRecord]] = {}
    for (number, generation), parts in found.items():
        rewrites, count, _ = parts.get(0, (0, 0, []))
        if count and all(n in parts for n in range(count)):
            rows = [row for n in range(count) for row in parts[n][2]]
            edits.setdefault(number, {})[generation] = LogEditRecord(rewrites, rows)
    return edits
