"""`open_log`: what a component is given and what becomes of what it writes, on either side."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from bridge import Log, Message, open_log
from bridge.client.bookmark import Bookmark
from bridge.client.component_reader import ComponentReader
from bridge.client.file_reader import FileReader
from bridge.core.errors import BridgeError, ConfigError, TargetError
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.process_nonces import note_begun
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import make_group
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from tests.support.cast import CONFIG
from tests.support.proxy import Proxy
from tests.support.rig import STREAM, Rig, line, wait_until

COMPONENTS = Keys.of(STREAM).components

NOWHERE = "redis://127.0.0.1:1/0"
"""No server is ever there."""


def vouch(rig: Rig, stream: str = STREAM) -> None:
    """The ledger vouches for the files, as one that has carried them does."""
    with closing(Ledger(rig.state / "ledger.db", create=True)) as ledger:
        note_begun(ledger, stream)


@contextmanager
def opened(rig: Rig, component: str = "ui", *, url: str = NOWHERE, **options: Any) -> Iterator[Log]:
    """A log of this rig's; without Redis, unless a url is given."""
    rig.write_config(extra=CONFIG)
    vouch(rig)
    with open_log("hestai-message", component, config=rig.path / "bridge.toml", redis=url, **options) as log:
        yield log


def texts(log: Log, count: int | None = None, idle: float = 0.15) -> list[str]:
    """What it gives until nothing comes, or so many; each is acknowledged."""
    found = []
    for message in log.follow(idle=idle if count is None else 30.0):
        found.append(message.text)
        if len(found) == count:
            log.acknowledge()
            break
    return found


def says(rig: Rig, component: str, **modes: object) -> None:
    """What `bridge:{S}:components` is to say."""
    told = {"reads": "file", "writes": "file", "epoch": 1} | modes
    rig.redis.call("HSET", COMPONENTS, f"{component}@test", json.dumps(told))


# -- files -------------------------------------------------------------------------------------------------------


def test_files_need_no_redis(one_rig: Rig) -> None:
    """Messages are read with all their fields and written as lines, though Redis was never there."""
    one_rig.append("one")
    with opened(one_rig) as log:
        log.append("say", "two")
        log.append("say", b"\xff\xfe", role="other", timestamp="2026-03-02T09:14:06Z")
        found = list(log.follow(idle=0.1))
        assert log.reads == ""
    assert found[0] == Message("agent", "turn", "2026-03-02T09:14:05.112Z", b"one", "messages.log:1:0")
    assert [(message.role, message.type, message.text) for message in found[1:]] == [
        ("ui", "say", "two"),
        ("other", "say", "\ufffd\ufffd"),
    ]
    assert one_rig.lines()[2] == b"other|2026-03-02T09:14:06Z|say|\xff\xfe"


def test_it_goes_on_where_it_was(one_rig: Rig) -> None:
    """Another process of the component goes on behind the last message that was acknowledged."""
    one_rig.append("a", "b", "c")
    with opened(one_rig) as log:
        assert texts(log, 2) == ["a", "b"]
    with opened(one_rig) as log:
        assert texts(log) == ["c"]
        one_rig.append("d")
        assert texts(log) == ["d"]


def test_another_reader_of_the_same_bookmark(one_rig: Rig) -> None:
    """A reader that takes over a bookmark in the same process goes on, though lines came since: nothing comes again."""
    shared = MappingContext(one_rig.settings().mappings[0], one_rig.settings())
    bookmark = Bookmark(one_rig.state, "ui", "hestai-message")
    assert bookmark.lock()
    found: list[str] = []
    for turn in range(4):
        one_rig.append(*(f"{turn}-{n}" for n in range(20)))
        reader = FileReader(shared, bookmark, time.time)
        while given := reader.take():
            for message in given:
                found.append(message.message.text)
                reader.done(message)
        reader.close()
    bookmark.close()
    shared.close()
    assert found == [f"{turn}-{n}" for turn in range(4) for n in range(20)]


