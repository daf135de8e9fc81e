"""Owner and take-over, the lock, signals, rejects, a full disk, a damaged or lost ledger, repair."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.core.errors import LedgerError
from bridge.ledger.store import VERSION, Ledger
from bridge.streams import keys
from tests.kinds.test_mirror_target import Both
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, line, wait_until


def test_same_state_directory(rig: Rig) -> None:
    """A second bridge on the same state directory names the first one's process and stops."""
    child = rig.ready(rig.start())
    second = rig.run("run", "--once", "--redis", rig.server.socket_url)
    assert second.returncode == 1
    assert f"process {child.pid}" in second.stderr
    third = rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    assert third.returncode == 1
    assert f"process {child.pid}" in third.stderr


def test_another_state_directory(rig: Rig) -> None:
    """A second bridge with another ledger stands by, says why, and carries nothing in either direction."""
    rig.ready(rig.start())
    file_born = [f"f-{i}".encode() for i in range(300)]
    rig.append(*file_born[:100])
    wait_until(lambda: len(rig.datas()) == 100, "the first lines")
    second = rig.ready(rig.start(state=rig.path / "other"))
    wait_until(lambda: "standing by" in rig.said(), rig.said)
    rig.append(*file_born[100:])
    redis_born = [f"r-{i}".encode() for i in range(100)]
    for data in redis_born:
        rig.add(data)
    rig.settle(file_born, redis_born)
    assert second.poll() is None
    assert rig.said().count("standing by") <= 4, rig.said()


def test_two_start_at_once(rig: Rig) -> None:
    """Two bridges that meet a new stream in the same moment: one carries."""
    file_born = [f"f-{i}".encode() for i in range(3000)]
    rig.append(*file_born)
    rig.start()
    rig.start(state=rig.path / "other")
    rig.settle(file_born, [])
    wait_until(lambda: "standing by" in rig.said(), rig.said)
    rig.check(file_born, [])


def test_second_signal_and_heartbeat(rig: Rig) -> None:
    """The heartbeat expires by itself after a kill, and is taken away on a graceful stop."""
    child = rig.ready(rig.start())
    beat = wait_until(lambda: rig.redis.call("GET", keys.health("test")), "the heartbeat")
    facts = json.loads(beat)
    assert facts["pid"] == child.pid
    assert 0 < int(rig.redis.call("TTL", keys.health("test"))) <= 10
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 0
    assert rig.redis.call("GET", keys.health("test")) is None


def test_redis_never_reached(rig: Rig) -> None:
    """`--once` without a server exits 5 and says what to try; `run` waits."""
    rig.append("f-0")
    result = rig.run("run", "--dual", "--once", "--redis", "redis://127.0.0.1:1/0")
    assert result.returncode == 5, result.stderr
    assert "is the server running?" in result.stderr
    child = rig.ready(rig.start(url="redis://127.0.0.1:1/0"))
    wait_until(lambda: "cannot connect" in rig.said(), rig.said)
    assert child.poll() is None
    rig.stop(child)


# -- rejects -----------------------------------------------------------------------------------------------------


def test_quarantine_both_ways(rig: Rig) -> None:
    """What cannot be translated is kept with its reason; its neighbours go on; nothing is kept twice."""
    rig.log.write_bytes(line("f-0") + b"no message\n" + b"a|not a time|t|d\n" + line("f-1"))
    rig.add("r-0")
    for fields in (
        ("role", "x"),
        ("role", "a|b", "timestamp", "2026-03-02T09:14:05Z", "type", "t", "data", "d"),
        ("role", "a", "timestamp", "never", "type", "t", "data", "d"),
        ("role", "a\nb", "timestamp", "2026-03-02T09:14:05Z", "type", "t", "data", "d"),
        ("role", "a", "timestamp", "2026-03-02T09:14:05Z", "type", "t", "data", "d", "origin", "mine"),
    ):
        rig.redis.call("XADD", STREAM, "*", *fields)
    rig.add("r-1\nsecond line")
    rig.add("r-2")
    assert not rig.once().errors
    assert not rig.once().errors
    assert rig.log.read_bytes().endswith(
        b"\nui|2026-03-02T09:14:06Z|say|r-0\nui|2026-03-02T09:14:06Z|say|r-1\\nsecond line\n"
        b"ui|2026-03-02T09:14:06Z|say|r-2\n"
    )
    ledger = Ledger(rig.state / "ledger.db")
    kept = ledger.rows("SELECT direction, reason, raw FROM quarantine ORDER BY id")
    ledger.close()
    assert [row[0] for row in kept] == ["forward"] * 2 + ["mirror"] * 5
    assert kept[0][2] == b"no message"
    reasons = " ".join(row[1] for row in kept)
    for part in ("1 of 4 columns", "timestamp not understood", "no field", "origin", "newline in a field"):
        assert part in reasons
    assert int(rig.redis.call("XLEN", STREAM)) == 2 + 8


