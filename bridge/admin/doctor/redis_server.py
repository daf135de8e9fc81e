"""The doctor's checks of the Redis server: version, commands, persistence, memory, load, latency and clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bridge.admin.doctor import failover, other_clients
from bridge.admin.doctor.finding import Finding, Judgement, ServerFacts, Verdict, asked, worst
from bridge.core.config import Settings
from bridge.core.errors import RedisRefused
from bridge.core.model import parse_id
from bridge.core.server_address import sentinel_address
from bridge.core.wording import counted, duration, size
from bridge.streams.connect import CLIENT_NAME, NEEDED, Connection
from bridge.streams.dial import Connections
from bridge.streams.reader import server_info, stream_info

OLDEST = (7, 0)
PINGS, BETWEEN = 50, 0.002
"""How many PINGs measure the latency, and seconds between two of them."""

HOUR, DAY = 3600, 86_400
GROWTH_AGES, GROWTH_ENTRIES = (HOUR, 7 * HOUR, 13 * HOUR, 19 * HOUR), 1000
"""Seconds ago at which the growth of a stream is sampled, and the entries that are read for one sample."""


def config(connection: Connection, *names: str) -> dict[str, str]:
    """Reads for the doctor parameters of the Redis server by CONFIG GET. Raises RedisRefused: that is not allowed."""
    found: dict[str, str] = {}
    for name in names:
        reply = connection.call("CONFIG", "GET", name)
        found |= {k.decode(): v.decode(errors="replace") for k, v in zip(reply[0::2], reply[1::2], strict=True)}
    return found


# -- what it is ----------------------------------------------------------------------------------------------


def version(facts: ServerFacts, *, in_cluster: bool = False) -> Finding:
    """Checks for the doctor, from INFO server, whether the server is Redis 7.0 or newer, or Valkey. Pure.

    `in_cluster`: the url names a cluster, so that the server may be one of its nodes.
    """
    valkey = facts.get("valkey_version")
    name, text = ("Valkey", valkey) if valkey else ("Redis", facts.get("redis_version", "?"))
    numbers = [int(part) for part in facts.get("redis_version", "0").split(".")[:2] if part.isdigit()]
    up = duration(float(facts.get("uptime_in_seconds", 0)))
    said = f"{name} {text}, up for {up}"
    mode = facts.get("redis_mode", "standalone")
    if mode != "standalone" and not (in_cluster and mode == "cluster"):
        hint = "write the url as cluster://…" if mode == "cluster" else "write the url as sentinel://…"
        return Finding("server", "bad", f"{said}, as {mode}", hint)
    if in_cluster:
        said += ", a node of a cluster"
    if tuple(numbers) < OLDEST:
        return Finding("server", "bad", said, "use Redis 7.0 or newer, or Valkey")
    return Finding("server", "good", said)


def commands(known: Mapping[str, bool]) -> Finding:
    """Checks for the doctor whether the Redis server has all commands that the bridge needs. Pure.

    `known`: for each needed command, whether the server has it.
    """
    missing = [name for name, there in known.items() if not there]
    if missing:
        hint = "were they renamed in its configuration? The bridge needs them by their names"
        return Finding("commands", "bad", f"it lacks {', '.join(missing)}", hint)
    return Finding("commands", "good", f"all {len(known)} that are needed are there")


def _known(connection: Connection) -> dict[str, bool]:
    rows = connection.call("COMMAND", "INFO", *NEEDED)
    return {name: row is not None for name, row in zip(NEEDED, rows, strict=True)}


def persistence(facts: ServerFacts, asked_for: ServerFacts) -> Finding:
    """Checks for the doctor how much a crash of the Redis server would lose (P8), by its persistence settings. Pure.

    `facts`: from INFO persistence; `asked_for`: from CONFIG GET.
    """
    parts: list[Judgement] = []
    statuses = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    for name in statuses:
        if facts.get(name, "ok") != "ok":
            parts.append(("bad", f"{name} is {facts[name]}", "look at the server's log: is its disk full?"))
    changes = int(facts.get("rdb_changes_since_last_save", 0))
    if facts.get("aof_enabled") == "1":
        fsync = asked_for.get("appendfsync", "everysec")
        if fsync == "no":
            hint = "redis-cli CONFIG SET appendfsync everysec"
            parts.append(
                ("bad", "append-only file, synced when the system likes: a power failure takes half a minute", hint)
            )
        elif fsync == "always":
            parts.append(("good", "append-only file, synced always: what it acknowledged is kept", ""))
        else:
            said = "append-only file, synced every second: a power failure takes the last second of what only Redis has"
            slow = int(facts.get("aof_delayed_fsync", 0))
            # While fsync is late, Redis acknowledges writes that are not on disk yet (flushAppendOnlyFile in aof.c).
            said += f"; the disk was too slow for it {counted(slow, 'time')}, and a kill then takes two" if slow else ""
            parts.append(("note" if slow else "good", said, "CONFIG SET appendfsync always" if slow else ""))
    else:
        snapshots = asked_for.get("save", "")
        takes = f"all since the last snapshot ({counted(changes, 'change')} now)" if snapshots else "everything"
        said = (
            f"no append-only file: a crash or a restart takes {takes}. What files hold is sent again; messages"
            " that only Redis has are gone"
        )
        hint = "CONFIG SET appendonly yes, then CONFIG REWRITE; no configuration file: start it with --appendonly yes"
        parts.append(("bad", said, hint))
    return worst("persistence", parts)


# -- room ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Growth:
    """Holds for the doctor a stream's size and growth on the server: entries, bytes, entries a day, if it is limited.

    `limited`: whether the mapping's `[retention]` limits the stream.
    """

    name: str
    length: int
    bytes: int
    a_day: float
    limited: bool

    @property
    def bytes_a_day(self) -> float:
        """How many more bytes of the Redis server's memory the stream takes per day."""
        return self.a_day * self.bytes / self.length if self.length else 0.0


