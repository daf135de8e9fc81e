"""Several bridges, each on a host of its own, with one server: each has its own streams and harms nobody else's."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import open_log
from bridge.admin.acl_rules import users
from tests.admin.test_acl_rules import give
from tests.support.many import KEY, MAPPING, Sessions
from tests.support.rig import STREAM, Rig, delimited, line, wait_until

Hosts = dict[str, Rig]


@pytest.fixture
def hosts(rig: Rig, tmp_path: Path) -> Iterator[Hosts]:
    """Two bridges, `a` and `b`, with one server and the same mappings."""
    (tmp_path / "b").mkdir()
    made = {"a": rig, "b": rig.beside(tmp_path / "b")}
    for name, of in made.items():
        of.write_config(instance=name, extra=f'[redis]\nurl = "{rig.url}"\n[components.ui]\nroles = ["ui"]')
        of.log.write_bytes(b"".join(line(f"{name} {n}") for n in range(5)))
    yield made
    made["b"].close()


def own_streams(hosts: Hosts) -> None:
    """One mapping file for both, by which each bridge has a stream of its own."""
    text = delimited("messages.log", mirror="messages.log").replace(STREAM, f"{STREAM}:{{instance}}")
    for name, rig in hosts.items():
        (rig.path / "mine.toml").write_text(text)
        extra = f'[redis]\nurl = "{rig.url}"\n[components.ui]\nroles = ["ui"]'
        rig.write_config(mapping="mine.toml", instance=name, extra=extra)


def test_a_stream_for_each_bridge(hosts: Hosts) -> None:
    """`{instance}` in stream.key gives each bridge with the mapping its own stream, components and notices."""
    own_streams(hosts)
    for name, rig in hosts.items():
        stream = f"{STREAM}:{name}"
        assert rig.run("run", "--dual", "--once").returncode == 0
        rig.redis.call(
            "XADD", stream, "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say", "data", "x"
        )
        assert rig.run("run", "--dual", "--once").returncode == 0
        told = json.loads(rig.run("parity", "--json").stdout)
        assert (told["verdict"], told["mappings"][0]["stream"], told["mappings"][0]["compared"]) == ("equal", stream, 6)
        assert rig.settings().mappings[0].notify == f"{stream}:notify"
        with open_log("mine", "ui", config=rig.path / "bridge.toml") as log:
            log.append("say", f"of {name}")
        assert rig.run("run", "--dual", "--once").returncode == 0
        assert rig.redis.call("XLEN", stream) == 7
        assert f"~{stream}" in rig.run("acl").stdout
    assert hosts["a"].redis.call("XLEN", STREAM) == 0


def test_a_bridge_that_was_renamed(hosts: Hosts) -> None:
    """A bridge whose streams bear its name refuses to begin others under another name, until the mapping is retired."""
    own_streams(hosts)
    rig = hosts["a"]
    assert rig.run("run", "--dual", "--once").returncode == 0
    rig.redis.call("XADD", f"{STREAM}:a", "*", *(part for name in ("role", "type", "data") for part in (name, "x")),
                   "timestamp", "2026-03-02T09:14:06Z")  # fmt: skip
    config = rig.path / "bridge.toml"
    config.write_text(config.read_text().replace('instance = "a"', 'instance = "a2"'))
    for args in (("run", "--dual", "--once"), ("run", "--dual"), ("import-history",)):
        done = rig.run(*args)
        said = f"this bridge has carried {STREAM}:a, as 'a': as 'a2' it would begin another stream, {STREAM}:a2"
        assert (done.returncode, said in done.stderr) == (2, True), done
    assert rig.redis.call("EXISTS", f"{STREAM}:a2", f"bridge:{{{STREAM}:a2}}:meta") == 0
    config.write_text(config.read_text().replace('instance = "a2"', 'instance = "a"'))
    assert rig.run("run", "--dual", "--once").returncode == 0
    assert rig.run("retire", "mine", "--execute", "--force", "mine", "--reason", "a test").returncode == 0
    config.write_text(config.read_text().replace('instance = "a"', 'instance = "a2"'))
    assert rig.run("run", "--dual", "--once").returncode == 0
    assert rig.redis.call("EXISTS", f"bridge:{{{STREAM}:a2}}:meta") == 1


def test_nothing_else_stands_in_braces(hosts: Hosts) -> None:
    """Another name in braces, or a brace alone, is refused in stream.key, with the one that may stand there."""
    rig = hosts["a"]
    own_streams(hosts)
    text = (rig.path / "mine.toml").read_text()
    for key in ("s:{host}", "s:{instance", "s:}{", "s:{{instance}}"):
        (rig.path / "mine.toml").write_text(text.replace(f"{STREAM}:{{instance}}", key))
        done = rig.run("status")
        assert (done.returncode, "may stand in stream.key, and no other braces" in done.stderr) == (2, True), done


def test_the_stream_of_another_bridge(hosts: Hosts) -> None:
    """On another bridge's stream every command says whose it is, and none finds differences or mends anything."""
    ours, theirs = hosts["b"], hosts["a"]
    assert theirs.run("run", "--dual", "--once").returncode == 0
    before = theirs.datas(), theirs.redis.call("HGETALL", f"bridge:{{{STREAM}}}:meta"), ours.log.read_bytes()
    whose = f"this is the stream of bridge 'a' on host {socket.gethostname()}"
    done = ours.run("run", "--dual", "--once")
    assert (done.returncode, f"{whose}: standing by" in done.stderr) == (1, True), done
    assert '"{instance}" in stream.key gives each its own' in done.stderr
    for again in range(2):  # without a ledger, and with one
        done = ours.run("parity", "--json")
        told = json.loads(done.stdout)["mappings"][0]
        assert (done.returncode, told["verdict"], told["differences"]) == (4, "inconclusive", []), done
        assert whose in ours.run("parity").stdout
        for flags in ((), ("--execute",)):
            done = ours.run("repair", *flags)
            assert (done.returncode, f"{whose}: nothing in it is this one's to repair" in done.stderr) == (1, True), (
                done
            )
        assert "\n  try: " in done.stderr, again
        (ours.state / "ledger.db").unlink(missing_ok=True)
    assert whose in ours.run("status").stdout
    assert ours.run("import-history").returncode == 1
    assert ours.run("run", "--dual", "--once").returncode == 1
    place = json.loads(ours.run("locate", "messages.log:1", "--json").stdout)[0]
    assert (place["entry"], place["origin"], whose in place["said"]) == (None, None, True), place
    entry = theirs.entries()[0].id
    place = json.loads(ours.run("locate", f"{entry[0]}-{entry[1]}", "--json").stdout)[0]
    assert (place["file"], whose in place["said"]) == (None, True), place
    assert ours.run("trim", "--execute").returncode in (0, 1, 2, 3)
    assert before == (theirs.datas(), theirs.redis.call("HGETALL", f"bridge:{{{STREAM}}}:meta"), ours.log.read_bytes())
    assert json.loads(theirs.run("parity", "--json").stdout)["verdict"] == "equal"


