"""The doctor's checks of a cluster: its slots and who would take them over, and each master's memory and data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from bridge.admin.doctor.failover import EMPTY_AGAIN
from bridge.admin.doctor.finding import Finding, Judgement, ServerFacts, worst
from bridge.core.errors import BridgeError, RedisRefused
from bridge.core.wording import counted, size
from bridge.streams.cluster import Cluster, SlotRange
from bridge.streams.connect import Connection
from bridge.streams.reader import server_info

SLOTS = 16384
"""How many slots a cluster has."""

FULL = 90
"""Percent of its memory's limit from which on a node is nearly full."""


@dataclass(frozen=True, slots=True)
class NodeWord:
    """What one master of a cluster told: its state, the slots that it is moving, and its INFO.

    `error`: why it told nothing.
    """

    where: str
    error: str = ""
    state: str = "ok"
    moving: tuple[str, ...] = ()
    facts: ServerFacts = field(default_factory=dict)


def slots(ranges: Sequence[SlotRange], told: Sequence[NodeWord]) -> Finding:
    """Checks for the doctor whether all slots of a cluster are served, stay there, and have a replica. Pure."""
    parts: list[Judgement] = []
    served = sum(part.last - part.first + 1 for part in ranges if part.master is not None)
    if served < SLOTS:
        said = f"{counted(SLOTS - served, 'slot')} of {SLOTS:,} are served by nobody"
        parts.append(("bad", said, "start the nodes that had them, or redis-cli --cluster fix"))
    for word in told:
        if word.error:
            parts.append(("bad", f"{word.where} does not answer: {word.error}", "start it, or look why not"))
        elif word.state != "ok":
            parts.append(("bad", f"{word.where} says that the cluster is in state {word.state}", "CLUSTER INFO tells"))
        if word.moving:
            some = ", ".join(word.moving[:3])
            said = f"{word.where} moves {counted(len(word.moving), 'slot')} ({some}): streams there wait meanwhile"
            parts.append(("note", said, "is nobody moving it any more? redis-cli --cluster fix ends it"))
    alone = sorted({str(part.master) for part in ranges if part.master is not None and not part.replicas})
    if alone:
        said = f"no replica has the slots of {', '.join(alone)}: nothing takes over when it dies"
        parts.append(("bad", said, "give each master a replica: CLUSTER REPLICATE"))
    masters = {part.master for part in ranges if part.master is not None}
    parts.append(("good", f"{counted(served, 'slot')} on {counted(len(masters), 'master')}", ""))
    return worst("cluster", parts)


def nodes(told: Sequence[NodeWord]) -> Finding:
    """Checks for the doctor the memory and the data on disk of each master of a cluster. Pure."""
    parts: list[Judgement] = []
    answering = [word for word in told if not word.error]
    for word in answering:
        used, limit = int(word.facts.get("used_memory", 0)), int(word.facts.get("maxmemory", 0))
        policy = word.facts.get("maxmemory_policy", "noeviction")
        if limit and policy != "noeviction":
            said = f"{word.where}: maxmemory-policy {policy} throws streams away when memory is short"
            parts.append(("bad", said, "CONFIG SET maxmemory-policy noeviction on each node"))
        if limit and used * 100 > FULL * limit:
            parts.append(("bad", f"{word.where}: {size(used)} of {size(limit)} in use", "give it more memory"))
        if word.facts.get("aof_enabled") == "0":
            parts.append(("bad", f"{word.where}: {EMPTY_AGAIN}", "CONFIG SET appendonly yes on each node"))
    if answering and not parts:
        used = sum(int(word.facts.get("used_memory", 0)) for word in answering)
        parts.append(("good", f"{counted(len(answering), 'master')}, {size(used)} in use", ""))
    return worst("nodes", parts or [("unknown", "no node answers", "")])


def look_at_cluster(cluster: Cluster) -> list[Finding]:
    """Asks the masters of a cluster for the doctor; returns the findings `cluster` and `nodes`."""
    try:
        ranges = cluster.slots()
    except BridgeError as error:
        return [Finding("cluster", "unknown", f"could not be looked at: {error}")]
    told = []
    for node in dict.fromkeys(part.master for part in ranges if part.master is not None):
        try:
            with closing(cluster.dial_node(node)) as connection:
                told.append(_word(connection, str(node)))
        except BridgeError as error:
            told.append(NodeWord(str(node), error.what))
    return [slots(ranges, told), nodes(told)]


def _word(connection: Connection, where: str) -> NodeWord:
    facts = server_info(connection, "memory", "persistence")
    state, moving = "ok", tuple[str, ...]()
    try:
        about = bytes(connection.call("CLUSTER", "INFO")).decode(errors="replace")
        state = about.partition("cluster_state:")[2].split()[0] if "cluster_state:" in about else "unknown"
        moving = tuple(_moving(bytes(connection.call("CLUSTER", "NODES")).decode(errors="replace")))
    except RedisRefused:  # a managed service may keep it to itself
        state = "ok"
    return NodeWord(where, "", state, moving, facts)


def _moving(rows: str) -> list[str]:
    """Lists the slots that a node moves to another one or takes from it, as its own row of CLUSTER NODES has them."""
    own = next((row for row in rows.splitlines() if "myself" in row.split(" ")[2]), "")
    return [part.strip("[]").split("-")[0] for part in own.split(" ") if part.startswith("[")]
