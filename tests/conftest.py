"""A real server for each test, of every kind there is on this machine; and a rig around one bridge."""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.streams.embedded.binary import Binary, candidates, identify
from tests.support.rig import Rig


def _binaries() -> list[Binary]:
    found: dict[str, Binary] = {}
    for path in candidates():
        binary = identify(path)
        found.setdefault(binary.flavour, binary)
    return list(found.values())


BINARIES = _binaries()


EVERY_SERVER = bool(os.environ.get("BRIDGE_SOAK"))
BOTH = ("test_faults", "test_server_crash", "test_parity_live", "test_cluster", "test_replicas")
"""Modules in which every test runs on every server: what the server does is what they are about."""


SLOW = (
    "test_nemesis", "test_raised", "test_whole_story", "test_docs", "test_model", "test_model_looks", "test_model_edits",
    "test_kinds_faults", "test_faults", "test_sentinel", "test_cluster", "test_storms", "test_hosts_storm",
    "test_retention_live", "test_metrics", "test_cutover",
)  # fmt: skip
"""Modules with tests of half a minute: begun last, one of them would be waited for alone."""


def _slow_tests_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Orders tests so that each of the workers, which begin with an even part of them each, begins with slow ones."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.path.stem in SLOW]
    rest = [item for item in items if item.path.stem not in SLOW]
    found: list[pytest.Item] = []
    for n in range(workers):
        mine = slow[n::workers]
        part = max(0, len(items) * (n + 1) // workers - len(found) - len(mine))
        found += [*mine, *rest[:part]]
        rest = rest[part:]
    return [*found, *rest]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Elsewhere each test runs on one of the servers, which by its name, so that the whole is done in minutes.

    `make soak` and BRIDGE_SOAK=1 run all of them on all.
    """
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        binary = callspec.params.get("binary") if callspec is not None else None
        if binary is None or EVERY_SERVER or item.path.stem in BOTH or len(BINARIES) < 2:
            kept.append(item)
            continue
        name = item.nodeid.replace(binary.flavour, "")
        turn = zlib.crc32(name.encode()) % len(BINARIES)
        mine = callspec is not None and binary.flavour == BINARIES[turn].flavour
        alone = item.get_closest_marker("parametrize") is not None and any(
            "binary" in mark.args[0] for mark in item.iter_markers("parametrize")
        )
        (kept if mine or alone else dropped).append(item)
    items[:] = _slow_tests_first(kept)
    if dropped:
        config.hook.pytest_deselected(items=dropped)


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of six megabytes; only root may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def mem(tmp_path: Path) -> Iterator[Rig]:
    """A rig on the server that many short tests share, with a flushed database of its own; for no running bridge."""
    made = Rig.shared(tmp_path, BINARIES[0])
    yield made
    made.close_shared()
