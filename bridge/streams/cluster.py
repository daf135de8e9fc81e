"""Finds the node of a cluster that serves a stream's keys, and dials it.

The rules are those that Redis gives for clients of a cluster: any node tells which master serves which slot, and a node
that is asked for a key of another one says MOVED and names it. What a node says while a slot moves (ASK, TRYAGAIN) or
is served by nobody (CLUSTERDOWN) is waited out. ASK is never followed: the node it names holds a part of the slot's
keys, and a second stream would begin there.
"""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from redis.crc import key_slot

from bridge.core.errors import BridgeError, RedisLost
from bridge.core.server_address import ClusterAddress
from bridge.streams.connect import Connection, Refusal, Reply, refused
from bridge.streams.connector import Connector
from bridge.streams.resp import pack

ASK_SECONDS = 1.0
"""Seconds that one node has to tell which node serves a slot, as another one may tell it."""

HOPS = 4
"""How many times one dial follows MOVED: more mean that the nodes do not agree yet."""


class Node(NamedTuple):
    """A node of a cluster, by host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class SlotRange(NamedTuple):
    """A range of a cluster's 16,384 slots, from `first` through `last`, with the nodes that have them.

    `master` is None where the cluster does not tell its host.
    """

    first: int
    last: int
    master: Node | None
    replicas: tuple[Node, ...]


class Cluster:
    """The nodes of a cluster: asked at each dial which master serves a key."""

    def __init__(self, address: ClusterAddress, connect: Connector | None = None) -> None:
        self._address = address
        self._connect = connect or Connector()
        self._known = [Node(*host) for host in address.hosts]
        """The nodes that may be asked: those of the url and all that any of them named, the one that knew first."""

    def dial(self, key: bytes) -> Connection:
        """Dials the master that serves a key.

        Raises RedisLost where no node answers, or where the key's slot moves or is served by nobody; RedisRefused.
        """
        slot, error = key_slot(key), None
        tried: set[Node | None] = {None}
        for asked in [*self._known]:
            try:
                at = self._master(asked, slot)
                for _ in range(HOPS):
                    if at is None or at in tried:
                        break
                    tried.add(at)
                    connection = self.dial_node(at)
                    at = _elsewhere(connection, key, at)
                    if at is None:
                        self._known = [asked, *(node for node in self._known if node != asked)]
                        return connection
            except RedisLost as lost:
                error = lost if error is None or "cannot connect" in error.what else error
        if error is not None:
            raise error
        raise self._lost(f"no node serves slot {slot}, or they do not agree which", "wait, or look at CLUSTER SLOTS")

    def dial_node(self, node: Node, *, timeout: float = 0.0) -> Connection:
        """Dials one node of the cluster, whatever it serves. Raises RedisLost, RedisRefused."""
        return self._connect(self._address.node_url(*node), timeout=timeout, in_cluster=True)

    def slots(self) -> list[SlotRange]:
        """Asks the nodes in turn which of them serve which slots. Raises RedisLost where none tells, RedisRefused."""
        said = ""
        for asked in [*self._known]:
            try:
                return self._slots(asked)
            except RedisLost as error:
                said = said or error.what
        raise self._lost(f"none of {len(self._known)} nodes answers: {said}", "are they running, and reachable?")

    def _master(self, asked: Node, slot: int) -> Node | None:
        """Asks a node for the master of a slot; None: it knows none."""
        return next((part.master for part in self._slots(asked) if part.first <= slot <= part.last), None)

    def _slots(self, asked: Node) -> list[SlotRange]:
        with closing(self.dial_node(asked, timeout=min(ASK_SECONDS, self._connect.timeout))) as connection:
            rows = connection.call("CLUSTER", "SLOTS")
        found = [SlotRange(int(first), int(last), _node(master, asked), _nodes(replicas, asked))
                 for first, last, master, *replicas in rows]  # fmt: skip
        named = [node for part in found for node in (part.master, *part.replicas) if node is not None]
        self._known = list(dict.fromkeys([*self._known, *named]))
        return found

    def _lost(self, what: str, hint: str) -> RedisLost:
        return RedisLost(what, where=self._address.shown, hint=hint)


def _elsewhere(connection: Connection, key: bytes, at: Node) -> Node | None:
    """Asks a node for a key: None if the node serves it, else the node that it names; then it is disconnected.

    Raises RedisLost where the key's slot moves or nobody serves it, RedisRefused.
    """
    try:
        connection.send(pack("EXISTS", key))
        said = connection.read()
        if not isinstance(said, Refusal):
            return None
        word, _, rest = str(said).partition(" ")
        if word != "MOVED":
            raise refused(said, connection.shown)
        host, _, port = rest.split(" ")[-1].rpartition(":")
    except BridgeError:
        connection.close()
        raise
    connection.close()
    return Node(host.strip("[]") or at.host, int(port))


def _node(row: Reply, asked: Node) -> Node | None:
    """Reads a node out of a row of CLUSTER SLOTS; a node that does not know its own host is the one that was asked."""
    host, port = row[0], int(row[1])
    if host is None or host == b"?":
        return None
    return Node(bytes(host).decode() or asked.host, port)


def _nodes(rows: list[Reply], asked: Node) -> tuple[Node, ...]:
    found = (_node(row, asked) for row in rows)
    return tuple(node for node in found if node is not None)
