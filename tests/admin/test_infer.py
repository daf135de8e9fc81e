"""`mapping infer` on logs of many kinds: what it proposes reads them, and what it is not sure of it says."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.admin.survey.infer_log import infer
from bridge.admin.survey.proposal import codec_of
from bridge.core.codecs.timestamps import clock_for
from bridge.core.mapping import Mapping, shipped_names
from bridge.core.strict_models import Strict
from tests.cli.test_cli import bridge

NOISE = random.Random(5)


def pick(*values: str) -> str:
    return NOISE.choice(values)


def said() -> str:
    words = ("alpha", "request", "failed", "for", "user", "blk_38865049064139660", "reset", "a|b", "x: y")
    return " ".join(NOISE.choice(words) for _ in range(NOISE.randint(3, 8)))


def at(n: int) -> str:
    return f"{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}"


Kind = tuple[Callable[[int], str], str, dict[str, Any]]
KINDS: dict[str, Kind] = {
    "syslog": (
        lambda n: f"Mar {n // 50 + 1:2} {at(n)} host1 {pick('sshd[12]', 'cron', 'kernel')}: {said()}",
        "regex", {"timestamp": "%b %d %H:%M:%S", "role": {"cron", "sshd", "kernel"}},
    ),
    "rfc5424": (
        lambda n: f"<34>1 2026-03-02T{at(n)}.003Z host1 {pick('su', 'app')} - ID47 - {said()}",
        "regex", {"timestamp": "iso8601", "role": {"su", "app"}, "type": {"ID47"}},
    ),
    "apache-error": (
        lambda n: f"[Sun Mar 01 {at(n)} 2026] [{pick('error', 'notice')}] {pick('[client 1.2.3.4] ', '')}{said()}",
        "regex", {"timestamp": "%a %b %d %H:%M:%S %Y", "type": {"error", "notice"}},
    ),
    "apache-2.4": (
        lambda n: f"[Sun Mar 01 {at(n)}.902022 2026] [{pick('core', 'mpm')}:{pick('error', 'warn')}] [pid 35:tid 43] {said()}",
        "regex", {"role": {"core", "mpm"}, "type": {"error", "warn"}},
    ),
    "access": (
        lambda n: f'{pick("10.0.0.1", "::1")} - {pick("-", "bob")} [02/Mar/2026:{at(n)} +0100] "{pick("GET", "POST")} /{n}" 200 7',
        "regex", {"timestamp": "%d/%b/%Y:%H:%M:%S %z", "type": {"GET", "POST"}},
    ),
    "hadoop": (
        lambda n: f"2026-03-02 {at(n)},{n % 1000:03} {pick('INFO', 'WARN')} [{pick('main', 'w 1')}] org.acme.{pick('A', 'B')}: {said()}"
        + pick("", "", "\njava.lang.Bad: x\n\tat org.X.y(X.java:1)\n\t... 3 more"),
        "regex", {"type": {"INFO", "WARN"}, "role": {"org.acme.A", "org.acme.B"}, "continuation": True},
    ),
    "log4j": (
        lambda n: f"2026-03-02 {at(n)},000 [main] {pick('INFO ', 'ERROR')} org.acme.{pick('A', 'B')} - {said()}",
        "regex", {"type": {"INFO", "ERROR"}, "role": {"org.acme.A", "org.acme.B"}},
    ),
    "hdfs": (
        lambda n: f"260302 {at(n).replace(':', '')} {n % 40} {pick('INFO', 'WARN')} dfs.{pick('Node$Packet', 'FS')}: {said()}",
        "regex", {"timestamp": "%y%m%d %H%M%S", "type": {"INFO", "WARN"}},
    ),
    "android": (
        lambda n: f"03-01 {at(n)}.811  1702  {n % 5} {pick('D', 'I', 'E')} {pick('WindowManager', 'Power')}: {said()}",
        "regex", {"type": {"D", "I", "E"}, "role": {"WindowManager", "Power"}},
    ),
    "openstack": (
        lambda n: f"nova.log 2026-03-02 {at(n)}.008 25 {pick('INFO', 'WARNING')} nova.{pick('api', 'db')} [req-1 a - -] {said()}",
        "regex", {"type": {"INFO", "WARNING"}, "role": {"nova.api", "nova.db"}},
    ),
    "python": (
        lambda n: f"2026-03-02 {at(n)},123 - {pick('app.db', 'app.web')} - {pick('INFO', 'ERROR')} - {said()}",
        "regex", {"type": {"INFO", "ERROR"}, "role": {"app.db", "app.web"}},
    ),
    "irc": (
        lambda n: f"[2026-03-02 {at(n)}] <{pick('ann', 'bob', '@eve')}> {said()}",
        "regex", {"role": {"ann", "bob", "eve"}},
    ),
    "pipes": (
        lambda n: f"{pick('agent', 'ui')}|2026-03-02T{at(n)}Z|{pick('say', 'turn')}|{said()}",
        "delimited", {"role": {"agent", "ui"}, "type": {"say", "turn"}},
    ),
    "tabs": (
        lambda n: f"2026-03-02 {at(n)}\t{pick('INFO', 'WARN')}\t{pick('api', 'db')}\t{n * 7919 % 65536}\t{said()}",
        "delimited", {"type": {"INFO", "WARN"}, "role": {"api", "db"}},
    ),
    "csv": (
        lambda n: "id,created_at,severity,component,text" if n == 0 else
        f'{n},2026-03-02T{at(n)}Z,{pick("INFO", "WARN")},{pick("api", "db")},"{said()}, {said()}"',
        "delimited", {"type": {"INFO", "WARN"}, "role": {"api", "db"}, "heading": 1},
    ),
    "logfmt": (
        lambda n: f'time="2026-03-02T{at(n)}Z" level={pick("info", "warn")} component={pick("api", "db")} msg="{said()}"',
        "regex", {"type": {"info", "warn"}, "role": {"api", "db"}},
    ),
    "noon": (
        lambda n: f"03/02/2026 {1 + n % 12:02}:15:00 {pick('AM', 'PM')} {said()}",
        "regex", {"timestamp": "%m/%d/%Y %I:%M:%S %p"},
    ),
    "jsonl": (
        lambda n: json.dumps({"id": n, "ts": 1772400000 + n, "level": pick("info", "warn"), "by": {"agent": pick("a", "b")}}),
        "jsonl", {"timestamp": "epoch_s", "type": {"info", "warn"}, "role": {"a", "b"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_kinds(kind: str, tmp_path: Path) -> None:
    """The proposal is a mapping that `mapping check` accepts and that reads every line, with the fields one would name."""
    make, codec, wanted = KINDS[kind]
    path = tmp_path / f"{kind}.log"
    path.write_text("".join(make(n) + "\n" for n in range(400)))
    done = bridge(tmp_path, "mapping", "infer", path.name)
    (tmp_path / "found.toml").write_text(done.stdout)
    found = tomllib.loads(done.stdout)
    assert found["format"]["codec"] == codec
    heading = wanted.get("heading", 0)
    assert done.returncode == (3 if heading or "# Not sure" in done.stdout else 0), done
    assert f"# {400 - heading} of 400 " in done.stdout or "(100 %)" in done.stdout
    assert bridge(tmp_path, "mapping", "check", "found.toml", path.name).returncode == 3 * heading
    for key in ("timestamp", "continuation"):
        assert key not in wanted or found["format"].get(key) == wanted[key]
    rows = codec_of(infer(path.read_bytes().split(b"\n")[:-1])).decode(path.read_bytes().split(b"\n")[:-1]).rows
    for i, name in ((0, "role"), (2, "type")):
        if name in wanted:
            assert {row[i].decode() for row in rows if not isinstance(row, str)} == wanted[name]


def test_unsure(tmp_path: Path) -> None:
    """Where no time is found, or no year, or no zone, it says so and what to edit; the result can still be checked."""
    (tmp_path / "x.log").write_text("".join(f"{said()}\n" for _ in range(100)))
    done = bridge(tmp_path, "mapping", "infer", "x.log")
    assert "# Not sure: no time was found" in done.stdout
    assert "write format.pattern" in done.stdout
    (tmp_path / "x.toml").write_text(done.stdout)
    assert bridge(tmp_path, "mapping", "check", "x.toml", "x.log").returncode == 0
    syslog = infer([KINDS["syslog"][0](n).encode() for n in range(50)]).doubts
    assert "the lines name no year" in syslog[0]
    assert "UTC is taken; if they were written east of it" in syslog[1]
    assert any("UTC is taken" in note for note in infer([KINDS["python"][0](n).encode() for n in range(50)]).doubts)


@pytest.mark.parametrize(("file", "path"), [
    ("app.log.1", "app.log"), ("syslog-20241201", "syslog"), ("logs/app-2025-03-01.log", "logs/app-*.log"), ("a.log", "a.log"),
])  # fmt: skip
def test_one_of_several_files(tmp_path: Path, file: str, path: str) -> None:
    """A rotated piece stands for its log, a file of one day for all days'; that is said."""
    (tmp_path / "logs").mkdir()
    (tmp_path / file).write_text("".join(KINDS["log4j"][0](n) + "\n" for n in range(50)))
    done = bridge(tmp_path, "mapping", "infer", file)
    assert tomllib.loads(done.stdout)["source"]["path"] == path
    assert ("looks like one of several files" in done.stdout) == (path != file)


