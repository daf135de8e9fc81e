"""The whole story, and a program in another language."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.cast import Cast
from tests.support.many import KEY, Sessions
from tests.support.project import ROOT
from tests.support.rig import Rig, wait_until


def test_story(tmp_path: Path) -> None:
    """`bridge demo --story` cuts three components over, one there and back, retires and purges; nobody misses a message."""
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "demo", "--story", "--json"], cwd=tmp_path, capture_output=True, text=True,
        timeout=180, check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert min(told["written"].values()) > 20
    assert [command["exit"] for command in told["commands"]] == [
        3 * (n == len(told["commands"]) - 3) for n in range(len(told["commands"]))
    ]
    verbs = [command["command"].split()[1] for command in told["commands"]]
    assert verbs.count("cutover") == 5
    assert verbs[-5:] == ["retire", "purge", "status", "repair", "status"]
    assert [path for path in tmp_path.iterdir() if path.name != "bridge"] == []


def recipe(language: str, name: str) -> str:
    """The program of the book whose first line names this file."""
    texts = "".join((ROOT / name).read_text() for name in ("MIGRATION.md", "docs/after-the-bridge.md"))
    blocks = re.findall(rf"```{language}\n(.*?)```", texts, re.DOTALL)
    [found] = [block for block in blocks if name in block.split("\n")[0]]
    return str(found)


def node() -> str:
    """Why the program cannot be run here; empty: it can."""
    program = shutil.which("node")
    if program is None:
        return "node is not installed"
    found = subprocess.run([program, "-e", "require('ioredis')"], capture_output=True, check=False)
    return "" if found.returncode == 0 else "ioredis is not where NODE_PATH says"


@pytest.mark.skipif(bool(node()), reason=node())
def test_node(rig: Rig, tmp_path: Path) -> None:
    """The JavaScript program of the guide follows switches of its reads, there and back; every message once."""
    code = recipe("js", "component.js")
    program = tmp_path / "component.js"
    program.write_text(code)
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    url = rig.server.url
    out, errors = (tmp_path / "out").open("wb"), (tmp_path / "errors").open("wb")
    args = ["node", str(program), url, "viewer", "test", "hestai:messages", str(rig.root), rig.log.name]
    child = subprocess.Popen(args, stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
    rig.children.append(child)
    cast.start("write", "ui")
    cast.start("write", "daemon")

    def seen() -> list[dict[str, str]]:
        return [json.loads(line) for line in (tmp_path / "out").read_text().split("\n")[:-1]]

    def of(name: str) -> list[int]:
        return [int(message["data"]) for message in seen() if message["role"] == name]

    def more() -> None:
        had = len(seen())
        wait_until(lambda: len(seen()) > had + 30, lambda: (tmp_path / "errors").read_text() + cast.said())

    more()
    cast.switch("ui", "writes", "redis")
    for to in ("redis", "file", "redis", "file", "redis"):
        assert cast.switch("viewer", "reads", to).went_on
        more()
    cast.stop("ui", "daemon")
    for name in ("ui", "daemon"):
        wait_until(lambda name=name: len(of(name)) >= len(cast.written(name)), cast.said)  # type: ignore[misc]
        assert of(name) == cast.written(name)
    rig.stop(bridge)
    out.close()
    errors.close()


@pytest.mark.skipif(bool(node()), reason=node())
def test_node_with_many_streams(rig: Rig, tmp_path: Path) -> None:
    """The same program reads all streams of a mapping in one loop, new ones too, over a cut-over and back."""
    program = tmp_path / "component.js"
    program.write_text(recipe("js", "component.js"))
    sessions = Sessions(rig, ["a", "b c", "x/d", *(f"new-{n}" for n in range(5))])
    rig.write_config(mapping="sessions.toml", extra='[components.ui]\nroles = ["ui"]\n[components.viewer]')
    old = sessions.names[:3]
    for name in old:
        sessions.append(name, f"first-{name}")
    bridge = rig.beats(rig.ready(rig.start()))
    sessions.settle()
    out, errors = (tmp_path / "out").open("wb"), (tmp_path / "errors").open("wb")
    logs = (str(rig.root), "sessions/{name}.log")
    args = ["node", str(program), rig.server.url, "viewer", "test", f"{KEY}:{{name}}", *logs]
    rig.children.append(subprocess.Popen(args, stdout=out, stderr=errors, stdin=subprocess.DEVNULL))

    def seen() -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for raw in (tmp_path / "out").read_text().split("\n")[:-1]:
            found[json.loads(raw)["stream"]].append(json.loads(raw)["data"])
        return dict(found)

    def all_seen() -> bool:
        found = seen()
        return all(
            sorted(found.get(sessions.stream(name), [])) == sorted(data.decode() for data in sessions.in_stream(name))
            for name in old
        )

    def told() -> str:
        return f"{seen()} {(tmp_path / 'errors').read_text()} {rig.said()[-2000:]}"

    wait_until(all_seen, told)
    for turn, verb in enumerate(("cutover", "rollback", "cutover")):
        assert rig.run("parity", "--redis", rig.url).returncode == 0
        done = rig.run(verb, "viewer", "--mapping", "sessions", "--reads", "--execute", "--redis", rig.url)
        assert done.returncode == 0, done.stdout + done.stderr
        old = sessions.names[: 4 + turn]
        for name in old:
            sessions.append(name, f"f-{turn}-{name}")
            sessions.add(name, f"r-{turn}-{name}")
        sessions.settle()
        wait_until(all_seen, told)
    for name in old:
        mine = [data for data in seen()[sessions.stream(name)] if not data.startswith("r-")]
        assert mine == [data.decode() for data in sessions.file_born[name]]
    rig.stop(bridge)
    out.close()
    errors.close()
