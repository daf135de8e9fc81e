"""Random programs of what becomes of files, against a model: any rotation, links, packing, clocks that step back, old
pieces that are put back, while a bridge runs, sleeps and is stopped. Half of the programs write a few lines that recur."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.engine.account.inventory import account_of, bring_over
from bridge.engine.once import bring_over as carry_late
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from tests.scenarios.test_model import acts, programs, shared_rig
from tests.scenarios.test_rotation_schemes import BEGAN, MAPPING, SCHEMES
from tests.support.rig import Rig
from tests.support.running import Running, mapped

Program = list[tuple[str, int]]


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Bridge:
    """A bridge that runs, sleeps, or is stopped."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.running: Running | None = None
        self.said = Said()
        logging.getLogger("bridge").addHandler(self.said)

    def sweep(self) -> None:
        if self.running is None:
            self.running = Running(self.rig)
        self.running.sweep(2)
        assert not self.running.forward.failures()

    def stop(self) -> None:
        if self.running is not None:
            self.running.close()
            self.running = None

    def once(self) -> None:
        self.stop()
        assert not self.rig.once(dual=False).errors

    def close(self) -> None:
        self.stop()
        logging.getLogger("bridge").removeHandler(self.said)

    def mend(self) -> list[str]:
        """Brings over what is unaccounted, once nothing is young any more; returns what that was."""
        self.stop()

        def later() -> float:
            return time.time() + 10

        settings = self.rig.settings()
        with closing(Ledger(settings.state_dir / "ledger.db", create=True)) as ledger:
            with closing(MappingContext(settings.mappings[0], settings)) as shared:
                found = account_of(shared, ledger, later, running=False)
                bring_over(shared, ledger, found.unaccounted, "test", time.time())
            if found.unaccounted:
                assert not carry_late(settings, settings.mappings[0], Event()).errors
            with closing(MappingContext(settings.mappings[0], settings)) as shared:
                assert account_of(shared, ledger, later, running=False).sentences() == []
            return found.sentences()


class Log:
    """One log, its pieces, and what was written to it, in order."""

    def __init__(self, rig: Rig, scheme: int, *, recurs: bool, timed: bool) -> None:
        self.rig = rig
        self.scheme = SCHEMES[scheme % len(SCHEMES)]
        self.recurs = recurs
        self.timed = timed
        self.written: list[bytes] = []
        self.restored: list[bytes] = []
        self.turns = 0
        self.clock = 0

    def line(self, data: str) -> bytes:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGAN + self.clock if self.timed else BEGAN))
        return f"agent|{at}|turn|{data}\n".encode()

    def write(self, n: int) -> None:
        with self.rig.log.open("ab") as file:
            for _ in range(n):
                self.clock += 7
                data = f"m{len(self.written) % 3 if self.recurs else len(self.written)}"
                file.write(self.line(data))
                self.written.append(data.encode())

    def pieces(self) -> list[Path]:
        folders = [self.rig.root, self.rig.root / "old"]
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]
        return sorted(path for path in found if path != self.rig.log)

    def rotate(self) -> None:
        if self.rig.log.exists():
            self.scheme(self.rig.log, self.turns)
            self.turns += 1

    def pack(self, n: int) -> None:
        """One of the pieces is compressed, at once."""
        plain = [path for path in self.pieces() if path.suffix != ".gz"]
        if plain:
            path = plain[n % len(plain)]
            packed = path.with_name(f"{path.name}.gz")
            if not packed.exists():
                packed.write_bytes(gzip.compress(path.read_bytes()))
                shutil.copystat(path, packed)
                path.unlink()

    def restore(self, n: int) -> None:
        """An old piece from before the bridge's time turns up, from a backup."""
        path = self.rig.root / f"messages.log.0{9000 + len(self.restored)}"
        data = f"old{len(self.restored)}"
        path.write_bytes(f"agent|2020-01-0{1 + n % 9}T00:00:00Z|turn|{data}\n".encode())
        os.utime(path, (1_577_836_800 + n, 1_577_836_800 + n))
        self.restored.append(data.encode())

    def put_back(self, n: int) -> None:
        """A piece is taken away and put back from a copy: other inode, other time."""
        pieces = self.pieces()
        if pieces:
            path = pieces[n % len(pieces)]
            whole, was = path.read_bytes(), path.stat()
            path.unlink()
            path.write_bytes(whole)
            os.utime(path, ns=(was.st_mtime_ns, was.st_mtime_ns))


def play(rig: Rig, program: Program, scheme: int, *, recurs: bool, timed: bool) -> None:
    (rig.path / "mine.toml").write_text(MAPPING)
    rig.write_config(mapping="mine.toml")
    log, bridge = Log(rig, scheme, recurs=recurs, timed=timed), Bridge(rig)
    try:
        for act, n in program:
            if act == "write":
                log.write(n)
            elif act == "rotate":
                log.rotate()
            elif act == "pack":
                log.pack(n)
            elif act == "step back":
                log.clock -= n
            elif act == "restore":
                log.restore(n)
            elif act == "put back":
                log.put_back(n)
            elif act == "sweep":
                bridge.sweep()
            elif act == "once":
                bridge.once()
            elif act == "stop":
                bridge.stop()
        bridge.once()
        named = bridge.mend()
        datas = rig.datas()
        assert Counter(datas) == Counter([*log.written, *log.restored]), (named, bridge.said.lines)
        mine = [data for data in datas if not data.startswith(b"old")]
        if mine != log.written:
            assert named or any("is taken for older" in said for said in bridge.said.lines), (mine, log.written)
        assert rig.parity().verdict == "equal"
    finally:
        bridge.close()


