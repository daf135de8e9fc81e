"""A log that was edited, cut or saved anew: none of its new lines is lost, and none of its old ones comes twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bridge.core.model import format_id
from bridge.ledger.edits import rewrites_of
from bridge.ledger.quarantine import quarantine_counts
from bridge.ledger.store import Ledger
from bridge.parity.acknowledgements import name_of
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, delimited, line
from tests.support.running import Running

BASE = [b"line %d" % n for n in range(400)]

Act = Callable[[list[bytes]], list[bytes]]

ACTS: dict[str, tuple[Act, int]] = {
    "a line changed": (lambda old: [*old[:50], b"line 50, changed and longer", *old[51:]], 0),
    "a line taken out": (lambda old: [*old[:50], *old[51:]], 0),
    "changed and taken out": (lambda old: [*old[:50], b"changed", *old[51:90], *old[91:]], 0),
    "put in": (lambda old: [*old[:50], b"put in", *old[50:]], 0),
    "the head cut": (lambda old: old[300:], 0),
    "cut and written on": (lambda old: [*old[300:], b"n1", b"n2"], 0),
    "the tail cut": (lambda old: old[:100], 0),
    "the last line changed": (lambda old: [*old[:-1], b"changed"], 0),
    "a line again": (lambda old: [*old[:50], old[49], *old[50:]], 0),
    "two swapped": (lambda old: [*old[:99], old[100], old[99], *old[101:]], 1),
    "sorted": (sorted, 97),
    "begun anew": (lambda old: [b"m%d" % n for n in range(20)], 0),
}
"""What was made of the lines; and how many are sent again, as no two that stand once are in order around them."""


def save(path: Path, datas: list[bytes], *, in_place: bool) -> None:
    """Writes a log anew, in place or beside it and renamed over it."""
    content = b"".join(map(line, datas))
    if in_place:
        path.write_bytes(content)
        return
    beside = path.with_name("saved.tmp")
    beside.write_bytes(content)
    beside.replace(path)


def came(rig: Rig) -> Counter[bytes]:
    """How often each line came to the stream."""
    return Counter(rig.datas())


def wanted(*files: list[bytes]) -> Counter[bytes]:
    """How often each line has to stand in the stream: as often as one of the files held it."""
    found = Counter[bytes]()
    for datas in files:
        found |= Counter(datas)
    return found


def said_of(rig: Rig) -> list[str]:
    """What the ledger noted of each file that took the log's place."""
    ledger = Ledger(rig.state / "ledger.db")
    try:
        return [found.how for found in rewrites_of(ledger, STREAM)]
    finally:
        ledger.close()


@pytest.mark.parametrize(("act", "in_place"), [(act, n % 2 == 1) for n, act in enumerate(ACTS)])
def test_acts_while_stopped(one_rig: Rig, act: str, in_place: bool) -> None:
    """The next run sends what is new, once, and nothing of what was carried."""
    change, again = ACTS[act]
    one_rig.append(*BASE)
    assert not one_rig.once().errors
    made = change(BASE)
    save(one_rig.log, made, in_place=in_place)
    assert not one_rig.once().errors
    one_rig.append(b"after")
    assert not one_rig.once().errors
    twice = came(one_rig) - wanted(BASE, [*made, b"after"])
    assert not wanted(BASE, [*made, b"after"]) - came(one_rig)
    assert sum(twice.values()) <= again


@pytest.mark.parametrize(("act", "in_place"), [(act, n % 2 == 0) for n, act in enumerate(ACTS)])
def test_acts_while_running(one_rig: Rig, act: str, in_place: bool) -> None:
    """A running bridge sees it at its next sweep, and goes on as if nothing had been."""
    change, again = ACTS[act]
    one_rig.append(*BASE)
    running = Running(one_rig, dual=True)
    try:
        running.sweep(2)
        made = change(BASE)
        save(one_rig.log, made, in_place=in_place)
        running.sweep(2)
        one_rig.append(b"after")
        running.sweep(2)
    finally:
        running.close()
    assert not wanted(BASE, [*made, b"after"]) - came(one_rig)
    assert sum((came(one_rig) - wanted(BASE, [*made, b"after"])).values()) <= again


