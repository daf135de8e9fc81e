"""The bridge and its components under exactly the rights that `bridge acl` prints."""

from __future__ import annotations

import json
import shlex
from contextlib import closing

import pytest

from bridge.admin.acl_rules import User, users
from bridge.core.errors import RedisRefused
from bridge.streams.connect import Connection
from tests.admin.test_retention import keep
from tests.support.cast import CONFIG, Cast
from tests.support.rig import STREAM, Rig


def give(rig: Rig, every: list[User]) -> dict[str, str]:
    """Makes the users; each one's url."""
    for user in every:
        rig.redis.call("ACL", "SETUSER", user.name, "reset", "on", f">pw-{user.name}", *user.rules.split(" "))
    rig.redis.call("ACL", "LOG", "RESET")
    return {
        user.name: rig.url.replace("default", user.name).replace(rig.server.password, f"pw-{user.name}")
        for user in every
    }


def refused(rig: Rig) -> list[tuple[str, str, str]]:
    """User, reason and what was refused, since the rights were given."""
    rows = [dict(zip(row[0::2], row[1::2], strict=True)) for row in rig.redis.call("ACL", "LOG")]
    return [(row[b"username"].decode(), row[b"reason"].decode(), row[b"object"].decode()) for row in rows]


def test_there_and_back_under_the_rules(rig: Rig) -> None:
    """Components go over and back twice, the stream is trimmed, nothing that is needed is refused."""
    cast = Cast(rig)
    keep(rig, extra=CONFIG, keep_entries=500)
    urls = give(rig, users(rig.settings()))
    bridge_url = urls["bridge-test"]
    cast.urls, cast.operates = urls, bridge_url
    bridge = rig.beats(rig.ready(rig.start(url=bridge_url)))
    cast.start("both", "ui")
    cast.start("both", "daemon")
    cast.start("read", "viewer", 0)
    for name in ("ui", "viewer"):  # a component that has only just started has told no position yet
        cast.given_more(name, 1)
    for reads, writes in (("redis", "redis"), ("file", "file"), ("redis", "redis")):
        for name in ("ui", "daemon"):
            cast.bring(name, reads, writes)
        cast.bring("viewer", reads, "file")
        cast.given_more("ui", 20)
        cast.given_more("viewer", 20)
    cast.stop("ui", "daemon")
    cast.settled("viewer", "ui", "daemon")
    cast.stop("viewer")
    cast.check("viewer", "ui", "daemon")
    rig.stop(bridge)
    assert refused(rig) == []


ALL = ("message", "roles", "debates", "inbox", "context", "state", "artifacts")


def test_every_verb_and_every_kind_under_the_rules(rig: Rig) -> None:
    """Import, both directions, parity, what looks and what mends, and the end: of all kinds of sources."""
    names = ", ".join(f'"hestai-{kind}"' for kind in ALL)
    (rig.path / "bridge.toml").write_text(
        f'instance = "test"\nroot = "files"\nmappings = [{names}]\n[state]\ndir = "state"\n{CONFIG}'
    )
    every = users(rig.settings())
    url = give(rig, every)["bridge-test"]
    for folder in ("debates", "inbox", "context", "state", "artifacts"):
        (rig.root / folder).mkdir()
    rig.append("one", "two")
    (rig.root / "a.out").write_text("2026-03-02T09:14:05Z|say|hello\nbroken\n")
    (rig.root / "debates" / "d.events.jsonl").write_text('{"type": "x", "timestamp": "2026-03-02T09:14:05Z"}\n')
    (rig.root / "inbox" / "1.json").write_text(
        '{"uuid": "u-1", "doc_type": "note", "timestamp": "2026-03-02T09:14:06Z"}'
    )
    (rig.root / "context" / "c.ctx").write_text("words")
    (rig.root / "state" / "s").write_text("value")
    (rig.root / "artifacts" / "f.txt").write_text("file")
    rig.add("from Redis")

    def does(*args: str, code: int = 0) -> str:
        done = rig.run(*args, "--redis", url)
        assert done.returncode == code, f"{args} {done.stdout} {done.stderr}"
        return done.stdout

    does("import-history")
    does("run", "--dual", "--once")
    does("parity")
    does("status")
    does("tail", "hestai-message")
    does("locate", "messages.log:1")
    does("quarantine", "retry", code=3)
    does("snapshot", "hestai-message", str(rig.path / "snap"))
    for file in rig.state.glob("ledger.db*"):
        file.unlink()
    does("repair", "--execute")
    does("parity")
    assert refused(rig) == []
    told = {check["check"]: check["verdict"] for check in json.loads(does("doctor", "--json"))["checks"]}
    assert {told[name] for name in ("clients", "buffers", "load", "exposure")} == {"unknown"}
    assert told["rights"] == "good"


def test_nobody_may_more(rig: Rig) -> None:
    """Neither reaches keys of others, nor what empties or configures a server; a component writes none of our books."""
    rig.write_config(extra=CONFIG)
    rig.append("a")
    rig.once()
    urls = give(rig, users(rig.settings()))
    rig.redis.call("SET", "thread:1", "theirs")
    no = (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "SET", "appendonly", "no"), ("GET", "thread:1"), ("SCRIPT", "FLUSH"),
          ("XADD", "others", "*", "a", "b"), ("SHUTDOWN",), ("PUBLISH", "other", "x"))  # fmt: skip
    books = (("HSET", "bridge:{hestai:messages}:checkpoint", "messages.log", "{}"), ("XTRIM", STREAM, "MAXLEN", "0"),
             ("DEL", STREAM), ("XDEL", STREAM, "1-1"), ("SET", "bridge:{hestai:messages}:floor", "9-9"),
             ("XGROUP", "DESTROY", STREAM, "daemon"))  # fmt: skip
    for name, commands in (("bridge-test", no), ("ui", (*no, *books))):
        with closing(Connection(urls[name])) as connection:
            for command in commands:
                with pytest.raises(RedisRefused, match="NOPERM"):
                    connection.call(*command)


def test_names_are_taken_literally(rig: Rig) -> None:
    """A stream whose name holds what a pattern would mean gives rights to that stream alone."""
    text = (rig.path / "bridge.toml").read_text()
    (rig.path / "odd.toml").write_text(
        'name = "odd"\n[source]\nkind = "log"\npath = "odd.log"\n[format]\ncodec = "delimited"\ndelimiter = "|"\n'
        'columns = ["role", "timestamp", "type", "data"]\n[stream]\nkey = "a*b[c]?"\n'
    )
    (rig.path / "bridge.toml").write_text(text.replace("hestai-message", "odd.toml"))
    url = give(rig, users(rig.settings()))["bridge-test"]
    (rig.root / "odd.log").write_text("a|2026-03-02T09:14:05Z|b|c\n")
    rig.once(url=url)
    assert rig.redis.call("XLEN", "a*b[c]?") == 1
    with closing(Connection(url)) as connection, pytest.raises(RedisRefused, match="NOPERM"):
        connection.call("XADD", "axbcx", "*", "a", "b")


def test_the_commands_as_they_are_printed(rig: Rig) -> None:
    """What `bridge acl` prints is taken by redis-cli's rules of quoting, and makes the same users."""
    rig.write_config(extra=CONFIG)
    told = json.loads(rig.run("acl", "--json").stdout)
    lines = [line for line in rig.run("acl").stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == len(told) == 4
    for line, user in zip(lines, told, strict=True):
        words = shlex.split(line)
        assert words[:5] == ["ACL", "SETUSER", user["user"], "reset", "on"]
        assert words[6:] == user["rules"].split(" ")
        rig.redis.call(*words)
