"""Out of quarantine: exactly once in both directions, marked late, whatever dies on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from bridge.core.model import format_id
from bridge.streams.connect import Connection
from tests.kinds.test_state import SOAK
from tests.support.project import shipped
from tests.support.proxy import Proxy, every_second
from tests.support.rig import STREAM, Rig, line, wait_until

SHIPPED = shipped("hestai-message")
LONG = [f"f-{i}-".encode() + b"x" * 200 for i in range(3)]
LONG_BORN = [f"r-{i}-".encode() + b"y" * 200 for i in range(3)]
LATE = f"bridge:{{{STREAM}}}:late"


def limit(rig: Rig, most: int) -> None:
    """The mapping with this limit on a line's bytes."""
    (rig.path / "limited.toml").write_text(SHIPPED.replace("[format]", f"[format]\nmax_line_bytes = {most}"))
    rig.write_config(mapping="limited.toml")


def aside(rig: Rig) -> None:
    """Three lines and three entries in quarantine, between others that went over; then the limit is raised."""
    limit(rig, 100)
    rig.append("f-a", LONG[0], LONG[1], "f-b", LONG[2], "f-c")
    for data in (b"r-a", LONG_BORN[0], b"r-b", LONG_BORN[1], LONG_BORN[2], b"r-c"):
        rig.add(data)
    assert not rig.once().errors
    assert len(rig.datas()) == 3 + 6
    assert len(rig.lines()) == 6 + 3
    limit(rig, 1000)


def retry(rig: Rig, *args: str, crash: str | None = None, url: str | None = None) -> subprocess.CompletedProcess[str]:
    return rig.run(
        "quarantine", "retry", *args, "--redis", url or rig.server.socket_url,
        env={"BRIDGE_CRASH_AT": crash} if crash else None,
    )  # fmt: skip


def late(rig: Rig) -> set[bytes]:
    return set(rig.redis.call("HKEYS", LATE))


def check(rig: Rig) -> None:
    """Every message on both sides once; what was in quarantine stands behind its neighbours, and is marked late."""
    assert sorted(rig.datas()) == sorted([b"f-a", b"f-b", b"f-c", *LONG, b"r-a", b"r-b", b"r-c", *LONG_BORN])
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(in_file) == sorted(rig.datas())
    assert [d for d in in_file if d in LONG_BORN] == LONG_BORN
    assert [d for d in rig.datas() if d in LONG] == LONG
    entries = {entry.fields[7]: entry for entry in rig.entries()}
    marks = {b"%d-%d" % entries[d].id for d in LONG_BORN} | {entries[d].fields[9] for d in LONG}
    assert late(rig) == marks
    before = (rig.lines(), rig.datas())
    assert not rig.once().errors
    assert (rig.lines(), rig.datas()) == before, "a retry is not carried back"


def listed(rig: Rig, *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rig.run("quarantine", "list", "--json", *args).stdout)
    return found


def test_retry(rig: Rig) -> None:
    """What the mended mapping understands goes over once; the list is empty, and tells of it with --all."""
    aside(rig)
    assert len(listed(rig)) == 6
    done = retry(rig)
    assert done.returncode == 0, done.stderr
    assert "6 messages went over, 0 in quarantine" in done.stdout
    check(rig)
    assert listed(rig) == []
    assert len(listed(rig, "--all")) == 6
    assert "nothing is in quarantine" in retry(rig).stdout
    again = retry(rig, "1", "--json")
    assert json.loads(again.stdout)[0]["where"], "one that went over says where it is"
    check(rig)


def test_still_wrong(rig: Rig) -> None:
    """What cannot be translated still stays, and says why; exit 3."""
    rig.log.write_bytes(line("f-0") + b"broken\n")
    assert not rig.once().errors
    done = retry(rig)
    assert done.returncode == 3
    assert "stays: 1 of 4 columns" in done.stdout
    shown = rig.run("quarantine", "show", "1")
    assert "messages.log@" in shown.stdout
    assert "broken" in shown.stdout
    assert rig.run("quarantine", "show", "7").returncode == 1
    exported = [json.loads(row) for row in rig.run("quarantine", "export").stdout.splitlines()]
    assert [row["raw"] for row in exported] == ["broken"]


POINTS = [
    f"{name}.{when}"
    for name in ("retry.send", "retry.mark", "mirror.intent", "mirror.write", "mirror.range")
    for when in ("before", "after")
]


