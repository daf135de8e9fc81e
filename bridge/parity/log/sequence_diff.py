"""Sequence diff: aligns two sequences, to find the place where both agree again after a difference. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from bridge.files.alignment import ascending

__all__ = ["align", "ascending"]

EXACT_PRODUCT = 250_000
"""Up to this product of lengths the longest common subsequence is computed; above, only what its anchors lead to."""

Pair = tuple[int, int]


def align(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Aligns two sequences: returns pairs of places in `a` and `b` that hold the same, ascending in both.

    Where both are short, there are as many pairs as there can be. Of long ones, items that stand once in each are
    anchors (the patience method, B. Cohen); what stands between them is aligned by itself.
    """
    low, pairs = 0, []
    shorter = min(len(a), len(b))
    while low < shorter and a[low] == b[low]:
        pairs.append((low, low))
        low += 1
    high_a, high_b, ends = len(a), len(b), []
    while high_a > low and high_b > low and a[high_a - 1] == b[high_b - 1]:
        high_a, high_b = high_a - 1, high_b - 1
        ends.append((high_a, high_b))
    if high_a > low and high_b > low:
        middle_a, middle_b = a[low:high_a], b[low:high_b]
        small = len(middle_a) * len(middle_b) <= EXACT_PRODUCT
        found = _longest(middle_a, middle_b) if small else _anchored(middle_a, middle_b)
        pairs += [(i + low, j + low) for i, j in found]
    return _earliest(_earliest(pairs + ends[::-1], a, 0), b, 1)


def _earliest(pairs: list[Pair], items: Sequence[Hashable], side: int) -> list[Pair]:
    """Moves aligned pairs to the first of equal items in a sequence, where one of several stays without a pair.

    The others repeat the first one.
    """
    last, moved = -1, []
    for pair in pairs:
        at, item = pair[side], items[pair[side]]
        if last + 1 < at:
            at = next(k for k in range(last + 1, at + 1) if items[k] == item)
        moved.append((at, pair[1]) if side == 0 else (pair[0], at))
        last = at
    return moved


def _longest(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Computes the longest common subsequence of two sequences, by the table of its lengths from each place on."""
    common = set(a) & set(b)
    if not common:
        return []
    width = len(b) + 1
    rows = [[0] * width for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        row, below = rows[i], rows[i + 1]
        if (item := a[i]) not in common:
            row[:] = below
            continue
        for j in range(len(b) - 1, -1, -1):
            row[j] = below[j + 1] + 1 if b[j] == item else max(below[j], row[j + 1])
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b) and rows[i][j]:
        if a[i] == b[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif rows[i + 1][j] >= rows[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _anchored(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    places_a, places_b = _single(a), _single(b)
    both = [(i, places_b[item]) for item, i in places_a.items() if item in places_b]
    pairs, i, j = [], 0, 0
    for k, m in [*(both[n] for n in ascending([m for _, m in both])), (len(a), len(b))]:
        if k > i and m > j:
            pairs += [(i + x, j + y) for x, y in _between(a[i:k], b[j:m])]
        if k < len(a):
            pairs.append((k, m))
        i, j = k + 1, m + 1
    return pairs


def _between(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    if len(a) * len(b) <= EXACT_PRODUCT or a[0] == b[0] or a[-1] == b[-1]:
        return align(a, b)
    return []


def _single(items: Sequence[Hashable]) -> dict[Hashable, int]:
    """Maps each item that occurs only once in a sequence to its place, in order."""
    places: dict[Hashable, int] = {}
    for i, item in enumerate(items):
        places[item] = -1 if item in places else i
    return {item: i for item, i in places.items() if i >= 0}
