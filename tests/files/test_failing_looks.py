"""A look or a seek that fails half way leaves no half chain: the next look numbers nothing anew."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.core.errors import SourceError
from bridge.core.model import Fingerprint, hex_digest
from bridge.files.catalog import Catalog
from bridge.files.closed_generations import KEPT_LATE
from bridge.files.descriptor_pool import POOL
from bridge.files.tail import Tail
from tests.files.test_between_calls import CALLS, lines, read, shift


class Failing:
    """Fails one of the calls that `bridge.files` makes: the one of this number, counted from 1; at 0 none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.at = 0, 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if "/bridge/files/" in sys._getframe(1).f_code.co_filename:
                self.made += 1
                if self.made == self.at:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **more)

        return call

    def arm(self, at: int) -> None:
        self.made, self.at = 0, at


def _open_files() -> int:
    return len([*Path("/dev/fd").iterdir()])


def _failed(act: Callable[[], None]) -> bool:
    try:
        act()
    except SourceError:
        return True
    return False


@pytest.mark.parametrize("failing_act", ["look", "seek"])
def test_nothing_is_numbered_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_act: str) -> None:
    """Whichever system call fails, and although the other direction looks next, each file keeps its number."""
    for number, name in enumerate(("l.4", "l.3", "l.2", "l.1", "l"), 1):
        (tmp_path / name).write_bytes(b"".join(b"agent|t|turn|%d-%d\n" % (number, n) for n in range(20 * number)))
    fresh = Tail(Catalog(tmp_path, "l", ("l.*",)), "l", [])
    fresh.look()
    met = fresh.records()
    fresh.close()
    assert [generation.number for generation in met] == [1, 2, 3, 4, 5]
    oldest = (tmp_path / "l.4").read_bytes()
    ended = Fingerprint(len(oldest), len(oldest), hex_digest(oldest), hex_digest(oldest[-128:]))
    known = [replace(met[0], at=ended, closed=True), *met[1 : 4 if failing_act == "look" else 5]]
    raw = (tmp_path / "l.1").read_bytes()
    at = Fingerprint(100, 100, hex_digest(raw[:100]), hex_digest(raw[:100]))
    failing, failed, number, reached = Failing(monkeypatch), 0, 0, 0
    while reached >= number:
        number += 1
        tail = Tail(Catalog(tmp_path, "l", ("l.*",)), "l", known)
        opened = _open_files()
        failing.arm(number)
        failed += _failed(tail.look if failing_act == "look" else partial(tail.seek, 4, at))
        reached = failing.made
        failing.arm(0)
        tail.look()  # the mirror's, before the sender has put the reader in its place
        tail.seek(4, at)
        tail.look()
        found = [(generation.number, generation.path.name, generation.read_to) for generation in tail.pending()]
        assert found == [(4, "l.1", 100), (5, "l", 0)]
        assert {after.number: after.inode for after in tail.records()} == {now.number: now.inode for now in met}
        tail.close()
        assert _open_files() == opened, "a file stays open that nobody has any more"
    assert failed > 10


@pytest.mark.parametrize("times", [1, 2])
def test_a_generation_that_was_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Filled, copied, emptied and filled again, once or twice, while a look fails at whichever call: nothing is lost."""
    failing, number, reached = Failing(monkeypatch), 0, 0
    while reached >= number:
        number += 1
        log = tmp_path / f"{number}" / "l"
        log.parent.mkdir()
        (log.parent / "l.1").write_bytes(lines(0, 1))
        log.touch()
        tail = Tail(Catalog(log.parent, "l", ("l.*",)), "l", [])
        assert read(tail) == lines(0, 1)
        for turn in range(1, times + 1):
            log.write_bytes(lines(10 * turn, 10 * turn + 1))
            shift(log)
            shutil.copy2(log, log.with_name("l.1"))
            os.truncate(log, 0)
        with log.open("ab") as file:
            file.write(lines(90))
        failing.arm(number)
        _failed(tail.look)
        reached = failing.made
        failing.arm(0)
        found = read(tail)
        wanted = [n for turn in range(1, times + 1) for n in (10 * turn, 10 * turn + 1)]
        assert found == lines(*wanted, 90), f"call {number}: {found!r} {[*tail.notices]}"
        tail.close()
    assert number > 10


def at_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arranged: Callable[[Path], Tail], wanted: bytes
) -> int:
    """Fails each system call of one look in turn, at a log that is arranged anew; returns how many there were.

    After that the tail must read just the bytes `wanted`.
    """
    failing, number, reached = Failing(monkeypatch), 0, 0
    while reached >= number:
        number += 1
        log = tmp_path / f"{number}" / "l"
        log.parent.mkdir()
        tail = arranged(log)
        failing.arm(number)
        _failed(tail.look)
        reached = failing.made
        failing.arm(0)
        assert read(tail) == wanted, f"call {number}"
        tail.close()
    return number


def test_nothing_at_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails while nothing is at the path is made again: a whole log may have come and gone."""

    def arranged(log: Path) -> Tail:
        log.write_bytes(lines(1))
        tail = Tail(Catalog(log.parent, "l", ("l.*",)), "l", [])
        assert read(tail) == lines(1)
        shift(log)
        log.rename(log.with_name("l.1"))
        log.write_bytes(lines(2))
        shift(log)
        log.rename(log.with_name("l.1"))
        os.utime(log.parent, (1_700_000_000, 1_700_000_000))  # long ago: the folder's time tells of changes
        return tail

    assert at_each_call(tmp_path, monkeypatch, arranged, lines(2)) > 5


