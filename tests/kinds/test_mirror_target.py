"""The file the mirror writes to while others lock it, empty it, rotate it, quote our lines, or Redis forgets them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from bridge.core.errors import NotYet, TargetError
from bridge.engine import mirror
from bridge.engine.forward import Forward
from bridge.engine.mirror import Mirror
from bridge.engine.once import once
from bridge.files.appender import Appender
from bridge.kinds.log import target as append
from bridge.kinds.log import unfinished_write
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import dialler
from tests.files.test_rotation import copytruncate, rotate
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, line, wait_until

OURS = b"ui|2026-03-02T09:14:06Z|say|r-0\n"

Hook = Callable[[], object]


@pytest.fixture
def locking(rig: Rig) -> Rig:
    """A rig whose mapping says that the legacy writers hold a flock while they append."""
    mapping = shipped("hestai-message")
    (rig.path / "lock.toml").write_text(mapping + 'lock = "flock"\n')
    rig.write_config(mapping="lock.toml")
    return rig


def at(monkeypatch: pytest.MonkeyPatch, point: str, act: Hook) -> None:
    """Acts once, when the mirror comes by this point."""
    done: list[str] = []

    def reached(name: str) -> None:
        if name == point and not done:
            done.append(name)
            act()

    monkeypatch.setattr(append, "failpoint", reached)
    monkeypatch.setattr(mirror, "failpoint", reached)


class Both:
    """Forward and mirror of one bridge in this thread, so that a test decides who does what in between."""

    def __init__(self, rig: Rig) -> None:
        self.rig, settings = rig, rig.settings()
        [mapping] = settings.mappings
        self.shared = MappingContext(mapping, settings)
        self.ledgers = [Ledger(settings.state_dir / "ledger.db", create=True) for _ in range(2)]
        troubles, dial = Troubles(time.time), dialler(settings, self.shared.keys.stream)
        self.forward = Forward(self.shared, self.ledgers[0], troubles, time.time, dial)
        self.mirror = Mirror(self.shared, self.ledgers[1], troubles, time.time, dial)

    def go_forward(self) -> None:
        """Carries the file's lines until there are none."""
        self.forward.look()
        if not self.forward.attached:
            self.forward.attach()
        while self.forward.step() or self.forward.waits:
            pass
        self.forward.flush()

    def go_back(self) -> None:
        """Mirrors entries until there are none."""
        while True:
            try:
                if not self.mirror.attached:
                    self.mirror.attach()
                while self.mirror.step(0):
                    assert self.mirror.finish()
                return
            except NotYet:
                self.mirror.detach()

    def close(self) -> None:
        """Closes everything."""
        self.forward.detach()
        self.mirror.close()
        self.shared.close()
        for ledger in self.ledgers:
            ledger.close()


def killed(rig: Rig, hooks: dict[str, Hook]) -> None:
    """`run --once` in a child process that acts at these points and is killed at the last of them."""
    pid = os.fork()
    if pid == 0:
        left = dict(hooks)

        def reached(name: str) -> None:
            act = left.pop(name, None)
            if act is not None:
                act()
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(append, "failpoint", reached)  # noqa: B010 - this process is ended by it
        try:
            once(rig.settings(), dual=True, stop=Event())
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the points were not reached"


WRITER = """
import fcntl, sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for i in range(int(sys.argv[2])):
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"agent|2026-03-02T09:14:05.112Z|")
        file.write(b"turn|f-%d\\n" % i)
        fcntl.flock(file, fcntl.LOCK_UN)
"""


def test_writers_that_lock(locking: Rig) -> None:
    """Beside a writer that makes each line of two writes under a flock, no line is ever torn."""
    rig = locking
    child = rig.ready(rig.start())
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(rig.log), "3000"])
    redis_born = [f"r-{i}".encode() for i in range(300)]
    for data in redis_born:
        rig.add(data)
    assert writer.wait(90) == 0
    rig.settle([f"f-{i}".encode() for i in range(3000)], redis_born)
    rig.stop(child)