def test_a_message_that_was_not_acknowledged_comes_again(one_rig: Rig) -> None:
    """Who leaves the loop has the last message again, and it is marked; what follows is not."""
    one_rig.append("a", "b")
    with opened(one_rig) as log:
        for message in log.follow():
            assert not message.redelivered
            break
        assert [(message.text, message.redelivered) for message in log.follow(idle=0.1)] == [("a", True), ("b", False)]


def test_start_at_the_end(one_rig: Rig) -> None:
    """A component that was never here may begin at the end, once."""
    one_rig.append("old")
    with opened(one_rig, start="end") as log:
        assert texts(log) == []
        one_rig.append("new")
        assert texts(log) == ["new"]
    one_rig.append("newer")
    with opened(one_rig, start="end") as log:
        assert texts(log) == ["newer"]


@pytest.mark.parametrize("how", ["create", "copytruncate", "gzip"])
def test_rotation(one_rig: Rig, how: str) -> None:
    """Nothing is missed or repeated through rotation, whether the component runs meanwhile or not."""
    log_file = one_rig.log
    one_rig.append("1", "2")
    with opened(one_rig) as log:
        assert texts(log, 1) == ["1"]
        rotate(log_file, how)
        one_rig.append("3")
        assert texts(log) == ["2", "3"]
        one_rig.append("4")
    rotate(log_file, how)
    one_rig.append("5")
    with opened(one_rig) as log:
        assert texts(log) == ["4", "5"]


def rotate(path: Path, how: str) -> None:
    """As logrotate does it; the pieces before it move on."""
    import gzip
    import shutil

    for n in (3, 2, 1):
        for suffix in ("", ".gz"):
            piece = path.with_name(f"{path.name}.{n}{suffix}")
            if piece.exists():
                piece.rename(path.with_name(f"{path.name}.{n + 1}{suffix}"))
    first = path.with_name(f"{path.name}.1")
    if how == "copytruncate":
        shutil.copyfile(path, first)
        os.truncate(path, 0)
        return
    path.rename(first)
    path.touch()
    if how == "gzip":
        with gzip.open(f"{first}.gz", "wb") as packed:
            packed.write(first.read_bytes())
        first.unlink()


def test_lines_that_are_no_messages(one_rig: Rig) -> None:
    """Junk, empty lines and lines over the limit are passed over; an unfinished line waits."""
    one_rig.log.write_bytes(line("a") + b"\nno message\n" + b"x" * 3_000_000 + b"\n" + line("b") + b"agent|2026-03-02T")
    with opened(one_rig) as log:
        assert texts(log) == ["a", "b"]
        with one_rig.log.open("ab") as file:
            file.write(b"09:14:05Z|turn|c\n")
        assert texts(log) == ["c"]


def test_an_unfinished_line_of_another(one_rig: Rig) -> None:
    """A line that somebody left unfinished is ended first, so that ours is whole."""
    one_rig.log.write_bytes(line("a") + b"torn")
    with opened(one_rig) as log:
        log.append("say", "whole")
    assert one_rig.lines()[1:] == [b"torn", one_rig.lines()[2]]
    assert one_rig.lines()[2].endswith(b"|say|whole")


def test_one_worker_reads_the_files(one_rig: Rig) -> None:
    """A second worker of a component waits, and goes on when the first has ended."""
    one_rig.append("a")
    with opened(one_rig) as first, opened(one_rig) as second:
        given = first.follow()
        assert next(given).text == "a"
        assert texts(second) == []
        first.acknowledge()
        given.close()
        one_rig.append("b")
        assert texts(second) == ["b"]


