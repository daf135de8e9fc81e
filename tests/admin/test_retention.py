"""Retention: what is over goes, when nobody needs it any more; and both sides still tell what is true."""

from __future__ import annotations

import gzip
import json
import time
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from bridge.admin.retention.trimming import Retention, TrimPlan, TrimReport
from bridge.continuity.archive_reader import ArchiveReader
from bridge.continuity.archive_writer import ARCHIVE_ENTRIES
from bridge.core.model import EntryId
from bridge.ledger.archive_index import parts_of, spans
from bridge.ledger.ranges import all_ranges
from bridge.ledger.store import Ledger
from bridge.ledger.trim_points import points_of
from bridge.parity import prove as check
from bridge.parity.result import ParityResult
from bridge.parity.run_parity import ParityRunner
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import Entry, entries
from bridge.streams.trim import read_trimmed
from tests.support.cast import CONFIG, Cast
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, wait_until

KEYS = Keys.of(STREAM)


def keep(rig: Rig, extra: str = "", name: str = "hestai-message", **limits: float | bool) -> None:
    """The mapping_text mapping, with a `[retention]`."""
    mapping_text = shipped(name)
    mapping_text = (
        mapping_text.replace("[stream]", "[stream]\nhistory = true") if name == "hestai-state" else mapping_text
    )
    limits = {"confirm": False} | limits
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in limits.items())
    (rig.path / "kept.toml").write_text(f"{mapping_text}\n[retention]\n{table}\n")
    rig.write_config(mapping="kept.toml", extra=extra)


def retention(rig: Rig, ledger: Ledger) -> Retention:
    return Retention(rig.settings().mappings[0], rig.state, ledger, lambda: Connection(rig.url), time.time)


def plan(rig: Rig) -> TrimPlan:
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        return retention(rig, ledger).plan()


def trim(rig: Rig) -> TrimReport:
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        return retention(rig, ledger).trim(lambda: False)


def prove(rig: Rig, *, onwards: bool = False) -> ParityResult:
    """`bridge parity`, in this process: the ledger has its points."""
    settings = rig.settings()
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        proof = ParityRunner(
            settings, [*settings.mappings], ledger, Event(), lambda m, read, of: None, "test", settling=0.0
        )
        [result] = proof.run(onwards=onwards)
    return result


def fill(rig: Rig, count: int, begin: int = 0, every: int = 5) -> None:
    """Messages of both kinds: of so many every fifth is Redis-born."""
    for n in range(begin, begin + count, 50):
        rig.append(*(f"f-{k}" for k in range(n, n + 50) if k % every))
        rig.once()
        for k in range(n, n + 50):
            if not k % every:
                rig.add(f"r-{k}")
        rig.once()
    rig.once()


def test_what_is_over_goes(rig: Rig) -> None:
    """With keep_entries the oldest go, up to a place where both sides were equal; parity says equal of the rest."""
    keep(rig, keep_entries=300)
    fill(rig, 1000)
    assert plan(rig).unproven
    assert trim(rig).removed == 0
    assert prove(rig).verdict == "equal"
    before = plan(rig)
    assert before.allowed.upto is not None
    assert before.allowed.holds == []
    done = trim(rig)
    assert 400 <= done.removed <= 700
    left = int(rig.redis.call("XLEN", STREAM))
    assert left == 1000 - done.removed
    standing = [entry.id for entry in rig.entries() if entry.id >= done.floor]
    assert 300 <= len(standing) <= left
    again = prove(rig)
    assert (again.verdict, again.tally.differences) == ("equal", [])
    assert again.tally.unverifiable == 1000 - len(standing)
    assert again.tally.compared == len(standing)
    fill(rig, 200, begin=1000)
    onwards = prove(rig, onwards=True)
    assert (onwards.verdict, onwards.onwards) == ("equal", True)


def history(rig: Rig) -> list[Entry]:
    """The archive, and the stream behind it."""
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        archive = ArchiveReader(rig.settings().mappings[0], rig.state, ledger)
        floor = read_trimmed(rig.redis, KEYS).floor
        return [*archive.entries(floor), *(entry for entry in rig.entries() if entry.id >= floor)]