def test_a_lock_that_is_held(locking: Rig) -> None:
    """While somebody holds the lock the mirror waits and says so, forward goes on, and SIGTERM ends it at once."""
    rig = locking
    rig.append("f-0")
    with rig.log.open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        child = rig.ready(rig.start())
        rig.add("r-0")
        wait_until(lambda: "holds the file's lock" in rig.said(), rig.said)
        rig.append("f-1")
        wait_until(lambda: sorted(rig.datas()) == [b"f-0", b"f-1", b"r-0"], rig.said)
        rig.stop(child)
        assert rig.lines() == [line("f-0")[:-1], line("f-1")[:-1]]
    assert not rig.once().errors
    rig.check([b"f-0", b"f-1"], [b"r-0"])


def test_rotated_while_the_lock_is_waited_for(locking: Rig) -> None:
    """The file is rotated by the one who holds the lock: the line goes to its successor."""
    rig = locking
    rig.append("f-0")
    child = rig.ready(rig.start())
    wait_until(lambda: rig.datas() == [b"f-0"], rig.said)
    with rig.log.open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        rig.add("r-0")
        wait_until(lambda: "holds the file's lock" in rig.said(), rig.said)
        rotate(rig)
        rig.append("f-1")
    rig.settle([b"f-0", b"f-1"], [b"r-0"])
    assert (rig.root / "messages.log.1").read_bytes() == line("f-0")
    rig.stop(child)


@pytest.mark.parametrize("regrown", [False, True], ids=["short", "longer than before"])
@pytest.mark.parametrize("how", ["truncated", "copied and truncated", "rotated"])
def test_emptied_between_intent_and_write(rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str, regrown: bool) -> None:
    """The file is emptied just before our write and forward comes by just after it: our line is not taken for theirs."""
    rig.append("f-0")
    both = Both(rig)
    try:
        both.go_forward()
        rig.add("r-0")
        fresh = [b"g-%d" % i for i in range(5 if regrown else 0)]

        def empty() -> None:
            if how == "truncated":
                os.truncate(rig.log, 0)
            elif how == "rotated":
                rotate(rig)
            else:
                copytruncate(rig)
            if fresh:
                rig.append(*fresh)

        at(monkeypatch, "mirror.write.before", empty)
        append_reached: Callable[[str], None] = getattr(append, "failpoint")  # noqa: B009

        def reached(name: str) -> None:
            append_reached(name)
            if name == "mirror.write.after":
                both.go_forward()

        monkeypatch.setattr(append, "failpoint", reached)
        both.go_back()
        monkeypatch.undo()
        both.go_forward()
        both.go_back()
        assert sorted(rig.datas()) == sorted([b"f-0", *fresh, b"r-0"])
        assert b"".join(p.read_bytes() for p in rig.root.iterdir()).count(OURS) == 1
    finally:
        both.close()
    result = rig.once()
    assert (result.forwarded, result.mirrored, result.errors) == (0, 0, ())


@pytest.mark.parametrize("regrown", [False, True], ids=["short", "longer than before"])
def test_emptied_before_the_write_and_killed_after_it(rig: Rig, regrown: bool) -> None:
    """The next process finds the line in the file as it is now, and does not write it again."""
    rig.append("f-0", "f-1")
    assert not rig.once().errors
    rig.add("r-0")
    fresh = [b"g-%d" % i for i in range(5 if regrown else 0)]

    def empty() -> None:
        os.truncate(rig.log, 0)
        rig.append(*fresh)

    killed(rig, {"mirror.write.before": empty, "mirror.write.after": lambda: None})
    assert not rig.once().errors
    assert rig.log.read_bytes() == b"".join(map(line, fresh)) + OURS
    assert sorted(rig.datas()) == sorted([b"f-0", b"f-1", *fresh, b"r-0"])


