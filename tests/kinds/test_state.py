"""Files that hold a latest value: the owner's is on the other side, whole, and never an older one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from bridge.core.codecs.timestamps import older
from bridge.parity.result import ParityResult
from bridge.streams.connect import Connection
from bridge.streams.reader import Entry, entries
from tests.conftest import BINARIES
from tests.support.inbox import Inbox
from tests.support.rig import Rig, wait_until

STATE = "hestai:state"
SOAK = bool(os.environ.get("BRIDGE_SOAK"))


class Values:
    """The folder of one rig's latest values."""

    def __init__(self, rig: Rig, *, owner: str = "file", history: bool = False, settle: int = 20) -> None:
        self.rig = rig
        self.folder = rig.root / "state"
        self.folder.mkdir(exist_ok=True)
        mapping = rig.path / "state.toml"
        mapping.write_text(
            f'name = "state"\n[source]\nkind = "state"\npath = "state/*"\nowner = "{owner}"\nsettle_ms = {settle}\n'
            f'[message]\nrole = {{ name = "stem" }}\n[stream]\nkey = "{STATE}"\nhistory = {str(history).lower()}\n'
        )
        rig.write_config(mapping=str(mapping))

    def key(self, name: str = "focus.md") -> str:
        return f"bridge:{{{STATE}}}:state:state/{name}"

    def save(self, data: bytes, name: str = "focus.md") -> None:
        """Whole, by rename."""
        hidden = self.folder / ".new"
        hidden.write_bytes(data)
        hidden.rename(self.folder / name)

    def hash(self, name: str = "focus.md") -> dict[bytes, bytes]:
        raw = self.rig.redis.call("HGETALL", self.key(name))
        return dict(zip(raw[0::2], raw[1::2], strict=True))

    def set(self, data: bytes, stamp: str, name: str = "focus.md", redis: Connection | None = None) -> None:
        """As a program that owns it sets it; over this connection, where it is a program of its own."""
        digest = hashlib.sha256(data).hexdigest()
        (redis or self.rig.redis).call(
            "HSET", self.key(name), "data", data, "sha256", digest, "timestamp", stamp, "role", "ui"
        )

    def entries(self) -> list[Entry]:
        return list(entries(self.rig.redis, STATE.encode()))

    def until(self, data: bytes, name: str = "focus.md") -> None:
        wait_until(lambda: self.hash(name).get(b"data") == data, lambda: f"{self.hash(name)} {self.rig.said()}")

    def until_file(self, data: bytes, name: str = "focus.md") -> None:
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_bytes() == data, lambda: f"the file: {self.rig.said()}")

    def parity(self, *, settling: float = 0.0) -> ParityResult:
        return Inbox.parity(self, settling=settling)  # type: ignore[arg-type]


def test_the_file_owns(rig: Rig) -> None:
    """A value that is saved is in its hash, with its digest, time and role; a notification says so."""
    values = Values(rig)
    values.save(b"first\n")
    child = rig.ready(rig.start())
    values.until(b"first\n")
    listener = Connection(rig.server.socket_url)
    listener.call("SUBSCRIBE", f"{STATE}:notify")
    values.save(b"\xff second \x00")
    values.until(b"\xff second \x00")
    said = json.loads(listener.read()[2])
    listener.close()
    found = values.hash()
    digest = hashlib.sha256(b"\xff second \x00").hexdigest()
    assert (found[b"sha256"].decode(), found[b"role"], said["sha256"], said["state"]) == (
        digest, b"focus", digest, "state/focus.md",
    )  # fmt: skip
    assert found[b"timestamp"].endswith(b"Z")
    assert rig.redis.call("EXISTS", STATE) == 0
    rig.stop(child)
    result = values.parity()
    assert (result.verdict, result.tally.compared) == ("equal", 1), result.tally


def test_half_written_is_never_taken(one_rig: Rig) -> None:
    """A value that is written in place counts when its program closes the file, and lies still."""
    values = Values(one_rig)
    child = one_rig.ready(one_rig.start())
    with (values.folder / "focus.md").open("wb", buffering=0) as file:
        file.write(b"half")
        values.save(b"other", "other.md")
        values.until(b"other", "other.md")
        assert values.hash() == {}
        file.write(b" and half")
    values.until(b"half and half")
    one_rig.stop(child)


