"""Compressed generations: read in place, bounded, damaged ones to the last byte that can be had; never imported twice."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.files.content import KEPT_BYTES, MOST_OUT, PackedContent
from bridge.files.descriptor_pool import PooledFile
from bridge.files.piece_age import Piece, in_age_order
from bridge.ledger.store import Ledger
from tests.support.rig import Rig, line, unpacked, wait_until

zstandard = pytest.importorskip("zstandard")

Press = Callable[[bytes], bytes]
PRESS: dict[str, Press] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress,
}  # fmt: skip
SUFFIXES = pytest.mark.parametrize("suffix", list(PRESS))


def opened(path: Path, raw: bytes, clock: Callable[[], float] = lambda: 0.0) -> PackedContent:
    path.write_bytes(raw)
    return PackedContent(PooledFile(os.open(path, os.O_RDONLY), path), path.suffix, clock)


def whole(content: PackedContent, piece: int = 1 << 16) -> bytes:
    got = bytearray()
    while part := content.read(piece, len(got)):
        got += part
    return bytes(got)


def text(lines: int) -> bytes:
    noise = random.Random(7)
    return b"".join(line(noise.randbytes(noise.randrange(4, 60)).hex()) for _ in range(lines))


TEXT = text(20_000)


@SUFFIXES
def test_any_place_can_be_read(tmp_path: Path, suffix: str) -> None:
    """Reads at random places, back and forth, give what was packed; so does the size."""
    content = opened(tmp_path / f"a{suffix}", PRESS[suffix](TEXT))
    assert content.size() == len(TEXT)
    noise = random.Random(1)
    for _ in range(40):
        at, size = noise.randrange(len(TEXT) + 10), noise.randrange(1 << 18)
        assert content.read(size, at) == TEXT[at : at + size]
    assert content.damage() == ""
    content.close()


@SUFFIXES
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 5000), max_size=4), padding=st.integers(0, 70_000), piece=st.integers(1, 4000))
def test_members_and_padding(tmp_path: Path, suffix: str, cuts: list[int], padding: int, piece: int) -> None:
    """Any number of members after another, empty ones too, and zeros behind them, are one content."""
    plain, bounds = TEXT[:5000], [0, *sorted(cuts), 5000]
    members = [PRESS[suffix](plain[a:b]) for a, b in pairwise(bounds)]
    content = opened(tmp_path / f"a{suffix}", b"".join(members) + b"\0" * (padding // 4 * 4))
    assert whole(content, piece) == plain
    assert content.damage() == ""
    content.close()


@SUFFIXES
def test_cut_short(tmp_path: Path, suffix: str) -> None:
    """A file that ends too early gives what stands before, says where, and may be written still while it is young."""
    raw = PRESS[suffix](TEXT)
    now = [0.0]
    path = tmp_path / f"a{suffix}"
    content = opened(path, raw[: len(raw) // 2], lambda: now[0])
    got = whole(content)
    assert TEXT.startswith(got)
    assert len(got) > len(TEXT) // 3
    assert "ends too early" in content.damage()
    now[0] = path.stat().st_mtime + 0.5
    assert content.settling()
    now[0] += 1
    assert not content.settling()
    with path.open("ab") as file:  # it was indeed
        file.write(raw[len(raw) // 2 :])
    content.stat()
    assert whole(content) == TEXT
    assert content.damage() == ""
    content.close()


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".gz"])
def test_damaged(tmp_path: Path, suffix: str) -> None:
    """Of a damaged file all is read that comes before the damage, whatever the size of the reads."""
    raw = bytearray(PRESS[suffix](TEXT))
    half = len(raw) // 2
    raw[half : half + 200] = b"\xff" * 200
    sizes = set()
    for piece in (100_000, 1 << 20):
        content = opened(tmp_path / f"a{suffix}", bytes(raw))
        got = whole(content, piece)
        common = next((i for i, (a, b) in enumerate(zip(got, TEXT, strict=False)) if a != b), len(got))
        assert common > len(TEXT) * (0.3 if suffix == ".bz2" else 0.49)
        assert content.damage().startswith("is damaged at byte ")
        sizes.add(len(got))
        content.close()
    assert len(sizes) == 1


@SUFFIXES
def test_what_is_not_compressed(tmp_path: Path, suffix: str) -> None:
    """Something else behind the last member, or in place of the first, is said, and what stands before is read."""
    content = opened(tmp_path / f"a{suffix}", PRESS[suffix](TEXT[:3000]) + b"something else")
    assert whole(content) == TEXT[:3000]
    assert "byte 3000 of what is packed in it: what follows is not compressed" in content.damage()
    content.close()
    content = opened(tmp_path / f"b{suffix}", b"a plain file with a wrong name\n")
    assert (whole(content), content.size()) == (b"", 0)
    assert content.damage()
    content.close()


@SUFFIXES
def test_bomb(tmp_path: Path, suffix: str) -> None:
    """Whatever a file claims to hold, only a few pieces of it are in memory."""
    content = opened(tmp_path / f"a{suffix}", PRESS[suffix](b"\0" * (1 << 26)))
    assert content.read(10, (1 << 26) - 5) == b"\0" * 5
    assert len(content._out) <= 4 * KEPT_BYTES + 17 * MOST_OUT
    content.close()


def test_age_order(tmp_path: Path) -> None:
    """Numbers go by number, dates by date, compressed or not; other names stand among them, and move none of them."""

    def order(*names: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            (folder / name).touch()
            os.utime(folder / name, (7, 7))
        pieces = [Piece(name, 7, lambda: None) for name in names]
        return [names[placed.index] for placed in in_age_order(pieces)]

    assert order("m.log.2.gz", "m.log.1", "m.log.10.xz") == ["m.log.10.xz", "m.log.2.gz", "m.log.1"]
    names = ["m.log-20251231.gz", "m.log-20260101.gz", "m.log-20260302"]
    assert order(*names[::-1]) == names
    names = ["m-2026-03-01T10.log.zst", "m-2026-03-02T09.log.zst"]
    assert order(*names[::-1]) == names
    assert order("m.log.1", "m.log.old", "m.log.3", "m.log.2") == ["m.log.3", "m.log.2", "m.log.1", "m.log.old"]


def test_age_order_of_a_piece_that_was_written_to_after_its_rotation() -> None:
    """A piece is no younger for a line that came late, if it was made before the others; a copy's birth tells nothing."""

    def order(*pieces: tuple[str, int, int]) -> list[str]:
        given = [Piece(name, written, lambda: None, born=born) for name, born, written in pieces]
        return [pieces[placed.index][0] for placed in in_age_order(given)]

    assert order(("m.1", 20, 29), ("m.2", 10, 19), ("m.3", 1, 40)) == ["m.3", "m.2", "m.1"]
    assert order(("m.1", 35, 29), ("m.2", 34, 19), ("m.3", 1, 40)) == ["m.3", "m.2", "m.1"], "the others are copies"
    assert order(("m.1", 0, 29), ("m.2", 0, 19), ("m.3", 0, 40)) == ["m.2", "m.1", "m.3"], "no births"
    assert order(("m.1", 1, 9), ("m.2", 10, 19), ("m.3", 20, 40)) == ["m.1", "m.2", "m.3"], "a higher number is younger"
    assert order(("m.1", 50, 9), ("m.2", 51, 19), ("m.3", 52, 40)) == ["m.1", "m.2", "m.3"], "all were restored"
    assert order(("m.1", 1, 40), ("m.2", 30, 29)) == ["m.2", "m.1"], (
        "a log that was copied and emptied, and then renamed"
    )


