"""The end of a migration, and after: whatever is started again, no message is lost in silence, and none is there twice."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from bridge import Log, open_log
from bridge.client.write_routing import HEARD
from bridge.core.failpoints import FAILPOINTS
from bridge.core.model import format_id
from bridge.files.appender import Appender
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from tests.kinds.test_state import SOAK
from tests.scenarios.test_whole_story import node, recipe
from tests.support.cast import CONFIG, Cast
from tests.support.inbox import document
from tests.support.project import shipped
from tests.support.proxy import Proxy
from tests.support.rig import STREAM, Rig, line, wait_until

RETIRED = f"bridge:{{{STREAM}}}:retired".encode()
NAME = "hestai-message"
WRITERS = {"ui": "write", "daemon": "both"}


class End:
    """A migration that has come to its end, and what its oracle remembers of each file and each message."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.cast = Cast(rig)
        self.foreign = 0
        self.dead = b""

    def others_write(self, count: int = 3) -> None:
        """A program without our client appends to the file."""
        with self.rig.log.open("ab") as file:
            for _ in range(count):
                self.foreign += 1
                file.write(line(f"foreign-{self.foreign}", "agent"))

    def run(self, *args: str, expect: int | None = 0, env: dict[str, str] | None = None) -> str:
        """A command, and what it said."""
        done = self.rig.run(*args, env={"BRIDGE_REDIS_URL": self.rig.url, **(env or {})})
        assert expect is None or done.returncode == expect, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def migrate(self) -> None:
        """Writer, reader, both, a foreign writer and a Node reader; all go over under load, and go on talking."""
        rig, cast = self.rig, self.cast
        bridge = rig.beats(rig.ready(rig.start("--redis", rig.url)))
        self.others_write()
        for name, kind in (*WRITERS.items(), ("viewer", "read")):
            cast.start(kind, name, 0.01)
        self.node()
        cast.given_more("viewer", 20)
        for name in ("viewer", "daemon", "ui"):
            for side in ("reads", "writes"):
                cast.until_made(name, side, "redis")
        if not node():
            cast.until_made("watcher", "reads", "redis")
            cast.until_made("watcher", "writes", "redis")
        self.others_write()
        cast.given_more("viewer", 20)
        rig.stop(bridge)

    def end(self) -> None:
        """Stopped, retired and purged, while the programs talk."""
        self.run("retire", NAME, "--execute", "--force", NAME)
        self.run("purge", NAME, "--execute")
        self.dead = self.rig.log.read_bytes()

    def node(self) -> None:
        """The JavaScript program of the book reads."""
        if node():
            return
        code = recipe("js", "component.js")
        program = self.rig.path / "component.js"
        program.write_text(code)
        url = self.rig.server.url
        with (self.rig.path / "node-out").open("ab") as out:
            args = ["node", str(program), url, "watcher", "test", STREAM, str(self.rig.root), self.rig.log.name]
            child = subprocess.Popen(args, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.rig.children.append(child)
        self.cast.children["watcher"] = child

    def kill(self) -> None:
        """SIGKILL, to every program."""
        for child in self.cast.children.values():
            child.kill()
            child.wait()
        self.cast.children.clear()

    def again(self, folder: Path | None = None, *, away: bool = False) -> None:
        """All are started again, and talk for a while; `away`: Redis is not there as they start."""
        before = {name: len(self.cast.written(name)) for name in WRITERS}
        if away:
            self.rig.kill_server()
        for name, kind in (*WRITERS.items(), ("viewer", "read")):
            self.cast.start(kind, name, 0.01, folder=folder)
        wait_until(lambda: all(len(self.cast.written(n)) > before[n] + 5 for n in WRITERS), self.cast.said)
        if away:
            self.rig.start_server()
        if folder is None:
            self.node()
        self.arrived()
        self.cast.given_more("viewer", 5)

    def numbers(self) -> dict[str, list[int]]:
        """The numbers that stand in the stream, by who wrote them."""
        found: dict[str, list[int]] = {name: [] for name in WRITERS}
        for entry in self.rig.entries():
            if entry.fields[1].decode() in found and entry.fields[7].isdigit():
                found[entry.fields[1].decode()].append(int(entry.fields[7]))
        return found

    def arrived(self) -> None:
        """Waits until what was written by now is in the stream."""
        wanted = {name: set(self.cast.written(name)) for name in WRITERS}

        def there() -> bool:
            now = self.numbers()
            return all(numbers <= set(now[name]) for name, numbers in wanted.items())

        wait_until(there, self.cast.said)

    def check(self) -> None:
        """Each message is in the stream once, and none in a file that nobody carries."""
        for name, numbers in self.numbers().items():
            twice = [number for number, count in Counter(numbers).items() if count > 1]
            assert not twice, f"{name} twice: {twice[:5]}"
            lost = sorted(set(self.cast.written(name)) - set(numbers))
            assert not lost, f"{name} lost: {lost[:5]} of {len(numbers)}\n{self.cast.said()}"
        assert self.rig.log.read_bytes() == self.dead
        self.cast.check("viewer", *WRITERS, repeats=True)
        if not node():
            self.check_node()

    def check_node(self) -> None:
        """The Node reader was given all, but for what it had in hand when it was killed: that is claimed in a minute."""
        said = [json.loads(raw) for raw in (self.rig.path / "node-out").read_text().splitlines() if raw[:1] == "{"]
        given = {(printed["role"], printed["data"]) for printed in said}
        pending = {raw for raw, *_ in self.rig.redis.call("XPENDING", STREAM, "watcher", "-", "+", 1000)}
        for entry in self.rig.entries():
            if entry.fields[1].decode() in WRITERS and b"%d-%d" % entry.id not in pending:
                assert (entry.fields[1].decode(), entry.fields[7].decode()) in given, entry

    def told(self) -> tuple[int, dict[str, dict[str, int]]]:
        """What `status` and `doctor` say: the exit code that both agree in, and what was written to which dead file."""
        done = self.rig.run("status", "--json", env={"BRIDGE_REDIS_URL": self.rig.url})
        [mapping] = json.loads(done.stdout)["mappings"]
        found = json.loads(self.rig.run("doctor", "--json", env={"BRIDGE_REDIS_URL": self.rig.url}).stdout)
        [check] = [check for check in found["checks"] if check["check"] == "retired"]
        assert (done.returncode == 3) is (check["verdict"] == "bad"), (done.stdout, check)
        return done.returncode, mapping["dead"]


@pytest.fixture
def end(rig: Rig) -> End:
    """A migration at its last step, on each kind of server."""
    return End(rig)


def test_programs_that_are_started_again(end: End, tmp_path: Path) -> None:
    """After retire and purge every program is killed and started again, twice: each message is in the stream once."""
    rig, copy = end.rig, tmp_path / "copy"
    end.migrate()
    shutil.copytree(rig.path / "state", copy / "state", ignore=shutil.ignore_patterns("*.sock"))
    shutil.copytree(rig.path / "files", copy / "files")
    shutil.copy(rig.path / "bridge.toml", copy)
    end.end()
    was = (copy / "files" / "messages.log").read_bytes()
    assert [key for key in rig.redis.call("KEYS", "bridge:*") if b"producers" not in key] == [RETIRED]
    assert rig.redis.call("HLEN", f"bridge:{{{STREAM}}}:producers") == 2  # of the two that write, and run
    end.kill()
    end.run("purge", NAME, "--execute")
    assert rig.redis.call("KEYS", "bridge:*") == [RETIRED]
    for away in (False, True):
        for folder in (None, copy):  # the copy was made before anything was retired
            end.kill()
            end.again(folder, away=away)
    end.kill()
    end.arrived()
    end.again()
    end.cast.stop(*WRITERS)
    end.cast.settled("viewer", *WRITERS)
    end.check()
    assert (copy / "files" / "messages.log").read_bytes() == was
    assert end.told() == (0, {})
    end.others_write(4)
    code, dead = end.told()
    assert (code, dead["messages.log"]["messages"]) == (3, 4)
    assert "would bring over 4 lines" in end.run("repair")
    assert "brought over 4 lines" in end.run("repair", "--execute")
    end.dead = rig.log.read_bytes()
    assert end.told() == (0, {})
    foreign = [entry.fields[7] for entry in rig.entries() if entry.fields[7].startswith(b"foreign")]
    assert foreign == [b"foreign-%d" % n for n in range(1, end.foreign + 1)]
    end.check()


# -- each thing by itself ----------------------------------------------------------------------------------------


def retired_rig(rig: Rig, *, purged: bool = True) -> End:
    """Five lines and two entries on both sides, `ui` gone over, retired and purged; nobody runs."""
    end = End(rig)
    rig.append(*(f"line {n}" for n in range(5)))
    rig.once(url=rig.url)
    rig.add("entry 0")
    rig.add("entry 1")
    rig.once(url=rig.url)
    rig.redis.call("HSET", "bridge:components", f"ui/{NAME}", '{"reads": "redis", "writes": "redis", "epoch": 2}')
    end.run("retire", NAME, "--execute", "--force", NAME)
    if purged:
        end.run("purge", NAME, "--execute")
    end.dead = rig.log.read_bytes()
    return end


def says(rig: Rig, data: str, *, folder: Path | None = None, url: str | None = None) -> str:
    """Opened, one message appended, closed: where it writes."""
    with open_log(NAME, "ui", config=(folder or rig.path) / "bridge.toml", redis=url or rig.url) as log:
        log.append("say", data)
        return log.writes


AWAY = "redis://127.0.0.1:1/0"


def no_state(end: End, folder: Path) -> None:
    """`.bridge` was deleted."""
    shutil.rmtree(end.rig.state)


def old_state(end: End, folder: Path) -> None:
    """`.bridge` was put back from a copy of before the retirement."""
    shutil.rmtree(end.rig.state)
    shutil.copytree(folder / "state", end.rig.state)


def old_ledger(end: End, folder: Path) -> None:
    """The ledger alone was written over with a copy of before, in place."""
    (end.rig.state / "ledger.db").write_bytes((folder / "state" / "ledger.db").read_bytes())


def old_bookmark(end: End, folder: Path) -> None:
    """The component's bookmark says that it reads and writes files."""
    bookmark = end.rig.state / "components" / "ui" / f"{NAME}.bookmark"
    bookmark.parent.mkdir(parents=True, exist_ok=True)
    told = {"reads": "file", "writes": "file", "epoch": 1, "doubt": "", "entry": "0-0", "following": False, "files": {}}
    bookmark.write_text(json.dumps(told) + "\n")


def nothing_changed(end: End, folder: Path) -> None:
    """Nothing was changed."""


@pytest.mark.parametrize("what", [nothing_changed, no_state, old_state, old_ledger, old_bookmark])
@pytest.mark.parametrize("purged", [True, False])
def test_never_to_the_file(one_rig: Rig, tmp_path: Path, what: Callable[[End, Path], None], purged: bool) -> None:
    """Whatever became of what it remembers, a program of a retired mapping writes to Redis, now or when it is there."""
    rig, before = one_rig, tmp_path / "before"
    rig.append("first")
    rig.once(url=rig.url)
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        ledger.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(rig.state, before / "state")
    end = retired_rig(rig, purged=purged)
    what(end, before)
    assert says(rig, "while Redis is away", url=AWAY) in ("redis", "file")
    assert rig.log.read_bytes() == end.dead
    assert says(rig, "Redis is there") == "redis"
    wait_until(lambda: rig.datas()[-2:] == [b"while Redis is away", b"Redis is there"], lambda: str(rig.datas()))
    assert rig.log.read_bytes() == end.dead
    assert says(rig, "away again", url=AWAY) == "redis"
    assert rig.log.read_bytes() == end.dead


def test_another_machine(one_rig: Rig, tmp_path: Path) -> None:
    """A program with a bridge.toml of its own, where no bridge ever ran, waits for Redis to say where it writes."""
    end, other = retired_rig(one_rig), tmp_path / "other"
    (other / "files").mkdir(parents=True)
    shutil.copy(one_rig.path / "bridge.toml", other)
    says(one_rig, "one", folder=other, url=AWAY)
    assert says(one_rig, "two", folder=other) == "redis"
    wait_until(lambda: one_rig.datas()[-2:] == [b"one", b"two"], lambda: str(one_rig.datas()))
    assert [*(other / "files").iterdir()] == []
    assert one_rig.log.read_bytes() == end.dead


def test_a_mapping_that_is_alive_takes_what_waited(one_rig: Rig, tmp_path: Path) -> None:
    """What waited for Redis to say where it goes is appended to the file, in order and once, where the file is alive."""
    rig = one_rig
    Cast(rig)
    for n in range(3):
        says(rig, f"waits {n}", url=AWAY)
    assert rig.log.read_bytes() == b""
    assert says(rig, "then this") == "file"
    wanted = [b"waits 0", b"waits 1", b"waits 2", b"then this"]
    wait_until(lambda: [line.rpartition(b"|")[2] for line in rig.lines()] == wanted, lambda: str(rig.lines()))
    assert rig.datas() == []
    rig.once(url=rig.url)
    assert rig.datas() == wanted


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
def test_a_kill_between_outbox_and_file(one_rig: Rig, *, there: bool, rotated: bool) -> None:
    """A message that a killed program had begun to take from its outbox to the file is there once."""
    rig = one_rig
    Cast(rig)
    rig.append("before")
    for n in range(3):
        says(rig, f"waits {n}", url=AWAY)
    [first, *rest] = sorted((rig.state / "components" / "ui").glob("*.outbox"), key=lambda path: path.stat().st_mtime)
    size, inode = rig.log.stat().st_size, rig.log.stat().st_ino
    with first.open("ab") as file:
        file.write(json.dumps({"begun": 1, "inode": inode, "size": size}).encode() + b"\n")
    if there:
        rig.append(b"before too")
        with rig.log.open("ab") as file:
            file.write(b"ui|2026-03-02T09:14:05.112Z|say|waits 0\n")
        raw = first.read_bytes().split(b"\n")
        told = json.loads(raw[0])
        told[1][3] = "MjAyNi0wMy0wMlQwOToxNDowNS4xMTJa"  # the same timestamp, in base64
        first.write_bytes(json.dumps(told).encode() + b"\n" + b"\n".join(raw[1:]))
    if rotated:
        rig.log.rename(rig.log.with_name("messages.log.1"))
    says(rig, "then this")
    datas = [raw_line.rpartition(b"|")[2] for raw_line in rig.lines()]
    assert sorted(data for data in datas if data.startswith(b"waits")) == [b"waits 0", b"waits 1", b"waits 2"], rest
    assert datas[-1] == b"then this"


def test_every_switch_is_in_the_bookmark(one_rig: Rig) -> None:
    """A component that only writes remembers where, whether it runs as it is switched or is started later."""
    rig, cast = one_rig, Cast(one_rig)
    bookmark = rig.state / "components" / "ui" / f"{NAME}.bookmark"

    def says_file(writes: str) -> bool:
        return bookmark.exists() and json.loads(bookmark.read_bytes().split(b"\n")[0])["writes"] == writes

    bridge = rig.beats(rig.ready(rig.start("--redis", rig.url)))
    cast.start("write", "ui")
    wait_until(lambda: len(cast.written("ui")) > 3, cast.said)
    for to in ("redis", "file"):
        for side in ("reads", "writes") if to == "redis" else ("writes", "reads"):
            cast.until_made("ui", side, to)
        wait_until(lambda to=to: says_file(to), cast.said)  # type: ignore[misc]
    cast.stop("ui")
    for side in ("reads", "writes"):
        cast.until_made("ui", side, "redis")
    assert says_file("redis")
    rig.stop(bridge)


STEPS = [name for name in FAILPOINTS if name.startswith(("retire.", "purge.", "unretire."))]
"""The points that the end of a migration comes by."""


@pytest.mark.parametrize(
    ("point", "when", "retired_first"),
    [(point, when, not point.startswith("retire.")) for point in STEPS
     for when in ("before", "after", *(("before:raise=ENOSPC",) if SOAK else ()))] + [("retire.note", "after", True)],
)  # fmt: skip
def test_killed_at_every_point(one_rig: Rig, point: str, when: str, *, retired_first: bool) -> None:
    """A retire, purge or unretire that is killed, or fails, is as before or finished by the next try; nothing is lost."""
    rig, verb = one_rig, point.split(".", maxsplit=1)[0]
    end = retired_rig(rig, purged=verb == "unretire") if retired_first else End(rig)
    args = [verb, NAME, "--execute", *(["--force", NAME] if verb == "retire" else [])]
    args += ["--from", "retirement"] if verb == "unretire" else []
    if verb == "retire" and retired_first:
        end.run("unretire", NAME, "--from", "retirement", "--execute")
    elif verb == "retire":
        rig.append(*(f"line {n}" for n in range(5)))
        rig.once(url=rig.url)
        rig.add("entry 0")
        rig.add("entry 1")
    was = rig.log.read_bytes()
    assert rig.run(*args, env={"BRIDGE_REDIS_URL": rig.url, "BRIDGE_CRASH_AT": f"{point}.{when}"}).returncode
    says(rig, "meanwhile")
    end.run(*args, expect=None if verb == "unretire" else 0)  # nothing may be left to do
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        over = STREAM in retired(ledger)
    assert over is (verb != "unretire")
    assert bool(rig.redis.call("EXISTS", RETIRED)) is over
    assert (rig.state / "retired" / NAME / "README.md").exists() is over
    assert not [path for path in (rig.state / "retired").iterdir() if path.name.startswith(".")]
    if verb == "unretire":
        rig.once(url=rig.url)
        assert rig.parity().verdict == "equal"
    elif verb == "purge":
        assert rig.redis.call("KEYS", "bridge:*") == [RETIRED]
        assert rig.log.read_bytes() == was
    wanted = [*(f"line {n}" for n in range(5)), "entry 0", "entry 1", "meanwhile"]
    assert sorted(rig.datas()) == sorted(text.encode() for text in wanted)
    if over:
        assert end.told() == (0, {})


def test_a_group_that_was_lost_after_the_end(one_rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A component whose marks were purged, and whose group is gone, says so: it does not begin anew in silence."""
    rig = one_rig
    rig.append("line")
    rig.once(url=rig.url)
    rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "$")
    retired_rig(rig)
    rig.redis.call("XGROUP", "DESTROY", STREAM, "ui")

    def given(name: str, **options: Any) -> list[str]:
        with open_log(NAME, name, config=rig.path / "bridge.toml", redis=rig.url, **options) as log:
            return [message.text for message in log.follow(idle=0.5)]

    assert given("ui") == []
    assert f"XGROUP CREATE {STREAM} ui ID" in caplog.text
    rig.redis.call("XGROUP", "CREATE", STREAM, "ui", format_id(rig.entries()[-2].id))
    assert given("ui") == ["entry 1"]
    assert len(given("newcomer")) == 8


def waiting(rig: Rig, *messages: list[object]) -> Path:
    """An outbox of an ended session of `ui`, with these lines."""
    folder = rig.state / "components" / "ui"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.0123456789ab.outbox"
    path.write_text("".join(json.dumps(message) + "\n" for message in messages))
    return path


def fields(data: str) -> list[str]:
    """A message's fields as an outbox has them."""
    parts = ["role", "ui", "timestamp", "2026-03-02T09:14:05Z", "type", "say", "data", data]
    return [base64.b64encode(part.encode()).decode() for part in parts]


@pytest.mark.parametrize("mode", ["file", "both"])
def test_what_may_be_in_the_stream_goes_there_alone(one_rig: Rig, mode: str) -> None:
    """A message whose reply was lost is sent to the stream again, wherever its component writes by now; never to a file."""
    rig = one_rig
    Cast(rig)
    rig.redis.call("HSET", "bridge:components", f"ui/{NAME}", json.dumps({"reads": "file", "writes": mode, "epoch": 1}))
    rig.redis.call("HSET", f"bridge:{{{STREAM}}}:producers", "ui:0123456789ab", 1)  # the first had landed
    rig.redis.call(
        "XADD", STREAM, "*", *(part for part in ("role", "ui", "timestamp", "t", "type", "say", "data", "1"))
    )
    waiting(rig, [1, fields("1")], [2, fields("2"), 1], {"sent": 2}, [3, fields("3"), 1])  # type: ignore[arg-type]
    says(rig, "4")
    in_file = [raw.rpartition(b"|")[2] for raw in rig.lines()]
    assert in_file == ([b"3", b"4"] if mode == "file" else [b"4"])
    assert rig.datas() == ([b"1", b"2"] if mode == "file" else [b"1", b"2", b"3", b"4"])


# -- what others write to dead files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "stream", "name", "first", "then"),
    [
        (
            "hestai-roles",
            "hestai:roles",
            "ui.out",
            b"2026-03-02T09:14:05Z|say|one\n",
            b"2026-03-02T09:14:06Z|say|two\n",
        ),
        ("hestai-inbox", "hestai:inbox", "inbox/{}.json", document("one"), document("two")),
        ("hestai-context", "hestai:context", "context/a.ctx", b"one", b"two"),
        ("hestai-artifacts", "hestai:artifacts", "artifacts/{}.txt", b"one", b"two"),
    ],
)
@pytest.mark.parametrize("purged", [True, False])
def test_dead_files_of_each_kind(
    one_rig: Rig, mapping: str, stream: str, name: str, first: bytes, then: bytes, *, purged: bool
) -> None:
    """What is written to the files of a retired mapping is counted, exits 3, and is brought over late and once."""
    rig = one_rig
    rig.write_config(mapping=mapping, extra=CONFIG)
    end = End.__new__(End)
    end.rig = rig

    def put(data: bytes, which: str) -> None:
        path = rig.root / name.format(which)
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def count() -> int:
        return int(rig.redis.call("XLEN", stream))

    def carried() -> int:
        end.run("run", "--once", "--dual")
        return count()

    put(first, "one")
    wait_until(lambda: carried() == 1, rig.said)
    end.run("parity", expect=None)
    end.run("retire", mapping, "--execute", "--force", mapping)
    if purged:
        end.run("purge", mapping, "--execute")
    assert end.told() == (0, {})
    put(then, "two")
    code, dead = end.told()
    assert code == 3
    assert sum(behind["messages"] for behind in dead.values()) == 1
    end.run("repair")
    assert count() == 1
    wait_until(lambda: "nobody has written" in end.run("repair", "--execute"), lambda: str(end.told()))
    assert count() == 2
    assert end.told() == (0, {})
    ours = [key for key in rig.redis.call("KEYS", "bridge:*") if not key.startswith(b"bridge:health")]
    assert (ours == [f"bridge:{{{stream}}}:retired".encode()]) is purged


def test_a_dead_value_is_left_to_a_person(one_rig: Rig) -> None:
    """A value that is written to a retired state's file is seen, and never put over what Redis holds by now."""
    rig = one_rig
    rig.write_config(mapping="hestai-state")
    end = End.__new__(End)
    end.rig = rig
    (rig.root / "state").mkdir()
    value = rig.root / "state" / "anchor"
    value.write_bytes(b"one")
    end.run("run", "--once", "--dual")
    end.run("retire", "hestai-state", "--execute", "--force", "hestai-state")
    end.run("purge", "hestai-state", "--execute")
    assert end.told() == (0, {})
    value.write_bytes(b"two")
    assert end.told()[0] == 3
    assert "which value is the later one" in end.run("repair", "--execute", expect=3)
    assert rig.redis.call("HGET", "bridge:{hestai:state}:state:state/anchor", "data") == b"one"
    value.write_bytes(b"one")
    assert end.told() == (0, {})


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("how", ["MAXLEN 2", "MINID", "all of it"])
def test_others_trim_the_stream_afterwards(one_rig: Rig, how: str, *, lost: bool) -> None:
    """What somebody has trimmed since the end does not come back with what was written to a dead file.

    Also where Redis had lost the stream once, long before, and it was filled again.
    """
    rig = one_rig
    if lost:
        rig.append("first")
        rig.once(url=rig.url)
        rig.redis.call("FLUSHALL")
        rig.once(url=rig.url)
    end = retired_rig(rig)
    rig.add("later")
    args: dict[str, tuple[str, str | bytes]] = {
        "MAXLEN 2": ("MAXLEN", "2"), "MINID": ("MINID", rig.add("latest")), "all of it": ("MAXLEN", "0"),
    }  # fmt: skip
    rig.redis.call("XTRIM", STREAM, *args[how])
    before = rig.datas()
    end.others_write(2)
    assert end.told()[0] == 3
    end.run("repair", "--execute")
    assert rig.datas() == [*before, b"foreign-1", b"foreign-2"]
    assert end.told() == (0, {})


def test_the_stream_is_another_one_by_now(one_rig: Rig) -> None:
    """Where the stream itself is gone nothing of the files is sent again, and a person is told what to do."""
    end, rig = retired_rig(one_rig), one_rig
    rig.redis.call("DEL", STREAM)
    end.others_write(1)
    assert "not the one that was retired" in end.run("repair", "--execute", expect=3)
    assert rig.datas() == []
    end.run("unretire", NAME, "--from", "beginning", "--execute")
    rig.once(url=rig.url)
    assert len(rig.datas()) == 8
    assert rig.parity().verdict == "equal", str(rig.parity().notes)


@pytest.mark.parametrize("purged", [True, False])
def test_a_ledger_that_was_lost_afterwards(one_rig: Rig, *, purged: bool) -> None:
    """Redis alone knows of the end: nothing is carried, dead lines are counted, brought over once, and it begins again."""
    end, rig = retired_rig(one_rig, purged=purged), one_rig
    end.others_write(1)
    end.run("repair", "--execute")
    end.others_write(2)
    shutil.rmtree(rig.state)
    code, dead = end.told()
    assert (code, dead["messages.log"]["messages"]) == (3, 2)
    assert "is retired" in end.run("run", "--once", "--dual", expect=1)
    assert len(rig.datas()) == 8
    assert "is retired" in end.run("import-history", expect=None)
    assert len(rig.datas()) == 8
    end.run("repair", "--execute")
    assert end.told() == (0, {})
    assert [data for data in rig.datas() if data.startswith(b"foreign")] == [b"foreign-1", b"foreign-2", b"foreign-3"]
    end.run("repair", "--execute")
    assert len(rig.datas()) == 10
    end.run("unretire", NAME, "--from", "retirement", "--execute")
    end.run("repair", "--execute")
    rig.once(url=rig.url)
    assert rig.parity().verdict == "equal"
    assert len(rig.datas()) == len(rig.lines()) == 10


def test_redis_forgets_that_it_is_retired(one_rig: Rig) -> None:
    """A Redis that lost the word of the end is told again, and until then status and doctor say so."""
    end, rig = retired_rig(one_rig), one_rig
    rig.redis.call("DEL", RETIRED)
    assert end.told()[0] == 3
    assert says(rig, "all the same") == "redis"
    end.run("retire", NAME, "--execute")
    assert end.told() == (0, {})
    assert rig.redis.call("EXISTS", RETIRED)


def test_begins_again_where_it_ended(one_rig: Rig) -> None:
    """After `unretire` both directions bring what came since, once; programs stay on Redis and may be moved back."""
    end, rig = retired_rig(one_rig), one_rig
    assert says(rig, "since") == "redis"
    end.others_write(2)
    assert "say where it begins" in end.run("unretire", NAME, "--execute", expect=2)
    assert "holds entries" in end.run("unretire", NAME, "--from", "beginning", "--execute", expect=1)
    assert end.told()[0] == 3
    end.run("unretire", NAME, "--from", "retirement", "--execute", "--reason", "too early")
    rig.once(url=rig.url)
    assert sorted(rig.datas()) == sorted(raw.rpartition(b"|")[2] for raw in rig.lines())
    assert len(rig.datas()) == 10
    assert rig.parity().verdict == "equal"
    shutil.rmtree(rig.state / "components")
    assert says(rig, "still there") == "redis"
    assert "too early" in end.run("journal")
    bridge = rig.beats(rig.ready(rig.start("--redis", rig.url)))
    end.cast.until_made("ui", "writes", "file")
    assert says(rig, "in the file") == "file"
    wait_until(lambda: rig.datas()[-1] == b"in the file", rig.said)
    rig.stop(bridge)


# -- what it leaves ----------------------------------------------------------------------------------------------


def shell(command: str, folder: Path) -> bytes:
    """What a command of the README prints."""
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=True).stdout


