"""Time that goes back: a ledger from a backup, a copied folder, a Redis that held other data for a moment, a fork."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from bridge.core.errors import NotYet, SourceError, TargetError
from bridge.core.model import EntryId
from bridge.engine import forward as forward_module
from bridge.engine import mirror as mirror_module
from bridge.engine.forward import Forward
from bridge.engine.mirror import Mirror
from bridge.files.appender import Appender
from bridge.files.closed_generations import KEPT_LATE
from bridge.files.folder import FileFacts
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.heartbeat import heartbeat, save_heartbeat
from bridge.ledger.sources import stream_memory
from bridge.ledger.spool_messages import has_batch, last_batch, last_landed, save_carried
from bridge.ledger.spool_recovery import forget_above, forget_all
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from bridge.streams.resp import pack
from tests.files.test_rotation import rotate
from tests.kinds.test_artifacts import Artifacts
from tests.support.inbox import INBOX, Inbox
from tests.support.proxy import Proxy
from tests.support.rig import STREAM, Rig, line, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
KEYS = ("meta", "checkpoint", "sources", "generations", "mirror", "late", "trimmed", "lease")


def both(rig: Rig, n: int, m: int) -> tuple[list[bytes], list[bytes]]:
    """Messages n to m, born on each side."""
    file_born, redis_born = [f"f-{i}".encode() for i in range(n, m)], [f"r-{i}".encode() for i in range(n, m)]
    rig.append(*file_born)
    for data in redis_born:
        rig.add(data)
    return file_born, redis_born


def put_back(rig: Rig, backup: Path) -> None:
    """The state directory as it was."""
    shutil.rmtree(rig.state)
    shutil.copytree(backup, rig.state)


@pytest.mark.parametrize("rotated", [False, True], ids=["in-place", "rotated"])
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_ledger_from_a_backup(rig: Rig, killed: bool, rotated: bool) -> None:
    """A state directory that is put back from a backup doubles nothing, however the newer one ended."""
    first = both(rig, 0, 3)
    assert not rig.once().errors
    backup = shutil.copytree(rig.state, rig.path / "backup")
    if rotated:
        rig.log.rename(rig.root / "messages.log.1")
    more = both(rig, 3, 8)
    child = rig.ready(rig.start())
    file_born, redis_born = [*first[0], *more[0]], [*first[1], *more[1]]
    wait_until(lambda: rig.equal(file_born, redis_born), rig.said)
    if killed:
        child.kill()
        child.wait()
    else:
        rig.stop(child)
    put_back(rig, backup)
    last = both(rig, 8, 9)
    result = rig.once()
    assert not result.errors, result.errors
    rig.check([*file_born, *last[0]], [*redis_born, *last[1]])
    assert (rig.once().forwarded, rig.once().mirrored) == (0, 0)


def test_an_inbox_whose_ledger_is_from_a_backup(one_rig: Rig) -> None:
    """The same of a folder with a file per message: none is sent or written twice."""
    inbox = Inbox(one_rig)
    for n in range(3):
        inbox.put(f"f-{n}", at=n)
        inbox.add(f"r-{n}", at=n)
    wait_until(lambda: not one_rig.once().errors and len(inbox.entries()) == len(inbox.files()) == 6, one_rig.said)
    backup = shutil.copytree(one_rig.state, one_rig.path / "backup")
    for n in range(3, 7):
        inbox.put(f"f-{n}", at=n)
        inbox.add(f"r-{n}", at=n)
    wait_until(lambda: not one_rig.once().errors and len(inbox.entries()) == len(inbox.files()) == 14, one_rig.said)
    put_back(one_rig, backup)
    wait_until(lambda: not one_rig.once().errors, one_rig.said)
    one_rig.once()
    assert sorted(inbox.ids()) == inbox.identities() == sorted([f"{side}-{n}" for side in "fr" for n in range(7)])
    assert inbox.parity().verdict == "equal"


def test_artifacts_whose_ledger_is_from_a_backup(one_rig: Rig) -> None:
    """No artifact is announced twice."""
    artifacts = Artifacts(one_rig)
    for n in range(2):
        artifacts.save(f"{n}.txt", b"%d" % n)
    wait_until(lambda: one_rig.once().forwarded >= 0 and len(artifacts.found()) == 2, one_rig.said)
    backup = shutil.copytree(one_rig.state, one_rig.path / "backup")
    for n in range(2, 5):
        artifacts.save(f"{n}.txt", b"%d" % n)
    wait_until(lambda: one_rig.once().forwarded >= 0 and len(artifacts.found()) == 5, one_rig.said)
    put_back(one_rig, backup)
    for _ in range(3):
        assert not one_rig.once().errors
    assert len(artifacts.found()) == 5


def copied(rig: Rig, binary: Binary) -> Rig:
    """The whole project folder, copied, with the same server."""
    path = rig.path.with_name(f"{rig.path.name}-copy")
    path.mkdir()
    other = Rig.__new__(Rig)
    other._layout(path, binary)
    for name in ("files", "state"):
        shutil.rmtree(path / name)
        shutil.copytree(rig.path / name, path / name)
    other.server = rig.server
    return other


def test_a_copied_folder(rig: Rig, binary: Binary) -> None:
    """Of two folders with one identity only one is carried; the other says who does, and changes nothing."""
    file_born, redis_born = both(rig, 0, 3)
    assert not rig.once().errors
    other = copied(rig, binary)
    first = rig.beats(rig.ready(rig.start()))
    second = other.ready(other.start())
    try:
        wait_until(lambda: "ledger of the same identity" in other.said(), other.said)
        more = both(rig, 3, 9)
        other.append("x-0")
        file_born, redis_born = [*file_born, *more[0]], [*redis_born, *more[1]]
        rig.settle(file_born, redis_born)
        assert b"x-0" not in rig.datas()
        assert len(other.lines()) == 7
        assert second.poll() is None
        told = json.loads(other.run("parity", "--json", "--redis", rig.url).stdout)
        assert told["verdict"] == "inconclusive", told
    finally:
        rig.stop(first)
    wait_until(lambda: "do not show what was carried" in other.said(), other.said)
    other.stop(second)
    rig.check(file_born, redis_born)
    other.close()


def test_killed_and_started_at_once(rig: Rig) -> None:
    """The lease of a process that was killed holds up nobody who has the lock of the same state directory."""
    file_born, redis_born = both(rig, 0, 3)
    for n in range(3, 9):
        child = rig.start()
        more = both(rig, n, n + 1)
        file_born, redis_born = [*file_born, *more[0]], [*redis_born, *more[1]]
        wait_until(lambda: rig.equal(file_born, redis_born), rig.said)
        child.kill()
        child.wait()
    rig.settle(file_born, redis_born)


@pytest.mark.parametrize("kind", ["log", "inbox"])
def test_lines_that_a_killed_process_had_written(one_rig: Rig, kind: str) -> None:
    """Killed before and after they were found again, and at once: nobody takes the ledger for an older one."""
    rig = one_rig
    inbox = Inbox(rig) if kind == "inbox" else None

    def add(n: int) -> None:
        if inbox is not None:
            inbox.add(f"r-{n}")
        else:
            rig.add(f"r-{n}")

    rig.log.touch()
    add(0)
    assert not rig.once().errors
    key = f"bridge:{{{INBOX if inbox is not None else STREAM}}}:mirror"

    def mirrored() -> list[bytes]:
        return [json.loads(word)["id"] for word in rig.redis.call("HVALS", key)]

    for n in range(1, 4):
        before = mirrored()
        add(n)
        child = rig.start(crash="mirror.range.before")
        wait_until(lambda: child.poll() is not None, rig.said)
        child = rig.start(crash="mirror.checkpoint.after")
        wait_until(lambda: child.poll() is not None, rig.said)
        assert mirrored() != before
    assert not rig.once().errors
    assert "older one" not in rig.said()
    if inbox is not None:
        inbox.check([], [f"r-{n}" for n in range(4)])
    else:
        rig.check([], [b"r-%d" % n for n in range(4)])


def test_redis_held_other_data_for_a_moment(rig: Rig) -> None:
    """An empty database in its place, filled from the files, and then the old data again: nothing is doubled."""
    file_born, redis_born = both(rig, 0, 4)
    child = rig.start()
    wait_until(lambda: rig.equal(file_born, redis_born), rig.said)
    rig.redis.call("SWAPDB", 0, 5)
    wait_until(lambda: len(rig.datas()) == 8, rig.said)  # all of it is the file's own there
    more = both(rig, 4, 6)
    wait_until(lambda: len(rig.datas()) == 12 == len(rig.lines()), rig.said)
    rig.redis.call("SWAPDB", 0, 5)
    wait_until(lambda: len(rig.datas()) == 12, rig.said)
    last = both(rig, 6, 8)
    wait_until(lambda: len(rig.datas()) == 16 == len(rig.lines()), rig.said)
    rig.stop(child)
    wanted = sorted([*file_born, *redis_born, *more[0], *more[1], *last[0], *last[1]])
    assert sorted(rig.datas()) == wanted, rig.said()
    assert sorted(raw.split(b"|", 3)[3] for raw in rig.lines()) == wanted, rig.said()
    assert rig.parity().verdict == "equal"


@pytest.mark.parametrize("refilled", [0, 1, 5])
def test_a_fork_whose_counters_were_filled_up(rig: Rig, refilled: int) -> None:
    """A failover lost the last entries, and producers added as many or more: what was lost comes back, nothing twice."""
    file_born, redis_born = both(rig, 0, 4)
    child = rig.start()
    wait_until(lambda: rig.equal(file_born, redis_born), rig.said)
    keys = [STREAM, *(f"bridge:{{{STREAM}}}:{name}" for name in KEYS)]
    for key in keys:
        rig.redis.call("COPY", key, f"fork:{key}", "REPLACE")
    lost = both(rig, 4, 6)
    wait_until(lambda: rig.equal([*file_born, *lost[0]], [*redis_born, *lost[1]]), rig.said)
    child.kill()
    child.wait()
    for key in keys:
        if rig.redis.call("EXISTS", f"fork:{key}"):
            rig.redis.call("RENAME", f"fork:{key}", key)
        else:
            rig.redis.call("DEL", key)
    fresh = [f"p-{n}".encode() for n in range(refilled)]
    for data in fresh:
        rig.add(data)
    again = rig.start()
    wanted = sorted([*file_born, *redis_born, *lost[0], *lost[1], *fresh])
    wait_until(lambda: sorted(rig.datas()) == wanted, lambda: f"{rig.datas()} {rig.said()}")
    wait_until(lambda: len(rig.lines()) == len(wanted), rig.said)
    rig.stop(again)
    assert sorted(raw.split(b"|", 3)[3] for raw in rig.lines()) == wanted, rig.said()
    assert rig.parity().verdict == "equal"


def test_the_newest_entry_was_deleted(rig: Rig) -> None:
    """XDEL of the newest entries by somebody is no loss: they do not come back, and nothing is sent again."""
    file_born, redis_born = both(rig, 0, 4)
    child = rig.start()
    wait_until(lambda: rig.equal(file_born, redis_born), rig.said)
    rig.stop(child)
    for entry in rig.entries()[-2:]:
        rig.redis.call("XDEL", STREAM, b"%d-%d" % entry.id)
    left = rig.datas()
    for _ in range(2):
        assert not rig.once().errors
    assert rig.datas() == left
    assert len(rig.lines()) == 8


def test_one_entry_with_the_origin_of_a_later_line(rig: Rig) -> None:
    """An origin vouches for its own line only: the lines before it are sent all the same, and the doctor tells."""
    rig.append("f-0", "f-1")
    assert not rig.once().errors
    rig.append("f-2", "f-3", "f-4")
    at = rig.log.read_bytes().rindex(b"agent|")
    fields = ("role", "agent", "timestamp", "2026-03-02T09:14:05.112Z", "type", "turn", "data", "f-4")
    rig.redis.call("XADD", STREAM, "*", *fields, "origin", f"1.1:{at}")
    assert "an origin that the bridge did not send" in rig.run("doctor", "--redis", rig.url).stdout
    assert not rig.once().errors
    assert sorted(rig.datas()) == [b"f-0", b"f-1", b"f-2", b"f-3", b"f-4"]
    assert rig.parity().verdict == "equal"


def put_aside(rig: Rig, stream: str) -> None:
    """Copies the stream and the bridge's books of it to database 5."""
    for key in (stream, *(f"bridge:{{{stream}}}:{name}" for name in KEYS)):
        rig.redis.call("COPY", key, key, "DB", 5, "REPLACE")


