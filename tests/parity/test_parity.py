"""`bridge parity`: every planted fault is found, named, placed and counted; and nothing else is ever called one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridge.core.model import format_id, parse_id
from bridge.parity.result import ParityResult
from tests.support.rig import STREAM, Rig, line

KINDS = ("missing_in_redis", "missing_in_file", "altered", "duplicate", "reordered")


def parity(rig: Rig) -> ParityResult:
    """The first mapping's, in this process."""
    return rig.parity()


def bridged(rig: Rig, count: int = 40, every: int = 4) -> None:
    """A log with file-born lines and, after each few, a Redis-born entry that was mirrored."""
    for n in range(count):
        rig.append(f"f-{n}")
        if n % every == every - 1:
            rig.once()
            rig.add(f"r-{n}")
    rig.once()
    rig.once()


def found(result: ParityResult) -> dict[str, int]:
    """The kinds there are, and how many of each."""
    return {kind: n for kind, n in result.counts().items() if n}


def where(result: ParityResult) -> list[tuple[str, int | None, int | None, str | None]]:
    """Kind, line, offset and entry ID of each difference."""
    return [
        (difference.kind, difference.line, difference.offset, difference.entry)
        for difference in result.tally.differences
    ]


def offset_of(rig: Rig, text: str) -> tuple[int, int]:
    """Line number and offset of the line whose data is this."""
    at = 0
    for number, raw in enumerate(rig.log.read_bytes().split(b"\n"), 1):
        if raw.endswith(b"|" + text.encode()):
            return number, at
        at += len(raw) + 1
    raise AssertionError(text)


def entry_of(rig: Rig, text: str) -> bytes:
    """The ID of the entry whose data is this."""
    return format_id(next(entry.id for entry in rig.entries() if entry.fields[7] == text.encode()))


def rebuild(rig: Rig, change: Callable[[list[list[bytes]]], list[list[bytes]]]) -> None:
    """The stream made anew from changed entries, with the same IDs from the beginning on."""
    entries = rig.entries()
    ids = [format_id(entry.id) for entry in entries]
    fields = change([entry.fields for entry in entries])
    last = parse_id(ids[-1])
    rig.redis.call("DEL", STREAM)
    ids += [format_id((last[0] + n, 0)) for n in range(1, len(fields) - len(ids) + 1)]
    for entry_id, row in zip(ids, fields, strict=False):
        rig.redis.call("XADD", STREAM, entry_id, *row)


def test_equal(rig: Rig) -> None:
    """Both sides hold the same: each message counted once, by where it was first written."""
    bridged(rig)
    result = parity(rig)
    assert (result.verdict, found(result)) == ("equal", {})
    tally = result.tally
    assert (tally.file_born, tally.redis_born, tally.in_flight, tally.quarantined) == (40, 10, 0, 0)
    assert result.files == {"messages.log": rig.log.stat().st_size}
    assert result.entry == rig.entries()[-1].id


def test_deleted_entry(rig: Rig) -> None:
    """XDEL of a file-born entry: its line is missing in Redis; of a Redis-born one too."""
    bridged(rig)
    rig.redis.call("XDEL", STREAM, entry_of(rig, "f-7"))
    result = parity(rig)
    number, offset = offset_of(rig, "f-7")
    assert where(result) == [("missing_in_redis", number, offset, None)]
    assert result.tally.differences[0].expected == line("f-7")[:-1]
    rig.redis.call("XDEL", STREAM, entry_of(rig, "r-11"))
    result = parity(rig)
    assert where(result)[1] == ("missing_in_redis", *offset_of(rig, "r-11"), None)
    assert found(result) == {"missing_in_redis": 2}


@pytest.mark.parametrize("text", ["f-0", "f-20", "r-19", "f-39", "r-39"])
def test_changed_byte(rig: Rig, text: str) -> None:
    """One byte of a line is another: altered, with both sides' bytes, wherever it stands."""
    bridged(rig)
    number, offset = offset_of(rig, text)
    raw = rig.log.read_bytes()
    entry = entry_of(rig, text).decode()
    rig.log.write_bytes(raw.replace(b"|" + text.encode() + b"\n", b"|" + text[:-1].encode() + b"#\n"))
    result = parity(rig)
    assert where(result) == [("altered", number, offset, entry)]
    difference = result.tally.differences[0]
    assert {difference.expected, difference.actual} == {
        raw.split(b"\n")[number - 1],
        raw.split(b"\n")[number - 1][:-1] + b"#",
    }