def test_mirrored_lines_stay_the_mirrors(one_rig: Rig) -> None:
    """Lines that the mirror wrote are not carried back from a file that was saved anew, wherever they stand in it."""
    one_rig.append(*BASE[:50])
    one_rig.add("r-0")
    one_rig.add("r-1")
    assert not one_rig.once().errors
    one_rig.append(*BASE[50:100])
    one_rig.add("r-2")
    assert not one_rig.once().errors
    lines = one_rig.log.read_bytes().splitlines(keepends=True)
    edited = [*lines[10:50], line("put in"), *lines[50:]]
    beside = one_rig.root / "saved.tmp"
    beside.write_bytes(b"".join(edited))
    beside.replace(one_rig.log)
    before = one_rig.datas()
    result = one_rig.once()
    assert (result.forwarded, result.mirrored) == (1, 0)
    assert one_rig.datas() == [*before, b"put in"]
    assert one_rig.log.read_bytes() == b"".join(edited)


def test_edited_again_and_again(one_rig: Rig) -> None:
    """Each edit of an edited log is aligned with what stood before, through all that were."""
    one_rig.append(*BASE)
    made, every = BASE, [BASE]
    for n in range(5):
        assert not one_rig.once().errors
        made = [*made[:10], b"put in %d" % n, *made[20:]]
        every.append(made)
        save(one_rig.log, made, in_place=bool(n % 2))
    assert not one_rig.once().errors
    assert came(one_rig) == wanted(*every)
    assert said_of(one_rig) == ["aligned"] * 5


def test_edited_and_rotated_while_the_bridge_sleeps(one_rig: Rig) -> None:
    """A log that was edited, rotated and packed since is aligned where it lies by now."""
    import gzip

    one_rig.append(*BASE)
    assert not one_rig.once().errors
    made = [*BASE[:50], b"changed", *BASE[60:]]
    (one_rig.root / "messages.log.2.gz").write_bytes(gzip.compress(b"".join(map(line, [*made, b"more"]))))
    one_rig.log.rename(one_rig.root / "gone")
    (one_rig.root / "gone").unlink()
    (one_rig.root / "messages.log.1").write_bytes(line("second"))
    one_rig.append(b"third")
    assert not one_rig.once().errors
    assert came(one_rig) == wanted(BASE, made, [b"more", b"second", b"third"])


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("act", ["a line changed", "changed and taken out", "the head cut", "put in", "the tail cut"])
def test_parity_names_once_what_was_taken_out(one_rig: Rig, act: str, in_place: bool) -> None:
    """What was passed over is equal where it stands now; what is gone is named, acknowledged, and then all is equal."""
    change, _ = ACTS[act]
    one_rig.append(*BASE)
    assert not one_rig.once().errors
    assert one_rig.parity().verdict == "equal"
    made = change(BASE)
    save(one_rig.log, made, in_place=in_place)
    assert not one_rig.once().errors
    gone = [text for text in BASE if text not in made]
    found = one_rig.parity()
    rows = found.tally.taken_out
    assert sum(row.count for row in rows) == len(gone)
    assert found.verdict == ("differs" if gone else "equal")
    assert not [note for note in found.notes if "is gone" in note]
    if not gone:
        return
    names = [f"{format_id(row.first).decode()}..{format_id(row.last).decode()}" for row in rows]
    url = ("--redis", one_rig.server.socket_url)
    told = one_rig.run("repair", *url, "--accept", *names, "--reason", "it was a secret")
    assert told.returncode == 0, told.stderr
    equal = one_rig.parity()
    assert (equal.verdict, equal.tally.acknowledged) == ("equal", len(gone))
    assert "it was a secret" in one_rig.run("journal").stdout
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert one_rig.parity().verdict == "equal"
    again = one_rig.run("repair", *url, "--accept", names[0], "--reason", "once more")
    assert again.returncode == 2


