"""Each check of `bridge doctor` fires when its fault is made, and is quiet when all is well."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from bridge.admin.doctor import installation, machine, other_clients, redis_server
from bridge.admin.doctor.examine import examine
from bridge.admin.doctor.finding import Finding
from bridge.core.config import Settings, load
from bridge.ledger.parity_runs import ParityRun
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.embedded import embedded_server
from bridge.streams.keys import Keys
from bridge.streams.resp import pack
from tests.admin.test_retention import prove
from tests.support.project import shipped
from tests.support.proxy import Proxy
from tests.support.rig import STREAM, Rig, line, wait_until


def examined(settings: Settings) -> list[Finding]:
    """What the doctor finds where there are no groups."""
    return examine(settings, [settings])


def found(rig: Rig, url: str | None = None) -> dict[str, Finding]:
    """What doctor says, by check."""
    return {finding.check: finding for finding in examined(rig.settings(url=url or rig.url))}


def configure(rig: Rig, **settings: str) -> None:
    for name, value in settings.items():
        rig.redis.call("CONFIG", "SET", name.replace("_", "-"), value)


@pytest.fixture(autouse=True)
def _as_usual(rig: Rig) -> None:
    """Synced as Redis does by itself; and no moment of a busy machine is in the slow log before a test asks for it."""
    configure(rig, appendfsync="everysec", slowlog_log_slower_than="-1")
    rig.redis.call("SLOWLOG", "RESET")


@pytest.fixture
def well(rig: Rig) -> Rig:
    """A bridge at work, both sides equal."""
    configure(rig, slowlog_log_slower_than="10000")
    rig.append(*(f"f-{n}" for n in range(20)))
    rig.beats(rig.ready(rig.start()))
    wait_until(lambda: rig.redis.call("XLEN", STREAM) == 20, rig.said)
    assert prove(rig).verdict == "equal"
    return rig


def test_quiet_when_all_is_well(well: Rig) -> None:
    """On the embedded server with a bridge at work nothing is wrong; what is worth knowing is the machine's."""
    of_the_machine = {"memory", "rights", "program", "file systems", "disk"}

    def quiet() -> dict[str, Finding] | None:
        """Where the machine stands still for a moment, load and latency say so, and a later look does not."""
        well.redis.call("SLOWLOG", "RESET")
        told = found(well)
        loud = {name for name, finding in told.items() if finding.verdict != "good"}
        passing = loud & {"load", "latency"}
        assert [
            told[name] for name in loud - passing if told[name].verdict == "bad" or name not in of_the_machine
        ] == []
        return None if passing else told

    told: dict[str, Finding] = wait_until(quiet, "a look at a quiet machine")
    done = well.run("doctor", "--redis", well.url)
    assert done.returncode == 0, done.stdout
    assert "nothing is wrong" in done.stdout
    told_json = json.loads(well.run("doctor", "--json", "--redis", well.url).stdout)
    assert told_json["healthy"]
    assert {check["check"] for check in told_json["checks"]} == set(told)


Break = Callable[[Rig, ExitStack], object]


def _swap(rig: Rig, key: str, *command: str) -> None:
    rig.redis.call("DEL", key)
    rig.redis.call(*command)


def _failing_snapshot(rig: Rig, stack: ExitStack) -> None:
    (rig.server.home / "data" / "dump.rdb").mkdir()
    rig.redis.call("BGSAVE")

    def failed() -> bool:
        return b"rdb_last_bgsave_status:err" in rig.redis.call("INFO", "persistence")

    wait_until(failed, "the failure")


def _full(rig: Rig, stack: ExitStack) -> None:
    used = int(re.findall(rb"used_memory:(\d+)", rig.redis.call("INFO", "memory"))[0])
    configure(rig, maxmemory=str(int(used * 1.05)))


