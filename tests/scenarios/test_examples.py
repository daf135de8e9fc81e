"""The examples, each before and after its change, through a cut-over and back while messages flow."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cast import Cast
from tests.support.project import ROOT
from tests.support.rig import Rig, wait_until

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
ASKED = [name for name in EXAMPLES if name != "worker.py"]


@contextmanager
def program(rig: Rig, path: Path) -> Iterator[subprocess.Popen[str]]:
    """An example as a process, in the folder of the log; its standard error is in a file."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "BRIDGE_CONFIG": str(rig.path / "bridge.toml"),
           "BRIDGE_REDIS_URL": rig.url}  # fmt: skip
    with (rig.path / "heard").open("a") as heard:
        child = subprocess.Popen([sys.executable, "-u", str(path)], cwd=rig.root, env=env, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=heard, text=True)  # fmt: skip
    rig.children.append(child)  # type: ignore[arg-type]
    with child:  # which closes its pipes
        yield child


def asker(child: subprocess.Popen[str], name: str) -> Callable[[int], None]:
    """How the example is asked once, with a number: returns when it has answered."""
    assert child.stdin is not None
    assert child.stdout is not None
    stdin, stdout = child.stdin, child.stdout
    if name == "asyncio_server.py":

        def call(number: int) -> None:
            stdin.write(json.dumps({"id": number, "tool": f"n{number}"}) + "\n")
            stdin.flush()
            assert json.loads(stdout.readline())["id"] == number

        return call
    port = int(stdout.readline())

    def get(number: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/n{number}", timeout=30) as reply:
            assert reply.read() == b"done\n"

    return get


@pytest.mark.parametrize("name", ASKED)
def test_an_example_moves(rig: Rig, name: str) -> None:
    """It is changed, then switched to Redis and back: each of its messages is there once, and it hears all others."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "daemon", 0.005)
    asked = 0

    def ask(call: Callable[[int], None], times: int = 20) -> None:
        nonlocal asked
        for _ in range(times):
            call(asked)
            asked += 1

    def heard() -> list[int]:
        lines = (rig.path / "heard").read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("daemon ")]

    with program(rig, ROOT / "examples" / "before" / name) as child:
        ask(asker(child, name))
        child.kill()
        child.wait()
    (rig.path / "heard").write_text("")
    with program(rig, ROOT / "examples" / name) as child:
        call = asker(child, name)
        ask(call)
        reads = name == "asyncio_server.py"
        if reads:
            wait_until(lambda: len(heard()) > 20, cast.said)
        for side in ("redis", "file"):
            cast.bring("ui", side if reads else "file", side)
            ask(call)
        cast.stop("daemon")
        if reads:
            wait_until(lambda: heard()[-1:] == cast.written("daemon")[-1:], cast.said, 60)
            assert heard() == cast.written("daemon")
        assert child.stdin is not None
        child.stdin.close()
        child.terminate() if not reads else None
        assert child.wait(30) in (0, -15)
    wait_until(lambda: rig.parity(settling=1.0).verdict == "equal", rig.said)
    rig.stop(rig.ready(bridge))
    said = [line.rpartition(b"n")[2] for line in rig.lines() if line.startswith(b"ui|")]
    assert [int(number) for number in said] == list(range(asked))


def test_a_worker_moves(rig: Rig) -> None:
    """Each job that the daemon asks for, before, during and after the switches, is done once."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "daemon", 0.01)

    def done() -> list[int]:
        return [int(line.rpartition(b"|")[2]) for line in rig.lines() if line.startswith(b"ui|")]

    with program(rig, ROOT / "examples" / "worker.py") as child:
        wait_until(lambda: len(done()) > 40, cast.said)
        for side in ("redis", "file"):
            cast.bring("ui", side, side)
            until = len(done()) + 40
            wait_until(lambda until=until: len(done()) > until, cast.said)  # type: ignore[misc]
        cast.stop("daemon")
        wait_until(lambda: set(done()) == set(cast.written("daemon")), cast.said, 60)
        child.terminate()
    wait_until(lambda: rig.parity(settling=1.0).verdict == "equal", rig.said)
    rig.stop(rig.ready(bridge))
    assert sorted(done()) == cast.written("daemon")


def test_the_worker_before(one_rig: Rig) -> None:
    """What the worker was before does what it says, too."""
    one_rig.write_config()
    one_rig.log.write_bytes(b"daemon|2026-03-02T09:14:05Z|job|one\n")
    with program(one_rig, ROOT / "examples" / "before" / "worker.py") as child:
        wait_until(lambda: len(one_rig.lines()) == 2, "the job")
        child.kill()
    assert one_rig.lines()[1].endswith(b"|done|one")


@pytest.mark.parametrize("name", EXAMPLES)
def test_how_little_changes(name: str) -> None:
    """Six lines of an example at most are new, ten at most go, and the book shows just these."""
    before, after = ((ROOT / "examples" / folder / name).read_text().splitlines() for folder in ("before", ""))
    found = [line for line in difflib.ndiff(before, after) if line[:1] in "+-" and line[2:].strip()]
    assert sum(line.startswith("+") for line in found) <= 6
    assert sum(line.startswith("-") for line in found) <= 10
    shown = "\n".join(f"{line[0]} {line[2:]}" for line in found)
    assert f"```diff\n{shown}\n```" in (ROOT / "MIGRATION.md").read_text()