def memory(facts: ServerFacts, streams: Sequence[Growth]) -> Finding:
    """Checks for the doctor Redis's memory limit and eviction policy, and estimates when streams will have filled it.

    `facts`: from INFO memory. Pure.
    """
    used, limit = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    policy, parts = facts.get("maxmemory_policy", ""), list[Judgement]()
    if limit and policy != "noeviction":
        said = f"maxmemory-policy {policy}: short of memory it throws keys away, streams and their groups among them"
        parts.append(("bad", said, "redis-cli CONFIG SET maxmemory-policy noeviction"))
    room = (limit or int(facts.get("total_system_memory", 0))) - used
    a_day = sum(stream.bytes_a_day for stream in streams if not stream.limited)
    days = room / a_day if a_day > 0 and room > 0 else None
    soon: Verdict = "bad" if days is not None and days < 7 else "note" if days is not None and days < 60 else "good"
    grows, hint = "", ""
    if days is not None and days < 1000:
        grows = f", streams grow by {size(int(a_day))} a day: full in {days:,.0f} days"
    if soon != "good":
        hint = "give the mappings [retention], or the server more memory"
    if limit:
        share = 100 * used / limit
        full: Verdict = "bad" if share > 90 else "note" if share > 70 else "good"
        if full != "good":
            hint = "give the mappings [retention], or raise maxmemory"
        parts.append(
            (
                min(full, soon, key=["bad", "note", "good"].index),
                f"{size(used)} of {size(limit)} in use ({share:.0f} %){grows}",
                hint,
            )
        )
    else:
        total = size(int(facts.get("total_system_memory", 0)))
        said = f"{size(used)} in use and no limit: it may take all the machine has ({total}){grows}"
        advice = "CONFIG SET maxmemory to what it may take, with maxmemory-policy noeviction: then writers wait instead"
        parts.append(("note" if soon == "good" else soon, said, "; ".join(filter(None, (hint, advice)))))
    return worst("memory", parts)


