"""What Redis keeps of edited logs: which stretches of a file were carried before, as another generation's.

The ledger knows it; where that is lost, nothing else tells it, as the file of before is gone (`bridge:{S}:aligned`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.validation import WRONG, junk

FIELD_SPANS = 1000
"""Stretches in one field of the hash, at most."""


class LogEditRecord(NamedTuple):
    """A generation of a log whose file took the place of generation `rewrites`.

    `stretches` of it were carried before, each as (start, end, generation, offset in that one, CRC-32), in file order.
    """

    rewrites: int
    stretches: Sequence[tuple[int, int, int, int, int]]


def packed(source: int, generation: int, edit: LogEditRecord) -> Iterator[bytes]:
    """Makes the fields that hold an edit of the source of this number, in turn their names and values, for HSET."""
    parts = max(1, -(-len(edit.stretches) // FIELD_SPANS))
    for n in range(parts):
        some = [*map(list, edit.stretches[n * FIELD_SPANS : (n + 1) * FIELD_SPANS])]
        yield b"%d.%d.%d" % (source, generation, n)
        yield json.dumps({"rewrites": edit.rewrites, "parts": parts, "stretches": some}, separators=(",", ":")).encode()


def edits_of(connection: Connection, keys: Keys) -> dict[int, dict[int, LogEditRecord]]:
    """Reads all edits of a stream's logs from Redis, by the source's number and generation.

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
