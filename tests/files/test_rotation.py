"""One source through its generations: rotated, replaced, cut and copied, live and while nobody looks."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bridge.engine.forward import Forward
from bridge.files.birth_time import born
from bridge.files.generation import Generation
from bridge.files.generation_record import UNREAD
from bridge.files.tail import Tail
from bridge.kinds.log import unfinished_write
from bridge.kinds.log.line_reader import LineReader
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.sources import generations_of
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, line, wait_until

Act = Callable[[Rig], None]


def names(tag: str, n: int) -> list[bytes]:
    return [f"{tag}-{i}".encode() for i in range(n)]


def shift(rig: Rig) -> None:
    """.2 → .3, .1.gz → .2.gz."""
    for path in rig.pieces():
        number = int(path.name.split(".")[2])
        path.rename(path.with_name(path.name.replace(f".log.{number}", f".log.{number + 1}")))


def rotate(rig: Rig) -> None:
    """As logrotate does: .2 → .3, .1 → .2, the log → .1, and no new log yet."""
    shift(rig)
    if rig.log.exists():
        rig.log.rename(rig.root / "messages.log.1")


def copytruncate(rig: Rig) -> None:
    shift(rig)
    shutil.copy2(rig.log, rig.root / "messages.log.1")
    os.truncate(rig.log, 0)


def pack(path: Path) -> None:
    """As a careful rotation: the compressed file has its name before the plain one goes."""
    hidden = path.with_name(".packing")
    hidden.write_bytes(gzip.compress(path.read_bytes()))
    hidden.rename(path.with_name(f"{path.name}.gz"))
    path.unlink()


@pytest.fixture(params=["live", "down"])
def live(request: pytest.FixtureRequest) -> bool:
    """Whether the bridge runs while the files change, or is started again afterwards."""
    return bool(request.param == "live")


class Follow:
    """A bridge that runs all the time, or one that only runs in between."""

    def __init__(self, rig: Rig, live: bool) -> None:
        self.rig = rig
        self.live = live
        if live:
            rig.ready(rig.start())

    def carried(self, wanted: list[bytes]) -> None:
        """Exactly these lines are in the stream, in this order."""
        if self.live:
            wait_until(
                lambda: len(self.rig.datas()) >= len(wanted), lambda: f"{len(wanted)} entries; {self.rig.said()}"
            )
        else:
            result = self.rig.once()
            assert not result.errors
        assert self.rig.datas() == wanted, self.rig.said()


@pytest.fixture
def follow(rig: Rig, live: bool) -> Follow:
    return Follow(rig, live)


def test_rename_and_new_file(rig: Rig, follow: Follow) -> None:
    """A renamed log is read to its end before the new one."""
    rig.append(*names("a", 50))
    follow.carried(names("a", 50))
    rig.append(*names("b", 20))
    rotate(rig)
    rig.append(*names("c", 20))
    follow.carried(names("a", 50) + names("b", 20) + names("c", 20))


def test_writer_still_on_the_old_descriptor(rig: Rig, follow: Follow) -> None:
    """A writer that still holds the renamed file is followed, after the new file has begun, and over a restart."""
    old = rig.log.open("ab", buffering=0)
    old.write(b"".join(map(line, names("a", 5))))
    follow.carried(names("a", 5))
    rotate(rig)
    old.write(b"".join(map(line, names("b", 5))))
    rig.append(*names("c", 5))
    follow.carried(names("a", 5) + names("b", 5) + names("c", 5))
    old.write(b"".join(map(line, names("late", 5))))
    follow.carried(names("a", 5) + names("b", 5) + names("c", 5) + names("late", 5))
    rig.append(*names("d", 5))
    old.write(b"".join(map(line, names("later", 5))))
    old.close()
    wanted = names("a", 5) + names("b", 5) + names("c", 5) + names("late", 5)
    if follow.live:
        wait_until(lambda: len(rig.datas()) == 30, lambda: f"all; {rig.said()}")
        assert sorted(rig.datas()[20:]) == sorted(names("d", 5) + names("later", 5))
    else:
        follow.carried(wanted + names("d", 5) + names("later", 5))


@pytest.mark.parametrize("turns", [1, 3, 7])
@pytest.mark.parametrize("length", [5, 2000])
@pytest.mark.parametrize("more", ["lines", "unended", "nothing to carry"])
def test_written_to_and_packed_at_once(one_rig: Rig, live: bool, turns: int, length: int, more: str) -> None:
    """What a writer added to a rotated piece just before it was packed is carried; nothing is unaccounted, nor looked into for ever."""
    rig, follow = one_rig, Follow(one_rig, live)
    wanted = names("a", length)
    rig.append(*wanted)
    follow.carried(wanted)
    with rig.log.open("ab", buffering=0) as old:
        for turn in range(turns):
            rotate(rig)
            rig.append(*names(f"b{turn}", 5))
            wanted += names(f"b{turn}", 5)
            follow.carried(wanted)
        if live:
            rig.children[-1].send_signal(signal.SIGSTOP)
        late = [] if more == "nothing to carry" else names("late", 5)
        rest = {"lines": b"", "unended": line(b"never ended")[:-1], "nothing to carry": b"\n\n\n"}[more]
        old.write(b"".join(map(line, late)) + rest)
    pack(rig.root / f"messages.log.{turns}")
    if live:
        rig.children[-1].send_signal(signal.SIGCONT)
    wanted += late
    follow.carried(wanted)
    rotate(rig)
    rig.append(*names("c", 5))
    wanted += names("c", 5)
    follow.carried(wanted)
    if live:
        rig.stop(rig.children[-1])
    rig.once()
    assert rig.datas() == wanted
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        assert not [known for known in generations_of(ledger, STREAM, "messages.log") if known.packed == UNREAD]
    rig.check_account()


def test_rotated_twice_under_a_writer_on_the_old_descriptor(rig: Rig) -> None:
    """A log that came and went while nobody looked is carried, though an older piece was written to after it."""
    old = rig.log.open("ab", buffering=0)
    old.write(b"".join(map(line, names("a", 5))))
    rig.once()
    rotate(rig)
    rig.append(*names("short", 2))
    rotate(rig)
    old.write(b"".join(map(line, names("late", 5))))
    old.close()
    written = (rig.root / "messages.log.2").stat().st_mtime_ns
    os.utime(rig.root / "messages.log.1", ns=(0, written - 1_000_000))
    rig.append(*names("c", 5))
    result = rig.once()
    assert not result.errors
    assert rig.datas() == names("a", 5) + names("late", 5) + names("short", 2) + names("c", 5), rig.said()
    assert "left alone" not in rig.said()


def test_two_new_pieces_of_which_the_older_was_written_to_last(rig: Rig) -> None:
    """Of two logs that came and went while nobody looked, the one that was made first comes first, however late."""
    rig.append(*names("a", 5))
    rig.once()
    rotate(rig)
    old = rig.log.open("ab", buffering=0)
    old.write(b"".join(map(line, names("b", 5))))
    if not (made := born(str(rig.log))):
        pytest.skip("this file system does not tell when a file was made")
    rotate(rig)

    def later() -> bool:
        rig.log.write_bytes(line(b"short"))
        if born(str(rig.log)) > made:
            return True
        rig.log.unlink()
        return False

    wait_until(later, "a later time of birth")
    rotate(rig)
    written = (rig.root / "messages.log.1").stat().st_mtime_ns
    probe = rig.path / "probe"

    def ticked() -> bool:
        probe.write_bytes(b"")
        return probe.stat().st_mtime_ns > written

    wait_until(ticked, "a later time of writing")
    old.write(b"".join(map(line, names("late", 5))))
    old.close()
    result = rig.once()
    assert not result.errors
    assert rig.datas() == names("a", 5) + names("b", 5) + names("late", 5) + [b"short"], rig.said()


@pytest.mark.parametrize("how", [rotate, copytruncate])
def test_rotated_behind_a_read_that_found_nothing(one_rig: Rig, monkeypatch: pytest.MonkeyPatch, how: Act) -> None:
    """The mirror looks while forward is at the end: lines that came just before the rotation are not carried late."""
    rig = one_rig
    rig.append(*names("a", 5))
    rig.once()
    rig.append("new")
    [mapping] = rig.settings().mappings
    ledger, shared = Ledger(rig.state / "ledger.db"), MappingContext(mapping, rig.settings())
    forward = Forward(shared, ledger, Troubles(time.time), time.time, lambda: Connection(rig.url))
    peek, acted = Tail.peek, list[Act]()

    def rotated(tail: Tail, generation: Generation, limit: int) -> bytes:
        found = peek(tail, generation, limit)
        if not found and not acted:
            acted.append(how)
            rig.append(*names("b", 5))
            how(rig)
            rig.append(*names("c", 5))
            tail.look()
        return found

    forward.look()
    forward.attach()
    with monkeypatch.context() as patch:
        patch.setattr(Tail, "peek", rotated)
        while forward.step() or not acted:
            pass
    forward.detach()
    shared.close()
    ledger.close()
    assert rig.datas() == [*names("a", 5), b"new", *names("b", 5), *names("c", 5)]


def test_several_rotations_at_once(rig: Rig, follow: Follow) -> None:
    """Three rotations in a moment, or while the bridge is down: every piece, in order."""
    rig.append(*names("a", 30))
    follow.carried(names("a", 30))
    wanted = names("a", 30)
    for tag in ("b", "c", "d"):
        rig.append(*names(tag, 10))
        rotate(rig)
        wanted += names(tag, 10)
    rig.append(*names("e", 10))
    follow.carried(wanted + names("e", 10))


def test_rotations_while_redis_is_away(rig: Rig) -> None:
    """Rotated away while nothing can be sent: nothing is missing when Redis is back."""
    rig.ready(rig.start())
    rig.append(*names("a", 30))
    wait_until(lambda: len(rig.datas()) == 30, "the beginning")
    rig.kill_server()
    wanted = names("a", 30)
    for tag in ("b", "c", "d"):
        rig.append(*names(tag, 10))
        rotate(rig)
        wanted += names(tag, 10)
    (rig.root / "messages.log.3").unlink()  # the oldest of them is deleted: the descriptor holds what is not sent
    rig.append(*names("e", 10))
    rig.start_server()
    wait_until(lambda: b"e-9" in rig.datas(), lambda: f"all that can be had; {rig.said()}")
    datas = rig.datas()
    assert [d for d in datas if not d.startswith(b"b-")] == [
        d for d in wanted + names("e", 10) if not d.startswith(b"b-")
    ]
    assert len(set(datas)) == len(datas)


def test_copytruncate(rig: Rig, follow: Follow) -> None:
    """Copied and truncated: the copy's unread rest first, then the file from its beginning."""
    rig.append(*names("a", 40))
    follow.carried(names("a", 40))
    rig.append(*names("b", 10))
    copytruncate(rig)
    rig.append(*names("c", 5))
    follow.carried(names("a", 40) + names("b", 10) + names("c", 5))
    copytruncate(rig)
    rig.append(*names("d", 60))  # longer than what was read before: only the content tells
    follow.carried(names("a", 40) + names("b", 10) + names("c", 5) + names("d", 60))


