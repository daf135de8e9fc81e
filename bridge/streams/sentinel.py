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
from functools import partial
from typing import TypeVar

from bridge.core.errors import BridgeError, RedisLost, RedisRefused
from bridge.core.model import paired, shown
from bridge.core.server_address import SentinelAddress, masked
from bridge.streams.connect import Connection, Refusal
from bridge.streams.connector import Connector
from bridge.streams.resp import pack

ASK_SECONDS = 1.0
"""Seconds that one Sentinel has to answer, as another one may know."""


LOOK_SECONDS = 0.5
"""Seconds between two looks for another master; and at most so many for a Sentinel to answer one."""

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Named:
    """The master that a Sentinel names: host, port, and the epoch of the election that made it; 0: it does not tell."""

    host: str
    port: int
    epoch: int


@dataclass
class Election:
    """The last election that a process heard of from one set of Sentinels, which all its connections share.

    A Sentinel that was cut off names an earlier one, so only a higher epoch counts.
    """

    named: Named | None = None
    due: float = 0.0

    def heard(self, named: Named) -> bool:
        """Notes in a process's election what a Sentinel names; False: the process has heard of a later election."""
        if self.named is not None and named.epoch < self.named.epoch:
            return False
        self.named = named
        return True

    def replaced(self, dialled: Named) -> bool:
        """Whether the process heard of an election of another master since it dialled this one."""
        last = self.named
        return (
            last is not None and last.epoch > dialled.epoch and (last.host, last.port) != (dialled.host, dialled.port)
        )


_ELECTIONS: dict[SentinelAddress, Election] = {}


class Sentinels:
    """The Sentinels of one master: asked for the master at each dial.

    `login`: the Sentinels' own user and password as a url has them, with the `@` behind; empty: they want none.
    """

    def __init__(self, address: SentinelAddress, login: str = "", connect: Connector | None = None) -> None:
        self._address = address
        self._hosts = [*address.hosts]
        self._login = login
        self._connect = connect or Connector()
        self._election = _ELECTIONS.setdefault(address, Election())

    def dial(self) -> Connection:
        """Dials the master. Raises RedisLost where no Sentinel answers or knows it, or no master is elected yet."""
        named = self._named()
        connection = self._connect(self._address.master_url(named.host, named.port))
        try:
            role = connection.call("ROLE")[0]
        except BridgeError:
            connection.close()
            raise
        if role != b"master":
            connection.close()
            said = f"{named.host}:{named.port} says that it is a {role.decode(errors='replace')}"
            raise self._lost(f"no master is elected: {said}", "wait for the Sentinels' election")
        connection.replaced = partial(self._election.replaced, named)
        connection.look = self.look
        return connection

    def look(self) -> None:
        """Asks a Sentinel now and then who is the master, so that connections to another one know that it was replaced.

        A master that Sentinels replace as planned takes writes for some ten seconds more, and they are thrown away. A
        Sentinel that does not answer is asked last the next time.
        """
        now = time.monotonic()
        if now < self._election.due:
            return
        self._election.due = now + 2 * LOOK_SECONDS
        host, port = self._hosts[0]
        try:
            named = self._ask_for_master(host, port, LOOK_SECONDS)
        except BridgeError:
            named = None
        if named is None or not self._election.heard(named):
            self._hosts.append(self._hosts.pop(0))
            return
        self._election.due = now + LOOK_SECONDS

    def master(self) -> tuple[str, int]:
        """Asks the Sentinels for the master's host and port. Raises RedisLost, RedisRefused."""
        named = self._named()
        return named.host, named.port

    def _named(self) -> Named:
        """Asks the Sentinels in turn for the master: the first that knows it, and of no election before the last.

        Where all that answer know of an earlier one only, as after SENTINEL RESET, the first of them is believed.
        """
        known: set[str] = set()
        answered, said, refused, earlier = 0, "", list[RedisRefused](), list[Named]()
        for host, port in [*self._hosts]:
            try:
                named = self._ask_for_master(host, port)
                if named is None:
                    answered += 1
                    known |= self._names(host, port)
                    continue
            except RedisLost as error:
                said = said or error.what
                continue
            except RedisRefused as error:  # another one may know, and let us ask
                refused.append(error)
                continue
            if not self._election.heard(named):
                earlier.append(named)
                continue
            self._hosts.remove((host, port))
            self._hosts.insert(0, (host, port))
            return named
        if earlier:
            self._election.named = earlier[0]
            return earlier[0]
        if answered:
            others = ", ".join(sorted(known)) or "none"
            raise self._lost(f"no sentinel knows {self.name!r} (they know: {others})", "is the name in the url right?")
        if refused:
            raise refused[0]
        many = len(self._hosts)
        raise self._lost(f"none of {many} sentinels answers: {said}", "are they running, and reachable?")

    def _ask_for_master(self, host: str, port: int, seconds: float = ASK_SECONDS) -> Named | None:
        """Asks one Sentinel for the master and its election; None: it does not know the name."""

        def question(sentinel: Connection) -> Named | None:
            told = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
            if told is None:
                return None
            sentinel.send(pack("SENTINEL", "MASTER", self.name))
            facts = sentinel.read()  # may be refused: then no election is known
            epoch = 0 if isinstance(facts, Refusal) else int(paired(facts).get(b"config-epoch", 0))
            return Named(bytes(told[0]).decode(), int(told[1]), epoch)

        return self.ask(host, port, question, seconds)

    @property
    def name(self) -> str:
        """The name by which the Sentinels know the master."""
        return self._address.name

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """The hosts and ports by which bridge.toml's url names the Sentinels that watch the master."""
        return self._address.hosts

    def ask(self, host: str, port: int, question: Callable[[Connection], Told], seconds: float = ASK_SECONDS) -> Told:
        """Asks one Sentinel something over a connection of its own, which has so many seconds for each answer.

        Raises RedisLost, RedisRefused.
        """
        url = self._address.sentinel_url(host, port, self._login)
        try:
            with closing(Connection(url, timeout=min(seconds, self._connect.timeout))) as connection:
                return question(connection)
        except RedisRefused as error:
            if error.code in ("NOAUTH", "NOPERM", "WRONGPASS"):
                error.hint = "the Sentinels have users of their own: redis.sentinel_user and redis.sentinel_password"
            raise

    def _names(self, host: str, port: int) -> set[str]:
        """Asks a Sentinel for the names of the masters that it knows."""
        masters = self.ask(host, port, lambda sentinel: sentinel.call("SENTINEL", "MASTERS"))
        return {shown(dict(zip(facts[0::2], facts[1::2], strict=True)).get(b"name", b"?"), 80) for facts in masters}

    def _lost(self, what: str, hint: str) -> RedisLost:
        hosts = ",".join(f"{host}:{port}" for host, port in self._address.hosts)
        return RedisLost(what, where=masked(f"{self._address.scheme}://{hosts}/{self.name}"), hint=hint)
