"""The embedded server's process: slow is not dead, and dead is found out."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

from bridge.core.errors import RedisLost, RedisRefused, ServerError
from bridge.streams.connect import Connection
from bridge.streams.embedded import embedded_server
from bridge.streams.embedded.binary import Binary
from tests.support.rig import Rig, wait_until


def test_slow_is_not_dead(rig: Rig) -> None:
    """A server that is suspended is waited for, never started a second time; and nobody is told that it stopped."""
    state = rig.path / "server-state"
    rig.append("a")
    assert not rig.once(url="unix://" + rig.server.socket_url.removeprefix("unix://")).errors
    pid = embedded_server.pid_of(rig.server)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert embedded_server.alive(rig.server)
        assert embedded_server.start(state) == rig.server
        with pytest.raises(RedisLost, match="no answer"):
            embedded_server.dial(state, 0.3)
        assert embedded_server.pid_of(rig.server) == pid
    finally:
        os.kill(pid, signal.SIGCONT)
    connection = embedded_server.dial(state, 30)
    connection.close()
    assert rig.datas() == [b"a"]


def test_dead_is_found_out(tmp_path: Path, binary: Binary) -> None:
    """A killed server is started again with its url and data, even where its number belongs to another process now."""
    server = embedded_server.start(tmp_path / "s", binary)
    try:
        connection = embedded_server.dial(tmp_path / "s", 5)
        connection.call("SET", "kept", "yes")
        connection.call("CONFIG", "SET", "appendfsync", "always")
        connection.call("SET", "kept", "always")
        connection.close()
        embedded_server.kill(server)
        assert not embedded_server.alive(server)
        (server.home / "pid").write_text(str(os.getpid()))
        connection = embedded_server.dial(tmp_path / "s", 5)
        assert connection.call("GET", "kept") == b"always"
        connection.close()
        assert embedded_server.known(tmp_path / "s") == server
    finally:
        embedded_server.stop(tmp_path / "s")
    wait_until(lambda: not embedded_server.alive(server), "the end")


def test_died_as_it_started(tmp_path: Path, binary: Binary) -> None:
    """A server that could not be started again is not one that was stopped: the next who needs it tries anew."""
    state, broken = tmp_path / "s", tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no memory is left\nexit 1\n")
    broken.chmod(0o755)
    server = embedded_server.start(state, binary)
    try:
        embedded_server.kill(server)
        with pytest.raises(ServerError, match="did not start: no memory is left"):
            embedded_server.start(state, replace(binary, path=broken))
        with closing(embedded_server.dial(state, 5)) as connection:
            assert connection.call("PING") == b"PONG"
    finally:
        embedded_server.stop(state)


def another(server: embedded_server.EmbeddedServer, before: int | None) -> bool:
    """Whether another process is that server now."""
    return embedded_server.pid_of(server) not in (before, None)


def test_killed_and_started_again_at_once(tmp_path: Path, binary: Binary) -> None:
    """Who kills a server is told that it died also where somebody had started it again before anybody looked."""
    server, over = embedded_server.start(tmp_path / "s", binary), Event()

    def again() -> None:
        while not over.is_set():
            with suppress(RedisLost, RedisRefused, ServerError):  # the last: it was killed while it started
                embedded_server.dial(tmp_path / "s", 5).close()

    thread = Thread(target=again)
    thread.start()
    try:
        for _ in range(5):
            killed = embedded_server.pid_of(server)
            embedded_server.kill(server)
            wait_until(partial(another, server, killed), "another one")
    finally:
        over.set()
        thread.join()
        embedded_server.stop(tmp_path / "s")


def test_its_port_was_taken(tmp_path: Path, binary: Binary) -> None:
    """While it was dead another program took its port: it listens on another one, and on its socket as before."""
    server = embedded_server.start(tmp_path / "s", binary)
    try:
        embedded_server.kill(server)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", server.port))
            other.listen()
            again = embedded_server.start(tmp_path / "s", binary)
            assert again.port != server.port
            assert again.socket_url == server.socket_url
            with closing(Connection(server.socket_url)) as connection:
                assert connection.call("PING") == b"PONG"
    finally:
        embedded_server.stop(tmp_path / "s")
    wait_until(lambda: not embedded_server.alive(server), "the end")


def test_stop_of_a_slow_server(tmp_path: Path, binary: Binary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is not said to be stopped, and is still meant to run."""
    server = embedded_server.start(tmp_path / "s", binary)
    pid = embedded_server.pid_of(server)
    assert pid is not None
    dial = Connection
    monkeypatch.setattr(embedded_server, "Connection", lambda url, timeout: dial(url, timeout=0.3))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerError, match="did not stop: no answer"):
            embedded_server.stop(tmp_path / "s")
        assert embedded_server.pid_of(server) == pid
    finally:
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        assert embedded_server.stop(tmp_path / "s")


def test_copied_folder(tmp_path: Path, binary: Binary) -> None:
    """A copy of a state directory, made while its server runs, gets a server of its own: nothing goes to the other's."""
    first = embedded_server.start(tmp_path / "a", binary)
    try:
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*.sock"))
        assert not embedded_server.running(tmp_path / "b")
        second = embedded_server.start(tmp_path / "b", binary)
        try:
            assert {first.port, first.password, first.socket}.isdisjoint({second.port, second.password, second.socket})
            with closing(embedded_server.dial(tmp_path / "b", 5.0)) as connection:
                connection.call("SET", "only", "here")
            with closing(embedded_server.dial(tmp_path / "a", 5.0)) as connection:
                assert connection.call("GET", "only") is None
            assert embedded_server.start(tmp_path / "b", binary) == embedded_server.known(tmp_path / "b")
        finally:
            embedded_server.kill(second)
            Path(second.socket).unlink(missing_ok=True)
    finally:
        embedded_server.kill(first)
        Path(first.socket).unlink(missing_ok=True)
