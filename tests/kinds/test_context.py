"""A file that grows by chunks: all entries joined are the file, byte for byte, whoever dies."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.codecs.chunk import STARTED, whole_characters
from bridge.core.model import format_id, parse_origin
from bridge.parity.result import ParityResult
from bridge.streams.reader import Entry, entries
from tests.conftest import BINARIES
from tests.support.inbox import Inbox
from tests.support.rig import Rig, wait_until

CONTEXT = "hestai:context"
SOAK = bool(os.environ.get("BRIDGE_SOAK"))


class Context:
    """The folder of one rig's growing files."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.folder = rig.root / "context"
        self.folder.mkdir()
        rig.write_config(mapping="hestai-context")
        self.path = self.folder / "wind.ctx"

    def write(self, data: bytes, path: Path | None = None) -> None:
        """As a model's output comes: appended and flushed."""
        with (path or self.path).open("ab", buffering=0) as file:
            file.write(data)

    def entries(self) -> list[Entry]:
        """The whole stream."""
        return list(entries(self.rig.redis, CONTEXT.encode()))

    def generations(self) -> dict[int, bytes]:
        """The joined data of each generation of the one file."""
        joined: dict[int, bytes] = {}
        for entry in self.entries():
            origin = parse_origin(entry.origin() or b"")
            assert origin is not None
            if entry.fields[7]:
                assert origin.offset == len(joined.get(origin.generation, b"")), entry
            else:
                assert entry.fields[5] == STARTED
                assert origin.generation not in joined
            joined[origin.generation] = joined.get(origin.generation, b"") + entry.fields[7]
        return joined

    def until(self, generation: int, data: bytes) -> None:
        """Once the stream holds these bytes of this generation."""
        wait_until(
            lambda: self.generations().get(generation, b"") == data,
            lambda: f"{len(data)} bytes: {self.generations().get(generation)!r:.500} {self.rig.said()}",
        )

    def parity(self) -> ParityResult:
        """What parity says, in this process."""
        return Inbox.parity(self)  # type: ignore[arg-type]


@pytest.fixture
def context(rig: Rig) -> Context:
    return Context(rig)


@pytest.fixture
def one_context(one_rig: Rig) -> Context:
    return Context(one_rig)


def test_a_chunk_ends_when_the_writer_pauses(context: Context) -> None:
    """Tokens that come without a pause are one entry; after a pause another begins; no newline is needed."""
    child = context.rig.ready(context.rig.start())
    context.write(b"Hello")
    context.until(1, b"Hello")
    context.write(b", world\nand")
    context.until(1, b"Hello, world\nand")
    context.rig.stop(child)
    assert [entry.fields[7] for entry in context.entries()] == [b"Hello", b", world\nand"]
    assert [entry.fields[1] for entry in context.entries()] == [b"wind", b"wind"]
    assert [entry.fields[5] for entry in context.entries()] == [b"context_chunk"] * 2
    result = context.parity()
    assert (result.verdict, result.tally.compared) == ("equal", 2), result.tally


def test_characters_are_never_split(context: Context) -> None:
    """A writer that pauses in the middle of a character gets it whole; what is no UTF-8 comes through as it is."""
    child = context.rig.ready(context.rig.start())
    text = "naïve — 世界 😀".encode()
    at = text.index("世".encode()) + 1
    context.write(text[:at])
    context.until(1, text[: at - 1])
    context.write(text[at:] + b"\xff\xfe!")
    context.until(1, text + b"\xff\xfe!")
    context.rig.stop(child)
    for entry in context.entries()[:1]:
        entry.fields[7].decode()
    assert context.parity().verdict == "equal"


