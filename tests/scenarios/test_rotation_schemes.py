"""Rotation as real loggers do it: imported, over while the bridge is stopped, and while it is asleep."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from bridge.engine.account.inventory import account_of
from bridge.engine.worker import carrier_of
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import dialler
from bridge.streams.embedded.binary import find
from tests.support.rig import Rig, delimited

DAY = 86_400
BEGAN = 1_772_359_200
"""2026-03-01 10:00:00 UTC."""

TURNS = 12
"""Rotations of a log that is imported: numbers go over nine."""


def moment(n: int) -> time.struct_time:
    """The n-th rotation is at the end of the n-th day."""
    return time.gmtime(BEGAN + n * DAY)


def stamped(n: int, form: str) -> str:
    return time.strftime(form, moment(n))


def shift(log: Path, name: Callable[[int], str]) -> None:
    """Each piece takes the next higher number."""
    last = 1
    while (log.parent / name(last)).exists() or (log.parent / f"{name(last)}.gz").exists():
        last += 1
    for n in range(last - 1, 0, -1):
        for suffix in ("", ".gz"):
            old = log.parent / f"{name(n)}{suffix}"
            if old.exists():
                old.rename(log.parent / f"{name(n + 1)}{suffix}")
    log.rename(log.parent / name(1))


def pack(path: Path, *, keeps_time: bool) -> None:
    """Compresses a piece, as gzip does, which keeps its time, or as a logger's own code, which does not."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    if keeps_time:
        os.utime(packed, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
    path.unlink()


def logrotate(log: Path, n: int) -> None:
    shift(log, lambda k: f"messages.log.{k}")


def logrotate_delaycompress(log: Path, n: int) -> None:
    logrotate(log, n)
    if (second := log.with_name("messages.log.2")).exists():
        pack(second, keeps_time=True)


def logrotate_dateext(log: Path, n: int) -> None:
    log.rename(log.with_name(stamped(n, "messages.log-%Y%m%d")))


def logrotate_extension(log: Path, n: int) -> None:
    log.rename(log.with_name(stamped(n, "messages-%Y%m%d.log")))


def logrotate_olddir(log: Path, n: int) -> None:
    (log.parent / "old").mkdir(exist_ok=True)
    for k in range(n, 0, -1):
        old = log.parent / "old" / f"messages.log.{k}"
        if old.exists():
            old.rename(old.with_name(f"messages.log.{k + 1}"))
    log.rename(log.parent / "old" / "messages.log.1")


def logback(log: Path, n: int) -> None:
    """Spring Boot: LOG.DATE.COUNTER.gz, several a day, the counter from 0 on and not padded."""
    piece = log.with_name(stamped(n // 12, f"messages.log.%Y-%m-%d.{n % 12}"))
    log.rename(piece)
    pack(piece, keeps_time=False)


def log4j2(log: Path, n: int) -> None:
    """DefaultRolloverStrategy, fileIndex=max: the highest number is the youngest piece."""
    log.rename(log.with_name(f"messages.log.{n + 1}"))


def winston(log: Path, n: int) -> None:
    log.rename(log.with_name(f"messages.{n + 1}.log"))


def serilog(log: Path, n: int) -> None:
    log.rename(log.with_name(f"messages_{n + 1:03}.log"))


def rotatelogs(log: Path, n: int) -> None:
    log.rename(log.with_name(f"messages.log.{BEGAN + n * DAY}"))


def multilog(log: Path, n: int) -> None:
    """TAI64N, as multilog, s6 and svlogd have it."""
    log.rename(log.with_name(f"messages.log.@{(1 << 62) + 10 + BEGAN + n * DAY:016x}{n * 1000:08x}"))


def glog(log: Path, n: int) -> None:
    log.rename(log.with_name(stamped(n, f"messages.log.INFO.%Y%m%d-%H%M%S.{9999 - n}")))


def minecraft(log: Path, n: int) -> None:
    piece = log.with_name(stamped(n // 12, f"messages-%Y-%m-%d-{n % 12 + 1}.log"))
    log.rename(piece)
    pack(piece, keeps_time=False)


def log4net(log: Path, n: int) -> None:
    log.rename(log.with_name(stamped(n, "messages.log.%d.%m.%Y")))


def american(log: Path, n: int) -> None:
    log.rename(log.with_name(stamped(n * 17, "messages.log.%m-%d-%Y")))


def random_suffix(log: Path, n: int) -> None:
    log.rename(log.with_name(f"messages.log.{hash_of(n)}"))


def hash_of(n: int) -> str:
    return "".join(chr(97 + (n * 7919 + k * 104729) % 26) for k in range(6))


def timed_python(log: Path, n: int) -> None:
    log.rename(log.with_name(stamped(n, "messages.log.%Y-%m-%d_%H-%M-%S")))


SCHEMES = (
    logrotate, logrotate_delaycompress, logrotate_dateext, logrotate_extension, logrotate_olddir, logback, log4j2,
    winston, serilog, rotatelogs, multilog, glog, minecraft, log4net, american, random_suffix, timed_python,
)  # fmt: skip

ROTATED = ("messages.log.*", "messages.log-*", "messages-*", "messages_*", "messages.*", "old/*")
MAPPING = delimited("messages.log", *ROTATED, mirror="messages.log")


@dataclass
class Log:
    """A log that is written and rotated; its lines tell times, or none that differ."""

    rig: Rig
    timed: bool
    written: int = 0
    turns: int = 0

    def write(self, count: int = 3) -> None:
        with self.rig.log.open("ab") as file:
            for _ in range(count):
                at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGAN + (self.turns if self.timed else 0) * DAY))
                file.write(f"agent|{at}|turn|m{self.written}\n".encode())
                self.written += 1

    def rotate(self, scheme: Callable[[Path, int], None]) -> None:
        scheme(self.rig.log, self.turns)
        self.turns += 1

    def check(self) -> None:
        """Each message once, in the writer's order; both sides equal, and every byte accounted for."""
        assert self.rig.datas() == [f"m{n}".encode() for n in range(self.written)]
        result = self.rig.parity()
        assert result.verdict == "equal", (result.tally.differences, result.account and result.account.sentences())
        with closing(Ledger(self.rig.state / "ledger.db")) as ledger, closing(self.shared()) as shared:
            assert account_of(shared, ledger, time.time, running=False).sentences() == []

    def shared(self) -> MappingContext:
        settings = self.rig.settings()
        return MappingContext(settings.mappings[0], settings)


@pytest.fixture
def log_of(tmp_path: Path) -> Iterator[Callable[[bool], Log]]:
    rig = Rig.shared(tmp_path, find())
    (rig.path / "mine.toml").write_text(MAPPING)
    rig.write_config(mapping="mine.toml")
    yield lambda timed: Log(rig, timed)
    rig.close_shared()


def each_scheme(test: Callable[..., None]) -> Callable[..., None]:
    """Plays a test with each scheme, with lines that tell times and with lines that tell none."""
    timed = pytest.mark.parametrize("timed", [True, False], ids=["timed", "untimed"])
    made: Callable[..., None] = timed(
        pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)(test)
    )
    return made


@each_scheme
def test_imported(log_of: Callable[[bool], Log], scheme: Callable[[Path, int], None], timed: bool) -> None:
    """History in a dozen pieces comes over in the order in which it was written, whatever the pieces' names count."""
    log = log_of(timed)
    for _ in range(TURNS):
        log.write()
        log.rotate(scheme)
    log.write()
    assert not log.rig.once().errors
    log.check()


@each_scheme
def test_stopped(log_of: Callable[[bool], Log], scheme: Callable[[Path, int], None], timed: bool) -> None:
    """Three rotations while the bridge is stopped lose nothing, and double nothing: once, and once more."""
    log = log_of(timed)
    for _ in range(2):
        log.write()
        assert not log.rig.once().errors
        for _ in range(3):
            log.write()
            log.rotate(scheme)
        log.write()
        assert not log.rig.once().errors
        log.check()


@each_scheme
def test_asleep(log_of: Callable[[bool], Log], scheme: Callable[[Path, int], None], timed: bool) -> None:
    """Three rotations while a running bridge sleeps, with the log open, lose nothing, and double nothing."""
    log = log_of(timed)
    settings = log.rig.settings()
    with closing(Ledger(settings.state_dir / "ledger.db", create=True)) as ledger, closing(log.shared()) as shared:
        forward = carrier_of(shared, ledger, Troubles(time.time), time.time, dialler(settings, shared.keys.stream))

        def carry() -> None:
            forward.look()
            if not forward.attached:
                forward.attach()
            for _ in range(50):
                while forward.step() or (forward.waits and not Event().wait(0.01)):
                    pass
                forward.look()
            forward.flush()

        for _ in range(2):
            log.write()
            carry()
            for _ in range(3):
                log.write()
                log.rotate(scheme)
            log.write()
            carry()
            assert not forward.failures()
        forward.release()
        forward.detach()
    log.check()


@pytest.mark.parametrize("scheme", [logrotate, log4j2], ids=lambda scheme: scheme.__name__)
def test_written_to_after_it_was_rotated(
    log_of: Callable[[bool], Log], scheme: Callable[[Path, int], None]
) -> None:  # fmt: skip
    """A program that writes on to a piece makes it look younger than those behind it: how names count was seen before."""
    log = log_of(False)
    for _ in range(3):
        log.write()
        assert not log.rig.once().errors
        log.rotate(scheme)
    log.write()
    assert not log.rig.once().errors
    for _ in range(3):
        log.rotate(scheme)
        log.write()
    known = next(path for path in log.rig.root.iterdir() if b"|m9\n" in path.read_bytes())
    with known.open("ab") as file:
        file.write(b"agent|2026-03-01T10:00:00Z|turn|late\n")
    assert not log.rig.once().errors
    datas = log.rig.datas()
    datas.remove(b"late")
    assert datas == [f"m{n}".encode() for n in range(log.written)]
