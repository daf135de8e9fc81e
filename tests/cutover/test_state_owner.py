"""A component that writes latest values goes over: its side owns them from then on, and no value is lost or taken back."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import pytest

from bridge.core.codecs.timestamps import older
from bridge.core.errors import BridgeError, RedisRefused
from bridge.core.failpoints import FAILPOINTS
from bridge.cutover import switch_waits
from bridge.cutover.operator import Operator, SwitchWish
from bridge.ledger.states import ask_owner, note_asked, owner_of, set_owner, unask_owner
from bridge.ledger.store import Ledger
from bridge.streams.components import REDIS, WRITES, ComponentHash
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys
from tests.kinds.test_state import SOAK, STATE, Values
from tests.support.rig import Rig, line, wait_until

COMPONENT_HASH = ComponentHash(Keys.of(STATE), "state", "test")
COMPONENTS = '[components.ui]\nroles = ["ui"]\n[components.daemon]\nroles = ["daemon"]\n'
STEPS = [f"{name}.{when}" for name in FAILPOINTS if name.startswith("switch.") for when in ("before", "after")]
SOME = ["switch.asked.after", "switch.flip.after"]
STEPS = [step for step in STEPS if step not in ("switch.pause.before", "switch.flip.before", "switch.done.before")]


class Writer:
    """A program that writes 1, 2, 3 … where `bridge:{S}:components` says, and waits while it is being switched."""

    def __init__(self, values: Values, name: str = "ui") -> None:
        self.values = values
        self.name = name
        self.last = 0
        self.paused = 0
        self._stop = Event()
        self._thread = Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        redis = Connection(self.values.rig.url)
        for number in itertools.count(1):
            while True:
                modes, now = COMPONENT_HASH.read(redis, self.name)
                tokens = [modes.switch.token] if modes.switch is not None else []
                beat = {"at": now, "epoch": modes.epoch, "following": False, "reads": "file", "paused": tokens}
                redis.call("HSET", f"bridge:{{{STATE}}}:positions", f"{self.name}/w", json.dumps(beat))
                if self._stop.is_set():
                    redis.call("HDEL", f"bridge:{{{STATE}}}:positions", f"{self.name}/w")
                    redis.close()
                    return
                if not tokens:
                    break
                self.paused += 1
                self._stop.wait(0.005)
            data = b"%d" % number
            if modes.writes == "file":
                self.values.save(data)
            else:
                self.values.set(data, datetime.now(UTC).isoformat(), redis=redis)
            self.last = number
            self._stop.wait(0.03)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def set_up(rig: Rig, owner: str = "file") -> Values:
    """A folder of values, with components declared."""
    values = Values(rig, owner=owner)
    with (rig.path / "bridge.toml").open("a") as config:
        config.write(COMPONENTS)
    return values


def carried(values: Values, data: bytes) -> subprocess.Popen[bytes]:
    """A bridge that has carried this value."""
    values.save(data)
    bridge = values.rig.beats(values.rig.ready(values.rig.start()))
    values.until(data)
    return bridge


def switch(rig: Rig, verb: str, *more: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command."""
    args = (verb, "ui", "--mapping", "state", "--writes", "--execute", "--accept-volatile", "--redis", rig.url, *more)
    return rig.run(*args, env=env)


def owner(rig: Rig) -> str:
    """By the ledger."""
    ledger = Ledger(rig.state / "ledger.db")
    try:
        owner = owner_of(ledger, STATE, "file")
        return f"{owner.side}{', asked' * owner.asked}"
    finally:
        ledger.close()


@contextmanager
def operator(rig: Rig) -> Iterator[Operator]:
    """In this process."""
    ledger, servers = Ledger(rig.state / "ledger.db"), Connections(rig.settings())
    switcher = Operator(rig.settings(), ledger, servers, "tester@here", Event().wait)
    try:
        yield switcher
    finally:
        switcher.close()
        ledger.close()
        servers.close()


def equal(values: Values) -> bool:
    """Whether both sides are."""
    result = values.parity()
    return result.verdict == "equal" and not result.tally.in_flight


class Reader:
    """Reads one side again and again: what it sees never goes back."""

    def __init__(self, read: Path | Values) -> None:
        self.seen: list[int] = []
        self._read = read
        self._stop = Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        redis = Connection(self._read.rig.url) if isinstance(self._read, Values) else None
        while not self._stop.wait(0.003):
            if redis is not None and isinstance(self._read, Values):
                raw = redis.call("HGET", self._read.key(), "data")
            else:
                raw = self._read.read_bytes() if isinstance(self._read, Path) and self._read.exists() else None
            if raw and (not self.seen or self.seen[-1] != int(raw)):
                self.seen.append(int(raw))
        if redis is not None:
            redis.close()

    def stop(self) -> list[int]:
        self._stop.set()
        self._thread.join(60)
        return self.seen


