"""Redis held another past for a moment, while a direction was in the middle of something: nothing is lost or doubled.

Forward and mirror run in the test's own process, step by step.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from bridge.core.errors import NotYet, TargetError
from bridge.core.model import EntryId, format_id
from bridge.files.appender import Appender
from bridge.kinds.spool.target import NewFileTarget
from bridge.streams.writer import Conflict
from tests.continuity.test_time_going_back import KINDS, Exchange, fall_back, keep
from tests.kinds.test_mirror_target import Both
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, wait_until


class Pair(Both):
    """The same, where Redis may have become another past before any step."""

    def go(self) -> None:
        """Forward goes until nothing is to be done, and compares first where it must."""
        for _ in range(6):
            try:
                self.go_forward()
            except (Conflict, NotYet):
                self.forward.detach()
            else:
                return
        raise AssertionError("forward never rests")

    def reads(self) -> bool:
        """The mirror reads once; False: it must wait for forward."""
        try:
            self.mirror.settle(time.sleep)
            if not self.mirror.attached:
                self.mirror.attach()
            self.mirror.step(0)
        except NotYet:
            self.mirror.detach()
            return False
        return True

    def both(self) -> bool:
        """Both directions go once."""
        self.go()
        return self.reads()


@contextmanager
def paired(rig: Rig) -> Iterator[Pair]:
    """A pair, and none any more."""
    pair = Pair(rig)
    try:
        wait_until(pair.both, "both directions")
        yield pair
    finally:
        pair.close()


def begun(rig: Rig) -> None:
    """A message of each side was carried."""
    rig.append("f-0")
    rig.add("r-0")
    for _ in range(2):
        assert not rig.once().errors


def same(rig: Rig, wanted: list[bytes]) -> None:
    """Both sides hold these messages, each once, and parity says so."""
    lines = [raw.rpartition(b"|")[2] for raw in rig.lines()]  # a part of one of ours may stand before it
    assert sorted(lines) == sorted(rig.datas()) == sorted(wanted), rig.said()
    assert rig.parity().verdict == "equal"


def swap(rig: Rig) -> None:
    """Redis has the data of database 5 in the place of its own, and the other way about."""
    rig.redis.call("SWAPDB", 0, 5)


@pytest.mark.parametrize("back", ["stays", "comes-back", "comes-back-before"])
@pytest.mark.parametrize("kind", ["log", "inbox", "texts"])
def test_what_waits_to_be_written_as_redis_becomes_another(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str, back: str
) -> None:
    """A message whose write fails is the files' own when Redis has lost it; and the mirror's, when Redis has it again."""
    rig, exchange = one_rig, Exchange(one_rig, kind).begun()
    fails = [True]

    def failing(real: object) -> object:
        def write(self: object, *args: object) -> object:
            if fails[0]:
                raise TargetError("cannot be written: Input/output error")
            return real(self, *args)  # type: ignore[operator]

        return write

    with paired(rig) as pair, monkeypatch.context() as patch:
        exchange.add("r-1")
        patch.setattr(Appender, "append", failing(Appender.append))
        patch.setattr(NewFileTarget, "_named", failing(NewFileTarget._named))
        with pytest.raises(TargetError):
            pair.mirror.step(0)
        swap(rig)
        for _ in range(3):
            pair.go()
        if back == "comes-back-before":
            swap(rig)
            pair.go()
        fails[0] = False
        wait_until(lambda: pair.both() and all(b"r-1" in side for side in exchange.sides()), "the message")
        exchange.put("f-1")
        exchange.add("r-2")
        wait_until(lambda: pair.both() and all(b"r-2" in side for side in exchange.sides()), "all of it")
        if back == "comes-back":
            swap(rig)
            pair.both()
    exchange.mended()


@pytest.mark.parametrize("written", [20, 40])
def test_what_was_written_in_part_as_redis_becomes_another(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Two lines, of which a part went in and another program's line came behind it: both are known again, each once."""
    rig = one_rig
    begun(rig)
    append, parts = Appender.append, [written]
    with paired(rig) as pair, monkeypatch.context() as patch:
        patch.setattr(Appender, "append", lambda file, data: append(file, data[: parts.pop()] if parts else data))
        rig.add("r-1")
        rig.add("r-2")
        with pytest.raises(TargetError, match=f"only {written} of"):
            pair.mirror.step(0)
        rig.append("f-1")
        swap(rig)
        for _ in range(3):
            pair.go()
        wait_until(lambda: pair.both() and {b"f-1", b"r-1", b"r-2"} <= {*rig.datas()}, "the lines as the file's own")
        swap(rig)
        wait_until(lambda: pair.both() and b"f-1" in rig.datas(), "the old data")
        pair.both()
    for _ in range(2):
        assert not rig.once().errors
    same(rig, [b"f-0", b"f-1", b"r-0", b"r-1", b"r-2"])