@programs(80)
@given(
    acts(
        14, write=(1, 9), rotate=(0, 0), pack=(0, 9), **{"step back": (1, 5000)}, restore=(0, 9), **{"put back": (0, 9)},
        sweep=(0, 0), once=(0, 0), stop=(0, 0),
    ),
    st.integers(0, len(SCHEMES) - 1), st.booleans(), st.booleans(),
)  # fmt: skip
@example(
    [("write", 2), ("once", 0), ("write", 2), ("rotate", 0), ("write", 2), ("rotate", 0), ("write", 1)], 6, False, True
)
@example([("write", 3), ("rotate", 0), ("write", 1), ("write", 1), ("write", 1)], 13, True, False)
@pytest.mark.timeout(1200)
def test_one_log(program: Program, scheme: int, recurs: bool, timed: bool) -> None:
    """Each message once, in the writer's order, or it is said which pieces' order nobody can be sure of."""
    with shared_rig() as rig:
        play(rig, program, scheme, recurs=recurs, timed=timed)


class Glob:
    """Many logs of one glob: sessions that begin alike, are renamed, linked, and end."""

    def __init__(self, rig: Rig, *, recurs: bool) -> None:
        self.rig = rig
        self.recurs = recurs
        self.made = 0
        self.files: dict[str, list[bytes]] = {}
        """What was written to each file, by the name that it has now."""
        self.gone: list[list[bytes]] = []
        self.count = 0

    def write(self, name: str, n: int) -> None:
        with (self.rig.root / name).open("ab") as file:
            for _ in range(n):
                data = "header" if not self.files[name] else f"m{self.count % 3 if self.recurs else self.count}"
                self.count += 1
                file.write(f"agent|2026-03-01T00:00:00Z|turn|{data}\n".encode())
                self.files[name].append(data.encode())

    def act(self, act: str, n: int) -> None:
        root, names = self.rig.root, sorted(self.files)
        name = names[n % len(names)] if names else ""
        if act == "new" or not name:
            name = f"s{self.made}.log"
            self.made += 1
            self.files[name] = []
            self.write(name, 1 + n % 3)
        elif act == "write":
            self.write(name, 1 + n % 4)
        elif act == "rename":
            other = f"r{self.made}.log"
            self.made += 1
            (root / name).rename(root / other)
            self.files[other] = self.files.pop(name)
        elif act == "follow":  # renamed, and another one begins under its name
            other = f"r{self.made}.log"
            self.made += 1
            (root / name).rename(root / other)
            self.files[other], self.files[name] = self.files[name], []
            self.write(name, 1 + n % 3)
        elif act == "link":
            link = root / "current.log"
            link.unlink(missing_ok=True)
            link.symlink_to(name)
        elif act == "hard link":
            os.link(
                root / name, root / f"h{self.made}.log"
            )  # a name of its own: of one content it would be the same log
            self.made += 1


@programs(60)
@given(
    acts(16, new=(0, 9), write=(0, 40), rename=(0, 9), follow=(0, 9), link=(0, 9), **{"hard link": (0, 9)}, sweep=(0, 0),
         once=(0, 0), stop=(0, 0), end=(0, 9)),
    st.booleans(),
)  # fmt: skip
@example([("new", 0), ("rename", 0), ("sweep", 0), ("follow", 0), ("end", 0), ("write", 0)], False)
@pytest.mark.timeout(1200)
def test_many_logs(program: Program, recurs: bool) -> None:
    """Each message of each session once, in its order, whatever names and links lead to it."""
    with shared_rig() as rig:
        mapped(rig, "*.log")
        glob, bridge = Glob(rig, recurs=recurs), Bridge(rig)
        try:
            for act, n in program:
                if act == "sweep":
                    bridge.sweep()
                elif act == "once":
                    bridge.once()
                elif act == "stop":
                    bridge.stop()
                elif act == "end":
                    bridge.once()  # what was not carried yet would be gone
                    for link in (rig.root / "current.log", *rig.root.glob("h*.log")):
                        link.unlink(missing_ok=True)
                    if glob.files:
                        name = sorted(glob.files)[n % len(glob.files)]
                        (rig.root / name).unlink()
                        glob.gone.append(glob.files.pop(name))
                else:
                    glob.act(act, n)
            bridge.once()
            assert bridge.mend() == []
            wanted = [*glob.files.values(), *glob.gone]
            datas = rig.datas()
            assert Counter(datas) == Counter(data for some in wanted for data in some)
            if not recurs:
                for some in wanted:
                    mine = [data for data in some if data != b"header"]
                    assert [data for data in datas if data in set(mine)] == mine
            assert rig.parity().verdict in ("equal", "inconclusive")
        finally:
            bridge.close()