def test_odd_files(tmp_path: Path) -> None:
    """An empty file, a missing one, bytes that are no text, and a line without end are said or read, never a trace."""
    (tmp_path / "empty.log").write_bytes(b"\n\n")
    assert "is empty" in bridge(tmp_path, "mapping", "infer", "empty.log").stderr
    assert bridge(tmp_path, "mapping", "infer", "none.log").returncode == 1
    (tmp_path / "binary.log").write_bytes(random.Random(1).randbytes(100_000))
    done = bridge(tmp_path, "mapping", "infer", "binary.log")
    assert (done.returncode, "is no text" in done.stderr) == (1, True), done
    for name, raw in (
        ("long.log", b"x" * 3_000_000),
        ("q'\"\\.log", b"a|b\n"),
    ):
        (tmp_path / name).write_bytes(raw)
        done = bridge(tmp_path, "mapping", "infer", name)
        assert done.returncode == 3, done.stderr
        tomllib.loads(done.stdout)


def test_times_without_year_or_day() -> None:
    """A time without a year is the latest that is not to come, 29 February too; one without a day is of the last day."""
    from datetime import UTC, datetime

    def ms(*when: int) -> int:
        return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type, misc]

    read = clock_for("%b %d %H:%M:%S", "UTC", now=lambda: datetime(2026, 3, 2, 12, tzinfo=UTC))
    assert read([b"Mar  2 11:00:00", b"Mar  3 11:00:00", b"Mar  4 00:00:00", b"Feb 29 00:00:00"]) == [
        ms(2026, 3, 2, 11), ms(2025, 3, 3, 11), ms(2025, 3, 4), ms(2024, 2, 29),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="day is out of range"):
        read([b"Feb 30 00:00:00"])
    read = clock_for("%H:%M", "UTC", now=lambda: datetime(2026, 3, 2, 12, tzinfo=UTC))
    assert read([b"11:00", b"13:00"]) == [ms(2026, 3, 2, 11), ms(2026, 3, 1, 13)]


