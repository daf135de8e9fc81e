"""A mapping with many streams, one for each log, carried both ways by a running bridge."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from pathlib import Path
from threading import Thread

import pytest

from bridge import open_log
from bridge.admin.acl_rules import users
from bridge.cutover.component_status import sample_component
from bridge.engine.status import sample
from bridge.kinds.stream_family import with_streams
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from tests.admin.test_acl_rules import give, refused
from tests.support.many import KEY, Sessions, SessionWriters
from tests.support.rig import Rig, line, wait_until


def told(rig: Rig, *args: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(rig.run(*args, "--json", "--redis", rig.url).stdout)
    return found


def equal(rig: Rig) -> None:
    done = rig.run("parity", "--redis", rig.url)
    assert (done.returncode, done.stdout.endswith("EQUAL\n")) == (0, True), done.stdout[-2000:] + done.stderr


def test_a_stream_for_each_log(rig: Rig) -> None:
    """Each log has a stream, two of one stem in two folders have two, and both sides stay the same both ways."""
    names = ["a", "x/a", "y/a", "b c", "{d}"]
    sessions = Sessions(rig, names)
    for name in names[:4]:
        sessions.append(name, f"1 {name}", f"2 {name}")
    child = rig.ready(rig.start())
    sessions.settle()
    for name in names:
        sessions.add(name, f"r {name}")
    sessions.append("{d}", "late to come")
    sessions.settle()
    keys = {bytes(key).decode() for key in rig.redis.call("KEYS", f"{KEY}:*")}
    assert keys == {f"{KEY}:{name}" for name in ("a", "x/a", "y/a", "b%20c", "%7Bd%7D")}
    equal(rig)
    rig.stop(child)


def test_a_renamed_log_keeps_its_stream(rig: Rig) -> None:
    """A log that is renamed stays the same stream, also after a restart, and a new log of the old name is another."""
    sessions = Sessions(rig, ["a", "b"])
    sessions.append("a", "1")
    child = rig.ready(rig.start())
    sessions.settle()
    sessions.log("a").rename(sessions.log("moved"))
    with sessions.log("moved").open("ab") as file:
        file.write(b"agent|2026-03-02T09:14:05Z|turn|2\n")
    stream = f"{KEY}:a"
    wait_until(lambda: rig.redis.call("XLEN", stream) == 2, rig.said)
    rig.stop(child)
    with sessions.log("moved").open("ab") as file:
        file.write(b"agent|2026-03-02T09:14:05Z|turn|3\n")
    child = rig.ready(rig.start())
    wait_until(lambda: rig.redis.call("XLEN", stream) == 3, rig.said)
    assert [bytes(key) for key in rig.redis.call("KEYS", f"{KEY}:*")] == [stream.encode()]
    equal(rig)
    rig.stop(child)


def test_rotated_logs(rig: Rig) -> None:
    """The pieces of a rotated log are its stream's, and those of another log with a longer name are that one's."""
    sessions = Sessions(rig, ["a", "a.b"])
    for name in sessions.names:
        sessions.append(name, f"1 {name}")
    child = rig.ready(rig.start())
    sessions.settle()
    for name in sessions.names:
        sessions.log(name).rename(f"{sessions.log(name)}.1")
        sessions.append(name, f"2 {name}")
    sessions.settle()
    equal(rig)
    rig.stop(child)


def test_a_stream_that_began_in_redis(rig: Rig) -> None:
    """A stream that a component began is mirrored into a log of its name; one that fits no log is left alone."""
    sessions = Sessions(rig, ["new", "2026/other"])
    child = rig.ready(rig.start())
    for name in sessions.names:
        sessions.add(name, f"r {name}")
    rig.redis.call("XADD", f"{KEY}:../../x", "*", "role", "ui", "data", "no")
    rig.redis.call("SET", f"{KEY}:text", "no stream")
    sessions.settle()
    for name in sessions.names:
        sessions.append(name, f"f {name}")
    sessions.settle()
    equal(rig)
    rig.stop(child)
    sessions.add("new", "while nothing ran")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    sessions.check()
    assert sorted(path.name for path in rig.root.rglob("*")) == ["2026", "new.log", "other.log", "sessions"]


def test_streams_at_rest(rig: Rig) -> None:
    """A stream at rest costs no connection and no lease, and goes on with its next line or entry."""
    sessions = Sessions(rig, [f"s{n}" for n in range(12)])
    for name in sessions.names:
        sessions.append(name, f"1 {name}")
    child = rig.ready(rig.start())
    sessions.settle()

    def resting() -> bool:
        leases = [
            rig.redis.call("HGET", f"bridge:{{{sessions.stream(name)}}}:meta", "lease") for name in sessions.names
        ]
        return len(bytes(rig.redis.call("CLIENT", "LIST")).splitlines()) < 7 and not any(leases)

    wait_until(resting, lambda: bytes(rig.redis.call("CLIENT", "LIST")).decode() + rig.said())
    for name in sessions.names:
        sessions.append(name, f"2 {name}")
        sessions.add(name, f"r {name}")
    sessions.settle()
    rig.stop(child)


def test_redis_goes_back_while_streams_rest(rig: Rig) -> None:
    """Where Redis comes back without the last entries of streams at rest, these are filled up from their logs."""
    sessions = Sessions(rig, [f"s{n}" for n in range(6)])
    for name in sessions.names:
        sessions.append(name, f"1 {name}", f"2 {name}")
    child = rig.ready(rig.start())
    sessions.settle()
    older = {key: rig.redis.call("DUMP", key) for key in keys_of(rig, sessions.stream("s2"))}
    for name in sessions.names:
        sessions.add(name, f"r {name}")
    sessions.settle()
    wait_until(lambda: len(bytes(rig.redis.call("CLIENT", "LIST")).splitlines()) < 7, "rest")
    rig.redis.call("DEL", *keys_of(rig, sessions.stream("s1")))
    for key, value in older.items():
        rig.redis.call("RESTORE", key, 0, value, "REPLACE")
    assert [rig.redis.call("XLEN", sessions.stream(name)) for name in ("s1", "s2")] == [0, 2]
    rig.redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for name in ("s1", "s2"):
        wait_until(lambda name=name: rig.redis.call("XLEN", sessions.stream(name)) == 3, rig.said)  # type: ignore[misc]
    equal(rig)
    rig.stop(child)


def keys_of(rig: Rig, stream: str) -> list[bytes]:
    """All keys of a stream."""
    return [stream.encode(), *rig.redis.call("KEYS", f"bridge:{{{stream}}}:*")]


def test_commands_with_many_streams(rig: Rig) -> None:
    """Each command tells of many streams together, and of one by its name."""
    sessions = Sessions(rig, [f"x/s{n}" for n in range(8)])
    for n, name in enumerate(sessions.names):
        sessions.append(name, *(f"{name} {i}" for i in range(n + 1)))
    done = rig.run("import-history", "--redis", rig.url)
    assert "sessions: imported, 36 lines" in done.stdout, done
    assert "36 entries in 8 streams" in done.stdout, done
    sessions.check()
    sessions.append("x/s0", "one more")
    done = rig.run("run", "--once", "--redis", rig.url)
    assert done.stdout == "sessions: carried 1 line\n", done
    equal(rig)
    said = rig.run("parity", "--redis", rig.url).stdout
    assert "sessions → 8 streams" in said
    assert "Equal: 37 messages" in said
    said = rig.run("parity", "sessions:x/s1", "--redis", rig.url).stdout
    assert f"sessions:x%2Fs1 → {KEY}:x/s1" in said
    said = rig.run("status", "--redis", rig.url).stdout
    assert "sessions → 8 streams" in said
    assert "8 equal" in said
    sessions.append("x/s3", "not carried yet")
    said = rig.run("status", "--redis", rig.url).stdout
    assert "7 to their end" in said
    assert "x%2Fs3   1 line behind" in said, said
    assert f"sessions:x%2Fs3 → {KEY}:x/s3" in rig.run("status", "sessions:x/s3", "--redis", rig.url).stdout
    assert len(rig.run("tail", "-n", "3", "--redis", rig.url).stdout.splitlines()) == 3
    lines = rig.run("tail", "-n", "0", "--since", "0-1", "--redis", rig.url)
    assert lines.returncode == 0
    assert len(rig.run("tail", "sessions", "--since", "0-1", "--redis", rig.url).stdout.splitlines()) == 37
    assert rig.run("tail", "sessions:x/s1", "--redis", rig.url).stdout.splitlines()[-1].endswith("x/s1 1")
    place = json.loads(rig.run("locate", "sessions/x/s2.log:2", "--json", "--redis", rig.url).stdout)
    assert place[0]["stream"] == f"{KEY}:x/s2", place
    done = rig.run("files", "--redis", rig.url)
    assert done.stdout.startswith("sessions: 8 files"), done
    done = rig.run("status", "sessions:x/none", "--redis", rig.url)
    assert (done.returncode, "did you mean 'sessions:x%2Fs" in done.stderr) == (2, True), done
    done = rig.run("redact", "sessions", "1-1", "--redis", rig.url)
    assert (done.returncode, "has 8 streams" in done.stderr) == (2, True), done


def test_the_rights_for_many_streams(rig: Rig) -> None:
    """The rights of `bridge acl` are patterns over all streams, and enough for a bridge that carries and finds them."""
    sessions = Sessions(rig, ["a", "b"])
    sessions.append("a", "1")
    every = users(with_streams(rig.settings()))
    assert f"~{KEY}:*" in every[0].rules.split()
    child = rig.ready(rig.start(url=give(rig, every)[every[0].name]))
    sessions.add("b", "r")
    sessions.settle()
    sessions.append("b", "f")
    sessions.add("a", "r")
    sessions.settle()
    rig.stop(child)
    assert refused(rig) == []


def test_the_rights_of_a_reader(rig: Rig) -> None:
    """The rights of a component are enough to read many streams in one loop, from files and from Redis."""
    sessions = Sessions(rig, ["a", "b", "c"])
    for name in sessions.names[:2]:
        sessions.append(name, f"1 {name}")
    child = rig.beats(rig.start())
    sessions.settle()
    urls = give(rig, users(with_streams(rig.settings())))
    config = rig.path / "bridge.toml"
    with open_log("sessions", "ui", config=config, redis=urls["ui"], streams="*") as logs:
        assert len(list(logs.follow(idle=0.5))) == 2
        reading = Thread(target=lambda: list(logs.follow(idle=6.0)))
        reading.start()
        flags = ("ui", "--mapping", "sessions", "--reads", "--accept-volatile", "--force", "ui")
        done = rig.run("cutover", *flags, "--execute", "--redis", rig.url)
        assert done.returncode == 0, done
        sessions.add("c", "r")
        reading.join()
        assert logs.streams == ["a", "b", "c"]
    assert refused(rig) == []
    rig.stop(child)


def test_another_bridge_on_the_same_streams(rig: Rig, tmp_path: Path) -> None:
    """A second bridge whose mapping has the same streams stands by, says whose they are, and changes nothing."""
    sessions = Sessions(rig, ["a", "b"])
    sessions.append("a", "1")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    (tmp_path / "other").mkdir()
    other = rig.beside(tmp_path / "other")
    theirs = Sessions(other, ["a", "c"])
    config = other.path / "bridge.toml"
    config.write_text(config.read_text().replace('"test"', '"other"'))
    theirs.append("a", "not mine")
    theirs.append("c", "mine")
    child = other.ready(other.start(url=rig.url))
    wait_until(lambda: rig.redis.call("XLEN", f"{KEY}:c") == 1, other.said)
    wait_until(lambda: "this is the stream of bridge 'test'" in other.said(), other.said)
    assert rig.redis.call("XLEN", f"{KEY}:a") == 1
    assert not theirs.log("b").exists()
    other.stop(child)
    other.close()


def test_writers_at_random(rig: Rig) -> None:
    """Programs that write to forty logs and streams at random find all on both sides, in order, whatever restarts."""
    sessions = Sessions(rig, [f"{n % 3}/s{n}" for n in range(40)])
    child = rig.ready(rig.start())
    writers = SessionWriters(sessions, "a")
    for _ in range(2):
        wait_until(lambda n=writers.written: writers.written > n + 150, "writing")  # type: ignore[misc]
        os.kill(child.pid, 9)
        child.wait()
        child = rig.start()
    wait_until(lambda n=writers.written: writers.written > n + 150, "writing")  # type: ignore[misc]
    writers.stop()
    sessions.settle()
    equal(rig)
    rig.stop(child)


def test_a_lost_ledger_and_names_that_were_taken(rig: Rig) -> None:
    """A ledger that is made anew gives each log the stream that it had, also where another log would have its name."""
    sessions = Sessions(rig, ["a.txt", "b"])
    text = (rig.path / "sessions.toml").read_text().replace("sessions/**/*.log", "sessions/*", 1)
    (rig.path / "sessions.toml").write_text(text.replace("sessions/**/*.log.*", "sessions/*.gz"))

    def write(name: str, data: str) -> None:
        (rig.root / "sessions").mkdir(exist_ok=True)
        with (rig.root / "sessions" / name).open("ab") as file:
            file.write(line(data))

    def lengths() -> dict[str, int]:
        return {bytes(key).decode(): rig.redis.call("XLEN", key) for key in rig.redis.call("KEYS", f"{KEY}:*")}

    assert sessions.names
    write("b.txt", "first b.txt")  # so this is b
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    write("b.log", "first b.log")  # and this b.log, though it would be b
    write("b.log", "second b.log")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    assert lengths() == {f"{KEY}:b": 1, f"{KEY}:b.log": 2}
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    assert rig.run("repair", "--execute", "--redis", rig.url).returncode == 0
    write("b.txt", "more b.txt")
    child = rig.ready(rig.start())
    write("b.log", "more b.log")
    wait_until(lambda: lengths() == {f"{KEY}:b": 2, f"{KEY}:b.log": 3}, lambda: f"{lengths()} {rig.said()}")
    equal(rig)
    rig.stop(child)
    (rig.root / "sessions" / "b.txt").unlink()
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    rig.run("repair", "--execute", "--redis", rig.url)
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    assert lengths() == {f"{KEY}:b": 2, f"{KEY}:b.log": 3}


def test_a_lost_ledger_and_logs_that_were_renamed(rig: Rig) -> None:
    """A ledger that is made anew finds renamed logs by what of them is in Redis: nothing is sent again."""
    sessions = Sessions(rig, ["a", "b", "c"])
    for name in sessions.names:
        sessions.append(name, *(f"{name} {n}" for n in range(3)))
    child = rig.ready(rig.start())
    sessions.settle()
    sessions.log("a").rename(sessions.log("z"))
    sessions.log("c").rename(sessions.log("c2"))
    with sessions.log("z").open("ab") as file:
        file.write(line("a 3"))
    wait_until(lambda: rig.redis.call("XLEN", f"{KEY}:a") == 4, rig.said)
    rig.stop(child)
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    assert rig.run("repair", "--execute", "--redis", rig.url).returncode == 0
    with sessions.log("z").open("ab") as file:
        file.write(line("a 4"))
    child = rig.ready(rig.start())
    sessions.add("c", "r c")
    wait_until(lambda: rig.redis.call("XLEN", f"{KEY}:a") == 5, rig.said)
    wait_until(lambda: b"r c" in b"".join(p.read_bytes() for p in sessions.log("a").parent.iterdir()), rig.said)
    assert {bytes(key).decode() for key in rig.redis.call("KEYS", f"{KEY}:*")} == {f"{KEY}:{n}" for n in "abc"}
    equal(rig)
    rig.stop(child)


@pytest.mark.parametrize("when", ["before", "after"])
def test_names_that_could_not_be_fixed(rig: Rig, when: str) -> None:
    """Logs whose names the ledger could not take, as its disk was full, are named and carried with the next sweep."""
    sessions = Sessions(rig, ["first", "a", "b", "c"])
    sessions.append("first", "1")
    child = rig.ready(rig.start(crash=f"streams.name.{when}:raise=ENOSPC:2"))
    sessions.settle()
    for name in ("a", "b"):  # and nothing happens to these files again
        sessions.append(name, f"1 {name}")
    wait_until(lambda: "No space left" in rig.said(), rig.said)
    sessions.add("c", "r c")
    sessions.settle()
    rig.stop(child)


def test_a_log_whose_name_another_one_has(rig: Rig) -> None:
    """Where another log was renamed to a log's name, the mirror writes into neither, says so, and goes on after that."""
    sessions = Sessions(rig, ["a", "b"])
    for name in sessions.names:
        sessions.append(name, f"1 {name}")
    child = rig.ready(rig.start())
    sessions.settle()
    sessions.log("a").rename(sessions.log("t"))
    sessions.log("b").rename(sessions.log("a"))
    with sessions.log("a").open("ab") as file:
        file.write(line("2 b"))
    wait_until(lambda: rig.redis.call("XLEN", f"{KEY}:b") == 2, rig.said)
    sessions.add("a", "r a")
    wait_until(lambda: "the file of that name is sessions/b.log, renamed: move it away" in rig.said(), rig.said)
    wait_until(lambda: "renamed: move it away" in rig.run("status", "--redis", rig.url).stdout, rig.said)
    sessions.log("a").rename(sessions.log("b"))
    wait_until(lambda: b"r a" in sessions.log("a").read_bytes() if sessions.log("a").exists() else False, rig.said)
    assert b"r a" not in sessions.log("b").read_bytes()
    equal(rig)
    rig.stop(child)


