"""Retention: what is over goes, when nobody needs it any more; and both sides still tell what is true."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from bridge.ledger.store import Ledger
from bridge.parity.check import Result
from bridge.parity.proof import Proof
from bridge.retention.trim import Done, Plan, Retention
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from tests.rig import STREAM, Rig

KEYS = Keys.of(STREAM)


def keep(rig: Rig, **limits: float | bool) -> None:
    """The shipped mapping, with a `[retention]`."""
    shipped = (Path(__file__).parent.parent / "mappings" / "hestai-message.toml").read_text()
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in limits.items())
    (rig.path / "kept.toml").write_text(f"{shipped}\n[retention]\n{table}\n")
    rig.write_config(mapping="kept.toml")


def retention(rig: Rig, ledger: Ledger) -> Retention:
    return Retention(rig.settings().mappings[0], ledger, lambda: Connection(rig.url), time.time)


def plan(rig: Rig) -> Plan:
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        return retention(rig, ledger).plan()


def trim(rig: Rig) -> Done:
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        return retention(rig, ledger).trim(lambda: False)


def prove(rig: Rig, *, onwards: bool = False) -> Result:
    """`bridge parity`, in this process: the ledger has its points."""
    settings = rig.settings()
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        proof = Proof(settings, [*settings.mappings], ledger, Event(), lambda m, read, of: None, "test", settling=0.0)
        [result] = proof.run(lambda: Connection(rig.url), onwards=onwards)
    return result


def fill(rig: Rig, count: int, begin: int = 0, every: int = 5) -> None:
    """Messages of both kinds: of so many every fifth is Redis-born."""
    for n in range(begin, begin + count, 50):
        rig.append(*(f"f-{k}" for k in range(n, n + 50) if k % every))
        rig.once()
        for k in range(n, n + 50):
            if not k % every:
                rig.add(f"r-{k}")
        rig.once()
    rig.once()


def test_what_is_over_goes(rig: Rig) -> None:
    """With keep_entries the oldest go, up to a place where both sides were equal; parity says equal of the rest."""
    keep(rig, keep_entries=300)
    fill(rig, 1000)
    assert plan(rig).unproven
    assert trim(rig).removed == 0
    assert prove(rig).verdict == "equal"
    before = plan(rig)
    assert before.allowed.upto is not None
    assert before.allowed.holds == []
    done = trim(rig)
    assert 400 <= done.removed <= 700
    left = int(rig.redis.call("XLEN", STREAM))
    assert left == 1000 - done.removed
    standing = [one.id for one in rig.entries() if one.id >= done.floor]
    assert 300 <= len(standing) <= left
    again = prove(rig)
    assert (again.verdict, again.tally.differences) == ("equal", [])
    assert again.tally.unverifiable == 1000 - len(standing)
    assert again.tally.compared == len(standing)
    fill(rig, 200, begin=1000)
    onwards = prove(rig, onwards=True)
    assert (onwards.verdict, onwards.onwards) == ("equal", True)


@pytest.mark.parametrize("then", ["nothing", "somebody writes"])
def test_a_lost_stream_is_not_filled_below_the_floor(rig: Rig, then: str) -> None:
    """When Redis loses all, what comes back is what had not been trimmed: each message once, in order."""
    keep(rig, keep_entries=300)
    fill(rig, 1000)
    assert prove(rig).verdict == "equal"
    floor = trim(rig).floor
    stood = {one.fields[7] for one in rig.entries() if one.id >= floor}
    for turn in range(2):
        lines = [one.split(b"|", 3)[3] for one in rig.lines()]
        rig.redis.call("FLUSHALL")
        own = [rig.add(f"own-{turn}")] if then == "somebody writes" else []
        stood |= {b"own-%d" % turn} if own else set()
        rig.once()
        rig.once()
        datas = rig.datas()
        assert len(datas) == len(set(datas))
        assert set(datas) == stood
        assert [data for data in datas if not data.startswith(b"own")] == [
            d for d in lines if d in stood and not d.startswith(b"own")
        ]
        assert len(rig.lines()) == 1000 + (turn + 1) * len(own)
        assert (result := prove(rig)).verdict == "equal", result.tally.differences
        assert result.tally.compared == len(stood)
