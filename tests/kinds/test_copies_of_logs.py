"""Copies under a glob: of a live log, of one that is emptied then, and of one that goes on otherwise."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.rig import Rig, line
from tests.support.running import Running, mapped, write

LONG = [f"line {n}" for n in range(200)]
SHORT = ["first", "second"]
"""What has more than 4 KiB, and what has less."""


@pytest.fixture
def running(one_rig: Rig) -> Iterator[Running]:
    mapped(one_rig, "*.log")
    made = Running(one_rig)
    try:
        yield made
    finally:
        made.close()


def came(rig: Rig) -> Counter[str]:
    return Counter(data.decode() for data in rig.datas())


def aged(rig: Rig, name: str, seconds: float = 100.0) -> None:
    """Makes a file one that has not been written to for so long."""
    os.utime(rig.root / name, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("lines", [LONG, SHORT], ids=["long", "short"])
def test_copied_and_emptied(running: Running, lines: list[str]) -> None:
    """A rotation that copies the log beside it and empties it, under a name that the glob matches: each line once."""
    root = running.rig.root
    write(root / "app.log", *lines)
    running.sweep(2)
    for n in range(3):
        shutil.copy(root / "app.log", root / f"app.{n}.log")
        os.truncate(root / "app.log", 0)
        running.sweep(2)
        write(root / "app.log", f"day {n}")
        running.sweep(2)
    assert came(running.rig) == Counter([*lines, "day 0", "day 1", "day 2"])
    assert running.rig.parity().verdict == "equal"


@pytest.mark.parametrize("lines", [LONG, SHORT], ids=["long", "short"])
def test_copied_and_emptied_while_the_bridge_is_stopped(one_rig: Rig, lines: list[str]) -> None:
    """The next start finds in the copy what it had carried of the log, and reads the rest of it."""
    mapped(one_rig, "*.log")
    write(one_rig.root / "app.log", *lines)
    assert not one_rig.once().errors
    write(one_rig.root / "app.log", "unread")
    shutil.copy(one_rig.root / "app.log", one_rig.root / "app.20260303-183213.log")
    os.truncate(one_rig.root / "app.log", 0)
    write(one_rig.root / "app.log", "new")
    assert not one_rig.once().errors
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*lines, "unread", "new"])
    assert one_rig.parity().verdict == "equal"


def test_a_copy_of_a_live_log(running: Running) -> None:
    """It waits for a minute, unchanged and equal to its end, and is a copy then; it is said once, and accounted for."""
    root = running.rig.root
    write(root / "app.log", *LONG)
    running.sweep(2)
    shutil.copy(root / "app.log", root / "app-copy.log")
    running.sweep(3)
    write(root / "app.log", "after")
    running.sweep(70)
    assert came(running.rig) == Counter([*LONG, "after"])
    found = running.rig.parity()
    assert found.verdict == "equal", found.notes
    told = running.rig.run("files", "--redis", running.rig.server.socket_url)
    assert (told.returncode, "copy" in told.stdout) == (0, True), told.stdout


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_copy_that_goes_on_otherwise(one_rig: Rig, stopped: bool) -> None:
    """It is a log of its own from where it goes on; the lines before are those of the other."""
    mapped(one_rig, "*.log")
    root = one_rig.root
    write(root / "app.log", *LONG)
    running = Running(one_rig)
    try:
        running.sweep(2)
        shutil.copy(root / "app.log", root / "app-copy.log")
        running.sweep(70)
        if not stopped:
            write(root / "app-copy.log", "its own")
            write(root / "app.log", "not its own")
            running.sweep(3)
    finally:
        running.close()
    if stopped:
        write(root / "app-copy.log", "its own")
        write(root / "app.log", "not its own")
        assert not one_rig.once().errors
    assert came(one_rig) == Counter([*LONG, "its own", "not its own"])
    write(root / "app-copy.log", "more")
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*LONG, "its own", "not its own", "more"])
    found = one_rig.parity()
    assert found.verdict == "equal", (found.tally, found.notes)


def test_a_copy_that_goes_on_as_the_log_does(running: Running) -> None:
    """Some lines were copied while the log was written: what follows in the copy is the log's still."""
    root = running.rig.root
    write(root / "app.log", *LONG)
    running.sweep(2)
    (root / "app-copy.log").write_bytes((root / "app.log").read_bytes()[:6000])
    running.sweep(2)
    shutil.copy(root / "app.log", root / "app-copy.log")
    running.sweep(70)
    assert came(running.rig) == Counter(LONG)
    assert running.rig.parity().verdict == "equal"


def test_a_short_session_that_begins_as_its_sibling_does(running: Running) -> None:
    """It is a session: each of its lines is a message, also those that the other holds as well."""
    root = running.rig.root
    write(root / "a.log", "session begins", "hello")
    running.sweep(2)
    write(root / "b.log", "session begins")
    running.sweep(2)
    write(root / "b.log", "hello")
    running.sweep(2)
    write(root / "b.log", "bye")
    running.sweep(2)
    assert came(running.rig) == Counter({"session begins": 2, "hello": 2, "bye": 1})
    assert running.rig.parity().verdict == "equal"


def test_a_copy_that_was_there_at_the_beginning(one_rig: Rig) -> None:
    """Of two files that nobody has carried, the one that is all of it another's beginning is the copy, if it rests."""
    mapped(one_rig, "*.log")
    write(one_rig.root / "b.log", *LONG)
    shutil.copy(one_rig.root / "b.log", one_rig.root / "a.log")
    write(one_rig.root / "b.log", "more")
    for name in ("a.log", "b.log"):
        aged(one_rig, name)
    assert not one_rig.once().errors
    assert came(one_rig) == Counter([*LONG, "more"])
    assert one_rig.parity().verdict == "equal"


def test_a_log_that_is_not_whole_is_no_copy(one_rig: Rig) -> None:
    """A long file that begins as another does, and then goes on otherwise, is a log from its first byte."""
    mapped(one_rig, "*.log")
    write(one_rig.root / "a.log", *LONG)
    assert not one_rig.once().errors
    (one_rig.root / "b.log").write_bytes(b"".join(map(line, [*LONG, "otherwise"])))
    assert not one_rig.once().errors
    assert came(one_rig) == Counter({**dict.fromkeys(LONG, 2), "otherwise": 1})
    assert one_rig.parity().verdict == "equal"


def test_a_log_that_is_renamed_and_saved_anew_is_told_of(one_rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """It is a log of its own, and all of it is sent: the log says so, and which one it begins or ends as."""
    mapped(one_rig, "*.log")
    write(one_rig.root / "app.log", *LONG)
    assert not one_rig.once().errors
    lines = (one_rig.root / "app.log").read_bytes().splitlines(keepends=True)
    (one_rig.root / "other.log").write_bytes(b"".join([*lines[:100], line("put in"), *lines[100:]]))
    (one_rig.root / "app.log").unlink()  # last: its inode may be the next file's
    assert not one_rig.once().errors
    assert "other.log begins or ends as generation 1 of app.log did, whose file is gone" in caplog.text
    assert came(one_rig) == Counter(LONG) + Counter([*LONG, "put in"])
