"""Two sides of a bridge in memory, and what a comparison of them should find, by brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from bridge.core.mapping import Mapping, load_mapping
from bridge.core.model import ORIGIN_FIELD, EntryId, format_id
from bridge.parity.log.compare import Comparison
from bridge.parity.log.expected_line import ExpectedLine
from bridge.parity.log.items import OFFSETS, SHIFT, ComparedFile, LineBlock
from bridge.parity.log.tally import ComparisonTally, Expectations
from bridge.parity.proof_point import ProofPoint
from tests.support.rig import FIELDS

MAPPING: Mapping = load_mapping("hestai-message", Path())
NAME = "messages.log"


def text(data: str, role: str = "agent") -> bytes:
    """A line without its newline; data of different lengths, so that places move when lines do."""
    return f"{role}|2026-03-02T09:14:05Z|turn|{data}".encode()


@dataclass
class Sides:
    """`files`: the lines of each generation. `entries`: (line, place of its origin or None), in stream order.

    `due` is how far the last generation was carried, None: to its end; `mirrored` the last entry the mirror has done.
    """

    files: list[list[bytes]] = field(default_factory=lambda: [[]])
    entries: list[tuple[bytes, tuple[int, int] | None]] = field(default_factory=list)
    due: int | None = None
    mirrored: int | None = None
    gone: set[int] = field(default_factory=set)
    ends: dict[int, int] = field(default_factory=dict)
    """Where earlier generations were taken for ended, when the mirror's last lines were not there yet."""
    until: ProofPoint | None = None
    """From where the next comparison may go on, after one that found all equal."""

    def append(self, line: bytes, *, born: str = "file", carried: bool = True) -> None:
        """A message that is on both sides; `born` "redis": it has no origin; not `carried`: it has no entry yet."""
        here = self.files[-1]
        if carried:
            place = (len(self.files), sum(len(raw) + 1 for raw in here)) if born == "file" else None
            self.entries.append((line, place))
        here.append(line)

    def compare(
        self, *, page: int = 7, late: frozenset[bytes] = frozenset(), both: frozenset[bytes] = frozenset(),
        since: ProofPoint | None = None,
    ) -> ComparisonTally:  # fmt: skip
        """What parity finds."""
        files = [file_of(n, lines, self.due if n == len(self.files) else self.ends.get(n))
                 for n, lines in enumerate(self.files, 1) if n not in self.gone]  # fmt: skip
        last: EntryId = (1 << 60, 0) if self.mirrored is None else (self.mirrored, 0)
        due = Expectations(
            last, True, True, lambda names: set(names) & late, lambda item: False, {NAME: sorted(self.gone)}, both
        )
        found = since.rest(NAME, files) if since is not None else files
        assert found is not None
        comparison = Comparison(
            {NAME: found}, {1: NAME}, {}, MAPPING.codec, ExpectedLine(MAPPING, frozenset()), due, since
        )
        rows = [[format_id((n, 0)), fields_of(line, place)] for n, (line, place) in enumerate(self.entries, 1)]
        rows = rows[since.resume[0] :] if since is not None else rows
        for at in range(0, len(rows), page):
            comparison.feed(rows[at : at + page])
        tally = comparison.finish()
        self.until = None
        if not tally.differences:
            self.until = comparison.until((len(self.entries), 0), len(self.entries), last)
        comparison.close()
        return tally


def fields_of(line: bytes, place: tuple[int, int] | None) -> list[bytes]:
    """An entry's fields and values."""
    parts = line.split(b"|", 3)
    found = [part for pair in zip(FIELDS, parts, strict=True) for part in pair]
    return found if place is None else [*found, ORIGIN_FIELD, b"1.%d:%d" % place]


def file_of(number: int, lines: Sequence[bytes], due: int | None) -> ComparedFile:
    """A generation of these lines, read a few at a time."""
    ends = [0, *accumulate(len(line) + 1 for line in lines)]
    raw = b"".join(line + b"\n" for line in lines)

    def blocks(start: int) -> Iterator[LineBlock]:
        for at in range(ends.index(start), len(lines), 5):
            yield LineBlock([*lines[at : at + 5]], ends[at : min(at + 5, len(lines))])

    def section(start: int, end: int) -> Iterator[bytes]:
        yield raw[start:end]

    return ComparedFile(f"{NAME}.{number}", NAME, number, ends[-1] if due is None else due, blocks, section, lambda: "")


def longest(a: Sequence[object], b: Sequence[object]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], before + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


def by_force(sides: Sides, altered: Sequence[tuple[bytes, bytes]]) -> dict[str, int]:
    """What must be found where every message was unlike every other one. `altered`: what was, and what became of it."""
    same = {new: old for old, new in altered}
    lines = [same.get(line, line) for file in sides.files for line in file]
    entries = [(same.get(line, line), place) for line, place in sides.entries]
    changed = {same.get(line, line) for file in sides.files for line in file if line in same}
    changed |= {same.get(line, line) for line, _ in sides.entries if line in same}
    here, there = Counter(lines), Counter(line for line, _ in entries)
    found = Counter[str]()
    for line in {*here, *there}:
        if not there[line]:
            found["missing_in_redis"] += here[line]
        elif not here[line]:
            found["missing_in_file"] += there[line]
        else:
            found["duplicate"] += abs(here[line] - there[line])
            found["altered"] += line in changed
    for born in (True, False):
        mine = [line for line, place in entries if (place is not None) == born and here[line]]
        its = [line for line in lines if line in set(mine)]
        found["reordered"] += (Counter(mine) & Counter(its)).total() - longest(mine, its)
    return {kind: n for kind, n in found.items() if n}


__all__ = ["MAPPING", "NAME", "OFFSETS", "SHIFT", "Sides", "by_force", "text"]
