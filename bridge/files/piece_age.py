"""The age of a log's rotated pieces, by evidence (DESIGN §6.2): what was seen, lines' times, mtime, and then names.

Pure: what is known of each piece is passed in.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.files.content_form import SUFFIXES

Order = Literal["evidence", "name", "mtime", "number_up", "number_down"]
"""The way to decide the age of pieces: by evidence, or as the mapping says instead (`source.order`)."""

TimeSpan = tuple[int, int]
"""The earliest and the latest time that a piece's lines tell, in milliseconds since 1970."""

Opinion = tuple[str, tuple[int, ...], tuple[int, ...]]
"""The age that a piece's name tells: its form, then a date or a moment, then counters."""

_TAI = re.compile(r"@?(4[0-9a-f]{15,23})(?![0-9a-f])")
_YEAR_FIRST = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])(?:\2(0[1-9]|[12]\d|3[01]))?(?=(\d*))")
_YEAR_LAST = re.compile(r"(?<!\d)(\d\d)([-_.])(\d\d)\2((?:19|20)\d\d)(?!\d)")
_INTEGER = re.compile(r"\d+")
_COUNTER = re.compile(r"(?<![0-9A-Za-z])\d+(?![0-9A-Za-z])")
_BACKUP = re.compile(r"\.(?:bak|old|orig|save|copy)$|~$")
HOW = {
    "times": "their lines' times", "mtime": "when they were written to", "seen": "what was seen", "name": "their names",
    "path": "its path, as the log itself", "oldest": "being the oldest", "alone": "being alone",
}  # fmt: skip
"""The words, to stand behind "by", for each evidence that decides which of two pieces is older."""

SURE_MS = 1000
"""Milliseconds by which the times of two pieces must differ to tell which of them is the older one."""

_MOMENT = 100_000_000
"""A number in a name that is no smaller counts seconds, or parts of them, since 1970."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a log whose age is asked: the name of its file, and the evidence beside the name.

    `number` is that of the generation which it was seen to be, None of a piece that nobody knows; `written` its mtime
    in ns since 1970; `span` reads the lines' times, None where they tell none. `packed`: its file is compressed, which
    may have been made long after the last line was written. `born`: when the file was made, in ns since 1970, 0 where
    nobody can tell.
    """

    name: str
    written: int
    span: Callable[[], TimeSpan | None]
    number: int | None = None
    packed: bool = False
    born: int = 0


@dataclass(frozen=True, slots=True)
class DatedPiece:
    """A piece's place in the order of age: its index among those given, and the evidence that put it there.

    `decided` is what put it behind the piece before it.
    """

    index: int
    decided: str


def bare(name: str) -> str:
    """Returns the name of a piece's file without the suffix of its compression."""
    return name[: name.rindex(".")] if name.endswith(SUFFIXES) else name


@functools.lru_cache(maxsize=1 << 13)
def opinion(name: str) -> Opinion | None:
    """Reads from a rotated piece's name how old it says the piece is, in the forms that loggers use; None: nothing.

    Compared only with one of the same form. Of a number that counts, a higher one is taken for the older piece.
    """
    text = bare(name)
    if _BACKUP.search(text):
        return None
    if found := _TAI.search(text):
        return "label", (int(found[1].ljust(24, "0"), 16),), ()
    if found := _YEAR_FIRST.search(text):
        rest = [found[5]] if found[5] else []
        counters = [*rest, *_INTEGER.findall(text[found.end(5) :])]
        return "date", (int(found[1]), int(found[3]), int(found[4] or 0)), tuple(map(int, counters))
    if found := _YEAR_LAST.search(text):
        day, month = sorted((int(found[1]), int(found[3])), reverse=True)
        if month > 12 or (day <= 12 and day != month):  # day and month cannot be told apart
            return None
        counters = _INTEGER.findall(text[found.end() :])
        return "date", (int(found[4]), month, day), tuple(map(int, counters))
    numbers = _COUNTER.findall(text)
    if not numbers:
        return None
    last = int(numbers[-1])
    return ("moment", (last,), ()) if last >= _MOMENT else ("number", (-last,), ())


