"""Thousands of logs of one mapping: what rests is not opened, what moves is carried as if it were alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.core.errors import LedgerError, SourceError
from bridge.core.model import Position
from bridge.engine.account.accountant import Accountant
from bridge.engine.account.inventory import account_of
from bridge.files.catalog import Catalog
from bridge.files.descriptor_pool import DescriptorPool
from bridge.files.generation import Generation
from bridge.kinds.kind import Source
from bridge.kinds.source_progress import SourceProgress
from bridge.kinds.source_registry import source_of
from bridge.ledger import dual_writes
from bridge.ledger.sources import SourceMemory, sources_of
from bridge.streams.embedded.binary import find
from tests.support.rig import STREAM, Rig, wait_until
from tests.support.running import Running, mapped, write


@pytest.fixture
def mem(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig.shared(tmp_path, find())
    yield rig
    rig.close_shared()


CHECKPOINT = f"bridge:{{{STREAM}}}:checkpoint"


def logs(rig: Rig, count: int, *datas: str, first: int = 0) -> None:
    """So many logs, each with these lines of its own."""
    for i in range(first, first + count):
        write(rig.root / f"s{i:02}.log", *(f"{i} {data}" for data in datas))


def over_resting(rig: Rig, count: int) -> Running:
    """A bridge that has begun over so many logs that were carried before, two lines each."""
    mapped(rig, "*.log", "*.log.*")
    logs(rig, count, "a", "b")
    rig.once()
    running = Running(rig)
    running.sweep()
    return running


def by_log(rig: Rig) -> dict[int, list[str]]:
    """What stands in the stream of each log, in stream order."""
    found: dict[int, list[str]] = {}
    for data in rig.datas():
        number, _, said = data.decode().partition(" ")
        found.setdefault(int(number), []).append(said)
    return found


def test_what_rests_is_not_opened(mem: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that starts opens no log that stands as it was carried, and then that one which is written to."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 20, "a", "b")
    mem.once()
    opened: list[str] = []
    real = DescriptorPool.open

    def noted(pool: DescriptorPool, path: Path) -> int:
        opened.append(path.name)
        return real(pool, path)

    monkeypatch.setattr(DescriptorPool, "open", noted)
    running = Running(mem)
    running.sweep(2)
    assert opened == []
    logs(mem, 1, "c", first=7)
    running.sweep(2)
    assert {*opened} == {"s07.log"}
    running.close()
    assert by_log(mem) == {i: ["a", "b", "c"] if i == 7 else ["a", "b"] for i in range(20)}
    mem.check_account()


@pytest.mark.parametrize("act", ["edit", "replace", "truncate", "remove", "rotate"])
def test_what_rested_and_changed(mem: Rig, act: str) -> None:
    """A log that was carried and rests is followed as ever, whatever becomes of its file while nobody looks."""
    running = over_resting(mem, 4)
    log, wanted = mem.root / "s02.log", ["a", "b"]
    if act == "edit":  # of the same size: its content is another
        log.write_bytes(log.read_bytes().replace(b"2 a", b"2 A"))
        wanted += ["A", "b"]
    elif act == "replace":
        log.rename(mem.path / "elsewhere")
        write(log, "2 new")
        wanted += ["new"]
    elif act == "truncate":
        log.write_bytes(b"")
        write(log, "2 new")
        wanted += ["new"]
    elif act == "remove":
        log.unlink()
    elif act == "rotate":
        write(log, "2 last")
        log.rename(mem.root / "s02.log.1")
        write(log, "2 new")
        wanted += ["last", "new"]
    running.sweep(3)
    logs(mem, 4, "c")
    running.sweep(2)
    running.close()
    assert by_log(mem) == {i: [*(wanted if i == 2 else ["a", "b"]), "c"] for i in range(4)}


def test_what_rests_takes_part_in_a_switch(mem: Rig) -> None:
    """A component that is to write both sides itself begins to at a place in each log, also in those that rest."""
    running = over_resting(mem, 4)
    dual_writes.begin(running.ledger, STREAM, "ui", ["ui"], "a switch", 0.0)
    running.sweep(2)
    for i in range(4):
        [stretch] = dual_writes.in_file(running.ledger, STREAM, f"s{i:02}.log")
        assert stretch.begin == (1, (mem.root / f"s{i:02}.log").stat().st_size)
    running.close()


def test_what_is_taken_for_resting_and_does_not(mem: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a log that has lines to carry is taken for one that rests, the account convicts the bridge."""
    over_resting(mem, 3).close()
    logs(mem, 1, "new", first=1)
    os.utime(mem.root / "s01.log", (1, 1))
    names = [f"s{i:02}.log" for i in range(3)]
    monkeypatch.setattr(Accountant, "_at_rest", lambda self, sources: dict.fromkeys(names, 78))
    running = Running(mem)
    running.sweep(4)
    said = account_of(running.shared, running.ledger, running.clock, running=True).sentences()
    running.close()
    assert len(said) == 1
    assert said[0].startswith("s01.log is unaccounted, bytes 80 to 122: it was written to after")


