"""Parity's tests whether the ledger explains a line or entry that stands alone: by the quarantine or a torn range."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.model import UTF8_MARK
from bridge.ledger.quarantine import KEPT_LINE_BYTES, kept_lines, still_aside
from bridge.ledger.ranges import range_at, range_digest
from bridge.ledger.store import Ledger
from bridge.parity.log.items import (
    OFFSETS,
    SHIFT,
    ComparedFile,
    ExtraLine,
    MissingLine,
    OverlongLine,
    size_of,
)
from bridge.parity.snapshot import Snapshot


def kept_back(view: Snapshot, ledger: Ledger | None, stream: str) -> Callable[[ComparedFile, int, bytes], bool] | None:
    """Makes parity's test whether a source's line at a place is in the ledger's quarantine.

    The test also holds where a range of the mirror covers the line, torn by another writer's line, and holds the
    same bytes still.
    """
    if ledger is None:
        return None
    known: dict[str, tuple[dict[tuple[int, int], int], set[tuple[int, bytes]]]] = {}

    def kept(file: ComparedFile, place: int, line: bytes) -> bool:
        name, size = file.source, size_of(line)
        place = view.moved[name].back(place) if name in view.moved else place
        generation, offset = place >> SHIFT, place & OFFSETS
        if name not in known:
            known[name] = kept_lines(ledger, stream, name)
        lengths, contents = known[name]
        if isinstance(line, OverlongLine):
            return lengths.get((generation, offset)) == size - 1
        if (size - 1, line[:KEPT_LINE_BYTES]) in contents:
            return True
        if offset == file.mark > 0 and (size - 1 + file.mark, (UTF8_MARK + line)[:KEPT_LINE_BYTES]) in contents:
            return True  # an earlier version took the file's mark for a part of the line
        held = range_at(ledger, stream, name, generation, offset)
        if held is None or held.end < offset + size:
            return False
        return range_digest(b"".join(file.section(held.start, held.end))) == held.digest

    return kept


def set_aside(view: Snapshot, ledger: Ledger | None, stream: str) -> Callable[[ExtraLine | MissingLine], bool]:
    """Makes parity's test whether the ledger keeps a line or an entry in quarantine.

    The mapping may have been mended since, so that the line or entry could be translated by now.
    """
    if ledger is None:
        return lambda value: False
    kept: dict[str, dict[tuple[int, int, str], int]] = {}

    def aside(extra: ExtraLine | MissingLine) -> bool:
        if not kept:
            kept[""] = still_aside(ledger, stream, "mirror")
            kept.update((name, still_aside(ledger, stream, "forward", name)) for name in view.sources)
        if isinstance(extra, ExtraLine):
            name = extra.file.source
            place = view.moved[name].back(extra.place) if name in view.moved else extra.place
            mark = extra.file.mark  # which an earlier version took for a part of the line
            begins = {place & OFFSETS, 0 if place & OFFSETS == mark else place & OFFSETS}
            return any((place >> SHIFT, begin, "") in kept.get(name, {}) for begin in begins)
        return extra.home < 0 and (0, 0, extra.entry.decode()) in kept[""]

    return aside
