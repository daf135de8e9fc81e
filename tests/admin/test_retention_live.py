"""Retention beside everything else: programs that write on both sides, components that go over and back, and kills."""

from __future__ import annotations

import pytest

from bridge.streams.trim import read_trimmed
from tests.admin.test_retention import KEYS, history, keep, plan, prove
from tests.parity.test_parity_live import Writers
from tests.support.cast import CONFIG, Cast
from tests.support.rig import STREAM, Rig, wait_until


@pytest.mark.parametrize("step", ["trim.part", "trim.archive", "trim.floor", "trim.step"])
def test_killed_at_every_step(rig: Rig, step: str) -> None:
    """A bridge that trims is killed before and after each step, under load: nothing is lost, and nothing twice."""
    rig.log.touch()
    keep(rig, keep_entries=1500, archive=True)
    rig.redis.call("CONFIG", "SET", "stream-node-max-entries", "50")
    writers = Writers(rig)
    try:
        for count in (1, 2):
            for when in ("before", "after"):
                child = rig.start(crash=f"{step}.{when}:{count}")
                assert child.wait(90) == -9, rig.said()
        child = rig.start()
        floor = read_trimmed(rig.redis, KEYS).floor
        wait_until(lambda: read_trimmed(rig.redis, KEYS).floor > floor, rig.said)
    finally:
        writers.stop()
    wanted = writers.lines + writers.entries
    wait_until(lambda: len(rig.lines()) == wanted, rig.said)
    wait_until(lambda: len(history(rig)) == wanted, lambda: f"{len(history(rig))} of {wanted} {rig.said()[-2000:]}")
    rig.stop(child)
    found = history(rig)
    datas = [entry.fields[7] for entry in found]
    assert [d for d in datas if d.startswith(b"f-")] == [
        line.split(b"|", 3)[3] for line in rig.lines() if b"|f-" in line
    ]
    assert [d for d in datas if d.startswith(b"r-")] == [b"r-%d" % n for n in range(writers.entries)]
    assert [entry.id for entry in found] == sorted({entry.id for entry in found})
    result = prove(rig)
    assert (result.verdict, result.tally.compared) == ("equal", wanted), (result.tally, result.notes)
    assert int(rig.redis.call("XLEN", STREAM)) < wanted


def test_components_go_over_and_back_while_the_stream_is_trimmed(rig: Rig) -> None:
    """Each message once, in order, whatever was trimmed meanwhile; and a slow reader's entries stay until it read them."""
    cast = Cast(rig)
    keep(rig, extra=CONFIG, keep_entries=800)
    rig.redis.call("CONFIG", "SET", "stream-node-max-entries", "20")
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("write", "ui")
    cast.start("write", "daemon")
    cast.start("read", "viewer", 0)

    def trims() -> None:
        count = read_trimmed(rig.redis, KEYS).count
        wait_until(lambda: read_trimmed(rig.redis, KEYS).count > count + 100, lambda: str(plan(rig)) + rig.said())

    wait_until(lambda: len(cast.seen("viewer")) > 50, cast.said)
    for name, side, to in (
        ("viewer", "reads", "redis"), ("ui", "writes", "redis"), ("viewer", "reads", "file"), ("ui", "writes", "file"),
    ):  # fmt: skip
        trims()
        assert cast.switch(name, side, to).went_on, cast.said()
    trims()
    assert cast.switch("viewer", "reads", "redis").went_on
    cast.stop("viewer")

    def told() -> str:
        """What `status` says: the bridge notes it with its next look."""
        return rig.run("status", "--redis", rig.url, env={"COLUMNS": "300"}).stdout

    wait_until(lambda: "group viewer" in told(), told)
    assert "trimmed so far" in told()
    cast.stop("ui", "daemon")
    cast.start("read", "viewer", 0)
    cast.settled("viewer", "ui", "daemon")
    cast.stop("viewer")
    cast.check("viewer", "ui", "daemon")
    assert not any(message[2] for message in cast.seen("viewer"))
    wait_until(lambda: rig.parity(settling=1.0).verdict == "equal", rig.said)
    rig.stop(bridge)