@pytest.mark.parametrize("size", ["smaller", "equal", "larger"])
def test_rewritten_in_place(rig: Rig, follow: Follow, size: str) -> None:
    """A file rewritten with other content of any size is read from 0."""
    rig.append(*names("a", 10))
    follow.carried(names("a", 10))
    other = {"smaller": names("z", 3), "equal": names("z", 10), "larger": names("z", 30)}[size]
    rig.log.write_bytes(b"".join(map(line, other)))
    follow.carried(names("a", 10) + other)


def test_truncated_to_nothing(rig: Rig, follow: Follow) -> None:
    """Truncated and written anew."""
    rig.append(*names("a", 10))
    follow.carried(names("a", 10))
    os.truncate(rig.log, 0)
    follow.carried(names("a", 10))
    rig.append(*names("b", 3))
    follow.carried(names("a", 10) + names("b", 3))


def test_deleted_and_recreated(rig: Rig, follow: Follow) -> None:
    """Deleted and made again, where ext4 gives it the same inode number."""
    rig.append(*names("a", 10))
    follow.carried(names("a", 10))
    rig.log.unlink()
    rig.append(*names("b", 40))
    follow.carried(names("a", 10) + names("b", 40))


@pytest.mark.parametrize("how", ["restored", "replaced"])
def test_same_content_under_another_inode(rig: Rig, follow: Follow, how: str) -> None:
    """A restored copy, or an atomic save of the same content and more, goes on where it was."""
    rig.append(*names("a", 10))
    follow.carried(names("a", 10))
    copy = rig.path / "copy"
    shutil.copy(rig.log, copy)
    if how == "restored":
        rig.log.unlink()
    with copy.open("ab") as file:
        file.write(b"".join(map(line, names("b", 5))))
    copy.rename(rig.log)
    follow.carried(names("a", 10) + names("b", 5))
    rig.append(*names("c", 5))
    follow.carried(names("a", 10) + names("b", 5) + names("c", 5))