def test_stop_on_reject(rig: Rig) -> None:
    """With on_reject = "stop" the source waits before the line; other lines before it are in; mended, it goes on."""
    mapping = shipped("hestai-message")
    (rig.path / "strict.toml").write_text(mapping + '\n[policy]\non_reject = "stop"\n')
    rig.write_config(mapping="strict.toml")
    rig.log.write_bytes(line("f-0") + b"broken line|\n" + line("f-1"))
    result = rig.once()
    assert "2 of 4 columns" in str(result.errors[0])
    assert rig.datas() == [b"f-0"]
    rig.log.write_bytes(line("f-0") + line("mended") + line("f-1"))
    assert not rig.once().errors
    assert rig.datas() == [b"f-0", b"mended", b"f-1"]


def test_role_in_the_path(rig: Rig) -> None:
    """`{role}` takes declared roles only, and follows no link out of the root."""
    mapping = shipped("hestai-message")
    (rig.path / "roles.toml").write_text(
        mapping.replace('[mirror]\npath = "messages.log"', '[mirror]\npath = "out/{role}.log"')
    )
    rig.write_config(mapping="roles.toml", extra='[components.ui]\nroles = ["ui", "link"]\n')
    (rig.root / "out").mkdir()
    (rig.root / "out" / "link.log").symlink_to(rig.path / "outside")
    rig.add("r-0")
    rig.add("evil", role="../../evil")
    rig.add("undeclared", role="agent")
    rig.add("r-1")
    assert not rig.once().errors
    assert (rig.root / "out" / "ui.log").read_bytes() == b"".join(
        b"ui|2026-03-02T09:14:06Z|say|r-%d\n" % i for i in range(2)
    )
    assert sorted(p.name for p in (rig.root / "out").iterdir()) == ["link.log", "ui.log"]
    rig.add("through a link", role="link")
    assert "symbolic link" in str(rig.once().errors[0])
    assert not (rig.path / "outside").exists()


def test_waits_for_a_line_to_be_finished(rig: Rig) -> None:
    """While another writer is in mid-line the mirror waits; what it writes then stands behind that line, whole."""
    rig.ready(rig.start())
    whole = line("f-slow")
    with rig.log.open("ab", buffering=0) as file:
        file.write(whole[:10])
        rig.add("r-0")
        wait_until(lambda: "middle of a line" in rig.said(), rig.said)
        assert rig.log.read_bytes() == whole[:10]
        file.write(whole[10:])
        rig.settle([b"f-slow"], [b"r-0"])


# -- the disk ----------------------------------------------------------------------------------------------------


def test_full_disk_while_mirroring(rig: Rig, small_disk: Path) -> None:
    """The mirror stops at a whole message, says so, and goes on when there is room; forward goes on meanwhile."""
    rig.root.rmdir()
    (small_disk / "files").mkdir()
    rig.root.symlink_to(small_disk / "files")
    rig.append("f-0")
    rig.ready(rig.start())
    wait_until(lambda: rig.datas() == [b"f-0"], "the first line")
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (5900 << 10))
    redis_born = [b"r-%d-" % i + b"y" * 1000 for i in range(400)]
    for data in redis_born:
        rig.add(data)
    wait_until(lambda: "disk full" in rig.said() or "No space" in rig.said(), rig.said)
    in_file = [raw.split(b"|", 3)[-1] for raw in rig.log.read_bytes().split(b"\n")[1:-1]]
    assert in_file == redis_born[: len(in_file)]
    filler.unlink()
    rig.settle([b"f-0"], redis_born)


def test_full_disk_under_the_ledger(rig: Rig, small_disk: Path) -> None:
    """A ledger that cannot be written stops both directions before anything that needs it, and they go on with room."""
    state = small_disk / "state"
    state.mkdir(mode=0o700)
    rig.append("f-0")
    rig.ready(rig.start(state=state))
    wait_until(lambda: rig.datas() == [b"f-0"], "the first line")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    redis_born = [b"r-%d-" % i + b"y" * 500 for i in range(3000)]
    for data in redis_born:
        rig.add(data)
    wait_until(lambda: "disk is full" in rig.said() or "cannot be used" in rig.said(), rig.said)
    filler.unlink()
    rig.settle([b"f-0"], redis_born)


