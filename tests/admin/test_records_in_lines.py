"""`quarantine retry --records` takes whole JSON records out of lines that hold several, or a torn one: each once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.codecs.jsonl import JsonlCodec, record_at, whole_records
from bridge.core.mapping import Mapping
from bridge.streams.embedded.binary import find
from tests.kinds.test_no_time import MINE
from tests.support.rig import Rig

TABLES = {"name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "m"}, "format": {"codec": "jsonl"},
          "message": {"role": {"pointer": "/role", "default": "log"}, "type": {"pointer": "/type", "default": "t"},
                      "timestamp": {"pointer": "/timestamp"}}}  # fmt: skip


def record(n: int, **more: Any) -> bytes:
    return json.dumps({"role": "a", "type": "t", "timestamp": f"2026-03-01T10:00:{n:02}Z", "n": n, **more}).encode()


A, B, C = record(1), record(2, text='a {"brace"} in a text'), record(3, deep={"role": "b", "x": [{}, {"y": 1}]})
TORN = record(4, text="the end is missing")[:-10]
LINES: dict[str, tuple[bytes, list[bytes], bytes]] = {
    "two": (A + B, [A, B], b""),
    "three, with blanks": (A + b"  " + B + b"\t" + C, [A, B, C], b""),
    "zero bytes between": (A + bytes(100) + B, [A, B], b""),
    "zero bytes before": (bytes(64) + A, [A], b""),
    "a whole one behind a torn one": (TORN + A, [A], TORN),
    "two behind a torn one": (TORN + A + B, [A, B], TORN),
    "a torn one behind two": (A + C + TORN, [A, C], TORN),
    "a torn one between two": (A + TORN + B, [A, B], TORN),
    "a torn one alone": (TORN, [], TORN),
    "torn within an inner object": (C[: C.index(b"}") + 1], [], C[: C.index(b"}") + 1]),
    "torn behind an inner object with a time": (b'{"role": "a", "deep": ' + A, [], b'{"role": "a", "deep": ' + A),
    "the end of a record whose beginning is elsewhere": (A + b"}", [], A + b"}"),
    "the end of one, and a whole one": (A + b"}" + B, [B], A + b"}"),
    "a list of records": (b"[" + A + b"," + B + b"]", [], b"[" + A + b"," + B + b"]"),
    "within a list that is torn": (b'{"x": [1, ' + A, [], b'{"x": [1, ' + A),
    "one that is no message": (A + b'{"role": "a"}' + B, [A, B], b'{"role": "a"}'),
    "no JSON": (b"a word", [], b"a word"),
    "a letter of several bytes before": ("é".encode() + TORN + A, [A], "é".encode() + TORN),
    "bytes that are no UTF-8": (b"\xff" + TORN + A, [A], b"\xff" + TORN),
    "many braces": (b"{" * 3000 + A, [A], b"{" * 3000),
    "a line full of braces": (b"{" * 900_000 + A, [A], b"{" * 900_000),
    "a torn list of many objects": (b'{"x": [' + b'{"a": 1},' * 90_000 + A[:-1], [], b'{"x": [' + b'{"a": 1},' * 90_000 + A[:-1]),
    "many objects that are none of ours": (b'x{"a": 1} ' * 90_000 + A, [A], (b'x{"a": 1} ' * 90_000).strip()),
}  # fmt: skip


def codec() -> JsonlCodec:
    made = Mapping.model_validate(TABLES).codec("m.log")
    assert isinstance(made, JsonlCodec)
    return made


@pytest.mark.parametrize("name", LINES)
def test_whole_records_of_a_line(name: str) -> None:
    """The whole records at the top of a line are found, at their places, and what is left is what is torn."""
    line, wanted, rest = LINES[name]
    found, left = whole_records(codec(), line)
    assert [text for _, text in found] == wanted
    assert all(line[at : at + len(text)] == text == record_at(line[at:]) for at, text in found)
    assert left == rest


@given(
    st.lists(st.sampled_from([A, B, C]), max_size=4),
    st.lists(st.sampled_from([b"", b" ", bytes(3)]), min_size=5, max_size=5),
)
def test_records_with_anything_between(records: list[bytes], between: list[bytes]) -> None:
    """Records that follow each other, with blanks and zeros between, are all found, in order."""
    line = b"".join(text for pair in zip(between, [*records, b""], strict=False) for text in pair)
    found, left = whole_records(codec(), line)
    assert ([text for _, text in found], left) == (records, b"")


@pytest.fixture
def mem(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig.shared(tmp_path, find())
    (rig.path / "mine.toml").write_text(MINE.format(""))
    rig.write_config(mapping="mine.toml")
    yield rig
    rig.close_shared()


def _retry(rig: Rig, *args: str, env: dict[str, str] | None = None) -> tuple[int, list[dict[str, Any]]]:
    done = rig.run("quarantine", "retry", "--json", "--redis", rig.url, *args, env=env)
    return done.returncode, json.loads(done.stdout) if done.stdout else []


@pytest.mark.parametrize("last", [False, True])
def test_each_goes_over_once(mem: Rig, last: bool) -> None:
    """Each whole record of three broken lines is in the stream once, marked late; what is torn stays; both are EQUAL."""
    broken = [A + B, TORN + C, record(5) + bytes(9) + record(6) + TORN]
    lines = [record(7), *broken, *([] if last else [record(8)])]
    mem.log.write_bytes(b"".join(line + b"\n" for line in lines))
    assert mem.once().quarantined == 3
    assert mem.parity().verdict == "equal"
    code, told = _retry(mem)
    assert (code, len(mem.datas())) == (3, len(lines) - 3), told
    code, told = _retry(mem, "--records")
    assert code == 3, told
    whole = [record(7), *([] if last else [record(8)])]
    assert mem.datas()[: len(whole)] == whole
    assert mem.datas()[len(whole) :] == [A, B, C, record(5), record(6)]
    left = json.loads(mem.run("quarantine", "list", "--json").stdout)
    assert [row["reason"].partition(":")[0] for row in left] == [
        "1 whole record taken out of it", "2 whole records taken out of it",
    ]  # fmt: skip
    assert all(TORN.decode()[:40] in row["reason"] for row in left)
    result = mem.parity()
    assert (result.verdict, result.tally.file_born, result.tally.quarantined) == ("equal", len(whole) + 5, 3)
    mem.check_account()
    for args in ((), ("--records",)):
        _retry(mem, *args)
        assert len(mem.datas()) == len(whole) + 5
    mem.once()
    assert (len(mem.datas()), mem.parity().verdict) == (len(whole) + 5, "equal")


@pytest.mark.parametrize("point", ["retry.records.before", "retry.records.after", "retry.send.before", "retry.mark.before",
                                   "retry.mark.after"])  # fmt: skip
def test_killed_while_it_takes_them(mem: Rig, point: str) -> None:
    """Killed anywhere and run again, each record is in the stream once."""
    mem.log.write_bytes(record(7) + b"\n" + TORN + A + B + b"\n" + A + C + b"\n" + record(8) + b"\n")
    assert mem.once().quarantined == 2
    done = mem.run("quarantine", "retry", "--records", "--redis", mem.url, env={"BRIDGE_CRASH_AT": point})
    assert done.returncode != 0
    _retry(mem, "--records")
    assert sorted(mem.datas()) == sorted([record(7), record(8), A, B, A, C])
    assert mem.parity().verdict == "equal"


def test_an_entry_that_was_altered_is_told(mem: Rig) -> None:
    """A record that went over, and is another one in the stream now, is a difference."""
    mem.log.write_bytes(record(7) + b"\n" + A + B + b"\n" + record(8) + b"\n")
    mem.once()
    _retry(mem, "--records")
    taken = mem.entries()[-1]
    fields = [*taken.fields]
    fields[7] = record(9)
    mem.redis.call("XDEL", "hestai:messages", b"%d-%d" % taken.id)
    mem.redis.call("XADD", "hestai:messages", b"%d-%d" % (taken.id[0], taken.id[1] + 1), *fields)
    assert mem.parity().verdict == "differs"


def test_redis_loses_what_went_over(rig: Rig) -> None:
    """A record whose entry Redis lost with its tail is in quarantine again, and goes over again, once."""
    (rig.path / "mine.toml").write_text(MINE.format(""))
    rig.write_config(mapping="mine.toml")
    rig.log.write_bytes(record(7) + b"\n" + A + B + b"\n" + record(8) + b"\n")
    rig.once()
    rig.redis.call("SAVE")
    _retry(rig, "--records")
    assert rig.datas() == [record(7), record(8), A, B]
    rig.redis.call("XTRIM", "hestai:messages", "MAXLEN", 0)
    rig.redis.call("DEL", "hestai:messages")
    for key in rig.redis.call("KEYS", "bridge:*"):
        rig.redis.call("DEL", key)
    rig.once()
    _retry(rig, "--records")
    assert sorted(rig.datas()) == sorted([record(7), record(8), A, B])
    assert rig.parity().verdict == "equal"


def test_a_ledger_that_is_lost_afterwards(mem: Rig) -> None:
    """Rebuilt from files and stream, the ledger has the broken lines in quarantine again, and both sides are EQUAL."""
    mem.log.write_bytes(record(7) + b"\n" + A + B + b"\n" + A + TORN + b"\n" + TORN + C + b"\n" + record(8) + b"\n")
    mem.once()
    _retry(mem, "--records")
    before = mem.datas()
    for path in mem.settings().state_dir.glob("ledger*"):
        path.unlink()
    assert mem.run("repair", "--execute", "--redis", mem.url).returncode == 0
    mem.once()
    assert (mem.datas(), mem.parity().verdict) == (before, "equal")
    _retry(mem, "--records")
    assert (mem.datas(), mem.parity().verdict) == (before, "equal")


@pytest.mark.parametrize("size", [60_000, 70_000, 300_000])
def test_long_lines(mem: Rig, size: int) -> None:
    """Lines of which quarantine keeps all, or the first bytes, are found there by parity, and taken apart alike."""
    mem.log.write_bytes(record(7) + b"\n" + record(5) + record(6, text="z" * size) + b"\n" + record(8) + b"\n")
    assert mem.once().quarantined == 1
    assert mem.parity().verdict == "equal"
    _retry(mem, "--records")
    assert (len(mem.datas()), mem.parity().verdict) == (4, "equal")
