"""Three hosts on one cluster, each with files, a bridge and a stream of its own, while its masters die and one host with them."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import pytest

from bridge.core.errors import BridgeError
from bridge.core.model import paired
from bridge.streams.embedded.binary import Binary
from tests.support.cluster_group import ClusterGroup
from tests.support.rig import STREAM, Rig, delimited, wait_until
from tests.support.server_faults import ServerFaults
from tests.support.traffic import Lines

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
ROUNDS = int(os.environ.get("BRIDGE_ROUNDS") or (20 if SOAK else 1))
SEED = int(os.environ.get("BRIDGE_SEED") or time.time())
KINDS = ("kill", "freeze", "planned", "hang_up", "behind")


class Host:
    """A machine: a folder with a log, a bridge and its state directory, and a legacy program that writes lines."""

    def __init__(self, name: str, rig: Rig, group: ClusterGroup) -> None:
        self.name, self.rig, self.group = name, rig, group
        self.stream = f"{STREAM}:{name}"
        text = delimited("messages.log", mirror="messages.log").replace(STREAM, f"{STREAM}:{{instance}}")
        (rig.path / "mine.toml").write_text(text)
        rig.write_config(mapping="mine.toml", instance=name, extra=f'[redis]\nurl = "{group.url}"')

    def start(self) -> None:
        self.rig.ready(self.rig.start(url=self.group.url))

    def moved_to(self, path: Path) -> None:
        """The machine is gone for good; its folder, from a copy of its disk, is on another one."""
        self.rig.children[-1].kill()
        self.rig.children[-1].wait()
        shutil.copytree(self.rig.path, path)
        gone, self.rig = self.rig, self.rig.at(path)
        shutil.rmtree(gone.root)
        shutil.rmtree(gone.state)

    def entries(self) -> list[bytes]:
        """The data of the stream's entries; none where no master answers."""
        try:
            with closing(self.group.connect(self.stream)) as connection:
                return [paired(fields)[b"data"] for _, fields in connection.call("XRANGE", self.stream, "-", "+")]
        except BridgeError:
            return []

    def add(self, data: str) -> None:
        """A message that a program of this host writes to Redis."""
        with closing(self.group.connect(self.stream)) as connection:
            connection.call("XADD", self.stream, "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say",
                            "data", data)  # fmt: skip


@pytest.fixture
def group(binary: Binary) -> Iterator[ClusterGroup]:
    made = ClusterGroup(binary)
    yield made
    made.close()


def test_hosts(rig: Rig, tmp_path: Path, group: ClusterGroup) -> None:
    """Each line of each host is once in that host's stream, in order, whatever masters and one of the hosts die of."""
    rigs = [rig]
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        rigs.append(rig.beside(tmp_path / name))
    hosts = [Host(name, of, group) for name, of in zip("abc", rigs, strict=True)]
    for host in hosts:
        host.start()
    faults, chance = ServerFaults(group, random.Random(SEED)), random.Random(SEED)
    written: dict[str, list[bytes]] = {}
    with ExitStack() as stack:
        writing = {host.name: stack.enter_context(Lines(host.rig, 0.01)) for host in hosts}
        for number in range(ROUNDS):
            stream = chance.choice(hosts).stream
            getattr(faults, chance.choice(KINDS))(wait_until(lambda s=stream: group.master(s), group.told))  # type: ignore[misc]
            group.thaw_all()
            group.restart_dead()
            wait_until(group.healed, group.told)
            if number == ROUNDS // 2:
                lines = writing["c"]
                lines.__exit__()
                hosts[2].moved_to(tmp_path / "another")
                hosts[2].start()
                again = stack.enter_context(Lines(hosts[2].rig, 0.01))
                again.written = lines.written
                writing["c"] = again
        Event().wait(0.5)
    for host in hosts:
        written[host.name] = writing[host.name].written
        host.add("from Redis")
    for host in hosts:
        wanted = [*written[host.name], b"from Redis"]

        def rest(host: Host = host, wanted: list[bytes] = wanted) -> bool:
            return sorted(host.entries()) == sorted(wanted) and len(host.rig.lines()) == len(wanted)

        wait_until(rest, lambda host=host: f"{host.name}: {len(host.entries())} {host.rig.said()}", 180)  # type: ignore[misc]
        assert [data for data in host.entries() if data != b"from Redis"] == written[host.name]
        assert sorted(raw.split(b"|", 3)[3] for raw in host.rig.lines()) == sorted(wanted)
        wait_until(lambda host=host: host.rig.run("parity").returncode == 0, host.rig.said, 180)  # type: ignore[misc]

    def proved() -> dict[str, str]:
        told = json.loads(hosts[0].rig.run("parity", "--all-hosts", "--json").stdout)
        return {row["instance"]: row["verdict"] for row in told["hosts"]}

    wait_until(lambda: proved() == dict.fromkeys("abc", "equal"), lambda: str(proved()))
    for host in hosts:
        host.rig.stop(host.rig.children[-1])
