"""Splits bytes into whole lines, without what is cut out, and groups each message with the lines that continue it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from operator import add

from bridge.core.model import UTF8_MARK

WALK_BLOCK = 1 << 20

Cut = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines without their newlines, the offset where each begins and ends, and where the next line will begin."""

    lines: list[bytes]
    offsets: list[int]
    ends: list[int]
    end: int


def split(data: bytes, start: int, cuts: list[Cut]) -> Lines:
    """Splits `data` into its whole lines and leaves the cuts out: a line with another one spliced into it stays whole.

    Pure. No cut reaches beyond `data`. `end` is where the first unfinished line begins, or the end of the last whole
    line or cut. A UTF-8 mark at the beginning of a file is passed over.
    """
    if not start and data.startswith(UTF8_MARK):
        start, data = len(UTF8_MARK), data[len(UTF8_MARK) :]
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


def begins_line(read: Callable[[int, int], bytes], offset: int) -> bool:
    """Whether a line may begin at an offset: at the file's beginning, behind its UTF-8 mark, or behind a newline.

    `read(size, offset)` reads the file.
    """
    back = min(offset, len(UTF8_MARK))
    before = read(back, offset - back)
    return not offset or before.endswith(b"\n") or (offset == back and before == UTF8_MARK)


def grouped(lines: Lines, begins: Sequence[bool], limit: int, *, ended: bool) -> Lines:
    """Groups lines into messages: each first line with the lines that continue it, newlines between them.

    A line that continues none stays by itself. `begins`: which lines begin a message. The last message is left for
    later, unless `ended`: nothing can follow it. One that would be over `limit` bytes is not put together: its first
    line goes alone. Pure.
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


def walk(
    read: Callable[[int, int], tuple[bytes, list[Cut], bool]], start: int,
    begins: Callable[[Sequence[bytes]], list[bool]] | None, limit: int,
) -> Iterator[tuple[Lines, bool]]:  # fmt: skip
    """Reads all whole lines, or messages, from `start` on, a piece at a time; holds no line over `limit` bytes whole.

    `read(size, offset)` gives bytes, the cuts in them, and whether more follow. `begins` as for `grouped`; None: every
    line is a message. With each piece comes whether its first line is but the end of one that was over the limit.
    """
    at, size, cut = start, WALK_BLOCK, False
    while True:
        data, cuts, more = read(size, at)
        if not data:
            return
        lines = split(data, at, cuts)
        if begins is not None and lines.lines:
            flags = begins(lines.lines)
            whole = grouped(lines, flags, limit, ended=not more)
            lines = whole if whole.lines or size <= limit else grouped(lines, flags, limit, ended=True)
        if lines.end > at:
            yield lines, cut and bool(lines.lines)
            at, size, cut = lines.end, WALK_BLOCK, cut and not lines.lines
        elif not more:
            return
        elif size > limit:
            at, size, cut = at + len(data), WALK_BLOCK, True
        else:
            size *= 4