@pytest.mark.parametrize("point", [*POINTS, "retry.send.after:2", "retry.mark.before:3"])
def test_killed(rig: Rig, point: str) -> None:
    """A retry killed anywhere is finished by the next one, and each message is over once."""
    aside(rig)
    killed = retry(rig, crash=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = retry(rig)
    assert done.returncode == 0, done.stdout + done.stderr
    check(rig)


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run(one_rig: Rig, point: str) -> None:
    """The same when the bridge runs between the two."""
    rig = one_rig
    aside(rig)
    assert retry(rig, crash=point).returncode == -signal.SIGKILL
    assert not rig.once().errors
    assert not rig.once().errors
    assert retry(rig).returncode == 0
    check(rig)


def test_not_passed_yet(rig: Rig) -> None:
    """A line that forward has set aside, and was killed before it passed it, is left to forward: none before it is lost."""
    limit(rig, 100)
    rig.append("f-0", LONG[0], "f-1", LONG[1])
    assert rig.start("--once", crash="forward.send.before").wait(60) == -signal.SIGKILL
    assert len(listed(rig)) == 2
    limit(rig, 1000)
    done = retry(rig)
    assert done.returncode == 3
    assert "has not passed it yet" in done.stdout
    assert rig.datas() == []
    assert not rig.once().errors
    assert rig.datas() == [b"f-0", LONG[0], b"f-1", LONG[1]]
    assert retry(rig).returncode == 0
    assert rig.datas() == [b"f-0", LONG[0], b"f-1", LONG[1]]


def test_not_before_the_refill(rig: Rig) -> None:
    """A retry into a stream that Redis lost waits until the bridge has filled it again."""
    aside(rig)
    rig.redis.call("DEL", STREAM)
    done = retry(rig)
    assert done.returncode == 1
    assert "lost its tail" in done.stderr
    assert not rig.once().errors
    assert retry(rig).returncode == 0
    assert not rig.once().errors
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert (
        sorted(rig.datas())
        == sorted(in_file)
        == sorted([b"f-a", b"f-b", b"f-c", b"r-a", b"r-b", b"r-c", *LONG, *LONG_BORN])
    ), "what was only in quarantine any more is on both sides"


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("mirror.")])
def test_killed_when_redis_lost_the_entries(one_rig: Rig, point: str) -> None:
    """Entries that are in quarantine alone come back once on both sides, whenever the retry is killed."""
    rig = one_rig
    aside(rig)
    rig.redis.call("DEL", STREAM)
    assert not rig.once().errors
    killed = retry(rig, crash=point)
    assert killed.returncode == -signal.SIGKILL
    assert retry(rig).returncode == 0
    assert not rig.once().errors
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert [data for data in in_file if data in LONG_BORN] == LONG_BORN
    assert sorted(in_file) == sorted(rig.datas())
    assert len(in_file) == 12


def test_lost_replies(rig: Rig) -> None:
    """A retry whose replies are lost has sent each line once when it comes to its end."""
    aside(rig)
    with Proxy(rig.server, every_second(b"EXEC")) as proxy:
        for _ in range(20):
            done = retry(rig, url=proxy.url)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr
        assert proxy.faults
    check(rig)


def test_over_the_kept_bytes(rig: Rig) -> None:
    """Of a line longer than what is kept, the rest is read from its file, rotated or not; gone, it stays."""
    limit(rig, 1000)
    data = [b"z" * 100_000, b"w" * 100_000]
    rig.append("f-0", data[0], "f-1")
    assert not rig.once().errors
    rig.log.rename(rig.root / "messages.log.1")
    rig.append(data[1], "f-2")
    assert not rig.once().errors
    limit(rig, 1 << 20)
    rig.log.unlink()
    rig.append("f-3")
    assert not rig.once().errors
    done = retry(rig)
    assert done.returncode == 3
    assert "its file does not hold it any more" in done.stdout
    assert [text for text in rig.datas() if text in data] == [data[0]]


def keys_of(rig: Rig) -> list[bytes]:
    return [
        STREAM.encode(),
        *(f"bridge:{{{STREAM}}}:{name}".encode() for name in ("checkpoint", "late", "generations", "mirror")),
    ]


