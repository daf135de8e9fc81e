"""A real server for each test, of every kind there is on this machine; and a rig around one bridge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.server.binary import Binary, candidates, identify
from tests.rig import Rig


def _binaries() -> list[Binary]:
    found: dict[str, Binary] = {}
    for path in candidates():
        binary = identify(path)
        found.setdefault(binary.flavour, binary)
    return list(found.values())


BINARIES = _binaries()


@pytest.fixture(params=BINARIES, ids=lambda binary: binary.flavour)
def binary(request: pytest.FixtureRequest) -> Binary:
    """Every server program there is: the embedded Valkey, and a redis-server on PATH."""
    found: Binary = request.param
    return found


@pytest.fixture(autouse=True)
def _any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is not folded to the width of the terminal the tests were started from."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def rig(tmp_path: Path, binary: Binary) -> Iterator[Rig]:
    """A folder, a server and a bridge.toml; whatever was started is stopped afterwards."""
    made = Rig(tmp_path, binary)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def one_rig(tmp_path: Path) -> Iterator[Rig]:
    """The same with the first kind of server, where the kind makes no difference."""
    made = Rig(tmp_path, BINARIES[0])
    try:
        yield made
    finally:
        made.close()
