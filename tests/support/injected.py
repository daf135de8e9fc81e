"""`bridge` with errors injected into its own calls: each kind of OSError at each place that makes a system call, once.

Run as a child process, as `python -m tests.support.injected run --dual`. INJECT is a folder: the file `go` in it lets errors
come, INJECT_KINDS of them at each place in the order of INJECT_SEED; `told` gets a line for each, and `done` appears
once nothing new was left to inject for a while. The file `over` ends them. INJECT_FILES: so many descriptors are all it has; 0: as many as may be.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import random
import resource
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bridge

HOUSE = str(Path(bridge.__file__).parent)
CALLS = (
    "open", "read", "pread", "write", "lseek", "fstat", "stat", "lstat", "rename", "replace", "link", "unlink", "fsync",
    "scandir", "listdir", "mkdir", "readlink", "chmod",
)  # fmt: skip
KINDS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.ESTALE)
SHORT = -1
"""No error: the half of what was to be written is, as on a disk that becomes full. For who wants one more than KINDS."""

EVERY = 0.02
"""Seconds between two errors, at least: what failed is tried again, and must have a chance."""

QUIET = 1.5
"""Seconds without a new place after which all is injected."""

LEAF = "/ledger/store.py"
"""Whose frames say nothing of who asked."""

NOT_IN = ("/server/", "/streams/", "/cli/", "/config.py", "/service.py")
"""What works on no file of the user's while it runs."""


class Injector:
    """Which errors were injected where. Thread-safe."""

    def __init__(self, folder: Path, seed: int, kinds: int) -> None:
        self._folder = folder
        self._kinds = kinds
        self._lock = threading.Lock()
        self._left: dict[str, list[int]] = {}
        self._next = 0.0
        self._new = 0.0
        self._dice = random.Random(seed)
        self._inside = threading.local()
        self._go = False
        self._over = False
        self._told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def due(self, call: str) -> int:
        """The errno for this call, made by the innermost frame of the house; 0: none."""
        if getattr(self._inside, "on", False):
            return 0
        place = _place()
        if place is None:
            return 0
        now = time.monotonic()
        with self._lock:
            self._inside.on = True
            try:
                if not self._go:
                    self._go = (self._folder / "go").exists()
                    self._new = now
                    return 0
                site = f"{call} {place}"
                if site not in self._left:
                    kinds = [*KINDS, SHORT] if call == "write" and self._kinds > len(KINDS) else [*KINDS]
                    self._left[site] = self._dice.sample(kinds, min(self._kinds, len(kinds)))
                    self._new = now
                left = self._left[site]
                if now >= self._next and left and not self._over and self._dice.random() < 0.5:
                    self._over = (self._folder / "over").exists()
                    if self._over:
                        return 0
                    self._next = now + EVERY
                    self._new = now
                    code = left.pop()
                    os.write(self._told, f"{errno.errorcode.get(code, 'SHORT')} at {site}\n".encode())
                    return code
                if now - self._new > QUIET:
                    (self._folder / "done").touch()
                return 0
            finally:
                self._inside.on = False


def _place() -> str | None:
    """The two innermost lines of the house that lead to the call; None where it is none of the house's own."""
    frame: Any = sys._getframe(3)
    found: list[str] = []
    while frame is not None and len(found) < 2:
        name = frame.f_code.co_filename
        if name.startswith(HOUSE):
            short = name[len(HOUSE) :]
            if short.startswith(NOT_IN):
                return None
            if not (found and short == LEAF):
                found.append(f"{short[1:]}:{frame.f_lineno}")
        elif not found and ("/importlib" in name or name.startswith("<frozen") or "/site-packages/" in name):
            return None
        frame = frame.f_back
    return " < ".join(found) or None


def _failing(injector: Injector, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **more: Any) -> Any:
        code = injector.due(name)
        if code == SHORT:
            fd, data = args
            return real(fd, bytes(data[: len(data) // 2]), **more)
        if code:
            raise OSError(code, os.strerror(code))
        return real(*args, **more)

    return call


def _ledger(injector: Injector) -> None:
    """The ledger's disk: a statement, a BEGIN or a COMMIT that SQLite refuses, and rolls back."""
    from bridge.ledger import store

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            verb = sql.split(None, 1)[0].upper()
            if verb != "ROLLBACK" and injector.due(f"sqlite {verb}"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *args)

    real = sqlite3.connect
    store.sqlite3 = type("Sqlite", (), {  # type: ignore[assignment,attr-defined]
        **{name: getattr(sqlite3, name) for name in dir(sqlite3) if not name.startswith("__")},
        "connect": staticmethod(lambda *args, **more: real(*args, factory=Failing, **more)),
    })  # fmt: skip


def main(args: Sequence[str]) -> None:
    """`bridge` with these arguments."""
    if files := int(os.environ.get("INJECT_FILES", "0")):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    injector = Injector(Path(os.environ["INJECT"]), int(os.environ["INJECT_SEED"]), int(os.environ["INJECT_KINDS"]))
    for name in CALLS:
        setattr(os, name, _failing(injector, name, getattr(os, name)))
    builtins.open = _failing(injector, "open", builtins.open)
    fcntl.flock = _failing(injector, "flock", fcntl.flock)
    _ledger(injector)
    from bridge.cli import main as cli
    from bridge.kinds.spool import scanner
    from bridge.streams.dial import Backoff

    Backoff.next = lambda self: 0.005  # type: ignore[method-assign]
    scanner.UNREADABLE = 0.05

    sys.argv = ["bridge", *args]
    cli()


if __name__ == "__main__":
    main(sys.argv[1:])
