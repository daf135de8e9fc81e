"""The commands as a user meets them: help, configuration, init, mapping, server, demo."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.cli import cli
from bridge.core.config import ConfigFile, load
from bridge.core.errors import ConfigError
from bridge.core.server_address import masked
from bridge.streams.embedded import binary, embedded_server
from tests.support import zygote
from tests.support.project import ROOT

FIXTURE = ROOT / "fixtures" / "hestai-message" / "plain" / "files" / "messages.log"
REAL = ROOT.parent / "shared" / "data" / "hestai" / "messages.log"


def bridge(cwd: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One command."""
    return zygote.run("bridge", args, cwd=cwd, env={**os.environ, **(env or {})})


def test_every_verb_has_help(tmp_path: Path) -> None:
    """`-h` works everywhere and every verb says what it does."""
    top = bridge(tmp_path, "-h")
    assert top.returncode == 0
    verbs = [
        row.split()[0] for row in top.stdout.split("Commands:")[1].split("\n\n")[0].splitlines() if row.startswith("  ")
    ]
    assert set(cli.commands) == set(verbs)
    for name in verbs:
        result = bridge(tmp_path, name, "--help")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) > 4


def test_misspelt(tmp_path: Path) -> None:
    """A misspelt verb or option names the near one, and exits 2."""
    result = bridge(tmp_path, "rnu")
    assert result.returncode == 2
    assert "run" in result.stderr
    result = bridge(tmp_path, "run", "--daul")
    assert result.returncode == 2
    assert "--dual" in result.stderr


def test_without_configuration(tmp_path: Path) -> None:
    """Without bridge.toml a command says how to make one, and exits 2."""
    result = bridge(tmp_path, "run")
    assert result.returncode == 2
    assert "bridge init" in result.stderr


def test_init(tmp_path: Path) -> None:
    """init writes a file that loads, and never overwrites one."""
    result = bridge(
        tmp_path, "init", "--mapping", "hestai-message", "--json", "--redis", "redis://:secret@localhost:6390/2"
    )
    assert json.loads(result.stdout)["redis"] == "redis://:***@localhost:6390/2"
    settings = load(config=None, redis=None, env={}, cwd=tmp_path)
    assert settings.redis_url == "redis://:secret@localhost:6390/2"
    assert settings.mappings[0].name == "hestai-message"
    before = (tmp_path / "bridge.toml").read_bytes()
    again = bridge(tmp_path, "init")
    assert again.returncode == 2
    assert "left alone" in again.stderr
    assert (tmp_path / "bridge.toml").read_bytes() == before


LINES = b"agent|2026-03-02T09:14:05Z|said|hello\nbroken\nui|2026-03-02T09:14:06Z|said|\x1b[31mred\n"


def test_init_shows_what_it_found(tmp_path: Path) -> None:
    """init tells how the first lines translate and how many of all, rotated pieces too, and what does not."""
    (tmp_path / "messages.log").write_bytes(LINES)
    (tmp_path / "messages.log.1").write_bytes(LINES * 3)
    done = bridge(tmp_path, "init")
    assert done.returncode == 0
    assert "messages.log.1, 249 bytes: 6 of 9 lines translate" in done.stdout
    assert "messages.log, 83 bytes: 2 of 3 lines translate" in done.stdout
    assert "role=agent  timestamp=2026-03-02T09:14:05Z  type=said  data=hello" in done.stdout
    assert "1 × 1 of 4 columns, line 2: broken" in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "\x1b" not in done.stdout
    for line in (tmp_path / "bridge.toml").read_text().splitlines():
        assert not line.partition("#")[0] or "=" in line or line.startswith("["), line


def test_init_elsewhere(tmp_path: Path) -> None:
    """Without a log that a mapping names, init says what it saw and what to try, and writes nothing; that works."""
    (tmp_path / "notes.txt").write_text("hello\n")
    done = bridge(tmp_path, "init")
    assert done.returncode == 2
    assert "seen: notes.txt" in done.stderr
    (tmp_path / "chat.log").write_bytes(LINES)
    done = bridge(tmp_path, "init")
    assert done.returncode == 2
    assert "a mapping can be proposed for chat.log (66.6 % of it translates)" in done.stderr
    assert "bridge init --yes" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "chat.log"}
    done = bridge(tmp_path, "init", "--log", "chat.log")
    assert done.returncode == 0, done.stderr
    assert "chat: chat.log → chat:messages" in done.stdout
    [mapping] = load(config=None, redis=None, env={}, cwd=tmp_path).mappings
    assert (mapping.name, mapping.source.path, mapping.source.rotated) == ("chat", "chat.log", ("chat.log.*",))
    assert mapping.format.columns == ("role", "timestamp", "type", "data")
    assert mapping.mirror is not None
    assert mapping.mirror.path == "chat.log"


