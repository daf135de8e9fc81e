"""Random programs of writers, slow and dead consumer groups, rotation, losses, trims and kills, against a model."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from bridge.admin.retention import trimming
from bridge.continuity import archive_writer
from bridge.continuity.archive_reader import ArchiveReader
from bridge.continuity.trim_floor import remembered
from bridge.core.model import EntryId, format_id, parse_id
from bridge.engine import forward
from bridge.ledger.store import Ledger
from bridge.parity import prove as check
from bridge.streams.embedded.binary import find
from bridge.streams.reader import Entry
from bridge.streams.trim import read_trimmed
from tests.admin.test_retention import KEYS, keep, prove, retention
from tests.scenarios.test_model import MEMORY
from tests.support.rig import STREAM, Rig

SOAK = bool(os.environ.get("BRIDGE_SOAK"))

ACTS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 12)),
    st.tuples(st.just("add"), st.integers(1, 8)),
    st.tuples(st.just("carry"), st.just(0)),
    st.tuples(st.just("one way"), st.just(0)),
    st.tuples(st.just("group"), st.integers(0, 2)),
    st.tuples(st.just("read"), st.integers(0, 20)),
    st.tuples(st.just("acknowledge"), st.integers(0, 20)),
    st.tuples(st.just("leave"), st.integers(0, 2)),
    st.tuples(st.just("prove"), st.just(0)),
    st.tuples(st.just("busy"), st.integers(3, 12)),
    st.tuples(st.just("dying"), st.integers(3, 15)),
    st.tuples(st.just("trim"), st.just(0)),
    st.tuples(st.just("kill"), st.integers(0, 23)),
    st.tuples(st.just("rotate"), st.just(0)),
    st.tuples(st.just("lose"), st.just(0)),
)
STEPS = [f"trim.{step}.{when}" for step in ("part", "archive", "floor", "step") for when in ("before", "after")]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it. The real one is in `test_retention_crash`."""


