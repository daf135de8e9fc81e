"""The bridge as a service: what its manager is told, and what it is told by us."""

from __future__ import annotations

import os
import plistlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.admin import service_manager
from bridge.engine.service_notify import ServiceNotifier
from tests.support.rig import Rig, wait_until


@pytest.fixture
def manager() -> Iterator[tuple[str, socket.socket]]:
    """A service manager's socket, and its address."""
    with (
        tempfile.TemporaryDirectory(prefix="bn-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection,
    ):
        address = str(Path(folder) / "notify")
        connection.bind(address)
        connection.settimeout(60)
        yield address, connection


def heard(connection: socket.socket) -> list[str]:
    return connection.recv(4096).decode().split("\n")


def test_ready_alive_and_stopping(
    rig: Rig, manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge says when it is ready, that it is alive, and when it stops; with Redis away it is ready all the same."""
    address, connection = manager
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    rig.kill_server()
    child = rig.start()
    assert heard(connection) == ["READY=1", "STATUS=carrying both ways"]
    for _ in range(3):
        assert heard(connection) == ["WATCHDOG=1"]
    child.send_signal(signal.SIGTERM)
    said = [""]
    while not said[0].startswith("STOPPING"):
        said = heard(connection)
    assert child.wait(60) == 0, rig.said()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_and_none() -> None:
    """An address that begins with @ is an abstract one; without an address, or with nobody there, nothing is said."""
    name = f"bridge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.bind(f"\0{name}")
        connection.settimeout(10)
        ServiceNotifier({"NOTIFY_SOCKET": f"@{name}"})("READY=1", "STATUS=two\nlines")
        assert heard(connection) == ["READY=1", "STATUS=two lines"]
    ServiceNotifier({"NOTIFY_SOCKET": f"@{name}"})("READY=1")
    ServiceNotifier({})("READY=1")


def test_the_unit_is_one_that_systemd_takes(rig: Rig, tmp_path: Path) -> None:
    """What --print shows passes `systemd-analyze verify`, where there is one; and what it runs, runs from anywhere."""
    rig.append("a")
    shown = rig.run("service", "install", "--dual", "--print")
    assert shown.returncode == 0, shown.stderr
    unit = tmp_path / "hestai-bridge-test.service"
    unit.write_text(shown.stdout)
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", str(unit)], capture_output=True, text=True, check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )  # fmt: skip
        assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    facts = dict(row.split("=", 1) for row in shown.stdout.splitlines() if "=" in row and not row.startswith("#"))
    assert facts["Type"] == "notify"
    assert facts["Restart"] == "on-failure"
    assert facts["RestartPreventExitStatus"] == "2"
    assert facts["KillMode"] == "process"
    words = shlex.split(facts["ExecStart"])
    assert all(Path(word).is_absolute() for word in (words[0], words[words.index("--config") + 1]))
    env = {"PATH": shlex.split(facts["Environment"])[0].removeprefix("PATH="), "BRIDGE_REDIS_URL": rig.url}
    out = (rig.path / "bridge-service_manager.log").open("wb")
    child = subprocess.Popen(words, cwd="/", env={**env, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}, stderr=out)
    out.close()
    rig.children.append(child)
    wait_until(lambda: rig.datas() == [b"a"], rig.said)
    child.terminate()
    assert child.wait(60) == 0


def test_odd_paths_are_quoted(rig: Rig, tmp_path: Path) -> None:
    """Blanks, quotes, percent and dollar signs in a path mean themselves."""
    odd = tmp_path / 'a "b" 100% $HOME'
    odd.mkdir()
    shutil.copy(rig.path / "bridge.toml", odd)
    (odd / "files").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "--config", str(odd / "bridge.toml"), "service", "install", "--print"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    row = next(row for row in done.stdout.splitlines() if row.startswith("ExecStart="))
    assert str(odd / "bridge.toml") in shlex.split(row.partition("=")[2].replace("%%", "%").replace("$$", "$"))


def test_the_agent_is_one_that_launchd_takes(rig: Rig, tmp_path: Path) -> None:
    """The property list can be read, names absolute paths alone, and its runner knows success from failure."""
    file = service_manager.agent(rig.settings(), ["--dual"], tmp_path, tmp_path / "logs", "/usr/bin:/bin")
    told = plistlib.loads(file.content)
    assert told["Label"] == file.name == "org.hestai.bridge.test"
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert told["RunAtLoad"] is True
    assert told["ProgramArguments"][4:] == service_manager.command(rig.settings(), ["--dual"])
    runner = told["ProgramArguments"][:4]
    for code, wanted in ((0, 0), (1, 1), (2, 0), (5, 5)):
        assert subprocess.run([*runner, "sh", "-c", f"exit {code}"], check=False).returncode == wanted
    wrong = subprocess.run([*runner, sys.executable, "-m", "bridge", "--config", "/no/such/file", "run"], check=False)
    assert wrong.returncode == 0
    child = subprocess.Popen([*runner, *service_manager.command(rig.settings(url=None), ["--dual"])], stderr=subprocess.PIPE,
                             env={**os.environ, "BRIDGE_REDIS_URL": rig.url})  # fmt: skip
    assert child.stderr is not None
    while b"carrying" not in child.stderr.readline():
        pass
    child.terminate()
    assert child.wait(60) == 0
    assert b"stopped" in child.stderr.read()
    child.stderr.close()


SYSTEMCTL = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
  *show*) echo ActiveState=active; echo SubState=running;;
  *enable*) test ! -e {fails} || {{ echo "Failed to connect to bus" >&2; exit 1; }};;
esac
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of systemd")
def test_install_status_uninstall(rig: Rig, tmp_path: Path) -> None:
    """The file is written for its user alone and the manager is asked in order; when it refuses, that is said."""
    programs, log, fails = tmp_path / "programs", tmp_path / "asked", tmp_path / "fails"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL.format(log=log, fails=fails))
    (programs / "systemctl").chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    name = "hestai-bridge-test.service"
    unit = tmp_path / "config" / "systemd" / "user" / name
    assert rig.run("service", "status", env=env).returncode == 3
    assert rig.run("service", "install", "--dual", env=env).returncode == 0
    assert unit.stat().st_mode & 0o777 == 0o600
    told = rig.run("service", "status", "--dual", env=env)
    assert told.returncode == 0
    assert "ActiveState=active" in told.stdout
    assert "another than would be written" not in told.stdout
    assert "another than would be written" in rig.run("service", "status", env=env).stdout
    assert rig.run("service", "uninstall", env=env).returncode == 0
    assert not unit.exists()
    assert "was not installed" in rig.run("service", "uninstall", env=env).stdout
    asked = [row for row in log.read_text().splitlines() if "show" not in row]
    assert asked == ["--user daemon-reload", f"--user enable --now {name}", f"--user disable --now {name}",
                     "--user daemon-reload"]  # fmt: skip
    fails.touch()
    done = rig.run("service", "install", env=env)
    assert done.returncode == 1
    assert "Failed to connect to bus" in done.stderr
    assert unit.exists()