def _growing(rig: Rig, stack: ExitStack) -> None:
    for _ in range(300):
        rig.add("x" * 10_000)
    used = int(re.findall(rb"used_memory:(\d+)", rig.redis.call("INFO", "memory"))[0])
    configure(rig, maxmemory=str(used + (20 << 20)))


def _crowd(rig: Rig, stack: ExitStack) -> None:
    configure(rig, maxclients="40")
    for _ in range(34):
        stack.enter_context(closing(Connection(rig.url)))


def _subscriber(rig: Rig, stack: ExitStack) -> None:
    connection = stack.enter_context(closing(Connection(rig.url)))
    connection.call("SUBSCRIBE", f"{STREAM}:notify")


def _deaf(rig: Rig, stack: ExitStack) -> None:
    rig.redis.call("SET", "large", "x" * (1 << 20))
    connection = stack.enter_context(closing(Connection(rig.url)))
    connection.send(pack("GET", "large") * 30)


def _ghost(rig: Rig, stack: ExitStack) -> None:
    said = json.dumps({"reads": "redis", "writes": "file", "epoch": 3})
    rig.redis.call("HSET", "bridge:{hestai:messages}:components", "ghost@test", said)
    at = int(time.time() * 1000) - 7_200_000
    rig.redis.call("HSET", Keys.of(STREAM).positions, "ghost/w", json.dumps({"at": at}))


def _dead_group(rig: Rig, stack: ExitStack) -> None:
    rig.redis.call("XADD", "other", "1600000000000-0", "a", "b")  # nobody minds a stream that is not ours
    rig.redis.call("XGROUP", "CREATE", "other", "not-ours", "0")
    rig.redis.call("XGROUP", "CREATE", STREAM, "gone", "0")


FAULTS: list[tuple[str, str, str, Break]] = [
    ("persistence", "bad", "no append-only file", lambda rig, _: configure(rig, appendonly="no")),
    ("persistence", "bad", "takes everything", lambda rig, _: configure(rig, appendonly="no", save="")),
    ("persistence", "bad", "half a minute", lambda rig, _: configure(rig, appendfsync="no")),
    ("persistence", "bad", "rdb_last_bgsave_status is err", _failing_snapshot),
    ("memory", "bad", "throws keys away",
     lambda rig, _: configure(rig, maxmemory="1gb", maxmemory_policy="allkeys-lru")),
    ("memory", "bad", "in use", _full),
    ("memory", "bad", "full in", _growing),
    ("clients", "note", "of 40 connections", _crowd),
    ("clients", "note", "1 subscriber silent", _subscriber),
    ("clients", "note", "do not read what they are sent", _deaf),
    ("clients", "note", "tcp-keepalive is 0", lambda rig, _: configure(rig, tcp_keepalive="0")),
    ("buffers", "bad", "closes its connection",
     lambda rig, _: configure(rig, client_output_buffer_limit="normal 1048576 0 0")),
    ("buffers", "note", "no limit for subscribers",
     lambda rig, _: configure(rig, client_output_buffer_limit="pubsub 0 0 0")),
    ("load", "note", "of ours in the slow log", lambda rig, _: configure(rig, slowlog_log_slower_than="0")),
    ("exposure", "note", "every user here", lambda rig, _: rig.redis.call("ACL", "SETUSER", "default", "nopass")),
    ("exposure", "bad", "with no password",
     lambda rig, _: _opened(rig)),
    ("exposure", "good", "127.0.0.2, behind a password", lambda rig, _: configure(rig, bind="127.0.0.2")),
    ("neighbours", "bad", "holds a string, and should be a stream",
     lambda rig, _: _swap(rig, STREAM, "SET", STREAM, "mine")),
    ("neighbours", "bad", "holds a list", lambda rig, _: rig.redis.call("LPUSH", Keys.of(STREAM).late, "x")),
    ("neighbours", "good", "1 thread:… (zen-mcp)", lambda rig, _: rig.redis.call("SET", "thread:1-2", "{}")),
    ("replication", "bad", "is a replica", lambda rig, _: rig.redis.call("REPLICAOF", "127.0.0.1", "1")),
    ("components", "note", "bridge.toml does not know it", _ghost),
    ("components", "note", "no word for 2", _ghost),
    ("groups", "note", "nobody reads with it", _dead_group),
    ("permissions", "bad", "open to others", lambda rig, _: rig.state.chmod(0o755)),
    ("ledger", "bad", "ledger.db", lambda rig, _: _spoil(rig)),
    ("parity", "bad", "differs", lambda rig, _: _differ(rig)),
    ("mappings", "note", "is read by", lambda rig, _: _two_readers(rig)),
]  # fmt: skip


