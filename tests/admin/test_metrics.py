"""What a monitor is told: true figures, and healthy only while both directions move or have nothing to do."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from bridge.admin.metrics.health import STUCK_AFTER, DirectionHealth, Health
from bridge.admin.metrics.metrics_server import MOST_CLIENTS as SERVED
from bridge.admin.metrics.metrics_server import MetricsServer, Monitor
from bridge.core.errors import ConfigError, SourceError
from bridge.core.model import Position
from bridge.engine.lag import Lag
from bridge.engine.run import Process
from bridge.engine.status import MappingStatus, MirrorStatus, SourceStatus, Status
from bridge.files.catalog import Catalog
from bridge.files.tail import Tail
from bridge.kinds.direction_stats import BOUNDS, MOST_TIMES, DirectionStats, Latency, SourceRates, WriteTimes
from bridge.ledger.heartbeat import SILENT_AFTER, Trouble
from bridge.ledger.heartbeat import troubles as known
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from tests.support.project import ROOT, shipped
from tests.support.rig import STREAM, Rig, line, wait_until

METRICS = "\n[metrics]\nport = 0\n"
NAME = "hestai-message"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Status code, content type and body."""
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


class Watched:
    """A bridge with metrics, and what it tells."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.url = ""

    def start(self, *args: str, dual: bool = True) -> Any:
        """`bridge run`, once it serves its metrics."""
        child = self.rig.ready(self.rig.start(*args, dual=dual))
        log = self.rig.path / f"bridge-{len(self.rig.children) - 1}.log"
        wait_until(lambda: "metrics are at" in log.read_text() or child.poll() is not None, self.rig.said)
        found = re.search(r"metrics are at (\S+)/metrics", log.read_text())
        assert found is not None, log.read_text()
        self.url = found[1]
        wait_until(lambda: get(f"{self.url}/metrics")[0] == 200, self.rig.said)
        return child

    def samples(self) -> Samples:
        """Every sample, by its name and labels."""
        code, _, text = get(f"{self.url}/metrics")
        assert code == 200, text
        families: Iterable[Metric] = text_string_to_metric_families(text)
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """One sample; None: there is none."""
        return self.samples().get((f"bridge_{name}", frozenset(labels.items())))

    def way(self, name: str, direction: str) -> float | None:
        """One sample of a direction."""
        return self.value(name, mapping=NAME, direction=direction)

    def health(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """Status code, and what is said of each direction."""
        code, _, text = get(f"{self.url}/healthz")
        told = json.loads(text)
        assert told["healthy"] == (code == 200)
        return code, {direction["direction"]: direction for direction in told["directions"]}


def watch(rig: Rig) -> Watched:
    """Of the usual mapping."""
    rig.write_config(extra=METRICS)
    return Watched(rig)


def test_figures(one_rig: Rig) -> None:
    """Each figure is what was done: carried, rejected, quarantined, behind, compared, held by groups."""
    rig, watched = one_rig, watch(one_rig)
    rig.append("f-0")
    child = watched.start()
    wait_until(lambda: watched.way("messages_total", "forward") == 1, rig.said)  # history: an entry would disturb it
    rig.add("r-first")
    wait_until(lambda: watched.way("messages_total", "mirror") == 1, rig.said)
    met = watched.way("latency_seconds_count", "mirror") or 0  # it was there before the mirror, or not
    rig.append(*(f"f-{n}" for n in range(1, 40)))
    for group in (b"\xff", rb"\xff", b"\n", b'"'):
        rig.redis.call("XGROUP", "CREATE", STREAM, group, "0")
    with rig.log.open("ab") as file:
        file.write(b"no message at all\n")
    for n in range(7):
        rig.add(f"r-{n}")
    rig.redis.call("XADD", STREAM, "*", "role", "ui", "text", "no message either")
    for name, forward, mirror in (("messages_total", 40, 8), ("rejects_total", 1, 1)):
        wanted = [forward, mirror]
        wait_until(
            partial(lambda n, w: [watched.way(n, "forward"), watched.way(n, "mirror")] == w, name, wanted), rig.said
        )
    rig.redis.call("XGROUP", "CREATE", STREAM, "readers", "0")
    rig.redis.call("XREADGROUP", "GROUP", "readers", "one", "COUNT", "10", "STREAMS", STREAM, ">")
    assert rig.run("parity", "--redis", rig.url).returncode == 0
    told = wait_until(lambda: told if _of(told := watched.samples(), "group_pending_messages") else None, rig.said)

    born = ["r-first", *(f"r-{n}" for n in range(7))]
    mirrored = b"".join(line(data, "ui").replace(b"05.112Z|turn", b"06Z|say") for data in born)
    for way in ("forward", "mirror"):
        labels = {"mapping": NAME, "direction": way}
        assert _one(told, "lag_messages", **labels) == _one(told, "lag_bytes", **labels) == 0
        assert _one(told, "lag_seconds", **labels) == 0
        assert _one(told, "healthy", **labels) == 1
        assert _one(told, "reconnects_total", **labels) == 0
        assert 1 <= _one(told, "batches_total", **labels) <= 45
        (reason, count) = next((dict(key)["reason"], value) for key, value in _of(told, "quarantined_messages").items()
                               if dict(key)["direction"] == way)  # fmt: skip
        assert count == 1
        assert "field" in reason or "column" in reason
    assert _one(told, "bytes_total", mapping=NAME, direction="mirror") == len(mirrored)
    assert _one(told, "bytes_total", mapping=NAME, direction="forward") > rig.log.stat().st_size - len(mirrored)
    assert _one(told, "latency_seconds_count", mapping=NAME, direction="forward") == 39  # the first was history
    assert _one(told, "latency_seconds_count", mapping=NAME, direction="mirror") == met + 7
    verdicts = {dict(key)["verdict"]: value for key, value in _of(told, "parity_verdict").items()}
    assert verdicts == {"equal": 1, "differs": 0, "inconclusive": 0}
    assert 0 <= _one(told, "parity_age_seconds", mapping=NAME) < 90
    assert _one(told, "stream_entries", mapping=NAME) == 49
    assert _one(told, "stream_bytes", mapping=NAME) == rig.redis.call("MEMORY", "USAGE", STREAM)
    assert _one(told, "group_pending_messages", mapping=NAME, group="readers") == 10
    assert _one(told, "group_lag_messages", mapping=NAME, group="readers") == 39
    assert len({dict(key)["group"] for key in _of(told, "group_pending_messages")}) == 5
    assert _one(told, "redis_up") == 1
    assert 0 <= _one(told, "heartbeat_age_seconds") < SILENT_AFTER
    assert _one(told, "info", bridge="test", carries="both", version="0.1.0", group="") == 1
    assert watched.health()[0] == 200

    chapter = (ROOT / "MIGRATION.md").read_text().partition("## On a dashboard\n")[2].partition("## ")[0]
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name, _ in told if name.startswith("bridge_")}
    assert {name for name in names if f"`{name}`" not in chapter} == set()
    kind, text = get(f"{watched.url}/metrics", Accept="application/openmetrics-text; version=1.0.0")[1:]
    assert kind.startswith("application/openmetrics-text")
    assert "bridge_messages" in {family.name for family in openmetrics_families(text)}  # type: ignore[no-untyped-call]
    assert get(f"{watched.url}/secrets")[0] == 404
    rig.stop(child)


def _of(told: Samples, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {labels: value for (family, labels), value in told.items() if family == f"bridge_{name}"}


def _one(told: Samples, name: str, **labels: str) -> float:
    return told[f"bridge_{name}", frozenset(labels.items())]


def test_what_stands_is_not_healthy(one_rig: Rig) -> None:
    """Redis gone, a file in the way of the mirror: not healthy while it lasts, and what waited counts as late."""
    rig, watched = one_rig, watch(one_rig)
    child = watched.start()
    wait_until(lambda: watched.health()[0] == 200, lambda: str(watched.health()))
    rig.append("f-0")
    rig.add("r-0")
    rig.settle([b"f-0"], [b"r-0"])
    with rig.log.open("ab") as file:
        file.write(b"agent|2026-03-02T09:14:05.112Z|turn|half")
        file.flush()
        rig.add("r-1")
        wait_until(lambda: watched.health()[1]["mirror"]["state"] == "stuck", rig.said)
        code, ways = watched.health()
        assert code == 503
        assert "middle of a line" in ways["mirror"]["why"]
        assert ways["mirror"]["waiting"] == 1
        assert watched.way("lag_messages", "mirror") == 1
        assert watched.way("healthy", "mirror") == 0
        assert watched.way("healthy", "forward") == 1
        file.write(b"-a-line\n")
    rig.settle([b"f-0", b"half-a-line"], [b"r-0", b"r-1"])
    wait_until(lambda: watched.health()[0] == 200, rig.said)

    rig.kill_server()
    rig.append("f-1")
    wait_until(lambda: watched.health()[0] == 503, rig.said)
    wait_until(lambda: watched.value("redis_up") == 0, rig.said)
    assert watched.health()[1]["forward"]["state"] == watched.health()[1]["mirror"]["state"] == "stuck"
    assert watched.way("lag_messages", "forward") == 1
    assert watched.way("lag_messages", "mirror") is None
    Event().wait(0.6)  # so that it is late
    rig.start_server()
    rig.settle([b"f-0", b"half-a-line", b"f-1"], [b"r-0", b"r-1"])
    wait_until(lambda: watched.health()[0] == 200, rig.said)
    told = watched.samples()
    for way in ("forward", "mirror"):
        assert _one(told, "reconnects_total", mapping=NAME, direction=way) >= 1
        assert _one(told, "retries_total", mapping=NAME, direction=way) >= 1
    buckets = {dict(key)["le"]: value for key, value in _of(told, "latency_seconds_bucket").items()
               if dict(key)["direction"] == "forward"}  # fmt: skip
    assert buckets["+Inf"] - buckets["0.5"] == 1
    rig.stop(child)


def test_a_listener_never_holds_up_the_end(one_rig: Rig) -> None:
    """Forward alone is healthy alone; who connects and says nothing keeps nobody; the port is this machine's."""
    rig, watched = one_rig, watch(one_rig)
    child = watched.start(dual=False)
    rig.add("r-0")
    port = int(watched.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: watched.health()[0] == 200, rig.said)
        assert watched.health()[1]["mirror"]["state"] == "off"
        assert watched.way("healthy", "mirror") is None
        assert watched.way("healthy", "forward") == 1
        assert _listens(port) == {"127.0.0.1"}
        rig.stop(child)


