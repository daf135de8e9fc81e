"""The account: every byte and entry is explained, what is broken on purpose is convicted, and nothing else is."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import bridge.engine.account.accountant as account_module
from bridge.core.errors import LedgerFull
from bridge.engine.account.inventory import account_of
from bridge.engine.status import sample
from bridge.files.catalog import Catalog
from bridge.files.folder_listing import FolderListing
from bridge.files.generation import Generation
from bridge.files.generation_index import GenerationIndex
from bridge.files.generation_record import GenerationRecord
from bridge.files.temporary_names import leftover
from bridge.kinds.kind import SourceBatch
from bridge.kinds.log.line_reader import ReadLines
from bridge.kinds.log.source import LogSource
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger import file_standings
from bridge.ledger.store import Ledger
from bridge.parity.context import _ChunkComparison as Chunks
from bridge.parity.whole_file_account import WholeFileAccount
from bridge.streams.embedded.binary import find
from tests.support.rig import STREAM, Rig, wait_until
from tests.support.running import Running, mapped, write


@pytest.fixture
def mem(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig.shared(tmp_path, find())
    yield rig
    rig.close_shared()


def account(rig: Rig) -> list[str]:
    """What `bridge files` would say is unaccounted, of no bridge that runs."""
    settings = rig.settings()
    with (
        closing(Ledger(settings.state_dir / "ledger.db")) as ledger,
        closing(MappingContext(settings.mappings[0], settings)) as shared,
    ):
        return account_of(shared, ledger, time.time, running=False).sentences()


def rotated_once(rig: Rig) -> Path:
    """A log that was rotated once and carried; returns the path of a piece that is older, and not there yet."""
    write(rig.log, "a")
    rig.once(dual=False)
    rig.log.rename(rig.root / "messages.log.1")
    write(rig.log, "b")
    rig.once(dual=False)
    return rig.root / "messages.log.7"


def aged(path: Path, seconds: float = 10.0) -> None:
    """A file that nobody writes to: it is not under way any more."""
    at = time.time() - seconds
    os.utime(path, (at, at))


# -- blind spots -----------------------------------------------------------------------------------------------


def rotated_twice(rig: Rig) -> None:
    """Two rotations behind the bridge's back, of which it is to miss the second piece."""
    write(rig.log, "b")
    rig.log.rename(rig.root / "messages.log.2")
    write(rig.log, "c")
    aged(rig.log, 9)
    rig.log.rename(rig.root / "messages.log.1")
    aged(rig.root / "messages.log.2", 20)
    write(rig.log, "d")