def growth(connection: Connection, stream: str, *, limited: bool) -> Growth:
    """Measures for the doctor a stream's memory on the server and its growth, from samples over the last day."""
    info = stream_info(connection, stream.encode())
    if not info.exists:
        return Growth(stream, 0, 0, 0.0, limited)
    used, (seconds, _) = int(connection.call("MEMORY", "USAGE", stream) or 0), connection.call("TIME")
    rates = []
    for ago in GROWTH_AGES:
        begin = max(int(seconds) - ago, info.first_id[0] / 1000)
        end = f"{(int(seconds) - ago + HOUR + 1) * 1000}-0"
        rows = connection.call("XRANGE", stream, f"{int(begin * 1000)}-0", end, "COUNT", GROWTH_ENTRIES)
        until = parse_id(rows[-1][0])[0] / 1000 if len(rows) == GROWTH_ENTRIES else int(seconds) - ago + HOUR
        rates.append(len(rows) / max(1.0, until - begin) if begin < until else 0.0)
    return Growth(stream, info.length, used, DAY * sum(rates) / len(rates), limited)


# -- work ----------------------------------------------------------------------------------------------------


def load(slow: Sequence[tuple[str, float, str]], stats: ServerFacts, cpu: ServerFacts, uptime: float) -> Finding:
    """Checks for the doctor the load of the Redis server: CPU, the share of the bridge's commands, and the slow log.

    `slow`: command, milliseconds and client's name of each row of SLOWLOG; `stats` and `cpu`: from INFO commandstats
    and INFO cpu; `uptime` in seconds. Pure.
    """
    ours = [(name, ms) for name, ms, client in slow if client == CLIENT_NAME]
    spent = {name.removeprefix("cmdstat_"): float(row.partition("usec=")[2].partition(",")[0])
             for name, row in stats.items() if name.startswith("cmdstat_")}  # fmt: skip
    total = sum(spent.values())
    wanted = {name.lower() for name in NEEDED} | {"xinfo|stream", "hmget", "evalsha"}
    share = 100 * sum(usec for name, usec in spent.items() if name in wanted) / total if total else 0.0
    busy = 100 * (float(cpu.get("used_cpu_user", 0)) + float(cpu.get("used_cpu_sys", 0))) / max(1.0, uptime)
    said = f"{busy:.1f} % of a core since it started, {share:.0f} % of its commands' time on such as ours"
    parts: list[Judgement] = [
        ("note" if busy > 50 else "good", said, "which programs ask so much? INFO commandstats" if busy > 50 else "")
    ]
    if ours:
        name, worst_ms = max(ours, key=lambda pair: pair[1])
        said = f"{counted(len(ours), 'command')} of ours in the slow log, the slowest {name} with {worst_ms:.0f} ms"
        parts.append(("note", said, "are messages very large, or the machine busy? SLOWLOG GET tells"))
    elif slow:
        parts.append(("good", f"{counted(len(slow), 'command')} of others in the slow log", ""))
    return worst("load", parts)


def _slow(connection: Connection) -> list[tuple[str, float, str]]:
    rows = connection.call("SLOWLOG", "GET", 128)
    return [
        (row[3][0].decode(errors="replace"), row[2] / 1000, row[5].decode(errors="replace") if len(row) > 5 else "")
        for row in rows
    ]


def latency(millis: Sequence[float]) -> Finding:
    """Makes the doctor's finding about the latency of the Redis server, from PING round trips in milliseconds. Pure."""
    middle, longest = median(millis), sorted(millis)[int(0.98 * len(millis))]
    said = f"{middle:.2f} ms there and back, {longest:.1f} ms at worst of {len(millis)}"
    if middle > 50:
        return Finding(
            "latency", "bad", said, "a switch of a component waits for many round trips: use a nearer server"
        )
    if longest > 50:
        return Finding(
            "latency", "note", said, "is the machine busy, or does the server fork? redis-cli --latency-history"
        )
    return Finding("latency", "good", said)


