"""What a file holds is told by its first bytes: packed whatever its name, text whatever its name, or none of lines."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.files.content_form import ENDS_HEAD, HEAD, not_lines, packing_of
from tests.kinds.test_no_time import MINE, PREVIOUS
from tests.support.rig import Rig, line, wait_until

zstandard = pytest.importorskip("zstandard")

OLD = [b"old-%d" % n for n in range(30)]
TEXT = b"".join(map(line, OLD))


def tar(raw: bytes, form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        member = tarfile.TarInfo("messages.log")
        member.size = len(raw)
        archive.addfile(member, io.BytesIO(raw))
    return packed.getvalue()


def zipped(raw: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("messages.log", raw)
    return packed.getvalue()


def old_tar(raw: bytes) -> bytes:
    """A tar of before POSIX: without a magic word, so that only the checksum tells."""
    made = bytearray(tar(raw, tarfile.USTAR_FORMAT))
    made[257:265] = bytes(8)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:HEAD])
    return bytes(made)


def wide(name: str, mark: bytes = b"") -> bytes:
    return mark + TEXT.decode().encode(name)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress,
    "two gzip members": lambda raw: gzip.compress(raw[:300]) + gzip.compress(raw[300:]),
    "padded gzip": lambda raw: gzip.compress(raw) + bytes(700),
    "two zstd frames": lambda raw: zstandard.compress(raw[:300]) + zstandard.compress(raw[300:]),
    "a skippable zstd frame first": lambda raw: b"\x53\x2a\x4d\x18\x04\0\0\0note" + zstandard.compress(raw),
    "two xz streams": lambda raw: lzma.compress(raw[:300]) + lzma.compress(raw[300:]),
}  # fmt: skip
FOREIGN = {
    "tar": (tar(TEXT), "a tar archive"),
    "ustar": (tar(TEXT, tarfile.USTAR_FORMAT), "a tar archive"),
    "GNU tar": (tar(TEXT, tarfile.GNU_FORMAT), "a tar archive"),
    "a tar of before POSIX": (old_tar(TEXT), "a tar archive"),
    "tar.gz": (gzip.compress(tar(TEXT)), "a tar archive"),
    "tar.bz2": (bz2.compress(tar(TEXT)), "a tar archive"),
    "tar.xz": (lzma.compress(tar(TEXT)), "a tar archive"),
    "tar.zst": (zstandard.compress(tar(TEXT)), "a tar archive"),
    "zip": (zipped(TEXT), "a zip archive"),
    "an empty zip": (b"PK\x05\x06" + bytes(18), "a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(90), "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(90), "a rar archive"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(90), "packed in a form that is not read"),
    "compress": (b"\x1f\x9d\x90" + bytes(90), "packed in a form that is not read"),
    "UTF-16 little endian": (wide("utf-16-le", codecs.BOM_UTF16_LE), "text in UTF-16"),
    "UTF-16 big endian": (wide("utf-16-be", codecs.BOM_UTF16_BE), "text in UTF-16"),
    "UTF-32 little endian": (wide("utf-32-le", codecs.BOM_UTF32_LE), "text in UTF-32"),
    "UTF-32 big endian": (wide("utf-32-be", codecs.BOM_UTF32_BE), "text in UTF-32"),
    "UTF-16 without a mark": (wide("utf-16-le"), "text in UTF-16"),
    "UTF-16 in big endian without a mark": (wide("utf-16-be"), "text in UTF-16"),
    "UTF-32 without a mark": (wide("utf-32-le"), "text in UTF-32"),
    "UTF-32 in big endian without a mark": (wide("utf-32-be"), "text in UTF-32"),
    "UTF-16, packed": (gzip.compress(wide("utf-16-le", codecs.BOM_UTF16_LE)), "text in UTF-16"),
    "CR alone": (TEXT.replace(b"\n", b"\r"), "text whose lines end with CR alone"),
}
LINES = {
    "lines": TEXT,
    "CR and LF": TEXT.replace(b"\n", b"\r\n"),
    "one line that is not ended": b"agent|2026-03-01T10:00:00Z|turn|one",
    "a progress bar": b"10 %\r20 %\r30 %\r\n" + TEXT,
    "zeros that were put there in advance": TEXT + bytes(4096),
    "nothing but zeros": bytes(4096),
    "a long line with some CRs in it": b"agent|2026-03-01T10:00:00Z|turn|" + b"x\r" * 8 + b"y" * ENDS_HEAD,
    "a letter that begins as an archive does": b"PK is here\n" + TEXT,
    "a mark of UTF-8": codecs.BOM_UTF8 + TEXT,
    "Latin-1": b"agent|2026-03-01T10:00:00Z|turn|\xe9t\xe9\n" * 20,
    "zeros between records": b'{"a":1}\n\0\0\0\0{"a":2}\n' * 30,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_whatever_the_name(mem: Rig, name: str) -> None:
    """A compressed piece is read as what it is, without a suffix, with another form's, and with its own."""
    (mem.root / "messages.log.2").write_bytes(PACKED[name](TEXT))
    other = b"".join(line(b"other-%d" % n) for n in range(5))
    (mem.root / "messages.log.1.xz").write_bytes(gzip.compress(other) if name != "gzip" else bz2.compress(other))
    mem.log.write_bytes(line(b"live"))
    mem.once()
    assert sorted(mem.datas()) == sorted([*OLD, *(b"other-%d" % n for n in range(5)), b"live"])
    assert mem.parity().verdict == "equal"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_text_under_a_packed_name(mem: Rig, suffix: str) -> None:
    """A piece that is text is text, though its name says that it is packed."""
    (mem.root / f"messages.log.1{suffix}").write_bytes(TEXT)
    mem.log.write_bytes(line(b"live"))
    report = mem.once()
    assert (mem.datas(), report.errors) == ([*OLD, b"live"], ())
    assert mem.parity().verdict == "equal"


