"""The witness: what the mirror put out, held against what was born; faults that were once there are put back."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest

from bridge.core.errors import TargetError
from bridge.engine.run import Process
from bridge.files.appender import Appender
from bridge.files.atomic import AtomicFolder
from bridge.kinds.log import target as append_module
from bridge.kinds.log.target import LogTarget
from bridge.kinds.spool.target import NewFileTarget
from bridge.kinds.target import PendingWrite
from bridge.ledger.ranges import move_intent
from bridge.ledger.store import Ledger
from bridge.streams.reader import entries
from tests.admin.test_quarantine import aside, limit
from tests.kinds.test_mirror_target import Both
from tests.support.inbox import INBOX, Inbox
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, wait_until

Break = Callable[[pytest.MonkeyPatch], None]


def forgets_what_it_wrote(patch: pytest.MonkeyPatch) -> None:
    """An error between the write and its note, after which the piece is not known: F1."""
    ascertain, failed = LogTarget._ascertain, [False]

    def broken(self: LogTarget, write: PendingWrite, ledger: Ledger) -> None:
        if write.pieces and not failed[0]:
            failed[0] = True
            write.pieces.pop()
            raise TargetError("cannot be looked at", where=write.name)
        ascertain(self, write, ledger)

    patch.setattr(LogTarget, "_ascertain", broken)


def cuts_before_the_ledger_does(patch: pytest.MonkeyPatch) -> None:
    """A short write, another's line, and memory changed in a transaction that fails: F2."""
    real, move, seen, failed = Appender.append, LogTarget._move, list[int](), [False]

    def short(self: Appender, data: bytes) -> int:
        seen.append(len(data))
        return real(self, data[: len(data) // 2] if len(seen) == 1 else data)

    def broken(self: LogTarget, write: PendingWrite, ledger: Ledger, number: int, size: int) -> None:
        if write.pieces and not failed[0]:
            failed[0] = True
            write.content, write.entries = write.left(write.entries)
            write.pieces, write.generation, write.size = [], number, size
            raise TargetError("the ledger's disk is full", where=write.name)
        move(self, write, ledger, number, size)

    patch.setattr(Appender, "append", short)
    patch.setattr(LogTarget, "_move", broken)


def mirrors(both: Both, rig: Rig) -> None:
    """Until all is in the files, whatever fails; another program writes a line after the first failure."""
    for n in range(6):
        try:
            assert both.mirror.finish()
            both.go_back()
        except TargetError:
            if n == 0:
                rig.append("between")
        both.go_forward()


@pytest.mark.parametrize("broken", [None, forgets_what_it_wrote, cuts_before_the_ledger_does])
def test_a_fault_put_back(rig: Rig, monkeypatch: pytest.MonkeyPatch, broken: Break | None) -> None:
    """Lines that are written twice and carried back have partners, each of them; the witness tells all the same."""
    rig.append("f-0")
    both = Both(rig)
    try:
        both.go_forward()
        both.go_back()
        if broken is not None:
            broken(monkeypatch)
        for n in range(4):
            rig.add(f"r-{n}")
        mirrors(both, rig)
        rig.add("r-last")
        mirrors(both, rig)
    finally:
        both.close()
    result = rig.parity()
    said = [note for note in result.notes if "messages stand twice" in note]
    if broken is None:
        assert (result.verdict, said) == ("equal", [])
    else:
        assert len(rig.datas()) > len({*rig.datas()})  # lines of ours were carried back
        assert result.verdict == "differs"
    if broken is forgets_what_it_wrote:
        assert not result.tally.differences  # each has its partner
        assert len(said) == 1


def loses(rig: Rig, stream: str, add: Callable[[str], bytes], settle: Callable[[], None]) -> None:
    """An entry is deleted, others are trimmed, Redis loses all, the ledger is lost and repaired; a message after each."""
    rig.redis.call("XDEL", stream, b"%d-%d" % list(entries(rig.redis, stream.encode()))[3].id)
    add("r-deleted")
    settle()
    rig.redis.call("XTRIM", stream, "MAXLEN", 10)
    add("r-trimmed")
    settle()
    rig.redis.call("FLUSHALL")
    add("r-flushed")
    settle()
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    assert rig.run("repair", "--execute", "--redis", rig.url).returncode in (0, 3)
    add("r-repaired")
    settle()


@pytest.mark.parametrize("cut", [0.5, 0.52, 0.6, 0.63])
def test_a_move_that_is_not_committed(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, cut: float) -> None:
    """A short write, another's line, and a ledger that rolls back what was noted of that: each message is there once.

    Wherever the write was cut off: the line that stands behind the torn one may be none that anybody understands.
    """
    rig = one_rig
    append, move, seen, failed = Appender.append, move_intent, list[int](), list[str]()

    def short(self: Appender, data: bytes) -> int:
        seen.append(len(data))
        return append(self, data[: int(len(data) * cut)] if len(seen) == 1 else data)

    def rolled_back(*args: Any) -> None:
        move(*args)
        if not failed:
            failed.append("once")
            raise TargetError("the ledger's disk is full", where="ledger.db")

    monkeypatch.setattr(Appender, "append", short)
    monkeypatch.setattr(append_module, "move_intent", rolled_back)
    rig.append("f-0")
    both = Both(rig)
    try:
        both.go_forward()
        for n in range(4):
            rig.add(f"r-{n}")
        mirrors(both, rig)
        rig.add("r-last")
        mirrors(both, rig)
    finally:
        both.close()
    assert failed
    assert sorted(rig.datas()) == [b"between", b"f-0", b"r-0", b"r-1", b"r-2", b"r-3", b"r-last"]
    ends = [line.rpartition(b"|")[2] for line in rig.lines()]
    assert sorted(ends) == sorted(rig.datas()), ends
    result = rig.parity()
    assert (result.verdict, result.tally.compared, result.tally.quarantined) == ("equal", 7, 0), result.tally


def test_it_does_not_cry_wolf(rig: Rig) -> None:
    """No flush, trim, deletion, lost ledger or restart makes the witness say what is not so."""

    def settle() -> None:
        for _ in range(2):
            assert not rig.once().errors
        assert not [note for note in rig.parity().notes if "messages stand twice" in note]

    for n in range(20):
        rig.append(f"f-{n}")
        rig.add(f"r-{n}")
    settle()
    loses(rig, STREAM, rig.add, settle)


def test_a_retry_is_no_alarm(one_rig: Rig) -> None:
    """Entries that get their lines late, from behind the place that the witness counts from, were born as well."""
    aside(one_rig)
    limit(one_rig, 100)
    one_rig.redis.call("XDEL", STREAM, b"%d-%d" % one_rig.entries()[0].id)
    one_rig.add("r-behind")
    assert not one_rig.once().errors
    limit(one_rig, 1000)
    assert one_rig.run("quarantine", "retry", "--redis", one_rig.url).returncode == 0
    one_rig.add("r-last")
    assert not one_rig.once().errors
    assert len(one_rig.lines()) == 14
    assert not one_rig.parity().too_much


# -- a folder -------------------------------------------------------------------------------------------------


def puts_twice(patch: pytest.MonkeyPatch) -> None:
    """An error behind the new file's name, after which nobody knows that it has one."""
    put, failed = NewFileTarget.put, [False]

    def broken(self: NewFileTarget, write: PendingWrite, ledger: Ledger, now: float) -> str:
        said = put(self, write, ledger, now)
        if not failed[0]:
            failed[0] = True
            write.pieces, self._tried, self._facts = [], None, None
            raise TargetError("cannot be looked at", where=write.name)
        return said

    patch.setattr(NewFileTarget, "put", broken)


def cannot_sync(patch: pytest.MonkeyPatch) -> None:
    """The folder cannot be synced once, when the new file has its name already; nobody forgets that it has."""
    put, failed = AtomicFolder.put, list[str]()

    def unsynced(self: AtomicFolder, mark: str, name: str) -> bool:
        named = put(self, mark, name)
        if named and not failed:
            failed.append(name)
            raise TargetError("cannot be written: Input/output error", where=name)
        return named

    patch.setattr(AtomicFolder, "put", unsynced)


@pytest.mark.parametrize("broken", [None, cannot_sync, puts_twice])
def test_a_fault_put_back_of_a_folder(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, broken: Break | None) -> None:
    """A message that is in the folder twice is one message, and a copy of it; the witness tells who made the copy."""
    inbox = Inbox(one_rig)
    inbox.put("f-0")
    inbox.add("r-0")
    assert not one_rig.once().errors
    if broken is not None:
        broken(monkeypatch)
    stop = Event()
    bridge = Thread(target=Process(one_rig.settings(), dual=True, poll=False, stop=stop).run)
    bridge.start()
    try:
        inbox.add("r-1")
        inbox.add("r-2")
        wait_until(lambda: inbox.identities().count("r-2") == 1, lambda: str(inbox.identities()))
        wait_until(lambda: inbox.parity().tally.in_flight == 0, "the note")
    finally:
        stop.set()
        bridge.join()
    whole = broken in (None, cannot_sync)
    assert inbox.identities().count("r-1") == (1 if whole else 2)
    result = inbox.parity()
    assert not result.tally.differences
    assert result.verdict == ("equal" if whole else "differs")
    assert len([note for note in result.notes if "messages stand twice" in note]) == (not whole)
    [word] = one_rig.redis.call("HVALS", f"bridge:{{{INBOX}}}:mirror")
    mirrored = [path.stat().st_size for path in inbox.folder.glob("*.json") if b'"r-' in path.read_bytes()]
    assert json.loads(word)["put"] == sum(mirrored)


def test_it_does_not_cry_wolf_of_a_folder(rig: Rig) -> None:
    """No copy, removal, flush, trim, deletion, lost ledger or restart makes the witness say what is not so."""
    inbox = Inbox(rig)

    def settle() -> None:
        for _ in range(2):
            assert not rig.once().errors
        assert not inbox.parity().too_much

    for n in range(10):
        inbox.put(f"f-{n}")
        inbox.add(f"r-{n}")
    settle()
    taken, copied = [path for path in inbox.folder.glob("*.json") if b'"r-' in path.read_bytes()][:2]
    inbox.move_in("copy.json", copied.read_bytes())
    taken.unlink()
    inbox.add("r-taken")
    settle()
    loses(rig, INBOX, inbox.add, settle)


def test_a_mirror_that_is_taken_away(one_rig: Rig) -> None:
    """What a mirror put into a folder is no alarm when the mapping has no mirror any more."""
    inbox = Inbox(one_rig)
    inbox.put("f-0")
    inbox.add("r-0")
    assert not one_rig.once().errors
    mapping_text = shipped("hestai-inbox")
    (one_rig.path / "alone.toml").write_text(mapping_text[: mapping_text.index("[mirror]")])
    one_rig.write_config(mapping="alone.toml")
    assert not inbox.parity().too_much
