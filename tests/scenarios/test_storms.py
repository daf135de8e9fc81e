"""Storms: masters are killed, frozen, replaced and cut off under load both ways, with components cut over in the middle.

The oracle: what is born in a file stands on both sides once and in order, whatever happens. With `redis.replicas = 1`
so does all that a component's `append` returned for. Without it a failover takes what only the lost master had: that is
counted, and still no line stands without its entry, and no entry without its line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median
from threading import Thread

import pytest

from bridge.core.errors import BridgeError
from bridge.core.model import paired
from bridge.streams.components import READS
from bridge.streams.embedded.binary import Binary
from tests.support.cast import CONFIG, Cast
from tests.support.cluster_group import ClusterGroup
from tests.support.rig import STREAM, Rig, wait_until
from tests.support.sentinel_group import SentinelGroup
from tests.support.server_faults import ELECTING, FAULTS, Group, ServerFaults
from tests.support.traffic import Lines, Plain

ROUNDS = int(os.environ.get("BRIDGE_ROUNDS") or (100 if os.environ.get("BRIDGE_SOAK") else 2))
SEED = int(os.environ.get("BRIDGE_SEED") or time.time())
STORMS = [("sentinel", 1), ("cluster", 0), ("sentinel", 0), ("cluster", 1)]
if not (os.environ.get("BRIDGE_SOAK") or os.environ.get("BRIDGE_ROUNDS")):
    STORMS = STORMS[:1]

GROUP_LOST = 60.0
"""Seconds for a cut-over where a failover may have taken the reader's group: then it never comes about."""

SETTLES = 180.0
"""Seconds in which all must have come to rest after the last fault."""


@dataclass
class Told:
    """What became of a storm."""

    rounds: Counter[str] = field(default_factory=Counter)
    file_born: int = 0
    redis_born: int = 0
    lost: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """From the election to the first line that went on to the new master, by fault."""


class Storm:
    """A group of servers, a bridge, a legacy program, a producer or a component that writes to Redis, and a reader."""

    def __init__(self, rig: Rig, group: Group, replicas: int, seed: int) -> None:
        self.rig, self.group, self.replicas = rig, group, replicas
        self.told = Told()
        self.group_lost = False
        """Whether a failover took the reader's consumer group: it stays where it is from there on."""
        self.faults = ServerFaults(group, random.Random(seed))
        self.cast = Cast(rig)
        self.cast.operates = group.url
        self.cast.urls = dict.fromkeys(("ui", "viewer"), group.url)
        rig.write_config(extra=f"[redis]\nreplicas = {replicas}\nreplicas_timeout = 2\n{CONFIG}")
        rig.ready(rig.start(url=group.url))

    # -- faults ----------------------------------------------------------------------------------------------

    def blow(self, fault: str, lines: Lines) -> None:
        """One fault, and what comes after it, until all servers are whole again."""
        old = wait_until(self.group.master_now, self.group.told)

        def watch() -> None:
            if fault in ELECTING:
                wait_until(lambda: self.group.master_now() not in (0, old), self.group.told, SETTLES)
            elected, goal = time.monotonic(), len(lines.written)
            wait_until(lambda: self._newest_line() >= goal, self.said)
            if fault in ELECTING:
                self.told.seconds.setdefault(fault, []).append(time.monotonic() - elected)

        watcher = Thread(target=watch)
        watcher.start()
        getattr(self.faults, fault)(old)
        watcher.join()
        self.group.thaw_all()
        self.group.restart_dead()
        wait_until(self.group.healed, self.group.told)
        self.told.rounds[fault] += 1

    def said(self) -> str:
        """What the bridge says of itself, and the servers of themselves."""
        return self.rig.run("status", "--redis", self.group.url).stdout + self.rig.said()[-3000:] + self.group.told()

    def heard(self) -> bool:
        """Whether the component that writes has told Redis that it is there."""
        with closing(self.group.connect()) as connection:
            return any(name.startswith(b"ui/") for name in connection.call("HKEYS", f"bridge:{{{STREAM}}}:positions"))

    def _newest_line(self) -> int:
        """The highest number of a line among the stream's newest entries; -1 where no master answers."""
        try:
            with closing(self.group.connect()) as connection:
                rows = connection.call("XREVRANGE", STREAM, "+", "-", "COUNT", 1000)
        except BridgeError:
            return -1
        lines = [data for _, fields in rows if (data := paired(fields)[b"data"]).startswith(b"line-")]
        return max((int(data.removeprefix(b"line-")) for data in lines), default=-1)

    def switch(self, to: str) -> None:
        """Cuts the reader over, or back; what fails meanwhile is tried again.

        Where replicas are not waited for, a failover may take back its consumer group: then it says that it waits.
        """
        if self.group_lost:
            return
        try:
            self.cast.until_made("viewer", READS, to, SETTLES if self.replicas else GROUP_LOST)
        except AssertionError as error:
            if self.replicas or "it has no consumer group" not in str(error):
                raise
            self.group_lost = True

    # -- the oracle ------------------------------------------------------------------------------------------

    def entries(self) -> list[dict[bytes, bytes]]:
        """The stream's entries, as fields; none where no master answers."""
        try:
            with closing(self.group.connect()) as connection:
                return [paired(fields) for _, fields in connection.call("XRANGE", STREAM, "-", "+")]
        except BridgeError:
            return []

    def check(self, lines: Lines, plain: Plain | None) -> None:
        """Both sides hold the same, and what must be there is there, once, in order."""

        def rest() -> bool:
            found = self.entries()
            return bool(found) and len(found) == len(self.rig.lines()) and found[-1] in found

        wait_until(
            rest, lambda: f"{len(self.entries())} entries, {len(self.rig.lines())} lines {self.rig.said()}", SETTLES
        )
        parity = wait_until(self._parity, self.rig.said, SETTLES)
        assert parity["verdict"] == "equal", parity
        stream = [(fields[b"role"], fields[b"data"]) for fields in self.entries()]
        file = [tuple(raw.split(b"|", 3)[::3]) for raw in self.rig.lines()]
        for side in (stream, file):
            assert [data for role, data in side if role == b"legacy"] == lines.written
            twice = [message for message, count in Counter(side).items() if count > 1]
            assert twice == [], twice[:10]
        assert Counter(stream) == Counter(file)
        self.told.file_born = len(lines.written)
        written = [b"%d" % number for number in self.cast.written("ui")]
        if plain is not None:
            written = plain.acknowledged
        there = {data for role, data in stream if role in (b"ui", b"plain")}
        lost = [data for data in written if data not in there]
        self.told.redis_born, self.told.lost = len(written), len(lost)
        if self.replicas:
            assert lost == [], lost[:10]

    def _parity(self) -> dict[str, object] | None:
        done = self.rig.run("parity", "--json", "--redis", self.group.url)
        found: dict[str, object] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return found if found.get("verdict") == "equal" else None


