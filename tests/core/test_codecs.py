"""Bytes in, the same bytes out; timestamps; the decode-back rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.codecs.jsonl import find_span
from bridge.core.codecs.timestamps import clock_for
from bridge.core.errors import ConfigError
from bridge.core.mapping import Mapping, load_mapping
from bridge.core.strict_models import validated

BASE = {"name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "s"}}
PIPE = {"codec": "delimited", "delimiter": "|", "columns": ["role", "timestamp", "type", "data"]}
MESSAGE = load_mapping("hestai-message", Path.cwd())


def mapping(**sections: object) -> Mapping:
    return validated(Mapping, {**BASE, **sections}, "test")


@given(st.binary().filter(lambda raw: b"\n" not in raw))
def test_what_decodes_encodes_back(data: bytes) -> None:
    """Any line that is a message is written back byte for byte."""
    codec = MESSAGE.codec("messages.log")
    line = b"agent|2026-03-02T09:14:05Z|turn|" + data
    [row] = codec.decode([line]).rows
    assert isinstance(row, tuple)
    assert row[3] == data
    assert codec.encode(row) == line


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=20))
def test_no_field_can_forge_a_line(role: bytes, kind: bytes, data: bytes) -> None:
    """What is written for a row reads back as that row, newlines in data escaped; else there is a reason."""
    codec = MESSAGE.codec("messages.log")
    line = codec.encode((role, b"2026-03-02T09:14:05Z", kind, data))
    if isinstance(line, bytes):
        assert b"\n" not in line
        [row] = codec.decode([line]).rows
        assert row == (role, b"2026-03-02T09:14:05Z", kind, data.replace(b"\n", b"\\n"))


@pytest.mark.parametrize(
    ("pattern", "zone", "raw", "ms"),
    [
        ("iso8601", "UTC", b"2026-01-01T00:00:00Z", 1767225600000),
        ("iso8601", "UTC", b"2026-01-01T00:00:00", 1767225600000),
        ("iso8601", "Europe/Madrid", b"2026-01-01T01:00:00", 1767225600000),
        ("iso8601", "UTC", b"2026-01-01 01:00:00+01:00", 1767225600000),
        ("iso8601", "UTC", b"2026-01-01T00:00:00.5Z", 1767225600500),
        ("iso8601", "UTC", b"2026-01-01T00:00:00.123456789+00:00", 1767225600123),
        ("epoch_s", "UTC", b"1767225600", 1767225600000),
        ("epoch_s", "UTC", b"1767225600.25", 1767225600250),
        ("epoch_ms", "UTC", b"1767225600123", 1767225600123),
        ("%d/%b/%Y %H:%M:%S", "UTC", b"01/Jan/2026 00:00:00", 1767225600000),
        ("%d/%b/%Y:%H:%M:%S %z", "UTC", b"01/Jan/2026:02:00:00 +0200", 1767225600000),
    ],
)
def test_timestamps(pattern: str, zone: str, raw: bytes, ms: int) -> None:
    """Each form is read to the millisecond."""
    assert clock_for(pattern, zone)([raw]) == [ms]


@pytest.mark.parametrize(
    ("pattern", "raw"),
    [("iso8601", b""), ("iso8601", b"yesterday"), ("iso8601", b"2026-13-01T00:00:00Z"), ("iso8601", b"\xff"),
     ("epoch_s", b"12x"), ("epoch_s", b"1" * 30), ("epoch_ms", b""), ("epoch_s", b"1."), ("%Y", b"20x6")],
)  # fmt: skip
def test_not_a_timestamp(pattern: str, raw: bytes) -> None:
    """What is no time is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - the contract is ValueError or a subclass
        clock_for(pattern, "UTC")([raw])


def test_columns_in_another_order_and_extra_ones() -> None:
    """Entry fields stand in the fixed order, extra columns behind; the line is written back in its own."""
    codec = mapping(format={**PIPE, "columns": ["timestamp", "host", "role", "type", "data"]}).codec("m.log")
    assert codec.fields == (b"role", b"timestamp", b"type", b"data", b"host")
    line = b"2026-01-01T00:00:00Z|laptop|ui|say|a|b"
    [row] = codec.decode([line]).rows
    assert row == (b"ui", b"2026-01-01T00:00:00Z", b"say", b"a|b", b"laptop")
    assert codec.encode(row) == line