def test_a_copy_beside_the_log_is_not_read(rig: Rig, follow: Follow) -> None:
    """`cp messages.log messages.log.bak` puts nothing into the stream, not at the next rotation either."""
    rig.append(*names("a", 60))
    follow.carried(names("a", 60))
    shutil.copy(rig.log, rig.root / "messages.log.9")
    rig.append(*names("b", 5))
    follow.carried(names("a", 60) + names("b", 5))


def test_generations_that_begin_alike(rig: Rig, follow: Follow) -> None:
    """Every piece begins with the same two kilobytes of banner: each is carried once all the same."""
    banner = names("banner", 40)
    wanted: list[bytes] = []
    for tag in ("a", "b", "c"):
        rig.append(*banner, *names(tag, 5))
        wanted += banner + names(tag, 5)
        follow.carried(wanted)
        rotate(rig)
    rig.append(*banner)
    follow.carried(wanted + banner)


def test_partial_line(rig: Rig, follow: Follow) -> None:
    """Half a line waits; its other half makes it one entry."""
    whole = line("whole")
    with rig.log.open("ab", buffering=0) as file:
        file.write(line("a") + whole[:20])
        follow.carried([b"a"])
        file.write(whole[20:])
        follow.carried([b"a", b"whole"])


def test_odd_bytes(rig: Rig, follow: Follow) -> None:
    """CRLF, empty lines, NULs, invalid UTF-8 and delimiters come through byte for byte."""
    odd = [b"crlf\r", b"\x00nul\x00", b"\xff\xfe\x80", b"a|b||c|", b'\\n \\ "', b" ", "größer".encode(), b"%d %b %%"]
    rig.log.write_bytes(b"\n\n" + b"\n".join(line(d)[:-1] for d in odd) + b"\n\n")
    follow.carried(odd)