def test_an_older_copy(rig: Rig) -> None:
    """Redis restored from a copy made before the retry: the lines are in quarantine again, and go over once more."""
    aside(rig)
    copy = {key: rig.redis.call("DUMP", key) for key in keys_of(rig)}
    assert retry(rig).returncode == 0
    for key, value in copy.items():
        rig.redis.call("DEL", key)
        if value is not None:
            rig.redis.call("RESTORE", key, 0, value)
    rig.append("f-d")
    assert not rig.once().errors
    assert sorted(row["direction"] for row in listed(rig)) == ["forward"] * 3
    assert retry(rig).returncode == 0
    assert [text for text in rig.datas() if text in LONG] == LONG
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(in_file) == sorted(rig.datas())
    assert len(in_file) == 13
    assert not rig.once().errors
    assert len(rig.datas()) == 13


def test_forward_meets_it_again(rig: Rig) -> None:
    """Redis flushed after the mapping was mended: forward sends the lines itself, and they are in quarantine no more."""
    aside(rig)
    assert retry(rig).returncode == 0
    rig.redis.call("FLUSHALL")
    assert not rig.once().errors
    assert listed(rig) == []
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert rig.datas() == in_file
    assert len(in_file) == 12
    rig.redis.call("XTRIM", STREAM, "MAXLEN", 0)
    assert "nothing is in quarantine" in retry(rig).stdout
    assert rig.datas() == []


@pytest.mark.parametrize("point", [point for point in POINTS if not point.endswith("send.before")][:: 1 if SOAK else 2])
def test_killed_and_flushed(one_rig: Rig, point: str) -> None:
    """Redis flushed after a retry was killed: each message is on both sides once in the end."""
    rig = one_rig
    aside(rig)
    assert retry(rig, crash=point).returncode == -signal.SIGKILL
    rig.redis.call("FLUSHALL")
    for _ in range(2):
        assert not rig.once().errors
        retry(rig)
    assert not rig.once().errors
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(in_file) == sorted(rig.datas())
    assert len(set(in_file)) == len(in_file) == 12


def snapshot(rig: Rig) -> dict[bytes, bytes]:
    """A copy of the whole data set."""
    return {key: rig.redis.call("DUMP", key) for key in rig.redis.call("KEYS", "*")}


def restore(rig: Rig, copy: dict[bytes, bytes]) -> None:
    """Redis comes back with an older data set."""
    rig.redis.call("FLUSHALL")
    for key, value in copy.items():
        rig.redis.call("RESTORE", key, 0, value)


def test_flushed_and_run_twice(rig: Rig) -> None:
    """What was retried, flushed, and sent again by forward stays out of quarantine, and is not sent again when trimmed."""
    aside(rig)
    assert retry(rig).returncode == 0
    rig.redis.call("FLUSHALL")
    for _ in range(3):
        assert not rig.once().errors
        assert listed(rig) == []
    rig.redis.call("XTRIM", STREAM, "MAXLEN", 0)
    assert "nothing is in quarantine" in retry(rig).stdout
    assert not rig.once().errors
    assert rig.datas() == []


def test_removed_on_purpose_stays_away(rig: Rig) -> None:
    """Retried lines and quarantined entries that somebody removed do not come back after a loss of something else."""
    limit(rig, 100)
    rig.append("f-0", LONG[0])
    rig.add(LONG_BORN[0])
    rig.add("r-0")
    assert not rig.once().errors
    limit(rig, 1000)
    assert retry(rig, "1").returncode == 0
    for entry in rig.entries():
        if entry.fields[7] in (LONG[0], LONG_BORN[0]):
            rig.redis.call("XDEL", STREAM, format_id(entry.id))
    assert not rig.once().errors
    copy = snapshot(rig)
    rig.append("f-1")
    assert not rig.once().errors
    restore(rig, copy)
    for _ in range(2):
        assert not rig.once().errors
        retry(rig)
    assert not rig.once().errors
    assert sorted(rig.datas()) == [b"f-0", b"f-1", b"r-0"]
    in_file = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(in_file) == sorted([b"f-0", LONG[0], b"f-1", b"r-0", LONG_BORN[0]])


