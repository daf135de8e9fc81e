"""The bridge killed with SIGKILL at every named point, with other writers on both sides; then the oracle."""

from __future__ import annotations

import os
from threading import Event, Thread

import pytest

from tests.support.rig import RUNNING, Rig, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
ROUNDS = (1, 2, 3, 7) if SOAK else (2,)


class Writers:
    """A legacy program that appends to the file, and a producer that adds to the stream, until told to stop."""

    def __init__(self, rig: Rig, tag: str) -> None:
        self.file_born: list[bytes] = []
        self.redis_born: list[bytes] = []
        self._rig = rig
        self._tag = tag
        self._stop = Event()
        self._threads = [Thread(target=self._file), Thread(target=self._redis)]
        for thread in self._threads:
            thread.start()

    def _file(self) -> None:
        n = 0
        while not self._stop.wait(0.002):
            burst = [f"f-{self._tag}-{n + i}".encode() for i in range(1 + n % 3)]
            self._rig.append(*burst)
            self.file_born += burst
            n += len(burst)

    def _redis(self) -> None:
        n = 0
        while not self._stop.wait(0.002):
            data = f"r-{self._tag}-{n}".encode()
            self._rig.add(data)
            self.redis_born.append(data)
            n += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("count", ROUNDS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", RUNNING)
def test_killed_at(rig: Rig, point: str, when: str, count: int) -> None:
    """A kill at this point loses nothing and doubles nothing, in either direction, while others write on."""
    rig.append("f-first")
    rig.add("r-first")
    child = rig.start(crash=f"{point}.{when}:{count}")
    writers = Writers(rig, "a")
    wait_until(lambda: child.poll() is not None, lambda: f"the kill at {point}.{when}; {rig.said()}")
    assert child.returncode == -9, rig.said()
    writers.stop()
    file_born = [b"f-first", *writers.file_born]
    redis_born = [b"r-first", *writers.redis_born]
    again = rig.start()
    more = Writers(rig, "b")
    wait_until(lambda: len(more.redis_born) > 20 and len(more.file_born) > 20, "more writing")
    more.stop()
    file_born += more.file_born
    redis_born += more.redis_born
    rig.settle(file_born, redis_born)
    rig.stop(again)
    rig.check(file_born, redis_born)