@pytest.mark.parametrize("text", ["f-0", "f-20", "r-19", "f-39"])
def test_line_that_is_none_any_more(rig: Rig, text: str) -> None:
    """A changed delimiter makes of a line no message: altered, not one missing and one in quarantine."""
    bridged(rig)
    number, offset = offset_of(rig, text)
    entry = entry_of(rig, text).decode()
    raw = rig.log.read_bytes().split(b"\n")
    raw[number - 1] = raw[number - 1].replace(b"|", b"/")
    rig.log.write_bytes(b"\n".join(raw))
    result = parity(rig)
    assert where(result) == [("altered", number, offset, entry)]
    assert result.tally.quarantined == 0


@pytest.mark.parametrize("text", ["f-0", "f-20", "r-19"])
def test_changed_field(rig: Rig, text: str) -> None:
    """One field of an entry is another."""
    bridged(rig)
    entry = entry_of(rig, text).decode()

    def change(entries: list[list[bytes]]) -> list[list[bytes]]:
        for fields in entries:
            if fields[7] == text.encode():
                fields[5] = b"TURN"
        return entries

    rebuild(rig, change)
    result = parity(rig)
    assert where(result) == [("altered", *offset_of(rig, text), entry)]


@pytest.mark.parametrize("text", ["f-20", "r-19"])
def test_columns_shifted_by_a_delimiter(rig: Rig, text: str) -> None:
    """Fields that join to the same line are not the same message."""
    bridged(rig)
    entry = entry_of(rig, text).decode()

    def change(entries: list[list[bytes]]) -> list[list[bytes]]:
        for fields in entries:
            if fields[7] == text.encode():
                fields[1], fields[3] = fields[1] + b"|" + fields[3], b""
        return entries

    rebuild(rig, change)
    result = parity(rig)
    if text.startswith("f"):
        assert where(result) == [("altered", *offset_of(rig, text), entry)]
    else:
        assert found(result) == {"missing_in_redis": 1}
        assert result.tally.quarantined == 1


def test_entry_twice(rig: Rig) -> None:
    """An entry added once more with its origin is a duplicate, next to the first and far from it."""
    bridged(rig)

    def change(entries: list[list[bytes]]) -> list[list[bytes]]:
        lost = next(fields for fields in entries if fields[7] == b"f-20")
        at = entries.index(lost)
        return [*entries[:at], lost, *entries[at:], lost]

    rebuild(rig, change)
    result = parity(rig)
    assert found(result) == {"duplicate": 2}
    twice = [entry.id for entry in rig.entries() if entry.fields[7] == b"f-20"]
    assert {difference.entry for difference in result.tally.differences} <= {format_id(i).decode() for i in twice}


def test_line_twice(rig: Rig) -> None:
    """A line that was copied in behind the bridge's back, below its cursor, is a duplicate."""
    bridged(rig)
    for text in ("f-20", "r-19"):
        lines = rig.log.read_bytes().split(b"\n")
        number, _ = offset_of(rig, text)
        lines.insert(30, lines[number - 1])
        rig.log.write_bytes(b"\n".join(lines))
    result = parity(rig)
    assert found(result) == {"duplicate": 2}
    assert [difference.line for difference in result.tally.differences] == [31, 32]


@pytest.mark.parametrize(("first", "other", "moved"), [(5, 6, 1), (0, 30, 2), (17, 38, 2), (3, 10, 2)])
def test_swapped_entries(rig: Rig, first: int, other: int, moved: int) -> None:
    """Two entries in each other's place: reordered, as many as would have to be moved."""
    bridged(rig, every=100)

    def change(entries: list[list[bytes]]) -> list[list[bytes]]:
        entries[first], entries[other] = entries[other], entries[first]
        return entries

    rebuild(rig, change)
    assert found(parity(rig)) == {"reordered": moved}


@pytest.mark.parametrize(("first", "other", "moved"), [(5, 6, 1), (0, 30, 2), (17, 38, 2), (3, 10, 2), (9, 10, 1)])
def test_swapped_lines(rig: Rig, first: int, other: int, moved: int) -> None:
    """Two lines in each other's place, be they of one length or not."""
    bridged(rig, every=100)
    lines = rig.log.read_bytes().split(b"\n")
    lines[first], lines[other] = lines[other], lines[first]
    rig.log.write_bytes(b"\n".join(lines))
    assert found(parity(rig)) == {"reordered": moved}


def test_swapped_among_redis_born(rig: Rig) -> None:
    """Two mirrored lines in each other's place."""
    bridged(rig)
    lines = rig.log.read_bytes().split(b"\n")
    a, b = offset_of(rig, "r-3")[0] - 1, offset_of(rig, "r-19")[0] - 1
    lines[a], lines[b] = lines[b], lines[a]
    rig.log.write_bytes(b"\n".join(lines))
    assert found(parity(rig)) == {"reordered": 2}