@pytest.mark.parametrize("name", FOREIGN)
def test_a_piece_that_is_none_of_lines(mem: Rig, name: str) -> None:
    """A piece that is none of lines is set aside as one file, by name, and nothing of it is carried or quarantined."""
    raw, _ = FOREIGN[name]
    (mem.root / "messages.log.1").write_bytes(raw)
    mem.log.write_bytes(line(b"live"))
    report = mem.once()
    assert (mem.datas(), report.quarantined, report.unaccounted, report.errors) == ([b"live"], 0, (), ())
    result = mem.parity()
    assert result.verdict == "equal"


@pytest.mark.parametrize("name", FOREIGN)
def test_a_log_that_is_none_of_lines(mem: Rig, name: str) -> None:
    """A log itself that is none of lines is set aside as one file: no entry, no reject, no error."""
    raw, _ = FOREIGN[name]
    mem.log.write_bytes(raw)
    report = mem.once()
    assert (mem.datas(), report.quarantined, report.unaccounted, report.errors) == ([], 0, (), ())


@pytest.mark.parametrize("name", ["tar.gz", "zip", "lz4", "UTF-16 without a mark", "CR alone"])
def test_every_command_says_what_it_is(mem: Rig, name: str) -> None:
    """A log that is none of lines is named as what it is by each command that looks at it."""
    raw, what = FOREIGN[name]
    mem.log.write_bytes(raw)
    mem.once()
    told = mem.run("files")
    assert (told.returncode, what in told.stdout, "aside" in told.stdout) == (0, True, True), told
    for args, code in (
        (("mapping", "check", "hestai-message", "files/messages.log"), 3),
        (("mapping", "infer", "files/messages.log"), 1),
        (("import-history", "--dry-run"), 3),
    ):
        said = mem.run(*args)
        assert (said.returncode, what in said.stdout + said.stderr) == (code, True), said


@pytest.mark.parametrize("name", LINES)
def test_what_is_lines_after_all(name: str) -> None:
    """Text that only looks a little like one of the other forms is read as lines."""
    assert not_lines(LINES[name][:ENDS_HEAD]) == ""
    assert packing_of(LINES[name][:HEAD], "") == ""


def test_a_log_that_is_converted(rig: Rig) -> None:
    """A log in UTF-16 that was set aside is carried once it is text in UTF-8, by the bridge that runs."""
    rig.log.write_bytes(FOREIGN["UTF-16 little endian"][0])
    rig.ready(rig.start())
    wait_until(lambda: "is text in UTF-16" in rig.said(), rig.said, 20)
    rig.log.write_bytes(TEXT)
    wait_until(lambda: rig.datas() == OLD, rig.said)


def test_a_log_that_comes_in_another_encoding(rig: Rig) -> None:
    """A log that was empty when a running bridge met it, and is then written in UTF-16, gives no entry and no reject."""
    rig.log.write_bytes(b"")
    rig.ready(rig.start())
    rig.log.write_bytes(FOREIGN["UTF-16 little endian"][0])
    wait_until(lambda: "is text in UTF-16" in rig.said(), rig.said, 20)
    (rig.root / "messages.log.1").write_bytes(line(b"a piece"))  # the bridge has looked at all again with this
    wait_until(lambda: rig.datas() == [b"a piece"], lambda: f"{rig.datas()} {rig.said()}", 8.0)
    assert rig.run("quarantine", "list").stdout.count("messages.log") == 0


