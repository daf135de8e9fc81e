"""Throughput of 1, 2 and 4 groups over the same four logs, on one server and on a cluster of three masters.

`python -m benchmarks.groups`: rates as ratios to one group in the same round, medians, and where the CPU went; writes
groups.json and groups.svg beside this file. BRIDGE_BENCH_LINES sets the lines of all logs together.
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
from contextlib import contextmanager
from pathlib import Path

from redis.crc import key_slot

from benchmarks import measures
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from tests.support.cluster_group import MASTERS, ClusterGroup

LOGS = 4
COUNTS = (1, 2, 4)
LINES = int(os.environ.get("BRIDGE_BENCH_LINES", "1200000")) // LOGS

MAPPING = """name = "log{n}"
[source]
kind = "log"
path = "log{n}.log"
[format]
codec = "delimited"
delimiter = "|"
columns = ["role", "timestamp", "type", "data"]
[stream]
key = "{key}"
"""

Servers = tuple[str, list[Connection], Callable[[str], Connection]]
"""A url for the bridge, a connection to each server, and the one that has a key."""


@contextmanager
def one_server(binary: Binary) -> Iterator[Servers]:
    """The embedded server, with the bridge's own settings."""
    with measures.bench(binary) as made:
        yield made.server.socket_url, [made.connection], lambda key: made.connection


@contextmanager
def cluster(binary: Binary) -> Iterator[Servers]:
    """Three masters, without replicas: those would take the cores that are measured here."""
    group = ClusterGroup(binary)
    try:
        for port in group.ports[MASTERS:]:
            group.kill(port)
        links = [Connection(group.url_of(port)) for port in group.ports[:MASTERS]]
        yield group.url, links, lambda key: links[master_of(key)]
        for link in links:
            link.close()
    finally:
        group.close()


