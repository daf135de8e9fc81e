"""Several files' history into one stream: in the order of their times, each file's own order kept."""

from __future__ import annotations

import heapq
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.batch_encoder import history_times
from bridge.engine.merge import merge
from bridge.files.lines import Lines
from bridge.kinds.kind import HistoryHead
from bridge.streams.reader import entries
from tests.support.project import ROOT
from tests.support.rig import Rig


def head(keys: list[int], begin: int = 0, *, more: bool = False, size: int = 10) -> HistoryHead:
    """Lines of these keys, each of so many bytes with its newline, of which those from `begin` on are offered."""
    lines = [b"x" * (size - 1)] * len(keys)
    offsets = [size * n for n in range(len(keys))]
    return HistoryHead(
        keys, begin, len(keys), more, Lines(lines, offsets, [at + size for at in offsets], size * len(keys))
    )


def runs_of(heads: list[HistoryHead], limit: int, room: int = 1 << 30) -> list[tuple[int, int, int]]:
    """What a merge of these heads takes, with files by their number; some in the heap that do not count any more."""
    named = {f"{i:02}": offered for i, offered in enumerate(heads) if offered.begin < offered.end}
    waiting = [(offered.keys[offered.begin], name, 2) for name, offered in named.items()]
    stale = [(key - 1, name, 1) for key, name, _ in waiting]
    heap = [*waiting, *stale, (0, "gone", 1)]
    heapq.heapify(heap)
    return [(int(name), begin, end) for name, begin, end in merge(heap, named, dict.fromkeys(named, 2), limit, room)]


def by_heads(files: list[list[int]]) -> list[tuple[int, int]]:
    """The plainest merge: the files' first lines are compared, the earliest goes; by file where times are equal."""
    heads = [(times[0], i, 0) for i, times in enumerate(files) if times]
    heapq.heapify(heads)
    order = []
    while heads:
        _, i, at = heapq.heappop(heads)
        order.append((i, at))
        if at + 1 < len(files[i]):
            heapq.heappush(heads, (files[i][at + 1], i, at + 1))
    return order


@given(st.lists(st.lists(st.integers(0, 12), max_size=12), min_size=1, max_size=5), st.integers(1, 50))
def test_as_the_plainest_merge(files: list[list[int]], limit: int) -> None:
    """Runs of lines are those that comparing first lines one by one gives, in whatever portions they are taken."""
    keys = [[*accumulate(times, max)] for times in files]
    at, order = [0] * len(files), []
    while any(at[i] < len(rows) for i, rows in enumerate(files)):
        runs = runs_of([head(k, a) for k, a in zip(keys, at, strict=True)], limit)
        assert 0 < sum(end - begin for _, begin, end in runs) <= limit
        for i, begin, end in runs:
            assert begin == at[i]
            order += [(i, n) for n in range(begin, end)]
            at[i] = end
    assert order == by_heads(files)


def test_ends_where_a_file_is_not_read_on() -> None:
    """Behind the last line at hand of a file that goes on nothing may be taken from another."""
    heads = [head([1, 2], more=True), head([1, 3, 4])]
    assert runs_of(heads, 100) == [(0, 0, 1), (1, 0, 1), (0, 1, 2)]


def test_ends_where_a_batch_is_full() -> None:
    """A merge takes what fits into a batch's bytes, and one line that does not fit by itself."""
    heads = [head([1, 1, 1], size=40), head([2, 2], size=30)]
    assert runs_of(heads, 100, 100) == [(0, 0, 2)]
    assert runs_of(heads, 100, 150) == [(0, 0, 3), (1, 0, 1)]
    assert runs_of(heads, 100, 120) == [(0, 0, 3)]
    assert runs_of(heads, 100, 10) == [(0, 0, 1)]


