"""One component that reads several streams of a mapping in one loop, from files and from Redis."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from threading import Event, Thread

import pytest

from bridge import LogSet, Message, open_log
from bridge.core.errors import BridgeError, ConfigError
from tests.support.many import Sessions, SessionWriters
from tests.support.rig import Rig, wait_until


def opened(rig: Rig, streams: str | list[str] = "*", component: str = "ui", start: str = "beginning") -> LogSet:
    config = rig.path / "bridge.toml"
    return open_log("sessions", component, config=config, redis=rig.url, streams=streams, start=start)


def by_stream(messages: list[Message]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for message in messages:
        found[message.stream].append(message.text)
    return dict(found)


class Reader:
    """A component that follows in a thread of its own, and keeps what it was given."""

    def __init__(self, logs: LogSet) -> None:
        self.given: list[Message] = []
        self._logs, self._stop = logs, Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._logs.follow(idle=0.2):
                self.given.append(message)

    def stop(self) -> list[Message]:
        self._stop.set()
        self._thread.join()
        self._logs.close()
        return self.given


def test_all_streams_in_one_loop(rig: Rig) -> None:
    """A component gets the messages of all streams, each stream's in its order, those of new streams too."""
    sessions = Sessions(rig, ["a", "b", "x/c", "new"])
    for name in sessions.names[:3]:
        sessions.append(name, f"1 {name}", f"2 {name}")
    child = rig.ready(rig.start())
    sessions.settle()
    reader = Reader(opened(rig))
    wait_until(lambda: len(reader.given) == 6, lambda: f"{by_stream(reader.given)}")
    sessions.append("new", "1 new")
    sessions.add("a", "3 a")
    wait_until(lambda: len(reader.given) == 8, lambda: f"{by_stream(reader.given)}")
    assert by_stream(reader.stop()) == {
        "a": ["1 a", "2 a", "3 a"], "b": ["1 b", "2 b"], "x/c": ["1 x/c", "2 x/c"], "new": ["1 new"],
    }  # fmt: skip
    rig.stop(child)


def test_some_of_the_streams(rig: Rig) -> None:
    """A pattern, or a list of names, says which streams are read; nothing of the others is given or appended."""
    sessions = Sessions(rig, ["a1", "a2", "b"])
    for name in sessions.names:
        sessions.append(name, f"1 {name}")
    assert rig.run("run", "--once", "--redis", rig.url).returncode == 0
    with opened(rig, "a*") as logs:
        assert set(by_stream(list(logs.follow(idle=0.5)))) == {"a1", "a2"}
        with pytest.raises(ConfigError, match="none of those that were opened"):
            logs.append("say", "x", stream="b")
    with opened(rig, ["b"], component="other") as logs:
        assert logs.streams == ["b"]
        assert by_stream(list(logs.follow(idle=0.5))) == {"b": ["1 b"]}
    with opened(rig) as logs, pytest.raises(BridgeError, match="names no log"):
        logs.append("say", "x", stream="../x", role="ui")


def test_a_single_stream_by_its_name(rig: Rig) -> None:
    """A component may open one stream by its name, and a mapping with one stream takes no `streams`."""
    sessions = Sessions(rig, ["a", "b"])
    sessions.append("a", "1")
    assert rig.run("run", "--once", "--redis", rig.url).returncode == 0
    with open_log("sessions:a", "ui", config=rig.path / "bridge.toml", redis=rig.url) as log:
        assert [message.text for message in log.follow(idle=0.3)] == ["1"]
    rig.write_config()
    with pytest.raises(ConfigError, match="has one stream"):
        open_log("hestai-message", "ui", config=rig.path / "bridge.toml", redis=rig.url, streams="*")


def test_from_the_end(rig: Rig) -> None:
    """At the end begins where each stream ended as the logs were opened; a stream that comes later has no such end."""
    sessions = Sessions(rig, ["a", "later"])
    sessions.append("a", "old")
    child = rig.ready(rig.start())
    sessions.settle()
    reader = Reader(opened(rig, start="end"))
    wait_until(lambda: reader._logs.reads("a") == "file", "following")
    sessions.append("later", "first")
    sessions.append("a", "new")
    wait_until(lambda: len(reader.given) >= 2, lambda: f"{by_stream(reader.given)}")
    assert by_stream(reader.stop()) == {"a": ["new"], "later": ["first"]}
    rig.stop(child)