def test_what_cannot_be_a_line(one_rig: Rig) -> None:
    """A message that makes no line, or has a field too many, is refused at once, whatever side it would go to."""
    with opened(one_rig) as log:
        with pytest.raises(TargetError, match="makes no line"):
            log.append("a|b", "x")
        with pytest.raises(ConfigError, match="no field 'colour'"):
            log.append("say", "x", colour="red")
        with pytest.raises(TargetError, match="limit"):
            log.append("say", "x" * (1 << 20))
    with opened(one_rig, "viewer") as log, pytest.raises(ConfigError, match="no role"):
        log.append("say", "x")
    assert one_rig.lines() == []


def test_wrong_use(one_rig: Rig) -> None:
    """A name that could be a path, another kind of mapping, two loops at once, another process, a closed log."""
    for name in ("../x", "a/b", ""):
        with pytest.raises(ConfigError, match="component"), opened(one_rig, name):
            pass
    with opened(one_rig) as log:
        one_rig.append("a", "b")
        given = log.follow()
        next(given)
        with pytest.raises(BridgeError, match="followed already"):
            next(log.follow())
        given.close()
        child = os.fork()
        if not child:
            try:
                log.append("say", "from the child")
            except BridgeError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with pytest.raises(BridgeError, match="closed"):
        log.append("say", "late")
    one_rig.write_config(mapping="hestai-inbox")
    with pytest.raises(ConfigError, match="open_log is for logs"):
        open_log("hestai-inbox", "ui", config=one_rig.path / "bridge.toml")


