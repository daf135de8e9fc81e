"""Components go over to Redis and come back, one by one, and none of them misses or repeats a message."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from itertools import product
from threading import Barrier, Thread

import pytest

from bridge import open_log
from bridge.core.errors import BridgeError
from bridge.core.model import format_id
from bridge.cutover.operator import SwitchWish
from bridge.cutover.switch_waits import SwitchRefused
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import group_of
from bridge.streams.keys import Keys
from tests.support.cast import CONFIG, Cast
from tests.support.rig import STREAM, Rig, wait_until

COMPONENTS = Keys.of(STREAM).components

TIMES = 10


def test_there_and_back(rig: Rig) -> None:
    """Reads and writes are switched ten times each way, while three components talk: every message once, in order."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "ui")
    cast.start("write", "daemon")
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) > 50, cast.said)
    assert rig.parity().verdict == "equal"
    for _ in range(TIMES):
        for name, side, to in (
            ("viewer", "reads", "redis"), ("ui", "writes", "redis"), ("daemon", "writes", "redis"),
            ("ui", "writes", "file"), ("viewer", "reads", "file"), ("daemon", "writes", "file"),
        ):  # fmt: skip
            done = cast.switch(name, side, to)
            assert done.went_on, cast.said()
            assert done.again == 0
    cast.stop("ui", "daemon")
    cast.settled("viewer", "ui", "daemon")
    cast.stop("viewer")
    cast.check("viewer", "ui", "daemon")
    assert {message[3] for message in cast.seen("viewer")} == {"file", "redis"}
    assert not any(message[2] for message in cast.seen("viewer"))
    wait_until(lambda: rig.parity(settling=1.0).verdict == "equal", rig.said)
    rig.stop(bridge)