def test_there_and_back(rig: Rig) -> None:
    """Three times over and back while the values change: neither side ever shows an older one, and both end equal."""
    values = set_up(rig)
    writer = Writer(values)
    bridge = rig.beats(rig.ready(rig.start()))
    wait_until(lambda: values.hash().get(b"data"), rig.said)
    readers = [Reader(values.folder / "focus.md"), Reader(values)]
    wait_until(lambda: equal(values), rig.said)
    for _ in range(3):
        for verb, side in (("cutover", "redis"), ("rollback", "file")):
            done = switch(rig, verb, "--force", "ui")
            assert done.returncode == 0, done.stdout + done.stderr + rig.said()
            assert owner(rig) == side
            before = writer.last
            wait_until(lambda before=before: writer.last > before + 5, rig.said)  # type: ignore[misc]
    assert writer.paused
    writer.stop()
    last = b"%d" % writer.last
    values.until(last)
    values.until_file(last)
    wait_until(lambda: equal(values), rig.said)
    for reader in readers:
        seen = reader.stop()
        assert seen == sorted(seen), seen
    rig.stop(bridge)


def test_the_operator_is_killed(rig: Rig) -> None:
    """At every step of the switch, there and back: afterwards the values are carried from where the program writes them."""
    values = set_up(rig)
    bridge = carried(values, b"0")
    wait_until(lambda: equal(values), rig.said)
    for number, (point, verb) in enumerate(itertools.product(STEPS if SOAK else SOME, ("cutover", "rollback")), 1):
        gone = switch(rig, verb, "--force", "ui", env={"BRIDGE_CRASH_AT": point})
        assert gone.returncode == -9, (point, gone.stdout, gone.stderr)

        def made(verb: str = verb) -> bool:
            return switch(rig, verb, "--force", "ui").returncode == 0

        wait_until(made, lambda at=point: f"{at}: {rig.said()}")  # type: ignore[misc]
        side, data = "redis" if verb == "cutover" else "file", b"%d" % number
        assert (owner(rig), COMPONENT_HASH.read(rig.redis, "ui")[0].writes) == (side, side), point
        if side == "redis":
            values.set(data, "2126-01-01T00:00:00.000Z")
            values.until_file(data)
        else:
            values.save(data)
            values.until(data)
    rig.stop(bridge)


