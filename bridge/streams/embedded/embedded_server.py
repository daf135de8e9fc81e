"""Starts, finds and stops the embedded server of one state directory.

It listens on loopback and on a Unix socket, has a generated password, and keeps its data in an append-only file. It is
started detached and stays until `stop`. While the file `pid` exists the server is meant to run: a bridge that finds it
dead starts it again, also one that died as it started. The server's process holds a lock that it inherited, and only
that lock tells that it is dead: a server that is merely slow (loading, suspended, a laptop waking up) is never taken
for dead, nor is another process that has its number now mistaken for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bridge.core.errors import RedisLost, RedisRefused, ServerError
from bridge.core.state_directory import private
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary, find
from bridge.streams.entry_budget import EntryBudget

SOCKET_LIMIT = 100
"""Characters of the embedded server's socket path at most: macOS allows 103 bytes, Linux 107."""

_log = logging.getLogger("bridge")
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """The embedded server of a state directory, and how to reach it."""

    state_dir: Path
    port: int
    password: str
    socket: str
    copied: bool = False
    """Whether the embedded server's port and password belong to another state directory, which was copied."""

    @property
    def home(self) -> Path:
        """The embedded server's own folder below the state directory."""
        return self.state_dir / "server"

    @property
    def url(self) -> str:
        """The embedded server's URL for other programs, with its password."""
        return f"redis://default:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The URL by which the bridge itself reaches the embedded server: its socket is quicker than TCP."""
        return f"unix://default:{self.password}@{self.socket}?db=0"


def known(state_dir: Path) -> EmbeddedServer | None:
    """Reads the settings of the embedded server of this state directory, running or not; None: there never was one.

    Raises ServerError.
    """
    try:
        facts = json.loads((state_dir / "server" / "server.json").read_text())
        # In a copied state directory these are the other server's: nothing meant for this one may be sent there.
        copied = facts.get("state_dir", str(state_dir)) != str(state_dir)
        socket_path = _socket_path(state_dir) if copied else str(facts["socket"])
        return EmbeddedServer(state_dir, int(facts["port"]), str(facts["password"]), socket_path, copied)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"is not readable: {error}", where=str(state_dir / "server" / "server.json")) from None


def pid_of(server: EmbeddedServer) -> int | None:
    """Returns the number of the process that is meant to be the embedded server; None: stopped or never started."""
    try:
        return int((server.home / "pid").read_text())
    except (OSError, ValueError):
        return None


def alive(server: EmbeddedServer) -> bool:
    """Whether the embedded server's process lives, answering or not.

    A process that it left behind to rewrite its data counts as well.
    """
    for child in _children:
        child.poll()  # or it stays as a zombie of this process
    try:
        with (server.home / "running").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def running(state_dir: Path) -> bool:
    """Whether the embedded server of this state directory lives."""
    server = known(state_dir)
    return server is not None and alive(server)


def start(state_dir: Path, binary: Binary | None = None) -> EmbeddedServer:
    """Starts the embedded server of this state directory, unless it lives, and returns it.

    One that lives may be slow to answer. Raises ServerError.
    """
    home = private(private(state_dir) / "server")
    with _only_one(home):
        server = known(state_dir)
        if server is not None and alive(server):
            return server
        data = private(home / "data")
        stamp = _read_stamp(data)
        binary = binary or find(lambda candidate: _opens(candidate, stamp))
        _check_stamp(data, stamp, binary)
        unclean = server is not None and pid_of(server) is not None
        if stamp is None:
            _write_stamp(data, binary)
        taken = False
        for _ in range(5):
            server = _settings(state_dir, server, taken=taken)
            if unclean and binary.flavour == "redis":
                _cut_torn_transaction(data, binary)
            said = _launch(server, binary)
            if said is None:
                _write_stamp(data, binary)
                if unclean:
                    _log.warning("the embedded server had died and was started again (process %s)", pid_of(server))
                return server
            if "in use" not in said:
                break
            taken = True
        raise ServerError(f"did not start: {said}", where=str(home / "server.log"), hint="the log there says more")