def test_quoted_by_another_program(rig: Rig) -> None:
    """A line that ends with the very text of ours is not taken for ours: the message is written."""
    rig.append("f-0")
    assert not rig.once().errors
    rig.add("r-0")
    quote = line(b"he said: " + OURS[:-1])
    killed(rig, {"mirror.write.before": lambda: _append(rig.log, quote)})
    assert not rig.once().errors
    assert rig.log.read_bytes() == line("f-0") + quote + OURS
    assert rig.datas() == [b"f-0", b"r-0", b"he said: " + OURS[:-1]]


def test_much_was_appended_since(rig: Rig) -> None:
    """Our lines are found behind megabytes of others', also where a window of the search ends within them."""
    rig.append("f-0")
    assert not rig.once().errors
    for i in range(3):
        rig.add(f"r-{i}")
    size = unfinished_write.INTENT_WINDOW - 40
    other = line(b"x" * (size - len(line(b""))))
    assert len(other) == size

    def before() -> None:
        _append(rig.log, other * 2)

    killed(rig, {"mirror.write.before": before, "mirror.write.after": lambda: rig.append("f-1")})
    assert not rig.once().errors
    assert [raw.split(b"|")[3] for raw in rig.lines()][-4:] == [b"r-0", b"r-1", b"r-2", b"f-1"]
    assert rig.datas()[1:4] == [b"r-0", b"r-1", b"r-2"]
    assert b"f-1" in rig.datas()