def test_a_switch_is_finished_beside_the_bridge(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator was killed when it was decided: nothing is carried, and the next bridge makes it."""
    values = set_up(rig)
    bridge = carried(values, b"old")
    gone = switch(rig, "cutover", "--force", "ui", env={"BRIDGE_CRASH_AT": "switch.flip.after"})
    assert gone.returncode == -9
    assert owner(rig) == "file, asked"
    values.set(b"new", "2126-01-01T00:00:00Z")  # the program writes where it was told
    rig.stop(bridge)
    assert (values.folder / "focus.md").read_bytes() == b"old"
    bridge = rig.ready(rig.start())
    values.until_file(b"new")
    assert owner(rig) == "redis"
    rig.stop(bridge)


def test_what_was_asked_lapses(rig: Rig) -> None:
    """The operator was killed before it was decided: after a minute and a half the bridge carries as before."""
    values = set_up(rig)
    bridge = carried(values, b"one")
    assert switch(rig, "cutover", "--force", "ui", env={"BRIDGE_CRASH_AT": "switch.asked.after"}).returncode == -9
    assert owner(rig) == "file, asked"
    aged(rig, 100)
    values.save(b"two")
    values.until(b"two")
    assert owner(rig) == "file"
    rig.stop(bridge)


def test_what_was_asked_of_a_log_lapses(rig: Rig) -> None:
    """The same for a program that was to write both sides itself: its lines wait, and are carried after all."""
    rig.write_config(extra=COMPONENTS)
    rig.append("before")
    bridge = rig.beats(rig.ready(rig.start()))
    wait_until(lambda: len(rig.datas()) == 1, rig.said)
    args = ("cutover", "daemon", "--writes", "--both", "--execute", "--force", "daemon", "--redis", rig.url)
    gone = rig.run(*args, env={"BRIDGE_CRASH_AT": "switch.asked.after"})
    assert gone.returncode == -9, gone.stdout + gone.stderr
    with rig.log.open("ab") as log:
        log.write(line("of the daemon", "daemon"))
    rig.add("from ui")
    aged(rig, 100)
    wait_until(lambda: len(rig.datas()) == len(rig.lines()) == 3, rig.said)
    assert sorted(rig.datas()) == [b"before", b"from ui", b"of the daemon"]
    rig.stop(bridge)


def test_somebody_else_writes_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not wait for the switch writes on: nothing is switched, and its values are carried."""
    values = set_up(rig)
    bridge = carried(values, b"one")
    wait_until(lambda: equal(values), rig.said)
    monkeypatch.setattr(
        switch_waits, "failpoint", lambda point: values.save(b"two") if point == "switch.asked.before" else None
    )
    with operator(rig) as switcher:
        wish = SwitchWish("ui", (WRITES,), REDIS, forced=True)
        [step] = switcher.steps(wish, "state")[0]
        with pytest.raises(BridgeError, match="somebody wrote it meanwhile"):
            switcher.make(wish, switcher.plan(wish, step))
    assert owner(rig) == "file"
    values.until(b"two")
    rig.stop(bridge)


def test_another_component_writes_there(rig: Rig) -> None:
    """Values have one owner: who else is known to write them speaks against the switch."""
    values = set_up(rig)
    bridge = carried(values, b"one")
    rig.redis.call(
        "HSET", COMPONENT_HASH.keys.components, "daemon@test", '{"reads": "file", "writes": "file", "epoch": 0}'
    )
    done = rig.run("cutover", "ui", "--mapping", "state", "--writes", "--redis", rig.url)
    assert done.returncode == 3
    assert "daemon goes on writing the other side's values" in done.stdout
    assert "all of state/*, are owned by the side it writes to" in done.stdout
    rig.stop(bridge)


def test_status_and_parity_know(rig: Rig) -> None:
    """After a switch nothing waits for the file, and what differs is told from the new owner's side."""
    values = set_up(rig)
    bridge = carried(values, b"one")
    wait_until(lambda: equal(values), rig.said)
    assert switch(rig, "cutover", "--force", "ui").returncode == 0
    said = json.loads(rig.run("status", "--json", "--redis", rig.url).stdout)
    [standing] = said["components"]
    assert (standing["component"], standing["mapping"], standing["writes"]) == ("ui", "state", "redis")
    rig.stop(bridge)
    (values.folder / "focus.md").unlink()
    result = values.parity()
    assert [(difference.kind, difference.file_born) for difference in result.tally.differences] == [
        ("missing_in_file", False)
    ]


def test_retire(rig: Rig) -> None:
    """What is kept of latest values are their files; who writes on the other side speaks against it."""
    values = set_up(rig)
    values.save(b"one")
    values.save(b"two", "plan.md")
    bridge = rig.beats(rig.ready(rig.start()))
    values.until(b"one")
    values.until(b"two", "plan.md")
    wait_until(lambda: equal(values), rig.said)
    assert switch(rig, "cutover", "--force", "ui").returncode == 0
    rig.stop(bridge)
    rig.redis.call(
        "HSET", COMPONENT_HASH.keys.components, "daemon@test", '{"reads": "file", "writes": "file", "epoch": 1}'
    )
    args = ("retire", "state", "--execute", "--force", "state", "--redis", rig.url)
    assert "daemon writes to the files" in rig.run(*args).stdout
    rig.redis.call(
        "HSET", COMPONENT_HASH.keys.components, "daemon@test", '{"reads": "file", "writes": "redis", "epoch": 2}'
    )
    done = rig.run(*args)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = rig.state / "retired" / "state" / "state"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {"focus.md": b"one", "plan.md": b"two"}


def gone_over(rig: Rig, values: Values) -> subprocess.Popen[bytes]:
    """A bridge, and `ui` that writes in Redis."""
    bridge = carried(values, b"old")
    wait_until(lambda: equal(values), rig.said)
    done = switch(rig, "cutover", "--force", "ui")
    assert done.returncode == 0, done.stdout + done.stderr
    return bridge


def test_the_ledger_is_lost(rig: Rig) -> None:
    """`repair` asks Redis who was switched: what was written there since is not replaced by the file's value."""
    values = set_up(rig)
    rig.stop(gone_over(rig, values))
    values.set(b"new", "2126-01-01T00:00:00Z")
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    done = rig.run("repair", "--execute", "--take-over", "--redis", rig.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert owner(rig) == "redis"
    bridge = rig.ready(rig.start())
    values.until_file(b"new")
    rig.stop(bridge)


def test_redis_lost_the_switch(rig: Rig) -> None:
    """A component that was switched is told otherwise: nothing is carried, it is said, and the operator says who counts."""
    values = set_up(rig)
    bridge = gone_over(rig, values)
    rig.redis.call("DEL", COMPONENT_HASH.keys.components, "bridge:components")
    said = "ui writes to the files by what Redis says, and Redis own it"
    wait_until(lambda: said in rig.run("status", "--redis", rig.url).stdout, rig.said)
    values.save(b"by the program")
    plan = rig.run("rollback", "ui", "--mapping", "state", "--writes", "--redis", rig.url).stdout
    assert "Redis had lost where that is, and what Redis may hold of later values is replaced" in " ".join(plan.split())
    assert (values.folder / "focus.md").read_bytes() == b"by the program"
    done = switch(rig, "rollback", "--force", "ui")
    assert done.returncode == 0, done.stdout + done.stderr
    values.until(b"by the program")
    rig.stop(bridge)


def test_a_refusal_takes_nothing_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that was made and not noted is not taken back because Redis is busy when somebody looks."""
    values = set_up(rig)
    bridge = carried(values, b"old")
    assert switch(rig, "cutover", "--force", "ui", env={"BRIDGE_CRASH_AT": "switch.flip.after"}).returncode == -9
    assert "its switch is asked for" in aged(rig, 10).run("status", "--redis", rig.url).stdout

    def busy(*_: object) -> None:
        raise RedisRefused("BUSY a script is running", code="BUSY")

    with monkeypatch.context() as patch, operator(rig) as switcher:
        patch.setattr(ComponentHash, "read", busy)
        assert [outcome for _, outcome in switcher.complete()] == ["is not made yet: BUSY a script is running"]
    assert owner(rig) == "file, asked"
    rig.write_config(mapping="hestai-message", extra=COMPONENTS)  # and not because its mapping is gone for a moment
    with operator(rig) as switcher:
        [(_, outcome)] = switcher.complete()
        assert "is not made yet" in outcome
    set_up(rig)
    with operator(rig) as switcher:
        assert [outcome for _, outcome in switcher.complete()] == ["was made"]
    assert owner(rig) == "redis"
    rig.stop(bridge)


def aged(rig: Rig, seconds: float) -> Rig:
    """What was asked was asked so much earlier."""
    with sqlite3.connect(rig.state / "ledger.db") as db:
        db.execute("UPDATE state_owners SET asked_at = asked_at - ?", (seconds,))
        db.execute("UPDATE twofold SET asked_at = asked_at - ?", (seconds,))
    return rig


def test_only_who_is_named_takes_values_along(rig: Rig) -> None:
    """A component that merely reads a latest value goes over without it, and nothing of it is switched by the way."""
    values = set_up(rig)
    bridge = carried(values, b"one")
    wait_until(lambda: equal(values), rig.said)
    beat = {"at": int(time.time() * 1000), "epoch": 0, "following": True, "reads": "file", "paused": []}
    rig.redis.call("HSET", f"bridge:{{{STATE}}}:positions", "ui/w", json.dumps(beat))
    done = rig.run("cutover", "ui", "--execute", "--redis", rig.url)
    assert (done.returncode, owner(rig)) == (2, "file"), done.stdout + done.stderr
    rig.stop(bridge)


def test_two_at_once(rig: Rig) -> None:
    """Two components of one mapping: what one operator asked, another neither settles nor takes back."""
    values = set_up(rig)
    rig.stop(gone_over(rig, values))
    ledger = Ledger(rig.state / "ledger.db")
    try:
        assert ask_owner(ledger, STATE, "ui", "file", "one", 1.0)
        assert not ask_owner(ledger, STATE, "daemon", "redis", "two", 2.0)
        unask_owner(ledger, "two")
        note_asked(ledger, STATE, "two")
        now = owner_of(ledger, STATE, "file")
        assert (now.side, now.asked, now.token, now.noted) == ("redis", True, "one", False)
        set_owner(ledger, STATE, "ui", "file", "one")
        assert owner_of(ledger, STATE, "redis").side == "file"
    finally:
        ledger.close()


def test_what_was_taken_away_stays_away(rig: Rig) -> None:
    """A file that was removed long ago is not put back when Redis comes to own its mapping."""
    values = set_up(rig)
    values.save(b"two", "plan.md")
    bridge = rig.beats(rig.ready(rig.start()))
    values.until(b"two", "plan.md")
    (values.folder / "plan.md").unlink()
    rig.stop(bridge)
    bridge = gone_over(rig, values)
    values.set(b"three", "2126-01-01T00:00:00Z")
    values.until_file(b"three")
    assert not (values.folder / "plan.md").exists()
    rig.stop(bridge)


def test_whole_seconds(rig: Rig) -> None:
    """A component that goes over tells whole seconds: a value of the second of the file's last one is not older."""
    values = set_up(rig)
    bridge = gone_over(rig, values)
    written = (values.folder / "focus.md").stat().st_mtime
    values.set(b"new", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(written)))
    values.until_file(b"new")
    rig.stop(bridge)
    assert older(b"2026-03-02T09:14:05Z", b"2026-03-02T09:14:06.001Z")
    assert not older(b"1771004967", b"1771004967.5")
    assert older(b"2026-03-02T09:14:05.000Z", b"2026-03-02T09:14:05.001Z")


def test_declared_in_redis(rig: Rig) -> None:
    """Values that Redis owns from the beginning can be taken to the files."""
    values = set_up(rig, owner="redis")
    bridge = rig.beats(rig.ready(rig.start()))
    values.save(b"", "focus.md")
    values.set(b"one", "2126-01-01T00:00:00Z")
    values.until_file(b"one")
    wait_until(lambda: equal(values), rig.said)
    done = switch(rig, "rollback", "--force", "ui")
    assert done.returncode == 0, done.stdout + done.stderr
    values.save(b"two")
    values.until(b"two")
    rig.stop(bridge)


def test_what_another_mapping_reads(rig: Rig) -> None:
    """The bridge does not come to write files that another mapping reads."""
    values = set_up(rig)
    config = (rig.path / "bridge.toml").read_text()
    other = rig.path / "all.toml"
    other.write_text(
        'name = "all"\n[source]\nkind = "artifacts"\npath = "state/"\n[message]\nrole = { const = "ui" }\n[stream]\nkey = "s:all"\n'
    )
    entry = f'"{rig.path / "state.toml"}"'
    assert entry in config
    (rig.path / "bridge.toml").write_text(config.replace(entry, f'{entry}, "{other}"'))
    bridge = rig.beats(rig.ready(rig.start()))
    values.save(b"one")
    values.until(b"one")
    done = switch(rig, "cutover", "--force", "ui")
    assert done.returncode == 3
    assert "the bridge would write state/*, which mapping 'all' reads" in done.stdout
    rig.stop(bridge)


def test_an_inbox(rig: Rig) -> None:
    """Of an inbox what is written goes over, and back; what is read cannot; what is kept of it are its entries."""
    rig.write_config(mapping="hestai-inbox", extra=COMPONENTS)
    folder = rig.root / "inbox"
    folder.mkdir()
    (folder / "1.json").write_text('{"uuid": "1", "doc_type": "note", "timestamp": "2026-03-02T09:14:05"}')
    bridge = rig.beats(rig.ready(rig.start()))
    stream = b"hestai:inbox"
    wait_until(lambda: rig.redis.call("XLEN", stream) == 1, rig.said)

    def run(verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        args = ("--mapping", "hestai-inbox", "--execute", "--force", "ui", "--accept-volatile", "--redis", rig.url)
        return rig.run(verb, "ui", *args, *more)

    gone = run("cutover", "--reads")
    assert gone.returncode == 2
    assert "cannot be told in Redis" in gone.stderr
    gone = run("cutover", "--writes", "--both")
    assert gone.returncode == 2
    assert "--both is for logs" in gone.stderr
    assert "`hestai-inbox`, files that each hold a message" in rig.run("runbook", "--redis", rig.url).stdout
    for verb in ("cutover", "rollback", "cutover"):
        done = run(verb)
        assert done.returncode == 0, done.stdout + done.stderr
    rig.stop(bridge)
    args = ("retire", "hestai-inbox", "--execute", "--force", "hestai-inbox", "--redis", rig.url)
    done = rig.run(*args)
    assert done.returncode == 0, done.stdout + done.stderr
    [entry] = (rig.state / "retired" / "hestai-inbox" / "entries.jsonl").read_text().splitlines()
    assert "`hestai-inbox`, files that each hold a message" not in rig.run("runbook", "--redis", rig.url).stdout
    assert '"uuid": "1"' in dict(zip(*[iter(json.loads(entry)["fields"])] * 2, strict=True))["data"]
