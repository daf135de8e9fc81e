"""Aligns the lines of a file that took a log's place with the lines that were carried of the log (DESIGN §6.2). Pure.

A line is passed over only where nothing else can explain it: inside a run of equal lines that lines which stand once in
each of both files anchor, and in order. So whoever writes a message a second time never finds it passed over.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

ANCHORS = 2
"""How many anchors (lines that stand once in each file) a run must hold, for its lines to be the ones carried before.

One anchor is enough in a run between two such runs, or between the beginning of both files and such a run: an editor
left what stands there, as programs write at the end.
"""

BYTES = 4096
"""How many bytes of different lines a run with fewer than `ANCHORS` anchors must hold instead."""

ENOUGH = 4
"""How many anchors the only run must hold, or several runs that hold half of a file.

Fewer are enough where all runs hold `BYTES`, or the greater part of both files. A program that begins its log anew
writes some of the same first and last lines each time, without a time in them.
"""

MOST_CHANGES = 1000
"""How many lines, at most, may differ where a person says that a file was edited, and no anchor helps."""

SAMPLE_LINES = 1 << 16
"""About how many lines of a stretch are compared at once with those of the other file.

A longer stretch is sampled: the same lines on both sides stand for all.
"""

EXACT_LINES = 1 << 18
"""The number of lines in a file up to which the occurrences of each line are counted exactly.

