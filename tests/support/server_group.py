"""Servers that belong together, on loopback, for tests: their processes, what they say and what they log."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bridge.core.errors import BridgeError
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from tests.support.rig import wait_until
from tests.support.switchboard import Switchboard


def free_port() -> int:
    """A port of the loopback address that nobody listens on, and so is the one 10,000 above, where a cluster talks.

    Both are below those that the system gives to connections: such a one may be taken before the server is started.
    """
    while True:
        port = secrets.choice(range(11_000, 21_000))
        with socket.socket() as probe, socket.socket() as above:
            try:
                probe.bind(("127.0.0.1", port))
                above.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class ServerGroup:
    """The processes of some servers. `password`: what those of `ports` want."""

    def __init__(self, binary: Binary, *, password: str = "") -> None:
        self.binary, self.password = binary, password
        self.folder = Path(tempfile.mkdtemp(prefix="sg-"))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.ports: list[int] = []
        self.board: Switchboard | None = None
        self.fronts: dict[int, int] = {}
        """The port that each server announces to others, where they are connected through a switchboard."""

    def put_between(self) -> None:
        """Connects the servers through a switchboard from now on."""
        self.board = Switchboard(lambda: {port: process.pid for port, process in self.processes.items()})
        self.fronts = {port: self.board.front(port, port) for port in self.ports}

    def front(self, port: int) -> int:
        """The port by which others reach a server."""
        return self.fronts.get(port, port)

    def behind(self, front: int) -> int:
        """The server's own port behind the one by which others reach it."""
        return next((port for port, shown in self.fronts.items() if shown == front), front)

    def run(self, port: int, args: list[str]) -> None:
        """Starts a process of the group, and waits until it answers."""
        log = (self.folder / f"{port}.log").open("ab")
        self.processes[port] = subprocess.Popen([str(self.binary.path), *args], stdout=log, stderr=log)
        log.close()
        wait_until(lambda: self.answers(port), lambda: (self.folder / f"{port}.log").read_text()[-2000:], 20)

    def answers(self, port: int) -> bool:
        """Whether a process of the group answers."""
        return self.ask(port, "PING") == b"PONG"

    def ask(self, port: int, *args: str | int) -> object:
        """What a process of the group says to a command; None where it is not there."""
        try:
            connection = Connection(self.url_of(port), timeout=2)
        except BridgeError:
            return None
        try:
            return connection.call(*args)
        except BridgeError:  # it may still read its data
            return None
        finally:
            connection.close()

    def says(self, port: int, *args: str | int) -> str:
        """What a process of the group says to a command, as text; empty where it is not there."""
        told = self.ask(port, *args)
        return told.decode(errors="replace") if isinstance(told, bytes) else ""

    def url_of(self, port: int) -> str:
        """The url of one server."""
        login = f":{self.password}@" if self.password and port in self.ports else ""
        return f"redis://{login}127.0.0.1:{port}/0"

    def info(self, port: int, name: str) -> str:
        """A field of a server's INFO replication."""
        told = self.says(port, "INFO", "replication").splitlines()
        return dict(row.split(":", 1) for row in told if ":" in row).get(name, "")

    def is_linked(self, port: int) -> bool:
        """Whether the replica on a port has a link to its master."""
        return self.info(port, "master_link_status") == "up"

    def told(self) -> str:
        """What each server logged last, and what it says of its replication."""
        logs = {port: (self.folder / f"{port}.log").read_text(errors="replace") for port in self.ports}
        return "\n".join(
            f"{port}: {self.ask(port, 'INFO', 'replication')!r} {log[-2000:]}" for port, log in logs.items()
        )

    def kill(self, port: int) -> None:
        """Kills a process of the group."""
        self.processes[port].kill()
        self.processes[port].wait()

    def thaw_all(self) -> None:
        """Lets every process that lives go on."""
        for port, process in self.processes.items():
            if process.poll() is None:
                self.thaw(port)

    def bring_up(self, begin: Callable[[], None]) -> None:
        """Starts the servers of the group by `begin`, and ends those that run if not all of it comes up."""
        try:
            begin()
        except BaseException:
            self.close()
            raise

    def freeze(self, port: int) -> None:
        """Stops a process of the group, which goes on with `thaw` as if nothing had been."""
        self.processes[port].send_signal(signal.SIGSTOP)

    def thaw(self, port: int) -> None:
        """Lets a process of the group go on."""
        self.processes[port].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends all that was started."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        if self.board is not None:
            self.board.close()
        shutil.rmtree(self.folder, ignore_errors=True)