def test_threads_append_together(one_rig: Rig) -> None:
    """Any thread may append: every line is whole."""
    with opened(one_rig) as log:

        def write(k: int) -> None:
            for i in range(50):
                log.append("say", f"{k}-{i}")

        threads = [Thread(target=write, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(texts(log)) == 200


def test_replay_of_files(one_rig: Rig) -> None:
    """`since` gives what was read of that time and later once more, through rotation, and then what is new."""
    for n in range(4):
        with one_rig.log.open("ab") as file:
            file.write(b"agent|2026-03-02T09:0%d:00Z|turn|%d\n" % (n, n))
    with opened(one_rig) as log:
        assert texts(log, 3) == ["0", "1", "2"]
        rotate(one_rig.log, "create")
        with one_rig.log.open("ab") as file:
            file.write(b"agent|2026-03-02T09:09:00Z|turn|4\n")
        found = [(message.text, message.redelivered) for message in log.follow(since="2026-03-02T09:01:00Z", idle=0.2)]
        assert found == [("1", True), ("2", True), ("3", False), ("4", False)]
        assert [message.text for message in log.follow(since="2026-03-02T09:03:00Z", idle=0.2)] == ["3", "4"]
        with pytest.raises(ConfigError, match="is no time"):
            next(log.follow(since="yesterday"))


def test_replay_of_the_stream(one_rig: Rig) -> None:
    """The same from Redis."""
    says(one_rig, "ui", reads="redis")
    for n in range(4):
        one_rig.redis.call(
            "XADD", STREAM, f"{1000 * n + 1}-0", "role", "ui", "timestamp", "t", "type", "say", "data", n
        )
    with opened(one_rig, url=one_rig.url) as log:
        assert texts(log, 3) == ["0", "1", "2"]
        found = [(message.text, message.redelivered) for message in log.follow(since=1.0, idle=0.5)]
        assert found == [("1", True), ("2", True), ("3", False)]


# -- the stream --------------------------------------------------------------------------------------------------


def test_reads_the_stream(one_rig: Rig) -> None:
    """With `reads` on redis a component reads its group, from the beginning when it is new, and acknowledges each."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    ids = [one_rig.add(f"{n}") for n in range(3)]
    with opened(one_rig, url=one_rig.url) as log:
        assert texts(log, 2) == ["0", "1"]
    with opened(one_rig, url=one_rig.url) as log:
        [message] = log.follow(idle=0.5)
        assert (message.text, message.position, message.redelivered) == ("2", ids[2].decode(), False)
    assert one_rig.redis.call("XPENDING", STREAM, "ui")[0] == 0


def test_workers_share(one_rig: Rig) -> None:
    """Several workers of a component have each message once between them; what a dead one left is taken over, marked."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    wanted = [f"{n}" for n in range(300)]
    with opened(one_rig, url=one_rig.url, claim_after=0.5) as first:
        given = first.follow()
        one_rig.add("stuck")
        assert next(given).text == "stuck"
        with opened(one_rig, url=one_rig.url, claim_after=0.5) as second:
            found: list[str] = []
            reader = Thread(target=lambda: found.extend(texts(second, 301)))
            reader.start()
            for text in wanted:
                one_rig.add(text)
            reader.join(60)
        given.close()
    assert sorted(found) == sorted([*wanted, "stuck"])


def test_delivered_too_often(one_rig: Rig) -> None:
    """A message that is given again and again and never acknowledged is set aside in a file, with all its fields."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    entry = one_rig.add("poison").decode()
    one_rig.add("fine")
    for times in (1, 2):
        with opened(one_rig, url=one_rig.url, set_aside_after=2) as log:
            message = next(log.follow())
            assert (message.text, message.redelivered) == ("poison", times > 1)
    with opened(one_rig, url=one_rig.url, set_aside_after=2) as log:
        assert texts(log, 1) == ["fine"]
    [kept] = (one_rig.state / "components" / "ui" / "hestai-message.aside").read_text().splitlines()
    assert json.loads(kept)["entry"] == entry
    assert json.loads(kept)["times"] == 2


def test_a_lost_acknowledgement(one_rig: Rig) -> None:
    """Where the connection breaks between a message and its acknowledgement, the message is not given again."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    wanted = [f"{n}" for n in range(40)]
    for text in wanted:
        one_rig.add(text)
    seen = iter(range(1000))

    def fault(data: bytes, count: int) -> str:
        return "cut" if b"XACK" in data and next(seen) % 7 == 3 else "pass"

    with Proxy(one_rig.server, fault) as proxy, opened(one_rig, url=proxy.url) as log:
        assert texts(log, 40) == wanted
    assert wait_until(lambda: one_rig.redis.call("XPENDING", STREAM, "ui")[0] == 0, "acknowledged")


def test_state_is_told(one_rig: Rig) -> None:
    """The state says whether Redis answers, and a callback is told of each change."""
    told: list[str] = []
    broken = Event()
    with (
        Proxy(one_rig.server, lambda data, count: "cut" if broken.is_set() else "pass") as proxy,
        opened(one_rig, url=proxy.url, on_state=told.append) as log,
    ):
        wait_until(lambda: log.state == "connected", "connected")
        broken.set()
        wait_until(lambda: log.state == "reconnecting", "reconnecting")
        broken.clear()
        wait_until(lambda: log.state == "connected", "connected again")
    assert told == ["connected", "reconnecting", "connected", "closed"]


# -- writing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["swallow", "cut"])
def test_replies_are_lost(one_rig: Rig, what: str) -> None:
    """Every third reply to a write is lost, or the write itself: each message is in the stream once, in order."""
    says(one_rig, "ui", writes="redis")
    seen = iter(range(100_000))

    def fault(data: bytes, count: int) -> str:
        return what if b"XADD" in data and next(seen) % 3 == 1 else "pass"

    wanted = [f"{n}" for n in range(30)]
    with Proxy(one_rig.server, fault) as proxy, opened(one_rig, url=proxy.url) as log:
        wait_until(lambda: log.writes == "redis", "the mode")
        for text in wanted:
            log.append("say", text)
        wait_until(lambda: [d.decode() for d in one_rig.datas()] == wanted, lambda: str(one_rig.datas()))
    assert one_rig.lines() == []
    assert one_rig.redis.call("HLEN", f"bridge:{{{STREAM}}}:producers") == 0
    assert [*(one_rig.state / "components" / "ui").glob("*.outbox")] == []


def test_an_outbox_outlives_its_process(one_rig: Rig) -> None:
    """What waited in the outbox of a process that ended is sent by the next one of the component, before its own."""
    says(one_rig, "ui", writes="redis")
    broken = Event()
    with Proxy(one_rig.server, lambda data, count: "cut" if broken.is_set() else "pass") as proxy:
        with opened(one_rig, url=proxy.url) as log:
            wait_until(lambda: log.writes == "redis", "the mode")
            log.append("say", "one")
            broken.set()
            log.append("say", "two")
            log.append("say", "three")
        assert one_rig.datas() == [b"one"]
        assert len([*(one_rig.state / "components" / "ui").glob("*.outbox")]) == 1
        broken.clear()
        with opened(one_rig, url=proxy.url) as log:
            log.append("say", "four")
            wait_until(lambda: one_rig.datas() == [b"one", b"two", b"three", b"four"], lambda: str(one_rig.datas()))
    assert [*(one_rig.state / "components" / "ui").glob("*.outbox")] == []


def test_refused_goes_to_the_log(rig: Rig) -> None:
    """While Redis is gone messages go to the log; Redis is used again when the stream has the last of those lines."""
    rig.append("first")
    bridge = rig.ready(rig.start())
    wait_until(lambda: rig.datas() == [b"first"], rig.said)
    says(rig, "ui", writes="redis")
    with opened(rig, url=rig.url) as log:
        wait_until(lambda: log.writes == "redis", "the mode")
        log.append("say", "one")
        rig.kill_server()
        log.append("say", "two")
        log.append("say", "three")
        written = [raw.rpartition(b"|")[2] for raw in rig.lines()]
        # The mirror may have read "one" before the kill and write it at any time.
        assert [data for data in written if data != b"one"] == [b"first", b"two", b"three"]
        rig.start_server()
        wait_until(lambda: b"three" in rig.datas(), rig.said)
        log.append("say", "four")
        wait_until(lambda: rig.datas() == [b"first", b"one", b"two", b"three", b"four"], lambda: str(rig.datas()))
        wait_until(lambda: rig.equal([b"first", b"two", b"three"], [b"one", b"four"]), rig.said)
    rig.stop(bridge)
    rig.check([b"first", b"two", b"three"], [b"one", b"four"])


def test_refused_commands_go_to_the_log(one_rig: Rig) -> None:
    """Where Redis answers a write with an error, the message goes to the log."""
    says(one_rig, "ui", writes="redis")
    with opened(one_rig, url=one_rig.url) as log:
        wait_until(lambda: log.writes == "redis", "the mode")
        other = Connection(one_rig.url)
        other.call("SET", STREAM, "not a stream")
        log.append("say", "one")
        other.call("DEL", STREAM)
        other.close()
    assert [raw.rpartition(b"|")[2] for raw in one_rig.lines()] == [b"one"]


# -- who dies, forks, is slow ------------------------------------------------------------------------------------


def test_only_what_was_given_is_marked(one_rig: Rig) -> None:
    """Of many entries that were fetched, the one in hand at the end comes again marked, and no other."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    for n in range(6):
        one_rig.add(f"{n}")
    with opened(one_rig, url=one_rig.url) as log:
        assert texts(log, 2) == ["0", "1"]
        assert next(log.follow()).text == "2"
    with opened(one_rig, url=one_rig.url) as log:
        found = [(message.text, message.redelivered) for message in log.follow(idle=0.6)]
    assert found == [("2", True), ("3", False), ("4", False), ("5", False)]


def test_a_server_that_refuses_in_the_middle(one_rig: Rig) -> None:
    """While Redis answers and refuses, as when it reads its data, the loop waits, and goes on with what comes next."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    one_rig.redis.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all")
    for n in range(3):
        one_rig.add(f"{n}")
    url = re.sub(r"//[^@]*@", "//limited:pw@", one_rig.url)
    with opened(one_rig, url=url) as log:
        given = log.follow(idle=30)
        found = [next(given).text]
        one_rig.redis.call("ACL", "SETUSER", "limited", "-xack", "-xclaim", "-xreadgroup", "-xpending")
        asking = Thread(target=lambda: found.extend(next(given).text for _ in range(2)))
        asking.start()
        wait_until(lambda: one_rig.redis.call("ACL", "LOG"), "a refusal")
        one_rig.redis.call("ACL", "SETUSER", "limited", "+@all")
        asking.join(30)
        given.close()
    assert found == ["0", "1", "2"]


def test_a_slow_worker(one_rig: Rig) -> None:
    """What waits in a slow worker's hands may be taken over by another, and is then not given by the first as well."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    for n in range(60):
        one_rig.add(f"{n}")
    found: list[str] = []
    with (
        opened(one_rig, url=one_rig.url, claim_after=0.6) as slow,
        opened(one_rig, url=one_rig.url, claim_after=0.6) as quick,
    ):

        def crawl() -> None:
            for message in slow.follow(idle=2.0):
                found.append(message.text)
                Event().wait(0.1)

        crawler = Thread(target=crawl)
        crawler.start()
        wait_until(lambda: found, "the slow one has begun")
        for message in quick.follow(idle=2.0):
            found.append(message.text)
        crawler.join()
    assert sorted(found, key=int) == [f"{n}" for n in range(60)]


def test_a_fork_in_the_loop(one_rig: Rig) -> None:
    """A forked process that ends does nothing to its parent's position, and one that outlives it holds no lock."""
    one_rig.append(*(f"{n}" for n in range(6)))
    with opened(one_rig) as log:
        given = log.follow(idle=0.2)
        assert next(given).text == "0"
        child = os.fork()
        if not child:
            given.close()
            Event().wait(3.0)
            os._exit(0)
        assert [next(given).text for _ in range(3)] == ["1", "2", "3"]
        log.acknowledge()
        given.close()
    with opened(one_rig) as log:
        # The child lets go of the lock as soon as it gets its turn.
        assert [(message.text, message.redelivered) for message in log.follow(idle=2.0)] == [("4", False), ("5", False)]
    os.waitpid(child, 0)


def test_marks_of_several_files(one_rig: Rig) -> None:
    """After a death in the middle the next message of each file is marked, however often the component starts."""
    one_rig.write_config(mapping="hestai-roles")
    for role in ("a", "b"):
        (one_rig.root / f"{role}.out").write_text("".join(f"2026-03-02T09:14:05Z|say|{role}{n}\n" for n in range(3)))
    config = one_rig.path / "bridge.toml"

    def opened_roles() -> Log:
        return open_log("hestai-roles", "ui", config=config, redis=NOWHERE)

    vouch(one_rig, "hestai:roles")
    with opened_roles() as log:
        assert texts(log, 4) == ["a0", "a1", "a2", "b0"]
        assert next(log.follow()).text == "b1"
    with (one_rig.root / "a.out").open("a") as file:
        file.write("2026-03-02T09:14:05Z|say|a3\n")
    with opened_roles() as log:
        assert texts(log, 1) == ["a3"]
    with opened_roles() as log:
        found = [(message.text, message.redelivered) for message in log.follow(idle=0.2)]
    assert found == [("b1", True), ("b2", False)]


def test_a_callback_that_fails(one_rig: Rig) -> None:
    """A failing callback is told of in the log, and ends nothing."""

    def fail(state: str) -> None:
        raise ValueError(state)

    one_rig.redis.call("HSET", f"bridge:{{{STREAM}}}:meta", "owner", "somebody")
    with opened(one_rig, url=one_rig.url, on_state=fail) as log:
        wait_until(lambda: log.state == "connected", "connected")
        beat = f"bridge:{{{STREAM}}}:positions"
        wait_until(lambda: one_rig.redis.call("HEXISTS", beat, "ui/test-1"), "the heartbeat")


def test_a_group_that_redis_lost(one_rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A component whose group is gone does not begin anew: it waits, and says what would help."""
    says(one_rig, "ui", reads="redis")
    one_rig.redis.call("XGROUP", "CREATE", STREAM, "ui", "0", "MKSTREAM")
    one_rig.add("0")
    with opened(one_rig, url=one_rig.url) as log:
        assert texts(log, 1) == ["0"]
    one_rig.redis.call("XGROUP", "DESTROY", STREAM, "ui")
    with opened(one_rig, url=one_rig.url) as log:
        assert texts(log, idle=1.0) == []
    assert "its consumer group is gone" in caplog.text


def test_the_bookmark_is_busy_at_the_first_start(one_rig: Rig) -> None:
    """That a component has begun to read Redis is noted before it is given a message, though the bookmark is locked."""
    says(one_rig, "ui", reads="redis")
    one_rig.add("0")
    with opened(one_rig, url=one_rig.url) as log:
        other = Bookmark(one_rig.state, "ui", "hestai-message")
        wait_until(other.lock, "the bookmark's lock")
        reader = Thread(target=texts, args=(log, 1))
        reader.start()
        wait_until(lambda: one_rig.redis.call("XINFO", "GROUPS", STREAM), "the group")
        reader.join(0.5)
        other.close()
        reader.join(30)
    assert Bookmark(one_rig.state, "ui", "hestai-message").load().begun


def test_a_switch_between_two_looks(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that starts as its own switch is made has opened the file already: nothing is given from there."""
    one_rig.append("one", "two", "three")
    one_rig.once()
    take, opened_by = ComponentReader._taken, list[str]()

    def slowly(reader: ComponentReader, side: Any) -> Any:
        found = take(reader, side)
        if not opened_by:
            opened_by.append(side.name)
            make_group(one_rig.redis, STREAM.encode(), "viewer", (1 << 62, 0), [], frozenset())
            says(one_rig, "viewer", reads="redis")
            wait_until(lambda: log.coordinator.known is not None and log.coordinator.known.epoch == 1, "the switch")
        return found

    monkeypatch.setattr(ComponentReader, "_taken", slowly)
    with opened(one_rig, "viewer", url=one_rig.url) as log:
        assert texts(log, idle=0.5) == []
    assert opened_by == ["file"]


@pytest.mark.parametrize("side", ["file", "redis"])
def test_a_switch_of_writes_in_the_middle(one_rig: Rig, side: str) -> None:
    """What it writes is switched while it reads: what was fetched and not given yet comes next, once."""
    one_rig.append(*(str(n) for n in range(9)))
    one_rig.once()
    says(one_rig, "viewer", reads=side)
    found = []
    with opened(one_rig, "viewer", url=one_rig.url) as log:
        for message in log.follow(idle=5.0):
            found.append((message.text, message.redelivered))
            if len(found) == 9:
                break
            if len(found) in (3, 6):
                epoch = 1 + len(found)
                says(one_rig, "viewer", reads=side, writes="redis" if len(found) == 3 else "file", epoch=epoch)
                known = log.coordinator
                wait_until(lambda at=epoch: known.known is not None and known.known.epoch == at, "it")  # type: ignore[misc]
    assert found == [(str(n), False) for n in range(9)]


def test_an_undeclared_role(one_rig: Rig) -> None:
    """A role whose entries the mirror would refuse is refused in Redis mode, when it is written."""
    one_rig.write_config(mapping="hestai-roles", extra=CONFIG)
    one_rig.redis.call(
        "HSET", Keys.of("hestai:roles").components, "ui@test", '{"reads": "file", "writes": "redis", "epoch": 1}'
    )
    with open_log("hestai-roles", "ui", config=one_rig.path / "bridge.toml", redis=one_rig.url) as log:
        wait_until(lambda: log.writes == "redis", "the mode")
        with pytest.raises(TargetError, match="role 'guest' is not declared"):
            log.append("say", "x", role="guest")
        with pytest.raises(TargetError, match="limit"):
            log.append("say", "x" * (1 << 21))
        log.append("say", "fine")
    assert int(one_rig.redis.call("XLEN", "hestai:roles")) == 1
