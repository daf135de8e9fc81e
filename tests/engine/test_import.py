"""`import-history`: years of logs, killed and stopped and begun again; what is said before, during and after."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
from typing import Any

import pytest

from bridge.streams.reader import entries
from tests.scenarios.test_crash import Writers
from tests.support import zygote
from tests.support.rig import STREAM, Rig, line, wait_until

BASE = 1772409600000
"""2026-03-02T00:00:00Z in ms."""


def dated(n: int, data: str | None = None) -> bytes:
    """A line of the n-th tenth of a second; now and then the clock stands still or runs back."""
    tenth = n - 30 if n % 97 == 0 else n - n % 3
    seconds, part = divmod(max(0, tenth), 10)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{part}"
    return f"agent|2026-03-02T{clock}Z|turn|{data or n}\n".encode()


def history(rig: Rig, count: int) -> list[bytes]:
    """`count` lines in a compressed, a plain rotated and a current file; the datas in order."""
    lines = [dated(n) for n in range(count)]
    third = count // 3
    (rig.root / "messages.log.2.gz").write_bytes(gzip.compress(b"".join(lines[:third])))
    (rig.root / "messages.log.1").write_bytes(b"".join(lines[third : 2 * third]))
    rig.log.write_bytes(b"".join(lines[2 * third :]))
    return [b"%d" % n for n in range(count)]


def start(rig: Rig, *args: str, crash: str = "") -> subprocess.Popen[bytes]:
    env = {**os.environ, "BRIDGE_CRASH_AT": crash} if crash else {**os.environ}
    out = (rig.path / f"bridge-{len(rig.children)}.log").open("wb")
    command = ["import-history", "--redis", rig.server.socket_url, *args]
    child = zygote.start("bridge", command, cwd=rig.path, env=env, stdout=out, stderr=out)
    out.close()
    rig.children.append(child)
    return child


def bring(rig: Rig, *args: str, code: int = 0) -> list[dict[str, Any]]:
    """To its end, as events."""
    done = rig.run("import-history", "--json", "--redis", rig.server.socket_url, *args)
    assert done.returncode == code, done.stderr
    return [json.loads(row) for row in done.stdout.splitlines()]


def digest(rig: Rig) -> str:
    """Over IDs, fields and origins of the whole stream."""
    found = hashlib.blake2b(digest_size=16)
    for entry in entries(rig.redis, STREAM.encode()):
        found.update(repr(entry).encode())
    return found.hexdigest()


def test_goes_on_at_the_next_byte(one_rig: Rig) -> None:
    """The whole history is in the stream, in order; `run` goes on behind it, and mirrors none of it back."""
    rig = one_rig
    datas = history(rig, 3000)
    before = rig.log.read_bytes()
    last = bring(rig)[-1]
    assert (last["event"], last["state"], last["lines"], last["entries"]) == ("ended", "done", 3000, 3000)
    assert rig.datas() == datas
    child = rig.ready(rig.start())
    rig.append("live")
    rig.add("from redis")
    wait_until(lambda: b"from redis" in rig.log.read_bytes() and b"live" in rig.datas(), rig.said)
    rig.stop(child)
    assert rig.log.read_bytes() == before + line("live") + b"ui|2026-03-02T09:14:06Z|say|from redis\n"
    assert sorted(rig.datas()[3000:]) == [b"from redis", b"live"]


def test_killed_at_random(rig: Rig) -> None:
    """Killed ten times at random places, the entries and their IDs are those of one undisturbed import."""
    datas = history(rig, 30_000)
    bring(rig)
    wanted = digest(rig)
    rig.redis.call("FLUSHALL")
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (rig.state / name).unlink(missing_ok=True)
    noise = random.Random(11)
    points = ["forward.send.before", "forward.send.after", "forward.reply.before", "forward.reply.after",
              "forward.read.before", "forward.read.after"]  # fmt: skip
    killed = 0
    for _ in range(10):
        child = start(rig, crash=f"{noise.choice(points)}:{noise.randint(2, 7)}")
        killed += child.wait(90) == -9
    assert killed >= 8, rig.said()
    bring(rig)
    assert rig.datas() == datas
    assert digest(rig) == wanted


def test_a_copy_of_what_a_killed_import_ended(one_rig: Rig) -> None:
    """A piece that ended just before a kill is known to its end: a copy of it in its place is not imported again."""
    rig = one_rig
    datas = history(rig, 3000)
    for n in range(2, 7):
        start(rig, crash=f"forward.reply.after:{n}").wait(60)
    bring(rig)
    for name in ("messages.log.1", "messages.log.2.gz"):
        raw = (rig.root / name).read_bytes()
        (rig.root / "copy").write_bytes(raw)
        (rig.root / "copy").replace(rig.root / name)
    bring(rig)
    assert rig.datas() == datas


def test_while_others_write(rig: Rig) -> None:
    """Legacy programs append and producers add meanwhile: every message once, each kind in order."""
    datas = history(rig, 20_000)
    child = start(rig)
    writers = Writers(rig, "w")
    wait_until(lambda: len(writers.redis_born) > 100 and child.poll() is not None, "the end of the import")
    writers.stop()
    assert child.returncode == 0, rig.said()
    bring(rig)
    found = rig.datas()
    theirs = set(writers.redis_born)
    assert [data for data in found if data not in theirs] == datas + writers.file_born
    assert [data for data in found if data in theirs] == writers.redis_born


def test_ids_are_the_messages_times(one_rig: Rig) -> None:
    """IDs are the lines' own times; what runs back, is to come, or dates from 9999 is clamped, and that is counted."""
    rig = one_rig
    stamps = [
        "2026-03-02T00:00:01Z", "2026-03-02T00:00:01Z", "2026-03-02T00:00:00Z", "2026-03-02T02:00:02+02:00",
        "2026-03-02T00:00:03", "9999-12-31T23:59:59Z", "2026-03-02T00:00:04Z",
    ]  # fmt: skip
    rig.log.write_text("".join(f"agent|{stamp}|t|{n}\n" for n, stamp in enumerate(stamps)))
    [*_, last] = bring(rig)
    ids = [entry.id for entry in rig.entries()]
    assert ids[:5] == [(BASE + 1000, 0), (BASE + 1000, 1), (BASE + 1000, 2), (BASE + 2000, 0), (BASE + 3000, 0)]
    now = int(rig.redis.call("TIME")[0]) * 1000
    assert all(now - 60_000 < ms <= now + 1000 for ms, _ in ids[5:])
    assert last["clamped"] == 3
    assert rig.datas() == [b"%d" % n for n in range(7)]
    assert "3 clamped" in rig.run("status", "--redis", rig.server.socket_url).stdout