def test_truncation_begins_a_new_context(context: Context) -> None:
    """A file that is emptied begins anew: an entry without data says so, at once, and offsets count from 0."""
    child = context.rig.ready(context.rig.start())
    context.write(b"the first context, and what it said")
    context.until(1, b"the first context, and what it said")
    os.truncate(context.path, 0)
    context.until(2, b"")
    wait_until(lambda: len(context.entries()) == 2, "the boundary")
    context.write(b"second")
    context.until(2, b"second")
    context.rig.stop(child)
    assert [entry.fields[5] for entry in context.entries()] == [b"context_chunk", STARTED, b"context_chunk"]
    context.path.write_bytes(b"third, written whole")
    context.rig.once()
    assert context.generations()[3] == b"third, written whole"
    result = context.parity()
    assert result.verdict == "equal", (result.tally, result.notes)
    for path in context.rig.state.glob("ledger.db*"):
        path.unlink()
    assert context.rig.run("repair", "--execute", "--redis", context.rig.server.socket_url).returncode == 0
    result = context.parity()  # what stood there before nobody knows any more
    assert (result.verdict, sum(result.tally.why.values())) == ("inconclusive", 1), (result.tally, result.notes)


def test_large_contexts_come_in_pieces(one_context: Context) -> None:
    """A chunk has at most 64 KiB, and ends between two characters."""
    text = "a" + "世" * 100_000
    one_context.write(text.encode())
    one_context.rig.once()
    datas = [entry.fields[7] for entry in one_context.entries()]
    assert b"".join(datas) == text.encode()
    assert max(map(len, datas)) <= 1 << 16
    assert [data.decode() for data in datas]
    assert one_context.parity().tally.compared == len(datas)


def test_several_files(one_context: Context) -> None:
    """Each file is its own source, its role from its name; a file that is saved anew whole goes on where it was."""
    other = one_context.folder / "wall.ctx"
    one_context.write(b"one")
    one_context.write(b"two", other)
    one_context.rig.once()
    fresh = one_context.folder / ".tmp"
    fresh.write_bytes(b"two anew")
    fresh.rename(other)
    one_context.rig.once()
    found = [(entry.fields[1], entry.fields[7]) for entry in one_context.entries()]
    assert sorted(found) == [(b"wall", b" anew"), (b"wall", b"two"), (b"wind", b"one")]
    assert one_context.parity().verdict == "equal"


def test_redis_lost_its_tail(context: Context) -> None:
    """After a loss the stream gets the rest of the file again, and no byte twice."""
    context.write(b"one ")
    context.rig.once()
    keys = (CONTEXT, f"bridge:{{{CONTEXT}}}:checkpoint")
    saved = [context.rig.redis.call("DUMP", key) for key in keys]
    for data in (b"two ", b"three ", b"four"):
        context.write(data)
        context.rig.once()
    for key, raw in zip(keys, saved, strict=True):
        context.rig.redis.call("RESTORE", key, 0, raw, "REPLACE")
    context.rig.once()
    assert context.generations() == {1: b"one two three four"}
    context.rig.redis.call("FLUSHALL")
    context.write(b"!")
    context.rig.once()
    assert context.generations() == {1: b"one two three four!"}
    assert context.parity().verdict == "equal"


def test_evicted_checkpoint(context: Context) -> None:
    """Without its checkpoint the bridge goes on behind the last chunk that stands."""
    context.write(b"one ")
    context.rig.once()
    context.rig.redis.call("DEL", f"bridge:{{{CONTEXT}}}:checkpoint")
    context.write(b"two")
    context.rig.once()
    assert context.generations() == {1: b"one two"}


def test_planted_differences(one_context: Context) -> None:
    """Parity names chunks that are altered, missing, twice, or of no place."""
    for n in range(6):
        one_context.write(b"chunk %d. " % n)
        one_context.rig.once()
    found, redis = one_context.entries(), one_context.rig.redis
    redis.call("XDEL", CONTEXT, b"%d-%d" % found[1].id)
    redis.call("XADD", CONTEXT, "*", *found[3].fields)
    raw = one_context.path.read_bytes()
    with one_context.path.open("r+b") as file:
        file.seek(raw.index(b"chunk 4") + 2)
        file.write(b"X")
    result = one_context.parity()
    assert result.verdict == "differs"
    assert sorted((d.kind, d.offset) for d in result.tally.differences) == [
        ("altered", 36), ("duplicate", 27), ("missing_in_redis", 9),
    ]  # fmt: skip