def test_the_archive_and_the_stream_are_the_history(rig: Rig) -> None:
    """What is trimmed lies in dated files of lines, every entry can be had as it was, and parity compares it all."""
    keep(rig, keep_entries=300, archive=True)
    fill(rig, 500)
    rig.redis.call("XADD", STREAM, "*", "role", "ui", "text", "no line")  # in quarantine, and in the way of trimming
    rig.once()
    fill(rig, 500, begin=500)
    whole = rig.entries()
    assert prove(rig).verdict == "equal"
    [held] = plan(rig).allowed.holds
    assert "quarantine" in held.who
    first = trim(rig)
    assert rig.run("quarantine", "acknowledge", "--all").returncode == 0
    second = trim(rig)
    assert first.floor <= held.first < second.floor
    assert history(rig) == whole
    result = prove(rig)
    assert (result.verdict, result.tally.compared, result.tally.unverifiable) == ("equal", 1000, 0)
    with closing(Ledger(rig.state / "ledger.db")) as ledger:  # where it may be cut: not where nothing stands any more
        assert min(point.entry for point in points_of(ledger, STREAM)) >= second.floor
    files = sorted(path.relative_to(rig.state) for path in (rig.state / "archive").rglob("*.gz"))
    assert {path.name.partition(".2")[0] for path in files} == {"messages.log", "entries"}
    lines = b"".join(gzip.decompress((rig.state / path).read_bytes()) for path in files if "log" in path.name).split(
        b"\n"
    )[:-1]
    assert len(lines) == len(set(lines))
    assert set(lines) < set(rig.lines())


