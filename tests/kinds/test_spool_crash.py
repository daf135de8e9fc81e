"""The bridge killed with SIGKILL at every point a folder comes by, while others write, take and rewrite its files."""

from __future__ import annotations

import json
import os
import subprocess
from threading import Event, Thread

import pytest

from tests.conftest import BINARIES
from tests.kinds.test_spool import deep
from tests.support.inbox import Inbox, document
from tests.support.rig import Rig, wait_until

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
POINTS = (
    "spool.due", "spool.batch", "spool.landed", "forward.send", "forward.reply", "forward.checkpoint",
    "mirror.read", "mirror.intent", "mirror.hidden", "mirror.write", "mirror.range", "mirror.checkpoint",
)  # fmt: skip
ROUNDS = (1, 2, 5) if SOAK else (2,)


class Programs:
    """One that moves files in, one that adds entries, and one that takes, rewrites and moves what it finds."""

    def __init__(self, inbox: Inbox, tag: str) -> None:
        self.file_born: list[str] = []
        self.redis_born: list[str] = []
        self._inbox = inbox
        self._tag = tag
        self._stop = Event()
        self._threads = [Thread(target=work) for work in (self._files, self._entries, self._take)]
        for thread in self._threads:
            thread.start()

    def _files(self) -> None:
        n = 0
        while not self._stop.wait(0.003):
            identity = f"f-{self._tag}-{n}"
            self._inbox.put(identity, name=f"new/{identity}.json", at=n % 3600)
            self.file_born.append(identity)
            n += 1

    def _entries(self) -> None:
        n = 0
        while not self._stop.wait(0.003):
            identity = f"r-{self._tag}-{n}"
            self._inbox.add(identity, at=n % 7)
            self.redis_born.append(identity)
            n += 1

    def _take(self) -> None:
        done = self._inbox.folder / "done"
        done.mkdir(exist_ok=True)
        while not self._stop.wait(0.02):
            for path in [*self._inbox.folder.glob("*.json")][:3]:
                facts = json.loads(path.read_bytes())
                hidden = path.with_name(f".{path.name}")
                hidden.write_bytes(document(facts["uuid"], status="done"))
                hidden.rename(path)
                path.rename(done / f"{facts['uuid']}.json")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def settled(inbox: Inbox, file_born: list[str], redis_born: list[str], child: subprocess.Popen[bytes]) -> None:
    """Both sides hold each message once, when the bridge has come to rest."""
    wanted = sorted([*file_born, *redis_born])
    wait_until(
        lambda: len(inbox.entries()) >= len(wanted) and len(inbox.files()) >= len(wanted),
        lambda: (
            f"{len(inbox.entries())} entries, {len(inbox.files())} files of {len(wanted)}; {inbox.rig.said()[-3000:]}"
        ),
    )
    inbox.rig.stop(child)
    said = inbox.rig.said()
    assert sorted(inbox.ids()) == wanted, said
    assert inbox.identities() == wanted, said
    assert inbox.hidden() == [], said
    result = inbox.parity()
    assert result.verdict == "equal", f"{result.tally} {said}"
    assert result.tally.compared == len(wanted), f"{result.tally} {said}"


@pytest.mark.parametrize("count", ROUNDS)
@pytest.mark.parametrize("when", ["before", "after"] if SOAK else ["after"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("binary", BINARIES if SOAK else BINARIES[:1], ids=lambda binary: binary.flavour)
def test_killed_at(rig: Rig, point: str, when: str, count: int) -> None:
    """A kill at this point loses no message and doubles none, whoever takes the files meanwhile."""
    inbox = Inbox(rig, mapping=str(deep(rig, settle=20)))
    child = rig.start(crash=f"{point}.{when}:{count}")
    programs = Programs(inbox, "a")
    wait_until(lambda: child.poll() is not None, lambda: f"the kill at {point}.{when}; {rig.said()}")
    assert child.returncode == -9, rig.said()
    programs.stop()
    again = rig.start()
    more = Programs(inbox, "b")
    wait_until(lambda: len(more.redis_born) > 10 and len(more.file_born) > 10, "more writing")
    more.stop()
    file_born, redis_born = programs.file_born + more.file_born, programs.redis_born + more.redis_born
    settled(inbox, file_born, redis_born, again)