def test_cut_tail(rig: Rig) -> None:
    """The file's tail is cut off: each message of it is missing in the file."""
    bridged(rig)
    _, offset = offset_of(rig, "f-30")
    raw = rig.log.read_bytes()
    rig.log.write_bytes(raw[:offset])
    result = parity(rig)
    assert found(result) == {"missing_in_file": raw[offset:].count(b"\n")}
    first = min(
        (difference for difference in result.tally.differences if difference.offset is not None),
        key=lambda difference: difference.offset or 0,
    )
    assert (first.offset, first.expected) == (offset, line("f-30")[:-1])


@pytest.mark.parametrize("command", ["DEL", "FLUSHALL"])
def test_flushed(rig: Rig, command: str) -> None:
    """The stream is gone, with the bridge's keys or without: every line is missing in Redis."""
    bridged(rig)
    rig.redis.call(*((command,) if command == "FLUSHALL" else (command, STREAM)))
    result = parity(rig)
    assert result.verdict == "differs"
    assert found(result) == {"missing_in_redis": 50}


def test_lost_generation(rig: Rig) -> None:
    """A whole rotated file is gone: its messages are unverifiable and said so, and the verdict is not equal."""
    bridged(rig, 20)
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-100", "f-101")
    rig.once()
    assert parity(rig).verdict == "equal"
    (rig.root / "messages.log.1").unlink()
    result = parity(rig)
    assert result.verdict == "inconclusive"
    assert (result.tally.unverifiable, found(result)) == (25, {})
    assert "generation 1 of messages.log is gone" in result.notes
    assert result.tally.compared == 2


def test_another_file_in_its_place(rig: Rig) -> None:
    """The file was deleted and a new one begun: what it held is unverifiable, what the new one holds is in flight."""
    bridged(rig)
    rig.log.unlink()
    rig.append("f-100", "f-101")
    result = rig.parity()
    assert (result.verdict, found(result)) == ("inconclusive", {})
    assert (result.tally.unverifiable, result.tally.in_flight) == (50, 2)


@pytest.mark.parametrize("side", ["file", "redis"])
def test_missing_block(one_rig: Rig, side: str) -> None:
    """A block of 1,000 out of the middle of either side is 1,000 differences, and no more."""
    rig = one_rig
    rig.append(*(f"f-{n}" for n in range(5000)))
    rig.once()
    if side == "file":
        lines = rig.log.read_bytes().split(b"\n")
        rig.log.write_bytes(b"\n".join(lines[:2000] + lines[3000:]))
        assert found(parity(rig)) == {"missing_in_file": 1000}
    else:
        rig.redis.call("XDEL", STREAM, *(format_id(entry.id) for entry in rig.entries()[2000:3000]))
        result = parity(rig)
        assert found(result) == {"missing_in_redis": 1000}
        assert [difference.line for difference in result.tally.differences] == [*range(2001, 3001)]


def test_identical_messages(one_rig: Rig) -> None:
    """Ten thousand identical messages on both sides are equal; one less on a side is one difference."""
    rig = one_rig
    rig.append(*(["same"] * 10_000))
    rig.once()
    result = parity(rig)
    assert (result.verdict, result.tally.compared) == ("equal", 10_000)
    raw = rig.log.read_bytes()
    rig.log.write_bytes(raw[: len(raw) - len(line("same"))])
    assert sum(parity(rig).counts().values()) == 1
    rig.log.write_bytes(raw)
    rig.redis.call("XDEL", STREAM, format_id(rig.entries()[4000].id))
    result = parity(rig)
    assert sum(result.counts().values()) == 1
    assert result.tally.differences[0].line == 4001


@pytest.mark.parametrize("before", [200, 2003])
def test_old_pieces_were_deleted(one_rig: Rig, before: int) -> None:
    """However many Redis-born lines stood in pieces that are gone: those that are there are compared, and agree."""
    rig = one_rig
    rig.append("f-0")
    rig.once()
    for n in range(before):
        rig.add(f"r-{n}")
    rig.once()
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-1")
    rig.once()
    for n in range(before, before + 287):
        rig.add(f"r-{n}")
    rig.once()
    assert rig.parity().verdict == "equal"
    (rig.root / "messages.log.1").unlink()
    result = rig.parity()
    assert not result.tally.differences, result.counts()
    assert (result.tally.file_born, result.tally.redis_born) == (1, 287)
