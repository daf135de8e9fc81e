"""The players of the demo: programs that write messages to a file or to Redis, each in a process of its own.

`file PATH ROLE PER_SECOND` appends lines as a legacy program does, one write a line; `redis URL ROLE PER_SECOND` adds
entries with a plain XADD. Neither knows of a bridge; each ends when its standard input does, and prints how many
messages it wrote. `component CONFIG NAME PER_SECOND` reads and writes through `open_log`, on command. `keep SCRATCH`
waits for the end of its standard input, and removes what a demo that was killed left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

from bridge.core.errors import RedisLost, RedisRefused
from bridge.core.model import paired
from bridge.streams.connect import Connection
from bridge.streams.reader import entries_back

STREAM = "hestai:messages"
REPLY_SECONDS = 3.0
"""Seconds after the end of its input for which a player still tries to find out whether Redis has its last message."""

TEXTS = (
    "session started", "anchor loaded: XYZ123", "is the draft ready?", "reading section 3 | 4", "a line with \\ and ✓",
    "council agrees", "artifact saved: plan.md", "thinking …", "done",
)  # fmt: skip


def messages(role: str, per_second: float, stop: Event) -> Iterator[tuple[int, bytes, bytes]]:
    """Yields the messages that a player of the demo writes, at a given pace, until the stop event.

    Yields (number, timestamp, data); the data hold the time of sending.
    """
    begun, n = time.monotonic(), 0
    while not stop.wait(max(0.0, begun + n / per_second - time.monotonic())):
        n += 1
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = {"n": n, "sent": time.time(), "text": TEXTS[n % len(TEXTS)]}
        yield n, stamp.encode(), json.dumps(said, ensure_ascii=False).encode()


def write_file(path: str, role: str, per_second: float, stop: Event) -> int:
    """Plays a legacy program of the demo: appends messages to a file as lines, and returns how many."""
    n = 0
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for n, stamp, data in messages(role, per_second, stop):  # noqa: B007 - the last one is the count
        os.write(fd, b"%b|%b|said|%b\n" % (role.encode(), stamp, data))
    os.close(fd)
    return n


def write_redis(url: str, role: str, per_second: float, stop: Event) -> int:
    """Plays a Redis program of the demo: adds messages to the stream with XADD, and returns how many.

    After a lost reply it checks whether its message is in the stream before it goes on. `REPLY_SECONDS` after its input
    ended it gives up a last message of which it has no reply.
    """
    written, connection, ended = 0, None, 0.0
    for n, stamp, data in messages(role, per_second, stop):
        while written < n:
            try:
                if connection is None:
                    connection = Connection(url)
                    if _last_of(connection, role) == data:
                        written = n
                        break
                connection.call("XADD", STREAM, "*", "role", role, "timestamp", stamp, "type", "said", "data", data)
                written = n
            except (RedisLost, RedisRefused):
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.05)
                if stop.is_set():
                    ended = ended or time.monotonic()
                    if time.monotonic() > ended + REPLY_SECONDS:
                        return written
    return written


def _last_of(connection: Connection, role: str) -> bytes | None:
    """Finds the data of the last message that a player of the demo wrote to the stream; None: it has written none."""
    for entry in entries_back(connection, STREAM.encode()):
        said = paired(entry.fields)
        if said[b"role"] == role.encode():
            return said[b"data"]
    return None


def keep(scratch: Path) -> int:
    """Kills the bridge and the server that a killed demo left running, and removes the demo's scratch folder."""
    from bridge.core.state_directory import lock_holder
    from bridge.streams.embedded import embedded_server

    state = scratch / ".bridge"
    holder = lock_holder(state)
    if holder.startswith("bridge run (process "):
        os.kill(int(holder.split()[3].rstrip(")")), signal.SIGKILL)
    server = embedded_server.known(state)
    if server is not None:
        embedded_server.kill(server)
        Path(server.socket).unlink(missing_ok=True)
    for _ in range(100):  # the programs end at this moment, and may still write
        shutil.rmtree(scratch, ignore_errors=True)
        if not scratch.exists():
            break
        time.sleep(0.05)
    return 0


def component(config: str, name: str, per_second: str, before: str = "{}") -> None:
    """Plays a component of the demo's story: writes and reads messages through `open_log`, as its input commands.

    Each line of standard input is a command. `talk`: begins to write. `hush`: stops writing, and prints the number of
    its last message. `count`: prints as JSON how many messages of each component it was given, and all that were
    missing, twice, or out of order. The end of the input ends the component.

    `before`: how many messages of each component it was given before a restart, as JSON.
    """
    from bridge import open_log

    stop, quiet, talking = Event(), Event(), Event()
    counts: dict[str, int] = json.loads(before)
    wrong: list[str] = []

    with open_log("hestai-message", name, config=config) as log:
        said = counts.get(name, 0)

        def talk() -> None:
            nonlocal said
            while not stop.is_set():
                if not talking.wait(0.1):
                    continue
                said += 1
                log.append("said", f"{said} {TEXTS[said % len(TEXTS)]}")
                quiet.wait(1 / float(per_second))

        def read() -> None:
            while not stop.is_set():
                for message in log.follow(idle=0.1):
                    number = int(message.text.partition(" ")[0])
                    wanted = counts.get(message.role, 0) + 1
                    if number != wanted:
                        wrong.append(f"{name} was given {message.role} {number} and not {wanted}, from {log.reads}")
                    counts[message.role] = number

        threads = [Thread(target=talk), Thread(target=read)]
        for thread in threads:
            thread.start()
        for line in sys.stdin:
            if line == "talk\n":
                talking.set()
            elif line == "hush\n":
                talking.clear()
                time.sleep(2 / float(per_second))
                print(said, flush=True)
            elif line == "count\n":
                print(json.dumps({"counts": counts, "wrong": wrong}), flush=True)
        stop.set()
        for thread in threads:
            thread.join()


def main(kind: str, *rest: str) -> None:
    """Runs one player of the demo, chosen by its kind (file, redis, component, keep), until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Event()
    if kind == "keep":
        sys.stdin.read()
        sys.exit(keep(Path(rest[0])))
    if kind == "component":
        component(*rest)
        return
    where, role, per_second = rest

    def until_the_end() -> None:
        sys.stdin.read()
        stop.set()

    Thread(target=until_the_end, daemon=True).start()
    print({"file": write_file, "redis": write_redis}[kind](where, role, float(per_second), stop))


if __name__ == "__main__":
    main(*sys.argv[1:])