def test_the_folder_tells_all(one_rig: Rig) -> None:
    """Its digests hold, its lines are the stream up to the entry it names, and each file and key that is left is named."""
    rig = one_rig
    end = retired_rig(rig, purged=False)
    kept = rig.state / "retired" / NAME
    shell("sha256sum -c SHA256SUMS", kept)
    readme = (kept / "README.md").read_text()
    report = json.loads((kept / "report.json").read_text())
    rig.add("later")
    after = rig.redis.call("XRANGE", STREAM, f"({report['last']}", "+")
    assert f"'({report['last']}' +" in readme
    lines = (kept / "messages.log").read_bytes().splitlines()
    both = [raw.rpartition(b"|")[2] for raw in lines] + [fields[7] for _, fields in after]
    assert both == rig.datas()
    told = json.loads(end.run("purge", NAME, "--execute", "--json"))
    stays = {left["what"] for left in told["stays"]}
    goes = {left["what"] for left in told["goes"]}
    assert {STREAM, RETIRED.decode(), str(kept), str(rig.state / "ledger.db")} <= stays
    assert str(rig.log) in goes
    assert all(left["why"] for left in [*told["stays"], *told["goes"]])
    assert list((rig.state / "components").glob(f"*/{NAME}.*")) == []


@pytest.mark.parametrize("torn", [False, True])
def test_where_an_archive_ends(one_rig: Rig, *, torn: bool) -> None:
    """Archive and stream meet at one entry: read by a command or without the bridge, nothing is in both or in neither."""
    rig = one_rig
    text = shipped("hestai-message")
    mapping = rig.path / "kept.toml"
    mapping.write_text(text + "\n[retention]\nkeep_entries = 2000\narchive = true\nconfirm = false\n")
    rig.write_config(mapping=str(mapping), extra=CONFIG)
    end = End.__new__(End)
    end.rig = rig
    for part in range(4):
        rig.append(*(f"line {part} {n}" for n in range(1500)))
        end.run("run", "--once", "--dual")
        rig.add(f"entry {part}")
        end.run("run", "--once", "--dual")
        end.run("parity")
    whole = rig.datas()
    if torn:
        end.run("trim", "--execute", expect=None, env={"BRIDGE_CRASH_AT": "trim.part.after:3"})
    end.run("trim", "--execute", expect=None)
    assert 1900 < len(rig.datas()) < 5000
    end.run("retire", NAME, "--execute", "--force", NAME)
    kept, archive = rig.state / "retired" / NAME, rig.state / "archive" / NAME
    readme = (kept / "README.md").read_text()
    floor = re.search(r"begins with `(\d+-\d+)`", readme)
    assert floor is not None
    [command] = [raw for raw in re.findall(r"```\n(.*?)\n```", readme, re.DOTALL) if "tail -c" in raw]
    assert rig.datas() == [fields[7] for _, fields in rig.redis.call("XRANGE", STREAM, floor[1], "+")]
    by_hand = shell(command.replace("INDEX", str(kept / "archive.tsv")), archive).splitlines()
    assert [raw.rpartition(b"|")[2] for raw in by_hand] + rig.datas() == whole
    end.run("purge", NAME, "--execute")
    end.run("snapshot", NAME, str(rig.path / "by-command"), "--until", floor[1])
    assert (rig.path / "by-command" / "messages.log").read_bytes().splitlines() == by_hand
    assert [raw.rpartition(b"|")[2] for raw in (kept / "messages.log").read_bytes().splitlines()] == whole
    if not torn:
        assert len(shell("zcat *.gz", archive).splitlines()) == len(by_hand)