@given(st.lists(st.integers(-5, 40).filter(bool)), st.integers(0, 40), st.integers(0, 40))
def test_ids_from_times(times: list[int], floor: int, now: int) -> None:
    """IDs never fall, are never before the floor nor after the clock unless the floor is, and else are the time."""
    if not times:
        return
    ids, clamped = history_times(times, floor, now)
    assert ids == sorted(ids)
    assert all(floor <= entry_id <= max(now, floor) for entry_id in ids)
    assert clamped == sum(a != b for a, b in zip(ids, times, strict=True))
    latest = floor
    for entry_id, time in zip(ids, times, strict=True):
        latest = max(latest, min(time, now))
        assert entry_id == latest


def stamped(second: int, data: str) -> bytes:
    return f"2026-03-02T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z|say|{data}\n".encode()


def roles(rig: Rig, counts: dict[str, int], seed: int) -> list[tuple[int, str, str]]:
    """Per-role logs with times that run back now and then; (second, role, data) in the order of the merge."""
    noise, files = random.Random(seed), {}
    for name, count in counts.items():
        second, lines = 0, []
        for n in range(count):
            second = max(0, second + noise.choice([0, 0, 1, 2, 5, -3]))
            lines.append((second, f"{name}-{n}"))
        files[name] = lines
        (rig.root / f"{name}.out").write_bytes(b"".join(stamped(s, d) for s, d in lines))
    names = sorted(files)
    order = by_heads([[second for second, _ in files[name]] for name in names])
    return [(files[names[i]][n][0], names[i], files[names[i]][n][1]) for i, n in order]


@pytest.mark.parametrize(
    "counts", [{"wind": 3000, "wall": 2000, "door": 50, "alone": 1}, {f"r{n}": 90 for n in range(40)}]
)
def test_roles_are_merged(one_rig: Rig, counts: dict[str, int]) -> None:
    """Per-role logs come into their stream in the order of the plainest merge; IDs are the times, as far as they rise."""
    rig = one_rig
    rig.write_config(mapping="hestai-roles")
    wanted = roles(rig, counts, 3)
    assert not rig.once().errors
    found = list(entries(rig.redis, b"hestai:roles"))
    assert [(entry.fields[1].decode(), entry.fields[7].decode()) for entry in found] == [(r, d) for _, r, d in wanted]
    ids = [*accumulate((1772409600000 + second * 1000 for second, _, _ in wanted), max)]
    assert [entry.id[0] for entry in found] == ids
    rig.once()
    assert rig.redis.call("XLEN", "hestai:roles") == len(wanted)


@pytest.mark.parametrize("point", ["forward.send.before", "forward.send.after", "forward.reply.after"])
def test_killed_while_merging(rig: Rig, point: str) -> None:
    """Killed again and again, the entries and their IDs are those of a merge that was never disturbed."""
    rig.write_config(mapping="hestai-roles")
    wanted = roles(rig, {"wind": 1500, "wall": 900, "door": 700}, 5)
    for _ in range(4):
        child = rig.start("--once", crash=f"{point}:2", dual=False)
        child.wait(60)
        assert child.returncode == -9, rig.said()
    assert not rig.once(dual=False).errors
    found = list(entries(rig.redis, b"hestai:roles"))
    assert [(entry.fields[1].decode(), entry.fields[7].decode()) for entry in found] == [(r, d) for _, r, d in wanted]
    assert [entry.id[0] for entry in found] == [*accumulate((1772409600000 + s * 1000 for s, _, _ in wanted), max)]


def test_lost_after_a_merge(rig: Rig) -> None:
    """A stream that lost its tail in the middle of merged batches is refilled: every line once, each file in order."""
    rig.write_config(mapping="hestai-roles")
    wanted = roles(rig, {"wind": 1000, "wall": 900}, 8)
    rig.once(dual=False)
    rig.redis.call("DEL", "hestai:roles")
    for role in ("wind", "wall"):
        with (rig.root / f"{role}.out").open("ab") as file:
            file.write(stamped(9000, f"{role}-more"))
    for _ in range(2):
        assert not rig.once(dual=False).errors
        found = [(entry.fields[1].decode(), entry.fields[7].decode()) for entry in entries(rig.redis, b"hestai:roles")]
        assert sorted(found) == sorted([*((r, d) for _, r, d in wanted), ("wind", "wind-more"), ("wall", "wall-more")])
        for role in ("wind", "wall"):
            mine = [data for who, data in found if who == role]
            assert mine == [*(d for _, r, d in wanted if r == role), f"{role}-more"]


