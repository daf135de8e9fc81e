"""Edits of a log together with what else befalls it: a lost ledger, trims, pieces put back, acknowledgements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bridge.core.errors import LedgerError
from bridge.core.model import format_id
from bridge.kinds.log import edited_log
from bridge.ledger.edits import save_rewrite
from bridge.ledger.quarantine import quarantine_counts
from bridge.ledger.store import Ledger
from tests.kinds.test_edited_logs import BASE, accept_all, came, lose_the_ledger, save
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, line
from tests.support.running import Running, mapped, write


@pytest.mark.parametrize("at_commit", [False, True])
def test_a_ledger_that_takes_no_note_of_an_edit(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, at_commit: bool) -> None:
    """Where it cannot be written what an edited log holds, nothing of it is sent; the next try finds it out again."""
    one_rig.append(*BASE[:100])
    running = Running(one_rig)
    running.sweep(2)
    tries, due, transaction = [0], [False], Ledger.transaction

    def fails(*args: object) -> None:
        tries[0] += 1
        if tries[0] == 1 and not at_commit:
            raise LedgerError("the disk is full")
        due[0] = tries[0] == 1
        save_rewrite(*args)  # type: ignore[arg-type]

    @contextmanager
    def committed(self: Ledger, marked: str = "") -> Iterator[None]:
        with transaction(self, marked):
            yield
            if due[0]:
                due[0] = False
                raise LedgerError("the disk is full")

    monkeypatch.setattr(edited_log, "save_rewrite", fails)
    monkeypatch.setattr(Ledger, "transaction", committed)
    save(one_rig.log, [*BASE[:50], b"put in", *BASE[50:100]], in_place=False)
    running.sweep(5)
    running.close()
    assert not one_rig.once().errors
    assert tries[0] == 2
    assert came(one_rig) == Counter([*BASE[:100], b"put in"])


def _redact(rig: Rig, n: int) -> str:
    entry = format_id(rig.entries()[n].id).decode()
    url = ("--redis", rig.server.socket_url)
    told = rig.run("redact", *url, "hestai-message", entry, "--reason", "a password", "--execute")
    assert told.returncode == 0, told.stderr
    return entry


@pytest.mark.parametrize("flushed", [False, True])
def test_redacted_and_the_ledger_is_lost(one_rig: Rig, flushed: bool) -> None:
    """A redacted line that stands in the log still does not come back, by a repair neither."""
    one_rig.append(*BASE[:60])
    assert not one_rig.once().errors
    _redact(one_rig, 30)
    if flushed:
        one_rig.redis.call("FLUSHALL")
        assert not one_rig.once().errors
    lose_the_ledger(one_rig)
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*BASE[:30], *BASE[31:60]])
    assert one_rig.parity().verdict == "equal"


def test_acknowledged_and_redacted_lines_in_a_trimmed_head(one_rig: Rig) -> None:
    """`--as-edit` takes the whole head for known, whatever else is known of lines in it, and parity counts them."""
    one_rig.append(*BASE[:300])
    assert not one_rig.once().errors
    _redact(one_rig, 3)
    assert one_rig.redis.call("XTRIM", STREAM, "MAXLEN", 100) == 199
    url = ("--redis", one_rig.server.socket_url)
    told = one_rig.run("repair", *url, "--accept", "messages.log:1", "messages.log:2", "--reason", "x")
    assert told.returncode == 0, told.stderr
    save(one_rig.log, [*BASE[:250], b"edited", *BASE[251:300]], in_place=False)
    assert one_rig.once().errors
    assert one_rig.run("repair", *url, "--as-edit").returncode == 0
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*BASE[200:300], b"edited"])
    accept_all(one_rig)
    found = one_rig.parity()
    assert (found.verdict, found.tally.unproved) == ("equal", 200)
    assert "200 lines passed over on somebody's word" in one_rig.run("parity", *url).stdout


@pytest.mark.parametrize("kept", [True, False], ids=["the piece stays", "the piece is gone"])
def test_a_piece_is_put_back(one_rig: Rig, kept: bool) -> None:
    """`cat messages.log.1 messages.log > t && mv t messages.log`: nothing comes twice, and nothing of the mirror's."""
    one_rig.append(*BASE[:60])
    assert not one_rig.once().errors
    for n in range(5):
        one_rig.add(f"r-{n}")
    assert not one_rig.once().errors
    piece = one_rig.log.rename(one_rig.log.with_name("messages.log.1"))
    one_rig.append(*BASE[60:80])
    assert not one_rig.once().errors
    before = came(one_rig)
    beside = one_rig.log.with_name("t")
    beside.write_bytes(piece.read_bytes() + one_rig.log.read_bytes())
    beside.replace(one_rig.log)
    if not kept:
        piece.unlink()
    assert not one_rig.once().errors
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert came(one_rig) == before + Counter([b"after"])
    assert one_rig.parity().verdict == "equal"


def test_two_sessions_with_the_same_banner(one_rig: Rig) -> None:
    """A session that was nothing but a banner is gone; parity does not take a later one for it."""
    banner = [b"banner %d" % n for n in range(3)]
    one_rig.append(*banner)
    assert not one_rig.once().errors
    piece = one_rig.log.rename(one_rig.log.with_name("messages.log.1"))
    one_rig.append(*BASE[:10])
    assert not one_rig.once().errors
    one_rig.log.rename(piece)
    one_rig.append(*banner, *BASE[20:30])
    assert not one_rig.once().errors
    found = one_rig.parity()
    assert (found.tally.in_flight, found.tally.unverifiable) == (0, 3)
    one_rig.redis.call("FLUSHALL")
    assert not one_rig.once().errors
    assert one_rig.parity().verdict == "equal"