def test_every_two_phases(rig: Rig) -> None:
    """Whatever two components read and write, each is given all of the other, once and in order."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("both", "ui")
    cast.start("both", "daemon")
    wait_until(lambda: len(cast.seen("ui")) > 20 and len(cast.seen("daemon")) > 20, cast.said)
    phases = [("file", "file"), ("redis", "file"), ("redis", "redis")]
    for phase, other in product(phases, phases):
        for name, (reads, writes) in (("ui", phase), ("daemon", other)):
            cast.bring(name, reads, writes)
        for name in ("ui", "daemon"):
            cast.given_more(name, 20)
    for child in cast.children.values():
        child.send_signal(signal.SIGUSR2)  # they write no more
    for name in ("ui", "daemon"):
        cast.settled(name, "ui", "daemon")
    cast.stop("ui", "daemon")
    for name in ("ui", "daemon"):
        cast.check(name, "ui", "daemon")
    rig.stop(bridge)


def test_through_rotation(rig: Rig) -> None:
    """The log is rotated between and during switches: the position is found in whatever file it is by then."""
    cast = Cast(rig)
    rig.write_config(extra=CONFIG)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "ui")
    cast.start("write", "daemon")
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) > 50, cast.said)
    for turn in range(6):
        rotate(rig)
        cast.switch("viewer", "reads", "redis" if turn % 2 == 0 else "file")
        cast.given_more("viewer", 10)
    cast.stop("ui", "daemon")
    cast.settled("viewer", "ui", "daemon")
    cast.stop("viewer")
    cast.check("viewer", "ui", "daemon")
    rig.stop(bridge)


def rotate(rig: Rig) -> None:
    """By renaming, keeping all."""
    pieces = sorted(rig.root.glob("messages.log.*"), key=lambda path: -int(path.suffix[1:]))
    for path in pieces:
        path.rename(path.with_suffix(f".{int(path.suffix[1:]) + 1}"))
    rig.log.rename(rig.log.with_name("messages.log.1"))
    rig.log.touch()


@pytest.fixture
def quiet(rig: Rig) -> Cast:
    """A bridge, ten lines and five entries on both sides, equal, and nobody who runs."""
    cast = Cast(rig)
    rig.append(*(f"line {n}" for n in range(10)))
    child = rig.beats(rig.ready(rig.start()))
    wait_until(lambda: len(rig.datas()) == 10, rig.said)
    for n in range(5):
        rig.add(f"entry {n}")
    wait_until(lambda: len(rig.lines()) == 15 and len(rig.datas()) == 15, rig.said)
    assert rig.run("parity", "--redis", rig.url).returncode == 0
    assert child.poll() is None
    return cast


def read_some(cast: Cast, count: int, *, redis: bool = True) -> list[str]:
    """What `viewer` is given, so many messages, or what there is; acknowledged."""
    found = []
    url = cast.rig.url if redis else "redis://127.0.0.1:1/0"
    with open_log("hestai-message", "viewer", config=cast.rig.path / "bridge.toml", redis=url) as log:
        for message in log.follow(idle=1.0):
            found.append(message.text)
            if len(found) == count:
                log.acknowledge()
                break
    return found


def test_a_component_that_does_not_run(quiet: Cast) -> None:
    """One that is stopped is switched where it stopped, and finds it when it starts, with Redis or without."""
    whole = [f"line {n}" for n in range(10)] + [f"entry {n}" for n in range(5)]
    assert read_some(quiet, 4, redis=False) == whole[:4]
    done = quiet.switch("viewer", "reads", "redis")
    assert not done.went_on
    assert read_some(quiet, 0, redis=False) == []  # the bookmark says that it reads Redis now
    assert read_some(quiet, 8) == whole[4:12]
    quiet.switch("viewer", "reads", "file")
    assert read_some(quiet, 9, redis=False) == whole[12:]


def test_a_program_without_our_client(quiet: Cast) -> None:
    """It says where it is by hand, or through the documented key; and the other way it is told where to go on."""
    rig = quiet.rig
    offset = sum(len(raw) + 1 for raw in rig.lines()[:12])  # ten lines and two mirrored ones
    args = ("viewer", "--reads", "--force", "viewer", "--redis", rig.url)
    done = rig.run("cutover", *args)
    assert done.returncode == 3
    assert "it has not told where it is" in done.stdout
    assert rig.run("cutover", *args, "--from", f"{offset - 1}").returncode == 3  # the middle of a line
    done = rig.run("cutover", *args, "--from", str(offset), "--execute")
    assert done.returncode == 0, done.stdout + done.stderr
    group = group_of(rig.redis, STREAM.encode(), "viewer")
    assert group is not None
    given = rig.redis.call("XAUTOCLAIM", STREAM, "viewer", "any", "0", "0", "COUNT", "100")[1]
    newer = rig.redis.call("XREADGROUP", "GROUP", "viewer", "any", "COUNT", "100", "STREAMS", STREAM, ">")
    given += newer[0][1] if newer else []
    assert [fields[7] for _, fields in given] == [b"entry 2", b"entry 3", b"entry 4"]
    for entry, _ in given[:2]:
        rig.redis.call("XACK", STREAM, "viewer", entry)
    done = rig.run("rollback", *args, "--execute", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    [told] = json.loads(done.stdout)
    assert re.search(r"messages.log up to byte \d+", told["done"]["after"])
    said = json.loads(rig.redis.call("HGET", f"bridge:{{{STREAM}}}:positions", "viewer"))
    assert said["files"]["messages.log"]["generations"][0][4] == offset + sum(len(o) + 1 for o in rig.lines()[12:14])
    rig.redis.call("HSET", f"bridge:{{{STREAM}}}:positions", "viewer", json.dumps({"files": {"messages.log": offset}}))
    [plan] = quiet.plans("viewer", ("reads",))
    assert plan.before == f"messages.log up to byte {offset}"


def test_a_gate_that_is_closed(quiet: Cast) -> None:
    """A plan changes nothing; a closed gate is not passed, forcing it is journaled, and firm reasons are never passed."""
    rig = quiet.rig
    read_some(quiet, 3)
    before = rig.redis.call("HGETALL", COMPONENTS)
    done = rig.run("cutover", "viewer", "--reads", "--redis", rig.url)
    assert done.returncode == 3
    assert "viewer gives no heartbeat" in done.stdout
    assert rig.run("cutover", "viewer", "--reads", "--execute", "--redis", rig.url).returncode == 3
    assert rig.redis.call("HGETALL", COMPONENTS) == before == []
    wrong = rig.run("cutover", "viewer", "--reads", "--execute", "--force", "ui", "--redis", rig.url)
    assert wrong.returncode == 2
    forced = ("cutover", "viewer", "--reads", "--execute", "--force", "viewer", "--redis", rig.url)
    rig.stop(rig.children[0])
    stopped = rig.run(*forced)
    assert stopped.returncode == 3
    assert "no bridge runs here" in stopped.stdout
    rig.beats(rig.ready(rig.start()))
    done = rig.run(*forced, "--reason", "a test")
    assert done.returncode == 0, done.stdout + done.stderr
    told = rig.run("journal").stdout
    assert "FORCED although viewer gives no heartbeat" in told
    assert "a test" in told
    [entry] = json.loads(rig.run("journal", "--json").stdout)
    assert entry["facts"]["state"] == "done"
    assert entry["facts"]["parity"]["verdict"] == "equal"
    assert rig.run(*forced).returncode == 0  # nothing is left to do


def test_what_the_gate_looks_at(quiet: Cast) -> None:
    """Real faults close it: a Redis that forgets, a message in quarantine, no proof, a component that hangs."""
    rig = quiet.rig
    read_some(quiet, 3)

    def told() -> str:
        [plan] = quiet.plans("viewer", ("reads",))
        return "; ".join(reason.what for reason in plan.reasons)

    assert told() == "viewer gives no heartbeat"
    rig.redis.call("CONFIG", "SET", "appendonly", "no")
    assert "no append-only file" in told()
    rig.redis.call("CONFIG", "SET", "appendonly", "yes")
    rig.redis.call("CONFIG", "SET", "maxmemory", "100mb")
    rig.redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy allkeys-lru" in told()
    rig.redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with rig.log.open("ab") as file:
        file.write(b"no message at all\n")
    wait_until(lambda: "1 message of this mapping in quarantine" in told(), told)
    assert rig.run("quarantine", "acknowledge", "--all", "--reason", "junk").stdout == "1 message acknowledged\n"
    assert told() == "viewer gives no heartbeat"
    assert "quarantine acknowledge" in rig.run("journal").stdout
    rig.redis.call("XDEL", STREAM, format_id(rig.entries()[2].id))
    assert rig.run("parity", "--redis", rig.url).returncode == 3
    assert "parity said 'differs' last" in told()


def test_two_operators(quiet: Cast) -> None:
    """Of two who switch at once one wins; the other is told, and nothing is switched twice."""
    read_some(quiet, 3)
    begin, told = Barrier(2), list[str]()

    def switch() -> None:
        with quiet.operator() as operator:
            wish = SwitchWish("viewer", ("reads",), forced=True)
            [step] = operator.steps(wish, "hestai-message")[0]
            plan = operator.plan(wish, step)
            begin.wait(30)
            try:
                operator.make(wish, plan)
                told.append("made")
            except SwitchRefused as error:
                told.append(str(error))

    threads = [Thread(target=switch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told)[0] == "made"
    assert "switch" in sorted(told)[1]
    assert json.loads(quiet.rig.redis.call("HGET", COMPONENTS, "viewer@test"))["epoch"] == 1


def test_a_component_that_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not pause in time is left where it is, and named; when it goes on it reads as before."""
    monkeypatch.setattr("bridge.cutover.switch_waits.SWITCH_SECONDS", 1.0)
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    rig.append("1", "2", "3")
    cast.start("read", "viewer", 2.5)
    wait_until(lambda: len(cast.seen("viewer")) == 1, cast.said)
    with pytest.raises(BridgeError, match="did not pause in 1 s: process"):
        cast.switch("viewer", "reads", "redis")
    wait_until(lambda: len(cast.seen("viewer")) == 3, cast.said)
    assert {message[3] for message in cast.seen("viewer")} == {"file"}
    assert json.loads(rig.redis.call("HGET", COMPONENTS, "viewer@test"))["epoch"] == 0
    rig.stop(bridge)


