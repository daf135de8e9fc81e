"""The headline says what a person needs to know first; `status` finds out without disturbing anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import pytest

from bridge.core.state_directory import state_lock
from bridge.core.wording import duration
from bridge.engine.headline import headline
from bridge.engine.lag import Lag
from bridge.engine.status import MappingStatus, MirrorStatus, SourceStatus, Status, sample
from bridge.files.tail import Tail
from bridge.kinds.direction_stats import RATED, Rates
from bridge.ledger.heartbeat import Trouble, save_heartbeat
from bridge.ledger.store import Ledger
from tests.support.rig import Rig, line, wait_until
from tests.support.terminal import coloured, on_terminal, plain

NOW = 1_800_000_000.0
BEAT = {"instance": "a", "pid": 7, "dual": True, "started": NOW - 3600, "at": NOW - 1, "stopped": False}


def made(lines: int = 0, entries: int | None = 0, **changes: Any) -> Status:
    """A status of one mapping, at work."""
    source = SourceStatus("messages.log", None, Lag(lines, 100 * lines, NOW - 90 if lines else None), 0.0)
    behind = None if entries is None else Lag(entries, oldest=NOW - 5 if entries else None)
    mapping = MappingStatus("m", "s", sources=[source], mirror=MirrorStatus("messages.log", behind=behind))
    status = Status(NOW, "embedded", holder="bridge run (process 7)", heartbeat=dict(BEAT), mappings=[mapping])
    for name, value in changes.items():
        setattr(status, name, value)
    return status


def trouble(text: str, ago: float = 60) -> dict[str, Trouble]:
    return {"forward m": Trouble(text, "", NOW - ago)}


@pytest.mark.parametrize(
    ("status", "said", "level"),
    [
        (made(), "Carrying both ways, 0 behind", "good"),
        (made(heartbeat=BEAT | {"dual": False}), "Carrying file to stream, 0 behind", "good"),
        (made(heartbeat=BEAT | {"dual": False}, lines=0, entries=9), "Carrying file to stream, 0 behind", "good"),
        (made(1204, 3), "Carrying both ways, 1,204 lines and 3 entries waiting, the oldest 90 s old", "behind"),
        (made(1, 0), "Carrying both ways, 1 line waiting, the oldest 90 s old", "behind"),
        (made(troubles=trouble("waits")), "Carrying both ways, but forward m: waits", "behind"),
        (made(0, None, redis_error="cannot connect"), "Redis unreachable, nothing waiting, nothing lost", "behind"),
        (made(holder="", heartbeat=None), "Never run yet, nothing waiting", "idle"),
        (made(2, 1, holder="", heartbeat=BEAT | {"stopped": True, "at": NOW - 120}),
         "Not running, stopped 2 min ago; 2 lines and 1 entry waiting, the oldest 90 s old", "idle"),
        (made(holder="", heartbeat=BEAT | {"at": NOW - 7200}),
         "Not running: it was killed, its last heartbeat was 2 h ago; nothing waiting", "bad"),
        (made(2, None, holder="", heartbeat=BEAT | {"stopped": True, "at": NOW - 120}),
         "Not running, stopped 2 min ago; 2 lines waiting, the oldest 90 s old in the files, Redis is not reached", "idle"),
        (made(heartbeat=BEAT | {"at": NOW - 40, "once": True}), "Carrying both ways, 0 behind", "good"),
        (made(holder="bridge repair (process 9)"), "Not running: bridge repair (process 9) is at work; nothing waiting", "idle"),
        (made(heartbeat=BEAT | {"at": NOW - 40}), "bridge run (process 7) is there, but gave no heartbeat for 40 s", "bad"),
        (made(heartbeat=None), "Carrying file to stream, 0 behind", "good"),
        (made(ledger_error="/x/ledger.db: is damaged"), "The ledger is damaged; nothing waiting", "bad"),
    ],
)  # fmt: skip
def test_headline(status: Status, said: str, level: str) -> None:
    """One sentence for each situation, and how grave it is."""
    assert headline(status) == (said, level)


def test_headline_with_errors() -> None:
    """Since when Redis is away; a source that fails; a mapping that stands by."""
    away = made(1204, None, redis_error="cannot connect", troubles=trouble("cannot connect"))
    text, level = headline(away)
    assert text.startswith("Redis unreachable since ")
    assert text.endswith(", 1,204 lines waiting, the oldest 90 s old, nothing lost")
    assert level == "behind"
    failing = made()
    failing.mappings[0].sources[0].error = "cannot be opened"
    assert headline(failing) == ("Carrying both ways, except m: cannot be opened", "bad")
    other = made()
    over = made(heartbeat=BEAT | {"dual": False})
    over.mappings[0].retired = NOW - 60
    assert headline(over) == ("Nothing is carried any more: every mapping is retired", "idle")
    other.mappings[0].error = "belongs to another"
    assert headline(other) == ("m: belongs to another", "bad")


def test_durations() -> None:
    """Two digits, and a unit a person would use."""
    assert [duration(s) for s in (0.04, 9.9, 61, 150, 7200, 200_000, 86400 * 400)] == [
        "0.0 s", "9.9 s", "61 s", "2 min", "2 h", "56 h", "400 days",
    ]  # fmt: skip


def test_rates() -> None:
    """Messages a second over the last ten seconds, whatever was before."""
    rates = Rates()
    assert rates.of({"a": 100}, 0.0) == {}
    assert rates.of({"a": 300}, 2.0) == {"a": 100.0}
    for n in range(1, 11):
        found = rates.of({"a": 300 + 20 * n, "b": n}, 2.0 + 2 * n)
    assert found["a"] == 10.0
    assert 0 < found["b"] <= 10 / RATED


def facts(rig: Rig, *args: str, code: int = 0) -> dict[str, Any]:
    done = rig.run("status", "--json", "--redis", rig.server.socket_url, *args)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_full_disk_is_named(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that cannot note its heartbeat, as there is no room, is not only called silent."""
    rig = one_rig
    rig.append("f-0")
    rig.once()
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        save_heartbeat(ledger, {"instance": "test", "pid": os.getpid(), "dual": True, "at": time.time() - 7})
    with state_lock(rig.state, "run"):
        assert not sample(rig.settings(), time.time).ledger_error
        room = shutil.disk_usage(rig.state)._replace(free=1000)
        monkeypatch.setattr("shutil.disk_usage", lambda path: room)
        told = sample(rig.settings(), time.time)
    assert "disk is full" in told.ledger_error
    assert "disk is full" in headline(told)[0]


