"""`bridge move`: all that the embedded server holds goes to another one, whatever dies on the way."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from bridge.admin.move_server import with_url
from bridge.core.config import load
from bridge.core.failpoints import FAILPOINTS
from bridge.streams.connect import Connection
from bridge.streams.copy_keys import KeyContent, held, names
from bridge.streams.embedded import embedded_server
from tests.kinds.test_state import SOAK
from tests.support.rig import STREAM, Rig


def connected(rig: Rig) -> Connection:
    """To the embedded server of the rig's state directory."""
    server = embedded_server.start(rig.state)
    return Connection(server.socket_url)


def filled(rig: Rig) -> dict[bytes, KeyContent]:
    """A migration on the embedded server, and all else that a server may hold; what each key holds."""
    rig.append(*(f"line {n}" for n in range(20)))
    assert rig.run("run", "--once", "--dual").returncode == 0
    with closing(connected(rig)) as server:
        for n in range(3000):  # several pages
            server.call(
                "XADD", STREAM, "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say", "data", n
            )
    assert rig.run("run", "--once", "--dual").returncode == 0
    assert rig.run("parity").returncode == 0
    with closing(connected(rig)) as server:
        server.call("XGROUP", "CREATE", STREAM, "reader", "0")
        [[_, given]] = server.call("XREADGROUP", "GROUP", "reader", "one", "COUNT", 20, "STREAMS", STREAM, ">")
        for entry, _ in given[:5]:
            server.call("XACK", STREAM, "reader", entry)
        server.call("XREADGROUP", "GROUP", "reader", "one", "COUNT", 20, "STREAMS", STREAM, "0")
        server.call("XCLAIM", STREAM, "reader", "two", 0, given[7][0])
        server.call("XGROUP", "CREATE", STREAM, "late", "$")
        server.call("XGROUP", "CREATECONSUMER", STREAM, "late", "idle")
        server.call("XADD", "holes", "5-1", "a", "b")
        server.call("XADD", "holes", "6-1", b"\x00\xff", b"\r\n")
        server.call("XDEL", "holes", "6-1")
        server.call("XGROUP", "CREATE", "holes", "g", "0")
        server.call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "holes", ">")
        server.call("XADD", "gone", "7-1", "a", "b")
        server.call("XTRIM", "gone", "MAXLEN", 0)
        server.call("XGROUP", "CREATE", "never", "g", "0", "MKSTREAM")
        server.call("SET", "text", b"\x00binary\xff", "PX", 100_000_000)
        server.call("RPUSH", "list", *range(2500))
        server.call("SADD", "set", "a", "b")
        server.call("ZADD", "scores", "1.5", "a", "-inf", "b")
        server.call(
            "HSET", "bridge:components", "ui/hestai-message", '{"reads": "redis", "writes": "redis", "epoch": 2}'
        )
        return holds(server)


def holds(connection: Connection) -> dict[bytes, KeyContent]:
    """What every key holds, but those that run out by themselves."""
    found = {key: held(connection, key) for key in names(connection)}
    return {key: what for key, what in found.items() if what is not None and not key.endswith(b":lease")}


def moved(rig: Rig, was: dict[bytes, KeyContent], *, others: tuple[bytes, ...] = ()) -> None:
    """The other server holds all of it, bridge.toml names it, the old data stay, and the bridge goes on there."""
    now = holds(rig.redis)
    assert {key: what for key, what in now.items() if key not in others} == was
    assert load(config=None, redis=None, env={}, cwd=rig.path).redis_url == rig.url
    assert not embedded_server.running(rig.state)
    assert (rig.state / "server" / "data").is_dir()
    done = rig.run("run", "--once", "--dual")
    assert "carried 0 lines, mirrored 0 entries" in done.stdout, done.stdout + done.stderr
    assert rig.run("parity").returncode == 0


def test_moves_everything(rig: Rig) -> None:
    """Streams, groups, pending entries, counters and all other keys are there, beside what the server held before."""
    was = filled(rig)
    rig.redis.call("SET", "somebody's", "else")
    plan = rig.run("move", "--to", rig.url)
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert "2 groups with 15 pending" in plan.stdout
    assert names(rig.redis) == [b"somebody's"]
    done = rig.run("move", "--to", rig.url, "--execute")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rig.redis.call("GET", "somebody's") == b"else"
    moved(rig, was, others=(b"somebody's",))
    assert rig.run("move", "--to", rig.url).returncode == 2  # there is nothing to move from


