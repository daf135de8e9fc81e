"""`redis.replicas`: a message counts when so many replicas have it, for the client and for the mirror."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from bridge import open_log
from bridge.core.errors import ReplicasBehind
from bridge.files.outboxes import waiting
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from bridge.streams.replicas import wait_for_replicas
from tests.support.rig import STREAM, Rig, wait_until
from tests.support.server_group import ServerGroup, free_port

COMPONENTS = f"bridge:{{{STREAM}}}:components"


class Pair(ServerGroup):
    """A master and its replica, whom nobody watches."""

    def __init__(self, binary: Binary) -> None:
        super().__init__(binary)
        self.ports = [free_port(), free_port()]
        self.master, self.replica = self.ports
        for port in self.ports:
            self.start_server(port)
        self.follow(self.replica, self.master)

    def start_server(self, port: int) -> None:
        """Starts a server that is nobody's replica yet."""
        (self.folder / str(port)).mkdir(exist_ok=True)
        self.run(port, ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder / str(port)),
                        "--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0"])  # fmt: skip

    def follow(self, port: int, master: int) -> None:
        """Makes a server the replica of another one, and waits until it is."""
        self.ask(port, "REPLICAOF", "127.0.0.1", master)
        wait_until(lambda: self.is_linked(port), self.told, 30)


@pytest.fixture
def pair(binary: Binary) -> Iterator[Pair]:
    made = Pair(binary)
    yield made
    made.close()


def configured(rig: Rig, pair: Pair, *, seconds: float = 0.5) -> str:
    """bridge.toml that wants one replica; returns the master's url."""
    url = pair.url_of(pair.master)
    redis = f'[redis]\nurl = "{url}"\nreplicas = 1\nreplicas_timeout = {seconds}\n'
    rig.write_config(extra=f'{redis}[components.ui]\nroles = ["ui"]')
    return url


def on_disk(rig: Rig) -> int:
    """How many messages wait in outboxes."""
    return sum(waiting(rig.state, "hestai-message").values())


def test_a_wait_behind_nothing_written(pair: Pair) -> None:
    """From Redis 7.2 on, WAIT is answered at once where a connection only read: so something is written first."""
    with (
        closing(Connection(pair.url_of(pair.master))) as writer,
        closing(Connection(pair.url_of(pair.master))) as reader,
    ):
        pair.freeze(pair.replica)
        writer.call("XADD", "s", "*", "a", "b")
        assert reader.call("XREAD", "STREAMS", "s", "0")
        if pair.binary.version >= (7, 2):
            wait_for_replicas(reader, 1, 0.1)  # no promise at all
        with pytest.raises(ReplicasBehind, match="0 of 1 wanted replicas have"):
            wait_for_replicas(writer, 1, 0.1)
        pair.thaw(pair.replica)
        wait_for_replicas(writer, 1, 30)


def test_the_mirror_waits(rig: Rig, pair: Pair) -> None:
    """No line is written of an entry that the replica has not; it is held, said, and comes when the replica goes on."""
    url = configured(rig, pair)
    child = rig.ready(rig.start(url=url))
    with closing(Connection(url)) as redis:
        rig.add("one", connection=redis)
        wait_until(lambda: rig.lines() == [b"ui|2026-03-02T09:14:06Z|say|one"], rig.said)
        wait_until(lambda: redis.call("HLEN", f"bridge:{{{STREAM}}}:mirror"), rig.said)  # the mirror wrote last
        redis.call("SET", "behind", "all that the mirror wrote")
        wait_for_replicas(redis, 1, 30)
        pair.freeze(pair.replica)
        rig.add("two", connection=redis)
        said = wait_until(lambda: text if "they are held" in (text := rig.run("status").stdout) else None, rig.said)
        assert "0 of 1 wanted replicas have the latest messages" in said
        assert len(rig.lines()) == 1
        rig.append("a line")  # what is born in a file needs no replica: the file has it
        wait_until(lambda: redis.call("XLEN", STREAM) == 3, rig.said)
        pair.thaw(pair.replica)
        wait_until(lambda: rig.lines()[-1] == b"ui|2026-03-02T09:14:06Z|say|two", rig.said)
    rig.stop(child)
    assert json.loads(rig.run("parity", "--json").stdout)["verdict"] == "equal"
    pair.freeze(pair.replica)
    with closing(Connection(url)) as redis:
        rig.add("three", connection=redis)
    done = rig.run("run", "--dual", "--once")
    assert (done.returncode, "they are held" in done.stderr) == (3, True), done