def test_role_from_the_name() -> None:
    """A file for one role: its name is the role, and another role's entry is no line of it."""
    rules = {"role": {"name": "stem"}}
    codec = mapping(format={**PIPE, "columns": ["timestamp", "type", "data"]}, message=rules).codec("logs/ui.out")
    [row] = codec.decode([b"2026-01-01T00:00:00Z|say|x"]).rows
    assert row == (b"ui", b"2026-01-01T00:00:00Z", b"say", b"x")
    assert codec.encode(row) == b"2026-01-01T00:00:00Z|say|x"
    assert "not the one this file is for" in str(codec.encode((b"agent", *row[1:])))


JSON = {
    "role": {"pointers": ["/payload/role", "/role"], "default": "nobody"},
    "timestamp": {"pointer": "/timestamp"},
    "type": {"pointer": "/a~1b"},
}


@pytest.mark.parametrize(
    ("line", "role"),
    [
        (
            b'{"timestamp":"2026-01-01T00:00:00Z","a/b":"t","payload":{"role":"ui"},"big":12345678901234567890123}',
            b"ui",
        ),
        (b' {"timestamp":"2026-01-01T00:00:00Z","a/b":"t","role":"x","n":NaN,"s":"\\ud800"} \r', b"x"),
        (b'{"timestamp":"2026-01-01T00:00:00Z","a/b":"t","raw":"\xff"}', b"nobody"),
        (b'{"timestamp":"2026-01-01T00:00:00Z","a/b":"t","role":"\xc3\xa9","role":"last"}', b"last"),
    ],
)
def test_jsonl_keeps_the_line(line: bytes, role: bytes) -> None:
    """`data` is the whole line, to the byte; the other fields come by pointer."""
    codec = mapping(format={"codec": "jsonl"}, message=JSON).codec("m.log")
    [row] = codec.decode([line]).rows
    assert row == (role, b"2026-01-01T00:00:00Z", b"t", line)
    assert codec.encode((role, b"2026-01-01T00:00:00Z", b"t", line)) == line
    assert "role is" in str(codec.encode((b"other", *row[1:])))


def test_jsonl_part() -> None:
    """With a pointer `data` is that part's own bytes, unparsed."""
    message = {**JSON, "data": {"pointers": ["/none", "/payload/list/1"]}}
    codec = mapping(format={"codec": "jsonl"}, message=message).codec("m.log")
    line = b'{"timestamp":"2026-01-01T00:00:00Z","a/b":"t","payload":{"list":[1, {"n" :1.10, "x":"\xff\\u0041"} ]}}'
    [row] = codec.decode([line]).rows
    assert row[3] == b'{"n" :1.10, "x":"\xff\\u0041"}'


@pytest.mark.parametrize(
    "line", [b"[]", b"{", b'{"a":1}{"b":2}', b'{"timestamp":"x","a/b":"t"}', b'{"a/b":"t"}', b"\xff"]
)
def test_jsonl_reasons(line: bytes) -> None:
    """What is no message comes back as a reason."""
    codec = mapping(format={"codec": "jsonl"}, message=JSON).codec("m.log")
    [row] = codec.decode([line]).rows
    assert isinstance(row, str)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_spans(value: object) -> None:
    """A span holds exactly the JSON of the value it points to."""
    import json

    text = json.dumps({"a": value, "z": [value, 1]})
    for tokens in (["a"], ["z", "0"]):
        span = find_span(text, tokens)
        assert span is not None
        assert json.loads(text[span[0] : span[1]]) == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": {**PIPE, "delimitter": "|"}}, "did you mean 'delimiter'"),
        ({"mirorr": {"path": "x"}}, "did you mean 'mirror'"),
        ({"format": {**PIPE, "columns": ["role", "timestamp", "data"]}}, "no column holds 'type'"),
        ({"format": {**PIPE, "columns": ["role", "timestamp", "type", "data", "origin"]}}, "origin"),
        ({"format": {**PIPE, "timezone": "Mars/Olympus"}}, "time zone"),
        ({"format": {**PIPE, "timestamp": "iso"}}, "strptime"),
        ({"format": {"codec": "jsonl"}}, "needs message.role"),
        ({"format": PIPE, "source": {"kind": "log", "path": "../x"}}, "below the root"),
        ({"format": PIPE, "mirror": {"path": "{type}.log"}}, "only {role}"),
        ({"format": PIPE, "stream": {"key": "a{b}"}}, "braces"),
    ],
)
def test_wrong_mappings(change: dict[str, object], said: str) -> None:
    """A wrong mapping is refused by the key's name, with the nearest known one."""
    with pytest.raises(ConfigError) as caught:
        mapping(**change).codec("m.log")
    assert said in f"{caught.value} {caught.value.hint}"
