"""Messages of several lines: live and in history, over rotation, kills, and other writers' lines in between."""

from __future__ import annotations

import os

import pytest

from bridge.ledger.store import Ledger
from tests.support.rig import Rig, wait_until

MAPPING = """
name = "trace"
[source]
kind = "log"
path = "messages.log"
rotated = ["messages.log.*"]
settle_ms = 100
[format]
codec = "regex"
pattern = '(?P<timestamp>\\S+ \\S+) (?P<type>[A-Z]+) \\[(?P<role>\\w+)\\] (?P<data>.*)'
continuation = true
max_line_bytes = 2000
[stream]
key = "hestai:messages"
[mirror]
path = "messages.log"
template = "{timestamp} {type} [{role}] {data}"
"""


@pytest.fixture
def traced(one_rig: Rig) -> Rig:
    (one_rig.path / "trace.toml").write_text(MAPPING)
    one_rig.write_config(mapping="trace.toml")
    return one_rig


def first(text: str, second: int = 0) -> str:
    return f"2026-03-02 09:14:{second:02} ERROR [agent] {text}\n"


TRACE = "Traceback:\n  File x\n\n    at | y\nValueError: z\n"


def aside(rig: Rig) -> list[bytes]:
    ledger = Ledger(rig.state / "ledger.db")
    rows = ledger.rows("SELECT raw FROM quarantine ORDER BY offset")
    ledger.close()
    return [raw for (raw,) in rows]


def old(rig: Rig) -> None:
    """The file was written long ago: nothing more will follow."""
    os.utime(rig.log, (1, 1))


def test_history(traced: Rig) -> None:
    """A message has all its lines, empty ones too; what stands before the first one is set aside."""
    rig = traced
    rig.log.write_text("an orphan\n" + first("a") + TRACE + first("b") + "\n" + first("c") + "more of c\n")
    old(rig)
    for _ in range(2):
        assert not rig.once().errors
        assert rig.datas() == [b"a\n" + TRACE.encode()[:-1], b"b\n", b"c\nmore of c"]
    assert aside(rig) == [b"an orphan"]


def test_waits_for_what_may_follow(traced: Rig) -> None:
    """`--once` waits until the file lies still, so that the last message is carried too."""
    rig = traced
    rig.log.write_text(first("a") + TRACE)
    assert not rig.once().errors
    assert rig.datas() == [b"a\n" + TRACE.encode()[:-1]]


def test_live(traced: Rig) -> None:
    """Lines that follow in a moment are part of the message; one that comes when it has gone is set aside."""
    rig = traced
    rig.ready(rig.start(dual=False))
    with rig.log.open("a") as file:
        for part in (first("a"), "a1\n", "a2\n"):
            file.write(part)
            file.flush()
    wait_until(lambda: rig.datas() == [b"a\na1\na2"], lambda: f"{rig.datas()} {rig.said()}")
    with rig.log.open("a") as file:
        file.write("too late\n" + first("b"))
    wait_until(lambda: rig.datas()[1:] == [b"b"], lambda: f"{rig.datas()} {rig.said()}")
    assert aside(rig) == [b"too late"]


def test_rotation_ends_a_message(traced: Rig) -> None:
    """The last message of a rotated piece has all its lines; the next piece begins with its own."""
    rig = traced
    rig.log.write_text(first("a") + "a1\n")
    rig.log.rename(rig.root / "messages.log.1")
    rig.log.write_text(first("b"))
    old(rig)
    rig.once()
    assert rig.datas() == [b"a\na1", b"b"]


def test_the_mirror_writes_in_between(traced: Rig) -> None:
    """A mirrored line between a message's first line and its second is no part of it, and is not carried back."""
    rig = traced
    rig.log.write_text(first("a"))
    old(rig)
    rig.once()
    values = ("role", "ui", "timestamp", "2026-03-02 09:15:00", "type", "INFO", "data", "one\ntwo")
    with rig.log.open("a") as file:
        file.write(first("b"))
    rig.redis.call("XADD", "hestai:messages", "*", *values)
    rig.once()
    assert rig.log.read_text().endswith("2026-03-02 09:15:00 INFO [ui] one\\ntwo\n")
    with rig.log.open("a") as file:
        file.write(first("c") + "c1\n")
    rig.redis.call("XADD", "hestai:messages", "*", *values)
    rig.once()
    rig.once()
    assert rig.datas() == [b"a", b"one\ntwo", b"b", b"one\ntwo", b"c\nc1"]


def test_too_long_to_be_put_together(traced: Rig) -> None:
    """A message over the limit goes with its first line alone; every other line of it is kept aside."""
    rig = traced
    more = [f"line {n} {'x' * 50}\n" for n in range(100)]
    rig.log.write_text(first("a") + "".join(more) + first("b"))
    old(rig)
    rig.once()
    assert rig.datas() == [b"a", b"b"]
    assert aside(rig) == [text[:-1].encode() for text in more]


@pytest.mark.parametrize("point", ["forward.send.after", "forward.reply.after", "forward.read.after"])
def test_killed(traced: Rig, point: str) -> None:
    """Killed again and again, each message comes once and whole."""
    rig = traced
    rig.log.write_text("".join(first(f"{n}") + "more\n" * (n % 4) for n in range(8000)))
    old(rig)
    for _ in range(3):
        assert rig.start("--once", crash=f"{point}:2", dual=False).wait(60) == -9
    rig.once()
    assert rig.datas() == [b"\n".join([f"{n}".encode(), *[b"more"] * (n % 4)]) for n in range(8000)]


def test_ledger_rebuilt(traced: Rig) -> None:
    """Where the ledger was lost, lines that continue a message are not taken for mirrored ones."""
    rig = traced
    rig.log.write_text(first("a") + TRACE + first("b"))
    old(rig)
    rig.once()
    (rig.state / "ledger.db").unlink()
    done = rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    rig.once()
    assert rig.datas() == [b"a\n" + TRACE.encode()[:-1], b"b"]


def test_check(traced: Rig) -> None:
    """`mapping check` puts messages together too."""
    rig = traced
    rig.log.write_text("orphan\n" + first("a") + TRACE + first("b"))
    said = rig.run("mapping", "check", "trace.toml", "files/messages.log").stdout
    assert "2 of 3 messages translate" in said
    assert "begins no message, and continues none: line 1" in said


@pytest.mark.parametrize("limit", [2000, 16_000])
def test_a_limit_below_a_piece(traced: Rig, limit: int) -> None:
    """No message is cut where a piece of the file that was read ends."""
    rig = traced
    (rig.path / "trace.toml").write_text(MAPPING.replace("max_line_bytes = 2000", f"max_line_bytes = {limit}"))
    rig.log.write_text("".join(first(f"{n}") + f"more {'x' * 900}\n" for n in range(400)))
    old(rig)
    rig.once()
    assert rig.datas() == [f"{n}\nmore {'x' * 900}".encode() for n in range(400)]
    assert aside(rig) == []


def test_late_line_and_an_older_copy(traced: Rig) -> None:
    """A message that went before its last line came is vouched for by the lines it had: nothing of it is sent again."""
    rig = traced
    rig.log.write_text(first("z") + first("a"))
    old(rig)
    rig.once()
    names = [key.decode() for key in rig.redis.call("KEYS", "*")]
    saved = {name: rig.redis.call("DUMP", name) for name in names}
    with rig.log.open("a") as file:
        file.write("too late\n" + first("b"))
    old(rig)
    rig.once()
    for name in names:
        rig.redis.call("RESTORE", name, 0, saved[name], "REPLACE")
    rig.once()
    assert rig.datas() == [b"z", b"a", b"b"]