def test_a_file_that_comes_later(rig: Rig, follow: Follow) -> None:
    """The log does not exist yet, nor its folder."""
    rig.root.rmdir()
    follow.carried([])
    rig.root.mkdir()
    rig.append(*names("a", 3))
    follow.carried(names("a", 3))


def test_a_folder_that_is_replaced(rig: Rig, follow: Follow) -> None:
    """The whole folder is moved away and made anew."""
    rig.append(*names("a", 3))
    follow.carried(names("a", 3))
    rig.root.rename(rig.path / "old")
    rig.root.mkdir()
    rig.append(*names("b", 3))
    follow.carried(names("a", 3) + names("b", 3))
    rig.append(*names("c", 3))
    follow.carried(names("a", 3) + names("b", 3) + names("c", 3))


def test_poll(rig: Rig) -> None:
    """With --poll lines go over without file events."""
    rig.ready(rig.start("--poll"))
    rig.append(*names("a", 3))
    wait_until(lambda: rig.datas() == names("a", 3), "the lines")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything; the next test has a fault that root meets too")
def test_unreadable_then_readable(rig: Rig, follow: Follow) -> None:
    """A log without the right to read it is reported, and carried when the right is there."""
    rig.append(*names("a", 3))
    rig.log.chmod(0)
    if follow.live:
        wait_until(lambda: "Permission denied" in rig.said(), "the report")
    else:
        assert rig.once().errors
    rig.log.chmod(0o644)
    follow.carried(names("a", 3))


@pytest.mark.parametrize("what", ["folder", "loop"])
def test_unreadable_path_then_a_log(rig: Rig, follow: Follow, what: str) -> None:
    """A folder or a link that leads nowhere where the log should be is reported; the log in its place is carried."""
    if what == "folder":
        rig.log.mkdir()
    else:
        rig.log.symlink_to(rig.log)
    if follow.live:
        wait_until(lambda: f"{rig.log}: " in rig.said(), lambda: f"the report; {rig.said()}")
    else:
        assert rig.once().errors
    rig.log.rmdir() if what == "folder" else rig.log.unlink()
    rig.append(*names("a", 3))
    follow.carried(names("a", 3))