@pytest.mark.parametrize("stopped", [True, False])
def test_an_acknowledged_change_stays_so(one_rig: Rig, stopped: bool) -> None:
    """What somebody acknowledged before the bridge saw the edit is not named again behind it, nor by another edit."""
    one_rig.append(*BASE[:60])
    assert not one_rig.once().errors
    gone = [format_id(entry.id).decode() for entry in one_rig.entries()[4:6]]
    one_rig.redis.call("XDEL", STREAM, *gone)
    if stopped:
        save(one_rig.log, [*BASE[:30], b"changed and longer", *BASE[31:60]], in_place=False)
    accept_all(one_rig)
    assert one_rig.parity().verdict == "equal"
    if not stopped:
        save(one_rig.log, [*BASE[:30], b"changed and longer", *BASE[31:60]], in_place=False)
    assert not one_rig.once().errors
    one_rig.append(b"after")
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*BASE[:4], *BASE[6:60], b"changed and longer", b"after"])
    found = one_rig.parity()
    assert sum(found.counts().values()) == (0 if stopped else 1)


def test_a_line_behind_an_edited_piece(one_rig: Rig) -> None:
    """What is written to the end of a piece that was edited is no message under way: parity names it."""
    one_rig.append(*BASE[:60])
    assert not one_rig.once().errors
    piece = one_rig.log.rename(one_rig.log.with_name("messages.log.1"))
    one_rig.append(*BASE[60:80])
    assert not one_rig.once().errors
    save(piece, [*BASE[:20], b"changed, and longer", *BASE[21:60], b"at the end"], in_place=False)
    one_rig.append(b"more")
    assert not one_rig.once().errors
    found = one_rig.parity()
    assert (found.tally.in_flight, found.counts()["missing_in_redis"], found.counts()["altered"]) == (0, 1, 1)


def test_trimmed_and_edited_twice_and_the_ledger_is_lost(one_rig: Rig) -> None:
    """A repair sends nothing of what was trimmed on purpose, though lines that came later stand among it."""
    mapping_text = shipped("hestai-message")
    limits = "[retention]\nkeep_entries = 20\nconfirm = false\narchive = true\n"
    (one_rig.path / "kept.toml").write_text(f"{mapping_text}\n{limits}")
    one_rig.write_config(mapping="kept.toml")
    one_rig.append(*BASE[:160])
    assert not one_rig.once().errors
    url = ("--redis", one_rig.server.socket_url)
    assert one_rig.run("parity", *url).returncode == 0
    assert one_rig.run("trim", "--execute", *url).returncode == 0
    for n in (10, 20):
        held = one_rig.log.read_bytes().splitlines(keepends=True)
        one_rig.log.write_bytes(b"".join([*held[:n], line(f"changed {n}"), *held[n + 1 :]]))
        assert not one_rig.once().errors
    before = came(one_rig)
    lose_the_ledger(one_rig)
    assert not one_rig.once().errors
    assert came(one_rig) == before
    assert one_rig.parity().verdict == "equal"


def test_a_long_line_and_the_ledger_is_lost(one_rig: Rig) -> None:
    """It is in quarantine again, as the lines are that do not parse."""
    one_rig.append(*BASE[:30])
    with one_rig.log.open("ab") as file:
        file.write(b"garbage\n" + line(b"y" * (1 << 21)))
    one_rig.append(*BASE[30:60])
    assert not one_rig.once().errors
    lose_the_ledger(one_rig)
    ledger = Ledger(one_rig.state / "ledger.db")
    try:
        assert sum(count for _, _, count in quarantine_counts(ledger, STREAM)) == 2
    finally:
        ledger.close()
    assert one_rig.parity().verdict == "equal"


def test_a_backup_whose_log_is_edited_then(one_rig: Rig) -> None:
    """A copy that was noted stays one, though the log that it was made of holds something else by now."""
    one_rig.append(*BASE[:200])
    running = Running(one_rig, dual=True)
    running.sweep(2)
    one_rig.log.with_name("messages.log.bak").write_bytes(one_rig.log.read_bytes())
    running.sweep(3)
    one_rig.append(b"more")
    running.sweep(2)
    save(one_rig.log, [*BASE[:20], *BASE[21:200], b"more"], in_place=False)
    running.sweep(4)
    running.close()
    assert not one_rig.once().errors
    accept_all(one_rig)
    assert one_rig.parity().verdict == "equal"
    assert came(one_rig) == Counter([*BASE[:200], b"more"])


def test_a_copy_that_is_met_while_it_is_empty(one_rig: Rig) -> None:
    """Under a glob a copy of a live log that was seen before its first byte is one all the same."""
    mapped(one_rig, "*.log")
    running = Running(one_rig)
    try:
        write(one_rig.root / "app.log", *(f"line {n}" for n in range(200)))
        running.sweep(2)
        (one_rig.root / "copy.log").touch()
        running.sweep(2)
        (one_rig.root / "copy.log").write_bytes((one_rig.root / "app.log").read_bytes())
        running.sweep(3)
    finally:
        running.close()
    assert len(one_rig.datas()) == 200