# -- the ledger --------------------------------------------------------------------------------------------------


def _carried(rig: Rig) -> tuple[list[bytes], list[bytes]]:
    file_born = [f"f-{i}".encode() for i in range(20)]
    redis_born = [f"r-{i}".encode() for i in range(20)]
    for f, r in zip(file_born, redis_born, strict=True):
        rig.append(f)
        rig.add(r)
        assert not rig.once().errors
    rig.check(file_born, redis_born)
    return file_born, redis_born


def test_damaged_ledger(rig: Rig) -> None:
    """A damaged ledger is a clear error and is not touched."""
    _carried(rig)
    path = rig.state / "ledger.db"
    path.write_bytes(b"not a database" * 1000)
    before = path.read_bytes()
    for suffix in ("-wal", "-shm"):
        (rig.state / f"ledger.db{suffix}").unlink(missing_ok=True)
    result = rig.run("run", "--once", "--redis", rig.server.socket_url)
    assert result.returncode == 1
    assert "damaged" in result.stderr
    assert "bridge repair" in result.stderr
    assert path.read_bytes() == before


def test_newer_ledger(tmp_path: Path) -> None:
    """A ledger of a newer version is refused, and left alone."""
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).close()
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version={VERSION + 1}")
    conn.close()
    with pytest.raises(LedgerError, match="version"):
        Ledger(path)


def test_locked_ledger(tmp_path: Path) -> None:
    """A ledger that another program holds is a clear error, after a wait."""
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, create=True)
    ledger.conn.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked"), ledger.transaction():
        pass
    other.close()
    ledger.close()


def _lose_ledger(rig: Rig) -> None:
    for path in rig.state.glob("ledger.db*"):
        path.unlink()


@pytest.mark.parametrize("books", ["kept", "lost too"])
def test_lost_ledger(rig: Rig, books: str) -> None:
    """Without its ledger neither direction runs; repair plans, rebuilds, and then everything goes on once."""
    file_born, redis_born = _carried(rig)
    _lose_ledger(rig)
    if books == "lost too":
        rig.redis.call("DEL", f"bridge:{{{STREAM}}}:meta")
    rig.append("f-new")
    rig.add("r-new")
    result = rig.once()
    assert "repair" in result.errors[0].hint
    rig.check_unchanged(file_born, redis_born)
    url = ("--redis", rig.server.socket_url)
    plan = rig.run("repair", "--json", *url)
    assert plan.returncode == 0, plan.stderr
    facts = json.loads(plan.stdout)[0]["plan"]
    assert facts["mirrored_lines"] == 20
    assert facts["ambiguous"] == 0
    assert facts["to_be_mirrored"] == 1
    assert rig.once().errors, "a plan changes nothing"
    done = rig.run("repair", "--execute", *url)
    assert done.returncode == 0, done.stderr
    assert not rig.once().errors
    rig.check([*file_born, b"f-new"], [*redis_born, b"r-new"])
    assert "nothing to repair" in rig.run("repair", *url).stdout


def test_take_over(rig: Rig) -> None:
    """Another bridge takes over when the owner is gone, not before; the old one then stands by."""
    file_born, redis_born = _carried(rig)
    child = rig.ready(rig.start())
    wait_until(lambda: rig.redis.call("GET", keys.health("test")), "the heartbeat")
    url = ("--redis", rig.server.socket_url)
    env = {"BRIDGE_STATE_DIR": str(rig.path / "other")}
    rig.write_config(instance="laptop")
    (rig.path / "other").mkdir()
    refused = rig.run("repair", "--take-over", "--execute", *url, env=env)
    assert refused.returncode == 1
    assert "alive" in refused.stderr
    rig.stop(child)
    assert "--take-over" in rig.run("repair", "--execute", *url, env=env).stderr
    done = rig.run("repair", "--take-over", "--execute", *url, env=env)
    assert done.returncode == 0, done.stderr
    rig.append("f-new")
    rig.add("r-new")
    rig.write_config(instance="test")
    assert "standing by" in str(rig.once().errors[0])
    rig.write_config(instance="laptop")
    assert rig.run("run", "--dual", "--once", *url, env=env).returncode == 0
    rig.check([*file_born, b"f-new"], [*redis_born, b"r-new"])


