"""`rediss://`: the whole bridge over TLS, with the certificate checked; and an ACL user and a database in the URL.

`tests/tls/` holds a certificate for localhost and its key, which are of use for nothing else.
"""

from __future__ import annotations

import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from bridge.streams.connect import Connection
from tests.support.project import ROOT
from tests.support.rig import STREAM, Rig, wait_until
from tests.support.tls_server import certificates, tls_server

CERTIFICATE = ROOT / "tests" / "support" / "tls" / "cert.pem"
KEY = ROOT / "tests" / "support" / "tls" / "key.pem"


class Terminator:
    """Takes TLS connections on loopback and passes what they say on to a Unix socket."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE, KEY)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            thread = Thread(target=self._pass_on, args=(plain,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, plain: socket.socket) -> None:
        with plain, socket.socket(socket.AF_UNIX) as server:
            try:
                server.connect(self._server)
                with self._context.wrap_socket(plain, server_side=True) as client:
                    self._open += [client, server]
                    while True:
                        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                        for connection in ready:
                            data = connection.recv(1 << 16)
                            if not data:
                                return
                            (server if connection is client else client).sendall(data)
            except OSError:
                return

    def close(self) -> None:
        """Ends every connection and thread."""
        for connection in (self._listener, *self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def terminator(rig: Rig) -> Iterator[Terminator]:
    made = Terminator(rig.server.socket)
    try:
        yield made
    finally:
        made.close()


def test_both_ways_over_tls(rig: Rig, terminator: Terminator) -> None:
    """A backlog and single messages cross in both directions, as an ACL user of the second database."""
    rig.redis.call("ACL", "SETUSER", "carrier", "on", ">secret", "~*", "&*", "+@all")
    url = f"rediss://carrier:secret@localhost:{terminator.port}/1?ssl_ca_certs={CERTIFICATE}"
    rig.database = 1
    rig.forget_connection()
    backlog = [b"f-%d" % i for i in range(2000)]
    rig.append(*backlog)
    child = rig.ready(rig.start(url=url))
    wait_until(lambda: len(rig.datas()) == 2000, rig.said)
    added = [b"r-%d" % i for i in range(1500)]
    for data in added:
        rig.add(data)
    rig.settle(backlog, added)
    rig.append("f-last")
    rig.settle([*backlog, b"f-last"], added)
    rig.stop(child)


def test_certificate_of_somebody_else(rig: Rig, terminator: Terminator) -> None:
    """A certificate nobody vouches for is refused, and what is wrong is said."""
    rig.append("f-0")
    result = rig.run("run", "--once", "--redis", f"rediss://:{rig.server.password}@localhost:{terminator.port}/0")
    assert result.returncode == 5, result.stderr
    assert "certificate" in result.stderr.lower()
    assert rig.server.password not in result.stderr


def _speaks_tls() -> bool:
    """Whether the redis-server on the path does, and certificates can be made."""
    program = shutil.which("redis-server")
    if program is None or shutil.which("openssl") is None:
        return False
    done = subprocess.run([program, "--tls-port", "x", "-"], input="", capture_output=True, text=True, check=False)
    return "Bad directive" not in done.stdout + done.stderr


@pytest.mark.skipif(not _speaks_tls(), reason="no redis-server with TLS, or no openssl")
def test_certificates_on_both_sides(rig: Rig, tmp_path: Path) -> None:
    """A server with a CA of its own that asks for a client's certificate: both ways, and refused without one."""
    folder = tmp_path / "certificates"
    certificates(folder)
    with tls_server(str(shutil.which("redis-server")), folder) as port:
        trusts = f"rediss://localhost:{port}/0?ssl_ca_certs={folder}/ca.pem"
        shows = f"&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
        rig.append(*(f"f-{n}" for n in range(50)))
        rig.once(url=trusts + shows)
        with closing(Connection(trusts + shows)) as connection:
            assert connection.call("XLEN", STREAM) == 50
            connection.call(
                "XADD", STREAM, "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say", "data", "r"
            )
        rig.once(url=trusts + shows)
        assert rig.lines()[-1] == b"ui|2026-03-02T09:14:06Z|say|r"
        told = rig.run("doctor", "--redis", trusts + shows)
        assert "ok    persistence" in told.stdout
        for url in (trusts, f"rediss://localhost:{port}/0"):
            refused = rig.run("run", "--once", "--redis", url)
            assert refused.returncode == 5, refused.stderr
            assert "certificate" in refused.stderr.lower()
