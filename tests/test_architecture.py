"""Imports run downwards only (DESIGN §4), one room owns each library, and no module outgrows its room."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "bridge"
MODULES = sorted(ROOT.rglob("*.py"))

# Each room and the rooms it may import beside itself. The admin's and the command line may import all below them.
BELOW: dict[str, str] = {
    "core": "",
    "files": "core",
    "streams": "core",
    "ledger": "core files",
    "continuity": "core streams ledger",
    "kinds": "core files streams ledger continuity",
    "engine": "core files streams ledger continuity kinds",
    "parity": "core files streams ledger continuity",
    "client": "core files streams ledger continuity kinds",
    "cutover": "core files streams ledger continuity kinds engine parity client",
    "admin": "core files streams ledger continuity kinds engine parity client cutover",
    "cli": "core files streams ledger continuity kinds engine parity client cutover admin",
}

# The same of rooms inside rooms: which others of the same room each may import; "." are the modules beside them.
INSIDE: dict[str, dict[str, str]] = {
    "kinds": {"log": ".", "spool": ".", "state": ".", "artifacts": ". spool", "context": ". log"},
    "engine": {"account": ""},
    "parity": {"log": "."},
    "admin": {
        "demo": "",
        "doctor": ".",
        "metrics": "",
        "repair": ".",
        "retention": "",
        "retire": ". retention",
        "survey": "",
    },
}


def module(path: Path) -> str:
    """The dotted name of a module, without `bridge.`; of a package, its own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(path: Path) -> str:
    """The room that a module stands in."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    """The modules that a module imports, wherever in it: of `from bridge.files import tail`, `bridge.files.tail`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [name for alias in node.names if (name := f"{node.module}.{alias.name}") in NAMES]
            found += inner or [node.module]
    return found


NAMES = {f"bridge.{module(path)}" for path in MODULES}


def test_there_is_no_room_but_these() -> None:
    """Each module stands in a room that the table names."""
    assert {room(path) for path in MODULES} == {*BELOW, "__init__", "__main__", "aio"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    """A room imports only the rooms below it, and so do the rooms inside it."""
    here = room(path)
    if here not in BELOW:
        return
    used = [name.split(".")[1:] for name in imports(path) if name.startswith("bridge.")]
    above = {name[0] for name in used if name} - {here, *BELOW[here].split()}
    assert not above, f"{path.name} imports {sorted(above)}"
    rooms = INSIDE.get(here, {})
    inner = module(path).split(".")[1] if len(module(path).split(".")) > 1 else "."
    if inner in rooms:
        beside = {name[1] if len(name) > 1 and name[1] in rooms else "." for name in used if name[:1] == [here]}
        assert beside <= {inner, *rooms[inner].split()}, f"{path.name} imports {sorted(beside)}"


def test_there_is_no_circle() -> None:
    """No module imports, over others, itself; not for its annotations either."""
    needs = {module(path): {name[7:] for name in imports(path) if name.startswith("bridge.")} for path in MODULES}
    TopologicalSorter({name: needs[name] - {name} for name in needs}).prepare()


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


def test_no_statement_numbers_its_values() -> None:
    """No SQL has `?1`: with values by place, Python 3.12 warns of it, and 3.14 refuses it."""
    for path in MODULES:
        texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        text = " ".join(value for value in texts if isinstance(value, str))
        assert not re.search(r"(?:VALUES|WHERE|SET|AND|=|<) ?\(?\?\d", text), path
