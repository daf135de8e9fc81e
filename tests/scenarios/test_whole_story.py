"""The whole story, and a program in another language."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cast import Cast
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
    args = ["node", str(program), url, "viewer", "test", "hestai:messages", str(rig.log)]
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