def test_a_stream_of_several_logs_is_none_of_these(rig: Rig) -> None:
    """A stream that has such a name, and lines of other logs, is left alone and told of: it is no log's."""
    sessions = Sessions(rig, ["a", "b"])
    written = (rig.path / "sessions.toml").read_text()
    single = written.replace(f"{KEY}:{{name}}", f"{KEY}:all").replace("sessions/{name}.log", "sessions/a.log")
    (rig.path / "sessions.toml").write_text(single)
    for name in sessions.names:
        sessions.append(name, f"1 {name}")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    (rig.path / "sessions.toml").write_text(written)
    child = rig.ready(rig.start())
    wait_until(lambda: rig.redis.call("XLEN", f"{KEY}:a") == 1 == rig.redis.call("XLEN", f"{KEY}:b"), rig.said)
    wait_until(lambda: f"are of no log: {KEY}:all" in rig.said(), rig.said)
    rig.redis.call("XADD", f"{KEY}:all", "*", "role", "ui", "data", "x")
    sessions.append("a", "2 a")
    wait_until(lambda: rig.redis.call("XLEN", f"{KEY}:a") == 2, rig.said)
    assert not sessions.log("all").exists()
    equal(rig)
    checks = {row["check"]: row for row in json.loads(rig.run("doctor", "--json", "--redis", rig.url).stdout)["checks"]}
    assert f"of no log: {KEY}:all" in checks["streams"]["evidence"], checks["streams"]
    rig.redis.call("SET", f"{KEY}:text", "no stream")
    sessions.log("text").write_bytes(line("x"))
    done = rig.run("parity", "--redis", rig.url)
    assert (done.returncode, "Equal: " in done.stdout, "INCONCLUSIVE" in done.stdout) == (4, True, True), done
    rig.stop(child)


