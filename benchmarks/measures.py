"""`make bench`: every figure beside a floor or a peer in the same run; medians and ratios, a table and JSON.

BRIDGE_BENCH_LINES sets the size (1,000,000), BRIDGE_BENCH_ROUNDS the rounds (3).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import redis

from bridge.streams.connect import Connection
from bridge.streams.embedded import embedded_server
from bridge.streams.embedded.binary import Binary, candidates, identify
from bridge.streams.resp import entry_packer, pack

LINES = int(os.environ.get("BRIDGE_BENCH_LINES", "1000000"))
ROUNDS = int(os.environ.get("BRIDGE_BENCH_ROUNDS", "3"))
STREAM = "hestai:messages"
FIELDS = (b"role", b"timestamp", b"type", b"data")


def generate(path: Path, count: int) -> None:
    """A log of `count` lines of about 140 bytes, in time order."""
    base = time.gmtime(1_760_000_000)
    day = time.strftime("%Y-%m-%d", base).encode()
    with path.open("wb") as file:
        for n in range(count):
            second, micro = divmod(n * 86, 1_000_000)
            clock = b"%02d:%02d:%02d.%06d" % (second // 3600 % 24, second // 60 % 60, second % 60, micro)
            role = (b"agent", b"ui", b"daemon", b"council")[n % 4]
            file.write(b'%b|%bT%bZ|turn_added|{"n":%d,"excerpt":"%b"}\n' % (role, day, clock, n, b"x" * (20 + n % 97)))


class Bench:
    """A folder and a server of its own."""

    def __init__(self, folder: Path, binary: Binary) -> None:
        self.folder = folder
        self.binary = binary
        self.log = folder / "messages.log"
        (folder / "bridge.toml").write_text('instance = "bench"\nmappings = ["hestai-message"]\n')
        self.server = embedded_server.start(folder / ".server", binary)
        self.connection = Connection(self.server.socket_url)

    def run(self, *args: str) -> subprocess.Popen[bytes]:
        """`bridge run` as its own process."""
        return subprocess.Popen(
            [sys.executable, "-m", "bridge", "run", "--redis", self.server.socket_url, *args], cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def once(self, *args: str) -> tuple[float, float]:
        """`bridge run --once`: seconds, and peak resident MB."""
        begun = time.perf_counter()
        child = self.run("--once", *args)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError("bridge run --once failed")
        scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return time.perf_counter() - begun, usage.ru_maxrss / scale

    def close(self) -> None:
        """Stops the server."""
        self.connection.close()
        embedded_server.stop(self.folder / ".server")


@contextmanager
def bench(binary: Binary) -> Iterator[Bench]:
    """A fresh one."""
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        made = Bench(Path(folder), binary)
        try:
            yield made
        finally:
            made.close()


def floor(binary: Binary, source: Path) -> float:
    """Entries a second: the same entries, packed beforehand, written to the socket, replies only counted.

    With the server's default stream nodes: plain XADDs are quicker with those, the bridge's transactions with larger
    ones, which the embedded server has.
    """
    lines = source.read_bytes().split(b"\n")[:-1]
    packer = entry_packer(STREAM.encode(), FIELDS)
    buffers, offset = [], 0
    for at in range(0, len(lines), 400):
        part = lines[at : at + 400]
        offsets = []
        for line in part:
            offsets.append(offset)
            offset += len(line) + 1
        buffers.append(packer([line.split(b"|", 3) for line in part], None, b"1.1:", offsets, False))
    with bench(binary) as trial:
        trial.connection.call("CONFIG", "SET", "stream-node-max-bytes", 4096, "stream-node-max-entries", 100)
        begun = time.perf_counter()
        reader = Thread(target=lambda: [trial.connection.read() for _ in lines])
        reader.start()
        for buffer in buffers:
            trial.connection.send(buffer)
        reader.join()
        return len(lines) / (time.perf_counter() - begun)


def apart(work: Callable[[Binary, Path], float], binary: Binary, source: Path) -> float:
    """In a process of its own: a child's peak memory begins with its parent's, and this one stays small."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, binary, source).result()