def test_without_redis_nothing_changes(rig: Rig) -> None:
    """Components on files go on while Redis is stopped, and a switch says that Redis is not there."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "ui")
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) > 20, cast.said)
    rig.kill_server()
    had = len(cast.seen("viewer"))
    wait_until(lambda: len(cast.seen("viewer")) > had + 200, cast.said)
    assert rig.run("cutover", "viewer", "--reads", "--execute", "--redis", rig.url).returncode == 5
    cast.stop("ui")
    cast.settled("viewer", "ui")
    cast.stop("viewer")
    cast.check("viewer", "ui")
    rig.start_server()
    rig.stop(bridge)


def test_status_tells_components(rig: Rig) -> None:
    """Each with what it reads and writes, since when, how far, its heartbeat, and what its next step waits for."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "ui")
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) > 20, cast.said)

    def told() -> dict[str, dict[str, object]]:
        found = json.loads(rig.run("status", "--json", "--redis", rig.url).stdout)["components"]
        return {component["component"]: component for component in found}

    before = told()
    assert before["viewer"]["reads"] == "file"
    assert before["viewer"]["blocked_by"] == ["it was never proved that both sides hold the same"]
    assert isinstance(before["viewer"]["heartbeat_age"], float)
    cast.switch("viewer", "reads", "redis")
    after = told()
    assert (after["viewer"]["reads"], after["viewer"]["epoch"]) == ("redis", 1)
    assert after["viewer"]["next"] == {"side": "writes", "to": "redis"}
    assert isinstance(after["viewer"]["since"], float)
    assert "viewer in hestai-message" in rig.run("status", "--redis", rig.url).stdout
    cast.stop("ui", "viewer")
    rig.stop(bridge)