@pytest.mark.parametrize("left", [0, 37, 99, 103])
def test_redis_loses_lines_of_an_edited_log(one_rig: Rig, left: int) -> None:
    """What files hold comes back, once: lines too that stand in another file than the one they were sent from."""
    one_rig.append(*BASE[:100])
    assert not one_rig.once().errors
    one_rig.add("r-0")
    one_rig.add("r-1")
    assert not one_rig.once().errors
    lines = one_rig.log.read_bytes().splitlines(keepends=True)
    edited = [*lines[10:50], line("put in"), *lines[51:]]
    one_rig.log.write_bytes(b"".join(edited))
    assert not one_rig.once().errors
    one_rig.append(b"after")
    assert not one_rig.once().errors
    before = one_rig.entries()
    assert len(before) == 104
    fall_back(one_rig, left)
    assert not one_rig.once().errors
    assert not one_rig.once().errors
    files = [datas.rsplit(b"|", 1)[1] for datas in one_rig.log.read_bytes().splitlines()]
    kept = [entry.fields[7] for entry in before[:left]]
    assert came(one_rig) == wanted(kept, files)
    assert one_rig.log.read_bytes() == b"".join(edited) + line("after")


def fall_back(rig: Rig, left: int) -> None:
    """Redis comes back with an older data set, of which the stream has so many entries."""
    keys = [key for key in rig.redis.call("KEYS", "*") if key != STREAM.encode()]
    first = [(entry.id, entry.fields) for entry in rig.entries()[:left]]
    rig.redis.call("DEL", STREAM, *(key for key in keys if not left))
    for (ms, seq), fields in first:
        rig.redis.call("XADD", STREAM, f"{ms}-{seq}", *fields)


def lose_the_ledger(rig: Rig) -> None:
    """The ledger is deleted, and rebuilt from stream and files."""
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    told = rig.run("repair", "--redis", rig.server.socket_url, "--take-over", "--execute")
    assert told.returncode in (0, 3, 4), told.stderr


def _edit(rig: Rig, word: str) -> None:
    held = rig.log.read_bytes().splitlines(keepends=True)
    rig.log.write_bytes(b"".join([*held[:50], *held[53:90], line(word), *held[90:]]))


@pytest.mark.parametrize("carried", [0, 1, 2])
@pytest.mark.parametrize("flushed", [False, True])
def test_a_ledger_that_is_lost_before_an_edit_is_carried(one_rig: Rig, carried: int, flushed: bool) -> None:
    """It is rebuilt with the edits of before; what is edited behind them comes neither twice nor not at all."""
    one_rig.append(*BASE)
    one_rig.add("r-0")
    assert not one_rig.once().errors
    for n in range(carried):
        _edit(one_rig, f"put in {n}")
        assert not one_rig.once().errors
        one_rig.append(f"after {n}")
        assert not one_rig.once().errors
    if flushed:
        one_rig.redis.call("FLUSHALL")
        assert not one_rig.once().errors
    before = came(one_rig)
    lose_the_ledger(one_rig)
    _edit(one_rig, "the last")
    assert not one_rig.once().errors
    one_rig.append("the end")
    assert not one_rig.once().errors
    assert came(one_rig) == before + Counter([b"the last", b"the end"])


def test_a_ledger_that_is_lost_behind_an_edit(one_rig: Rig) -> None:
    """It is rebuilt, with what of the edited log was carried from the one before, and parity finds that there."""
    one_rig.append(*BASE)
    one_rig.add("r-0")
    assert not one_rig.once().errors
    lines = one_rig.log.read_bytes().splitlines(keepends=True)
    one_rig.log.write_bytes(b"".join([*lines[10:50], line("put in"), *lines[50:]]))
    assert not one_rig.once().errors
    before = one_rig.datas()
    lose_the_ledger(one_rig)
    assert not one_rig.once().errors
    assert one_rig.datas() == before
    found = one_rig.parity()
    assert [row.count for row in found.tally.taken_out] == [10]
    assert one_rig.log.read_bytes().count(b"r-0") == 1


@pytest.mark.parametrize("when", ["align.before", "record.before", "record.after", "align.after"])
@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
def test_killed_as_it_is_found_out(one_rig: Rig, when: str, in_place: bool) -> None:
    """A bridge that is killed before or after it noted what an edited log holds goes on exactly."""
    one_rig.append(*BASE)
    one_rig.add("r-0")
    assert not one_rig.once().errors
    lines = one_rig.log.read_bytes().splitlines(keepends=True)
    made = [*lines[10:50], line("put in"), *lines[50:]]
    one_rig.log.write_bytes(b"".join(made)) if in_place else _beside(one_rig.log, made)
    child = one_rig.start("--dual", crash=f"forward.{when}")
    child.wait(timeout=60)
    assert child.returncode == -9
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert came(one_rig) == wanted([*BASE, b"r-0"], [b"put in", b"after"])
    assert one_rig.log.read_bytes() == b"".join(made) + line("after")


