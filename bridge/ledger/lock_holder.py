"""Who works with a state directory: the process that holds its lock, whether it gives a heartbeat or not."""

from __future__ import annotations

import fcntl
from pathlib import Path


def lock_holder(state_dir: Path) -> str:
    """Tells which command, by verb and process, holds a state directory's lock; empty when none does."""
    try:
        with (state_dir / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return ""
