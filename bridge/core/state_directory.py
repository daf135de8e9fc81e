"""The state directory: a private folder of one user, locked so that one process at a time works on it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.core.errors import LockHeld, ServerError

LOCK_TRIES = 10
"""How often the lock on the state directory is retried, 20 ms apart: `lock_holder` may have it for a moment."""


def private(folder: Path) -> Path:
    """Makes a private folder, such as the state directory, accessible to this user only, and returns its path.

    Makes the folder if it is missing. Raises ServerError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ServerError(f"cannot be made: {error.strerror}", where=str(folder)) from None
    return folder


@contextmanager
def state_lock(state_dir: Path, verb: str) -> Iterator[None]:
    """Holds the state directory's lock while the block runs. Raises LockHeld, which names the process that has it."""
    path = private(state_dir) / "lock"
    with path.open("a+") as file:
        for left in range(LOCK_TRIES, -1, -1):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if left:
                    time.sleep(0.02)
                    continue
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockHeld(
                f"{holder} works with this state directory",
                where=str(path),
                hint="stop it first, or wait until it is done",
            ) from None
        file.truncate(0)
        file.write(f"bridge {verb} (process {os.getpid()})")
        file.flush()
        yield


def lock_holder(state_dir: Path) -> str:
    """Returns which command, by verb and process, holds a state directory's lock; empty when none does."""
    try:
        with (state_dir / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return ""
