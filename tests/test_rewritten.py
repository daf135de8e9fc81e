"""A log that was edited, cut or saved anew: none of its new lines is lost, and none of its old ones comes twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.ledger.aligned import rewrites_of
from bridge.ledger.store import Ledger
from bridge.model import format_id
from tests.rig import STREAM, Rig, line
from tests.running import Running

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


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("act", [*ACTS])
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


@pytest.mark.parametrize("in_place", [False, True], ids=["saved beside", "in place"])
@pytest.mark.parametrize("act", [*ACTS])
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
    one_rig.add("r-0", "r-1")
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
    gone = [one for one in BASE if one not in made]
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
