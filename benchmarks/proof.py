"""Parity beside reading and hashing both sides and doing nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

from benchmarks.history import SCALE, imported, pings
from benchmarks.measures import STREAM, Bench, apart, bench, percentile
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from bridge.streams.reader import pages
from bridge.streams.resp import pack


def reading(url: str, log: Path) -> float:
    """Seconds to read the stream with hiredis and the file by lines, and to hash both. For a process of its own."""
    begun = time.perf_counter()
    connection = Connection(url)
    hasher = hashlib.blake2b(digest_size=16)
    for rows in pages(connection, STREAM.encode(), b"-", b"+", 1000):
        for _, fields in rows:
            hasher.update(b"".join(fields))
    connection.close()
    hasher = hashlib.blake2b(digest_size=16)
    with log.open("rb") as lines:
        for line in lines:
            hasher.update(line)
    return time.perf_counter() - begun


def proved(trial: Bench, count: int) -> tuple[float, float, float]:
    """Seconds of the whole command and of the comparison alone, and the peak memory in MB."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "bridge", "parity", "--json", "--redis", trial.server.socket_url], cwd=trial.folder,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    out = child.stdout.read() if child.stdout else b""
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    [told] = json.loads(out)["mappings"]
    if child.returncode or told["compared"] != count:
        raise RuntimeError(f"not equal: {told['verdict']}, {told['compared']} of {count}")
    runs = subprocess.run(
        [sys.executable, "-m", "bridge", "parity", "--history", "--json"], cwd=trial.folder, capture_output=True,
        check=True,
    )  # fmt: skip
    return seconds, json.loads(runs.stdout)[-1]["seconds"], usage.ru_maxrss / SCALE


def mix(trial: Bench, count: int) -> None:
    """Half of `count` lines and half entries, written in turns beside a running bridge, until both sides have all."""
    child = trial.run("--dual")
    try:
        with trial.log.open("ab", buffering=0) as file:
            for at in range(0, count // 2, 100):
                some = range(at, at + 100)
                file.write(
                    b"".join(b'agent|2026-01-01T00:00:00Z|t|{"n":%d,"x":"%b"}\n' % (n, b"x" * (n % 97)) for n in some)
                )
                trial.connection.calls(*(
                    pack("XADD", STREAM, "*", "role", "ui", "timestamp", "2026-01-01T00:00:00Z", "type", "t", "data",
                         b'{"n":%d,"y":"%b"}' % (n, b"y" * (n % 97)))
                    for n in some
                ))  # fmt: skip
        while trial.connection.call("XLEN", STREAM) < count or _lines(trial.log) < count:
            time.sleep(0.2)
        time.sleep(1)
    finally:
        child.terminate()
        child.wait()


def _lines(path: Path) -> int:
    """Counted a piece at a time: the memory of a child that is started later begins with this process's."""
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def measure(binary: Binary, source: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Each figure of each round: file-born messages alone, and half of them Redis-born."""
    found: dict[str, list[float]] = {}

    def note(name: str, trial: Bench) -> None:
        for _ in range(rounds):
            floor = apart(_floor, binary, trial.folder)
            whole, alone, memory = proved(trial, count)
            for key, value in (("floor_s", floor), ("command_s", whole), ("alone_s", alone), ("peak_mb", memory)):
                found.setdefault(f"parity{name}_{key}", []).append(value)

    with bench(binary) as trial:
        trial.log.hardlink_to(source)
        imported(trial, count)
        (trial.folder / "url").write_text(trial.server.socket_url)
        note("", trial)
        waits: list[float] = []
        stop = Event()
        thread = Thread(target=pings, args=(trial.server.socket_url, stop, waits))
        thread.start()
        proved(trial, count)
        stop.set()
        thread.join()
        found["ping_parity_p99_ms"] = [percentile(waits, 0.99)]
    with bench(binary) as trial:
        mix(trial, count)
        (trial.folder / "url").write_text(trial.server.socket_url)
        note("_mixed", trial)
    return found


def _floor(binary: Binary, folder: Path) -> float:
    return reading((folder / "url").read_text(), folder / "messages.log")