# -- in a bridge ---------------------------------------------------------------------------------------------


def press(rig: Rig, name: str, suffix: str = ".gz") -> Path:
    """As gzip does it: the compressed file beside the plain one, which then goes."""
    plain = rig.root / name
    packed = plain.with_name(plain.name + suffix)
    packed.write_bytes(PRESS[suffix](plain.read_bytes()))
    shutil.copystat(plain, packed)
    plain.unlink()
    return packed


def aged(rig: Rig, *datas: str) -> None:
    """The log becomes the newest of its rotated pieces, and a new one is begun."""
    for path in sorted(rig.root.glob("messages.log.*"), key=lambda p: -int(p.name.split(".")[2])):
        number = int(path.name.split(".")[2])
        path.rename(path.with_name(path.name.replace(f".log.{number}", f".log.{number + 1}")))
    rig.log.rename(rig.root / "messages.log.1")
    rig.append(*datas)


def test_history_of_all_kinds(one_rig: Rig) -> None:
    """Rotated pieces, plain and of every compression, are carried oldest first, and none of them twice."""
    rig, sent = one_rig, []
    for n, suffix in enumerate([".xz", "", ".zst", ".bz2", ".gz", ""]):
        datas = [f"{n}-{i}" for i in range(50)]
        (rig.root / f"messages.log.{9 - n}").write_bytes(b"".join(map(line, datas)))
        sent += [d.encode() for d in datas]
        if suffix:
            press(rig, f"messages.log.{9 - n}", suffix)
    rig.append("last")
    for _ in range(2):
        assert not rig.once().errors
        assert rig.datas() == [*sent, b"last"]


