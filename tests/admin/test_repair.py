"""`bridge repair`: what is missing is sent and appended, each once, whatever dies; the rest is explained."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

from bridge.core.model import format_id
from bridge.kinds.translation import EntryTranslator, MirrorBatch
from bridge.ledger.journal import journal
from bridge.ledger.store import Ledger
from bridge.streams.reader import Entry
from tests.kinds.test_state import SOAK
from tests.parity.test_parity import bridged, entry_of, found, offset_of
from tests.support import zygote
from tests.support.proxy import Proxy, every_second
from tests.support.rig import STREAM, Rig


def repair(rig: Rig, *args: str, code: int = 0, url: str = "") -> dict[str, Any]:
    done = rig.run("repair", "--json", "--redis", url or rig.server.socket_url, *args)
    assert done.returncode == code, done.stderr
    [told] = json.loads(done.stdout)
    return dict(told)


def equal(rig: Rig, lines: int, entries: int) -> None:
    """Both sides hold so many, parity says so, and the bridge carries nothing more, in either direction."""
    result = rig.parity()
    assert result.verdict == "equal", result.tally.differences
    assert (len(rig.lines()), len(rig.entries())) == (lines, entries)
    done = rig.once()
    assert (done.forwarded, done.mirrored, done.errors) == (0, 0, ())
    assert rig.parity().verdict == "equal"


def noted(rig: Rig) -> list[dict[str, Any]]:
    ledger = Ledger(rig.state / "ledger.db")
    try:
        return journal(ledger, 1000)
    finally:
        ledger.close()


def lossy_mirror(rig: Rig, monkeypatch: pytest.MonkeyPatch, count: int = 5) -> None:
    """Redis-born entries, some of which the mirror passes without writing their lines."""
    whole = EntryTranslator.translate

    def translate(self: EntryTranslator, some: list[Entry], *rest: Any) -> MirrorBatch:
        kept = [entry for entry in some if not entry.fields[7].startswith(b"lost")]
        taken = whole(self, kept or some, *rest)
        taken.last = some[-1].id
        return taken

    bridged(rig, 12)
    rig.add("kept-0")
    for n in range(count):
        rig.add(f"lost-{n}")
    rig.add("kept-1")
    with monkeypatch.context() as patched:
        patched.setattr(EntryTranslator, "translate", translate)
        rig.once()
    rig.append("f-behind")
    rig.once()
    assert found(rig.parity()) == {"missing_in_file": count}


def test_plan_changes_nothing(one_rig: Rig) -> None:
    """Without --execute it says what it would do, and does not."""
    rig = one_rig
    bridged(rig)
    rig.redis.call("XDEL", STREAM, entry_of(rig, "f-7"), entry_of(rig, "f-20"))
    told = repair(rig)
    assert [(act["action"], act["kind"], act["line"]) for act in told["acts"]] == [
        ("send", "missing_in_redis", offset_of(rig, text)[0]) for text in ("f-7", "f-20")
    ]
    assert told["executed"] is False
    assert found(rig.parity()) == {"missing_in_redis": 2}
    assert noted(rig) == []
    done = rig.run("repair", "--redis", rig.server.socket_url)
    assert "would send missing in Redis: messages.log line 8" in done.stdout
    assert "nothing was changed; `bridge repair --execute` does it, while the bridge is stopped" in done.stdout


def test_lines_sent(rig: Rig) -> None:
    """Deleted entries are sent again with their origins, marked late and journaled; mirrored lines are the file's own."""
    bridged(rig)
    texts = ("f-7", "f-20", "r-11")
    rig.redis.call("XDEL", STREAM, *(entry_of(rig, text) for text in texts))
    told = repair(rig, "--execute")
    assert told["executed"]
    assert [act["now"].startswith("entry ") for act in told["acts"]] == [True] * 3
    equal(rig, 50, 50)
    assert sorted(rig.datas()[-3:]) == sorted(text.encode() for text in texts)
    assert [note["what"] for note in noted(rig)] == ["sent"] * 3
    assert {note["facts"]["line"] for note in noted(rig)} == {offset_of(rig, text)[0] for text in texts}
    assert rig.parity().tally.late == 3
    said = rig.run("journal", "-n", "2").stdout.splitlines()
    assert len(said) == 2
    assert "sent  hestai:messages: file messages.log, line" in said[0]
    assert json.loads(rig.run("journal", "--json").stdout) == noted(rig)
    assert "nothing to repair" in rig.run("repair", "--redis", rig.server.socket_url).stdout


