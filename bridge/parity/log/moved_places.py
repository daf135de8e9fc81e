"""Moved places: where lines of a log stand now that were sent from a file which another file replaced. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from bridge.ledger.edits import CarriedSpan
from bridge.parity.log.items import OFFSETS, SHIFT

GONE_PLACE = -1
"""The place of a line that was changed in its file, or taken out of it."""


class MovedPlaces:
    """Translates the places of a log, from which lines were sent, to the moved places where the lines stand now.

    A place is generation and offset in one number. `replaced` are the generations whose place another file took,
    `lying` the others of which another file took the place, but whose own file is there still, `copies` those that
    begin with lines of another log, `aliases` say under which other number a file is compared; `stretches`, by
    generation, say what of a file was sent before. All this is what the ledger says: parity still compares the lines
    with their entries.
    """

    def __init__(
        self, replaced: Iterable[int], stretches: Mapping[int, Sequence[CarriedSpan]], lying: Iterable[int] = (),
        copies: Iterable[int] = (), aliases: Mapping[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.replaced = {*replaced}
        self._aliases = {**(aliases or {})}
        self._names = {alias: number for number, alias in self._aliases.items()}
        self.begins = 0
        """The place from which on lines are compared: entries of lines that were sent from before it were trimmed."""
        self._lying, self._of_others = {*lying}, {*copies}
        self._there: list[tuple[int, int, int]] = []
        self._here: list[tuple[int, int, int]] = []
        oldest = min(self._lying, default=1 << 62)
        self._copies = {generation for generation in stretches if generation > oldest}
        for generation, some in stretches.items():
            for start, end, of, of_start, _ in some if generation not in self.replaced else ():
                number = self._aliases.get(generation, generation)
                before, now = (of << SHIFT) + of_start, (number << SHIFT) + start
                self._here.append((now, now + end - start, before))
                if of in self.replaced and generation not in self._copies:
                    self._there.append((before, before + end - start, now))
        self._there.sort()
        self._here.sort()

    def __call__(self, place: int) -> int:
        """Returns the moved place, where a line stands now that was sent from `place`.

        `GONE_PLACE`: the line stands nowhere.
        """
        number = place >> SHIFT
        if number in self._aliases:
            return (self._aliases[number] << SHIFT) + (place & OFFSETS)
        return place if number not in self.replaced else _through(self._there, place)

    def back(self, place: int) -> int:
        """Returns the place from which the line was sent that stands at a moved place now."""
        before = _through(self._here, place)
        if before != GONE_PLACE and before >> SHIFT:
            return before
        return (self._names.get(place >> SHIFT, place >> SHIFT) << SHIFT) + (place & OFFSETS)

    def is_anothers(self, place: int) -> bool:
        """Whether no entry is to claim the line at a moved place.

        So it is where the line's entry is claimed by another file's line, or was trimmed.
        """
        before = _through(self._here, place)
        if before == GONE_PLACE:
            return False
        if before < self.begins:
            return True
        return before >> SHIFT not in self.replaced or place >> SHIFT in self._copies

    def is_unproved(self, place: int) -> bool:
        """Whether the line at a moved place was passed over on somebody's word alone.

        Nothing told which line of the earlier file it is.
        """
        return _through(self._here, place) >> SHIFT == 0 and place >> SHIFT not in self._of_others

    def first_from(self, place: int) -> int:
        """Returns the first moved place of a line that was sent from `place` or from behind it.

        `GONE_PLACE`: there is none.
        """
        if place >> SHIFT not in self.replaced:
            return place
        return min(
            (now + max(0, place - before) for before, end, now in self._there if end > place), default=GONE_PLACE
        )

    def in_words(self, place: int) -> str:
        """Says in words at which byte of which generation a line stood that has no moved place, as the line is gone."""
        return f"byte {place & OFFSETS:,} of generation {place >> SHIFT}"


def _through(stretches: Sequence[tuple[int, int, int]], place: int) -> int:
    at = bisect_right(stretches, (place, 1 << 80, 0)) - 1
    if at < 0:
        return GONE_PLACE
    start, end, there = stretches[at]
    return there + place - start if place < end else GONE_PLACE