def test_compressed_between_two_runs(one_rig: Rig) -> None:
    """A piece that was carried, or half carried, and compressed since is recognised; what is left of it is carried."""
    rig = one_rig
    rig.append("a", "b")
    rig.once()
    rig.append("c")
    aged(rig, "d")
    press(rig, "messages.log.1")
    rig.once()
    assert rig.datas() == [b"a", b"b", b"c", b"d"]
    aged(rig, "e")
    rig.once()
    press(rig, "messages.log.1", ".zst")
    aged(rig, "f")
    press(rig, "messages.log.1", ".xz")
    for _ in range(3):
        rig.once()
        assert rig.datas() == [b"a", b"b", b"c", b"d", b"e", b"f"]
    ledger = Ledger(rig.state / "ledger.db")
    packed = ledger.rows("SELECT number FROM generations WHERE packed_size IS NOT NULL ORDER BY number")
    ledger.close()
    assert packed == [(1,), (2,), (3,)]


def test_while_it_is_compressed(one_rig: Rig) -> None:
    """The half-written compressed file beside the plain one is not looked at."""
    rig = one_rig
    rig.append(*[f"{n}" for n in range(3000)])
    aged(rig, "new")
    raw = gzip.compress((rig.root / "messages.log.1").read_bytes())
    (rig.root / "messages.log.1.gz").write_bytes(raw[: len(raw) // 2])
    assert not rig.once().errors
    (rig.root / "messages.log.1.gz").write_bytes(raw)
    (rig.root / "messages.log.1").unlink()
    assert not rig.once().errors
    assert rig.datas() == [*(f"{n}".encode() for n in range(3000)), b"new"]


def test_damaged_piece(one_rig: Rig) -> None:
    """What can be read of a damaged piece is carried, then what follows; the damage is said with its position."""
    rig = one_rig
    rig.append(*[f"{n:05}" for n in range(4000)])
    aged(rig, "new")
    packed = press(rig, "messages.log.1")
    raw = packed.read_bytes()
    packed.write_bytes(raw[: len(raw) // 2])
    os.utime(packed, (1, 1))
    result = rig.once()
    assert "messages.log.1.gz: is damaged at byte" in str(result.errors[0])
    datas = rig.datas()
    assert datas[-1] == b"new"
    assert datas[:-1] == [f"{n:05}".encode() for n in range(len(datas) - 1)]
    assert len(datas) > 1000
    assert not rig.once().errors
    assert rig.datas() == datas
    assert "nothing is in quarantine" in rig.run("quarantine", "list").stdout  # a torn line is no message
    packed.write_bytes(raw)  # somebody found a whole copy
    for _ in range(2):
        assert not rig.once().errors
        assert rig.datas() == [*datas, *(f"{n:05}".encode() for n in range(len(datas) - 1, 4000))]


def test_small_pieces_and_copies_of_them(one_rig: Rig) -> None:
    """Small pieces come over oldest first; copies of other names are left alone, wherever their time puts them."""
    rig, datas = one_rig, []
    for n in range(4, 0, -1):
        lines = [f"{n}-{i}" for i in range(9)]
        (rig.root / f"messages.log.{n}").write_bytes(b"".join(map(line, lines)))
        datas += [text.encode() for text in lines]
    for n, name in ((2, "messages.log.2.bak"), (3, "messages.log.bak")):
        shutil.copy(rig.root / f"messages.log.{n}", rig.root / name)
        os.utime(rig.root / name, (9, 9))
    rig.append("new")
    for _ in range(2):
        assert not rig.once().errors
        assert rig.datas() == [*datas, b"new"]


def test_no_newline_at_the_end(one_rig: Rig) -> None:
    """The last line of a compressed piece that has no newline is kept in quarantine, and goes on with a retry."""
    rig = one_rig
    (rig.root / "messages.log.1").write_bytes(line("whole") + line("rest")[:-1])
    rig.append("new")
    press(rig, "messages.log.1")
    rig.once()
    assert rig.datas() == [b"whole", b"new"]
    assert "1 message went over" in rig.run("quarantine", "retry", "--redis", rig.server.socket_url).stdout
    assert rig.datas() == [b"whole", b"new", b"rest"]


def test_all_compressed_and_the_log_gone(one_rig: Rig) -> None:
    """Many carried pieces that were compressed since are known by their content alone, also when the log is gone."""
    rig, datas = one_rig, []
    for n in range(8):
        rig.append(f"{n}-a", f"{n}-b" * 400)
        datas += [f"{n}-a".encode(), f"{n}-b".encode() * 400]
        rig.once()
        aged(rig)
    for n in range(1, 9):
        press(rig, f"messages.log.{n}", [".gz", ".xz", ".bz2", ".zst"][n % 4])
    rig.log.unlink()
    for _ in range(2):
        rig.once()
        assert rig.datas() == datas
    rig.append("new")
    rig.once()
    assert rig.datas() == [*datas, b"new"]


@pytest.mark.parametrize("lines", [1, 40])
def test_pieces_that_begin_alike(one_rig: Rig, lines: int) -> None:
    """Every piece begins with the same lines; compressed before it was carried to its end, none is taken for another."""
    rig = one_rig
    heading = [f"heading {'x' * 40}"] * lines
    rig.append(*heading)
    rig.once()
    rig.append("a")
    aged(rig, *heading, "b")
    aged(rig, *heading, "c")
    press(rig, "messages.log.2")
    press(rig, "messages.log.1")
    for _ in range(2):
        rig.once()
        head = [text.encode() for text in heading]
        assert rig.datas() == [*head, b"a", *head, b"b", *head, b"c"]


def test_a_copy_begins_like_the_new_file(one_rig: Rig) -> None:
    """Copied and truncated, the new content begins with the same line: what the copy holds beyond it is carried."""
    rig = one_rig
    rig.append("heading")
    rig.once()
    rig.append("a")
    shutil.copy(rig.log, rig.root / "messages.log.1")
    rig.log.write_bytes(line("heading") + line("b"))
    rig.once()
    assert rig.datas() == [b"heading", b"a", b"heading", b"b"]


def test_met_empty_and_compressed_before_it_was_carried(one_rig: Rig) -> None:
    """A file that was empty when it was met, while Redis was away, is known by what was written into it since."""
    rig = one_rig
    rig.append("a")
    rig.once()
    child = rig.ready(rig.start(url="redis://127.0.0.1:1/0", dual=False))
    aged(rig)
    rig.log.touch()
    wait_until(lambda: known(rig) == 2, rig.said)
    rig.append("b1", "b2")
    aged(rig, "c")
    wait_until(lambda: known(rig) == 3, rig.said)
    rig.stop(child)
    press(rig, "messages.log.1")
    rig.once()
    assert rig.datas() == [b"a", b"b1", b"b2", b"c"]


def known(rig: Rig) -> int:
    """How many generations the ledger knows."""
    ledger = Ledger(rig.state / "ledger.db")
    found = ledger.rows("SELECT count(*) FROM generations")[0][0]
    ledger.close()
    return int(found)


def test_alike_from_end_to_end(one_rig: Rig) -> None:
    """Pieces with the very same line are pieces all the same, one entry for each."""
    rig = one_rig
    for n in range(6):
        rig.append("the same")
        rig.once()
        aged(rig)
        press(rig, "messages.log.1", [".gz", ".xz"][n % 2])
    rig.append("last")
    rig.once()
    assert rig.datas() == [*[b"the same"] * 6, b"last"]


def test_unpacked_in_place(one_rig: Rig) -> None:
    """A carried piece that is unpacked again, while its old inode went to a new log, is not carried again."""
    rig, datas = one_rig, [f"{n:03}" for n in range(60)]
    rig.append(*datas)
    aged(rig)
    rig.log.touch()
    packed = press(rig, "messages.log.1")
    rig.once()
    rig.log.unlink()
    plain = unpacked(packed)
    packed.unlink()
    rig.append("b")  # which has the inode of the compressed file now, on many file systems
    (rig.root / "messages.log.1").write_bytes(plain)
    aged(rig, "c")
    for _ in range(2):
        rig.once()
        assert rig.datas() == [text.encode() for text in [*datas, "b", "c"]]


def test_compressed_twice(one_rig: Rig) -> None:
    """The same piece under two suffixes is one piece."""
    rig = one_rig
    rig.append("a")
    aged(rig, "b")
    raw = (rig.root / "messages.log.1").read_bytes()
    press(rig, "messages.log.1", ".xz")
    (rig.root / "messages.log.1.gz").write_bytes(gzip.compress(raw))
    rig.once()
    assert rig.datas() == [b"a", b"b"]


def test_pieces_that_turn_up_late(one_rig: Rig) -> None:
    """A piece that is older than what was carried is left alone, compressed or not, and that is said once."""
    rig = one_rig
    rig.append("now")
    rig.once()
    for n in (2, 1):
        (rig.root / f"messages.log.{n}").write_bytes(line(f"old {n}"))
    press(rig, "messages.log.2")
    said = rig.run("run", "--once", "--redis", rig.server.socket_url).stderr
    for name in ("messages.log.2.gz", "messages.log.1"):
        assert f"{name} was never carried, and is no newer than what was; it is left alone" in said
    assert rig.datas() == [b"now"]


@SUFFIXES
def test_flushed(one_rig: Rig, suffix: str) -> None:
    """What Redis lost comes back from compressed pieces too, those that were compressed after they were carried."""
    rig = one_rig
    datas = [b"f-%d" % n for n in range(60)]
    for some in (datas[:20], datas[20:40]):
        rig.append(*some)
        rig.once()
        for piece in sorted(rig.root.glob("messages.log.*"), reverse=True):
            number, *rest = piece.name.removeprefix("messages.log.").split(".")
            piece.rename(rig.root / ".".join(["messages.log", str(int(number) + 1), *rest]))
        rig.log.rename(rig.root / "messages.log.1")
        packed = rig.root / f"messages.log.1{suffix}"
        packed.write_bytes(PRESS[suffix]((rig.root / "messages.log.1").read_bytes()))
        (rig.root / "messages.log.1").unlink()
    rig.append(*datas[40:])
    rig.once()
    rig.once()
    rig.redis.call("FLUSHALL")
    rig.once()
    assert rig.datas() == datas
    assert rig.parity().verdict == "equal"