def _opened(rig: Rig) -> None:
    configure(rig, bind="127.0.0.2", protected_mode="no")
    rig.redis.call("ACL", "SETUSER", "default", "nopass")


def _spoil(rig: Rig) -> None:
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (rig.state / name).unlink(missing_ok=True)
    (rig.state / "ledger.db").write_bytes(b"SQLite format 3\0" + os.urandom(50_000))


def _differ(rig: Rig) -> None:
    rig.redis.call("XDEL", STREAM, rig.redis.call("XRANGE", STREAM, "-", "+", "COUNT", 1)[0][0])
    assert prove(rig).verdict == "differs"


def _two_readers(rig: Rig) -> None:
    mapping_text = shipped("hestai-message").partition("[mirror]")[0]
    (rig.path / "again.toml").write_text(
        mapping_text.replace("hestai-message", "again").replace("hestai:messages", "again")
    )
    plain = shipped("hestai-message").partition("[mirror]")[0]
    (rig.path / "one.toml").write_text(plain)
    text = (rig.path / "bridge.toml").read_text()
    (rig.path / "bridge.toml").write_text(text.replace('["hestai-message"]', '["one.toml", "again.toml"]'))


@pytest.mark.parametrize(
    ("check", "verdict", "words", "break_it"),
    FAULTS,
    ids=[f"{fault[0]}-{fault[2].replace(' ', '-')}" for fault in FAULTS],
)
def test_a_fault_is_found(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, check: str, verdict: str, words: str, break_it: Break
) -> None:
    """The check that is meant says so, with what to do; before the fault it did not."""
    rig.append(*(f"f-{n}" for n in range(20)))
    rig.once()
    assert prove(rig).verdict == "equal"
    monkeypatch.setattr(other_clients, "IDLE_AFTER", -1.0)
    monkeypatch.setattr(installation, "COMPONENT_SILENT_AFTER", 3600.0)
    before = found(rig)[check]
    assert verdict not in (before.verdict, "good") or words not in before.evidence
    with ExitStack() as stack:
        break_it(rig, stack)
        after = found(rig)[check]
    assert words in after.evidence
    assert after.verdict == verdict, after
    assert after.hint or after.verdict == "good"


def test_answers_that_are_slow(rig: Rig) -> None:
    """One slow answer of 50 is worth a word, and all of them are a fault; of a quick server neither is said."""
    rig.append("a")
    rig.once()
    slow: set[int] = set()
    sent = count()

    def fault(data: bytes, number: int) -> str:
        if b"PING" in data and next(sent) % 50 in slow:
            Event().wait(0.06)
        return "pass"

    def comes(verdict: str) -> bool:
        """In a look or, where the machine itself is slow for a moment, in a later one."""
        with Proxy(rig.server, fault) as proxy:
            told: Finding = wait_until(
                lambda: (finding := found(rig, proxy.url)["latency"]).verdict == verdict and finding, verdict
            )
        return "ms at worst of 50" in told.evidence and bool(told.hint) == (verdict != "good")

    assert comes("good")
    slow = {30}
    assert comes("note")
    slow = set(range(50))
    assert comes("bad")