def test_history_has_each_value_once(rig: Rig) -> None:
    """With `stream.history` each value that was carried is an entry, once, whatever is run again."""
    values = Values(rig, history=True)
    for data in (b"one", b"two", b"three"):
        values.save(data)
        assert not rig.once().errors
        assert not rig.once().errors
    found = values.entries()
    assert [entry.fields[7] for entry in found] == [b"one", b"two", b"three"]
    assert found[0].fields[0::2] == [b"role", b"timestamp", b"type", b"data", b"origin"]
    assert [entry.origin() for entry in found] == [b"2.1:0", b"2.2:0", b"2.3:0"]


def test_redis_owns(rig: Rig) -> None:
    """A value that Redis owns is in the file, whole at every moment, and the file keeps its rights."""
    values = Values(rig, owner="redis")
    values.save(b"old")
    (values.folder / "focus.md").chmod(0o640)
    values.set(b"new" * 1000, "2026-03-02T09:00:00Z")
    child = rig.ready(rig.start())
    values.until_file(b"new" * 1000)
    assert (values.folder / "focus.md").stat().st_mode & 0o777 == 0o640
    values.set(b"newer", "2026-03-02T09:00:01Z")
    values.until_file(b"newer")
    rig.stop(child)
    assert values.parity().verdict == "equal"
    assert sorted(path.name for path in values.folder.iterdir()) == ["focus.md"]


def test_a_reader_never_sees_an_older_value(one_rig: Rig) -> None:
    """When Redis comes back with an older value, the file keeps the newer one, and that is said."""
    values = Values(one_rig, owner="redis")
    values.save(b"")
    values.set(b"newer", "2026-03-02T09:00:01Z")
    one_rig.once()
    values.set(b"older", "2026-03-02T09:00:00Z")
    one_rig.once()
    assert (values.folder / "focus.md").read_bytes() == b"newer"
    values.set(b"newest", "2026-03-02T09:00:02Z")
    one_rig.once()
    assert (values.folder / "focus.md").read_bytes() == b"newest"


def test_fields_that_are_set_one_by_one(one_rig: Rig) -> None:
    """A hash whose digest is not that of its data is being set: its file waits."""
    values = Values(one_rig, owner="redis")
    values.save(b"")
    values.set(b"one", "2026-03-02T09:00:01Z")
    one_rig.once()
    one_rig.redis.call("HSET", values.key(), "data", "two")
    one_rig.once()
    assert (values.folder / "focus.md").read_bytes() == b"one"
    one_rig.redis.call("HSET", values.key(), "sha256", hashlib.sha256(b"two").hexdigest())
    one_rig.once()
    assert (values.folder / "focus.md").read_bytes() == b"two"


@pytest.mark.parametrize("owner", ["file", "redis"])
def test_the_owner_wins(one_rig: Rig, owner: str) -> None:
    """What somebody writes on the side that does not own the value is replaced by the owner's."""
    values = Values(one_rig, owner=owner)
    values.save(b"mine")
    if owner == "redis":
        values.set(b"mine", "2026-03-02T09:00:00Z")
    child = one_rig.ready(one_rig.start())
    values.until(b"mine")
    values.until_file(b"mine")
    if owner == "file":
        values.set(b"theirs", "2030-01-01T00:00:00Z")
    else:
        values.save(b"theirs")
    values.until(b"mine")
    values.until_file(b"mine")
    one_rig.stop(child)
    assert values.parity().verdict == "equal"


def test_redis_lost_it(one_rig: Rig) -> None:
    """A value that Redis lost comes back from its file."""
    values = Values(one_rig, history=True)
    values.save(b"value")
    child = one_rig.ready(one_rig.start())
    values.until(b"value")
    one_rig.redis.call("DEL", values.key())
    values.until(b"value")
    one_rig.stop(child)
    one_rig.redis.call("FLUSHALL")
    assert not one_rig.once().errors
    values.until(b"value")