def test_init_takes_what_it_proposes(tmp_path: Path) -> None:
    """With --yes a mapping is written for each unknown log, with its doubts, and taken; its own files are no logs."""
    stamps = [f"2026-03-02 09:14:{n:02},123" for n in range(9)]
    (tmp_path / "app.log").write_text("".join(f"{at} INFO app: hello\n" for at in stamps))
    (tmp_path / "app.log.1").write_text("".join(f"{at} INFO app: hello before\n" for at in stamps[:3]))
    (tmp_path / "messages.log").write_bytes(LINES)
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "deep").mkdir()
    for n in range(3):
        (tmp_path / "deep" / f"{n}.jsonl").write_text('{"role":"a","type":"t","ts":"2026-03-02T09:14:05Z"}\n')
    seen = bridge(tmp_path, "init")
    assert seen.returncode == 0, seen.stderr
    for said in ("app.log → app:messages: a mapping is proposed", "not sure: timezone", "deep → deep:messages",
                 "`bridge mapping infer app.log > app.toml`", "1 file: notes.txt"):  # fmt: skip
        assert said in seen.stdout
    assert len(load(config=None, redis=None, env={}, cwd=tmp_path).mappings) == 1
    (tmp_path / "bridge.toml").unlink()
    done = json.loads(bridge(tmp_path, "init", "--yes", "--json").stdout)
    assert done["mappings"] == ["hestai-message", "./app.toml", "./deep.toml"]
    assert (done["not_understood"], [told["taken"] for told in done["proposals"]]) == (["notes.txt"], [True, True])
    assert (tmp_path / "app.toml").read_text().startswith("#:schema .bridge/schema/mapping.json\n# Not sure: timezone")
    for folder in ("app.toml", "deep.toml"):
        assert bridge(tmp_path, "mapping", "check", folder).returncode == 0
    assert len(load(config=None, redis=None, env={}, cwd=tmp_path).mappings) == 3
    (tmp_path / "bridge.toml").unlink()
    again = bridge(tmp_path, "init", "--yes")
    assert (again.returncode, "app.toml: is there already" in again.stderr) == (2, True)
    assert not (tmp_path / "bridge.toml").exists()


def test_schemas_for_editors(tmp_path: Path) -> None:
    """init writes both JSON Schemas where the first lines of its files point, the same as the commands print."""
    (tmp_path / "messages.log").write_bytes(LINES)
    bridge(tmp_path, "init")
    first = (tmp_path / "bridge.toml").read_text().splitlines()[0]
    for name in ("config", "mapping"):
        there = json.loads((tmp_path / f".bridge/schema/{name}.json").read_text())
        assert there == json.loads(bridge(tmp_path, name, "schema").stdout)
    assert first == "#:schema .bridge/schema/config.json"
    schema = json.loads(bridge(tmp_path, "config", "schema").stdout)
    assert set(schema["properties"]) == set(ConfigFile.model_fields)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("name", "said"), [("none.log", "no such file"), ("../x.log", "not below the root"), ("empty.log", "is empty"),
                       ("wide.log", "text in UTF-16")]
)  # fmt: skip
def test_init_with_a_log_that_is_none(tmp_path: Path, name: str, said: str) -> None:
    """--log refuses what it cannot write a mapping for, says why, and writes nothing."""
    here = tmp_path / "here"
    here.mkdir()
    if name != "none.log":
        (here / name).write_bytes({"empty.log": b"", "wide.log": LINES.decode().encode("utf-16")}.get(name, LINES))
    done = bridge(here, "init", "--log", name)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(here.glob("*.toml"))


