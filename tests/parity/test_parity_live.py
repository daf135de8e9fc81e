"""Parity beside a running bridge: never a false difference; and a broken one is caught."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

from bridge.engine.batch_encoder import Batch, BatchEncoder
from bridge.engine.run import Process
from bridge.files.generation_record import GenerationRecord
from bridge.files.tail import Tail
from bridge.kinds import provenance
from bridge.kinds.log import target as append
from bridge.ledger import ranges
from bridge.ledger.store import Ledger
from bridge.parity.result import ParityResult
from bridge.parity.run_parity import ParityRunner
from bridge.streams.connect import Connection
from bridge.streams.resp import pack
from bridge.streams.writer import Transaction
from tests.parity.test_parity import bridged, found
from tests.support.rig import FIELDS, STREAM, Rig, line, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
RATE = 500
"""Messages a second that are written on each side."""


class Writers:
    """Two programs: one appends lines, one adds entries, each `RATE` a second in small portions."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = Event()
        self.lines = self.entries = 0
        self._threads = [Thread(target=self._append), Thread(target=self._add)]
        for thread in self._threads:
            thread.start()

    def _append(self) -> None:
        with self._rig.log.open("ab", buffering=0) as file:
            while not self._stop.wait(0.01):
                some = range(self.lines, self.lines + RATE // 100)
                file.write(b"".join(line(f"f-{n}" + "x" * (n % 50)) for n in some))
                self.lines = some.stop

    def _add(self) -> None:
        connection = Connection(self._rig.server.socket_url)
        while not self._stop.wait(0.01):
            some = range(self.entries, self.entries + RATE // 100)
            rows = [(b"ui", b"2026-03-02T09:14:06Z", b"say", b"r-%d" % n) for n in some]
            connection.calls(*(
                pack("XADD", STREAM, "*", *(part for pair in zip(FIELDS, row, strict=True) for part in pair))
                for row in rows
            ))  # fmt: skip
            self.entries = some.stop
        connection.close()

    def beyond(self, count: int) -> bool:
        """Whether more lines than that were appended."""
        return self.lines > count

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_never_a_false_difference(rig: Rig) -> None:
    """While both sides are written at 1,000 messages a second: equal each time, with some in flight."""
    child = rig.ready(rig.start())
    writers = Writers(rig)
    try:
        seen = []
        for _ in range(200 if SOAK else 3):
            before = writers.lines
            wait_until(partial(writers.beyond, before + 100), rig.said)
            result = rig.parity(settling=1.0)
            assert result.verdict == "equal", (result.tally.differences[:3], result.notes)
            seen.append((result.tally.file_born, result.tally.redis_born))
        assert seen == sorted(seen)
        assert seen[-1][0] > 300
        assert seen[-1][1] > 100
    finally:
        writers.stop()
    wait_until(lambda: rig.parity().tally.compared == writers.lines + writers.entries, rig.said)
    rig.stop(child)
    result = rig.parity()
    assert (result.verdict, result.tally.in_flight) == ("equal", 0)
    assert "the bridge is not running" in result.notes


def test_watch(one_rig: Rig) -> None:
    """`--watch` stays right while both sides are written, reads only what is new, and sees a fault behind its position."""
    rig = one_rig
    rig.append(*(f"old-{n}" for n in range(3000)))
    rig.once()
    child = rig.ready(rig.start())
    writers = Writers(rig)
    watch = subprocess.Popen(
        [sys.executable, "-m", "bridge", "parity", "--watch", "--json", "--redis", rig.server.socket_url], cwd=rig.path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert watch.stdout is not None
    try:
        last = 0
        for _ in range(3):
            told = json.loads(watch.stdout.readline())
            assert told["verdict"] == "equal", told
            [mapping] = told["mappings"]
            assert mapping["compared"] > last
            last = mapping["compared"]
        writers.stop()
        rig.redis.call("XDEL", STREAM, b"%d-%d" % rig.entries()[10].id)
        told = wait_until(lambda: _differs(watch), "the difference")
        assert told["mappings"][0]["counts"]["missing_in_redis"] == 1
        status = json.loads(rig.run("status", "--json", "--redis", rig.server.socket_url).stdout)
        assert status["mappings"][0]["parity"]["verdict"] == "differs"
        assert 0 <= status["mappings"][0]["parity"]["age"] < 60
        health = wait_until(lambda: _beat(rig, "differs"), "the heartbeat")
        assert health["hestai-message"]["differences"] == 1
    finally:
        writers.stop()
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 130
        watch.stdout.close()
        if watch.stderr is not None:
            watch.stderr.close()
    rig.stop(child)


def _differs(watch: subprocess.Popen[bytes]) -> dict[str, object] | None:
    assert watch.stdout is not None
    told: dict[str, object] = json.loads(watch.stdout.readline())
    return told if told["verdict"] == "differs" else None


def _beat(rig: Rig, verdict: str) -> dict[str, dict[str, object]] | None:
    raw = rig.redis.call("GET", "bridge:health:test")
    told: dict[str, dict[str, object]] = json.loads(raw)["parity"] if raw else {}
    return told if told.get("hestai-message", {}).get("verdict") == verdict else None


def onwards(rig: Rig) -> ParityResult:
    """As `--watch` looks the next time."""
    settings = rig.settings()
    ledger = Ledger(settings.state_dir / "ledger.db")
    try:
        proof = ParityRunner(settings, list(settings.mappings), ledger, Event(), lambda *_: None, "test", settling=0.0)
        [result] = proof.run(onwards=True)
        return result
    finally:
        ledger.close()


def test_going_on_sees_faults(one_rig: Rig) -> None:
    """What is new is judged as ever: an entry twice, a line without its entry; and it does not get past them."""
    rig = one_rig
    bridged(rig)
    assert onwards(rig).verdict == onwards(rig).verdict == "equal"
    rig.redis.call("XADD", STREAM, "*", *rig.entries()[3].fields)
    for _ in range(3):
        assert found(onwards(rig)) == {"duplicate": 1}
    rig.redis.call("XDEL", STREAM, b"%d-%d" % rig.entries()[-1].id)
    assert onwards(rig).verdict == "equal"
    rig.append("f-new")
    rig.once()
    rig.redis.call("XDEL", STREAM, b"%d-%d" % rig.entries()[-1].id)
    for _ in range(3):
        assert found(onwards(rig)) == {"missing_in_redis": 1}


def test_going_on_after_a_loss(one_rig: Rig) -> None:
    """A stream that was flushed and filled again is another one: it is read from the beginning."""
    rig = one_rig
    bridged(rig)
    assert onwards(rig).tally.redis_born == 10
    rig.redis.call("FLUSHALL")
    rig.once()
    rig.once()
    result = onwards(rig)
    assert (result.verdict, result.tally.file_born, result.tally.redis_born) == ("equal", 50, 0)


def test_going_on_from_nothing(one_rig: Rig) -> None:
    """Nothing compared yet is not equal, however often it is looked."""
    rig = one_rig
    rig.log.touch()
    rig.once()
    onwards(rig)
    rig.append("f-0")
    assert onwards(rig).verdict == "inconclusive"


# -- bridges that are broken ----------------------------------------------------------------------------------

Break = Callable[[Batch], None]


def drops(parcel: Batch) -> None:
    """Every 1,000th line is passed over."""
    [draft] = parcel.parts
    kept = [n for n, row in enumerate(draft.rows) if not row[3].endswith(b"999")]
    parcel.rows = draft.rows = [draft.rows[n] for n in kept]
    draft.offsets = [draft.offsets[n] for n in kept]
    parcel.times = draft.times = [draft.times[n] for n in kept] if draft.times else []


def duplicates(parcel: Batch) -> None:
    """One line is sent twice."""
    [draft] = parcel.parts
    for column in (draft.rows, draft.offsets, draft.times):
        if column:
            column.insert(3, column[2])  # type: ignore[arg-type]


def swaps(parcel: Batch) -> None:
    """Two lines change places."""
    [draft] = parcel.parts
    draft.rows[10], draft.rows[20] = draft.rows[20], draft.rows[10]
    draft.offsets[10], draft.offsets[20] = draft.offsets[20], draft.offsets[10]


@pytest.mark.parametrize("broken", [drops, duplicates, swaps])
def test_broken_forward(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    """A forward that drops, doubles or swaps lines is caught, by its kind."""
    whole = BatchEncoder.batch

    def batch(self: BatchEncoder, parcel: Batch, *, exists: bool) -> Transaction:
        if len(parcel.rows) > 10:
            broken(parcel)
        return whole(self, parcel, exists=exists)

    monkeypatch.setattr(BatchEncoder, "batch", batch)
    rig = one_rig
    rig.append(*(f"f-{n}" for n in range(3900 if broken is drops else 390)))
    rig.once()
    wanted = {
        "drops": {"missing_in_redis": 3}, "duplicates": {"duplicate": 1}, "swaps": {"reordered": 2},
    }[broken.__name__]  # fmt: skip
    assert found(rig.parity()) == wanted


def test_growing(one_rig: Rig) -> None:
    """Where a bridge runs, and much more is in flight than at the last look, that is said beside the verdict."""
    rig = one_rig
    bridged(rig, 8)
    child = rig.ready(rig.start())
    wait_until(lambda: rig.redis.call("GET", "bridge:health:test"), rig.said)
    url = ("--redis", rig.server.socket_url)
    assert "grows" not in rig.run("parity", *url).stdout
    child.send_signal(signal.SIGSTOP)
    rig.append(*(f"late-{n}" for n in range(1500)))
    assert "what is in flight grows: 1,500, and 0 at the last look" in rig.run("parity", *url).stdout
    child.send_signal(signal.SIGCONT)
    wait_until(lambda: rig.redis.call("XLEN", STREAM) == 1510, rig.said)
    rig.stop(child)


def test_broken_provenance(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that carries a mirrored line back is caught: its entry's line belongs to another one."""
    rig = one_rig
    bridged(rig, 8)
    monkeypatch.setattr(provenance, "ranges_between", lambda *args: ranges.ranges_between(*args)[1:])
    rig.add("r-echo")
    rig.once()
    rig.append("f-behind")
    rig.once()
    result = rig.parity()
    assert result.verdict == "differs"
    assert found(result) == {"missing_in_file": 1}


# -- what dies ------------------------------------------------------------------------------------------------


def start(rig: Rig, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bridge", "parity", "--redis", rig.server.socket_url, *args], cwd=rig.path,
        env={**os.environ, "TMPDIR": str(rig.path / "tmp")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def pages_read(rig: Rig) -> int:
    """How many ranges of entries the server has given since it began."""
    told = rig.redis.call("INFO", "commandstats").split(b"cmdstat_xrange:calls=")
    return int(told[1].split(b",", 1)[0]) if told[1:] else 0


def reading(rig: Rig) -> Callable[[], bool]:
    """Whether parity reads the stream by now, when nobody else does."""
    before = pages_read(rig)
    return lambda: pages_read(rig) > before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_ended(one_rig: Rig, number: int, code: int) -> None:
    """Killed or interrupted it leaves no file and no run; the bridge runs on beside it all the time."""
    rig = one_rig
    (rig.path / "tmp").mkdir()
    rig.append(*(f"f-{n}" for n in range(5000)))
    rig.once()
    reads = reading(rig)
    child = start(rig, "--max-rate", "200")
    wait_until(reads, "the reading")
    bridge = rig.ready(rig.start())
    child.send_signal(number)
    assert child.wait(30) == code
    child.communicate()
    assert not [*(rig.path / "tmp").iterdir()]
    rig.append("f-more")
    wait_until(lambda: rig.datas()[-1] == b"f-more", rig.said)
    rig.stop(bridge)
    assert rig.run("parity", "--history").stdout == "no runs yet\n"


def test_redis_goes_away(one_rig: Rig) -> None:
    """Redis gone in the middle: inconclusive, exit 4; never reached: exit 5."""
    rig = one_rig
    (rig.path / "tmp").mkdir()
    rig.append(*(f"f-{n}" for n in range(5000)))
    rig.once()
    reads = reading(rig)
    child = start(rig, "--max-rate", "1000", "--json")
    wait_until(reads, "the reading")
    rig.kill_server()
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 4
    told = json.loads(out)
    assert told["verdict"] == told["mappings"][0]["verdict"] == "inconclusive"
    done = rig.run("parity", "--redis", rig.server.socket_url)
    assert done.returncode == 5
    rig.start_server()
    assert rig.run("parity", "--redis", rig.server.socket_url).returncode == 0
    assert [run["verdict"] for run in json.loads(rig.run("parity", "--history", "--json").stdout)] == [
        "inconclusive", "equal",
    ]  # fmt: skip


def test_spooled_lines_leave_nothing(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Redis-born entries that wait for their lines go to a file without a name when they are many."""
    rig, folder = one_rig, tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr("bridge.parity.log.overflow_queue.HELD_BYTES", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    rig.append("f-0")
    rig.once()
    for n in range(300):
        rig.add(f"r-{n}")
    rig.once()
    result = rig.parity()
    assert (result.verdict, result.tally.redis_born) == ("equal", 300)
    assert not [*folder.iterdir()]


def test_line_in_a_piece_that_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file is rotated and taken for ended between the mirror's last look and its write: equal, whatever follows."""
    rig.append("f-0", "f-1")
    rig.once()
    rotated, ended, stop = rig.root / "messages.log.1", Event(), Event()
    whole = Tail.finish

    def finish(self: Tail) -> GenerationRecord | None:
        record = whole(self)
        if record is not None:
            ended.set()
            wait_until(lambda: rotated.read_bytes().endswith(b"|r-0\n"), "the line behind the end")
        return record

    def reached(point: str) -> None:
        if point == "mirror.write.before" and not rotated.exists():
            rig.log.rename(rotated)
            rig.append("f-3")
            assert ended.wait(60)

    monkeypatch.setattr(Tail, "finish", finish)
    monkeypatch.setattr(append, "failpoint", reached)
    bridge = Thread(target=Process(rig.settings(), dual=True, poll=False, stop=stop).run)
    bridge.start()
    try:
        rig.append("f-2")
        wait_until(lambda: len(rig.datas()) == 3, "a line in the stream: both directions are at work")
        rig.add("r-0")
        wait_until(lambda: len(rig.datas()) == 5, "the next file's line in the stream")
        for n in range(1, 20):
            rig.add(f"r-{n}")
            rig.append(f"f-{n + 3}")
            assert onwards(rig).verdict == rig.parity().verdict == "equal"
        rig.settle([b"f-%d" % n for n in range(23)], [b"r-%d" % n for n in range(20)])
    finally:
        stop.set()
        bridge.join()
    assert (onwards(rig).tally.differences, rig.parity().tally.compared) == ([], 43)
    assert "unfinished" not in caplog.text