def test_a_server_that_is_not_there(rig: Rig) -> None:
    """One line says so, with the reason; the machine and our own side are looked at all the same."""
    rig.kill_server()
    done = rig.run("doctor", "--redis", rig.server.url)
    assert done.returncode == 3
    assert done.stdout.startswith("BAD   server")
    assert "ledger" in done.stdout


def test_a_default_server_tells_a_newcomer_the_truth(rig: Rig) -> None:
    """A server as it comes, with no password, no append-only file and no limit: what that means, and what to do."""
    with plain_server(rig) as url:
        done = rig.run("doctor", "--redis", url)
        assert done.returncode == 3
        told = found(rig, url)
    assert told["persistence"].verdict == "bad"
    assert "messages that only Redis has are gone" in told["persistence"].evidence
    assert "appendonly yes" in told["persistence"].hint
    assert told["memory"].verdict == "note"
    assert "no limit" in told["memory"].evidence
    assert told["exposure"].verdict == "note"
    assert told["rights"].verdict == "note"


def test_renamed_commands_and_a_slow_clock(rig: Rig) -> None:
    """A command that the server does not have under its name is named; so is a clock that is off."""
    with plain_server(rig, "--rename-command", "XADD", "hidden") as url:
        told = found(rig, url)
        assert told["commands"].verdict == "bad"
        assert "XADD" in told["commands"].evidence
        with closing(Connections(rig.settings(url=url))) as servers:
            findings = redis_server.examine(servers, rig.settings(url=url), lambda: time.time() + 120)
        assert next(f for f in findings if f.check == "clock").verdict == "bad"


@contextmanager
def plain_server(rig: Rig, *options: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """A server with nothing configured but where it listens."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        port = connection.getsockname()[1]
    folder = rig.path / "plain"
    folder.mkdir()
    child = subprocess.Popen(
        [str(rig.binary.path), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})},
    )  # fmt: skip
    url = f"redis://127.0.0.1:{port}/0"

    def answers() -> bool:
        try:
            Connection(url).close()
        except Exception:  # noqa: BLE001 - it is not there yet
            return False
        return True

    try:
        wait_until(answers, "the server")
        yield url
    finally:
        child.kill()
        child.wait()


SLOW = """
#include <unistd.h>
int fdatasync(int fd) { usleep(2500000); return 0; }
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="a slow disk is made with a C compiler")
def test_a_disk_that_is_slow(rig: Rig, tmp_path: Path) -> None:
    """A server that had to acknowledge what it had not written is told, and what that means; before, nothing is said."""
    (tmp_path / "slow.c").write_text(SLOW)
    library = tmp_path / "slow.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "slow.c"], check=True, capture_output=True)
    with (
        plain_server(rig, "--appendonly", "yes", env={"LD_PRELOAD": str(library)}) as url,
        closing(Connection(url)) as redis,
    ):
        told = found(rig, url)["persistence"]
        assert (told.verdict, "too slow" in told.evidence) == ("good", False)

        def slow() -> bool:
            redis.call("INCR", "n")
            return b"aof_delayed_fsync:0" not in redis.call("INFO", "persistence")

        wait_until(slow, "a write that waits")
        told = found(rig, url)["persistence"]
    assert told.verdict == "note"
    assert re.search(r"too slow for it 1 time, and a kill then takes two", told.evidence)
    assert "appendfsync always" in told.hint


