"""A folder with a file per message: each message once, whatever happens to its file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.core.config import Settings
from bridge.core.errors import LedgerError, TargetError
from bridge.core.mapping import Mapping
from bridge.engine.forward import Forward
from bridge.files.atomic import AtomicFolder
from bridge.files.folder import MessageFolder
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.spool.scanner import FolderScanner
from bridge.kinds.spool.target import NewFileTarget, NewFileTargets
from bridge.ledger import spool_messages
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from tests.support.inbox import INBOX, Inbox, document
from tests.support.rig import Rig, wait_until


@pytest.fixture
def inbox(rig: Rig) -> Inbox:
    return Inbox(rig)


@pytest.fixture
def one_inbox(one_rig: Rig) -> Inbox:
    return Inbox(one_rig)


def test_history_comes_by_time_and_then_by_name(inbox: Inbox) -> None:
    """What lies there at first goes in the order of the messages' times, with these as IDs, and then of the names."""
    inbox.put("late", name="a.json", at=9)
    inbox.put("early", name="z.json", at=1)
    inbox.put("second", name="c.json", at=5)
    inbox.put("first", name="b.json", at=5)
    assert inbox.rig.once().forwarded == 4
    assert inbox.ids() == ["early", "first", "second", "late"]
    assert inbox.entries()[0].id[0] == 1772442001000
    inbox.check(["early", "first", "second", "late"], [])
    assert inbox.rig.once().forwarded == 0


def test_rewritten_and_moved_is_the_same_message(inbox: Inbox) -> None:
    """A file that is rewritten with another status, and moved, holds the message that was carried."""
    inbox = Inbox(inbox.rig, mapping=str(deep(inbox.rig)))
    inbox.put("one", name="pending/one.json")
    child = inbox.rig.ready(inbox.rig.start())
    inbox.until(1)
    path = inbox.folder / "pending" / "one.json"
    path.write_bytes(document("one", status="processed"))
    (inbox.folder / "processed").mkdir()
    path.rename(inbox.folder / "processed" / "one.json")
    inbox.put("two", name="pending/two.json", at=1)
    assert inbox.until(2) == ["one", "two"]
    inbox.rig.stop(child)
    result = inbox.parity()
    assert (result.verdict, result.tally.compared, result.tally.rewritten) == ("equal", 2, 1)


def deep(rig: Rig, *, settle: int = 200, identity: bool = True, more: str = "") -> Path:
    """A mapping for a folder and all folders in it."""
    path = rig.path / "deep.toml"
    path.write_text(
        f'name = "deep"\n[source]\nkind = "spool"\npath = "inbox/**/*.json"\nsettle_ms = {settle}\n'
        'exclude = ["inbox/**/index.json"]\n[format]\ncodec = "document"\n[message]\n'
        + ('id = { pointer = "/uuid" }\n' if identity else "")
        + 'role = { pointer = "/role" }\ntype = { pointer = "/doc_type" }\ntimestamp = { pointer = "/timestamp" }\n'
        f'[stream]\nkey = "{INBOX}"\n[mirror]\npath = "inbox"\n{more}'
    )
    return path


def test_new_entries_become_files(inbox: Inbox) -> None:
    """An entry of Redis becomes a new file, byte for byte its data, named by the template; and is not carried back."""
    inbox.put("mine")
    child = inbox.rig.ready(inbox.rig.start())
    inbox.until(1)
    inbox.add("theirs", at=7)
    inbox.until_files(2)
    assert inbox.files()["2026-03-02T09-00-07-agent-note.json"] == document("theirs", at=7)
    inbox.add("again", at=7)
    inbox.until_files(3)
    inbox.put("last", at=9)
    inbox.until(4)
    inbox.rig.stop(child)
    inbox.check(["mine", "last"], ["theirs", "again"])
    assert inbox.hidden() == []


def test_a_name_that_is_taken_is_left_alone(inbox: Inbox) -> None:
    """The mirror never writes over a file: another name is found, and both messages are there."""
    taken = inbox.put("first", name="2026-03-02T09-00-07-agent-note.json")
    before = taken.read_bytes()
    entry = inbox.add("second", at=7)
    assert inbox.rig.once().mirrored == 1
    assert taken.read_bytes() == before
    assert inbox.files()[f"2026-03-02T09-00-07-agent-note-{entry.decode()}.json"] == document("second", at=7)
    inbox.check(["first"], ["second"])


def test_a_mirrored_file_may_be_taken_at_once(inbox: Inbox) -> None:
    """A program that rewrites and moves what the mirror wrote makes no new message of it."""
    inbox = Inbox(inbox.rig, mapping=str(deep(inbox.rig)))
    child = inbox.rig.ready(inbox.rig.start())
    for n in range(20):
        inbox.add(f"r-{n}", at=n)

    def moved() -> int:
        (inbox.folder / "done").mkdir(exist_ok=True)
        for path in inbox.folder.glob("*.json"):
            facts = json.loads(path.read_bytes())
            (inbox.folder / "done" / path.name).write_bytes(document(facts["uuid"], status="done"))
            path.unlink()
        return len(list((inbox.folder / "done").iterdir()))

    wait_until(lambda: moved() >= 20, lambda: f"all of them: {inbox.files()} {inbox.rig.said()}")
    inbox.put("mine", at=59)
    inbox.until(21)
    inbox.rig.stop(child)
    assert inbox.ids() == [*(f"r-{n}" for n in range(20)), "mine"]
    result = inbox.parity()
    assert (result.verdict, result.tally.compared) == ("equal", 21), result.tally


