"""The ledger's layout: an older one is brought up to date by those who hold the lock, and by nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.core.errors import LedgerError
from bridge.ledger.heartbeat import heartbeat, save_heartbeat
from bridge.ledger.quarantine import QuarantinedMessage, add_quarantined, mark_retried, quarantine_counts, quarantined
from bridge.ledger.store import OLDEST, VERSION, Ledger


def older(path: Path, version: int) -> None:
    """A ledger with a line in quarantine, as this version left it."""
    ledger = Ledger(path, create=True)
    add_quarantined(ledger, "s", [QuarantinedMessage("forward", "a.log", 1, 7, "", "reason: more", b"a", 1)], 1.0)
    ledger.write("DELETE FROM _sqlite_migrations")
    ledger.write(f"PRAGMA user_version={version}")
    ledger.close()


def test_from_the_version_before(tmp_path: Path) -> None:
    """Those who only look say what to do; `run` brings it up to date, and what was in it is there."""
    path = tmp_path / "ledger.db"
    older(path, OLDEST)
    with pytest.raises(LedgerError, match=f"is of version {OLDEST}") as caught:
        Ledger(path)
    assert "bridge run" in caught.value.hint
    ledger = Ledger(path, create=True)
    before = ledger.uuid
    assert quarantine_counts(ledger, "s") == [("forward", "reason", 1)]
    [message] = quarantined(ledger, "s")
    assert (message.name, message.offset, message.raw, message.retried) == ("a.log", 7, b"a", "")
    ledger.close()
    ledger = Ledger(path)
    assert (ledger.rows("PRAGMA user_version"), ledger.uuid) == ([(VERSION,)], before)
    ledger.close()


def test_from_before_the_first_release(tmp_path: Path) -> None:
    """A ledger of a version that was never released is left as it is, and the way out is said."""
    path = tmp_path / "ledger.db"
    older(path, OLDEST - 1)
    content = path.read_bytes()
    with pytest.raises(LedgerError, match=f"is of version {OLDEST - 1}") as caught:
        Ledger(path, create=True)
    assert "bridge repair" in caught.value.hint
    assert path.read_bytes() == content


def test_empty_file(tmp_path: Path) -> None:
    """A ledger of no bytes is not taken for an old one."""
    path = tmp_path / "ledger.db"
    path.touch()
    with pytest.raises(LedgerError, match="is empty") as caught:
        Ledger(path)
    assert "bridge repair" in caught.value.hint


def test_quarantine_kept_once(tmp_path: Path) -> None:
    """What is met twice is kept once, with its number; what had left and is rejected again is back."""
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    message = QuarantinedMessage("forward", "a.log", 1, 7, "", "bad", b"x", 1)
    for _ in range(2):
        add_quarantined(ledger, "s", [message], 1.0)
    [kept] = quarantined(ledger, "s")
    mark_retried(ledger, kept.number, "1-1", 2.0)
    assert list(quarantined(ledger, "s")) == []
    assert [found.retried for found in quarantined(ledger, "s", everything=True)] == ["1-1"]
    add_quarantined(ledger, "s", [message], 3.0)
    assert [found.number for found in quarantined(ledger, "s")] == [kept.number]
    ledger.close()


def test_heartbeat_is_kept(tmp_path: Path) -> None:
    """The last heartbeat of each instance; none of one that never ran."""
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    for at in (1.0, 2.0):
        save_heartbeat(ledger, {"instance": "a", "at": at})
    assert heartbeat(ledger, "a") == {"instance": "a", "at": 2.0}
    assert heartbeat(ledger, "b") is None
    ledger.close()
