"""Redis as a cluster: the node of a stream's slot is found at each dial, and a failover loses and doubles nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from bridge import open_log
from bridge.admin.acl_rules import users
from bridge.admin.doctor.cluster import NodeWord, nodes, slots
from bridge.core.errors import RedisLost
from bridge.core.server_address import check_url, cluster_address, masked
from bridge.streams.cluster import Cluster, Node, SlotRange
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from tests.support.cluster_group import ClusterGroup
from tests.support.many import Sessions
from tests.support.project import shipped
from tests.support.rig import Rig, delimited, line, wait_until
from tests.support.traffic import Lines, Plain
from tests.support.verbs import EVERY

STREAM = "hestai:messages"


@pytest.mark.parametrize(
    ("url", "hosts", "node"),
    [
        ("cluster://h1,h2:6380", (("h1", 6379), ("h2", 6380)), "redis://10.0.0.1:7/"),
        ("cluster://u:p%40w@h1/0", (("h1", 6379),), "redis://u:p%40w@10.0.0.1:7/"),
        ("clusters://[::1]:1,h2:2?ssl_ca_certs=/ca", (("::1", 1), ("h2", 2)), "rediss://10.0.0.1:7/?ssl_ca_certs=/ca"),
    ],
)
def test_addresses(url: str, hosts: tuple[tuple[str, int], ...], node: str) -> None:
    """The url names nodes and the user of all of them; a password is never shown."""
    address = cluster_address(check_url(url, "here"))
    assert address is not None
    assert (address.hosts, address.node_url("10.0.0.1", 7)) == (hosts, node)
    assert "p%40w" not in masked(url) + address.shown


@pytest.fixture
def group(binary: Binary) -> Iterator[ClusterGroup]:
    made = ClusterGroup(binary, password="secret")
    yield made
    made.close()


def test_every_command_finds_its_node(rig: Rig, group: ClusterGroup) -> None:
    """Import, run, status, parity, doctor, tail, locate, quarantine, trim and snapshot work on a cluster."""
    rig.write_config(extra=f'[redis]\nurl = "{group.url}"')
    rig.log.write_bytes(line(b"one") + b"broken\n" + line(b"two"))
    for args, code in EVERY:
        done = rig.run(*args)
        assert done.returncode == code, (args, done)
        assert "secret" not in done.stdout + done.stderr
    told = {row["check"]: row for row in json.loads(rig.run("doctor", "--json").stdout)["checks"]}
    assert told["cluster"]["verdict"] == told["nodes"]["verdict"] == "good", told
    assert told["cluster"]["evidence"] == "16,384 slots on 3 masters"
    assert "a node of a cluster" in told["server"]["evidence"]
    assert "min-replicas-to-write" in told["replication"]["evidence"]
    source = group.master(STREAM)
    group.begin_move(STREAM)
    group.kill(next(port for port in group.ports if group.info(port, "role") == "slave"))
    told = {row["check"]: row for row in json.loads(rig.run("doctor", "--json").stdout)["checks"]}
    assert f"127.0.0.1:{source} moves 1 slot" in told["cluster"]["evidence"]


def test_what_the_doctor_says_of_a_cluster() -> None:
    """Slots that nobody serves, or that one node alone has, memory that is short, and no data on disk are faults."""
    first, second = Node("a", 1), Node("b", 2)
    fine = [SlotRange(0, 8191, first, (second,)), SlotRange(8192, 16383, second, (first,))]
    word = NodeWord("a:1", facts={"used_memory": "10", "maxmemory": "100", "aof_enabled": "1"})
    assert (slots(fine, [word]).verdict, nodes([word]).verdict) == ("good", "good")
    for ranges, words, said in (
        (fine[:1], [word], "8,192 slots of 16,384 are served by nobody"),
        ([SlotRange(0, 16383, first, ())], [word], "no replica has the slots of a:1"),
        (fine, [NodeWord("a:1", "refused")], "a:1 does not answer"),
        (fine, [NodeWord("a:1", state="fail")], "in state fail"),
    ):
        found = slots(ranges, words)
        assert (found.verdict, said in found.evidence) == ("bad", True), found
    for facts, said in (
        ({"maxmemory": "9", "maxmemory_policy": "allkeys-lru"}, "throws streams away"),
        ({"used_memory": "95", "maxmemory": "100"}, "in use"),
        ({"aof_enabled": "0"}, "started again by itself"),
    ):
        found = nodes([NodeWord("a:1", facts=facts)])
        assert (found.verdict, said in found.evidence) == ("bad", True), found
    assert nodes([NodeWord("a:1", "refused")]).verdict == "unknown"


class Load:
    """File-born and Redis-born messages, a hundred of each a second, while a bridge carries both ways."""

    def __init__(self, rig: Rig, group: ClusterGroup) -> None:
        self.rig, self.group = rig, group
        self.lines, self.plain = Lines(rig, 0.01), Plain(group, 0.01)
        self.file_born, self.acknowledged = self.lines.written, self.plain.acknowledged

    def __enter__(self) -> Load:
        self.lines.__enter__()
        self.plain.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.__exit__()
        self.plain.__exit__()

    def more(self, count: int = 50) -> None:
        """Waits until so many more messages of each kind are on both sides."""
        lines, entries = len(self.file_born) + count, len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= entries and len(self.file_born) >= lines, "messages")
        wait_until(lambda: self.group.length(STREAM) >= lines + entries, self.rig.said)


def check(rig: Rig, load: Load) -> None:
    """Each file-born line is on both sides once and in order, so is each entry, and parity says EQUAL."""

    def settled() -> bool:
        with closing(load.group.connect(STREAM)) as connection:
            return bool(connection.call("XLEN", STREAM) == rig.log.read_bytes().count(b"\n"))

    wait_until(lambda: load.group.master(STREAM) and settled(), rig.said)
    with closing(load.group.connect(STREAM)) as connection:
        rows = [(fields[7], len(fields) > 8) for _, fields in connection.call("XRANGE", STREAM, "-", "+")]
    assert [data for data, _ in rows if data.startswith(b"line-")] == load.file_born
    born = [data for data, _ in rows if data.startswith(b"plain-")]
    assert sorted(set(born)) == sorted(born)
    lines = [row.rpartition(b"|")[2] for row in rig.log.read_bytes().splitlines()]
    assert [data for data in lines if data.startswith(b"line-")] == load.file_born
    assert sorted(data for data in lines if data.startswith(b"plain-")) == sorted(born)
    done = rig.run("parity", "--json", "--redis", load.group.url)
    assert json.loads(done.stdout)["verdict"] == "equal", done


@pytest.mark.parametrize("how", ["key by key", "at once"])
def test_a_slot_that_moves(rig: Rig, group: ClusterGroup, how: str) -> None:
    """The stream's slot moves to another master and back under load: nothing is lost, doubled or out of order."""
    if how == "at once" and group.binary.flavour != "valkey":
        pytest.skip("Redis moves slots key by key")
    child = rig.ready(rig.start(url=group.url))
    with Load(rig, group) as load:
        for _ in range(2):
            load.more()
            before = group.master(STREAM)
            pause = Event()
            if how == "key by key":
                group.move_slot(STREAM, pause=lambda: pause.wait(0.1))
            else:
                group.move_slot_at_once(STREAM)
            wait_until(lambda before=before: group.master(STREAM) not in (0, before), group.told)  # type: ignore[misc]
            load.more()
    check(rig, load)
    born = [row for row in rig.log.read_bytes().splitlines() if b"|plain-" in row]
    assert {row.rpartition(b"|")[2] for row in born} >= set(load.acknowledged)
    rig.stop(child)