@pytest.mark.parametrize("name", ["[a].log", "x'; touch PWNED; '.log", "*.log"])
def test_init_with_a_log_of_an_odd_name(tmp_path: Path, name: str) -> None:
    """A name that means something in a glob or a shell is a name: the log is carried, and the command quotes it."""
    (tmp_path / name).write_bytes(LINES)
    (tmp_path / "messages.log").write_bytes(LINES)
    hint = bridge(tmp_path, "init").stdout.partition("bridge mapping infer ")[2].partition(" > ")[0]
    assert shlex.split(hint) == [name]
    (tmp_path / "bridge.toml").unlink()
    done = bridge(tmp_path, "init", "--log", name)
    assert done.returncode == 0, done.stderr
    [mapping] = load(config=None, redis=None, env={}, cwd=tmp_path).mappings
    assert mapping.claims(name)
    assert not mapping.claims("a.log")


def test_init_mistakes(tmp_path: Path) -> None:
    """A folder that is none, a url without a scheme, --config, a server that is away: each says what to try."""
    for args, said in (
        (("--root", "none"), "is no folder"),
        (("--redis", "localhost:6379"), "did you mean redis://localhost:6379?"),
        (("--redis", "embeded"), "did you mean embedded?"),
        (("--redis", "redis://localhost/x"), "database 'x' is no number"),
        (("--config", "x.toml"), "init writes ./bridge.toml"),
        (("--mapping", "none.toml"), "no such mapping file"),
    ):
        done = bridge(tmp_path, "init", *args)
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
        assert not (tmp_path / "bridge.toml").exists()
    away = bridge(tmp_path, "init", "--mapping", "hestai-message", "--redis", "redis://127.0.0.1:1/0")
    assert away.returncode == 0
    assert "is the server running?" in away.stdout


@pytest.mark.parametrize(("shell", "words"), [("bash", "bridge st"), ("zsh", "bridge st"), ("fish", "bridge st")])
def test_completion(tmp_path: Path, shell: str, words: str) -> None:
    """The printed script names the variable that makes `bridge` complete, and that completes verbs and mappings."""
    script = bridge(tmp_path, "completion", shell)
    assert script.returncode == 0
    assert f"_BRIDGE_COMPLETE={shell}_complete" in script.stdout
    code = "import sys; sys.argv = ['bridge']; from bridge.cli import main; main()"

    def complete(line: str, at: int) -> str:
        env = {**os.environ, "_BRIDGE_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(at)}
        if shell == "fish":
            env["COMP_CWORD"] = line.split()[at]
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True,
                              timeout=60, check=False).stdout  # fmt: skip

    assert "status" in complete(words, 1)
    assert "hestai-message" in complete("bridge tail hest", 2)
    assert bridge(tmp_path, "completion", env={"SHELL": "/bin/tcsh"}).returncode == 2


def test_loud_and_quiet(tmp_path: Path) -> None:
    """-v and -q together are refused; an unknown crash point is told, not a trace."""
    bridge(tmp_path, "init", "--mapping", "hestai-message")
    assert bridge(tmp_path, "-v", "run", "-q").returncode == 2
    wrong = bridge(tmp_path, "status", env={"BRIDGE_CRASH_AT": "bogus"})
    assert wrong.returncode == 2
    assert "unknown point 'bogus'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    (tmp_path / "bridge.toml").write_text('instance = "a"\nroot = "none"\nmappings = ["hestai-message"]\n')
    none = bridge(tmp_path, "run", "--once")
    assert none.returncode == 2
    assert "root is no folder" in none.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('instance = "a"\nmappings = "hestai-message"', "'mappings': must be a list"),
        ('instance = 7\nmappings = ["hestai-message"]', "'instance': must be text"),
        ('instance = "a"\nmappings = []', "'mappings': must not be empty"),
        ('instance = "a"\nmappings = ["hestai-message"]\nredis = 3', "'redis': must be a table"),
        ('instance = "a"\nmapings = ["hestai-message"]', "did you mean 'mappings'"),
        ('instance = "a"\nmappings = ["hestai-mesage"]', "did you mean 'hestai-message'"),
        ('instance = "a"\nmappings = ["hestai-message"]\n[redis]\nurll = "x"', "did you mean 'url'"),
        ('instance = "a"\nmappings = ["hestai-message"]\n[redis]\nurl = "redis+sentinel://x"', "not supported yet"),
        ('instance = "a"\nmappings = ["hestai-message", "hestai-message"]', "twice"),
        ('instance = "a"\nmappings = ["hestai-message"]\n[components.ui]\nroles = ["../x"]', "must match"),
        ("instance = ", "not valid TOML"),
        ('mappings = ["hestai-message"]', "'instance' is missing"),
    ],
)
def test_wrong_configuration(tmp_path: Path, text: str, said: str) -> None:
    """A wrong bridge.toml exits 2 and names the key, and the nearest known one."""
    (tmp_path / "bridge.toml").write_text(text)
    result = bridge(tmp_path, "run", "--once")
    assert result.returncode == 2
    assert said in result.stderr


