"""Redis behind Sentinels: the master is found at each dial, and a failover loses and doubles nothing that it need not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from bridge import open_log
from bridge.admin.doctor.failover import SentinelWord, replicas, sentinels
from bridge.core.config import RedisSection
from bridge.core.errors import ConfigError, RedisLost
from bridge.core.server_address import check_url, masked, sentinel_address
from bridge.streams.embedded.binary import Binary
from bridge.streams.sentinel import Named, Sentinels
from tests.support.rig import STREAM, Rig, line, wait_until
from tests.support.sentinel_group import NAME, SentinelGroup
from tests.support.server_group import free_port
from tests.support.verbs import EVERY


@pytest.mark.parametrize(
    ("url", "hosts", "name", "master"),
    [
        ("sentinel://h1,h2:26380/shop/0", (("h1", 26379), ("h2", 26380)), "shop", "redis://10.0.0.1:7/0"),
        ("sentinel://u:p%40w@h1/shop", (("h1", 26379),), "shop", "redis://u:p%40w@10.0.0.1:7/"),
        ("sentinels://[::1]:1,h2:2/my%20shop/3", (("::1", 1), ("h2", 2)), "my shop", "rediss://10.0.0.1:7/3"),
        ("sentinels://h1/shop/0?ssl_ca_certs=/ca", (("h1", 26379),), "shop", "rediss://10.0.0.1:7/0?ssl_ca_certs=/ca"),
    ],
)
def test_addresses(url: str, hosts: tuple[tuple[str, int], ...], name: str, master: str) -> None:
    """The url names Sentinels, the master's name, a database and the master's user; a password is never shown."""
    address = sentinel_address(check_url(url, "here"))
    assert address is not None
    assert (address.hosts, address.name, address.master_url("10.0.0.1", 7)) == (hosts, name, master)
    assert "p%40w" not in masked(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sentinel://h1,h2", "the master's name is missing"),
        ("sentinel://h1/shop/x", "database 'x' is no number"),
        ("sentinel://h1/shop/\u00b2", "is no number"),
        ("sentinel://h1/shop?db=3", "the database stands behind the name"),
        ("sentinel:///shop/0", "'' is no host and port"),
        ("sentinel://h1:0/shop", "is no host and port"),
        ("sentinel://h1:70000/shop", "is no host and port"),
        ("sentinel://h 1/shop", "is no host and port"),
        ("sentinel://h1,,h2/shop", "'' is no host and port"),
        ("cluster://h1/1", "has database 0 only"),
        ("clusters://h1?db=3", "has database 0 only"),
        ("cluster://h1,", "is no host and port"),
        ("clutser://h1", "not supported yet"),
    ],
)
def test_wrong_addresses(url: str, said: str) -> None:
    """A url that cannot be used is a configuration error that says why."""
    with pytest.raises(ConfigError, match=said):
        check_url(url, "here")


def test_the_sentinels_own_user() -> None:
    """User and password of the Sentinels go into their urls alone, whatever characters they hold."""
    address = sentinel_address("sentinel://:master@h1/shop/0")
    assert address is not None
    section = RedisSection(sentinel_user="watch", sentinel_password="a/b@c")
    assert address.sentinel_url("h1", 1, section.sentinel_login) == "redis://watch:a%2Fb%40c@h1:1/"
    assert address.master_url("h2", 2) == "redis://:master@h2:2/0"
    assert RedisSection().sentinel_login == ""


@pytest.fixture
def group(binary: Binary) -> Iterator[SentinelGroup]:
    made = SentinelGroup(binary, password="secret")
    yield made
    made.close()


def test_what_sentinels_cannot_say(group: SentinelGroup) -> None:
    """No Sentinel, an unknown name, a master that is none any more: each is said, and by which command it may be seen."""

    def fails(url: str) -> str:
        address = sentinel_address(url)
        assert address is not None
        with pytest.raises(RedisLost) as caught:
            Sentinels(address).dial()
        return caught.value.what

    away = [free_port() for _ in range(3)]
    assert "none of 3 sentinels answers" in fails(f"sentinel://{','.join(f'127.0.0.1:{port}' for port in away)}/shop/0")
    known = f"127.0.0.1:{group.sentinel_ports[0]}"
    assert fails(f"sentinel://{known}/shopp/0") == "no sentinel knows 'shopp' (they know: shop)"
    assert group.connect().call("ROLE")[0] == b"master"
    mixed = sentinel_address(f"sentinel://:secret@127.0.0.1:{away[0]},{known}/{NAME}/0")
    assert mixed is not None
    sentinels = Sentinels(mixed)
    assert [sentinels.master()[1] for _ in range(2)] == [group.ports[0]] * 2, "one that is away is passed over"
    no_sentinel = sentinel_address(f"sentinel://:secret@127.0.0.1:{group.ports[1]},{known}/{NAME}/0")
    assert no_sentinel is not None
    assert Sentinels(no_sentinel).master()[1] == group.ports[0], "one that refuses is passed over"
    group.ask(group.ports[0], "REPLICAOF", "127.0.0.1", str(group.ports[1]))
    assert "no master is elected" in fails(group.url)


def _checks(rig: Rig) -> dict[str, tuple[str, str]]:
    """What the doctor says, by check: verdict and evidence."""
    told = json.loads(rig.run("doctor", "--json").stdout)
    rows = told if isinstance(told, list) else told["checks"]
    return {row["check"]: (row["verdict"], row["evidence"]) for row in rows}


def test_every_command_finds_the_master(rig: Rig, group: SentinelGroup) -> None:
    """Import, run, status, parity, doctor, tail, locate, quarantine, trim and snapshot work behind Sentinels."""
    rig.write_config(extra=f'[redis]\nurl = "{group.url}"')
    rig.log.write_bytes(line(b"one") + b"broken\n" + line(b"two"))
    for args, code in EVERY:
        done = rig.run(*args)
        assert done.returncode == code, (args, done)
        assert "secret" not in done.stdout + done.stderr
    assert _checks(rig)["sentinels"] == (
        "good",
        f"3 Sentinels, all name 127.0.0.1:{group.ports[0]} and could elect another one",
    )
    verdict, said = _checks(rig)["replication"]
    assert (verdict, said.partition(";")[0]) == ("note", "min-replicas-to-write is 0")
    assert "2 replicas online" in said
    group.ask(group.ports[0], "CONFIG", "SET", "min-replicas-to-write", "1")
    group.ask(group.ports[0], "CONFIG", "SET", "min-replicas-max-lag", "2")
    assert _checks(rig)["replication"] == ("good", "2 replicas online")
    for port in group.ports[1:]:
        group.kill(port)
    wait_until(lambda: _checks(rig)["replication"][0] == "bad", "the doctor")
    assert "no replica is online" in _checks(rig)["replication"][1]
    for port in group.sentinel_ports[1:]:
        group.kill(port)
    wait_until(lambda: "NOQUORUM" in _checks(rig)["sentinels"][1], lambda: str(_checks(rig)), 20)
    assert "does not answer" in _checks(rig)["sentinels"][1]
    group.kill(group.sentinel_ports[0])
    done = rig.run("parity")
    assert (done.returncode, "none of 3 sentinels answers" in done.stderr) == (5, True), done


def test_a_master_that_was_replaced_is_left(rig: Rig, group: SentinelGroup) -> None:
    """Where another master is made as planned, bridge and component go over to it before the old one is told.

    With `replicas`: what the old one takes from others is in no file, as no replica has it.
    """
    rig.write_config(extra=f'[redis]\nurl = "{group.url}"\nreplicas = 1\n[components.ui]\nroles = ["ui"]')
    child = rig.ready(rig.start(url=group.url))
    with open_log("hestai-message", "ui", config=rig.path / "bridge.toml") as log:
        switch = ("cutover", "ui", "--writes", "--execute", "--force", "ui", "--accept-volatile")
        wait_until(lambda: rig.run(*switch).returncode == 0, rig.said)
        wait_until(lambda: log.writes == "redis", rig.said)
        log.append("say", "to the old one")
        old = group.master()
        wait_until(lambda: group.plan_failover(old), group.told, 30)
        wait_until(lambda: group.master() != old, group.told, 30)
        new = group.master()

        def there() -> set[bytes]:
            rows = group.ask(new, "XRANGE", STREAM, "-", "+")
            return {fields[7] for _, fields in rows} if isinstance(rows, list) else set()

        rig.append("a line")
        wait_until(lambda: b"a line" in there(), rig.said)
        count = iter(range(10_000))

        def appended() -> bool:
            log.append("say", f"from the component {next(count)}")
            return any(data.startswith(b"from the component") for data in there())

        wait_until(appended, group.told)
        assert group.info(old, "role") == "master", "the old one takes messages still"
    rig.stop(child)


def test_what_a_replaced_master_takes_is_rescued(rig: Rig, group: SentinelGroup) -> None:
    """Without `replicas` the mirror stays until the old master is told: what it takes comes to the file, and from there."""
    rig.write_config(extra=f'[redis]\nurl = "{group.url}"')
    child = rig.ready(rig.start(url=group.url))
    with closing(group.connect()) as producer:
        rig.add("before", connection=producer)
        wait_until(lambda: b"before" in rig.messages(), rig.said)
        old = group.master()
        wait_until(lambda: group.plan_failover(old), group.told, 30)
        wait_until(lambda: group.master() != old, group.told, 30)
        rig.add("to the old one", connection=producer)
    wait_until(lambda: b"to the old one" in rig.messages(), rig.said)

    def there() -> list[bytes]:
        rows = group.ask(group.master(), "XRANGE", STREAM, "-", "+")
        return [fields[7] for _, fields in rows] if isinstance(rows, list) else []

    wait_until(lambda: there() == [b"before", b"to the old one"], lambda: f"{there()} {rig.said()}")
    rig.stop(child)


def test_sentinels_that_disagree(group: SentinelGroup) -> None:
    """A later election than that of the dialled master counts, whichever Sentinel tells it; an earlier one never does."""
    address = sentinel_address(group.url)
    assert address is not None
    sentinels = Sentinels(address)
    election = sentinels._election
    with closing(sentinels.dial()) as connection:
        now = election.named
        assert now is not None
        for epoch, replaced in ((now.epoch - 1, False), (now.epoch, False), (now.epoch + 1, True)):
            election.heard(Named("127.0.0.1", 1, epoch))
            assert connection.replaced() is replaced
        connection.look()
        assert election.named == Named("127.0.0.1", 1, now.epoch + 1), "the Sentinels here know of an earlier one"
        with closing(sentinels.dial()) as again:
            assert not again.replaced(), "all Sentinels that answer agree: they were reset"
            assert election.named == now


def test_a_look_at_sentinels_that_are_silent(group: SentinelGroup) -> None:
    """A look waits for one Sentinel alone, half a second at most, and the next look asks another one."""
    address = sentinel_address(group.url)
    assert address is not None
    sentinels = Sentinels(address)
    with closing(sentinels.dial()) as connection:
        group.freeze(group.sentinel_ports[0])
        first = sentinels._hosts[0]
        assert first[1] == group.sentinel_ports[0]
        sentinels._election.due = 0.0
        connection.look()
        assert sentinels._hosts[0] != first
        assert not connection.replaced()
        sentinels._election.due, sentinels._election.named = 0.0, None
        connection.look()
        assert sentinels._election.named is not None
        group.thaw(group.sentinel_ports[0])


def test_what_the_doctor_says_of_sentinels() -> None:
    """Sentinels that name different masters, are too few, or have no quorum are told, with what to do."""
    fine = SentinelWord("a:1", "", "m:1", 3, "OK 3 usable Sentinels")
    assert sentinels([fine, fine]).verdict == "good"
    apart = sentinels([fine, SentinelWord("b:1", "", "m:2", 3, "OK 3 usable Sentinels")])
    assert (apart.verdict, "m:1, m:2" in apart.evidence) == ("bad", True)
    assert sentinels([SentinelWord("a:1", "", "m:1", 1, "OK 1 usable Sentinels")]).verdict == "note"
    assert sentinels([SentinelWord("a:1", "", "m:1", 3, "NOQUORUM 1 usable")]).verdict == "bad"
    assert sentinels([SentinelWord("a:1", "no answer")]).verdict == "bad"


def test_what_the_doctor_says_of_replicas() -> None:
    """A replica that is far behind or still loads, and a master that may go on alone for long, are worth knowing."""
    rows = {
        "role": "master",
        "slave0": "ip=h,port=1,state=online,offset=5,lag=40",
        "slave1": "ip=h,port=2,state=wait_bgsave",
    }
    found = replicas(rows, {"min-replicas-to-write": "1", "min-replicas-max-lag": "10"})
    assert found.verdict == "note"
    for said in ("h:1 is 40 s behind", "h:2 is wait_bgsave", "min-replicas-max-lag is 10 s", "1 replica online"):
        assert said in found.evidence
    assert replicas(rows, {}).verdict == "note"
    assert replicas({"slave0": "ip=h,port=1,state=online,lag=0"}, {}).verdict == "unknown"