def stop(state_dir: Path) -> bool:
    """Stops the embedded server, with its data on disk; False when it was not running. Raises ServerError."""
    server = known(state_dir)
    if server is None:
        return False
    with _only_one(server.home):
        pid = pid_of(server)
        (server.home / "pid").unlink(missing_ok=True)
        if not alive(server):
            return False
        try:
            connection = Connection(server.socket_url, timeout=30)
            try:
                connection.call("SHUTDOWN")
            finally:
                connection.close()
        except (RedisLost, RedisRefused) as error:
            if not isinstance(error, RedisLost) or "closed by the server" not in error.what:
                _write_private(server.home / "pid", str(pid))
                raise ServerError(
                    f"did not stop: {error.what}", where=f"{server.home / 'server.log'}, process {pid}",
                    hint="try again when it answers",
                ) from None  # fmt: skip
        _wait(lambda: not alive(server), 30, "did not stop", server)
        return True


def kill(server: EmbeddedServer) -> None:
    """Kills the embedded server with SIGKILL, for tests and the demo; it is still meant to run.

    Returns when the process is gone.
    """
    pid = pid_of(server)
    if pid is not None and alive(server):
        os.kill(pid, signal.SIGKILL)
        # A bridge may have started the server again already.
        _wait(lambda: pid_of(server) != pid or not alive(server), 30, "did not die", server)


