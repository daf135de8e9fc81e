"""The demo's stage: starts and kills a server, a bridge and three programs in a scratch folder, and watches them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Event, Thread

from bridge.admin.demo.players import STREAM
from bridge.admin.demo.verdict import Verdict, judge
from bridge.core.errors import RedisLost, RedisRefused, ServerError
from bridge.core.model import ZERO_ID, EntryId, paired
from bridge.streams.connect import Connection
from bridge.streams.embedded import embedded_server
from bridge.streams.keys import Keys
from bridge.streams.reader import BlockingReader, entries

PROGRAMS = {"agent": 60, "daemon": 40, "ui": 50}
"""Messages a second of each program: agent and daemon write the file, ui writes Redis."""

FILE_BORN = {"agent", "daemon"}
KILL_BRIDGE, START_BRIDGE, KILL_SERVER, LAST_EVENT = 3.0, 4.5, 7.0, 10.0
"""Seconds from the first message to each event."""

STAGE_SECONDS = 30.0
STAGE_CONFIG = 'instance = "demo"\nmappings = ["hestai-message"]\n'


@dataclass(slots=True)
class Crossing:
    """Counts the messages of the demo that crossed in one direction: how long each took, in seconds, and the last one.

    A message has crossed when it is seen on the side that it was not written to.
    """

    took: list[float] = field(default_factory=list)
    last: str = ""

    @property
    def count(self) -> int:
        """How many messages of the demo crossed to the other side."""
        return len(self.took)

    def middle(self, newest: int = 0) -> float:
        """Computes the median time of the demo's crossings, of all or of the newest so many; 0 where there are none."""
        return median(self.took[-newest:]) if self.took else 0.0


@dataclass(slots=True)
class Scene:
    """Holds what the demo's screen shows: messages written and crossed, events, and whether bridge and server run.

    `written`: by each program; `events`: after how many seconds what happened.
    """

    written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROGRAMS, 0))
    into_stream: Crossing = field(default_factory=Crossing)
    into_file: Crossing = field(default_factory=Crossing)
    events: list[tuple[float, str]] = field(default_factory=list)
    bridge: bool = False
    server: bool = True

    @property
    def from_file(self) -> int:
        """How many messages the demo's programs wrote into the file."""
        return sum(self.written[role] for role in FILE_BORN)