def _beside(path: Path, lines: list[bytes]) -> None:
    beside = path.with_name("saved.tmp")
    beside.write_bytes(b"".join(lines))
    beside.replace(path)


def beats(*numbers: int) -> list[bytes]:
    """Lines of which each stands there many times."""
    return [b"beat %d" % (n % 7) for n in numbers]


@pytest.mark.parametrize("say", ["--as-new", "--as-edit"])
def test_a_log_waits_to_be_told_what_it_is(one_rig: Rig, say: str) -> None:
    """Where lines are shared and nothing tells which, nothing is sent until a person says what took the log's place."""
    old = beats(*range(60))
    one_rig.append(*old)
    assert not one_rig.once().errors
    made = [*old[5:], b"more"]
    save(one_rig.log, made, in_place=False)
    [error] = one_rig.once().errors
    assert "stood there before, in no order that tells which" in str(error)
    assert "--as-new messages.log" in error.hint
    assert "--as-edit messages.log" in error.hint
    assert came(one_rig) == Counter(old)
    url = ("--redis", one_rig.server.socket_url)
    assert one_rig.run("repair", *url, "--accept", "1-1").returncode == 2
    told = one_rig.run("repair", *url, say)
    assert (told.returncode, told.stderr) == (0, "")
    assert not one_rig.once().errors
    assert came(one_rig) == (Counter(old) + Counter(made) if say == "--as-new" else Counter([*old, b"more"]))
    assert one_rig.run("repair", *url, say, "messages.log").returncode == 2


def test_a_running_bridge_is_told_what_a_file_is(one_rig: Rig) -> None:
    """It goes on with the log at its next look."""
    old = beats(*range(60))
    one_rig.append(*old)
    running = Running(one_rig)
    try:
        running.sweep(2)
        save(one_rig.log, old[5:], in_place=True)
        running.sweep(2)
        one_rig.append(b"after")
        running.sweep(2)
        assert came(one_rig) == Counter(old)
        assert one_rig.run("repair", "--redis", one_rig.server.socket_url, "--as-edit", "messages.log").returncode == 0
        running.sweep(2)
    finally:
        running.close()
    assert came(one_rig) == Counter([*old, b"after"])


@pytest.mark.parametrize("how", ["stop", "new"])
def test_on_rewrite(one_rig: Rig, how: str) -> None:
    """`stop` asks a person at each edit; `new` sends all of the file again."""
    one_rig.append(*BASE)
    (one_rig.path / "mine.toml").write_text(
        delimited("messages.log", "messages.log.*", mirror="messages.log").replace(
            'kind = "log"', f'kind = "log"\non_rewrite = "{how}"'
        )
    )
    one_rig.write_config(mapping="mine.toml")
    assert not one_rig.once().errors
    save(one_rig.log, BASE[1:], in_place=False)
    errors = one_rig.once().errors
    assert bool(errors) == (how == "stop")
    assert came(one_rig) == (Counter(BASE) if how == "stop" else Counter(BASE) + Counter(BASE[1:]))


def _who_trims(rig: Rig, by: str) -> None:
    """The 300 oldest entries go: by the bridge's own trimming, without an archive, or by another client's."""
    if by == "somebody":
        assert rig.redis.call("XTRIM", STREAM, "MAXLEN", 100) == 300
        return
    mapping_text = shipped("hestai-message")
    limits = "[retention]\nkeep_entries = 100\nconfirm = false\n"
    (rig.path / "kept.toml").write_text(f"{mapping_text}\n{limits}")
    rig.write_config(mapping="kept.toml")
    assert rig.run("parity", "--redis", rig.server.socket_url).returncode == 0
    done = rig.run("trim", "--execute", "--redis", rig.server.socket_url)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("by", ["the bridge", "somebody"])