def test_a_long_stretch_is_archived_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be cut only as a whole is in memory a piece at a time: written, read again, and read later."""
    monkeypatch.setattr(check, "CLOSEST", 1 << 20)
    keep(rig, keep_entries=100, archive=True)
    rig.append(*(f"f-{k}" for k in range(3500)))
    rig.once()
    for k in range(20):
        rig.add(f"r-{k}")
    rig.once()
    assert prove(rig).verdict == "equal"
    fill(rig, 200, begin=3500)
    whole = rig.entries()
    assert trim(rig).removed > 3000
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        [span] = spans(ledger, STREAM)
        parts = [len(part.listed) for part in parts_of(ledger, STREAM, span)]
    assert sum(parts) == 3520
    assert max(parts) < 2 * ARCHIVE_ENTRIES
    assert history(rig) == whole
    assert prove(rig).tally.compared == 3720


def test_tail_locate_and_snapshot_find_what_was_archived(rig: Rig, tmp_path: Path) -> None:
    """What was trimmed is printed, located from both sides, and written as files, as before it was."""
    keep(rig, keep_entries=100, archive=True)
    fill(rig, 500)
    whole = rig.entries()
    assert prove(rig).verdict == "equal"
    url = ("--redis", rig.url)
    before = [rig.run("tail", "-n", count, *url).stdout for count in ("450", "1000")]
    snap = rig.run("snapshot", "hestai-message", str(tmp_path / "a"), *url)
    assert trim(rig).removed > 0
    assert [rig.run("tail", "-n", count, *url).stdout for count in ("450", "1000")] == before
    since = rig.run("tail", "--since", f"{whole[40].id[0]}-{whole[40].id[1]}", "-n", "20", *url).stdout
    assert "r-495" in since
    own, mirrored = whole[5], next(entry for entry in whole[30:] if entry.origin() is None)
    for entry in (own, mirrored):
        name = f"{entry.id[0]}-{entry.id[1]}"
        told = json.loads(rig.run("locate", name, "--json", *url).stdout)[0]
        assert told["raw"].split("|")[3].strip() == entry.fields[7].decode()
        back = json.loads(rig.run("locate", f"messages.log:{told['line']}", "--json", *url).stdout)[0]
        assert back["entry"] == name
        assert "in the archive" in back["said"]
        assert "in the archive" in rig.run("locate", f"messages.log:{told['line']}", *url).stdout
    again = rig.run("snapshot", "hestai-message", str(tmp_path / "b"), *url)
    assert (snap.returncode, again.returncode) == (0, 0), snap.stderr + again.stderr
    assert (tmp_path / "a" / "messages.log").read_bytes() == (tmp_path / "b" / "messages.log").read_bytes()
    assert sorted((tmp_path / "b" / "messages.log").read_bytes().splitlines()) == sorted(rig.lines())


def test_an_archive_can_be_imported(rig: Rig) -> None:
    """Its files, put where a mapping finds them, come into another stream in the order they went."""
    keep(rig, keep_entries=100, archive=True)
    rig.append(*(f"h-{n}" for n in range(150)))  # history, of another day
    rig.once()
    fill(rig, 400)
    whole = rig.entries()
    assert prove(rig).verdict == "equal"
    gone = [entry.fields[7] for entry in whole if entry.id < trim(rig).floor]
    files = sorted((rig.state / "archive").rglob("messages.log.*.gz"))
    assert len(files) == 2
    old = rig.root / "old"
    old.mkdir()
    for file in files:
        (old / file.name).write_bytes(file.read_bytes())
    text = (rig.path / "kept.toml").read_text().partition("[retention]")[0]
    text = (
        text.replace("hestai-message", "old")
        .replace("hestai:messages", "old")
        .replace("messages.log", "old/messages.log")
    )
    (rig.path / "kept.toml").write_text(text.partition("[mirror]")[0])
    done = rig.run("import-history", "--redis", rig.url)
    assert done.returncode == 0, done.stderr
    assert [entry.fields[7] for entry in entries(rig.redis, b"old")] == gone


def test_who_is_behind_what_was_trimmed_does_not_go_over(rig: Rig) -> None:
    """A component that stands in the files, before what the stream begins with, is not switched: it would miss some."""
    cast = Cast(rig)
    keep(rig, extra=CONFIG, keep_entries=100)
    rig.append(*map(str, range(60)))
    bridge = rig.beats(rig.ready(rig.start()))
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) == 60, cast.said)
    cast.stop("viewer")
    rig.append(*map(str, range(60, 660)))
    wait_until(lambda: read_trimmed(rig.redis, KEYS).floor > (0, 0), rig.said)
    [reads] = cast.plans("viewer", sides=("reads",))
    assert "trimmed" in reads.reasons[0].what
    cast.start("read", "viewer", 0)
    wait_until(lambda: len(cast.seen("viewer")) == 660, cast.said)
    assert cast.switch("viewer", "reads", "redis").went_on
    rig.append("660")
    wait_until(lambda: len(cast.seen("viewer")) == 661, cast.said)
    [back] = cast.plans("viewer", sides=("reads",), to="file")
    assert not [reason.what for reason in back.reasons if "deleted" in reason.what]
    assert cast.switch("viewer", "reads", "file").went_on
    cast.stop("viewer")
    assert len(cast.seen("viewer")) == 661
    rig.stop(bridge)


def test_new_limits_wait_for_a_word(rig: Rig) -> None:
    """The first trim by new limits waits until somebody has said so once, and says how much it is; others do not."""

    def told() -> dict[str, object]:
        [mapping] = json.loads(rig.run("status", "--json", "--redis", rig.url).stdout)["mappings"]
        return dict(mapping["retention"] or {})

    def said(*args: str) -> str:
        return rig.run("trim", "--redis", rig.url, *args).stdout

    keep(rig, keep_entries=100, confirm=True)
    rig.append(*map(str, range(600)))
    bridge = rig.beats(rig.ready(rig.start()))
    waits = wait_until(lambda: (now := told()).get("goes") and now, rig.said)
    assert waits["waits"] is True
    assert "wait for `bridge trim --execute`" in rig.run("status", "--redis", rig.url).stdout
    assert "waits for your word" in said()
    assert len(rig.datas()) == 600
    said("--execute")
    wait_until(lambda: len(rig.datas()) < 400, rig.said)
    rig.append(*map(str, range(600, 1200)))
    wait_until(lambda: int(rig.datas()[0]) >= 600, rig.said)
    rig.stop(bridge)
    keep(rig, keep_entries=50, confirm=True)
    before = len(rig.datas())
    bridge = rig.beats(rig.ready(rig.start()))
    wait_until(lambda: told().get("waits") and told().get("goes"), rig.said)
    assert len(rig.datas()) == before
    rig.stop(bridge)


def test_a_lost_ledger_of_equal_messages(rig: Rig) -> None:
    """Where every message says the same, a trimmed line is not taken for that of an entry that stands."""
    keep(rig, keep_entries=200)
    for _ in range(12):
        for _ in range(25):
            rig.append("same")
            rig.add("same", role="agent")
        rig.once()
    rig.once()
    for _ in range(2):
        rig.append(*["same"] * 5)
        rig.once()
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        known = mirrored(ledger)
    assert prove(rig).verdict == "equal"
    assert (floor := trim(rig).floor) > (0, 0)
    for file in rig.state.glob("ledger.db*"):
        file.unlink()
    assert rig.run("repair", "--execute", "--redis", rig.url).returncode == 0
    with closing(Ledger(rig.state / "ledger.db")) as ledger:
        assert {entry_id: at for entry_id, at in mirrored(ledger).items() if entry_id >= floor} == {
            entry_id: at for entry_id, at in known.items() if entry_id >= floor
        }
    before = rig.entries(), rig.lines()
    rig.once()
    assert (rig.entries(), rig.lines()) == before
    assert prove(rig).verdict == "equal"


def mirrored(ledger: Ledger) -> dict[EntryId, tuple[int, int]]:
    """Where the line of each entry stands that the mirror wrote."""
    found = {}
    for range_ in all_ranges(ledger, STREAM):
        at = range_.start
        for entry_id, length in range_.entries:
            found[entry_id] = range_.generation, at
            at += length
    return found


@pytest.mark.parametrize("archived", [False, True])
def test_a_lost_ledger_is_rebuilt_of_a_trimmed_stream(rig: Rig, archived: bool) -> None:
    """What was trimmed is not sent again, no mirrored line is carried back, and nothing is mirrored twice."""
    keep(rig, keep_entries=200, archive=archived)
    fill(rig, 800)
    assert prove(rig).verdict == "equal"
    floor = trim(rig).floor
    for file in rig.state.glob("ledger.db*"):
        file.unlink()
    before, lines = rig.entries(), rig.lines()
    done = rig.run("repair", "--execute", "--redis", rig.url)
    assert done.returncode == 0, done.stdout + done.stderr
    rig.once()
    assert (rig.entries(), rig.lines()) == (before, lines)
    fill(rig, 100, begin=800)
    assert len(rig.lines()) == 900
    result = prove(rig)
    assert result.verdict == "equal", result.tally.differences
    assert result.tally.unverifiable == 800 - sum(1 for entry in before if entry.id >= floor)
    assert trim(rig).floor >= floor


@pytest.mark.parametrize(
    ("kind", "archived"),
    [("inbox", True), ("context", True), ("artifacts", True), ("artifacts", False), ("state", True), ("roles", True),
     ("roles", False)],
)  # fmt: skip
def test_every_kind_of_source(rig: Rig, kind: str, archived: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a mapping's files hold, its stream is trimmed, both sides stay equal, and nothing comes back."""
    keep(rig, name=f"hestai-{kind}", keep_entries=10, archive=archived)
    monkeypatch.setattr(check, "CLOSEST", 5)
    monkeypatch.setattr("bridge.admin.retention.trimming.SPACING", 5)
    stream, own = f"hestai:{kind}", Keys.of(f"hestai:{kind}")
    rig.redis.call("CONFIG", "SET", "stream-node-max-entries", "5")
    folder = rig.root / kind
    folder.mkdir()
    for n in range(60):
        if kind == "inbox":
            facts = {"uuid": f"u-{n}", "doc_type": "note", "timestamp": f"2026-03-02T09:{n // 60:02}:{n % 60:02}Z"}
            (folder / f"{n}.json").write_text(json.dumps(facts))
        elif kind == "context":
            with (folder / "a.ctx").open("a") as file:
                file.write(f"word {n} ")
        elif kind == "roles":
            with (rig.root / f"{'abc'[n % 3]}.out").open("a") as file:
                file.write(f"2026-03-02T09:14:05Z|say|{n}\n")
        else:
            (folder / ("one" if kind == "state" else f"{n}.txt")).write_text(f"value {n}")
        if not n % (1 if kind == "context" else 2 if kind == "state" else 20):
            rig.once(dual=False)
    rig.once(dual=False)
    whole = list(entries(rig.redis, stream.encode()))
    assert len(whole) >= 30
    assert prove(rig).verdict == "equal"
    floor = trim(rig).floor
    left = [entry for entry in entries(rig.redis, stream.encode()) if entry.id >= floor]
    assert 10 <= len(left) < len(whole)
    again = prove(rig)
    assert again.verdict == "equal", (again.tally, again.notes)
    rig.once(dual=False)
    assert [entry for entry in entries(rig.redis, stream.encode()) if entry.id >= floor] == left
    if archived:
        with closing(Ledger(rig.state / "ledger.db")) as ledger:
            archive = ArchiveReader(rig.settings().mappings[0], rig.state, ledger)
            assert [*archive.entries(read_trimmed(rig.redis, own).floor), *left] == whole