def test_mirrored_lines_through_rotations(rig: Rig, follow: Follow) -> None:
    """Lines that the mirror wrote are not carried back from any generation."""
    file_born: list[bytes] = []
    redis_born: list[bytes] = []
    for turn in range(4):
        rig.append(*names(f"f{turn}", 5))
        file_born += names(f"f{turn}", 5)
        for data in names(f"r{turn}", 5):
            rig.add(data)
            redis_born.append(data)
        if follow.live:
            wait_until(lambda: rig.equal(file_born, redis_born), lambda: f"both sides; {rig.said()}")
        else:
            assert not rig.once().errors
        rotate(rig) if turn % 2 else copytruncate(rig)
    rig.append("end")
    file_born.append(b"end")
    if follow.live:
        rig.settle(file_born, redis_born)
    else:
        rig.once()
    rig.check(file_born, redis_born)


def test_watcher_dies(tmp_path: Path) -> None:
    """A dead observer thread is noticed and replaced; events come again."""
    from threading import Event

    from bridge.files.watch import Watcher

    woken = Event()
    said: list[str] = []
    watcher = Watcher({tmp_path}, lambda path, removed: woken.set(), said.append)
    try:
        watcher.tend()
        observer = watcher._observer
        assert observer is not None
        for emitter in observer.emitters:
            emitter.stop()
            emitter.join(10)
        watcher.tend()
        assert said
        assert watcher._observer is not observer
        (tmp_path / "a").write_text("x")
        assert woken.wait(10)
    finally:
        watcher.close()


