"""The server killed, away, restarted with older data, flushed; keys deleted under a running bridge."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from bridge.streams.connect import Connection
from bridge.streams.embedded import embedded_server
from bridge.streams.embedded.binary import Binary
from tests.scenarios.test_crash import Writers
from tests.support.rig import STREAM, Rig, line, wait_until


def _producing(rig: Rig, n: int, tag: str) -> tuple[list[bytes], list[bytes]]:
    file_born = [f"f-{tag}-{i}".encode() for i in range(n)]
    redis_born = [f"r-{tag}-{i}".encode() for i in range(n)]
    rig.append(*file_born)
    for data in redis_born:
        rig.add(data)
    return file_born, redis_born


def test_killed_and_restarted_while_carrying(rig: Rig) -> None:
    """The server dies three times in mid-batch and comes back from its AOF: nothing lost, nothing twice."""
    rig.start()
    file_born: list[bytes] = []
    redis_born: list[bytes] = []
    for turn in range(3):
        f, r = _producing(rig, 50, f"quiet{turn}")
        file_born += f
        redis_born += r
        rig.settle(file_born, redis_born)
        backlog = [f"f-storm{turn}-{i}".encode() for i in range(3000)]
        rig.append(*backlog)
        file_born += backlog
        rig.kill_server()
        rig.start_server()
        rig.settle(file_born, redis_born)


def test_away_for_a_while(rig: Rig) -> None:
    """While the server is away the backlog grows in the file; the trouble is logged once, not once per try."""
    child = rig.start(dual=True)
    file_born, redis_born = _producing(rig, 20, "a")
    rig.settle(file_born, redis_born)
    rig.kill_server()
    wait_until(lambda: "cannot connect" in rig.said() or "lost" in rig.said(), "the bridge noticing")
    more = [f"f-b-{i}".encode() for i in range(200)]
    for data in more:
        rig.append(data)
    file_born += more
    status = rig.run("status", "--redis", rig.server.socket_url, "--json")
    assert '"reachable": false' in status.stdout, status.stdout + status.stderr
    rig.start_server()
    rig.settle(file_born, redis_born)
    assert rig.said().count("forward hestai-message: ") <= 6, rig.said()
    rig.stop(child)


def _older(rig: Rig, copy: Path) -> None:
    """The server comes back with the data set that `copy` holds."""
    rig.kill_server()
    shutil.rmtree(rig.server.home / "data")
    shutil.copytree(copy, rig.server.home / "data")
    rig.start_server()


def _clean_copy(rig: Rig, copy: Path) -> None:
    """A copy of the data set as it is now, taken while the server is down."""
    embedded_server.stop(rig.path / "server-state")
    rig.forget_connection()
    shutil.copytree(rig.server.home / "data", copy)
    rig.start_server()


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_restarted_with_an_older_data_set(rig: Rig, tmp_path: Path, running: bool) -> None:
    """What the server lost is refilled from the files, mirrored lines included, once and in file order."""
    child = rig.start()
    f1, r1 = _producing(rig, 30, "old")
    rig.settle(f1, r1)
    rig.stop(child)
    _clean_copy(rig, tmp_path / "copy")
    child = rig.start()
    f2, r2 = _producing(rig, 30, "new")
    rig.settle(f1 + f2, r1 + r2)
    before = rig.lines()
    if not running:
        rig.stop(child)
    _older(rig, tmp_path / "copy")
    if not running:
        child = rig.start()
    wait_until(lambda: int(rig.redis.call("XLEN", STREAM)) == 120, lambda: f"the refill; {rig.said()}")
    rig.stop(child)
    assert rig.lines() == before, "the file must not change"
    datas = rig.datas()
    assert sorted(datas) == sorted(f1 + f2 + r1 + r2)
    lost = [raw.split(b"|", 3)[3] for raw in before if raw.split(b"|", 3)[3] in {*f2, *r2}]
    assert [d for d in datas if d in {*f2, *r2}] == lost, "what came back stands in file order"
    assert "lost its tail" in rig.said()
    assert rig.once().forwarded == rig.once().mirrored == 0


@pytest.mark.parametrize("what", ["flush", "stream", "checkpoint", "books"])
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_deleted(rig: Rig, what: str, running: bool) -> None:
    """A flush, a deleted stream, a deleted checkpoint, all of the bridge's keys deleted: both sides are whole again."""
    child = rig.start()
    file_born, redis_born = _producing(rig, 25, "a")
    rig.settle(file_born, redis_born)
    if not running:
        rig.stop(child)
    else:
        wait_until(lambda: rig.checkpoint().get("offset") == rig.log.stat().st_size, "a quiet bridge")
    before = rig.lines()
    books = [f"bridge:{{{STREAM}}}:{name}" for name in ("checkpoint", "sources", "generations", "mirror", "meta")]
    if what == "flush":
        rig.redis.call("FLUSHALL")
    elif what == "stream":
        rig.redis.call("DEL", STREAM)
    elif what == "checkpoint":
        rig.redis.call("DEL", books[0])
    else:
        rig.redis.call("DEL", *books)
    if not running:
        child = rig.start()
    wait_until(lambda: int(rig.redis.call("XLEN", STREAM)) == 50, lambda: f"the refill; {rig.said()}")
    more_f, more_r = _producing(rig, 25, "b")
    wait_until(
        lambda: int(rig.redis.call("XLEN", STREAM)) >= 100 and len(rig.lines()) >= 100, lambda: f"all; {rig.said()}"
    )
    rig.stop(child)
    datas, lines = rig.datas(), [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert rig.lines()[:50] == before
    assert sorted(datas) == sorted(file_born + redis_born + more_f + more_r), rig.said()
    assert sorted(lines) == sorted(datas)
    assert [d for d in datas if d in {*file_born, *more_f}] == file_born + more_f
    assert [d for d in lines if d in {*more_r}] == more_r
    if what in ("flush", "stream"):
        assert [d for d in datas if d not in {*more_f, *more_r}] == [raw.split(b"|", 3)[3] for raw in before]
    assert rig.once().forwarded == rig.once().mirrored == 0


def test_trimmed_on_purpose_is_not_sent_again(rig: Rig) -> None:
    """XTRIM and XDEL remove entries on purpose: the bridge leaves them removed, over a restart and a reconnect."""
    child = rig.start()
    file_born, redis_born = _producing(rig, 20, "a")
    rig.settle(file_born, redis_born)
    ids = [f"{entry.id[0]}-{entry.id[1]}" for entry in rig.entries()]
    rig.redis.call("XTRIM", STREAM, "MAXLEN", 10)
    rig.redis.call("XDEL", STREAM, ids[-1], ids[-3])
    rig.kill_server()
    rig.start_server()
    rig.append("f-after")
    wait_until(lambda: b"f-after" in rig.datas(), "the next line")
    rig.stop(child)
    rig.once()
    assert len(rig.datas()) == 9
    assert len(rig.lines()) == 41


def test_both_die_at_once(rig: Rig) -> None:
    """Bridge and server are killed together in mid-storm, five times."""
    file_born: list[bytes] = []
    redis_born: list[bytes] = []
    for turn in range(5):
        child = rig.ready(rig.start())
        backlog = [f"f-{turn}-{i}".encode() for i in range(2000)]
        rig.append(*backlog)
        file_born += backlog
        for i in range(20):
            rig.add(f"r-{turn}-{i}")
            redis_born.append(f"r-{turn}-{i}".encode())
        rig.kill_server()
        child.kill()
        child.wait()
        rig.start_server()
    rig.start()
    rig.settle(file_born, redis_born)


def _loaded(writers: Writers) -> bool:
    return len(writers.redis_born) > 50


def test_writers_storm_through_a_restart(rig: Rig) -> None:
    """A bridge restarted by SIGTERM under load stops at whole batches."""
    file_born: list[bytes] = []
    redis_born: list[bytes] = []
    for turn in range(3):
        child = rig.ready(rig.start())
        writers = Writers(rig, f"t{turn}")
        wait_until(partial(_loaded, writers), "load")
        rig.stop(child)
        writers.stop()
        file_born += writers.file_born
        redis_born += writers.redis_born
    rig.start()
    rig.settle(file_born, redis_born)


def test_binary_fixture_covers_what_is_installed(binary: Binary) -> None:
    """Each server program that was found says what it is."""
    assert binary.flavour in ("redis", "valkey")
    assert binary.version >= (7, 0, 0)


def test_stream_deleted_in_a_storm(rig: Rig) -> None:
    """The stream is deleted while both sides are written to: every line is in it afterwards, once."""
    child = rig.ready(rig.start())
    f1, r1 = _producing(rig, 200, "a")
    rig.settle(f1, r1)
    writers = Writers(rig, "s")
    wait_until(partial(_loaded, writers), "load")
    other = Connection(rig.server.socket_url)
    other.call("DEL", STREAM)
    other.close()
    wait_until(lambda: "lost its tail" in rig.said(), "the bridge noticing")
    writers.stop()
    wait_until(
        lambda: sorted(rig.datas()) == sorted(raw.split(b"|", 3)[3] for raw in rig.lines()),
        lambda: rig.missing([raw.split(b"|", 3)[3] for raw in rig.lines()], []) + rig.said(),
    )
    rig.stop(child)
    lines = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(rig.datas()) == sorted(lines), rig.said()
    assert {*f1, *r1, *writers.file_born} <= {*lines}


def _forge(rig: Rig, origin: bytes, data: bytes = b"forged") -> None:
    fields = (b"role", b"agent", b"timestamp", b"2026-03-02T09:14:05.112Z", b"type", b"turn", b"data", data)
    rig.redis.call("XADD", STREAM, "*", *fields, b"origin", origin)


@pytest.mark.parametrize("origin", [b"1.1:40", b"1.1:99999", b"1.7:0", b"9.1:40", b"1.1:43"])
@pytest.mark.parametrize("state", ["checkpoint stands", "checkpoint gone", "stream began anew"])
def test_forged_origin(rig: Rig, origin: bytes, state: str) -> None:
    """An entry that names an origin which is not its own moves no cursor: no line is passed over."""
    rig.append("f-0")
    assert not rig.once().errors
    assert len(line("f-0")) == 40
    if state == "checkpoint gone":
        rig.redis.call("DEL", f"bridge:{{{STREAM}}}:checkpoint")
    if state == "stream began anew":
        rig.append("f-x")
        assert not rig.once().errors
        rig.redis.call("DEL", STREAM)
    rig.append(*(f"f-{i}" for i in range(1, 6)))
    _forge(rig, origin)
    result = rig.once()
    assert not result.errors, result.errors
    wanted = [b"f-0", *([b"f-x"] if state == "stream began anew" else []), *(b"f-%d" % i for i in range(1, 6))]
    assert [d for d in rig.datas() if d != b"forged"] == wanted
    assert not rig.once().forwarded


def test_true_origin_beyond_the_checkpoint(rig: Rig) -> None:
    """Entries that went in without their checkpoint are recognised: their lines are not sent again."""
    rig.append("f-0", "f-1")
    assert not rig.once().errors
    rig.append("f-2", "f-3")
    _forge(rig, b"1.1:80", b"f-2")
    assert not rig.once().errors
    assert rig.datas() == [b"f-0", b"f-1", b"f-2", b"f-3"]


def test_origins_out_of_all_bounds(rig: Rig) -> None:
    """An origin of thousands of digits, or of an unknown generation in a stream nothing was sent to, stops nobody."""
    rig.log.touch()
    assert not rig.once().errors
    _forge(rig, b"1.7:5", b"forged-0")
    rig.append("f-0")
    assert not rig.once().errors
    _forge(rig, b"1.1:" + b"9" * 5000, b"forged-1")
    _forge(rig, b"1.1:99999999999999999999999999", b"forged-2")
    rig.append("f-1")
    rig.add("r-0")
    assert not rig.once().errors
    assert not rig.once().errors
    assert [d for d in rig.datas() if not d.startswith(b"forged")] == [b"f-0", b"f-1", b"r-0"] or rig.datas()[
        -1
    ] == b"f-1"
    assert [raw.split(b"|")[3] for raw in rig.lines()] == [b"f-0", b"f-1", b"r-0"]
