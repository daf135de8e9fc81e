"""The programs of a workstation, each in a thread: they write every kind of source on both sides, whatever dies.

Each of them knows what it wrote; what is missing or there twice is told by `wrong`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread

from bridge.core.errors import BridgeError
from bridge.streams.connect import Connection
from bridge.streams.reader import entries
from tests.support.inbox import document
from tests.support.rig import FIELDS, Rig, line, wait_until

MAPPINGS = ("hestai-message", "hestai-inbox", "hestai-context", "hestai-state", "hestai-artifacts")


def not_once(wanted: Iterable[bytes], found: list[bytes]) -> list[bytes]:
    """What is missing, there twice, or of nobody; each with how often it is there."""
    wanted = Counter(wanted)
    counts = Counter(found)
    return [b"%b: %d" % (data, counts[data]) for data in wanted | counts if counts[data] != wanted[data]]


class Producer:
    """A program that adds entries to one stream, each with another data; what may be in it or not is `unsure`."""

    def __init__(self, rig: Rig, stream: str, data: Callable[[int], bytes], facts: list[str]) -> None:
        self.sure: list[bytes] = []
        self.unsure: set[bytes] = set()
        self._rig = rig
        self.turn = Lock()
        """Held while something is added, and while nobody may add."""
        self._stream = stream
        self._data = data
        self._facts = facts

    def work(self, stop: Event, pause: float) -> None:
        """Adds until it is stopped."""
        n, connection = 0, None
        while not stop.wait(pause):
            data = self._data(n)
            n += 1
            values = [*(fact.encode() for fact in self._facts), data]
            pairs = [part for pair in zip(FIELDS, values, strict=True) for part in pair]
            with self.turn:
                try:
                    connection = connection or Connection(self._rig.url, timeout=2)
                    connection.call("XADD", self._stream, "*", *pairs)
                    self.sure.append(data)
                except BridgeError:
                    self.unsure.add(data)
                    if connection is not None:
                        connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def added(self, found: Iterable[bytes]) -> list[bytes]:
        """What it added, as far as that is known, and what of the rest is found."""
        return [*self.sure, *(data for data in found if data in self.unsure)]


class Workstation:
    """See the module. `turn` is held by whoever writes to the log, and while the log is copied and emptied."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.turn = Lock()
        """What is written while a log is copied and emptied is lost by that, to everybody."""
        self.appended: dict[str, list[bytes]] = {"a": [], "b": [], "late": []}
        self.messages = Producer(rig, "hestai:messages", lambda n: b"r-%d" % n, ["ui", "2026-03-02T09:14:06Z", "say"])
        self.letters = Producer(
            rig, "hestai:inbox", lambda n: document(f"r-{n}"), ["agent", "2026-03-02T09:00:00", "note"]
        )
        self.put: list[bytes] = []
        self.context = b""
        self.value = b""
        self.saved: list[bytes] = []
        for name in ("inbox", "context", "state", "artifacts/wind"):
            (rig.root / name).mkdir(parents=True, exist_ok=True)
        self._stop = Event()
        works = [
            lambda: self._append("a"), lambda: self._append("b"), self._keep, self._put, self._grow, self._set, self._save,
            lambda: self.messages.work(self._stop, 0.01), lambda: self.letters.work(self._stop, 0.1),
        ]  # fmt: skip
        self._threads = [Thread(target=work) for work in works]
        for thread in self._threads:
            thread.start()

    # -- the log ---------------------------------------------------------------------------------------------

    def _append(self, name: str) -> None:
        """Opens, appends and closes."""
        n = 0
        while not self._stop.wait(0.02):
            data = f"f-{name}-{n}".encode()
            with self.turn, self.rig.log.open("ab", buffering=0) as file:
                file.write(line(data))
                self.appended[name].append(data)
            n += 1

    def _keep(self) -> None:
        """Keeps a descriptor over rotations, and writes to what it was opened for."""
        n = 0
        while not self._stop.is_set():
            try:
                file = self.rig.log.open("r+b", buffering=0)
            except FileNotFoundError:
                self._stop.wait(0.01)
                continue
            with file:
                for _ in range(3):
                    self._stop.wait(0.3)
                    with self.turn:
                        if os.fstat(file.fileno()).st_nlink == 0:  # packed meanwhile: what it writes is nowhere
                            break
                        data = f"f-late-{n}".encode()
                        with open(f"/proc/self/fd/{file.fileno()}", "ab", buffering=0) as again:
                            again.write(line(data))
                        self.appended["late"].append(data)
                    n += 1

    # -- the other kinds ---------------------------------------------------------------------------------------

    def _move_in(self, folder: str, name: str, data: bytes) -> None:
        hidden = self.rig.root / folder / ".new"
        hidden.write_bytes(data)
        hidden.rename(self.rig.root / folder / name)

    def _put(self) -> None:
        n = 0
        while not self._stop.wait(0.1):
            data = document(f"f-{n}")
            self._move_in("inbox", f"f-{n}.json", data)
            self.put.append(data)
            n += 1

    def _grow(self) -> None:
        n = 0
        with (self.rig.root / "context" / "wind.ctx").open("ab", buffering=0) as file:
            while not self._stop.wait(0.05 if n % 10 else 0.4):  # a pause ends a chunk
                piece = f"{n} tökens … ".encode()
                file.write(piece)
                self.context += piece
                n += 1

    def _set(self) -> None:
        n = 0
        while not self._stop.wait(0.2):
            self.value = b"%d" % n
            self._move_in("state", "phase.txt", self.value)
            n += 1

    def _save(self) -> None:
        n = 0
        while not self._stop.wait(0.2):
            name = f"{n}.txt"
            self._move_in("artifacts/wind", name, b"artifact %d" % n)
            self.saved.append(str(self.rig.root / "artifacts" / "wind" / name).encode())
            n += 1

    def write_on(self, lines: int) -> None:
        """Returns once so many more lines were appended: how long a fault lasts."""
        begun = sum(map(len, self.appended.values()))
        wait_until(lambda: sum(map(len, self.appended.values())) >= begun + lines, "more writing")

    def stop(self) -> None:
        """All of them end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    # -- the oracle ------------------------------------------------------------------------------------------

    def datas(self, stream: str) -> list[bytes]:
        """The data of every entry of a stream, in its order."""
        return [dict(zip(entry.fields[0::2], entry.fields[1::2], strict=True))[b"data"]
                for entry in entries(self.rig.redis, stream.encode())]  # fmt: skip

    def wrong(self, more: Iterable[bytes] = ()) -> str:
        """What is not as it was written, by side and kind; empty where all is. `more`: the messages of others."""
        found = self.datas("hestai:messages")
        lines = self.rig.messages()
        written = [data for some in self.appended.values() for data in some]
        wanted = [*written, *self.messages.added(found), *more]
        inbox = self.datas("hestai:inbox")
        letters = [json.loads(data)["uuid"].encode() for data in [*self.put, *self.letters.added(inbox)]]
        ids = [json.loads(data)["uuid"].encode() for data in inbox]
        files = [json.loads(path.read_bytes())["uuid"].encode() for path in (self.rig.root / "inbox").glob("*.json")]
        grown = b"".join(self.datas("hestai:context"))
        value = self.rig.redis.call("HGET", "bridge:{hestai:state}:state:state/phase.txt", "data")
        sides = {
            "the log's stream": not_once(wanted, found),
            "the log": not_once(wanted, lines),
            "the inbox's stream": not_once(letters, ids),
            "the inbox": not_once(letters, files),
            "the artifacts": not_once(self.saved, self.datas("hestai:artifacts")),
            "the context": [] if grown == self.context else [b"%d of %d bytes" % (len(grown), len(self.context))],
            "the value": [] if value == self.value else [value, self.value],
        }
        for name, some in self.appended.items():  # the late one writes to several files at a time
            mine = [data for data in found if data.startswith(b"f-%b-" % name.encode())]
            sides[f"the order of {name}"] = [] if name == "late" or mine == some else mine[:3]
        order = [data for data in found if data.startswith(b"r-")]
        sides["the order of r"] = [] if [data for data in lines if data.startswith(b"r-")] == order else order[:3]
        return "; ".join(f"{side}: {len(some)}, {some[:5]}" for side, some in sides.items() if some)
