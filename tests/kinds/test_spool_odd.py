"""What a folder with a file per message meets on a real disk: files that are alike, odd times, links, doubled identities."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest

from bridge.core.config import load
from bridge.core.errors import ConfigError, SourceError
from bridge.files.folder import MessageFolder, ReadFile
from bridge.ledger.spool_messages import GONE_INODE
from bridge.ledger.store import Ledger
from tests.support.inbox import INBOX, Inbox, document
from tests.support.project import shipped
from tests.support.rig import Rig, wait_until

TEXTS = """name = "texts"
[source]
kind = "spool"
path = "inbox/**/*.txt"
settle_ms = 20
[format]
codec = "document"
[message]
role = { const = "agent" }
type = { const = "say" }
[stream]
key = "hestai:inbox"
"""
NAMED = TEXTS.replace('[message]\nrole = { const = "agent" }\ntype = { const = "say" }\n', "").replace(
    'codec = "document"',
    'codec = "document"\npattern = \'.*?(?P<timestamp>\\d+)_(?P<role>\\w+)_(?P<type>\\w+)\\.txt\'\ntimestamp = "epoch_s"',
)


@pytest.fixture
def texts(one_rig: Rig) -> Inbox:
    return with_mapping(one_rig, TEXTS)


def with_mapping(rig: Rig, text: str) -> Inbox:
    path = rig.path / "texts.toml"
    path.write_text(text)
    return Inbox(rig, mapping=str(path))


def query(rig: Rig, sql: str) -> list[tuple[object, ...]]:
    ledger = Ledger(rig.state / "ledger.db")
    try:
        return ledger.rows(sql)
    finally:
        ledger.close()


def test_taken_away_and_written_anew(texts: Inbox) -> None:
    """A file that is alike one that was taken away before is another message, be it on the same inode or of its name."""
    child = texts.rig.ready(texts.rig.start())

    def seen_to_be_gone(name: str) -> bool:
        found = query(texts.rig, f"SELECT inode FROM spool_files WHERE CAST(name AS TEXT) = 'inbox/{name}'")
        return found == [(GONE_INODE,)]

    for n in range(4):
        path = texts.folder / ("same.txt" if n > 1 else f"{n}.txt")
        path.write_bytes(b"ping")
        texts.until_count(n + 1)
        path.unlink()
        wait_until(partial(seen_to_be_gone, path.name), texts.rig.said)
    texts.rig.stop(child)


def test_touched_is_no_message(texts: Inbox) -> None:
    """A file whose time alone changed holds what it held; one that was moved does too."""
    path = texts.move_in("a.txt", b"ping")
    assert texts.rig.once().forwarded == 1
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert texts.rig.once().forwarded == 0
    (texts.folder / "done").mkdir()
    path.rename(texts.folder / "done" / "a.txt")
    assert texts.rig.once().forwarded == 0
    assert texts.parity().verdict == "equal"


def test_what_the_name_tells_is_part_of_the_message(one_rig: Rig) -> None:
    """Two files of equal content and time, whose names tell different times, are two messages, although one is gone."""
    texts = with_mapping(one_rig, NAMED)
    for n in range(3):
        path = texts.move_in(f"170000000{n}_agent_ping.txt", b"ping")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert one_rig.once().forwarded == 1
        path.unlink()
    path = texts.move_in("1700000009_agent_ping.txt", b"ping")
    assert one_rig.once().forwarded == 1
    (texts.folder / "done").mkdir()
    path.rename(texts.folder / "done" / path.name)
    assert one_rig.once().forwarded == 0


def test_many_that_are_alike(texts: Inbox) -> None:
    """Files of equal content and equal time are as many messages; what is known of them is asked once each."""
    for n in range(300):
        os.utime(texts.move_in(f"{n}.txt", b"ok"), (1_700_000_000, 1_700_000_000))
    assert texts.rig.once().forwarded == 300
    for n in range(300):
        os.utime(texts.move_in(f"more-{n}.txt", b"ok"), (1_700_000_000, 1_700_000_000))
    assert texts.rig.once().forwarded == 300


@pytest.mark.parametrize("seconds", [10_413_792_000, -20_000_000_000])
def test_times_beyond_all_bounds(texts: Inbox, seconds: int) -> None:
    """A file whose time of writing no timestamp can hold is carried all the same, and keeps nobody."""
    odd = texts.move_in("odd.txt", b"odd")
    try:
        os.utime(odd, (seconds, seconds))
    except OSError:
        pytest.skip("this file system knows no such time")
    texts.move_in("fine.txt", b"fine")
    assert texts.rig.once().forwarded == 2
    assert sorted(entry.fields[7] for entry in texts.entries()) == [b"fine", b"odd"]
    assert texts.parity().verdict == "equal"


def test_an_empty_text_is_not_written_yet(texts: Inbox) -> None:
    """It counts when there is something in it."""
    path = texts.move_in("a.txt", b"")
    assert texts.rig.once().forwarded == 0
    path.write_bytes(b"hi")
    assert texts.rig.once().forwarded == 1
    assert [entry.fields[7] for entry in texts.entries()] == [b"hi"]
    assert texts.parity().verdict == "equal"


def test_a_folder_that_became_a_link(one_rig: Rig) -> None:
    """What lies outside is not read through a link that took a folder's place below the first one."""
    inbox, outside = Inbox(one_rig), one_rig.path / "outside"
    outside.mkdir()
    (outside / "x.json").write_bytes(document("theirs"))
    path = inbox.move_in("sub/x.json", b'{"uuid": "half')
    folder = MessageFolder(one_rig.root, "inbox/**/*.json")
    assert folder.read(b"inbox/sub/x.json", 100) is not None
    path.parent.rename(one_rig.root / "gone")
    path.parent.symlink_to(outside)
    assert folder.read(b"inbox/sub/x.json", 100) is None
    assert folder.digest(b"inbox/sub/x.json") == ""
    assert one_rig.once().forwarded == 0
    path.parent.unlink()
    one_rig.root.joinpath("inbox").rename(one_rig.path / "real")
    one_rig.root.joinpath("inbox").symlink_to(one_rig.path / "real")
    (one_rig.path / "real" / "y.json").write_bytes(document("mine"))
    assert one_rig.once().forwarded == 1, "the first folder is where its owner says"


