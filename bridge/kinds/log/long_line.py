"""A line over `max_line_bytes`, read through in pieces: what is kept of it are its first bytes, length and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from bridge.files.lines import Cut
from bridge.ledger.quarantine import KEPT_LINE_BYTES

Piece = tuple[bytes, list[Cut]]
"""Bytes that forward may look at now, and the mirror's ranges in them; no bytes: wait."""


class LongLine:
    """One such line, which begins at `start` of its generation. It may stay unfinished for long."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.length = 0
        self.kept = b""
        self.end: int | None = None
        self._at = start
        self._hasher = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the line without its newline, in hex."""
        return self._hasher.hexdigest()

    def scan(self, read: Callable[[int], Piece]) -> bool:
        """Reads on from where it was left; whether the newline was found, so that `end` stands behind it.

        `read(offset)` gives a piece of the file. The mirror's own lines inside the line are no part of it.
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