def test_flushed_and_repaired(one_rig: Rig) -> None:
    """What was deleted by hand stays deleted for the bridge; repair brings all of it back."""
    rig = one_rig
    bridged(rig)
    rig.redis.call("XTRIM", STREAM, "MAXLEN", 10)
    done = rig.once()
    assert done.forwarded == 0
    assert found(rig.parity()) == {"missing_in_redis": 40}
    repair(rig, "--execute")
    equal(rig, 50, 50)


def test_lost_by_redis(one_rig: Rig) -> None:
    """What Redis lost by itself comes back by `bridge run`: parity and the plan say so, and promise nothing else."""
    rig = one_rig
    bridged(rig)
    rig.redis.call("DEL", STREAM)
    url = ("--redis", rig.server.socket_url)
    assert "start `bridge run`, it fills it again" in rig.run("parity", *url).stdout
    plan = rig.run("repair", *url)
    assert (plan.returncode, "start `bridge run`" in plan.stdout, "would send" in plan.stdout) == (3, True, False)
    assert rig.run("repair", "--execute", *url).returncode == 1
    rig.once()
    assert rig.parity().verdict == "equal"


def test_cut_end(rig: Rig) -> None:
    """The end of the file was cut off, in the middle of a line: it is put back to the byte, and the bridge goes on."""
    bridged(rig)
    whole = rig.log.read_bytes()
    _, offset = offset_of(rig, "f-30")
    rig.log.write_bytes(whole[: offset + 9])
    told = repair(rig)
    assert told["restored"] == whole[offset:].count(b"\n")
    assert told["acts"] == []
    assert rig.log.read_bytes() == whole[: offset + 9]
    repair(rig, "--execute")
    assert rig.log.read_bytes() == whole
    [note] = noted(rig)
    assert (note["what"], note["facts"]["offset"], note["facts"]["file"]) == ("restored", offset + 9, "messages.log")
    equal(rig, 50, 50)


def test_cut_and_written_since(one_rig: Rig) -> None:
    """Where another program wrote behind the cut nothing is put back; it is said what will happen, and what to do."""
    rig = one_rig
    bridged(rig)
    _, offset = offset_of(rig, "f-30")
    rig.log.write_bytes(rig.log.read_bytes()[:offset])
    rig.append("f-new")
    before = rig.log.read_bytes()
    told = repair(rig, "--execute", code=3)
    assert told["restored"] == 0
    assert {act["action"] for act in told["acts"]} == {None}
    assert any("bring it back from a copy" in act["advice"] for act in told["acts"])
    assert rig.log.read_bytes() == before


@pytest.mark.parametrize("kind", ["altered", "duplicate", "reordered"])
def test_explained(one_rig: Rig, kind: str) -> None:
    """What would have to be rewritten is left alone, and explained; exit 3."""
    rig = one_rig
    bridged(rig, every=100)
    entries = [(format_id(entry.id), entry.fields) for entry in rig.entries()]
    if kind == "altered":
        entries[5][1][5] = b"TURN"
    elif kind == "duplicate":
        entries.append((b"9999999999999-0", entries[5][1]))
    else:
        values = [fields for _, fields in entries]
        values[5], values[15] = values[15], values[5]
        entries = [(entry_id, fields) for (entry_id, _), fields in zip(entries, values, strict=True)]
    rig.redis.call("DEL", STREAM)
    for entry_id, fields in entries:
        rig.redis.call("XADD", STREAM, entry_id, *fields)
    told = repair(rig, code=3)
    assert {act["kind"] for act in told["acts"]} == {kind}
    assert all(act["action"] is None and act["advice"] for act in told["acts"])


