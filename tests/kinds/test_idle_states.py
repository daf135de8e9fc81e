"""Values that nobody changes cost the server nothing, whichever side owns them; a change is seen all the same."""

from __future__ import annotations

import subprocess
import time

import pytest

from bridge.streams.connect import Connection
from tests.kinds.test_state import Values
from tests.support.rig import Rig, wait_until

MANY = 1000


def executed(rig: Rig) -> int:
    """Commands that the server has executed since it began, those within scripts among them."""
    told = bytes(rig.redis.call("INFO", "commandstats"))
    return sum(int(line.partition(b"calls=")[2].partition(b",")[0]) for line in told.split() if b"calls=" in line)


def beat(rig: Rig) -> bytes:
    return bytes(rig.redis.call("GET", "bridge:health:test") or b"")


@pytest.mark.parametrize("owner", ["file", "redis"])
def test_idle_values_cost_nothing(rig: Rig, owner: str) -> None:
    """From heartbeat to heartbeat the server is asked far less than once for each value; a changed one is carried."""
    values = Values(rig, owner=owner)
    for n in range(MANY):
        if owner == "file":
            values.save(b"%d" % n, f"{n}.md")
        else:
            values.set(b"%d" % n, "2026-03-02T09:00:00Z", f"{n}.md")
            values.save(b"", f"{n}.md")
    child = rig.ready(rig.start())
    last = f"{MANY - 1}.md"
    (values.until if owner == "file" else values.until_file)(b"%d" % (MANY - 1), last)

    def costs() -> int:
        """Between two heartbeats."""
        first = wait_until(lambda: beat(rig), rig.said)
        wait_until(lambda: beat(rig) != first, rig.said)
        before, second = executed(rig), beat(rig)
        wait_until(lambda: beat(rig) != second, rig.said)
        return executed(rig) - before

    asked = wait_until(lambda: (found := costs()) < MANY / 2 and [found], lambda: f"{costs()} commands; {rig.said()}")
    assert asked
    if owner == "file":
        values.save(b"new", last)
        values.until(b"new", last)
        rig.redis.call("HSET", values.key(last), "data", "of another's")
        values.until(b"new", last)
        rig.redis.call("DEL", values.key(last))
        values.until(b"new", last)
        rig.redis.call("FLUSHDB")
        values.until(b"new", last)
        values.until(b"0", "0.md")
    else:
        values.set(b"new", "2026-03-02T09:00:01Z", last)
        values.until_file(b"new", last)
        (values.folder / "0.md").unlink()
        values.until_file(b"0", "0.md")
        rig.redis.call("RENAME", values.key("1.md"), values.key("2.md"))
        values.until_file(b"1", "2.md")
    rig.stop(child)


def owned_by_redis(rig: Rig) -> tuple[Values, subprocess.Popen[bytes]]:
    """One value that Redis owns, and the bridge that has put it into its file."""
    values = Values(rig, owner="redis")
    values.save(b"", "a.md")
    values.set(b"first", "2026-03-02T09:00:00Z", "a.md")
    child = rig.ready(rig.start())
    values.until_file(b"first", "a.md")
    return values, child


def test_a_server_that_does_not_tell(rig: Rig) -> None:
    """Where client tracking is refused the values are looked at again and again, and that is said."""
    rig.redis.call("ACL", "SETUSER", "default", "-client|tracking")
    values, child = owned_by_redis(rig)
    assert "all values are looked at again and again" in rig.said()
    values.set(b"second", "2026-03-02T09:00:01Z", "a.md")
    values.until_file(b"second", "a.md")
    rig.stop(child)


def test_a_server_that_closes_silent_connections(rig: Rig) -> None:
    """Whoever hears of changes is not silent for long, so it is not closed, and nothing is said."""
    rig.redis.call("CONFIG", "SET", "timeout", "3")
    values, child = owned_by_redis(rig)
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 8, "more than two of the server's terms")
    values.set(b"second", "2026-03-02T09:00:01Z", "a.md", Connection(rig.url))
    values.until_file(b"second", "a.md")
    rig.stop(child)
    assert "closed by the server" not in rig.said()
