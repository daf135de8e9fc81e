"""Explains for parity entries and lines that do not match by their places, though nothing is wrong with them. Pure.

Whole records stand within lines of JSON that are no messages, out of which a retry took them; and what an earlier
version carried of a file's first line began with the file's UTF-8 mark.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.codecs import Codec
from bridge.core.codecs.jsonl import JsonlCodec, record_at
from bridge.core.model import UTF8_MARK
from bridge.parity.log.items import OFFSETS, ExtraLine, Findings, MissingLine

LONGEST_LINE = 1 << 28
"""The longest line that a mapping may allow, in bytes."""


def explained(
    missing: list[MissingLine], extras: list[ExtraLine], codec: Callable[[str], Codec], sink: Findings
) -> tuple[list[MissingLine], list[ExtraLine]]:  # fmt: skip
    """Tells the sink of entries whose lines are there after all, and returns the other entries, and lines without one.

    `codec` gives the codec of a source. Raises what reading raises.
    """
    left, rest = [], [*extras]
    for entry in missing:
        if _stands_within(entry, codec(entry.name)):
            sink.came_late(entry)
        elif (line := _behind_mark(entry, rest, codec(entry.name))) is not None:
            sink.claimed(line.file, [line.line], [line.place], 1)
            rest.remove(line)
        else:
            left.append(entry)
    return left, rest


def _behind_mark(missing: MissingLine, extras: list[ExtraLine], codec: Codec) -> ExtraLine | None:
    """Finds the first line of a file of which an entry was made together with the file's UTF-8 mark."""
    if missing.file is None or not missing.file.mark or missing.home & OFFSETS:
        return None
    first = missing.home + missing.file.mark
    line = next((extra for extra in extras if extra.file is missing.file and extra.place == first), None)
    return line if line is not None and codec.decode((UTF8_MARK + line.line,)).rows == [missing.row] else None


def _stands_within(missing: MissingLine, codec: Codec) -> bool:
    if not missing.excused or missing.file is None or missing.home < 0 or not isinstance(codec, JsonlCodec):
        return False
    begin, likely = missing.home & OFFSETS, 2 * sum(map(len, missing.row)) + 64
    for size in (likely, LONGEST_LINE):  # data is mostly the whole record, so that nobody reads to the line's end
        raw = b""
        for piece in missing.file.section(begin, begin + size):
            raw += piece
            if b"\n" in piece or not piece:
                break
        if record := record_at(raw.partition(b"\n")[0]):
            return codec.decode((record,)).rows == [missing.row]
    return False