@pytest.mark.parametrize("when", ["mirror.write.before", "mirror.write.after"])
def test_redis_forgets_what_is_being_mirrored(rig: Rig, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The stream is lost while lines of it are under way to the file: they come back from the file, once."""
    rig.append("f-0")
    both = Both(rig)
    try:
        both.go_forward()
        for i in range(3):
            rig.add(f"r-{i}")

        def lose() -> None:
            rig.redis.call("DEL", STREAM)
            rig.add("r-3")
            both.forward.detach()
            both.go_forward()

        at(monkeypatch, when, lose)
        both.go_back()
        monkeypatch.undo()
        both.mirror.detach()
        both.go_forward()
        both.go_back()
    finally:
        both.close()
    wanted = [b"f-0", b"r-0", b"r-1", b"r-2", b"r-3"]
    assert [raw.split(b"|")[3] for raw in rig.lines()] == wanted
    assert sorted(rig.datas()) == wanted
    result = rig.once()
    assert (result.forwarded, result.mirrored, result.errors) == (0, 0, ())


def test_killed_while_redis_forgets(rig: Rig) -> None:
    """The bridge is killed with an intent open, and the stream is lost meanwhile: every line is on both sides once."""
    rig.append("f-0")
    assert not rig.once().errors
    for i in range(3):
        rig.add(f"r-{i}")
    killed(rig, {"mirror.write.after": lambda: None})
    rig.redis.call("DEL", STREAM)
    child = rig.ready(rig.start())
    rig.settle([b"f-0", b"r-0", b"r-1", b"r-2"], [])
    rig.stop(child)


def test_killed_again_while_redis_forgets(rig: Rig) -> None:
    """The same, and the next bridge is killed after it found the loss and before it took up the intent."""
    rig.append("f-0")
    assert not rig.once().errors
    for i in range(3):
        add_as(rig, f"2000000000000-{i + 5}", b"r-%d" % i)
    killed(rig, {"mirror.write.after": lambda: None})
    rig.redis.call("DEL", STREAM)
    add_as(rig, "2000000000000-3", b"r-3")
    both = Both(rig)
    both.forward.look()
    both.forward.attach()
    both.close()
    assert not rig.once().errors
    wanted = [b"f-0", b"r-0", b"r-1", b"r-2", b"r-3"]
    assert [raw.split(b"|")[3] for raw in rig.lines()] == wanted
    assert sorted(rig.datas()) == wanted


def add_as(rig: Rig, entry_id: str, data: bytes) -> None:
    fields = (b"role", b"ui", b"timestamp", b"2026-03-02T09:14:06Z", b"type", b"say", b"data", data)
    rig.redis.call("XADD", STREAM, entry_id, *fields)


def test_another_entry_under_the_same_id(rig: Rig) -> None:
    """The stream is deleted and begins anew with the ID of an entry that was mirrored: both messages are kept."""
    rig.append("f-0")
    assert not rig.once().errors
    add_as(rig, "2000000000000-0", b"r-0")
    assert not rig.once().errors
    rig.redis.call("DEL", STREAM)
    add_as(rig, "2000000000000-0", b"r-1")
    assert not rig.once().errors
    assert not rig.once().errors
    assert sorted(rig.datas()) == [b"f-0", b"r-0", b"r-1"]
    assert [raw.split(b"|")[3] for raw in rig.lines()] == [b"f-0", b"r-0", b"r-1"]


def test_begun_anew_below_the_mirrors_cursor(rig: Rig) -> None:
    """An entry of the new stream that stands below what the mirror had read of the old one is mirrored, the next once."""
    rig.append("f-0")
    both = Both(rig)
    try:
        both.go_forward()
        for i in range(3):
            add_as(rig, f"2000000000000-{i + 5}", b"r-%d" % i)
        both.go_back()
        both.go_forward()
        rig.redis.call("DEL", STREAM)
        add_as(rig, "2000000000000-3", b"r-3")
        add_as(rig, "2000000000000-9", b"r-4")
        both.go_back()
        both.forward.detach()
        both.go_forward()
        both.go_back()
    finally:
        both.close()
    assert sorted(rig.datas()) == [b"f-0", *(b"r-%d" % i for i in range(5))]
    assert sorted(raw.split(b"|")[3] for raw in rig.lines()) == [b"f-0", *(b"r-%d" % i for i in range(5))]
    result = rig.once()
    assert (result.forwarded, result.mirrored, result.errors) == (0, 0, ())


@pytest.mark.parametrize("followed", ["appended to", "rotated"])
def test_written_up_to_the_end_of_a_line(rig: Rig, followed: str) -> None:
    """Of two lines one was written, whole, before the kill, and somebody followed it: the other comes, nothing echoes."""
    rig.append("f-0")
    assert not rig.once().errors
    rig.add("r-0")
    rig.add("r-1")
    killed(rig, {"mirror.write.before": lambda: _append(rig.log, OURS)})
    rig.append("A")
    if followed == "rotated":
        rotate(rig)
        rig.append("B")
    child = rig.ready(rig.start())
    file_born = [b"f-0", b"A", *([b"B"] if followed == "rotated" else [])]
    rig.settle(file_born, [b"r-0", b"r-1"])
    rig.stop(child)
    rig.check(file_born, [b"r-0", b"r-1"])


def waiting(rig: Rig, count: int) -> Both:
    """Both directions of a bridge that has carried a line, and has so many entries to mirror."""
    rig.append("f-0")
    both = Both(rig)
    both.go_forward()
    for n in range(count):
        rig.add(f"r-{n}")
    return both


def test_a_short_write_that_ends_with_a_line(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full after the first of two lines and another program follows it: the second comes behind that."""
    both = waiting(rig, 2)
    try:
        real, seen = Appender.append, list[int]()

        def short(self: Appender, data: bytes) -> int:
            seen.append(len(data))
            return real(self, data[: len(OURS)] if len(seen) == 1 else data)

        monkeypatch.setattr(Appender, "append", short)
        with pytest.raises(TargetError):
            both.go_back()
        rig.append("A")
        both.go_forward()
        assert both.mirror.finish()
        both.go_forward()
    finally:
        both.close()
    rig.check([b"f-0", b"A"], [b"r-0", b"r-1"])
    result = rig.once()
    assert (result.forwarded, result.mirrored, result.errors) == (0, 0, ())


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("cut", [4, 17, len(OURS) - 1, len(OURS) + 17])
def test_another_line_comes_before_the_end_of_a_torn_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cut: int, again: bool
) -> None:
    """Between the look at a torn line of ours and the write of its end: it is written again whole, and counts once."""
    both = waiting(rig, 3)
    try:
        real, seen = Appender.append, list[int]()

        def late(self: Appender, data: bytes) -> int:
            seen.append(len(data))
            if len(seen) == 1:
                return real(self, data[:cut])
            if len(seen) == 2 or (again and len(seen) == 3):
                rig.append(f"f-{len(seen)}")
                return real(self, data[:1] if again and len(seen) == 2 else data)
            return real(self, data)

        monkeypatch.setattr(Appender, "append", late)
        with pytest.raises(TargetError):
            both.go_back()

        def finished() -> bool:
            with contextlib.suppress(TargetError):
                return both.mirror.finish()
            return False

        wait_until(finished, "the lines", 5)
        both.go_forward()
        both.go_back()
    finally:
        both.close()
    born = [b"f-0", b"f-2", *([b"f-3"] if again else [])]
    assert sorted(rig.datas()) == sorted([*born, b"r-0", b"r-1", b"r-2"])
    assert sorted(rig.messages()) == sorted(rig.datas())
    assert rig.parity().verdict == "equal"
    assert "nothing is in quarantine" in rig.run("quarantine", "list").stdout
    assert not rig.once().errors
    assert sorted(rig.messages()) == sorted(rig.datas())


