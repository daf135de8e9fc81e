"""A kill at every step of a switch, of whoever takes part in it: no message is missed, and none repeated unmarked."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from itertools import product

import pytest

from bridge.core.errors import BridgeError
from bridge.core.failpoints import FAILPOINTS
from bridge.cutover import switch
from tests.support import zygote
from tests.support.cast import Cast
from tests.support.project import ROOT
from tests.support.rig import Rig, wait_until

STEPS = [f"{name}.{when}" for name in FAILPOINTS if name.startswith("switch.") for when in ("before", "after")]
NEVER = {"switch.pause.before", "switch.flip.before", "switch.done.before", "switch.asked.before", "switch.asked.after"}
STEPS = [step for step in STEPS if step not in NEVER]
VICTIMS = ("bridge", "viewer", "ui", "server", "operator")
ROUND = (
    ("viewer", "reads", "redis"), ("ui", "writes", "redis"), ("ui", "writes", "file"), ("viewer", "reads", "file"),
)  # fmt: skip
RUNS = int(os.environ.get("BRIDGE_FAULTS", "0"))


KINDS = {
    "plain": {"viewer": "read", "ui": "write", "daemon": "write"},
    "logging": {"viewer": "read", "ui": "write-log", "daemon": "write-log"},
    "durable": {"viewer": "read", "ui": "write-durable", "daemon": "write-durable"},
    "asyncio": {"viewer": "read-async", "ui": "write-async", "daemon": "write"},
}
"""What each component of a stage is, by the stage's kind."""


class Stage:
    """A bridge, a reader and two writers, any of whom may be killed. `kind`: what programs they are."""

    def __init__(self, rig: Rig, kind: str = "plain") -> None:
        self.rig = rig
        if kind == "durable":
            if not rig.redis.call("COMMAND", "INFO", "WAITAOF")[0]:
                pytest.skip("this server cannot say what is on its disk")
            rig.redis.call("CONFIG", "SET", "appendonly", "yes")
            rig.redis.call("CONFIG", "SET", "appendfsync", "always")
        self.kinds = KINDS[kind]
        self.cast = Cast(rig)
        self.bridge = rig.beats(rig.ready(rig.start()))
        pause = 0.02 if RUNS else 0.002  # a campaign goes on for long
        self.cast.start(self.kinds["ui"], "ui", pause)
        self.cast.start(self.kinds["daemon"], "daemon", pause)
        self.cast.start(self.kinds["viewer"], "viewer", 0)
        wait_until(lambda: len(self.cast.seen("viewer")) > 20, self.cast.said)
        assert rig.parity().verdict == "equal"

    def kill(self, victim: str) -> None:
        """SIGKILL, and it is started again."""
        if victim == "bridge":
            self.bridge.kill()
            self.bridge.wait()
            self.bridge = self.rig.start()
        elif victim == "server":
            self.rig.kill_server()
            self.rig.start_server()
        elif victim in self.cast.children:
            child = self.cast.children[victim]
            child.kill()
            child.wait()
            self.cast.start(self.kinds[victim], victim, 0 if victim == "viewer" else 0.02 if RUNS else 0.002)

    def killed_operator(self, name: str, side: str, to: str, point: str) -> None:
        """The command, killed at that point."""
        verb = "cutover" if to == "redis" else "rollback"
        command = [verb, name, f"--{side}", "--execute", "--force", name, "--accept-volatile"]
        env = {**os.environ, "BRIDGE_CRASH_AT": point, "BRIDGE_REDIS_URL": self.rig.url, "PYTHONPATH": str(ROOT)}
        out_of = self.rig.path / "component-operator.log"

        def killed() -> bool:
            """Its gate may be closed for a moment, by the fault before."""
            with out_of.open("ab") as out:
                child = zygote.start("bridge", command, cwd=self.rig.path, env=env, stdout=out, stderr=out)
            self.rig.children.append(child)
            return child.wait(60) == -signal.SIGKILL

        wait_until(killed, self.cast.said, 60)

    def end(self, *, repeats: bool, mixed: bool) -> None:
        """All stop, and each message was given once."""
        self.cast.stop("ui", "daemon")
        self.cast.settled("viewer", "ui", "daemon")
        self.cast.stop("viewer")
        self.cast.check("viewer", "ui", "daemon", repeats=repeats, mixed=mixed)
        wait_until(lambda: self.rig.parity(settling=1.0).verdict == "equal", self.rig.said)
        self.rig.stop(self.rig.ready(self.bridge))


def at_point(point: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does it when the switch comes by that point for the first time."""
    todo = [act]

    def reached(here: str) -> None:
        if here == point and todo:
            todo.pop()()

    monkeypatch.setattr(switch, "failpoint", reached)


def fault(stage: Stage, victim: str, point: str, move: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One switch with one kill; at the end it is made."""
    if victim == "operator":
        stage.killed_operator(*move, point)
    else:
        at_point(point, lambda: stage.kill(victim), monkeypatch)
        try:
            stage.cast.switch(*move)
        except (BridgeError, ValueError):
            pass
        monkeypatch.undo()
    stage.cast.until_made(*move)


@pytest.mark.parametrize(
    ("victim", "kind"),
    [
        *((name, "plain") for name in VICTIMS),
        ("viewer", "asyncio"),
        ("ui", "asyncio"),
        ("ui", "logging"),
    ],
)
def test_kills_during_a_round(rig: Rig, victim: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There and back, with a kill during each of the four switches, each at another step."""
    stage = Stage(rig, kind)
    turn = VICTIMS.index(victim)
    for i, move in enumerate(ROUND[: 2 if victim == "operator" else 4]):  # his absence is noticed after five seconds
        fault(stage, victim, STEPS[(2 * i + turn) % len(STEPS)], move, monkeypatch)
    # A server that is killed may forget the last acknowledgements.
    stage.end(repeats=victim in ("viewer", "server"), mixed=victim == "server")


def test_kills_of_a_durable_writer(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose messages are on disk when `append` returns, with itself and the server killed during switches."""
    stage = Stage(one_rig, "durable")
    for i, move in enumerate(ROUND):
        fault(stage, ("ui", "server")[i % 2], STEPS[(3 * i) % len(STEPS)], move, monkeypatch)
    stage.end(repeats=True, mixed=True)


@pytest.mark.skipif(not RUNS, reason="make soak runs it")
@pytest.mark.parametrize("kind", KINDS)
def test_fault_campaign(rig: Rig, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every victim at every step of every switch, in an order of chance, as often as BRIDGE_FAULTS says."""
    chance = random.Random(RUNS)
    every = list(product(STEPS, VICTIMS))
    chance.shuffle(every)
    stage, done = Stage(rig, kind), 0
    while done < RUNS:
        for move in ROUND:
            point, victim = every[done % len(every)]
            fault(stage, victim, point, move, monkeypatch)
            done += 1
    stage.end(repeats=True, mixed=True)
    print(f"{done} faults: {len(every)} pairs of step and victim")