def _listens(port: int) -> set[str]:
    """The addresses somebody listens on at this port."""
    if not Path("/proc/net/tcp").exists():
        return {"127.0.0.1"}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    found = [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address for address in found}


def test_slow_and_many_clients(one_rig: Rig) -> None:
    """Clients that dribble take a few descriptors and no more, for ten seconds and no longer; what is carried goes on."""
    rig, watched = one_rig, watch(one_rig)
    child = watched.start()
    port, told = int(watched.url.rpartition(":")[2]), b"GET /healthz HTTP/1.1\r\nX: "
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    for connection in clients:
        connection.settimeout(0)
        connection.sendall(told)
    gone: set[socket.socket] = set()

    def dribble() -> bool:
        for connection in {*clients} - gone:
            try:
                connection.send(b"x")
                if connection.recv(1) == b"":
                    gone.add(connection)
            except BlockingIOError:
                continue
            except OSError:
                gone.add(connection)
        return len(gone) == len(clients)

    wait_until(lambda: dribble() or len(gone) >= 60 - SERVED, rig.said)
    assert len(gone) == 60 - SERVED
    if Path("/proc/self/fd").exists():
        assert len([*Path(f"/proc/{child.pid}/fd").iterdir()]) < 60
    rig.append("f-0")
    wait_until(lambda: rig.datas() == [b"f-0"], rig.said)
    wait_until(dribble, rig.said)
    for connection in clients:
        connection.close()
    wait_until(lambda: watched.health()[0] == 200, rig.said)
    rig.stop(child)