def test_a_process_that_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that holds the lock and gives no heartbeat is told from one at work, and from none."""
    rig.append("a")
    assert found(rig)["process"].verdict == "note"
    child = rig.beats(rig.ready(rig.start()))
    assert found(rig)["process"].verdict == "good"
    child.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(installation, "SILENT_AFTER", 0.0)
    told = found(rig)["process"]
    assert (told.verdict, "no heartbeat" in told.evidence) == ("bad", True)
    child.send_signal(signal.SIGCONT)
    rig.stop(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how files are opened")
def test_a_writer_that_does_not_append(rig: Rig) -> None:
    """A program that has the log open for writing without O_APPEND is named; one that appends is not."""
    rig.append("a")
    code = "import sys; f = open(sys.argv[1], sys.argv[2]); print(flush=True); sys.stdin.read()"
    for mode, verdict in (("a", "good"), ("r+", "bad"), ("r", "good")):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(rig.log), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            told = machine.look_at_writers([rig.log])
            assert told.verdict == verdict
            assert (f"process {child.pid}" in told.evidence) == (mode == "r+")
            child.communicate()


def test_a_server_of_our_own_that_nobody_started(tmp_path: Path) -> None:
    """The embedded server is started by who needs it: that it does not run yet is no fault; another's silence is."""
    for url, verdict in (("embedded", "note"), ("unix:///nowhere/at-all.sock", "bad")):
        (tmp_path / "bridge.toml").write_text(
            f'instance = "test"\nmappings = ["hestai-message"]\n[redis]\nurl = "{url}"\n'
        )
        settings = load(config=None, redis=None, env={}, cwd=tmp_path)
        told = next(finding for finding in examined(settings) if finding.check == "server")
        assert told.verdict == verdict
        assert told.hint


def test_a_server_of_our_own_that_died(tmp_path: Path) -> None:
    """That the embedded server died is a fault; that somebody stopped it is told, as that nobody started it."""
    (tmp_path / "bridge.toml").write_text('instance = "test"\nmappings = ["hestai-message"]\n')
    settings = load(config=None, redis=None, env={}, cwd=tmp_path)

    def told() -> Finding:
        return next(finding for finding in examined(settings) if finding.check == "server")

    ours = embedded_server.start(settings.state_dir)
    try:
        embedded_server.kill(ours)
        assert told().verdict == "bad"
        assert "died" in told().evidence
        embedded_server.start(settings.state_dir)
        assert told().verdict == "good"
    finally:
        embedded_server.stop(settings.state_dir)
    assert told().verdict == "note"
    assert "server start" in told().hint


def test_what_is_to_be_compared_is_named() -> None:
    """One command for all mappings when none was compared; by name when some were."""
    equal = ParityRun("a", "s", 990.0, 5.0, "", "equal", {})
    assert installation.parity({"a": None, "b": None}, 1000.0).hint == "bridge parity"
    some = installation.parity({"a": equal, "b": None}, 1000.0)
    assert (some.verdict, some.hint) == ("note", "bridge parity b")
    assert installation.parity({"a": equal}, 1000.0).verdict == "good"


def test_lines_that_were_written_over(rig: Rig) -> None:
    """A program that wrote over what the mirror had appended is told of afterwards; rotation, with a copy too, is not."""

    def told() -> Finding:
        return next(finding for finding in installation.examine(rig.settings()) if finding.check == "rewrites")

    rig.append("f-0")
    rig.once()
    rig.log.rename(rig.root / "messages.log.2")
    rig.append("f-1")
    rig.once()
    (rig.root / "messages.log.1").write_bytes(rig.log.read_bytes())
    os.truncate(rig.log, 0)
    rig.append("f-2")
    rig.once()
    before = rig.log.stat().st_size
    rig.add("r-0")
    rig.once()
    assert told().verdict == "good"
    with rig.log.open("r+b") as file:
        file.seek(before)
        file.write(line("f-3, which is longer than what stood there"))
    rig.once()
    assert told().verdict == "note"
    assert "messages.log 1 time" in told().evidence