class Model:
    """Every entry there ever was, what each group was given and did not acknowledge, and up to where all was equal."""

    def __init__(self, rig: Rig, *, archived: bool) -> None:
        self.rig = rig
        self.archived = archived
        self.ever: dict[EntryId, list[bytes]] = {}
        self.count = 0
        self.turn = 0
        self.pieces = 0
        self.given: dict[str, EntryId] = {}
        self.unread: dict[str, set[EntryId]] = {}
        self.equal = (0, 0)
        self.lines: set[bytes] = set()

    def notice(self) -> None:
        """Entries that came."""
        self.ever |= {entry.id: entry.fields for entry in self.rig.entries()}

    def act(self, act: str, n: int) -> None:
        rig = self.rig
        if act == "write":
            rig.append(*(f"f-{self.count + i}" for i in range(n)))
            self.count += n
        elif act == "add":
            for i in range(n):
                rig.add(f"r-{self.count + i}")
            self.count += n
        elif act in ("busy", "dying"):  # both write, it is carried, compared, and trimmed
            for step in ("write", "add", "carry", "carry", "prove", "trim" if act == "busy" else "kill"):
                self.act(step, n)
        elif act in ("carry", "one way"):
            rig.once(dual=act == "carry")
        elif act == "rotate" and rig.log.exists():
            self.pieces += 1
            for k in range(self.pieces - 1, 0, -1):
                (rig.root / f"messages.log.{k}").rename(rig.root / f"messages.log.{k + 1}")
            rig.log.rename(rig.root / "messages.log.1")
        elif act == "prove":
            self.notice()
            if prove(rig, onwards=bool(self.turn % 2)).verdict == "equal":
                self.equal = max(self.ever, default=(0, 0))
        elif act in ("trim", "kill"):
            self.trim(STEPS[n % len(STEPS)] if act == "kill" else None, 1 + n // len(STEPS))
        elif act == "lose":
            self.lose()
        else:
            self.group(act, n)
        self.turn += 1
        self.notice()

    def group(self, act: str, n: int) -> None:
        call, name = self.rig.redis.call, f"g{n % 3}"
        if act == "group" and name not in self.given and call("EXISTS", STREAM):
            call("XGROUP", "CREATE", STREAM, name, "0")
            self.given[name], self.unread[name] = (0, 0), set()
        elif act == "read" and name in self.given:
            found = call("XREADGROUP", "GROUP", name, "c", "COUNT", n + 1, "STREAMS", STREAM, ">")
            ids = [parse_id(row[0]) for row in found[0][1]] if found else []
            self.given[name] = max([self.given[name], *ids])
            self.unread[name] |= set(ids)
        elif act == "acknowledge" and name in self.given and self.unread[name]:
            some = sorted(self.unread[name])[: n + 1]
            call("XACK", STREAM, name, *map(format_id, some))
            self.unread[name] -= set(some)
        elif act == "leave" and name in self.given:
            call("XGROUP", "DESTROY", STREAM, name)
            del self.given[name], self.unread[name]

    def trim(self, at: str | None, times: int) -> None:
        """Trims, and is killed at a step; what was removed, or will be, nobody needed."""
        self.notice()
        rig, left = self.rig, times
        before = read_trimmed(rig.redis, KEYS).floor

        def reached(point: str) -> None:
            nonlocal left
            if point == at:
                left -= 1
                if not left:
                    raise Killed

        with ExitStack() as stack:
            ledger = stack.enter_context(closing(Ledger(rig.state / "ledger.db", create=True)))
            stack.enter_context(patch.object(trimming, "failpoint", reached))
            stack.enter_context(patch.object(archive_writer, "failpoint", reached))
            stack.enter_context(suppress(Killed))
            retention(rig, ledger).trim(lambda: False)
        floor = read_trimmed(rig.redis, KEYS).floor
        standing = {entry.id for entry in rig.entries()}
        assert floor >= before
        event("trimmed" if floor > before else "nothing to trim")
        event("killed" if at and not left else "not killed")
        in_files = {line.split(b"|", 3)[3] for line in rig.lines()}
        for entry_id, fields in self.ever.items():
            assert entry_id in standing or entry_id < floor, "what stands above the floor stays"
            if before <= entry_id < floor:
                assert entry_id <= self.equal, "parity has not come to it"
                assert fields[7] in in_files, "it is in no file"
                for name, upto in self.given.items():
                    assert entry_id <= upto, f"{name} was not given it"
                    assert entry_id not in self.unread[name], f"{name} did not acknowledge it"
        self.check()

    def check(self) -> None:
        """Archive and stream are the history; each message once."""
        rig = self.rig
        floor = read_trimmed(rig.redis, KEYS).floor
        stream = [entry for entry in rig.entries() if entry.id >= floor]
        if not self.archived:
            return
        with closing(Ledger(rig.state / "ledger.db", create=True)) as ledger:
            kept = [*ArchiveReader(rig.settings().mappings[0], rig.state, ledger).entries(floor)]
        assert [*kept, *stream] == [Entry(entry_id, self.ever[entry_id]) for entry_id in sorted(self.ever)]

    def lose(self) -> None:
        """Redis loses all. What had not been trimmed comes back; what only Redis had is gone."""
        rig = self.rig
        rig.once()
        rig.once()
        self.notice()
        floor = read_trimmed(rig.redis, KEYS).floor
        with closing(Ledger(rig.state / "ledger.db", create=True)) as ledger:
            if (noted := remembered(ledger, STREAM)) is not None:  # archived, and killed before Redis had the floor
                floor = max(floor, noted.floor)
        stood = [fields[7] for entry_id, fields in sorted(self.ever.items()) if entry_id >= floor]
        rig.redis.call("FLUSHALL")
        self.given, self.unread, self.equal = {}, {}, (0, 0)
        rig.once()
        rig.once()
        datas = [entry.fields[7] for entry in rig.entries()]
        assert sorted(datas) == sorted(stood), (floor, set(datas) ^ set(stood))
        wanted = set(stood)
        assert datas == [data for line in rig.lines() if (data := line.split(b"|", 3)[3]) in wanted]
        if self.archived:
            with closing(Ledger(rig.state / "ledger.db", create=True)) as ledger:
                archive = ArchiveReader(rig.settings().mappings[0], rig.state, ledger)
                kept = [entry.fields[7] for entry in archive.entries(read_trimmed(rig.redis, KEYS).floor)]
            assert kept == [fields[7] for entry_id, fields in sorted(self.ever.items()) if entry_id < floor]
            self.archived = False  # what was archived has other IDs than what comes now
        self.ever = {}


def play(program: list[tuple[str, int]], *, archived: bool) -> None:
    """One program, and its end: all is carried, compared, and equal."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        rig = Rig.shared(Path(folder), find())
        rig.redis.call("CONFIG", "SET", "stream-node-max-entries", "4")
        keep(rig, keep_entries=8, archive=archived)
        patches = [patch.object(check, "CLOSEST", 3), patch.object(trimming, "TRIM_PART", 7), patch.object(forward, "BATCH", 5),
                   patch.object(archive_writer, "ARCHIVE_ENTRIES", 3), patch.object(trimming, "TRIM_PAGE", 2)]  # fmt: skip
        for replacement in patches:
            replacement.start()
        try:
            rig.once()
            model = Model(rig, archived=archived)
            for act, n in program:
                model.act(act, n)
            rig.once()
            rig.once()
            model.notice()
            model.check()
            result = prove(rig)
            assert result.verdict in ("equal", "inconclusive"), result.tally.differences
            assert result.verdict == "equal" or not result.tally.compared
            if model.archived:
                assert result.tally.compared == len(model.ever)
            trim_all(model)
        finally:
            for replacement in patches:
                replacement.stop()
            rig.redis.call("CONFIG", "SET", "stream-node-max-entries", "500")
            rig.close_shared()


def trim_all(model: Model) -> None:
    """Nobody needs anything any more: all goes that is over the limit."""
    model.notice()
    for name in [*model.given]:
        model.group("leave", int(name[1:]))
    model.equal = max(model.ever, default=(0, 0))
    model.trim(None, 1)
    standing = [entry for entry in model.rig.entries() if entry.id >= read_trimmed(model.rig.redis, KEYS).floor]
    assert len(standing) >= min(8, len(model.ever))


@pytest.mark.timeout(1200)
@settings(
    max_examples=2000 if SOAK else 25, deadline=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(ACTS, min_size=4, max_size=40), st.booleans())
@example(
    [("write", 12), ("add", 8), ("carry", 0), ("write", 12), ("carry", 0), ("prove", 0), ("group", 0), ("trim", 0),
     ("read", 15), ("trim", 0), ("acknowledge", 12), ("kill", 0), ("prove", 0), ("kill", 3), ("trim", 0)],
    True,
)  # fmt: skip
@example(
    [("write", 12), ("add", 8), ("carry", 0), ("add", 5), ("write", 12), ("one way", 0), ("carry", 0), ("prove", 0),
     ("trim", 0), ("lose", 0), ("write", 9), ("carry", 0), ("prove", 0), ("trim", 0), ("lose", 0)],
    False,
)  # fmt: skip
@example([("write", 11), ("dying", 3), ("lose", 0)], False)
@example([("write", 1), ("add", 1), ("one way", 0), ("prove", 0), ("busy", 4)], False)
@example([("add", 1), ("carry", 0), ("rotate", 0), ("write", 1), ("add", 1), ("rotate", 0)], False)
@example([("write", 1), ("busy", 3), ("dying", 4), ("lose", 0)], True)
@example([("write", 6), ("lose", 0), ("busy", 3), ("busy", 7), ("lose", 0)], False)
def test_programs(program: list[tuple[str, int]], archived: bool) -> None:
    """Nothing goes that anybody needs, whatever dies in between; archive and stream are the history."""
    play(program, archived=archived)