def test_missing_in_the_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis-born entries that the mirror passed and did not write are appended, marked late, and do not echo."""
    lossy_mirror(rig, monkeypatch)
    told = repair(rig)
    assert [act["action"] for act in told["acts"]] == ["append"] * 5
    repair(rig, "--execute")
    equal(rig, 23, 23)
    assert [raw.split(b"|", 3)[3] for raw in rig.lines()[-5:]] == [b"lost-%d" % n for n in range(5)]
    assert [note["what"] for note in noted(rig)] == ["appended"] * 5
    assert rig.parity().tally.late == 5


@pytest.mark.parametrize("point", ["mirror.intent", "mirror.write", "mirror.range", "repair.note"])
@pytest.mark.parametrize("when", ["before:1", "after:3"] if SOAK else ["after:3"])
def test_killed_while_appending(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, point: str, when: str) -> None:
    """Killed at any point, and run again: each line is there once."""
    rig = one_rig
    lossy_mirror(rig, monkeypatch)
    assert start(rig, f"{point}.{when}") == -9
    repair(rig, "--execute")
    equal(rig, 23, 23)


def start(rig: Rig, crash: str) -> int:
    env = {**os.environ, "BRIDGE_CRASH_AT": crash}
    args = ["repair", "--execute", "-q", "--redis", rig.server.socket_url]
    return zygote.run("bridge", args, cwd=rig.path, env=env).returncode


@pytest.mark.parametrize("nth", [3])
@pytest.mark.parametrize("point", ["retry.send.before", "retry.send.after", "repair.note.before", "repair.note.after"])
def test_killed_while_sending(one_rig: Rig, point: str, nth: int) -> None:
    """Killed at any point, and run again: each line is sent once."""
    rig = one_rig
    bridged(rig)
    rig.redis.call("XDEL", STREAM, *(entry_of(rig, f"f-{n}") for n in (3, 4, 9, 20, 31)))
    assert start(rig, f"{point}:{nth}") == -9
    repair(rig, "--execute")
    equal(rig, 50, 50)


@pytest.mark.parametrize("point", ["repair.restore.before", "repair.restore.after", "repair.note.before"])
def test_killed_while_putting_back(one_rig: Rig, point: str) -> None:
    """Killed in the middle of it, and run again: the file is as it was."""
    rig = one_rig
    bridged(rig)
    whole = rig.log.read_bytes()
    rig.log.write_bytes(whole[:700])
    assert start(rig, point) == (0 if point == "repair.note.before" else -9)
    repair(rig, "--execute")
    assert rig.log.read_bytes() == whole
    equal(rig, 50, 50)


def test_lost_replies(one_rig: Rig) -> None:
    """Every second reply to a send is lost: run again until it is done, each line is there once."""
    rig = one_rig
    bridged(rig)
    rig.redis.call("XDEL", STREAM, *(entry_of(rig, f"f-{n}") for n in (3, 4, 9, 20, 31)))
    with Proxy(rig.server, every_second(b"EXEC")) as proxy:
        for _ in range(20):
            done = rig.run("repair", "--execute", "--redis", proxy.url)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr
        assert proxy.faults
    equal(rig, 50, 50)


def test_beside_a_bridge(one_rig: Rig) -> None:
    """While a bridge runs --execute names it and stops; the plan works."""
    rig = one_rig
    bridged(rig)
    child = rig.ready(rig.start())
    rig.redis.call("XDEL", STREAM, entry_of(rig, "f-7"))
    done = rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    assert done.returncode == 1
    assert "bridge run" in done.stderr
    assert len(repair(rig)["acts"]) == 1
    rig.stop(child)


def test_random_losses(one_rig: Rig) -> None:
    """Random entries are deleted, again and again, and repaired; the stream holds each message once."""
    rig = one_rig
    bridged(rig)
    dice = random.Random(7)
    for _ in range(3):
        some = dice.sample(rig.entries(), 12)
        rig.redis.call("XDEL", STREAM, *(format_id(entry.id) for entry in some))
        repair(rig, "--execute")
        equal(rig, 50, 50)
    assert sorted(rig.datas()) == sorted(line.split(b"|", 3)[3] for line in rig.lines())
