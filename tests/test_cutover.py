"""Components go over to Redis and come back, one by one, and none of them misses or repeats a message."""

from __future__ import annotations

from tests.cast import Cast
from tests.rig import Rig, wait_until

TIMES = 10


def test_there_and_back(rig: Rig) -> None:
    """Reads and writes are switched ten times each way, while three components talk: every message once, in order."""
    cast = Cast(rig)
    bridge = rig.ready(rig.start())
    cast.start("write", "ui")
    cast.start("write", "daemon")
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) > 50, cast.said)
    assert rig.parity().verdict == "equal"
    for _ in range(TIMES):
        for name, side, to in (
            ("viewer", "reads", "redis"), ("ui", "writes", "redis"), ("daemon", "writes", "redis"),
            ("ui", "writes", "file"), ("viewer", "reads", "file"), ("daemon", "writes", "file"),
        ):  # fmt: skip
            done = cast.switch(name, side, to)
            assert done.went_on, cast.said()
            assert done.again == 0
    cast.stop("ui", "daemon")
    cast.settled("viewer", "ui", "daemon")
    cast.stop("viewer")
    cast.check("viewer", "ui", "daemon")
    assert {one[3] for one in cast.seen("viewer")} == {"file", "redis"}
    assert not any(one[2] for one in cast.seen("viewer"))
    wait_until(lambda: rig.parity(settling=1.0).verdict == "equal", rig.said)
    rig.stop(bridge)
