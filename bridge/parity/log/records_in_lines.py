"""Finds for parity whole records within lines of JSON that are no messages, out of which a retry took them. Pure."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.codecs import Codec
from bridge.core.codecs.jsonl import JsonlCodec, record_at
from bridge.parity.log.items import OFFSETS, MissingLine

LONGEST_LINE = 1 << 28
"""The longest line that a mapping may allow, in bytes."""


def without_records(
    missing: list[MissingLine], codec: Callable[[str], Codec], found: Callable[[MissingLine], None]
) -> list[MissingLine]:  # fmt: skip
    """Leaves out of entries without a line the records that stand within some line, at their origins.

    Those go to `found`. `codec` gives the codec of a source. Raises what reading raises.
    """
    left = []
    for entry in missing:
        if _stands_within(entry, codec(entry.name)):
            found(entry)
        else:
            left.append(entry)
    return left


def _stands_within(missing: MissingLine, codec: Codec) -> bool:
    if not missing.excused or missing.file is None or missing.home < 0 or not isinstance(codec, JsonlCodec):
        return False
    begin, raw = missing.home & OFFSETS, b""
    for piece in missing.file.section(begin, begin + LONGEST_LINE):
        raw += piece
        if b"\n" in piece or not piece:
            break
    record = record_at(raw.partition(b"\n")[0])
    return bool(record) and codec.decode((record,)).rows == [missing.row]