@pytest.mark.parametrize("while_running", [False, True])
def test_refilled_of_what_rests(mem: Rig, while_running: bool) -> None:
    """A stream that is gone is filled again from logs that nobody had opened."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 10, "a", "b")
    mem.once()
    running = Running(mem)
    if while_running:
        running.sweep(2)
    mem.redis.call("DEL", STREAM)
    logs(mem, 1, "c", first=3)
    if while_running:
        running.forward.detach()
    running.sweep(2)
    running.close()
    assert by_log(mem) == {i: ["a", "b", "c"] if i == 3 else ["a", "b"] for i in range(10)}


def test_an_evicted_checkpoint_of_what_rests(mem: Rig) -> None:
    """Where Redis forgot how far a log that rests was carried, it is told again, and nothing is sent twice."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 5, "a", "b")
    mem.once()
    before = json.loads(mem.redis.call("HGET", CHECKPOINT, "s03.log"))
    mem.redis.call("HDEL", CHECKPOINT, "s03.log")
    mem.once()
    after = json.loads(mem.redis.call("HGET", CHECKPOINT, "s03.log"))
    assert [after[key] for key in ("generation", "offset", "tail")] == [1, before["offset"], before["tail"]]
    assert by_log(mem) == {i: ["a", "b"] for i in range(5)}


POINTS = ("forward.send.after", "forward.reply.before", "forward.reply.after", "forward.checkpoint.before",
          "forward.checkpoint.after")  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_killed_as_new_logs_appear(rig: Rig, point: str) -> None:
    """Logs that appear while a bridge runs are carried once, where it is killed with their first lines."""
    mapped(rig, "*.log", "*.log.*")
    child = rig.ready(rig.start(crash=f"{point}:1", dual=False))
    wait_until(lambda: rig.redis.call("EXISTS", "bridge:health:test"), "the first heartbeat")
    logs(rig, 30, "a", "b")
    wait_until(lambda: child.poll() is not None, lambda: f"the crash; {rig.said()}")
    rig.once(dual=False)
    assert by_log(rig) == {i: ["a", "b"] for i in range(30)}
    rig.check_account()


def test_a_log_that_grows_while_histories_are_merged(mem: Rig) -> None:
    """Lines that come while the history of many logs is being merged follow that of their log, and none is left out."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 12, *map(str, range(60)))
    running = Running(mem)
    running.forward.batch = 7
    running.forward.look()
    running.forward.attach()
    for n in range(12):
        assert running.forward.step()
        logs(mem, 1, f"late {n}", first=n)
        running.forward.look({os.fspath(mem.root / f"s{n:02}.log")})
    running.sweep(2)
    running.close()
    assert by_log(mem) == {i: [*map(str, range(60)), f"late {i}"] for i in range(12)}
    mem.check_account()


def test_a_thousand_appear_at_once(mem: Rig) -> None:
    """A thousand logs that appear together are all carried, while those that were there go on."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 3, "a")
    running = Running(mem)
    running.sweep()
    logs(mem, 1000, "a", "b", first=3)
    logs(mem, 3, "b")
    running.sweep(2)
    running.close()
    assert by_log(mem) == {i: ["a", "b"] for i in range(1003)}
    mem.check_account()


def test_ten_rotate_at_once(mem: Rig) -> None:
    """Ten of many logs that rotate in one moment go on in their next generations, each in its order."""
    running = over_resting(mem, 50)
    for i in range(10):
        logs(mem, 1, "c", first=i)
        (mem.root / f"s{i:02}.log").rename(mem.root / f"s{i:02}.log.1")
        logs(mem, 1, "d", first=i)
    running.sweep(3)
    running.close()
    assert by_log(mem) == {i: ["a", "b", "c", "d"] if i < 10 else ["a", "b"] for i in range(50)}
    mem.check_account()


