"""Relocated entries: their lines stand elsewhere now, or nowhere, as another file replaced their log. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bridge.core.codecs import Codec
from bridge.core.model import EntryId, Row, parse_id
from bridge.parity.acknowledgements import Acknowledged, RowGrouping
from bridge.parity.log.items import MissingLine
from bridge.parity.log.moved_places import GONE_PLACE, MovedPlaces
from bridge.parity.log.page_columns import OddFields
from bridge.parity.log.tally import ComparisonTally

Column = tuple[list[int], list[Row], list[bytes]]
"""Places, rows and entry IDs of file-born entries of one source."""


class RelocatedEntries:
    """Finds where the lines of relocated file-born entries stand now; those that stand nowhere go to `missing`."""

    def __init__(
        self, moved: Mapping[str, MovedPlaces], acknowledged: Acknowledged, codec: Callable[[str], Codec],
        missing: Callable[[MissingLine], None],
    ) -> None:  # fmt: skip
        self._moved = moved
        self._acknowledged = acknowledged
        self._codec = codec
        self._missing = missing
        self._rows = RowGrouping()
        self._count = self._unproved = 0

    def tell(self, tally: ComparisonTally) -> None:
        """Adds to the tally the relocated entries whose lines were changed or taken out, and which are acknowledged."""
        tally.taken_out, tally.redacted = self._rows.found, self._acknowledged.deleted
        tally.acknowledged += self._count
        tally.unproved = self._unproved

    def place(self, name: str, place: int) -> int:
        """Returns the relocated place of a log's line that was sent from `place`; `GONE_PLACE`: it stands nowhere."""
        return self._moved[name](place) if name in self._moved else place

    def needs_no_entry(self, name: str, place: int) -> bool:
        """Whether no entry is to claim the line at a relocated place.

        So it is where the line's entry was deleted on purpose or belongs to another line, or its lack is acknowledged.
        """
        moved = self._moved.get(name)
        if moved is None:
            return self._acknowledged.line(name, place)
        if moved.is_anothers(place):
            self._unproved += moved.is_unproved(place)
            return True
        was = moved.back(place)
        if was != place and self._acknowledged.line_without_entry(name, was):
            self._count += 1
            return True
        return self._acknowledged.line(name, was)

    def is_acknowledged(self, entry: bytes) -> bool:
        """Whether it is acknowledged that a relocated entry has no line; if so, the entry is counted."""
        known = self._acknowledged.missing(entry)
        self._count += known
        return known

    def standing(self, name: str, column: Column) -> Column:
        """Returns the entries of a log whose lines stand in a file, with their relocated places."""
        moved = self._moved.get(name)
        if moved is None:
            return column
        now, (places, rows, ids) = [*map(moved, column[0])], column
        if GONE_PLACE not in now:
            self._rows.end()
            return now, rows, ids
        left = [n for n, at in enumerate(now) if at != GONE_PLACE]
        for n, at in enumerate(now):
            if at != GONE_PLACE:
                self._rows.end()
            elif not self.is_acknowledged(ids[n]):
                self._tell(name, parse_id(ids[n]), MissingLine(name, ids[n], rows[n], None, places[n]))
        return [now[n] for n in left], [rows[n] for n in left], [ids[n] for n in left]

    def _tell(self, name: str, entry: EntryId, gone: MissingLine) -> None:
        codec = self._codec(name)
        line = codec.encode(gone.row) if codec.invertible and not isinstance(gone.row, OddFields) else None
        self._rows.add(entry)
        self._missing(MissingLine(name, gone.entry, gone.row, line if isinstance(line, bytes) else None, gone.home))
