"""A switchboard between servers on one machine, so that a test can cut some of them off from the others (Linux).

Each port of a server has a front, which the server announces to the others. A connection to a front is passed on, and
its other end is known by the process that owns it: so links between servers can be cut, while programs reach all.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread


@dataclass(eq=False, slots=True)
class Link:
    """Two sockets whose bytes go from each to the other: from a server (None: from a program) to a server."""

    ends: tuple[socket.socket, socket.socket]
    source: int | None
    target: int

    def close(self) -> None:
        """Ends both."""
        for end in self.ends:
            end.close()


class Switchboard:
    """See the module. `processes`: the process ID of each server, by its port, as it is now."""

    def __init__(self, processes: Callable[[], Mapping[int, int]]) -> None:
        self._processes = processes
        self._selector = selectors.DefaultSelector()
        self._links: set[Link] = set()
        self._cut: frozenset[int] = frozenset()
        self._loses = 0
        self._lock = Lock()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, "wake")
        self._ended = False
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def front(self, port: int, of: int) -> int:
        """Opens a front to a port of the server that is known by the port `of`; returns the front's port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        with self._lock:
            self._selector.register(listener, selectors.EVENT_READ, (listener, port, of))
        self._wake.send(b"x")
        return int(listener.getsockname()[1])

    def cut(self, *servers: int) -> None:
        """Cuts these servers off from all others from now on, in both directions; none: all are together again."""
        with self._lock:
            self._cut = frozenset(servers)
            for link in [link for link in self._links if not self._may(link.source, link.target)]:
                self._drop(link)
        self._wake.send(b"x")

    def lose_reply(self) -> None:
        """Loses the next bytes that a server sends to a program, and ends that connection."""
        with self._lock:
            self._loses += 1

    def close(self) -> None:
        """Ends all connections."""
        self._ended = True
        self._wake.send(b"x")
        self._thread.join()
        for link in [*self._links]:
            link.close()
        for key in [*self._selector.get_map().values()]:
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake.close()

    def _may(self, source: int | None, target: int) -> bool:
        return source is None or (source in self._cut) == (target in self._cut)

    def _work(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(1.0):
                if key.data == "wake":
                    self._woken.recv(64)
                elif isinstance(key.data, tuple) and len(key.data) == 3:
                    self._accept(*key.data)
                else:
                    self._pass_on(*key.data)

    def _accept(self, listener: socket.socket, port: int, of: int) -> None:
        came, address = listener.accept()
        source = self._owner(address[1], int(listener.getsockname()[1]))
        with self._lock:
            if not self._may(source, of):
                came.close()
                return
            try:
                there = socket.create_connection(("127.0.0.1", port), timeout=2)
            except OSError:
                came.close()
                return
            link = Link((came, there), source, of)
            self._links.add(link)
            self._selector.register(came, selectors.EVENT_READ, (link, 0))
            self._selector.register(there, selectors.EVENT_READ, (link, 1))

    def _pass_on(self, link: Link, which: int) -> None:
        with self._lock:
            if link not in self._links:
                return
            try:
                data = link.ends[which].recv(1 << 16)
                if self._loses and which == 1 and link.source is None:
                    self._loses -= 1
                    data = b""
                if data:
                    link.ends[1 - which].settimeout(10)
                    link.ends[1 - which].sendall(data)
            except OSError:
                data = b""
            if not data:
                self._drop(link)

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        for end in link.ends:
            with suppress(KeyError, ValueError):
                self._selector.unregister(end)
        link.close()

    def _owner(self, port: int, front: int) -> int | None:
        """The server whose process has the loopback connection from a port to a front; None: it is no server's."""
        wanted = f" 0100007F:{port:04X} 0100007F:{front:04X} "
        inode = next((row.split()[9] for row in Path("/proc/net/tcp").read_text().splitlines() if wanted in row), None)
        for server, pid in self._processes().items():
            with suppress(OSError):
                for name in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(OSError):
                        if str(name.readlink()) == f"socket:[{inode}]":
                            return server
        return None