def test_the_client_keeps_what_a_failover_takes(rig: Rig, pair: Pair) -> None:
    """What the replica had not is on disk as well, and is sent to it, once, when it has become the master."""
    url = configured(rig, pair)
    rig.once(url=url)
    with closing(Connection(url)) as redis:
        redis.call("HSET", COMPONENTS, "ui@test", '{"reads": "file", "writes": "redis", "epoch": 1}')
    with open_log("hestai-message", "ui", config=rig.path / "bridge.toml") as log:
        wait_until(lambda: log.writes == "redis", "the mode")
        for n in range(20):
            log.append("say", f"safe {n}")
        assert on_disk(rig) == 0
        pair.freeze(pair.replica)
        for n in range(5):
            log.append("say", f"held {n}")
        assert on_disk(rig) == 5, "kept until the replica has them"
        pair.kill(pair.master)
        pair.thaw(pair.replica)
        pair.ask(pair.replica, "REPLICAOF", "NO", "ONE")
        old = (pair.folder / str(pair.master)).rename(pair.folder / "gone")
        assert old.exists()
        pair.master, pair.replica = pair.replica, pair.master
    config = (rig.path / "bridge.toml").read_text().replace(str(pair.replica), str(pair.master))
    (rig.path / "bridge.toml").write_text(config)
    pair.start_server(pair.replica)
    pair.follow(pair.replica, pair.master)
    with open_log("hestai-message", "ui", config=rig.path / "bridge.toml") as log:
        wait_until(lambda: log.writes == "redis" and on_disk(rig) == 0, "the outbox")
        log.append("say", "after")
    with closing(Connection(pair.url_of(pair.master))) as redis:
        rows = [fields[7] for _, fields in redis.call("XRANGE", STREAM, "-", "+")]
    expected = [*(f"safe {n}" for n in range(20)), *(f"held {n}" for n in range(5)), "after"]
    assert rows == [text.encode() for text in expected]


def test_a_switch_waits_for_replicas(rig: Rig, pair: Pair) -> None:
    """A switch that was decided, and killed, is not taken back because a replica is late: it is made when it is there."""
    url = configured(rig, pair)
    rig.append("one")
    child = rig.ready(rig.start(url=url))
    wait_until(lambda: pair.ask(pair.master, "XLEN", STREAM) == 1, rig.said)
    wait_until(lambda: json.loads(rig.run("parity", "--json").stdout)["verdict"] == "equal", rig.said)
    switch = ("cutover", "ui", "--writes", "--execute", "--force", "ui", "--accept-volatile")
    assert rig.run(*switch, env={"BRIDGE_CRASH_AT": "switch.journal.after"}).returncode == -9
    pair.freeze(pair.replica)
    done = rig.run(*switch)
    assert "is not made yet" in done.stderr, done
    assert "0 of 1 wanted replicas" in done.stderr
    assert '"decided"' in rig.run("journal", "--json").stdout
    pair.thaw(pair.replica)

    def made() -> bool:
        raw = pair.ask(pair.master, "HGET", COMPONENTS, "ui@test")
        return isinstance(raw, bytes) and json.loads(raw)["writes"] == "redis"

    wait_until(lambda: rig.run(*switch).returncode == 0, rig.said)
    assert made()
    rig.stop(child)
