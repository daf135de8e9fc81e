"""Every command in README.md and MIGRATION.md is run, in the order it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.cli import cli
from bridge.points import POINTS

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "fixtures" / "hestai-message" / "plain" / "input.log"


def blocks(name: str) -> list[str]:
    """The console blocks of a document."""
    return re.findall(r"```console\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "MIGRATION.md"])
def test_commands(name: str, tmp_path: Path) -> None:
    """Each command line of the document succeeds in a folder with a log."""
    shutil.copy(FIXTURE, tmp_path / "messages.log")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bridge").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bridge "$@"\n')
    (programs / "bridge").chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    try:
        for line in "".join(blocks(name)).splitlines():
            if line.startswith("make "):
                assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
                continue
            if line.startswith("redis-cli") and not shutil.which("redis-cli"):
                continue
            done = subprocess.run(
                ["sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    finally:
        subprocess.run(
            [str(programs / "bridge"), "server", "stop"], cwd=tmp_path, env=env, check=False, capture_output=True
        )


def test_every_verb_is_documented() -> None:
    """Each verb stands in the README, and each crash point can be armed by the name it is listed under."""
    text = (ROOT / "README.md").read_text()
    for name in cli.commands:
        assert f"`{name}" in text or f"`bridge {name}" in text, name
    assert "BRIDGE_CRASH_AT=mirror.write.after:3" in text
    assert "mirror.write" in POINTS