def test_rotated_away_and_ledger_lost(rig: Rig) -> None:
    """Repair finds mirrored lines in rotated generations too."""
    _carried(rig)
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-next")
    rig.add("r-next")
    assert not rig.once().errors
    _lose_ledger(rig)
    done = rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    before = (rig.lines(), rig.datas())
    assert not rig.once().errors
    assert (rig.lines(), rig.datas()) == before


def test_status(rig: Rig) -> None:
    """Status tells both directions' places and what is behind, in text and JSON."""
    _carried(rig)
    rig.append("f-waiting")
    rig.add("r-waiting")
    url = ("--redis", rig.server.socket_url)
    facts = json.loads(rig.run("status", "--json", *url).stdout)["mappings"][0]
    assert facts["forward"][0]["behind_bytes"] == len(line("f-waiting"))
    assert facts["mirror"]["behind_entries"] == 1
    text = rig.run("status", *url)
    assert text.returncode == 0
    assert "1 line and 1 entry waiting" in text.stdout
    shutil.rmtree(rig.state)
    lost = rig.run("status", *url)
    assert lost.returncode == 3
    assert "its ledger is lost" in lost.stdout
    assert "bridge repair" in lost.stdout


def test_abandoned_line(rig: Rig) -> None:
    """With abandoned_line_s a line left unfinished is ended after that time, and stays a line of its own."""
    mapping = shipped("hestai-message")
    (rig.path / "end.toml").write_text(mapping + 'abandoned_line_s = 0.3\nlock = "flock"\n')
    rig.write_config(mapping="end.toml")
    rig.log.write_bytes(line("f-0") + b"half a li")
    rig.add("r-0")
    rig.start()
    wait_until(lambda: len(rig.datas()) == 2 and rig.lines()[-1].endswith(b"r-0"), rig.said)
    assert rig.log.read_bytes() == line("f-0") + b"half a li\n" + b"ui|2026-03-02T09:14:06Z|say|r-0\n"


def test_stop_is_prompt(rig: Rig) -> None:
    """SIGTERM ends an idle bridge with 0, and a second run finds everything in order."""
    child = rig.ready(rig.start())
    rig.stop(child)
    assert not rig.once().errors


def test_once_interrupted(rig: Rig) -> None:
    """`--once` that is stopped on its way says so with 130; the next one carries the rest."""
    backlog = [b"f-%d" % i for i in range(300_000)]
    rig.append(*backlog)
    child = rig.start("--once")
    wait_until(lambda: rig.redis.call("XLEN", STREAM) > 0, rig.said)
    rig.stop(child, expect=130)
    assert "interrupted" in rig.said()
    assert int(rig.redis.call("XLEN", STREAM)) < len(backlog)
    assert not rig.once().errors
    assert rig.datas() == backlog


def test_a_trouble_that_is_over(rig: Rig) -> None:
    """What a bridge waited for when it was stopped is not told of the next one."""
    rig.append("f-0")
    child = rig.ready(rig.start(url="redis://127.0.0.1:1/0"))
    wait_until(lambda: "cannot connect" in rig.said(), rig.said)
    rig.stop(child)
    assert not rig.once().errors
    assert "cannot connect" not in rig.run("status", "--redis", rig.server.socket_url).stdout


def test_a_new_source_needs_no_sweep(one_rig: Rig) -> None:
    """A file that is new to a glob is met with the first word of it, as one that is known."""
    one_rig.write_config(mapping="hestai-roles")
    both, path = Both(one_rig), one_rig.root / "wind.out"
    try:
        both.go_forward()
        path.write_bytes(b"2026-03-02T09:14:05Z|turn|f-0\n")
        both.forward.look({str(path)})
        assert both.forward.step()
        assert int(one_rig.redis.call("XLEN", "hestai:roles")) == 1
    finally:
        both.close()


BUSY = """
from bridge.core.stop_signals import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
while not stop.wait(0):
    pass
"""


def test_a_signal_at_any_moment() -> None:
    """A signal that comes while the event's lock is held, as most do here, ends the process all the same."""
    children = [subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) for _ in range(8)]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(signal.SIGTERM)
        assert [child.wait(60) for child in children] == [0] * 8
    finally:
        for child in children:
            child.kill()
            child.communicate()