@pytest.mark.parametrize("when", ["before", "after", "after:raise=ENOSPC"] if SOAK else ["before", "after"])
@pytest.mark.parametrize("point", [name for name in FAILPOINTS if name.startswith("move.")])
def test_killed_at_every_point(one_rig: Rig, point: str, when: str) -> None:
    """Killed anywhere it is as before or done, and the next try does it."""
    rig, count = one_rig, ":4" if point == "move.copy" else ""
    was, text = filled(rig), (one_rig.path / "bridge.toml").read_text()
    rig.run("move", "--to", rig.url, "--execute", env={"BRIDGE_CRASH_AT": f"{point}.{when}{count}"})
    named = load(config=None, redis=None, env={}, cwd=rig.path).redis_url
    if named == "embedded":
        assert (rig.path / "bridge.toml").read_text() == text
        with closing(connected(rig)) as server:
            assert holds(server) == was
        done = rig.run("move", "--to", rig.url, "--execute")
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert point in ("move.config", "move.stop")
        embedded_server.stop(rig.state)
    moved(rig, was)


def test_what_keeps_it_from_moving(rig: Rig) -> None:
    """A program that runs, keys of the same names, the same server, none: each is said, and nothing is changed."""
    was, text = filled(rig), (rig.path / "bridge.toml").read_text()

    def refused(*args: str, env: dict[str, str] | None = None) -> str:
        done = rig.run("move", *args, "--execute", env=env)
        assert done.returncode in (2, 3, 5), done.stdout + done.stderr
        assert (rig.path / "bridge.toml").read_text() == text
        return done.stdout + done.stderr

    with closing(connected(rig)) as runs:
        runs.call("CLIENT", "SETNAME", "an-agent")
        assert "an-agent is connected to the embedded server" in refused("--to", rig.url)
    assert "both are the same server" in refused("--to", embedded_server.start(rig.state).url)
    assert "cannot connect" in refused("--to", "redis://127.0.0.1:1/0")
    assert "no scheme" in refused("--to", "localhost:6379")
    assert "says another url" in refused("--to", rig.url, env={"BRIDGE_REDIS_URL": rig.url})
    rig.redis.call("XADD", STREAM, "*", "another", "one")
    assert f"it holds {STREAM} already, another one" in refused("--to", rig.url)
    rig.redis.call("DEL", STREAM)
    rig.redis.call("HSET", "bridge:components", "ui/hestai-message", "{}")
    assert "other values of the same fields" in refused("--to", rig.url)
    rig.redis.call("DEL", "bridge:components")
    rig.redis.call("HSET", "bridge:components", "other/elsewhere", "{}")
    assert names(rig.redis) == [b"bridge:components"]
    with closing(connected(rig)) as server:
        assert holds(server) == was
    done = rig.run("move", "--to", rig.url, "--execute", "--json")
    assert json.loads(done.stdout)["done"], done.stderr
    assert rig.redis.call("HKEYS", "bridge:components") == [b"other/elsewhere", b"ui/hestai-message"]


def test_nothing_is_written_meanwhile(one_rig: Rig) -> None:
    """While the copies are made the embedded server takes no write; a move that is killed lets go of it by itself."""
    rig, was = one_rig, filled(one_rig)
    rig.run("move", "--to", rig.url, "--execute", env={"BRIDGE_CRASH_AT": "move.name.before"})
    with closing(Connection(embedded_server.start(rig.state).socket_url, timeout=0.2)) as server:
        assert holds(server) == was
        with pytest.raises(Exception, match=r"timed out|no answer|lost"):
            server.call("SET", "text", "other")
    with closing(Connection(embedded_server.start(rig.state).socket_url, timeout=30.0)) as server:
        server.call("SET", "new", "one")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[redis]\nurl = "embedded"\n\n[state]\n', '[redis]\nurl = "U"\n\n[state]\n'),
        ("[redis]\n  url='embedded' # here\n", '[redis]\n  url="U" # here\n'),
        ("a = 1\n", 'a = 1\n\n[redis]\nurl = "U"\n'),
        ("[redis]\n# url\n[state]\n", '[redis]\nurl = "U"\n# url\n[state]\n'),
        ('[x]\nurl = "1"\n[redis] # r\nurl = "2"\n', '[x]\nurl = "1"\n[redis] # r\nurl = "U"\n'),
    ],
)
def test_the_url_alone_is_changed(before: str, after: str) -> None:
    """Of bridge.toml nothing is changed but the url of its table."""
    assert with_url(before, "U") == after


def test_a_config_that_cannot_be_changed(one_rig: Rig, tmp_path: Path) -> None:
    """Where the url stands in bridge.toml in another way, it says so before anything is copied."""
    rig = one_rig
    filled(rig)
    path = rig.path / "bridge.toml"
    path.write_text('redis = { url = "embedded" }\n' + path.read_text())
    done = rig.run("move", "--to", rig.url, "--execute")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "write the url into it by hand" in done.stderr
    assert names(rig.redis) == []
