"""Logs and folders that `mapping infer` once read wrongly and was sure of: now it reads them, or says its doubt first."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.admin.survey.propose import TriedProposal, propose
from bridge.cli.infer import as_toml
from bridge.core.mapping import Mapping
from bridge.core.strict_models import validated
from tests.cli.test_cli import bridge

T = "2026-03-02T09:00:%02dZ"


def _lines(make: Callable[[int], str], many: int = 30, end: str = "\n") -> bytes:
    return "".join(make(n) + end for n in range(many)).encode("utf-8", "surrogatepass")


def _json(make: Callable[[int], dict[str, Any]]) -> bytes:
    return _lines(lambda n: json.dumps(make(n)))


def _proposed(folder: Path, raw: bytes, name: str = "app.log") -> TriedProposal:
    (folder / name).write_bytes(raw)
    return propose(folder / name, folder)


DOUBTED: dict[str, tuple[bytes, str]] = {
    "a number that is no time, within a text": (_lines(lambda n: f"order 10000000{n:02} shipped to Ann"), "no time was found"),
    "a number of 13 digits": (_lines(lambda n: "scan 4006381333931 ok"), "no time was found"),
    "times to come": (_lines(lambda n: f"[20000000{n:02}] job {n} started"), "still to come"),
    "an unknown time first, a known one within": (
        _lines(lambda n: f"02|03|2026 09h14 INFO login of ann, session until 2026-04-01T10:14:{n:02}Z"), "within the text"),
    "day or month first": (_lines(lambda n: f"02-03-2026 09:14:{n:02} INFO app: login"), "day or month first"),
    "another field's time": (
        _json(lambda n: {"timestamp": "2 o'clock", "type": "t", "user": {"created_at": "2020-01-01T00:00:00Z"}}),
        "/timestamp cannot be read as a time"),
    "a time that is the end of something": (
        _json(lambda n: {"event": "login", "user": "ann", "expires_at": f"2026-01-01T00:00:{n:02}Z"}),
        "no field is called as times are"),
    "a time that never changes": (_lines(lambda n: f"2026-03-02T09:00:59Z;login;ann;hello {n}"), "the same in all lines"),
    "another format between": (
        _lines(lambda n: f"{T % n} INFO app: hello\n  File x, line {n}\nMar  2 09:14:{n:02} host sshd[12]: Accepted"),
        "may be no part of the message before"),
    "columns of few values": (_lines(lambda n: f"{T % n}\tGET\t/a/{n}\t200"), "guessed"),
    "CR behind the type": (_lines(lambda n: f"{T % n},hello number {n},alice,INFO", end="\r\n"), "lines end with CR"),
    "a zone that nobody knows": (_lines(lambda n: f"2026-07-01 10:00:{n:02} BRST said {n}"), "BRST behind the time looks like"),
    "a zone by its region": (_lines(lambda n: f"2026-07-01 10:00:{n:02} [Europe/Madrid] x"), "Europe/Madrid behind the time"),
    "lines that are no messages": (_lines(lambda n: f"{T % n}|INFO|app|said {n}" if n else "-- begin --"), "are no messages"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTED)
def test_what_may_be_wrong_is_said(tmp_path: Path, name: str) -> None:
    """A proposal that may be wrong is not sure, and says why before anything else."""
    raw, why = DOUBTED[name]
    tried = _proposed(tmp_path, raw)
    assert not tried.sure
    assert why in " ".join(tried.proposal.doubts), tried.proposal
    assert as_toml(tried).splitlines()[1].startswith("# Not sure: ")


READ: dict[str, tuple[bytes, tuple[str, str, str]]] = {
    "bars with blanks in the text": (_lines(lambda n: f"agent|{T % n}|turn|a | b | c {n}"), ("agent", "turn", "a | b | c 7")),
    "JSON in the last column": (
        _lines(lambda n: f'{T % n},INFO,worker,{{"id":{n},"text":"the text"}}'), ("worker", "INFO", '{"id":7,"text":"the text"}')),
    "a decimal comma": (
        _lines(lambda n: f"2026-03-02 09:14:00,{n:03} INFO worker.main: took 0 ms, status ok"),
        ("worker.main", "INFO", "took 0 ms, status ok")),
    "a level within the message": (
        _lines(lambda n: f'level=info ts={T % n} component=web msg="hello level=debug {n}"'),
        ("web", "info", f'level=info ts={T % 7} component=web msg="hello level=debug 7"')),
    "padded columns between bars": (
        _lines(lambda n: f"{T % n} | INFO     | mod{n % 2} | text | with a bar {n}"), ("mod1", "INFO", "text | with a bar 7")),
    "an access log with a request that is none": (
        _lines(lambda n: f'1.1.1.1 - - [02/Mar/2026:09:00:{n:02} +0000] "{"-" if n == 3 else "GET /a HTTP/1.1"}" 200 {n}'),
        ("app", "GET", '"GET /a HTTP/1.1" 200 7')),
    "a role that is empty now and then": (
        _json(lambda n: {"ts": T % n, "role": "" if n == 3 else "ann", "type": "t"}),
        ("ann", "t", json.dumps({"ts": T % 7, "role": "ann", "type": "t"}))),
    "a severity beside a resource's type": (
        _json(lambda n: {"severity": "INFO", "timestamp": T % n, "resource": {"type": "vm"}, "logger": "web"}),
        ("web", "INFO", json.dumps({"severity": "INFO", "timestamp": T % 7, "resource": {"type": "vm"}, "logger": "web"}))),
    "half of an emoji": (
        _json(lambda n: {"ts": T % n, "type": "x", "role": "u", "msg": "hi \ud83d"}),
        ("u", "x", json.dumps({"ts": T % 7, "type": "x", "role": "u", "msg": "hi \ud83d"}))),
    "a comma before the time of day": (
        _lines(lambda n: f"03/05/2026, 2:14:{n:02} PM - Ann: hi {n}"), ("Ann", "line", "hi 7")),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_read_now(tmp_path: Path, name: str) -> None:
    """Role, type and data are read out of each line, whole."""
    raw, wanted = READ[name]
    tried = _proposed(tmp_path, raw)
    codec = validated(Mapping, tried.tables, "m.toml").codec("app.log")
    row = codec.decode([raw.split(b"\n")[7]]).rows[0]
    assert isinstance(row, tuple), (row, tried.tables)
    assert (row[0].decode(), row[2].decode(), row[3].decode()) == wanted, tried.tables
    assert tried.checked.rejected == 0


@pytest.mark.parametrize("ids", [
    [f"msg-{n}" for n in range(12)], [f"#{n}" for n in range(12)], [f"{n:04x}" for n in range(12)], [*range(12)],
    [f"event-{n:012}" for n in range(12)],
])  # fmt: skip
def test_a_counter_is_no_identity(tmp_path: Path, ids: list[Any]) -> None:
    """Whatever is counted in a session begins anew in the next one: it is not taken for a document's identity."""
    (tmp_path / "s").mkdir()
    for n, own in enumerate(ids):
        (tmp_path / f"s/{n}.json").write_text(json.dumps({"role": "a", "type": "t", "timestamp": T % n, "id": own}))
    tried = propose(tmp_path / "s", tmp_path)
    assert "id" not in tried.tables["message"]
    assert any("may begin anew" in note for note in tried.proposal.notes)