def tells_age(name: str) -> bool:
    """Whether a rotated piece's name tells its age: it holds a number, a date or a moment, as whole generations' do.

    A date of which nobody can tell day and month is one all the same.
    """
    return opinion(name) is not None or (not _BACKUP.search(bare(name)) and bool(_YEAR_LAST.search(bare(name))))


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Makes a key to sort pieces by name in which the numbers in a name compare as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def _by_name(name: str, order: Order) -> tuple[object, ...]:
    said = opinion(name)
    if said is None:
        return 2, "", (), (), _natural(name)
    form, first, counters = said
    if form == "number" and order == "number_up":
        first = (-first[0],)
    if form == "date" and order == "number_down":
        counters = tuple(-number for number in counters)
    return 1, form, first, counters, _natural(name)


def precedes(span: TimeSpan | None, other: TimeSpan | None) -> bool:
    """Whether all lines of one piece are older than all lines of another, as their times tell. Pure.

    Both ends must be older by a second: two writers' clocks differ by less than that, and a line's time may be cut to
    seconds.
    """
    if span is None or other is None or span[1] > other[0]:
        return False
    return span[0] + SURE_MS <= other[0] and span[1] + SURE_MS <= other[1]


def _convention(pieces: Sequence[Piece]) -> dict[str, int]:
    """Learns from pieces that were seen how names tell age, by form: 1 as `opinion` has it, -1 the other way round.

    Two at least must have been seen, and none speak against it: what was seen tells how the others' names are meant.
    """
    seen = sorted((piece for piece in pieces if piece.number is not None), key=lambda piece: piece.number or 0)
    told: dict[str, list[Opinion]] = {}
    for piece in seen:
        if (said := opinion(piece.name)) is not None:
            told.setdefault(said[0], []).append(said)
    found = {}
    for form, some in told.items():
        ways = {(first < second) - (first > second) for first, second in itertools.pairwise(some)}
        if len(ways) == 1 and 0 not in ways:
            found[form] = ways.pop()
    return found


def _named_before(piece: Piece, other: Piece, convention: dict[str, int]) -> bool:
    """Whether one piece is older than another by name, as the names of the pieces that were seen count."""
    first, second = opinion(piece.name), opinion(other.name)
    if first is None or second is None or first[0] != second[0] or first[0] not in convention:
        return False
    return (first < second) if convention[first[0]] > 0 else (second < first)


def _written_later(piece: Piece, other: Piece, span: TimeSpan | None, its: TimeSpan | None) -> bool:
    """Whether a piece is older than another by name, although its file was written later.

    So is a compressed one, where a rotation compresses the piece of the time before: that file's mtime is only a latest
    possible one. And one to which its writer went on writing after it was rotated; but not before one that was seen: an
    older piece that nobody knows may be one that was edited, and would be left alone.
    """
    outlived = other.number is None and 0 < piece.born < _began(other)
    if piece.written <= other.written or not ((piece.packed and not other.packed) or outlived):
        return False
    if precedes(span, its) or precedes(its, span):
        return False
    first, second = opinion(piece.name), opinion(other.name)
    return first is not None and second is not None and first[0] == second[0] and first < second


def _began(piece: Piece) -> int:
    """Returns a time, in ns since 1970, by which a rotated piece lay in its folder, or its lines in another file."""
    return min(piece.born or piece.written, piece.written)


def _some_written_later(pieces: Sequence[Piece]) -> bool:
    """Whether mtimes may put any of these pieces behind one that is younger, as `_written_later` has it."""
    if 0 < sum(piece.packed for piece in pieces) < len(pieces):
        return True
    began = 0
    for piece in sorted(pieces, key=lambda piece: piece.written):
        if 0 < piece.born < began:
            return True
        began = max(began, _began(piece) if piece.number is None else 0)
    return False