def test_a_life(rig: Rig) -> None:
    """Before the first run, at work, killed, stopped: the headline follows, and the figures are true."""
    rig.append("f-0", "f-1")
    assert "Never run yet, 2 lines waiting" in facts(rig)["headline"]
    child = rig.ready(rig.start())
    wait_until(lambda: facts(rig)["headline"] == "Carrying both ways, 0 behind", rig.said)
    rig.append(*[f"g-{i}" for i in range(500)])
    wait_until(lambda: (facts(rig)["mappings"][0]["forward"][0]["rate"] or 0) > 0, rig.said)
    now = facts(rig)
    assert now["running"]
    assert now["heartbeat"]["pid"] == child.pid
    assert now["mappings"][0]["forward"][0]["offset"] == rig.log.stat().st_size
    child.send_signal(signal.SIGKILL)
    child.wait()
    rig.append("h-0")
    with rig.log.open("ab") as file:
        file.write(b"half a line")
    rig.add("r-0")
    dead = facts(rig, code=3)
    assert "it was killed" in dead["headline"]
    assert "1 line and 1 entry waiting" in dead["headline"]
    [source] = dead["mappings"][0]["forward"]
    assert (source["behind_lines"], source["behind_bytes"], source["unfinished_bytes"]) == (1, len(line("h-0")), 11)
    with rig.log.open("ab") as file:
        file.write(b"\n")
    child = rig.ready(rig.start())
    wait_until(lambda: facts(rig)["headline"] == "Carrying both ways, 0 behind", rig.said)
    rig.stop(child)
    assert facts(rig)["headline"].startswith("Not running, stopped ")


def test_redis_away(rig: Rig) -> None:
    """Redis killed under a running bridge: since when, how many lines wait, nothing lost; exit 5."""
    rig.append("f-0")
    child = rig.ready(rig.start())
    wait_until(lambda: rig.datas() == [b"f-0"], rig.said)
    nowhere = ("--redis", "redis://127.0.0.1:1/0")  # without Redis, status knows what the ledger does
    wait_until(lambda: "nothing waiting" in facts(rig, *nowhere, code=5)["headline"], rig.said)
    rig.kill_server()
    rig.append("f-1", "f-2")
    wait_until(lambda: "since" in facts(rig, code=5)["headline"], rig.said)
    text = rig.run("status", "--redis", rig.server.socket_url).stdout
    assert "Redis unreachable since " in text
    assert "2 lines waiting" in text
    assert "nothing lost" in " ".join(text.split())
    assert child.poll() is None
    rig.start_server()
    wait_until(lambda: facts(rig)["headline"] == "Carrying both ways, 0 behind", rig.said)
    [was] = [trouble for name, trouble in facts(rig)["earlier"].items() if name == "forward hestai-message"]
    assert was["since"] < was["over"]
    assert "earlier, " in rig.run("status", "--redis", rig.server.socket_url).stdout


