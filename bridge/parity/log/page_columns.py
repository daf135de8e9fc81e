"""Splits a page of the stream into columns: file-born entries by source, Redis-born and odd entries. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bridge.core.codecs.named_path import EXTRA
from bridge.core.model import ORIGIN_FIELD, Row, parse_origin
from bridge.parity.log.items import OFFSETS, SHIFT

Rows = Sequence[Sequence[Any]]
"""An XRANGE reply: pairs of an ID, and fields and values."""


class FileBornColumns(NamedTuple):
    """Columns of a page's file-born entries of one source: the places that their origins name, their rows and IDs."""

    places: list[int]
    rows: list[Row]
    ids: list[bytes]


class OddFields(tuple[bytes, ...]):
    """The fields and values of a page's entry whose fields are not those of its mapping."""


class PageColumns(NamedTuple):
    """A page of the stream in columns: file-born entries by source number, Redis-born entries, and odd ones.

    `plain` entries have no origin; of `odd` ones the origin is of no known form. Each column is in stream order.
    """

    born: dict[int, FileBornColumns]
    plain: list[tuple[bytes, list[bytes]]]
    odd: list[bytes]


def parted(rows: Rows, names: list[bytes]) -> PageColumns:
    """Splits a page of the stream into columns, and skips deleted entries.

    `names` are the fields that the mapping's entries have.
    """
    with_origin = [*names, ORIGIN_FIELD]
    held = [fields[0::2] if fields is not None else None for _, fields in rows]
    born = [row for row, its in zip(rows, held, strict=True) if its == with_origin]
    plain = [row for row, its in zip(rows, held, strict=True) if its == names]
    if len(born) + len(plain) < len(rows):
        return _one_by_one(rows, names, with_origin)
    if not born:
        return PageColumns({}, plain, [])  # type: ignore[arg-type]
    column = _of_one_generation(born)
    if column is None:
        column = _one_by_one(born, names, with_origin).born
    return PageColumns(column, plain, [])  # type: ignore[arg-type]


def _of_one_generation(born: Rows) -> dict[int, FileBornColumns] | None:
    """Splits a page into columns in the commonest case: all origins name one source and generation.

    None: they do not, or not in the known form.
    """
    fields = [row[1] for row in born]
    origins = [field[-1] for field in fields]
    first = parse_origin(origins[0])
    if first is None:
        return None
    prefix, joined = b" %d.%d:" % first[:2], b" " + b" ".join(origins)
    offsets = joined.replace(prefix, b" ").split()
    if joined.count(prefix) != len(born) or len(offsets) != len(born) or not all(map(bytes.isdigit, offsets)):
        return None
    numbers = list(map(int, offsets))
    if max(numbers) > OFFSETS:
        return None
    places = list(map((first.generation << SHIFT).__add__, numbers))
    return {first.source: FileBornColumns(places, [tuple(field[1:-2:2]) for field in fields], [row[0] for row in born])}


def _one_by_one(rows: Rows, names: list[bytes], with_origin: list[bytes]) -> PageColumns:
    found = PageColumns({}, [], [])
    known: dict[bytes, tuple[int, int]] = {}
    for entry_id, fields in rows:
        if fields is None:
            continue
        held = fields[0::2]
        if ORIGIN_FIELD not in held:
            found.plain.append((entry_id, fields))
            continue
        raw = fields[2 * held.index(ORIGIN_FIELD) + 1]
        prefix, _, offset = raw.partition(b":")
        base = known.get(prefix)
        if base is None or not offset.isdigit() or len(offset) > 15:
            origin = parse_origin(raw)
            if origin is None:
                found.odd.append(entry_id)
                continue
            base = known[prefix] = (origin.source, origin.generation << SHIFT)
        column = found.born.get(base[0])
        if column is None:
            column = found.born[base[0]] = FileBornColumns([], [], [])
        column.places.append(base[1] + min(int(offset), OFFSETS))  # no file is so long: no line is there
        column.rows.append(tuple(fields[1:-2:2]) if held == with_origin else row_of(fields, names))
        column.ids.append(entry_id)
    return found


def row_of(fields: Sequence[bytes], names: Sequence[bytes]) -> Row:
    """Returns a page's entry as a row in the codec's field order; where its fields are others, all that it has."""
    held = fields[0::2]
    values = dict(zip(held, fields[1::2], strict=True))
    more = {ORIGIN_FIELD, *EXTRA} if ORIGIN_FIELD in values else set()  # of a line that names an artifact
    if len(held) == len(values) and set(values) - (more - set(names)) == set(names):
        return tuple(values[name] for name in names)
    return OddFields(part for name, value in zip(held, fields[1::2], strict=True) if name != ORIGIN_FIELD
               for part in (name, value))  # fmt: skip


def late_among(rows: Rows, late: Callable[[list[bytes]], set[bytes]] | None) -> set[bytes]:
    """Returns the IDs of a page's entries that are marked late, by their ID or by their origin."""
    if late is None:
        return set()
    marks = []
    for entry_id, fields in rows:
        names = fields[0::2] if fields is not None else []
        marks.append((entry_id, entry_id))
        if fields is not None and ORIGIN_FIELD in names:
            marks.append((entry_id, fields[2 * names.index(ORIGIN_FIELD) + 1]))
    marked = late([mark for _, mark in marks])
    return {entry_id for entry_id, mark in marks if mark in marked}
