"""The doctor's checks of other clients of the Redis server: connections, neighbours in the database, and access.

Access means who can reach the server (exposure), and the ACL rights of the bridge's own user. The checks of output
buffers and of replication are here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.admin.doctor.finding import Finding, Judgement, ServerFacts, worst
from bridge.core.config import Settings
from bridge.core.errors import RedisRefused
from bridge.core.wording import counted, duration, size
from bridge.streams.components import FIRST_COMPONENTS
from bridge.streams.connect import CLIENT_NAME, Connection
from bridge.streams.dial import Connections, cluster_of
from bridge.streams.keys import Keys

IDLE_AFTER = 3600.0
"""Seconds without a command after which the doctor mentions a subscriber's connection."""

SCANNED = 5000
"""How many keys SCAN looks at to tell who else uses the database."""


# -- who is there --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Client:
    """Holds a client's connection, a row of Redis's CLIENT LIST; `idle` in seconds, `owed`: bytes that wait for it."""

    id: str
    name: str
    addr: str
    idle: float
    subscribed: bool
    owed: int

    @classmethod
    def of(cls, row: str) -> Client:
        """Parses a row of CLIENT LIST, as the Redis server writes it, into a client's connection."""
        facts = dict(part.split("=", 1) for part in row.split(" ") if "=" in part)
        channels = int(facts.get("sub", 0)) + int(facts.get("psub", 0)) + int(facts.get("ssub", 0))
        return cls(facts.get("id", "?"), facts.get("name", ""), facts.get("addr", "?"), float(facts.get("idle", 0)),
                   channels > 0, int(facts.get("omem", 0)))  # fmt: skip


def clients(facts: ServerFacts, rows: Sequence[Client], asked_for: ServerFacts) -> Finding:
    """Checks for the doctor whether the Redis server has room for more clients, and finds stale or stuck connections.

    Stale is a subscriber that has been idle for long; stuck a client that does not read its output buffer.
    `facts`: from INFO; `rows`: CLIENT LIST; `asked_for`: from CONFIG GET. Pure.
    """
    there, most = int(facts.get("connected_clients", len(rows))), int(facts.get("maxclients", 0) or 10000)
    ours = [row for row in rows if row.name == CLIENT_NAME]
    parts: list[Judgement] = []
    said = f"{there} of {most} connections, {len(ours)} of them ours"
    hint = "raise maxclients; which program opens so many? CLIENT LIST tells"
    parts.append(
        (
            "bad" if there > 0.9 * most else "note" if there > 0.7 * most else "good",
            said,
            hint if there > 0.7 * most else "",
        )
    )
    if int(facts.get("rejected_connections", 0)):
        many = counted(int(facts["rejected_connections"]), "connection")
        parts.append(("note", f"{many} refused since it started", hint))
    stale = [row for row in rows if row.subscribed and row.idle > IDLE_AFTER]
    if stale:
        named = ", ".join(f"{client.name or 'no name'} at {client.addr} (id {client.id})" for client in stale[:3])
        said = f"{counted(len(stale), 'subscriber')} silent for over {duration(IDLE_AFTER)}: {named}"
        parts.append(("note", said, f"if nobody is behind it: CLIENT KILL ID {stale[0].id}"))
    behind = [row for row in rows if row.owed > 1 << 20]
    if behind:
        many = size(sum(client.owed for client in behind))
        said = f"{counted(len(behind), 'client')} do not read what they are sent: {many} wait for them"
        parts.append(("note", said, f"what hangs there? CLIENT LIST id {behind[0].id}"))
    if asked_for.get("tcp-keepalive") == "0":
        said = "tcp-keepalive is 0: a peer that is gone is never noticed, and keeps its connection"
        parts.append(("note", said, "redis-cli CONFIG SET tcp-keepalive 300"))
    return worst("clients", parts)