@given(st.binary(max_size=ENDS_HEAD // 64), st.sampled_from(["", ".gz", ".bz2", ".xz", ".zst"]))
def test_any_bytes_are_told(raw: bytes, suffix: str) -> None:
    """Whatever a file begins with is told, in the same way each time, and a piece of text never counts as packed."""
    assert packing_of(raw, suffix) in ("", ".gz", ".bz2", ".xz", ".zst")
    assert isinstance(not_lines(raw), str)
    text = raw.translate(None, bytes([*range(9), *range(14, 32), 127]))
    assert packing_of(b"a" + text, suffix) == ""


INDENTED = {
    "an object on several lines": b'{\n  "role": "a",\n  "timestamp": "2026-03-01T10:00:00Z"\n}\n',
    "objects one after the other": b'{\n  "a": 1\n}\n{\n  "a": 2\n}\n',
    "a list of objects": b'[\n  {"a": 1},\n  {"a": 2}\n]\n',
    "a list of objects by lines": b'[\n{"a": 1},\n{"a": 2}\n]\n',
    "a list that begins with an object": b'[{\n  "a": 1\n}]\n',
    "an object whose first field stands beside the brace": b'{ "a": 1,\n  "b": {\n    "c": 2 } }\n',
    "with CR": b'{\r\n  "a": 1\r\n}\r\n',
    "a brace alone, so far": b"{\n",
    "behind a UTF-8 mark": codecs.BOM_UTF8 + b'{\n  "a": 1\n}\n',
}
BY_LINES = {
    "a bracket before records": b'[\n{"a": 1}\n{"a": 2}\n',
    "an indented record before others": b'{\n  "start": 1\n}\n{"a": 1}\n{"a": 2}\n',
    "a record torn behind a comma before indented ones": b'{"tags": ["a",\n {"a": 1}\n {"a": 2}\n',
    "records": b'{"a": 1}\n{"b": 2}\n',
    "one record": b'{"a": 1, "b": [1,\t2]}\n',
    "a torn brace before a record": b'{\n{"a": 1}\n',
    "a torn record": b'{"a": 1, \n{"a": 2}\n',
    "lists": b"[1, 2]\n[3]\n",
    "blank lines first": b'\n\n{"a": 1}\n',
}


@pytest.mark.parametrize("name", INDENTED)
def test_indented_json(name: str) -> None:
    """JSON that goes over several lines is no JSON by lines, and is text for any other codec."""
    assert "indented over several lines" in not_lines(INDENTED[name], json=True)
    assert not not_lines(INDENTED[name])


@pytest.mark.parametrize("name", BY_LINES)
def test_json_by_lines(name: str) -> None:
    """JSON with a record a line is read by lines, broken ones among them."""
    assert not not_lines(BY_LINES[name], json=True)


def test_indented_json_is_never_cut(mem: Rig) -> None:
    """A log of indented JSON is set aside as one file by each command, and carried once it is written by lines."""
    (mem.path / "mine.toml").write_text(MINE.format(PREVIOUS))
    mem.write_config(mapping="mine.toml")
    mem.log.write_bytes(INDENTED["objects one after the other"] * 300)
    report = mem.once()
    assert (mem.datas(), report.quarantined, report.unaccounted, report.errors) == ([], 0, (), ())
    said = "indented over several lines"
    for args, code in (
        (("files",), 0), (("import-history", "--dry-run"), 3), (("mapping", "infer", "files/messages.log"), 1),
        (("mapping", "check", "mine.toml", "files/messages.log"), 3),
    ):  # fmt: skip
        done = mem.run(*args)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
    mem.log.write_bytes(b'{"type": "t", "a": 1}\n{"type": "t", "a": 2}\n')
    mem.once()
    assert mem.datas() == [b'{"type": "t", "a": 1}', b'{"type": "t", "a": 2}']
    assert mem.parity().verdict == "equal"


def test_indented_json_that_comes_line_by_line(rig: Rig) -> None:
    """A log into which indented JSON is written line by line, while a bridge runs, gives no entry and no reject."""
    (rig.path / "mine.toml").write_text(MINE.format(PREVIOUS))
    rig.write_config(mapping="mine.toml")
    rig.log.write_bytes(b"")
    rig.ready(rig.start())
    for part in INDENTED["an object on several lines"].splitlines(keepends=True):
        with rig.log.open("ab") as file:
            file.write(part)
        wait_until(lambda: "indented over several lines" in rig.said(), rig.said, 20)
    assert (rig.datas(), rig.run("quarantine", "list").stdout.count("messages.log")) == ([], 0)


def test_a_log_that_is_carried_stays_a_log(mem: Rig) -> None:
    """A log of JSON of which something was carried is never set aside, whatever stands in its first lines."""
    (mem.path / "mine.toml").write_text(MINE.format(PREVIOUS))
    mem.write_config(mapping="mine.toml")
    mem.log.write_bytes(b'{"tags": ["a",\n')
    assert mem.once().quarantined == 1
    for n in range(2):
        with mem.log.open("ab") as file:
            file.write(b' {"type": "t", "n": %d}\n' % n)
        mem.once()
    assert mem.datas() == [b' {"type": "t", "n": 0}', b' {"type": "t", "n": 1}']
    assert mem.parity().verdict == "equal"
