"""Time that goes back: a ledger from a backup, a copied folder, a Redis that held other data for a moment, a fork."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bridge.server.binary import Binary
from tests.inbox import INBOX, Inbox
from tests.rig import STREAM, Rig, wait_until
from tests.test_artifacts import Artifacts

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