POINTS = ("forward.read", "forward.send", "forward.reply", "forward.checkpoint")


@pytest.mark.parametrize("when", ["before", "after"] if SOAK else ["after"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("binary", BINARIES if SOAK else BINARIES[:1], ids=lambda binary: binary.flavour)
def test_killed_at(rig: Rig, point: str, when: str) -> None:
    """A kill at this point loses no byte and doubles none, while the file grows and is emptied."""
    context, stop = Context(rig), Event()
    wrote: list[bytes] = [b""]

    def write() -> None:
        n, chance = 0, random.Random(7)
        while not stop.wait(0.06 if chance.random() < 0.3 else 0.01):
            data = f"“{n}” ".encode()
            context.write(data)
            wrote[-1] += data
            n += 1
            if chance.random() < 0.01 and len(wrote) < 3:
                context.until(len(wrote), wrote[-1])  # what was not read when a file is emptied is gone
                os.truncate(context.path, 0)
                wrote.append(b"")

    child = rig.start(crash=f"{point}.{when}:3")
    writer = Thread(target=write)
    writer.start()
    wait_until(lambda: child.poll() is not None, lambda: f"the kill at {point}.{when}; {rig.said()}")
    again = rig.start()
    Event().wait(0.5)
    stop.set()
    writer.join()
    context.until(len(wrote), wrote[-1])
    rig.stop(again)
    assert context.generations() == dict(enumerate(wrote, 1))
    result = context.parity()
    assert result.verdict == "equal", (result.tally, result.notes)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=50), st.binary(max_size=4), st.integers(0, 60))
def test_whole_characters(text: str, more: bytes, cut: int) -> None:
    """No cut falls into a character that is whole in the text, and at most three bytes are held back."""
    data = text.encode("utf-8", "surrogatepass")[:cut] + more
    size = whole_characters(data)
    assert len(data) - size <= 3
    if not more and max(text, default="") < "\ud800":
        data[:size].decode()


def test_planted_in_the_stream(one_context: Context) -> None:
    """Parity names a beginning that is missing or there twice, a role that was altered, and contexts out of order."""
    child = one_context.rig.ready(one_context.rig.start())
    for n, data in enumerate((b"first", b"second", b"third")):
        one_context.path.write_bytes(data)
        one_context.until(n + 1, data)
    one_context.rig.stop(child)
    stream = one_context.entries()
    assert [each.fields[7] for each in stream] == [b"first", b"", b"second", b"", b"third"]

    def planted(wanted: list[int], role: int = -1) -> list[str]:
        """What parity says of a stream of these entries, one of which has another role."""
        one_context.rig.redis.call("DEL", CONTEXT)
        for n, which in enumerate(wanted):
            fields = [*stream[which].fields]
            if n == role:
                fields[1] = b"EVIL"
            one_context.rig.redis.call("XADD", CONTEXT, f"{n + 1}-0", *fields)
        return [each.kind for each in one_context.parity().tally.differences]

    assert planted([0, 1, 2, 3, 4]) == []
    assert planted([0, 2, 3, 4]) == ["missing_in_redis"]
    assert planted([0, 1, 1, 2, 3, 4]) == ["duplicate"]
    assert planted([0, 1, 2, 3, 4], role=4) == ["altered"]
    assert planted([1, 2, 0, 3, 4]) == ["reordered"]