def carried(host: Rig) -> None:
    """A host whose bridge has carried messages both ways, and whose log has a line since."""
    assert host.run("run", "--dual", "--once").returncode == 0
    host.add("from Redis")
    assert host.run("run", "--dual", "--once").returncode == 0
    host.append("written after the last run")


def goes_on(host: Rig) -> None:
    """All that host `a` had, and the line that came since, is in the stream once, and proved."""
    assert host.datas() == [*(f"a {n}".encode() for n in range(5)), b"from Redis", b"written after the last run"]
    assert json.loads(host.run("parity", "--json").stdout)["verdict"] == "equal"


def test_a_host_that_is_gone(hosts: Hosts, tmp_path: Path) -> None:
    """The folder and the state directory of a host that is gone, restored on another one, go on where they were."""
    gone, restored = hosts["a"], tmp_path / "elsewhere"
    carried(gone)
    shutil.copytree(gone.path, restored)
    shutil.rmtree(gone.root)
    shutil.rmtree(gone.state)
    there = gone.at(restored)
    done = there.run("run", "--dual", "--once")
    assert (done.returncode, "the ledger was made anew" in done.stderr) == (0, True), done
    goes_on(there)


def test_a_host_that_left_its_files_alone(hosts: Hosts, tmp_path: Path) -> None:
    """A host's folder without its state directory is taken over by a bridge of another name, which goes on there."""
    gone, restored = hosts["a"], tmp_path / "elsewhere"
    carried(gone)
    shutil.copytree(gone.path, restored)
    shutil.rmtree(restored / "state")
    there = gone.at(restored)
    there.write_config(instance="c", extra=f'[redis]\nurl = "{gone.url}"')
    done = there.run("repair", "--take-over")
    assert (done.returncode, "nothing was changed" in done.stdout) == (0, True), done
    done = there.run("repair", "--take-over", "--execute")
    assert done.returncode == 0, done
    assert there.run("run", "--dual", "--once").returncode == 0
    goes_on(there)
    done = gone.run("run", "--dual", "--once")
    assert (done.returncode, "this is the stream of bridge 'c'" in done.stderr) == (1, True), done