def test_an_identity_that_is_one(tmp_path: Path) -> None:
    """Random or long identities that differ are taken; two files with the same one are a doubt."""
    (tmp_path / "s").mkdir()
    for n in range(12):
        own = hashlib.sha256(b"%d" % n).hexdigest()[:16]
        (tmp_path / f"s/{n}.json").write_text(json.dumps({"role": "a", "type": "t", "timestamp": T % n, "id": own}))
    assert propose(tmp_path / "s", tmp_path).tables["message"]["id"] == {"pointer": "/id"}


@pytest.mark.parametrize("name", ["👩\u200d💻 chat.log", "a\u200eb.log", "tab\tname.log"])
def test_names_that_toml_must_escape(tmp_path: Path, name: str) -> None:
    """A name of any characters stands in the TOML so that it is read back."""
    tried = _proposed(tmp_path, _lines(lambda n: f"agent|{T % n}|turn|said {n}"), name)
    found = tomllib.loads(as_toml(tried))
    assert validated(Mapping, found, "m.toml").claims(name)


def test_nothing_of_a_log_becomes_toml(tmp_path: Path) -> None:
    """A newline in a key of a record cannot end the comment in which the key is named."""
    raw = _json(lambda n: {"ts": T % n} | ({"a\nevil = 1\nb": {"role": "x"}} if n % 2 else {}))
    found = tomllib.loads(as_toml(_proposed(tmp_path, raw)))
    assert "evil" not in found


