"""The alignment of two files: what is passed over, and that nobody's new line ever is."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.files import alignment
from bridge.files.alignment import Alignment, align, in_order

LINE = 40


def keys(lines: Sequence[object]) -> memoryview:
    return memoryview(array("q", [hash(("line", item)) for item in lines]))


def aligned(old: Sequence[object], new: Sequence[object], size: Callable[[int], int] = lambda n: LINE) -> Alignment:
    return align(keys(old), keys(new), size)


def places(found: Alignment) -> list[tuple[int, int, int]]:
    return [(run.old, run.new, run.count) for run in found.runs]


OLD = list(range(400))


@pytest.mark.parametrize(
    ("new", "runs"),
    [
        pytest.param([*OLD[:50], "x", *OLD[51:]], [(0, 0, 50), (51, 51, 349)], id="a line changed"),
        pytest.param([*OLD[:50], *OLD[51:]], [(0, 0, 50), (51, 50, 349)], id="a line taken out"),
        pytest.param([*OLD[:50], "x", *OLD[50:]], [(0, 0, 50), (50, 51, 350)], id="a line put in"),
        pytest.param(OLD[300:], [(300, 0, 100)], id="the head cut"),
        pytest.param([*OLD[300:], "x", "y"], [(300, 0, 100)], id="cut and written on"),
        pytest.param(OLD[:110], [(0, 0, 110)], id="the tail cut"),
        pytest.param(OLD[:50], [], id="the tail cut to few lines, as a banner is"),
        pytest.param([*OLD, "x"], [(0, 0, 400)], id="written on"),
        pytest.param([*OLD[:50], 51, 50, *OLD[52:]], [(0, 0, 50), (50, 51, 1), (52, 52, 348)], id="two swapped"),
        pytest.param([*OLD[:10], "x", 11, "y", *OLD[13:]], [(0, 0, 10), (11, 11, 1), (13, 13, 387)], id="one between"),
        pytest.param([*OLD[200:], *OLD[:200]], [(0, 200, 200)], id="the halves changed places"),
        pytest.param([], [], id="emptied"),
        pytest.param(["x", "y", "z"], [], id="begun anew"),
    ],
)
def test_acts(new: list[object], runs: list[tuple[int, int, int]]) -> None:
    """What an editor or a script left of the lines is passed over, where it stands now."""
    assert places(aligned(OLD, new)) == runs


@pytest.mark.parametrize(
    "new",
    [
        pytest.param([0, "a", "b", "c"], id="the same banner"),
        pytest.param([0, 1, 2, "a", "b", "c"], id="a banner of three lines"),
        pytest.param([*OLD[:20], *"abcdefgh"], id="a long banner"),
        pytest.param([0, "a", "b", 399], id="banner and last line"),
        pytest.param([0, 1, *(f"n{n}" for n in range(30)), 398, 399], id="first and last words"),
        pytest.param(["a", 50, "b", 60, "c", 70], id="lines that come again, alone"),
    ],
)
def test_begun_anew(new: list[object]) -> None:
    """A log that is begun anew with some of the same lines loses none of them: nothing proves that they are old."""
    found = aligned(OLD, new)
    assert found.runs == ()
    assert found.shared == len(set(new) & set(OLD))


def test_a_line_that_comes_again_behind_the_cut_is_new() -> None:
    """Behind the last anchor nothing is passed over: that the same lines stood there before may be chance."""
    old = [*range(20), "beat", "beat", *range(20, 40), "beat"]
    new = [*range(5, 20), "beat", "beat", "more"]
    assert places(aligned(old, new)) == [(5, 0, 15)]
    assert places(aligned([*range(20), "beat", "beat"], [*range(10, 20), "beat", "beat", "more"])) == [(10, 0, 12)]


def test_lines_that_all_come_again_prove_nothing_but_by_many_bytes() -> None:
    """Beats alone are no evidence, however many: different lines of 4 KiB are."""
    beats = ["a", "b"] * 500
    assert aligned(beats, beats[:700]).runs == ()
    many = list(range(60)) * 2
    assert places(aligned(many, [*many[:100], "x"], lambda n: 80)) == [(0, 0, 100)]


def test_who_says_that_it_is_an_edit_is_believed() -> None:
    """Every run in order counts then."""
    found = in_order(keys(["beat", "beat", 1, "beat"]), keys(["beat", "beat", "beat"]))
    assert found.passed() == 3


def test_a_long_file_is_aligned_by_samples_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many lines to lay them all side by side, some stand for the others: the result is the same."""
    old = list(range(20_000))
    new: list[object] = [item for item in old if item % 997 and item > 3000]
    new[5000:5000] = ["x", "y"]
    exact = aligned(old, new)
    monkeypatch.setattr(alignment, "SAMPLE_LINES", 1 << 6)
    monkeypatch.setattr(alignment, "EXACT_LINES", 1 << 6)
    sampled = aligned(old, new)
    assert exact.passed() == len(new) - 2
    assert sampled.passed() >= exact.passed() - 2


LINES = st.one_of(st.integers(0, 60), st.sampled_from(["beat", "tick", "start"]))


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=80), st.lists(LINES, max_size=80), st.sampled_from([1, 40, 400]))
def test_what_is_passed_over_is_equal_and_in_order(old: list[object], new: list[object], size: int) -> None:
    """Whatever two files hold: runs are equal lines, in order in both, each with two lines that stand once, or 4 KiB."""
    found = aligned(old, new, lambda n: size)
    at_old = at_new = 0
    once = {item for item in old if old.count(item) == 1 and new.count(item) == 1}
    strong = []
    for run in found.runs:
        assert run.old >= at_old
        assert run.new >= at_new
        assert old[run.old : run.old + run.count] == new[run.new : run.new + run.count]
        at_old, at_new = run.old + run.count, run.new + run.count
        lines = new[run.new : run.new + run.count]
        strong.append(len(once.intersection(lines)) >= 2 or len(set(lines)) * size >= 4096)
        assert strong[-1] or once.intersection(lines)
    assert not strong or strong[-1]
    assert not strong or strong[0] or (found.runs[0].old, found.runs[0].new) == (0, 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=60), st.data())
def test_an_edit_loses_nothing(old: list[object], data: st.DataObject) -> None:
    """Lines that an edit puts in, or writes once more, are never passed over: each is sent besides those of before."""
    new = [*old]
    for n in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(new)))
        act = data.draw(st.sampled_from(["put in", "take out", "again"]))
        if act == "put in":
            new.insert(at, f"new {n}")
        elif act == "take out" and at < len(new):
            del new[at]
        elif act == "again" and at < len(new):
            new.insert(at, new[at])
    found = aligned(old, new)
    passed = Counter(line for run in found.runs for line in new[run.new : run.new + run.count])
    assert not any(str(line).startswith("new") for line in passed)
    assert all(passed[line] <= old.count(line) for line in passed)
