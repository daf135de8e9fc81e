"""Finds the master that Redis Sentinels name, as the official rules for clients say, and dials it.

The rules: https://redis.io/docs/latest/develop/reference/sentinel-clients/. The Sentinels are asked in turn, at each
dial anew; the first that knows the name answers for all, and is asked first the next time. What it names must say by
ROLE that it is a master: it may have been demoted, and not know it yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from bridge.core.errors import BridgeError, RedisLost, RedisRefused
from bridge.core.model import shown
from bridge.core.server_address import SentinelAddress, masked
from bridge.streams.connect import Connection
from bridge.streams.connector import Connector

ASK_SECONDS = 1.0
"""Seconds that one Sentinel has to answer, as another one may know."""


LOOK_SECONDS, LOOK_LATER_SECONDS = 0.5, 5.0
"""Seconds between two looks for another master, and after one in which no Sentinel answered."""

Told = TypeVar("Told")


@dataclass
class Election:
    """The election that a process last heard of from one set of Sentinels: the master, and how often it changed.

    All connections of the process to that master share it, so that one of them looks for all.
    """

    master: tuple[str, int] | None = None
    changes: int = 0
    due: float = 0.0


_ELECTIONS: dict[SentinelAddress, Election] = {}
_LOCK = Lock()


class Sentinels:
    """The Sentinels of one master: asked for the master at each dial.

    `login`: the Sentinels' own user and password as a url has them, with the `@` behind; empty: they want none.
    """

    def __init__(self, address: SentinelAddress, login: str = "", connect: Connector | None = None) -> None:
        self._address = address
        self._hosts = [*address.hosts]
        self._login = login
        self._connect = connect or Connector()
        with _LOCK:
            self._election = _ELECTIONS.setdefault(address, Election())

    def dial(self) -> Connection:
        """Dials the master. Raises RedisLost where no Sentinel answers or knows it, or no master is elected yet."""
        changes = self._election.changes
        host, port = self.master()
        connection = self._connect(self._address.master_url(host, port))
        try:
            role = connection.call("ROLE")[0]
        except BridgeError:
            connection.close()
            raise
        if role != b"master":
            connection.close()
            said = f"{host}:{port} says that it is a {role.decode(errors='replace')}"
            raise self._lost(f"no master is elected: {said}", "wait for the Sentinels' election")
        connection.replaced = lambda: self._replaced((host, port), changes)
        connection.look = self.look
        return connection

    def look(self) -> None:
        """Asks now and then who is the master, so that connections to another one know that it was replaced.

        A master that Sentinels replace as planned takes writes for some ten seconds more, and they are thrown away.
        """
        with _LOCK:
            now = time.monotonic()
            if now < self._election.due:
                return
            self._election.due = now + LOOK_SECONDS
        try:
            master = self.master()
        except BridgeError:
            self._election.due = time.monotonic() + LOOK_LATER_SECONDS
            return
        with _LOCK:
            if master != self._election.master:
                self._election.master = master
                self._election.changes += 1

    def _replaced(self, master: tuple[str, int], changes: int) -> bool:
        """Whether Sentinels named another master since this one was dialled; what was known then says nothing.

        So where Sentinels disagree, a connection is left once for each change, and not again and again.
        """
        return self._election.changes != changes and self._election.master != master

    def master(self) -> tuple[str, int]:
        """Asks the Sentinels for the master's host and port. Raises RedisLost, RedisRefused."""
        known: set[str] = set()
        answered, said, refused = 0, "", list[RedisRefused]()
        for host, port in [*self._hosts]:
            try:
                found = self.ask(
                    host, port, lambda sentinel: sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
                )
                if found is None:
                    answered += 1
                    known |= self._names(host, port)
                    continue
            except RedisLost as error:
                said = said or error.what
                continue
            except RedisRefused as error:  # another one may know, and let us ask
                refused.append(error)
                continue
            self._hosts.remove((host, port))
            self._hosts.insert(0, (host, port))
            return bytes(found[0]).decode(), int(found[1])
        if answered:
            others = ", ".join(sorted(known)) or "none"
            raise self._lost(f"no sentinel knows {self.name!r} (they know: {others})", "is the name in the url right?")
        if refused:
            raise refused[0]
        many = len(self._hosts)
        raise self._lost(f"none of {many} sentinels answers: {said}", "are they running, and reachable?")

    @property
    def name(self) -> str:
        """The name by which the Sentinels know the master."""
        return self._address.name

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """The hosts and ports by which bridge.toml's url names the Sentinels that watch the master."""
        return self._address.hosts

    def ask(self, host: str, port: int, question: Callable[[Connection], Told]) -> Told:
        """Asks one Sentinel something over a connection of its own. Raises RedisLost, RedisRefused."""
        url = self._address.sentinel_url(host, port, self._login)
        try:
            with closing(Connection(url, timeout=min(ASK_SECONDS, self._connect.timeout))) as connection:
                return question(connection)
        except RedisRefused as error:
            if error.code in ("NOAUTH", "NOPERM", "WRONGPASS"):
                error.hint = "the Sentinels have users of their own: redis.sentinel_user and redis.sentinel_password"
            raise

    def _named(self, sentinel: Connection) -> list[bytes] | None:
        found: list[bytes] | None = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return found

    def _names(self, host: str, port: int) -> set[str]:
        """Asks a Sentinel for the names of the masters that it knows."""
        masters = self.ask(host, port, lambda sentinel: sentinel.call("SENTINEL", "MASTERS"))
        return {shown(dict(zip(facts[0::2], facts[1::2], strict=True)).get(b"name", b"?"), 80) for facts in masters}

    def _lost(self, what: str, hint: str) -> RedisLost:
        hosts = ",".join(f"{host}:{port}" for host, port in self._address.hosts)
        return RedisLost(what, where=masked(f"{self._address.scheme}://{hosts}/{self.name}"), hint=hint)