def test_over_and_back_with_many_streams(rig: Rig) -> None:
    """A component is cut over in all streams by one command, and back, while messages flow: each comes once, in order.

    A stream that begins meanwhile is read from the side that all are read from.
    """
    sessions = Sessions(rig, [f"s{n}" for n in range(12)])
    for name in sessions.names[:8]:
        sessions.append(name, f"first {name}")
    child = rig.beats(rig.start())
    reader = Reader(opened(rig))
    writers = SessionWriters(sessions, "a")
    wait_until(lambda: writers.written > 40, "writing")
    done = rig.run("parity", "--redis", rig.url)
    flags = ("ui", "--mapping", "sessions", "--reads", "--reason", "a test", "--redis", rig.url, "--accept-volatile")
    planned = rig.run("cutover", *flags)
    assert "switches of ui in" in planned.stdout, (planned, done.stdout)
    done = rig.run("cutover", *flags, "--execute", "--force", "ui")
    assert done.returncode == 0, done
    assert {reader._logs.reads(name) for name in reader._logs.streams} == {"redis"}
    before = writers.written
    wait_until(lambda: writers.written > before + 40, "writing")
    sessions.names.append("begun")
    sessions.file_born["begun"], sessions.redis_born["begun"] = [], []
    sessions.add("begun", "r begun")
    wait_until(lambda: "begun" in by_stream(reader.given), lambda: f"{reader._logs.streams} {rig.said()}")
    assert reader._logs.reads("begun") == "redis"
    done = rig.run("rollback", *flags, "--execute", "--force", "ui")
    assert done.returncode == 0, done
    before = writers.written
    wait_until(lambda: writers.written > before + 40, "writing")
    writers.stop()
    sessions.settle()
    total = sum(len(sessions.in_file(name)) for name in sessions.names)
    wait_until(lambda: len({(m.stream, m.text) for m in reader.given}) >= total, lambda: f"{len(reader.given)} {total}")
    given = reader.stop()
    first = [message for message in given if not message.redelivered]
    assert len({(m.stream, m.text) for m in first}) == len(first)
    for name in sessions.names:
        mine = [message.text.encode() for message in given if message.stream == name]
        wanted = {data for side in (sessions.file_born, sessions.redis_born) for data in side[name]}
        assert {*mine} == wanted, name
        for side in (sessions.file_born, sessions.redis_born):
            once = list(dict.fromkeys(data for data in mine if data in side[name]))
            assert once == side[name], name
    rig.stop(child)


def test_appending_to_streams(rig: Rig) -> None:
    """Messages are appended to the stream that is named, a new one begins with its first, on the side of all."""
    sessions = Sessions(rig, ["a", "new"])
    sessions.append("a", "1")
    child = rig.beats(rig.start())
    sessions.settle()
    with opened(rig) as logs:
        logs.append("say", "2", stream="a")
        logs.append("say", "n1", stream="new")
        logs.append("say", "f1", stream="folder/new")
        wait_until(lambda: sessions.log("folder/new").exists(), rig.said)
        wait_until(lambda: sessions.in_stream("a") == [b"1", b"2"] and sessions.in_stream("new") == [b"n1"], rig.said)
        assert sessions.in_file("new") == [b"n1"]
    rig.stop(child)


def test_a_component_that_dies(rig: Rig, tmp_path: Path) -> None:
    """A component that is killed goes on in each stream where it was; what it had in hand comes again, and marked."""
    sessions = Sessions(rig, ["a", "b"])
    for name in sessions.names:
        sessions.append(name, *(f"{name} {n}" for n in range(4)))
    assert rig.run("run", "--once", "--redis", rig.url).returncode == 0
    pid = os.fork()
    if not pid:
        try:
            for n, _ in enumerate(opened(rig).follow()):
                if n == 4:
                    os._exit(9)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    with opened(rig) as logs:
        given = list(logs.follow(idle=0.5))
    assert [message.redelivered for message in given].count(True) == 1, given
    assert sum(len(texts) for texts in by_stream(given).values()) == 4


def open_files() -> int:
    return len([*Path("/dev/fd").iterdir()])


def test_no_thread_and_no_descriptor_is_left(rig: Rig) -> None:
    """After `close` no thread of the logs runs, and no file and no socket of theirs is open."""
    import threading

    sessions = Sessions(rig, [f"s{n}" for n in range(20)])
    for name in sessions.names:
        sessions.append(name, name)
    assert rig.run("run", "--once", "--redis", rig.url).returncode == 0
    for _ in range(2):
        before, threads = open_files(), threading.active_count()
        with opened(rig) as logs:
            assert len(list(logs.follow(idle=0.4))) in (0, 20)
            assert threading.active_count() == threads + 1
        assert (open_files(), threading.active_count()) == (before, threads)