def test_half_written_waits(one_inbox: Inbox) -> None:
    """JSON that breaks off is no entry until it is whole; nor is a file that a program still has open."""
    child = one_inbox.rig.ready(one_inbox.rig.start())
    whole = document("slow")
    writer = (one_inbox.folder / "slow.json").open("wb", buffering=0)
    writer.write(whole[:20])
    one_inbox.put("quick", at=1)
    one_inbox.until(1)
    writer.write(whole[20:])
    one_inbox.put("other", at=2)
    one_inbox.until(2)
    assert one_inbox.ids() == ["quick", "other"]
    writer.close()
    assert one_inbox.until(3) == ["quick", "other", "slow"]
    one_inbox.rig.stop(child)
    one_inbox.check(["quick", "other", "slow"], [])


def test_temporary_and_excluded_names_are_not_read(one_inbox: Inbox) -> None:
    """Hidden and temporary files, what `exclude` matches, links and folders are no messages."""
    one_inbox = Inbox(one_inbox.rig, mapping=str(deep(one_inbox.rig)))
    for name in (".hidden.json", "index.json", "x.json.tmp", "sub/index.json"):
        one_inbox.move_in(name, document("no"))
    one_inbox.move_in("folder.json/inside.json", document("yes"))
    outside = one_inbox.rig.path / "outside.json"
    outside.write_bytes(document("no"))
    (one_inbox.folder / "link.json").symlink_to(outside)
    os.mkfifo(one_inbox.folder / "pipe.json")
    assert one_inbox.rig.once().forwarded == 1
    assert one_inbox.ids() == ["yes"]


ODD = [
    b"with space.json",
    b"new\nline.json",
    b"caf\xe9.json",
    "\u00e9\u4e16.json".encode(),
    b"quote\"'.json",
    b"-rf.json",
]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_any_name(one_inbox: Inbox) -> None:
    """Names may hold spaces, newlines and bytes that are no UTF-8; each is its own file."""
    for n, raw in enumerate(ODD):
        one_inbox.move_in(os.fsdecode(raw), document(f"odd-{n}", at=n))
    assert one_inbox.rig.once().forwarded == len(ODD)
    one_inbox.check([f"odd-{n}" for n in range(len(ODD))], [])
    assert one_inbox.rig.once().forwarded == 0


def test_a_thousand_at_once(inbox: Inbox) -> None:
    """A thousand files moved in together arrive once each."""
    child = inbox.rig.ready(inbox.rig.start())
    wanted = [f"n-{n:04}" for n in range(1000)]
    for n, identity in enumerate(wanted):
        inbox.put(identity, at=n)
    assert sorted(inbox.until(1000)) == wanted
    inbox.rig.stop(child)
    assert sorted(inbox.ids()) == wanted
    assert inbox.parity().verdict == "equal"