# -- without our client ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["py", pytest.param("js", marks=pytest.mark.skipif(bool(node()), reason=node()))])
def test_a_program_without_our_client_goes_on(rig: Rig, language: str) -> None:
    """The book's programs go on in the position of a component, write each message once, and may be killed."""
    program = rig.path / f"after.{language}"
    program.write_text(recipe(language, program.name))
    runs = [sys.executable if language == "py" else "node", str(program)]
    retired_rig(rig)
    with open_log(NAME, "ui", config=rig.path / "bridge.toml", redis=rig.url) as log:
        for count, message in enumerate(log.follow(idle=5.0)):
            if count == 4:
                assert message.text == "line 4"  # it is in hand, and not acknowledged, as the program ends
                break
    out = rig.path / "given"

    def start() -> subprocess.Popen[bytes]:
        with out.open("ab") as file:
            args = [*runs, rig.server.url, STREAM, "ui", "ui"]
            child = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=file, stderr=file)
        rig.children.append(child)
        return child

    def given() -> list[str]:
        return [line.split(" ", 2)[2] for line in out.read_text().splitlines() if line.count(" ") > 1]

    def says_and_sees(child: subprocess.Popen[bytes], data: str) -> None:
        assert child.stdin is not None
        child.stdin.write(f"{data}\n".encode())
        child.stdin.flush()
        wait_until(lambda: data in given(), out.read_text)

    child = start()
    says_and_sees(child, "from the program")
    assert given() == ["line 4", "entry 0", "entry 1", "from the program"]
    rig.kill_server()
    rig.start_server()
    says_and_sees(child, "after a restart")
    end_of(child)
    rig.add("while nobody runs")
    again = start()
    says_and_sees(again, "at last")
    assert [data for data in given() if data in ("while nobody runs", "at last")] == ["while nobody runs", "at last"]
    assert Counter(rig.datas()).most_common(1)[0][1] == 1
    wait_until(lambda: rig.redis.call("XPENDING", STREAM, "ui")[0] == 0, out.read_text)
    end_of(again)


