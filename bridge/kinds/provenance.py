"""Tells the provenance of bytes in a file: the mirror's bytes, which forward must not carry back (P3), or others.

The position decides, not equal content. The ledger is the one truth: the mirror commits an intent before it writes and
a range afterwards, and forward asks the ledger after it has read the file. So bytes that forward holds are either
behind an open intent, or in a range, or not the mirror's.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.model import EntryId, digest
from bridge.files.lines import Cut
from bridge.ledger.ranges import Range, add_range, barrier, drop_range, range_digest, ranges_between
from bridge.ledger.seen_entries import ReleasedLine, note_released
from bridge.ledger.store import Ledger


def exclude_mirrored(
    ledger: Ledger, stream: str, name: str, generation: int, start: int, data: bytes, read: Callable[[int, int], bytes]
) -> tuple[bytes, list[Cut], list[Range]]:
    """Finds in bytes read from a generation those that the mirror wrote, so that forward does not carry them back.

    `data` was read at `start`. Returns the part of `data` that forward may look at (nothing behind an open intent), the
    places of the mirror's ranges in it, and ranges that hold others' bytes by now. `read(size, offset)` reads the same
    file: where `data` ends inside a range, the rest of the range is added to it.
    """
    limit = barrier(ledger, stream, name, generation)
    if limit is not None:
        data = data[: max(0, limit - start)]
    cuts: list[Cut] = []
    stale: list[Range] = []
    for written_range in ranges_between(ledger, stream, name, generation, start, start + len(data)):
        missing = written_range.end - start - len(data)
        whole = data + read(missing, start + len(data)) if missing > 0 else data
        content = (
            whole[written_range.start - start : written_range.end - start]
            if written_range.start >= start
            else read(written_range.end - written_range.start, written_range.start)
        )
        if range_digest(content) == written_range.digest:
            data = whole
            cuts.append((written_range.start, written_range.end))
        else:
            stale.append(written_range)
    return data, cuts, stale


def release_lines(ledger: Ledger, stream: str, span: Range, content: bytes, gone: set[EntryId]) -> int:
    """Replaces a range in the ledger by its lines whose entries still stand in Redis; returns how many it released.

    `content` is the range's bytes, `gone` the entries that do not stand. The ledger remembers the released lines: their
    entries may come back.
    """
    drop_range(ledger, stream, span)
    at, released, whole = 0, 0, range_digest(content) == span.digest
    unknown = b"" if len(span.entries) > 1 else span.digest  # the range's file is another by now, or gone
    for entry_id, length in span.entries:
        line = content[at : at + length]
        if entry_id in gone:
            released += 1
            told = digest(line) if whole else unknown
            left = ReleasedLine(entry_id, told, span.name, span.generation, span.start + at, length)
            note_released(ledger, stream, [left])
        else:
            part = Range(
                span.name, span.generation, span.start + at, span.start + at + length,
                range_digest(line) if whole else unknown, [(entry_id, length)],
            )  # fmt: skip
            add_range(ledger, stream, part)
        at += length
    return released
