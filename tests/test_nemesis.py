"""A random nemesis: every fault of the table at random instants, from a printed seed, while both sides are written.

Bridge and server are killed and suspended, connections are cut, calls fail, logs are rotated in every way, and parity
looks in between. Then the oracle: each message once on both sides, in order, and no look said what is not so.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from threading import Event, Lock, Thread

import pytest

from bridge.errors import BridgeError
from bridge.streams.connect import Connection
from tests.rig import STREAM, Rig, line, wait_until
from tests.test_raised import injected
from tests.test_rotation import copytruncate, pack, rotate

SECONDS = float(os.environ.get("BRIDGE_NEMESIS") or ("600" if os.environ.get("BRIDGE_SOAK") else "0"))


class Programs:
    """Two that append, one that keeps an old descriptor, and one that adds entries; whatever dies, they go on."""

    def __init__(self, rig: Rig) -> None:
        self.file_born: dict[str, list[bytes]] = {"a": [], "b": []}
        self.late: list[bytes] = []
        self.redis_born: list[bytes] = []
        self.unsure: set[bytes] = set()
        self.turn = Lock()
        """Held while a log is copied and emptied: what is written in between is lost by that, to everybody."""
        self._rig = rig
        self._stop = Event()
        works = [lambda: self._append("a"), lambda: self._append("b"), self._keep, self._add]
        self._threads = [Thread(target=work) for work in works]
        for thread in self._threads:
            thread.start()

    def _append(self, name: str) -> None:
        n = 0
        while not self._stop.wait(0.01):
            data = f"f-{name}-{n}".encode()
            with self.turn, self._rig.log.open("ab", buffering=0) as file:
                file.write(line(data))
                self.file_born[name].append(data)
            n += 1

    def _keep(self) -> None:
        n = 0
        while not self._stop.is_set():
            try:
                file = self._rig.log.open("r+b", buffering=0)
            except FileNotFoundError:
                self._stop.wait(0.01)
                continue
            with file:
                for _ in range(3):
                    self._stop.wait(0.3)
                    with self.turn:
                        if os.fstat(file.fileno()).st_nlink == 0:  # packed meanwhile: what it writes is nowhere
                            break
                        os.lseek(file.fileno(), 0, os.SEEK_END)
                        data = f"late-{n}".encode()
                        with open(f"/proc/self/fd/{file.fileno()}", "ab", buffering=0) as again:
                            again.write(line(data))
                        self.late.append(data)
                    n += 1

    def _add(self) -> None:
        n, connection = 0, None
        while not self._stop.wait(0.005):
            data = f"r-{n}".encode()
            n += 1
            try:
                connection = connection or Connection(self._rig.url, timeout=2)
                self._rig.add(data, connection=connection)
                self.redis_born.append(data)
            except BridgeError:
                self.unsure.add(data)  # it may be in or not
                if connection is not None:
                    connection.close()
                connection = None

    def write_on(self, lines: int) -> None:
        """Returns once so many more lines were appended: how long a fault lasts."""
        begun = sum(map(len, self.file_born.values()))
        wait_until(lambda: sum(map(len, self.file_born.values())) >= begun + lines, "more writing")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Nemesis:
    """What goes wrong. `faults` counts what it did."""

    def __init__(self, rig: Rig, programs: Programs, dice: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self._rig = rig
        self._programs = programs
        self.dice = dice
        self._inject = rig.path / "inject"
        self.child = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        child, _ = injected(self._rig, self.dice.randrange(1 << 30), 5)
        return child

    def strike(self) -> None:
        acts = {
            self.kill: 8, self.suspend: 3, self.kill_server: 1, self.cut: 4, self.fails: 5, self.rename: 4,
            self.copytruncate: 4, self.pack: 3, self.save: 1, self.rewrite: 1, self.pause: 1, self.full: 1, self.look: 2,
        }  # fmt: skip
        [act] = self.dice.choices([*acts], [*acts.values()])
        act()
        self.faults[act.__name__] += 1
        assert self.child.poll() is None, self._rig.said()[-4000:]

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        self.child = self._started()

    def suspend(self) -> None:
        self.child.send_signal(signal.SIGSTOP)
        self._programs.write_on(self.dice.randrange(100))
        self.child.send_signal(signal.SIGCONT)

    def kill_server(self) -> None:
        self._rig.kill_server()
        self._rig.start_server()

    def cut(self) -> None:
        self._rig.redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def fails(self) -> None:
        """Calls of the bridge's fail for a moment, each with every error."""
        self._rig.ready(self.child)
        told = self._inject / "told"
        before = len(told.read_text().splitlines()) if told.exists() else 0
        (self._inject / "go").touch()
        self._programs.write_on(40)
        (self._inject / "go").unlink()
        after = len(told.read_text().splitlines()) if told.exists() else 0
        self.faults["errors injected"] += after - before

    def rename(self) -> None:
        with self._programs.turn:
            rotate(self._rig)

    def copytruncate(self) -> None:
        with self._programs.turn:
            if self._rig.log.exists():
                self.child.send_signal(signal.SIGSTOP)  # what the mirror writes in between would be lost as well
                copytruncate(self._rig)
                self.child.send_signal(signal.SIGCONT)

    def pack(self) -> None:
        with self._programs.turn:
            plain = [path for path in self._rig.pieces() if path.suffix[1:].isdigit()][:-2]
            if plain:
                pack(plain[0])

    def save(self) -> None:
        """As an editor saves: the same content under another inode."""
        with self._programs.turn:
            if self._rig.log.exists():
                self.child.send_signal(signal.SIGSTOP)
                hidden = self._rig.root / ".saved"
                shutil.copy2(self._rig.log, hidden)
                hidden.rename(self._rig.log)
                self.child.send_signal(signal.SIGCONT)

    def rewrite(self) -> None:
        try:
            self._rig.redis.call("BGREWRITEAOF")
        except BridgeError:
            return  # one is under way

    def pause(self) -> None:
        self._rig.redis.call("CLIENT", "PAUSE", 300, "WRITE")

    def full(self) -> None:
        self._rig.redis.call("CONFIG", "SET", "maxmemory", "1mb")
        self._programs.write_on(30)
        self._rig.redis.call("CONFIG", "SET", "maxmemory", "0")

    def look(self) -> None:
        result = self._rig.parity(settling=1.0)
        self.looks[result.verdict] += 1
        assert result.verdict != "differs", f"{result.counts()} {result.tally.differences[:3]} {result.notes}"