def test_lost_and_then_trimmed(rig: Rig) -> None:
    """An entry that Redis lost while it was in quarantine comes back, though its ID lies below what was trimmed since."""
    limit(rig, 100)
    rig.append("f-0")
    rig.add(LONG_BORN[0])
    assert not rig.once().errors
    rig.redis.call("FLUSHALL")
    assert not rig.once().errors
    rig.add("r-1")
    rig.add("r-2")
    assert not rig.once().errors
    rig.redis.call("XTRIM", STREAM, "MAXLEN", 1)
    limit(rig, 1000)
    assert retry(rig).returncode == 0
    assert not rig.once().errors
    assert rig.datas() == [b"r-2", LONG_BORN[0]]


def test_killed_before_forward_sends_it(rig: Rig) -> None:
    """A line that forward was about to send is in quarantine until it is sent: its file may be gone by then."""
    limit(rig, 100)
    rig.append("f-0", LONG[0])
    assert not rig.once().errors
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-1")
    assert not rig.once().errors
    rig.redis.call("FLUSHALL")
    limit(rig, 1000)
    assert rig.start("--once", crash="forward.send.before").wait(60) == -signal.SIGKILL
    (rig.root / "messages.log.1").unlink()
    assert not rig.once().errors
    assert [row["direction"] for row in listed(rig)] == ["forward"]
    assert retry(rig).returncode == 0
    assert LONG[0] in rig.datas()


def test_another_mirror_path_after_a_loss(rig: Rig) -> None:
    """Mirrored lines whose entry stands stay the mirror's when the mapping says another path meanwhile."""
    rig.append("f-0")
    rig.add("r-0")
    assert not rig.once().errors
    copy = snapshot(rig)
    rig.append("f-1")
    assert not rig.once().errors
    restore(rig, copy)
    (rig.path / "moved.toml").write_text(
        SHIPPED.replace('[mirror]\npath = "messages.log"', '[mirror]\npath = "{role}.log"')
    )
    rig.write_config(mapping="moved.toml", extra='[components.ui]\nroles = ["ui"]\n')
    for _ in range(2):
        assert not rig.once().errors
    assert rig.datas() == [b"r-0", b"f-0", b"f-1"]
    assert not (rig.root / "ui.log").exists()


@pytest.mark.parametrize("point", ["retry.send.after", "retry.mark.before"])
def test_trimmed_before_it_was_noted(rig: Rig, point: str) -> None:
    """A line that was sent, and trimmed by its reader before the killed retry could note it, is not sent again."""
    aside(rig)
    assert retry(rig, crash=point).returncode == -signal.SIGKILL
    rig.redis.call("XTRIM", STREAM, "MAXLEN", 0)
    assert retry(rig).returncode == 0
    assert rig.datas() == LONG[1:], "the first one was there, and was taken away"
    assert not rig.once().errors
    assert rig.datas() == LONG[1:]


def test_ledger_lost_after_a_retry(rig: Rig) -> None:
    """`repair` finds the lines that a retry wrote out of order, and nothing is carried twice."""
    aside(rig)
    assert retry(rig).returncode == 0
    rig.add(b"r-d")
    assert not rig.once().errors
    before = (rig.lines(), rig.datas())
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    repaired = rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    assert repaired.returncode == 0, repaired.stderr
    assert not rig.once().errors
    assert (rig.lines(), rig.datas()) == before


def test_beside_a_running_bridge(rig: Rig) -> None:
    """Retry stops at the running bridge's lock and names its process; list and show work beside it."""
    aside(rig)
    child = rig.ready(rig.start())
    done = retry(rig)
    assert done.returncode == 1
    assert f"process {child.pid}" in done.stderr
    assert len(listed(rig)) == 6


def test_a_thousand_broken_lines(rig: Rig) -> None:
    """A thousand broken lines are one line in the log, and one in `status`."""
    rig.log.write_bytes(b"broken\n" * 1000 + line("f-0"))
    child = rig.start()
    wait_until(lambda: rig.datas() == [b"f-0"], rig.said)
    rig.stop(child)
    assert rig.said().count("quarantined") == 1, rig.said()
    assert "1,000 messages: 1 of 4 columns (forward)" in rig.run("status", "--redis", rig.server.socket_url).stdout


def test_connection_refused(rig: Rig) -> None:
    """Without Redis a retry exits 5 and changes nothing."""
    aside(rig)
    assert retry(rig, url="redis://127.0.0.1:1/0").returncode == 5
    assert len(listed(rig)) == 6
    assert sys.executable
    connection = Connection(rig.server.socket_url)
    assert connection.call("HLEN", LATE) == 0
    connection.close()