def test_emptied_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a look fails at a log that was emptied in place: an old piece from a backup is left alone all the same."""

    def arranged(log: Path) -> Tail:
        log.write_bytes(lines(1, 2))
        tail = Tail(Catalog(log.parent, "l", ("l.*",)), "l", [])
        assert read(tail) == lines(1, 2)
        old = log.with_name("l.5")
        old.write_bytes(lines(77))
        os.utime(old, (1_700_000_000, 1_700_000_000))
        log.write_bytes(lines(3))
        return tail

    assert at_each_call(tmp_path, monkeypatch, arranged, lines(3)) > 5


def rotated_long_ago(folder: Path, length: int = 1) -> tuple[Path, Tail]:
    """A log of which one piece more was carried than are held open, each of so many lines; the log, and its tail."""
    folder.mkdir()
    log, tail = folder / "l", Tail(Catalog(folder, "l", ("l.*",)), "l", [])
    for turn in range(KEPT_LATE + 2):
        log.write_bytes(lines(*range(1000 * turn, 1000 * turn + length)))
        assert read(tail) == log.read_bytes()
        shift(log)
        log.rename(log.with_name("l.1"))
    log.write_bytes(lines(9000))
    assert read(tail) == lines(9000)
    return log, tail


def test_a_closed_generation_that_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a look fails at a file that was rotated long ago and grew: either it says so, or it has found the lines."""
    failing, number, reached, failed = Failing(monkeypatch), 0, 0, 0
    while reached >= number:
        number += 1
        log, tail = rotated_long_ago(tmp_path / f"{number}")
        os.utime(log.parent, (1_700_000_000, 1_700_000_000))  # long ago: the folder's time tells of changes
        tail.watch_finished()
        with log.with_name(f"l.{KEPT_LATE + 2}").open("ab") as file:
            file.write(lines(99))

        def look(tail: Tail = tail) -> None:
            tail.look()
            tail.watch_finished()

        failing.arm(number)
        said = _failed(look)
        reached = failing.made
        failing.arm(0)
        if said:  # then whoever looks does so again, without any change
            failed += 1
            look()
        [grown] = tail.late()
        assert tail.peek(grown, 1 << 10) == lines(99), f"call {number}"
        tail.close()
    assert failed > 2


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("length", [1, 100])
def test_a_packed_generation_that_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, restarts: bool
) -> None:
    """Written to and packed at once, long after its rotation: however a look fails, the lines are found in the end."""
    failing, number, reached, failed = Failing(monkeypatch), 0, 0, 0
    while reached >= number:
        number += 1
        log, tail = rotated_long_ago(tmp_path / f"{number}", length)
        tail.watch_finished()
        if number % 2:  # then the next look does not know where the piece was
            shift(log)
        piece = log.with_name(f"l.{KEPT_LATE + 2 + number % 2}")
        piece.with_name(f"{piece.name}.gz").write_bytes(gzip.compress(piece.read_bytes() + lines(9999)))
        piece.unlink()

        def look(tail: Tail) -> None:
            tail.look()
            tail.watch_finished()

        failing.arm(number)
        said = _failed(partial(look, tail))
        reached = failing.made
        failing.arm(0)
        if restarts:
            known = tail.records()
            tail.close()
            tail = Tail(Catalog(log.parent, "l", ("l.*",)), "l", known)
        if said or restarts:
            failed += said
            look(tail)
        [grown] = tail.late()
        assert tail.peek(grown, 1 << 10) == lines(9999), f"call {number}"
        tail.advance(grown, lines(9999))
        tail.amend(grown.number, (done := grown.known(closed=True)).at, done.packed)
        again = Tail(Catalog(log.parent, "l", ("l.*",)), "l", tail.records())
        look(again)
        assert not again.late()
        again.close()
        tail.close()
    assert failed > 2


def test_parked_and_rotated_into_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is not open, as too many are, is found again wherever its rotated names lie."""
    monkeypatch.setattr(POOL, "_most", 1)
    log, other = tmp_path / "l", tmp_path / "other"
    (tmp_path / "old").mkdir()
    log.write_bytes(lines(1))
    other.touch()
    tail, busy = Tail(Catalog(tmp_path, "l", ("old/l.*",)), "l", []), Tail(Catalog(tmp_path, "other", ()), "other", [])
    assert read(tail) == lines(1)
    busy.look()
    with log.open("ab") as file:
        file.write(lines(2))
    log.rename(tmp_path / "old" / "l.1")
    log.write_bytes(lines(3))
    assert read(tail) == lines(2, 3)
    tail.close()
    busy.close()