def clocks(ahead: float) -> Finding:
    """Makes the doctor's finding about the Redis server's clock, which is `ahead` of ours by so many seconds. Pure."""
    said = f"the server's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    if abs(ahead) > 60:
        return Finding("clock", "bad", said, "set the clocks: entry IDs are the server's time")
    if abs(ahead) > 2:
        return Finding("clock", "note", said, "entry IDs are the server's time; what goes by age is off by as much")
    return Finding("clock", "good", f"the clocks agree to {abs(ahead):.1f} s")


# -- all of it -----------------------------------------------------------------------------------------------


def examine(servers: Connections, settings: Settings, now: Callable[[], float]) -> list[Finding]:
    """Runs all of the doctor's checks of the Redis server and its clients, each by itself. Raises RedisLost.

    `now`: this machine's clock, in seconds since 1970.
    """
    connection = servers.to(settings.some_key)
    facts = server_info(connection, "server", "clients", "memory", "persistence", "stats", "replication", "cpu")
    told: dict[str, str] = {}
    names = ("appendfsync", "save", "tcp-keepalive", "client-output-buffer-limit", "bind", "protected-mode", "port",
             "tls-port")  # fmt: skip
    silent = ""
    try:
        told = config(connection, *names)
    except RedisRefused as error:
        silent = f"the server does not tell its configuration ({error.code})"

    def of_config(check: str, look: Callable[[], Finding]) -> Finding:
        return Finding(check, "unknown", silent) if silent else asked(check, look)

    def who() -> Finding:
        text = connection.call("CLIENT", "LIST").decode(errors="replace")
        return other_clients.clients(facts, [other_clients.Client.of(row) for row in text.splitlines()], told)

    def room() -> Finding:
        return memory(facts, [growth(there, mapping.stream.key, limited=mapping.retention.limited)
                              for mapping in settings.mappings
                              for there in [servers.to(mapping.stream.key)] if there is connection])  # fmt: skip

    def work() -> Finding:
        stats = server_info(connection, "commandstats")
        return load(_slow(connection), stats, facts, float(facts.get("uptime_in_seconds", 1)))

    def trips() -> Finding:
        millis = []
        for _ in range(PINGS):
            begun = time.perf_counter()
            connection.call("PING")
            millis.append(1000 * (time.perf_counter() - begun))
            time.sleep(BETWEEN)
        return latency(millis)

    def time_of_day() -> Finding:
        before = now()
        seconds, micros = connection.call("TIME")
        return clocks(int(seconds) + int(micros) / 1e6 - (before + now()) / 2)

    socket = settings.redis_url.startswith("unix:") or settings.redis_url == "embedded"
    return [
        version(facts, in_cluster=connection.in_cluster),
        asked("commands", lambda: commands(_known(connection))),
        asked("persistence", lambda: persistence(facts, told)),
        asked("memory", room),
        asked("clients", who),
        of_config("buffers", lambda: other_clients.buffers(told)),
        asked("load", work),
        asked("latency", trips),
        asked("clock", time_of_day),
        of_config(
            "exposure",
            lambda: other_clients.exposure(told, open_to_all=other_clients.is_open_to_all(connection), socket=socket),
        ),
        asked("rights", lambda: other_clients.look_at_rights(connection)),
        asked("neighbours", lambda: other_clients.look_at_neighbours(servers, settings)),
        other_clients.replication(facts)
        if sentinel_address(settings.redis_url) is None and not connection.in_cluster
        else asked("replication", lambda: failover.replicas(facts, _promised(connection))),
    ]


def _promised(connection: Connection) -> dict[str, str]:
    """Reads how many replicas a master wants before it takes a write; empty where it does not tell."""
    try:
        return config(connection, "min-replicas-to-write", "min-replicas-max-lag")
    except RedisRefused:
        return {}