def test_metrics_of_many_streams(rig: Rig) -> None:
    """Metrics tell of many streams as of one mapping, and one stream that stands makes the whole unhealthy."""
    pytest.importorskip("prometheus_client")
    sessions = Sessions(rig, [f"s{n}" for n in range(4)])
    config = rig.path / "bridge.toml"
    config.write_text(config.read_text() + "[metrics]\nport = 0\n")
    for name in sessions.names:
        sessions.append(name, f"1 {name}", f"2 {name}")
    child = rig.ready(rig.start())
    sessions.settle()

    def page(path: str) -> tuple[int, str]:
        port = re.search(r"http://127\.0\.0\.1:(\d+)", rig.said())
        if port is None:
            return 0, ""
        link = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=5)
        link.request("GET", path)
        answer = link.getresponse()
        return answer.status, answer.read().decode()

    wait_until(lambda: 'bridge_messages_total{direction="forward",mapping="sessions"} 8.0' in page("/metrics")[1],
               lambda: page("/metrics")[1] + rig.said())  # fmt: skip
    assert "sessions:" not in page("/metrics")[1]
    wait_until(lambda: 'bridge_stream_entries{mapping="sessions"} 8.0' in page("/metrics")[1],
               lambda: page("/metrics")[1])  # fmt: skip
    wait_until(lambda: page("/healthz")[0] == 200, lambda: page("/healthz")[1])
    rig.redis.call("HSET", f"bridge:{{{sessions.stream('s2')}}}:meta", "owner", "another@somewhere")
    sessions.append("s2", "3")
    wait_until(lambda: page("/healthz")[0] == 503, lambda: page("/healthz")[1])
    assert "sessions:s2" in page("/healthz")[1]
    rig.stop(child)