def test_trimmed(one_context: Context) -> None:
    """What was trimmed cannot be compared, and is no difference; the rest is."""
    for data in (b"one ", b"two ", b"three"):
        one_context.write(data)
        one_context.rig.once()
    one_context.rig.redis.call("XTRIM", CONTEXT, "MAXLEN", 1)
    result = one_context.parity()
    assert (result.verdict, result.tally.compared, result.tally.unverifiable) == ("equal", 1, 1)


@pytest.mark.parametrize("left", range(8))
def test_trimmed_across_a_beginning(one_context: Context, left: int) -> None:
    """Wherever a stream of contexts that began anew is cut: equal, and what was cut is unverifiable, no difference."""
    for whole in ((b"one ", b"two ", b"three " + b"x" * 200), (b"four ", b"five"), (b"six",)):
        if one_context.path.exists():
            os.truncate(one_context.path, 0)
            one_context.rig.once()
        for data in whole:
            one_context.write(data)
            one_context.rig.once()
    assert len(one_context.entries()) == 8  # six chunks, and two that say that the file began anew
    assert one_context.parity().verdict == "equal"
    one_context.rig.redis.call("XTRIM", CONTEXT, "MAXLEN", left)
    result = one_context.parity()
    assert not result.tally.differences, result.tally
    assert result.verdict == ("equal" if left else "inconclusive"), (result.tally, result.notes)
    assert bool(result.tally.unverifiable) == (left < 8)


def test_an_emptied_one_that_is_not_as_it_was_noted(one_context: Context) -> None:
    """Chunks of a context that was emptied are held against what was noted of it, although the first were trimmed."""
    for data in (b"one ", b"two " + b"x" * 200, b"three"):
        one_context.write(data)
        one_context.rig.once()
    os.truncate(one_context.path, 0)
    one_context.rig.once()
    one_context.write(b"four")
    one_context.rig.once()
    entries = one_context.entries()
    assert one_context.parity().verdict == "equal"
    one_context.rig.redis.call("XTRIM", CONTEXT, "MAXLEN", 4)
    assert one_context.parity().verdict == "equal"
    one_context.rig.redis.call("XDEL", CONTEXT, b"%d-%d" % entries[2].id)
    result = one_context.parity()
    assert (result.verdict, result.tally.why["generation 1 of context/wind.ctx is gone"]) == ("inconclusive", 1)


@pytest.mark.parametrize("point", ["forward.send.after", "forward.reply.after", "forward.checkpoint.before"])
def test_emptied_behind_a_kill(one_context: Context, point: str) -> None:
    """A context that is emptied while the bridge is dead, before the ledger knew of its last chunks, stays comparable."""
    one_context.write(b"one ")
    one_context.rig.once()
    one_context.write(b"two")
    child = one_context.rig.start(crash=point)
    wait_until(lambda: child.poll() is not None, one_context.rig.said)
    os.truncate(one_context.path, 0)
    one_context.write(b"three")
    child = one_context.rig.start()
    one_context.until(2, b"three")
    one_context.rig.stop(child)
    result = one_context.parity()
    assert result.verdict == "equal", (result.tally, result.notes)


def test_locate(one_context: Context) -> None:
    """A byte of a context is in the chunk that holds it, and an entry is the chunk from its byte."""
    for data in (b"one ", b"two"):
        one_context.write(data)
        one_context.rig.once()
    second = format_id(one_context.entries()[1].id).decode()

    def located(what: str) -> dict[str, object]:
        done = one_context.rig.run("locate", what, "--json", "--redis", one_context.rig.server.socket_url)
        assert done.returncode == 0, done.stderr
        [found] = json.loads(done.stdout)
        return dict(found)

    found = located("context/wind.ctx@5")
    assert (found["entry"], found["file"], found["origin"]) == (second, "context/wind.ctx", "1.1:4")
    assert located(second)["said"] == "it is the chunk from byte 4 of context/wind.ctx"
    one_context.write(b" more")
    assert "not carried yet" in str(located("context/wind.ctx@9")["said"])
