"""The names of streams, where each log of a mapping has one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.mapping import Mapping
from bridge.core.stream_names import as_mapping_name, escaped, fixed_part, log_named, names_of
from bridge.core.strict_models import validated
from tests.support.many import MAPPING

GLOB = "sessions/**/*.log"


@pytest.mark.parametrize(
    ("log", "name"),
    [
        ("sessions/a.log", "a"),
        ("sessions/2026/a.log", "2026/a"),
        ("sessions/a.b.log", "a.b"),
        ("sessions/a b.log", "a%20b"),
        ("sessions/{a}%.log", "%7Ba%7D%25"),
        ("sessions/ä.log", "ä"),
    ],
)
def test_a_name(log: str, name: str) -> None:
    """A log's name is its path below the fixed part of the glob without suffix, braces and blanks escaped."""
    assert names_of(GLOB, [log], ()) == {log: name}
    assert log_named(GLOB, name) == log


def test_two_equal_names() -> None:
    """Of two logs that would have one name the second keeps its suffix, and one whose name is taken gets a number."""
    assert names_of("s/*", ["s/a.log", "s/a.txt"], ()) == {"s/a.log": "a", "s/a.txt": "a.txt"}
    assert names_of("s/*", ["s/a.txt"], {"a", "a.txt"}) == {"s/a.txt": "a.txt:2"}
    assert names_of("s/*", ["s/x/a.log", "s/y/a.log"], ()) == {"s/x/a.log": "x/a", "s/y/a.log": "y/a"}


def test_the_fixed_part() -> None:
    """The fixed part of a glob is what stands before its first part with a wildcard."""
    assert [fixed_part(glob) for glob in ("*.log", "a/b/*.log", "a/*/b.log", "a/b.log")] == ["", "a/b/", "a/", "a/"]


@given(st.lists(st.text("ab/ .{}%:2~ä", min_size=1, max_size=6), unique=True))
def test_names_differ(parts: list[str]) -> None:
    """No two logs have one name, whatever their paths, and none holds a brace or a blank."""
    logs = [f"s/{part}" for part in parts]
    names = names_of("s/*", logs, ())
    assert len({*names.values()}) == len(logs)
    assert not any(c in "{} " for name in names.values() for c in name)


def test_a_long_name() -> None:
    """The name by which commands and files know a stream is a file's name, of whatever length the log's path is."""
    long = as_mapping_name("sessions", escaped("x/" * 300))
    assert (len(long.encode()) < 255, "/" in long, long == as_mapping_name("sessions", "x/" * 299)) == (
        True,
        False,
        False,
    )


def mapping(text: str) -> Mapping:
    import tomllib

    return validated(Mapping, tomllib.loads(text), "sessions.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('key = "hestai:session:{name}"', 'key = "{name}"', "something stands before {name}"),
        ('key = "hestai:session:{name}"', 'key = "a:{name}:{name}"', "once, {name}"),
        (f'path = "{GLOB}"', 'path = "messages.log"', "of which source.path names many"),
        ('path = "sessions/{name}.log"', 'path = "all.log"', "in both, stream.key and mirror.path"),
        ('key = "hestai:session:{name}"', 'key = "hestai:session"', "in both, stream.key and mirror.path"),
    ],
)
def test_what_is_refused(old: str, new: str, said: str) -> None:
    """{name} without many logs, twice, at the beginning of a key, or on one side alone is refused."""
    from bridge.core.errors import ConfigError

    assert old in MAPPING
    with pytest.raises(ConfigError) as refused:
        mapping(MAPPING.replace(old, new))
    assert said in str(refused.value)


def test_the_mirror_writes_no_other_log() -> None:
    """The mirror of a stream writes into its log, or beside the logs, and never into another one."""
    sessions = mapping(MAPPING)
    assert mirrored(sessions, "sessions/a.log", "a") == "sessions/a.log"
    assert mirrored(sessions, "sessions/a b.log", "a%20b") == "sessions/a b.log"
    several = mapping(MAPPING.replace(GLOB, "sessions/*").replace("sessions/**/*.log.*", "sessions/*.gz"))
    assert mirrored(several, "sessions/a.txt", "a.txt") == "sessions/a.txt"
    beside = mapping(MAPPING.replace("sessions/{name}.log", "mirrored/{name}.log"))
    assert mirrored(beside, "sessions/2026/a.log", "2026/a") == "mirrored/2026/a.log"


def mirrored(mapping: Mapping, log: str, name: str) -> str:
    made = mapping.of_log(log, name)
    assert (made.log, made.family, made.mirror is not None) == (log, "sessions", True)
    return made.mirror.path if made.mirror else ""