def test_mirrored_bytes_are_not_behind(rig: Rig) -> None:
    """Lines that the mirror wrote behind forward's cursor are not counted as waiting."""
    rig.add("r-0")
    rig.append("f-0")
    rig.start("--once", crash="mirror.checkpoint.before").wait()
    now = facts(rig, code=3 if "killed" in facts_headline(rig) else 0)
    assert now["mappings"][0]["forward"][0]["behind_lines"] == 0
    rig.append("f-1")
    now = facts(rig, code=3 if "killed" in facts_headline(rig) else 0)
    assert now["mappings"][0]["forward"][0]["behind_lines"] == 1


def facts_headline(rig: Rig) -> str:
    done = rig.run("status", "--json", "--redis", rig.server.socket_url)
    return str(json.loads(done.stdout)["headline"])


def test_a_key_of_another_kind(rig: Rig) -> None:
    """A stream key that holds something else is told with the mapping, not as Redis out of reach."""
    rig.append("f-0")
    rig.redis.call("SET", "hestai:messages", "x")
    now = facts(rig, code=3)
    assert now["redis"]["reachable"]
    assert "WRONGTYPE" in now["mappings"][0]["error"]


def test_watch(rig: Rig) -> None:
    """--watch --json is one line a look; without a terminal --watch prints again when the headline changes."""
    rig.append("f-0")
    args = [sys.executable, "-m", "bridge", "status", "--watch", "--redis", rig.server.socket_url]
    files = [(rig.path / name).open("wb") for name in ("json", "text")]
    for file, more in zip(files, (["--json"], []), strict=True):
        child = subprocess.Popen(args + more, cwd=rig.path, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                                 env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
        rig.children.append(child)
    wait_until(lambda: (rig.path / "json").read_text().count("\n") >= 2, "two looks")
    assert [json.loads(told)["level"] for told in (rig.path / "json").read_text().splitlines()[:2]] == ["idle", "idle"]
    wait_until(lambda: "Never run yet, 1 line" in (rig.path / "text").read_text(), "the first look")
    rig.append("f-1")
    wait_until(lambda: "Never run yet, 2 lines" in (rig.path / "text").read_text(), "the change")
    for file in files:
        file.close()


@pytest.mark.parametrize("width", [60, 80])
def test_widths(rig: Rig, width: int) -> None:
    """No line of the screen is wider than the terminal, and none of its facts is cut."""
    rig.append("f-0")
    rig.log.write_bytes(rig.log.read_bytes() + b"broken\n")
    assert not rig.once().errors
    text = rig.run("status", "--redis", rig.server.socket_url, env={"COLUMNS": str(width)}).stdout
    assert max(map(len, text.splitlines())) <= width
    whole = " ".join(text.split())
    for part in ("Not running, stopped", "messages.log", "1 of 4 columns", "bridge quarantine list"):
        assert part in whole
    assert "\x1b" not in text


def test_what_the_last_run_ended_with(rig: Rig) -> None:
    """What kept `--once` from its end is told afterwards."""
    real = rig.root / "real.log"
    real.write_bytes(line("f-0"))
    rig.log.symlink_to(real)
    rig.add("r-0")
    assert rig.once().errors
    text = rig.run("status", "--redis", rig.server.socket_url).stdout
    assert "is a symbolic link, which the mirror does not follow" in text
    assert "1 entry waiting" in text


@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_terminal(rig: Rig, columns: int) -> None:
    """On a terminal no line is wider than it, the headline is coloured, and not so with NO_COLOR."""
    rig.append("f-0")
    rig.log.write_bytes(rig.log.read_bytes() + b"broken\n")
    assert not rig.once().errors
    code, text = on_terminal(rig.path, "status", "--redis", rig.server.socket_url, columns=columns)
    assert code == 0
    assert coloured(text)
    assert max(map(len, plain(text))) <= columns
    assert "1 of 4 columns" in " ".join(" ".join(plain(text)).split())
    _, grey = on_terminal(rig.path, "status", "--redis", rig.server.socket_url, columns=columns, env={"NO_COLOR": "1"})
    assert not coloured(grey)
    assert plain(grey)[3:] == plain(text)[3:], "all but the ages is the same"


def test_what_is_carried_while_it_looks_is_not_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at many files takes a while: what was written and carried meanwhile is not told as waiting."""
    rig.append("f-0")
    rig.once()
    rig.append("f-0b")
    looks = Tail.look

    def slowly(tail: Tail) -> None:
        monkeypatch.setattr(Tail, "look", looks)
        looks(tail)
        rig.append("f-1")
        rig.add("r-0")
        rig.once()

    monkeypatch.setattr(Tail, "look", slowly)
    told = sample(rig.settings(), time.time)
    assert (told.files_behind.messages, told.streams_behind.messages) == (0, 0)
    rig.append("f-2")
    assert sample(rig.settings(), time.time).files_behind.messages == 1