Told = tuple[str, dict[str, tuple[str, int, int, str]]]
"""The verdict of all hosts, and of each its verdict, entries compared, entries since, and why it is inconclusive."""


def told_by(host: Rig) -> Told:
    """What `parity --all-hosts` tells on a host."""
    found = json.loads(host.run("parity", "--all-hosts", "--json").stdout)
    return found["verdict"], {
        row["instance"]: (row["verdict"], row["compared"], row["since"], row["why"]) for row in found["hosts"]
    }


def test_what_all_hosts_have_proved(hosts: Hosts) -> None:
    """`parity --all-hosts` joins the last verdicts of all hosts whose bridges run; a silent one leaves it inconclusive."""
    own_streams(hosts)
    asked = ("parity", "--all-hosts", "--json")
    done = hosts["a"].run(*asked)
    assert (done.returncode, json.loads(done.stdout)["hosts"][0]["why"]) == (4, "no bridge has claimed it"), done
    children = {name: rig.ready(rig.start()) for name, rig in hosts.items()}

    def told(name: str = "a") -> Told:
        return told_by(hosts[name])

    wait_until(lambda: [*told()[1]] == ["a", "b"], lambda: str(told()))
    why = "nothing was proved of it yet: `bridge parity` there"
    wait_until(lambda: told()[1]["a"] == ("inconclusive", 0, 0, why), lambda: str(told()))
    for rig in hosts.values():
        wait_until(lambda rig=rig: rig.run("parity").returncode == 0, rig.said)  # type: ignore[misc]
    wait_until(lambda: told()[0] == "equal", lambda: str(told()))
    assert told("b") == ("equal", {"a": ("equal", 5, 0, ""), "b": ("equal", 5, 0, "")})
    hosts["b"].append("more")
    wait_until(lambda: told()[1]["b"][2] == 1, lambda: str(told()))
    assert socket.gethostname() in hosts["a"].run("parity", "--all-hosts").stdout
    stream = f"{STREAM}:b"
    [first, *_] = hosts["b"].redis.call("XRANGE", stream, "-", "+", "COUNT", 1)
    hosts["b"].redis.call("XDEL", stream, first[0])
    hosts["b"].redis.call("XADD", stream, "*", *first[1])
    wait_until(lambda: told()[1]["b"][3] == "entries were removed since: `bridge parity` there", lambda: str(told()))
    hosts["b"].run("parity")
    wait_until(lambda: told()[0] == "differs", lambda: str(told()))
    hosts["b"].redis.call("SET", f"bridge:{{{STREAM}:else}}:meta", "what is no hash")
    hosts["b"].redis.call("HSET", b"bridge:{" + STREAM.encode() + b":\xff}:meta", "instance", "none")
    assert told()[1]["?"] == ("inconclusive", 0, 0, "its keys are of another program")
    hosts["b"].stop(children["b"])
    verdict, rows = told()
    assert (verdict, rows["b"]) == ("inconclusive", ("inconclusive", 0, 0, "its bridge is silent"))
    hosts["b"].redis.call("DEL", f"bridge:{{{STREAM}:else}}:meta")
    assert "INCONCLUSIVE" in hosts["a"].run("parity", "--all-hosts").stdout
    assert hosts["a"].run("parity", "--all-hosts", "--watch").returncode == 2
    hosts["a"].stop(children["a"])


def test_a_proof_of_something_else(hosts: Hosts) -> None:
    """What a bridge proved of another stream, or another ledger's bridge of the same name, is no proof of a stream."""
    own_streams(hosts)
    asked = ("parity", "--all-hosts", "--json")

    def why() -> dict[str, str]:
        rows = json.loads(hosts["a"].run(*asked).stdout)["hosts"]
        return {row["stream"].removeprefix(f"{STREAM}:"): row["why"] for row in rows}

    assert hosts["b"].run("run", "--dual", "--once").returncode == 0
    text = (hosts["b"].path / "mine.toml").read_text()
    (hosts["b"].path / "mine.toml").write_text(text.replace("{instance}", "elsewhere:{instance}"))
    child = hosts["b"].ready(hosts["b"].start())
    wait_until(lambda: hosts["b"].run("parity").returncode == 0, hosts["b"].said)
    wait_until(lambda: why()["b"] == "nothing was proved of it yet: `bridge parity` there", lambda: str(why()))
    hosts["b"].stop(child)
    (hosts["b"].path / "mine.toml").write_text(text)
    (hosts["b"].state / "ledger.db").rename(hosts["b"].path / "ledger.db")
    child = hosts["b"].ready(hosts["b"].start())  # it stands by on its own stream, and beats for nothing
    assert why()["b"] in ("its bridge is silent", "the bridge that goes by its name has another ledger")
    hosts["b"].stop(child)


