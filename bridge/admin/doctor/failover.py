"""The doctor's checks of what happens when the master dies: its Sentinels, its replicas, and what it promises alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bridge.admin.doctor.finding import Finding, Judgement, ServerFacts, worst
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, RedisRefused
from bridge.core.server_address import SentinelAddress
from bridge.core.wording import counted, duration
from bridge.streams.connect import Connection
from bridge.streams.sentinel import Sentinels

ENOUGH = 3
"""Sentinels that there are at least, so that one may fail and two still agree."""

LONG_LAG = 10
"""Seconds behind the master from which on a replica is far behind."""

STRICT_LAG = 10
"""Seconds of `min-replicas-max-lag` above which a master that is cut off goes on for long."""


EMPTY_AGAIN = "no append-only file: started again by itself it is empty, and its replicas empty themselves with it"


@dataclass(frozen=True, slots=True)
class SentinelWord:
    """What one Sentinel told: where it is, which master it names, how many Sentinels it knows, and of the quorum.

    `error`: why it told nothing.
    """

    where: str
    error: str = ""
    master: str = ""
    sentinels: int = 0
    quorum: str = ""


def sentinels(told: Sequence[SentinelWord]) -> Finding:
    """Checks for the doctor what the Sentinels of a master told: whether they can elect another one. Pure."""
    parts: list[Judgement] = []
    answering = [word for word in told if not word.error]
    for word in told:
        if word.error:
            parts.append(("bad", f"{word.where} does not answer: {word.error}", "start it, or take it out of the url"))
    masters = {word.master for word in answering}
    if len(masters) > 1:
        said = f"they name different masters: {', '.join(sorted(masters))}"
        parts.append(("bad", said, "are they cut off from each other?"))
    no_quorum = [word for word in answering if not word.quorum.startswith("OK")]
    for word in no_quorum:
        parts.append(("bad", f"{word.where} says: {word.quorum}", "no master can be elected: start more Sentinels"))
    known = max((word.sentinels for word in answering), default=0)
    if answering and known < ENOUGH:
        parts.append(("note", f"{counted(known, 'Sentinel')} in all", "run three or more, on machines that fail apart"))
    if answering and not no_quorum and len(masters) == 1:
        parts.append(
            ("good", f"{counted(known, 'Sentinel')}, all name {masters.pop()} and could elect another one", "")
        )
    return worst("sentinels", parts)


def look_at_sentinels(settings: Settings, address: SentinelAddress) -> Finding:
    """Asks each Sentinel of the url for the doctor."""
    group, told = Sentinels(address, settings.sentinel_login), []
    for host, port in address.hosts:
        where = f"{host}:{port}"
        try:
            told.append(group.ask(host, port, partial(_word, where=where, name=address.name)))
        except BridgeError as error:
            told.append(SentinelWord(where, error.what))
    return sentinels(told)


def _word(connection: Connection, where: str, name: str) -> SentinelWord:
    facts = connection.call("SENTINEL", "MASTER", name)
    known = dict(zip(facts[0::2], facts[1::2], strict=True))
    try:
        quorum = bytes(connection.call("SENTINEL", "CKQUORUM", name)).decode(errors="replace")
    except RedisRefused as error:
        quorum = error.what
    master = b"%s:%s" % (known.get(b"ip", b"?"), known.get(b"port", b"?"))
    many = int(known.get(b"num-other-sentinels", 0)) + 1
    return SentinelWord(where, "", master.decode(errors="replace"), many, quorum)


def replicas(facts: ServerFacts, told: ServerFacts) -> Finding:
    """Checks for the doctor the replicas of a master that may fail over, and what it promises without them. Pure.

    `facts` is from INFO replication and persistence, `told` from CONFIG: `min-replicas-to-write` and
    `min-replicas-max-lag`; empty: unknown.
    """
    parts: list[Judgement] = []
    rows = [_replica(value) for name, value in facts.items() if name.startswith("slave") and name[5:].isdigit()]
    online = [row for row in rows if row.get("state") == "online"]
    if not online:
        parts.append(("bad", "no replica is online: nothing takes over when the master dies", "start a replica"))
    for row in rows:
        where, lag = f"{row.get('ip', '?')}:{row.get('port', '?')}", int(row.get("lag", "0"))
        if row.get("state") != "online":
            parts.append(("note", f"{where} is {row.get('state', '?')}", ""))
        elif lag > LONG_LAG:
            parts.append(("note", f"{where} is {duration(lag)} behind", "is its network, or its disk, slow?"))
    if facts.get("aof_enabled") == "0":
        parts.append(("bad", EMPTY_AGAIN, "CONFIG SET appendonly yes, on each server"))
    wanted = told.get("min-replicas-to-write", "")
    if wanted in ("", "0"):
        hint = "CONFIG SET min-replicas-to-write 1: else a master that is cut off takes what a failover throws away"
        unknown: Judgement = ("unknown", "min-replicas-to-write is not told", "")
        parts.append(("note", "min-replicas-to-write is 0", hint) if wanted else unknown)
    elif int(told.get("min-replicas-max-lag", STRICT_LAG)) >= STRICT_LAG:
        lag = int(told.get("min-replicas-max-lag", STRICT_LAG))
        said = f"min-replicas-max-lag is {lag} s: so long a master that is cut off takes messages"
        parts.append(("note", said, "CONFIG SET min-replicas-max-lag 2"))
    if online:
        parts.append(("good", f"{counted(len(online), 'replica')} online", ""))
    return worst("replication", parts)


def _replica(value: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in value.split(",") if "=" in part)