@pytest.mark.parametrize("say", ["", "--as-edit"])
def test_lines_of_before_that_were_trimmed(one_rig: Rig, by: str, say: str) -> None:
    """Of a log whose first entries were trimmed an edit asks, if it leaves their lines; it does not if they are cut."""
    one_rig.append(*BASE)
    assert not one_rig.once().errors
    _who_trims(one_rig, by)
    left = one_rig.datas()
    assert 100 <= len(left) < 200
    made = [*BASE[0 if say else 320 : 350], *BASE[351:]]
    save(one_rig.log, made, in_place=False)
    errors = one_rig.once().errors
    assert bool(errors) == bool(say)
    if say:
        assert re.search("its first [23].. may be some of those", str(errors[0]))
        assert one_rig.run("repair", "--redis", one_rig.server.socket_url, say).returncode == 0
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert one_rig.datas() == [*left, b"after"]


def test_status_and_files_say_what_was_found(one_rig: Rig) -> None:
    """In one sentence: how many lines were changed, put in and taken out, and how many were sent again."""
    one_rig.append(*BASE)
    assert not one_rig.once().errors
    save(one_rig.log, [*BASE[:50], b"changed", *BASE[51:90], *BASE[91:]], in_place=False)
    assert not one_rig.once().errors
    url = ("--redis", one_rig.server.socket_url)
    said = re.compile(r"messages\.log was saved anew at \d\d:\d\d: 1 line changed, 1 taken out, none sent again")
    for verb in ("status", "files"):
        told = one_rig.run(verb, *url, env={"COLUMNS": "200"})
        assert told.returncode == 0, told.stdout
        assert said.search(" ".join(told.stdout.split())), told.stdout
    [found] = json.loads(one_rig.run("status", *url, "--json").stdout)["mappings"][0]["edits"]
    assert (found["how"], found["changed"], found["taken_out"], found["again"]) == ("aligned", 1, 1, 0)


def test_status_says_what_waits_for_a_person(one_rig: Rig) -> None:
    """Also while no bridge runs: it exits 3, with both choices."""
    one_rig.append(*beats(*range(60)))
    assert not one_rig.once().errors
    save(one_rig.log, beats(*range(5, 60)), in_place=False)
    assert one_rig.once().errors
    told = one_rig.run("status", "--redis", one_rig.server.socket_url)
    assert told.returncode == 3
    assert "stood there before, in no order that tells which" in " ".join(told.stdout.split())
    assert one_rig.parity().verdict == "inconclusive"


def test_two_saves_close_together(one_rig: Rig) -> None:
    """A file that is replaced before it is known what it holds is skipped: the next is aligned with what was carried."""
    one_rig.append(*BASE)
    running = Running(one_rig)
    try:
        running.sweep(2)
        for n in (3, 5, 7):
            made = [text for text in BASE if text not in BASE[3 : n + 1]]
            save(one_rig.log, made, in_place=False)
            running.forward.look()
        running.sweep(2)
        one_rig.append(b"after")
        running.sweep(2)
    finally:
        running.close()
    assert came(one_rig) == Counter([*BASE, b"after"])


@pytest.mark.parametrize(
    ("name", "copied"),
    [("messages.log.bak", False), ("messages.log.bak", True), ("messages.log.orig", False), ("messages.log.1", True)],
)
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_an_editor_leaves_a_backup(one_rig: Rig, name: str, copied: bool, stopped: bool) -> None:
    """The backup is no rotation: what stands in it and in the log comes once, and both sides are equal."""
    one_rig.append(*BASE)
    running = Running(one_rig)
    backup = one_rig.root / name
    try:
        running.sweep(2)
        if stopped:
            running.close()
        if copied:
            backup.write_bytes(one_rig.log.read_bytes())
        else:
            one_rig.log.rename(backup)
        save(one_rig.log, [*BASE[:50], b"changed", *BASE[60:]], in_place=False)
        if not stopped:
            running.sweep(2)
    finally:
        if not stopped:
            running.close()
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*BASE, b"changed"])
    assert one_rig.parity().verdict == "equal"


