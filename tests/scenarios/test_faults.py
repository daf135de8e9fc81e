"""Replies lost after execution, connections cut in mid-batch, and every error a server can answer with."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from bridge.core.errors import RedisRefused
from bridge.streams.connect import Connection
from bridge.streams.reader import entries
from tests.support.proxy import Proxy
from tests.support.rig import STREAM, Rig, wait_until

CHECKPOINT = f"bridge:{{{STREAM}}}:checkpoint"


@pytest.mark.parametrize("kind", ["swallow", "cut"])
@pytest.mark.parametrize("sign", [b"EXEC\r\n", b"MULTI", b"XREAD", b"HSET"], ids=["exec", "multi", "xread", "hset"])
def test_faults_on(rig: Rig, kind: str, sign: bytes) -> None:
    """The reply to every fifth such request is swallowed, or it is cut in half: each message once on both sides."""
    count = 0

    def fault(data: bytes, number: int) -> str:
        nonlocal count
        if sign not in data:
            return "pass"
        count += 1
        return kind if count % 5 == 2 and count < 60 else "pass"

    with Proxy(rig.server, fault) as proxy:
        child = rig.ready(rig.start(url=proxy.url))
        file_born: list[bytes] = []
        redis_born: list[bytes] = []
        for turn in range(12):
            burst = [f"f-{turn}-{i}".encode() for i in range(60)]
            rig.append(*burst)
            file_born += burst
            for i in range(3):
                rig.add(f"r-{turn}-{i}")
                redis_born.append(f"r-{turn}-{i}".encode())
            wait_until(lambda: rig.equal(file_born, redis_born), lambda: f"both sides; {rig.said()[-2000:]}")
        rig.check(file_born, redis_born)
        assert proxy.faults > 1
        rig.stop(child)
        rig.check(file_born, redis_born)


def test_random_faults_in_a_backlog(rig: Rig) -> None:
    """A backlog of 40,000 lines through a line that breaks at random, from a printed seed."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    with Proxy(rig.server, lambda data, number: dice.choices(("pass", "swallow", "cut"), (80, 1, 1))[0]) as proxy:
        backlog = [f"f-{i}".encode() for i in range(40_000)]
        rig.append(*backlog)
        rig.start(url=proxy.url)
        wait_until(lambda: rig.equal(backlog, []), lambda: f"the backlog, seed {seed}; {rig.said()[-2000:]}")
        rig.check(backlog, [])
        assert proxy.faults > 0, seed


def _refuses(rig: Rig, sign: str) -> None:
    """The bridge says so, with the code, within the time; and an append meanwhile blocks nobody."""
    wait_until(lambda: sign in rig.said(), lambda: f"{sign} in the log; {rig.said()[-2000:]}")


def test_out_of_memory(rig: Rig) -> None:
    """OOM: nothing moves, it is said with what to do, and it goes on when there is memory."""
    rig.ready(rig.start())
    rig.append("f-0")
    wait_until(lambda: rig.datas() == [b"f-0"], "the first line")
    rig.redis.call("CONFIG", "SET", "maxmemory", "1mb")
    rig.append("f-1")
    _refuses(rig, "maxmemory is reached")
    assert rig.datas() == [b"f-0"]
    rig.redis.call("CONFIG", "SET", "maxmemory", "0")
    rig.settle([b"f-0", b"f-1"], [])