def test_links_that_only_a_glob_names(one_rig: Rig) -> None:
    """A link that leaves the root is not carried as a context; one that stays in it is."""
    one_rig.write_config(mapping="hestai-context")
    secret = one_rig.path / "secret"
    secret.write_bytes(b"secret")
    (one_rig.root / "context").mkdir()
    (one_rig.root / "inside").write_bytes(b"mine")
    (one_rig.root / "context" / "out.ctx").symlink_to(secret)
    (one_rig.root / "context" / "in.ctx").symlink_to(one_rig.root / "inside")
    assert one_rig.once().forwarded == 1
    assert Inbox(one_rig, "hestai-context", "hestai:context").entries()[0].fields[7] == b"mine"
    assert Inbox(one_rig, "hestai-context").parity().verdict == "equal"


def test_two_files_with_one_identity(one_rig: Rig) -> None:
    """The first that is met is the message; that there is another is said."""
    inbox = Inbox(one_rig)
    inbox.put("same", name="a.json", text="first")
    assert one_rig.once().forwarded == 1
    inbox.put("same", name="b.json", text="second")
    child = one_rig.ready(one_rig.start())
    wait_until(
        lambda: "inbox/b.json has the identity of inbox/a.json, which is there too" in one_rig.said(), one_rig.said
    )
    one_rig.stop(child)
    assert len(inbox.entries()) == 1


def test_set_aside_and_moved(one_rig: Rig) -> None:
    """A file that is no message stays one in quarantine when it is moved; all of a large one has a digest."""
    inbox = Inbox(one_rig)
    path = inbox.move_in("pending/bad.json", b'{"uuid": "x", "more": "' + b"y" * 2_000_000 + b'"}')
    assert one_rig.once().quarantined == 1
    (inbox.folder / "processed").mkdir()
    path.rename(inbox.folder / "processed" / "bad.json")
    one_rig.once()
    assert query(one_rig, "SELECT name, length(digest) FROM quarantine") == [("inbox/processed/bad.json", 32)]