def test_the_first_message_while_its_slot_moves(rig: Rig, group: ClusterGroup) -> None:
    """The first message of a claimed stream is carried though a move of its slot was begun and never went on."""
    rig.log.write_bytes(b"")
    child = rig.ready(rig.start(url=group.url))
    numbers = f"bridge:{{{STREAM}}}:sources"

    def numbered() -> bool:
        with closing(group.connect()) as connection:
            return bool(connection.call("HLEN", numbers))

    wait_until(numbered, rig.said)
    assert group.length() == 0
    source, target, _ = group.begin_move(STREAM)
    rig.append("first")
    wait_until(lambda: group.length() == 1, rig.said, 30)
    rig.append("second")
    wait_until(lambda: group.length() == 2, rig.said, 30)
    group.end_move(STREAM, source, target)
    rig.append("third")
    wait_until(lambda: group.length() == 3, rig.said, 30)
    rig.stop(child)
    done = rig.run("parity", "--json", "--redis", group.url)
    assert json.loads(done.stdout)["verdict"] == "equal", done


def test_what_a_cluster_cannot_say(binary: Binary) -> None:
    """No node, a slot that nobody serves, a slot that moves: each is an error of a server that is away, and is said."""
    address = cluster_address("cluster://127.0.0.1:1,127.0.0.1:2")
    assert address is not None
    with pytest.raises(RedisLost, match="cannot connect"):
        Cluster(address).dial(b"x")
    with pytest.raises(RedisLost, match="none of 2 nodes answers"):
        Cluster(address).slots()