def test_edited_again_behind_what_was_found_out(one_rig: Rig) -> None:
    """A bridge is killed when it noted what a file holds, which is edited then: what stands there by now is looked at."""
    one_rig.append(*BASE)
    assert not one_rig.once().errors
    save(one_rig.log, [*BASE[:40], b"changed", *BASE[41:]], in_place=False)
    child = one_rig.start("--dual", crash="forward.align.after")
    child.wait(timeout=60)
    made = [*BASE[:40], b"changed", *BASE[41:60], *(b"put in %d" % n for n in range(10)), *BASE[60:]]
    save(one_rig.log, made, in_place=True)
    assert not one_rig.once().errors
    assert came(one_rig) == wanted(BASE, made)
    assert "missing_in_redis" not in {difference.kind for difference in one_rig.parity().tally.differences}


def test_mirrored_into_a_file_that_waits_and_is_edited_again(one_rig: Rig) -> None:
    """What the mirror wrote there does not hold up the log when an edit moves it."""
    old = beats(*range(60))
    one_rig.append(*old)
    running = Running(one_rig, dual=True)
    try:
        running.sweep(2)
        save(one_rig.log, old[5:], in_place=True)
        running.sweep(2)
        one_rig.add("r-0")
        running.sweep(2)
        raw = one_rig.log.read_bytes()
        assert b"r-0" in raw
        one_rig.log.write_bytes(line("put in") + raw)
        running.sweep(2)
        assert one_rig.run("repair", "--redis", one_rig.server.socket_url, "--as-new").returncode == 0
        one_rig.append(b"after")
        running.sweep(3)
    finally:
        running.close()
    assert not Counter([*old, *old[5:], b"put in", b"r-0", b"after"]) - came(one_rig)


def test_rows_that_are_acknowledged_overlap(one_rig: Rig) -> None:
    """A row around one that is acknowledged is acknowledged as a whole; and of each as many as were named then."""
    one_rig.append(*BASE[:60])
    assert not one_rig.once().errors
    url = ("--redis", one_rig.server.socket_url)
    for made in (BASE[:60][:20] + BASE[25:60], BASE[:60][:10] + BASE[35:60]):
        save(one_rig.log, made, in_place=False)
        assert not one_rig.once().errors
        [row] = one_rig.parity().tally.taken_out
        name = f"{format_id(row.first).decode()}..{format_id(row.last).decode()}"
        assert one_rig.run("repair", *url, "--accept", name, "--reason", "meant").returncode == 0
    equal = one_rig.parity()
    assert (equal.verdict, equal.tally.acknowledged) == ("equal", 25)


def test_a_line_of_the_same_length(one_rig: Rig) -> None:
    """A change that leaves size, beginning and end as they were is seen by what is read between."""
    one_rig.append(*BASE)
    running = Running(one_rig)
    made = [*BASE[:200], b"line ABC", *BASE[201:]]
    try:
        running.sweep(2)
        save(one_rig.log, made, in_place=True)
        running.sweep(2)
    finally:
        running.close()
    assert came(one_rig) == wanted(BASE, made)
    made = [*made[:100], b"line DEF", *made[101:], b"after"]
    save(one_rig.log, made, in_place=False)
    assert not one_rig.once().errors
    assert came(one_rig) == wanted(BASE, [b"line ABC"], made)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("length", [300, 70_000, 3_000_000])
def test_a_line_that_was_set_aside_stays_where_it_is(one_rig: Rig, length: int, stopped: bool) -> None:
    """A line that is no message, or over the limit, is passed over with those around it, and is set aside once."""
    one_rig.append(*BASE[:50])
    with one_rig.log.open("ab") as file:
        file.write(b"x" * length + b"\n")
    one_rig.append(*BASE[50:100])
    running = Running(one_rig, dual=True)
    running.sweep(3)
    lines = one_rig.log.read_bytes().splitlines(keepends=True)
    edited = [*lines[:10], line("put in"), *lines[11:]]
    if stopped:
        running.close()
    _beside(one_rig.log, edited)
    if not stopped:
        running.sweep(3)
        running.close()
    told = one_rig.once()
    assert not told.errors
    assert came(one_rig) == wanted(BASE[:100], [b"put in"])
    with closing(Ledger(one_rig.state / "ledger.db")) as ledger:
        assert sum(count for _, _, count in quarantine_counts(ledger, STREAM)) == 1


