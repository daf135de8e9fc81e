"""Reads a long line, over `max_line_bytes`, in pieces, and keeps of it only first bytes, length and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from bridge.files.lines import Cut
from bridge.ledger.quarantine import KEPT_LINE_BYTES

Piece = tuple[bytes, list[Cut]]
"""A piece of a log that forward may read now, and the mirror's ranges in it; no bytes: forward must wait."""


class LongLine:
    """A long line, over `max_line_bytes`, that begins at `start` of its generation and may stay unfinished for long."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.length = 0
        self.kept = b""
        self.end: int | None = None
        self._at = start
        self._hasher = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """The digest of the long line without its newline: BLAKE2b-128, in hex."""
        return self._hasher.hexdigest()

    def scan(self, read: Callable[[int], Piece]) -> bool:
        """Reads on in a long line from where the last scan stopped; returns whether the line's newline was found.

        Then `end` is the offset after the newline. `read(offset)` gives a piece of the file. The mirror's own lines
        inside the long line are no part of it.
        """
        while self.end is None:
            data, cuts = read(self._at)
            if not data:
                return False
            begin, stop = self._at, self._at + len(data)
            for a, b in [*cuts, (stop, stop)]:
                if self._take(data[self._at - begin : max(a, self._at) - begin]):
                    return True
                self._at = max(self._at, b)
        return True

    def _take(self, piece: bytes) -> bool:
        part, newline, _ = piece.partition(b"\n")
        self.kept += part[: KEPT_LINE_BYTES - len(self.kept)]
        self._hasher.update(part)
        self.length += len(part)
        self._at += len(part) + len(newline)
        if newline:
            self.end = self._at
        return bool(newline)
