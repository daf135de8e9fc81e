"""Random programs of file events against a model: write, rotate, truncate, replace, delete, compress, restart, kill."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.engine.once import once
from bridge.streams.embedded.binary import find
from tests.files.test_rotation import copytruncate, rotate
from tests.support.rig import RUNNING, Rig, line, unpacked

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
MEMORY = "/dev/shm" if not SOAK and os.access("/dev/shm", os.W_OK) else None
"""Hundreds of ledgers, each with its fsyncs, would take minutes on a slow disk; `make soak` uses the disk."""


def acts(longest: int, **ranges: tuple[int, int]) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Programs of up to so many acts, each by its name and with a number from its range."""
    return st.lists(
        st.one_of([st.tuples(st.just(act), st.integers(*numbers)) for act, numbers in ranges.items()]),
        min_size=1, max_size=longest,
    )  # fmt: skip


def programs(examples: int) -> settings:
    """The settings of a test that plays so many programs, and other ones each time in a soak."""
    return settings(
        max_examples=4000 if SOAK else examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=not SOAK,
    )


@contextmanager
def shared_rig() -> Iterator[Rig]:
    """A rig for one short program, in memory, on the server that all of them share."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir=MEMORY) as folder:
        rig = Rig.shared(Path(folder), find())
        try:
            yield rig
        finally:
            rig.close_shared()


class Model:
    """What must be in the stream, in order; `held` is half a line. Bytes deleted before anybody read them are gone."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sent: list[bytes] = []
        self.unread: list[bytes] = []
        self.added: list[bytes] = []
        self.held = b""
        self.count = 0

    def next(self, n: int) -> list[bytes]:
        self.count += n
        return [f"f-{self.count - i}".encode() for i in range(n, 0, -1)]

    def write(self, n: int) -> None:
        fresh = self.next(n)
        with self.rig.log.open("ab") as file:
            file.write(self.held + b"".join(map(line, fresh)) if not self.held else self.held)
            if self.held:
                file.write(b"".join(map(line, fresh)))
        if self.held:
            self.held = b""
        self.unread += fresh

    def half(self, n: int) -> None:
        if self.held:
            return
        [fresh] = self.next(1)
        whole = line(fresh)
        cut = min(n, len(whole) - 1)
        with self.rig.log.open("ab") as file:
            file.write(whole[:cut])
        self.held = whole[cut:]
        self.unread.append(fresh)

    def whole(self) -> None:
        """Ends a half line, so that the file may be moved without tearing it."""
        if self.held:
            with self.rig.log.open("ab") as file:
                file.write(self.held)
            self.held = b""

    def carry(self) -> None:
        result = once(self.rig.settings(), dual=True, stop=Event())[0]
        waits = [e for e in result.errors if "middle of a line" not in e.what]
        assert not waits, waits

    def carried(self) -> None:
        self.sent += self.unread
        self.unread = []


def run_program(rig: Rig, program: list[tuple[str, int]]) -> None:
    """Plays the program, carries at the end, and compares with the model."""
    model = Model(rig)
    for act, n in program:
        if act == "write":
            model.write(n)
        elif act == "half":
            model.half(n)
        elif act == "add":
            for _ in range(n):
                data = f"r-{len(model.added)}".encode()
                rig.add(data)
                model.added.append(data)
        elif act == "carry":
            model.whole()
            model.carry()
            model.carried()
        elif act == "kill":
            model.whole()
            killed(rig, n)
        elif act == "touch":
            rig.log.touch()
        elif act in ("press", "unpress"):
            press(rig, n, packed=act == "unpress")
        elif rig.log.exists():
            model.whole()
            if act == "rotate":
                rotate(rig)
            elif act == "copytruncate":
                copytruncate(rig)
            elif act == "replace":  # an atomic save: the same content under another inode
                copy = rig.path / "copy"
                shutil.copy(rig.log, copy)
                copy.rename(rig.log)
            elif act == "delete":
                model.carry()
                model.carried()
                rig.log.unlink()
    model.whole()
    model.carry()
    model.carried()
    datas = rig.datas()
    assert [d for d in datas if d.startswith(b"f-")] == model.sent
    assert rig.parity().verdict != "differs"
    rig.check_account()
    assert [d for d in datas if d.startswith(b"r-")] == model.added
    assert len(datas) == len(model.sent) + len(model.added)
    before = rig.lines()
    model.carry()
    assert rig.datas() == datas
    assert rig.lines() == before
    mirrored = [raw.split(b"|", 3)[3] for raw in before if raw.split(b"|", 3)[3].startswith(b"r-")]
    assert len(mirrored) == len(set(mirrored))


def press(rig: Rig, n: int, *, packed: bool) -> None:
    """One of the rotated pieces is compressed, or made plain again; as gzip does it, with its time of writing."""
    pieces = [path for path in rig.pieces() if (path.suffix in PRESS) == packed]
    if pieces:
        old = pieces[n % len(pieces)]
        suffix = list(PRESS)[n % len(PRESS)]
        new = old.with_suffix("") if packed else old.with_name(old.name + suffix)
        new.write_bytes(unpacked(old) if packed else PRESS[suffix](old.read_bytes()))
        shutil.copystat(old, new)
        old.unlink()


PRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def killed(rig: Rig, n: int) -> None:
    """A run in a child process that is killed at a point the number chooses."""
    point = [f"{name}.{when}" for name in RUNNING for when in ("before", "after")][n % (2 * len(RUNNING))]
    pid = os.fork()
    if pid == 0:
        from bridge.core import failpoints

        failpoints.arm(f"{point}:{1 + n // 100 % 3}")
        try:
            once(rig.settings(), dual=True, stop=Event())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@programs(140)
@given(acts(
    14, write=(1, 30), half=(1, 60), add=(1, 5), rotate=(0, 0), copytruncate=(0, 0), replace=(0, 0), delete=(0, 0),
    carry=(0, 0), kill=(0, 10_000), touch=(0, 0), press=(0, 100), unpress=(0, 100),
))  # fmt: skip
@example([("write", 1), ("copytruncate", 0), ("kill", 594), ("write", 1), ("kill", 594), ("copytruncate", 0)])
@example([("write", 9), ("rotate", 0), ("write", 9), ("carry", 0), ("delete", 0), ("press", 0), ("write", 9)])
@example(
    [("write", 9), ("rotate", 0), ("press", 1), ("kill", 0), ("unpress", 0), ("rotate", 0), ("write", 9), ("press", 2)]
)
@example([("write", 9), ("rotate", 0), ("touch", 0), ("carry", 0), ("write", 9), ("copytruncate", 0), ("write", 1),
          ("rotate", 0)])  # fmt: skip
@pytest.mark.timeout(1200)
def test_programs(program: list[tuple[str, int]]) -> None:
    """After any program both sides hold what was written, once and in order, and another run changes nothing."""
    with shared_rig() as rig:
        run_program(rig, program)


def test_thread_is_not_left(tmp_path: Path) -> None:
    """`once` leaves no thread behind."""
    import threading

    rig = Rig.shared(tmp_path, find())
    try:
        rig.append("a")
        worker = Thread(target=rig.once)
        worker.start()
        worker.join(30)
        assert rig.datas() == [b"a"]
        assert threading.active_count() <= 2
    finally:
        rig.close_shared()
