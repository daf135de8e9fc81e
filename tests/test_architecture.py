"""Imports run downwards only (DESIGN §4), one room owns each library, and no module outgrows its room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "bridge"
MODULES = sorted(ROOT.rglob("*.py"))

# Each room and the rooms it may import; a room may always import itself.
LEAVES = {"errors", "model", "points"}
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "model": set(),
    "points": set(),
    "words": set(),
    "schema": {"errors"},
    "paths": {"codecs"},
    "codecs": {"errors", "model"},
    "sections": {"errors", "schema", "codecs"},
    "globs": set(),
    "mapping": {"errors", "schema", "sections", "codecs", "globs"},
    "config": {"errors", "schema", "mapping", "paths"},
    "files": {"errors", "model", "globs"},
    "ledger": {"errors", "model", "files"},
    "streams": {"errors", "model", "config"},
    "server": {"errors", "streams"},
    "log": {"errors", "ledger"},
    "carry": {
        "errors",
        "globs",
        "model",
        "points",
        "words",
        "config",
        "paths",
        "sections",
        "mapping",
        "codecs",
        "files",
        "streams",
        "ledger",
        "log",
    },
    "dial": {"errors", "config", "streams", "server"},
    "tune": set(),
    "run": {"tune", "errors", "config", "dial", "carry", "files", "streams", "server", "ledger", "log"},
    "drain": {"errors", "dial", "config", "mapping", "carry", "streams", "ledger", "log", "run"},
    "history": {"errors", "dial", "model", "config", "mapping", "carry", "streams", "ledger", "log", "run"},
    "preview": {
        "errors",
        "dial",
        "model",
        "config",
        "mapping",
        "codecs",
        "check",
        "carry",
        "files",
        "streams",
        "ledger",
        "run",
    },
    "parity": {
        "globs",
        "words",
        "errors",
        "model",
        "config",
        "paths",
        "mapping",
        "codecs",
        "carry",
        "files",
        "streams",
        "ledger",
    },
    "acknowledge": {"errors", "model", "carry", "ledger", "parity"},
    "mend": {"errors", "model", "mapping", "points", "carry", "files", "streams", "ledger", "parity"},
    "status": {"errors", "dial", "model", "config", "carry", "files", "streams", "ledger", "run"},
    "headline": {"words", "carry", "ledger", "status"},
    "metrics": {"errors", "config", "carry", "ledger", "log", "run", "status"},
    "move": {"errors", "model", "points", "config", "streams", "server"},
    "snapshot": {"errors", "model", "carry", "streams", "ledger"},
    "search": {"errors", "model", "carry", "files", "streams", "ledger"},
    "redact": {"errors", "model", "points", "carry", "files", "streams", "ledger", "search"},
    "locate": {"errors", "check", "model", "config", "carry", "streams", "ledger", "search"},
    "check": {"errors", "model", "mapping", "codecs", "files"},
    "discover": {"errors", "files", "mapping", "check"},
    "client": {"errors", "model", "config", "mapping", "codecs", "carry", "files", "streams", "ledger", "log", "dial"},
    "cutover": {
        "errors",
        "model",
        "points",
        "config",
        "mapping",
        "carry",
        "files",
        "streams",
        "ledger",
        "log",
        "dial",
        "parity",
        "snapshot",
        "status",
    },
    "retention": {
        "carry",
        "errors",
        "model",
        "points",
        "words",
        "sections",
        "config",
        "mapping",
        "streams",
        "ledger",
        "log",
        "dial",
        "parity",
    },
    "notify": set(),
    "service": {"errors", "config"},
    "acl": {"config", "mapping", "streams"},
    "doctor": {
        "carry",
        "errors",
        "model",
        "words",
        "config",
        "mapping",
        "files",
        "streams",
        "ledger",
        "run",
        "server",
    },
    "demo": {"errors", "model", "client", "streams", "server", "ledger", "run"},
    "cli": {"*"},
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    """A room imports only the rooms below it."""
    here = room(path)
    if here in ("__init__", "__main__", "cli"):
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("bridge.")} - {here}
    assert used <= BELOW[here], f"{path.name} imports {sorted(used - BELOW[here])}"


@pytest.mark.parametrize(
    ("library", "owner"), [("redis", "streams"), ("hiredis", "streams"), ("sqlite_utils", "ledger"), ("sqlite3", "ledger"),
                           ("watchdog", "files")]
)  # fmt: skip
def test_one_room_owns_a_library(library: str, owner: str) -> None:
    """Redis is reached from streams/ alone, SQLite from ledger/, watchdog from files/."""
    users = {room(path) for path in MODULES if any(name.split(".")[0] == library for name in imports(path))}
    assert users == {owner}


def test_banks_do_not_know_each_other() -> None:
    """files/ imports nothing of streams/, and the other way round; codecs do no I/O and read no clock."""
    for path in MODULES:
        if room(path) == "files":
            assert not any(name.startswith("bridge.streams") for name in imports(path))
        if room(path) == "streams":
            assert not any(name.startswith("bridge.files") for name in imports(path))
        if room(path) == "codecs":
            assert not {"os", "time", "socket", "pathlib"} & set(imports(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    """No module is over 400 lines."""
    assert len(path.read_text().splitlines()) <= 400
