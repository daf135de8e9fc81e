"""Every kind of source with replies lost, connections cut, the server killed and the disk full; then the oracle."""

from __future__ import annotations

import os
import random
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.kinds.test_artifacts import Artifacts
from tests.kinds.test_context import Context
from tests.kinds.test_state import Values
from tests.support.inbox import Inbox
from tests.support.proxy import Proxy
from tests.support.rig import Rig, wait_until

SEEDS = range(6 if os.environ.get("BRIDGE_SOAK") else 1)
SIGNS, FAULTS = (b"EXEC\r\n", b"HSET", b"XREAD"), 12
"""Requests that may go wrong, and how many of them do: then the bridge is to come to rest."""


class Through:
    """A bridge behind a proxy that loses replies and cuts connections, by these dice."""

    def __init__(self, rig: Rig, seed: int) -> None:
        dice, left = random.Random(seed), [FAULTS]

        def fault(data: bytes, number: int) -> str:
            what = dice.choices(("pass", "swallow", "cut"), (3, 1, 1))[0]
            if not left[0] or not any(sign in data for sign in SIGNS):
                return "pass"
            left[0] -= what != "pass"
            return what

        self.rig = rig
        self.proxy = Proxy(rig.server, fault)
        self.child = rig.start(url=self.proxy.url)

    def end(self) -> None:
        """Stops both."""
        assert self.proxy.faults > 0
        self.rig.stop(self.child)
        self.proxy.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_spool(one_rig: Rig, seed: int) -> None:
    """Files and entries cross once each, whatever replies are lost."""
    inbox, through = Inbox(one_rig), Through(one_rig, seed)
    for n in range(60):
        inbox.put(f"f-{n}", at=n)
        inbox.add(f"r-{n}", at=n)
        Event().wait(0.01)
    wait_until(lambda: len(inbox.entries()) >= 120 and len(inbox.files()) >= 120, lambda: one_rig.said()[-3000:])
    through.end()
    assert sorted(inbox.ids()) == sorted([*(f"f-{n}" for n in range(60)), *(f"r-{n}" for n in range(60))])
    assert inbox.identities() == sorted(inbox.ids())
    assert inbox.parity().verdict == "equal"


@pytest.mark.parametrize("seed", SEEDS)
def test_context(one_rig: Rig, seed: int) -> None:
    """The chunks are the file, byte for byte, whatever replies are lost."""
    context, through = Context(one_rig), Through(one_rig, seed)
    whole = b""
    for n in range(25):
        piece = f"{n}… ".encode() * (1 + n % 3)
        context.write(piece)
        whole += piece
        Event().wait(0.07)
    context.until(1, whole)
    through.end()
    assert context.generations() == {1: whole}


@pytest.mark.parametrize("seed", SEEDS)
def test_state(one_rig: Rig, seed: int) -> None:
    """The latest value arrives, and each value that was seen is in the history once, whatever replies are lost."""
    values = Values(one_rig, history=True)
    through = Through(one_rig, seed)
    for n in range(25):
        values.save(b"%03d" % n)
        Event().wait(0.06)
    values.until(b"024")
    through.end()
    assert values.parity().verdict == "equal"
    datas = [entry.fields[7] for entry in values.entries()]
    assert datas == sorted(set(datas))
    assert datas[-1] == b"024"


@pytest.mark.parametrize("seed", SEEDS)
def test_artifacts(one_rig: Rig, seed: int) -> None:
    """Each artifact is announced once, whatever replies are lost."""
    artifacts, through = Artifacts(one_rig), Through(one_rig, seed)
    for n in range(40):
        artifacts.save(f"{n:02}", b"%d" % n)
        Event().wait(0.03)
    artifacts.until(40)
    through.end()
    assert sorted(fields["path"][-2:] for fields in artifacts.found()) == [b"%02d" % n for n in range(40)]


def test_the_server_is_killed(rig: Rig) -> None:
    """A server that is killed and comes back with what it had finds every file and every entry again, once."""
    inbox = Inbox(rig)
    child = rig.ready(rig.start())
    stop, sent = Event(), []

    def write() -> None:
        n = 0
        while not stop.wait(0.01):
            inbox.put(f"f-{n:04}", at=n)
            sent.append(f"f-{n:04}")
            n += 1

    writer = Thread(target=write)
    writer.start()
    inbox.until(10)
    rig.kill_server()
    Event().wait(0.3)
    rig.start_server()
    Event().wait(0.5)
    stop.set()
    writer.join()
    wait_until(lambda: len(inbox.entries()) >= len(sent), lambda: rig.said()[-3000:])
    rig.stop(child)
    assert sorted(inbox.ids()) == sent
    assert inbox.parity().verdict == "equal"


def test_the_disk_is_full(one_rig: Rig, small_disk: Path) -> None:
    """Entries whose files do not fit wait in the stream, and are files when there is room, whole and once each."""
    rig = one_rig
    rig.root.rmdir()
    rig.root.symlink_to(small_disk)
    inbox = Inbox(rig)
    rig.once()
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (5 << 20))
    for n in range(30):
        inbox.add(f"r-{n}", at=n, text="x" * 60_000)
    child = rig.ready(rig.start())
    wait_until(lambda: "No space" in rig.said() or "disk" in rig.said(), rig.said)
    assert all(len(raw) > 60_000 for raw in inbox.files().values())
    ballast.unlink()
    inbox.until_files(30)
    rig.stop(child)
    inbox.check([], [f"r-{n}" for n in range(30)])
    assert inbox.hidden() == []