def test_summer_time_and_a_zone(one_rig: Rig) -> None:
    """Times without a zone are taken in the mapping's; the hour that comes twice keeps the file's order."""
    rig = one_rig
    text = rig.run("mapping", "show", "hestai-message").stdout.replace(
        "[format]", '[format]\ntimezone = "Europe/Madrid"'
    )
    (rig.path / "mine.toml").write_text(text)
    rig.write_config(mapping="mine.toml")
    rig.log.write_text("".join(f"a|{stamp}|t|{n}\n" for n, stamp in enumerate(
        ["2025-10-26T01:59:59", "2025-10-26T02:30:00", "2025-10-26T02:10:00", "2025-10-26T03:00:00", "2025-03-30T02:30:00"]
    )))  # fmt: skip
    bring(rig)
    ids = [entry.id[0] for entry in rig.entries()]
    assert ids == sorted(ids)
    assert ids[0] == 1761436799000  # 23:59:59Z
    assert ids[3] == 1761444000000  # 02:00:00Z: summer time is over
    assert rig.datas() == [b"0", b"1", b"2", b"3", b"4"]


def test_goes_on_behind_newer_entries(one_rig: Rig) -> None:
    """Where the stream holds entries of others, IDs are clamped behind them, and those later than they are the times."""
    rig = one_rig
    values = [part for name in ("role", "timestamp", "type", "data") for part in (name, "x")]
    rig.redis.call("XADD", STREAM, f"{BASE + 5000}-7", *values)
    rig.log.write_text("".join(f"a|2026-03-02T00:00:{n:02}Z|t|{n}\n" for n in range(10)))
    [*_, last] = bring(rig)
    assert [entry.id for entry in rig.entries()][1:] == [
        *((BASE + 5000, 8 + n) for n in range(6)), *((BASE + n * 1000, 0) for n in range(6, 10))
    ]  # fmt: skip
    assert last["clamped"] == 5
    assert last["first_id"] == f"{BASE + 5000}-8"