def once_each(wanted: list[bytes], found: list[bytes]) -> list[bytes]:
    """What is missing, or there twice."""
    counts = Counter(found)
    return [data for data in wanted if counts[data] != 1]


@pytest.mark.skipif(not (os.environ.get("BRIDGE_SOAK") or os.environ.get("BRIDGE_NEMESIS")), reason="make soak runs it")
@pytest.mark.timeout(3600)
def test_nemesis(rig: Rig) -> None:
    """Whatever goes wrong, at whatever moment: each message stands once on both sides, in its order."""
    seed = int(os.environ.get("BRIDGE_SEED") or random.randrange(1 << 30))
    programs = Programs(rig)
    nemesis = Nemesis(rig, programs, random.Random(seed))
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            nemesis.strike()
            programs.write_on(nemesis.dice.randrange(20))
    finally:
        programs.stop()
    said = f"seed {seed}, {dict(nemesis.faults)}"
    born = [data for some in programs.file_born.values() for data in some] + programs.late

    def there() -> str:
        datas, lines = rig.datas(), [raw.split(b"|", 3)[3] for raw in rig.lines()]
        redis_born = programs.redis_born + [data for data in datas if data in programs.unsure]
        wanted = [*born, *redis_born]
        wrong = [("stream", once_each(wanted, datas)[:5]), ("files", once_each(wanted, lines)[:5])]
        return "" if not any(found for _, found in wrong) and len(datas) == len(lines) == len(wanted) else str(wrong)

    wait_until(lambda: not there(), lambda: f"{said}: {there()} {rig.said()[-3000:]}", 40)
    rig.stop(nemesis.child)
    assert not there(), said
    datas = rig.datas()
    for name, wanted in programs.file_born.items():
        assert [data for data in datas if data.startswith(b"f-%b-" % name.encode())] == wanted, said
    lines = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    order = [data for data in datas if data.startswith(b"r-")]
    assert [data for data in lines if data.startswith(b"r-")] == order, said
    assert rig.parity().verdict == "equal", said
    total = sum(nemesis.faults.values())
    print(f"\n{said}: {total} faults, {len(datas)} messages, looks {dict(nemesis.looks)}")
    assert int(rig.redis.call("XLEN", STREAM)) == len(datas)
    assert isinstance(rig.path, Path)
