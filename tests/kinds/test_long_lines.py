"""Lines over max_line_bytes, in every situation a short line may be in."""

from __future__ import annotations

import hashlib
import os

from bridge.core.failpoints import FAILPOINTS
from bridge.ledger.store import Ledger
from tests.files.test_rotation import Follow, follow, live, names, rotate
from tests.support.rig import Rig, line, wait_until

__all__ = ["follow", "live"]

HUGE = b"x" * (3 << 20)


def kept(rig: Rig) -> list[tuple[str, int, int, str]]:
    """What is in quarantine: direction, offset, length, digest."""
    ledger = Ledger(rig.state / "ledger.db")
    try:
        return [tuple(row) for row in ledger.rows("SELECT direction, offset, length, digest FROM quarantine")]
    finally:
        ledger.close()


def digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def test_its_neighbours_go_over(rig: Rig, follow: Follow) -> None:
    """It is quarantined with length and digest, its neighbours are carried."""
    rig.append("a", HUGE, "b")
    follow.carried([b"a", b"b"])
    rig.append("c", b"y" * (1 << 20), "d")
    follow.carried([b"a", b"b", b"c", b"d"])
    whole = line(HUGE)[:-1]
    assert kept(rig)[0] == ("forward", len(line("a")), len(whole), digest(whole))


def test_its_end_comes_later(rig: Rig, follow: Follow) -> None:
    """While it grows nothing is carried past it; with its newline it is quarantined as one line."""
    whole = line(HUGE)
    with rig.log.open("ab", buffering=0) as file:
        file.write(line("a") + whole[: 2 << 20])
        follow.carried([b"a"])
        file.write(whole[2 << 20 : -1])
        follow.carried([b"a"])
        file.write(b"\n" + line("b"))
        follow.carried([b"a", b"b"])
    assert kept(rig) == [("forward", len(line("a")), len(whole) - 1, digest(whole[:-1]))]


def test_unfinished_at_the_end_of_a_rotated_file(rig: Rig, follow: Follow) -> None:
    """It does not hold up the file that came after; with its end it is quarantined, however late."""
    with rig.log.open("ab", buffering=0) as old:
        old.write(line("a") + HUGE)
        follow.carried([b"a"])
        rotate(rig)
        rig.append(*names("b", 3))
        follow.carried([b"a", *names("b", 3)])
        rig.append(*names("c", 3))
        follow.carried([b"a", *names("b", 3), *names("c", 3)])
        old.write(b"yy\n" + line("late"))
        follow.carried([b"a", *names("b", 3), *names("c", 3), b"late"])
    whole = HUGE + b"yy"
    assert kept(rig) == [("forward", len(line("a")), len(whole), digest(whole))]


def test_truncated_in_its_middle(rig: Rig, follow: Follow) -> None:
    """The file is emptied while such a line is unfinished: what comes then is carried."""
    with rig.log.open("ab", buffering=0) as file:
        file.write(line("a") + HUGE)
        follow.carried([b"a"])
        os.truncate(rig.log, 0)
        rig.append("b")
        follow.carried([b"a", b"b"])
        rig.append("c", HUGE, "d")
        follow.carried([b"a", b"b", b"c", b"d"])


def test_stop_policy_stays_at_it(rig: Rig) -> None:
    """With on_reject = "stop" forward stands before it, run after run, and eats nothing of what follows."""
    mapping = rig.path / "m.toml"
    mapping.write_text(
        'name = "m"\n[source]\npath = "messages.log"\nkind = "log"\n[format]\ncodec = "delimited"\ndelimiter = "|"\n'
        'columns = ["role", "timestamp", "type", "data"]\n[stream]\nkey = "hestai:messages"\n'
        '[mirror]\npath = "messages.log"\n[policy]\non_reject = "stop"\n'
    )
    rig.write_config(mapping=str(mapping))
    rig.append("a", HUGE, "b")
    child = rig.ready(rig.start())
    wait_until(lambda: "over max_line_bytes" in rig.said(), rig.said)
    rig.append("c")
    wait_until(lambda: rig.datas() == [b"a"], rig.said)
    rig.stop(child)
    for _ in range(2):
        assert "over max_line_bytes" in str(rig.once().errors[0])
        assert rig.datas() == [b"a"]
    assert rig.checkpoint()["offset"] == len(line("a"))


def test_a_backlog_of_mirrored_lines_is_none(rig: Rig) -> None:
    """Megabytes of the mirror's own lines behind an open intent are not taken for a long line of somebody's."""
    big = [b"%d-" % i + b"z" * 500_000 for i in range(8)]
    rig.append("a")
    for data in big:
        rig.add(data)
    assert "mirror.write" in FAILPOINTS
    child = rig.start("--once", crash="mirror.write.after")
    child.wait(90)
    assert child.returncode == -9, rig.said()
    child = rig.ready(rig.start())
    rig.settle([b"a"], big)
    rig.append("b")
    rig.settle([b"a", b"b"], big)
    rig.stop(child)
    assert kept(rig) == []


def test_our_line_inside_it(rig: Rig) -> None:
    """A mirrored line that stands inside another writer's long line is cut out of it and counts as mirrored."""
    ours = b"ui|2026-03-02T09:14:06Z|say|r-0\n"
    rig.append("a")
    assert not rig.once().errors
    rig.add("r-0")
    assert not rig.once().errors
    start = len(line("a"))
    assert rig.log.read_bytes()[start:] == ours
    # The same file as it would be had a writer begun its line just before our write: our range moves with its bytes.
    ledger = Ledger(rig.state / "ledger.db")
    ledger.write("UPDATE ranges SET start = start + 5, end = end + 5")
    ledger.close()
    connection = rig.redis
    stored = rig.checkpoint()
    assert stored["offset"] == start + len(ours)
    _rewind(rig, start)
    rig.log.write_bytes(line("a") + b"agent" + ours + line(HUGE)[5:] + line("b"))
    assert not rig.once().errors
    assert rig.datas() == [b"a", b"r-0", b"b"]
    whole = line(HUGE)[:-1]
    assert kept(rig) == [("forward", start, len(whole), digest(whole))]
    assert connection.call("XLEN", "hestai:messages") == 3


def _rewind(rig: Rig, offset: int) -> None:
    """Puts the checkpoint, in Redis and in the ledger, back to the end of the first line."""
    from bridge.core.model import Checkpoint, Fingerprint
    from bridge.core.model import hex_digest as short
    from tests.support.rig import STREAM

    head = line("a")
    value = Checkpoint(1, Fingerprint(offset, len(head), short(head), short(head[-128:]))).to_json()
    rig.redis.call("HSET", f"bridge:{{{STREAM}}}:checkpoint", "messages.log", value)
    ledger = Ledger(rig.state / "ledger.db")
    ledger.write("UPDATE sources SET stored = ?", (value,))
    ledger.write(
        "UPDATE generations SET offset = ?, head_len = ?, head = ?, tail = ?",
        (offset, len(head), short(head), short(head[-128:])),
    )
    ledger.close()