def redis_py(binary: Binary, source: Path) -> float:
    """Entries a second with redis-py's own pipeline of 400, on a tenth of the lines."""
    lines = source.read_bytes().split(b"\n")[: LINES // 10]
    with bench(binary) as trial:
        client = redis.Redis.from_url(trial.server.socket_url, protocol=2)
        begun = time.perf_counter()
        for at in range(0, len(lines), 400):
            pipe = client.pipeline(transaction=True)
            for line in lines[at : at + 400]:
                pipe.xadd(STREAM, dict(zip(FIELDS, line.split(b"|", 3), strict=False)))
            pipe.execute()
        seconds = time.perf_counter() - begun
        client.close()
        return len(lines) / seconds


def forward(binary: Binary, source: Path) -> tuple[float, float]:
    """Lines a second of the whole command, start and stop included; and its peak memory in MB."""
    with bench(binary) as trial:
        trial.log.hardlink_to(source)
        seconds, memory = trial.once()
        if trial.connection.call("XLEN", STREAM) != LINES:
            raise RuntimeError("not every line arrived")
        return LINES / seconds, memory


def drain(binary: Binary, count: int = 200_000) -> tuple[float, float]:
    """Entries a second that a mirror with a backlog writes, start and stop included; and the seconds of those alone."""
    with bench(binary) as trial:
        trial.log.write_bytes(b"")
        trial.once("--dual")
        start, _ = trial.once("--dual")
        values = [
            x for f, v in zip(FIELDS, (b"ui", b"2026-01-01T00:00:00Z", b"say", b"x" * 80), strict=True) for x in (f, v)
        ]
        packed = pack("XADD", STREAM, "*", *values)
        for _ in range(count // 1000):
            trial.connection.calls(*[packed] * 1000)
        seconds, _ = trial.once("--dual")
        if trial.log.read_bytes().count(b"\n") != count:
            raise RuntimeError("not every entry was mirrored")
        return count / seconds, start


def live(binary: Binary, rate: int, seconds: float = 5.0) -> dict[str, list[float]]:
    """Latencies in ms at `rate` messages a second: append → a blocked XREAD returns, and XADD → the line is there."""
    found: dict[str, list[float]] = {"forward": [], "mirror": []}
    with bench(binary) as trial:
        trial.log.write_bytes(b"")
        child = trial.run("--dual")
        try:
            _warm(trial)
            found["forward"] = _live_forward(trial, rate, seconds)
            found["mirror"] = _live_mirror(trial, rate, seconds)
        finally:
            child.terminate()
            child.wait()
    return found


def _warm(trial: Bench) -> None:
    with trial.log.open("ab") as file:
        file.write(b"agent|2026-01-01T00:00:00Z|warm|up\n")
    while trial.connection.call("XLEN", STREAM) < 1:
        time.sleep(0.01)
    time.sleep(1)


def _paced(rate: int, seconds: float, act: Callable[[int], None]) -> None:
    begun, count = time.perf_counter(), int(rate * seconds)
    for n in range(count):
        wait = begun + n / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        act(n)


def _live_forward(trial: Bench, rate: int, seconds: float) -> list[float]:
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    count = int(rate * seconds)

    def read() -> None:
        reader = Connection(trial.server.socket_url, timeout=30)
        last = reader.call("XINFO", "STREAM", STREAM)
        cursor = dict(zip(last[0::2], last[1::2], strict=True))[b"last-generated-id"]
        ready.append(True)
        while len(latencies) < count:
            for entry_id, fields in reader.call("XREAD", "BLOCK", 5000, "STREAMS", STREAM, cursor)[0][1]:
                latencies.append((time.perf_counter() - sent[fields[7]]) * 1000)
                cursor = entry_id
        reader.close()

    ready: list[bool] = []
    thread = Thread(target=read)
    thread.start()
    while not ready:
        time.sleep(0.01)
    with trial.log.open("ab", buffering=0) as file:

        def act(n: int) -> None:
            data = b"f%d" % n
            sent[data] = time.perf_counter()
            file.write(b"agent|2026-01-01T00:00:00Z|t|" + data + b"\n")

        _paced(rate, seconds, act)
    thread.join()
    return latencies


def _live_mirror(trial: Bench, rate: int, seconds: float) -> list[float]:
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    count = int(rate * seconds)

    def read() -> None:
        with trial.log.open("rb") as file:
            file.seek(0, 2)
            rest = b""
            while len(latencies) < count:
                data = file.read()
                if not data:
                    time.sleep(0.0001)
                    continue
                *lines, rest = (rest + data).split(b"\n")
                now = time.perf_counter()
                latencies.extend((now - sent[line.rsplit(b"|", 1)[1]]) * 1000 for line in lines)

    thread = Thread(target=read)
    thread.start()
    time.sleep(0.1)

    def act(n: int) -> None:
        data = b"r%d" % n
        sent[data] = time.perf_counter()
        trial.connection.call(
            "XADD", STREAM, "*", "role", "ui", "timestamp", "2026-01-01T00:00:00Z", "type", "t", "data", data
        )

    _paced(rate, seconds, act)
    thread.join()
    return latencies


def mapping_of_many() -> str:
    """The shipped mapping of a log, for all logs in the folder `logs`, and without a mirror."""
    mapping = Path(__file__).parent.parent / "mappings" / "hestai-message.toml"
    text = mapping.read_text().replace('"messages.log"', '"logs/*.log"', 1).split("[mirror]")[0]
    return text.replace('"messages.log.*"', '"logs/*.log.*"')


def idle(binary: Binary, files: int = 100, seconds: float = 10.0) -> float:
    """Share of a core that a bridge with so many files needs while nothing happens, in percent."""
    with bench(binary) as trial:
        (trial.folder / "many.toml").write_text(mapping_of_many())
        (trial.folder / "bridge.toml").write_text('instance = "bench"\nmappings = ["many.toml"]\n')
        (trial.folder / "logs").mkdir()
        for n in range(files):
            (trial.folder / "logs" / f"{n}.log").write_bytes(b"agent|2026-01-01T00:00:00Z|t|x\n")
        child = trial.run("--dual")
        try:
            while trial.connection.call("EXISTS", STREAM) == 0 or trial.connection.call("XLEN", STREAM) < files:
                time.sleep(0.05)
            time.sleep(2)
            before = _cpu(child.pid)
            time.sleep(seconds)
            return (_cpu(child.pid) - before) / seconds * 100
        finally:
            child.terminate()
            child.wait()


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(binary: Binary, source: Path) -> dict[str, Any]:
    """Everything for one server."""
    floors, pipes, forwards, memories, drains, starts = [], [], [], [], [], []
    for _ in range(ROUNDS):
        floors.append(apart(floor, binary, source))
        rate, memory = forward(binary, source)
        forwards.append(rate)
        memories.append(memory)
        pipes.append(apart(redis_py, binary, source))
        drained, start = drain(binary)
        drains.append(drained)
        starts.append(start)
    ratios = [ours / theirs for ours, theirs in zip(forwards, floors, strict=True)]
    median = statistics.median
    result: dict[str, Any] = {
        "forward_per_s": median(forwards), "floor_per_s": median(floors), "forward_to_floor": median(ratios),
        "forward_to_floor_each": ratios, "redis_py_pipeline_per_s": median(pipes),
        "forward_to_redis_py": median(forwards) / median(pipes), "forward_peak_mb": max(memories),
        "mirror_drain_per_s": median(drains), "start_and_stop_s": median(starts),
    }  # fmt: skip
    for rate in (200, 1000):
        latencies = live(binary, rate)
        for way, values in latencies.items():
            result[f"{way}_{rate}_p50_ms"] = percentile(values, 0.5)
            result[f"{way}_{rate}_p99_ms"] = percentile(values, 0.99)
    if sys.platform == "linux":
        result["idle_100_files_percent"] = idle(binary)
    return result


def binaries() -> list[Binary]:
    """One server program of each kind there is."""
    found: dict[str, Binary] = {}
    for path in candidates():
        binary = identify(path)
        found.setdefault(binary.flavour, binary)
    return list(found.values())


PARTS = ("live", "import", "parity", "folders", "many")


def main(only: list[str]) -> None:
    """Measures every server there is; the table on stderr, JSON on stdout.

    `only`: one of PARTS, or nothing for all. Raises SystemExit for another word.
    """
    if len(only) > 1 or not {*only} <= {*PARTS}:
        raise SystemExit(f"no such measure: {' '.join(only)}; there are {', '.join(PARTS)}")
    from benchmarks import folders, history, many, proof

    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        source = Path(folder) / "messages.log"
        generate(source, LINES)
        results: list[dict[str, Any]] = []
        for binary in binaries():
            name = f"{binary.flavour} {'.'.join(map(str, binary.version))}"
            result: dict[str, Any] = {"server": name, "lines": LINES, "rounds": ROUNDS}
            if only in ([], ["live"]):
                result |= measure(binary, source)
            if only in ([], ["import"]):
                result |= condensed(history.measure(binary, source, LINES, ROUNDS))
            if only in ([], ["parity"]):
                result |= condensed(proof.measure(binary, source, LINES, ROUNDS))
            if only in ([], ["folders"]):
                result |= condensed(folders.measure(binary, ROUNDS)) | {"files": folders.FILES}
            if only in ([], ["many"]):
                result |= condensed(many.measure(binary, ROUNDS))
            results.append(result)
    names = [name for name in results[0] if isinstance(results[0][name], int | float)]
    print(f"{'':28}" + "".join(f"{result['server']:>16}" for result in results), file=sys.stderr)
    for name in names:
        cells = "".join(f"{result.get(name, float('nan')):16,.2f}" for result in results)
        print(f"{name:28}{cells}", file=sys.stderr)
    print(json.dumps({"results": results}, indent=2))


def condensed(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians, the largest memory, and ratios of figures of the same round."""
    median = statistics.median
    result = {name: max(values) if name.endswith("_mb") else median(values) for name, values in found.items()}

    def ratio(name: str, ours: str, theirs: str) -> None:
        if ours in found and theirs in found and min(found[theirs]) > 0:
            result[name] = median(a / b for a, b in zip(found[ours], found[theirs], strict=True))

    ratio("import_to_pipe", "import_per_s", "pipe_per_s")
    ratio("import_to_pipe_default_nodes", "import_per_s", "pipe_default_nodes_per_s")
    ratio("import_to_socket", "import_per_s", "socket_per_s")
    ratio("gz_to_plain", "import_gz_per_s", "import_per_s")
    ratio("merged_to_plain", "import_merged_per_s", "import_per_s")
    ratio("import_to_syslog_ng", "import_per_s", "syslog-ng_per_s")
    ratio("import_to_rsyslog", "import_per_s", "rsyslogd_per_s")
    ratio("folder_first_to_floor", "folder_first_s", "folder_floor_s")
    for name in ("parity", "parity_mixed"):
        ratio(f"{name}_alone_to_floor", f"{name}_alone_s", f"{name}_floor_s")
        ratio(f"{name}_command_to_floor", f"{name}_command_s", f"{name}_floor_s")
    return result