def test_streams_on_several_nodes(rig: Rig, group: ClusterGroup) -> None:
    """Mappings whose streams other nodes have are carried, proved, cut over, trimmed and retired by one process."""
    names = ("hestai-message", "hestai-inbox", "hestai-context", "hestai-state", "hestai-artifacts")
    (rig.path / "bridge.toml").write_text(
        f'instance = "test"\nroot = "files"\nmappings = {list(names)}\n[redis]\nurl = "{group.url}"\n'
        '[state]\ndir = "state"\n[components.ui]\nroles = ["ui"]\n'
    )
    rig.log.write_bytes(b"".join(line(f"line {n}") for n in range(50)))
    (rig.root / "state").mkdir()
    (rig.root / "state" / "mood").write_bytes(b"calm")
    (rig.root / "context").mkdir()
    (rig.root / "context" / "a.ctx").write_bytes(b"a chunk\n")
    keys = [mapping.stream.key for mapping in rig.settings().mappings]
    assert len({group.master(key) for key in keys}) > 1, "they are on several nodes"
    child = rig.ready(rig.start(url=group.url))

    def equal() -> dict[str, object] | None:
        done = rig.run("parity", "--json")
        found: dict[str, object] = json.loads(done.stdout) if done.stdout else {"verdict": done.stderr}
        return found if found["verdict"] == "equal" else None

    wait_until(lambda: group.length("hestai:messages") == 50, rig.said)
    wait_until(equal, lambda: rig.said() + rig.run("parity").stdout)
    status = json.loads(rig.run("status", "--json").stdout)
    assert [(row["mapping"], row["error"]) for row in status["mappings"]] == [(name, None) for name in names]
    with open_log("hestai-message", "ui", config=rig.path / "bridge.toml", start="end") as log:
        log.append("say", "from the file")
        switch = ("cutover", "ui", "--mapping", "hestai-message", "--execute")
        wait_until(lambda: rig.run(*switch).returncode == 0, rig.said)  # once its first heartbeat is there
        wait_until(lambda: log.writes == "redis", rig.said)
        log.append("say", "from Redis")
        wait_until(lambda: rig.log.read_bytes().endswith(b"|from Redis\n"), rig.said)
    done = rig.run("doctor", "--json")
    assert {row["check"]: row["verdict"] for row in json.loads(done.stdout)["checks"]}["components"] == "good", done
    wait_until(equal, rig.said)
    rig.stop(child)
    done = rig.run("retire", "hestai-message", "--execute", "--force", "hestai-message", "--reason", "a test")
    assert done.returncode == 0, done
    assert rig.run("purge", "hestai-message", "--execute").returncode == 0
    with closing(group.connect()) as connection:
        assert connection.call("EXISTS", f"bridge:{{{STREAM}}}:meta", f"bridge:{{{STREAM}}}:components") == 0
        assert connection.call("EXISTS", f"bridge:{{{STREAM}}}:retired") == 1