def test_lines_that_are_no_messages(one_rig: Rig) -> None:
    """What cannot be an entry is set aside in the midst of a merge, and moves no other line."""
    rig = one_rig
    rig.write_config(mapping="hestai-roles")
    for name in ("a", "b"):
        good = [stamped(n, f"{name}{n}") for n in range(700)]
        (rig.root / f"{name}.out").write_bytes(b"".join(b"no message\n\n" + raw if n % 7 == 0 else raw
                                                       for n, raw in enumerate(good)))  # fmt: skip
    rig.once()
    assert [entry.fields[7].decode() for entry in entries(rig.redis, b"hestai:roles")] == [
        f"{name}{n}" for n in range(700) for name in ("a", "b")
    ]


def test_written_back_to_its_role(one_rig: Rig) -> None:
    """A Redis-born entry of a declared role goes to that role's file, in its form; another goes into quarantine."""
    rig = one_rig
    rig.write_config(mapping="hestai-roles", extra='[components.ui]\nroles = ["ui", "wind"]\n')
    (rig.root / "wind.out").write_bytes(stamped(1, "old"))
    for role in ("wind", "ui", "stranger"):
        rig.redis.call("XADD", "hestai:roles", "*", "role", role, "timestamp", "2026-03-02T10:00:00Z", "type", "say",
                       "data", f"from {role}")  # fmt: skip
    for _ in range(2):
        rig.once()
    assert (rig.root / "wind.out").read_bytes() == stamped(1, "old") + b"2026-03-02T10:00:00Z|say|from wind\n"
    assert (rig.root / "ui.out").read_bytes() == b"2026-03-02T10:00:00Z|say|from ui\n"
    assert not (rig.root / "stranger.out").exists()
    assert rig.redis.call("XLEN", "hestai:roles") == 4


def test_shipped_mappings_on_real_files(one_rig: Rig) -> None:
    """The five debates and the per-role logs, where they are at hand, come over whole and in time order."""
    data = ROOT.parent / "shared" / "data" / "hestai"
    if not data.is_dir():
        pytest.skip("real files are not here")
    rig = one_rig
    for mapping, folder, stream, glob in (
        ("hestai-roles", "per-role", b"hestai:roles", "*.out"), ("hestai-debates", ".", b"hestai:debates", "debates/*"),
    ):  # fmt: skip
        for path in (data / folder).glob(glob):
            target = rig.root / path.relative_to(data / folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
        rig.write_config(mapping=mapping)
        assert not rig.once().errors
        found = list(entries(rig.redis, stream))
        assert len(found) == sum(p.read_bytes().count(b"\n") for p in (data / folder).glob(glob)) == 88
        times = [entry.fields[3] for entry in found]
        assert times == sorted(times)


def test_one_that_fails_takes_nothing_along(one_rig: Rig) -> None:
    """Where one file of a merge must stop, lines of the others that were taken with it are carried all the same."""
    rig = one_rig
    text = rig.run("mapping", "show", "hestai-roles").stdout + '\n[policy]\non_reject = "stop"\n'
    (rig.path / "mine.toml").write_text(text)
    rig.write_config(mapping="mine.toml")
    for name in "abc":
        some = [stamped(n, f"{name}{n}") for n in range(900)]
        (rig.root / f"{name}.out").write_bytes(b"".join(some[:500] + [b"bad\n"] * (name == "b") + some[500:]))
    assert "b.out offset" in str(rig.once().errors[0])
    found = [entry.fields[7].decode() for entry in entries(rig.redis, b"hestai:roles")]
    for name in "abc":
        mine = [data for data in found if data[0] == name]
        assert mine == [f"{name}{n}" for n in range(500 if name == "b" else 900)]