def test_folder_deleted_and_made_again(one_inbox: Inbox) -> None:
    """The folder may go and come back, with old messages and new ones in it."""
    one_inbox.put("first", at=0)
    child = one_inbox.rig.ready(one_inbox.rig.start())
    one_inbox.until(1)
    aside = one_inbox.rig.path / "aside"
    one_inbox.folder.rename(aside)
    one_inbox.folder.mkdir()
    one_inbox.put("first", at=0)
    one_inbox.put("second", at=1)
    assert one_inbox.until(2) == ["first", "second"]
    one_inbox.add("theirs", at=2)
    one_inbox.until_files(3)
    one_inbox.rig.stop(child)
    one_inbox.check(["first", "second"], ["theirs"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_permission_lost_and_regained(one_inbox: Inbox) -> None:
    """A file that may not be read is said, holds up no other, and is carried when it may."""
    path = one_inbox.put("locked")
    path.chmod(0)
    one_inbox.put("other", at=1)
    done = one_inbox.rig.once()
    assert (done.forwarded, len(done.errors)) == (1, 1)
    path.chmod(0o600)
    assert not one_inbox.rig.once().errors
    one_inbox.check(["other", "locked"], [])


def test_broken_files_are_set_aside_and_come_when_they_are_mended(one_inbox: Inbox) -> None:
    """A file without a type is quarantined, once, and its message goes over when somebody mends the file."""
    one_inbox.move_in("bad.json", b'{"uuid": "bad", "timestamp": "2026-03-02T09:00:00"}')
    one_inbox.put("good")
    done = one_inbox.rig.once()
    assert (done.forwarded, done.quarantined) == (1, 1)
    assert one_inbox.rig.once().quarantined == 1
    one_inbox.move_in("bad.json", document("bad", at=3))
    done = one_inbox.rig.once()
    assert (done.forwarded, done.quarantined) == (1, 0)
    one_inbox.check(["good", "bad"], [])


def test_too_large_is_set_aside(one_inbox: Inbox) -> None:
    """A file over `max_line_bytes` is kept as its first bytes, its length and its digest."""
    one_inbox.move_in("big.json", document("big", text="x" * (1 << 20)))
    assert one_inbox.rig.once().quarantined == 1
    ledger = Ledger(one_inbox.rig.state / "ledger.db")
    [(length, kept)] = ledger.rows("SELECT length, length(raw) FROM quarantine")
    ledger.close()
    assert (length > 1 << 20, kept) == (True, 1 << 16)


def test_an_entry_that_is_no_document_is_set_aside(one_inbox: Inbox) -> None:
    """An entry whose data is no JSON, or says another role, makes no file, and its neighbours go on."""
    one_inbox.rig.redis.call(
        "XADD", INBOX, "*", "role", "ui", "timestamp", "2026-03-02T09:00:00", "type", "note", "data", "hi"
    )
    one_inbox.rig.redis.call("XADD", INBOX, "*", "role", "ui", "timestamp", "2026-03-02T09:00:00", "type", "note", "data",
                       document("x"))  # fmt: skip
    one_inbox.add("fine")
    done = one_inbox.rig.once()
    assert (done.mirrored, done.quarantined) == (1, 2)
    assert one_inbox.identities() == ["fine"]


def test_without_identity_the_content_tells(one_inbox: Inbox) -> None:
    """Without `message.id` a moved file is the same message, and two files that are alike are two."""
    one_inbox = Inbox(one_inbox.rig, mapping=str(deep(one_inbox.rig, identity=False)))
    one_inbox.put("a", name="1.json")
    one_inbox.put("a", name="2.json")
    assert one_inbox.rig.once().forwarded == 2
    (one_inbox.folder / "done").mkdir()
    (one_inbox.folder / "1.json").rename(one_inbox.folder / "done" / "1.json")
    assert one_inbox.rig.once().forwarded == 0
    one_inbox.put("a", name="1.json")
    assert one_inbox.rig.once().forwarded == 1
    one_inbox.add("a")
    assert one_inbox.rig.once().mirrored == 1
    assert one_inbox.rig.once().forwarded == 0
    assert one_inbox.ids() == ["a"] * 4
    assert one_inbox.parity().tally.compared == 4


def test_text_files(one_inbox: Inbox) -> None:
    """A text file is its own data; its name tells role, type and time, and the mirror's names do too."""
    path = one_inbox.rig.path / "text.toml"
    path.write_text(
        'name = "text"\n[source]\nkind = "spool"\npath = "inbox/*.txt"\n[format]\ncodec = "document"\n'
        "pattern = '(?P<timestamp>\\d+)_(?P<role>\\w+)_(?P<type>\\w+)(-[\\d-]+)?\\.txt'\ntimestamp = \"epoch_s\"\n"
        '[stream]\nkey = "hestai:inbox"\n[mirror]\npath = "inbox"\nname = "{timestamp}_{role}_{type}.txt"\n'
    )
    one_inbox = Inbox(one_inbox.rig, mapping=str(path))
    one_inbox.move_in("1772442001_wind_say.txt", b"hello\nthere\xff")
    one_inbox.move_in("noname.txt", b"?")
    one_inbox.rig.redis.call(
        "XADD", INBOX, "*", "role", "ui", "timestamp", "1772442002", "type", "ask", "data", b"how\n"
    )
    done = one_inbox.rig.once()
    assert (done.forwarded, done.mirrored, done.quarantined) == (1, 1, 1)
    assert one_inbox.entries()[1].fields[:8] == [
        b"role", b"wind", b"timestamp", b"1772442001", b"type", b"say", b"data", b"hello\nthere\xff",
    ]  # fmt: skip
    assert one_inbox.files()["1772442002_ui_ask.txt"] == b"how\n"
    assert one_inbox.rig.once().forwarded == 0
    assert (one_inbox.parity().verdict, one_inbox.parity().tally.compared) == ("equal", 2)


def test_redis_lost_all(inbox: Inbox) -> None:
    """After a flush the stream gets back what the folder holds, mirrored messages too, each once, by time."""
    inbox.put("one", at=1)
    inbox.put("three", at=3)
    inbox.add("two", at=2)
    assert inbox.rig.once().mirrored == 1
    inbox.rig.redis.call("FLUSHALL")
    inbox.put("four", at=4)
    assert not inbox.rig.once().errors
    assert inbox.ids() == ["one", "two", "three", "four"]
    inbox.check(["one", "two", "three", "four"], [])


def test_redis_lost_its_tail(inbox: Inbox) -> None:
    """What a server forgot of the last messages comes back, and nothing twice."""
    for n in range(3):
        inbox.put(f"a-{n}", at=n)
    child = inbox.rig.ready(inbox.rig.start())
    inbox.until(3)
    inbox.rig.stop(child)
    inbox.rig.redis.call("BGREWRITEAOF")
    saved = inbox.rig.redis.call("DUMP", INBOX), inbox.rig.redis.call("DUMP", f"bridge:{{{INBOX}}}:checkpoint")
    for n in range(3):
        inbox.put(f"b-{n}", at=n + 10)
    inbox.add("theirs", at=20)
    assert inbox.rig.once().forwarded == 3
    for key, raw in zip((INBOX, f"bridge:{{{INBOX}}}:checkpoint"), saved, strict=True):
        inbox.rig.redis.call("RESTORE", key, 0, raw, "REPLACE")
    assert inbox.rig.once().forwarded == 4
    inbox.check(["a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "theirs"], [])


def test_trimmed_is_not_lost(one_inbox: Inbox) -> None:
    """What somebody trimmed on purpose stays away."""
    for n in range(4):
        one_inbox.put(f"n-{n}", at=n)
    one_inbox.rig.once()
    one_inbox.rig.redis.call("XTRIM", INBOX, "MAXLEN", 1)
    one_inbox.put("new", at=9)
    one_inbox.rig.once()
    assert one_inbox.ids() == ["n-3", "new"]


def test_kept_while_redis_is_away(one_inbox: Inbox) -> None:
    """A message whose file is taken away while Redis is down is sent all the same, and after a kill of the bridge."""
    one_inbox.put("before", at=0)
    child = one_inbox.rig.ready(one_inbox.rig.start())
    one_inbox.until(1)
    one_inbox.rig.kill_server()
    path = one_inbox.put("meanwhile", at=1)

    def known() -> bool:
        ledger = Ledger(one_inbox.rig.state / "ledger.db")
        try:
            return bool(ledger.rows("SELECT 1 FROM spool_due WHERE CAST(name AS TEXT) LIKE '%meanwhile%'"))
        finally:
            ledger.close()

    wait_until(known, lambda: f"the bridge sees it: {one_inbox.rig.said()}")
    path.unlink()
    child.kill()
    child.wait()
    one_inbox.rig.start_server()
    one_inbox.rig.once()
    assert one_inbox.ids() == ["before", "meanwhile"]
    assert (one_inbox.parity().verdict, one_inbox.parity().tally.taken_away) == ("equal", 1)


def test_planted_differences(one_inbox: Inbox) -> None:
    """Parity names what is altered, missing on either side, twice, or out of order."""
    for n in range(8):
        one_inbox.put(f"n-{n}", at=n)
    one_inbox.rig.once()
    one_inbox.add("theirs", at=20)
    one_inbox.rig.once()
    found = one_inbox.entries()
    redis = one_inbox.rig.redis
    redis.call("XDEL", INBOX, b"%d-%d" % found[2].id)
    redis.call("XADD", INBOX, "*", *found[0].fields)
    one_inbox.move_in("n-5.json", document("n-5", at=5, text="altered"))
    ledger = Ledger(one_inbox.rig.state / "ledger.db")
    ledger.write("UPDATE spool_messages SET digest = x'00' WHERE place = 5")
    ledger.close()
    forged = document("never", at=30)
    redis.call("XADD", INBOX, "*", *found[0].fields[:6], "data", forged, "origin", "1.7:0")
    result = one_inbox.parity()
    assert result.verdict == "differs"
    kinds = sorted((one_inbox.kind, one_inbox.file) for one_inbox in result.tally.differences)
    assert kinds == [
        ("altered", "inbox/n-5.json"), ("duplicate", "inbox/n-0.json"), ("missing_in_file", None),
        ("missing_in_redis", "inbox/n-2.json"),
    ]  # fmt: skip


def test_files_read_only_once(one_inbox: Inbox) -> None:
    """Our own reading wakes nobody: a bridge that has nothing to do reads no file again."""
    if subprocess.run(["which", "strace"], capture_output=True, check=False).returncode:
        pytest.skip("needs strace")
    for n in range(5):
        one_inbox.put(f"n-{n}", at=n)
    child = one_inbox.rig.ready(one_inbox.rig.start())
    one_inbox.until(5)
    trace = one_inbox.rig.path / "trace"
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", "trace=openat", "-o", str(trace), "-p", str(child.pid)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: trace.exists(), "strace")
    one_inbox.put("last", at=9)
    one_inbox.until(6)
    one_inbox.rig.stop(child)
    tracer.wait(30)
    opened = [row for row in trace.read_text().splitlines() if ".json" in row and "O_RDONLY" in row]
    assert len([row for row in opened if "/n-" in row]) == 0, opened
    assert len([row for row in opened if "/last" in row]) <= 2, opened


def test_retry(one_inbox: Inbox) -> None:
    """`quarantine retry` reads mended files again, and writes the files of entries that the mapping knows by now."""
    mapping = deep(one_inbox.rig, more='name = "{id}.json"\n')
    one_inbox = Inbox(one_inbox.rig, mapping=str(mapping))
    one_inbox.move_in("bad.json", document("bad").replace(b"doc_type", b"kind"))
    data = document("theirs", kind="x").replace(b"doc_type", b"kind")
    entry = one_inbox.rig.redis.call(
        "XADD", INBOX, "*", "role", "agent", "timestamp", "2026-03-02T09:00:00", "type", "x", "data", data
    )
    assert one_inbox.rig.once().quarantined == 2
    assert one_inbox.rig.run("quarantine", "retry", "--redis", one_inbox.rig.server.socket_url).returncode == 3
    mapping.write_text(mapping.read_text().replace("/doc_type", "/kind"))
    done = one_inbox.rig.run("quarantine", "retry", "--redis", one_inbox.rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    assert one_inbox.files()[f"{entry.decode()}.json"] == data
    assert one_inbox.rig.once().quarantined == 0
    one_inbox.check(["bad"], ["theirs"])


def test_retry_of_a_file_that_is_gone(one_inbox: Inbox) -> None:
    """It says so, instead of the reason of before; put back as it was kept, the message goes over."""
    one_inbox.move_in("bad.json", document("bad").replace(b"doc_type", b"kind"))
    assert one_inbox.rig.once().quarantined == 1
    raw = (one_inbox.folder / "bad.json").read_bytes()
    (one_inbox.folder / "bad.json").unlink()
    mapping = deep(one_inbox.rig)
    mapping.write_text(mapping.read_text().replace("/doc_type", "/kind"))
    one_inbox.rig.write_config(mapping=str(mapping))
    retry = ("quarantine", "retry", "--redis", one_inbox.rig.server.socket_url)
    done = one_inbox.rig.run(*retry)
    assert done.returncode == 3
    assert "its file is gone: all of it was kept" in done.stdout + done.stderr
    [kept] = [json.loads(row) for row in one_inbox.rig.run("quarantine", "export").stdout.splitlines()]
    assert kept["raw"].encode() == raw
    one_inbox.move_in("bad.json", kept["raw"].encode())
    assert one_inbox.rig.run(*retry).returncode == 0
    one_inbox.check(["bad"], [])


def test_lost_ledger(inbox: Inbox) -> None:
    """Without its ledger the bridge carries nothing; repair rebuilds it, and nothing goes over twice."""
    for n in range(3):
        inbox.put(f"n-{n}", at=n)
    inbox.add("theirs", at=20)
    inbox.rig.once()
    inbox.move_in("n-1.json", document("n-1", at=1, status="done"))
    (inbox.folder / "n-2.json").unlink()
    for path in inbox.rig.state.glob("ledger.db*"):
        path.unlink()
    inbox.add("new", at=30)
    assert inbox.rig.once().errors
    done = inbox.rig.run("repair", "--execute", "--redis", inbox.rig.server.socket_url)
    assert done.returncode == 0, done.stdout + done.stderr
    inbox.put("n-2", at=2)
    inbox.put("last", at=40)
    done_ = inbox.rig.once()
    assert (done_.forwarded, done_.mirrored, done_.errors) == (1, 1, ())
    assert sorted(inbox.ids()) == ["last", "n-0", "n-1", "n-2", "new", "theirs"]
    assert inbox.identities() == ["last", "n-0", "n-1", "n-2", "new", "theirs"]


def test_repair_sends_and_writes(inbox: Inbox) -> None:
    """What parity finds missing on one side is sent, or written, once."""
    for n in range(3):
        inbox.put(f"n-{n}", at=n)
    inbox.rig.once()
    inbox.add("theirs", at=20)
    inbox.rig.once()
    inbox.rig.redis.call("XDEL", INBOX, b"%d-%d" % inbox.entries()[1].id)
    for path in inbox.folder.glob("2026*.json"):
        path.unlink()
    ledger = Ledger(inbox.rig.state / "ledger.db")
    ledger.write("DELETE FROM ranges")
    ledger.close()
    assert sorted(difference.kind for difference in inbox.parity().tally.differences) == [
        "missing_in_file",
        "missing_in_redis",
    ]
    args = ("repair", "--execute", "--redis", inbox.rig.server.socket_url)
    done = inbox.rig.run(*args)
    assert done.returncode == 0, done.stdout + done.stderr
    inbox.rig.once()
    assert sorted(inbox.ids()) == ["n-0", "n-1", "n-2", "theirs"]
    assert inbox.identities() == ["n-0", "n-1", "n-2", "theirs"]
    assert inbox.parity().verdict == "equal"
    assert "nothing to repair" in inbox.rig.run(*args).stdout


def test_status_and_import(one_inbox: Inbox) -> None:
    """Status counts the files that are not carried; import-history brings them over, by their times."""
    for n in range(3):
        one_inbox.put(f"n-{n}", at=9 - n)
    one_inbox.rig.once()
    one_inbox.put("late", at=30)
    url = ("--redis", one_inbox.rig.server.socket_url)
    told = json.loads(one_inbox.rig.run("status", "--json", *url).stdout)
    assert told["mappings"][0]["forward"][0]["behind_lines"] == 1
    assert "1 file waiting" in told["headline"]
    dry = json.loads(one_inbox.rig.run("import-history", "--dry-run", "--json", *url).stdout)["mappings"][0]
    assert (dry["entries"], dry["rejected"]) == (1, 0)
    done = one_inbox.rig.run("import-history", *url)
    assert "1 file" in done.stdout, done.stderr
    assert one_inbox.ids() == ["n-2", "n-1", "n-0", "late"]
    assert (
        json.loads(one_inbox.rig.run("status", "--json", *url).stdout)["mappings"][0]["forward"][0]["behind_lines"] == 0
    )


def test_check_looks_at_whole_files(one_inbox: Inbox) -> None:
    """`mapping check` tells how many files of the folder translate, and which do not."""
    one_inbox.put("good")
    one_inbox.move_in("bad.json", b"{}")
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "mapping", "check", "hestai-inbox"], cwd=one_inbox.rig.root, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "1 of 2 files translate" in done.stdout
    assert "inbox/bad.json" in done.stdout


def test_locate(one_inbox: Inbox) -> None:
    """A file is found in the stream, and an entry in the folder, wherever its file was moved to."""
    one_inbox = Inbox(one_inbox.rig, mapping=str(deep(one_inbox.rig)))
    one_inbox.put("mine")
    entry = one_inbox.add("theirs", at=5).decode()
    one_inbox.rig.once()
    (one_inbox.folder / "done").mkdir()
    (one_inbox.folder / "mine.json").rename(one_inbox.folder / "done" / "mine.json")
    one_inbox.rig.once()

    def located(what: str) -> dict[str, str]:
        done = one_inbox.rig.run("locate", what, "--json", "--redis", one_inbox.rig.server.socket_url)
        assert done.returncode == 0, done.stderr
        [found] = json.loads(done.stdout)
        return dict(found)

    mine = located("inbox/done/mine.json")
    assert (mine["born"], mine["origin"]) == ("file", "1.1:0")
    assert located(mine["entry"])["file"] == "inbox/done/mine.json"
    assert located("1.1:0")["entry"] == mine["entry"]
    theirs = located(entry)
    assert (theirs["born"], theirs["file"]) == ("Redis", "inbox/2026-03-02T09-00-05-agent-note.json")
    assert located(theirs["file"])["entry"] == entry
    one_inbox.move_in("bad.json", b"{}")
    one_inbox.rig.once()
    assert "in quarantine" in located("inbox/bad.json")["said"]
    (one_inbox.folder / "done" / "mine.json").unlink()
    gone = located("inbox/done/mine.json")
    assert gone["entry"] == mine["entry"]
    assert "no such file any more" in gone["said"]


def test_copies_in_one_moment(one_inbox: Inbox) -> None:
    """Files of equal content that lie side by side are as many messages, be their times equal, as after a copy."""
    one_inbox = Inbox(one_inbox.rig, mapping=str(deep(one_inbox.rig, identity=False)))
    for name in ("1.json", "2.json", "3.json"):
        os.utime(one_inbox.put("a", name=name), (1_700_000_000, 1_700_000_000))
    assert one_inbox.rig.once().forwarded == 3
    (one_inbox.folder / "1.json").rename(one_inbox.folder / "moved.json")
    assert one_inbox.rig.once().forwarded == 0
    assert one_inbox.parity().verdict == "equal"


def test_an_empty_identity_is_none(one_inbox: Inbox) -> None:
    """Messages whose identity is empty are known by their content."""
    for name in ("a", "b"):
        one_inbox.move_in(f"{name}.json", document("", note=name))
    assert one_inbox.rig.once().forwarded == 2


def test_stopped_by_a_reject(one_inbox: Inbox) -> None:
    """With `on_reject = "stop"` nothing goes on before the file is mended or taken away, and status says why."""
    one_inbox = Inbox(one_inbox.rig, mapping=str(deep(one_inbox.rig, more='[policy]\non_reject = "stop"\n')))
    one_inbox.move_in("bad.json", b"{}")
    assert one_inbox.rig.once().errors
    one_inbox.put("later", at=9)
    done = one_inbox.rig.once()
    assert (done.forwarded, len(done.errors)) == (0, 1)
    one_inbox.move_in("bad.json", document("bad", at=1))
    assert (one_inbox.rig.once().forwarded, one_inbox.ids()) == (2, ["bad", "later"])


def test_names_that_the_source_does_not_read(one_inbox: Inbox) -> None:
    """An entry whose file the source would not see is set aside: nobody could tell that it is there."""
    mapping = deep(one_inbox.rig)
    mapping.write_text(mapping.read_text().replace('"inbox/**/index.json"', '"inbox/**/*-index.json"'))
    one_inbox = Inbox(one_inbox.rig, mapping=str(mapping))
    one_inbox.add("theirs", kind="index")
    done = one_inbox.rig.once()
    assert (done.mirrored, done.quarantined, one_inbox.files()) == (0, 1, {})


def test_two_mappings_put_files_into_one_folder(rig: Rig) -> None:
    """A mirror that is started removes hidden files that it left, and none of another mapping's."""
    inbox = Inbox(rig)
    other = inbox.folder / ".bridge-abcdef01-123.tmp"
    other.write_bytes(b"on its way")
    inbox.add("theirs")
    rig.once()
    assert other.exists()
    assert inbox.hidden() == [other.name]


def test_hostile_names_in_the_log(one_inbox: Inbox) -> None:
    """Control characters and newlines of a file's name are escaped wherever it is said."""
    one_inbox.move_in("\x1b[31mred\nforged.json", b"{}")
    done = one_inbox.rig.run("run", "--once", "--redis", one_inbox.rig.server.socket_url)
    listed = one_inbox.rig.run("quarantine", "list")
    for said in (done.stderr, listed.stdout):
        assert "\x1b" not in said
        assert "red\\nforged" in said


def test_an_empty_file_in_quarantine(one_inbox: Inbox) -> None:
    """An empty file that stays empty is listed like any other."""
    path = one_inbox.move_in("empty.json", b"")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert one_inbox.rig.once().quarantined == 1
    done = one_inbox.rig.run("quarantine", "list")
    assert done.returncode == 0, done.stderr
    assert "an empty file" in done.stdout


def test_lost_ledger_with_odd_names(one_inbox: Inbox) -> None:
    """Repair rebuilds what it knew of mirrored files that were renamed to names that are no UTF-8."""
    one_inbox.add("theirs")
    one_inbox.rig.once()
    [path] = one_inbox.folder.glob("2026*.json")
    path.rename(one_inbox.folder / os.fsdecode(b"caf\xe9.json"))
    for found in one_inbox.rig.state.glob("ledger.db*"):
        found.unlink()
    done = one_inbox.rig.run("repair", "--execute", "--redis", one_inbox.rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    assert (one_inbox.rig.once().forwarded, one_inbox.ids()) == (0, ["theirs"])


def test_a_single_file_is_checked_whole(one_inbox: Inbox) -> None:
    """`mapping check MAPPING FILE` takes the file as one message."""
    path = one_inbox.put("good")
    done = one_inbox.rig.run("mapping", "check", "hestai-inbox", str(path))
    assert (done.returncode, "1 of 1 files translate" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [(("[format]", '[format]\ndelimiter = "|"'), "delimiter"), (('kind = "spool"', 'kind = "log"'), "means nothing"),
     (("settle_ms = 200", "settle_ms = 200\nidle_ms = 5"), "idle_ms"), (("[mirror]", "[mirror]\nlock = \"flock\""), "lock"),
     (('codec = "document"', 'codec = "jsonl"'), "document"), (('timestamp = { pointer = "/timestamp" }\n', ""), "time"),
     (('id = { pointer = "/uuid" }', 'id = { const = "x" }'), "pointer"), (('"inbox"', '"inbox"\nname = "a/b"'), "name"),
     (('kind = "spool"', 'kind = "spol"'), "spool"), (("[message]", "[message]\nartifact_types = []"), "artifact_types")],
)  # fmt: skip
def test_keys_that_mean_nothing_are_refused(tmp_path: Path, one_rig: Rig, change: tuple[str, str], said: str) -> None:
    """A key that is for another kind, or cannot work, is an error that names it."""
    mapping = deep(one_rig)
    mapping.write_text(mapping.read_text().replace(*change, 1))
    done = one_rig.run("mapping", "show", str(mapping))
    assert done.returncode == 2, done.stdout
    assert said in done.stderr


@pytest.mark.parametrize("known", ["_rename", "_link", "_take"])
def test_every_way_to_put_a_file_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    """Whatever a file system knows, a name that is taken is refused and what is there stays; else the file is whole."""

    def unknown(fd: int, old: str, new: str) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    for way in ("_rename", "_link", "_take"):
        if way == known:
            break
        monkeypatch.setattr(f"bridge.files.atomic.{way}", unknown)
    place = AtomicFolder(tmp_path, "folder/deep")
    (tmp_path / "folder/deep/taken").write_bytes(b"theirs")
    place.write("1", b"ours")
    assert place.waits("1")
    assert not place.put("1", "taken")
    assert (tmp_path / "folder/deep/taken").read_bytes() == b"theirs"
    assert place.waits("1")
    assert place.put("1", "free")
    assert not place.waits("1")
    place.close()
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder/deep").iterdir()} == {
        "taken": b"theirs", "free": b"ours",
    }  # fmt: skip


def test_a_hidden_file_stays_until_another_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is gone says that it has its name, so an error in writing it again leaves it alone, and nothing beside."""
    place = AtomicFolder(tmp_path, "folder")
    first = place.write("mark", b"whole")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(os, "write", full)
        with pytest.raises(TargetError, match="No space left"):
            place.write("mark", b"again")
    assert place.waits("mark")
    assert place.facts_of_hidden("mark") == first
    assert place.marks() == ["mark"]
    place.close()


def test_a_file_that_waits_for_its_name_is_not_written_again(one_inbox: Inbox) -> None:
    """A process that ended behind its intents left whole files: the next one gives those their names."""
    one_inbox.add("r-0")
    child = one_inbox.rig.start(crash="mirror.intent.after")
    wait_until(lambda: child.poll() is not None, one_inbox.rig.said)
    [hidden] = one_inbox.folder.glob(".bridge-*")
    inode = hidden.stat().st_ino
    assert not one_inbox.rig.once().errors
    [name] = one_inbox.files()
    assert (one_inbox.folder / name).stat().st_ino == inode


def met(inbox: Inbox) -> tuple[Settings, Mapping]:
    """The settings and the mapping of a bridge that has met the folder."""
    settings = inbox.rig.settings()
    [mapping] = settings.mappings
    inbox.rig.once()
    return settings, mapping


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Paths of files that cannot be opened, whoever asks: put them in and take them out."""
    real, paths = os.open, set[bytes]()

    def opened(path: object, *args: int, **more: int) -> int:
        if path in paths:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
    return paths


def test_a_file_that_cannot_be_read_does_not_keep_a_failure_going(
    one_inbox: Inbox, unreadable: set[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's disk is full for once, and one file of the folder cannot be read all the time: the others go on."""
    rig = one_inbox.rig
    rig.once()
    unreadable.add(os.fsencode(one_inbox.put("locked")))
    one_inbox.put("other")
    settings = rig.settings()
    [mapping] = settings.mappings
    ledger = Ledger(rig.state / "ledger.db")
    forward = Forward(
        MappingContext(mapping, settings), ledger, Troubles(time.time), time.time, lambda: Connection(rig.url)
    )

    def complete() -> bool:
        forward.look()
        return not forward.waits

    wait_until(complete, "complete files")
    forward.attach()
    with monkeypatch.context() as patch:

        def full(*args: object) -> None:
            raise LedgerError("the disk is full")

        patch.setattr(spool_messages, "send", full)
        assert not forward.step()
    forward.look()
    assert forward.step()
    while forward.step():
        pass
    forward.detach()
    assert one_inbox.ids() == ["other"]


def test_a_file_that_the_mirror_noted_since_is_unreadable_no_more(one_inbox: Inbox, unreadable: set[bytes]) -> None:
    """Its message is known, so nobody has to read it."""
    settings, mapping = met(one_inbox)
    path = os.fsencode(one_inbox.put("n-0"))
    unreadable.add(path)
    ledger, folder = Ledger(one_inbox.rig.state / "ledger.db"), MessageFolder(settings.root, mapping.files, ())
    now = [time.time() + 1]
    intake = FolderScanner(mapping, folder, ledger, lambda: now[0], lambda: None)
    intake.look(None)
    [(name, _)] = intake.unreadable.items()
    found = folder.find(name)
    assert found is not None
    spool_messages.mirrored(ledger, mapping.stream.key, b"its key", b"", name, found.facts, "0:it")
    now[0] += 10
    intake.look(None)
    assert not intake.unreadable
    assert not intake.waiting


def test_a_hidden_file_without_its_intent_stays_where_its_folder_is_opened_again(
    one_inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its absence would say that it has its name: the message would be lost with the process."""
    settings, mapping = met(one_inbox)
    ledger, common = Ledger(one_inbox.rig.state / "ledger.db"), NewFileTargets(mapping, settings)
    first, second = (NewFileTarget(common, f"inbox/r-{n}.json", b"{}", (n, 0)) for n in (1, 2))
    first.take(ledger, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(AtomicFolder, "still_there", lambda self: False)
        second.take(ledger, 0.0)
    assert len(one_inbox.hidden()) == 2
    common.close()


def test_a_scan_is_not_put_off_by_the_work_of_the_one_before(one_inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """To take a file in lasted half a minute: another, of which no event told, is met two seconds later all the same."""
    settings, mapping = met(one_inbox)
    ledger, folder = Ledger(one_inbox.rig.state / "ledger.db"), MessageFolder(settings.root, mapping.files, ())
    now, steady, real = time.time() + 1, [1000.0], spool_messages.add_due
    intake = FolderScanner(mapping, folder, ledger, lambda: now, lambda: None)

    def slow(*args: Any) -> None:
        steady[0] += 30
        real(*args)

    def due() -> list[bytes]:
        return [name for (name,) in ledger.rows("SELECT name FROM spool_due ORDER BY name")]

    monkeypatch.setattr(spool_messages, "add_due", slow)
    monkeypatch.setattr(time, "monotonic", lambda: steady[0])
    one_inbox.put("n-0")
    intake.look(None)
    one_inbox.put("n-1")
    steady[0] += 2
    intake.look(None)
    assert due() == [b"inbox/n-0.json", b"inbox/n-1.json"]


def test_a_file_that_the_ledger_did_not_take_is_looked_at_again(
    one_inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the next try, not for the next scan of the whole folder: that may be a minute away."""
    settings, mapping = met(one_inbox)
    one_inbox.put("n-0")
    ledger = Ledger(one_inbox.rig.state / "ledger.db")
    folder = MessageFolder(settings.root, mapping.files, mapping.source.exclude)
    intake = FolderScanner(mapping, folder, ledger, time.time, lambda: None)
    intake.look(None)
    assert list(intake.waiting) == [b"inbox/n-0.json"]  # it was written just now

    def full(*args: object) -> None:
        raise LedgerError("the disk is full")

    def refused() -> bool:
        try:
            intake.look_again()
        except LedgerError:
            return True
        return False

    with monkeypatch.context() as failing:
        failing.setattr("bridge.ledger.spool_messages.add_due", full)
        wait_until(refused, "the error")
    wait_until(lambda: not refused() and len(ledger.rows("SELECT 1 FROM spool_due")) == 1, "the second try", 5)
    ledger.close()
