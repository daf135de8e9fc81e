"""A folder of message files, at the first start and at later ones; and a log's latency beside a large artifact.

The floor lists and reads the same files and hashes them, no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks import measures
from bridge.streams.embedded.binary import Binary

FILES = int(os.environ.get("BRIDGE_BENCH_FILES", "100000"))
ARTIFACT = int(os.environ.get("BRIDGE_BENCH_ARTIFACT", str(2 << 30)))
RATE, SECONDS = 200, 6.0
INBOX = "hestai:inbox"


def generate(folder: Path, count: int) -> None:
    """Files of about 400 bytes, in no order of time."""
    folder.mkdir()
    for n in range(count):
        second = n * 7919 % 86_400
        facts = {
            "uuid": f"{n:08}-2dda-4a1b-9c0e", "doc_type": "session_note", "content": "x" * (150 + n % 200),
            "timestamp": f"2026-03-02T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{n % 1000:03}",
            "status": "pending",
        }  # fmt: skip
        (folder / f"{n:08}.json").write_bytes(json.dumps(facts, indent=2).encode())


def floor(folder: Path) -> float:
    """Seconds."""
    begun, hasher = time.perf_counter(), hashlib.blake2b()
    with os.scandir(folder) as found:
        for entry in found:
            with open(entry.path, "rb") as file:
                hasher.update(file.read())
    return time.perf_counter() - begun


def measure(binary: Binary, rounds: int) -> dict[str, list[float]]:
    """Seconds and MB by name, one figure a round; latencies in ms."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        source = Path(folder) / "inbox"
        generate(source, FILES)
        time.sleep(1)  # the files are complete then
        for _ in range(rounds):
            with measures.bench(binary) as trial:
                (trial.folder / "bridge.toml").write_text('instance = "bench"\nmappings = ["hestai-inbox"]\n')
                empty, memory = trial.once()
                note("folder_nothing_s", empty)
                note("folder_nothing_mb", memory)
                (trial.folder / "inbox").symlink_to(source)
                note("folder_floor_s", floor(source))
                seconds, memory = trial.once()
                note("folder_first_s", seconds)
                note("folder_first_mb", memory)
                if trial.connection.call("XLEN", INBOX) != FILES:
                    raise RuntimeError("not every file arrived")
                seconds, memory = trial.once()
                note("folder_again_s", seconds)
                note("folder_again_mb", memory)
                note("folder_own_keys_bytes", _own_keys(trial))
    for name, percent in (("p50", 0.5), ("p99", 0.99)):
        for beside, values in _hashing(binary).items():
            note(f"log_{beside}_{name}_ms", measures.percentile(values, percent))
    return found


def _own_keys(trial: measures.Bench) -> float:
    """Bytes of Redis memory of the bridge's own keys."""
    names = ("meta", "checkpoint", "sources", "generations", "mirror", "late")
    sizes = [trial.connection.call("MEMORY", "USAGE", f"bridge:{{{INBOX}}}:{name}") for name in names]
    return float(sum(size or 0 for size in sizes))


def _hashing(binary: Binary) -> dict[str, list[float]]:
    """Latencies of a log's lines without anything else, and while an artifact is hashed, one after the other."""
    found: dict[str, list[float]] = {}
    with measures.bench(binary) as trial:
        (trial.folder / "bridge.toml").write_text(
            'instance = "bench"\nmappings = ["hestai-message", "hestai-artifacts"]\n'
        )
        (trial.folder / "artifacts").mkdir()
        trial.log.write_bytes(b"")
        child = trial.run("--dual")
        try:
            measures._warm(trial)
            found["alone"] = measures._live_forward(trial, RATE, SECONDS)
            hidden = trial.folder / ".artifact"
            with hidden.open("wb") as file:
                for _ in range(ARTIFACT >> 20):
                    file.write(b"\x5a" * (1 << 20))
            hidden.rename(trial.folder / "artifacts" / "large.bin")
            time.sleep(0.5)
            found["hashing"] = measures._live_forward(trial, RATE, SECONDS)
            begun = time.perf_counter()
            while not trial.connection.call("EXISTS", "hestai:artifacts"):
                if time.perf_counter() - begun > 120:
                    raise RuntimeError("the artifact was not announced")
                time.sleep(0.1)
        finally:
            child.terminate()
            child.wait()
    return found