def test_seen_without_a_watcher(one_rig: Rig) -> None:
    """With --poll a text that is rewritten in place is met at the next sweep, as its folder does not tell."""
    texts = with_mapping(one_rig, TEXTS)
    path = texts.move_in("a.txt", b"one")
    child = one_rig.ready(one_rig.start("--poll"))
    texts.until_count(1)
    with path.open("r+b") as file:
        file.write(b"two")
    texts.until_count(2)
    one_rig.stop(child)


def test_planted_in_the_fields_and_in_the_order(one_rig: Rig) -> None:
    """Parity names an entry whose role or time was altered, and two that changed places."""
    inbox = Inbox(one_rig)
    for n in range(6):
        inbox.put(f"n-{n}", at=n)
    one_rig.once()
    found = inbox.entries()
    one_rig.redis.call("DEL", INBOX)
    fields = [list(entry.fields) for entry in found]
    fields[1][1] = b"EVIL"
    fields[3][7], fields[4][7] = fields[4][7], fields[3][7]
    fields[3][3], fields[4][3] = fields[4][3], fields[3][3]
    for entry, now in zip(found, fields, strict=True):
        one_rig.redis.call("XADD", INBOX, b"%d-%d" % entry.id, *now)
    result = inbox.parity()
    kinds = sorted((difference.kind, difference.file) for difference in result.tally.differences)
    assert kinds == [("altered", "inbox/n-1.json"), ("reordered", "inbox/n-3.json"), ("reordered", "inbox/n-4.json")]


def test_a_name_that_is_too_long(one_rig: Rig) -> None:
    """An entry whose file could have no name is set aside, and the next one goes on."""
    text = shipped("hestai-inbox")
    mapping = one_rig.path / "long.toml"
    mapping.write_text(text.replace("[mirror]", '[mirror]\nname = "{role}-{role}-{role}-{id}.json"'))
    inbox = Inbox(one_rig, mapping=str(mapping))
    inbox.add("long", role="r" * 90)
    inbox.add("short")
    done = one_rig.once()
    assert (done.mirrored, done.quarantined) == (1, 1)
    assert inbox.hidden() == []


@pytest.mark.parametrize("kind", ["spool", "state"])
def test_two_that_write_the_same_files(one_rig: Rig, kind: str) -> None:
    """Two mappings, one of which writes what the other reads, are refused."""
    text = shipped("hestai-inbox")
    if kind == "state":
        text = 'name = "hestai-inbox"\n[source]\nkind = "state"\npath = "state/*"\nowner = "redis"\n[message]\nrole = { name = "stem" }\n[stream]\nkey = "hestai:inbox"\n'
    for name in ("a", "b"):
        changed = text.replace('"hestai-inbox"', f'"{name}"').replace("hestai:inbox", f"hestai:{name}")
        (one_rig.path / f"{name}.toml").write_text(changed)
    one_rig.write_config(mapping='a.toml", "b.toml')
    with pytest.raises(ConfigError, match=r"writes .*, which mapping '[ab]' reads"):
        load(config=None, redis=None, env={}, cwd=one_rig.path)


def test_removed_and_written_in_one_go(texts: Inbox) -> None:
    """A file that is removed and written again at once, be it on the same inode, is another message."""
    child = texts.rig.ready(texts.rig.start())
    for n in range(6):
        path = texts.folder / "same.txt"
        path.unlink(missing_ok=True)
        path.write_bytes(b"ping")
        texts.until_count(n + 1)
    texts.rig.stop(child)


