"""The comparison alone, on sides in memory: random faults against an oracle that knows every message by its bytes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.parity.log.overflow_queue import OverflowQueue
from bridge.parity.log.sequence_diff import align, ascending
from bridge.parity.log.tally import ComparisonTally
from tests.support.sides import NAME, Sides, by_force, longest, text

FAULTS = ("lost entry", "lost line", "line twice", "entry twice", "lines swapped", "entries swapped", "line altered",
          "entry altered", "tail cut", "block lost")  # fmt: skip


@st.composite
def both_sides(draw: st.DrawFn) -> Sides:
    """A history of file-born messages, Redis-born ones whose lines come some time after, and rotations."""
    sides, waiting = Sides(), list[bytes]()
    for n in range(draw(st.integers(3, 60))):
        what = draw(st.integers(0, 19))
        if what == 0 and sides.files[-1]:
            sides.files.append([])
        data = f"m{n}" + "x" * (n * 7 % 5)
        if what < 7:
            waiting.append(text(data, "ui"))
            sides.entries.append((waiting[-1], None))
        else:
            sides.append(text(data))
        if draw(st.booleans()) and waiting:
            sides.files[-1].append(waiting.pop(0))
    sides.files[-1] += waiting
    return sides


def ended_early(draw: Any, sides: Sides) -> dict[int, int]:
    """For each earlier generation a place behind which nothing but Redis-born lines stands."""
    ends = {}
    for n, lines in enumerate(sides.files[:-1], 1):
        last = max((i for i, line in enumerate(lines, 1) if not line.startswith(b"ui|")), default=0)
        ends[n] = sum(len(line) + 1 for line in lines[: draw(st.integers(last, len(lines)))])
    return ends


def plant(draw: Any, sides: Sides) -> list[tuple[bytes, bytes]]:
    """One fault; what was altered, and into what."""
    fault = draw(st.sampled_from(FAULTS))
    lines, entries = draw(st.sampled_from([file for file in sides.files if file])), sides.entries
    i, j = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    e, f = draw(st.integers(0, len(entries) - 1)), draw(st.integers(0, len(entries) - 1))
    if fault == "lost entry":
        del entries[e]
    elif fault == "lost line":
        del lines[i]
    elif fault == "line twice":
        lines.insert(max(i + 1, j), lines[i])
    elif fault == "entry twice" and entries[e][1] is not None:
        entries.insert(f, entries[e])
    elif fault == "lines swapped":
        lines[i], lines[j] = lines[j], lines[i]
    elif fault == "entries swapped":
        entries[e], entries[f] = entries[f], entries[e]
    elif fault == "line altered":
        old, lines[i] = lines[i], lines[i][:-1] + b"#"
        return [(old, lines[i])]
    elif fault == "entry altered":
        old, place = entries[e]
        entries[e] = old[:-1] + b"#", place
        return [(old, entries[e][0])]
    elif fault == "tail cut":
        del sides.files[-1][-draw(st.integers(1, 8)) :]
    elif fault == "block lost":
        del lines[i : i + draw(st.integers(1, 12))]
    return []


def found(tally: ComparisonTally) -> dict[str, int]:
    """The kinds of difference, and how many of each."""
    return dict(Counter(difference.kind for difference in tally.differences))


@settings(max_examples=300, deadline=None)
@given(both_sides(), st.data(), st.sampled_from([1, 3, 7, 50]))
def test_nothing_planted(sides: Sides, data: st.DataObject, page: int) -> None:
    """Whatever the interleaving and the rotations: equal, and every message is counted."""
    sides.ends = ended_early(data.draw, sides)
    tally = sides.compare(page=page)
    assert not tally.differences
    assert tally.compared == len(sides.entries)
    assert tally.redis_born == sum(1 for _, place in sides.entries if place is None)


@settings(max_examples=600, deadline=None)
@given(both_sides(), st.data(), st.sampled_from([1, 3, 7, 50]))
def test_one_fault(sides: Sides, data: st.DataObject, page: int) -> None:
    """Any one fault is found, and counted as the oracle does."""
    altered = plant(data.draw, sides)
    if sides.entries:
        assert found(sides.compare(page=page)) == by_force(sides, altered)


@settings(max_examples=300, deadline=None)
@given(both_sides(), st.data(), st.sampled_from([1, 3, 7, 50]))
def test_many_faults(sides: Sides, data: st.DataObject, page: int) -> None:
    """However many there are: every line and every entry is either the same on both sides, or in one difference."""
    for _ in range(data.draw(st.integers(2, 6))):
        if sides.entries and any(sides.files):
            plant(data.draw, sides)
    tally = sides.compare(page=page)
    lines = sum(map(len, sides.files))
    kinds = Counter((difference.kind, difference.line is not None) for difference in tally.differences)
    both = tally.compared + kinds["altered", True] + kinds["reordered", True]
    assert lines == both + kinds["missing_in_redis", True] + kinds["duplicate", True]
    assert len(sides.entries) == both + kinds["missing_in_file", False] + kinds["duplicate", False]
    places = [place for _, place in sides.entries if place is not None]
    claimed = all(a < b for a, b in pairwise(places))  # else an entry claims another's line, wherever its own stands
    assert (not tally.differences) == (by_force(sides, []) == {} and claimed)


def test_two_faults_that_cancel_each_other() -> None:
    """Two lines changed places, and their entries too: each side reads the same, but the origins are not true."""
    sides = Sides()
    for n in range(23):
        sides.append(text(f"m{n}" + "x" * (n % 4)))
    lines, entries = sides.files[0], sides.entries
    lines[1], lines[21] = lines[21], lines[1]
    entries[1], entries[21] = entries[21], entries[1]
    assert by_force(sides, []) == {}
    assert found(sides.compare())


@settings(max_examples=300, deadline=None)
@given(both_sides(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=4), st.data())
def test_going_on(whole: Sides, cuts: list[tuple[float, float, float]], data: st.DataObject) -> None:
    """Looked at again and again while both sides grow, each time only from where they were equal: the same in the end.

    The lines come, their entries come after them or before, the checkpoint and the mirror's word come later still.
    """
    lines = [(n, line) for n, file in enumerate(whole.files, 1) for line in file]
    since = None
    for cut in [*sorted(cuts), (1.0, 1.0, 1.0)]:
        here = Sides()
        shown = lines[: round(cut[0] * len(lines))]
        here.files = [[line for n, line in shown if n == g] for g in range(1, (shown[-1][0] if shown else 1) + 1)]
        there = {(n, sum(len(x) + 1 for x in here.files[n - 1][:i])) for n in range(1, len(here.files) + 1)
                 for i in range(len(here.files[n - 1]))}  # fmt: skip
        here.entries = []
        for line, place in whole.entries:  # what has no line yet is not sent yet; the rest of the stream neither
            if place is not None and place not in there:
                break
            here.entries.append((line, place))
        here.ends = ended_early(data.draw, here)
        mirrored = {line for _, line in shown}
        if any(line in mirrored for line, place in whole.entries[len(here.entries) :] if place is None):
            continue  # a line before its entry: that cannot be
        if cut[0] < 1.0:
            sent = [place for _, place in here.entries if place is not None and place[0] == len(here.files)]
            here.due = round(cut[1] * max((place[1] for place in sent), default=0)) if sent else 0
            behind = [n for n, (line, place) in enumerate(here.entries, 1) if place is None and line not in mirrored]
            here.mirrored = round(cut[2] * (min(behind, default=len(here.entries) + 1) - 1))
        tally = here.compare(page=data.draw(st.sampled_from([1, 7, 50])), since=since)
        assert not tally.differences
        since = here.until or since
    assert since is not None
    assert since.totals["file_born"] == sum(1 for _, place in whole.entries if place is not None)
    assert since.totals["redis_born"] == sum(1 for _, place in whole.entries if place is None)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abc"), max_size=40))
def test_align(a: list[str], b: list[str]) -> None:
    """What is paired is the same, ascends, and is as much as can be."""
    pairs = align(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
    assert len(pairs) == longest(a, b)


def test_align_of_long_ones() -> None:
    """With anchors: a block that is gone, and one that came in."""
    a = [f"m{n}" for n in range(5000)]
    b = a[:1000] + a[1800:3000] + [f"new{n}" for n in range(700)] + a[3000:]
    assert len(align(a, b)) == 4200


@given(st.lists(st.integers(0, 30), max_size=40))
def test_ascending(values: list[int]) -> None:
    """The longest strictly ascending subsequence."""
    places = ascending(values)
    assert places == sorted(set(places))
    chosen = [values[i] for i in places]
    assert all(x < y for x, y in pairwise(chosen))
    assert len(chosen) == longest(values, sorted(set(values)))


def test_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """First in, first out, be it in memory or in the file, whatever is asked for meanwhile."""
    monkeypatch.setattr("bridge.parity.log.overflow_queue.HELD_BYTES", 1000)
    spool, ids = OverflowQueue(), [b"%d-0" % n for n in range(2000)]
    at = 0
    for start in range(0, 2000, 50):
        spool.push(ids[start : start + 50], ids[start : start + 50])
        taken, lines = spool.pop(17)
        assert taken == lines == ids[at : at + 17]
        spool.put_back(taken[9:], lines[9:])
        at += 9
    assert [entry_id for part in spool.look() for entry_id in part] == ids[at:]
    assert spool.peek(60)[0] == ids[at : at + 60]
    assert [entry_id for part, _ in spool.drain() for entry_id in part] == ids[at:]
    assert len(spool) == 0
    spool.close()


def test_in_flight() -> None:
    """Behind the checkpoint lines are on their way, behind the mirror's last entry entries are; the oldest is told."""
    sides = Sides()
    for n in range(20):
        sides.append(text(f"m{n}"))
    sides.due = sum(len(line) + 1 for line in sides.files[0])
    sides.entries.append((text("r0", "ui"), None))
    sides.files[0] += [text("m20"), text("r0", "ui"), text("m21")]
    sides.entries += [(text("r1", "ui"), None), (text("r2", "ui"), None)]
    sides.mirrored = 21
    tally = sides.compare()
    assert (tally.differences, tally.compared, tally.in_flight) == ([], 21, 4)
    assert tally.oldest_ms == 22