def test_schema(tmp_path: Path) -> None:
    """The JSON Schema knows every key of a mapping, forbids others, and holds all keys of the shipped mappings."""
    schema = json.loads(bridge(tmp_path, "mapping", "schema").stdout)

    def keys(model: type[Strict], node: dict[str, Any]) -> None:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        assert node["additionalProperties"] is False
        assert set(node["properties"]) == {field.alias or name for name, field in model.model_fields.items()}

    keys(Mapping, schema)
    for name in ("source", "format", "message", "stream", "mirror", "policy"):
        node = schema["properties"][name]
        node = node["anyOf"][0] if "anyOf" in node else node
        annotation = Mapping.model_fields[name].annotation
        [model] = [
            argument
            for argument in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(argument, type) and issubclass(argument, Strict)
        ]
        keys(model, node)
    for name in shipped_names():
        shown = json.loads(bridge(tmp_path, "mapping", "show", name, "--json").stdout)
        assert set(shown) <= set(schema["properties"])


def folder(path: Path, files: dict[str, bytes]) -> str:
    """What is proposed for a folder of these files, and that it translates them."""
    for name, raw in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(raw)
    where = path.parent
    done = bridge(where, "mapping", "infer", path.name)
    assert done.returncode == (3 if "Not sure" in done.stdout else 0), done
    (where / "own.toml").write_text(done.stdout)
    check = bridge(where, "mapping", "check", "./own.toml")
    assert check.returncode == 0, check.stdout + check.stderr
    return done.stdout


