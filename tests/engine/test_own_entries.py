"""Forward's own entries, over which the mirror passes without reading them; and others' among them, which it reads."""

from __future__ import annotations

import random
import time
from contextlib import closing

import pytest

from bridge.core.model import format_id
from bridge.engine.forward import Forward
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.sources import seen_by_mirror, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from bridge.streams.writer import Conflict
from tests.support.rig import STREAM, Rig


def cursor(rig: Rig) -> tuple[bytes, int, int]:
    """Up to where the ledger has the mirror: the entry's ID, and its counts of entries and of forward's among them."""
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        memory, seen = stream_memory(ledger, STREAM), seen_by_mirror(ledger, STREAM)
        assert memory is not None
        return format_id(memory.mirror_cursor), seen.entries if seen else -1, seen.ours if seen else -1


def test_an_import_leaves_nothing_to_the_mirror(rig: Rig) -> None:
    """After an import of history the mirror stands at its end, has counted it, and reads what comes then."""
    rig.append(*(f"f-{n}" for n in range(900)))
    assert rig.run("import-history", "--redis", rig.url).returncode == 0
    last = bytes(rig.redis.call("XREVRANGE", STREAM, "+", "-", "COUNT", 1)[0][0])
    assert cursor(rig) == (last, 900, 900)
    gone = rig.add("r-gone")
    rig.add("r-0")
    rig.redis.call("XDEL", STREAM, gone)
    assert not rig.once().errors
    assert rig.messages()[900:] == [b"r-0"]
    assert cursor(rig)[1:] == (902, 900), "an entry that was removed unseen counts"


def test_others_entries_before(rig: Rig) -> None:
    """Where a stream holds another's entry before any history, nothing is passed over."""
    rig.add("r-0", entry_id="1-1")
    rig.append(*(f"f-{n}" for n in range(10)))
    assert rig.run("import-history", "--redis", rig.url).returncode == 0
    assert cursor(rig)[0] == b"0-0"
    assert not rig.once().errors
    assert rig.messages() == [f"f-{n}".encode() for n in range(10)] + [b"r-0"]


@pytest.mark.parametrize("seed", range(16))
def test_others_entries_between(one_rig: Rig, seed: int) -> None:
    """Whenever others write between forward's batches, in a stretch as history or live, each entry is mirrored once."""
    rig, chosen = one_rig, random.Random(seed)
    [mapping] = rig.settings().mappings
    (rig.state).mkdir(exist_ok=True)
    ledger, shared = Ledger(rig.state / "ledger.db", create=True), MappingContext(mapping, rig.settings())
    forward = Forward(shared, ledger, Troubles(time.time), time.time, lambda: Connection(rig.url))
    forward.batch = chosen.choice((1, 3, 7))
    made: dict[str, list[bytes]] = {"f": [], "r": []}

    def write(side: str) -> None:
        made[side].append(f"{side}-{len(made[side])}".encode())
        if side == "f":
            rig.append(made[side][-1])
        else:
            low = f"{1_700_000_000_000 + len(made['r'])}-*"  # below the times of the lines, as far as it may be
            last = rig.redis.call("XREVRANGE", STREAM, "+", "-", "COUNT", 1)
            rig.add(made[side][-1], entry_id="*" if last or chosen.random() < 0.3 else low)

    for _ in range(chosen.choice((0, 30))):
        write("f")
    for _ in range(chosen.choice((0, 1))):
        write("r")
    for _ in range(80):
        act = chosen.choices(("f", "r", "step", "flush", "anew"), (8, 1 if seed % 3 else 0.1, 12, 1, 0.2))[0]
        if act in made:
            write(act)
            continue
        try:
            forward.look()
            if act == "anew" or not forward.attached:
                forward.attach()
            if act == "step":
                forward.step()
            elif act == "flush":
                forward.flush()
        except Conflict:
            forward.detach()
    forward.let_go()
    shared.close()
    ledger.close()
    assert not rig.once().errors
    assert not rig.once().errors
    rig.check(made["f"], made["r"])