def test_streams_named_after_the_bridge(rig: Rig) -> None:
    """With {instance} and {name} each bridge has its own streams; one that is renamed does not begin others."""
    sessions = Sessions(rig, ["a"])
    text = (rig.path / "sessions.toml").read_text().replace(f"{KEY}:{{name}}", f"{KEY}:{{instance}}:{{name}}")
    (rig.path / "sessions.toml").write_text(text)
    sessions.append("a", "1")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    assert rig.redis.call("XLEN", f"{KEY}:test:a") == 1
    equal(rig)
    done = rig.run("parity", "--all-hosts", "--redis", rig.url)
    assert (done.returncode, "its bridge is silent" in done.stdout) == (4, True), done
    config = rig.path / "bridge.toml"
    config.write_text(config.read_text().replace('"test"', '"renamed"'))
    for args in (("run", "--once"), ("run", "--dual"), ("import-history",)):
        done = rig.run(*args, "--redis", rig.url)
        assert (done.returncode, "has carried streams of" in done.stderr) == (2, True), done
    assert rig.redis.call("KEYS", f"{KEY}:renamed*") == []


def test_once_leaves_streams_at_rest_alone(one_rig: Rig) -> None:
    """`run --once` attends to the streams for which there is something to do on either side, and to no other."""
    rig = one_rig
    sessions = Sessions(rig, [f"s{n}" for n in range(30)])
    for name in sessions.names:
        sessions.append(name, f"f-{name}")

    def dialled() -> int:
        """How many connections a run made, beside this one."""
        before = stat(rig, "total_connections_received")
        done = rig.run("run", "--once", "--dual", "--redis", rig.url)
        assert done.returncode == 0, done.stderr
        return stat(rig, "total_connections_received") - before

    assert dialled() >= 30
    assert dialled() <= 3
    sessions.append("s3", "f-late")
    sessions.add("s4", "r-late")
    sessions.log("s5").unlink()
    sessions.file_born["s5"].clear()
    rig.redis.call("DEL", sessions.stream("s6"))
    rig.redis.call("HDEL", Keys.of(sessions.stream("s9")).checkpoint, "sessions/s9.log")
    few = dialled()
    assert few < 30, few
    assert rig.redis.call("HEXISTS", Keys.of(sessions.stream("s9")).checkpoint, "sessions/s9.log") == 1
    assert len(sessions.in_stream("s9")) == 1
    assert sessions.in_stream("s3") == [b"f-s3", b"f-late"]
    assert sessions.in_file("s4") == [b"f-s4", b"r-late"]
    assert sessions.in_stream("s6") == [b"f-s6"], "what Redis lost is sent again"
    rig.redis.call("HSET", Keys.of(sessions.stream("s7")).meta, "owner", "somebody")
    done = rig.run("run", "--once", "--dual", "--redis", rig.url)
    assert done.returncode != 0
    assert "s7" in done.stderr