class Exchange:
    """A mapping of a rig, of one kind; both sides write what `put` and `add` are given."""

    def __init__(self, rig: Rig, kind: str) -> None:
        self.rig = rig
        self.kind = kind
        self.inbox = Inbox(rig)
        if kind == "log":
            self.inbox.stream = STREAM
            rig.log.touch()
            rig.write_config()
        if kind == "texts":
            mapping = rig.path / "texts.toml"
            mapping.write_text(TEXTS)
            rig.write_config(mapping=str(mapping))
        if kind == "artifacts":
            self.inbox.stream = "hestai:artifacts"
            self.inbox.folder = rig.root / "artifacts"
            self.inbox.folder.mkdir()
            rig.write_config(mapping="hestai-artifacts")
        if kind == "context":
            self.inbox.stream = "hestai:context"
            self.inbox.folder = rig.root / "context"
            self.inbox.folder.mkdir()
            mapping = rig.path / "context.toml"
            mapping.write_text(CONTEXT)
            rig.write_config(mapping=str(mapping))
        self.wanted: list[bytes] = []

    def put(self, name: str) -> None:
        """A file, or a line."""
        if self.kind == "log":
            self.rig.append(name)
        elif self.kind == "inbox":
            self.inbox.put(name)
        elif self.kind == "context":
            with (self.inbox.folder / "wind.ctx").open("a") as file:
                file.write(f"{name}\n")
        else:
            self.inbox.move_in(f"1772442001_wind-{name}.txt", name.encode())
        self.wanted.append(name.encode())

    def forks(self, n: int) -> None:
        """One more file is carried; database 5 has Redis as it was before."""
        put_aside(self.rig, self.inbox.stream)
        self.put(f"f-{n}")
        self.settled()

    def add(self, name: str, at: str = "*") -> None:
        """An entry; artifacts and contexts are born as files only."""
        if self.kind in ("artifacts", "context"):
            return
        if self.kind == "log":
            self.rig.add(name, entry_id=at)
        elif self.kind == "inbox":
            self.inbox.add(name, entry_id=at)
        else:
            facts = ("role", "ui", "timestamp", "1772442001", "type", "note")
            self.rig.redis.call("XADD", INBOX, at, *facts, "data", name)
        self.wanted.append(name.encode())

    def both(self, n: int) -> None:
        """One of each."""
        self.put(f"f-{n}")
        self.add(f"r-{n}")

    def begun(self) -> Exchange:
        """The same, once one message of each side was carried."""
        self.both(0)
        for _ in range(2):
            wait_until(lambda: not self.rig.once().errors, self.rig.said)
        return self

    def knows(self, ledger: Ledger, last: EntryId) -> bool:
        """Whether this is the last entry of the stream that the ledger knows."""
        memory = stream_memory(ledger, self.inbox.stream)
        return memory is not None and memory.last_id == last

    def sides(self) -> list[list[bytes]]:
        """What each side holds, sorted: entries, then files; artifacts by their paths."""
        found = [entry.fields[7] for entry in self.inbox.entries()]
        files = [*self.inbox.files().values()]
        if self.kind == "log":
            files = [raw.split(b"|", 3)[3] for raw in self.rig.lines()]
        if self.kind == "inbox":
            found, files = [[json.loads(raw)["uuid"].encode() for raw in side] for side in (found, files)]
        if self.kind == "context":
            found, files = b"".join(found).split(), b"".join(files).split()
        if self.kind == "artifacts":
            found = [Path(raw.decode()).stem.removeprefix("1772442001_wind-").encode() for raw in found]
        return [sorted(found), sorted(files)]

    def settled(self) -> None:
        """Waits until each message stands once on both sides."""
        wait_until(lambda: self.sides() == [sorted(self.wanted)] * 2, lambda: f"{self.sides()} {self.rig.said()}", 30)

    def mended(self) -> None:
        """What was wrong is over: a few runs, and each message stands once on both sides."""
        for _ in range(3):
            last = self.rig.once().errors
        assert not last
        self.settled()
        self.check()

    def check(self) -> None:
        """That it is so, and stays so; parity says it."""
        for _ in range(2):
            assert not self.rig.once().errors
            assert self.sides() == [sorted(self.wanted)] * 2, self.rig.said()
        assert self.inbox.parity().verdict == "equal"


