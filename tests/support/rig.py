"""One bridge with its folder and server, run as a child process or in this one; and the oracle."""

from __future__ import annotations

import atexit
import bz2
import gzip
import json
import lzma
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from copy import copy
from pathlib import Path
from threading import Event
from typing import Any

from bridge.core.config import Settings, load
from bridge.core.failpoints import FAILPOINTS
from bridge.engine.account.inventory import account_of
from bridge.engine.once import OnceReport, once
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.sources import all_generations
from bridge.ledger.store import Ledger
from bridge.parity.account import ByteAccount
from bridge.parity.result import ParityResult
from bridge.parity.run_parity import check_of
from bridge.parity.whole_file_account import WholeFileAccount
from bridge.streams.connect import Connection
from bridge.streams.embedded import embedded_server
from bridge.streams.embedded.binary import Binary
from bridge.streams.reader import Entry, entries
from tests.support import zygote

STREAM = "hestai:messages"
ELSEWHERE = (
    "forward.align", "forward.record", "redact.", "retry.", "repair.", "spool.", "state.", "mirror.hidden", "switch.",
    "trim.", "retire.", "purge.", "unretire.", "move.", "streams.", "group.",
)  # fmt: skip
RUNNING = [name for name in FAILPOINTS if not name.startswith(ELSEWHERE)]
"""The crash points that a running bridge comes by."""

FIELDS = (b"role", b"timestamp", b"type", b"data")


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 90.0) -> Any:
    """The condition's first true value; fails with `what` after `seconds`. A costly condition is asked less often."""
    deadline = time.monotonic() + seconds
    pause = Event()
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what if isinstance(what, str) else what()}")
        pause.wait(max(0.01, (time.monotonic() - began) / 2))


def line(data: str | bytes, role: str = "agent") -> bytes:
    """A line of the log, with its newline."""
    raw = data if isinstance(data, bytes) else data.encode()
    return role.encode() + b"|2026-03-02T09:14:05.112Z|turn|" + raw + b"\n"


def unpacked(path: Path) -> bytes:
    """What a file holds, by the suffix of its name."""
    return UNPACK.get(path.suffix, bytes)(path.read_bytes())


def delimited(path: str, *rotated: str, mirror: str) -> str:
    """A mapping of lines of role|timestamp|type|data."""
    pieces = ", ".join(f'"{glob}"' for glob in rotated)
    return (
        f'name = "mine"\n[source]\nkind = "log"\npath = "{path}"\nrotated = [{pieces}]\n[format]\n'
        'codec = "delimited"\ndelimiter = "|"\ncolumns = ["role", "timestamp", "type", "data"]\n'
        f'[stream]\nkey = "{STREAM}"\n[mirror]\npath = "{mirror}"\n'
    )


WHOLE = re.compile(rb"(?:agent|ui)\|[^|]*\|[^|]*\|[^|]*$")
"""A line of the log; a part of another one of the mirror's may stand before it."""

UNPACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