def test_interrupted(one_rig: Rig) -> None:
    """SIGINT ends it at a whole batch with 130; the next run says how far it is and brings the rest."""
    rig = one_rig
    datas = history(rig, 60_000)
    child = start(rig, "--max-rate", "3000")
    wait_until(lambda: rig.redis.call("XLEN", STREAM) > 2000, rig.said)
    status = json.loads(rig.run("status", "--json", "--redis", rig.server.socket_url).stdout)
    assert status["headline"].startswith("Importing history")
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 130
    assert "interrupted" in rig.said()
    came = rig.redis.call("XLEN", STREAM)
    assert 0 < came < 60_000
    events = bring(rig)
    assert events[0]["event"] == "started"
    assert 0 < events[0]["before"] < events[0]["bytes"]
    assert events[-1]["entries"] == 60_000 - came
    assert rig.datas() == datas


def test_max_rate(one_rig: Rig) -> None:
    """With `--max-rate` no more lines a second come over."""
    rig = one_rig
    history(rig, 3000)
    [*_, last] = bring(rig, "--max-rate", "2000")
    assert last["entries"] == 3000
    assert last["seconds"] >= 1.5
    assert rig.redis.call("XLEN", STREAM) == 3000


def test_out_of_memory(one_rig: Rig) -> None:
    """A server without room stops the import at a whole batch, says so, and the rest comes when there is room."""
    rig = one_rig
    datas = history(rig, 20_000)
    used = int(rig.redis.call("INFO", "memory").split(b"used_memory:")[1].split(b"\r")[0])
    rig.redis.call("CONFIG", "SET", "maxmemory", used + 1_500_000)
    planned = rig.run("import-history", "--dry-run", "--redis", rig.server.socket_url)
    assert "it would not fit: maxmemory is" in planned.stderr
    assert planned.returncode == 3
    done = rig.run("import-history", "--redis", rig.server.socket_url)
    assert done.returncode == 1
    assert "Redis is out of memory; the import stopped at a whole batch and nothing is lost" in done.stderr
    came = rig.datas()
    assert came == datas[: len(came)]
    assert 0 < len(came) < 20_000
    rig.redis.call("CONFIG", "SET", "maxmemory", 0)
    bring(rig)
    assert rig.datas() == datas


def test_redis_goes_away(one_rig: Rig) -> None:
    """A server that is killed and comes back meanwhile costs nothing but time."""
    rig = one_rig
    datas = history(rig, 40_000)
    child = start(rig, "--max-rate", "20000")
    wait_until(lambda: rig.redis.call("XLEN", STREAM) > 1000, rig.said)
    rig.kill_server()
    rig.start_server()
    assert child.wait(90) == 0, rig.said()
    assert rig.datas() == datas


def test_never_reached(one_rig: Rig) -> None:
    """Without a server it ends with 5 and says what to try; nothing is written but the run itself."""
    rig = one_rig
    history(rig, 30)
    done = rig.run("import-history", "--redis", "redis://127.0.0.1:1/0")
    assert done.returncode == 5
    assert "cannot connect" in done.stderr


def test_dry_run(one_rig: Rig) -> None:
    """Everything is read and told, nothing is written: no key, no file."""
    rig = one_rig
    history(rig, 900)
    with rig.log.open("ab") as file:
        file.write(b"broken\n\nagent|no time|t|x\n" + dated(900, "unfinished")[:-1])
    before = sorted(rig.path.rglob("*"))
    done = rig.run("import-history", "--dry-run", "--json", "--redis", rig.server.socket_url)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    [mapping] = found["mappings"]
    assert (mapping["entries"], mapping["rejected"], mapping["empty"]) == (900, 2, 1)
    assert mapping["unfinished"] == len(dated(900, "unfinished")) - 1
    assert mapping["roles"] == [{"role": "agent", "count": 900}]
    assert mapping["earliest"] == BASE
    assert {r["reason"]: r["count"] for r in mapping["sources"][0]["reasons"]} == {
        "1 of 4 columns": 1, "timestamp not understood": 1,
    }  # fmt: skip
    assert rig.redis.call("DBSIZE") == 0
    assert [p for p in sorted(rig.path.rglob("*")) if p not in before] == []
    bring(rig)
    used = rig.redis.call("MEMORY", "USAGE", STREAM, "SAMPLES", 0)
    assert 0.8 < mapping["memory"] / used < 1.3
    again = json.loads(rig.run("import-history", "--dry-run", "--json", "--redis", rig.server.socket_url).stdout)
    assert again["mappings"][0]["entries"] == 0
    assert again["mappings"][0]["before"] > 0


