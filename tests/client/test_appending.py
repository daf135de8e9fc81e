"""What a component appends as a line or as JSON, what must be on disk, and where a component begins to read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from bridge import Log, open_log
from bridge.client.file_writer import FileWriter
from bridge.core.errors import BridgeError, ConfigError, TargetError, Unfit
from tests.client.test_component_log import NOWHERE, opened, says, texts, vouch
from tests.client.test_log_handler import JSON, mapped
from tests.support.cast import CONFIG
from tests.support.rig import STREAM, Rig, line


@contextmanager
def of_json(rig: Rig) -> Iterator[Log]:
    """A log of JSON lines."""
    mapped(rig, JSON)
    vouch(rig, "app")
    with open_log("app", "ui", config=rig.path / "bridge.toml", redis=NOWHERE) as log:
        yield log


# -- lines and JSON ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["file", "redis"])
def test_a_line_as_it_is(one_rig: Rig, side: str) -> None:
    """A line is a message without its parts being said again, on either side, with a newline behind it or without."""
    one_rig.write_config(extra=CONFIG)
    if side == "redis":
        says(one_rig, "ui", reads="redis", writes="redis")
    with opened(one_rig, url=NOWHERE if side == "file" else one_rig.url) as log:
        log.append_line(b"other|2026-03-02T09:14:05Z|say|a|b \xff\n")
        log.append_line(b"ui|2026-03-02T09:14:06Z|say|")
        found = list(log.follow(idle=0.3))
    assert [(message.role, message.timestamp, message.type, message.data) for message in found] == [
        ("other", "2026-03-02T09:14:05Z", "say", b"a|b \xff"),
        ("ui", "2026-03-02T09:14:06Z", "say", b""),
    ]


@pytest.mark.parametrize("raw", [b"", b"no columns", b"a|b|c|d", b"a|2026-03-02T09:14:05Z|say|two\nlines"])
def test_a_line_that_is_no_message(one_rig: Rig, raw: bytes) -> None:
    """What is no message of the mapping is refused with the line that was tried, and is nowhere."""
    with opened(one_rig) as log, pytest.raises(TargetError) as caught:
        log.append_line(raw)
    assert caught.value.where == raw.decode()
    assert not one_rig.log.exists() or not one_rig.log.read_bytes()


def test_a_message_that_makes_no_line(one_rig: Rig) -> None:
    """The error names the reason, and shows each part of what was tried."""
    with opened(one_rig) as log, pytest.raises(TargetError, match="delimiter") as caught:
        log.append("say|what", "hello", timestamp="2026-03-02T09:14:05Z")
    assert caught.value.hint == "tried: role ui, timestamp 2026-03-02T09:14:05Z, type say|what, data hello"


def test_json_without_saying_it_twice(one_rig: Rig) -> None:
    """Role and time are put in where the mapping looks for them; what the object has stays."""
    given: dict[str, Any] = {"level": "note", "text": "ünïcode", "agent": {"kind": "x"}}
    with of_json(one_rig) as log:
        log.append_json(given)
        log.append_json({"level": "note", "agent": {"name": "other"}, "at": 5})
        with pytest.raises(TargetError, match="level for type"):
            log.append_json({"text": "no level"})
        with pytest.raises(TargetError, match="no JSON"):
            log.append_json({"level": {1, 2}})
        found = list(log.follow(idle=0.2))
    first, second = (json.loads(message.data) for message in found)
    assert isinstance(first.pop("at"), int)
    assert first == {"level": "note", "text": "ünïcode", "agent": {"kind": "x", "name": "ui"}}
    assert given == {"level": "note", "text": "ünïcode", "agent": {"kind": "x"}}
    assert second == {"level": "note", "agent": {"name": "other"}, "at": 5}
    assert [(message.role, message.type) for message in found] == [("ui", "note"), ("other", "note")]


def test_json_where_lines_are_none(one_rig: Rig) -> None:
    """A mapping whose lines are no JSON says so."""
    with opened(one_rig) as log, pytest.raises(ConfigError, match="are no JSON"):
        log.append_json({"a": 1})


# -- on disk -----------------------------------------------------------------------------------------------------


def test_durable_in_a_file(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable message's file is on disk on return, and that of others need not be."""
    synced = list[int]()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with opened(one_rig) as log:
        log.append("say", "a")
        assert not synced
        log.append("say", "b", durable=True)
    assert synced == [one_rig.log.stat().st_size]


