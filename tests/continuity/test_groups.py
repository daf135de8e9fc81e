"""Groups of mappings, each with a process, a lock and a ledger: they carry beside each other, and a mapping moves."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from bridge import Log, LogSet, open_log
from bridge.continuity.group_moves import bring_over
from bridge.core.failpoints import FAILPOINTS
from bridge.ledger.retired import doubt
from bridge.ledger.staleness_mark import read_mark
from bridge.ledger.store import Ledger
from bridge.ledger.stream_rows import known_streams
from tests.support.inbox import document
from tests.support.many import MAPPING
from tests.support.rig import STREAM, Rig, line, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
POINTS = [point for point in FAILPOINTS if point.startswith("group.")]
COMPONENTS = '[components.ui]\nroles = ["ui"]'


def configure(rig: Rig, extra: str = COMPONENTS, **groups: list[str]) -> None:
    """bridge.toml with three mappings, one of them with many streams, in these groups."""
    (rig.path / "sessions.toml").write_text(MAPPING)
    (rig.path / "files" / "inbox").mkdir(exist_ok=True)
    tables = "\n".join(f"{name} = {json.dumps(mappings)}" for name, mappings in groups.items())
    text = (
        f'instance = "test"\nroot = "files"\nmappings = ["hestai-message", "sessions.toml", "hestai-inbox"]\n{extra}\n'
    )
    (rig.path / "bridge.toml").write_text(
        f'{text}[state]\ndir = "state"\n' + (f"[groups]\n{tables}\n" if groups else "")
    )


class Written:
    """What was written to the log and the stream of messages, and to those of a session."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.file_born: list[bytes] = []
        self.redis_born: list[bytes] = []
        self._session = rig.root / "sessions" / "a.log"
        self._session.parent.mkdir(exist_ok=True)
        self.turns = 0

    def more(self, count: int = 5) -> None:
        self.turns += 1
        for n in range(count):
            self.rig.append(f"f-{self.turns}-{n}")
            self.rig.add(f"r-{self.turns}-{n}")
            self.file_born.append(f"f-{self.turns}-{n}".encode())
            self.redis_born.append(f"r-{self.turns}-{n}".encode())
            with self._session.open("ab") as file:
                file.write(line(f"s-{self.turns}-{n}"))

    def session(self) -> list[bytes]:
        """The data of the entries of the session's stream."""
        reply = self.rig.redis.call("XRANGE", "hestai:session:a", "-", "+")
        return [dict(zip(fields[0::2], fields[1::2], strict=True))[b"data"] for _, fields in reply]

    def settle(self) -> None:
        self.rig.settle(self.file_born, self.redis_born)
        wanted = [raw.split(b"|", 3)[3] for raw in self._session.read_bytes().splitlines()]
        wait_until(lambda: len(self.session()) >= len(wanted), self.rig.said)
        assert self.session() == wanted, self.rig.said()


def command(rig: Rig, *args: str, expect: int = 0) -> str:
    done = rig.run(*args, "--redis", rig.url)
    assert done.returncode == expect, f"{args}: {done.returncode} {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


def told(rig: Rig, *args: str, expect: int = 0) -> Any:
    return json.loads(command(rig, *args, "--json", expect=expect))


def who_knows(rig: Rig, stream: str = STREAM) -> list[str]:
    """The groups whose ledgers know a stream."""
    folders = {"": rig.state, **{name: rig.state / "groups" / name for name in "abc"}}
    found = []
    for name, folder in folders.items():
        if (folder / "ledger.db").exists():
            with closing(Ledger(folder / "ledger.db")) as ledger:
                found += [name] if stream in known_streams(ledger) else []
    return found


