"""Parity while the log is copied and emptied every half second: no false word, and hardly ever none at all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from threading import Event, Lock, Thread

import pytest

from bridge.streams.connect import Connection
from tests.files.test_rotation import copytruncate
from tests.support.rig import STREAM, Rig, line

LEGS, LOOKS = (10, 100) if os.environ.get("BRIDGE_SOAK") else (1, 12)
"""How often both sides begin anew, as no piece is deleted, and how many looks there are each time."""


class Busy:
    """Two programs that write on both sides, and a log that is copied and emptied each half second."""

    def __init__(self, rig: Rig, child: subprocess.Popen[bytes]) -> None:
        self._rig = rig
        self._child = child
        self._stop = Event()
        self._turn = Lock()
        self.rotations = 0
        self._threads = [Thread(target=work) for work in (self._append, self._add, self._rotate)]
        for thread in self._threads:
            thread.start()

    def _append(self) -> None:
        n = 0
        while not self._stop.wait(0.01):
            with self._turn, self._rig.log.open("ab") as file:
                file.write(line(f"f-{n}") + line(f"f-{n}-more"))
            n += 1

    def _add(self) -> None:
        n, connection = 0, Connection(self._rig.url)
        while not self._stop.wait(0.02):
            self._rig.add(f"r-{n}", connection=connection)
            n += 1
        connection.close()

    def _rotate(self) -> None:
        while not self._stop.wait(0.5):
            with self._turn:  # what anybody writes between copy and cut is lost by that, so nobody does
                self._child.send_signal(signal.SIGSTOP)
                copytruncate(self._rig)
                self._child.send_signal(signal.SIGCONT)
            self.rotations += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("leg", range(LEGS))
def test_looks_under_copytruncate(rig: Rig, leg: int) -> None:
    """A look is equal, or inconclusive in one of twenty at most; with an entry that is there twice it is never equal."""
    seed = int(os.environ.get("BRIDGE_SEED") or random.randrange(1 << 30))
    dice = random.Random(seed)
    rig.append("f-first")
    child = rig.beats(rig.ready(rig.start()))
    busy = Busy(rig, child)
    sound: Counter[str] = Counter()
    doubled: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    try:
        for n in range(LOOKS):
            planted = None
            if n % 10 == 9:  # of a line, as another entry of a producer's is another message
                born = [entry for entry in rig.entries()[-500:] if entry.origin() is not None]
                planted = rig.redis.call("XADD", STREAM, "*", *dice.choice(born).fields)
            result = rig.parity(settling=1.0)
            (doubled if planted else sound)[result.verdict] += 1
            if planted:
                rig.redis.call("XDEL", STREAM, planted)
            if result.verdict == "inconclusive":
                reasons[str(result.notes)] += 1
            said = f"seed {seed}, look {n}: {result.counts()} {result.tally.differences[:3]} {result.notes}"
            assert result.verdict in (("differs", "inconclusive") if planted else ("equal", "inconclusive")), said
    finally:
        busy.stop()
    print(f"\nseed {seed}, {busy.rotations} rotations, sound {dict(sound)}, doubled {dict(doubled)}, {dict(reasons)}")
    assert sound["inconclusive"] + doubled["inconclusive"] <= max(1, LOOKS // 20), reasons
    rig.stop(child)
    assert rig.parity().verdict == "equal"
