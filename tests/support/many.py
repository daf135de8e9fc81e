"""A mapping with many streams: logs of sessions, writers on both sides of each, and the oracle of every stream."""

from __future__ import annotations

import random
from pathlib import Path
from threading import Event, Lock, Thread

from bridge.core.stream_names import escaped, name_in
from bridge.streams.connect import Connection
from bridge.streams.reader import entries
from tests.support.rig import FIELDS, Rig, line, wait_until

KEY = "hestai:session"
GLOB = "sessions/**/*.log"

MAPPING = f"""name = "sessions"
[source]
kind = "log"
path = "{GLOB}"
rotated = ["sessions/**/*.log.*"]
[format]
codec = "delimited"
delimiter = "|"
columns = ["role", "timestamp", "type", "data"]
[stream]
key = "{KEY}:{{name}}"
[mirror]
path = "sessions/{{name}}.log"
"""


class Sessions:
    """The logs of many sessions in a rig's folder, each with what was written to it and to its stream."""

    def __init__(self, rig: Rig, names: list[str]) -> None:
        self.rig = rig
        (rig.path / "sessions.toml").write_text(MAPPING)
        rig.write_config(mapping="sessions.toml", extra='[components.ui]\nroles = ["ui"]')
        self.names, self._adding = names, Lock()
        self.file_born: dict[str, list[bytes]] = {name: [] for name in names}
        self.redis_born: dict[str, list[bytes]] = {name: [] for name in names}

    def log(self, name: str) -> Path:
        """The log of a session."""
        return self.rig.root / "sessions" / f"{name}.log"

    def stream(self, name: str) -> str:
        """The stream of a session, by the name that its log has."""
        return f"{KEY}:{escaped(name_in(GLOB, f'sessions/{name}.log'))}"

    def append(self, name: str, *datas: str) -> None:
        """Lines, as a legacy program writes them."""
        path = self.log(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b"".join(map(line, datas)))
        self.file_born[name] += [data.encode() for data in datas]

    def rotate(self, name: str) -> None:
        """As logrotate does, with no limit: .1 → .2 and so on, and the log → .1."""
        log = self.log(name)
        for number in range(len([*log.parent.glob(f"{log.name}.*")]), 0, -1):
            log.with_name(f"{log.name}.{number}").rename(log.with_name(f"{log.name}.{number + 1}"))
        log.rename(log.with_name(f"{log.name}.1"))

    def add(self, name: str, data: str, connection: Connection | None = None) -> None:
        """A plain XADD."""
        values = (b"ui", b"2026-03-02T09:14:06Z", b"say", data.encode())
        pairs = [part for pair in zip(FIELDS, values, strict=True) for part in pair]
        with self._adding:  # two threads may add to one stream: what is noted has the stream's order
            (connection or self.rig.redis).call("XADD", self.stream(name), "*", *pairs)
            self.redis_born[name].append(data.encode())

    def in_file(self, name: str) -> list[bytes]:
        """The data of a session's lines, its rotated pieces first."""
        pieces = sorted(self.log(name).parent.glob(f"{self.log(name).name}.*"), key=lambda path: -int(path.suffix[1:]))
        whole = b"".join(path.read_bytes() for path in [*pieces, self.log(name)] if path.exists())
        return [raw.split(b"|", 3)[3] for raw in whole.split(b"\n") if raw]

    def in_stream(self, name: str) -> list[bytes]:
        """The data of a stream's entries."""
        return [entry.fields[7] for entry in entries(self.rig.redis, self.stream(name).encode())]

    def missing(self) -> str:
        """Which sessions are not whole on both sides yet, in short; empty: none."""
        wanted = {name: len(self.file_born[name]) + len(self.redis_born[name]) for name in self.names}
        length = {name: int(self.rig.redis.call("XLEN", self.stream(name))) for name in self.names}
        there = {name: len(self.in_file(name)) for name in self.names}
        less = [f"{name}: {there[name]} lines, {length[name]} entries of {wanted[name]}" for name in self.names
                if min(there[name], length[name]) < wanted[name]]  # fmt: skip
        return ", ".join(less[:5])

    def settle(self, seconds: float = 90.0) -> None:
        """Waits until all that was written is on both sides, and checks it."""
        wait_until(lambda: not self.missing(), lambda: self.missing() + self.rig.said()[-3000:], seconds)
        self.check()

    def check(self) -> None:
        """In each stream every message once; file-born ones in file order, Redis-born ones in stream order."""
        for name in self.names:
            mine, theirs = self.file_born[name], self.redis_born[name]
            lines, datas = self.in_file(name), self.in_stream(name)
            said = f"{name}: {lines[-9:]} {datas[-9:]} {self.rig.said()[-3000:]}"
            assert [data for data in lines if data in mine] == mine, said
            assert [data for data in datas if data in mine] == mine, said
            assert [data for data in datas if data in theirs] == theirs, said
            assert [data for data in lines if data in theirs] == theirs, said
            assert len(lines) == len(datas) == len(mine) + len(theirs), said


class SessionWriters:
    """Programs that write to sessions at random, to logs and to streams, until told to stop; `tag` tells them apart.

    `pause`: seconds between two writes to Redis, twice those between two to files.
    """

    def __init__(self, sessions: Sessions, tag: str, seed: int = 1, pause: float = 0.002) -> None:
        self.written = 0
        self._pause = pause
        self._sessions, self._tag, self._random = sessions, tag, random.Random(seed)
        self._stop = Event()
        self._threads = [Thread(target=self._file, daemon=True), Thread(target=self._redis, daemon=True)]
        for thread in self._threads:
            thread.start()

    def _file(self) -> None:
        while not self._stop.wait(self._pause / 2):
            name = self._random.choice(self._sessions.names)
            self._sessions.append(name, *(f"f-{self._tag}-{self.written}-{n}" for n in range(1 + self.written % 3)))
            self.written += 1

    def _redis(self) -> None:
        connection, chosen, n = Connection(self._sessions.rig.url), random.Random(f"{self._tag}"), 0
        while not self._stop.wait(self._pause):
            self._sessions.add(chosen.choice(self._sessions.names), f"r-{self._tag}-{n}", connection)
            n += 1
        connection.close()

    def stop(self) -> None:
        """Ends the programs."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