def test_folder_of_documents(tmp_path: Path) -> None:
    """A folder of JSON files is a spool, with the pointers and the identity that most of them have."""
    files = {
        f"pending/{n}.json": json.dumps({"uuid": f"u{n}", "doc_type": "note" if n % 2 else "task", "role": "wind",
                                         "created_at": f"2026-03-02T09:00:{n:02}Z", "n": 1}, indent=1).encode()
        for n in range(12)
    }  # fmt: skip
    said = folder(tmp_path / "inbox", files | {"index.json": b"[1]"})
    assert 'kind = "spool"' in said
    assert 'path = "inbox/**/*.json"' in said
    assert 'exclude = ["inbox/index.json"]' in said
    for line in ('id = { pointer = "/uuid" }', 'role = { pointer = "/role" }', 'type = { pointer = "/doc_type" }',
                 'timestamp = { pointer = "/created_at" }'):  # fmt: skip
        assert line in said


@pytest.mark.parametrize(
    ("name", "raw", "kind"),
    [("artifacts", b"\x89PNG\r\n\x1a\n\xff", "artifacts"), ("context", b"some text", "context"), ("state", b"on", "state"),
     ("notes", "h\u00e9llo".encode(), "spool")],
)  # fmt: skip
def test_other_folders(tmp_path: Path, name: str, raw: bytes, kind: str) -> None:
    """Pictures are artifacts; texts are what their folder's name says, else one message each, and that is not sure."""
    said = folder(tmp_path / name, {f"{n}.x": raw for n in range(5)})
    assert f'kind = "{kind}"' in said
    assert "Not sure" in said