def test_a_plain_client_is_told_as_what_it_is(quiet: Cast) -> None:
    """A program that keeps the documented keys is a plain client, so far behind; `--watch` tells it as `status` does."""
    rig = quiet.rig
    positions = f"bridge:{{{STREAM}}}:positions"
    size = rig.log.stat().st_size
    rig.redis.call("HSET", positions, "node", json.dumps({"files": {"messages.log": size}}))
    rig.redis.call("HSET", COMPONENTS, "node@test", '{"reads": "file", "writes": "file", "epoch": 0}')
    assert "plain client, 0 behind" in rig.run("status", "--redis", rig.url).stdout
    args = ("node", "--reads", "--force", "node", "--redis", rig.url, "--from", str(size), "--execute")
    done = rig.run("cutover", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    rig.add("read")  # Redis before 7.2 notes no consumer that found nothing to read
    assert rig.redis.call("XREADGROUP", "GROUP", "node", "any", "NOACK", "STREAMS", STREAM, ">")
    assert "plain client, 0 behind, asked" in rig.run("status", "--redis", rig.url).stdout
    rig.add("unread")
    rig.add("unread too")
    assert "plain client, 2 behind, asked" in rig.run("status", "--redis", rig.url).stdout
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "status", "--watch", "--redis", rig.url], cwd=rig.path, stdout=subprocess.PIPE,
        text=True, stdin=subprocess.DEVNULL,
    ) as watch:  # fmt: skip
        assert watch.stdout is not None
        wait_until(lambda: "plain client, 2 behind" in watch.stdout.readline(), "the component in --watch")  # type: ignore[union-attr]
        watch.terminate()


def test_retire_and_purge(quiet: Cast) -> None:
    """Retired when nobody uses the files: the stream is kept as files, nothing is carried, and purge leaves no key."""
    rig = quiet.rig
    read_some(quiet, 3)
    done = rig.run("retire", "hestai-message", "--redis", rig.url)
    assert done.returncode == 3
    assert "viewer reads the files and writes to the files" in done.stdout
    for side in ("reads", "writes"):
        quiet.switch("viewer", side, "redis")
    assert (
        "works with this state directory" in rig.run("retire", "hestai-message", "--execute", "--redis", rig.url).stderr
    )
    rig.stop(rig.children[0])
    assert "was written to" in rig.run("retire", "hestai-message", "--redis", rig.url).stdout
    assert rig.run("purge", "hestai-message", "--redis", rig.url).returncode == 1
    done = rig.run("retire", "hestai-message", "--execute", "--force", "hestai-message", "--redis", rig.url)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = rig.state / "retired" / "hestai-message"
    assert sorted((kept / "messages.log").read_bytes().splitlines()) == sorted(rig.lines())
    assert json.loads((kept / "report.json").read_text())["messages"] == 15
    assert (kept / "report.html").exists()
    rig.append("nobody carries this")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    assert len(rig.datas()) == 15
    assert rig.run("rollback", "viewer", "--redis", rig.url).returncode == 3
    assert "is retired" in rig.run("import-history", "--redis", rig.url).stderr
    assert rig.run("retire", "hestai-message", "--redis", rig.url).returncode == 3
    listed = rig.run("purge", "hestai-message", "--redis", rig.url)
    assert "would be removed" in listed.stdout
    assert rig.run("purge", "hestai-message", "--execute", "--redis", rig.url).returncode == 0
    ours = [f"bridge:{{{STREAM}}}:retired".encode()]
    assert [key for key in rig.redis.call("KEYS", "*") if key.startswith(b"bridge:")] == ours
    assert sorted(read_some(quiet, 20)) == sorted(
        [f"line {n}" for n in range(3, 10)] + [f"entry {n}" for n in range(5)]
    )
    with open_log("hestai-message", "newcomer", config=rig.path / "bridge.toml", redis=rig.url) as log:
        log.append("say", "to the stream", role="newcomer")
        assert len(list(log.follow(idle=1.0))) == 16
    assert [key for key in rig.redis.call("KEYS", "*") if key.startswith(b"bridge:")] == ours


