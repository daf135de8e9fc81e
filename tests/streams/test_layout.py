"""The layout of the keys: one of before is moved by itself, bridges of before stand by, and there is a way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bridge.ledger.dual_writes import roles_of
from bridge.ledger.store import Ledger
from bridge.streams.components import FIRST_COMPONENTS, ComponentHash, ComponentModes, SwitchInProgress
from bridge.streams.keys import Keys
from bridge.streams.layout import instance_in, rename_instance
from tests.support.project import ROOT
from tests.support.rig import STREAM, Rig, wait_until

KEYS = Keys.of(STREAM)
COMPONENT = """
import sys
from bridge import open_log
with open_log("hestai-message", "viewer", config=sys.argv[1], redis=sys.argv[2]) as log:
    for message in log.follow():
        print(message.text, log.reads, flush=True)
"""


class Before:
    """The bridge as it was before layout 2: out of the project's history, where that is here."""

    def __init__(self, folder: Path, rig: Rig) -> None:
        self._rig = rig
        self._folder = folder
        told = _git("log", "-1", "--format=%H", '-SFORMAT = b"1"', "--", "bridge/streams/keys.py")
        if told.returncode or not told.stdout.strip():
            pytest.skip("the project's history is not here")
        archive = _git("archive", "--format=tar", "-o", str(folder / "old.tar"), f"{told.stdout.strip()}^", "bridge",
                       "mappings")  # fmt: skip
        if archive.returncode:
            pytest.skip("the project's history is not here")
        subprocess.run(["tar", "-xf", "old.tar"], cwd=folder, check=True)
        self.env = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command of that version, to its end."""
        command = [sys.executable, "-m", "bridge", *args, "--redis", self._rig.url]
        return subprocess.run(command, cwd=self._rig.path, env=self.env, capture_output=True, text=True, check=False)

    def component(self) -> subprocess.Popen[str]:
        """A program that reads with the client of that version, and prints what it is given."""
        command = [sys.executable, "-c", COMPONENT, str(self._rig.path / "bridge.toml"), self._rig.url]
        return subprocess.Popen(command, cwd=self._folder, env=self.env, stdout=subprocess.PIPE, text=True)


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not here")


@pytest.fixture
def before(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Before:
    rig.write_config(extra='[components.viewer]\nroles = ["viewer"]')
    return Before(tmp_path_factory.mktemp("before"), rig)


def layout(rig: Rig) -> bytes:
    """As `meta` tells it."""
    return bytes(rig.redis.call("HGET", KEYS.meta, "format"))


def test_from_the_layout_before(rig: Rig, before: Before) -> None:
    """The first run moves a stream with its components; bridges of before stand by and never take it; and back again."""
    rig.append("one", "two")
    assert before.run("run", "--dual", "--once").returncode == 0
    rig.redis.call(
        "HSET", FIRST_COMPONENTS, "viewer/hestai-message", '{"reads": "redis", "writes": "file", "epoch": 3}'
    )
    rig.redis.call("HSET", FIRST_COMPONENTS, "viewer/other", '{"reads": "redis", "writes": "redis", "epoch": 9}')
    assert layout(rig) == b"1"
    assert json.loads(rig.run("parity", "--json", "--redis", rig.url).stdout)["verdict"] == "equal"
    told = json.loads(rig.run("status", "--json", "--redis", rig.url).stdout)["components"]
    assert [(row["component"], row["epoch"]) for row in told] == [("viewer", 3)]
    assert (layout(rig), rig.redis.call("EXISTS", KEYS.components)) == (b"1", 0), "looking moves nothing"
    rig.once(url=rig.url)
    assert layout(rig) == b"2"
    assert json.loads(rig.redis.call("HGET", KEYS.components, "viewer@test"))["epoch"] == 3
    assert rig.redis.call("HKEYS", KEYS.components) == [b"viewer@test"]

    rig.append("three")
    for args, said in (
        (("run", "--dual", "--once"), "standing by"),
        (("repair", "--execute"), "alive"),
        (("repair", "--take-over", "--execute"), "alive"),
        (("trim", "--execute"), ""),
    ):
        done = before.run(*args)
        assert said in done.stdout + done.stderr, (args, done)
        assert layout(rig) == b"2"
    assert rig.redis.call("XLEN", STREAM) == 2, "nothing was carried by the bridge of before"
    rig.once(url=rig.url)
    assert rig.redis.call("XLEN", STREAM) == 3

    done = rig.run("repair", "--layout", "1", "--redis", rig.url)
    assert (done.returncode, "nothing was changed" in done.stdout, layout(rig)) == (0, True, b"2")
    assert "1 mapping moved to layout 1" in rig.run("repair", "--layout", "1", "--execute", "--redis", rig.url).stdout
    assert layout(rig) == b"1"
    rig.append("four")
    assert before.run("run", "--dual", "--once").returncode == 0
    assert rig.redis.call("XLEN", STREAM) == 4
    assert json.loads(before.run("parity", "--json").stdout)["verdict"] == "equal"
    rig.once(url=rig.url)
    assert layout(rig) == b"2"
    assert json.loads(rig.run("parity", "--json", "--redis", rig.url).stdout)["verdict"] == "equal"


def test_a_client_of_before(rig: Rig, before: Before) -> None:
    """A program with the client of before is switched there and back by a bridge of now, misses nothing, and is named."""
    child = rig.ready(rig.start(url=rig.url))
    rig.append("one")
    with before.component() as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "one file\n"
            rig.run("parity", "--redis", rig.url)
            wait_until(lambda: '"equal"' in rig.run("parity", "--json", "--redis", rig.url).stdout, rig.said)
            done = rig.run("cutover", "viewer", "--reads", "--execute", "--redis", rig.url)
            assert done.returncode == 0, done
            rig.append("two")
            assert program.stdout.readline() == "two redis\n"
            assert json.loads(rig.redis.call("HGET", FIRST_COMPONENTS, "viewer/hestai-message"))["reads"] == "redis"
            told = {
                row["check"]: row
                for row in json.loads(rig.run("doctor", "--json", "--redis", rig.url).stdout)["checks"]
            }
            assert "viewer in hestai-message: a client of an earlier version" in told["components"]["evidence"]
            assert rig.run("rollback", "viewer", "--reads", "--execute", "--redis", rig.url).returncode == 0
            rig.append("three")
            assert program.stdout.readline() == "three file\n"
        finally:
            program.kill()
    rig.stop(child)


@pytest.mark.parametrize("taken_over", [False, True])
def test_another_instance(rig: Rig, taken_over: bool) -> None:
    """A bridge that was renamed, and another one that takes a stream over, find its components where they were."""
    rig.append("one")
    rig.once(url=rig.url)
    rig.redis.call("HSET", KEYS.components, "viewer@test", '{"reads": "redis", "writes": "both", "epoch": 3}')
    rig.write_config(instance="other", extra='[components.viewer]\nroles = ["viewer"]')
    if taken_over:
        (rig.state / "ledger.db").rename(rig.path / "gone.db")
        for done in (rig.run("repair", "--execute", "--redis", rig.url), rig.run("run", "--once", "--redis", rig.url)):
            assert done.returncode == 1, done
        done = rig.run("repair", "--take-over", "--execute", "--redis", rig.url)
        assert done.returncode == 0, done
    rig.once(url=rig.url)
    assert rig.redis.call("HKEYS", KEYS.components) == [b"viewer@other"]
    assert instance_in({b"instance": rig.redis.call("HGET", KEYS.meta, "instance")}) == "other"
    assert rig.redis.call("KEYS", "bridge:health:2:*") == [f"bridge:health:2:other:{{{STREAM}}}".encode()]
    told = json.loads(rig.run("status", "--json", "--redis", rig.url).stdout)["components"]
    assert [(row["component"], row["epoch"], row["writes"]) for row in told] == [("viewer", 3, "both")]
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        assert roles_of(ledger, STREAM) == (frozenset({b"viewer"}) if taken_over else frozenset())


def test_a_newer_layout(rig: Rig) -> None:
    """A stream that a newer version has laid out is left alone: every command says so, and ends with 2."""
    rig.append("one")
    rig.once(url=rig.url)
    rig.redis.call("HSET", KEYS.meta, "format", 3)
    rig.append("two")
    for args in (("run", "--dual"), ("run", "--once"), ("import-history",), ("parity",), ("repair", "--execute")):
        done = rig.run(*args, "--redis", rig.url)
        assert (done.returncode, "layout 3" in done.stderr) == (2, True), (args, done)
    assert "layout 3" in rig.run("status", "--redis", rig.url).stdout
    assert rig.redis.call("XLEN", STREAM) == 1


def test_mappings_of_one_name(rig: Rig) -> None:
    """Bridges whose mappings have one name, for streams of their own, do not switch each other's components."""
    mine, other = (ComponentHash(Keys.of(name), "log", name) for name in ("s:a", "s:b"))
    switch = SwitchInProgress("token", "reads", "redis", "who", 0)
    assert mine.begin(rig.redis, "ui", 0, switch, 5000)[0]
    assert other.read(rig.redis, "ui")[0] == ComponentModes()
    assert mine.flip(rig.redis, "ui", "token", ComponentModes("redis", "file", 1), None, None) == "flipped"
    assert mine.read(rig.redis, "ui")[0].reads == "redis"
    assert other.read(rig.redis, "ui")[0] == ComponentModes()
    assert (mine.names(rig.redis), other.names(rig.redis)) == ({"ui"}, set())


def test_the_newer_modes_stay(rig: Rig) -> None:
    """Where both the old and the new name of an instance have modes of a component, the later ones count."""
    for name, epochs in (("a", (3, 0)), ("b", (1, 2))):
        for instance, epoch in zip(("old", "new"), epochs, strict=True):
            modes = ComponentModes("redis", "file", epoch)
            rig.redis.call("HSET", KEYS.components, f"{name}@{instance}", modes.to_json())
    rename_instance(rig.redis, KEYS, "old", "new")
    found = ComponentHash(KEYS, "hestai-message", "new").all(rig.redis)
    assert {name: modes.epoch for name, modes in found.items()} == {"a": 3, "b": 2}
    assert len(rig.redis.call("HKEYS", KEYS.components)) == 2


def test_whose_instance_it_is() -> None:
    """The instance in `meta` is the bridge's name, in either layout."""
    assert instance_in({b"instance": b"2:work.1:{hestai:messages}"}) == "work.1"
    assert instance_in({b"instance": b"work.1"}) == "work.1"
    assert instance_in({}) == ""
