"""A log that is rotated between any two system calls of a look, a seek or a read: each line is read once, in its order."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.files.catalog import Catalog
from bridge.files.descriptor_pool import POOL
from bridge.files.generation_record import GenerationRecord
from bridge.files.tail import Tail

SOAK = bool(os.environ.get("BRIDGE_SOAK"))
Act = Callable[[Path], None]

CALLS = ("pread", "fstat", "stat", "open", "scandir")
"""The system calls that `bridge.files` makes."""


def lines(*numbers: int) -> bytes:
    return b"".join(b"agent|t|turn|%04d\n" % n for n in numbers)


def copied(log: Path) -> None:
    """Copied to a new rotated name and emptied, and written to."""
    shift(log)
    shutil.copy2(log, log.with_name("l.1"))
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(lines(*range(30, 33)))


def copied_and_filled(log: Path) -> None:
    """The same, with more behind it than stood there before."""
    copied(log)
    with log.open("ab") as file:
        file.write(lines(*range(33, 90)))


def copied_twice(log: Path) -> None:
    """The same again, so that a whole generation stood in the file in between."""
    copied(log)
    shift(log)
    shutil.copy2(log, log.with_name("l.1"))
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(lines(33, 34))


def renamed(log: Path) -> None:
    """Renamed, and begun anew."""
    shift(log)
    log.rename(log.with_name("l.1"))
    log.write_bytes(lines(*range(30, 33)))


def renamed_late(log: Path) -> None:
    """Renamed, and written to under its new name; the new log is not there yet."""
    shift(log)
    log.rename(log.with_name("l.1"))
    with log.with_name("l.1").open("ab") as file:
        file.write(lines(30))


def saved(log: Path) -> None:
    """Saved by an editor, with a line more: the same content under another inode."""
    hidden = log.with_name(".new")
    hidden.write_bytes(log.read_bytes() + lines(30))
    hidden.rename(log)


def saved_and_renamed(log: Path) -> None:
    """The same, and renamed then, and begun anew."""
    saved(log)
    shift(log)
    log.rename(log.with_name("l.1"))
    log.write_bytes(lines(31, 32))


def copied_over(log: Path) -> None:
    """Copied over the rotated file that was there, into its inode, and emptied, and written to."""
    log.with_name("l.1").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(lines(*range(30, 90)))


def packed(log: Path) -> None:
    """Renamed and begun anew, and the oldest compressed."""
    renamed(log)
    oldest = log.with_name("l.2")
    hidden = log.with_name(".packing")
    hidden.write_bytes(gzip.compress(oldest.read_bytes()))
    hidden.rename(log.with_name("l.2.gz"))
    oldest.unlink()


def shift(log: Path) -> None:
    for path in sorted(log.parent.glob("l.?"), key=lambda path: -int(path.name[2:])):
        path.rename(log.with_name(f"l.{int(path.name[2:]) + 1}"))


AFTER: dict[Act, int] = {
    copied: 33,
    copied_and_filled: 90,
    copied_twice: 35,
    renamed: 33,
    renamed_late: 31,
    saved: 31,
    saved_and_renamed: 33,
    copied_over: 90,
    packed: 33,
}
"""Which number the first line has that is not written."""


class Amid:
    """Acts before one of the calls that `bridge.files` makes: the one of this number, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self._at = 0, 0
        self._act: Callable[[], None] = lambda: None
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self._at and "/bridge/files/" in sys._getframe(1).f_code.co_filename:
                self.made += 1
                if self.made == self._at:
                    self._act()
            return real(*args, **more)

        return call

    def arm(self, at: int, act: Callable[[], None]) -> None:
        self.made, self._at, self._act = 0, at, act

    def disarm(self) -> int:
        """Returns how many calls were made."""
        self._at = 0
        return self.made


def read(tail: Tail) -> bytes:
    """All that a reader takes until it comes to rest, as forward does: a generation ends when another follows it."""
    found, idle = b"", 0
    while idle < 3:
        tail.look()
        idle += 1
        while (generation := tail.first()) is not None:
            raw = tail.peek(generation, 1 << 16)
            if raw:
                tail.advance(generation, raw)
                found, idle = found + raw, 0
            elif tail.finish() is None:
                break
    return found


def met(folder: Path, upto: bytes) -> list[GenerationRecord]:
    """The records of a reader that stopped behind these lines of the log."""
    tail = Tail(Catalog(folder, "l", ("l.*",)), "l", [])
    tail.look()
    while (generation := tail.first()) is not None and generation.path.name != "l":
        tail.advance(generation, tail.peek(generation, 1 << 16))
        assert tail.finish() is not None
    assert generation is not None
    tail.advance(generation, tail.peek(generation, 1 << 16)[: len(upto)])
    records = [*tail.records()[:-1], generation.known()]
    tail.close()
    return records


