"""The wheel: what is in it, and that a program with our client needs nothing of what only the commands need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from bridge.__main__ import PARTS
from tests.support.project import ROOT

PROGRAM = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {PARTS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    args = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(args, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = out.glob("*.whl")
    return made


def test_what_is_in_the_wheel(wheel: Path) -> None:
    """All modules, the ledger's tables, the templates, the mappings and the mark of its types; and nothing of tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        [metadata] = [name for name in archive.namelist() if name.endswith("METADATA")]
        said = Parser().parsestr(archive.read(metadata).decode())
    there = {
        str(path.relative_to(ROOT)) for path in (ROOT / "bridge").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }  # fmt: skip
    shipped = {f"bridge/_mappings/{path.name}" for path in (ROOT / "mappings").glob("*.toml")}
    assert names == there | shipped
    assert {"bridge/py.typed", "bridge/ledger/schema.sql"} <= names
    assert said["Name"] == "hestai-bridge"
    plain = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    needed = {re.split(r"[^\w-]", line)[0] for line in plain}
    assert needed == {"redis", "pydantic", "platformdirs"}


def test_a_program_needs_no_commands(wheel: Path, tmp_path: Path) -> None:
    """A program with our client works where only the client is installed; the commands say what is missing."""
    place = tmp_path / "site"
    args = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(place),
        str(wheel),
    ]
    subprocess.run(args, check=True, timeout=120, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (tmp_path / "bridge.toml").write_text(
        'instance = "x"\nmappings = ["hestai-message"]\n[redis]\nurl = "redis://127.0.0.1:1/0"\n'
        '[components.ui]\nroles = ["ui"]\n'
    )

    def run(code: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(place)}
        return subprocess.run([sys.executable, "-P", "-c", PROGRAM + code], cwd=tmp_path, env=env, text=True,
                              capture_output=True, timeout=60, check=False)  # fmt: skip

    done = run(
        "import asyncio, logging, bridge\n"
        f"assert bridge.__file__.startswith({str(place)!r}), bridge.__file__\n"
        "with bridge.open_log('hestai-message', 'ui') as log:\n"
        "    log.append('say', 'a')\n"
        "async def main():\n"
        "    async with bridge.aio.open_log('hestai-message', 'ui') as log:\n"
        "        await log.append('say', 'b')\n"
        "asyncio.run(main())\n"
        "handler = bridge.BridgeHandler('hestai-message', 'ui')\n"
        "handler.close()\n"
    )
    assert done.returncode == 0, done.stderr
    done = run("from bridge.__main__ import main\nmain()\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'hestai-bridge[cli]'" in done.stderr


def test_the_public_names() -> None:
    """What `bridge` and `bridge.aio` offer is few, listed, and there."""
    import bridge
    from bridge import aio

    for module in (bridge, aio):
        assert sorted(module.__all__) == [*module.__all__]
        for name in module.__all__:
            assert getattr(module, name).__doc__