@pytest.mark.parametrize("lines", [3, 100], ids=["short", "long"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_copy_by_hand(rig: Rig, follow: Follow, when: str, lines: int) -> None:
    """`cp -p messages.log messages.log.bak`, before the bridge ever ran or after it: no line is carried twice."""
    rig.append(*names("a", lines))
    if when == "after":
        follow.carried(names("a", lines))
    if when == "after" or not follow.live:
        shutil.copy2(rig.log, rig.root / "messages.log.bak")
    follow.carried(names("a", lines))
    rig.append(*names("b", 3))
    shutil.copy(rig.log, rig.root / "messages.log.orig")
    follow.carried(names("a", lines) + names("b", 3))
    rotate_only(rig)
    rig.append(*names("c", 3))
    follow.carried(names("a", lines) + names("b", 3) + names("c", 3))
    rotate_only(rig)
    rig.append(*names("d", 3))
    follow.carried(names("a", lines) + names("b", 3) + names("c", 3) + names("d", 3))


def rotate_only(rig: Rig) -> None:
    """A rotation beside files that have no number."""
    if (rig.root / "messages.log.1").exists():
        (rig.root / "messages.log.1").rename(rig.root / "messages.log.2")
    rig.log.rename(rig.root / "messages.log.1")


def test_ended_in_redis_and_not_in_the_ledger(rig: Rig) -> None:
    """Killed after Redis knows that a file ended and before the ledger does: its writer's late lines are carried."""
    rig.append("f-0")
    assert not rig.once().errors
    with rig.log.open("ab", buffering=0) as old:
        child = rig.ready(rig.start(crash="forward.checkpoint.before:2"))
        rig.append("f-1")
        wait_until(lambda: b"f-1" in rig.datas(), rig.said)
        wait_until(lambda: _in_ledger(rig)[0][1] == 80, rig.said)
        rotate(rig)
        rig.append("B")
        wait_until(lambda: child.poll() is not None, rig.said)
        assert child.returncode == -9
        old.write(line("A"))
        rig.ready(rig.start())
        wait_until(lambda: len(rig.datas()) >= 4, rig.said)
    assert rig.datas() == [b"f-0", b"f-1", b"B", b"A"]


def test_late_lines_over_restarts(rig: Rig) -> None:
    """A writer goes on on the old descriptor after each rotation, of an empty log too; restarts send nothing twice."""
    rig.append("f-0")
    assert not rig.once().errors
    wanted = [b"f-0"]
    for turn in range(4):
        child = rig.ready(rig.start())
        wait_until(lambda: b"goes on" in rig.said().encode() or len(rig.datas()) == len(wanted), rig.said)
        with rig.log.open("ab", buffering=0) as old:
            rotate(rig)
            rig.log.touch()
            for n in range(3):
                old.write(line(f"A{turn}-{n}"))
                wanted.append(f"A{turn}-{n}".encode())
                wait_until(lambda: len(rig.datas()) >= len(wanted), rig.said)
        rig.stop(child)
        assert rig.datas() == wanted
    assert not rig.once().forwarded
    assert rig.datas() == wanted


def _in_ledger(rig: Rig) -> list[tuple[int, int]]:
    """Number and offset of each generation."""
    ledger = Ledger(rig.state / "ledger.db")
    try:
        return [(int(a), int(b)) for a, b in ledger.rows("SELECT number, offset FROM generations ORDER BY number")]
    finally:
        ledger.close()


def test_a_name_that_is_not_utf8(rig: Rig, tmp_path: Path) -> None:
    """Of many sources one has an impossible name: it is said, and the others are carried."""
    mapping = shipped("hestai-message").split("[mirror]")[0]
    (rig.path / "many.toml").write_text(
        mapping.replace('"messages.log"', '"*.out"').replace('"messages.log.*"', '"*.out.*"')
    )
    rig.write_config(mapping="many.toml")
    (rig.root / "a.out").write_bytes(line("f-a"))
    Path(os.fsdecode(os.fsencode(rig.root) + b"/b\xff.out")).write_bytes(line("f-b"))
    result = rig.run("run", "--once", "--redis", rig.server.socket_url)
    assert result.returncode == 0, result.stderr
    assert "not carried" in result.stderr
    assert rig.datas() == [b"f-a"]


def test_a_glob_and_no_new_file_yet(rig: Rig) -> None:
    """A source of a glob whose file was rotated away is carried to its end, and refilled, before a new file is there."""
    mapping = shipped("hestai-message")
    mapping = mapping.replace('"messages.log"', '"*.log"').replace('"messages.log.*"', '"*.log.*"')
    (rig.path / "glob.toml").write_text(mapping.replace('[mirror]\npath = "*.log"', '[mirror]\npath = "messages.log"'))
    rig.write_config(mapping="glob.toml")
    rig.append("f-0")
    assert not rig.once(dual=False).errors
    rig.append("f-1")
    rig.log.rename(rig.root / "messages.log.1")
    assert not rig.once(dual=False).errors
    assert rig.datas() == [b"f-0", b"f-1"]
    rig.redis.call("DEL", STREAM)
    assert not rig.once(dual=False).errors
    assert rig.datas() == [b"f-0", b"f-1"]
    rig.append("f-2")
    assert not rig.once(dual=False).errors
    assert rig.datas() == [b"f-0", b"f-1", b"f-2"]


@pytest.mark.parametrize("how", [rotate, copytruncate])
def test_rotated_as_an_earlier_write_is_looked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch, how: Act) -> None:
    """A line written before a kill is found where it stands, in a copy too that is made as it is looked for."""
    rig.append(*names("a", 5))
    rig.once()
    rig.add("r-0")
    child = rig.start("--once", crash="mirror.write.after")
    wait_until(lambda: child.poll() is not None, "the crash")
    rig.append(*names("b", 5))
    find, acted = unfinished_write._find, list[Act]()

    def found(generation: Generation, start: int, lines: bytes, *, within: bool = False) -> int:
        if not acted:
            acted.append(how)
            how(rig)
            rig.append(*names("c", 5))
        return find(generation, start, lines, within=within)

    monkeypatch.setattr(unfinished_write, "_find", found)
    rig.once()
    assert acted
    rig.check(names("a", 5) + names("b", 5) + names("c", 5), [b"r-0"])


@pytest.mark.parametrize("how", [rotate, copytruncate])
def test_rotated_as_entries_are_compared(rig: Rig, monkeypatch: pytest.MonkeyPatch, how: Act) -> None:
    """Entries stand for their lines, though the file is emptied as they are compared after a loss."""
    stream, checkpoint = STREAM, f"bridge:{{{STREAM}}}:checkpoint"
    rig.append(*names("a", 5))
    rig.once(dual=False)
    old = rig.redis.call("HGET", checkpoint, "messages.log")
    rig.append(*names("b", 5))
    rig.once(dual=False)
    dumped = rig.redis.call("DUMP", stream)
    rig.append(*names("c", 5))
    rig.once(dual=False)
    rig.redis.call("RESTORE", stream, 0, dumped, "REPLACE")
    rig.redis.call("HSET", checkpoint, "messages.log", old)
    stands, acted = LineReader.stands, list[Act]()

    def stood(reader: LineReader, generation: Generation, offset: int, fields: list[bytes]) -> bool:
        if not acted:
            acted.append(how)
            how(rig)
            rig.append(*names("d", 5))
        return stands(reader, generation, offset, fields)

    monkeypatch.setattr(LineReader, "stands", stood)
    rig.once(dual=False)
    assert acted
    assert rig.datas() == names("a", 5) + names("b", 5) + names("c", 5) + names("d", 5)
