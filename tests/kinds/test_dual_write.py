"""A program that writes both sides itself: carried in neither direction, compared by content, mended by repair."""

from __future__ import annotations

import json

from tests.support.cast import Cast
from tests.support.rig import STREAM, Rig, line, wait_until


def both_sides(rig: Rig, *datas: str, file: bool = True, stream: bool = True) -> None:
    """Messages of `daemon`, as its program writes them: a line, and an entry."""
    for data in datas:
        if file:
            with rig.log.open("ab") as log:
                log.write(line(data, "daemon"))
        if stream:
            rig.redis.call("XADD", STREAM, "*", "role", "daemon", "timestamp", "2026-03-02T09:14:05.112Z", "type",
                           "turn", "data", data)  # fmt: skip


def equal(rig: Rig) -> bool:
    """Whether parity says so, and nothing is under way."""
    [told] = json.loads(rig.run("parity", "--json", "--redis", rig.url).stdout)["mappings"]
    return (told["verdict"], told["in_flight"]) == ("equal", 0)


def differences(rig: Rig) -> int:
    """How many parity finds."""
    [told] = json.loads(rig.run("parity", "--json", "--redis", rig.url).stdout)["mappings"]
    return sum(told["counts"].values())


def test_a_program_writes_both_sides(rig: Rig) -> None:
    """From the switch on nothing of it is carried, through a kill of the bridge; others' messages are, both ways."""
    Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    rig.append("before")
    both_sides(rig, "old 1", "old 2", stream=False)
    wait_until(lambda: equal(rig) and len(rig.datas()) == 3, rig.said)
    args = ("cutover", "daemon", "--writes", "--both", "--execute", "--force", "daemon", "--redis", rig.url)
    done = rig.run(*args)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(rig.run("journal", "--json").stdout)[-1]["facts"]["asked"]
    assert told["files"] == {"messages.log": [1, rig.log.stat().st_size]}
    both_sides(rig, *(f"both {n}" for n in range(50)))
    rig.append("from agent")
    rig.add("from ui")
    wait_until(lambda: len(rig.lines()) == len(rig.datas()) == 55 and equal(rig), rig.said)
    bridge.kill()
    bridge.wait()
    both_sides(rig, *(f"both {n}" for n in range(50, 80)))
    bridge = rig.beats(rig.ready(rig.start()))
    rig.append("again from agent")
    rig.add("again from ui")
    wait_until(lambda: len(rig.lines()) == len(rig.datas()) == 87 and equal(rig), rig.said)
    both_sides(rig, "a line alone", stream=False)
    both_sides(rig, "between", "and between")
    both_sides(rig, "an entry alone", file=False)
    wait_until(lambda: differences(rig) == 2, rig.said, 20)
    rig.stop(bridge)
    done = rig.run("repair", "--execute", "--redis", rig.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rig.run("parity", "--redis", rig.url).returncode == 0
    bridge = rig.beats(rig.ready(rig.start()))
    done = rig.run("cutover", "daemon", "--writes", "--execute", "--force", "daemon", "--redis", rig.url)
    assert done.returncode == 0, done.stdout + done.stderr
    both_sides(rig, "new 1", "new 2", file=False)
    wait_until(lambda: len(rig.lines()) == len(rig.datas()) == 93 and equal(rig), rig.said, 20)
    rig.stop(bridge)
    for data in [f"both {n}".encode() for n in range(80)]:
        assert rig.datas().count(data) == 1
        assert [raw.rpartition(b"|")[2] for raw in rig.lines()].count(data) == 1


def test_without_roles(rig: Rig) -> None:
    """A component whose roles nobody declared cannot be told from others: it is refused, and nothing changes."""
    Cast(rig)
    bridge = rig.beats(rig.ready(rig.start()))
    rig.append("one")
    wait_until(lambda: len(rig.datas()) == 1, rig.said)
    done = rig.run("cutover", "viewer", "--writes", "--both", "--execute", "--force", "viewer", "--redis", rig.url)
    assert done.returncode == 1
    assert "roles are not declared" in done.stderr
    assert json.loads(rig.redis.call("HGET", "bridge:{hestai:messages}:components", "viewer@test"))["writes"] == "file"
    rig.stop(bridge)
