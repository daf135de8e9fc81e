"""`format.no_time = "previous"`: a line without a time is carried, and takes its place from the line before it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.mapping import Mapping
from bridge.engine.batch_encoder import history_times
from tests.support.rig import Rig

MINE = """
name = "mine"
[source]
kind = "log"
path = "messages.log"
rotated = ["messages.log.*"]
[format]
codec = "jsonl"
{}
[message]
role = {{ pointer = "/role", default = "log" }}
type = {{ pointer = "/type" }}
timestamp = {{ pointer = "/timestamp" }}
[stream]
key = "hestai:messages"
[mirror]
path = "messages.log"
"""
PREVIOUS = 'no_time = "previous"'


def _record(n: int, second: int | None) -> bytes:
    stamp = {} if second is None else {"timestamp": f"2026-03-01T10:00:{second:02}Z"}
    return json.dumps({"type": "t", "n": n, **stamp}).encode() + b"\n"


def _mine(rig: Rig, how: str = PREVIOUS) -> None:
    (rig.path / "mine.toml").write_text(MINE.format(how))
    rig.write_config(mapping="mine.toml")


def test_records_without_a_time_are_carried(mem: Rig) -> None:
    """Records without a time, first, between and last, are carried in order, their IDs at the time before them."""
    _mine(mem)
    raw = [_record(n, second) for n, second in enumerate([None, None, 5, None, None, 7, None])]
    mem.log.write_bytes(b"".join(raw))
    report = mem.once()
    assert (mem.datas(), report.quarantined) == ([line[:-1] for line in raw], 0)
    base = 1_772_359_200_000
    assert [entry.id[0] - base for entry in mem.entries()] == [5000, 5000, 5000, 5000, 5000, 7000, 7000]
    assert [entry.fields[3] for entry in mem.entries()][1:4] == [b"", b"2026-03-01T10:00:05Z", b""]
    with mem.log.open("ab") as file:
        file.write(_record(9, None))
    mem.once()
    assert mem.datas()[-1] == _record(9, None)[:-1]
    assert mem.parity().verdict == "equal"
    mem.check_account()


def test_a_log_in_which_no_line_has_a_time(mem: Rig) -> None:
    """A log without any time is carried whole and in order, and live lines have the time of sending."""
    _mine(mem)
    mem.log.write_bytes(b"".join(_record(n, None) for n in range(3000)))
    mem.once()
    assert mem.datas() == [_record(n, None)[:-1] for n in range(3000)]
    assert mem.parity().verdict == "equal"


def test_the_mirror_writes_one_back(mem: Rig) -> None:
    """A Redis-born entry without a time becomes a line that says the same."""
    _mine(mem)
    mem.log.write_bytes(_record(1, 1))
    mem.redis.call("XADD", "hestai:messages", "*", "role", "log", "timestamp", "", "type", "t", "data",
                   _record(2, None)[:-1])  # fmt: skip
    mem.once()
    assert mem.log.read_bytes() == _record(1, 1) + _record(2, None)
    assert mem.parity().verdict == "equal"


def test_the_default_is_quarantine(mem: Rig) -> None:
    """Without the key, a record without a time goes into quarantine, and nothing else changes."""
    _mine(mem, "")
    mem.log.write_bytes(_record(1, 1) + _record(2, None) + _record(3, 3))
    assert mem.once().quarantined == 1
    assert mem.datas() == [_record(1, 1)[:-1], _record(3, 3)[:-1]]


@pytest.mark.parametrize(
    ("form", "line", "row"),
    [
        ({"codec": "delimited", "delimiter": "|", "columns": ["timestamp", "role", "type", "data"]},
         b"|r|t|d", (b"r", b"", b"t", b"d")),
        ({"codec": "regex", "pattern": r"(?:(?P<timestamp>\d{4}-\S+) )?(?P<role>\w+) (?P<type>\w+) (?P<data>.*)"},
         b"r t d", (b"r", b"", b"t", b"d")),
    ],
)  # fmt: skip
def test_other_codecs(form: dict[str, Any], line: bytes, row: tuple[bytes, ...]) -> None:
    """An empty column, or a group that takes no part, is a time that is missing; a wrong time is a reject all the same."""
    tables = {"name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "m"},
              "format": {**form, "no_time": "previous"}}  # fmt: skip
    codec = Mapping.model_validate(tables).codec("m.log")
    assert codec.decode([line]) == ([row], [0])
    assert isinstance(codec.decode([b"|r|t|d".replace(b"|", b"yesterday|", 1)]).rows[0], str)


@given(st.lists(st.one_of(st.just(0), st.integers(1, 40)), min_size=1, max_size=12), st.integers(0, 30))
def test_ids_never_fall(times: list[int], floor: int) -> None:
    """Entry IDs of any times, missing ones among them, never fall, and only a time of its own counts as clamped."""
    ids, clamped = history_times(times, floor, 35)
    assert ids == sorted(ids)
    assert all(given <= 35 or given == floor for given in ids)
    assert clamped == sum(1 for own, given in zip(times, ids, strict=True) if own and own != given)
    if 0 < times[0] <= 35 and floor <= times[0]:
        assert ids[0] == times[0]