def test_memory_runs_out_between_queueing_and_exec(rig: Rig) -> None:
    """EXECABORT tells why: the code is OOM, as when a queued command is refused at once."""
    with closing(Connection(rig.server.socket_url)) as writer:
        assert writer.call("MULTI") == b"OK"
        assert writer.call("XADD", "s", "*", "a", "b") == b"QUEUED"
        rig.redis.call("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(RedisRefused) as told:
            writer.call("EXEC")
    assert told.value.code == "OOM"
    assert "maxmemory is reached" in told.value.hint


def test_replica(rig: Rig) -> None:
    """READONLY: nothing moves until the server is a primary again."""
    rig.ready(rig.start())
    rig.append("f-0")
    wait_until(lambda: rig.datas() == [b"f-0"], "the first line")
    rig.redis.call("CONFIG", "SET", "replica-serve-stale-data", "yes")
    rig.redis.call("REPLICAOF", "127.0.0.1", "1")
    rig.append("f-1")
    _refuses(rig, "this is a replica")
    rig.redis.call("REPLICAOF", "NO", "ONE")
    rig.settle([b"f-0", b"f-1"], [])


def test_cannot_write_its_disk(rig: Rig) -> None:
    """MISCONF: a server that cannot save refuses writes; nothing moves until it can."""
    rig.ready(rig.start())
    rig.append("f-0")
    wait_until(lambda: rig.datas() == [b"f-0"], "the first line")
    rig.redis.call("CONFIG", "SET", "save", "3600 1")
    rig.redis.call("CONFIG", "SET", "stop-writes-on-bgsave-error", "yes")
    folder = rig.server.home / "data" / "dump.rdb"
    folder.mkdir()
    (folder / "x").write_text("in the way")
    rig.redis.call("BGSAVE")
    wait_until(lambda: b"rdb_last_bgsave_status:err" in rig.redis.call("INFO", "persistence"), "the failed save")
    rig.append("f-1")
    _refuses(rig, "cannot write its disk")
    rig.redis.call("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
    rig.settle([b"f-0", b"f-1"], [])


def test_wrong_type_at_the_stream_key(rig: Rig) -> None:
    """WRONGTYPE at the stream, before and under way: said, nothing lost, and it goes on when the key is free."""
    rig.redis.call("SET", STREAM, "not a stream")
    rig.append("f-0")
    rig.ready(rig.start())
    _refuses(rig, "not a stream")
    assert rig.redis.call("EXISTS", CHECKPOINT) == 0
    rig.redis.call("DEL", STREAM)
    rig.settle([b"f-0"], [])
    rig.redis.call("RENAME", STREAM, "aside")
    rig.redis.call("SET", STREAM, "not a stream")
    rig.append("f-1")
    _refuses(rig, "WRONGTYPE")
    rig.redis.call("DEL", STREAM)
    rig.settle([b"f-0", b"f-1"], [])


@pytest.mark.parametrize("name", ["checkpoint", "meta", "generations", "mirror", "sources"])
def test_wrong_type_at_a_key_of_the_bridge(rig: Rig, name: str) -> None:
    """WRONGTYPE at one of the bridge's own keys: said, nothing carried, and it goes on when the key is free."""
    key = f"bridge:{{{STREAM}}}:{name}"
    rig.redis.call("SET", key, "in the way")
    rig.append("f-0")
    rig.ready(rig.start())
    _refuses(rig, "WRONGTYPE")
    assert rig.redis.call("EXISTS", STREAM) == 0
    rig.redis.call("DEL", key)
    rig.settle([b"f-0"], [])


def _user(rig: Rig, *rules: str) -> str:
    rig.redis.call("ACL", "SETUSER", "carrier", "reset", "on", ">secret", *rules)
    return f"unix://carrier:secret@{rig.server.socket}?db=0"


FULL = ("~*", "&*", "+@all")


def test_no_password(rig: Rig) -> None:
    """NOAUTH and WRONGPASS are said with what to do."""
    rig.append("f-0")
    rig.start(url=f"unix://{rig.server.socket}?db=0")
    _refuses(rig, "wants a password")
    rig.start(url=f"unix://default:wrong@{rig.server.socket}?db=0", state=rig.path / "other")
    _refuses(rig, "are wrong")


@pytest.mark.parametrize(
    "rules",
    [("-xadd",), ("-eval",), ("-hset",), ("-exec",), ("-watch",), ("resetkeys", f"~{STREAM}"), ("-xread", "-xrange")],
    ids=lambda rules: rules[0] + rules[-1][-6:],
)
def test_rights_taken_and_given_back(rig: Rig, rules: tuple[str, ...]) -> None:
    """A right is revoked under a running bridge and given back: nothing lost, nothing twice."""
    url = _user(rig, *FULL)
    rig.ready(rig.start(url=url))
    rig.append("f-0")
    rig.add("r-0")
    rig.settle([b"f-0"], [b"r-0"])
    rig.redis.call("ACL", "SETUSER", "carrier", *rules)
    file_born = [b"f-0"]
    for i in range(1, 6):
        rig.append(f"f-{i}")
        file_born.append(f"f-{i}".encode())
    rig.add("r-1")
    _refuses(rig, "Redis refused")
    rig.redis.call("ACL", "SETUSER", "carrier", *FULL)
    rig.settle(file_born, [b"r-0", b"r-1"])


@pytest.mark.parametrize("rules", [("-xadd",), ("-eval",), ("-hset",)], ids=lambda rules: str(rules[0]))
def test_rights_changed_between_queue_and_exec(rig: Rig, rules: tuple[str, ...]) -> None:
    """A right is revoked after the commands were queued and before EXEC: a part of them may land, and none twice."""
    url = _user(rig, *FULL)
    rig.ready(rig.start(url=url))
    rig.append("f-0")
    rig.settle([b"f-0"], [])
    done: list[int] = []

    def fault(data: bytes, number: int) -> str:
        if b"EXEC\r\n" in data and not done:
            done.append(number)
            admin = Connection(rig.server.socket_url)
            admin.call("ACL", "SETUSER", "carrier", *rules)
            admin.close()
        return "pass"

    rig.stop(rig.children[0])
    with Proxy(rig.server, fault) as proxy:
        rig.append("f-1", "f-2", "f-3")
        rig.ready(rig.start(url=proxy.url.replace(f"default:{rig.server.password}", "carrier:secret")))
        _refuses(rig, "Redis refused")
        assert done
        rig.redis.call("ACL", "SETUSER", "carrier", *FULL)
        rig.settle([b"f-0", b"f-1", b"f-2", b"f-3"], [])


def test_an_entry_between_watch_and_exec(rig: Rig) -> None:
    """Another producer writes just before the EXEC of some history: none of it is taken, and it is sent once more."""
    standing: list[list[bytes]] = []

    def fault(data: bytes, number: int) -> str:
        if data.startswith(b"*1\r\n$4\r\nEXEC\r\n*1\r\n$7\r\nUNWATCH\r\n") and len(standing) < 2:  # a batch's
            with closing(Connection(rig.server.socket_url)) as producer:
                rig.add(f"r-{len(standing)}", connection=producer)
                standing.append([entry.fields[7] for entry in entries(producer, STREAM.encode())])
        return "pass"

    history = [f"f-{n}".encode() for n in range(5)]
    rig.append(*history)
    with Proxy(rig.server, fault) as proxy:
        rig.start(url=proxy.url)
        rig.settle(history, [b"r-0", b"r-1"])
        assert standing == [[b"r-0"], [b"r-0", b"r-1"]]
        assert "others write into the stream" in rig.said()


def test_loading(rig: Rig) -> None:
    """A server that is still loading is waited for."""
    rig.ready(rig.start())
    filler = b"x" * 1000
    for _ in range(40):
        rig.redis.calls(*[_set(i, filler) for i in range(2000)])
    rig.redis.call("CONFIG", "SET", "key-load-delay", "500")
    rig.redis.call("CONFIG", "REWRITE")
    rig.append("f-0")
    rig.settle([b"f-0"], [])


def _set(i: int, value: bytes) -> bytes:
    from bridge.streams.resp import pack

    return pack("SET", f"filler:{i}", value)


def test_data_that_looks_like_a_reply(rig: Rig) -> None:
    """Lines and entries full of protocol signs disturb nothing."""
    odd = [b"costs $-1", b"list: -1", b"*3", b":1 $-1 -ERR"]
    backlog = [b"%b %d" % (odd[i % 4], i) for i in range(5000)]
    rig.add(b"x\r\n-ERR\r\n$-1\r\n")
    rig.append(*backlog)
    assert not rig.once(dual=False).errors
    assert rig.datas()[1:] == backlog


def test_publish_is_forbidden(rig: Rig) -> None:
    """The announcement is best effort: a user who may not publish carries all the same."""
    rig.redis.call("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels")
    backlog = [b"f-%d" % i for i in range(5000)]
    rig.append(*backlog)
    assert not rig.once(url=f"unix://mute:pw@{rig.server.socket}?db=0").errors
    assert rig.datas() == backlog


def test_deleted_before_the_ledger_knew(rig: Rig) -> None:
    """Killed after Redis confirmed and before the ledger noted it, then the stream deleted: all of it comes back."""
    datas = [f"{n}" for n in range(300)]
    rig.append(*datas)
    assert rig.start("--once", crash="forward.checkpoint.before:1", dual=False).wait(60) == -9
    assert rig.redis.call("XLEN", STREAM) == 300
    rig.redis.call("DEL", STREAM)
    rig.once()
    assert rig.datas() == [text.encode() for text in datas]
