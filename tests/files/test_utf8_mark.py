"""A UTF-8 mark at the beginning of a file is no part of its first line: passed over, accounted, and left where it is."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.mapping import Mapping, load_mapping
from bridge.core.model import MARKED, UTF8_MARK
from bridge.files.lines import begins_line, split, walk
from tests.support.rig import Rig, line, wait_until

JSONL = b'{"timestamp":"2026-03-01T10:00:0%dZ","role":"a","type":"t","n":%d}\n'


def _roles(rig: Rig) -> list[bytes]:
    return [entry.fields[1] for entry in rig.entries()]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_each_piece_may_begin_with_a_mark(mem: Rig, pack: Callable[[bytes], bytes]) -> None:
    """Every piece and the log begin with a mark: no role and no entry has it, and each byte is accounted for."""
    (mem.root / "messages.log.2").write_bytes(pack(UTF8_MARK + line(b"one") + line(b"two")))
    (mem.root / "messages.log.1").write_bytes(pack(UTF8_MARK + line(b"three")))
    mem.log.write_bytes(UTF8_MARK + line(b"four"))
    report = mem.once()
    assert (mem.datas(), report.quarantined) == ([b"one", b"two", b"three", b"four"], 0)
    assert not any(UTF8_MARK in b"".join(entry.fields) for entry in mem.entries())
    assert mem.parity().verdict == "equal"
    mem.check_account()
    assert mem.log.read_bytes() == UTF8_MARK + line(b"four")
    told = mem.run("files")
    assert (told.returncode, "unaccounted" in told.stdout) == (0, False), told.stdout


def test_a_mark_alone(mem: Rig) -> None:
    """A log that holds a mark and nothing else is read to its end, and the mirror may append to it."""
    mem.log.write_bytes(UTF8_MARK)
    mem.once()
    assert mem.parity().verdict == "equal"
    mem.add(b"from Redis")
    mem.once()
    assert mem.log.read_bytes().startswith(UTF8_MARK)
    assert mem.log.read_bytes().endswith(b"from Redis\n")
    mem.append(b"live")
    mem.once()
    assert (mem.datas(), mem.parity().verdict) == ([b"from Redis", b"live"], "equal")


def test_only_the_beginning_of_a_file_counts(mem: Rig) -> None:
    """A mark in the middle of a log, as `cat a b >> log` leaves it, is part of its line, byte for byte."""
    mem.log.write_bytes(UTF8_MARK + line(b"one") + UTF8_MARK + line(b"two"))
    mem.once()
    assert _roles(mem) == [mem.entries()[0].fields[1], UTF8_MARK + mem.entries()[0].fields[1]]
    assert mem.parity().verdict == "equal"


def test_a_mark_that_comes_byte_by_byte(rig: Rig) -> None:
    """A log whose mark is written in pieces while a bridge runs gives one entry without it."""
    rig.log.write_bytes(b"")
    rig.ready(rig.start())
    for part in (UTF8_MARK[:1], UTF8_MARK[1:2], UTF8_MARK[2:], line(b"one")[:9], line(b"one")[9:]):
        with rig.log.open("ab") as file:
            file.write(part)
    wait_until(lambda: rig.datas() == [b"one"], rig.said)
    assert UTF8_MARK not in _roles(rig)[0]
    assert rig.parity().verdict == "equal"


def test_a_first_line_that_is_too_long(mem: Rig) -> None:
    """A first line over the limit is quarantined without the mark before it, and parity finds it there."""
    mem.write_config()
    long = b"agent|2026-03-01T10:00:00Z|turn|" + b"x" * (1 << 20)
    mem.log.write_bytes(UTF8_MARK + long + b"\n" + line(b"two"))
    report = mem.once()
    assert (mem.datas(), report.quarantined) == ([b"two"], 1)
    assert mem.parity().verdict == "equal"
    mem.check_account()


def test_an_entry_that_begins_with_a_mark_has_no_line(mem: Rig) -> None:
    """A Redis-born entry whose line would begin with a mark is quarantined: as a first line it would be another one."""
    mem.log.write_bytes(line(b"one"))
    mem.redis.call("XADD", "hestai:messages", "*", "role", UTF8_MARK + b"agent", "timestamp", "2026-03-01T10:00:00Z",
                   "type", "turn", "data", "x")  # fmt: skip
    mem.add(b"two")
    assert mem.once().quarantined == 1
    assert mem.log.read_bytes().count(UTF8_MARK) == 0
    assert mem.log.read_bytes().endswith(b"two\n")
    assert MARKED in mem.run("quarantine", "list").stdout.replace("\n", " ")
    assert mem.parity().verdict == "equal"


def test_the_place_of_a_first_line(mem: Rig) -> None:
    """`bridge locate` finds the first line behind the mark, both ways."""
    mem.log.write_bytes(UTF8_MARK + line(b"one") + line(b"two"))
    mem.once()
    url = ("--json", "--redis", mem.server.socket_url)
    there = json.loads(mem.run("locate", "messages.log:1", *url).stdout)[0]
    entry = mem.entries()[0]
    back = json.loads(mem.run("locate", there["entry"], *url).stdout)[0]
    assert (there["entry"].encode(), back["line"]) == (b"%d-%d" % entry.id, 1)


def test_a_lost_ledger_with_a_mark(mem: Rig) -> None:
    """A ledger that is lost is rebuilt from files that begin with a mark, with nothing twice."""
    mem.log.write_bytes(UTF8_MARK + line(b"one") + line(b"two"))
    mem.add(b"born in Redis")
    mem.once()
    for path in (mem.settings().state_dir).glob("ledger*"):
        path.unlink()
    before = mem.log.read_bytes()
    assert mem.run("repair", "--execute", "--redis", mem.server.socket_url).returncode == 0
    mem.once()
    assert (mem.log.read_bytes(), sorted(mem.datas())) == (before, [b"born in Redis", b"one", b"two"])
    assert mem.parity().verdict == "equal"


def test_a_document_with_a_mark() -> None:
    """A JSON document, or a text, that begins with a mark is the message that it is without it, and goes back so."""
    inbox = load_mapping("hestai-inbox", Path())
    raw = b'{"uuid":"u1","doc_type":"t","timestamp":"2026-03-01T10:00:00Z","source":"s"}'
    plain, marked = inbox.document("inbox/1.json").read(raw), inbox.document("inbox/1.json").read(UTF8_MARK + raw)
    assert marked == plain
    assert not isinstance(plain.row, str)
    assert inbox.document("inbox/1.json").encode((*plain.row[:3], UTF8_MARK + raw)) == MARKED
    tables = {"name": "n", "source": {"kind": "spool", "path": "n/*.txt"}, "format": {"codec": "document"},
              "message": {"role": {"const": "r"}, "type": {"const": "t"}}, "stream": {"key": "n"}}  # fmt: skip
    notes = Mapping.model_validate(tables)
    text = notes.document("n/1.txt").read(UTF8_MARK + b"hello")
    assert (text.row[3], notes.document("n/1.txt").encode((*text.row[:3], UTF8_MARK))) == (b"hello", MARKED)


@given(st.binary(max_size=60), st.integers(1, 20))
def test_a_mark_changes_no_line(raw: bytes, size: int) -> None:
    """Lines read from bytes behind a mark are those of the bytes alone, each three bytes later, in blocks of any size."""

    def lines(data: bytes) -> list[tuple[bytes, int, int]]:
        def read(_: int, offset: int) -> tuple[bytes, list[tuple[int, int]], bool]:
            part = data[offset : offset + max(size, 3)]
            return part, [], offset + len(part) < len(data)

        found = [*walk(read, 0, None, 1)]
        return [told for some, _ in found for told in zip(some.lines, some.offsets, some.ends, strict=True)]

    whole = split(UTF8_MARK + raw, 0, [])
    plain = split(raw.removeprefix(UTF8_MARK) if raw.startswith(UTF8_MARK) else raw, 0, [])
    if not raw.startswith(UTF8_MARK):
        assert whole.lines == plain.lines
        assert [at - 3 for at in whole.offsets] == plain.offsets
        assert lines(UTF8_MARK + raw) is not None
    for at in whole.offsets:
        assert begins_line(lambda size, offset: (UTF8_MARK + raw)[offset : offset + size], at)


def test_what_an_earlier_version_carried(mem: Rig) -> None:
    """An entry that was made of a first line together with the mark, by an earlier version, is that line's: no difference."""
    mem.log.write_bytes(UTF8_MARK + line(b"one") + line(b"two") + line(b"three"))
    mem.once()
    first = mem.entries()[0]
    fields = [*first.fields]
    fields[1], fields[-1] = UTF8_MARK + fields[1], b"1.1:0"
    mem.redis.call("DEL", "hestai:messages")
    rest = mem.entries()
    assert rest == []
    mem.redis.call("XADD", "hestai:messages", b"%d-%d" % first.id, *fields)
    again = [
        (b"two", UTF8_MARK + line(b"one") + line(b"two")),
        (b"three", UTF8_MARK + line(b"one") + line(b"two") + line(b"three")),
    ]
    for n, (data, upto) in enumerate(again):
        offset = len(upto) - len(line(data))
        values = [*first.fields[:-3], data, b"origin", b"1.1:%d" % offset]
        mem.redis.call("XADD", "hestai:messages", b"%d-%d" % (first.id[0], first.id[1] + 1 + n), *values)
    result = mem.parity()
    assert result.tally.differences == []
    assert result.tally.file_born == 3
    mem.balances(result.account)  # type: ignore[arg-type]