def forget_a_piece(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """The catalog gives the tail all pieces but one."""
    real = Catalog.files_of

    def files_of(self: Catalog, log: str) -> dict[Path, tuple[int, int]]:
        return {path: identity for path, identity in real(self, log).items() if path.name != "messages.log.1"}

    patch.setattr(Catalog, "files_of", files_of)
    rotated_twice(rig)


def forget_a_name(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """The listing of a folder leaves a name out, so the catalog has never heard of it."""
    real = FolderListing.refresh

    def refresh(self: FolderListing) -> tuple[list[tuple[str, int]], list[str]]:
        came, went = real(self)
        return [named for named in came if not named[0].endswith(".1")], went

    patch.setattr(FolderListing, "refresh", refresh)
    rotated_twice(rig)


def mistake_an_identity(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """A piece that nobody carried is taken for a generation that was."""
    real = GenerationIndex.match

    def match(self: GenerationIndex, files: list[Generation]) -> dict[Generation, GenerationRecord]:
        found = real(self, files)
        closed = [known for known in self.known.values() if known.closed]
        odd = [file for file in files if file not in found and file.path.name == "messages.log.1"]
        return found | dict(zip(odd, closed, strict=False))

    patch.setattr(GenerationIndex, "match", match)
    rotated_twice(rig)


def believe_every_digest(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of a piece's digests, they hold."""
    patch.setattr(Generation, "holds", lambda self, at: self.path.name == "messages.log.1")
    rotated_twice(rig)


def jump(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """The reader goes over a line that it was not given, once, where the next piece of the file begins."""
    real, left = LogSource._batch_of, [1]

    def draft(self: LogSource, read: ReadLines, count: int, *, late: bool) -> SourceBatch | None:
        made = real(self, read, count, late=late)
        if left and read.at == len(read.lines.lines) and read.more:
            left.pop()
            begin = read.generation.read_to
            self.tail.advance(read.generation, read.generation.read(4096, begin).partition(b"\n")[0] + b"\n")
        return made

    patch.setattr(LogSource, "_batch_of", draft)
    write(rig.log, *(f"{n:04} {'x' * 200}" for n in range(2000)))


SPOTS = (forget_a_piece, forget_a_name, mistake_an_identity, believe_every_digest, jump)


@pytest.mark.parametrize("spot", SPOTS, ids=lambda spot: spot.__name__)
def test_blind_spots(
    mem: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    spot: Callable[[Rig, pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    """Wherever a message of a file can escape: a running bridge says so within two sweeps, and so do status and parity."""
    rig = mem
    write(rig.log, "a")
    running = Running(rig)
    try:
        running.sweep()
        rig.log.rename(rig.root / "messages.log.7")
        write(rig.log, "a2")
        running.sweep()
        spot(rig, monkeypatch)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="bridge"):
            running.sweep(3)
        said = [record.getMessage() for record in caplog.records if "unaccounted" in record.getMessage()]
        assert len(said) == 1, caplog.text
        print(said[0])
        running.sweep(3)
        again = [record.getMessage() for record in caplog.records if "unaccounted" in record.getMessage()]
        assert again == said, "it is said once"
    finally:
        running.close()
    monkeypatch.undo()
    told = sample(rig.settings(), time.time).mappings[0].account
    assert told is not None
    result = rig.parity()
    assert result.verdict == "differs"
    assert result.account is not None
    assert result.account.sentences()
    if spot is not mistake_an_identity:
        assert told.sentences(), "what was noted stands until it is mended"
    assert rig.run("repair", "--execute", "--redis", rig.server.socket_url).returncode == 0
    assert rig.parity().verdict == "equal"
    assert account(rig) == []
    assert sorted(set(rig.datas())) == sorted(rig.datas()), "each once"


def test_removed_before_it_was_mirrored(mem: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Entries that were removed before the mirror came are counted to the last, whatever else was removed besides."""
    rig = mem
    write(rig.log, "a", "b")
    running = Running(rig, dual=True)
    try:
        rig.add("r-0")
        running.sweep(2)
        rig.redis.call("XDEL", STREAM, rig.entries()[0].id[0])  # nobody needed it any more
        for n in range(1, 8):
            rig.add(f"r-{n}")
        write(rig.log, "c", "d")
        running.forward.look()
        while running.forward.step():
            pass
        running.forward.flush()
        rig.redis.call("XTRIM", STREAM, "MAXLEN", 4)  # r-6, r-7 and the two of the log are left
        running.sweep(3)
        assert [record.getMessage() for record in caplog.records if "removed" in record.getMessage()] == [
            "mirror hestai-message: 5 entries were removed from the stream before they were mirrored"
        ]
        running.sweep(2)
    finally:
        running.close()
    assert account(rig) == ["5 entries were removed from the stream before the mirror came to them"]
    result = rig.parity()
    assert result.account is not None
    assert result.account.to_json()["gone_before_mirrored"] == 5
    assert rig.run("status", "--redis", rig.server.socket_url).returncode == 3
    rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    assert account(rig) == []


def test_counted_while_entries_come(
    mem: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that came after Redis was asked for its count, and were mirrored since, are not taken for removed ones."""
    rig = mem
    running = Running(rig, dual=True)
    try:
        running.sweep()
        rig.add("r-0")
        assert running.mirror is not None
        finish, more = running.mirror.finish, ["r-1", "r-2"]

        def finished() -> bool:
            done = finish()
            if more:
                rig.add(more.pop(0))
            return done

        monkeypatch.setattr(running.mirror, "finish", finished)
        running.sweep(4)
    finally:
        running.close()
    assert "removed" not in caplog.text
    assert account(rig) == []


def test_removed_while_nothing_ran(mem: Rig) -> None:
    """Entries that were trimmed while no bridge ran are counted by the next run, however short it is."""
    rig = mem
    write(rig.log, "a")
    assert not rig.once().errors
    for n in range(5):
        rig.redis.call("XADD", STREAM, "MAXLEN", 2, "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say",
                       "data", f"r-{n}")  # fmt: skip
    rig.once()
    assert account(rig) == ["3 entries were removed from the stream before the mirror came to them"]


def test_removed_by_nobody(mem: Rig) -> None:
    """Entries that the mirror has seen may be removed, and file-born ones at any time: nothing is missed by that."""
    rig = mem
    write(rig.log, *map(str, range(20)))
    running = Running(rig, dual=True)
    try:
        for n in range(5):
            rig.add(f"r-{n}")
        running.sweep(2)
        rig.redis.call("XTRIM", STREAM, "MAXLEN", 3)
        running.sweep(2)
        write(rig.log, *map(str, range(20, 30)))
        running.forward.look()
        while running.forward.step():
            pass
        running.forward.flush()
        rig.redis.call("XTRIM", STREAM, "MAXLEN", 1)
        rig.add("r-5")
        running.sweep(3)
    finally:
        running.close()
    assert account(rig) == []


# -- under a glob ----------------------------------------------------------------------------------------------


def test_renamed_inside_the_glob(mem: Rig) -> None:
    """A log that is renamed inside the glob goes on as what it was, running or stopped; the new one is the next."""
    rig = mem
    mapped(rig, "*.log")
    log = rig.root / "app.log"
    write(log, "a")
    rig.once(dual=False)
    write(log, "b")
    log.rename(rig.root / "app.1.log")
    write(log, "c")
    rig.once(dual=False)
    assert rig.datas() == [b"a", b"b", b"c"]
    running = Running(rig)
    try:
        running.sweep()
        write(log, "d")
        (rig.root / "app.1.log").rename(rig.root / "app.2.log")
        log.rename(rig.root / "app.1.log")
        write(log, "e")
        write(rig.root / "app.1.log", "d2")
        running.sweep(2)
    finally:
        running.close()
    assert rig.datas() == [b"a", b"b", b"c", b"d", b"d2", b"e"]
    assert rig.redis.call("HKEYS", f"bridge:{{{STREAM}}}:sources") == [b"app.log"]
    assert rig.parity().verdict == "equal"
    assert account(rig) == []


def test_links(mem: Rig) -> None:
    """A symbolic link, turned each day, and a hard link are other names of a file: each message comes once."""
    rig = mem
    mapped(rig, "*.log")
    today = rig.root / "current.log"
    for day in range(1, 4):
        write(rig.root / f"app-2026-03-0{day}.log", f"m{day}")
        today.unlink(missing_ok=True)
        today.symlink_to(f"app-2026-03-0{day}.log")
        assert not rig.once(dual=False).errors
    os.link(rig.root / "app-2026-03-03.log", rig.root / "again.log")
    write(rig.root / "again.log", "m4")
    rig.once(dual=False)
    assert rig.datas() == [b"m1", b"m2", b"m3", b"m4"]
    assert rig.parity().verdict == "equal"
    assert account(rig) == []
    (rig.root / "app-2026-03-03.log").unlink()
    write(rig.root / "again.log", "m5")
    rig.once(dual=False)
    assert rig.datas() == [b"m1", b"m2", b"m3", b"m4", b"m5"]


def test_sessions_that_begin_alike(mem: Rig) -> None:
    """Sessions that begin with the same lines, or hold nothing else, are sessions of their own, reused inodes or not."""
    rig = mem
    mapped(rig, "*.log")
    for n in range(3):
        write(rig.root / f"s{n}.log", "header")
    rig.once(dual=False)
    (rig.root / "s0.log").unlink()
    write(rig.root / "s9.log", "header")  # which has the inode of the other, on many file systems
    rig.once(dual=False)
    write(rig.root / "s1.log", "one")
    write(rig.root / "s2.log", "two")
    rig.once(dual=False)
    assert sorted(rig.datas()) == sorted([b"header"] * 4 + [b"one", b"two"])


def test_pieces_of_logs_whose_names_begin_alike(mem: Rig) -> None:
    """Which log a piece belongs to is told by what was seen; by names only where nobody saw it come."""
    rig = mem
    mapped(rig, "*.log", "*-2*.log*", "*.log.*")
    for name in ("app", "app-web"):
        write(rig.root / f"{name}-20260301.log", f"{name} old")
        aged(rig.root / f"{name}-20260301.log", 100)
        write(rig.root / f"{name}.log", f"{name} new")
    rig.once(dual=False)
    assert [d for d in rig.datas() if d.startswith(b"app-web")] == [b"app-web old", b"app-web new"]
    (rig.root / "app.log").rename(rig.root / "app-web.log.1")  # a piece of app's, whatever its name says
    write(rig.root / "app-web.log.1", "app late")
    write(rig.root / "app.log", "app newest")
    rig.once(dual=False)
    assert [d for d in rig.datas() if d.startswith(b"app ")] == [b"app old", b"app new", b"app late", b"app newest"]
    assert rig.parity().verdict == "equal"


def test_leftovers(mem: Rig) -> None:
    """What editors and atomic writers leave beside logs is never one, and is accounted for."""
    rig = mem
    mapped(rig, "*")
    write(rig.root / "x", "a")
    odd = [".#x", "#x#", "x~", "x.swp", "x.tmp", "x.1234567", ".x.AbC123"]
    for name in odd:
        write(rig.root / name, "never")
    write(rig.root / "access.1700000000", "b")
    rig.once(dual=False)
    assert sorted(rig.datas()) == [b"a", b"b"]
    assert rig.parity().verdict == "equal"
    assert account(rig) == []
    assert [name for name in odd if not leftover(name, lambda other: other == "x")] == []


def test_excluded(mem: Rig) -> None:
    """`exclude` works for logs."""
    rig = mem
    mapped(rig, "*.log")
    (rig.path / "mine.toml").write_text(
        (rig.path / "mine.toml").read_text().replace("rotated", 'exclude = ["debug*"]\nrotated')
    )
    write(rig.root / "a.log", "a")
    write(rig.root / "debug.log", "never")
    rig.once(dual=False)
    assert rig.datas() == [b"a"]
    assert rig.parity().verdict == "equal"


def test_another_unicode_form(mem: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A name that the mapping has in another of Unicode's forms is said, once."""
    rig = mem
    name = "caf\u00e9.log"
    mapped(rig, name)
    write(rig.root / unicodedata.normalize("NFD", name), "a")
    for _ in range(2):
        rig.once(dual=False)
    assert "another Unicode form" in caplog.text
    assert rig.datas() == []


# -- no false alarm --------------------------------------------------------------------------------------------


def test_packed_for_a_minute(mem: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """While a piece is packed, slowly, nothing is called unaccounted, and nothing comes twice."""
    rig = mem
    write(rig.log, *(f"m{n}" for n in range(300)))
    running = Running(rig)
    try:
        running.sweep(2)
        piece = rig.root / "messages.log.1"
        rig.log.rename(piece)
        write(rig.log, "new")
        whole = gzip.compress(piece.read_bytes())
        with (rig.root / "messages.log.1.gz").open("wb") as file:
            for at in range(0, len(whole), len(whole) // 7):
                file.write(whole[at : at + len(whole) // 7])
                file.flush()
                running.sweep(3)
                assert rig.parity().verdict != "differs"
        shutil.copystat(piece, rig.root / "messages.log.1.gz")
        running.sweep(3)
        piece.unlink()
        running.sweep(3)
    finally:
        running.close()
    assert "unaccounted" not in caplog.text
    assert rig.datas() == [*(f"m{n}".encode() for n in range(300)), b"new"]
    assert account(rig) == []
    assert rig.parity().verdict == "equal"


def test_rotated_under_load(mem: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Rotations while a bridge runs never raise an alarm, however they fall between its sweeps."""
    rig = mem
    running, written = Running(rig), list[bytes]()
    try:
        for n in range(60):
            datas = [f"m{n}-{k}" for k in range(5)]
            write(rig.log, *datas)
            written += [data.encode() for data in datas]
            if n % 3 == 0:
                running.sweep()
            if n % 4 == 0:
                for k in range(8, 0, -1):
                    old = rig.root / f"messages.log.{k}"
                    if old.exists():
                        old.rename(rig.root / f"messages.log.{k + 1}")
                rig.log.rename(rig.root / "messages.log.1")
        running.sweep(3)
    finally:
        running.close()
    assert "unaccounted" not in caplog.text
    assert rig.datas() == written
    assert account(rig) == []


def test_copies(mem: Rig) -> None:
    """A copy beside a log is a copy, to the byte; one that goes on otherwise is not, and is told."""
    rig = mem
    write(rig.log, *(f"m{n}" for n in range(40)))
    rig.once()
    shutil.copy(rig.log, rig.root / "messages.log.bak")
    aged(rig.root / "messages.log.bak")
    rig.once()
    assert account(rig) == []
    result = rig.parity()
    assert (result.verdict, result.account and result.account.to_json()["copies"]) == ("equal", rig.log.stat().st_size)
    write(rig.root / "messages.log.bak", "another")
    aged(rig.root / "messages.log.bak")
    assert rig.run("run", "--once", "--redis", rig.server.socket_url).returncode in (0, 3)
    assert b"another" in rig.datas() or account(rig)


def test_a_full_ledger(mem: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A finding that the ledger cannot take when it is made is said and noted as soon as it can."""
    rig = mem
    write(rig.log, "a")
    running = Running(rig)
    try:
        running.sweep()
        forget_a_piece(rig, monkeypatch)
        real, left = file_standings.save_piece, [1, 1]

        def save_piece(*told: Any) -> None:
            if left:
                left.pop()
                raise LedgerFull("the disk is full")
            real(*told)

        monkeypatch.setattr(account_module, "save_piece", save_piece)
        running.sweep(6)
        assert not left
    finally:
        running.close()
    assert caplog.text.count("is unaccounted") == 1
    told = sample(rig.settings(), time.time).mappings[0].account
    assert told is not None
    assert told.unaccounted


def test_a_ledger_that_cannot_forget(
    mem: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is accounted for again stays noted as unaccounted only until the ledger takes that."""
    rig = mem
    old = rotated_once(rig)
    write(old, "old")
    aged(old, 100_000)
    running = Running(rig)
    try:
        running.sweep(4)
        assert "messages.log.7 is unaccounted" in caplog.text
        real, left = file_standings.forget_piece, [1]

        def forget_piece(*told: Any) -> None:
            if left:
                left.pop()
                raise LedgerFull("the disk is full")
            real(*told)

        monkeypatch.setattr(account_module, "forget_piece", forget_piece)
        old.unlink()
        running.sweep(3)
        assert not left
    finally:
        running.close()
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        assert not file_standings.remembered_pieces(ledger, STREAM)


KILLED = ["repair.late.before", "repair.late.after", "forward.send.before", "forward.send.after", "forward.reply.after",
          "forward.checkpoint.before", "forward.checkpoint.after"]  # fmt: skip


@pytest.mark.parametrize("point", KILLED)
def test_killed_as_it_is_brought_over(mem: Rig, point: str) -> None:
    """A repair that is killed while it brings an old piece over does so exactly once, by the next one."""
    rig = mem
    old = rotated_once(rig)
    write(old, *(f"old-{n}" for n in range(900)))
    aged(old, 100_000)
    url = ("--redis", rig.server.socket_url)
    assert account(rig) != []
    assert rig.run("repair", *url).returncode == 0, "a plan"
    killed = rig.run("repair", "--execute", *url, env={"BRIDGE_CRASH_AT": f"{point}:1"})
    assert killed.returncode < 0, said_of(killed)
    for _ in range(2):
        done = rig.run("repair", "--execute", *url)
        assert done.returncode == 0, said_of(done)
    assert rig.datas() == [b"a", b"b", *(f"old-{n}".encode() for n in range(900))]
    assert account(rig) == []
    result = rig.parity()
    assert (result.verdict, result.tally.marked) == ("equal", True)


def test_a_ledger_of_before(mem: Rig) -> None:
    """A ledger that knew neither births nor accounts is taken over, and nothing is carried again."""
    rig = mem
    mapped(rig, "*.log", "*.log.*")
    for name in ("app", "web"):
        write(rig.root / f"{name}.log", f"{name} 1")
    rig.once(dual=False)
    for name in ("app", "web"):
        (rig.root / f"{name}.log").rename(rig.root / f"{name}.log.1")
        write(rig.root / f"{name}.log", f"{name} 2")
    rig.once(dual=False)
    before = rig.datas()
    with closing(sqlite3.connect(rig.state / "ledger.db")) as db:
        db.execute("UPDATE generations SET born = NULL, written = NULL")
        db.execute("UPDATE streams SET mirror_seen = NULL, mirror_ours = NULL, mirror_gone = NULL")
        db.execute("DELETE FROM pieces")
        db.commit()
    (rig.root / "app.log").rename(rig.root / "app.log.2")  # which had no birth when it was carried
    write(rig.root / "app.log", "app 3")
    rig.once(dual=False)
    assert rig.datas() == [*before, b"app 3"]
    assert account(rig) == []
    assert rig.parity().verdict == "equal"


def said_of(done: Any) -> str:
    return f"{done.stdout}{done.stderr}"


def test_beside_a_running_bridge(rig: Rig) -> None:
    """What a running bridge carried is not said to wait: written to late, packed, or copied and emptied."""
    write(rig.log, *(f"a {n}" for n in range(60)))
    rig.once()
    rig.ready(rig.start())
    rig.log.rename(rig.root / "messages.log.1")
    write(rig.log, *(f"b {n}" for n in range(60)))
    write(rig.root / "messages.log.1", "late")
    wait_until(lambda: len(rig.datas()) == 121, rig.said)
    shutil.copy2(rig.log, rig.root / "messages.log.0")
    os.truncate(rig.log, 0)
    write(rig.log, "c")
    wait_until(lambda: len(rig.datas()) == 122, rig.said)
    packed = rig.root / "messages.log.1"
    (rig.root / "messages.log.1.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()

    def told() -> dict[str, tuple[str, int]]:
        found = json.loads(rig.run("files", "--json", "--redis", rig.url).stdout)["mappings"][0]["pieces"]
        return {piece["path"]: (piece["standing"], piece["behind"]) for piece in found}

    wanted = {"messages.log": ("active", 0), "messages.log.0": ("piece", 0), "messages.log.1.gz": ("piece", 0)}
    wait_until(lambda: told() == wanted, lambda: f"{told()} {rig.said()}", 20.0)
    refused = rig.run("files", "--leave", "messages.log.0", "--reason", "x", "--redis", rig.url)
    assert (refused.returncode, "is carried, as generation" in refused.stderr) == (2, True)


@pytest.mark.parametrize("running", [False, True])
def test_a_copy_of_a_short_log_that_rests(mem: Rig, *, running: bool) -> None:
    """A short log that was carried stays what it is beside a copy with a piece's name, and when it is emptied then."""
    mapped(mem, "*.log", "*.log.*")
    log, copy = mem.root / "s.log", mem.root / "s.log.1"
    write(log, "a", "b")
    mem.once()
    bridge = Running(mem) if running else None
    if bridge is not None:
        bridge.sweep(2)
    shutil.copy(log, copy)
    bridge.sweep(3) if bridge is not None else mem.once()
    assert mem.datas() == [b"a", b"b"]
    os.truncate(log, 0)
    write(log, "c")
    bridge.sweep(3) if bridge is not None else mem.once()
    if bridge is not None:
        bridge.close()
    assert mem.datas() == [b"a", b"b", b"c"]
    assert account(mem) == []


@pytest.mark.parametrize("kind", ["hestai-inbox", "hestai-state", "hestai-artifacts", "hestai-context"])
def test_the_account_of_other_kinds(mem: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Every file of a folder, and every byte of a context, is accounted for; one that parity forgets is missed."""
    mem.write_config(mapping=kind)
    folder = mem.root / {"hestai-inbox": "inbox", "hestai-state": "state", "hestai-artifacts": "artifacts"}.get(
        kind, "context"
    )
    folder.mkdir()
    for n in range(5):
        said = f'{{"uuid": "{n}", "doc_type": "note", "content": "x", "timestamp": "2026-03-02T09:14:0{n}Z"}}'
        (folder / f"{n}{'.ctx' if kind == 'hestai-context' else '.json'}").write_text(said)
        aged(folder / f"{n}{'.ctx' if kind == 'hestai-context' else '.json'}")
    mem.once()
    result = mem.parity()
    assert result.verdict == "equal", result.notes
    assert result.account is not None
    told = result.account.to_json()
    assert told["carried"] == (5 if kind != "hestai-context" else sum(path.stat().st_size for path in folder.iterdir()))
    if kind == "hestai-context":
        real = Chunks._explained
        monkeypatch.setattr(Chunks, "_explained", lambda self, joined, size: real(self, joined, size - 1))
    else:
        real_add, skipped = WholeFileAccount.add, list[WholeFileAccount]()

        def add(self: WholeFileAccount, fate: str, count: int = 1) -> None:
            if count and self not in skipped:
                skipped.append(self)
            else:
                real_add(self, fate, count)

        monkeypatch.setattr(WholeFileAccount, "add", add)
    result = mem.parity()
    assert (result.verdict, result.account is not None and bool(result.account.sentences())) == ("differs", True)
