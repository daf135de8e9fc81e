"""The JSONL codec: one JSON object a line, fields by JSON pointer (RFC 6901); `data` keeps its bytes exactly.

The line is scanned for the spans of the values that are asked for, and never re-serialised: big integers, NaN,
duplicate keys, lone surrogates and white space come through as they were written.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from bridge.core.codecs import Codec, Decoded, FieldRule
from bridge.core.codecs.timestamps import Clock, not_understood
from bridge.core.errors import ConfigError
from bridge.core.model import FIELDS, Row, shown

_DECODER = json.JSONDecoder()
STRINGS = json.JSONDecoder(parse_int=len, parse_float=len)
"""A JSON decoder for use where only strings count: a number may have more digits than Python converts."""

_SPACE = " \t\r\n"
_BETWEEN = _SPACE + "\0"
"""What may stand between two records on one line: blanks, and bytes of zero that a crash left."""

_GOES_ON, _WITHIN = ("}", "]", ","), (":", "[", ",")
"""What follows, and what precedes, an object that stands within another one or within a list."""

_OPENS = re.compile(r'\{\s*["}]')
MOST_STARTS = 1000
"""The last places in a line at which a record behind a torn one may begin, which are tried: one that is none costs."""


class JsonlCodec(Codec):
    """The codec of JSONL: `data` is the whole JSON line unless `message.data` points to a part of it."""

    spans_lines = False

    def __init__(self, rules: dict[str, FieldRule], clock: Clock) -> None:
        self.fields: tuple[bytes, ...] = FIELDS
        self._clock = clock
        self._rules: list[FieldRule] = []
        for name in FIELDS[:3]:
            rule = rules.get(name.decode())
            if rule is None:
                raise ConfigError(f"codec 'jsonl' needs message.{name.decode()}", hint="a pointer, a const or a name")
            self._rules.append(rule)
        self._data = rules.get("data")
        self.invertible = self._data is None

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes JSON lines into one row each, or the reason why a line is no message."""
        found = [self._decode(line) for line in lines]
        return Decoded([row for row, _ in found], [time for _, time in found])

    def _decode(self, line: bytes) -> tuple[Row | str, int]:
        found = parsed(line) if line else "empty line"
        return (found, 0) if isinstance(found, str) else self._row(line, *found)

    def _row(self, line: bytes, text: str, value: dict[str, Any]) -> tuple[Row | str, int]:
        """Makes the row and time of a JSON object, which `line` holds; or returns the reason, with time 0."""
        row: list[bytes] = []
        for name, rule in zip(FIELDS, self._rules, strict=False):
            found = scalar(value, rule)
            if found is None:
                return f"nothing at {' or '.join(rule.pointers)} for {name.decode()}", 0
            row.append(found)
        try:
            [time] = self._clock((row[1],))
        except ValueError as error:
            return not_understood(row[1], error), 0
        if self._data is None:
            row.append(line)
        else:
            part = _part(text, self._data)
            if part is None:
                return f"nothing at {' or '.join(self._data.pointers)} for data", 0
            row.append(part)
        return tuple(row), time

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Encodes many rows as JSON lines, each as `encode` does."""
        return [self.encode(row) for row in rows]

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row as a JSON line, which is `data` itself, when it says the same role, timestamp and type.

        Else returns the reason.
        """
        line = row[3]
        if self._data is not None:
            return "this codec has no inverse"
        if b"\n" in line and not self.spans_lines:
            return "newline in data"
        back, _ = self._decode(line)
        if isinstance(back, str):
            return back
        for name, ours, theirs in zip(FIELDS, row, back, strict=True):
            if ours != theirs:
                return f"{name.decode()} is not what data says: {shown(ours, 40)}, not {shown(theirs, 40)}"
        return line


def parsed(raw: bytes) -> tuple[str, dict[str, Any]] | str:
    """Parses bytes that hold one JSON object and nothing else into text and object; or returns why they do not."""
    text = raw.decode("utf-8", "surrogateescape")
    try:
        value, end = _DECODER.raw_decode(text, _skip(text, 0))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {str(error).partition(':')[0].removesuffix(' at')}"
    if _skip(text, end) != len(text):
        return "more than one JSON value in the line"
    return (text, value) if isinstance(value, dict) else "not a JSON object"


def record_at(raw: bytes) -> bytes:
    """Returns the whole JSON object with which bytes begin; empty: they begin with none."""
    text = raw.decode("utf-8", "surrogateescape")
    end = _object_end(text, 0)
    return text[:end].encode("utf-8", "surrogateescape")