TEXTS = """name = "texts"
[source]
kind = "spool"
path = "inbox/*.txt"
settle_ms = 20
[format]
codec = "document"
pattern = '(?P<timestamp>[0-9]+)_(?P<role>[a-z]+)(-.*)?[.]txt'
timestamp = "epoch_s"
[message]
type = { const = "note" }
[stream]
key = "hestai:inbox"
[mirror]
path = "inbox"
name = "{timestamp}_{role}-{id}.txt"
"""
CONTEXT = """name = "context"
[source]
kind = "context"
path = "context/*.ctx"
idle_ms = 20
[message]
role = { name = "stem" }
[stream]
key = "hestai:context"
"""
SOME = ["log", "inbox", "texts", "artifacts", "context"] if SOAK else ["log", "inbox", "context"]
KINDS = pytest.mark.parametrize("kind", SOME)


@KINDS
@pytest.mark.parametrize("refilled", [False, True], ids=["at-once", "refilled"])
def test_each_kind_whose_redis_held_other_data_for_a_moment(rig: Rig, kind: str, refilled: bool) -> None:
    """An empty database in the place of the stream, filled or not, and then the old data again: nothing is doubled."""
    exchange = Exchange(rig, kind)
    child = rig.start()
    for n in range(4):
        exchange.both(n)
    exchange.settled()
    rig.redis.call("SWAPDB", 0, 5)
    if refilled:
        exchange.settled()
        exchange.both(4)
        exchange.settled()
    else:
        wait_until(lambda: rig.redis.call("EXISTS", f"bridge:{{{exchange.inbox.stream}}}:meta"), rig.said)
    rig.redis.call("SWAPDB", 0, 5)
    exchange.both(5)
    exchange.settled()
    rig.stop(child)
    exchange.check()


