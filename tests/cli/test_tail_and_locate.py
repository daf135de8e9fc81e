"""`tail` reads a stream as `tail` reads a log; `locate` goes from one side to the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from bridge.cli.tail import moment
from bridge.core.model import format_id
from tests.support.rig import STREAM, Rig, line, wait_until

NOW = 1_800_000_000.0


def tail(rig: Rig, *args: str) -> list[str]:
    done = rig.run("tail", *args, "--redis", rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def add(rig: Rig, entry_id: str, role: str, kind: str, data: str | bytes) -> None:
    rig.redis.call(
        "XADD", STREAM, entry_id, "role", role, "timestamp", "2026-03-02T09:14:05Z", "type", kind, "data", data
    )


def test_last_lines(rig: Rig) -> None:
    """The last ten, or as many as are wanted, of one role or type, between two times, oldest first."""
    for n in range(30):
        add(rig, f"{1_700_000_000_000 + 1000 * n}-0", "ui" if n % 2 else "agent", "said" if n % 3 else "done", f"d{n}")
    assert [told.rpartition("|")[2] for told in tail(rig)] == [f"d{n}" for n in range(20, 30)]
    assert tail(rig, "-n", "1") == ["ui|2026-03-02T09:14:05Z|said|d29"]
    assert tail(rig, "-n", "0") == []
    assert [told[-3:] for told in tail(rig, "-n", "2", "--role", "agent", "--type", "said")] == ["d26", "d28"]
    since = datetime.fromtimestamp(1_700_000_025, UTC).isoformat()
    assert len(tail(rig, "--since", since)) == 5
    assert [told[-3:] for told in tail(rig, "--since", since, "--until", "1700000028000-0")] == ["d25", "d26", "d27"]
    assert [told[-3:] for told in tail(rig, "--until", "1700000028000-0", "-n", "1")] == ["d27"]
    facts = [json.loads(told) for told in tail(rig, "-n", "1", "--json")]
    assert facts == [
        {"id": "1700000029000-0", "role": "ui", "timestamp": "2026-03-02T09:14:05Z", "type": "said", "data": "d29"}
    ]


def test_hostile_text(rig: Rig) -> None:
    """Control characters of an entry never reach the terminal; what is no line is shown as its fields."""
    add(rig, "1-1", "ui", "said", b"\x1b]0;owned\x07 \xff \r")
    rig.redis.call("XADD", STREAM, "2-1", "role", "a|b\x1b[31m", "other", "x")
    first, second = tail(rig)
    assert first == r"ui|2026-03-02T09:14:05Z|said|\x1b]0;owned\x07 \xff \r"
    assert second == r"(entry 2-1 is no line) role=a|b\x1b[31m other=x"
    add(rig, "3-1", "ui", "said", "\u009b31m\u202e\x7f")
    assert tail(rig, "--json", "-n", "1")[0].endswith(r'"data": "\u009b31m\u202e\u007f"}')
    rig.redis.call("XDEL", STREAM, "3-1")
    [facts, _] = [json.loads(told) for told in tail(rig, "--json")]
    assert set(facts["data"]) == {"base64"}
    assert tail(rig, "-n", "300") == [first, second]


def test_follow(rig: Rig) -> None:
    """-f goes on with what comes, over a killed server, each entry once; a lost connection is told on stderr."""
    rig.add("r-0")
    out, err = (rig.path / "out").open("wb"), (rig.path / "err").open("wb")
    url = rig.server.socket_url
    child = subprocess.Popen(
        [sys.executable, "-m", "bridge", "tail", "-f", "--redis", url], cwd=rig.path, stdout=out, stderr=err,
        stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    rig.children.append(child)

    def seen() -> list[str]:
        return [told.rpartition("|")[2] for told in (rig.path / "out").read_text().splitlines()]

    wait_until(lambda: seen() == ["r-0"], lambda: str(seen()))
    rig.add("r-1")
    wait_until(lambda: seen() == ["r-0", "r-1"], lambda: str(seen()))
    rig.kill_server()
    wait_until(lambda: "tried again" in (rig.path / "err").read_text(), "the word of the loss")
    rig.start_server()
    rig.add("r-2")
    wait_until(lambda: seen() == ["r-0", "r-1", "r-2"], lambda: str(seen()))
    assert "connected again" in (rig.path / "err").read_text()
    out.close()
    err.close()


def test_nothing_there(rig: Rig) -> None:
    """No stream is no line; a key of another kind, no Redis and a wrong mapping are errors that say what to try."""
    assert tail(rig) == []
    rig.redis.call("SET", STREAM, "x")
    wrong = rig.run("tail", "--redis", rig.server.socket_url)
    assert wrong.returncode == 1
    assert "not a stream" in wrong.stderr
    assert rig.run("tail", "--redis", "redis://127.0.0.1:1/0").returncode == 5
    named = rig.run("tail", "hestai-mesage", "--redis", rig.server.socket_url)
    assert named.returncode == 2
    assert "did you mean 'hestai-message'" in named.stderr
    assert rig.run("tail", "--since", "yesterday").returncode == 2
    rig.write_config(instance="embedded-one")
    unstarted = rig.run("tail")
    assert unstarted.returncode == 5
    assert "does not run" in unstarted.stderr
    assert not (rig.state / "server").exists(), "a command that only looks starts no server"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None), ("1700000000000-3", (1_700_000_000_000, 3)), ("10m", (1_799_999_400_000, 0)),
        ("1.5h", (1_799_994_600_000, 0)), ("2d", (1_799_827_200_000, 0)),
        ("2026-03-02T09:14:05+00:00", (1_772_442_845_000, 0)), ("1900-01-01T00:00:00Z", (0, 0)),
    ],
)  # fmt: skip
def test_moments(text: str | None, expected: tuple[int, int] | None) -> None:
    """A time, an age and an entry ID as the lowest entry ID they mean."""
    assert moment(text, NOW, "--since") == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "10", "10 parsecs", "1-", "2026-13-01", "0001-01-01", "٣-٤", "9" * 400 + "w"]
)
def test_no_moment(text: str) -> None:
    """What is none of the three is refused."""
    with pytest.raises(click.BadParameter):
        moment(text, NOW, "--since")


# -- locate ------------------------------------------------------------------------------------------------------


def locate(rig: Rig, what: str) -> dict[str, Any]:
    done = rig.run("locate", what, "--json", "--redis", rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    [place] = json.loads(done.stdout)
    found: dict[str, Any] = place
    return found


def test_locate_both_ways(one_rig: Rig) -> None:
    """Every line leads to its entry and every entry to its line, over a rotation, whoever wrote it first."""
    rig = one_rig
    rig.append("f-0", "f-1")
    rig.add("r-0")
    assert not rig.once().errors
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-2")
    rig.add("r-1")
    assert not rig.once().errors
    places = [(f"messages.log.1:{n}", d) for n, d in enumerate(("f-0", "f-1", "r-0"), 1)]
    places += [(f"messages.log:{n}", d) for n, d in enumerate(("f-2", "r-1"), 1)]
    for what, data in places:
        there = locate(rig, what)
        [entry] = [entry for entry in rig.entries() if entry.fields[7] == data.encode()]
        assert there["entry"] == format_id(entry.id).decode()
        assert there["born"] == ("file" if data.startswith("f") else "Redis")
        assert there["raw"].rstrip("\n").endswith(data)
        back = locate(rig, there["entry"])
        assert f"{back['file']}:{back['line']}" == what
        name, offset = what.partition(":")[0], back["offset"]
        assert locate(rig, f"{name}@{offset + 3}")["entry"] == there["entry"]
        if there["born"] == "file":
            within = there["origin"].rpartition(":")
            assert locate(rig, f"{within[0]}:{int(within[2]) + 2}")["entry"] == there["entry"]
            assert locate(rig, there["origin"])["line"] == back["line"]
    text = rig.run("locate", "messages.log:1", "--redis", rig.server.socket_url).stdout
    assert "messages.log:1, byte 0 of generation 2" in text


def test_locate_what_did_not_cross(one_rig: Rig) -> None:
    """What is in quarantine, not carried yet, empty, unfinished, trimmed or nowhere is told as that."""
    rig = one_rig
    rig.log.write_bytes(line("f-0") + b"broken\n\n" + line("f-1"))
    bad = rig.redis.call("XADD", STREAM, "*", "role", "x").decode()
    assert not rig.once().errors
    rig.append("f-2")
    with rig.log.open("ab") as file:
        file.write(b"half")
    late = rig.add("r-late").decode()
    for what, said in (
        ("messages.log:2", "in quarantine: 1 of 4 columns"), ("messages.log:3", "empty line"),
        ("messages.log:5", "not carried yet"), ("messages.log:6", "not ended yet"), (bad, "in quarantine: no field"),
        (late, "not mirrored yet"),
    ):  # fmt: skip
        assert said in locate(rig, what)["said"]
    rig.redis.call("XDEL", STREAM, locate(rig, "messages.log:4")["entry"])
    assert "trimmed, or deleted" in locate(rig, "messages.log:4")["said"]
    for what, said in (
        ("messages.log:0", "counted from 1"), ("1.7:0", "no generation 7"), ("\u0663-\u0664", "is no place"),
        ("x" * 5000 + ":1", "no such file"), ("messages.log:7", "has 6 lines"), ("messages.log@9999", "bytes"), ("none.log:1", "no such file"),
        ("bridge.toml:1", "belongs to no mapping"), ("1-1", "no stream holds entry"), ("what", "is no place"), ("9.1:0", "number 9"),
    ):  # fmt: skip
        done = rig.run("locate", what, "--redis", rig.server.socket_url)
        assert done.returncode == 1
        assert said in done.stderr


def test_locate_in_a_large_file(one_rig: Rig, tmp_path: Path) -> None:
    """Lines beyond the first megabyte are found by number and by byte."""
    rig = one_rig
    datas = [f"f-{i:06}-" + "x" * 80 for i in range(20_000)]
    rig.append(*datas)
    assert not rig.once().errors
    length = len(line(datas[0]))
    for n in (1, 9_000, 9_362, 15_123, 20_000):
        place = locate(rig, f"messages.log:{n}")
        assert (place["line"], place["offset"]) == (n, (n - 1) * length)
        assert datas[n - 1] in place["raw"]
        assert locate(rig, f"messages.log@{(n - 1) * length + length // 2}")["line"] == n
        assert locate(rig, place["entry"])["line"] == n


def test_locate_an_origin_of_several_streams(one_rig: Rig) -> None:
    """An origin is looked for in each stream; one that has no such line does not end the search."""
    one_rig.write_config(mapping='hestai-roles", "hestai-message')
    one_rig.append("f-0", "f-1")
    (one_rig.root / "wind.out").write_bytes(b"2026-03-02T09:14:05Z|turn|x\n")
    assert one_rig.run("run", "--once", "--redis", one_rig.server.socket_url).returncode == 0
    origin = one_rig.entries()[1].origin() or b""
    done = one_rig.run("locate", origin.decode(), "--json", "--redis", one_rig.server.socket_url)
    [found] = json.loads(done.stdout)
    assert (found["mapping"], found["line"]) == ("hestai-message", 2)


def test_locate_by_text_and_by_time(one_rig: Rig) -> None:
    """A place is found by what a message says, newest last, or as the first one of a time or later."""
    rig = one_rig
    rig.log.write_bytes(
        b"".join(b"agent|2026-03-02T09:14:%02dZ|turn|%s %d\n" % (n, b"yes" if n % 3 else b"no", n) for n in range(9))
    )
    rig.once()

    def told(*args: str) -> list[tuple[int, bytes]]:
        done = rig.run("locate", *args, "--json", "--redis", rig.server.socket_url)
        assert done.returncode == 0, done.stderr
        return [(place["line"], place["raw"]) for place in json.loads(done.stdout)]

    assert [line for line, _ in told("--text", "no ")] == [1, 4, 7]
    assert [line for line, _ in told("--text", "yes", "--most", "2")] == [8, 9]
    assert [line for line, _ in told("--at", "2026-03-02T09:14:04Z")] == [5]
    assert [line for line, _ in told("--at", "2026-03-02T09:14:04.5Z")] == [6]
    for args, code in ((("--text", "maybe"), 1), (("--at", "2027-01-01"), 1), (("--at", "noon"), 2), ((), 2),
                       (("messages.log:1", "--text", "x"), 2)):  # fmt: skip
        assert rig.run("locate", *args, "--redis", rig.server.socket_url).returncode == code, args