def test_nothing_of_a_message_is_told(one_rig: Rig) -> None:
    """A line that stops its mapping is told by its place; a message's text is for who may read the files."""
    rig, watched = one_rig, watch(one_rig)
    mapping_text = shipped(NAME)
    (rig.path / "strict.toml").write_text(mapping_text + '\n[policy]\non_reject = "stop"\n')
    rig.write_config(mapping="strict.toml", extra=METRICS)
    rig.log.write_bytes(b"a secret\n")
    child = watched.start()
    wait_until(lambda: watched.health()[1].get("forward", {}).get("state") == "stuck", rig.said)
    assert "messages.log offset 0" in watched.health()[1]["forward"]["why"]
    assert "secret" in rig.said()
    assert "secret" not in get(f"{watched.url}/healthz")[2] + get(f"{watched.url}/metrics")[2]
    rig.stop(child)


def test_asked_once_it_knows(one_rig: Rig) -> None:
    """The bridge looks by itself: who asks for the first time, after nothing moved for long, is told so."""
    rig, watched = one_rig, watch(one_rig)
    child = watched.start()
    wait_until(lambda: watched.health()[0] == 200, rig.said)
    rig.redis.call("CLIENT", "PAUSE", 60_000, "WRITE")
    rig.append("f-0")
    Event().wait(STUCK_AFTER + 8)
    code, ways = watched.health()
    assert (code, ways["forward"]["state"], ways["forward"]["waiting"]) == (503, "stuck", 1)
    assert "goes on" not in rig.said()  # what is only sent has not arrived
    rig.redis.call("CLIENT", "UNPAUSE")
    wait_until(lambda: watched.health()[0] == 200, rig.said)
    rig.stop(child)