def test_dry_run_for_people(one_rig: Rig) -> None:
    """The report names lines, times, roles, types, memory, and what would be set aside, with an example."""
    rig = one_rig
    history(rig, 300)
    with rig.log.open("ab") as file:
        file.write(b"broken \x1b[31m line\n")
    out = rig.run("import-history", "--dry-run", "--redis", rig.server.socket_url).stdout
    for word in ("301: 300 entries, 1 to quarantine", "2026-03-02 00:00:00", "agent 300", "turn 300", "1 of 4 columns",
                 "broken \\x1b[31m line", "of Redis", "no limit set", "nothing was written"):  # fmt: skip
        assert word in out, out


def test_damaged_and_empty(one_rig: Rig) -> None:
    """Of a damaged piece what can be read comes over, the rest is said with its position, and the end is not 0."""
    rig = one_rig
    datas = history(rig, 9000)
    piece = rig.root / "messages.log.2.gz"
    raw = piece.read_bytes()
    piece.write_bytes(raw[: len(raw) * 2 // 3])
    os.utime(piece, (1, 1))
    (rig.root / "messages.log.3").write_bytes(b"")
    done = rig.run("import-history", "--redis", rig.server.socket_url)
    assert done.returncode == 1
    assert "messages.log.2.gz: is damaged at byte" in done.stderr
    found = rig.datas()
    assert found[-6000:] == datas[-6000:]
    assert found[:-6000] == datas[: len(found) - 6000]
    assert len(found) > 6500
    assert bring(rig)[-1]["entries"] == 0


def test_unfinished_lines(one_rig: Rig) -> None:
    """Dry run and import say alike what has no newline: of a plain piece it waits, of a compressed one it is set aside."""
    rig = one_rig
    (rig.root / "messages.log.2.gz").write_bytes(gzip.compress(dated(1) + dated(2)[:-1]))
    (rig.root / "messages.log.1").write_bytes(dated(3) + dated(4)[:-1])
    rig.log.write_bytes(dated(5) + dated(6)[:-1])
    [planned] = json.loads(rig.run("import-history", "--dry-run", "--json", "--redis", rig.server.socket_url).stdout)[
        "mappings"
    ]
    done = bring(rig)[-1]
    for report in (planned, done):
        assert (report["entries"], report["rejected"], report["unfinished"]) == (
            3,
            1,
            len(dated(4)[:-1]) + len(dated(6)[:-1]),
        )


def test_all_readers_agree(one_rig: Rig) -> None:
    """`mapping check`, the dry run and the import count alike: over-long lines, broken and empty ones, the unfinished."""
    rig = one_rig
    long = dated(1, "x" * 3_000_000)
    rig.log.write_bytes(dated(0) + long + dated(2) + b"broken\n\n" + long + dated(3) + dated(4)[:-1])
    checked = json.loads(rig.run("mapping", "check", "hestai-message", "files/messages.log", "--json").stdout)
    [planned] = json.loads(rig.run("import-history", "--dry-run", "--json", "--redis", rig.server.socket_url).stdout)[
        "mappings"
    ]
    done = bring(rig)[-1]
    assert (checked["translated"], checked["rejected"], checked["empty"]) == (3, 3, 1)
    assert checked["partial_bytes"] == planned["unfinished"] == done["unfinished"] == len(dated(4)) - 1
    assert (planned["entries"], planned["rejected"], planned["empty"]) == (3, 3, 1)
    assert (done["entries"], done["rejected"], done["empty"]) == (3, 3, 1)
    assert [reason["lines"] for reason in checked["reasons"]] == [[2, 6], [4]]
    assert [reason["lines"] for reason in planned["sources"][0]["reasons"]][1] == [len(dated(0) + long + dated(2))]


def test_the_last_run_that_did_something(one_rig: Rig) -> None:
    """`status` keeps the summary of the last import that had anything to do; and says what one that was killed had done."""
    rig = one_rig
    history(rig, 3000)
    bring(rig)
    bring(rig)
    assert "done, 3,000 entries" in rig.run("status", "--redis", rig.server.socket_url).stdout
    with rig.log.open("ab") as file:
        file.writelines(dated(n) for n in range(3000, 60_000))
    child = start(rig, "--max-rate", "10000")
    wait_until(lambda: rig.redis.call("XLEN", STREAM) > 12_000, rig.said)
    child.kill()
    child.wait()
    shown = rig.run("status", "--redis", rig.server.socket_url).stdout
    assert "import  " in shown
    assert "was killed" in shown
    assert "was killed, 0 entries" not in shown


def test_what_cannot_be_read_is_no_good_status(one_rig: Rig) -> None:
    """After an import that could not read a file `status` says so, with 3."""
    rig = one_rig
    rig.log.mkdir()
    assert rig.run("import-history", "--redis", rig.server.socket_url).returncode == 1
    shown = rig.run("status", "--redis", rig.server.socket_url)
    assert shown.returncode == 3
    assert "is not a regular file" in shown.stdout.splitlines()[0]


def test_nothing_there(one_rig: Rig) -> None:
    """An empty file, or none, is nothing to import, and no error."""
    rig = one_rig
    assert bring(rig)[-1]["lines"] == 0
    rig.log.write_bytes(b"")
    assert bring(rig)[-1]["lines"] == 0
    rig.log.write_bytes(b"no newline yet")
    assert bring(rig)[-1]["unfinished"] == 14


def test_unreadable_file(one_rig: Rig) -> None:
    """A file of several that cannot be read stops the import before a line is sent: order could not be mended later."""
    rig = one_rig
    rig.write_config(mapping="hestai-roles")
    (rig.root / "a.out").write_bytes(b"2026-03-02T00:00:00Z|t|x\n")
    (rig.root / "b.out.1").mkdir()
    (rig.root / "c.out").symlink_to("/nowhere/at/all")
    (rig.root / "d.out.1.zst").write_bytes(b"no text, and \0 not zstd at all")
    os.utime(rig.root / "d.out.1.zst", (1, 1))
    done = rig.run("import-history", "--redis", rig.server.socket_url)
    assert done.returncode == 1
    assert "d.out.1.zst: is damaged at byte 0" in done.stderr


@pytest.mark.parametrize("args", [("--max-rate", "0"), ("--max-rate", "x"), ("nothing-of-that-name",)])
def test_wrong_usage(one_rig: Rig, args: tuple[str, ...]) -> None:
    """Wrong input is said with what to try, and exit code 2."""
    done = one_rig.run("import-history", *args)
    assert done.returncode == 2
    assert done.stderr


def test_beside_a_running_bridge(one_rig: Rig) -> None:
    """It does not run beside `bridge run`, and names it."""
    rig = one_rig
    child = rig.ready(rig.start())
    done = rig.run("import-history", "--redis", rig.server.socket_url)
    assert done.returncode == 1
    assert f"bridge run (process {child.pid})" in done.stderr
    assert rig.run("import-history", "--dry-run", "--redis", rig.server.socket_url).returncode == 0
    rig.stop(child)


def test_stops_where_one_of_many_must_stop(one_rig: Rig) -> None:
    """With `on_reject = "stop"` a bad line of one file stops the merge: mended, all lines are in the order of time."""
    rig = one_rig
    text = rig.run("mapping", "show", "hestai-roles").stdout + '\n[policy]\non_reject = "stop"\n'
    (rig.path / "mine.toml").write_text(text)
    rig.write_config(mapping="mine.toml")
    lines = {name: [f"2026-03-02T00:{n // 60:02}:{n % 60:02}Z|t|{name}{n}\n" for n in range(900)] for name in "ab"}
    lines["a"][500] = "bad line\n"
    for name, some in lines.items():
        (rig.root / f"{name}.out").write_text("".join(some))
    done = rig.run("import-history", "--redis", rig.server.socket_url)
    assert done.returncode == 1
    assert "a.out offset" in done.stderr
    lines["a"][500] = "2026-03-02T00:08:20Z|t|a500\n"
    (rig.root / "a.out").write_text("".join(lines["a"]))
    bring(rig)
    found = [entry.fields[7].decode() for entry in entries(rig.redis, b"hestai:roles")]
    assert found == [f"{name}{n}" for n in range(900) for name in "ab"]


def test_behind_a_full_millisecond(one_rig: Rig) -> None:
    """Behind an entry with the highest sequence number there is, IDs go on with the next millisecond."""
    rig = one_rig
    values = [part for name in ("role", "timestamp", "type", "data") for part in (name, "x")]
    rig.redis.call("XADD", STREAM, f"{BASE + 1000}-18446744073709551615", *values)
    rig.log.write_text("".join(f"a|2026-03-02T00:00:0{n}Z|t|{n}\n" for n in range(4)))
    bring(rig)
    assert [entry.id for entry in rig.entries()][1:] == [
        (BASE + 1001, 0), (BASE + 1001, 1), (BASE + 2000, 0), (BASE + 3000, 0)
    ]  # fmt: skip
