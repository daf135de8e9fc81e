"""A random nemesis: every fault of the table at random instants, from a printed seed, while every kind is written.

Bridge and server are killed and suspended, connections are cut, replies and calls fail, logs are rotated in every way,
components are cut over and back, and parity looks in between. Then the oracle: each message once on both sides, in
order, and no look said what is not so.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from bridge.errors import BridgeError
from bridge.server.embedded import pid_of
from tests.cast import Cast
from tests.proxy import Proxy
from tests.rig import Rig, wait_until
from tests.test_cutover_faults import ROUND
from tests.test_raised import injected
from tests.test_rotation import copytruncate, pack, rotate
from tests.workstation import MAPPINGS, Workstation

SECONDS = float(os.environ.get("BRIDGE_NEMESIS") or ("600" if os.environ.get("BRIDGE_SOAK") else "20"))
FEW = 64
"""Descriptors that a bridge has, now and then."""


class Switcher:
    """An operator who cuts a reader and a writer over, and back, all the time; what fails is tried again."""

    def __init__(self, cast: Cast) -> None:
        self.made = 0
        self._cast = cast
        self._stop = Event()
        self._thread = Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(1.0):
            try:
                with self._cast.operator() as operator:
                    list(operator.complete())
                self._cast.switch(*ROUND[self.made % len(ROUND)])
            except BridgeError:
                continue
            except ValueError:  # no step was left: the one before had been made
                pass
            self.made += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Nemesis:
    """What goes wrong. `faults` counts what it did."""

    def __init__(self, rig: Rig, station: Workstation, cast: Cast, dice: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.dice = dice
        self._rig = rig
        self._station = station
        self._cast = cast
        self._inject = rig.path / "inject"
        self._ill = 0
        """Replies that are still to be lost."""
        self.proxy = Proxy(rig.server, self._fault)
        self.child = self._started()

    def _fault(self, piece: bytes, number: int) -> str:
        if not self._ill or not any(sign in piece for sign in (b"EXEC", b"XREAD", b"HSET")):
            return "pass"
        self._ill -= 1
        return "swallow" if self._ill % 2 else "cut"

    def _started(self) -> subprocess.Popen[bytes]:
        few = FEW if self.dice.random() < 0.2 else 0
        child, _ = injected(self._rig, self.dice.randrange(1 << 30), 6, url=self.proxy.url, files=few)
        return child

    def strike(self) -> None:
        acts = {
            self.kill: 8, self.suspend: 3, self.kill_server: 1, self.kill_both: 1, self.suspend_server: 1, self.cut: 4,
            self.lose_replies: 3, self.fails: 5, self.rename: 4, self.copytruncate: 4, self.pack: 3, self.save: 1,
            self.rewrite: 1, self.pause: 1, self.full: 1, self.small_buffer: 1, self.look: 2,
        }  # fmt: skip
        [act] = self.dice.choices([*acts], [*acts.values()])
        act()
        self.faults[act.__name__] += 1
        assert self.child.poll() is None, self._rig.said()[-4000:]

    # -- processes ---------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        self.child = self._started()

    def suspend(self) -> None:
        self.child.send_signal(signal.SIGSTOP)
        self._station.write_on(self.dice.randrange(100))
        self.child.send_signal(signal.SIGCONT)

    def kill_server(self) -> None:
        self._rig.kill_server()
        self._rig.start_server()

    def kill_both(self) -> None:
        self.child.kill()
        self.child.wait()
        self.kill_server()
        self.child = self._started()

    def suspend_server(self) -> None:
        pid = pid_of(self._rig.server)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        self._station.write_on(self.dice.randrange(100))
        os.kill(pid, signal.SIGCONT)

    # -- the server ----------------------------------------------------------------------------------------------

    def cut(self) -> None:
        self._rig.redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def lose_replies(self) -> None:
        self._ill = self.dice.randrange(1, 6)

    def rewrite(self) -> None:
        try:
            self._rig.redis.call("BGREWRITEAOF")
        except BridgeError:
            return  # one is under way

    def pause(self) -> None:
        self._rig.redis.call("CLIENT", "PAUSE", 300, "WRITE")

    def full(self) -> None:
        self._rig.redis.call("CONFIG", "SET", "maxmemory", "1mb")
        self._station.write_on(30)
        self._rig.redis.call("CONFIG", "SET", "maxmemory", "0")

    def small_buffer(self) -> None:
        limit = "client-output-buffer-limit"
        self._rig.redis.call("CONFIG", "SET", limit, "normal 16kb 8kb 1")
        self._station.write_on(30)
        self._rig.redis.call("CONFIG", "SET", limit, "normal 0 0 0")

    # -- the disk ------------------------------------------------------------------------------------------------

    def fails(self) -> None:
        """Calls of the bridge's fail for a moment, each with every error."""
        self._rig.ready(self.child)
        told = self._inject / "told"
        before = len(told.read_text().splitlines()) if told.exists() else 0
        (self._inject / "go").touch()
        self._station.write_on(40)
        (self._inject / "go").unlink()
        after = len(told.read_text().splitlines()) if told.exists() else 0
        self.faults["errors injected"] += after - before

    def rename(self) -> None:
        with self._station.turn:
            rotate(self._rig)

    @contextmanager
    def _nobody_writes(self) -> Iterator[bool]:
        """Whether there is a log, to which nobody writes for a while: that would be lost as it is copied."""
        others = [self.child, self._cast.children["ui"]]
        with self._station.turn:
            for other in others:
                other.send_signal(signal.SIGSTOP)
            try:
                yield self._rig.log.exists()
            finally:
                for other in others:
                    other.send_signal(signal.SIGCONT)

    def copytruncate(self) -> None:
        with self._nobody_writes() as there:
            if there:
                copytruncate(self._rig)

    def pack(self) -> None:
        with self._nobody_writes():
            plain = [path for path in self._rig.pieces() if path.suffix[1:].isdigit()][:-2]
            if plain:
                pack(plain[0])

    def save(self) -> None:
        """As an editor saves: the same content under another inode."""
        hidden = self._rig.root / ".saved"
        with self._nobody_writes() as there:
            if there:
                shutil.copy2(self._rig.log, hidden)
                hidden.rename(self._rig.log)

    # -- who looks -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        for result in self._rig.looks(settling=1.0):
            self.looks[result.verdict] += 1
            if result.verdict == "inconclusive":
                self.reasons[f"{result.mapping}: {result.notes}"] += 1
            assert result.verdict != "differs", (
                f"{result.mapping} {result.counts()} {result.tally.differences[:3]} {result.notes}"
            )