def test_gone_generation() -> None:
    """Messages of a generation that is gone are unverifiable, Redis-born ones that were mirrored into it too."""
    sides = Sides()
    for n in range(30):
        sides.append(text(f"m{n}"), born="redis" if n % 3 == 0 else "file")
        if n in (9, 19):
            sides.files.append([])
    sides.gone = {2}
    tally = sides.compare()
    assert (tally.differences, tally.compared, tally.unverifiable) == ([], 20, 10)
    assert tally.why == {f"generation 2 of {NAME} is gone": 10}


def test_late_and_unordered() -> None:
    """What is marked late stands where it likes; so does what a component writes on both sides itself."""
    sides = Sides()
    for n in range(30):
        sides.append(text(f"m{n}"))
    sides.entries.append(sides.entries.pop(10))
    place = sides.entries[-1][1]
    assert place is not None
    assert found(sides.compare()) == {"reordered": 1}
    tally = sides.compare(late=frozenset({b"1.%d:%d" % place}))
    assert (tally.differences, tally.compared, tally.late) == ([], 30, 1)
    sides.entries += [(text("a", "ui"), None), (text("b", "ui"), None), (text("b", "ui"), None)]
    sides.files[0] += [text("b", "ui"), text("a", "ui")]
    tally = sides.compare(both=frozenset({b"ui"}))
    assert found(tally) == {"reordered": 1, "missing_in_file": 1}
    assert tally.unordered == 1


@pytest.mark.parametrize("every", [2, 3, 7])
@pytest.mark.parametrize("born", ["file", "redis"])
def test_differences_close_together(every: int, born: str) -> None:
    """Every second or third line of a long log altered, as `sed -i` does it: altered each, and nothing else."""
    sides = Sides()
    for n in range(9_000):
        sides.append(text(f"m{n}" + "x" * (n % 7)), born=born)
    sides.append(text("last"))
    lines = sides.files[0]
    for n in range(0, 9_000, every):
        lines[n] = lines[n].replace(b"agent|", b"AGENT|")
    tally = sides.compare(page=1000)
    assert found(tally) == {"altered": len(range(0, 9_000, every))}