def buffers(asked_for: ServerFacts) -> Finding:
    """Checks for the doctor the limits of Redis's client output buffers, from `client-output-buffer-limit`. Pure.

    CONFIG GET gives them as class, hard limit, soft limit, seconds.
    """
    words = asked_for.get("client-output-buffer-limit", "").split()
    limits = {words[i]: int(words[i + 1]) for i in range(0, len(words) - 3, 4)}
    parts: list[Judgement] = []
    normal, pubsub = limits.get("normal", 0), limits.get("pubsub", 0)
    if 0 < normal < 16 << 20:
        said = f"a reply of over {size(normal)} closes its connection: large messages are read by the megabyte"
        parts.append(("bad", said, "CONFIG SET client-output-buffer-limit 'normal 0 0 0'"))
    if not pubsub:
        said = "no limit for subscribers: one that hangs can take all memory"
        parts.append(("note", said, "CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60'"))
    if not parts:
        told = f"a subscriber is dropped when {size(pubsub)} wait for it; it reads the stream on all the same"
        return Finding("buffers", "good", told)
    return worst("buffers", parts)


# -- who may -------------------------------------------------------------------------------------------------


def exposure(asked_for: ServerFacts, *, open_to_all: bool, socket: bool) -> Finding:
    """Checks for the doctor the exposure of the Redis server: its addresses, and the guard before them. Pure.

    `asked_for`: from CONFIG GET; `open_to_all`: the server's default user needs no password; `socket`: the bridge is
    connected by a Unix socket.
    """
    binds = asked_for.get("bind", "").split()
    addresses = [bind.lstrip("-") for bind in binds]
    outside = [address for address in addresses if address not in ("127.0.0.1", "::1", "localhost")] or (
        [] if binds else ["*"]
    )
    protected = asked_for.get("protected-mode") == "yes"
    listens = asked_for.get("port") != "0" or asked_for.get("tls-port", "0") != "0"
    if outside and open_to_all and not protected and listens:
        said = f"it listens on {', '.join(outside)}, with no password: who reaches this machine may read and write"
        return Finding("exposure", "bad", said, "CONFIG SET protected-mode yes, and requirepass; or bind 127.0.0.1")
    if outside and listens:
        guard = "a password" if not open_to_all else "protected mode alone"
        said = f"it listens on {', '.join(outside)}, behind {guard}"
        hint = "CONFIG SET requirepass, or ACL users: `bridge acl`" if open_to_all else ""
        return Finding("exposure", "note" if open_to_all else "good", said, hint)
    if open_to_all and listens:
        said = "no password, on this machine alone: every program of every user here may read, write and delete"
        return Finding("exposure", "note", said, "CONFIG SET requirepass, or ACL users: `bridge acl`")
    return Finding(
        "exposure", "good", "a Unix socket" if socket and not listens else "this machine alone, with a password"
    )


def rights(user: str, told: Mapping[str, str]) -> Finding:
    """Checks for the doctor, from ACL GETUSER, whether the bridge's Redis user has more rights than it needs. Pure."""
    may_all = "+@all" in told.get("commands", "") and "-" not in told.get("commands", "").replace("-@all", "")
    if may_all and "~*" in told.get("keys", "").split():
        said = f"user {user} may do everything, FLUSHALL and CONFIG among it: more than the bridge needs"
        return Finding("rights", "note", said, "`bridge acl` prints rules that are enough")
    return Finding("rights", "good", f"user {user} has rights of its own")


def look_at_rights(connection: Connection) -> Finding:
    """Reads from Redis the ACL rights of the user that the bridge is connected as, and checks them for the doctor.

    A user who may not read the rights does not have all rights, so that is good.
    """
    try:
        user = connection.call("ACL", "WHOAMI").decode(errors="replace")
        reply = connection.call("ACL", "GETUSER", user)
    except RedisRefused:
        return Finding("rights", "good", "we may not see our own rights, so we have not all")
    told = {k.decode(): v.decode() for k, v in zip(reply[0::2], reply[1::2], strict=True) if isinstance(v, bytes)}
    return rights(user, told)