def test_the_rights_to_ask_of_all_hosts(hosts: Hosts) -> None:
    """`bridge acl` gives a user of its own for `parity --all-hosts`, and to nobody else what other hosts keep."""
    own_streams(hosts)
    for rig in hosts.values():
        assert rig.run("run", "--dual", "--once").returncode == 0
    rig = hosts["a"]
    urls = give(rig, users(rig.settings()))
    done = rig.run("parity", "--all-hosts", "--json", "--redis", urls["bridge-a-hosts"])
    assert (done.returncode, [row["why"] for row in json.loads(done.stdout)["hosts"]]) == (
        4,
        ["its bridge is silent"] * 2,
    ), done
    done = rig.run("parity", "--all-hosts", "--redis", urls["bridge-a"])
    assert (done.returncode, "of all hosts: `bridge acl` has one" in done.stderr) == (1, True), done


def test_what_all_hosts_have_proved_of_many_streams(hosts: Hosts) -> None:
    """Of a mapping with many streams each host has one row: of all its streams, of which none may be left out."""
    for name, rig in hosts.items():
        sessions = Sessions(rig, ["x", "y"])
        (rig.path / "sessions.toml").write_text(MAPPING.replace(f"{KEY}:{{name}}", f"{KEY}:{{instance}}:{{name}}"))
        extra = f'[redis]\nurl = "{rig.url}"'
        rig.write_config(mapping="sessions.toml", instance=name, extra=extra)
        for session in sessions.names:
            sessions.append(session, f"1 {name}", f"2 {name}")
    asked = ("parity", "--all-hosts", "--json")
    done = hosts["a"].run(*asked)
    assert (done.returncode, json.loads(done.stdout)["hosts"][0]["why"]) == (4, "no bridge has claimed any"), done
    children = {name: rig.ready(rig.start()) for name, rig in hosts.items()}

    def told(name: str = "a") -> Told:
        return told_by(hosts[name])

    for rig in hosts.values():
        wait_until(lambda rig=rig: rig.run("parity").returncode == 0, rig.said)  # type: ignore[misc]
        wait_until(lambda rig=rig: len(json.loads(rig.run("parity", "--json").stdout)["mappings"]) == 2, rig.said)  # type: ignore[misc]
    wait_until(lambda: told() == ("equal", {"a": ("equal", 4, 0, ""), "b": ("equal", 4, 0, "")}), lambda: str(told()))
    assert told("b") == told("a")
    log = hosts["b"].root / "sessions" / "x.log"
    log.write_bytes(log.read_bytes() + line("more"))
    wait_until(lambda: told()[1]["b"] == ("equal", 4, 1, ""), lambda: str(told()))
    log.with_name("new.log").write_bytes(line("new"))
    why = "1 stream never compared: `bridge parity` there"
    wait_until(lambda: told()[1]["b"] == ("inconclusive", 4, 2, why), lambda: str(told()))
    assert hosts["b"].run("parity").returncode == 0
    wait_until(lambda: told()[1]["b"] == ("equal", 6, 0, ""), lambda: str(told()))
    stream = f"{KEY}:b:x"
    hosts["b"].redis.call("XDEL", stream, hosts["b"].redis.call("XRANGE", stream, "-", "+", "COUNT", 1)[0][0])
    wait_until(lambda: told()[1]["b"][3] == "entries were removed since: `bridge parity` there", lambda: str(told()))
    hosts["b"].run("parity")
    wait_until(lambda: told()[0] == "differs", lambda: str(told()))
    hosts["b"].stop(children["b"])
    assert told()[1]["b"] == ("inconclusive", 0, 0, "its bridge is silent")
    done = hosts["a"].run("parity", "--all-hosts", "sessions:x")
    assert (done.returncode, "bridge parity --all-hosts sessions" in done.stderr) == (2, True), done
    hosts["a"].stop(children["a"])
