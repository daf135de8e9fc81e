"""Parity of everything the bridge carries: rotated, compressed, damaged, many files, JSON, several lines, other targets."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
from collections.abc import Callable

import pytest

from bridge.core.model import format_id
from tests.parity.test_parity import bridged, entry_of, found
from tests.support.project import ROOT
from tests.support.rig import FIELDS, STREAM, Rig, line

zstandard = pytest.importorskip("zstandard")

PRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress,
}  # fmt: skip

ROLES = """
name = "roles"
[source]
kind = "log"
path = "*.out"
rotated = ["*.out.*"]
[format]
codec = "delimited"
delimiter = "|"
columns = ["timestamp", "type", "data"]
[message]
role = {name = "stem"}
[stream]
key = "hestai:messages"
[mirror]
path = "{role}.out"
"""

OTHER_FILE = """
name = "apart"
[source]
kind = "log"
path = "messages.log"
[format]
codec = "delimited"
delimiter = "|"
columns = ["role", "timestamp", "type", "data"]
[stream]
key = "hestai:messages"
[mirror]
path = "from-redis.log"
"""

TRACES = """
name = "trace"
[source]
kind = "log"
path = "messages.log"
settle_ms = 0
[format]
codec = "regex"
pattern = '(?P<timestamp>\\S+ \\S+) (?P<type>[A-Z]+) \\[(?P<role>\\w+)\\] (?P<data>.*)'
continuation = true
[stream]
key = "hestai:messages"
[mirror]
path = "messages.log"
template = "{timestamp} {type} [{role}] {data}"
"""


def mapped(rig: Rig, text: str, roles: str = "") -> None:
    (rig.path / "own.toml").write_text(text)
    rig.write_config(mapping="own.toml", extra=f"[components.all]\nroles = [{roles}]" if roles else "")


def say(rig: Rig, data: bytes, time: bytes = b"2026-03-02 09:15:00") -> None:
    """A Redis-born entry, its time as the traces have it."""
    values = (b"ui", time, b"SAY", data)
    rig.redis.call("XADD", STREAM, "*", *(part for pair in zip(FIELDS, values, strict=True) for part in pair))


@pytest.mark.parametrize("suffix", PRESS)
def test_rotated(one_rig: Rig, suffix: str) -> None:
    """Rotated pieces, compressed or not: equal; a byte that is another in one is found, with its file and line."""
    rig = one_rig
    bridged(rig, 20)
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-20", "f-21")
    rig.once()
    piece = rig.root / "messages.log.1"
    whole = piece.read_bytes()
    target = rig.root / f"messages.log.1{suffix}"
    piece.unlink()
    target.write_bytes(PRESS[suffix](whole))
    result = rig.parity()
    assert (result.verdict, result.tally.file_born, result.tally.redis_born) == ("equal", 22, 5)
    target.write_bytes(PRESS[suffix](whole.replace(b"|f-9\n", b"|f-#\n")))
    [difference] = rig.parity().tally.differences
    assert (difference.kind, difference.file, difference.line) == (
        "altered",
        target.name,
        whole.split(b"\n").index(line("f-9")[:-1]) + 1,
    )


def test_damaged(one_rig: Rig) -> None:
    """What stands behind the damage of a compressed file cannot be compared: inconclusive, and said."""
    rig = one_rig
    rig.append(*(f"f-{n}-{n * n % 977}" for n in range(5000)))
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-last")
    rig.once()
    piece = rig.root / "messages.log.1"
    packed = gzip.compress(piece.read_bytes())
    piece.unlink()
    (rig.root / "messages.log.1.gz").write_bytes(packed[: len(packed) // 2])
    result = rig.parity()
    assert (result.verdict, found(result)) == ("inconclusive", {})
    assert result.tally.compared + result.tally.unverifiable == 5001
    assert any("cannot be read to its end" in why for why in result.tally.why)


def test_many_files(one_rig: Rig) -> None:
    """A file for each role, both ways: each is compared with its own entries; a lost line is named in its file."""
    rig = one_rig
    mapped(rig, ROLES, '"agent", "daemon"')
    for role in ("agent", "daemon"):
        with (rig.root / f"{role}.out").open("wb") as file:
            file.write(b"".join(b"2026-03-02T09:14:%02dZ|turn|%s-%d\n" % (n, role.encode(), n) for n in range(50)))
    rig.once()
    for n in range(10):
        rig.add(f"r-{n}", role=("agent", "daemon")[n % 2])
    rig.once()
    result = rig.parity()
    assert (result.verdict, result.tally.file_born, result.tally.redis_born) == ("equal", 100, 10)
    assert result.files == {name: (rig.root / name).stat().st_size for name in ("agent.out", "daemon.out")}
    again = rig.parity()
    assert result.tally.digest == again.tally.digest
    path = rig.root / "daemon.out"
    path.write_bytes(path.read_bytes().replace(b"daemon-7\n", b"daemon-#\n"))
    [difference] = rig.parity().tally.differences
    assert (difference.kind, difference.file, difference.line) == ("altered", "daemon.out", 8)


def test_json_lines(one_rig: Rig) -> None:
    """JSONL, by the shipped mapping."""
    rig = one_rig
    rig.write_config(mapping="hestai-debates")
    case = ROOT / "fixtures" / "hestai-debates" / "fallbacks" / "files"
    shutil.copytree(case, rig.root, dirs_exist_ok=True)
    rig.once()
    count = rig.redis.call("XLEN", "hestai:debates")
    result = rig.parity()
    assert (result.verdict, result.tally.compared) == ("equal", count)
    [first] = rig.redis.call("XRANGE", "hestai:debates", "-", "+", "COUNT", 1)
    rig.redis.call("XDEL", "hestai:debates", first[0])
    assert found(rig.parity()) == {"missing_in_redis": 1}


def test_several_lines(one_rig: Rig) -> None:
    """Messages of several lines, with mirrored lines between them; a lost continuation line is an altered message."""
    rig = one_rig
    mapped(rig, TRACES)
    for n in range(6):
        with rig.log.open("ab") as file:
            file.write(b"2026-03-02 09:14:%02d ERROR [agent] m-%d\n  at x\n\n  at y%d\n" % (n, n, n))
        rig.once()
        say(rig, b"r-%d" % n)
        rig.once()
    rig.once()
    result = rig.parity()
    assert (result.verdict, result.tally.file_born, result.tally.redis_born) == ("equal", 6, 6), result.tally
    rig.log.write_bytes(rig.log.read_bytes().replace(b"  at y2\n", b"  at z2\n"))
    [difference] = rig.parity().tally.differences
    assert difference.kind == "altered"
    assert b"m-2" in (difference.expected or b"") + (difference.actual or b"")


def test_mirror_into_another_file(one_rig: Rig) -> None:
    """A file that only the mirror writes is looked through for its lines; what others write into it is not a message."""
    rig = one_rig
    mapped(rig, OTHER_FILE)
    rig.append("f-0", "f-1")
    rig.once()
    for n in range(20):
        rig.add(f"r-{n}")
    rig.once()
    target = rig.root / "from-redis.log"
    result = rig.parity()
    assert (result.verdict, result.tally.file_born, result.tally.redis_born) == ("equal", 2, 20)
    target.rename(rig.root / "from-redis.log.1")
    rig.add("r-20")
    rig.once()
    with target.open("ab") as file:
        file.write(line("of-others"))
    result = rig.parity()
    assert (result.verdict, result.tally.redis_born, result.tally.foreign) == ("equal", 21, 1)
    lines = (rig.root / "from-redis.log.1").read_bytes().split(b"\n")
    (rig.root / "from-redis.log.1").write_bytes(b"\n".join(lines[:5] + lines[6:]))
    assert found(rig.parity()) == {"missing_in_file": 1}


def test_odd_bytes(one_rig: Rig) -> None:
    """CRLF, NUL, bytes that are not UTF-8, delimiters in data, long and empty lines, one that is not ended."""
    rig = one_rig
    data = [b"crlf\r", b"\0nul", b"\xff\xfe", b"a|b|c", b"z" * 300_000, "ü\u2028".encode(), b"", b" "]
    with rig.log.open("wb") as file:
        file.write(b"".join(line(text) + b"\n" for text in data) + b"no message\n" + b"y" * (2 << 20) + b"\n")
        file.write(line("behind") + b"not ended")
    rig.once()
    for text in [*data, b"two\nlines"]:
        rig.add(text)
    rig.once()
    with rig.log.open("ab") as file:
        file.write(b" yet\n")
    rig.once()
    rig.once()
    result = rig.parity()
    assert (result.verdict, found(result)) == ("equal", {})
    assert (result.tally.file_born, result.tally.redis_born) == (len(data) + 1, len(data) + 1)
    assert result.tally.quarantined == 3


def test_without_a_mirror(one_rig: Rig) -> None:
    """A bridge without --dual: Redis-born entries are not mirrored, and no difference."""
    rig = one_rig
    rig.append("f-0")
    rig.once(dual=False)
    rig.add("r-0")
    rig.once(dual=False)
    result = rig.parity()
    assert (result.verdict, result.tally.compared, result.tally.not_mirrored, result.tally.in_flight) == (
        "equal",
        1,
        1,
        0,
    )


def test_nothing_yet(one_rig: Rig) -> None:
    """Nothing compared is never equal: both sides empty, or nothing carried yet."""
    rig = one_rig
    done = rig.run("parity", "--json", "--redis", rig.server.socket_url)
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (4, "inconclusive")
    rig.append("f-0")
    done = rig.run("parity", "--json", "--redis", rig.server.socket_url)
    told = json.loads(done.stdout)
    assert (done.returncode, told["verdict"], told["mappings"][0]["in_flight"]) == (4, "inconclusive", 1)


def test_an_empty_mapping_beside_a_full_one(one_rig: Rig) -> None:
    """The empty one is equal with nothing compared, and the whole is equal."""
    rig = one_rig
    (rig.path / "bridge.toml").write_text(
        'instance = "test"\nroot = "files"\nmappings = ["hestai-message", "hestai-debates"]\n[state]\ndir = "state"\n'
    )
    rig.append("f-0")
    assert rig.run("run", "--once", "--redis", rig.server.socket_url).returncode == 0
    done = rig.run("parity", "--json", "--redis", rig.server.socket_url)
    told = json.loads(done.stdout)
    assert (done.returncode, told["verdict"]) == (0, "equal")
    assert [(mapping["verdict"], mapping["compared"]) for mapping in told["mappings"]] == [("equal", 1), ("equal", 0)]


def test_json(rig: Rig) -> None:
    """`--json` is what the contract says, to the key."""
    bridged(rig)
    rig.redis.call("XDEL", STREAM, entry_of(rig, "f-2"))
    done = rig.run("parity", "--json", "--redis", rig.server.socket_url)
    told = json.loads(done.stdout)
    assert done.returncode == 3
    size, lost = rig.log.stat().st_size, len(line("f-2"))
    mirrored = sum(len(raw) + 1 for raw in rig.lines() if raw.startswith(b"ui|"))
    assert told == {
        "verdict": "differs",
        "mappings": [{
            "mapping": "hestai-message", "stream": STREAM, "verdict": "differs", "compared": 49, "file_born": 39,
            "redis_born": 10, "in_flight": 0, "not_mirrored": 0, "quarantined": 0, "unverifiable": 0,
            "position": {"files": {"messages.log": rig.log.stat().st_size},
                         "entry": format_id(rig.entries()[-1].id).decode()},
            "digest": told["mappings"][0]["digest"],
            "counts": {"missing_in_redis": 1, "missing_in_file": 0, "altered": 0, "duplicate": 0, "reordered": 0},
            "account": {
                "bytes": size, "carried": size - mirrored - lost, "mirrored": mirrored, "quarantined": 0, "empty": 0,
                "waiting": 0, "aside": 0, "copies": 0, "unaccounted": lost, "entries": 49, "trimmed": 0, "deleted": 1,
                "gone_before_mirrored": 0,
                "unaccounted_at": [{"path": "messages.log", "offset": 80, "bytes": lost, "why": "no entry holds it"}],
                "pieces": [{"path": "messages.log", "standing": "active", "source": "messages.log", "generation": 1,
                            "bytes": size}],
            },
            "differences": [{"kind": "missing_in_redis", "file": "messages.log", "line": 3, "offset": 80, "entry": None,
                             "expected": line("f-2")[:-1].decode(), "actual": None}],
        }],
    }  # fmt: skip
    assert len(told["mappings"][0]["digest"]) == 32


def test_several_lines_twice(one_rig: Rig) -> None:
    """An entry of several lines that is there twice is a duplicate, and repair leaves it alone."""
    rig = one_rig
    mapped(rig, TRACES)
    rig.log.write_bytes(b"2026-03-02 09:14:00 ERROR [agent] one\n  more\n2026-03-02 09:14:01 ERROR [agent] two\n  x\n")
    rig.once()
    rig.once()
    rig.redis.call("XADD", STREAM, "*", *rig.entries()[0].fields)
    assert found(rig.parity()) == {"duplicate": 1}
    before = rig.log.read_bytes()
    assert rig.run("repair", "--execute", "--redis", rig.server.socket_url).returncode == 3
    assert rig.log.read_bytes() == before


def test_a_line_behind_a_mirrored_one(one_rig: Rig) -> None:
    """A line that begins no message, behind a mirrored one, is in quarantine; the mirrored one is not altered by it."""
    rig = one_rig
    mapped(rig, TRACES)
    rig.log.write_bytes(b"2026-03-02 09:14:00 ERROR [agent] one\n")
    rig.once()
    say(rig, b"r-0")
    rig.once()
    with rig.log.open("ab") as file:
        file.write(b"  astray\n2026-03-02 09:16:00 ERROR [agent] two\n")
    rig.once()
    rig.once()
    result = rig.parity()
    assert (result.verdict, result.tally.file_born, result.tally.redis_born) == ("equal", 2, 1), result.tally
    assert result.tally.quarantined == 1


def test_damaged_with_mirrored_lines(one_rig: Rig) -> None:
    """Mirrored lines behind the damage are unverifiable like the others, and repair does not write them again."""
    rig = one_rig
    bridged(rig, 400, every=100)
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-last")
    rig.once()
    packed = gzip.compress((rig.root / "messages.log.1").read_bytes())
    (rig.root / "messages.log.1").unlink()
    (rig.root / "messages.log.1.gz").write_bytes(packed[:-200])
    result = rig.parity()
    assert (result.verdict, found(result)) == ("inconclusive", {})
    assert result.tally.compared + result.tally.unverifiable == 405


def test_late_line_of_a_rotated_piece(one_rig: Rig) -> None:
    """A line that a program wrote into the rotated piece after the next one had begun came late, and is marked so."""
    rig = one_rig
    bridged(rig, 8)
    rig.log.rename(rig.root / "messages.log.1")
    rig.append("f-8", "f-9")
    rig.once()
    with (rig.root / "messages.log.1").open("ab") as file:
        file.write(line("late"))
    rig.once()
    assert rig.datas()[-1] == b"late"
    result = rig.parity()
    assert (result.verdict, result.tally.late, result.tally.file_born) == ("equal", 1, 11)


def test_deleted_line_of_a_small_piece(one_rig: Rig) -> None:
    """A line taken out of a rotated piece of a few lines: one is missing, the piece is not called gone."""
    rig = one_rig
    bridged(rig, 8, every=100)
    rig.append("f-8")
    rig.once()
    piece = rig.root / "messages.log.1"
    rig.log.rename(piece)
    rig.append("f-9")
    rig.once()
    lines = piece.read_bytes().split(b"\n")
    piece.write_bytes(b"\n".join(lines[:3] + lines[4:]))
    assert found(rig.parity()) == {"missing_in_file": 1}


def test_a_file_renamed_away(one_rig: Rig) -> None:
    """Another file in its place: what it held, mirrored lines too, is unverifiable; no word of a file that was cut."""
    rig = one_rig
    bridged(rig)
    rig.log.rename(rig.root / "old-away")
    rig.append("new")
    result = rig.parity()
    assert (result.verdict, found(result), result.tally.unverifiable) == ("inconclusive", {}, 50)
    assert result.warnings() == []


ODD = [
    [b"origin", b"1.1:0"], [b"origin", b"1.1:999999999999999"], [b"origin", b"1.1:" + b"9" * 40], [b"origin", b""],
    [b"origin", b"99.1:5"], [b"role", b"a"], [b"role", b"a", b"role", b"b", b"timestamp", b"x", b"type", b"y"],
    [b"data", b"d", b"type", b"t", b"timestamp", b"x", b"role", b"r", b"origin", b"1.1:3"],
]  # fmt: skip


@pytest.mark.parametrize("fields", ODD, ids=range(len(ODD)))
def test_odd_entries(one_rig: Rig, fields: list[bytes]) -> None:
    """Whatever an entry holds, parity ends with a verdict, repair with a plan; no other message is touched by it."""
    rig = one_rig
    bridged(rig, 8)
    rig.redis.call("XADD", STREAM, "*", *fields)
    rig.once()
    result = rig.parity()
    assert result.tally.compared == 10
    assert sum(result.counts().values()) + result.tally.quarantined == 1
    before = rig.log.read_bytes()
    for command in (("parity",), ("repair", "--execute")):
        assert "Traceback" not in rig.run(*command, "--redis", rig.server.socket_url).stderr
    assert rig.log.read_bytes() == before


def test_many_altered(one_rig: Rig) -> None:
    """Every mirrored line altered, as `sed -i` does it: each is named, in no time worth speaking of."""
    rig = one_rig
    rig.append("f-0")
    rig.once()
    for n in range(1500):
        rig.add(f"r-{n} " + "x" * 100)
    rig.once()
    rig.append("f-1")
    rig.once()
    rig.log.write_bytes(rig.log.read_bytes().replace(b"ui|", b"UI|"))
    assert found(rig.parity()) == {"altered": 1500}


def test_entries_that_can_be_no_lines(one_rig: Rig) -> None:
    """Entries without a time that is one are in quarantine, wherever they stand; the others' lines are found."""
    rig = one_rig
    bridged(rig, 8)
    for n in range(30):
        rig.add(f"r-{n}")
        say(rig, b"bad-%d" % n, time=b"no time")
    rig.once()
    rig.append("f-last")
    rig.once()
    result = rig.parity()
    assert (result.verdict, result.tally.quarantined, result.tally.redis_born) == ("equal", 30, 32)
    rig.log.write_bytes(rig.log.read_bytes().replace(b"|r-17\n", b"|r-1#\n"))
    assert found(rig.parity()) == {"altered": 1}
