"""History on its way into the stream: beside the floor, beside other clients, beside syslog-ng and rsyslog."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

from benchmarks.measures import FIELDS, STREAM, Bench, apart, bench, floor, percentile
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from bridge.streams.resp import entry_packer

SCALE = 1 << 20 if sys.platform == "darwin" else 1 << 10


def split_by_role(source: Path, folder: Path) -> None:
    """The log's lines in a file for each role, as `hestai-roles` has them. In a process of its own: see `apart`."""
    parts: dict[bytes, list[bytes]] = {}
    for line in source.read_bytes().splitlines(keepends=True):
        role, rest = line.split(b"|", 1)
        parts.setdefault(role, []).append(rest)
    for role, lines in parts.items():
        (folder / f"{role.decode()}.out").write_bytes(b"".join(lines))


def ready_made(source: Path, target: Path) -> None:
    """The same entries as packed commands in a file, for `redis-cli --pipe`."""
    packer, offset = entry_packer(STREAM.encode(), FIELDS), 0
    with source.open("rb") as lines, target.open("wb") as out:
        while part := lines.readlines(1 << 16):
            offsets = []
            for line in part:
                offsets.append(offset)
                offset += len(line)
            out.write(packer([line[:-1].split(b"|", 3) for line in part], None, b"1.1:", offsets, False))


def pipe(binary: Binary, commands: Path, *, default_nodes: bool) -> float:
    """Entries a second of `redis-cli --pipe` on the same server; or with the default stream nodes, quicker for it."""
    with bench(binary) as trial:
        if default_nodes:
            trial.connection.call("CONFIG", "SET", "stream-node-max-bytes", 4096, "stream-node-max-entries", 100)
        with commands.open("rb") as given:
            begun = time.perf_counter()
            done = subprocess.run(
                ["redis-cli", "-s", trial.server.socket, "--no-auth-warning", "-a", trial.server.password, "--pipe"],
                stdin=given, capture_output=True, check=False,
            )  # fmt: skip
        seconds = time.perf_counter() - begun
        if done.returncode or b"errors: 0" not in done.stdout:
            raise RuntimeError(f"redis-cli --pipe: {done.stdout!r} {done.stderr!r}")
        return int(trial.connection.call("XLEN", STREAM)) / seconds


def imported(trial: Bench, count: int, mapping: str = "hestai-message") -> tuple[float, float]:
    """Lines a second of the whole command, start and stop included; and its peak memory in MB."""
    (trial.folder / "bridge.toml").write_text(f'instance = "bench"\nmappings = ["{mapping}"]\n')
    begun = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "bridge", "import-history", "-q", "--redis", trial.server.socket_url], cwd=trial.folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    said = child.stderr.read() if child.stderr else b""
    stream = STREAM if mapping == "hestai-message" else "hestai:roles"
    if child.returncode or trial.connection.call("XLEN", stream) != count:
        raise RuntimeError(f"not every line arrived: {said!r}")
    return count / seconds, usage.ru_maxrss / SCALE


def pings(url: str, stop: Event, found: list[float]) -> None:
    """PING again and again, as another client of the server would; milliseconds each."""
    connection = Connection(url)
    while not stop.is_set():
        begun = time.perf_counter()
        connection.call("PING")
        found.append((time.perf_counter() - begun) * 1000)
        time.sleep(0.001)
    connection.close()


def waits(binary: Binary, source: Path, count: int) -> dict[str, float]:
    """How long another client waits while an import runs, and while none does: p50 and p99 of PING in ms."""
    with bench(binary) as trial:
        trial.log.hardlink_to(source)
        figures = {}
        for name, work in (("idle", lambda: time.sleep(2)), ("import", lambda: imported(trial, count))):
            found: list[float] = []
            stop = Event()
            thread = Thread(target=pings, args=(trial.server.socket_url, stop, found))
            thread.start()
            work()
            stop.set()
            thread.join()
            figures[f"ping_{name}_p50_ms"], figures[f"ping_{name}_p99_ms"] = (
                percentile(found, 0.5), percentile(found, 0.99),
            )  # fmt: skip
        return figures