def whole_records(codec: JsonlCodec, line: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Finds the whole records in a line of JSONL that is none itself: where each begins, in bytes; and what is left.

    They stand at the line's beginning, one behind the other, with nothing but blanks and zero bytes between; or behind
    a torn one, up to the line's end. What may stand within a torn record is none: what a bracket or a comma follows, or
    a colon, a bracket or a comma precedes; and of those behind a torn one, all tell their time. What is left is without
    blanks and zero bytes at its ends.
    """
    text = line.decode("utf-8", "surrogateescape")
    first, at = _chain(text, 0)
    if text.startswith(_GOES_ON, at):  # the end of a record whose beginning stands in another line
        first, at = [], 0
    behind: list[tuple[int, int]] = []
    if at < len(text):
        starts = (match.start() for match in _OPENS.finditer(text, at + 1))
        outside = (start for start in starts if _before(text, start) not in _WITHIN)
        reached = 0
        for start in deque(outside, MOST_STARTS):
            if start < reached:
                continue  # within what was tried: it would end where that ended
            some, end = _chain(text, start)
            reached = end if some else 0
            if some and end == len(text):
                timed = [_tells_time(codec, text[a:b]) for a, b in some]
                behind = some[len(some) - len([*takewhile(bool, reversed(timed))]) :]
                break
    found, left, done = list[tuple[int, bytes]](), [], 0
    for begin, end in [*first, *behind]:
        record = text[begin:end].encode("utf-8", "surrogateescape")
        if isinstance(codec.decode((record,)).rows[0], str):
            continue
        found.append((len(text[:begin].encode("utf-8", "surrogateescape")), record))
        left.append(text[done:begin])
        done = end
    rest = [part.strip(_BETWEEN) for part in (*left, text[done:])]
    return found, " ".join(filter(None, rest)).encode("utf-8", "surrogateescape")


def _before(text: str, at: int) -> str:
    """Returns the character before a place in a text, and before the blanks before it; empty: there is none."""
    while at > 0 and text[at - 1] in _SPACE:
        at -= 1
    return text[at - 1 : at]


def _chain(text: str, at: int) -> tuple[list[tuple[int, int]], int]:
    """Finds objects that follow each other from a place on, and the place behind the last one and what may follow."""
    found = []
    at = _skip(text, at, _BETWEEN)
    while end := _object_end(text, at):
        found.append((at, end))
        at = _skip(text, end, _BETWEEN)
    return found, at


def _object_end(text: str, at: int) -> int:
    """Returns where the JSON object that begins at a place ends; 0: none begins there."""
    if not text.startswith("{", at):
        return 0
    try:
        return STRINGS.raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        return 0


def _tells_time(codec: JsonlCodec, record: str) -> bool:
    [row] = codec.decode((record.encode("utf-8", "surrogateescape"),)).rows
    return isinstance(row, tuple) and row[1] != b""


def _skip(text: str, at: int, over: str = _SPACE) -> int:
    while at < len(text) and text[at] in over:
        at += 1
    return at


def _tokens(pointer: str) -> list[str]:
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def scalar(value: Any, rule: FieldRule) -> bytes | None:
    """Finds the value of a field in a parsed JSON object by its rule, as bytes; None where the rule finds nothing."""
    if rule.const is not None:
        return rule.const
    for pointer in rule.pointers:
        at = value
        for token in _tokens(pointer):
            if isinstance(at, dict):
                at = at.get(token)
            elif isinstance(at, list) and token.isdigit() and int(token) < len(at):
                at = at[int(token)]
            else:
                at = None
        if isinstance(at, str):
            return at.encode("utf-8", "surrogatepass" if _lone(at) else "surrogateescape")
        if isinstance(at, bool | int | float):
            return json.dumps(at).encode()
    return rule.default


def _lone(text: str) -> bool:
    """Whether the text of a JSON string holds a surrogate that no undecodable byte explains, such as `\\ud800`."""
    return any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in text)


def _part(text: str, rule: FieldRule) -> bytes | None:
    if rule.const is not None:
        return rule.const
    for pointer in rule.pointers:
        span = find_span(text, _tokens(pointer))
        if span is not None:
            return text[span[0] : span[1]].encode("utf-8", "surrogateescape")
    return rule.default


def find_span(text: str, tokens: Sequence[str]) -> tuple[int, int] | None:
    """Finds where the value at a JSON pointer stands in valid JSON, as start and end; None: nowhere.

    Of duplicate keys the last one counts.
    """
    start = _skip(text, 0)
    for token in tokens:
        found = None
        if text[start] == "{":
            for key, at in _members(text, start):
                if key == token:
                    found = at
        elif text[start] == "[" and token.isdigit():
            for index, at in enumerate(_items(text, start)):
                if index == int(token):
                    found = at
        if found is None:
            return None
        start = found
    return start, _end(text, start)


def _end(text: str, start: int) -> int:
    return STRINGS.raw_decode(text, start)[1]


def _members(text: str, at: int) -> list[tuple[str, int]]:
    members = []
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = scanstring(text, at + 1)
        at = _skip(text, _skip(text, at) + 1)
        members.append((key, at))
        at = _skip(text, _end(text, at))
        if text[at] == ",":
            at = _skip(text, at + 1)
    return members


def _items(text: str, at: int) -> list[int]:
    items = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        items.append(at)
        at = _skip(text, _end(text, at))
        if text[at] == ",":
            at = _skip(text, at + 1)
    return items