def test_trouble_the_ledger_could_not_note(tmp_path: Path) -> None:
    """What a worker waits for, and that it is over, is noted later where the ledger is held by somebody else."""
    ledger, troubles = Ledger(tmp_path / "ledger.db", create=True), Troubles(lambda: 7.0)

    def noted() -> list[tuple[str, float | None]]:
        return [(trouble.error, trouble.over) for trouble in known(ledger).values()]

    acts: list[tuple[Callable[[], None], list[tuple[str, float | None]]]] = [
        (lambda: troubles.note(ledger, "forward a", SourceError("is a folder")), [("is a folder", None)]),
        (lambda: troubles.clear(ledger, "forward a"), [("is a folder", 7.0)]),
    ]
    for act, wanted in acts:
        before = noted()
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            act()
            other.execute("ROLLBACK")
        assert noted() == before
        troubles.save(ledger)
        assert noted() == wanted
    ledger.close()


def test_every_kind_is_counted(one_rig: Rig) -> None:
    """A folder of messages and a latest value are carried with their times."""
    rig = one_rig
    (rig.path / "values.toml").write_text(
        'name = "values"\n[source]\nkind = "state"\npath = "value.json"\n'
        '[message]\nrole = { const = "ui" }\ntype = { const = "note" }\n[stream]\nkey = "test:values"\n'
    )
    (rig.path / "inbox.toml").write_text(
        'name = "inbox"\n[source]\nkind = "spool"\npath = "inbox/*.md"\n'
        '[format]\ncodec = "document"\n[message]\nrole = { const = "ui" }\ntype = { const = "note" }\n[stream]\nkey = "test:inbox"\n'
    )
    (rig.path / "theirs.toml").write_text(
        'name = "theirs"\n[source]\nkind = "state"\npath = "theirs.json"\nowner = "redis"\n'
        '[message]\nrole = { const = "ui" }\ntype = { const = "note" }\n[stream]\nkey = "test:theirs"\n'
    )
    (rig.root / "inbox").mkdir()
    (rig.path / "bridge.toml").write_text(
        'instance = "test"\nroot = "files"\nmappings = ["values.toml", "inbox.toml", "theirs.toml"]\n[state]\ndir = "state"\n'
        + METRICS
    )
    watched = Watched(rig)
    child = watched.start()
    wait_until(lambda: watched.value("healthy", mapping="inbox", direction="forward") == 1, rig.said)
    (rig.root / "inbox" / "one.md").write_text("hello\n")
    (rig.root / "value.json").write_text('{"a": 1}\n')
    for name in ("inbox", "values"):
        labels = {"mapping": name, "direction": "forward"}
        wait_until(partial(lambda them: watched.value("messages_total", **them) == 1, labels), rig.said)
        told = watched.samples()
        assert _one(told, "latency_seconds_count", **labels) == 1
        assert _one(told, "latency_seconds_sum", **labels) > 0
        assert _one(told, "bytes_total", **labels) > 0
    hash_of = "bridge:{test:theirs}:state:theirs.json"
    rig.redis.call("HSET", hash_of, "data", "{}", "timestamp", "2026-03-02T09:14:06Z", "role", "ui")
    wait_until(lambda: watched.value("messages_total", mapping="theirs", direction="mirror") == 1, rig.said)
    wait_until(lambda: watched.value("healthy", mapping="theirs", direction="mirror") == 1, rig.said)
    assert watched.value("messages_total", mapping="theirs", direction="forward") is None
    assert (rig.root / "theirs.json").read_text() == "{}"
    rig.stop(child)


