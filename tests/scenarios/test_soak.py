"""Living with it for long: everything at once at 500 messages a second, and both sides equal at the end.

`make soak` runs it for BRIDGE_SOAK_SECONDS, 22 minutes if nobody says, and draws what the bridge took meanwhile.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from threading import Event, Thread

import pytest

from benchmarks.plot import over_time
from bridge.core.errors import BridgeError, RedisRefused
from bridge.streams.connect import Connection
from tests.admin.test_metrics import METRICS, NAME, Watched
from tests.admin.test_retention import history, keep, prove
from tests.support import zygote
from tests.support.cast import CONFIG, Cast
from tests.support.rig import Rig, line, wait_until

SECONDS = float(os.environ.get("BRIDGE_SOAK_SECONDS", "1320" if os.environ.get("BRIDGE_SOAK") else "0"))
PLOT = os.environ.get("BRIDGE_SOAK_PLOT", "")
"""The folder that gets soak.svg and soak.json."""

KEPT = 20_000
"""Entries that stay in the stream; the rest is archived."""

SAMPLE, ROTATE, CUT, SWITCH, RESTART = 5.0, 60.0, 70.0, 30.0, 150.0
"""Seconds between two looks, rotations, cut connections, switches, and kills of the server."""

ROUND = (("viewer", "reads", "redis"), ("ui", "writes", "redis"), ("ui", "writes", "file"), ("viewer", "reads", "file"))
Sent = tuple[str, int]
"""Role and number of a message."""


class Programs:
    """Two that know nothing of the bridge: one appends 200 lines a second, one adds 100 entries a second."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = Event()
        self.lines = self.entries = 0
        self.unsure: set[int] = set()
        """Numbers whose reply was lost: they may be in the stream, or not."""
        self._threads = [Thread(target=self._append), Thread(target=self._add)]
        for thread in self._threads:
            thread.start()

    def _append(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 0.01
            with self._rig.log.open("ab", buffering=0) as file:
                file.write(b"".join(line(str(n), "agent") for n in (self.lines, self.lines + 1)))
            self.lines += 2

    def _add(self) -> None:
        connection: Connection | None = None
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 0.01
            try:
                connection = connection or Connection(self._rig.url)
            except BridgeError:
                continue
            try:
                self._rig.add(str(self.entries), "plain", connection)
            except RedisRefused:  # it reads its data
                continue
            except BridgeError:
                self.unsure.add(self.entries)
                connection.close()
                connection = None
            self.entries += 1
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        """Both."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Soak:
    """The stage, and what happens on it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.cast = Cast(rig)
        keep(rig, extra=CONFIG + METRICS, keep_entries=KEPT, archive=True)
        self.watched = Watched(rig)
        self.child = self.watched.start()
        for name in ("ui", "daemon"):
            self.cast.start("write", name, 0.009)  # 100 a second and a little more: an append takes about 1 ms
        self.cast.start("read", "viewer", 0)
        self.programs = Programs(rig)
        self.samples: list[dict[str, float]] = []
        self.done: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._moves = cycle(ROUND)

    def run(self, seconds: float) -> None:
        """Everything in its turn."""
        turns: dict[Callable[[], None], float] = {
            self.sample: SAMPLE, self.rotate: ROTATE, self.cut: CUT, self.switch: SWITCH, self.restart: RESTART,
        }  # fmt: skip
        due = {act: self._begun + every for act, every in turns.items()}
        while (now := time.monotonic()) < self._begun + seconds:
            act = min(due, key=lambda step: due[step])
            Event().wait(max(0.0, due[act] - now))
            act()
            self.done[act.__name__] += 1
            due[act] += turns[act]
            assert self.child.poll() is None, self.rig.said()[-3000:]
            assert not [name for name, child in self.cast.children.items() if child.poll() is not None], (
                self.cast.said()
            )

    def sample(self) -> None:
        """What the bridge takes, and how it does."""
        told = self.watched.samples()
        named = {
            name: value for (name, labels), value in told.items() if not labels or dict(labels) == {"mapping": NAME}
        }
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        ways = [value for (name, _), value in told.items() if name == "bridge_lag_messages"]
        self.samples.append({
            "seconds": round(time.monotonic() - self._begun, 1),
            "memory_mb": round(named["process_resident_memory_bytes"] / 1e6, 2),
            "descriptors": named["process_open_fds"],
            "threads": float(status.partition("Threads:")[2].split()[0]),
            "cpu_seconds": named["process_cpu_seconds_total"],
            "stream_entries": named.get("bridge_stream_entries", float("nan")),
            "waiting": sum(ways),
            "healthy": float(self.watched.health()[0] == 200),
            "ledger_mb": round(sum(p.stat().st_size for p in self.rig.state.glob("ledger.db*")) / 1e6, 2),
        })  # fmt: skip

    def rotate(self) -> None:
        """As logrotate does with `compress` and `delaycompress`."""
        root = self.rig.root
        for piece in self.rig.pieces():
            number = int(piece.name.split(".")[2])
            after = root / f"messages.log.{number + 1}.gz"
            if piece.suffix == ".gz":
                piece.rename(after)
                continue
            with piece.open("rb") as raw, gzip.open(after, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(raw, packed)
            piece.unlink()
        self.rig.log.rename(root / "messages.log.1")
        self.rig.log.touch()

    def cut(self) -> None:
        """Every connection ends, also that of who cuts."""
        self.rig.redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def restart(self) -> None:
        """The server is killed, and is there again."""
        self.rig.kill_server()
        self.rig.start_server()

    def switch(self) -> None:
        """A component goes over, or back."""
        self.cast.until_made(*next(self._moves))

    def written(self) -> dict[str, list[int]]:
        """What each program is sure to have written, in its order."""
        plain = [n for n in range(self.programs.entries) if n not in self.programs.unsure]
        return {
            "agent": [*range(self.programs.lines)], "plain": plain,
            **{name: self.cast.written(name) for name in ("ui", "daemon")},
        }  # fmt: skip


def in_order(found: Iterable[Sent], born: dict[Sent, bool], where: str) -> None:
    """Each program's messages stand in the order in which it wrote them: file-born ones, and Redis-born ones."""
    streams: dict[tuple[str, bool], list[int]] = {}
    for message in found:
        streams.setdefault((message[0], born[message]), []).append(message[1])
    for name, numbers in streams.items():
        wrong = [pair for pair in pairwise(numbers) if pair[0] >= pair[1]]
        assert not wrong, (where, name, wrong[:5])


@pytest.mark.timeout(0)
@pytest.mark.skipif(not SECONDS, reason="make soak runs it")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what the bridge takes is read in /proc")
def test_soak(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation, lost connections, killed servers, cut-overs there and back, retention: each message once on both sides."""
    monkeypatch.setattr(zygote, "FORKS", False)  # what a forked process takes is not what a bridge takes
    soak = Soak(rig)
    try:
        soak.run(SECONDS)
    finally:
        soak.programs.stop()
    for _ in range(-soak.done["switch"] % len(ROUND)):  # all are on the files again
        soak.switch()
    soak.cast.stop("ui", "daemon")
    written = soak.written()
    sure = {(role, number) for role, numbers in written.items() for number in numbers}
    maybe = {("plain", n) for n in soak.programs.unsure}

    def all_there() -> set[Sent]:
        return sure - {(message[0], message[1]) for message in soak.cast.seen("viewer")}

    wait_until(lambda: not all_there(), lambda: f"viewer misses {sorted(all_there())[:9]} {soak.cast.said()}")
    soak.cast.stop("viewer")
    wait_until(lambda: rig.parity(settling=1.0).verdict == "equal", rig.said)
    rig.stop(soak.child)

    entries = history(rig)
    streamed = [(entry.fields[1].decode(), int(entry.fields[7])) for entry in entries]
    filed = [(p[0].decode(), int(p[3])) for p in (row.split(b"|", 3) for row in rig.lines())]
    born = {sent: entry.origin() is None for sent, entry in zip(streamed, entries, strict=True)}
    for where, found in (("stream and archive", streamed), ("files", filed)):
        twice = [message for message, count in Counter(found).items() if count > 1]
        assert not twice, (where, twice[:9])
        assert sure <= set(found) <= sure | maybe, (where, sorted(sure - set(found))[:9], sorted(set(found) - sure)[:9])
        in_order(found, born, where)
    seen = soak.cast.seen("viewer")
    met: set[Sent] = set()
    for role, number, marked, *_ in seen:
        assert (role, number) not in met or marked, f"{role} {number} was given twice, unmarked"
        met.add((role, number))
    in_order(dict.fromkeys((message[0], message[1]) for message in seen if not message[2]), born, "viewer")
    result = prove(rig)
    assert (result.verdict, result.tally.compared) == ("equal", len(entries)), (result.tally, result.notes)

    report = {"messages": len(entries), "rate": round(len(entries) / SECONDS), "done": dict(soak.done),
              "repeats": sum(message[2] for message in seen), "unsure": len(maybe), "samples": soak.samples}  # fmt: skip
    print(json.dumps({key: value for key, value in report.items() if key != "samples"}))
    for name in ("memory_mb", "descriptors", "threads", "stream_entries", "waiting", "ledger_mb"):
        print(f"{name:15} {quarters(soak.samples, name)}")
    if PLOT:
        rows = ",\n".join(map(json.dumps, soak.samples))
        (Path(PLOT) / "soak.json").write_text(f"{json.dumps(report | {'samples': []})[:-2]}\n{rows}\n]}}\n")
        (Path(PLOT) / "soak.svg").write_text(over_time(soak.samples))
    assert (
        max(sample["stream_entries"] for sample in soak.samples if sample["stream_entries"] == sample["stream_entries"])
        < 3 * KEPT
    )
    if SECONDS >= 600:
        flat(soak.samples)


def quarters(samples: list[dict[str, float]], name: str) -> list[float]:
    """Medians of each quarter; what could not be told, as the server was away, is left out."""
    size = max(1, len(samples) // 4)
    return [
        median(sample[name] for sample in samples[i * size : (i + 1) * size] if sample[name] == sample[name])
        for i in range(4)
    ]


def flat(samples: list[dict[str, float]]) -> None:
    """From the second quarter on, nothing grows: memory by less than a twentieth, descriptors and threads not at all."""
    _, early, _, late = quarters(samples, "memory_mb")
    assert late < early * 1.05, (early, late)
    for name in ("descriptors", "threads"):
        _, before, _, after = quarters(samples, name)
        assert after <= before, (name, before, after)