def first_look(tail: Tail, known: list[GenerationRecord]) -> None:
    tail.look()


def seek(tail: Tail, known: list[GenerationRecord]) -> None:
    tail.look()
    tail.seek(known[-1].number, known[-1].at)


def next_look(tail: Tail, known: list[GenerationRecord]) -> None:
    tail.look()
    if tail.path.exists():
        os.utime(tail.path)
    tail.look()


@pytest.mark.parametrize(
    "parked", [False, True] if SOAK else [False], ids=lambda parked: "parked" if parked else "open"
)
@pytest.mark.parametrize("before", ["begun", "unread", "unmet"])
@pytest.mark.parametrize("act", [*AFTER], ids=lambda act: act.__name__)
@pytest.mark.parametrize("op", [first_look, seek, next_look], ids=lambda op: op.__name__)
def test_rotated_between_two_calls(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    op: Callable[[Tail, list[GenerationRecord]], None],
    act: Act,
    before: str,
    parked: bool,
) -> None:
    """Whatever happens to the log before whichever call: what is behind the reader's place comes once, in order."""
    place = 20 if before == "begun" else 10
    if parked:  # one file may be open at a time
        monkeypatch.setattr(POOL, "_most", 1)
    # `make soak` tries all calls. Here every other one, and of the longer operations, which begin alike, every fourth.
    step = 1 if SOAK else 2 if op is first_look else 4
    amid, number, reached = Amid(monkeypatch), 1 - step, 1 - step
    while reached >= number:
        number += step
        folder = tmp_path / f"{number}"
        folder.mkdir()
        log = folder / "l"
        (folder / "l.1").write_bytes(lines(*range(10)))
        log.write_bytes(lines(*range(10, 30)))
        known = met(folder, lines(*range(10, place)))
        if before == "unmet":
            known.pop()
        tail = Tail(Catalog(folder, "l", ("l.*",)), "l", known)
        amid.arm(number, partial(act, log))
        op(tail, known)
        found = read(tail)
        reached = amid.disarm()
        found += read(tail)
        wanted = lines(*range(place, AFTER[act] if reached >= number else 30))
        said = f"{act.__name__} before call {number} of {op.__name__}: {[*tail.notices]}"
        assert found == wanted, f"{said}\n{found.decode()}"
        tail.close()


@pytest.mark.parametrize("act", [*AFTER], ids=lambda act: act.__name__)
def test_a_file_that_was_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act) -> None:
    """The same of a log that is filled then as well, and was empty before, so that nothing is known of how it begins."""
    amid, number, reached = Amid(monkeypatch), 0, 0

    def filled(log: Path) -> None:
        log.write_bytes(lines(*range(10, 30)))
        act(log)

    while reached >= number:
        number += 1
        log = tmp_path / f"{number}" / "l"
        log.parent.mkdir()
        log.with_name("l.1").write_bytes(lines(*range(10)))
        log.touch()
        tail = Tail(Catalog(log.parent, "l", ("l.*",)), "l", [])
        assert read(tail) == lines(*range(10))
        amid.arm(number, partial(filled, log))
        found = read(tail)
        reached = amid.disarm()
        found += read(tail)
        wanted = lines(*range(10, AFTER[act])) if reached >= number else b""
        assert found == wanted, f"{act.__name__} before call {number}: {[*tail.notices]}\n{found.decode()}"
        tail.close()


def test_a_reader_that_knows_the_last_pieces_only(tmp_path: Path) -> None:
    """The log is deleted and begun anew: older pieces, of which a component's bookmark says nothing, are not read again."""
    log = tmp_path / "l"
    for n in range(12, 0, -1):
        log.with_name(f"l.{n}").write_bytes(lines(20 - n))
    log.write_bytes(lines(20))
    first = Tail(Catalog(tmp_path, "l", ("l.*",)), "l", [])
    assert read(first) == lines(*range(8, 21))
    known = [*first.records()[-5:-1], first.records()[-1]]
    first.close()
    tail = Tail(Catalog(tmp_path, "l", ("l.*",)), "l", known)
    tail.look()
    tail.seek(known[-1].number, known[-1].at)
    assert read(tail) == lines(20)
    log.unlink()
    log.write_bytes(lines(30))
    assert read(tail) == lines(30)
    tail.close()