def test_a_port_that_cannot_be_had(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A taken port, or no prometheus-client: nothing is begun, and the error says what to do."""
    rig = one_rig
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rig.write_config(extra=f"\n[metrics]\nport = {taken.getsockname()[1]}\n")
        done = rig.run("run", "--redis", rig.url)
        assert done.returncode == 2
        assert "port" in done.stderr
        assert "[metrics]" in done.stderr
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match="prometheus-client"):
        MetricsServer(rig.settings(), Process(rig.settings(), dual=True, poll=False, stop=Event()))
    rig.write_config(extra="\n[metrics]\nport = 70000\n")
    assert rig.run("status").returncode == 2


# -- the parts -----------------------------------------------------------------------------------------------


def test_latency() -> None:
    """Each message falls into the first bucket that reaches it; clocks that disagree count as no time."""
    latency = Latency()
    for seconds, count in ((0.005, 1), (0.0051, 2), (-3.0, 1), (7200.0, 4)):
        latency.add(seconds, count)
    assert latency.counts[0] == 2
    assert latency.counts[1] == 2
    assert latency.counts[len(BOUNDS)] == 4
    assert sum(latency.counts) == 8
    assert latency.total == pytest.approx(0.005 + 0.0102 + 4 * 7200)


def test_arrivals(tmp_path: Path) -> None:
    """A line was there when the file was changed that one look found and the one before did not."""
    path, seen = tmp_path / "a.log", WriteTimes()
    path.write_bytes(b"")
    tail = Tail(Catalog(tmp_path, "a.log", ()), "a.log", [])
    assert seen.of(1, 0) == 0
    for n in range(1, 2 * MOST_TIMES):
        with path.open("ab") as file:
            file.write(b"0123456789")
        os.utime(path, ns=(0, n * 1_000_000_000))
        tail.look()
        generation = tail.current()
        assert generation is not None
        seen.note(generation)
        seen.note(generation)
    assert seen.of(1, 0) == 1
    assert seen.of(1, 9) == 1
    for n in range(2, 2 * MOST_TIMES, 97):  # more than are kept: rather too early, and not by much
        assert n - 8 <= seen.of(1, 10 * n - 5) <= n
    assert seen.of(1, 20 * MOST_TIMES) == 0
    last = tail.current()
    tail.close()
    assert last is not None
    seen.note(last)  # its file is gone
    assert seen.of(1, 0) == 0


def status(*, lines: int = 0, entries: int | None = 0, offset: int = 0, **more: Any) -> Status:
    """Of one mapping with one source and a mirror."""
    mapping = MappingStatus(NAME, STREAM)
    mapping.sources = [SourceStatus("messages.log", Position(1, offset), Lag(lines, lines * 10))]
    mapping.mirror = MirrorStatus("messages.log", behind=None if entries is None else Lag(entries))
    return replace(Status(501.0, "", mappings=[mapping]), **more)


def carried(parts: dict[str, SourceRates] | None = None, *, dual: bool = True) -> dict[tuple[str, str], DirectionStats]:
    """Both directions, or forward alone."""
    flows = {(NAME, "forward"): DirectionStats(parts={"messages.log": SourceRates(0, 0), **(parts or {})})}
    return flows | {(NAME, "mirror"): DirectionStats()} if dual else flows


def states(going: list[DirectionHealth]) -> tuple[str, ...]:
    """Of forward and mirror."""
    return tuple(direction.state for direction in going)


def test_health_of_directions() -> None:
    """Waiting is no fault while something moves; after ten seconds without it is, until it moves again."""
    clock = [1000.0]
    health, flows = Health(lambda: clock[0]), carried()

    def judged(**facts: Any) -> tuple[str, ...]:
        return states(health.judge(status(**facts), flows, 0.5))

    assert judged() == ("idle", "idle")
    clock[0] += 3600
    assert judged(lines=5) == ("moving", "idle")
    for n in range(5):  # a long history
        clock[0] += STUCK_AFTER * 2
        flows[NAME, "forward"].parts = {"messages.log": SourceRates(n + 1, 0)}
        assert judged(lines=5) == ("moving", "idle")
    clock[0] += STUCK_AFTER * 2
    assert judged(lines=5, offset=10) == ("moving", "idle")  # over what makes no entries
    clock[0] += STUCK_AFTER - 0.1
    assert judged(lines=6, entries=1, offset=10) == ("moving", "moving")
    clock[0] += 0.2
    forward, mirror = health.judge(status(lines=6, entries=1, offset=10), flows, 0.5)
    assert (forward.state, mirror.state) == ("stuck", "moving")
    assert "10 s" in forward.why
    clock[0] += STUCK_AFTER
    assert judged(lines=6, entries=1, offset=10) == ("stuck", "stuck")
    flows[NAME, "mirror"].messages += 1
    assert judged(lines=6, entries=1, offset=10) == ("stuck", "moving")
    assert judged(offset=10) == ("idle", "idle")


def test_health_of_many_sources() -> None:
    """One that stands is not hidden by one that moves; what is not complete yet is not due."""
    clock = [0.0]
    health, current = Health(lambda: clock[0]), status(lines=5)
    current.mappings[0].sources.append(SourceStatus("busy.log", Position(1, 0), Lag(5, 50)))
    for n in range(4):
        flows = carried({"busy.log": SourceRates(n, 0)})
        clock[0] += STUCK_AFTER
        going = health.judge(current, flows, 0.5)
    assert states(going) == ("stuck", "idle")
    assert going[0].why.startswith("messages.log: ")
    assert going[0].waiting == Lag(10, 100)
    for _ in range(4):
        clock[0] += STUCK_AFTER
        assert states(health.judge(status(lines=5), carried({"messages.log": SourceRates(0, 5)}), 0.5)) == (
            "idle",
            "idle",
        )


def test_health_of_everything_else() -> None:
    """Trouble, Redis away, a ledger that cannot be read, no heartbeat, another's stream, a source that fails."""
    health, flows = Health(lambda: 0.0), carried()
    trouble = {f"forward {NAME}: messages.log": Trouble("it is in the way", "", 1.0)}
    assert states(health.judge(status(troubles=trouble), flows, 0.5)) == ("stuck", "idle")
    other = {"retention of it": Trouble("no room", "", 1.0), f"forward {NAME}-2": Trouble("", "", 1.0)}
    assert states(health.judge(status(troubles=other), flows, 0.5)) == ("idle", "idle")
    assert states(health.judge(status(entries=None, redis_error="gone"), flows, 0.5)) == ("stuck", "stuck")
    assert states(health.judge(status(ledger_error="not a ledger"), flows, 0.5)) == ("stuck", "stuck")
    assert states(health.judge(status(), flows, SILENT_AFTER + 1)) == ("stuck", "stuck")
    current = status()
    current.mappings[0].error = "the stream belongs to another bridge"
    assert states(health.judge(current, flows, 0.5)) == ("stuck", "stuck")
    current = status()
    current.mappings[0].sources[0].error = "cannot be read"
    assert states(health.judge(current, flows, 0.5)) == ("stuck", "idle")
    current.mappings[0].retired = 1.0
    assert states(health.judge(current, flows, 0.5)) == ("off", "off")
    assert states(health.judge(status(entries=9), carried(dual=False), 0.5)) == ("idle", "off")


def test_a_look_that_fails(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is known, both pages say so, and no old figure is told as if it was of now."""
    settings = one_rig.settings()
    monitor = Monitor(settings, Process(settings, dual=True, poll=False, stop=Event()))
    assert (monitor.healthz()[0], monitor.wrong) == (503, "nobody has looked yet")
    monitor.look()
    assert (monitor.healthz()[0], monitor.wrong) == (200, "")

    def fails(*args: object, **more: object) -> Status:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr("bridge.admin.metrics.metrics_server.sample", fails)
    monitor.look()
    assert monitor.healthz()[0] == 503
    assert monitor.wrong == "the look failed, see the log"
    monkeypatch.undo()
    monitor.look()
    assert monitor.healthz()[0] == 200
    monkeypatch.setattr("bridge.admin.metrics.metrics_server.BLIND", -1.0)
    assert monitor.healthz()[0] == 503
    assert "ago" in monitor.wrong


def test_asked_at_once(one_rig: Rig) -> None:
    """Many that ask at once are given answers, all of one look or the next."""
    rig, watched = one_rig, watch(one_rig)
    child = watched.start()
    wait_until(lambda: watched.health()[0] == 200, rig.said)
    codes: list[int] = []
    askers = [Thread(target=lambda page=page: codes.append(get(f"{watched.url}/{page}")[0]))
              for page in ("metrics", "healthz") * 20]  # fmt: skip
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join(60)
    assert codes == [200] * 40
    rig.stop(child)
