"""Whose bytes are these: what forward must not carry back (P3), decided by position and never by equal content.

The ledger is the one truth: the mirror commits an intent before it writes and a range after, and forward asks after it
has read. So bytes that forward holds are either behind an open intent, or in a range, or not the mirror's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from operator import add

from bridge.ledger.mirrored import Range, add_range, barrier, drop_range, range_digest, ranges_between
from bridge.ledger.store import Ledger
from bridge.model import EntryId

Cut = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines without their newlines, where each begins, where the next one will, and where each ends."""

    lines: list[bytes]
    offsets: list[int]
    ends: list[int]
    end: int


def foreign(
    ledger: Ledger, stream: str, name: str, generation: int, start: int, data: bytes, read: Callable[[int, int], bytes]
) -> tuple[bytes, list[Cut], list[Range]]:
    """What of `data`, read at `start`, forward may look at; the mirror's ranges in it; ranges that hold others' bytes.

    `read(size, offset)` reads the same file: where `data` ends inside a range, the rest of the range is added to it.
    """
    limit = barrier(ledger, stream, name, generation)
    if limit is not None:
        data = data[: max(0, limit - start)]
    cuts: list[Cut] = []
    stale: list[Range] = []
    for one in ranges_between(ledger, stream, name, generation, start, start + len(data)):
        missing = one.end - start - len(data)
        whole = data + read(missing, start + len(data)) if missing > 0 else data
        content = (
            whole[one.start - start : one.end - start] if one.start >= start else read(one.end - one.start, one.start)
        )
        if range_digest(content) == one.digest:
            data = whole
            cuts.append((one.start, one.end))
        else:
            stale.append(one)
    return data, cuts, stale


def split(data: bytes, start: int, cuts: list[Cut]) -> Lines:
    """The whole lines in `data`, with the cuts left out: a line that another writer's was spliced into stays whole.

    Pure. No cut reaches beyond `data`. `end` is where the first unfinished line begins, or the end of the last whole
    line or cut.
    """
    if not cuts:
        lines = data.split(b"\n")
        lines.pop()
        ends = list(map(add, accumulate(map(len, lines)), count(start + 1)))
        return Lines(lines, [start, *ends[:-1]] if ends else [], ends, ends[-1] if ends else start)
    lines, offsets, ends = [], [], []
    end, at, open_line, begun = start, start, b"", -1
    stop = start + len(data)
    for a, b in [*cuts, (stop, stop)]:
        parts = data[at - start : max(a, at) - start].split(b"\n")
        for part in parts[:-1]:
            offsets.append(begun if begun >= 0 else at)
            lines.append(open_line + part)
            at += len(part) + 1
            ends.append(at)
            end, open_line, begun = at, b"", -1
        if parts[-1]:
            begun = begun if begun >= 0 else at
            open_line += parts[-1]
        at = max(at, b)
        if begun < 0:
            end = at
    return Lines(lines, offsets, ends, end)


def grouped(lines: Lines, begins: Sequence[bool], limit: int, *, ended: bool) -> Lines:
    """Each message with the lines that continue it, newlines between them; a line that continues none stays by itself.

    `begins`: which lines begin a message. The last message is left for later, unless `ended`: nothing can follow it.
    One that would be over `limit` bytes is not put together: its first line goes alone. Pure.
    """
    starts = [i for i, first in enumerate(begins) if first]
    lead = starts[0] if starts else len(lines.lines)
    texts, offsets, ends, end = lines.lines[:lead], lines.offsets[:lead], lines.ends[:lead], lines.end
    if not ended and starts:
        end = lines.offsets[starts[-1]]
    for i, j in pairwise([*starts, len(lines.lines)] if ended else starts):
        if lines.ends[j - 1] - lines.offsets[i] - 1 > limit:
            texts += lines.lines[i:j]
            offsets += lines.offsets[i:j]
            ends += lines.ends[i:j]
        else:
            texts.append(b"\n".join(lines.lines[i:j]) if j - i > 1 else lines.lines[i])
            offsets.append(lines.offsets[i])
            ends.append(lines.ends[j - 1])
    return Lines(texts, offsets, ends, end)


def release(ledger: Ledger, stream: str, one: Range, content: bytes, gone: set[EntryId]) -> int:
    """Replaces a range by the parts of it whose entries still stand; returns how many lines left it.

    `content` is the range's bytes.
    """
    drop_range(ledger, stream, one)
    at, released = 0, 0
    for entry_id, length in one.entries:
        line = content[at : at + length]
        if entry_id in gone:
            released += 1
        else:
            part = Range(
                one.name,
                one.generation,
                one.start + at,
                one.start + at + length,
                range_digest(line),
                [(entry_id, length)],
            )
            add_range(ledger, stream, part)
        at += length
    return released