def test_runbook(rig: Rig) -> None:
    """It names this deployment's components, readers first, and every command in it exists."""
    rig.write_config(extra=CONFIG)
    Ledger(rig.state / "ledger.db", create=True).close()
    text = rig.run("runbook", "--redis", rig.url).stdout
    heads = re.findall(r"^## \d+\. (\w+)", text, re.MULTILINE)
    assert heads == ["viewer", "daemon", "ui"]
    commands = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(commands) > 10
    for line in commands:
        if line.startswith("bridge "):
            done = rig.run(*line.split()[1:], "--help")
            assert done.returncode == 0, line
        else:
            assert line.startswith("redis-cli -u URL X"), line
    assert text.index("## After the bridge") > text.index("bridge retire hestai-message --execute")


def test_killed_and_switched_before_it_starts_again(rig: Rig) -> None:
    """What a component may have been given when it was killed comes again after the switch, marked; the rest is not."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    rig.append(*(str(n) for n in range(20)))
    wait_until(lambda: len(rig.datas()) == 20, rig.said)
    for n in range(20, 30):
        rig.add(str(n))
    wait_until(lambda: len(rig.lines()) == len(rig.datas()) == 30, rig.said)
    for to in ("redis", "file", "redis"):
        had = len(cast.seen("viewer"))
        child = cast.start("read", "viewer", 5.0)
        wait_until(lambda had=had: len(cast.seen("viewer")) > had, cast.said)  # type: ignore[misc]
        child.kill()
        child.wait()
        rig.redis.call("HDEL", f"bridge:{{{STREAM}}}:positions", "viewer/test-1")  # as if ten seconds had gone by
        assert cast.switch("viewer", "reads", to).again == 1
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) >= 33, cast.said)
    seen = cast.seen("viewer")
    assert [message[1:3] for message in seen[:4]] == [(0, False), (0, True), (0, True), (0, True)]
    assert sorted(message[1] for message in seen[4:]) == list(range(1, 30))
    assert not any(message[2] for message in seen[4:])
    cast.stop("viewer")
    rig.stop(bridge)


def test_a_switch_that_failed_leaves_no_trace(quiet: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped component whose switch was given up starts without Redis, as if nobody had tried."""
    assert len(read_some(quiet, 3, redis=False)) == 3
    monkeypatch.setattr("bridge.cutover.switch_waits.SWITCH_SECONDS", 0.5)
    monkeypatch.setattr("bridge.cutover.switch_waits.SwitchWaits._newest_born", lambda self: (1 << 62, 0))
    with pytest.raises(BridgeError, match="did not catch up"):
        quiet.switch("viewer", "reads", "redis")
    assert len(read_some(quiet, 20, redis=False)) == 12


