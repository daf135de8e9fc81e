"""Calls that fail while the process lives: at every named point, and at every system call it makes; then the oracle.

A kill throws memory away and an exception keeps it, so these are other tests than those that kill.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from threading import Event, Thread

import pytest

from bridge.core.errors import LedgerError
from bridge.engine.run import Process
from bridge.ledger.store import Ledger
from bridge.streams.reader import entries
from tests.files.test_rotation import pack, rotate
from tests.kinds.test_spool import deep
from tests.kinds.test_spool_crash import POINTS as SPOOL_POINTS
from tests.kinds.test_spool_crash import Programs
from tests.kinds.test_spool_crash import settled as spool_settled
from tests.scenarios.test_crash import Writers
from tests.scenarios.test_everything import MAPPINGS, write
from tests.support import zygote
from tests.support.inbox import Inbox
from tests.support.many import Sessions, SessionWriters
from tests.support.rig import RUNNING, Rig, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
KINDS = 5 if SOAK else 2
"""Errors that each call fails with."""


def more_after(rig: Rig, said: str, writers: Writers | Programs, messages: int = 20) -> None:
    """Waits until the bridge has said this, and until each side has got so many messages more."""
    wait_until(lambda: said in rig.said(), lambda: f"{said}; {rig.said()}")
    in_redis, in_files = len(writers.redis_born) + messages, len(writers.file_born) + messages
    wait_until(lambda: len(writers.redis_born) > in_redis and len(writers.file_born) > in_files, "more writing")


@pytest.mark.parametrize("kind", ["EIO", "ENOSPC"] if SOAK else ["EIO"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", RUNNING)
def test_raised_at(rig: Rig, point: str, when: str, kind: str) -> None:
    """An error at this point, which the process survives, loses nothing and doubles nothing, in either direction."""
    rig.append("f-first")
    rig.add("r-first")
    child = rig.start(crash=f"{point}.{when}:raise={kind}:2")
    writers = Writers(rig, "a")
    more_after(rig, f"raised at {point}.{when}", writers)
    writers.stop()
    assert child.poll() is None, rig.said()
    rig.settle([b"f-first", *writers.file_born], [b"r-first", *writers.redis_born])
    rig.stop(child)
    rig.check([b"f-first", *writers.file_born], [b"r-first", *writers.redis_born])


@pytest.mark.parametrize("when", ["before", "after"] if SOAK else ["after"])
@pytest.mark.parametrize("point", SPOOL_POINTS)
def test_raised_at_of_a_spool(one_rig: Rig, point: str, when: str) -> None:
    """The same of a folder with a file per message."""
    inbox = Inbox(one_rig, mapping=str(deep(one_rig, settle=20)))
    child = one_rig.start(crash=f"{point}.{when}:raise:2")
    programs = Programs(inbox, "a")
    more_after(one_rig, f"raised at {point}.{when}", programs, messages=10)
    programs.stop()
    assert child.poll() is None, one_rig.said()
    spool_settled(inbox, programs.file_born, programs.redis_born, child)


class Rotator:
    """Renames the log now and then, as logrotate does; every second piece is packed later."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = Event()
        self._thread = Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        for n in range(12):
            if self._stop.wait(0.4):
                return
            rotate(self._rig)
            if n % 2 and (older := self._rig.root / "messages.log.3").exists():
                pack(older)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def injected(
    rig: Rig, seed: int, kinds: int, *, url: str | None = None, files: int = 0
) -> tuple[subprocess.Popen[bytes], Path]:
    """`bridge run --dual` whose calls fail, each with so many kinds of error, while `go` is in the folder.

    `files`: so many descriptors are all it has.
    """
    folder = rig.path / "inject"
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "INJECT": str(folder), "INJECT_SEED": str(seed), "INJECT_KINDS": str(kinds),
           "INJECT_FILES": str(files), "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    with (rig.path / f"bridge-{len(rig.children)}.log").open("wb") as out:
        child = zygote.start("tests.support.injected", ["run", "--dual", "--redis", url or rig.server.socket_url],
                             cwd=rig.path, env=env, stdout=out, stderr=out)  # fmt: skip
    rig.children.append(child)
    return child, folder


def until_done(rig: Rig, child: subprocess.Popen[bytes], folder: Path) -> list[str]:
    """All errors that were injected, once there is nothing new to inject."""
    (folder / "go").touch()
    wait_until(lambda: (folder / "done").exists() or child.poll() is not None, lambda: rig.said()[-3000:], 240)
    (folder / "go").unlink()
    assert child.poll() is None, rig.said()[-6000:]
    return (folder / "told").read_text().splitlines()


@pytest.mark.parametrize("seed", range(8) if SOAK else [0])
def test_every_call_fails(one_rig: Rig, seed: int) -> None:
    """Every kind of OSError at every place where the process calls the system: nothing is lost, doubled or echoed."""
    rig = one_rig
    rig.append("f-first")
    rig.add("r-first")
    child, folder = injected(rig, seed, KINDS)
    rig.beats(rig.ready(child))
    writers = Writers(rig, "a")
    rotator = Rotator(rig)
    told = until_done(rig, child, folder)
    rotator.stop()
    writers.stop()
    rig.settle([b"f-first", *writers.file_born], [b"r-first", *writers.redis_born])
    rig.stop(child)
    rig.check([b"f-first", *writers.file_born], [b"r-first", *writers.redis_born])
    assert len(told) > 60, told