@pytest.mark.timeout(7200)
def test_nemesis(rig: Rig) -> None:
    """Whatever goes wrong, at whatever moment: each message of each kind stands once on both sides, in its order."""
    seed = int(os.environ.get("BRIDGE_SEED") or random.randrange(1 << 30))
    cast = Cast(rig, '", "'.join(MAPPINGS))
    station = Workstation(rig)
    nemesis = Nemesis(rig, station, cast, random.Random(seed))
    rig.beats(nemesis.child)
    cast.start("write", "ui", 0.05)
    cast.start("read", "viewer", 0)
    switcher = Switcher(cast)
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            nemesis.strike()
            station.write_on(nemesis.dice.randrange(20))
    finally:
        switcher.stop()
        station.stop()
        cast.stop("ui")
        faults = dict(nemesis.faults)
        said = f"seed {seed}, {sum(faults.values())} faults {faults}, {switcher.made} switches, looks {dict(nemesis.looks)}"
        print(f"\n{said} {dict(nemesis.reasons)}")

    def wrong() -> str:
        return station.wrong(b"%d" % number for number in cast.written("ui"))

    wait_until(lambda: not wrong(), lambda: f"{said}: {wrong()} {rig.said()[-3000:]}", 60)
    cast.settled("viewer", "ui")
    cast.stop("viewer")
    cast.check("viewer", "ui", repeats=True, mixed=True)
    rig.stop(nemesis.child)
    nemesis.proxy.close()
    assert not wrong(), said
    verdicts = {result.mapping: (result.verdict, result.notes) for result in rig.looks()}
    assert {verdict for verdict, _ in verdicts.values()} == {"equal"}, f"{said} {verdicts}"
    print(f"{len(rig.entries())} messages of the log")