def test_the_smallest_rights(rig: Rig, group: ClusterGroup) -> None:
    """On a cluster, with replicas to wait for, the bridge and a component need no more rights than `bridge acl` gives."""
    url = group.url.replace("cluster://:secret@", "cluster://{}:own@")
    redis = f'[redis]\nurl = "{url.format("bridge-test")}"\nreplicas = 1\n'
    rig.write_config(extra=f'{redis}[components.ui]\nroles = ["ui"]')
    settings = rig.settings(url=url.format("bridge-test"))
    for port in group.ports:
        for user in users(settings):
            assert group.ask(port, "ACL", "SETUSER", user.name, "on", ">own", *user.rules.split(" ")) == b"OK", user
    rig.append("one")
    child = rig.ready(rig.start(url=settings.redis_url))
    with closing(group.connect()) as subscriber:
        subscriber.call("SSUBSCRIBE", f"{{{STREAM}}}:notify")
        rig.append("a line to be announced")
        assert json.loads(subscriber.read()[2])["stream"] == STREAM
    config = rig.path / "bridge.toml"
    with open_log("hestai-message", "ui", config=config, redis=url.format("ui")) as log:
        wait_until(lambda: group.length() == 2, rig.said)
        wait_until(lambda: json.loads(rig.run("parity", "--json").stdout)["verdict"] == "equal", rig.said)
        switch = ("cutover", "ui", "--execute", "--accept-volatile")
        wait_until(lambda: rig.run(*switch).returncode == 0, rig.said)  # once its first heartbeat is there
        wait_until(lambda: log.writes == "redis", rig.said)
        log.append("say", "two")
        wait_until(lambda: rig.log.read_bytes().endswith(b"|two\n"), rig.said)
        assert [message.text for message in log.follow(idle=1.0)] == ["one", "a line to be announced", "two"]
    rig.stop(child)
    for args in (("parity",), ("status",), ("tail",), ("locate", "messages.log:1"), ("rollback", "ui", "--execute")):
        done = rig.run(*args)
        assert done.returncode == 0 or "does not run" in done.stdout + done.stderr, (args, done)
        assert "NOPERM" not in done.stdout + done.stderr, (args, done)


def test_a_stream_for_each_log_in_a_cluster(rig: Rig, group: ClusterGroup) -> None:
    """Many streams of one mapping lie on all nodes, are carried both ways, and read in one loop, also over a failover."""
    sessions = Sessions(rig, [f"s{n}" for n in range(12)])
    (rig.path / "bridge.toml").write_text(
        (rig.path / "bridge.toml").read_text() + f'[redis]\nurl = "{group.url}"\nreplicas = 1\n'
    )
    for name in sessions.names[:10]:
        sessions.append(name, f"1 {name}", f"2 {name}")
    assert len({group.master(sessions.stream(name)) for name in sessions.names}) == 3
    child = rig.ready(rig.start(url=group.url))

    def add(name: str, data: str) -> None:
        fields = ("role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say", "data", data)
        group.ask(group.master(sessions.stream(name)), "XADD", sessions.stream(name), "*", *fields)

    def lengths() -> list[object]:
        streams = map(sessions.stream, sessions.names)
        return [group.ask(group.master(stream), "XLEN", stream) for stream in streams]

    wait_until(lambda: lengths() == [2] * 10 + [0, 0], lambda: f"{lengths()} {rig.said()}")
    for name in sessions.names:
        add(name, f"r {name}")
    wait_until(lambda: all(sessions.in_file(name)[-1:] == [f"r {name}".encode()] for name in sessions.names), rig.said)
    with open_log("sessions", "ui", config=rig.path / "bridge.toml", streams="*") as logs:
        assert len(list(logs.follow(idle=2.0))) == 32
        group.kill(group.master(sessions.stream("s0")))
        for name in sessions.names:
            sessions.append(name, f"after {name}")
        wait_until(lambda: lengths() == [4] * 10 + [2, 2], lambda: f"{lengths()} {rig.said()}")
        assert len(list(logs.follow(idle=2.0))) == 12
    wait_until(lambda: rig.run("parity").stdout.endswith("EQUAL\n"), lambda: rig.run("parity").stdout[-2000:])
    rig.stop(child)


