"""What a failover takes of what plain XADDs wrote, and what WAIT costs: `python -m benchmarks.failover`.

A master, two replicas and three Sentinels on this machine. First the time of an XADD, alone and with WAIT. Then both
replicas are stopped, as if cut off, and the master is written to each millisecond until it refuses: so long, and so
many messages, would an election of one of them throw away. Last the planned command SENTINEL FAILOVER, under load.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing

from bridge.core.errors import BridgeError
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import find
from tests.support.rig import wait_until
from tests.support.sentinel_group import NAME, SentinelGroup

CALLS = 3000
LAGS = (1, 2, 10)
PLANNED = 3
LONGEST = 30.0
"""Seconds after which a master that never refuses is left alone."""


def main() -> None:
    """Measures, and prints a line for each figure."""
    group = SentinelGroup(find())
    try:
        alone, waited = (cost(group, waits=waits) for waits in (False, True))
        print(f"XADD: {alone:.0f} µs, with WAIT 1: {waited:.0f} µs")
        for lag in LAGS:
            guard(group, 1, lag)
            seconds, count = cut_off(group)
            print(f"replicas cut off, min-replicas-max-lag {lag}: {count:,} messages taken in {seconds:.1f} s")
        for wanted in (0, 1):
            guard(group, wanted, 1)
            for _ in range(PLANNED):
                seconds, count, lost = planned(group)
                said = f"{count:,} taken in {seconds:.1f} s, {lost:,} lost"
                print(f"SENTINEL FAILOVER, min-replicas-to-write {wanted}: {said}")
    finally:
        group.close()


def guard(group: SentinelGroup, wanted: int, lag: int) -> None:
    """Sets on each server how many replicas a write wants, and how recent they must be."""
    for port in group.ports:
        group.ask(port, "CONFIG", "SET", "min-replicas-to-write", wanted)
        group.ask(port, "CONFIG", "SET", "min-replicas-max-lag", lag)
    with closing(group.connect()) as connection:
        wait_until(lambda: _taken(connection), group.told)


def _taken(connection: Connection) -> bool:
    try:
        return connection.call("XADD", "s", "*", "a", "b") is not None
    except BridgeError:
        return False


def cost(group: SentinelGroup, *, waits: bool) -> float:
    """The median time of an XADD in microseconds."""
    times = []
    with closing(group.connect()) as connection:
        for _ in range(CALLS):
            begun = time.perf_counter()
            connection.call("XADD", "s", "*", "a", "b")
            if waits:
                connection.call("WAIT", 1, 1000)
            times.append(time.perf_counter() - begun)
    return 1e6 * statistics.median(times)


def write(connection: Connection, begun: float, longest: float) -> tuple[float, list[bytes]]:
    """Writes each millisecond until the server refuses or hangs up; returns the seconds, and the IDs."""
    taken: list[bytes] = []
    last = begun
    try:
        while last - begun < longest:
            taken.append(connection.call("XADD", "s", "*", "a", "b"))
            last = time.monotonic()
            time.sleep(0.001)
    except BridgeError:
        pass
    return last - begun, taken


def cut_off(group: SentinelGroup) -> tuple[float, int]:
    """Stops both replicas: for how many seconds the master goes on, and how many messages it takes."""
    master = group.master()
    with closing(Connection(group.url_of(master))) as connection:
        for port in group.ports:
            if port != master:
                group.freeze(port)
        seconds, taken = write(connection, time.monotonic(), LONGEST)
    for port in group.ports:
        group.thaw(port)
    wait_until(group.healed, group.told)
    return seconds, len(taken)


def planned(group: SentinelGroup) -> tuple[float, int, int]:
    """A planned failover: for how many seconds the old master takes messages, how many, and how many are lost."""
    old = group.master()
    with closing(Connection(group.url_of(old))) as connection:
        wait_until(lambda: group.ask(group.sentinel_ports[0], "SENTINEL", "FAILOVER", NAME) == b"OK", group.told)
        seconds, taken = write(connection, time.monotonic(), LONGEST)
    wait_until(lambda: group.master() != old and group.healed(), group.told)
    with closing(group.connect()) as connection:
        there = {row[0] for row in connection.call("XRANGE", "s", taken[0], "+")}
    return seconds, len(taken), sum(entry not in there for entry in taken)


if __name__ == "__main__":
    main()