def master_of(key: str) -> int:
    """The number of the master that has a key, by the slots that `ClusterGroup` gives each."""
    return min(key_slot(key.encode()) // (16384 // MASTERS), MASTERS - 1)


def keys() -> list[str]:
    """The streams of the logs, spread over the masters in turn."""
    found: list[str] = []
    candidates = (f"bench:{n}" for n in range(10_000))
    for n in range(LOGS):
        found.append(next(key for key in candidates if master_of(key) == n % MASTERS))
    return found


def cpu_of(link: Connection) -> float:
    """Seconds of CPU that a server has taken."""
    told = dict(row.split(":", 1) for row in link.call("INFO", "cpu").decode().split("\r\n") if ":" in row)
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def carried(binary: Binary, source: Path, groups: int, *, in_cluster: bool) -> dict[str, float]:
    """Lines a second of so many groups over all logs, from the first entry to the last, and the CPU of each part."""
    streams = keys()
    with (
        (cluster if in_cluster else one_server)(binary) as (url, links, of),
        tempfile.TemporaryDirectory(prefix="bridge-groups-") as name,
    ):
        folder = Path(name)
        for n, key in enumerate(streams):
            (folder / f"log{n}.toml").write_text(MAPPING.format(n=n, key=key))
            (folder / f"log{n}.log").hardlink_to(source)
        mappings = json.dumps([f"log{n}.toml" for n in range(LOGS)])
        parts = {f"g{at}": [f"log{n}" for n in range(LOGS) if n % groups == at] for at in range(groups)}
        tables = "\n".join(f"{group} = {json.dumps(names)}" for group, names in parts.items())
        (folder / "bridge.toml").write_text(f'instance = "bench"\nmappings = {mappings}\n[groups]\n{tables}\n')
        words = [sys.executable, "-m", "bridge", "run", "--redis", url, "--group"]
        children = [
            subprocess.Popen([*words, group], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for group in parts
        ]
        try:

            def there() -> int:
                return sum(int(of(key).call("XLEN", key)) for key in streams)

            while not (met := there()):
                time.sleep(0.005)
            begun, before = time.perf_counter(), [cpu_of(link) for link in links]
            mine = [measures._cpu(child.pid) for child in children]
            while there() < LOGS * LINES:
                if any(child.poll() is not None for child in children):
                    raise RuntimeError("a bridge ended")
                time.sleep(0.02)
            took = time.perf_counter() - begun
            cpu = sum(measures._cpu(child.pid) - was for child, was in zip(children, mine, strict=True))
            served = sum(cpu_of(link) - was for link, was in zip(links, before, strict=True))
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
        lines = LOGS * LINES - met
        return {"rate": lines / took, "cores_bridge": cpu / took, "cores_servers": served / took,
                "us_bridge": cpu / lines * 1e6, "us_servers": served / lines * 1e6}  # fmt: skip


def main() -> None:
    """Measures, prints a row for each, and writes groups.json and groups.svg."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bridge-groups-") as name:
        source = Path(name) / "source.log"
        measures.generate(source, LINES)
        for binary in measures.binaries():
            for in_cluster in (False, True):
                of = f"{binary.flavour} {'.'.join(map(str, binary.version))}, "
                of += "cluster of 3 masters" if in_cluster else "one server"
                rounds = [
                    {count: carried(binary, source, count, in_cluster=in_cluster) for count in COUNTS}
                    for _ in range(measures.ROUNDS)
                ]
                found[of] = {str(count): _medians(rounds, count) for count in COUNTS}
                for count in COUNTS:
                    print(of, f"{count} groups", found[of][str(count)], file=sys.stderr)
    here = Path(__file__).parent
    (here / "groups.json").write_text(json.dumps({"cores": os.cpu_count(), **found}, indent=1) + "\n")
    (here / "groups.svg").write_text(drawn(found))


def _medians(rounds: list[dict[int, dict[str, float]]], count: int) -> dict[str, float]:
    row = {name: statistics.median(found[count][name] for found in rounds) for name in rounds[0][count]}
    row["to_one_group"] = statistics.median(found[count]["rate"] / found[1]["rate"] for found in rounds)
    return {name: round(value, 3 if value < 100 else 0) for name, value in row.items()}


WIDE, HIGH, LEFT, TOP = 640, 170, 60, 30


def drawn(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Two charts one above the other, a bar for each number of groups: the rate to one group, and cores taken."""
    parts: list[str] = []
    rates = max(row["to_one_group"] for rows in found.values() for row in rows.values())
    cores = max(row["cores_bridge"] + row["cores_servers"] for rows in found.values() for row in rows.values())
    step = (WIDE - LEFT - 20) / max(1, len(found))
    charts = [(max(rates, 1.0), "rate, as a ratio to one group"), (cores, "cores: bridge below, servers above")]
    for down, (most, title) in enumerate(charts):
        base = TOP + down * (HIGH + 80) + HIGH
        for share in (0, 0.5, 1):
            y = base - share * HIGH
            parts.append(f'<line x1="{LEFT}" x2="{WIDE - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:.2g}</text>')
        for at, (name, rows) in enumerate(found.items()):
            for n, (count, row) in enumerate(rows.items()):
                x = LEFT + at * step + n * step / 4 + 8
                stacked = [(row["to_one_group"], "#2266aa")] if not down else [
                    (row["cores_bridge"], "#2266aa"), (row["cores_servers"], "#bb5522"),
                ]  # fmt: skip
                y = base
                for value, colour in stacked:
                    tall = value / most * HIGH
                    y -= tall
                    parts.append(
                        f'<rect x="{x:.1f}" y="{y:.1f}" width="{step / 5:.1f}" height="{tall:.1f}" fill="{colour}"/>'
                    )
                parts.append(f'<text x="{x + step / 10:.1f}" y="{base + 14}" text-anchor="middle">{count}</text>')
            first, _, second = name.partition(", ")
            middle = LEFT + (at + 0.42) * step
            parts.append(f'<text x="{middle:.1f}" y="{base + 28}" text-anchor="middle">{first}</text>')
            parts.append(f'<text x="{middle:.1f}" y="{base + 41}" text-anchor="middle">{second}</text>')
        parts.append(f'<text x="{LEFT}" y="{base + 58}">{title}, by groups</text>')
    tall = TOP + 2 * (HIGH + 80)
    box = f'viewBox="0 0 {WIDE} {tall}" font-family="sans-serif" font-size="11"'
    white = f'<rect width="{WIDE}" height="{tall}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{white}\n' + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    main()