def test_planted_differences(one_rig: Rig) -> None:
    """Parity names a value that is altered, or missing in Redis; one that is merely newer is in flight."""
    values = Values(one_rig)
    for name in ("a", "b", "c", "d"):
        values.save(name.encode(), name)
    one_rig.once()
    one_rig.redis.call("HSET", values.key("a"), "data", "X", "sha256", hashlib.sha256(b"X").hexdigest())
    one_rig.redis.call("DEL", values.key("b"))
    values.save(b"newer", "c")
    result = values.parity()
    assert (result.verdict, result.tally.in_flight, result.tally.compared) == ("differs", 1, 1)
    assert [(difference.kind, difference.file) for difference in result.tally.differences] == [
        ("altered", "state/a"), ("missing_in_redis", "state/b"),
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"] if SOAK else ["after"])
@pytest.mark.parametrize(
    ("owner", "point"),
    [("file", "state.send"), ("file", "state.note"), ("redis", "state.write"), ("redis", "state.note")],
)
@pytest.mark.parametrize("binary", BINARIES if SOAK else BINARIES[:1], ids=lambda binary: binary.flavour)
def test_killed_at(rig: Rig, owner: str, point: str, when: str) -> None:
    """A kill leaves a whole value on both sides, later ones follow, and each history entry is there once."""
    values, stop, seen, wrong = Values(rig, owner=owner, history=True), Event(), [-1], []
    values.save(b"0")

    def read() -> None:
        path = values.folder / "focus.md"
        while not stop.wait(0.001):
            raw = path.read_bytes()
            number = int(raw or b"-9")
            if number < seen[0] or len(raw) not in (1, 6):
                wrong.append(raw)
            seen[0] = max(seen[0], number)

    def write(first: int, until: Event) -> int:
        n = first
        while not until.wait(0.05):
            n += 1
            data = b"%06d" % n
            values.save(data) if owner == "file" else values.set(data, f"2026-03-02T09:00:00.{n:06}Z")
        return n

    reader = Thread(target=read)
    reader.start()
    child, dead = rig.start(crash=f"{point}.{when}:3"), Event()
    after(child.wait, dead)
    last = write(0, dead)
    assert child.returncode == -9, rig.said()
    again = rig.ready(rig.start())
    enough = Event()
    after(lambda: Event().wait(0.4), enough)
    last = write(last, enough) + 1
    final = b"%06d" % last
    values.save(final) if owner == "file" else values.set(final, f"2026-03-02T09:00:00.{last:06}Z")
    values.until(final)
    values.until_file(final)
    wait_until(lambda: values.entries() and values.entries()[-1].fields[7] == final, lambda: f"history {rig.said()}")
    stop.set()
    reader.join()
    rig.stop(again)
    datas = [entry.fields[7] for entry in values.entries()]
    assert datas == sorted(set(datas)), datas
    assert not wrong
    assert values.parity().verdict == "equal"


def after(work: Callable[[], object], ended: Event) -> None:
    """Sets the event when the work is done, in a thread of its own."""

    def wait() -> None:
        work()
        ended.set()

    Thread(target=wait).start()


def test_shipped(tmp_path: Path, one_rig: Rig) -> None:
    """The shipped mapping carries every file in `state/`."""
    one_rig.write_config(mapping="hestai-state")
    (one_rig.root / "state").mkdir()
    (one_rig.root / "state" / "phase.txt").write_bytes(b"build")
    assert one_rig.once().forwarded == 1
    assert one_rig.redis.call("HGET", f"bridge:{{{STATE}}}:state:state/phase.txt", "data") == b"build"


@pytest.mark.parametrize(
    ("value", "other", "expected"),
    [(b"2026-03-02T09:00:00Z", b"2026-03-02T09:00:01Z", True), (b"2026-03-02T09:00:05.5Z", b"2026-03-02T09:00:05Z", False),
     (b"2026-03-02T09:14:07+00:00", b"2026-03-02T11:14:06+02:00", False), (b"2026-03-02T12:14:07+09:00", b"2026-03-02T09:14:07Z", True),
     (b"1772442845", b"2026-03-02T09:14:06Z", True), (b"1772442847000", b"2026-03-02T09:14:06Z", False),
     (b"notatime", b"2026-03-02T09:14:06Z", False), (b"2026-03-02T09:14:06Z", b"", False)],
)  # fmt: skip
def test_older(value: bytes, other: bytes, expected: bool) -> None:
    """Times are compared as times, whatever their form and zone; one that cannot be read is never older."""
    assert older(value, other) == expected


def test_a_kill_before_the_entry(one_rig: Rig) -> None:
    """A value whose file was written, and whose entry was not added yet, has its entry after the next start."""
    values = Values(one_rig, owner="redis", history=True)
    values.save(b"")
    values.set(b"one", "2026-03-02T09:00:01Z")
    assert one_rig.start(crash="state.write.after:1").wait(60) == -9
    one_rig.once()
    assert [entry.fields[7] for entry in values.entries()] == [b"one"]
    one_rig.once()
    assert len(values.entries()) == 1


def test_a_hash_that_contradicts_itself_is_told(one_rig: Rig) -> None:
    """Data without their digest are left alone, and after a while status says why."""
    values = Values(one_rig, owner="redis")
    values.save(b"")
    values.set(b"one", "2026-03-02T09:00:01Z")
    child = one_rig.ready(one_rig.start())
    values.until_file(b"one")
    one_rig.redis.call("HSET", values.key(), "data", "two")
    wait_until(lambda: "its sha256 is not that of its data" in one_rig.said(), one_rig.said)
    one_rig.redis.call("HDEL", values.key(), "sha256")
    values.until_file(b"two")
    one_rig.stop(child)


def test_data_alone_is_put_back(one_rig: Rig) -> None:
    """Somebody who sets the data alone, and not the digest, of a value that the file owns is noticed."""
    values = Values(one_rig)
    values.save(b"mine")
    child = one_rig.ready(one_rig.start())
    values.until(b"mine")
    one_rig.redis.call("HSET", values.key(), "data", "theirs")
    values.until(b"mine")
    one_rig.stop(child)


def test_too_large(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large for a value is not carried in part, and that is an error."""
    monkeypatch.setattr("bridge.kinds.state.value_files.LIMIT", 10)
    values = Values(one_rig)
    values.save(b"x" * 11)
    assert "too large" in str(one_rig.once().errors)
    assert values.hash() == {}


def test_two_mappings_in_one_folder(one_rig: Rig) -> None:
    """Two mappings that write values into one folder write each their own."""
    rig = one_rig
    (rig.root / "state").mkdir()
    for name in ("a", "b"):
        (rig.path / f"{name}.toml").write_text(
            f'name = "{name}"\n[source]\nkind = "state"\npath = "state/{name}.txt"\nowner = "redis"\nsettle_ms = 20\n'
            f'[message]\nrole = {{ const = "x" }}\n[stream]\nkey = "s:{name}"\n'
        )
    rig.write_config(mapping=f'{rig.path}/a.toml", "{rig.path}/b.toml')
    child, stop, wrong = rig.ready(rig.start()), Event(), []

    def read() -> None:
        while not stop.wait(0.001):
            for name in ("a", "b"):
                path = rig.root / "state" / f"{name}.txt"
                if path.exists() and not path.read_bytes().startswith(name.encode()):
                    wrong.append(path.read_bytes())

    reader = Thread(target=read)
    reader.start()
    for n in range(30):
        for name in ("a", "b"):
            rig.redis.call("HSET", f"bridge:{{s:{name}}}:state:state/{name}.txt", "data", f"{name}{n}", "timestamp",
                           f"2026-03-02T09:00:{n:02}Z")  # fmt: skip
        Event().wait(0.03)
    for name in ("a", "b"):
        path = rig.root / "state" / f"{name}.txt"
        wait_until(lambda: path.exists() and path.read_bytes() == f"{name}29".encode(), rig.said)
    stop.set()
    reader.join()
    rig.stop(child)
    assert not wrong


def test_a_file_that_goes_away(one_rig: Rig) -> None:
    """A file that Redis owns is put back when somebody takes it away, be it in the midst of a change."""
    values = Values(one_rig, owner="redis", settle=300)
    path = values.folder / "focus.md"
    values.save(b"")
    values.set(b"one", "2026-03-02T09:00:00Z")
    child = one_rig.ready(one_rig.start())
    values.until_file(b"one")
    path.unlink()
    values.until_file(b"one")
    path.write_bytes(b"theirs")
    Event().wait(0.05)
    path.unlink()
    values.set(b"two", "2026-03-02T09:00:01Z")
    values.until_file(b"two")
    assert "was taken away, and Redis owns it" in one_rig.said()
    one_rig.stop(child)
    path.unlink()
    [difference] = values.parity().tally.differences
    assert (difference.kind, difference.file) == ("missing_in_file", "state/focus.md")
    assert "`bridge run` gives the side" in one_rig.run("repair", "--redis", one_rig.server.socket_url).stdout
    assert not one_rig.once().errors
    assert path.read_bytes() == b"two"


def test_what_keeps_one_state_keeps_no_other(one_rig: Rig) -> None:
    """A hash without digest is taken as it is; something else of its name, or a file that is none, is told of."""
    values = Values(one_rig, owner="redis", history=True)
    for name in ("a", "b", "c", "d"):
        values.save(b"", name)
    (values.folder / "b").unlink()
    os.mkfifo(values.folder / "b")
    values.set(b"b", "2026-03-02T09:00:00Z", "b")
    one_rig.redis.call("HSET", values.key("a"), "data", "plain")
    one_rig.redis.call("SET", values.key("c"), "no hash")
    values.set(b"d", "2026-03-02T09:00:00Z", "d")
    child = one_rig.ready(one_rig.start())
    values.until_file(b"plain", "a")
    values.until_file(b"d", "d")
    wait_until(lambda: "holds a string, and no hash" in one_rig.said(), one_rig.said)
    one_rig.redis.call("HSET", values.key("a"), "data", "other")  # as long as before
    values.until_file(b"other", "a")
    one_rig.redis.call("DEL", values.key("c"))
    values.set(b"c", "2026-03-02T09:00:00Z", "c")
    values.until_file(b"c", "c")
    one_rig.stop(child)
    assert stat.S_ISFIFO((values.folder / "b").lstat().st_mode), "only its name is looked at"
    assert [entry.fields[7] for entry in values.entries()] == [b"plain", b"d", b"other", b"c"]
    before = len(one_rig.redis.call("HGETALL", values.key("a")))
    assert not one_rig.once().forwarded
    assert len(one_rig.redis.call("HGETALL", values.key("a"))) == before


def test_a_link_is_not_replaced(one_rig: Rig) -> None:
    """Where a link has the file's name nothing is written, neither to it nor to what it leads to."""
    values, outside = Values(one_rig, owner="redis"), one_rig.path / "outside"
    values.save(b"")
    values.set(b"one", "2026-03-02T09:00:00Z")
    one_rig.once()
    outside.write_bytes(b"theirs")
    (values.folder / "focus.md").unlink()
    (values.folder / "focus.md").symlink_to(outside)
    values.set(b"two", "2026-03-02T09:00:01Z")
    assert "is no regular file" in str(one_rig.once().errors[0])
    assert (values.folder / "focus.md").is_symlink()
    assert outside.read_bytes() == b"theirs"


def test_all_of_the_hash_is_the_owners(one_rig: Rig) -> None:
    """Whatever somebody changes in a hash that the file owns is put right, in a large one too."""
    values, large = Values(one_rig), b"x" * 100_000
    values.save(b"mine")
    values.save(large, "large")
    child = one_rig.ready(one_rig.start())
    values.until(large, "large")
    values.until(b"mine")
    before = values.hash()
    one_rig.redis.call("HSET", values.key(), "role", "EVIL", "timestamp", "1999-01-01T00:00:00Z")
    one_rig.redis.call("HSET", values.key("large"), "data", b"y" * 100_000)
    values.until(large, "large")
    wait_until(lambda: values.hash()[b"role"] == b"focus", one_rig.said)
    one_rig.stop(child)
    assert values.hash() == {**before, b"version": values.hash()[b"version"]}
    for field, value in (("role", "EVIL"), ("timestamp", "1999-01-01T00:00:00Z"), ("sha256", "0" * 64)):
        right = values.hash()[field.encode()]
        one_rig.redis.call("HSET", values.key(), field, value)
        assert values.parity().verdict == "differs"
        one_rig.redis.call("HSET", values.key(), field, right)
    assert values.parity().verdict == "equal"


def test_what_redis_lost_that_owns_it(one_rig: Rig) -> None:
    """The file's copy is put back, and until then parity names it; an older value is refused without a ledger too."""
    values = Values(one_rig, owner="redis")
    values.save(b"")
    values.set(b"new", "2026-01-02T00:00:00Z")
    one_rig.once()
    one_rig.redis.call("FLUSHALL")
    [difference] = values.parity().tally.differences
    assert (difference.kind, difference.file) == ("missing_in_redis", "state/focus.md")
    assert not one_rig.once().errors
    values.until(b"new")
    assert values.hash()[b"timestamp"] == b"2026-01-02T00:00:00Z"
    for path in one_rig.state.glob("ledger.db*"):
        path.unlink()
    assert one_rig.run("repair", "--execute", "--redis", one_rig.server.socket_url).returncode == 0
    values.set(b"old", "2026-01-01T00:00:00Z")
    assert "an older value" in str(one_rig.once().errors[0])
    assert (values.folder / "focus.md").read_bytes() == b"new"
    assert values.parity().verdict == "differs", "they will never meet"


def test_under_way_is_waited_for(one_rig: Rig) -> None:
    """Beside a running bridge a value that changes all the time is compared, at a moment when both sides hold it."""
    values = Values(one_rig)
    values.save(b"0")
    child = one_rig.ready(one_rig.start())
    values.until(b"0")
    wait_until(lambda: one_rig.redis.call("EXISTS", "bridge:health:test"), "the heartbeat")
    verdicts = []
    for n in range(1, 6):
        values.save(b"%d" % n)
        verdicts.append(values.parity(settling=30))
    one_rig.stop(child)
    assert [result.verdict for result in verdicts] == ["equal"] * 5, verdicts


def test_once_ends_beside_a_writer(one_rig: Rig) -> None:
    """`run --once` waits for a value that is changing, but not for one that never rests."""
    values, stop = Values(one_rig, settle=500), Event()

    def write() -> None:
        for n in itertools.count():
            values.save(b"%d" % n)
            if stop.wait(0.05):
                return

    values.save(b"still", "b")
    writer = Thread(target=write)
    writer.start()
    try:
        assert not one_rig.once().errors
    finally:
        stop.set()
        writer.join()
    values.until(b"still", "b")


def test_redis_forgets_all_while_it_owns(one_rig: Rig) -> None:
    """After a flush beside a running bridge the values of Redis are put back from the files, once."""
    values = Values(one_rig, owner="redis")
    for name in ("a", "b"):
        values.save(b"", name)
        values.set(name.encode(), "2026-03-02T09:00:00Z", name)
    child = one_rig.ready(one_rig.start())
    values.until_file(b"a", "a")
    values.until_file(b"b", "b")
    one_rig.redis.call("FLUSHALL")
    values.until(b"a", "a")
    values.until(b"b", "b")
    one_rig.stop(child)
    assert one_rig.said().count("was put back") == 2
    assert values.parity().verdict == "equal"


def test_touched_and_of_another_type(one_rig: Rig) -> None:
    """A file that was merely touched is equal; a key of another type is a difference, and keeps nobody."""
    values = Values(one_rig)
    for name in ("a", "b"):
        values.save(name.encode(), name)
    one_rig.once()
    os.utime(values.folder / "a", (1_700_000_000, 1_700_000_000))
    assert values.parity().verdict == "equal"
    one_rig.once()
    assert values.hash("a")[b"timestamp"] == b"2023-11-14T22:13:20.000Z"
    one_rig.redis.call("DEL", values.key("b"))
    one_rig.redis.call("SET", values.key("b"), "x")
    result = values.parity()
    assert [(difference.kind, difference.file) for difference in result.tally.differences] == [
        ("missing_in_redis", "state/b")
    ]
    assert "the key of state/b holds a string, and no hash" in result.notes


def test_history_over_a_kill_and_back(one_rig: Rig) -> None:
    """A value that is set again after a kill between the file and the ledger is an entry again."""
    values = Values(one_rig, owner="redis", history=True)
    values.save(b"")
    values.set(b"one", "2026-03-02T09:00:00Z")
    one_rig.once()
    values.set(b"two", "2026-03-02T09:00:01Z")
    assert one_rig.start(crash="state.note.before:1").wait(60) == -9
    values.set(b"one", "2026-03-02T09:00:02Z")
    one_rig.once()
    assert [entry.fields[7] for entry in values.entries()] == [b"one", b"two", b"one"]
    one_rig.once()
    assert len(values.entries()) == 3