@pytest.mark.parametrize("way", ["on", "back"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_move_that_is_killed(one_rig: Rig, point: str, when: str, way: str) -> None:
    """Two mappings move to another group, killed at this point, and go on there, or back: each message is there once."""
    rig = one_rig
    configure(rig, a=["hestai-message", "sessions"])
    written = Written(rig)
    written.more()
    child = rig.ready(rig.start("--group", "a"))
    written.settle()
    rig.stop(child)
    written.more()
    configure(rig, a=["hestai-inbox"], b=["sessions", "hestai-message"])
    killed = rig.start("--group", "b", crash=f"{point}.{when}")
    assert killed.wait(60) == -9, rig.said()
    written.more()
    last = "b"
    if way == "back":
        configure(rig, a=["hestai-message", "sessions"])
        last = "a"
    child = rig.ready(rig.start("--group", last))
    written.settle()
    written.more()
    written.settle()
    rig.stop(child)
    assert who_knows(rig) == who_knows(rig, "hestai:session:a") == [last]
    results = told(rig, "parity", "hestai-message", "sessions")
    assert {result["mapping"]: result["verdict"] for result in results["mappings"]} == {
        "hestai-message": "equal", "sessions:a": "equal",
    }  # fmt: skip


def test_into_groups_and_out_of_them(rig: Rig) -> None:
    """A bridge without groups gets some, and loses them again: ledger rows, quarantine, archive and journal go along."""
    extra = COMPONENTS
    configure(rig, extra)
    written = Written(rig)
    written.more()
    with rig.log.open("ab") as file:
        file.write(b"no line at all\n")
    command(rig, "run", "--once", "--dual")
    command(rig, "quarantine", "acknowledge", "--all", "--reason", "known")
    archive = rig.state / "archive" / "hestai-message"
    archive.mkdir(parents=True)
    (archive / "kept").write_text("x")
    for groups in ({"a": ["hestai-message"]}, {"b": ["hestai-message", "sessions"]}, {}):
        configure(rig, extra, **groups)
        waits = rig.run("parity", "hestai-message", "--redis", rig.url)
        assert (waits.returncode, "not brought over" in waits.stdout) == (4, True), waits.stdout + waits.stderr
        status = told(rig, "status", "hestai-message", expect=3)["mappings"][0]
        assert "not brought over" in status["error"]
        assert "not brought over" in rig.run("doctor", "--redis", rig.url).stdout
        written.more()
        group = next(iter(groups), "")
        command(rig, "run", "--once", "--dual", "--group", group)
        assert sorted(rig.datas()) == sorted([*written.file_born, *written.redis_born])
        assert who_knows(rig) == [group]
        [aside] = told(rig, "quarantine", "list", "hestai-message", "--group", group)
        assert aside["reason"]
        folder = rig.state / "groups" / group if group else rig.state
        assert (folder / "archive" / "hestai-message" / "kept").read_text() == "x"
        rows = told(rig, "journal", "--group", group)
        assert [row["what"] for row in rows if row["stream"] == STREAM].count("quarantine acknowledge") == 1
        assert told(rig, "parity", "hestai-message")["verdict"] == "equal"


def all_rows(path: Path, stream: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that a ledger has of a stream, table by table, but for what another ledger numbers or notes anew."""
    found = {}
    with closing(sqlite3.connect(path)) as raw:
        for (table,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in raw.execute(f'PRAGMA table_info("{table}")')]
            if "stream" in columns:
                names = ", ".join(f'"{name}"' for name in columns if name not in ("id", "place"))
                rows = raw.execute(f'SELECT {names} FROM "{table}" WHERE stream = ?', (stream,)).fetchall()
                found[table] = sorted(rows, key=repr)
    found["journal"] = [row for row in found["journal"] if "move to group" not in row]
    return {table: rows for table, rows in found.items() if rows}


def test_every_row_moves(rig: Rig) -> None:
    """The new ledger has what the old one had, row by row, vouches for the files, and knows how much was mirrored."""
    configure(rig)
    written = Written(rig)
    for _ in range(3):
        written.more()
        with rig.log.open("ab") as file:
            file.write(b"no line at all\n")
        command(rig, "run", "--once", "--dual")
        command(rig, "parity")
        rig.log.rename(rig.log.with_name(f"messages.log.{written.turns}"))
    command(rig, "quarantine", "acknowledge", "--all", "--reason", "known")
    before = {stream: all_rows(rig.state / "ledger.db", stream) for stream in (STREAM, "hestai:session:a")}
    assert {"ranges", "quarantine", "parity", "verified", "points", "generations", "nonces"} <= before[STREAM].keys()
    with closing(Ledger(rig.state / "ledger.db")) as old:
        marked = read_mark(old.path, old.uuid, STREAM)
    configure(rig, a=["hestai-message", "sessions"])
    path = rig.state / "groups" / "a" / "ledger.db"
    bring_over(rig.settings().of_group("a"), "test")
    assert {stream: all_rows(path, stream) for stream in before} == before
    assert not all_rows(rig.state / "ledger.db", STREAM)
    with closing(Ledger(path)) as new:
        assert read_mark(path, new.uuid, STREAM) == marked > 0
    assert (doubt(path, STREAM), bool(doubt(rig.state / "ledger.db", STREAM))) == ("", True)
    command(rig, "run", "--once", "--dual", "--group", "a")
    assert told(rig, "parity", "hestai-message")["verdict"] == "equal"


@pytest.mark.parametrize("way", ["back", "third"])
@pytest.mark.parametrize("point", ["group.copy.after", "group.owner.before", "group.owner.after", "group.forget.after"])
def test_what_lies_in_folders_goes_along(one_rig: Rig, point: str, way: str) -> None:
    """A move that is killed, and goes back or to a third group instead: archive and journal are where the mapping is."""
    rig = one_rig
    configure(rig, b=["hestai-message"])
    written = Written(rig)
    written.more()
    command(rig, "run", "--once", "--dual", "--group", "b")
    archive = rig.state / "groups" / "b" / "archive" / "hestai-message"
    archive.mkdir(parents=True)
    (archive / "kept").write_text("x")
    configure(rig, a=["hestai-message"])
    assert rig.start("--once", "--group", "a", crash=point).wait(60) == -9, rig.said()
    last = "b" if way == "back" else "c"
    configure(rig, COMPONENTS, **{last: ["hestai-message"]})
    written.more()
    command(rig, "run", "--once", "--dual", "--group", last)
    rig.settle(written.file_born, written.redis_born)
    assert (rig.state / "groups" / last / "archive" / "hestai-message" / "kept").exists()
    assert not (rig.state / "groups" / "a" / "archive" / "hestai-message").exists()
    assert who_knows(rig) == [last]
    assert told(rig, "parity", "hestai-message")["verdict"] == "equal"


@pytest.mark.timeout(1200)
def test_moves_at_random_killed_at_random(one_rig: Rig) -> None:
    """Two mappings move between four places, killed at random moments, while both sides are written: all is there once."""
    rig, seed = one_rig, int(os.environ.get("BRIDGE_SEED") or random.randrange(1 << 30))
    dice, until = random.Random(seed), time.monotonic() + (300 if SOAK else 12)
    configure(rig)
    written, turns = Written(rig), 0
    while time.monotonic() < until:
        turns += 1
        places = {"hestai-message": dice.choice(["", *"abc"]), "sessions": dice.choice(["", *"abc"])}
        groups: dict[str, list[str]] = defaultdict(list)
        for name, group in places.items():
            if group:
                groups[group].append(name)
        configure(rig, COMPONENTS, **groups)
        written.more()
        for group in dice.sample(sorted({*places.values()}), len({*places.values()})):
            child = rig.start("--group", group, *["--once"] * dice.randrange(2))
            try:
                child.wait(dice.choice([dice.uniform(0.1, 0.6), dice.uniform(0.2, 2.0)]))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    configure(rig)
    assert "two ledgers" not in rig.said(), f"seed {seed} {rig.said()[-3000:]}"
    child = rig.ready(rig.start())
    written.settle()
    rig.stop(child)
    assert (who_knows(rig), who_knows(rig, "hestai:session:a")) == ([""], [""]), seed
    assert told(rig, "parity")["verdict"] == "equal", f"seed {seed}"
    print(f"seed {seed}: {turns} turns, {len(written.file_born) * 3} messages")


def test_groups_that_exchange_mappings_start_at_once(rig: Rig) -> None:
    """Two groups that are started at the same moment, with each other's mappings, both carry."""
    configure(rig, a=["hestai-message"], b=["sessions"])
    written = Written(rig)
    written.more()
    for group in "ab":
        command(rig, "run", "--once", "--dual", "--group", group)
    configure(rig, a=["sessions"], b=["hestai-message"])
    written.more()
    children = [rig.ready(rig.start("--group", group)) for group in "ab"]
    written.settle()
    for child in children:
        rig.stop(child)
    assert (who_knows(rig), who_knows(rig, "hestai:session:a")) == (["b"], ["a"])


REFUSED = (
    "tail hestai-message", "files hestai-message", "quarantine list hestai-message", "quarantine export",
    "snapshot hestai-message kept", "locate files/messages.log:1", "trim", "repair", "retire hestai-message",
    "purge hestai-message", "import-history --dry-run hestai-message", "redact hestai-message 1-1",
)  # fmt: skip


def test_who_looks_while_a_move_waits(one_rig: Rig) -> None:
    """Commands that only look refuse to tell of a mapping that waits; those that change something bring it over first."""
    rig = one_rig
    configure(rig, a=["hestai-message"])
    written = Written(rig)
    written.more()
    command(rig, "run", "--once", "--dual", "--group", "a")
    configure(rig, b=["hestai-message"])
    for words in REFUSED:
        done = rig.run(*words.split(), "--redis", rig.url)
        assert done.returncode == 1, f"{words}: {done.stdout} {done.stderr}"
        assert "not brought over from group 'a' yet" in done.stderr, f"{words}: {done.stdout} {done.stderr}"
    command(rig, "run", "--once", "--group", "")
    assert who_knows(rig) == ["b"], "who begins brings over for groups that stand still as well"
    configure(rig, a=["hestai-message"])
    entry = rig.entries()[1]
    done = rig.run(
        "redact", "hestai-message", f"{entry.id[0]}-{entry.id[1]}", "--reason", "x", "--execute", "--redis", rig.url
    )
    assert done.returncode == 0, done.stderr
    assert who_knows(rig) == ["a"]
    what = [row["what"] for row in told(rig, "journal", "--group", "a")]
    assert what.count("move to group") == 2
    assert "redact" in " ".join(what)
    configure(rig, b=["hestai-message"])
    command(rig, "run", "--once", "--dual", "--group", "b")
    assert [row["what"] for row in told(rig, "journal", "--group", "b")][:-1] == what
    assert len(rig.datas()) == 9


def test_a_ledger_of_an_earlier_version_is_brought_over(rig: Rig) -> None:
    """The ledger of the group that a mapping leaves is brought up to date before; one that is locked is waited for."""
    configure(rig)
    written = Written(rig)
    written.more()
    command(rig, "run", "--once", "--dual")
    with closing(sqlite3.connect(rig.state / "ledger.db")) as raw:
        raw.execute("PRAGMA user_version = 16")
    configure(rig, a=["hestai-message", "sessions"])
    assert "of version 16" in told(rig, "status", "hestai-message", expect=3)["mappings"][0]["error"]
    command(rig, "run", "--once", "--dual", "--group", "a")
    assert who_knows(rig) == ["a"]
    configure(rig, b=["hestai-message", "sessions"])
    with closing(sqlite3.connect(rig.state / "groups" / "a" / "ledger.db")) as raw:
        raw.execute("PRAGMA locking_mode = EXCLUSIVE")
        raw.execute("BEGIN EXCLUSIVE")
        done = rig.run("run", "--once", "--group", "b", "--redis", rig.url)
        assert (done.returncode, "is locked by another program" in done.stderr) == (1, True), done.stderr
        raw.execute("ROLLBACK")
    command(rig, "run", "--once", "--dual", "--group", "b")
    assert who_knows(rig) == ["b"]
    (rig.state / "groups" / "a" / "ledger.db").write_bytes(b"damaged" * 1000)
    command(rig, "run", "--once", "--dual", "--group", "b")
    configure(rig, b=["hestai-message", "sessions"], c=["hestai-inbox"])
    done = rig.run("run", "--once", "--group", "c", "--redis", rig.url)
    assert (done.returncode, "is damaged" in done.stderr) == (1, True), "it may have the mapping that nobody else has"
    assert "is damaged" in rig.run("doctor", "--redis", rig.url).stdout


def test_nothing_moves_while_a_group_runs(rig: Rig) -> None:
    """While the group that has a mapping runs, the other one does not start, and says who is in the way."""
    configure(rig, a=["hestai-message"])
    written = Written(rig)
    child = rig.ready(rig.start("--group", "a"))
    written.more()
    rig.settle(written.file_born, written.redis_born)  # before, its ledger need not know of the mapping yet
    configure(rig, a=["hestai-inbox"], b=["hestai-message"])
    done = rig.run("run", "--once", "--group", "b", "--redis", rig.url)
    assert done.returncode == 1
    assert "groups/a/lock" in done.stderr
    assert f"bridge run (process {child.pid})" in done.stderr
    written.more()
    rig.settle(written.file_born, written.redis_born)
    rig.stop(child)
    command(rig, "run", "--once", "--group", "b")
    assert who_knows(rig) == ["b"]


def test_a_copied_ledger_is_not_brought_over(rig: Rig) -> None:
    """A group's ledger that was put back from a backup moves nowhere, and nothing is carried with what it knows."""
    configure(rig, a=["hestai-message"])
    written = Written(rig)
    written.more()
    command(rig, "run", "--once", "--dual", "--group", "a")
    folder = rig.state / "groups" / "a"
    shutil.copytree(folder, rig.path / "backup")
    written.more()
    command(rig, "run", "--once", "--dual", "--group", "a")
    shutil.rmtree(folder)
    shutil.copytree(rig.path / "backup", folder)
    configure(rig, b=["hestai-message"])
    done = rig.run("run", "--once", "--dual", "--group", "b", "--redis", rig.url)
    assert done.returncode == 1
    assert "is a copy, or was put back" in done.stderr
    configure(rig, a=["hestai-message"])
    command(rig, "run", "--once", "--dual", "--group", "a")
    rig.settle(written.file_born, written.redis_born)
    configure(rig, b=["hestai-message"])
    command(rig, "run", "--once", "--dual", "--group", "b")
    assert told(rig, "parity", "hestai-message")["verdict"] == "equal"


def test_processes_beside_each_other(rig: Rig) -> None:
    """Two groups and the rest run at once, each with its lock, heartbeat and metrics; one that dies stops no other."""
    port = _three_ports()
    configure(rig, f"{COMPONENTS}\n[metrics]\nport = {port}", a=["hestai-message"], b=["sessions"])
    written = Written(rig)
    written.more()
    (rig.root / "inbox" / "one.json").write_bytes(document("one"))
    a, b = rig.start("--group", "a"), rig.start("--group", "b")
    rest = rig.start()
    written.settle()
    wait_until(lambda: rig.redis.call("XLEN", "hestai:inbox") == 1, rig.said)
    beats = wait_until(lambda: _beats(rig, "test", "test/a", "test/b"), rig.said)
    assert [beat["pid"] for beat in beats] == [rest.pid, a.pid, b.pid]
    assert rig.redis.call("HGET", f"bridge:{{{STREAM}}}:meta", "group") == b"a"

    def groups() -> bool:
        return [_group(port + n) for n in range(3)] == ["", "a", "b"]

    wait_until(groups, lambda: f"metrics {rig.said()}")
    found = told(rig, "status")
    assert [group["group"] for group in found["groups"]] == ["", "a", "b"]
    assert [group["lock"] for group in found["groups"]] == [
        f"bridge run (process {pid})" for pid in (rest.pid, a.pid, b.pid)
    ]
    assert {mapping["mapping"] for mapping in found["mappings"]} == {"hestai-inbox", "hestai-message", "sessions:a"}
    a.kill()
    a.wait()
    written.more()
    wait_until(lambda: len(written.session()) == 10, rig.said)
    killed = told(rig, "status", expect=3)
    assert killed["headline"].startswith("group a: Not running: it was killed")
    child = rig.ready(rig.start("--group", "a"))
    written.settle()
    for process in (child, b, rest):
        rig.stop(process)
    assert _beats(rig, "test") is None


def _three_ports() -> int:
    """The first of three ports in a row that nobody has."""
    while True:
        first = random.randrange(20_000, 32_000)
        with ExitStack() as bound:
            try:
                for port in range(first, first + 3):
                    bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


def _beats(rig: Rig, *names: str) -> list[dict[str, Any]] | None:
    found = [rig.redis.call("GET", f"bridge:health:{name}") for name in names]
    return [json.loads(raw) for raw in found] if all(found) else None


def _group(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            rows = reply.read().decode().splitlines()
    except OSError:
        return None
    [row] = [row for row in rows if row.startswith("bridge_info{")] or ['group="?"']
    return str(row.partition('group="')[2].partition('"')[0])


def test_components_of_groups(rig: Rig) -> None:
    """A component reads and writes mappings of two groups, and is cut over in both, and back, at once."""
    configure(rig, a=["hestai-message"], b=["sessions"])
    written = Written(rig)
    written.more()
    children = [rig.start("--group", "a"), rig.start("--group", "b")]
    written.settle()
    config = rig.path / "bridge.toml"
    with (
        closing(open_log("hestai-message", "ui", config=config, redis=rig.url)) as log,
        closing(open_log("sessions", "ui", config=config, redis=rig.url, streams="*")) as logs,
    ):
        given, stop = list[str](), Event()
        readers = [Thread(target=_follow, args=(reader, given, stop)) for reader in (log, logs)]
        for reader in readers:
            reader.start()
        try:
            wait_until(lambda: len(given) == 15, lambda: f"{given}")
            for group in "ab":
                command(rig, "parity", "--group", group)
            for verb, side in (("cutover", "redis"), ("rollback", "file")):
                assert {plan["mapping"] for plan in told(rig, verb, "ui")} == {"hestai-message", "sessions:a"}
                command(rig, verb, "ui", "--execute")
                standing = {row["mapping"]: row["reads"] for row in told(rig, "status")["components"]}
                assert standing == {"hestai-message": side, "sessions:a": side}
                written.more()
                written.settle()
                wait_until(lambda: set(given) >= {text.decode() for text in _all(written)}, lambda: f"{given}")
        finally:
            stop.set()
            for reader in readers:
                reader.join()
    assert sorted(given) == sorted(text.decode() for text in _all(written))
    for child in children:
        rig.stop(child)


def _follow(log: Log | LogSet, given: list[str], stop: Event) -> None:
    while not stop.is_set():
        given += [message.text for message in log.follow(idle=0.2)]


def _all(written: Written) -> list[bytes]:
    return [*written.file_born, *written.redis_born, *written.session()]


COMMANDS: dict[tuple[str, ...], str] = {
    ("acl",): "SETUSER",
    ("doctor",): "moves",
    ("files",): "sessions:a: 1 file",
    ("files", "hestai-message"): "messages.log",
    ("import-history",): "hestai-message: imported",
    ("journal",): "quarantine acknowledge",
    ("locate", "files/messages.log:1"): "hestai:messages",
    ("locate", "files/sessions/a.log:1"): "hestai:session:a",
    ("parity", "--history"): "sessions:a",
    ("quarantine", "list"): "--group a",
    ("quarantine", "export", "hestai-message"): "no line at all",
    ("repair",): "",
    ("runbook",): "sessions",
    ("snapshot", "sessions:a", "kept"): "5 messages",
    ("tail", "sessions"): "s-1-4",
    ("trim",): "No mapping has [retention]",
    ("retire", "sessions"): "",
}
"""Commands that run over all groups, or find theirs, and what they must say; ``: whatever that is."""


def test_commands_find_their_groups(one_rig: Rig) -> None:
    """Each command works on all groups, or finds the group of the mapping that it names; one JSON document comes out."""
    rig = one_rig
    configure(rig, a=["hestai-message"], b=["sessions"])
    written = Written(rig)
    written.more()
    with rig.log.open("ab") as file:
        file.write(b"no line at all\n")
    for group in ("a", "b", ""):
        command(rig, "run", "--once", "--dual", "--group", group)
    command(rig, "quarantine", "acknowledge", "--all", "--reason", "known", "--group", "a")
    assert command(rig, "parity").endswith("EQUAL\n")
    for words, wanted in COMMANDS.items():
        expect = 3 if words[0] in ("retire", "doctor") else 0
        done = rig.run(*words, "--redis", rig.url)
        assert done.returncode == expect, f"{words}: {done.stdout} {done.stderr}"
        assert wanted in done.stdout + done.stderr, f"{words}: {done.stdout} {done.stderr}"
    for verb in ("files", "import-history --dry-run", "journal", "quarantine list", "repair", "trim"):
        done = rig.run(*verb.split(), "--json", "--redis", rig.url)
        json.loads(done.stdout)
    assert {part["mapping"] for part in told(rig, "files")["mappings"]} >= {
        "hestai-message",
        "sessions:a",
        "hestai-inbox",
    }
    several = rig.run("tail", "--redis", rig.url)
    assert (several.returncode, "name a mapping" in several.stderr) == (2, True)
    number = told(rig, "quarantine", "list")[0]
    assert number["group"] == "a"
    assert "several groups" in rig.run("quarantine", "show", str(number["number"]), "--redis", rig.url).stderr
    assert "no line at all" in command(rig, "quarantine", "show", str(number["number"]), "--group", "a")


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": ["hestai-mesage"]}, "did you mean 'hestai-message'?"),
        ({"a": ["sessions"], "b": ["sessions"]}, "is in group 'a' and in group 'b'"),
        ({"a": []}, "has no mapping"),
        ({"a": ["sessions", "sessions"]}, "names mapping 'sessions' twice"),
        ({"a/b": ["sessions"]}, "becomes a folder's name"),
    ],
)
def test_groups_that_cannot_be(rig: Rig, groups: dict[str, list[str]], said: str) -> None:
    """Unknown mappings, one in two groups, empty groups and names that are no folders are refused, with what to try."""
    configure(rig)
    with (rig.path / "bridge.toml").open("a") as file:
        file.write(
            "[groups]\n" + "".join(f"{json.dumps(name)} = {json.dumps(some)}\n" for name, some in groups.items())
        )
    done = rig.run("status")
    assert done.returncode == 2
    assert said in done.stderr


def test_a_group_must_be_named(rig: Rig) -> None:
    """`bridge run` alone carries what is in no group, and says what to do where all mappings are in groups."""
    configure(rig, a=["hestai-message", "hestai-inbox"], b=["sessions"])
    done = rig.run("run", "--once")
    assert (done.returncode, "bridge run --group a, bridge run --group b" in done.stderr) == (2, True), done.stderr
    assert rig.run("run", "--once", "--group", "").returncode == 2
    assert "bridge run --dual --group b" in command(rig, "runbook")
    configure(rig, "[metrics]\nport = 65535", a=["hestai-message"])
    done = rig.run("run", "--once", "--group", "a")
    assert (done.returncode, "there is no port 65536" in done.stderr) == (2, True), done.stderr
    configure(rig, a=["hestai-message", "hestai-inbox"], b=["sessions"])
    for words in ("quarantine list nobody", "status nobody", "parity nobody", "files nobody", "trim nobody --group a"):
        done = rig.run(*words.split())
        assert (done.returncode, "there is no mapping 'nobody' here" in done.stderr) == (2, True), (
            f"{words} {done.stderr}"
        )
    done = rig.run("run", "--once", "--group", "aa")
    assert (done.returncode, "did you mean 'a'?" in done.stderr) == (2, True), done.stderr


def test_a_service_for_each_group(rig: Rig, tmp_path: Path) -> None:
    """systemd gets one template and an instance of it for each group, and is asked to stop all before it goes."""
    configure(rig, a=["hestai-message"], b=["sessions"])
    programs, log = tmp_path / "programs", tmp_path / "asked"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    (programs / "systemctl").chmod(0o755)
    env = {"PATH": f"{programs}:/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    units = tmp_path / "config" / "systemd" / "user"
    assert rig.run("service", "install", "--dual", env=env).returncode == 0
    assert sorted(path.name for path in units.iterdir()) == [
        "hestai-bridge-test.service",
        "hestai-bridge-test@.service",
    ]
    [start] = [row for row in (units / "hestai-bridge-test@.service").read_text().splitlines() if "ExecStart" in row]
    assert start.endswith('"run" "--dual" --group %i')
    assert rig.run("service", "status", "--dual", env=env).returncode == 0
    for group in "ab":
        command(rig, "run", "--once", "--group", group)
    configure(rig, a=["hestai-message", "sessions", "hestai-inbox"])
    assert rig.run("service", "uninstall", env=env).returncode == 0
    assert not [*units.iterdir()], "also those that bridge.toml names no more"
    asked = [row for row in log.read_text().splitlines() if "able" in row]
    names = ["hestai-bridge-test.service", "hestai-bridge-test@a.service", "hestai-bridge-test@b.service"]
    assert asked[:3] == [f"--user enable --now {name}" for name in names]
    assert sorted(asked[3:]) == sorted(f"--user disable --now {name}" for name in names)