def test_precedence(tmp_path: Path) -> None:
    """Flag > environment > file; paths in the environment are relative to the working directory."""
    (tmp_path / "bridge.toml").write_text(
        'instance = "a"\nmappings = ["hestai-message"]\n[redis]\nurl = "redis://file"'
    )
    env = {"BRIDGE_REDIS_URL": "redis://env", "BRIDGE_ROOT": "r", "BRIDGE_STATE_DIR": "s", "BRIDGE_LOG_FORMAT": "json"}
    assert load(config=None, redis=None, env={}, cwd=tmp_path).redis_url == "redis://file"
    loaded = load(config=None, redis=None, env=env, cwd=tmp_path)
    assert loaded.redis_url == "redis://env"
    assert loaded.root == tmp_path / "r"
    assert loaded.state_dir == tmp_path / "s"
    assert loaded.log_format == "json"
    assert load(config=None, redis="redis://flag", env=env, cwd=tmp_path).redis_url == "redis://flag"
    with pytest.raises(ConfigError):
        load(config="none.toml", redis=None, env={}, cwd=tmp_path)


def test_secrets_are_masked() -> None:
    """No password in what is shown, in the user part or the query."""
    for url in ("redis://:pw@h/0", "rediss://u:pw@h:1/0?password=pw", "unix://u:pw@/tmp/s?db=0&password=pw"):
        assert "pw" not in masked(url)


def test_global_options_before_and_after(tmp_path: Path) -> None:
    """--json means the same before and after the verb."""
    before, after = bridge(tmp_path, "--json", "mapping", "list"), bridge(tmp_path, "mapping", "list", "--json")
    assert before.stdout == after.stdout
    assert "hestai-message" in [mapping["name"] for mapping in json.loads(before.stdout)]


def test_mapping_show_and_check(tmp_path: Path) -> None:
    """show prints the file; check tells how many lines translate, and why the others do not, with line numbers."""
    shown = bridge(tmp_path, "mapping", "show", "hestai-message", "--json")
    assert json.loads(shown.stdout)["format"]["delimiter"] == "|"
    log = tmp_path / "a.log"
    log.write_bytes(FIXTURE.read_bytes() + b"broken\nbad|never|t|d\nbroken \x1b[31m\nhalf")
    result = bridge(tmp_path, "mapping", "check", "hestai-message", str(log), "--json")
    assert result.returncode == 3
    facts = json.loads(result.stdout)
    assert (facts["translated"], facts["rejected"], facts["empty"], facts["partial_bytes"]) == (8, 3, 1, 4)
    assert facts["reasons"][0] == {"reason": "1 of 4 columns", "count": 2, "lines": [10, 12], "example": "broken"}
    text = bridge(tmp_path, "mapping", "check", "hestai-message", str(log))
    assert "8 of 11 lines translate" in text.stdout
    assert "\x1b" not in text.stdout
    assert bridge(tmp_path, "mapping", "check", "hestai-message", str(FIXTURE)).returncode == 0
    assert bridge(tmp_path, "mapping", "check", "hestai-message", "none").returncode == 1


