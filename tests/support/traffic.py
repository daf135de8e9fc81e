"""Programs that go on writing while a test does something to the servers: lines to the log, entries to the stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Event, Thread
from typing import Protocol, Self

from bridge.core.errors import BridgeError
from bridge.streams.connect import Connection
from tests.support.rig import STREAM, Rig, line


class Servers(Protocol):
    """Whatever finds the server of the stream."""

    def connect(self) -> Connection:
        """Connects to it."""


class Program(ABC):
    """A program in a thread, from the beginning of a `with` to its end."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._stop = Event()
        self._thread = Thread(target=self.work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def goes_on(self) -> bool:
        """Rests; False: it is to end."""
        return not self._stop.wait(self._pause)

    @abstractmethod
    def work(self) -> None:
        """Does its work while it `goes_on`."""


class Plain(Program):
    """A producer with a plain XADD, which waits for nobody: it notes what was acknowledged."""

    def __init__(self, servers: Servers, pause: float = 0.005) -> None:
        super().__init__(pause)
        self.acknowledged: list[bytes] = []
        self._servers = servers

    def work(self) -> None:
        """Adds plain-1, plain-2, … What is not acknowledged may be there or not, and is not counted."""
        connection, number = None, 0
        while self.goes_on():
            number += 1
            data = b"plain-%d" % number
            try:
                connection = connection or self._servers.connect()
                connection.call("XADD", STREAM, "*", "role", "plain", "timestamp", "2026-03-02T09:14:06Z", "type", "say",
                                "data", data)  # fmt: skip
                self.acknowledged.append(data)
            except BridgeError:
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()


class Lines(Program):
    """A legacy program that appends lines to the log."""

    def __init__(self, rig: Rig, pause: float = 0.004) -> None:
        super().__init__(pause)
        self.written: list[bytes] = []
        self._rig = rig

    def work(self) -> None:
        """Appends line-0, line-1, …"""
        while self.goes_on():
            data = b"line-%d" % len(self.written)
            with self._rig.log.open("ab") as file:
                file.write(line(data, role="legacy"))
            self.written.append(data)
