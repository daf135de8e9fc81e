"""Faults of the servers behind Sentinels or in a cluster: masters that die, sleep, are replaced or are cut off."""

from __future__ import annotations

import random
import sys
from threading import Event

from tests.support.cluster_group import ClusterGroup
from tests.support.rig import wait_until
from tests.support.sentinel_group import SentinelGroup

Group = ClusterGroup | SentinelGroup

ELECTING = ("kill", "behind", "freeze", "planned", "cut")
"""Faults after which another master is elected."""

ON_LINUX = ("cut", "lost_replies")
"""Faults that need the switchboard, which finds the owners of connections as Linux tells them."""

FAULTS = [
    name for name in (*ELECTING, "flap", "hang_up", "lost_replies") if sys.platform == "linux" or name not in ON_LINUX
]
ELECTED = 180.0
"""Seconds in which the servers must have elected another master: on a busy machine votes are split again and again."""


class ServerFaults:
    """The faults that a group of servers may have, each by its name, given the port of the stream's master."""

    def __init__(self, group: Group, chance: random.Random) -> None:
        self._group, self._random = group, chance

    def kill(self, master: int) -> None:
        """The master dies, and whoever is elected has what it had."""
        self._group.kill(master)

    def behind(self, master: int) -> None:
        """The replicas are a fifth of a second behind when the master dies."""
        replicas = self._group.replicas_of(master)
        for port in replicas:
            self._group.freeze(port)
        Event().wait(0.2)
        self._group.kill(master)
        for port in replicas:
            self._group.thaw(port)

    def freeze(self, master: int) -> None:
        """The master sleeps until another one is elected, and wakes with what lay in its sockets."""
        self._group.freeze(master)
        wait_until(lambda: self._group.master_now() not in (0, master), self._group.told, ELECTED)
        Event().wait(self._random.uniform(0.0, 1.0))
        self._group.thaw(master)

    def cut(self, master: int) -> None:
        """The master is cut off from the others, and programs reach both sides; then all are together again."""
        assert self._group.board is not None
        self._group.board.cut(master)
        wait_until(lambda: self._group.master_now() not in (0, master), self._group.told, ELECTED)
        Event().wait(self._random.uniform(0.0, 3.0))
        self._group.board.cut()

    def hang_up(self, _: int) -> None:
        """Every server throws out all programs, once a second."""
        for _ in range(4):
            for port in self._group.ports:
                self._group.ask(port, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            Event().wait(1.0)

    def lost_replies(self, _: int) -> None:
        """What a server answers to a program is lost, and the connection with it, again and again."""
        assert self._group.board is not None
        for _ in range(20):
            self._group.board.lose_reply()
            Event().wait(self._random.uniform(0.05, 0.3))

    def planned(self, master: int) -> None:
        """Another master is asked for, and made."""
        wait_until(lambda: self._group.plan_failover(master), self._group.told, ELECTED)

    def flap(self, master: int) -> None:
        """One master after the other sleeps and wakes, before the servers have agreed on the one before."""
        for _ in range(3):
            now = self._group.master_now() or master
            self._group.freeze(now)
            Event().wait(self._random.uniform(1.5, 3.0))
            self._group.thaw(now)
            Event().wait(self._random.uniform(0.0, 0.5))
