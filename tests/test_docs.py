"""What README.md, MIGRATION.md and docs/ say is true: commands run, links lead somewhere, every key and option is named."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from bridge.cli import cli
from bridge.core.config import ConfigFile
from bridge.core.failpoints import FAILPOINTS
from bridge.core.mapping import Mapping
from bridge.core.strict_models import known_keys
from tests import reference
from tests.support.rig import Rig

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "fixtures" / "hestai-message" / "plain" / "files" / "messages.log"
BOOKS = ["README.md", "MIGRATION.md", "docs/what-if.md", "docs/after-the-bridge.md", "docs/services.md"]

BEFORE = {"docs/after-the-bridge.md": ["bridge server start"]}
"""Commands that must have been run before those of a document: the guide ends with a server that does not run."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def commands(name: str) -> list[str]:
    """The lines of a document's console blocks."""
    blocks = "".join(re.findall(r"```console\n(.*?)```", text_of(name), re.DOTALL))
    return blocks.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("names", [BOOKS[:1], BOOKS[1:]], ids=["README.md", "the guide"])
def test_commands(names: list[str], tmp_path: Path) -> None:
    """All command lines of the documents succeed, one after the other in one shell, in a folder with a log."""
    shutil.copy(FIXTURE, tmp_path / "messages.log")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "bridge").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bridge "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    lines = [
        line for name in names for line in [*BEFORE.get(name, ()), *commands(name)] if not line.startswith("make ")
    ]
    if not shutil.which("redis-cli"):
        lines = [line for line in lines if not line.startswith("redis-cli")]
    path = "" if names == ["README.md"] else 'export PATH="$PWD/.venv/bin:$PATH"\n'  # the README says it itself
    script = tmp_path / "script.sh"
    script.write_text(f"set -ex\n{path}" + "\n".join(lines) + "\nwait\n")
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    said = tmp_path / "said"
    with said.open("w") as out:
        shell = subprocess.Popen(["sh", str(script)], cwd=tmp_path, env=env, stdout=out, stderr=out,
                                 start_new_session=True)  # fmt: skip
    try:
        code = shell.wait(240)
        assert code == 0, said.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):  # what a script that failed had started
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        subprocess.run(
            [str(programs / "bridge"), "server", "stop"], cwd=tmp_path, env=env, check=False, capture_output=True
        )


def test_make_targets() -> None:
    """Every `make` that a document names is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    for name in BOOKS:
        assert set(re.findall(r"(?:^|`)make ([a-z]+)", text_of(name), re.MULTILINE)) <= targets


def spoken(name: str) -> list[str]:
    """Commands that stand in running text: `bridge …` in backticks."""
    prose = re.sub(r"```.*?```", "", text_of(name).partition(reference.BEGIN)[0], flags=re.DOTALL)
    return [command.replace("\n", " ") for command in re.findall(r"`(?:hestai-)?bridge ([^`]*)`", prose)]


@pytest.mark.parametrize("name", BOOKS)
def test_commands_in_prose(name: str) -> None:
    """Every command in running text names a verb and options that exist."""
    assert len(spoken(name)) >= 3
    for line in spoken(name):
        command: click.Command = cli
        words = shlex.split(re.sub(r"[\[\]…]", "", line))
        while words and isinstance(command, click.Group) and "|" not in words[0]:
            found = command.commands.get(words.pop(0))
            assert found is not None, line
            command = found
        known = {opt for parameter in (*command.params, *cli.params) for opt in (*parameter.opts, "-h", "--help")}
        assert {word for word in words if word.startswith("-") and len(word) > 1} <= known, line


@pytest.mark.parametrize("name", [*BOOKS, reference.NAME])
def test_links(name: str) -> None:
    """Every link leads to a file, or to a heading of this or another document."""
    for target in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        file, _, heading = target.partition("#")
        there = (ROOT / name).parent / file if file else ROOT / name
        assert there.is_file(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if heading else []
        slugs = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not heading or heading in slugs, target


@pytest.mark.parametrize("number", range(3))
def test_programs_of_the_book(number: int, one_rig: Rig) -> None:
    """The Python programs of the book that use one log run to their end, in a folder with such a log."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "MIGRATION.md").read_text(), re.DOTALL)
    programs = [program for program in found if '"hestai-message"' in program]
    assert len(programs) == 3
    one_rig.write_config(extra='[components.ui]\nroles = ["ui"]\n[components.viewer]\n')
    one_rig.append("before")
    one_rig.once()
    env = {**os.environ, "BRIDGE_CONFIG": str(one_rig.path / "bridge.toml"), "BRIDGE_REDIS_URL": one_rig.url}
    done = subprocess.run(
        [sys.executable, "-c", programs[number]], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(one_rig.lines()) == (2, 3, 3)[number]


def test_reference() -> None:
    """The command reference is what the commands say of themselves; `make reference` writes it anew."""
    page = text_of(reference.NAME)
    assert reference.placed(page, reference.reference()) == page


def test_every_verb_is_in_the_readme() -> None:
    """Each verb stands in the README's list."""
    listed = text_of("README.md").partition("## Commands")[2].partition("Exit codes")[0]
    for name in cli.commands:
        assert re.search(rf"`(bridge )?{name}\b", listed), name
    assert "BRIDGE_CRASH_AT=mirror.write.after:3" in text_of("README.md")
    assert "mirror.write" in FAILPOINTS


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of a file's tables, with the table's name before it."""
    found = []
    for name, field in zip(known_keys(model), model.model_fields.values(), strict=True):
        inner = [annotation for annotation in (field.annotation, *getattr(field.annotation, "__args__", ()))
                 if isinstance(annotation, type) and issubclass(annotation, BaseModel)]  # fmt: skip
        tables = inner if prefix == "" and name not in ("components", "paths") else []
        found += [key for table in tables for key in keys(table, f"{name}.")] or [f"{prefix}{name}"]
    return found


@pytest.mark.parametrize(("model", "heading"), [(ConfigFile, "## bridge.toml"), (Mapping, "## Mappings")])
def test_every_key_is_in_the_book(model: type[BaseModel], heading: str) -> None:
    """Each key of bridge.toml and of a mapping stands in its table."""
    section = text_of("MIGRATION.md").partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    assert len(keys(model)) > 5
    for key in keys(model):
        assert f"`{key}" in section, key


def test_forty_situations() -> None:
    """The book answers at least forty what-ifs, each with more than a heading."""
    section = text_of("docs/what-if.md")
    situations = re.findall(r"^\*\*(.+?)\*\* (.+?)(?:\n\n|\Z)", section, re.DOTALL | re.MULTILINE)
    assert len(situations) >= 40
    assert len({question for question, _ in situations}) == len(situations)
    assert all(answer.strip() for _, answer in situations)


@pytest.mark.parametrize("name", ["MIGRATION.md", "docs/what-if.md", "docs/after-the-bridge.md", reference.NAME])
def test_no_line_is_too_long(name: str) -> None:
    """No line of the guide and of what stands beside it is over 120 columns."""
    assert [line for line in text_of(name).splitlines() if len(line) > 120] == []


def test_the_guide_has_a_map() -> None:
    """The guide's map names every chapter, in the order in which they stand."""
    before, _, rest = text_of("MIGRATION.md").partition("\n## ")
    chapters = re.findall(r"^## (.*)$", re.sub(r"```.*?```", "", f"## {rest}", flags=re.DOTALL), re.MULTILINE)
    named = [name.replace("\n ", "").replace("  ", " ") for name in re.findall(r"\[([^]]+)\]\(#", before)]
    assert [name for name in named if name in chapters] == chapters
