"""Classifies left-over lines and entries, after all that agree are gone, into kinds of differences. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import eq
from typing import Any

from bridge.core.codecs import Codec
from bridge.core.model import Row, as_json
from bridge.parity.log.items import OFFSETS, SHIFT, ComparedFile, ExtraLine, MissingLine
from bridge.parity.log.line_window import messages

DIFFERENCE_KINDS = ("missing_in_redis", "missing_in_file", "altered", "duplicate", "reordered")

LIKE = 0.5
ALIKE_NEAR, ALIKE_SHARE = 8, 256
"""How much of the longer of two lines must stand in the other, to count as the same line altered (`LIKE`); how many
lines are tried (`ALIKE_NEAR`), and how many bytes of each end of a line are compared (`ALIKE_SHARE`)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A classified difference: one message on which the two sides disagree, and where it stands.

    `line` counts from 1; `entry` is an ID. `expected` is what the message is where it was first written, `actual` what
    stands on the other side; None: nothing.
    """

    kind: str
    file: str | None
    line: int | None
    offset: int | None
    entry: str | None
    expected: bytes | None
    actual: bytes | None
    place: int = field(default=-1, compare=False)
    source: str = field(default="", compare=False)
    row: Row = field(default=(), compare=False)
    time_ms: int = field(default=0, compare=False)
    file_born: bool = field(default=True, compare=False)
    shift: int = field(default=0, compare=False)
    """By how many bytes the line stands behind the place that its origin would name."""
    whole: bool = field(default=True, compare=False)
    """Whether `expected` is a line, and not merely an entry's values."""
    raw_name: bytes = field(default=b"", compare=False)
    """The file's path as the file system has it, of a folder with a file per message."""

    def to_json(self) -> dict[str, Any]:
        """Returns a classified difference as `parity --json` prints it (DESIGN §5.4)."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("kind", "file", "line", "offset", "entry")}
        for name in ("expected", "actual"):
            raw = getattr(self, name)
            facts[name] = None if raw is None else as_json(raw)
        return facts


@dataclass(slots=True)
class Classified:
    """The result of classifying the left-over lines and entries: differences, and counts of those that are none.

    `late` messages stand out of order and are marked so.
    """

    differences: list[Difference] = field(default_factory=list)
    late: int = 0
    unordered: int = 0
    """Messages of components that write both sides themselves."""
    file_born: int = 0
    redis_born: int = 0
    """Messages that turned out to be no differences, by where they were first written: `file_born`, `redis_born`."""
    altered_broken: int = 0
    """Lines that are no messages, and were classified as altered ones."""
    foreign: int = 0
    aside: int = 0
    accounted: list[tuple[ExtraLine, str]] = field(default_factory=list)
    """Lines that an entry, or the quarantine, explains after all, each with what became of it."""
    lost: list[ExtraLine] = field(default_factory=list)
    """Lines that nothing explains."""


Look = Callable[[Iterable[bytes], Iterable[tuple[str, int]]], "FreshLook"]
"""Looks through the files once more, for lines of these bytes and for the lines at these places."""


def classify(
    extras: Sequence[ExtraLine], absent: Sequence[MissingLine], codec: Callable[[str], Codec], *,
    aside: Callable[[ExtraLine | MissingLine], bool], both: frozenset[bytes], seen: Look,
) -> Classified:  # fmt: skip
    """Classifies left-over lines and entries: pairs them by content, then by place, then within each gap.

    What stays alone is missing, or too many, unless it is `aside`, in quarantine. `seen` is called only when something
    stays alone even so.
    """
    found = Classified()
    rows = _rows_of(extras, codec)
    waiting: dict[tuple[str, object], list[int]] = defaultdict(list)
    for n, extra_line in enumerate(extras):
        waiting[extra_line.file.source, rows[n] if rows[n] is not None else extra_line.line].append(n)
    for places in waiting.values():
        places.reverse()
    taken: set[int] = set()
    rest: list[MissingLine] = []
    for missing in absent:
        here = waiting.get((missing.name, missing.row))
        if not here and missing.line is not None:
            here = waiting.get((missing.name, missing.line))
        if not here:
            rest.append(missing)
            continue
        n = here.pop()
        taken.add(n)
        if not extras[n].broken:
            found.accounted.append((extras[n], "carried" if missing.home >= 0 else "mirrored"))
        settled = missing.excused or (missing.home < 0 and missing.row[:1] and missing.row[0] in both)
        found.file_born += bool(settled) and missing.home >= 0
        found.redis_born += bool(settled) and missing.home < 0
        if missing.excused:
            found.late += 1
        elif settled:
            found.unordered += 1
        else:
            found.differences.append(_difference("reordered", extras[n], missing, codec))
    alone = dict.fromkeys(n for n in range(len(extras)) if n not in taken and not aside(extras[n]))
    found.accounted += [
        (extra, "quarantined") for n, extra in enumerate(extras) if n not in taken | alone.keys() and not extra.broken
    ]
    entries = [missing_line for missing_line in rest if not aside(missing_line)]
    left = sum(1 for n, left_alone in enumerate(extras) if n not in taken and n not in alone and not left_alone.broken)
    found.aside = left + len(rest) - len(entries)
    if alone or entries:
        lines = [entry.line for entry in entries if entry.stray and entry.line is not None]
        known = seen([*lines, *(extras[n].line for n in alone)], [(entry.name, entry.home) for entry in entries])
        _repeated(extras, alone, known, found, codec)
        entries = _by_place(extras, alone, _behind_torn(extras, alone, entries, found), found, codec)
        entries = _by_gap(extras, alone, entries, found, codec)
        for n in alone:
            if extras[n].file.foreign:
                found.foreign += 1
            elif not extras[n].broken:
                found.lost.append(extras[n])
                found.differences.append(_difference("missing_in_redis", extras[n], None, codec))
        _without_line(extras, absent, entries, known, found, codec)
    return found


def _repeated(
    extras: Sequence[ExtraLine],
    alone: dict[int, None],
    known: FreshLook,
    found: Classified,
    codec: Callable[[str], Codec],
) -> None:
    """Classifies as duplicate each left-over line that repeats an earlier line of its source which has its entry."""
    for n in [*alone]:
        extra = extras[n]
        first = known.first.get(extra.line)
        if first is not None and first[0] == extra.file.source and first[1] < extra.place and not extra.broken:
            found.differences.append(_difference("duplicate", extra, None, codec))
            found.lost.append(extra)
            del alone[n]


def _behind_torn(
    extras: Sequence[ExtraLine], alone: dict[int, None], entries: list[MissingLine], found: Classified
) -> list[MissingLine]:
    """Pairs entries whose origins lie in the middle of a left-over line with that line; returns the other entries.

    Such a line stands behind a torn piece of ours: a full disk cut the piece off, and another program's line followed
    it. Forward reads the line without the piece.
    """
    by_file: dict[tuple[str, int], list[int]] = defaultdict(list)
    for n in alone:
        by_file[extras[n].file.source, extras[n].home >> SHIFT].append(n)
    still = []
    for missing in entries:
        here = by_file.get((missing.name, missing.home >> SHIFT), []) if missing.home >= 0 and missing.line else []
        at = next((
            n for n in here
            if n in alone and (cut := missing.home - extras[n].home) > 0 and extras[n].line[cut:] == missing.line
        ), -1)  # fmt: skip
        if at < 0:
            still.append(missing)
            continue
        del alone[at]
        found.accounted.append((extras[at], "carried"))
        found.file_born += 1
        found.altered_broken += extras[at].broken
    return still


def _without_line(
    extras: Sequence[ExtraLine], absent: Sequence[MissingLine], alone: list[MissingLine], known: FreshLook,
    found: Classified, codec: Callable[[str], Codec],
) -> None:  # fmt: skip
    """Classifies each entry that has no line: as missing in the file, or as a duplicate.

    It is a duplicate where its line belongs to another entry too: both name the same origin.
    """
    left_over = {(extra.file.source, extra.place) for extra in extras}
    here = Counter((missing_line.name, missing_line.home) for missing_line in alone)
    named = {
        at
        for at, n in Counter((missing_line.name, missing_line.home) for missing_line in absent).items()
        if n > here[at]
    }
    for missing in alone:
        at = (missing.name, missing.home)
        line = known.at.get(at)
        twice = missing.home >= 0 and at in named
        twice = twice or (missing.stray and missing.line in known.first)
        if line is not None and at not in left_over:
            twice = twice or codec(missing.name).agree([line], [missing.row])
        found.differences.append(_difference("duplicate" if twice else "missing_in_file", None, missing, codec))


@dataclass(frozen=True, slots=True)
class FreshLook:
    """What a second reading of the files found for classifying left-over lines and entries.

    `first`: where lines of the bytes asked for stand first, besides those that were left over; `at`: the lines that
    stand at the places asked for.
    """

    first: dict[bytes, tuple[str, int]]
    at: dict[tuple[str, int], bytes]


def look_again(
    files: Iterable[tuple[str, Sequence[ComparedFile]]], codec: Callable[[str], Codec], wanted: set[bytes],
    asked: set[tuple[str, int]], left_over: set[tuple[str, int]],
) -> FreshLook:  # fmt: skip
    """Reads files once more to classify what is left over: finds `wanted` lines, and the lines at the places `asked`.

    Of the wanted lines, those at places in `left_over` do not count.
    """
    seen = FreshLook({}, {})
    for name, pieces in files:
        mine = {place for source, place in asked if source == name}
        for file in pieces:
            for place, line in messages(file, codec(name)):
                if place in mine:
                    seen.at[name, place] = line
                if line in wanted and line not in seen.first and (name, place) not in left_over:
                    seen.first[line] = (name, place)
    return seen


def _rows_of(extras: Sequence[ExtraLine], codec: Callable[[str], Codec]) -> list[Row | None]:
    rows: list[Row | None] = [None] * len(extras)
    by_source: dict[str, list[int]] = defaultdict(list)
    for n, extra in enumerate(extras):
        by_source[extra.file.source].append(n)
    for name, places in by_source.items():
        for n, row in zip(places, codec(name).decode([extras[n].line for n in places]).rows, strict=True):
            rows[n] = row if isinstance(row, tuple) else None
    return rows


def _alter(extra: ExtraLine, missing: MissingLine, found: Classified, codec: Callable[[str], Codec]) -> None:
    """Classifies a left-over line and an entry as one altered message; the line as lost, unless it is a broken one."""
    found.altered_broken += extra.broken
    found.lost += [extra] * (not extra.broken)
    found.differences.append(_difference("altered", extra, missing, codec))


def _by_place(
    extras: Sequence[ExtraLine],
    alone: dict[int, None],
    rest: list[MissingLine],
    found: Classified,
    codec: Callable[[str], Codec],
) -> list[MissingLine]:
    """Classifies as altered each entry whose named place holds other bytes in a left-over line; returns the others."""
    at = {(extras[n].file.source, extras[n].home): n for n in alone}
    still = []
    for missing in rest:
        n = at.pop((missing.name, missing.home), -1) if missing.home >= 0 else -1
        if n < 0:
            still.append(missing)
            continue
        _alter(extras[n], missing, found, codec)
        del alone[n]
    return still


def _by_gap(
    extras: Sequence[ExtraLine],
    alone: dict[int, None],
    rest: list[MissingLine],
    found: Classified,
    codec: Callable[[str], Codec],
) -> list[MissingLine]:
    """Classifies as altered each Redis-born entry that is much like a left-over line in the same gap.

    The place of such entries is not known. Returns the entries that found no line.
    """
    gaps: dict[tuple[str, int], deque[int]] = defaultdict(deque)
    for n in alone:
        if extras[n].gap:
            gaps[extras[n].file.source, extras[n].gap].append(n)
    still = []
    for missing in rest:
        line = missing.line
        here = gaps.get((missing.name, missing.gap)) if missing.home < 0 else None
        near = -1
        if here and line is not None:  # both are in order: the first that is alike, of the next few
            near = next((n for n in islice(here, ALIKE_NEAR) if likeness(extras[n].line, line) >= LIKE), -1)
        if not here or near < 0:
            still.append(missing)
            continue
        while here.popleft() != near:
            pass
        del alone[near]
        _alter(extras[near], missing, found, codec)
    return still


def likeness(a: bytes, b: bytes) -> float:
    """Computes how alike two lines are: the share of the longer one that stands at the same place in the other. Pure.

    Places count from either end; 0 to 1.
    """
    a, b = _ends(a), _ends(b)
    longer = max(len(a), len(b))
    head = sum(map(eq, a, b))
    tail = sum(map(eq, reversed(a), reversed(b)))
    return max(head, tail) / longer if longer else 1.0


def _ends(line: bytes) -> bytes:
    return line if len(line) <= 2 * ALIKE_SHARE else line[:ALIKE_SHARE] + line[-ALIKE_SHARE:]


def _difference(
    kind: str, extra: ExtraLine | None, missing: MissingLine | None, codec: Callable[[str], Codec]
) -> Difference:
    line = extra.line if extra is not None else None
    entry = _as_line(missing, codec) if missing is not None else None
    expected, actual = {
        "missing_in_redis": (line, None),
        "missing_in_file": (entry, None),
        "duplicate": (None, line if entry is None else entry),
        "reordered": (entry, line),
        "altered": (line, entry) if missing is not None and missing.home >= 0 else (entry, line),
    }[kind]
    if extra is not None:
        file, number, offset, place, source = (
            extra.file.name, extra.number, extra.place & OFFSETS, extra.place, extra.file.source,
        )  # fmt: skip
    else:
        number, file, offset, place, source = None, None, None, -1, ""
    if missing is not None and extra is None:
        source, place = missing.name, missing.home
        file = missing.file.name if missing.file is not None else missing.name
        offset = missing.home & OFFSETS if missing.home >= 0 else None
    rows, times = codec(source or "x").decode([raw for raw in (line, entry) if raw is not None])
    row = next((row for row in rows if isinstance(row, tuple)), missing.row if missing is not None else ())
    return Difference(
        kind, file, number, offset, missing.entry.decode() if missing is not None else None, expected, actual, place,
        source, row, max(times, default=0), missing is None or missing.home >= 0,
        extra.place - extra.home if extra is not None else 0, missing is None or missing.line is not None,
    )  # fmt: skip


def _as_line(missing: MissingLine, codec: Callable[[str], Codec]) -> bytes:
    """Returns a left-over entry as a line; where its fields make none, the fields with bars between them."""
    return missing.line if missing.line is not None else b"|".join(missing.row)


def counts(differences: Iterable[Difference]) -> dict[str, int]:
    """Counts classified differences by kind, 0 for a kind that does not occur."""
    found = Counter(difference.kind for difference in differences)
    return {kind: found[kind] for kind in DIFFERENCE_KINDS}