Above it, a table of fixed size tells the lines that surely stand once.
"""

TABLE = 1 << 25
"""Bytes, at most, of the table that counts the lines of a file with more than `EXACT_LINES`."""

Keys = Sequence[int]
"""A number for each line of a file, in order: equal lines have the same number, different lines different ones."""


@dataclass(frozen=True, slots=True)
class MatchedRun:
    """A run of an alignment: `count` lines that follow each other in both files, from the `old`-th and `new`-th on."""

    old: int
    new: int
    count: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """The alignment of two files: the runs of equal lines that are passed over as carried before, in order.

    `anchors` is their number in the runs; `shared`, where there are no runs: how many lines of the new file stand in
    the old one as well.
    """

    runs: tuple[MatchedRun, ...]
    anchors: int = 0
    shared: int = 0

    def passed(self) -> int:
        """Counts the lines that an alignment passes over."""
        return sum(run.count for run in self.runs)


def align(old: Keys, new: Keys, size: Callable[[int], int]) -> Alignment:
    """Aligns the lines of an old and a new file of a log; `size` tells how many bytes a line of the new one takes.

    Linear in the larger file but for what stands between runs. In both the patience method (B. Cohen) finds the runs:
    lines that stand once in each stretch, in order, and what is equal before and behind each.
    """
    runs = _joined(_runs(old, new))
    once_old, once_new = _once(old), _once(new)

    def anchors(run: MatchedRun, most: int) -> list[int]:
        """Finds the places in an aligned run of its first anchors, the lines that stand once in each file."""
        found = []
        for n in range(run.count):
            key = old[run.old + n]
            if once_old(key) and once_new(key):
                found.append(n)
                if len(found) == most:
                    break
        return found

    def content(run: MatchedRun) -> int:
        """Counts the bytes that the different lines of an aligned run take, up to `BYTES`."""
        seen, total = set[int](), 0
        for n in range(run.count):
            if (key := new[run.new + n]) not in seen:
                seen.add(key)
                total += size(run.new + n)
                if total >= BYTES:
                    break
        return total

    strong = [len(anchors(run, ANCHORS)) >= ANCHORS or content(run) >= BYTES for run in runs]
    ends = [n for n, is_strong in enumerate(strong) if is_strong]
    begins = [0] if runs and (runs[0].old, runs[0].new) == (0, 0) and anchors(runs[0], 1) else ends[:1]
    between = range(begins[0], ends[-1] + 1) if ends else range(0)
    kept = [runs[n] for n in between if strong[n] or anchors(runs[n], 1)]
    if kept and kept[-1].old + kept[-1].count < len(old):
        kept[-1] = _to_the_last_anchor(kept[-1], old, once_old, once_new)
    weight = sum(len(anchors(run, ENOUGH)) for run in kept)
    if len(kept) == 1 and (kept[0].old, kept[0].new) == (0, 0) and kept[0].count < len(old):
        # A log that is begun anew may repeat the first lines of the old one, however many: those alone prove nothing.
        mostly = 4 * kept[0].count >= 3 * max(len(old), len(new))
        return (
            Alignment(tuple(kept), weight)
            if mostly or content(kept[0]) >= BYTES
            else Alignment((), 0, _shared(old, new))
        )
    passed = 2 * sum(run.count for run in kept)
    most = passed > len(old) and passed > len(new)
    enough = weight >= ENOUGH and (len(kept) == 1 or passed >= min(len(old), len(new)))
    if kept and (enough or most or sum(map(content, kept)) >= BYTES):
        return Alignment(tuple(kept), weight)
    return Alignment((), 0, _shared(old, new))


def in_order(old: Keys, new: Keys) -> Alignment:
    """Aligns the lines of two files of which a person says that one is the other, edited: every run in order counts.

    What the lines that stand once leave open is aligned with as few changes as there can be, up to `MOST_CHANGES`.
    """
    runs = _joined(_runs(old, new))
    edges = [MatchedRun(0, 0, 0), *runs, MatchedRun(len(old), len(new), 0)]
    for before, behind in pairwise(edges):
        part = (before.old + before.count, behind.old, before.new + before.count, behind.new)
        runs += _fewest_changes(old, new, part)
    runs = _joined(runs)
    return Alignment(tuple(runs), 0, 0 if runs else _shared(old, new))


def ascending(values: Sequence[int]) -> list[int]:
    """Finds the places of a longest strictly ascending subsequence, to align lines in order (patience sorting)."""
    ends: list[int] = []
    last: list[int] = []
    before: list[int] = [-1] * len(values)
    for i, value in enumerate(values):
        n = bisect_left(ends, value)
        before[i] = last[n - 1] if n else -1
        if n == len(ends):
            ends.append(value)
            last.append(i)
        else:
            ends[n], last[n] = value, i
    chain, at = [], last[-1] if last else -1
    while at >= 0:
        chain.append(at)
        at = before[at]
    return chain[::-1]


def _fewest_changes(old: Keys, new: Keys, part: tuple[int, int, int, int]) -> list[MatchedRun]:
    """Aligns two stretches of lines so that the fewest differ (E. Myers' O(ND) difference algorithm)."""
    a, b, c, d = part
    furthest, steps = {1: 0}, list[dict[int, int]]()
    for changes in range(min(MOST_CHANGES, b - a + d - c) + 1):
        steps.append(dict(furthest))
        for k in range(-changes, changes + 1, 2):
            down = k == -changes or (k != changes and furthest.get(k - 1, -1) < furthest.get(k + 1, -1))
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            if x > b - a or x - k > d - c or x - k < 0:
                furthest[k] = -1 << 40
                continue
            x += _alike(old, new, a + x, c + x - k, min(b - a - x, d - c - x + k))
            furthest[k] = x
            if x == b - a and x - k == d - c:
                return _walked_back(steps, part)
    return []


def _walked_back(steps: list[dict[int, int]], part: tuple[int, int, int, int]) -> list[MatchedRun]:
    """Collects the aligned runs on the path of the difference algorithm, from its end back to its beginning."""
    a, b, c, d = part
    found, x, y = list[MatchedRun](), b - a, d - c
    for changes in range(len(steps) - 1, -1, -1):
        furthest, k = steps[changes], x - y
        down = k == -changes or (k != changes and furthest.get(k - 1, -1) < furthest.get(k + 1, -1))
        before = k + 1 if down else k - 1
        begin = furthest[before] if changes else 0
        start = begin if down or not changes else begin + 1
        if x > start:
            found.append(MatchedRun(a + start, c + start - k, x - start))
        x, y = begin, begin - before
    return found


def _to_the_last_anchor(
    run: MatchedRun, old: Keys, once_old: Callable[[int], bool], once_new: Callable[[int], bool]
) -> MatchedRun:
    """Cuts an aligned run off behind its last anchor: old lines may have been cut off there, and written again."""
    for n in range(run.count - 1, -1, -1):
        key = old[run.old + n]
        if once_old(key) and once_new(key):
            return MatchedRun(run.old, run.new, n + 1)
    return run


def _once(keys: Keys) -> Callable[[int], bool]:
    """Makes a function that tells whether a line of an aligned file stands once in the file.

    Of a long file it may say no although the line does.
    """
    if len(keys) <= EXACT_LINES:
        counted = Counter(keys)
        return lambda key: counted[key] == 1
    bits = min(TABLE, 1 << (4 * len(keys)).bit_length()) - 1
    table = bytearray(bits + 1)
    for key in keys:
        if table[at := key & bits] < 2:
            table[at] += 1
    return lambda key: table[key & bits] == 1


def _shared(old: Keys, new: Keys) -> int:
    """Counts the lines of the new file that stand in the old one as well, where both cannot be aligned.

    Of a long old file the count is a lower bound.
    """
    mask = _mask(len(old))
    some = {key for key in old if not key & mask}
    return sum(key in some for key in new)


def _mask(length: int) -> int:
    """Makes the mask that samples lines for an alignment: a line whose number has no bit of it stands for others."""
    return (1 << max(0, (length // SAMPLE_LINES).bit_length())) - 1


def _joined(runs: list[MatchedRun]) -> list[MatchedRun]:
    """Joins the runs of an alignment that follow each other in both files."""
    found: list[MatchedRun] = []
    for run in sorted(runs, key=lambda run: run.new):
        last = found[-1] if found else None
        if last is not None and (last.old + last.count, last.new + last.count) == (run.old, run.new):
            found[-1] = MatchedRun(last.old, last.new, last.count + run.count)
        else:
            found.append(run)
    return found


def _runs(old: Keys, new: Keys) -> list[MatchedRun]:
    """Finds the runs of equal lines, in order in both files, that an alignment is made of."""
    found: list[MatchedRun] = []
    todo = [(0, len(old), 0, len(new))]
    while todo:
        a, b, c, d = todo.pop()
        if n := _alike(old, new, a, c, min(b - a, d - c)):
            found.append(MatchedRun(a, c, n))
            a, c = a + n, c + n
        if n := _alike(old, new, b, d, min(b - a, d - c), -1):
            found.append(MatchedRun(b - n, d - n, n))
            b, d = b - n, d - n
        if a == b or c == d:
            continue
        anchored = list(_anchored(old, new, (a, b, c, d)))
        found += anchored
        if anchored:
            edges = [(a, c), *((run.old + run.count, run.new + run.count) for run in anchored)]
            todo += [
                (i, run.old, j, run.new) for (i, j), run in zip(edges, anchored, strict=False)
            ] + [(edges[-1][0], b, edges[-1][1], d)]  # fmt: skip
        elif _mask(max(b - a, d - c)):  # no sampled line matches: try the lines nearest to either end
            near = SAMPLE_LINES // 2
            todo.append((a, min(b, a + near), c, min(d, c + near)))
            todo.append((max(min(b, a + near), b - near), b, max(min(d, c + near), d - near), d))
    return found


def _anchored(old: Keys, new: Keys, part: tuple[int, int, int, int]) -> Iterator[MatchedRun]:
    """Finds runs to align around anchors: lines that stand once in each of two stretches, in order."""
    a, b, c, d = part
    mask = _mask(max(b - a, d - c))
    here, there = _single(old, a, b, mask), _single(new, c, d, mask)
    both = sorted((j, i) for key, j in there.items() if (i := here.get(key, -1)) >= 0)
    low_old, low_new = a, c
    for n in ascending([i for _, i in both]):
        j, i = both[n]
        if i < low_old or j < low_new:
            continue  # already inside the previous run
        back = _alike(old, new, i, j, min(i - low_old, j - low_new), -1)
        on = _alike(old, new, i, j, min(b - i, d - j))
        yield MatchedRun(i - back, j - back, back + on)
        low_old, low_new = i + on, j + on


def _single(keys: Keys, begin: int, end: int, mask: int) -> dict[int, int]:
    """Finds the places of the lines that stand once in a stretch to align, among those that the mask samples."""
    places: dict[int, int] = {}
    for i, key in enumerate(keys[begin:end], begin):
        if not key & mask:
            places[key] = -1 if key in places else i
    return {key: i for key, i in places.items() if i >= 0}


def _alike(old: Keys, new: Keys, i: int, j: int, most: int, step: int = 1) -> int:
    """Counts the equal lines of two files to align from two places on, at most `most`; step -1: before the places."""
    n, some = 0, 16
    while n < most:
        some = min(some, most - n)
        a, b = (i + n, j + n) if step > 0 else (i - n - some, j - n - some)
        if old[a : a + some] == new[b : b + some]:
            n += some
            some *= 2
        elif some == 1:
            break
        else:
            some //= 2
    return n
