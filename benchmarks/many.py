"""Many logs of a few lines each, beside one log of as many lines: what each command takes, and what idleness does.

The floor of idleness lists the folder and asks the system for each file's facts, once a second, no more.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import measures
from bridge.streams.embedded.binary import Binary

COUNTS = (100, 1_000, 3_000, 10_000)
EACH = 20
COMMANDS = {"import": ("import-history",), "start": ("run", "--once"), "status": ("status",), "files": ("files",),
            "doctor": ("doctor",), "parity": ("parity",)}  # fmt: skip


def generate(folder: Path, files: int, each: int) -> None:
    """So many logs of so many lines of about 90 bytes; one log is written after the other."""
    folder.mkdir()
    for n in range(files):
        lines = []
        for i in range(each):
            minutes, second = divmod(n * each + i, 60)
            hours, minute = divmod(minutes, 60)
            day, hour = divmod(hours, 24)
            clock = b"2026-%02d-%02dT%02d:%02d:%02dZ" % (1 + day // 28, 1 + day % 28, hour, minute, second)
            lines.append(b"agent|%b|note|session %d says %d, with some more words behind it\n" % (clock, n, i))
        (folder / f"s{n:05}.log").write_bytes(b"".join(lines))


@contextmanager
def laid_out(binary: Binary, files: int, each: int) -> Iterator[measures.Bench]:
    """A bench with so many logs, of which nothing is carried yet."""
    with measures.bench(binary) as made:
        (made.folder / "many.toml").write_text(measures.mapping_of_many())
        (made.folder / "bridge.toml").write_text('instance = "bench"\nmappings = ["many.toml"]\n')
        generate(made.folder / "logs", files, each)
        yield made


def seconds_of(made: measures.Bench, *args: str) -> float:
    """How long a command takes, start and stop included; it has to end well, but for what `doctor` finds."""
    begun = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "bridge", *args, "--redis", made.server.socket_url], cwd=made.folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    if ended.returncode and args[0] != "doctor":
        raise RuntimeError(f"bridge {args[0]} ended with {ended.returncode}: {ended.stderr.decode()}")
    return time.perf_counter() - begun


def sweep_percent(folder: Path) -> float:
    """Percent of a core that a bare sweep of a folder takes, once a second: scandir, and stat of each file."""
    took = []
    for _ in range(5):
        begun = time.process_time()
        with os.scandir(folder) as found:
            names = [entry.name for entry in found]
        for name in names:
            os.stat(folder / name)
        took.append(time.process_time() - begun)
    return statistics.median(took) * 100


def running(made: measures.Bench, *args: str, idle: float = 10.0, tries: int = 20) -> dict[str, float]:
    """What a bridge takes that has nothing to do, and the ms until a line in any one log is in the stream."""
    child = made.run(*args)
    try:
        while not made.connection.call("EXISTS", "bridge:health:bench"):
            time.sleep(0.05)
        time.sleep(3)
        before = measures._cpu(child.pid)
        time.sleep(idle)
        found = {"idle_percent": (measures._cpu(child.pid) - before) / idle * 100}
        logs = sorted((made.folder / "logs").iterdir())
        waited = []
        for n in range(tries):
            length = made.connection.call("XLEN", measures.STREAM)
            begun = time.perf_counter()
            with logs[n * 7919 % len(logs)].open("ab") as file:
                file.write(b"agent|2026-12-31T00:00:00Z|note|new\n")
            while made.connection.call("XLEN", measures.STREAM) == length:
                time.sleep(0.0005)
            waited.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.05)
        found["seen_p50_ms"], found["seen_max_ms"] = statistics.median(waited), max(waited)
        status = Path(f"/proc/{child.pid}/status").read_text()
        found["resident_mb"] = int(status.split("VmRSS:")[1].split()[0]) / 1024
        return found
    finally:
        child.terminate()
        child.wait()


def measured(binary: Binary, files: int, each: int = EACH) -> dict[str, float]:
    """Seconds of each command over so many logs, and what a bridge takes that runs over them."""
    with laid_out(binary, files, each) as made:
        found = {f"{name}_s": seconds_of(made, *args) for name, args in COMMANDS.items()}
        if made.connection.call("XLEN", measures.STREAM) != files * each:
            raise RuntimeError("not every line arrived")
        if sys.platform == "linux":
            found["sweep_percent"] = sweep_percent(made.folder / "logs")
            found |= running(made)
            found |= {f"swept_{name}": n for name, n in running(made, "--poll", idle=0.1).items() if "seen" in name}
        return found


def measure(binary: Binary, rounds: int) -> dict[str, list[float]]:
    """Figures by name, one a round: for each number of logs, and as ratios to one log of as many lines."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for files in COUNTS:
            many = measured(binary, files)
            with laid_out(binary, 1, files * EACH) as made:
                alone = {f"{name}_s": seconds_of(made, *args) for name, args in COMMANDS.items()}
            for name, value in many.items():
                found.setdefault(f"many_{files}_{name}", []).append(value)
            for name, value in alone.items():
                found.setdefault(f"many_{files}_{name.removesuffix('_s')}_to_one", []).append(many[name] / value)
    return found