def test_durable_in_redis(rig: Rig) -> None:
    """The server is asked whether it has a durable message on its disk; one that cannot tell is refused at opening."""
    rig.write_config(extra=CONFIG)
    says(rig, "ui", reads="redis", writes="redis")
    rig.redis.call("CONFIG", "SET", "appendonly", "yes")
    rig.redis.call("CONFIG", "SET", "appendfsync", "always")
    if not rig.redis.call("COMMAND", "INFO", "WAITAOF")[0]:
        with pytest.raises(Unfit, match="has no WAITAOF"), opened(rig, url=rig.url, durable=True):
            pass
        with opened(rig, url=rig.url) as log:
            with pytest.raises(Unfit):
                log.append("say", "nowhere", durable=True)
            log.append("say", "a")
        assert rig.datas() == [b"a"]
        return
    with opened(rig, url=rig.url, durable=True) as log:
        log.append("say", "a")
        log.append("say", "b")
    assert rig.datas() == [b"a", b"b"]
    assert rig.redis.call("INFO", "commandstats").count(b"cmdstat_waitaof:calls=2,") == 1


def test_a_server_without_its_file(rig: Rig) -> None:
    """A server that writes no append-only file cannot be sure of anything, and that is said at opening."""
    rig.redis.call("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(Unfit, match=r"WAITAOF|append-only file"), opened(rig, url=rig.url, durable=True):
        pass


def test_durable_on_a_server_that_never_says_so(one_rig: Rig) -> None:
    """Where the server leaves its disk to the system, a message waits on this disk, and only the first one for long."""
    one_rig.write_config(extra=CONFIG)
    says(one_rig, "ui", reads="redis", writes="redis")
    one_rig.redis.call("CONFIG", "SET", "appendfsync", "no")
    config = one_rig.path / "bridge.toml"
    config.write_text(config.read_text() + "\n[redis]\nreplicas_timeout = 1\n" if "[redis]" not in config.read_text() else
                      config.read_text().replace("[redis]", "[redis]\nreplicas_timeout = 1"))  # fmt: skip
    with open_log("hestai-message", "ui", config=config, redis=one_rig.url, durable=True) as log:
        for text in ("a", "b", "c"):
            log.append("say", text)
        assert [*(one_rig.state / "components" / "ui").glob("*.outbox")]
    assert one_rig.datas() == [b"a", b"b", b"c"]


def test_durable_without_redis(one_rig: Rig) -> None:
    """While Redis is away a durable message is in the log, on this disk, and is carried once when it is back."""
    one_rig.write_config(extra=CONFIG)
    says(one_rig, "ui", reads="redis", writes="redis")
    one_rig.redis.call("CONFIG", "SET", "appendfsync", "always")
    with opened(one_rig, url=one_rig.url, durable=True) as log:
        log.append("say", "a")
        one_rig.kill_server()
        log.append("say", "b")
        log.append("say", "c")
    one_rig.start_server()
    with opened(one_rig, url=one_rig.url) as log:
        log.append("say", "d")
    one_rig.once()
    assert one_rig.datas() == [b"a", b"d", b"b", b"c"]


# -- where to begin ----------------------------------------------------------------------------------------------


def at(second: int) -> datetime:
    """A time of that day."""
    return datetime(2026, 3, 2, 9, 14, second, tzinfo=UTC)


def timed(*seconds: int) -> bytes:
    """A line for each second."""
    return b"".join(b"agent|2026-03-02T09:14:%02dZ|turn|%d\n" % (second, second) for second in seconds)


@pytest.mark.parametrize("side", ["file", "redis"])
@pytest.mark.parametrize("second", [0, 1, 4, 5, 6, 9, 10])
def test_it_begins_at_a_time(one_rig: Rig, side: str, second: int) -> None:
    """A component that was never here begins with the first message of that time or later, through rotated pieces."""
    one_rig.log.with_name("messages.log.1").write_bytes(timed(1, 2, 3))
    one_rig.log.write_bytes(timed(5, 7, 9))
    one_rig.write_config(extra=CONFIG)
    one_rig.once()
    if side == "redis":
        says(one_rig, "ui", reads="redis")
    with opened(one_rig, url=NOWHERE if side == "file" else one_rig.url, start=at(second)) as log:
        assert texts(log) == [str(n) for n in (1, 2, 3, 5, 7, 9) if n >= second]
    with opened(one_rig, url=NOWHERE if side == "file" else one_rig.url, start=at(0)) as log:
        assert texts(log) == []  # it was here


def test_it_begins_at_an_offset(one_rig: Rig) -> None:
    """A byte at which a line begins is a place; another one is refused, and the next one that is told is taken."""
    one_rig.log.write_bytes(timed(1, 2, 3))
    begins = len(timed(1))
    with opened(one_rig, start=begins + 3) as log, pytest.raises(ConfigError, match="no line begins") as caught:
        texts(log)
    assert caught.value.hint == f"one begins at {begins:,}"
    with opened(one_rig, start=begins) as log:
        assert texts(log) == ["2", "3"]


def test_it_begins_at_an_entry(one_rig: Rig) -> None:
    """A component that reads Redis begins at the entry that is said; one that reads files cannot."""
    one_rig.log.write_bytes(timed(1, 2, 3))
    one_rig.write_config(extra=CONFIG)
    one_rig.once()
    [_, (second, _), _] = one_rig.redis.call("XRANGE", STREAM, "-", "+")
    with opened(one_rig, start=second.decode()) as log, pytest.raises(ConfigError, match="at an entry"):
        texts(log)
    says(one_rig, "ui", reads="redis")
    with opened(one_rig, url=one_rig.url, start=second.decode()) as log:
        assert texts(log) == ["2", "3"]


@pytest.mark.parametrize("start", ["middle", -1, True, "1-", 1.5, None])
def test_no_place(one_rig: Rig, start: Any) -> None:
    """What is no place to begin is refused at opening."""
    with pytest.raises(ConfigError, match="cannot start at"), opened(one_rig, start=start):
        pass


@pytest.mark.parametrize("side", ["file", "redis"])
def test_it_says_how_much_it_replays(one_rig: Rig, side: str, caplog: pytest.LogCaptureFixture) -> None:
    """A component's first start says how much history comes first, once; one that begins at the end has none."""
    one_rig.log.write_bytes(timed(1, 2, 3))
    one_rig.write_config(extra=CONFIG)
    one_rig.once()
    for name in ("ui", "daemon"):
        says(one_rig, name, reads=side)
    url = one_rig.url
    with opened(one_rig, url=url) as log:
        assert texts(log) == ["1", "2", "3"]
    with opened(one_rig, url=url) as log:
        assert texts(log) == []
    with opened(one_rig, "daemon", url=url, start="end") as log:
        assert texts(log) == []
    said = [record.getMessage() for record in caplog.records if "for the first time" in record.getMessage()]
    what = "first 102 bytes of history in messages.log" if side == "file" else f"first 3 entries of history in {STREAM}"
    assert said == [f"ui reads for the first time, and {what}; `start` says another place"]


# -- the end -----------------------------------------------------------------------------------------------------


def test_it_ends_in_time(one_rig: Rig) -> None:
    """`timeout` ends following though messages come; the one in hand is acknowledged, and the next comes later, as new."""
    one_rig.append(*(str(n) for n in range(30)))
    found = []
    with opened(one_rig) as log:
        for message in log.follow(timeout=0.0):
            found.append(message.text)
        assert not found
        for message in log.follow(timeout=0.05):
            found.append(message.text)
            while len(found) == 3 and log.reads and not log._closed and message.text == "2":
                log.stop()
                break
        assert found[-1] == "2"
        with pytest.raises(StopIteration):
            next(log.follow())  # stopped for good
    with opened(one_rig) as log:
        assert texts(log, 2) == ["3", "4"]
        log.append("say", "still")


def test_a_closed_log_says_so(one_rig: Rig) -> None:
    """A log that is closed is neither read nor written."""
    with opened(one_rig) as log:
        pass
    with pytest.raises(BridgeError, match="closed"):
        log.append_line(line("x").rstrip(b"\n"))
    with pytest.raises(BridgeError, match="closed"):
        next(log.follow())


def test_an_append_within_an_append(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that appends while its thread appends is told that its message is nowhere; the other is there."""
    with opened(one_rig) as log:
        written, refused = FileWriter.append, list[BridgeError]()

        def interrupted(writer: FileWriter, name: str, raw: bytes) -> Any:
            try:
                log.append("say", "inner")
            except BridgeError as error:
                refused.append(error)
            return written(writer, name, raw)

        monkeypatch.setattr(FileWriter, "append", interrupted)
        log.append("say", "outer")
        monkeypatch.undo()
        log.append("say", "after")
    assert "within append" in str(refused[0])
    assert [raw.rpartition(b"|")[2] for raw in one_rig.lines()] == [b"outer", b"after"]