@pytest.mark.parametrize("kind", ["log", "inbox"])
def test_redis_held_other_data_before_it_was_told_what_was_mirrored(rig: Rig, kind: str) -> None:
    """The old data come back, and do not say that anything was mirrored: what was lost is the mirror's once more."""
    exchange = Exchange(rig, kind)
    child = rig.start()
    for n in range(4):
        exchange.both(n)
    exchange.settled()
    stream = exchange.inbox.stream
    rig.redis.call("SWAPDB", 0, 5)
    wait_until(lambda: "the mirror goes on" in rig.said(), rig.said)
    rig.redis.calls(pack("SELECT", 5), pack("DEL", f"bridge:{{{stream}}}:mirror"), pack("SELECT", 0))
    rig.redis.call("SWAPDB", 0, 5)
    exchange.both(4)
    exchange.settled()
    rig.stop(child)
    exchange.check()


@pytest.mark.parametrize("what", ["redis", "ledger"])
@pytest.mark.parametrize("kind", ["inbox", "texts"])
def test_a_file_that_cannot_be_read_as_time_goes_back_holds_up_only_itself(
    rig: Rig, kind: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis loses all and gets it back, or the ledger is put back, while two files cannot be read: nothing is doubled.

    The others go on meanwhile.
    """
    exchange = Exchange(rig, kind).begun()
    backup = shutil.copytree(rig.state, rig.path / "backup")
    exchange.both(1)
    assert not rig.once().errors
    locked = [os.fsencode(path) for path in exchange.inbox.folder.iterdir() if b"-1" in path.read_bytes()]
    assert len(locked) == 2, locked
    real = os.open

    def refused(path: object, *args: int, **more: int) -> int:
        if path in locked:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        for n in (2, 3):
            if what == "redis":
                rig.redis.call("SWAPDB", 0, 5)
            elif n == 2:
                put_back(rig, backup)
            exchange.both(n)
            for _ in range(2):
                said = [str(error) for error in rig.once().errors]
                assert any("cannot be read" in error for error in said), said
            new = {f"f-{n}".encode(), f"r-{n}".encode()}
            assert all(new <= set(side) for side in exchange.sides()), (exchange.sides(), said)
    exchange.mended()


@KINDS
def test_each_kind_between_two_forks(rig: Rig, kind: str) -> None:
    """Masters that take turns, each with a past of its own: what one of them lacks is sent, and nothing twice."""
    exchange = Exchange(rig, kind)
    child = rig.start()
    exchange.both(0)
    exchange.settled()
    for n in range(1, 6):
        exchange.forks(n)
        rig.redis.call("SWAPDB", 0, 5)
        for more in range(n % 4):  # its counters are as high as before, or higher
            exchange.add(f"r-{n}-{more}")
        exchange.settled()
    exchange.both(6)
    exchange.settled()
    rig.stop(child)
    exchange.check()


def test_parity_where_a_bridge_that_gives_no_heartbeat_has_to_bring_back_what_redis_lost(rig: Rig) -> None:
    """It is under way as long as the bridge's process is there, and a difference when nobody is."""
    first = both(rig, 0, 2)
    child = rig.start()
    wait_until(lambda: rig.equal(*first), rig.said)
    put_aside(rig, STREAM)
    more = both(rig, 2, 4)
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        wait_until(lambda: (memory := stream_memory(ledger, STREAM)) is not None and memory.added == 8, rig.said)
    wait_until(lambda: rig.equal([*first[0], *more[0]], [*first[1], *more[1]]), rig.said)
    last = max(entry.id for entry in rig.entries() if b"origin" not in entry.fields[0::2])
    with closing(Ledger(rig.state / "ledger.db")) as ledger:  # the line is in the file a moment before
        wait_until(lambda: (memory := stream_memory(ledger, STREAM)) is not None and memory.mirror_cursor >= last, "it")
    child.send_signal(signal.SIGSTOP)
    rig.redis.call("SWAPDB", 0, 5)
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        save_heartbeat(ledger, (heartbeat(ledger, "test") or {}) | {"at": time.time() - 60})
    result = rig.parity()
    assert (result.verdict, result.counts()["missing_in_redis"]) == ("inconclusive", 4)
    assert any("gives no heartbeat" in note for note in result.notes), result.notes
    child.kill()
    child.wait()
    assert (result := rig.parity()).verdict == "differs", result.notes
    assert "the bridge is not running" in result.notes
    assert not rig.once().errors
    rig.check([*first[0], *more[0]], [*first[1], *more[1]])


@pytest.mark.parametrize("more", [1, 3] if SOAK else [3])
@KINDS
def test_each_kind_of_which_a_fork_gave_an_id_again(rig: Rig, kind: str, more: int) -> None:
    """What the bridge sent is lost, and at once other entries stand under its ID and the next ones: they are carried."""
    exchange = Exchange(rig, kind)
    child = rig.start()
    exchange.both(0)
    exchange.settled()
    for n in range(1, 4):
        exchange.forks(n)
        ms, number = exchange.inbox.entries()[-1].id
        with closing(Ledger(rig.state / "ledger.db")) as ledger:  # forward is at rest, and looks for little
            wait_until(partial(exchange.knows, ledger, (ms, number)), "the ledger's last entry")
        rig.redis.call("SWAPDB", 0, 5)
        for i in range(more):
            exchange.add(f"r-{n}-{i}", at=f"{ms}-{number + i}")
        exchange.settled()
    rig.stop(child)
    exchange.check()


@KINDS
def test_each_kind_whose_redis_comes_back_between_two_requests(rig: Rig, kind: str) -> None:
    """The old data comes back before the n-th request behind the loss, whichever that is: nothing is lost or doubled."""
    exchange, left, swaps = Exchange(rig, kind), [-1], Connection(rig.url)
    other = Connection(rig.url.replace("db=0", "db=5"))

    def fault(piece: bytes, number: int) -> str:
        if left[0] > 0:
            left[0] -= 1
            if not left[0]:
                swaps.call("SWAPDB", 0, 5)
        return "pass"

    with Proxy(rig.server, fault) as proxy:
        child = rig.start(url=proxy.url)
        exchange.both(0)
        exchange.settled()
        for n in range(1, 45, 1 if SOAK else 11):
            swaps.call("SWAPDB", 0, 5)
            left[0] = n
            wait_until(lambda: left[0] == 0, rig.said)
            exchange.both(n)
            exchange.settled()
            other.call("FLUSHDB")
        rig.stop(child)
    swaps.close()
    other.close()
    exchange.check()


def keep(rig: Rig, stream: str) -> None:
    """Keeps the stream and the bridge's books of it as they are, for `fall_back`."""
    keys = [stream, *(f"bridge:{{{stream}}}:{name}" for name in KEYS if name != "lease")]
    rig.redis.calls(*(pack("COPY", key, f"kept:{key}", "REPLACE") for key in keys))


def fall_back(rig: Rig, stream: str) -> None:
    """Redis is as it was when `keep` was called: a failover to a replica that was behind."""
    keys = [stream, *(f"bridge:{{{stream}}}:{name}" for name in KEYS if name != "lease")]
    rig.redis.calls(*(pack("COPY", f"kept:{key}", key, "REPLACE") for key in keys))


def twice(rig: Rig) -> None:
    """Two runs without an error."""
    for _ in range(2):
        assert not rig.once().errors


@pytest.mark.parametrize("born", ["redis", "file"])
@pytest.mark.parametrize("taken", [False, True], ids=["there", "taken"])
def test_a_text_that_says_the_same_as_another_comes_as_redis_lost_its_tail(rig: Rig, born: str, taken: bool) -> None:
    """It is a message of its own, be the file of the other there or taken by its reader."""
    exchange = Exchange(rig, "texts").begun()
    if born == "redis":
        exchange.add("same")
    else:
        exchange.inbox.move_in("1772442001_ui-first.txt", b"same")
    twice(rig)
    keep(rig, INBOX)
    exchange.both(1)
    twice(rig)
    for path in exchange.inbox.folder.iterdir() if taken else ():
        if path.read_bytes() == b"same":
            path.unlink()
    twice(rig)
    exchange.inbox.move_in("1772442001_ui-aaa.txt", b"same")
    fall_back(rig, INBOX)
    twice(rig)
    twice(rig)
    assert [entry.fields[7] for entry in exchange.inbox.entries()].count(b"same") == 2, rig.said()


@pytest.mark.parametrize("fails", [False, True], ids=["at-once", "that-cannot-be-asked"])
def test_forward_looks_between_the_mirrors_write_and_what_is_known_of_it(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The log is saved anew just before the write, which goes into a deleted file: the saved one is no other log.

    Also where the system does not tell the mirror at once whether the file has a name.
    """
    rig = one_rig
    both(rig, 0, 2)
    twice(rig)
    rig.add("r-2")
    settings = rig.settings()
    [mapping] = settings.mappings
    ledger, shared = Ledger(rig.state / "ledger.db"), MappingContext(mapping, settings)
    way = (shared, ledger, Troubles(time.time), time.time, lambda: Connection(rig.url))
    forward, mirror = Forward(*way), Mirror(*way)
    forward.look()
    forward.attach()
    mirror.attach()
    append, position, looks = Appender.append, Appender.position, list[Thread]()

    def saved(self: Appender, data: bytes) -> int:
        if not looks:
            shutil.copy2(rig.log, rig.root / ".saved")
            (rig.root / ".saved").rename(rig.log)
        written = append(self, data)
        if not looks:
            looks.append(Thread(target=shared.tail("messages.log", ledger).look))
            if not fails:
                looks[0].start()
                looks[0].join(0.3)
        return written

    def asked(self: Appender) -> int:
        if fails and looks[0].ident is None:
            raise TargetError("cannot be asked: Input/output error")
        return position(self)

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "append", saved)
        patch.setattr(Appender, "position", asked)
        if fails:
            with pytest.raises(SourceError, match="cannot be asked"):
                mirror.step(0)
            with pytest.raises(SourceError, match="cannot be asked"):
                shared.tail("messages.log", ledger).look()
            looks[0].start()
        else:
            mirror.step(0)
        looks[0].join()
    while not mirror.finish():
        pass
    forward.look()
    while forward.step():
        pass
    forward.detach()
    mirror.close()
    ledger.close()
    shared.close()
    twice(rig)
    wanted = [b"f-0", b"f-1", b"r-0", b"r-1", b"r-2"]
    assert [sorted(rig.datas()), sorted(raw.split(b"|", 3)[3] for raw in rig.lines())] == [wanted, wanted]
    assert rig.parity().verdict == "equal"


@pytest.mark.parametrize("more", [False, True], ids=["alone", "among-others"])
def test_a_late_line_that_redis_lost(rig: Rig, more: bool) -> None:
    """Redis falls back behind what was added to a piece that was rotated away: it is carried again."""
    rig.append("f-0")
    twice(rig)
    rotate(rig)
    rig.append("f-1")
    twice(rig)
    keep(rig, STREAM)
    with rig.log.with_name("messages.log.1").open("ab") as piece:
        piece.write(line("late"))
    if more:
        rig.append("f-2")
    twice(rig)
    assert b"late" in rig.datas()
    fall_back(rig, STREAM)
    twice(rig)
    assert sorted(rig.datas()) == sorted([b"f-0", b"f-1", b"late", *[b"f-2"] * more]), rig.said()
    assert rig.parity().verdict == "equal"


def test_a_late_line_of_long_ago_that_redis_lost(rig: Rig) -> None:
    """It was added to a piece that is so old that it is not held open; it is carried again all the same."""
    wanted = []
    for n in range(KEPT_LATE + 3):
        rig.append(f"f-{n:03}")
        wanted.append(f"f-{n:03}".encode())
        assert not rig.once().errors
        rotate(rig)
    rig.append("last")
    twice(rig)
    keep(rig, STREAM)
    oldest = rig.log.with_name(f"messages.log.{KEPT_LATE + 3}")
    with oldest.open("ab") as piece:
        piece.write(line("late"))
    twice(rig)
    assert b"late" in rig.datas()
    fall_back(rig, STREAM)
    for _ in range(3):
        twice(rig)
    assert sorted(rig.datas()) == [*wanted, b"last", b"late"], rig.said()
    assert rig.parity().verdict == "equal"


@pytest.mark.parametrize("kind", ["inbox", "texts", "artifacts"])
def test_a_batch_of_which_nobody_heard_before_redis_was_another(one_rig: Rig, kind: str) -> None:
    """Its number is given to no other batch: the data that have it come back, and what else was sent since is missing."""
    rig, exchange = one_rig, Exchange(one_rig, kind).begun()
    settings = rig.settings()
    [mapping] = settings.mappings
    ledger, shared = Ledger(rig.state / "ledger.db"), MappingContext(mapping, settings)
    forward = Forward(shared, ledger, Troubles(time.time), time.time, lambda: Connection(rig.url))

    def sent(names: list[str]) -> bool:
        forward.look()
        forward.step()
        return {name.encode() for name in names} <= set(exchange.sides()[0])

    forward.look()
    forward.attach()
    exchange.put("f-1")
    wait_until(lambda: sent(["f-1"]), "the batch")
    forward.detach()
    rig.redis.call("SWAPDB", 0, 5)
    for _ in range(2):
        forward.look()
        forward.attach()
        forward.detach()
    exchange.put("f-2")
    forward.attach()
    wait_until(lambda: sent(["f-0", "f-1", "f-2"]), "all of them")
    wait_until(lambda: not forward.step(), "rest")
    forward.detach()
    rig.redis.call("SWAPDB", 0, 5)
    ledger.close()
    shared.close()
    exchange.mended()


def test_a_late_line_that_other_data_had(rig: Rig) -> None:
    """It was carried with all of its file into other data, which were there for a moment: the old ones get it too."""
    rig.append("f-0")
    twice(rig)
    rotate(rig)
    rig.append("f-1")
    twice(rig)
    rig.redis.call("SWAPDB", 0, 5)
    with rig.log.with_name("messages.log.1").open("ab") as piece:
        piece.write(line("late"))
    twice(rig)
    rig.redis.call("SWAPDB", 0, 5)
    twice(rig)
    assert sorted(rig.datas()) == [b"f-0", b"f-1", b"late"], rig.said()
    assert rig.parity().verdict == "equal"


@pytest.mark.parametrize("between", ["reconcile_checkpoints", "put_back", "settle_loss"])
def test_the_mirror_reads_nothing_before_a_loss_is_settled(
    one_rig: Rig, between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork has entries below and above what was mirrored: those below are mirrored too, whenever the mirror tries."""
    rig = one_rig
    rig.log.touch()
    both(rig, 0, 1)
    twice(rig)
    keep(rig, STREAM)
    last = rig.entries()[-1].id
    wait_until(lambda: int(rig.redis.call("TIME")[0]) * 1000 > last[0] + 1000, "another second")
    both(rig, 1, 2)
    twice(rig)
    fall_back(rig, STREAM)
    facts = ("role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say", "data")
    for n in (1, 2):
        rig.redis.call("XADD", STREAM, f"{last[0] + n}-0", *facts, f"b-{n}")
    for n in range(3, 7):
        rig.add(f"b-{n}")
    settings = rig.settings()
    [mapping] = settings.mappings
    ledger, shared = Ledger(rig.state / "ledger.db"), MappingContext(mapping, settings)
    way = (shared, ledger, Troubles(time.time), time.time, lambda: Connection(rig.url))
    forward, mirror = Forward(*way), Mirror(*way)
    real = getattr(forward_module, between)

    def tried(*args: object, **more: object) -> object:
        """What the mirror's thread does in this moment."""
        with pytest.raises(NotYet):
            mirror.attach()
        mirror.detach()
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(forward_module, between, tried)
        forward.look()
        forward.attach()
    mirror.attach()
    while mirror.step(0):
        mirror.finish()
    forward.detach()
    mirror.close()
    ledger.close()
    shared.close()
    twice(rig)
    wanted = sorted([b"f-0", b"f-1", b"r-0", b"r-1", *(b"b-%d" % n for n in range(1, 7))])
    assert sorted(raw.split(b"|", 3)[3] for raw in rig.lines()) == sorted(rig.datas()) == wanted


def test_a_ledger_that_is_put_back_has_begun_a_line(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had begun is taken up before anybody asks what it lacks; that it lacks anything is seen all the same."""
    rig = one_rig
    rig.log.touch()
    both(rig, 0, 1)
    twice(rig)
    rig.add("r-1")
    copied: list[str] = []

    def copies(point: str) -> None:
        """A copy with an open intent, and more to be mirrored by the same process."""
        if point == "mirror.intent.after" and not copied:
            with (
                closing(sqlite3.connect(rig.state / "ledger.db")) as whole,
                closing(sqlite3.connect(rig.path / "copy")) as copy,
            ):
                whole.backup(copy)
            copied.append(point)
        elif point == "mirror.range.after" and len(copied) == 1:
            copied.append(point)
            rig.add("r-2")
            rig.add("r-3")

    with monkeypatch.context() as patch:
        patch.setattr(mirror_module, "failpoint", copies)
        assert not rig.once().errors
    assert (len(copied), len(rig.lines())) == (2, 5)
    for suffix in ("-wal", "-shm"):
        (rig.state / f"ledger.db{suffix}").unlink(missing_ok=True)
    shutil.copy(rig.path / "copy", rig.state / "ledger.db")
    rig.redis.call("DEL", f"bridge:{{{STREAM}}}:mirror")
    twice(rig)
    wanted = [b"f-0", b"r-0", b"r-1", b"r-2", b"r-3"]
    assert [sorted(rig.datas()), sorted(raw.split(b"|", 3)[3] for raw in rig.lines())] == [wanted, wanted]


def test_a_subfolder_that_cannot_be_listed_as_a_ledger_is_put_back(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are laid beside the stream when they can be seen again, and nothing is doubled."""
    exchange = Exchange(one_rig, "texts")
    mapping = one_rig.path / "texts.toml"
    mapping.write_text(TEXTS.replace('"inbox/*.txt"', '"inbox/**/*.txt"'))
    (exchange.inbox.folder / "sub").mkdir()
    exchange.begun()
    backup = shutil.copytree(one_rig.state, one_rig.path / "backup")
    exchange.inbox.move_in("sub/1772442001_wind-x.txt", b"x")
    exchange.wanted.append(b"x")
    twice(one_rig)
    put_back(one_rig, backup)
    real = os.scandir

    def refused(path: bytes) -> object:
        if os.fsencode(path).endswith(b"/sub"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        assert [error for error in one_rig.once().errors if "cannot be read" in str(error)]
    exchange.mended()


@KINDS
def test_each_kind_whose_redis_comes_back_as_the_first_batch_goes(rig: Rig, kind: str) -> None:
    """The old data comes back between the settling of the loss and the first batch behind it: that goes nowhere."""
    exchange, armed, swaps = Exchange(rig, kind), [False], Connection(rig.url)

    def fault(piece: bytes, number: int) -> str:
        if armed[0] and b"XADD" in piece:
            armed[0] = False
            swaps.call("SWAPDB", 0, 5)
        return "pass"

    with Proxy(rig.server, fault) as proxy:
        child = rig.start(url=proxy.url)
        exchange.both(0)
        exchange.settled()
        armed[0] = True
        swaps.call("SWAPDB", 0, 5)
        wait_until(lambda: not armed[0], rig.said)
        exchange.both(1)
        exchange.settled()
        rig.stop(child)
    swaps.close()
    exchange.check()


@KINDS
def test_each_kind_whose_redis_is_elsewhere_for_some_requests_behind_a_loss(rig: Rig, kind: str) -> None:
    """Redis lost its tail, and holds nothing from the n-th request behind that on, for a few: what is read is not mixed.

    What was read of nothing is not taken for lost of the data that come back.
    """
    exchange, left, swaps = Exchange(rig, kind), [0, 0], Connection(rig.url)

    def fault(piece: bytes, number: int) -> str:
        for which, counted in enumerate(left):
            if counted > 0:
                left[which] -= 1
                if counted == 1:
                    swaps.call("SWAPDB", 0, 5)
        return "pass"

    stream = exchange.inbox.stream
    keys = [stream, *(f"bridge:{{{stream}}}:{name}" for name in KEYS if name != "lease")]
    with Proxy(rig.server, fault) as proxy:
        child = rig.start(url=proxy.url)
        for n in range(-4, 0):
            exchange.both(n)
        exchange.settled()
        for n in range(1, 45, 1 if SOAK else 11):
            swaps.calls(*(pack("COPY", key, f"behind:{key}", "REPLACE") for key in keys))
            exchange.both(n)
            exchange.settled()
            lost = [pack("MULTI"), *(pack("COPY", f"behind:{key}", key, "REPLACE") for key in keys), pack("EXEC")]
            swaps.calls(*lost)
            left[:] = n, n + 1 + n % 3
            wait_until(lambda: left == [0, 0], rig.said)
            exchange.settled()
        rig.stop(child)
    swaps.close()
    exchange.check()


@pytest.mark.parametrize("kind", ["log", "inbox", "texts"])
def test_each_kind_whose_ledger_is_put_back_before_redis_was_told(rig: Rig, kind: str) -> None:
    """A copy that one process made lacks what that mirrored since, and Redis was not told of it: nothing is doubled."""
    exchange = Exchange(rig, kind)
    child = rig.start()
    exchange.both(0)
    exchange.settled()
    with (
        closing(sqlite3.connect(rig.state / "ledger.db")) as whole,
        closing(sqlite3.connect(rig.path / "copy")) as copy,
    ):
        whole.backup(copy)
    for n in range(1, 4):
        exchange.add(f"r-{n}")
    exchange.settled()
    child.kill()
    child.wait()
    for suffix in ("-wal", "-shm"):
        (rig.state / f"ledger.db{suffix}").unlink(missing_ok=True)
    shutil.copy(rig.path / "copy", rig.state / "ledger.db")
    rig.redis.call("DEL", f"bridge:{{{exchange.inbox.stream}}}:mirror")
    again = rig.start()
    exchange.both(4)
    exchange.settled()
    rig.stop(again)
    exchange.check()


@pytest.mark.parametrize("kind", ["log", "inbox", "texts", "artifacts"])
def test_each_kind_that_is_due_as_its_ledger_is_put_back(rig: Rig, kind: str) -> None:
    """What a ledger from a backup has as due, and is in the stream by now, is not sent again."""
    exchange = Exchange(rig, kind).begun()
    child = rig.ready(rig.start())
    rig.kill_server()
    for n in range(1, 4):
        exchange.put(f"f-{n}")
    ledger = Ledger(rig.state / "ledger.db")
    due = "SELECT 1 FROM spool_due"
    wait_until(lambda: kind == "log" or len(ledger.rows(due)) == 3, rig.said)
    ledger.close()
    child.kill()
    child.wait()
    backup = shutil.copytree(rig.state, rig.path / "backup")
    rig.start_server()
    exchange.put("f-4")
    child = rig.start()
    exchange.settled()
    rig.stop(child)
    put_back(rig, backup)
    child = rig.start()
    exchange.both(5)
    exchange.settled()
    rig.stop(child)
    exchange.check()


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_a_ledger_from_a_backup_as_the_log_is_rotated(rig: Rig, rotations: int) -> None:
    """Put back while the log was rotated behind what Redis knows, and the mirror had written into the newest file."""
    first = both(rig, 0, 3)
    assert not rig.once().errors
    backup = shutil.copytree(rig.state, rig.path / "backup")
    child = rig.start()
    more = both(rig, 3, 8)
    file_born, redis_born = [*first[0], *more[0]], [*first[1], *more[1]]
    wait_until(lambda: rig.equal(file_born, redis_born), rig.said)
    rig.stop(child)
    put_back(rig, backup)
    for n in range(rotations):
        rotate(rig)
        rig.append(f"f-{8 + n}")
        file_born.append(b"f-%d" % (8 + n))
    result = rig.once()
    assert not result.errors, result.errors
    rig.check(file_born, redis_born)
    assert (rig.once().forwarded, rig.once().mirrored) == (0, 0)


def noted(rig: Rig) -> dict[str, list[tuple[object, ...]]]:
    """What the ledger has of streams and their checkpoints, by table."""
    ledger = Ledger(rig.state / "ledger.db")
    try:
        return {table: ledger.rows(f"SELECT * FROM {table}") for table in ("streams", "seen", "sources")}
    finally:
        ledger.close()


@KINDS
def test_each_kind_whose_loss_no_counter_tells(rig: Rig, kind: str) -> None:
    """What was sent last, and lost with Redis before the ledger noted the stream's counters, is sent again."""
    exchange = Exchange(rig, kind).begun()
    stream, before = exchange.inbox.stream, noted(rig)
    for key in (stream, *(f"bridge:{{{stream}}}:{name}" for name in KEYS)):
        rig.redis.call("COPY", key, key, "DB", 5, "REPLACE")
    exchange.put("f-1")
    wait_until(lambda: not rig.once().errors and len(exchange.inbox.entries()) == len(exchange.wanted), rig.said)
    rig.redis.call("SWAPDB", 0, 5)
    ledger = Ledger(rig.state / "ledger.db")
    with ledger.transaction():  # as if it had been killed behind the note that the batch is in
        for table, rows in before.items():
            ledger.write(f"DELETE FROM {table}")
            for row in rows:
                ledger.write(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    ledger.close()
    child = rig.start()
    exchange.settled()
    rig.stop(child)
    exchange.check()


def test_a_batch_number_is_given_once(tmp_path: Path) -> None:
    """Whatever the ledger forgets of a folder, it knows the highest number: another past of the stream has it."""
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    with ledger.transaction():
        save_carried(ledger, "s", b"key", b"", 7, 0, b"digest", FileFacts(0, 0, 0, 0))
    for whole in (False, True):
        with ledger.transaction():
            if whole:
                forget_all(ledger, "s")
            else:
                forget_above(ledger, "s", 0, {})
        assert (last_batch(ledger, "s"), last_landed(ledger, "s"), has_batch(ledger, "s", 7)) == (7, 0, False)
    ledger.close()
