"""Managed services: passwords that are printed by a command and end, and servers that lack what is needed."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from threading import Event, Thread

import pytest

from bridge.core.errors import RedisLost, Unfit
from bridge.streams.connect import Connection, refused
from bridge.streams.connector import Connector
from bridge.streams.embedded.binary import Binary
from tests.support.rig import STREAM, Rig, line, wait_until
from tests.support.server_group import ServerGroup, free_port


def prints(code: str) -> tuple[str, ...]:
    """A command that runs this Python."""
    return sys.executable, "-c", code


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        (("/nowhere/at-all",), RedisLost, "cannot be run"),
        (("a\0b",), RedisLost, "cannot be run"),
        (prints("raise SystemExit('the token service is away')"), RedisLost, r"\(exit 1\): the token service is away"),
        (prints("print()"), RedisLost, "it printed nothing"),
    ],
)
def test_a_command_that_prints_no_password(command: tuple[str, ...], error: type[Exception], said: str) -> None:
    """A command that is not there, fails, or prints nothing is named, and what it said."""
    with pytest.raises(error, match=said):
        Connector(command=command)("redis://127.0.0.1:1/0")


class Guarded(ServerGroup):
    """A server whose password a program changes, and tells in a file."""

    def __init__(self, binary: Binary) -> None:
        super().__init__(binary, password="p0")
        self.ports = [free_port()]
        self.run(self.ports[0], ["--port", str(self.ports[0]), "--bind", "127.0.0.1", "--dir", str(self.folder),
                                 "--save", "", "--requirepass", self.password])  # fmt: skip
        self.file = self.folder / "token"
        self.file.write_text("p0\n")
        self.command = self.folder / "print-token"
        self.command.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(self.file))}\n")
        self.command.chmod(stat.S_IRWXU)

    def change(self, *, ends: bool) -> None:
        """Another password counts from now on; `ends`: whoever came with an earlier one is thrown out."""
        fresh = f"p{int(self.password[1:]) + 1}"
        with closing(Connection(self.url_of(self.ports[0]))) as connection:
            connection.call("CONFIG", "SET", "requirepass", fresh)
            self.file.write_text(f"{fresh}\n")
            self.password = fresh
            if ends:
                connection.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def ages(self) -> list[int]:
        """How many seconds old each connection of a bridge is."""
        told = self.says(self.ports[0], "CLIENT", "LIST").splitlines()
        rows = [dict(part.split("=", 1) for part in row.split(" ") if "=" in part) for row in told]
        return [int(row["age"]) for row in rows if row["name"] == "hestai-bridge" and row["cmd"] != "client|list"]


@pytest.fixture
def guarded(binary: Binary) -> Iterator[Guarded]:
    made = Guarded(binary)
    yield made
    made.close()


@pytest.mark.parametrize("lasts", [0.0, 1.0])
def test_a_password_that_ends(rig: Rig, guarded: Guarded, lasts: float) -> None:
    """Passwords end under load, with and without a word of how long they last: no line is lost or doubled."""
    url = f"redis://127.0.0.1:{guarded.ports[0]}/0"
    rig.write_config(
        extra=f'[redis]\nurl = "{url}"\npassword_command = ["{guarded.command}"]\npassword_lasts = {lasts}'
    )
    child = rig.start(url=url)
    born: list[bytes] = []
    stop = Event()

    def write() -> None:
        while not stop.wait(0.005):
            born.append(b"line-%d" % len(born))
            with rig.log.open("ab") as file:
                file.write(line(born[-1]))

    writer = Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            goal = len(born) + 100
            wait_until(lambda goal=goal: guarded.ask(guarded.ports[0], "XLEN", STREAM) >= goal, rig.said)  # type: ignore[misc]
            guarded.change(ends=not lasts)
            if lasts:
                oldest = max(guarded.ages())
                wait_until(lambda oldest=oldest: max(guarded.ages()) < oldest or oldest == 0, rig.said)  # type: ignore[misc]
    finally:
        stop.set()
        writer.join()
    wait_until(lambda: guarded.ask(guarded.ports[0], "XLEN", STREAM) == len(born), rig.said)
    rig.stop(child)
    with closing(Connection(guarded.url_of(guarded.ports[0]))) as connection:
        assert [fields[7] for _, fields in connection.call("XRANGE", STREAM, "-", "+")] == born
    done = rig.run("parity", "--json")
    assert json.loads(done.stdout)["verdict"] == "equal", done
    assert not any(secret in rig.said() for secret in ("p0", "p1", "p2", "p3"))


def test_a_server_without_scripts(rig: Rig, binary: Binary) -> None:
    """A service that lacks EVAL or WATCH can never be used: run, import and the rest say why and end with 2."""
    for missing in ("EVAL", "WATCH"):
        group = ServerGroup(binary)
        try:
            group.ports = [free_port()]
            group.run(group.ports[0], ["--port", str(group.ports[0]), "--bind", "127.0.0.1", "--dir", str(group.folder),
                                       "--save", "", "--rename-command", missing, ""])  # fmt: skip
            url = group.url_of(group.ports[0])
            rig.append("one")
            for args in (("run", "--dual"), ("run", "--once"), ("import-history",)):
                done = rig.run(*args, "--redis", url)
                assert (done.returncode, f"the server has no {missing}" in done.stderr) == (2, True), (args, done)
        finally:
            group.close()


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'EVAL', with args beginning with: 'x'",
        "unknown command `watch`",
        "ERR Unknown command: MULTI",
    ],
)
def test_how_servers_say_that_they_lack_a_command(text: str) -> None:
    """Each form of the error is known, whatever the server; another command is an error as any other."""
    assert isinstance(refused(text, "here"), Unfit)
    assert not isinstance(refused("ERR unknown command 'CONFIG'", "here"), Unfit)


def test_a_server_that_keeps_to_itself(rig: Rig, binary: Binary) -> None:
    """What a service refuses to tell of itself is unknown to the doctor, and no fault; all else works as ever."""
    group = ServerGroup(binary)
    refuses = ("CONFIG", "COMMAND", "SLOWLOG", "CLIENT", "MEMORY", "ACL", "LATENCY")
    try:
        group.ports = [free_port()]
        args = [part for name in refuses for part in ("--rename-command", name, "")]
        group.run(group.ports[0], ["--port", str(group.ports[0]), "--bind", "127.0.0.1", "--dir", str(group.folder),
                                   "--appendonly", "yes", *args])  # fmt: skip
        rig.write_config(extra=f'[redis]\nurl = "{group.url_of(group.ports[0])}"')
        rig.append("one", "two")
        for command in (
            ("run", "--dual", "--once"),
            ("parity",),
            ("status",),
            ("tail",),
            ("import-history", "--dry-run"),
        ):
            done = rig.run(*command)
            assert done.returncode == 0, (command, done)
        told = json.loads(rig.run("doctor", "--json").stdout)["checks"]
        assert {row["check"] for row in told if row["verdict"] == "unknown"} >= {
            "buffers",
            "clients",
            "exposure",
            "load",
        }
        assert [row for row in told if row["verdict"] == "bad" and row["check"] not in ("process", "program")] == []
    finally:
        group.close()
