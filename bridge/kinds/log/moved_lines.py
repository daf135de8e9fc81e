"""Computes where carried lines of an edited log have moved: stretches to pass over, and moved ranges of the mirror."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bridge.files.alignment import MatchedRun
from bridge.files.generation import Generation
from bridge.kinds.log.carried_before import GENERATION
from bridge.ledger.edits import CarriedSpan, carried_spans
from bridge.ledger.ranges import Range, range_digest, ranges_of
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class MovedLines:
    """Moved lines: bytes `start` to `end` of a file hold what generation `of` held from byte `of_start` on."""

    start: int
    end: int
    of: int
    of_start: int


class MovedRanges:
    """A range of the mirror whose lines, some or all of them, have moved into another file of an edited log."""

    def __init__(self, span: Range) -> None:
        self.span = span
        self._parts: list[tuple[int, int, int]] = []

    def add(self, start: int, end: int, shift: int) -> None:
        """Notes that bytes `start` to `end` of the mirror's old range have moved, to `shift` bytes further on."""
        self._parts.append((start, end, shift))

    def parts(self, generation: Generation) -> list[Range]:
        """Makes the ranges that replace a range of the mirror whose lines moved: of moved lines, and of lines gone."""
        found: list[Range] = []
        at = self.span.start
        for entry, length in self.span.entries:
            shift = next((by for a, b, by in self._parts if a <= at and at + length <= b), None)
            start = at if shift is None else at + shift
            number = self.span.generation if shift is None else generation.number
            last = found[-1] if found else None
            if last is not None and (last.generation, last.end) == (number, start):
                last.entries.append((entry, length))
                found[-1] = replace(last, end=start + length)
            else:
                found.append(Range(self.span.name, number, start, start + length, b"", [(entry, length)]))
            at += length
        return [self._digested(part, generation) for part in found]

    def _digested(self, part: Range, generation: Generation) -> Range:
        if part.generation != generation.number:
            alone = (part.start, part.end) == (self.span.start, self.span.end)
            return replace(part, digest=self.span.digest if alone else b"")
        return replace(part, digest=range_digest(generation.read(part.end - part.start, part.start)))


def moved_by(
    runs: Sequence[MatchedRun], starts: Sequence[int], ends: Sequence[int], offsets: Sequence[int]
) -> Iterator[MovedLines]:
    """Yields the moved lines of an alignment's runs, joined while they are one after the other in both files.

    `offsets` are the places of the messages before, as generation * GENERATION + offset.
    """
    for run in runs:
        begin = n = 0
        for n in range(1, run.count + 1):
            if (
                n < run.count
                and ends[run.new + n - 1] == starts[run.new + n]
                and (offsets[run.old + n] - offsets[run.old + n - 1] == starts[run.new + n] - starts[run.new + n - 1])
            ):
                continue
            yield MovedLines(
                starts[run.new + begin], ends[run.new + n - 1], *divmod(offsets[run.old + begin], GENERATION)
            )
            begin = n


def sorted_out(
    ledger: Ledger, stream: str, name: str, moved: Sequence[MovedLines], here: Collection[int]
) -> tuple[list[CarriedSpan], list[MovedRanges]]:
    """Sorts moved lines of an edited log into carried stretches and moved ranges of the mirror.

    The stretches say where the lines were first sent from. The ranges of a generation whose file is still `here` stay
    in that file.
    """
    stretches, ranges = list[CarriedSpan](), list[MovedRanges]()
    for of in sorted({part.of for part in moved}):
        parts = [part for part in moved if part.of == of]
        some, moving = _of(ledger, stream, name, of, parts, are_left=of in here)
        stretches += some
        ranges += moving
    return stretches, ranges


def _of(
    ledger: Ledger, stream: str, name: str, of: int, moved: Iterable[MovedLines], *, are_left: bool
) -> tuple[list[CarriedSpan], list[MovedRanges]]:
    """Sorts the moved lines of one generation into carried stretches and moved ranges; `are_left`: the ranges stay."""
    earlier = carried_spans(ledger, stream, name, of)
    ours = sorted(
        (span for span in ranges_of(ledger, stream, name) if span.generation == of and not are_left),
        key=lambda span: span.start,
    )
    begins, ranges = [span.start for span in ours], dict[int, MovedRanges]()
    stretches = []
    for part in moved:
        shift = part.start - part.of_start
        at, end = part.of_start, part.of_start + part.end - part.start
        n = max(0, bisect_right(begins, at) - 1)
        while n < len(ours) and ours[n].start < end:
            span = ours[n]
            if span.end > at:
                ranges.setdefault(n, MovedRanges(span)).add(max(at, span.start), min(end, span.end), shift)
                stretches += _mapped(at, max(at, span.start), shift, of, earlier)
                at = max(at, span.end)
            n += 1
        stretches += _mapped(at, end, shift, of, earlier)
    return stretches, [*ranges.values()]


def _mapped(start: int, end: int, shift: int, of: int, earlier: Sequence[CarriedSpan]) -> list[CarriedSpan]:
    """Makes carried stretches for bytes of a generation that have moved by `shift`.

    Some of these bytes had moved there from an earlier generation: their stretches name that one.
    """
    found: list[CarriedSpan] = []
    at = start
    for n in range(max(0, bisect_right(earlier, (start, 1 << 62, 0, 0)) - 1), len(earlier)):
        if (stretch := earlier[n]).start >= end:
            break
        if stretch.end <= at:
            continue
        begin, stop = max(at, stretch.start), min(end, stretch.end)
        if begin > at:
            found.append(CarriedSpan(at + shift, begin + shift, of, at))
        found.append(CarriedSpan(begin + shift, stop + shift, stretch.of, stretch.of_start + begin - stretch.start))
        at = stop
    if at < end:
        found.append(CarriedSpan(at + shift, end + shift, of, at))
    return found