def is_open_to_all(connection: Connection) -> bool:
    """Whether the Redis server is open to other clients without a password, by ACL GETUSER of its default user."""
    reply = connection.call("ACL", "GETUSER", "default")
    flags = dict(zip(reply[0::2], reply[1::2], strict=True))[b"flags"]
    return b"on" in flags and b"nopass" in flags


# -- neighbours ----------------------------------------------------------------------------------------------


def neighbours(types: Mapping[str, tuple[str, str]], prefixes: Mapping[str, int], *, whole: bool) -> Finding:
    """Makes the doctor's finding about neighbours in the Redis database, and about bridge keys of the wrong type. Pure.

    `types`: the bridge's keys that hold another type, with the type found and the type wanted. `prefixes`: how many
    other keys there are, by the text before their first colon. `whole`: whether SCAN went through all keys.
    """
    parts: list[Judgement] = []
    for key, (found, wanted) in types.items():
        hint = "rename it, or give stream.key another name" if not key.startswith("bridge:") else "rename it"
        parts.append(("bad", f"{key} holds a {found}, and should be a {wanted}", hint))
    if prefixes:
        zen = " (zen-mcp)" if "thread" in prefixes else ""
        most = sorted(prefixes.items(), key=lambda item: -item[1])[:3]
        said = ", ".join(f"{n:,} {name}:…{zen if name == 'thread' else ''}" for name, n in most)
        more = f" and {len(prefixes) - 3} more kinds" if len(prefixes) > 3 else ""
        parts.append(
            (
                "good",
                f"others use it too: {said}{more}{'' if whole else ', of those looked at'}; no key is used by both",
                "",
            )
        )
    elif not parts:
        parts.append(("good", "nobody else has keys here", ""))
    return worst("neighbours", parts)


def look_at_neighbours(servers: Connections, settings: Settings) -> Finding:
    """Reads from Redis the types of this bridge's keys and the names of about `SCANNED` keys, to find neighbours."""
    first = {} if cluster_of(settings) else {FIRST_COMPONENTS.decode(): "hash"}
    wanted = first | {f"bridge:health:{settings.instance}": "string"}
    for mapping in settings.mappings:
        keys = Keys.of(mapping.stream.key)
        wanted |= {key.decode(): "hash" for key in keys.own} | {
            keys.floor.decode(): "string", keys.lease.decode(): "string", keys.retired.decode(): "string",
            mapping.stream.key: "stream",
        }  # fmt: skip
    types = {}
    for key, kind in wanted.items():
        found = servers.to(key).call("TYPE", key).decode()
        if found not in ("none", kind):
            types[key] = (found, kind)
    cursor, seen, prefixes = b"0", 0, dict[str, int]()
    connection = servers.to(settings.some_key)
    while True:
        cursor, found = connection.call("SCAN", cursor, "COUNT", 500)
        for raw in found:
            name = raw.decode(errors="replace")
            if name not in wanted and not name.startswith("bridge:"):
                prefix = name.partition(":")[0]
                prefixes[prefix] = prefixes.get(prefix, 0) + 1
        seen += len(found)
        if cursor == b"0" or seen >= SCANNED:
            break
    return neighbours(types, prefixes, whole=cursor == b"0")


def replication(facts: ServerFacts) -> Finding:
    """Checks for the doctor, from INFO replication, whether the Redis server is a replica or has replicas. Pure."""
    if facts.get("role") == "slave":
        link = facts.get("master_link_status", "?")
        return Finding(
            "replication", "bad", f"it is a replica (link {link}), and takes no writes", "point the url at the primary"
        )
    replicas = int(facts.get("connected_slaves", 0))
    if replicas:
        said = f"{counted(replicas, 'replica')}: after a failover the last entries may be missing, and are refilled"
        return Finding("replication", "note", said)
    return Finding("replication", "good", "no replicas")
