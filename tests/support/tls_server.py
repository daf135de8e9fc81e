"""A redis-server that speaks TLS and asks its clients for certificates, with a CA of its own made for the test."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.rig import wait_until


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """`ca.pem`, and `server` and `client` as `.pem` and `.key`, signed by it."""
    folder.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _run("openssl", "req", "-x509", *key, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem", "-days", "2",
         "-subj", "/CN=test ca")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        _run("openssl", "req", *key, "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr",
             "-subj", f"/CN={name}")  # fmt: skip
        _run("openssl", "x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/ca.pem", "-CAkey",
             f"{folder}/ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{folder}/names", "-out",
             f"{folder}/{name}.pem")  # fmt: skip


@contextmanager
def tls_server(program: str, folder: Path) -> Iterator[int]:
    """Its port. Only who shows a certificate of the CA is served."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        port = connection.getsockname()[1]
    child = subprocess.Popen(
        [program, "--port", "0", "--bind", "127.0.0.1", "--tls-port", str(port), "--tls-cert-file", f"{folder}/server.pem",
         "--tls-key-file", f"{folder}/server.key", "--tls-ca-cert-file", f"{folder}/ca.pem", "--tls-auth-clients", "yes",
         "--dir", str(folder), "--appendonly", "yes"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, "the TLS server")
        yield port
    finally:
        child.kill()
        child.wait()
