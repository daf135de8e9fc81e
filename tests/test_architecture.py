"""Imports run downwards only (DESIGN §4), one room owns each library, and no module outgrows its room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "bridge"
MODULES = sorted(ROOT.rglob("*.py"))

# Each room and the rooms it may import; a room may always import itself.
BELOW: dict[str, set[str]] = {
    "core": set(),
    "tune": set(),
    "files": {"core"},
    "streams": {"core"},
    "ledger": {"core", "files"},
    "log": {"core", "ledger"},
    "carry": {"core", "files", "streams", "ledger", "log"},
    "parity": {"core", "files", "streams", "ledger", "carry"},
    "client": {"core", "files", "streams", "ledger", "log", "carry"},
    "run": {"core", "files", "streams", "ledger", "log", "carry", "tune"},
    "drain": {"core", "streams", "ledger", "log", "carry", "run"},
    "history": {"core", "streams", "ledger", "log", "carry", "run"},
    "status": {"core", "files", "streams", "ledger", "carry", "run"},
    "headline": {"core", "ledger", "carry", "status"},
    "cutover": {"core", "files", "streams", "ledger", "log", "carry", "parity", "status"},
    "admin": {"*"},
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
    if here == "admin":
        assert not any(name.startswith("bridge.cli") for name in imports(path))
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
        if path.is_relative_to(ROOT / "core" / "codecs"):
            assert not {"os", "time", "socket", "pathlib"} & set(imports(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    """No module is over 400 lines."""
    assert len(path.read_text().splitlines()) <= 400