class Stage:
    """Starts, kills and watches everything that the demo runs in its scratch folder: server, bridge and programs."""

    def __init__(self, root: Path, config: str) -> None:
        self.root = root
        self.log = root / "messages.log"
        self.scene = Scene()
        self.bridge: subprocess.Popen[bytes] | None = None
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.over = Event()
        self._begun = 0.0
        self.log.touch()
        self.config = root / "bridge.toml"
        self.config.write_text(config)
        self.server = embedded_server.start(root / ".bridge")
        connection = Connection(self.server.socket_url)
        # With `everysec` a slow disk makes Redis acknowledge what it has not written yet, and a kill would lose it.
        connection.call("CONFIG", "SET", "appendfsync", "no")
        connection.close()
        self.start_bridge()

    def start_bridge(self) -> None:
        """Starts the demo's bridge with `bridge run --dual`, as a user would."""
        with (self.root / "bridge.log").open("ab") as out:
            self.bridge = subprocess.Popen(
                [sys.executable, "-m", "bridge", "run", "--dual", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=plain_environment(),
            )  # fmt: skip
        self.scene.bridge = True

    def kill_bridge(self) -> None:
        """Kills the demo's bridge with SIGKILL, so that it cannot clean up."""
        if self.bridge is not None:
            self.bridge.kill()
            self.bridge.wait()
        self.scene.bridge = False

    def stop_bridge(self) -> None:
        """Stops the demo's bridge with SIGTERM, after which it carries what is there, and ends."""
        if self.bridge is not None:
            self.bridge.terminate()
            self.bridge.wait()
        self.scene.bridge = False

    def start_programs(self) -> None:
        """Starts the demo's three programs: agent, daemon and ui."""
        for role, rate in PROGRAMS.items():
            where = ("file", str(self.log)) if role in FILE_BORN else ("redis", self.server.url)
            self.programs[role] = player(*where, role, str(rate))
        self._begun = time.monotonic()

    def tell(self, what: str) -> None:
        """Adds an event to the demo's scene, with the seconds since the start."""
        self.scene.events.append((self.age, what))

    @property
    def age(self) -> float:
        """Seconds since the demo's programs were started."""
        return time.monotonic() - self._begun if self._begun else 0.0

    def stop_programs(self) -> dict[str, int]:
        """Ends the demo's programs by closing their input, and returns how many messages each says it wrote."""
        for program in self.programs.values():
            if program.stdin is not None:
                program.stdin.close()
        said = {}
        for role, program in self.programs.items():
            out = program.stdout.read() if program.stdout is not None else b""
            program.wait()
            said[role] = int(out)
        return said

    # -- what is seen ----------------------------------------------------------------------------------------

    def watch_file(self) -> None:
        """Tails the demo's log until the end, and counts lines that programs wrote and lines that came from Redis."""
        with self.log.open("rb") as file:
            rest = b""
            while not self.over.wait(0.001):
                data = file.read()
                *lines, rest = (rest + data).split(b"\n") if data else [rest]
                now = time.time()
                for line in lines:
                    self._seen(line.split(b"|", 1)[0].decode(), line.split(b"|", 3)[3], now, in_file=True)

    def watch_stream(self) -> None:
        """Follows the demo's stream until the end, and counts its entries; connects again when Redis was killed."""
        cursor: EntryId = ZERO_ID
        while not self.over.is_set():
            connection = None
            try:
                connection = Connection(self.server.socket_url)
                self.scene.server = True
                reader = BlockingReader(connection, Keys.of(STREAM))
                while not self.over.is_set():
                    reader.ask(cursor, count=500, block_ms=200, before=[])
                    found = reader.answer()[0]
                    now = time.time()
                    for entry in found:
                        cursor = entry.id
                        values = paired(entry.fields)
                        self._seen(values[b"role"].decode(), values[b"data"], now, in_file=False)
            except (RedisLost, RedisRefused):
                self.scene.server = False
                self.over.wait(0.02)
            finally:
                if connection is not None:
                    connection.close()

    def _seen(self, role: str, data: bytes, now: float, *, in_file: bool) -> None:
        if (role in FILE_BORN) == in_file:
            self.scene.written[role] += 1
        else:
            crossing = self.scene.into_file if in_file else self.scene.into_stream
            said = json.loads(data)
            crossing.took.append(now - float(said["sent"]))
            crossing.last = f"{role} {said['n']}: {said['text']}"

    def verdict(self, written: dict[str, int]) -> Verdict:
        """Reads file and stream of the demo anew, and judges them against what each program says it wrote."""
        connection = Connection(self.server.socket_url)
        try:
            held = [entry.fields for entry in entries(connection, STREAM.encode())]
        finally:
            connection.close()
        return judge(self.log.read_bytes(), held, written, FILE_BORN)

    def close(self) -> None:
        """Kills everything that the demo still runs: programs, bridge and server."""
        self.over.set()
        for program in self.programs.values():
            program.kill()
            program.wait()
        self.kill_bridge()
        embedded_server.kill(self.server)
        Path(self.server.socket).unlink(missing_ok=True)


@contextmanager
def staged(config: str = STAGE_CONFIG) -> Iterator[Stage]:
    """Sets up the demo's stage in a scratch folder, and removes both afterwards, even if this process is killed."""
    root = Path(tempfile.mkdtemp(prefix="bridge-demo-"))
    keeper = player("keep", str(root))
    stage = None
    try:
        stage = Stage(root, config)
        yield stage
    finally:
        if stage is not None:
            stage.close()
        shutil.rmtree(root, ignore_errors=True)
        keeper.communicate()


def play(stage: Stage, show: Callable[[Scene], None], wait: Callable[[float], object]) -> Verdict:
    """Plays the whole demo on a stage: kills and restarts bridge and server, and judges both sides at the end.

    `show` is called with the scene at least ten times a second. Raises ServerError when the two sides never agree.
    """
    watchers = [Thread(target=stage.watch_file, daemon=True), Thread(target=stage.watch_stream, daemon=True)]
    for watcher in watchers:
        watcher.start()
    stage.start_programs()
    stage.tell("agent and daemon write the file, ui writes Redis, and the bridge carries")
    scene = stage.scene

    def until(age: float) -> None:
        while stage.age < age:
            show(scene)
            wait(0.1)

    until(KILL_BRIDGE)
    stage.kill_bridge()
    stage.tell("the bridge was killed with SIGKILL; the programs write on")
    until(START_BRIDGE)
    waiting = scene.from_file - scene.into_stream.count, scene.written["ui"] - scene.into_file.count
    stage.start_bridge()
    stage.tell(f"the bridge was started again; {waiting[0]} lines and {waiting[1]} entries had waited")
    until(KILL_SERVER)
    embedded_server.kill(stage.server)
    scene.server = False
    stage.tell("Redis was killed with SIGKILL; agent and daemon write on, the bridge starts it again")
    while not scene.server and stage.age < LAST_EVENT + STAGE_SECONDS:
        show(scene)
        wait(0.05)
    stage.tell("Redis is there again, with its data")
    until(max(LAST_EVENT, stage.age + 1))
    written = stage.stop_programs()
    stage.tell("the programs have ended; the last messages cross")
    deadline = time.monotonic() + STAGE_SECONDS
    ours, theirs = sum(written[role] for role in FILE_BORN), sum(written.values()) - sum(written[r] for r in FILE_BORN)
    while scene.into_stream.count < ours or scene.into_file.count < theirs:
        if time.monotonic() > deadline:
            tail = (stage.root / "bridge.log").read_text(errors="replace")[-2000:]
            came = f"file → Redis {scene.into_stream.count} of {ours}, Redis → file {scene.into_file.count} of {theirs}"
            raise ServerError(f"the sides do not agree after {STAGE_SECONDS:.0f} s: {came}; the bridge said:\n{tail}")
        show(scene)
        wait(0.05)
    show(scene)
    return stage.verdict(written)


def player(*parts: str) -> subprocess.Popen[bytes]:
    """Starts a player of the demo, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bridge.admin.demo.players", *parts], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True, env=plain_environment(),
    )  # fmt: skip


def plain_environment() -> dict[str, str]:
    """Copies the environment without BRIDGE_ variables, which could point the demo's bridge to the user's own files."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