def test_messages_that_name_paths_stay_the_mirrors_own_behind_a_fork(one_rig: Rig) -> None:
    """Their lines have the path as the files' side names it: entries that stand are known by them."""
    rig = one_rig
    rig.write_config(extra=f'[[paths]]\nfrom = "{rig.root}"\nto = "/data"\n')
    rig.append("f-0")
    facts = ("role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "artifact_saved", "data")
    for n in range(3):
        rig.redis.call("XADD", STREAM, "*", *facts, f"/data/a-{n}.txt")
    rig.add("r-0")
    for _ in range(2):
        assert not rig.once().errors
    keep(rig, STREAM)
    rig.append("f-1")
    rig.add("r-1")
    for _ in range(2):
        assert not rig.once().errors
    fall_back(rig, STREAM)
    rig.add("r-2")
    for _ in range(3):
        assert not rig.once().errors
    lines = sorted(raw.split(b"|", 3)[3] for raw in rig.lines())
    paths = [str(rig.root / f"a-{n}.txt").encode() for n in range(3)]
    assert lines == sorted([b"f-0", b"f-1", b"r-0", b"r-1", b"r-2", *paths]), rig.said()
    assert rig.parity().verdict == "equal"


def test_entries_below_the_mirrors_cursor_behind_two_losses(one_rig: Rig) -> None:
    """A fork has entries below what was mirrored, and is lost again before they are: they are mirrored all the same."""
    rig = one_rig
    begun(rig)
    with paired(rig) as pair:
        keep(rig, STREAM)
        last: EntryId = rig.entries()[-1].id
        wait_until(lambda: int(rig.redis.call("TIME")[0]) * 1000 > last[0] + 1000, "another second")
        rig.add("a-1")
        wait_until(lambda: pair.both() and len(rig.lines()) == 3, "the first past")
        pair.reads()
        assert not pair.mirror._announced.waits
        fall_back(rig, STREAM)
        for n in (1, 2, 3):
            rig.add(f"l-{n}", entry_id=f"{last[0] + n}-0")
        rig.add("k")
        pair.mirror.step(0)
        keep(rig, STREAM)
        pair.forward.detach()
        pair.go()
        fall_back(rig, STREAM)
        pair.forward.detach()
        wait_until(lambda: pair.both() and len(rig.lines()) == len(rig.entries()), "all of it")
    assert not rig.once().errors
    same(rig, [b"f-0", b"r-0", b"a-1", b"k", b"l-1", b"l-2", b"l-3"])


@pytest.mark.parametrize("gone", [False, True], ids=["there", "deleted"])
def test_a_burst_in_a_file_that_only_the_mirror_writes(one_rig: Rig, gone: bool) -> None:
    """Its lines are known again when Redis has their entries again, although no source reads the file, or nobody can."""
    rig = one_rig
    mapping = rig.path / "out.toml"
    text = shipped("hestai-message")
    mapping.write_text(text.replace('[mirror]\npath = "messages.log"', '[mirror]\npath = "out.log"'))
    rig.write_config(mapping=str(mapping))
    rig.append("f-0")
    assert not rig.once().errors
    with paired(rig) as pair:
        for n in range(3):
            rig.add(f"r-{n}")
        wait_until(lambda: pair.both() and (rig.root / "out.log").read_bytes().count(b"\n") == 3, "the burst")
        wait_until(lambda: pair.reads() and not pair.mirror._announced.waits, "all of it told")
    if gone:
        (rig.root / "out.log").unlink()
    with paired(rig) as pair:
        swap(rig)
        wait_until(lambda: pair.both() and b"f-0" in rig.datas(), "the other data")
        rig.append("f-1")
        wait_until(lambda: pair.both() and b"f-1" in rig.datas(), "more of it")
        swap(rig)
        wait_until(lambda: pair.both() and b"f-1" in rig.datas(), "the old data")
        pair.both()
    for _ in range(2):
        assert not rig.once().errors
    out = rig.root / "out.log"
    found = [raw.split(b"|", 3)[3] for raw in out.read_bytes().splitlines()] if out.exists() else []
    assert found == ([] if gone else [b"r-0", b"r-1", b"r-2"]), rig.said()
    assert rig.parity().verdict == ("inconclusive" if gone else "equal")


def test_the_mirror_tells_nothing_of_an_earlier_past(one_rig: Rig) -> None:
    """What it wrote before a loss was settled, and had not told yet, is not told of the data that came instead."""
    rig = one_rig
    begun(rig)
    with paired(rig) as pair:
        keep(rig, STREAM)
        rig.add("a-1")
        wait_until(lambda: pair.reads() and len(rig.lines()) == 3, "the line")
        fall_back(rig, STREAM)
        pair.forward.detach()
        pair.go()
        with pytest.raises(NotYet):
            pair.mirror.step(0)
        pair.mirror.detach()
        wait_until(lambda: pair.both() and len(rig.entries()) == 3, "the line as the file's own")
        wait_until(pair.both, "rest")
    assert rig.parity().verdict == "equal"


def reads_on(pair: Pair, lines: int) -> bool:
    """The mirror reads once; whether the log has so many lines by now."""
    return pair.reads() and len(pair.rig.lines()) >= lines


@pytest.mark.parametrize("reads", [20, 90])
def test_a_fork_that_the_mirror_alone_met(one_rig: Rig, reads: int) -> None:
    """The old data are back, and the mirror has read on many times, before forward looks: it sees it all the same."""
    rig = one_rig
    begun(rig)
    with paired(rig) as pair:
        keep(rig, STREAM)
        rig.add("y")
        wait_until(lambda: pair.reads() and len(rig.lines()) == 3, "the line")
        fall_back(rig, STREAM)
        for n in range(reads):
            rig.add(f"z-{n}")
            wait_until(partial(reads_on, pair, n + 4), "the next line")
        wait_until(lambda: pair.both() and b"y" in rig.datas(), "the line as the file's own")
        wait_until(pair.both, "rest")
    assert not rig.once().errors
    same(rig, [b"f-0", b"r-0", b"y", *(b"z-%d" % n for n in range(reads))])


@pytest.mark.parametrize("written", [3, 17])
def test_a_part_of_a_line_before_anothers_and_a_kill(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """The write was short, another program's line came behind it, and the bridge ended then: both messages are carried."""
    rig = one_rig
    begun(rig)
    append = Appender.append
    with paired(rig) as pair, monkeypatch.context() as patch:
        rig.add("r-1")
        patch.setattr(Appender, "append", lambda file, data: append(file, data[:written]))
        with pytest.raises(TargetError, match=f"only {written} of"):
            pair.mirror.step(0)
    rig.append("f-1")
    for _ in range(3):
        assert not rig.once().errors
    same(rig, [b"f-0", b"f-1", b"r-0", b"r-1"])


@KINDS
@pytest.mark.parametrize("removed", [False, True], ids=["whole", "removed"])
def test_a_ledger_from_a_backup_fills_an_empty_redis_whose_data_come_back(
    one_rig: Rig, kind: str, removed: bool
) -> None:
    """It gives numbers again that the data which come back hold for other messages: what went under them is sent."""
    rig, exchange, backup = one_rig, Exchange(one_rig, kind), one_rig.path / "backup.db"
    child = rig.start()
    exchange.put("f-0")
    exchange.settled()
    with closing(sqlite3.connect(rig.state / "ledger.db")) as ledger, closing(sqlite3.connect(backup)) as copy:
        ledger.backup(copy)
    for n in range(1, 5):
        exchange.put(f"f-{n}")
        exchange.settled()
    rig.stop(child)
    if removed:
        rig.redis.call("XDEL", exchange.inbox.stream, format_id(exchange.inbox.entries()[0].id))
    shutil.copy(backup, rig.state / "ledger.db")
    swap(rig)
    for n in range(5, 8):
        exchange.put(f"f-{n}")
    assert not rig.once().errors
    swap(rig)
    for _ in range(3):
        assert not rig.once().errors
    if removed:
        entries = exchange.sides()[0]
        assert [data for data in entries if data != b"f-0"] == exchange.wanted[1:], rig.said()
    else:
        exchange.mended()


@pytest.mark.parametrize("kind", ["inbox", "texts", "artifacts"])
def test_a_copy_of_a_trimmed_entry_stands_as_redis_loses_its_newest(one_rig: Rig, kind: str) -> None:
    """Somebody put the first entry in again, with its origin: what was trimmed on purpose stays away all the same."""
    rig, exchange = one_rig, Exchange(one_rig, kind)
    stream = exchange.inbox.stream
    for n in range(5):
        exchange.put(f"f-{n}")
        assert not rig.once().errors
    first = exchange.inbox.entries()[0]
    rig.redis.call("XTRIM", stream, "MAXLEN", 1)
    rig.redis.call("XADD", stream, "*", *first.fields)
    assert not rig.once().errors
    keep(rig, stream)
    exchange.put("f-9")
    assert not rig.once().errors
    fall_back(rig, stream)
    for _ in range(2):
        assert not rig.once().errors
    assert exchange.sides()[0] == [b"f-0", b"f-4", b"f-9"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_moved_before_anything_was_carried(one_rig: Rig, tmp_path: Path, mirrored: bool) -> None:
    """Killed before its first line was sent, and its folders copied to another disk: the bridge goes on there."""
    rig = one_rig
    if mirrored:
        rig.add("r-0")
    child = rig.ready(rig.start(crash="forward.send.before:1"))
    if mirrored:
        wait_until(lambda: rig.messages() == [b"r-0"], rig.said)
    rig.append("f-0", "f-1")
    assert child.wait(20) == -signal.SIGKILL
    shutil.copytree(rig.path, tmp_path / "another")
    shutil.rmtree(rig.root)
    shutil.rmtree(rig.state)
    other = rig.at(tmp_path / "another")
    other.start()
    wanted = [b"f-0", b"f-1", *([b"r-0"] if mirrored else [])]
    wait_until(lambda: sorted(other.datas()) == wanted, lambda: f"{other.datas()} {other.said()}", 40)
    wait_until(lambda: other.parity().verdict == "equal", other.said)
    other.stop(other.children[-1])
    assert sorted(other.messages()) == wanted