def test_an_import_of_what_rests(mem: Rig) -> None:
    """An import of logs that were carried says of how many bytes that is so, though it opens none of them."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 12, "a", "b")
    url = ("--redis", mem.url)
    mem.run("import-history", *url)
    done = mem.run("import-history", "--json", *url)
    ended = json.loads(done.stdout.splitlines()[-1])
    size = sum(path.stat().st_size for path in mem.root.glob("*.log"))
    assert (done.returncode, ended["bytes"], ended["before"], ended["entries"]) == (0, size, size, 0)
    assert len(ended["sources"]) == 12


def dated(path: Path, hour: int) -> None:
    """A piece with two lines of this hour."""
    lines = [f"ui|2026-03-02T{hour:02}:00:0{second}Z|say|{hour} {second}\n" for second in range(2)]
    path.write_text("".join(lines))


def test_what_decided_is_shown(mem: Rig) -> None:
    """The order of a log's pieces, what decided it, and the times of first and last messages are told before and after."""
    for hour, name in enumerate(("messages.log.1", "messages.log.2", "messages.log")):
        dated(mem.root / name, hour)
    url = ("--redis", mem.url)
    planned = json.loads(mem.run("import-history", "--dry-run", "--json", *url).stdout)["mappings"][0]["sources"][0]
    assert [(piece["path"], piece["decided"]) for piece in planned["pieces"]] == [
        ("messages.log.1", "oldest"), ("messages.log.2", "times"), ("messages.log", "path"),
    ]  # fmt: skip
    told = mem.run("import-history", "--dry-run", *url).stdout
    assert "messages.log.2, by their lines' times" in told
    mem.once()
    pieces = json.loads(mem.run("files", "--json", *url).stdout)["mappings"][0]["pieces"]
    began = 1772409600000
    assert {
        piece["path"]: (piece["generation"], piece["decided"], piece["first"], piece["last"]) for piece in pieces
    } == {
        "messages.log.1": (1, "oldest", began, began + 1000),
        "messages.log.2": (2, "times", began + 3_600_000, began + 3_601_000),
        "messages.log": (3, "path", began + 7_200_000, began + 7_201_000),
    }
    shown = mem.run("files", *url).stdout
    assert "2026-03-02 01:00:00" in shown
    assert "placed by their lines' times" in " ".join(shown.split())


# -- what fails for a moment --------------------------------------------------------------------------------------


def nested(rig: Rig, *folders: str) -> Catalog:
    """Logs in folders of their own, and a catalog of them."""
    for folder in folders:
        (rig.root / "logs" / folder).mkdir(parents=True, exist_ok=True)
        write(rig.root / "logs" / folder / "x.log", "1 a")
        os.utime(rig.root / "logs" / folder, (1, 1))
    changed = len([*(rig.root / "logs").iterdir()])  # long ago, and not when it was listed
    os.utime(rig.root / "logs", (changed, changed))
    return Catalog(rig.root, "logs/*/*.log")


