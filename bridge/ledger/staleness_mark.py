"""Keeps a mark beside the ledger that counts the mirror's commits on a stream: a ledger with fewer is an older copy.

Redis may not have been told yet what the mirror wrote last; then nothing else tells that a ledger was restored from a
backup. The mark is written after the commit, so it is never ahead of its ledger; where a power failure takes the last
commits from the ledger and not from the mark, that is found as well.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bridge.core.model import hex_digest


def path_of(ledger: Path, stream: str) -> Path:
    """Returns the path of a stream's staleness mark, in the folder `marks` beside the ledger."""
    return ledger.with_name("marks") / hex_digest(stream.encode())


def write_mark(ledger: Path, uuid: bytes, stream: str, count: int) -> None:
    """Writes how often the mirror noted its work on a stream into the mark beside the ledger; never a lower number.

    `uuid` is the ledger's identity. An older copy may work on what it had begun before anybody asks what it lacks.
    """
    path, count = path_of(ledger, stream), max(count, read_mark(ledger, uuid, stream))
    # The commit stands, so nothing may fail after it: a mark with too low a count detects less, but never wrongly.
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, b"%s %020d %s\n" % (uuid, count, stream.encode()), 0)
        finally:
            os.close(fd)


def read_mark(ledger: Path, uuid: bytes, stream: str) -> int:
    """Reads from the mark beside the ledger how often, at least, the mirror noted its work on a stream; 0: no mark."""
    try:
        said, _, rest = path_of(ledger, stream).read_bytes().partition(b" ")
        return int(rest[:20]) if said == uuid else 0
    except (OSError, ValueError):
        return 0


def drop_mark(ledger: Path, stream: str) -> None:
    """Removes a stream's staleness mark beside the ledger, before the ledger forgets how far the stream was carried.

    Raises OSError.
    """
    path_of(ledger, stream).unlink(missing_ok=True)
