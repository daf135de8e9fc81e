"""A bridge with hundreds of streams of one mapping, killed at every named point, with writers; then the oracle."""

from __future__ import annotations

import os

import pytest

from tests.support.many import Sessions, SessionWriters
from tests.support.rig import RUNNING, Rig, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
STREAMS = 300
POINTS = ["streams.name", *(RUNNING if SOAK else ["mirror.range"])]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_with_many_streams(rig: Rig, point: str, when: str) -> None:
    """A kill at this point loses nothing and doubles nothing in any of 300 streams, while others write on."""
    sessions = Sessions(rig, [f"{n % 7}/s{n}" for n in range(STREAMS)])
    for name in sessions.names[:250]:
        sessions.append(name, f"first-{name}")
    count = 1 if point.startswith("streams.") else 40
    child = rig.start(crash=f"{point}.{when}:{count}")
    writers = SessionWriters(sessions, "a")
    wait_until(lambda: child.poll() is not None, lambda: f"the kill at {point}.{when}; {rig.said()}")
    assert child.returncode == -9, rig.said()
    writers.stop()
    again = rig.start()
    more = SessionWriters(sessions, "b", seed=2)
    wait_until(lambda: more.written > 200, "more writing")
    more.stop()
    sessions.settle()
    rig.stop(again)
    done = rig.run("parity", "--redis", rig.url)
    assert (done.returncode, done.stdout.endswith("EQUAL\n")) == (0, True), done.stdout[-2000:]