def test_server(tmp_path: Path) -> None:
    """start, status, url, stop: the server stays between commands, keeps its data and its url, and listens privately."""
    try:
        assert bridge(tmp_path, "server", "status").returncode == 1
        assert bridge(tmp_path, "server", "start").returncode == 0
        facts = json.loads(bridge(tmp_path, "server", "status", "--json").stdout)
        assert facts["running"]
        url = json.loads(bridge(tmp_path, "server", "url", "--json").stdout)
        assert url["url"].startswith("redis://default:")
        assert Path(url["socket"]).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / ".bridge").stat().st_mode & 0o777 == 0o700
        server = embedded_server.known(tmp_path / ".bridge")
        assert server is not None
        connection = embedded_server.dial(server.state_dir, 5)
        connection.call("SET", "kept", "yes")
        connection.close()
        assert bridge(tmp_path, "server", "stop").returncode == 0
        assert "not running" in bridge(tmp_path, "server", "stop").stdout
        assert bridge(tmp_path, "server", "start").returncode == 0
        assert json.loads(bridge(tmp_path, "server", "url", "--json").stdout) == url
        connection = embedded_server.dial(server.state_dir, 5)
        assert connection.call("GET", "kept") == b"yes"
        connection.close()
        stamp = tmp_path / ".bridge" / "server" / "data" / "SERVER.json"
        bridge(tmp_path, "server", "stop")
        stamp.write_text(json.dumps({"flavour": "redis", "version": [99, 0, 0]}))
        refused = bridge(tmp_path, "server", "start")
        assert refused.returncode == 1
        assert "was written by redis 99.0.0" in refused.stderr
    finally:
        bridge(tmp_path, "server", "stop")


def test_no_server_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server program the error names three ways out."""
    monkeypatch.setattr(binary, "candidates", list)
    with pytest.raises(Exception, match="no Redis or Valkey") as caught:
        embedded_server.start(tmp_path / ".bridge")
    assert "three ways out" in getattr(caught.value, "hint", "")


@pytest.mark.skipif(not REAL.exists(), reason="the real HestAI files are not on this machine")
def test_real_log(tmp_path: Path) -> None:
    """88 real lines become entries, an XADD becomes the last line, and another run changes neither side."""
    log = tmp_path / "messages.log"
    log.write_bytes(REAL.read_bytes())
    try:
        bridge(tmp_path, "init")
        first = bridge(tmp_path, "run", "--dual", "--once", "--json")
        assert json.loads(first.stdout)[0]["forwarded"] == 88
        connection = embedded_server.dial(tmp_path / ".bridge", 5)
        connection.call(
            "XADD",
            "hestai:messages",
            "*",
            "role",
            "ui",
            "timestamp",
            "2026-11-21T00:00:00Z",
            "type",
            "t",
            "data",
            "a|b\\",
        )
        assert bridge(tmp_path, "run", "--dual", "--once").returncode == 0
        assert log.read_bytes() == REAL.read_bytes() + b"ui|2026-11-21T00:00:00Z|t|a|b\\\n"
        last = bridge(tmp_path, "run", "--dual", "--once", "--json")
        assert json.loads(last.stdout) == [
            {
                "mapping": "hestai-message",
                "forwarded": 0,
                "mirrored": 0,
                "quarantined": 0,
                "errors": [],
                "unaccounted": [],
            }
        ]
        assert connection.call("XLEN", "hestai:messages") == 89
        connection.close()
    finally:
        bridge(tmp_path, "server", "stop")


def test_status_starts_nothing(tmp_path: Path) -> None:
    """`status` in a fresh folder says that nothing runs, exits 5 and starts no server."""
    bridge(tmp_path, "init", "--mapping", "hestai-message")
    found = bridge(tmp_path, "status")
    assert found.returncode == 5
    assert "the embedded server does not run" in found.stdout
    assert bridge(tmp_path, "server", "status").returncode == 1


def test_impossible_port(tmp_path: Path) -> None:
    """A url with a port that is none is a configuration error before anything is tried."""
    for args in (("init", "--redis", "redis://h:port/0"), ("run", "--once", "--redis", "redis://h:99999/0")):
        result = bridge(tmp_path, *args)
        assert result.returncode == 2, result.stderr
        bridge(tmp_path, "init")


def test_what_the_system_refuses_is_said_without_a_trace(tmp_path: Path) -> None:
    """As on a full disk: here the lock of the state directory is a folder."""
    (tmp_path / "messages.log").touch()
    (tmp_path / "bridge.toml").write_text('instance = "i"\nmappings = ["hestai-message"]\n')
    (tmp_path / ".bridge" / "lock").mkdir(parents=True)
    result = bridge(tmp_path, "run", "--once")
    assert result.returncode == 1
    assert "the system refused: Is a directory" in result.stderr
    assert "Traceback" not in result.stderr
