"""Applies acknowledgements to parity: differences that somebody acknowledged are not reported again. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.core.model import HIGHEST_ID, EntryId, hex_digest, parse_id
from bridge.ledger.acknowledgements import AcknowledgedDifference, RedactedLine
from bridge.parity.log.classify import Difference
from bridge.parity.log.items import OFFSETS, SHIFT

MISSING = "missing_in_file"

EntrySpan = tuple[EntryId, EntryId]
"""The IDs of the first and of the last entry of a row of acknowledged entries."""


@dataclass(frozen=True, slots=True)
class TakenOut:
    """A row of entries, acknowledged together, whose lines were changed in their log or taken out: IDs and count."""

    first: EntryId
    last: EntryId
    count: int

    def has(self, entry: str | None) -> bool:
        """Whether an entry lies, as far as its ID tells, in this row of entries whose lines were taken out of a log."""
        return entry is not None and self.first <= parse_id(entry.encode()) <= self.last


class RowGrouping:
    """Groups consecutive entries whose lines were taken out of their log into rows, to be acknowledged together."""

    def __init__(self) -> None:
        self.found: list[TakenOut] = []
        self._open = False

    def add(self, entry: EntryId) -> None:
        """Adds the next entry whose line was taken out of its log to the open row, or begins a row with the entry."""
        if self._open:
            last = self.found[-1]
            self.found[-1] = TakenOut(last.first, entry, last.count + 1)
        else:
            self.found.append(TakenOut(entry, entry, 1))
        self._open = True

    def end(self) -> None:
        """Ends the open row of entries whose lines were taken out: the line of the next entry was not."""
        self._open = False


class Acknowledged:
    """Holds a mapping's acknowledged differences for parity, and the lines whose entries were deleted on purpose."""

    def __init__(
        self, accepted: Iterable[AcknowledgedDifference] = (), redacted: Iterable[RedactedLine] = ()
    ) -> None:  # fmt: skip
        self._single: dict[tuple[str, str], str] = {}
        self._spans: list[EntrySpan] = []
        self._left: dict[EntrySpan, int] = {}
        for named_difference in accepted:
            by_entry = ":" not in named_difference.first
            if named_difference.kind == "altered" and by_entry:  # once the file is aligned its line is missing
                self._single[named_difference.kind, named_difference.first] = named_difference.digest
            if named_difference.kind in (MISSING, "altered") and by_entry:
                span = parse_id(named_difference.first.encode()), parse_id(named_difference.last.encode())
                self._spans.append(span)
                self._left[span] = self._left.get(span, 0) + named_difference.count
            else:
                self._single[named_difference.kind, named_difference.first] = named_difference.digest
        self._spans.sort()
        self._lines: set[tuple[str, int]] = set()
        self.deleted = 0
        for gone in redacted:
            self.deleted += 1
            self._lines.add((gone.name, (gone.generation << SHIFT) + gone.offset))

    def missing(self, entry: bytes) -> bool:
        """Whether somebody acknowledged, with `repair --accept`, that a stream's entry has no line in its file.

        An acknowledgement covers a span of entries, and excuses as many of them as were missing when it was made: each
        call that says yes uses up one of these.
        """
        if not self._spans:
            return False
        entry_id = parse_id(entry)
        for at in range(bisect_right(self._spans, (entry_id, HIGHEST_ID)) - 1, -1, -1):
            span = self._spans[at]
            if entry_id <= span[1] and self._left[span]:
                self._left[span] -= 1
                return True
        return False

    def line(self, source: str, place: int) -> bool:
        """Whether the entry of the line that was sent from a place of a source was deleted on purpose."""
        return (source, place) in self._lines

    def line_without_entry(self, source: str, place: int) -> bool:
        """Whether it is acknowledged that the line sent from a place of a source has no entry."""
        return ("missing_in_redis", f"{source}:{place >> SHIFT}:{place & OFFSETS}") in self._single

    def without(self, differences: Iterable[Difference]) -> tuple[list[Difference], set[tuple[str, int]]]:
        """Splits differences: those that nobody acknowledged, and the source and place of each acknowledged line."""
        left, told = list[Difference](), set[tuple[str, int]]()
        for difference in differences:
            if self.has(difference):
                told.add((difference.source, difference.place))
            else:
                left.append(difference)
        return left, told

    def has(self, difference: Difference) -> bool:
        """Whether a difference, with exactly its contents, is acknowledged; to be asked once for each difference."""
        if difference.kind == MISSING and difference.entry is not None:
            return self.missing(difference.entry.encode())
        told = self._single.get((difference.kind, name_of(difference)))
        return told is not None and told == both_sides(difference)


def name_of(difference: Difference) -> str:
    """Returns the name by which a difference is acknowledged: its entry ID, or for a line `log:generation:offset`."""
    if difference.entry is not None:
        return difference.entry
    return f"{difference.source}:{difference.place >> SHIFT}:{difference.place & OFFSETS}"


def both_sides(difference: Difference) -> str:
    """Returns the digest of both sides of a difference, which an acknowledgement must match.

    A difference with other contents is not acknowledged with it.
    """
    return hex_digest(
        b"\n".join(side if side is not None else b"\0" for side in (difference.expected, difference.actual))
    )