def test_one_node_that_is_away(rig: Rig, group: ClusterGroup) -> None:
    """A node that is gone with its replica hides no other: status, parity, locate and doctor tell of the streams there."""
    others = ("hestai-inbox", "hestai-context", "hestai-state", "hestai-debates")
    keys = {name: tomllib.loads(shipped(name))["stream"]["key"] for name in others}
    other = next(name for name in others if group.master(keys[name]) != group.master(STREAM))
    (rig.path / "bridge.toml").write_text(
        f'instance = "test"\nroot = "files"\nmappings = ["{other}", "hestai-message"]\n'
        f'[redis]\nurl = "{group.url}"\n[state]\ndir = "state"\n'
    )
    rig.append("one")
    for port in group.ports:  # the others go on
        group.ask(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    assert rig.run("run", "--dual", "--once").returncode == 0
    master = group.master(keys[other])
    for port in (*group.replicas_of(master), master):
        group.kill(port)
    status = json.loads(rig.run("status", "--json").stdout)
    assert [bool(row["error"]) for row in status["mappings"]] == [True, False], status
    done = rig.run("parity", "--json")
    told = {row["mapping"]: row["verdict"] for row in json.loads(done.stdout)["mappings"]}
    assert (done.returncode, told) == (4, {other: "inconclusive", "hestai-message": "equal"}), done
    done = rig.run("repair", "--json")
    assert (done.returncode, {row["mapping"]: "error" in row for row in json.loads(done.stdout)}) == (
        4,
        {"hestai-message": False, other: True},
    ), done
    assert f"{other} is not looked at" in done.stderr
    assert rig.run("locate", "messages.log:1").returncode == 0
    assert rig.run("import-history", "--dry-run").returncode == 0
    checks = json.loads(rig.run("doctor", "--json").stdout)["checks"]
    assert {"server", "cluster"} <= {row["check"] for row in checks if row["verdict"] == "bad"}


def test_hosts_whose_streams_are_on_several_nodes(rig: Rig, group: ClusterGroup, tmp_path: Path) -> None:
    """Bridges of several hosts have streams on several nodes by one mapping file; their proofs are found everywhere."""
    text = delimited("messages.log", mirror="messages.log").replace(STREAM, "logs:{instance}")
    names = ["a", next(name for name in "bcdefgh" if group.master(f"logs:{name}") != group.master("logs:a"))]
    (tmp_path / "b").mkdir()
    hosts = dict(zip(names, (rig, rig.beside(tmp_path / "b")), strict=True))
    for name, host in hosts.items():
        (host.path / "mine.toml").write_text(text)
        host.write_config(mapping="mine.toml", instance=name, extra=f'[redis]\nurl = "{group.url}"')
        host.append(f"of {name}")
        host.ready(host.start(url=group.url))
    for host in hosts.values():
        wait_until(lambda host=host: host.run("parity").returncode == 0, host.said)  # type: ignore[misc]

    def told() -> dict[str, object]:
        found: dict[str, object] = json.loads(rig.run("parity", "--all-hosts", "--json").stdout)
        return found

    wait_until(lambda: told()["verdict"] == "equal", lambda: str(told()))
    rows = told()["hosts"]
    assert isinstance(rows, list)
    assert [(row["instance"], row["compared"]) for row in rows] == [(name, 1) for name in names]
    for host in hosts.values():
        host.stop(host.children[-1])


def test_a_retired_stream_that_moves(rig: Rig, group: ClusterGroup) -> None:
    """A program that starts while the slot of a retired stream moves does not fall back to the dead file."""
    rig.write_config(extra=f'[redis]\nurl = "{group.url}"\n[components.ui]\nroles = ["ui"]')
    rig.append("one")
    assert rig.run("run", "--dual", "--once").returncode == 0
    retired = f"bridge:{{{STREAM}}}:retired"
    with closing(group.connect()) as connection:
        connection.call("SET", retired, '{"mapping": "hestai-message", "who": "somebody", "at": 1}')
    source, target, _ = group.begin_move(STREAM)
    with closing(Connection(group.url_of(source))) as connection:
        connection.call("MIGRATE", "127.0.0.1", target, "", 0, 5000, "AUTH", "secret", "KEYS", retired)
    before = rig.log.read_bytes()
    (rig.state / "ledger.db").rename(rig.path / "elsewhere.db")  # a machine that knows of no end
    with open_log("hestai-message", "ui", config=rig.path / "bridge.toml") as log:
        log.append("say", "two")
        assert rig.log.read_bytes() == before
        group.end_move(STREAM, source, target)
        wait_until(lambda: group.length() == 2, lambda: str(log.writes))
    assert rig.log.read_bytes() == before
