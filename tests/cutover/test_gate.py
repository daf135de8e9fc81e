"""The gate, pure: it is open when all is well, and each thing that is not well closes it with words and a way out."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from bridge.cutover.gate import GateBounds, GateFacts, SwitchStep, allowed, gate, steps
from bridge.streams.components import ComponentModes

WELL = GateFacts(parity="equal", running=True, dual=True, forward_lag=0, mirror_lag=0, workers=1)
FORTH = SwitchStep("ui", "hestai-message", "reads", "redis")
BACK = SwitchStep("ui", "hestai-message", "reads", "file")


def reasons(
    facts: GateFacts, step: SwitchStep = FORTH, modes: ComponentModes | None = None, *, reader: bool = True
) -> list[str]:
    """What is the matter."""
    modes = modes or (ComponentModes() if step.forth else ComponentModes(reads="redis"))
    return [reason.what for reason in gate(step, modes, facts, GateBounds(), reader=reader)]


def test_open_when_all_is_well() -> None:
    """Nothing speaks against it, there and back."""
    assert reasons(WELL) == []
    assert reasons(WELL, BACK) == []


CLOSED = [
    ({"retired": True}, "retired", True),
    ({"running": False}, "no bridge runs", True),
    ({"young": True}, "has just started", True),
    ({"dual": False}, "does not mirror", True),
    ({"has_mirror": False}, "has no mirror", True),
    ({"forward_lag": 1001}, "forward is 1,001 messages behind", True),
    ({"forward_lag": None}, "how far forward has come is not known", True),
    ({"mirror_lag": 5000}, "the mirror is 5,000 messages behind", True),
    ({"mirror_lag": None}, "how far the mirror has come is not known", True),
    ({"troubles": ("disk full",)}, "the bridge waits: disk full", True),
    ({"workers": 0}, "gives no heartbeat", True),
    ({"position": False, "why_not": "it was never here"}, "is not known: it was never here", True),
    ({"parity": None}, "never proved", False),
    ({"parity": "differs"}, "parity said 'differs' last", False),
    ({"parity_age_s": 3601.0}, "the last proof is 60 minutes old", False),
    ({"quarantined": 2}, "2 messages of this mapping in quarantine", False),
    ({"aof": False}, "no append-only file", False),
    ({"evicts": "allkeys-lru"}, "throw keys away", False),
    ({"failing": "aof_last_write_status is err"}, "fails to save", False),
    ({"room": 1 << 20}, "1 MiB left", True),
]


@pytest.mark.parametrize(("facts", "said", "back_too"), CLOSED, ids=[said for _, said, _ in CLOSED])
def test_each_reason(facts: dict[str, object], said: str, back_too: bool) -> None:
    """Each closes the gate alone, says why, and what to do; the way back minds what it needs itself."""
    found = gate(FORTH, ComponentModes(), replace(WELL, **facts), GateBounds(), reader=True)  # type: ignore[arg-type]
    assert len(found) == 1
    assert said in found[0].what
    assert found[0].hint
    assert bool(reasons(replace(WELL, **facts), BACK)) is back_too  # type: ignore[arg-type]


def test_every_reason_is_told() -> None:
    """What is wrong at once is told at once."""
    every = replace(
        WELL, running=False, workers=0, parity=None, aof=False, evicts="volatile-lru", room=0, quarantined=1
    )
    assert len(reasons(every)) == 7


def test_volatile_may_be_accepted() -> None:
    """Who says so may use a Redis that forgets; one that fails to save is another matter."""
    assert reasons(replace(WELL, aof=False, evicts="allkeys-lru", accepts_volatile=True)) == []
    assert len(reasons(replace(WELL, failing="rdb", accepts_volatile=True))) == 1


def test_the_way_back_tells_what_is_left_behind() -> None:
    """Unread messages that no file holds would not be read there."""
    assert "3 messages" in reasons(replace(WELL, only_redis=3), BACK)[0]


def test_the_way_back_tells_what_was_deleted() -> None:
    """Unread entries that somebody trimmed would be passed over."""
    assert "may have been deleted" in reasons(replace(WELL, deleted=True), BACK)[0]
    assert reasons(replace(WELL, deleted=True)) == []


def test_steps_in_order() -> None:
    """Reads go first and come back last; what is done is no step."""
    both = ("reads", "writes")
    assert [step.side for step in steps(ComponentModes(), "ui", "m", both, "redis")] == ["reads", "writes"]
    assert [step.side for step in steps(ComponentModes("redis", "redis"), "ui", "m", both, "file")] == [
        "writes",
        "reads",
    ]
    assert [step.side for step in steps(ComponentModes("redis", "file"), "ui", "m", both, "redis")] == ["writes"]
    assert steps(ComponentModes(), "ui", "m", both, "file") == []


@pytest.mark.parametrize(
    ("reads", "writes", "side", "to"),
    list(product(("file", "redis"), ("file", "redis"), ("reads", "writes"), ("file", "redis"))),
)
def test_which_step_is_allowed(reads: str, writes: str, side: str, to: str) -> None:
    """Writes go to Redis only when reads are there, and reads come back only when writes are; who never reads may."""
    step = SwitchStep("ui", "m", side, to)
    reason = allowed(step, ComponentModes(reads, writes), reader=True)
    wrong = (side, to, reads) == ("writes", "redis", "file") or (side, to, writes) == ("reads", "file", "redis")
    assert (reason is not None) is wrong
    assert reason is None or reason.firm
    assert allowed(step, ComponentModes(reads, writes), reader=False) is None