def dial(state_dir: Path, timeout: float, budget: EntryBudget | None = None) -> Connection:
    """Connects to the embedded server; a server that died is started again, one that was stopped on purpose is not.

    Raises RedisLost, RedisRefused, ServerError.
    """
    server = known(state_dir)
    if server is None or (pid_of(server) is not None and not alive(server)):
        server = start(state_dir)
    elif pid_of(server) is None:
        raise RedisLost("the embedded server was stopped", where=str(server.home), hint="`bridge server start`")
    return Connection(server.socket_url, timeout=timeout, budget=budget)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Holds the lock for starting and stopping the embedded server: two commands at once start one server."""
    with (home / "starting").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _settings(state_dir: Path, old: EmbeddedServer | None, *, taken: bool) -> EmbeddedServer:
    """Chooses the embedded server's port, password and socket.

    They are kept over restarts, so that the programs that know them go on. `taken`: somebody else took the port
    meanwhile, so another port is chosen; programs that use the socket go on all the same.
    """
    good = old is not None and not old.copied and len(old.socket) <= SOCKET_LIMIT and Path(old.socket).parent.is_dir()
    if old is not None and good and not taken:
        return old
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if old is not None and good:
        server = EmbeddedServer(state_dir, port, old.password, old.socket)
    else:
        server = EmbeddedServer(state_dir, port, secrets.token_urlsafe(24), _socket_path(state_dir))
    facts = {"port": server.port, "password": server.password, "socket": server.socket, "state_dir": str(state_dir)}
    _write_private(server.home / "server.json", facts)
    return server


def _socket_path(state_dir: Path) -> str:
    name = hashlib.blake2b(str(state_dir).encode(), digest_size=8).hexdigest() + ".sock"
    folders = [Path(tempfile.gettempdir()) / f"bridge-{os.getuid()}"]
    if os.environ.get("XDG_RUNTIME_DIR") or sys.platform == "darwin":
        folders.insert(0, Path(platformdirs.user_runtime_dir("bridge")))
    for folder in folders:
        path = str(folder / name)
        if len(path) > SOCKET_LIMIT:
            continue
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                folder.chmod(0o700)
                return path
        except OSError:
            continue
    raise ServerError("there is no folder for its socket", hint="set XDG_RUNTIME_DIR to a short path of your own")


def _launch(server: EmbeddedServer, binary: Binary) -> str | None:
    """Starts the embedded server's process and waits until it answers (None); else returns the end of its log."""
    home = server.home
    config = home / "server.conf"
    lines = (
        "bind 127.0.0.1", f"port {server.port}", f"unixsocket {server.socket}", "unixsocketperm 600",
        f"requirepass {server.password}", f'dir "{home / "data"}"', "appendonly yes", "appendfsync everysec",
        'save ""', "maxmemory-policy noeviction", "daemonize no",
        "stream-node-max-bytes 16384", "stream-node-max-entries 500",  # a fifth quicker in transactions on Valkey
        "auto-aof-rewrite-min-size 512mb",  # a stream grows by what is appended: rewriting a small log gains nothing
    )  # fmt: skip
    _write_private(config, "\n".join(lines) + "\n")
    log = home / "server.log"
    with log.open("ab") as out, (home / "running").open("a") as running:
        begin = out.tell()
        fcntl.flock(running, fcntl.LOCK_EX)
        child = subprocess.Popen(
            [str(binary.path), str(config)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            pass_fds=(running.fileno(),),
        )  # fmt: skip
    _children.append(child)
    _write_private(home / "pid", str(child.pid))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if child.poll() is not None:
            with log.open("rb") as file:
                file.seek(begin)
                said = file.read().decode(errors="replace").strip().splitlines()
            return " ".join(said[-3:]) or f"exit {child.returncode}"
        if _answers(server):
            return None
        time.sleep(0.01)
    return "it did not answer within two minutes"


def _answers(server: EmbeddedServer) -> bool:
    """Whether the embedded server serves commands.

    While it loads its data it takes connections and passwords, but no more.
    """
    try:
        connection = Connection(server.socket_url, timeout=5)
    except (RedisLost, RedisRefused):
        return False
    try:
        connection.call("PING")
    except (RedisLost, RedisRefused):
        return False
    finally:
        connection.close()
    return True


Stamp = tuple[str, tuple[int, ...]]
"""Flavour and version of the server that wrote the embedded server's data directory."""


def _read_stamp(data: Path) -> Stamp | None:
    try:
        stamp = json.loads((data / "SERVER.json").read_text())
        return str(stamp["flavour"]), tuple(map(int, stamp["version"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"is not readable: {error}", where=str(data / "SERVER.json")) from None


def _write_stamp(data: Path, binary: Binary) -> None:
    _write_private(data / "SERVER.json", {"flavour": binary.flavour, "version": list(binary.version)})


def _opens(binary: Binary, stamp: Stamp | None) -> bool:
    """Whether a server binary may open the embedded server's data: the same flavour, and no older version.

    An older server opens a newer one's data silently empty.
    """
    return stamp is None or (binary.flavour == stamp[0] and binary.version >= stamp[1])


def _check_stamp(data: Path, stamp: Stamp | None, binary: Binary) -> None:
    if stamp is not None and not _opens(binary, stamp):
        have, want = ".".join(map(str, binary.version)), ".".join(map(str, stamp[1]))
        raise ServerError(
            f"was written by {stamp[0]} {want}, and {binary.path} is {binary.flavour} {have}",
            where=str(data),
            hint=f"install {stamp[0]} {want} or newer again; a different one could open the data as empty",
        )


def _cut_torn_transaction(data: Path, binary: Binary) -> None:
    """Cuts the transaction that a kill left torn at the end of the embedded server's AOF.

    Redis 7.0 leaves it there, and loses what follows at the second restart.
    """
    manifests = sorted((data / "appendonlydir").glob("*.manifest"))
    if manifests:
        # The server program is the checker too, under this name.
        subprocess.run(
            ["redis-check-aof", "--fix", str(manifests[0])], executable=str(binary.path), input=b"y\n",
            capture_output=True, timeout=600, check=False,
        )  # fmt: skip


def _write_private(path: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _wait(done: Callable[[], bool], seconds: float, what: str, server: EmbeddedServer) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise ServerError(what, where=str(server.home / "server.log"))
        time.sleep(0.01)