@pytest.mark.parametrize("seed", range(8) if SOAK else [0])
def test_every_call_fails_of_all_kinds(one_rig: Rig, seed: int) -> None:
    """The same with every kind of source at once: each message, chunk, value and artifact is on both sides once."""
    rig = one_rig
    names = ", ".join(f'"{name}"' for name in MAPPINGS)
    rig.write_config(mapping=names[1:-1], extra='[components.ui]\nroles = ["ui"]\n')
    child, folder = injected(rig, seed, KINDS if SOAK else 1)
    rig.beats(rig.ready(child))
    stop = Event()
    writer = Thread(target=write, args=(rig, stop))
    writer.start()
    told = until_done(rig, child, folder)
    stop.set()
    writer.join()

    def verdicts() -> dict[str, tuple[str, int]]:
        told = json.loads(rig.run("parity", "--json", "--redis", rig.server.socket_url).stdout)
        return {result["mapping"]: (result["verdict"], result["in_flight"]) for result in told["mappings"]}

    wait_until(
        lambda: set(verdicts().values()) == {("equal", 0)},
        lambda: (
            f"{rig.run('parity', '--redis', rig.server.socket_url).stdout} {rig.known_files()} {rig.said()[-3000:]}"
        ),
    )
    assert child.poll() is None, rig.said()[-3000:]
    wait_until(lambda: not left_open(rig, child), lambda: f"never closed: {left_open(rig, child)}")
    rig.stop(child)
    for stream in ("hestai:messages", "hestai:roles", "hestai:debates"):
        told_twice = [data for data, n in Counter(_datas(rig, stream)).items() if n > 1]
        assert not told_twice, f"{stream}: {told_twice[:3]} {rig.said()[-3000:]}"
    lines = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(lines) == sorted(_datas(rig, "hestai:messages"))
    inbox = sorted(json.loads(path.read_bytes())["uuid"] for path in (rig.root / "inbox").glob("*.json"))
    assert inbox == sorted(set(inbox)) == sorted(json.loads(data)["uuid"] for data in _datas(rig, "hestai:inbox"))
    context = b"".join(_datas(rig, "hestai:context"))
    assert context == (rig.root / "context" / "wind.ctx").read_bytes()
    artifacts = sorted(path.name for path in (rig.root / "artifacts" / "wind").iterdir())
    assert sorted(Path(data.decode()).name for data in _datas(rig, "hestai:artifacts")) == artifacts
    assert len(told) > 60, told


@pytest.mark.parametrize("seed", range(8) if SOAK else [0])
def test_every_call_fails_of_many_streams(one_rig: Rig, seed: int) -> None:
    """The same with a stream for each of 40 logs, of which some begin meanwhile, in files and in Redis, and rotate."""
    rig = one_rig
    sessions = Sessions(rig, [f"{n % 3}/s{n}" for n in range(40)])
    for name in sessions.names[:20]:
        sessions.append(name, f"first-{name}")
    child, folder = injected(rig, seed, KINDS)
    rig.beats(child)
    writers, stop = SessionWriters(sessions, "a", pause=0.02), Event()
    rotator = Thread(target=rotate_sessions, args=(sessions, stop))
    rotator.start()
    try:
        told = until_done(rig, child, folder)
    finally:
        stop.set()
        rotator.join()
        writers.stop()
    sessions.settle()
    assert child.poll() is None, rig.said()[-3000:]
    rig.stop(child)
    done = rig.run("parity", "--redis", rig.url)
    assert (done.returncode, done.stdout.endswith("EQUAL\n")) == (0, True), done.stdout[-2000:]
    assert len(told) > 60, told


def rotate_sessions(sessions: Sessions, stop: Event) -> None:
    """Renames one session's log after another to its next number, five times at most, until told to stop."""
    for _ in range(5):
        for name in sessions.names[::4]:
            if stop.wait(0.2):
                return
            if sessions.log(name).exists():
                sessions.rotate(name)


def left_open(rig: Rig, child: subprocess.Popen[bytes]) -> list[str]:
    """The files of kinds that are read whole, and closed then, which a process has open."""
    found: list[str] = []
    for fd in Path(f"/proc/{child.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(fd.readlink()))
    whole = [str(rig.root / folder) for folder in ("artifacts", "inbox", "state")]
    return [path for path in found if path.startswith((*whole,)) and Path(path).is_file()]


def _datas(rig: Rig, stream: str) -> list[bytes]:
    return [dict(zip(entry.fields[0::2], entry.fields[1::2], strict=True))[b"data"]
            for entry in entries(rig.redis, stream.encode())]  # fmt: skip


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), LedgerError("the disk is full")])
def test_a_ledger_that_no_thread_can_open_at_first(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whichever thread it is, it tries again, and the process goes on."""
    rig, stop, opened, tries = one_rig, Event(), Ledger, [0]

    def at_first(path: Path, *, create: bool = False, cache: int = 0) -> Ledger:
        tries[0] += not create
        if not create and tries[0] <= 3:
            raise error
        return opened(path, create=create)

    monkeypatch.setattr("bridge.engine.run.Ledger", at_first)
    rig.append("f-0")
    rig.add("r-0")
    done: list[int] = []
    process = Process(rig.settings(), dual=True, poll=False, stop=stop)
    thread = Thread(target=lambda: done.append(process.run()))
    thread.start()
    try:
        rig.settle([b"f-0"], [b"r-0"])
        assert tries[0] > 3
    finally:
        stop.set()
        thread.join()
    assert done == [0]
