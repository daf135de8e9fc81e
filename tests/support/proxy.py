"""A small proxy that loses replies and cuts connections: what it passes on, and when it breaks, is said by the test."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import Self

from bridge.streams.embedded.embedded_server import EmbeddedServer

Fault = Callable[[bytes, int], str]
"""(a piece of a request, how many were seen) → "pass", "swallow" (executed, its reply lost) or "cut" (halfway)."""


class Proxy:
    """Listens on a Unix socket of its own, at `url`, and passes everything on to the server's."""

    def __init__(self, server: EmbeddedServer, fault: Fault) -> None:
        self._server = server.socket
        self._fault = fault
        self._folder = tempfile.TemporaryDirectory(prefix="bp-")  # short enough for a socket's path
        path = str(Path(self._folder.name) / "s")
        self.url = server.socket_url.replace(server.socket, path)
        self._lock = Lock()
        self.pieces = 0
        self.faults = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(16)
        self._open: list[socket.socket] = []
        self._threads = [Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._server)
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._open += [client, server]
            lost = [False]
            for work in (self._requests, self._replies):
                thread = Thread(target=work, args=(client, server, lost), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _requests(self, client: socket.socket, server: socket.socket, lost: list[bool]) -> None:
        try:
            while data := client.recv(1 << 18):
                with self._lock:
                    self.pieces += 1
                    what = self._fault(data, self.pieces)
                    self.faults += what != "pass"
                if what == "swallow":
                    lost[0] = True
                if what == "cut":
                    server.sendall(data[: len(data) // 2])
                    break
                server.sendall(data)
        except OSError:
            pass
        self._ended(client, server, lost)

    def _replies(self, client: socket.socket, server: socket.socket, lost: list[bool]) -> None:
        try:
            while data := server.recv(1 << 18):
                if lost[0]:
                    break
                client.sendall(data)
        except OSError:
            pass
        self._ended(client, server, lost)

    def _ended(self, client: socket.socket, server: socket.socket, lost: list[bool]) -> None:
        """One of a connection's two threads ends; the second closes the sockets."""
        self._break(client, server)
        with self._lock:
            lost.append(True)
            if len(lost) == 3:
                for ended in (client, server):
                    self._open.remove(ended)
                    ended.close()

    @staticmethod
    def _break(*sockets: socket.socket) -> None:
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Ends every connection and thread."""
        with self._lock:
            self._break(self._listener, *self._open)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def every_second(sign: bytes) -> Fault:
    """Swallows the reply to every second request that holds these bytes, from the first one on."""
    sent = count(1)
    return lambda piece, _: "swallow" if sign in piece and next(sent) % 2 else "pass"
