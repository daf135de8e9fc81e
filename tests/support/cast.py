"""Components as child processes, an operator in this one, and the oracle that counts what each reader was given."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event

from bridge.core.errors import BridgeError
from bridge.cutover.gate import GateBounds
from bridge.cutover.operator import Operator, SwitchWish
from bridge.cutover.plan import SwitchPlan, SwitchReport
from bridge.ledger.store import Ledger
from bridge.streams.components import READS, REDIS, WRITES
from bridge.streams.dial import Connections
from tests.support import zygote
from tests.support.project import ROOT
from tests.support.rig import Rig, wait_until

CONFIG = """
[components.ui]
roles = ["ui"]

[components.daemon]
roles = ["daemon"]

[components.viewer]
"""

Seen = tuple[str, int, bool, str, str]
"""Of a message that a reader was given: role, number, whether it was marked, from which side, position."""


class Cast:
    """The components of one rig."""

    def __init__(self, rig: Rig, mapping: str = "hestai-message") -> None:
        self.rig = rig
        rig.write_config(mapping=mapping, extra=CONFIG)
        rig.log.touch()
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0
        self.urls: dict[str, str] = {}
        """By which url a component connects, where it is another than the test's."""
        self.operates = rig.url
        """By which the operator does."""

    def start(
        self, kind: str, name: str, pause: float = 0.002, *, folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """A component: `write`, `read` or `both`. A writer that is started again begins with numbers of its own.

        `folder`: where its bridge.toml lies, the rig's by default.
        """
        self._starts += 1
        url = self.urls.get(name, self.rig.url)
        env = {**os.environ, "BRIDGE_REDIS_URL": url, "PYTHONPATH": str(ROOT)}
        env.pop("BRIDGE_CRASH_AT", None)
        out = (self.rig.path / f"component-{name}.log").open("ab")
        args = [kind, str((folder or self.rig.path) / "bridge.toml"), name, str(self.note(name)), str(pause),
                str(self._starts * 1_000_000)]  # fmt: skip
        child = zygote.start("tests.support.component", args, cwd=ROOT, env=env, stdout=out, stderr=out)
        out.close()
        self.children[name] = child
        self.rig.children.append(child)
        out_of = self.rig.path / f"component-{name}.log"
        wait_until(lambda: f"ready {child.pid}\n" in out_of.read_text() or child.poll() is not None, self.said)
        return child

    def stop(self, *names: str) -> None:
        """SIGTERM."""
        for name in names:
            self.children[name].terminate()
        for name in names:
            assert self.children[name].wait(60) == 0, self.said()

    def note(self, name: str) -> Path:
        """What it notes."""
        return self.rig.path / f"note-{name}"

    def said(self) -> str:
        """What components and bridges logged."""
        logs = sorted(self.rig.path.glob("component-*.log"))
        return "".join(f"--- {p.name}\n{p.read_text()}" for p in logs) + self.rig.said()[-3000:]

    def written(self, name: str) -> list[int]:
        """The numbers whose `append` returned."""
        note = self.note(name)
        own = note.with_name(f"{note.name}-written")
        note = own if own.exists() else note
        return [int(line) for line in note.read_text().split("\n")[:-1]] if note.exists() else []

    def seen(self, name: str) -> list[Seen]:
        """What a reader was given of what components wrote, who write numbers."""
        note = self.note(name)
        found = []
        for line in note.read_text().split("\n")[:-1] if note.exists() else []:
            role, number, marked, side, position = line.split(" ")
            if number.isdigit():
                found.append((role, int(number), marked == "1", side, position))
        return found

    @contextmanager
    def operator(self) -> Iterator[Operator]:
        """Who switches."""
        settings = self.rig.settings()
        ledger, servers = Ledger(settings.state_dir / "ledger.db"), Connections(self.rig.settings(url=self.operates))
        operator = Operator(settings, ledger, servers, "tester@here", Event().wait, GateBounds(lag=100_000))
        try:
            yield operator
        finally:
            operator.close()
            ledger.close()
            servers.close()

    def plans(self, name: str, sides: tuple[str, ...] = (READS, WRITES), to: str = REDIS) -> list[SwitchPlan]:
        """What is left to be switched, planned."""
        with self.operator() as operator:
            wish = SwitchWish(name, sides, to)
            return [operator.plan(wish, step) for step in operator.steps(wish, "hestai-message")[0]]

    def switch(self, name: str, side: str, to: str) -> SwitchReport:
        """Makes one switch."""
        with self.operator() as operator:
            wish = SwitchWish(name, (side,), to, forced=True, accepts_volatile=True)
            [step] = operator.steps(wish, "hestai-message")[0]
            return operator.make(wish, operator.plan(wish, step))

    def until_made(self, name: str, side: str, to: str, seconds: float = 60.0) -> None:
        """Tries the switch until it is made, for so many seconds: what goes wrong passes."""
        trouble = ""

        def made() -> bool:
            nonlocal trouble
            try:
                with self.operator() as operator:
                    list(operator.complete())
                self.switch(name, side, to)
            except ValueError:
                return True  # no step is left
            except BridgeError as error:
                trouble = f"{error} ({error.hint})"
                return False
            return True

        def said() -> str:
            reasons = [str(reason) for plan in self.plans(name, (side,), to) for reason in plan.reasons]
            return f"{name} {side} {to}: {trouble} {reasons} {self.said()}"

        wait_until(made, said, seconds)

    def bring(self, name: str, reads: str, writes: str) -> None:
        """Brings a component to where it reads and writes these, a step at a time, in the order that is allowed."""
        for to, order in (("redis", ("reads", "writes")), ("file", ("writes", "reads"))):
            for side in order:
                wanted = reads if side == "reads" else writes
                with self.operator() as operator:
                    wish = SwitchWish(name, (side,), to, forced=True, accepts_volatile=True)
                    left = operator.steps(wish, "hestai-message")[0]
                if wanted == to and left:
                    assert self.switch(name, side, to).went_on, self.said()

    def given_more(self, name: str, count: int) -> None:
        """Waits until a reader was given so many more messages."""
        had = len(self.seen(name))
        wait_until(lambda: len(self.seen(name)) > had + count, self.said)

    def settled(self, reader: str, *writers: str) -> None:
        """Waits until the reader has all that the writers wrote."""

        def missing() -> list[tuple[str, int]]:
            had = {(role, number) for role, number, *_ in self.seen(reader)}
            return [(name, number) for name in writers for number in self.written(name) if (name, number) not in had]

        wait_until(lambda: not missing(), lambda: f"{reader} misses {missing()[:10]} {self.said()}", 60)

    def check(self, reader: str, *writers: str, mixed: bool = False, repeats: bool = False) -> None:
        """The reader was given all of each writer once, and in order; `repeats`: more than once where it is marked.

        `mixed`: the order holds for file-born messages, and for Redis-born ones. While Redis is gone a writer goes on in
        the log, and what it added before stands behind that in the file.
        """
        seen = self.seen(reader)
        kinds = (
            {(entry.fields[1], entry.fields[7]): entry.origin() is None for entry in self.rig.entries()}
            if mixed
            else {}
        )
        for name in writers:
            mine = [message for message in seen if message[0] == name]
            numbers = [message[1] for message in mine]
            wanted = self.written(name)
            twice = [number for number, count in Counter(numbers).items() if count > 1]
            if repeats:
                met: set[int] = set()
                for message in mine:
                    assert message[1] not in met or message[2], f"unmarked repeat {message} {self.said()}"
                    met.add(message[1])
            else:
                assert not twice, (
                    f"{reader} was given twice: {[message for message in mine if message[1] in twice][:6]} {self.said()}"
                )
            lost = sorted(set(wanted) - set(numbers))
            assert not lost, f"{reader} was never given: {name} {lost[:6]} of {len(wanted)} {self.said()}"
            firsts = list(dict.fromkeys(numbers))
            for kind in (True, False) if mixed else (None,):
                mine_of = [n for n in firsts if kind is None or kinds[name.encode(), str(n).encode()] is kind]
                wrong = [pair for pair in pairwise(mine_of) if pair[0] > pair[1]]
                assert not wrong, f"{reader}: {name} out of order {wrong[:5]} {self.said()}"