@pytest.mark.parametrize("cut", [4, 17, len(OURS) - 2, len(OURS) - 1, len(OURS) + 17])
def test_another_line_comes_before_the_end_of_a_torn_one_and_a_kill(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Nobody had noted that our end came behind another's line: the next process finds both parts, each once."""
    both = waiting(rig, 3)
    with monkeypatch.context() as patch:
        real, seen = Appender.append, list[int]()

        def late(self: Appender, data: bytes) -> int:
            seen.append(len(data))
            if len(seen) == 1:
                return real(self, data[:cut])
            rig.append("f-2")
            real(self, data)
            raise KeyboardInterrupt

        patch.setattr(Appender, "append", late)
        with pytest.raises(TargetError):
            both.go_back()
        with pytest.raises(KeyboardInterrupt):
            both.mirror.finish()
    both.close()
    for _ in range(2):
        assert not rig.once().errors
    assert sorted(rig.messages()) == sorted(rig.datas()) == [b"f-0", b"f-2", b"r-0", b"r-1", b"r-2"]
    assert rig.parity().verdict == "equal"
    assert "nothing is in quarantine" in rig.run("quarantine", "list").stdout


def test_a_write_that_puts_out_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as failed; another program's line comes, and then ours."""
    both = waiting(rig, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: 0)
        with pytest.raises(TargetError):
            both.go_back()
    rig.append("f-2")
    assert both.mirror.finish()
    both.close()
    assert sorted(rig.messages()) == [b"f-0", b"f-2", b"r-0"]


@pytest.mark.parametrize("when", ["mirror.write.before", "mirror.write.after"])
def test_rotated_while_an_intent_is_open(rig: Rig, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """What stands behind an open intent in a rotated file goes before the lines of the next one."""
    rig.append("f-0")
    both = Both(rig)
    try:
        both.go_forward()
        rig.add("r-0")

        def act() -> None:
            rig.append("A")
            rotate(rig)
            rig.append("B")
            both.go_forward()

        at(monkeypatch, when, act)
        both.go_back()
        both.go_forward()
    finally:
        both.close()
    assert [d for d in rig.datas() if d != b"r-0"] == [b"f-0", b"A", b"B"]
    rig.check([b"f-0", b"A", b"B"], [b"r-0"])


def test_an_id_beyond_all_clocks(rig: Rig) -> None:
    """An entry whose ID is larger than a signed integer of 64 bits is mirrored like any other."""
    rig.append("f-0")
    assert not rig.once().errors
    add_as(rig, "9300000000000000000-0", b"r-0")
    rig.append("f-1")
    assert not rig.once().errors
    rig.check([b"f-0", b"f-1"], [b"r-0"])
    rig.append("f-2")
    assert not rig.once().errors
    rig.check([b"f-0", b"f-1", b"f-2"], [b"r-0"])


def _append(path: Path, raw: bytes) -> None:
    with path.open("ab") as file:
        file.write(raw)