def test_a_context_that_begins_anew(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream is trimmed on and on, although what the first chunks were made of is gone."""
    rig = one_rig
    keep(rig, name="hestai-context", keep_entries=10)
    monkeypatch.setattr(check, "CLOSEST", 5)
    monkeypatch.setattr("bridge.admin.retention.trimming.SPACING", 5)
    rig.redis.call("CONFIG", "SET", "stream-node-max-entries", "5")
    path = rig.root / "context" / "a.ctx"
    path.parent.mkdir()
    for turn in range(4):
        path.write_bytes(b"")
        for n in range(30):
            with path.open("a") as file:
                file.write(f"word {turn}.{n} ")
            rig.once(dual=False)
        result = prove(rig)
        assert result.verdict == "equal", (turn, result.tally, result.notes)
        trim(rig)
        assert 10 <= rig.redis.call("XLEN", "hestai:context") <= 25
        result = prove(rig)
        assert result.verdict == "equal", (turn, result.tally, result.notes)


@pytest.mark.parametrize(("length", "wide"), [(0, 20), (100, 20), (20_000, 100), (10_000_000, 5000)])
def test_places_are_neither_many_nor_far_apart(length: int, wide: int) -> None:
    """About two hundred in a stream; what lies between two is archived as a whole, and stays of a size."""
    assert check.spacing(length) == wide


def test_what_is_nowhere_any_more_is_said(rig: Rig, tmp_path: Path) -> None:
    """A snapshot of a stream that was trimmed without an archive says how much is missing."""
    keep(rig, keep_entries=100)
    fill(rig, 400)
    assert prove(rig).verdict == "equal"
    removed = trim(rig).removed
    done = rig.run("snapshot", "hestai-message", str(tmp_path / "a"), "--redis", rig.url)
    assert done.returncode == 0, done.stderr
    assert f"{removed} entries had been trimmed before, and are in no archive" in done.stdout


def test_a_lost_ledger_costs_no_archive(rig: Rig) -> None:
    """A ledger that was rebuilt knows nothing of the archive: what lies in its files stays, and the next goes behind."""
    keep(rig, keep_entries=100, archive=True)
    fill(rig, 500)
    assert prove(rig).verdict == "equal"
    trim(rig)
    before = archived_lines(rig)
    for file in rig.state.glob("ledger.db*"):
        file.unlink()
    assert rig.run("repair", "--execute", "--redis", rig.url).returncode == 0
    fill(rig, 400, begin=500)
    assert prove(rig).verdict == "equal"
    trim(rig)
    after = archived_lines(rig)
    assert after[: len(before)] == before
    floor = read_trimmed(rig.redis, KEYS).floor
    standing = {entry.fields[7] for entry in rig.entries() if entry.id >= floor}
    in_archive = [line.split(b"|", 3)[3] for line in after]
    assert sorted([*in_archive, *standing]) == sorted(line.split(b"|", 3)[3] for line in rig.lines())


def archived_lines(rig: Rig) -> list[bytes]:
    files = sorted((rig.state / "archive").rglob("messages.log.*.gz"))
    return b"".join(gzip.decompress(file.read_bytes()) for file in files).split(b"\n")[:-1]


def test_an_archive_is_read_as_it_was_written_or_not_at_all(rig: Rig) -> None:
    """With another [format] its lines would be other messages: that is an error that says so."""
    keep(rig, keep_entries=100, archive=True)
    fill(rig, 400)
    assert prove(rig).verdict == "equal"
    trim(rig)
    text = (rig.path / "kept.toml").read_text()
    for changed in (
        text.replace('["role", "timestamp"', '["timestamp", "role"'),
        text.replace('delimiter = "|"', 'delimiter = ";"'),
    ):
        (rig.path / "kept.toml").write_text(changed)
        told = rig.run("tail", "-n", "400", "--redis", rig.url)
        assert (told.returncode, told.stdout) == (1, "")
        assert "read differently" in told.stderr


@pytest.mark.parametrize(
    "touch",
    [("XGROUP", "CREATE", STREAM, "g", "$", "MKSTREAM"), ("XADD", STREAM, "MAXLEN", "0", "*", "a", "b"),
     ("XADD", STREAM, "MAXLEN", "=", "1", "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "say", "data", "own")],
    ids=["a group", "nothing left", "an entry"],
)  # fmt: skip
def test_a_lost_stream_that_somebody_touched_first(rig: Rig, touch: tuple[str, ...]) -> None:
    """Whatever others did to the new stream before the bridge saw it, what was trimmed stays away, and the rest is back."""
    keep(rig, keep_entries=200)
    fill(rig, 500)
    assert prove(rig).verdict == "equal"
    floor = trim(rig).floor
    stood = {entry.fields[7] for entry in rig.entries() if entry.id >= floor}
    rig.redis.call("FLUSHALL")
    rig.redis.call(*touch)
    rig.once()
    rig.once()
    datas = [entry.fields[7] for entry in rig.entries()]
    assert {data for data in datas if data != b"own"} == stood
    assert len(datas) == len(set(datas))
    assert prove(rig).verdict == "equal"


@pytest.mark.parametrize("trimmed_before", [False, True])
def test_an_older_copy_of_the_data_is_put_back(rig: Rig, trimmed_before: bool) -> None:
    """Stream and books of a time before (a copied data set): what came since comes back once, no line is written twice."""
    keep(rig, keep_entries=200, archive=True)
    fill(rig, 500)
    if trimmed_before:
        assert prove(rig).verdict == "equal"
        trim(rig)
    names = [key for key in rig.redis.call("KEYS", "*") if not key.startswith(b"bridge:health")]
    copy = {key: rig.redis.call("DUMP", key) for key in names}
    fill(rig, 300, begin=500)
    assert prove(rig).verdict == "equal"
    assert trim(rig).floor > (0, 0)
    lines = rig.lines()
    rig.redis.call("FLUSHALL")
    for key, raw in copy.items():
        rig.redis.call("RESTORE", key, 0, raw)
    rig.once()
    rig.once()
    assert rig.lines() == lines
    result = prove(rig)
    assert result.verdict == "equal", result.tally.differences[:3]
    datas = [entry.fields[7] for entry in history(rig)]
    assert sorted(datas) == sorted(line.split(b"|", 3)[3] for line in lines)
    done = rig.run("repair", "--execute", "--redis", rig.url)
    assert done.returncode == 0
    assert rig.lines() == lines


def test_what_a_new_group_was_given_stays_until_it_acknowledges(rig: Rig) -> None:
    """Entries below the floor that still stand, as the trimmer died: a group that was given some of them keeps them."""
    keep(rig, keep_entries=100)
    fill(rig, 400)
    assert prove(rig).verdict == "equal"
    assert (
        rig.run("trim", "--execute", "--redis", rig.url, env={"BRIDGE_CRASH_AT": "trim.floor.after"}).returncode == -9
    )
    rig.redis.call("XGROUP", "CREATE", STREAM, "g", "0")
    [[_, given]] = rig.redis.call("XREADGROUP", "GROUP", "g", "c", "COUNT", 50, "STREAMS", STREAM, ">")
    done = trim(rig)
    assert (done.removed, done.held is not None) == (0, True)
    rig.redis.call("XACK", STREAM, "g", *(row[0] for row in given))
    rig.redis.call("XGROUP", "SETID", STREAM, "g", "$")
    assert trim(rig).removed > 0


def test_a_full_disk_is_told_and_nothing_goes(rig: Rig) -> None:
    """Where the archive cannot be written nothing is trimmed; the command says why, and a running bridge says it once."""
    keep(rig, keep_entries=100, archive=True)
    fill(rig, 400)
    assert prove(rig).verdict == "equal"
    (rig.state / "archive").write_text("in the way")
    done = rig.run("trim", "--execute", "--redis", rig.url)
    assert done.returncode == 1
    assert "archive" in done.stderr
    assert "Traceback" not in done.stderr
    child = rig.beats(rig.ready(rig.start()))
    wait_until(lambda: "retention hestai-message" in rig.run("status", "--redis", rig.url).stdout, rig.said)
    assert read_trimmed(rig.redis, KEYS).floor == (0, 0)
    (rig.state / "archive").unlink()
    wait_until(lambda: read_trimmed(rig.redis, KEYS).floor > (0, 0), rig.said)
    rig.stop(child)
    assert rig.said().count("warning retention") == 1


def test_a_damaged_archive_is_told_of(rig: Rig) -> None:
    """A file of the archive that was changed, cut or removed is an error that names it, and never a wrong answer."""
    keep(rig, keep_entries=100, archive=True)
    fill(rig, 400)
    assert prove(rig).verdict == "equal"
    trim(rig)
    file = min((rig.state / "archive").rglob("*.gz"))
    sound = file.read_bytes()
    for harm in (sound[:-9] + bytes([sound[-9] ^ 1]) + sound[-8:], sound[: len(sound) // 2], b""):
        file.write_bytes(harm)
        told = rig.run("tail", "-n", "400", "--redis", rig.url)
        assert told.returncode == 1
        assert file.name in told.stderr
        assert rig.run("parity", "--redis", rig.url).returncode == 4
    file.write_bytes(sound)
    assert prove(rig).verdict == "equal"


@pytest.mark.parametrize("then", ["nothing", "somebody writes"])
def test_a_lost_stream_is_not_filled_below_the_floor(rig: Rig, then: str) -> None:
    """When Redis loses all, what comes back is what had not been trimmed: each message once, in order."""
    keep(rig, keep_entries=300)
    fill(rig, 1000)
    assert prove(rig).verdict == "equal"
    floor = trim(rig).floor
    stood = {entry.fields[7] for entry in rig.entries() if entry.id >= floor}
    for turn in range(2):
        lines = [raw.split(b"|", 3)[3] for raw in rig.lines()]
        rig.redis.call("FLUSHALL")
        own = [rig.add(f"own-{turn}")] if then == "somebody writes" else []
        stood |= {b"own-%d" % turn} if own else set()
        rig.once()
        rig.once()
        datas = rig.datas()
        assert len(datas) == len(set(datas))
        assert set(datas) == stood
        assert [data for data in datas if not data.startswith(b"own")] == [
            d for d in lines if d in stood and not d.startswith(b"own")
        ]
        assert len(rig.lines()) == 1000 + (turn + 1) * len(own)
        assert (result := prove(rig)).verdict == "equal", result.tally.differences
        assert result.tally.compared == len(stood)