def test_init_says_what_it_did_not_understand(tmp_path: Path) -> None:
    """`init` takes the mappings whose files are there, of any kind, and names the rest."""
    for name, raw in (
        ("messages.log", b"agent|2026-03-02T09:14:05Z|turn|hi\n"), ("state/phase", b"build"), ("context/wind.ctx", b"x"),
        ("artifacts/a.png", b"x"), ("inbox/1.json", b'{"uuid": "1", "doc_type": "x", "timestamp": "2026-03-02T09:14:05Z"}'),
        ("notes/1.txt", b"one"), ("notes/2.txt", b"two"), ("odd.bin", b"\0"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    done = bridge(tmp_path, "init")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "bridge.toml").read_text()
    for name in ("hestai-message", "hestai-inbox", "hestai-context", "hestai-state", "hestai-artifacts"):
        assert f'"{name}"' in text
    assert "notes/: 2 files: 1.txt, 2.txt" in done.stdout
    assert "odd.bin" in done.stdout
    assert "artifacts/" in done.stdout.partition("not understood")[0]
    assert "a.png" not in done.stdout.partition("not understood")[2]


@pytest.mark.parametrize(
    ("suffix", "line"),
    [("out", b"2026-03-02T09:14:%02dZ|turn|hi there\n"),
     ("jsonl", b'{"timestamp": "2026-03-02T09:14:%02dZ", "event_type": "turn", "text": "hi"}\n')],
)  # fmt: skip
def test_folder_of_logs(tmp_path: Path, suffix: str, line: bytes) -> None:
    """Files of lines that begin with a time are logs, one source each, and no messages."""
    files = {f"{n}.{suffix}": b"".join(line % second for second in range(9)) for n in range(4)}
    said = folder(tmp_path / "per-role", files)
    assert 'kind = "log"' in said
    assert f'path = "per-role/*.{suffix}"' in said
    assert "36 of 36 lines translate" in said


def test_init_of_folders(tmp_path: Path) -> None:
    """An empty folder is proposed, one of which no file translates is not; each role that has a file is a component."""
    for name in ("state", "artifacts", "inbox"):
        (tmp_path / name).mkdir()
    (tmp_path / "inbox" / "1.json").write_text('{"id": "1", "at": "2026-03-02T09:14:05Z"}')
    (tmp_path / "wind.out").write_text("2026-03-02T09:14:05Z|turn|hi\n")
    done = bridge(tmp_path, "init")
    assert done.returncode == 0, done.stderr
    assert "inbox/: 1 file: 1.json" in done.stdout
    text = (tmp_path / "bridge.toml").read_text()
    assert 'mappings = ["hestai-artifacts", "hestai-roles", "hestai-state"]' in text
    assert '[components.wind]\nroles = ["wind"]' in text


@pytest.mark.parametrize(
    ("line", "timestamp", "said"),
    [
        (b"2026-07-01 10:00:00 +0200 [info]: starting", b"2026-07-01 10:00:00 +0200", ""),  # Ruby, fluentd
        (b"2026-07-01 10:00:00+02 mac installd[7]: a", b"2026-07-01 10:00:00+02", ""),  # macOS
        (b"2026-07-01 10:00:00.123 CEST [12] LOG:  a", b"2026-07-01 10:00:00.123 CEST", "CEST"),  # PostgreSQL
        (b"2026-07-01 10:00:00.5 +0200 CEST m=+0.1 a", b"2026-07-01 10:00:00.5 +0200", ""),  # Go
        (b"2026-07-01 10:00:00 UTC [12] LOG:  a", b"2026-07-01 10:00:00 UTC", ""),
        (b"Wed Jul  1 10:00:00 EDT 2026 a word", b"Wed Jul  1 10:00:00 EDT 2026", "EDT"),  # date(1), Java
        (b"Wed, 01 Jul 2026 10:00:00 GMT a word", b"Wed, 01 Jul 2026 10:00:00 GMT", ""),  # RFC 1123
        (b"1782900000123456 a word", b"1782900000123456", ""),  # journald
        (b"1782900000123456789 a word", b"1782900000123456789", ""),  # Loki
        (b"2026-07-01T10:00:00.123456789Z stdout F a word", b"2026-07-01T10:00:00.123456789Z", ""),  # Kubernetes
        (b"2026-07-01 10:00:00,123 INFO app: a word", b"2026-07-01 10:00:00,123", "UTC is taken"),  # Python
        (b"2026-07-01 10:00:00 WARN app: a word", b"2026-07-01 10:00:00", "UTC is taken"),
    ],
)
def test_the_zone_of_a_time(line: bytes, timestamp: bytes, said: str) -> None:
    """The zone behind a time belongs to the time; one that nobody can read is said first, and a word is no zone."""
    proposal = infer([line, line])
    [row, _] = codec_of(proposal).decode([line, line]).rows
    assert row[1] == timestamp
    assert said in " ".join(proposal.doubts[:1])
    assert "UTC is taken" in said or "UTC is taken" not in " ".join(proposal.doubts)