def stat(rig: Rig, name: str) -> int:
    """A figure of INFO stats."""
    told = dict(row.split(":", 1) for row in rig.redis.call("INFO", "stats").decode().splitlines() if ":" in row)
    return int(told[name])


def test_at_rest_on_a_server_that_cuts_long_replies(one_rig: Rig) -> None:
    """Where a server gives only so many bytes at once, fewer streams at rest are asked for, and new ones get names."""
    rig = one_rig
    sessions = Sessions(rig, [f"s{n}" for n in range(41)])
    for name in sessions.names[:40]:
        sessions.append(name, f"f-{name}-" + "x" * 50_000)
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    rig.redis.call("CONFIG", "SET", "client-output-buffer-limit", "normal 500kb 0 0")
    rig.redis.call("DEL", sessions.stream("s7"))
    for name in sessions.names[10:40]:
        sessions.add(name, f"r-{name}-" + "x" * 50_000)
    child = rig.ready(rig.start())
    wait_until(lambda: all(len(sessions.in_file(name)) == 2 for name in sessions.names[10:40]), rig.said, 20)
    sessions.append("s40", "f-new")
    wait_until(lambda: sessions.in_stream("s40") == [b"f-new"], lambda: rig.said()[-3000:], 20)
    wait_until(lambda: rig.redis.call("XLEN", sessions.stream("s7")) == 1, lambda: rig.said()[-3000:], 20)
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode != 0, "the lock is held"
    rig.stop(child)
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    rig.redis.call("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
    equal(rig)


def test_a_status_asks_for_many_streams_in_one_write(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the status and at the components writes to Redis once or twice for each stream at rest, and no more."""
    rig = one_rig
    sessions = Sessions(rig, [f"s{n}" for n in range(30)])
    for name in sessions.names:
        sessions.append(name, f"f-{name}")
    assert rig.run("run", "--once", "--dual", "--redis", rig.url).returncode == 0
    settings = with_streams(rig.settings())
    written, send = [], Connection.send

    def counted(self: Connection, buffer: bytes) -> None:
        if not self._foreseen.get(buffer):
            written.append(buffer)
        send(self, buffer)

    monkeypatch.setattr(Connection, "send", counted)
    status = sample(settings, time.time)
    assert len(sample_component(settings)) == 0
    assert [found.size.entries for found in status.mappings if found.size is not None] == [1] * 30
    assert not [found.error for found in status.mappings if found.error]
    assert len(written) < 30 + 12, [buffer[:60] for buffer in written]