def test_a_bridge_that_hangs(quiet: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gives no heartbeat does not count as running, though it holds its lock."""
    monkeypatch.setattr("bridge.cutover.gate_facts.SILENT_AFTER", 3.0)
    read_some(quiet, 3)
    bridge = quiet.rig.children[0]
    bridge.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: "or it hangs" in str(quiet.plans("viewer", ("reads",))[0].reasons), quiet.said)
    finally:
        bridge.send_signal(signal.SIGCONT)


def test_what_stands_in_no_file_comes_back(quiet: Cast) -> None:
    """An unread entry that cannot be a line is passed over on the files, and given when the component is back."""
    rig = quiet.rig
    read_some(quiet, 15)
    quiet.switch("viewer", "reads", "redis")
    rig.redis.call("XADD", STREAM, "*", "role", "ui", "type", "odd", "data", "in no file")
    rig.add("last")
    wait_until(lambda: rig.lines()[-1].endswith(b"last"), rig.said)
    with open_log("hestai-message", "viewer", config=rig.path / "bridge.toml", redis=rig.url) as log:
        assert not next(log.follow()).redelivered  # both are fetched, and the first is not acknowledged
    [plan] = quiet.plans("viewer", ("reads",), "file")
    assert "1 messages that viewer has not read stand in no file" in str(plan.reasons)
    quiet.switch("viewer", "reads", "file")
    assert read_some(quiet, 5, redis=False) == ["last"]
    quiet.switch("viewer", "reads", "redis")
    assert read_some(quiet, 5) == ["in no file"]


def test_unread_entries_that_were_trimmed(quiet: Cast) -> None:
    """The way back says that their lines are passed over, before it is gone."""
    rig = quiet.rig
    assert len(read_some(quiet, 4)) == 4
    quiet.switch("viewer", "reads", "redis")
    rig.redis.call("XTRIM", STREAM, "MAXLEN", "5")
    [plan] = quiet.plans("viewer", ("reads",), "file")
    assert "entries that viewer has not read may have been deleted" in str(plan.reasons)


def test_junk_in_the_keys(quiet: Cast) -> None:
    """What somebody wrote there by hand is told of, and hides no other component."""
    rig = quiet.rig
    read_some(quiet, 3)
    rig.redis.call("HSET", COMPONENTS, "other@test", "junk")
    rig.redis.call(
        "HSET", f"bridge:{{{STREAM}}}:positions", "odd/1", '{"at": 9999999999999, "paused": null}', "list", "[]"
    )
    told = json.loads(rig.run("status", "--json", "--redis", rig.url).stdout)["components"]
    assert {component["component"]: bool(component["error"]) for component in told} == {
        "odd": False,
        "viewer": False,
        "other": True,
    }
    [plan] = quiet.plans("viewer", ("reads",))
    assert [reason.what for reason in plan.reasons] == ["viewer gives no heartbeat"]


def test_a_position_that_redis_lost_is_said_by_hand(quiet: Cast) -> None:
    """A component whose group is gone is put on the files where its operator says, by the last entry it has read."""
    rig = quiet.rig
    assert len(read_some(quiet, 4)) == 4
    quiet.switch("viewer", "reads", "redis")
    assert read_some(quiet, 3) == ["line 4", "line 5", "line 6"]
    rig.redis.call("XGROUP", "DESTROY", STREAM, "viewer")
    assert read_some(quiet, 3) == []
    last = format_id(rig.entries()[6].id).decode()
    args = ("rollback", "viewer", "--reads", "--force", "viewer", "--execute", "--redis", rig.url)
    assert "how far viewer has read is not known" in rig.run(*args).stdout
    done = rig.run(*args, "--from", last)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_some(quiet, 20, redis=False) == [f"line {n}" for n in range(7, 10)] + [f"entry {n}" for n in range(5)]


def test_by_hand_is_for_who_is_stopped(rig: Rig) -> None:
    """`--from` is refused for a component that runs, nonsense is refused before anything is switched, a ghost is unknown."""
    cast = Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "ui")
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) > 20, cast.said)
    done = rig.run("cutover", "viewer", "--reads", "--from", "0", "--force", "viewer", "--execute", "--redis", rig.url)
    assert done.returncode == 3
    assert "tells itself how far it has read" in done.stdout
    for nonsense in ("nonsense", "100", "messages.log:100"):
        done = rig.run("rollback", "viewer", "--from", nonsense, "--execute", "--redis", rig.url)
        assert done.returncode == 2
        assert "is no entry ID" in done.stderr
    done = rig.run(
        "cutover", "viewr", "--mapping", "hestai-message", "--from", "0", "--force", "viewr", "--redis", rig.url
    )
    assert done.returncode == 2
    assert "did you mean 'viewer'" in done.stderr
    cast.stop("ui", "viewer")
    rig.stop(bridge)