@pytest.fixture
def group(kind: str, replicas: int, binary: Binary) -> Iterator[Group]:
    """A master and what takes over when it dies: with `replicas` that are waited for, no other than those."""
    linux = sys.platform == "linux"
    made: Group
    if kind == "sentinel":
        made = SentinelGroup(binary, replicas=replicas or 2, password="secret", switchboard=linux)
    else:
        made = ClusterGroup(binary, switchboard=linux)
    yield made
    made.close()


def faults(seed: int) -> Callable[[int], str]:
    """The faults of the rounds: each kind as often as the others, in the order of the seed."""
    order = (os.environ.get("BRIDGE_STORMS") or ",".join(FAULTS)).split(",")
    random.Random(seed).shuffle(order)
    return lambda number: order[number % len(order)]


@pytest.mark.parametrize(("kind", "replicas"), STORMS)
def test_storm(rig: Rig, kind: str, group: Group, replicas: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever masters die of, no line is lost, doubled or out of order, and no message that `replicas` have."""
    storm, fault = Storm(rig, group, replicas, SEED), faults(SEED)
    cast, plain = storm.cast, Plain(group)
    try:
        if replicas:
            cast.start("write", "ui", 0.005)
            wait_until(storm.heard, cast.said)
            cast.bring("ui", "file", "redis")
        else:
            plain.__enter__()
        cast.start("read", "viewer", 0.0)
        with Lines(rig) as lines:
            for number in range(ROUNDS):
                switcher = Thread(target=storm.switch, args=("redis" if number % 2 == 0 else "file",))
                switcher.start()
                storm.blow(fault(number), lines)
                switcher.join()
        if replicas:
            cast.stop("ui")
        else:
            plain.__exit__()
        storm.check(lines, None if replicas else plain)
        if replicas:
            cast.settled("viewer", "ui")
        cast.stop("viewer")
    finally:
        if plain.alive:
            plain.__exit__()
        with capsys.disabled():
            told = storm.told
            print(f"\nstorm seed={SEED} {type(group).__name__} replicas={replicas} {dict(told.rounds)} file-born={told.file_born} "
                  f"Redis-born={told.redis_born} lost={told.lost} "
                  + " ".join(f"{name}={median(times):.1f}/{max(times):.1f}s" for name, times in told.seconds.items()))  # fmt: skip