def test_rewritten_there_and_back(texts: Inbox) -> None:
    """Each time a file is rewritten it is a message, while Redis is away too, and whatever its times say."""
    path = texts.move_in("a.txt", b"first")
    child = texts.rig.ready(texts.rig.start())
    texts.until_count(1)
    texts.rig.kill_server()

    def due(data: bytes, count: int) -> bool:
        return len(query(texts.rig, f"SELECT 1 FROM spool_due WHERE raw = x'{data.hex()}'")) == count

    for data, count in ((b"A", 1), (b"B", 1), (b"A", 2)):
        with path.open("r+b") as file:
            file.truncate()
            file.write(data)
        if data == b"B":
            os.utime(path, (1_500_000_000, 1_500_000_000))
        wait_until(partial(due, data, count), texts.rig.said)
    texts.rig.start_server()
    texts.until_count(4)
    texts.rig.stop(child)
    assert sorted(entry.fields[7] for entry in texts.entries()) == [b"A", b"A", b"B", b"first"]
    assert texts.rig.once().forwarded == 0
    assert texts.parity().verdict == "equal"


def test_touched_before_it_was_sent(texts: Inbox) -> None:
    """The file is known to hold the message that it holds, whichever of its messages was sent last."""
    path = texts.move_in("a.txt", b"first")
    child = texts.rig.ready(texts.rig.start())
    texts.until_count(1)
    texts.rig.kill_server()

    def due(data: bytes, when: str = "") -> bool:
        return bool(query(texts.rig, f"SELECT 1 FROM spool_due WHERE raw = x'{data.hex()}' {when}"))

    for data in (b"A", b"B"):
        path.write_bytes(data)
        wait_until(partial(due, data), texts.rig.said)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    (path.parent / ".changed").touch()  # a folder whose own time stands still is looked through once a minute
    wait_until(partial(due, b"B", "AND written = 1500000000000000000"), texts.rig.said)
    texts.rig.start_server()
    texts.until_count(3)
    texts.rig.stop(child)
    assert texts.rig.once().forwarded == 0
    assert sorted(entry.fields[7] for entry in texts.entries()) == [b"A", b"B", b"first"]
    assert texts.parity().verdict == "equal"


def test_a_file_that_may_not_be_read_when_its_turn_comes(texts: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps no other, and goes over when it may be read again."""
    monkeypatch.setattr("bridge.kinds.spool.scanner.KEEP_BYTES", 0)
    monkeypatch.setattr("bridge.kinds.spool.scanner.KEPT_SHARE", 1 << 62)
    read, asked = MessageFolder.read, [0]

    def reads(self: MessageFolder, name: bytes, limit: int) -> ReadFile | None:
        asked[0] += name.endswith(b"1.txt")
        if name.endswith(b"1.txt") and asked[0] == 2:
            raise SourceError("cannot be read", where="1.txt")
        return read(self, name, limit)

    monkeypatch.setattr(MessageFolder, "read", reads)
    for n in range(3):
        texts.move_in(f"{n}.txt", b"%d" % n)
    texts.rig.once()
    assert sorted(entry.fields[7] for entry in texts.entries()) == [b"0", b"2"]
    texts.rig.once()
    assert sorted(entry.fields[7] for entry in texts.entries()) == [b"0", b"1", b"2"]


def test_too_few_descriptors(one_rig: Rig) -> None:
    """Where not all contexts can be held open they are in turns, and the other mappings have their own."""
    inbox = Inbox(one_rig, mapping='hestai-context", "hestai-inbox')
    (one_rig.root / "context").mkdir()
    for n in range(150):
        (one_rig.root / "context" / f"{n}.ctx").write_bytes(b"x")
    inbox.put("mine")
    command = [sys.executable, "-m", "bridge", "run", "--redis", one_rig.server.socket_url]
    with (one_rig.path / "bridge-few.log").open("wb") as out:
        child = subprocess.Popen(
            ["/bin/sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *command], cwd=one_rig.path, stdout=out, stderr=out
        )
    one_rig.children.append(child)
    inbox.until_count(1)
    wait_until(lambda: one_rig.redis.call("XLEN", "hestai:context") == 150, one_rig.said)
    one_rig.stop(child)
    assert "Too many open files" not in one_rig.said()
    assert "Traceback" not in one_rig.said()
    assert one_rig.run("run", "--once", "--redis", one_rig.server.socket_url).returncode == 0
    assert one_rig.redis.call("XLEN", "hestai:context") == 150
