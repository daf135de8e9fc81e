"""Random programs of edits of a log, against a model: any act of an editor or a script, in place or saved beside, with
mirrored lines inside, behind generations, packed, while a bridge runs, sleeps and is stopped. Half write lines that
recur."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from contextlib import closing
from itertools import count
from threading import Event

from hypothesis import given

from bridge.admin.repair.acknowledge import acknowledge_difference
from bridge.core import failpoints
from bridge.core.model import format_id
from bridge.engine.once import once
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.edits import ALIGNED, AS_NEW, STOPPED, LogEdit, rewrites_of, save_rewrite
from bridge.ledger.store import Ledger
from bridge.parity.acknowledgements import name_of
from tests.scenarios.test_model import acts, programs, shared_rig
from tests.support.rig import RUNNING, STREAM, Rig, line
from tests.support.running import Running

RECURRING = (b"beat", b"tick", b"reload")
Program = list[tuple[str, int]]


class Model:
    """The log's lines as they are meant to be, each with a tag of its own; and how often each must have come."""

    margin = 0
    """So many lines at the log's end are not edited."""

    def __init__(self, rig: Rig, *, recurs: bool) -> None:
        self.rig = rig
        self.recurs = recurs
        self.lines: list[tuple[int, bytes]] = []
        self.seen: dict[int, bytes] = {}
        self.ever: dict[int, bytes] = {}
        self.tags = count()
        self.mirrored = 0
        self.raw: dict[bytes, bytes] = {}
        self.running: Running | None = None
        self.asleep = False
        self.rotated = 0
        self.rebuilt = False
        self.cut: list[tuple[int, bytes]] = []

    def fresh(self, n: int) -> tuple[int, bytes]:
        tag = next(self.tags)
        if self.recurs and n % 4 == 0:
            return tag, RECURRING[n % len(RECURRING)]
        return tag, b"m%d" % tag

    # -- acts ------------------------------------------------------------------------------------------------

    def append(self, n: int) -> None:
        more = [self.fresh(n + k) for k in range(1 + n % 12 + 4 * self.margin)]
        self.lines += more
        self.ever |= dict(more)
        with self.rig.log.open("ab") as file:
            file.write(b"".join(line(data) for _, data in more))

    def edit(self, n: int) -> None:
        """A line is changed; to one of the same length only where nothing was written since the last look."""
        tag, data = self.fresh(1)
        if self.asleep or n % 5:
            data += b", edited"
        else:
            self.sync(1)
        self._save(n, [*self.lines[: self._at(n)], (tag, data), *self.lines[self._at(n) + 1 :]])

    def insert(self, n: int) -> None:
        self._save(n, [*self.lines[: self._at(n)], self.fresh(1), *self.lines[self._at(n) :]])

    def delete(self, n: int) -> None:
        self._save(n, [*self.lines[: self._at(n)], *self.lines[self._at(n) + 1 :]])

    def duplicate(self, n: int) -> None:
        if self.lines:
            again = next(self.tags), self.lines[self._at(n)][1]
            self._save(n, [*self.lines[: self._at(n)], again, *self.lines[self._at(n) :]])

    def swap(self, n: int) -> None:
        if len(self.lines) > 1:
            i, j, lines = self._at(n), self._at(n // 3), [*self.lines]
            lines[i], lines[j] = lines[j], lines[i]
            self._save(n, lines)

    def sort(self, n: int) -> None:
        self._save(n, sorted(self.lines, key=lambda found_edit: found_edit[1]))

    def cut_head(self, n: int) -> None:
        self._save(n, self.lines[self._at(n) :])

    def cut_tail(self, n: int) -> None:
        self.cut = [*self.lines[self._at(n) + 1 :], *self.cut]
        self._save(n, self.lines[: self._at(n) + 1])

    def anew(self, n: int) -> None:
        """The log is begun anew, with the same banner, and ends in the same line."""
        if self.lines:
            ends = [(next(self.tags), self.lines[k][1]) for k in (0, -1)]
            made = [ends[0], *(self.fresh(1) for _ in range(n % 9)), ends[1]]
            if [data for _, data in made[: len(self.lines)]] == [data for _, data in self.lines]:
                made[: len(self.lines)] = self.lines  # it goes on as it was, as far as anybody can tell
            self._save(n, made)

    def mirror(self, n: int) -> None:
        self.rig.add(f"r-{self.mirrored}")
        self.mirrored += 1

    def rotate(self, n: int) -> None:
        """The log, edited or not, becomes a piece, packed by half, before the bridge sees it."""
        self._read_mirrored()
        if not self.lines:
            return
        self.rotated += 1
        piece = self.rig.root / f"messages.log.{1000 - self.rotated}"
        if n % 2:
            piece.with_name(f"{piece.name}.gz").write_bytes(gzip.compress(self.rig.log.read_bytes()))
            self.rig.log.unlink()
        else:
            self.rig.log.rename(piece)
        self._note(self.lines)
        self.lines = []
        self.append(n)

    def _at(self, n: int) -> int:
        return n % max(1, len(self.lines) - self.margin)

    def _save(self, n: int, lines: list[tuple[int, bytes]]) -> None:
        self._read_mirrored()
        if not self.rig.log.exists():
            return
        self.lines = lines
        self.ever |= dict(lines)
        content = b"".join(self.raw.get(data, line(data)) for _, data in lines)
        if n % 2:
            self.rig.log.write_bytes(content)
        else:
            beside = self.rig.root / "saved.tmp"
            beside.write_bytes(content)
            beside.replace(self.rig.log)
        if not self.asleep:
            self.sync(n)

    # -- the bridge ------------------------------------------------------------------------------------------

    def stop(self, n: int) -> None:
        if self.running is not None:
            self.running.close()
            self.running = None

    def sleep(self, n: int) -> None:
        self.asleep = not self.asleep

    def kill(self, n: int) -> None:
        """A run in a child process is killed at a point that the number chooses."""
        self.stop(n)
        names = [
            f"{name}.{when}"
            for name in (*RUNNING, *["forward.align", "forward.record"] * 3)
            for when in ("before", "after")
        ]
        pid = os.fork()
        if pid == 0:
            failpoints.arm(f"{names[n % len(names)]}:{1 + n // 100 % 3}")
            try:
                once(self.rig.settings(), dual=True, stop=Event())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        self._read_mirrored()

    def fail(self, n: int) -> None:
        point = "forward.record" if n % 4 > 1 else "forward.align"
        failpoints.arm(f"{point}.{'before' if n % 2 else 'after'}:raise")

    def rebuild(self, n: int) -> None:
        """The ledger is lost, and rebuilt from stream and files; what it had said of edits is gone with it."""
        self.stop(n)
        for path in self.rig.state.glob("ledger.db*"):
            path.unlink()
        done = self.rig.run("repair", "--redis", self.rig.server.socket_url, "--take-over", "--execute")
        assert done.returncode in (0, 3, 4), done.stderr
        if "put back" in done.stdout:
            self.lines += self.cut  # a tail that was cut off is one of the things that a repair mends
        self._read_mirrored()
        self.rebuilt = True

    def sync(self, n: int) -> None:
        """The bridge carries all there is."""
        if n % 3 == 0:
            self.stop(n)
        if self.running is None and n % 3 == 0:
            for _ in range(3):
                self._answer([str(error) for error in self.rig.once().errors])
        else:
            self.running = self.running or Running(self.rig, dual=True)
            for _ in range(3):
                self.running.sweep(2)
                self._answer([str(error) for error in self.running.forward.failures()])
        self._read_mirrored()
        self._note(self.lines)
        self.cut = []

    def _answer(self, errors: list[str]) -> None:
        """Says of a log that waits for it that the file is a new one."""
        waits = [error for error in errors if "another file took its place" in error]
        assert [error for error in errors if "raised at" not in error] == waits
        if waits:
            with closing(Ledger(self.rig.state / "ledger.db")) as ledger:
                found = [found_edit for found_edit in rewrites_of(ledger, STREAM) if found_edit.how == STOPPED][-1]
                save_rewrite(ledger, STREAM, LogEdit(found.name, found.generation, found.of, found.at, AS_NEW))

    def _read_mirrored(self) -> None:
        """Takes in the lines that the mirror appended."""
        if not self.rig.log.exists():
            return
        raws = self.rig.log.read_bytes().splitlines(keepends=True)
        datas = [raw.rpartition(b"|")[2].removesuffix(b"\n") for raw in raws]
        self.raw |= {data: raw for data, raw in zip(datas, raws, strict=True) if data.startswith(b"r-")}
        here = [data for _, data in self.lines]
        assert datas[: len(here)] == here
        assert all(data.startswith(b"r-") for data in datas[len(here) :])
        self.lines += [(next(self.tags), data) for data in datas[len(here) :]]
        self.ever |= dict(self.lines)

    def _note(self, lines: list[tuple[int, bytes]]) -> None:
        self.seen |= dict(lines)

    # -- the oracle ------------------------------------------------------------------------------------------

    def check(self, *, twice: bool) -> None:
        failpoints.arm(None)
        self.asleep = False
        self.sync(1)
        self.sync(0)
        self.stop(0)
        wanted, came = Counter(self.seen.values()), Counter(self.rig.datas())
        if self.rebuilt:  # lines equal to a mirrored one are taken for that where its place was lost with the ledger
            wanted = Counter({data: times for data, times in wanted.items() if not data.startswith(b"r-")})
        assert not wanted - came, ("lost", wanted - came)
        again = came - Counter(self.ever.values())
        assert twice or not again, ("twice", again)
        with closing(Ledger(self.rig.state / "ledger.db", create=True)) as ledger:
            told = sum(found.again for found in rewrites_of(ledger, STREAM))
            assert self.rebuilt or sum(again.values()) <= told, (again, rewrites_of(ledger, STREAM))
            self.acknowledge(ledger)

    def acknowledge(self, ledger: Ledger) -> None:
        """Whatever parity names can be acknowledged, and then both sides are equal."""
        found = self.rig.parity()
        if found.verdict == "differs":
            rows = [f"{format_id(row.first).decode()}..{format_id(row.last).decode()}" for row in found.tally.taken_out]
            names = {*rows, *(name_of(difference) for difference in found.tally.differences)}
            settings = self.rig.settings()
            with closing(MappingContext(settings.mappings[0], settings)) as shared:
                acknowledge_difference(ledger, [(shared, found)], sorted(names), "test", "meant", 0.0)
            found = self.rig.parity()
        anew = any(found_edit.how != ALIGNED for found_edit in rewrites_of(ledger, STREAM))
        gone = not self.lines or anew or self.rebuilt  # then nobody knows what stood there
        assert found.verdict == "equal" or (gone and found.verdict == "inconclusive"), (found.tally, found.notes)


ACTS = {
    "append": Model.append, "edit": Model.edit, "insert": Model.insert, "delete": Model.delete,
    "duplicate": Model.duplicate, "swap": Model.swap, "sort": Model.sort, "cut head": Model.cut_head,
    "cut tail": Model.cut_tail, "anew": Model.anew, "mirror": Model.mirror, "rotate": Model.rotate,
    "sync": Model.sync, "stop": Model.stop, "asleep": Model.sleep, "kill": Model.kill, "raise": Model.fail,
    "rebuild": Model.rebuild,
}  # fmt: skip


def play(rig: Rig, program: Program, *, recurs: bool, twice: bool = True) -> None:
    model = Model(rig, recurs=recurs)
    model.margin = 0 if twice else 3
    try:
        for k in range(3):
            model.append(11 + k)
        model.sync(1)
        for name, n in program:
            if not twice and name in ("edit", "insert", "delete"):
                model.sync(1)  # else what was written since hides how much of the log is as it was
            ACTS[name](model, n)
        model.check(twice=twice)
    finally:
        failpoints.arm(None)
        model.stop(0)


NUMBERS = dict.fromkeys(ACTS, (0, 400))


@programs(8)
@given(acts(12, **NUMBERS))
def test_programs_of_edits(program: Program) -> None:
    """No line is lost, whatever becomes of the log; what is sent again is said; and parity takes it all for what it is."""
    with shared_rig() as rig:
        play(rig, program, recurs=False)


@programs(8)
@given(acts(12, **NUMBERS))
def test_programs_of_edits_of_lines_that_recur(program: Program) -> None:
    """The same where a quarter of the lines are a few that come again and again."""
    with shared_rig() as rig:
        play(rig, program, recurs=True)


ORDINARY = ("append", "edit", "insert", "delete", "mirror", "rotate", "sync", "stop", "kill", "raise", "rebuild")


@programs(8)
@given(acts(10, **dict.fromkeys(ORDINARY, (0, 400))))
def test_edits_that_send_nothing_again(program: Program) -> None:
    """Where lines are changed, put in and taken out, and stay in order, none comes twice."""
    with shared_rig() as rig:
        play(rig, program, recurs=False, twice=False)