def in_age_order(pieces: Sequence[Piece], order: Order = "evidence") -> list[DatedPiece]:
    """Sorts the pieces of one log by age, oldest first, by the strongest evidence; the same in every process.

    Pieces that were seen stand in the order of their generations. Of the others each stands behind all whose lines are
    older than its own, and behind all that are older by name where what was seen tells how names count; among what is
    left by mtime, then by name. Times that contradict what was seen decide nothing.
    """
    seen = sorted(
        (i for i, piece in enumerate(pieces) if piece.number is not None), key=lambda i: pieces[i].number or 0
    )
    if len(seen) == len(pieces):
        return [DatedPiece(i, "seen") for i in seen]
    by_times = order == "evidence"
    asked = {i for i, piece in enumerate(pieces) if piece.number is None} | set(seen[-1:])
    spans = {i: span for i in asked if by_times and len(pieces) > 1 and (span := pieces[i].span()) is not None}
    written = {i: piece.written for i, piece in enumerate(pieces)}
    for older, newer in zip(seen[-2::-1], seen[:0:-1], strict=True):  # a touch moves no other
        written[older] = min(written[older], written[newer])

    def key(i: int) -> tuple[object, ...]:
        named = _by_name(pieces[i].name, order)
        time = spans.get(i, (0, 0))
        return (written[i], time, *named) if order in ("evidence", "mtime") else (*named, written[i])

    convention = _convention(pieces) if by_times else {}
    doubtful = by_times and _some_written_later(pieces)
    left = sorted(range(len(pieces)), key=key)
    chain = [*seen]
    ordered: list[int] = []
    while left:
        first = min((spans[i][1] for i in left if i in spans), default=0)

        def free(i: int, first: int = first) -> bool:
            if doubtful and any(_written_later(pieces[j], pieces[i], spans.get(j), spans.get(i)) for j in left):
                return False
            if convention and any(
                _named_before(pieces[j], pieces[i], convention) and not precedes(spans.get(i), spans.get(j))
                for j in left
            ):
                return False
            if i not in spans or first > spans[i][0]:
                return True
            return not any(precedes(spans.get(j), spans[i]) for j in left)

        may = [i for i in left if pieces[i].number is None or i == chain[0]]
        chosen = next((i for i in may if free(i)), may[0])
        left.remove(chosen)
        ordered.append(chosen)
        if chain and chosen == chain[0]:
            chain.pop(0)
    return [DatedPiece(i, _decided(pieces, spans, order, i, before)) for before, i in zip([None, *ordered], ordered)]  # noqa: B905


def _decided(pieces: Sequence[Piece], spans: dict[int, TimeSpan], order: Order, i: int, before: int | None) -> str:
    """Names in one word the evidence that puts a piece behind the one before it in the order of age."""
    if before is None:
        return "seen" if pieces[i].number is not None else "alone" if len(pieces) == 1 else "oldest"
    if pieces[i].number is not None and pieces[before].number is not None:
        return "seen"
    if precedes(spans.get(before), spans.get(i)):
        return "times"
    convention = _convention(pieces) if order == "evidence" else {}
    if _named_before(pieces[before], pieces[i], convention):
        return "name"
    if order not in ("evidence", "mtime") or _written_later(pieces[before], pieces[i], spans.get(before), spans.get(i)):
        return "name"
    return "mtime" if pieces[before].written < pieces[i].written else "name"


def contradicted(pieces: Sequence[Piece], ordered: Sequence[DatedPiece]) -> str:
    """Says which pieces' names, or mtimes, speak against the order of age that the evidence gives; empty: none.

    A higher number is taken for older, by its name. Pure.
    """
    for before, after in itertools.pairwise(ordered):
        older, other = pieces[before.index], pieces[after.index]
        first, second = opinion(older.name), opinion(other.name)
        said = f"{older.name} is taken for older than {other.name}, by {HOW[after.decided]}"
        if after.decided == "times" and older.written > other.written:
            return f"{said}; it was written to later: if a writer's clock stepped back, their order is another"
        named = first is not None and second is not None and first[0] == second[0] and after.decided != "name"
        if named and first is not None and second is not None and first > second:
            return f"{said}; their names say otherwise"
    return ""
