"""Whole files through `mapping infer`: what is proposed is run on them, and what it writes back is what was read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.admin.survey.propose import TriedProposal, propose
from bridge.cli.infer import as_toml
from bridge.core.mapping import Mapping
from bridge.core.model import UTF8_MARK
from bridge.core.strict_models import validated
from bridge.files.lines import split
from tests.admin.test_forms_of_lines import FORMS
from tests.support.project import FIXTURES
from tests.support.rig import Rig

MANY = 60


def _text(form: str, many: int = MANY) -> bytes:
    """So many lines of a form, each with another text and, where it tells a time of day, another second."""
    line = FORMS[form][0].encode()
    texts = [b"said", b"said more, and more", b"said: 1|2 [x] {y}", b"a word was said"]
    lines = []
    for n in range(many):
        at = b"10:%02d:%02d" % divmod(n, 60)
        lines.append(line.replace(b"said", texts[n % 4] + b" %d" % n).replace(b"10:00:00", at) + b"\n")
    return b"".join(lines)


def _alone(form: str) -> dict[str, bytes]:
    return {"app.log": _text(form)}


FILES: dict[str, Callable[[], dict[str, bytes]]] = {
    **{form: partial(_alone, form) for form in FORMS},
    "CR and LF": lambda: {"app.log": _text("hestai-message").replace(b"\n", b"\r\n")},
    "a UTF-8 mark": lambda: {"app.log": UTF8_MARK + _text("log4j")},
    "rotated pieces": lambda: {
        "app.log": _text("log4j"), "app.log.1": _text("log4j").replace(b"03-01", b"02-28"),
        "app.log.2.gz": gzip.compress(_text("log4j").replace(b"03-01", b"02-27")),
    },
    "dated pieces with the suffix last": lambda: {"app.log": _text("logback"), "app-20260228.log": _text("logback")},
    "dated pieces with a dash behind": lambda: {"app.log": _text("logback"), "app.log-20260228": _text("logback")},
    "stack traces": lambda: {"app.log": _text("log4j").replace(b" 9\n", b" 9\njava.lang.Bad: x\n\tat a.B.c(B.java:1)\n")},
    "a name with brackets": lambda: {"app [1]*?.log": _text("hestai-message")},
    "a name with quotes": lambda: {"it's \"my\" app.log": _text("hestai-message")},
    "a name in other letters": lambda: {"журнал.log": _text("hestai-message")},
    "records of several kinds": lambda: {"app.log": b"".join(
        json.dumps({"type": "mode" if n % 5 == 0 else "turn", "n": n} | ({} if n % 5 == 0 else {"ts": f"2026-03-01T10:00:{n:02}Z"})).encode()
        + b"\n" for n in range(MANY))},
    "JSON with no time at all": lambda: {"app.log": b'{"role":"a","type":"t","text":"said"}\n' * MANY},
    "JSON between other lines": lambda: {"app.log": _text("slog, JSON") + b"listening on 8080\n"},
    "two zones": lambda: {"app.log": b"2026-03-01 10:00:00 CET x\n2026-07-01 10:00:00 CEST x\n" * 20},
    "one line": lambda: {"app.log": _text("log4j", 1)},
    "an unfinished last line": lambda: {"app.log": _text("log4j") + b"2026-03-01 10"},
    "empty lines between": lambda: {"app.log": _text("hestai-message").replace(b"\n", b"\n\n")},
}  # fmt: skip
"""By name, the files of a folder of which the first one is given to `infer`."""


def _proposed(folder: Path, files: dict[str, bytes]) -> tuple[TriedProposal, Mapping, Path]:
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    first = folder / next(iter(files))
    tried = propose(first, folder)
    return tried, validated(Mapping, tried.tables, "found.toml"), first


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file(tmp_path: Path, name: str) -> None:
    """What is proposed carries every line of all files that lie there, or says first what it is not sure of."""
    files = FILES[name]()
    tried, mapping, first = _proposed(tmp_path, files)
    assert mapping.claims(first.name)
    assert tried.files == len(files)
    assert tried.checked.translated > 0 or "format.zones" in " ".join(tried.proposal.doubts)
    assert tried.whole
    assert tried.sure == (not tried.proposal.doubts and not tried.checked.rejected)
    text = as_toml(tried)
    assert (text.splitlines()[1].startswith("# Not sure: ")) == bool(tried.proposal.doubts), text
    if tried.checked.rejected:
        assert not tried.sure
        assert "100 %" not in text
    if mapping.mirror is not None:
        raw = files[first.name].removeprefix(UTF8_MARK)
        codec = mapping.codec(first.name)
        lines = [line for line in raw.split(b"\n")[:-1] if line]
        found = [
            (row, line) for row, line in zip(codec.decode(lines).rows, lines, strict=True) if isinstance(row, tuple)
        ]
        assert [codec.encode(row) for row, _ in found] == [line for _, line in found]


WITH_MIRROR = (
    "hestai-message", "hestai-roles", "log4j", "Python, usual format", "PostgreSQL", "winston, text", "klog", "Celery",
    "actor", "pino", "tabs", "Kubernetes",
)  # fmt: skip


@given(st.data())
def test_what_a_proposal_writes_comes_back(
    mapped: dict[str, tuple[Mapping, list[tuple[bytes, ...]]]], data: st.DataObject
) -> None:
    """Any messages, written by the inverse of a proposed mapping as the mirror writes them, are read back the same."""
    mapping, rows = mapped[data.draw(st.sampled_from(sorted(mapped)))]
    codec = mapping.codec("app.log")
    word = st.text("abz|[]{}: -\t\\\"'\n\r\x00\xe9", max_size=12).map(str.encode)
    made: list[tuple[bytes, ...]] = []
    for row in data.draw(st.lists(st.sampled_from(rows), max_size=5)):
        fields = dict(enumerate(row))
        for at in data.draw(st.lists(st.sampled_from([n for n in range(len(row)) if n != 1]), max_size=2)):
            fields[at] = data.draw(word)
        made.append(tuple(fields.values()))
    written = [(row, line) for row in made if isinstance(line := codec.encode(row), bytes)]
    lines = split(b"".join(line + b"\n" for _, line in written), 0, []).lines
    back = codec.decode(lines).rows
    assert back == [(*row[:3], row[3].replace(b"\n", b"\\n"), *row[4:]) for row, _ in written]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Mapping, list[tuple[bytes, ...]]]]:
    """Mappings that were proposed with [mirror], each with messages of the log they were proposed for."""
    found = {}
    for name in WITH_MIRROR:
        if name not in FORMS:
            continue
        _, mapping, first = _proposed(tmp_path_factory.mktemp("forms"), {"app.log": _text(name)})
        assert mapping.mirror is not None, name
        rows = mapping.codec("app.log").decode(first.read_bytes().split(b"\n")[:-1]).rows
        found[name] = mapping, [row for row in rows if not isinstance(row, str)]
    return found


@pytest.mark.parametrize("name", ["log4j", "PostgreSQL", "records of several kinds", "a UTF-8 mark", "a name with brackets",
                                  "rotated pieces", "no time at all", "Docker"])  # fmt: skip
def test_a_proposal_is_used(mem: Rig, name: str) -> None:
    """The mapping that is proposed carries the log, as it was printed, and both sides are EQUAL."""
    tried, mapping, _ = _proposed(mem.root, FILES[name]())
    text = as_toml(tried).replace(json.dumps(mapping.stream.key), '"hestai:messages"')
    (mem.path / "mine.toml").write_text(text, encoding="utf-8")
    mem.write_config(mapping="mine.toml")
    report = mem.once()
    assert (report.errors, report.quarantined, len(mem.entries())) == ((), 0, tried.checked.translated)
    assert mem.parity().verdict == "equal"


def test_facts_for_programs(tmp_path: Path) -> None:
    """`--json` prints the same as facts: tables, doubts, notes, and how the files translate."""
    from bridge.cli.infer import as_facts

    tried, _, _ = _proposed(tmp_path, FILES["log4j"]())
    facts: dict[str, Any] = json.loads(json.dumps(as_facts(tried)))
    assert (facts["sure"], facts["translated"], facts["whole"]) == (False, MANY, True)
    assert facts["doubts"] == tried.proposal.doubts
    assert facts["roles"] == [{"role": "org.acme.A", "count": MANY}]


def test_words_keep_their_case(tmp_path: Path) -> None:
    """Roles and types are shown as they stand in the lines."""
    tried, _, _ = _proposed(tmp_path, FILES["log4j"]())
    assert f"# Roles: org.acme.A {MANY}; types: INFO {MANY}." in as_toml(tried)


SESSIONS = {
    "claude-code/sessions": "projects", "codex-sessions/rollouts": "sessions", "openhands-events/two-sessions": "sessions",
    "autogen-logs/runtime": "autogen_logs/runtime.log", "langchain-runs/export": "langsmith/runs.jsonl",
}  # fmt: skip
"""Files of agents' tools in their public forms, and what of each is given to `infer`."""


@pytest.mark.parametrize("case", SESSIONS)
def test_files_of_agents_tools(case: str) -> None:
    """What is proposed for sessions of agents' tools, which it does not know, carries every record with role and type."""
    root = FIXTURES / case / "files"
    tried = propose(root / SESSIONS[case], root)
    records = (FIXTURES / case / "expected.jsonl").read_text().count("\n")
    aside = json.loads((FIXTURES / case / "verdict.json").read_text())["quarantined"]
    assert (tried.checked.translated, tried.checked.rejected) == (records, len(aside))
    mapping = validated(Mapping, tried.tables, "found.toml")
    for field in (mapping.message.role, mapping.message.type, mapping.message.timestamp):
        assert field is not None
        assert field.all_pointers
    assert mapping.message.id is None, "a counter, or one that some lack, is no identity"
