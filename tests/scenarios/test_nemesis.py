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
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Lock, Thread

import pytest

from bridge.core.errors import BridgeError
from bridge.streams.connect import Connection
from bridge.streams.embedded.embedded_server import pid_of
from tests.files.test_rotation import copytruncate, pack, rotate
from tests.scenarios.test_cutover_faults import ROUND
from tests.scenarios.test_raised import injected
from tests.support.cast import Cast
from tests.support.proxy import Proxy
from tests.support.rig import Rig, wait_until
from tests.support.workstation import MAPPINGS, Workstation

SECONDS = float(os.environ.get("BRIDGE_NEMESIS") or ("600" if os.environ.get("BRIDGE_SOAK") else "20"))
PAST = SECONDS > 20
"""Whether time goes back as well: a short run would see little else than what is made anew after it."""

FEW = 64
"""Descriptors that a bridge has, now and then."""


class Switcher:
    """An operator who cuts a reader and a writer over, and back, all the time; what fails is tried again."""

    def __init__(self, cast: Cast) -> None:
        self.made = 0
        self.turn = Lock()
        """Held while a component is switched, and while nobody may be."""
        self._cast = cast
        self._stop = Event()
        self._thread = Thread(target=self._work)

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(1.0):
            with self.turn:
                self._switch()

    def _switch(self) -> None:
        try:
            with self._cast.operator() as operator:
                list(operator.complete())
            self._cast.switch(*ROUND[self.made % len(ROUND)])
        except BridgeError:
            return
        except ValueError:  # no step was left: the one before had been made
            pass
        self.made += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def suspended(child: subprocess.Popen[bytes]) -> None:
    """Suspends a process, and returns once all its threads stand still: until then one may write."""
    child.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{child.pid}/task")

    def stands() -> bool:
        return child.poll() is not None or all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] in "TZ" for task in tasks.iterdir()
        )

    wait_until(stands, "the suspension")


class Nemesis:
    """What goes wrong. `faults` counts what it did."""

    def __init__(self, rig: Rig, station: Workstation, cast: Cast, switcher: Switcher, dice: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.dice = dice
        self._rig = rig
        self._station = station
        self._cast = cast
        self._switcher = switcher
        self._backup = rig.path / "backup.db"
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
            self.rewrite: 1, self.pause: 1, self.full: 1, self.small_buffer: 1, self.look: 2, self.back_up: PAST,
            self.put_back: PAST, self.swap: PAST, self.fall_back: PAST, self.take_turns: PAST,
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

    def ends(self) -> None:
        """No call fails any more."""
        (self._inject / "over").touch()

    def rename(self) -> None:
        with self._station.turn:
            rotate(self._rig)

    @contextmanager
    def _nobody_writes(self) -> Iterator[bool]:
        """Whether there is a log, to which nobody writes for a while: that would be lost as it is copied."""
        others = [self.child, self._cast.children["ui"]]
        with self._station.turn:
            for other in others:
                suspended(other)
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

    # -- time that goes back -----------------------------------------------------------------------------------

    def back_up(self) -> None:
        """A copy of the ledger, as the book says."""
        self._copy(self._ledger, self._backup)

    def put_back(self) -> None:
        """The ledger as it was at the last backup; where files and stream do not prove it, the newer one again."""
        if not self._backup.exists():
            return
        self._rig.ready(self.child)  # before that a signal ends it as the system does
        newer = self._rig.path / "newer.db"
        with self._switcher.turn:  # an operator has the ledger open as well
            self._rig.stop(self.child)
            self._copy(self._ledger, newer)
            self._use(self._backup)
        before = self._unproved()
        self.child = self._rig.beats(self._started())
        self._station.write_on(40)
        if self._unproved() > before:
            self.faults["put back in vain"] += 1
            with self._switcher.turn:
                self._rig.stop(self.child)
                self._use(newer)
            self.child = self._started()

    @staticmethod
    def _copy(ledger: Path, to: Path) -> None:
        with closing(sqlite3.connect(ledger)) as whole, closing(sqlite3.connect(to)) as copy:
            whole.backup(copy)

    @property
    def _ledger(self) -> Path:
        return self._rig.state / "ledger.db"

    def _use(self, ledger: Path) -> None:
        for suffix in ("-wal", "-shm"):
            self._ledger.with_name(self._ledger.name + suffix).unlink(missing_ok=True)
        shutil.copy(ledger, self._ledger)

    def _unproved(self) -> int:
        return self._rig.said().count("do not show what was carried")

    @contextmanager
    def _nobody_adds(self) -> Iterator[None]:
        """Programs neither add to Redis nor read there, nor is one switched: what they did there would be lost."""
        station, others = self._station, [*self._cast.children.values()]
        with self._switcher.turn, station.messages.turn, station.letters.turn:
            for other in others:
                suspended(other)
            try:
                yield
            finally:
                for other in others:
                    other.send_signal(signal.SIGCONT)

    def swap(self) -> None:
        """Redis is empty for a moment, and then it is as it was: a server that was started without its data."""
        with self._nobody_adds():
            self._rig.redis.call("SWAPDB", 0, 5)
            self._station.write_on(self.dice.randrange(60))
            self._rig.redis.call("SWAPDB", 0, 5)
        self._forget_other()

    def fall_back(self) -> None:
        """Redis is as it was a moment ago: a failover to a replica that was behind."""
        data = self._rig.path / "server-state" / "server"
        behind = self._rig.path / "behind"
        with self._nobody_adds():
            self._rig.kill_server()
            shutil.copytree(data, behind)
            self._rig.start_server()
            self._station.write_on(self.dice.randrange(100))
            self._rig.kill_server()
            shutil.rmtree(data)
            behind.rename(data)
            self._rig.start_server()

    def take_turns(self) -> None:
        """Redis is as it was a moment ago, and then as it was without that: two masters that take turns."""
        with self._nobody_adds():
            for key in self._rig.redis.call("KEYS", "*"):
                self._rig.redis.call("COPY", key, key, "DB", 5, "REPLACE")
            for _ in range(2):
                self._station.write_on(self.dice.randrange(60))
                self._rig.redis.call("SWAPDB", 0, 5)
            self._station.write_on(self.dice.randrange(60))
        self._forget_other()

    def _forget_other(self) -> None:
        with closing(Connection(self._rig.url.replace("db=0", "db=5"))) as other:
            other.call("FLUSHDB")

    # -- who looks -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        for result in self._rig.looks(settling=1.0):
            self.looks[result.verdict] += 1
            if result.verdict == "inconclusive":
                self.reasons[f"{result.mapping}: {result.notes}"] += 1
            assert result.verdict != "differs", (
                f"{result.mapping} {result.counts()} {result.tally.differences[:3]} {result.notes}"
                f" {result.account.sentences() if result.account is not None else ''}\n{self._rig.known_files()}"
            )


@pytest.mark.timeout(7200)
def test_nemesis(rig: Rig) -> None:
    """Whatever goes wrong, at whatever moment: each message of each kind stands once on both sides, in its order."""
    seed = int(os.environ.get("BRIDGE_SEED") or random.randrange(1 << 30))
    cast = Cast(rig, '", "'.join(MAPPINGS))
    station = Workstation(rig)
    switcher = Switcher(cast)
    nemesis = Nemesis(rig, station, cast, switcher, random.Random(seed))
    rig.beats(nemesis.child)
    cast.start("write", "ui", 0.05)
    cast.start("read", "viewer", 0)
    switcher.start()
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            nemesis.strike()
            station.write_on(nemesis.dice.randrange(20))
    finally:
        nemesis.ends()
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