def _syslog_ng(trial: Bench, port: int) -> list[str]:
    (trial.folder / "peer.conf").write_text(f"""@version: 3.38
options {{ stats-freq(0); log-msg-size(65536); use-dns(no); }};
source s {{ file("{trial.log}" flags(no-parse) follow-freq(0.1) log-fetch-limit(2000) log-iw-size(20000)); }};
destination d {{ redis(host("127.0.0.1") port({port}) auth("{trial.server.password}") batch-lines(400)
  log-fifo-size(100000) command("XADD", "{STREAM}", "*", "line", "${{MESSAGE}}")); }};
log {{ source(s); destination(d); flags(flow-control); }};
""")
    own = [f"--{name}={trial.folder}/peer.{name}" for name in ("persist-file", "pidfile", "control")]
    return ["syslog-ng", "-F", "-f", str(trial.folder / "peer.conf"), *own]


def _rsyslog(trial: Bench, port: int) -> list[str]:
    (trial.folder / "peer.conf").write_text(f"""global(workDirectory="{trial.folder}" maxMessageSize="64k")
module(load="imfile") module(load="omhiredis")
template(name="t" type="string" string="XADD {STREAM} * line %msg%")
input(type="imfile" file="{trial.log}" tag="x" ruleset="r" maxLinesAtOnce="0")
ruleset(name="r" queue.type="FixedArray" queue.size="100000" queue.dequeueBatchSize="400" queue.workerThreads="1") {{
  action(type="omhiredis" server="127.0.0.1" serverport="{port}" serverpassword="{trial.server.password}"
         mode="template" template="t")
}}
""")
    return ["rsyslogd", "-n", "-f", str(trial.folder / "peer.conf"), "-i", str(trial.folder / "peer.pid")]


PEERS: dict[str, Callable[[Bench, int], list[str]]] = {"syslog-ng": _syslog_ng, "rsyslogd": _rsyslog}
"""Each sends the whole line as one field, in batches of 400: less work than four fields, an origin and a cursor."""


def peer(name: str, binary: Binary, source: Path, count: int, patience: float = 60.0) -> float:
    """Lines a second of a peer on the same file and server, from its start until the last entry is there; 0: never."""
    with bench(binary) as trial:
        trial.log.hardlink_to(source)
        command = PEERS[name](trial, trial.server.port)
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while time.perf_counter() - begun < patience and child.poll() is None:
                if trial.connection.call("EXISTS", STREAM) and trial.connection.call("XLEN", STREAM) >= count:
                    return count / (time.perf_counter() - begun)
                time.sleep(0.02)
            return 0.0
        finally:
            child.terminate()
            child.wait()


def measure(binary: Binary, source: Path, count: int, rounds: int) -> dict[str, Any]:
    """Everything about imports for one server: each figure of each round, to be condensed by the caller."""
    folder = source.parent
    if not (folder / "messages.log.gz").exists():
        subprocess.run(["gzip", "-k", str(source)], check=True)
        apart(_prepare, binary, source)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(rounds):
        note("socket_per_s", apart(floor, binary, source))
        if shutil.which("redis-cli"):
            note("pipe_per_s", pipe(binary, folder / "commands", default_nodes=False))
            note("pipe_default_nodes_per_s", pipe(binary, folder / "commands", default_nodes=True))
        with bench(binary) as trial:
            trial.log.hardlink_to(source)
            rate, memory = imported(trial, count)
            note("import_per_s", rate)
            note("import_peak_mb", memory)
        with bench(binary) as trial:
            shutil.copyfile(f"{source}.gz", trial.folder / "messages.log.1.gz")
            rate, memory = imported(trial, count)
            note("import_gz_per_s", rate)
            note("import_gz_peak_mb", memory)
        with bench(binary) as trial:
            for path in folder.glob("*.out"):
                (trial.folder / path.name).hardlink_to(path)
            rate, memory = imported(trial, count, "hestai-roles")
            note("import_merged_per_s", rate)
            note("import_merged_peak_mb", memory)
        for name, value in waits(binary, source, count).items():
            note(name, value)
        for name in PEERS:
            if shutil.which(name):
                note(f"{name}_per_s", peer(name, binary, source, count))
    return found


def _prepare(binary: Binary, source: Path) -> float:
    split_by_role(source, source.parent)
    ready_made(source, source.parent / "commands")
    return 0.0