def end_of(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL."""
    child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


# -- what a hostile reader found ---------------------------------------------------------------------------------


def opened(rig: Rig, url: str | None = None, folder: Path | None = None) -> Log:
    """`ui`'s log."""
    return open_log(NAME, "ui", config=(folder or rig.path) / "bridge.toml", redis=url or rig.url)


def test_a_purge_beside_a_program_that_waited(one_rig: Rig) -> None:
    """An outbox that a running program has emptied stays its own: what it writes there after a purge is sent."""
    rig, broken = one_rig, Event()
    end = retired_rig(rig, purged=False)
    with Proxy(rig.server, lambda data, count: "cut" if broken.is_set() else "pass") as proxy:
        with opened(rig, proxy.url) as log:
            log.append("say", "one")
            broken.set()
            log.append("say", "two")
            broken.clear()
            wait_until(lambda: rig.datas()[-1] == b"two", lambda: str(rig.datas()))
            end.run("purge", NAME, "--execute")
            for path in (rig.state / "components" / "ui").glob("*.outbox"):
                path.unlink()  # somebody tidies up
            broken.set()
            log.append("say", "three")
            log.append("say", "four")
            boxes = list((rig.state / "components" / "ui").glob("*.outbox"))
            assert sum(path.read_bytes().count(b"[") > 0 for path in boxes) == 1
        broken.clear()
        with opened(rig, proxy.url):
            wait_until(lambda: rig.datas()[-2:] == [b"three", b"four"], lambda: str(rig.datas()))
    assert Counter(rig.datas()).most_common(1)[0][1] == 1


def test_a_refusal_in_the_middle_of_a_batch(one_rig: Rig) -> None:
    """Where Redis refuses some of what waits and takes others, none of it is taken for sent that is not."""
    rig = retired_rig(one_rig).rig
    with opened(rig, AWAY) as log:
        for n in range(60):
            log.append("say", f"waits {n} " + "x" * 20_000)
    used = int(re.search(rb"used_memory:(\d+)", rig.redis.call("INFO", "memory"))[1])  # type: ignore[index]
    stop = Event()

    def toggle() -> None:
        with closing(Connection(rig.url)) as other:
            while not stop.is_set():
                other.call("CONFIG", "SET", "maxmemory", used // 2)
                other.call("CONFIG", "SET", "maxmemory", 0)

    toggler = Thread(target=toggle)
    toggler.start()
    try:
        with opened(rig):
            Event().wait(1.0)
    finally:
        stop.set()
        toggler.join()
        rig.redis.call("CONFIG", "SET", "maxmemory", 0)
    with opened(rig):
        wait_until(
            lambda: len([data for data in rig.datas() if data.startswith(b"waits")]) >= 60,
            lambda: str(len(rig.datas())),
        )
    numbers = [int(data.split(b" ")[1]) for data in rig.datas() if data.startswith(b"waits")]
    assert numbers == list(range(60))


@pytest.mark.parametrize("folder", ["here", "elsewhere"])
def test_a_purge_while_a_reply_is_lost(one_rig: Rig, tmp_path: Path, folder: str) -> None:
    """A purge, and another one, leaves the number of a session whose reply was lost: its message is there once."""
    rig, where = one_rig, one_rig.path
    end = retired_rig(rig, purged=False)
    if folder == "elsewhere":
        where = tmp_path / "elsewhere"
        (where / "files").mkdir(parents=True)
        shutil.copy(rig.path / "bridge.toml", where)
        rig.redis.call("HSET", f"bridge:{{{STREAM}}}:positions", "ui/there-1", json.dumps({"at": 1, "host": "another"}))
    mode = "pass"

    def fault(data: bytes, count: int) -> str:
        return "pass" if mode == "swallow" and b"XADD" not in data else mode

    with Proxy(rig.server, fault) as proxy, opened(rig, proxy.url, where) as log:
        log.append("say", "one")
        mode = "swallow"
        log.append("say", "two")
        mode = "cut"
        wait_until(lambda: rig.datas()[-1] == b"two", lambda: str(rig.datas()))
        end.run("purge", NAME, "--execute")
        end.run("purge", NAME, "--execute")
        mode = "pass"
        log.append("say", "three")
        wait_until(lambda: rig.datas()[-1] == b"three", lambda: str(rig.datas()))
    assert rig.datas()[-3:] == [b"one", b"two", b"three"]


def test_a_program_that_lost_redis_before_the_end(one_rig: Rig) -> None:
    """One on files that has not heard Redis for long asks the ledger before it writes: what is dead it leaves alone."""
    rig, away = one_rig, Event()
    Cast(rig)
    rig.once(url=rig.url)
    with (
        Proxy(rig.server, lambda data, count: "cut" if away.is_set() else "pass") as proxy,
        opened(rig, proxy.url) as log,
    ):
        log.append("say", "in the file")
        wait_until(lambda: len(rig.lines()) == 1, "the line")
        away.set()
        log.append("say", "in the file too")
        end = retired_rig(rig)
        wait_until(lambda: log.coordinator.unheard > HEARD, "silence")
        log.append("say", "to Redis")
        assert rig.log.read_bytes() == end.dead
        away.clear()
        wait_until(lambda: rig.datas()[-1] == b"to Redis", lambda: str(rig.datas()))
        assert rig.log.read_bytes() == end.dead
    assert len(rig.lines()) == len(rig.datas()) - 1


def test_a_ledger_that_was_written_over(one_rig: Rig, tmp_path: Path) -> None:
    """The ledger of before the end, put back alone in its place, vouches for nothing, whatever else is gone."""
    rig = one_rig
    rig.append("first")
    rig.once(url=rig.url)
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        ledger.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (rig.state / "ledger.db").read_bytes()
    end = retired_rig(rig)
    shutil.rmtree(rig.state / "retired")
    (rig.state / "ledger.db").write_bytes(before)
    says(rig, "waits", url=AWAY)
    assert rig.log.read_bytes() == end.dead
    assert says(rig, "then this") == "redis"
    wait_until(lambda: rig.datas()[-2:] == [b"waits", b"then this"], lambda: str(rig.datas()))


def test_a_full_disk_between_outbox_and_file(one_rig: Rig) -> None:
    """A message of the outbox whose line is cut off by a full disk waits on: it is whole once there is room."""
    rig = one_rig
    Cast(rig)
    says(rig, "waits", url=AWAY)
    writing: list[bytes] = []

    def full(self: Appender, data: bytes) -> int:
        if b"waits" in data and not writing:
            writing.append(data)
            return os.write(self.fd, data[:10])
        return os.write(self.fd, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Appender, "append", full)
        with opened(rig):
            wait_until(lambda: writing, "the write")
            wait_until(lambda: rig.lines()[-1:] and rig.lines()[-1].endswith(b"|waits"), lambda: str(rig.lines()))
        writing.clear()
    says(rig, "then this")
    assert [raw.rpartition(b"|")[2] for raw in rig.lines()] == [b"waits", b"then this"]


def test_what_waits_on_disk_is_told(one_rig: Rig) -> None:
    """A message that waits in an outbox is told by status, doctor and purge, with what to do, until it is sent."""
    end, rig = retired_rig(one_rig), one_rig
    says(rig, "waits", url=AWAY)
    told = json.loads(end.run("status", "--json"))["mappings"][0]
    assert told["outboxes"] == {"ui": 1}
    assert "1 message of ui wait on disk" in end.run("status")
    [check] = [
        check
        for check in json.loads(end.run("doctor", "--json", expect=None))["checks"]
        if check["check"] == "outboxes"
    ]
    assert (check["verdict"], "start it again" in check["hint"]) == ("note", True)
    assert "1 message of ui wait there" in end.run("purge", NAME)
    says(rig, "then this")
    wait_until(lambda: rig.datas()[-2:] == [b"waits", b"then this"], lambda: str(rig.datas()))
    assert json.loads(end.run("status", "--json"))["mappings"][0]["outboxes"] == {}