@pytest.mark.parametrize("act", ["nothing", "another goes", "a new one"])
def test_a_folder_that_could_not_be_listed(mem: Rig, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """A folder that cannot be listed for a moment is listed by the next sweep, and until then an error says so."""
    catalog, failing, real = nested(mem, "a", "b", "c"), set[str](), os.scandir

    def scandir(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name in failing:
            raise OSError(24, "Too many open files")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if act == "a new one":
        catalog.sweep()
        nested(mem, "z")
        failing.add("z")
    else:
        failing.add(next((mem.root / "logs").iterdir()).name)
    for _ in range(2):
        with pytest.raises(SourceError):
            catalog.sweep()
    gone = "a" if failing != {"a"} else "b"
    if act == "another goes":
        shutil.rmtree(mem.root / "logs" / gone)
    failing.clear()
    catalog.sweep()
    wanted = {"a", "b", "c"} | ({"z"} if act == "a new one" else set())
    wanted -= {gone} if act == "another goes" else set()
    assert catalog.logs() == [f"logs/{folder}/x.log" for folder in sorted(wanted)]


def test_a_new_log_that_cannot_be_begun_at_first(mem: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """New logs whose size cannot be told for a moment get numbers of their own, and their lines are carried once."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 1, "a")
    running = Running(mem)
    running.sweep(2)
    real, left = SourceProgress.begin, [2]

    def begin(progress: SourceProgress, number: int, history: Position | None) -> SourceMemory:
        if left[0]:
            left[0] -= 1
            raise SourceError("cannot be looked at: fails now")
        return real(progress, number, history)

    monkeypatch.setattr(SourceProgress, "begin", begin)
    logs(mem, 2, "a", first=1)
    running.sweep(5)
    numbers = sorted(memory.number for memory in sources_of(running.ledger, STREAM).values())
    running.close()
    assert (numbers, left) == ([1, 2, 3], [0])
    assert by_log(mem) == {i: ["a"] for i in range(3)}


def test_an_error_amid_a_sweep_forgets_nobody(mem: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be looked at for a moment does not keep those behind it in the same sweep from being carried."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 3, "a")
    running = Running(mem)
    running.sweep(2)
    real, left = Generation.left, [1]

    def fails(generation: Generation, offset: int | None = None) -> int:
        if left[0] and generation.path.name == "s00.log":
            left[0] -= 1
            raise SourceError("cannot be looked at: Too many open files")
        return real(generation, offset)

    monkeypatch.setattr(Generation, "left", fails)
    logs(mem, 5, "b")
    running.sweep(4)
    running.close()
    assert left == [0]
    assert by_log(mem) == {i: ["a", "b"] if i < 3 else ["b"] for i in range(5)}


def test_a_ledger_that_fails_as_a_log_appears(mem: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new log of which the ledger cannot be asked for a moment is carried as soon as it can."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 2, "a")
    running = Running(mem)
    running.sweep(2)
    real, left = source_of, [1]

    def fails(*args: Any) -> Source:
        if left[0]:
            left[0] -= 1
            raise LedgerError("the disk is full")
        return real(*args)

    monkeypatch.setattr("bridge.engine.discovery.source_of", fails)
    logs(mem, 2, "a", first=2)
    with pytest.raises(LedgerError):
        running.sweep()
    running.sweep(3)
    running.close()
    assert by_log(mem) == {i: ["a"] for i in range(4)}


def test_a_new_log_behind_a_switch_and_back(mem: Rig) -> None:
    """What a component writes into a new log is carried, after it wrote both sides itself and does no more."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 2, "a")
    running = Running(mem)
    running.sweep(2)
    for token, act in (("to", dual_writes.begin), ("back", dual_writes.end)):
        if act is dual_writes.begin:
            dual_writes.begin(running.ledger, STREAM, "agent", ["agent"], token, 0.0)
        else:
            dual_writes.end(running.ledger, STREAM, "agent", token, 0.0)
        running.sweep(2)
        dual_writes.made(running.ledger, token)
        running.sweep(2)
    logs(mem, 1, "a", "b", first=2)
    running.sweep(2)
    logs(mem, 1, "c", first=2)
    running.sweep(2)
    running.close()
    assert by_log(mem) == {0: ["a"], 1: ["a"], 2: ["a", "b", "c"]}


def test_a_merge_that_waits_for_a_switch(mem: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories that are being merged as a component is switched go on behind it, each in its order."""
    monkeypatch.setattr("bridge.kinds.log.dual_write.LEDGER_SECONDS", 0.0)
    mapped(mem, "*.log", "*.log.*")
    for i, days in enumerate(((5,), (2, 6))):
        with (mem.root / f"s{i:02}.log").open("ab") as file:
            for day in days:
                file.writelines(
                    b"agent|2026-03-%02dT09:%02d:%02dZ|turn|%d %d-%d\n" % (day, n // 60, n % 60, i, day, n)
                    for n in range(900)
                )
    running = Running(mem)
    running.forward.look()
    running.forward.attach()
    assert running.forward.step()
    dual_writes.begin(running.ledger, STREAM, "daemon", ["daemon"], "switch", 0.0)
    running.forward.look()
    for _ in range(3):
        running.forward.step()
    dual_writes.made(running.ledger, "switch")
    running.sweep(3)
    running.close()
    assert by_log(mem) == {
        0: [f"5-{n}" for n in range(900)], 1: [f"{day}-{n}" for day in (2, 6) for n in range(900)],
    }  # fmt: skip


def test_a_line_is_found_under_another_name(mem: Rig) -> None:
    """A line's entry is found by a name that its log got since, and by another name of the same file."""
    mapped(mem, "*.log", "*.log.*")
    logs(mem, 1, "a", "b")
    mem.once()
    (mem.root / "s00.log").rename(mem.root / "renamed.log")
    mem.once()
    (mem.root / "hard.log").hardlink_to(mem.root / "renamed.log")
    [_, second] = mem.entries()
    for name in ("renamed.log", "hard.log"):
        told = mem.run("locate", f"files/{name}:2", "--redis", mem.url).stdout
        assert f"entry {second.id[0]}-{second.id[1]}" in told