def test_a_document_without_time(tmp_path: Path) -> None:
    """One document of many without a time leaves the others theirs, and is a doubt."""
    (tmp_path / "s").mkdir()
    for n in range(50):
        (tmp_path / f"s/{n}.json").write_text(
            json.dumps({"role": "a", "type": "t"} | ({"timestamp": T % n} if n else {}))
        )
    tried = propose(tmp_path / "s", tmp_path)
    assert tried.tables["message"]["timestamp"] == {"pointer": "/timestamp"}
    assert "1 of 50 files tell none" in " ".join(tried.proposal.doubts)


def test_pieces_beside_a_log(tmp_path: Path) -> None:
    """Another worker's log is no rotated piece, nor is what another program keeps beside a log."""
    for name in ("worker-1.log", "worker-2.log", "worker-20260301.log", "worker.log.offset"):
        (tmp_path / name).write_bytes(_lines(lambda n: f"agent|{T % n}|turn|{n}"))
    tried = _proposed(tmp_path, _lines(lambda n: f"agent|{T % n}|turn|said {n}"), "worker.log")
    mapping = validated(Mapping, tried.tables, "m.toml")
    claimed = [path.name for path in sorted(tmp_path.iterdir()) if mapping.claims(path.name)]
    assert claimed == ["worker-20260301.log", "worker.log"]


def test_names_that_are_never_read(tmp_path: Path) -> None:
    """A file that an editor left is proposed with the doubt that it is never read."""
    tried = _proposed(tmp_path, _lines(lambda n: f"agent|{T % n}|turn|{n}"), "x.log~")
    assert "never read" in tried.proposal.doubts[0]


def test_a_folder_with_other_files(tmp_path: Path) -> None:
    """A folder of logs with a README in it is logs, of one ending, and of all the folder the bridge's own files are none."""
    for n in range(3):
        (tmp_path / f"{n}.log").write_bytes(_lines(lambda n: f"agent|{T % n}|turn|{n}"))
    (tmp_path / "README.txt").write_text("words\n")
    tried = propose(tmp_path, tmp_path)
    assert (tried.tables["source"]["kind"], tried.tables["source"]["path"]) == ("log", "*.log")
    assert "end otherwise" in " ".join(tried.proposal.doubts)


# -- init ----------------------------------------------------------------------------------------------------


def _init(folder: Path, *args: str) -> dict[str, Any]:
    done = bridge(folder, "init", "--yes", "--json", *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_log_that_is_called_bridge(tmp_path: Path) -> None:
    """The mapping for `bridge.log` does not take the place of bridge.toml."""
    (tmp_path / "bridge.log").write_bytes(_lines(lambda n: f"agent|{T % n}|turn|{n}"))
    assert _init(tmp_path)["mappings"] == ["./bridge-2.toml"]
    assert bridge(tmp_path, "mapping", "check", "bridge-2.toml").returncode == 0


def test_logs_of_several_forms_in_a_folder(tmp_path: Path) -> None:
    """Three logs and a README below get a mapping for the three; logs of different forms get one each."""
    (tmp_path / "logs").mkdir()
    for name in "abc":
        (tmp_path / f"logs/{name}.log").write_bytes(_lines(lambda n: f"agent|{T % n}|turn|{n}"))
    (tmp_path / "logs/README.txt").write_text("words\n")
    found = _init(tmp_path)
    assert (found["mappings"], found["not_understood"]) == (["./logs.toml"], ["logs/README.txt"])


def test_settings_are_no_log(tmp_path: Path) -> None:
    """A JSON file without a time is no log: nothing is ever written into it."""
    (tmp_path / "package.json").write_text('{"name":"x","version":"1.0.0"}\n')
    (tmp_path / "app.log").write_bytes(_lines(lambda n: f"agent|{T % n}|turn|{n}"))
    assert _init(tmp_path)["mappings"] == ["./app.toml"]
    assert "mirror" not in propose(tmp_path / "package.json", tmp_path).tables


def test_a_shipped_mapping_that_reads_nothing(tmp_path: Path) -> None:
    """A log that has a known name and another form gets a mapping of its own."""
    (tmp_path / "app.out").write_bytes(_lines(lambda n: f"{T % n} INFO app: out {n}"))
    assert _init(tmp_path)["mappings"] == ["./app.toml"]


def test_names_that_differ_in_case(tmp_path: Path) -> None:
    """Mappings for `App.txt` and `app.log` get names that are two files everywhere."""
    for name in ("App.txt", "app.log"):
        (tmp_path / name).write_bytes(_lines(lambda n: f"agent|{T % n}|turn|{name} {n}"))
    assert len({name.lower() for name in _init(tmp_path)["mappings"]}) == 2