EDITS: dict[str, Act] = {
    "changed": lambda old: [*old[:20], b"changed, and longer", *old[21:]],
    "taken out": lambda old: [*old[:20], *old[21:]],
    "put in": lambda old: [*old[:20], b"put in", *old[20:]],
}


def _rotated(rig: Rig, edit: Act, *, in_place: bool) -> Path:
    """A log of 100 lines is rotated and goes on with 50; then its rotated piece is edited."""
    rig.append(*BASE[:100])
    assert not rig.once().errors
    piece = rig.log.rename(rig.log.with_name("messages.log.1"))
    rig.append(*BASE[100:150])
    assert not rig.once().errors
    save(piece, edit(BASE[:100]), in_place=in_place)
    return piece


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("act", EDITS)
def test_a_piece_is_edited_and_so_is_its_log(one_rig: Rig, act: str, in_place: bool) -> None:
    """What is left of both comes once, though nothing but their lines tells which generation a piece was."""
    piece = _rotated(one_rig, EDITS[act], in_place=in_place)
    save(one_rig.log, [*BASE[100:110], *BASE[111:150]], in_place=False)
    told = one_rig.once()
    assert not told.errors
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert came(one_rig) == wanted(BASE[:150], EDITS[act](BASE[:100]), [b"after"])
    status = one_rig.run("status", "--redis", one_rig.server.socket_url).stdout
    assert "messages.log was saved anew" in status
    assert piece.exists()


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("act", EDITS)
def test_a_piece_is_edited_and_then_the_log_rotated(one_rig: Rig, act: str, in_place: bool) -> None:
    """A piece that was written to last is no new one for that."""
    piece = _rotated(one_rig, EDITS[act], in_place=in_place)
    piece.rename(piece.with_name("messages.log.2"))
    one_rig.log.rename(piece)
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert came(one_rig) == wanted(BASE[:150], EDITS[act](BASE[:100]), [b"after"])
    accept_all(one_rig)
    assert one_rig.parity().verdict == "equal"


def accept_all(rig: Rig) -> None:
    """Somebody acknowledges all that parity names."""
    found = rig.parity()
    rows = [f"{format_id(row.first).decode()}..{format_id(row.last).decode()}" for row in found.tally.taken_out]
    names = {*rows, *(name_of(difference) for difference in found.tally.differences)}
    if names:
        told = rig.run("repair", "--redis", rig.server.socket_url, "--accept", *sorted(names), "--reason", "meant")
        assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("act", EDITS)
def test_an_edited_piece_is_not_brought_over(one_rig: Rig, act: str, in_place: bool) -> None:
    """A repair tells which generation it is, and parity names what was changed, until somebody acknowledges that."""
    piece = _rotated(one_rig, EDITS[act], in_place=in_place)
    url = ("--redis", one_rig.server.socket_url)
    one_rig.append(b"more")
    assert not one_rig.once().errors
    files = one_rig.run("files", *url)
    assert files.returncode == 3
    assert "as generation 1 did" in files.stdout
    told = one_rig.run("repair", *url)
    assert f"{piece.name} is generation 1 of messages.log, edited since it was carried: " in told.stdout
    done = one_rig.run("repair", "--execute", *url)
    assert "it is not brought over" in done.stdout
    assert came(one_rig) == Counter([*BASE[:150], b"more"])
    [difference] = one_rig.parity().tally.differences
    name = difference.entry or f"{piece.name}:{difference.line}"
    accepted = one_rig.run("repair", *url, "--accept", name, "--reason", "meant")
    assert (accepted.returncode, accepted.stderr) == (0, "")
    piece.rename(piece.with_name("messages.log.2"))
    one_rig.log.rename(piece)
    one_rig.append(b"after")
    assert not one_rig.once().errors
    found = one_rig.parity()
    assert (found.verdict, found.tally.acknowledged) == ("equal", 1)
    assert one_rig.run("files", *url).returncode == 0
    one_rig.redis.call("FLUSHALL")
    assert not one_rig.once().errors
    assert one_rig.run("files", *url).returncode == 3  # what it holds is in the stream no more
    assert one_rig.run("repair", "--execute", *url).returncode in (0, 3)
    assert came(one_rig) == Counter([*EDITS[act](BASE[:100]), *BASE[100:150], b"more", b"after"])