class Rig:
    """See the module."""

    def __init__(self, path: Path, binary: Binary) -> None:
        self._layout(path, binary)
        self.start_server()

    def _layout(self, path: Path, binary: Binary) -> None:
        self.path = path
        self.root = path / "files"
        self.root.mkdir()
        self.log = self.root / "messages.log"
        self.binary = binary
        self.children: list[subprocess.Popen[bytes]] = []
        self.state = path / "state"
        self.state.mkdir(mode=0o700)
        self.other_servers: list[Path] = []
        self.write_config()
        self.database = 0
        self._connection: Connection | None = None

    _shared_server: embedded_server.EmbeddedServer | None = None
    _shared_state: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def shared(cls, path: Path, binary: Binary) -> Rig:
        """A rig on one server for many short tests in a process, with a flushed database of its own."""
        if cls._shared_server is None:
            cls._shared_state = tempfile.TemporaryDirectory(prefix="bs-")
            state = Path(cls._shared_state.name)
            cls._shared_server = embedded_server.start(state, binary)
            server = cls._shared_server

            def end() -> None:
                embedded_server.kill(server)
                Path(server.socket).unlink(missing_ok=True)

            atexit.register(end)
        rig = cls.__new__(cls)
        rig._layout(path, binary)
        rig.server = cls._shared_server
        rig.redis.call("FLUSHALL")
        return rig

    def beside(self, path: Path) -> Rig:
        """Another folder, with another bridge, on this rig's server."""
        rig = Rig.__new__(Rig)
        rig._layout(path, self.binary)
        rig.server = self.server
        return rig

    def at(self, path: Path) -> Rig:
        """This rig's files, which were moved to another folder."""
        rig = copy(self)
        rig.path, rig.root, rig.state = path, path / "files", path / "state"
        rig.log = rig.root / "messages.log"
        return rig

    def close_shared(self) -> None:
        """Leaves the server for the next."""
        self.forget_connection()

    def write_config(self, *, mapping: str = "hestai-message", extra: str = "", instance: str = "test") -> None:
        """bridge.toml."""
        (self.path / "bridge.toml").write_text(
            f'instance = "{instance}"\nroot = "files"\nmappings = ["{mapping}"]\n{extra}\n[state]\ndir = "state"\n'
        )

    def settings(self, *, url: str | None = None, state: Path | None = None) -> Settings:
        """As a command would load them."""
        env = {} if state is None else {"BRIDGE_STATE_DIR": str(state)}
        return load(config=None, redis=url or self.server.socket_url, env=env, cwd=self.path)

    # -- the server ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the stream is."""
        return self.server.socket_url.replace("db=0", f"db={self.database}")

    @property
    def redis(self) -> Connection:
        """A connection of the test's own, made anew when the server was restarted."""
        if self._connection is None:
            self._connection = Connection(self.url)
        return self._connection

    def forget_connection(self) -> None:
        """The next use connects anew."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def kill_server(self) -> None:
        """SIGKILL."""
        embedded_server.kill(self.server)
        self.forget_connection()

    def start_server(self) -> None:
        """Starts it, again on the same data. What it acknowledges is in its file, which a kill leaves alone.

        With `everysec` a write to the file waits while an earlier one is synced, and the reply does not.
        """
        self.server = embedded_server.start(self.path / "server-state", self.binary)
        self.redis.call("CONFIG", "SET", "appendfsync", "no")

    def add(
        self, data: str | bytes, role: str = "ui", connection: Connection | None = None, entry_id: str = "*"
    ) -> bytes:
        """A plain XADD of the four fields, as a producer in any language does it; returns the ID.

        `connection`: another than the test's own, in another thread.
        """
        raw = data if isinstance(data, bytes) else data.encode()
        values = (role.encode(), b"2026-03-02T09:14:06Z", b"say", raw)
        pairs = [part for pair in zip(FIELDS, values, strict=True) for part in pair]
        return bytes((connection or self.redis).call("XADD", STREAM, entry_id, *pairs))

    def entries(self) -> list[Entry]:
        """The whole stream."""
        return list(entries(self.redis, STREAM.encode()))

    def datas(self) -> list[bytes]:
        """The data of every entry, in stream order."""
        return [entry.fields[7] for entry in self.entries()]

    def checkpoint(self) -> dict[str, Any]:
        """The checkpoint of messages.log, or an empty one."""
        raw = self.redis.call("HGET", f"bridge:{{{STREAM}}}:checkpoint", "messages.log")
        found: dict[str, Any] = json.loads(raw) if raw else {}
        return found

    # -- the file --------------------------------------------------------------------------------------------

    def append(self, *datas: str | bytes) -> None:
        """Lines, as a legacy program writes them."""
        with self.log.open("ab") as file:
            file.write(b"".join(line(data) for data in datas))

    def pieces(self) -> list[Path]:
        """The rotated pieces, compressed or not, oldest first."""
        return sorted(self.root.glob("messages.log.*"), key=lambda p: -int(p.name.split(".")[2]))

    def lines(self) -> list[bytes]:
        """All lines of all pieces of the source, oldest piece first, without newlines."""
        whole = b"".join(unpacked(p) for p in [*self.pieces(), self.log] if p.exists())
        return [raw for raw in whole.split(b"\n") if raw]

    def messages(self) -> list[bytes]:
        """The data of all lines of the source.

        The end of one of the mirror's lines, whose beginning was torn off, is none as long as that stands whole as well.
        """
        datas = [(raw.rpartition(b"|")[2], bool(WHOLE.search(raw))) for raw in self.lines()]
        whole = {data for data, is_whole in datas if is_whole}
        return [data for data, is_whole in datas if is_whole or not any(message.endswith(data) for message in whole)]

    # -- the bridge ------------------------------------------------------------------------------------------

    def start(self, *args: str, crash: str | None = None, url: str | None = None, state: Path | None = None,
              dual: bool = True) -> subprocess.Popen[bytes]:  # fmt: skip
        """`bridge run --dual` as a child process."""
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("BRIDGE_CRASH_AT", None)
        if crash:
            env["BRIDGE_CRASH_AT"] = crash
        if state is not None:
            env["BRIDGE_STATE_DIR"] = str(state)
        more = ["--dual"] if dual else []
        out = (self.path / f"bridge-{len(self.children)}.log").open("wb")
        child = zygote.start("bridge", ["run", "--redis", url or self.server.socket_url, *args, *more], cwd=self.path,
                             env=env, stdout=out, stderr=out)  # fmt: skip
        out.close()
        self.children.append(child)
        return child

    def ready(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The child, once it carries and minds its signals."""
        log = self.path / f"bridge-{self.children.index(child)}.log"
        wait_until(lambda: b"carrying" in log.read_bytes() or child.poll() is not None, "the start")
        return child

    def beats(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The child, once it has said what it does: before that a gate is closed."""

        def said() -> bool:
            beat = self.redis.call("GET", "bridge:health:test")
            return bool(beat) and json.loads(beat)["pid"] == child.pid

        wait_until(lambda: said() or child.poll() is not None, self.said)
        return child

    def said(self) -> str:
        """Everything the child processes logged."""
        return "".join(p.read_text(errors="replace") for p in sorted(self.path.glob("bridge-*.log")))

    def stop(self, child: subprocess.Popen[bytes], expect: int = 0) -> None:
        """SIGTERM, and the exit code."""
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        assert child.wait(90) == expect, self.said()

    def once(self, *, dual: bool = True, url: str | None = None) -> OnceReport:
        """`bridge run --once` in this process."""
        [result] = once(self.settings(url=url), dual=dual, stop=Event())
        return result

    def run(self, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Any command, to its end."""
        return zygote.run("bridge", args, cwd=self.path, env={**os.environ, **(env or {})})

    def close(self) -> None:
        """Ends every child and server."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        self.forget_connection()
        for state in (self.path / "server-state", self.state, *self.other_servers):
            server = embedded_server.known(state)
            if server is not None:
                embedded_server.kill(server)
                (server.home / "pid").unlink(missing_ok=True)
                Path(server.socket).unlink(missing_ok=True)

    # -- the oracle ------------------------------------------------------------------------------------------

    def equal(self, file_born: list[bytes], redis_born: list[bytes]) -> bool:
        """Whether both sides hold these messages, as far as they are counted."""
        wanted = len(file_born) + len(redis_born)
        return int(self.redis.call("XLEN", STREAM)) >= wanted and len(self.lines()) >= wanted

    def check(self, file_born: list[bytes], redis_born: list[bytes]) -> None:
        """Every message on both sides once; file-born ones in file order, Redis-born ones in stream order.

        Looks at the raw file and the raw stream only. Each message's data is unique.
        """
        mine, theirs = set(file_born), set(redis_born)
        in_file = [raw.split(b"|", 3)[3] for raw in self.lines()]
        in_stream = self.datas()
        said = f"{in_file[-9:]} {in_stream[-9:]} {self.said()}"
        assert [d for d in in_file if d in mine] == file_born, said
        assert [d for d in in_stream if d in mine] == file_born, said
        born_order = [d for d in in_stream if d in theirs]
        assert sorted(born_order) == sorted(redis_born), said
        assert [d for d in in_file if d in theirs] == born_order, said
        assert len(in_file) == len(in_stream) == len(file_born) + len(redis_born), said
        result = self.parity()
        assert result.verdict != "differs", f"{result.tally.differences[:5]} {result.notes} {said}"
        self.check_account()

    def check_account(self) -> None:
        """No byte that a bridge called unaccounted stays so, and parity's account balances."""
        settings = self.settings()
        path = settings.state_dir / "ledger.db"
        if not path.exists() or settings.mappings[0].source.kind != "log":
            return

        def sentences() -> list[str]:
            with closing(Ledger(path)) as ledger, closing(MappingContext(settings.mappings[0], settings)) as shared:
                return account_of(shared, ledger, time.time, running=True).sentences()

        wait_until(lambda: not sentences(), lambda: "\n".join([*sentences(), self.known_files(), self.said()]))
        account = self.parity().account
        if account is not None:
            self.balances(account)

    def balances(self, account: ByteAccount | WholeFileAccount) -> None:
        """The account of a look at parity explains everything."""
        told = account.to_json()
        kinds = ("carried", "mirrored", "quarantined", "empty", "waiting", "aside", "copies", "unaccounted")
        assert told["bytes" if "bytes" in told else "files"] == sum(told[kind] for kind in kinds)
        assert told["unaccounted"] == 0, (account.sentences(), self.said())

    def known_files(self) -> str:
        """The files that lie there, and the generations that the ledger knows of them."""
        with closing(Ledger(self.state / "ledger.db")) as ledger:
            known = all_generations(ledger, STREAM)
        stats = [(path, path.stat()) for path in sorted(self.root.glob("messages.log*"))]
        there = [f"{path.name} {now.st_ino} {now.st_size} {now.st_mtime:.3f} {now.st_ctime:.3f}" for path, now in stats]
        return "\n".join([f"{time.time():.3f}", *there, *map(repr, known)])

    def parity(self, *, settling: float = 0.0) -> ParityResult:
        """What parity says of the first mapping, in this process."""
        return self.looks(settling=settling, first=1)[0]

    def looks(self, *, settling: float = 0.0, first: int | None = None) -> list[ParityResult]:
        """The same of every mapping, or of so many of the first."""
        settings = self.settings()
        path = settings.state_dir / "ledger.db"
        ledger = Ledger(path) if path.exists() else None
        try:
            found = [
                check_of(mapping)(
                    mapping, settings, lambda: Connection(self.url), ledger, Event(), lambda *_: None, settling=settling
                ).run()
                for mapping in settings.mappings[:first]
            ]
            for result in found:
                if result.verdict == "equal" and result.account is not None:
                    self.balances(result.account)
            return found
        finally:
            if ledger is not None:
                ledger.close()

    def check_unchanged(self, file_born: list[bytes], redis_born: list[bytes]) -> None:
        """The stream and the file hold these and one new message each, which has not crossed."""
        wanted = len(file_born) + len(redis_born) + 1
        assert len(self.datas()) == wanted
        assert len(self.lines()) == wanted

    def missing(self, file_born: list[bytes], redis_born: list[bytes]) -> str:
        """What is missing where, in short."""
        lines, datas = [raw.split(b"|", 3)[-1] for raw in self.lines()], self.datas()
        wanted = [*file_born, *redis_born]
        gone = [[d for d in wanted if d not in set(side)] for side in (lines, datas)]
        return f"{len(lines)} lines, {len(datas)} entries of {len(wanted)}; missing {gone[0][:5]}, {gone[1][:5]}"

    def settle(self, file_born: list[bytes], redis_born: list[bytes]) -> None:
        """Waits until both sides have as many messages as they should, and checks them."""
        wait_until(
            lambda: self.equal(file_born, redis_born), lambda: self.missing(file_born, redis_born) + self.said()[-3000:]
        )
        self.check(file_born, redis_born)