def test_logs_that_are_emptied_in_place(rig: Rig, tmp_path: Path) -> None:
    """logrotate's copytruncate on one of our logs is told with what it loses; other blocks and other logs are not."""
    rig.append("a")
    (tmp_path / "conf").mkdir()
    for text, verdict in (
        (f"weekly\n{rig.log} {{\n  copytruncate\n}}\n", "bad"),
        (f"weekly\n/x/other.log\n{rig.root}/*.log {{\n  rotate 4\n  copytruncate # as ever\n}}\n", "bad"),
        (f"copytruncate\n\n{rig.log} {{\n  rotate 4\n}}\n", "bad"),
        (f"copytruncate\n\n{rig.log} {{\n  nocopytruncate\n}}\n", "good"),
        (f"/x/other.log {{\n copytruncate\n}}\n{rig.log} {{\n  create\n}}\n", "good"),
        (f"# {rig.log} {{ copytruncate }}\n", "good"),
    ):
        (tmp_path / "conf" / "logs").write_text(text)
        findings, _ = machine.examine(rig.settings(), [str(tmp_path / "conf")])
        told = next(finding for finding in findings if finding.check == "rotation")
        assert told.verdict == verdict, text


def test_limits_of_the_system(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few descriptors, watches or instances, a full disk, a network file system, letters' case: each is told."""
    rig.append("a")
    limited = f'ulimit -n 50 && exec {sys.executable} -m bridge doctor --redis "{rig.url}"'
    done = subprocess.run(["sh", "-c", limited], cwd=rig.path, capture_output=True, text=True, check=False)
    assert re.search(r"BAD +descriptors", done.stdout), done.stdout + done.stderr
    assert machine.inotify(10, 8192, 5, 128).verdict == "good"
    assert machine.inotify(9000, 8192, 5, 128).verdict == "bad"
    assert machine.inotify(10, 8192, 127, 128).verdict == "bad"
    monkeypatch.setattr(machine, "LOW", 1 << 62)
    assert machine.disk([rig.root]).verdict == "bad"
    table = "/dev/a / ext4 rw 0 0\nhost:/x /home nfs4 rw 0 0\nnone /home/me/my\\040disk tmpfs rw 0 0\n"
    assert machine.mounted(Path("/home/me/logs"), table) == "nfs4"
    assert machine.mounted(Path("/home/me/my disk/a"), table) == "tmpfs"
    assert machine.mounted(Path("/homes"), table) == "ext4"
    assert machine.file_systems(("ext4", False), "nfs4").verdict == "bad"
    assert machine.file_systems(("nfs4", False), "ext4").verdict == "note"
    assert machine.file_systems(("apfs", True), "apfs").verdict == "note"
    assert not machine.ignores_case(rig.root)
    folder = rig.path / "1"
    folder.mkdir()
    (folder / "a.log").write_text("")
    assert not machine.ignores_case(folder)
    (folder / "A.LOG").hardlink_to(folder / "a.log")  # as a disk that ignores case has it
    assert machine.ignores_case(folder)


def test_which_program(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """iproute2's `bridge` before ours on the path is told, and so is none at all."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "bridge").write_text("#!/bin/sh\n")
    (other / "bridge").chmod(0o755)
    for path, verdict in (
        (f"{other}:{Path(sys.executable).parent}", "note"), (str(tmp_path), "note"),
        (f"{Path(sys.executable).parent}:{other}", "good"),
    ):  # fmt: skip
        monkeypatch.setenv("PATH", path)
        told = installation.examine(rig.settings())[0]
        assert (told.check, told.verdict) == ("program", verdict), told


def test_a_server_that_does_not_tell(rig: Rig) -> None:
    """Where CONFIG, CLIENT and others are forbidden the checks say that it cannot be told, and never that all is well."""
    rig.append("a")
    rig.once()
    rig.redis.call(
        "ACL", "SETUSER", "small", "on", ">pw", "~*", "&*", "+@all", "-@dangerous", "-config", "-client", "+info"
    )
    url = rig.url.replace("default", "small").replace(rig.server.password, "pw")
    told = found(rig, url)
    assert {check for check, finding in told.items() if finding.verdict == "unknown"} >= {
        "buffers",
        "exposure",
        "clients",
        "load",
    }
    assert told["persistence"].verdict == "good"
    assert told["rights"].verdict == "good"
