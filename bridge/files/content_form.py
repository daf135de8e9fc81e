"""Tells by a file's first bytes what it holds: lines, a form of compression, or what is never read as lines. Pure.

Names tell nothing: a file that is text under a packed name is text, and a packed file may have any name.
"""

from __future__ import annotations

import re
from itertools import pairwise
from json import loads

from bridge.core.model import without_mark

HEAD = 512
"""Bytes from a file's beginning that tell its form; a tar archive's first header has so many."""

ENDS_HEAD = 1 << 16
"""Bytes from a file's beginning in which a newline must stand, if other line ends do."""

LONGEST_CR_LINE = 4096
"""Bytes that lines ending with CR alone have at most, on average: longer, they are one line with some CRs in it."""

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""The forms of compression that are read, by the usual suffix of their files' names; an earlier one is preferred."""

_PACKED = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\x00"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to be skipped
}
_BEGUN = {".gz": b"\x1f\x8b\x08", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
_ARCHIVES = (
    ("a zip archive", re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)")),
    ("a 7z archive", re.compile(rb"7z\xbc\xaf\x27\x1c")),
    ("a rar archive", re.compile(rb"Rar!\x1a\x07")),
)
_UNREAD = re.compile(rb"\x04\x22\x4d\x18|LZIP\x01|\x1f\x9d|\x89LZO\x00")
"""The beginnings of lz4, lzip, compress and lzop."""

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
CONTROL = 0.05
"""Share of a file's bytes that are control characters, from which on it is no text."""

_INDENTED = re.compile(
    rb"\s*(?:\[|\[?\s*\{(?!\s*\{))[ \t\r]*\n"  # a bracket alone on its line
    rb"|\s*[\[{][^\n]*[\[{,][ \t\r]*\n[ \t]+[\"\[{]"  # a value that goes on in an indented line
)
ZEROS = 0.5
"""Share of the bytes at every second place that must be zero in UTF-16 without a mark; hardly any at the others."""


def packing_of(head: bytes, suffix: str) -> str:
    """Returns the form of compression of a file that begins with `head`, as its usual suffix; empty: not compressed.

    `suffix` is that of the file's name. A file so named that is empty, or begins as its form does, is still being
    written; one that begins with neither that nor text is damaged, and packed all the same.
    """
    for form, begins in _PACKED.items():
        if begins.match(head):
            return form
    if suffix not in _PACKED:
        return ""
    unfinished = head[: len(_BEGUN[suffix])] == _BEGUN[suffix][: len(head)]
    return suffix if unfinished or _NO_TEXT.search(head) else ""


def not_lines(head: bytes, *, json: bool = False) -> str:
    """Says what a file is, and what to do, whose unpacked content begins with `head` and must not be read as lines.

    `json`: each line is to be an object in JSON. Empty: nothing speaks against lines. A single byte more may tell: ask
    again when `head` was short.
    """
    for name, begins in _ARCHIVES:
        if begins.match(head):
            return f"{name}: unpack its files beside it"
    if _is_tar(head):
        return "a tar archive: unpack its files beside it"
    if _UNREAD.match(head):
        return "packed in a form that is not read: unpack it, or pack it with gzip, bzip2, xz or zstd"
    if width := _wide(head):
        return f"text in UTF-{width}: convert it (`iconv -f UTF-{width} -t UTF-8`), and have its writer write UTF-8"
    if b"\n" not in head and head.count(b"\r") > max(1, len(head) // LONGEST_CR_LINE):
        return "text whose lines end with CR alone: convert it (`tr '\\r' '\\n'`)"
    if json and _is_indented(without_mark(head)):
        return "JSON that is indented over several lines: write each object on one line (`jq -c .`)"
    return ""


def _is_indented(head: bytes) -> bool:
    """Whether a file begins as JSON that goes over several lines, and not as records by lines of which one is broken.

    A whole object that begins a line says that it is by lines, unless it is the last one of a list; where the first
    line is more than a bracket, which may be torn, also one behind blanks.
    """
    if not _INDENTED.match(head):
        return False
    torn = head.split(b"\n", 1)[0].strip() not in (b"{", b"[", b"[{", b"")
    for line, following in pairwise(head.split(b"\n")):
        begins = line.lstrip().startswith(b"{") if torn else line.startswith(b"{")
        if begins and not following.lstrip().startswith(b"]") and _is_object(line):
            return False
    return True


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(loads(line), dict)
    except (ValueError, RecursionError):
        return False


def is_binary(head: bytes) -> bool:
    """Whether bytes from a file's beginning are no text: control characters stand all over them."""
    return len(_NO_TEXT.findall(head)) > CONTROL * len(head)


def _is_tar(head: bytes) -> bool:
    """Whether a file begins with a tar header: its checksum is the sum of its bytes, blanks in the checksum's place."""
    field = head[148:156].strip(b" \0")
    if len(head) < HEAD or not field or not re.fullmatch(b"[0-7]+", field):
        return False
    return int(field, 8) == sum(head[:148]) + sum(head[156:HEAD]) + 8 * ord(" ")


def _wide(head: bytes) -> int:
    """Returns 16 or 32 for text in UTF-16 or UTF-32, known by its mark or by its zero bytes; 0: it is neither."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return 32
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return 16
    whole = head[: len(head) // 4 * 4]
    if len(whole) < 8 or b"\0" not in whole:
        return 0
    zeros = [whole[n::4].count(0) / (len(whole) // 4) for n in range(4)]
    for at in (0, 3):  # where the letter stands, in little and in big endian
        if zeros[at] < ZEROS / 2 and all(zeros[n] > 1 - ZEROS / 2 for n in range(4) if n != at):
            return 32
    for at in (0, 1):
        if zeros[at] + zeros[at + 2] < ZEROS / 5 and zeros[1 - at] + zeros[3 - at] > 2 * ZEROS:
            return 16
    return 0
