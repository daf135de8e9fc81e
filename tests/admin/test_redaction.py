"""A deletion that is meant is one act: the entry goes, the line is named, the owner's edit is taken for what it is."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.core.model import format_id
from tests.support.project import shipped
from tests.support.rig import Rig, wait_until

BASE = [b"line %d" % n for n in range(60)]
SECRET = 30


def redact(rig: Rig, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    told = rig.run("redact", "--redis", rig.server.socket_url, "hestai-message", *more)
    assert told.returncode == code, told.stdout + told.stderr
    return told


def carried(rig: Rig) -> list[str]:
    """A log of which all was carried, with one mirrored line; the IDs of its entries."""
    rig.append(*BASE)
    assert not rig.once().errors
    rig.add("r-0")
    assert not rig.once().errors
    return [format_id(entry.id).decode() for entry in rig.entries()]


def take_out(log: Path, data: bytes, *, in_place: bool) -> None:
    """The owner edits the log."""
    left = b"".join(raw for raw in log.read_bytes().splitlines(keepends=True) if not raw.endswith(b"|" + data + b"\n"))
    if in_place:
        log.write_bytes(left)
        return
    beside = log.with_name("saved.tmp")
    beside.write_bytes(left)
    beside.replace(log)


def is_equal(rig: Rig, acknowledged: int = 1) -> None:
    found = rig.parity()
    tally = found.tally
    assert (found.verdict, tally.acknowledged + tally.redacted) == ("equal", acknowledged), (tally, found.notes)


def test_the_plan_names_what_is_to_be_edited_and_changes_nothing(one_rig: Rig) -> None:
    """Without --execute the entry stands; file, line and byte are named."""
    ids = carried(one_rig)
    told = redact(one_rig, ids[SECRET])
    assert f"entry {ids[SECRET]}: would be deleted" in told.stdout
    assert f"edit by hand: line {SECRET + 1} of messages.log" in told.stdout
    assert "nothing was changed" in told.stdout
    assert len(one_rig.entries()) == len(BASE) + 1
    assert one_rig.parity().verdict == "equal"


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("edited", ["before", "after", "never"])
def test_a_line_that_was_carried(one_rig: Rig, edited: str, in_place: bool) -> None:
    """Whether the owner edits the log before, after or never: equal, one acknowledged, and nothing comes back."""
    ids = carried(one_rig)
    data = BASE[SECRET]
    if edited == "before":
        take_out(one_rig.log, data, in_place=in_place)
        assert not one_rig.once().errors
    redact(one_rig, ids[SECRET], "--reason", "a password", "--execute")
    assert data not in one_rig.datas()
    if edited == "after":
        is_equal(one_rig)
        take_out(one_rig.log, data, in_place=in_place)
        assert not one_rig.once().errors
    is_equal(one_rig)
    one_rig.append(b"after")
    assert not one_rig.once().errors
    is_equal(one_rig)
    assert data not in one_rig.datas()
    assert "a password" in one_rig.run("journal").stdout
    before = one_rig.datas()
    one_rig.redis.call("DEL", *one_rig.redis.call("KEYS", "*"))
    assert not one_rig.once().errors
    assert sorted(one_rig.datas()) == sorted(before)
    is_equal(one_rig)


def test_a_line_that_the_mirror_wrote(one_rig: Rig) -> None:
    """Its entry is not made anew of the line that stands in the log still, after a loss neither."""
    ids = carried(one_rig)
    told = redact(one_rig, ids[-1], "--reason", "a password", "--execute")
    assert "line 61 of messages.log" in told.stdout
    is_equal(one_rig)
    one_rig.redis.call("DEL", *one_rig.redis.call("KEYS", "*"))
    assert not one_rig.once().errors
    assert one_rig.datas() == BASE
    is_equal(one_rig)
    take_out(one_rig.log, b"r-0", in_place=False)
    assert not one_rig.once().errors
    assert one_rig.datas() == BASE
    is_equal(one_rig)


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
def test_another_edit_leaves_the_redacted_line(one_rig: Rig, in_place: bool) -> None:
    """The owner edits another line and forgets the redacted one: it is not sent again."""
    ids = carried(one_rig)
    redact(one_rig, ids[SECRET], "--reason", "a password", "--execute")
    take_out(one_rig.log, BASE[10], in_place=in_place)
    assert not one_rig.once().errors
    assert BASE[SECRET] not in one_rig.datas()
    named = one_rig.run("repair", "--redis", one_rig.server.socket_url, "--accept", ids[10], "--reason", "old")
    assert named.returncode == 0, named.stderr
    is_equal(one_rig, 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_as_it_deletes(one_rig: Rig, when: str) -> None:
    """Run again it is done, once."""
    ids = carried(one_rig)
    more = (ids[SECRET], "--reason", "a password", "--execute")
    env = {"BRIDGE_CRASH_AT": f"redact.delete.{when}"}
    told = one_rig.run("redact", "--redis", one_rig.server.socket_url, "hestai-message", *more, env=env)
    assert told.returncode == -9
    redact(one_rig, *more)
    assert BASE[SECRET] not in one_rig.datas()
    is_equal(one_rig)


def test_beside_a_running_bridge(one_rig: Rig) -> None:
    """The bridge goes on, and does not take the deletion for a loss."""
    ids = carried(one_rig)
    child = one_rig.start()
    one_rig.ready(child)
    redact(one_rig, ids[-2], ids[SECRET], "--reason", "a password", "--execute")
    one_rig.append(b"after")
    wait_until(lambda: b"after" in one_rig.datas(), one_rig.said)
    take_out(one_rig.log, BASE[SECRET], in_place=True)
    wait_until(lambda: "saved anew" in one_rig.said(), one_rig.said)
    one_rig.append(b"more")
    wait_until(lambda: b"more" in one_rig.datas(), one_rig.said)
    one_rig.stop(child)
    assert BASE[SECRET] not in one_rig.datas()
    is_equal(one_rig, 2)


def test_what_cannot_be_redacted_is_refused(one_rig: Rig) -> None:
    """No ID, an entry that never was, a Redis-born one that waits for the mirror, no reason, another mapping."""
    ids = carried(one_rig)
    assert "is no entry's ID" in redact(one_rig, "messages.log:3", code=2).stderr
    assert "there is no such entry" in redact(one_rig, "1-1", code=2).stderr
    assert "needs a --reason" in redact(one_rig, ids[0], "--execute", code=2).stderr
    one_rig.add("r-1")
    waits = format_id(one_rig.entries()[-1].id).decode()
    assert "is not mirrored yet" in redact(one_rig, waits, code=2).stderr
    told = one_rig.run("redact", "--redis", one_rig.server.socket_url, "other", ids[0])
    assert (told.returncode, "no mapping 'other'" in told.stderr) == (2, True)
    assert len(one_rig.entries()) == len(BASE) + 2


def archived(rig: Rig) -> tuple[list[str], tuple[str, str]]:
    """A log whose first entries were trimmed and archived: their IDs, and where the stream is."""
    mapping_text = shipped("hestai-message")
    limits = "[retention]\nkeep_entries = 100\nconfirm = false\narchive = true\n"
    (rig.path / "kept.toml").write_text(f"{mapping_text}\n{limits}")
    rig.write_config(mapping="kept.toml")
    url = ("--redis", rig.server.socket_url)
    ids = carried(rig)
    rig.append(*(b"more %d" % n for n in range(340)))
    assert not rig.once().errors
    assert rig.run("parity", *url).returncode == 0
    assert rig.run("trim", "--execute", *url).returncode == 0
    return ids, url


EDITS: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "taken out": lambda lines, n: [*lines[:n], *lines[n + 1 :]],
    "written over": lambda lines, n: [*lines[:n], b"agent|2026-03-02T09:14:05.112Z|turn|XXXX", *lines[n + 1 :]],
    "left": lambda lines, n: lines,
}


@pytest.mark.parametrize("secrets", [[SECRET], [0, 1, 59], [30, 31, 32, 40]], ids=str)
@pytest.mark.parametrize("edit", EDITS)
def test_the_archive_is_edited_by_hand(one_rig: Rig, edit: str, secrets: list[int]) -> None:
    """The line of a redacted entry may be taken out of the archive, or written over: the others are read as before."""
    ids, url = archived(one_rig)
    chosen = [ids[n] for n in secrets]
    told = redact(one_rig, *chosen[:2], "--reason", "a password", "--execute")
    [path] = {Path(raw) for raw in re.findall(r"the archive: (\S+)", told.stdout)}
    for n, entry in enumerate(chosen):  # one after the other: the owner may have edited the file for the first
        lines = gzip.decompress(path.read_bytes()).splitlines()
        if edit != "left" and n < 2:
            at = next(i for i, raw in enumerate(lines) if raw.endswith(b"|" + BASE[secrets[n]]))
            path.write_bytes(gzip.compress(b"".join(raw + b"\n" for raw in EDITS[edit](lines, at))))
        if n >= 2:
            redact(one_rig, entry, "--reason", "a password", "--execute")
    wanted = [data for n, data in enumerate(BASE) if n not in secrets]
    printed = one_rig.run("tail", "--json", "-n", "1000", *url)
    assert (printed.returncode, printed.stderr) == (0, "")
    datas = [json.loads(row)["data"].encode() for row in printed.stdout.splitlines()]
    assert [data for data in datas if data.startswith(b"line ")] == wanted
    assert len(datas) == 60 + 1 + 340 - len(secrets)
    one_rig.append(*(b"again %d" % n for n in range(200)))
    assert not one_rig.once().errors
    assert one_rig.run("parity", *url).returncode == 0, one_rig.run("parity", *url).stdout
    assert one_rig.run("trim", "--execute", *url).returncode == 0
    printed = one_rig.run("tail", "--json", "-n", "1000", *url)
    assert (printed.returncode, len(printed.stdout.splitlines())) == (0, 601 - len(secrets))


def test_an_archive_that_was_spoiled_beside_what_was_redacted(one_rig: Rig) -> None:
    """Another line that is missing there is an error that names the file, as before."""
    ids, url = archived(one_rig)
    told = redact(one_rig, ids[SECRET], "--reason", "a password", "--execute")
    [path] = {Path(raw) for raw in re.findall(r"the archive: (\S+)", told.stdout)}
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines[:10], *lines[11:SECRET], *lines[SECRET + 1 :]])))
    printed = one_rig.run("tail", "-n", "1000", *url)
    assert printed.returncode == 1
    assert "does not hold what was archived" in printed.stderr
