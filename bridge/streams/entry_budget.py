"""Limits the pages of entries that are asked for at once, so that no reply is over the server's output-buffer limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.core.errors import RedisLost, RedisRefused

CUTS = b"client_output_buffer_limit_disconnections:"
"""The field of INFO stats that counts connections closed for their output buffers, where the server counts them."""


class EntryBudget:
    """Limits how many entries a page may ask for at once, over all connections that one dial function makes.

    A server closes a connection whose reply is over its output-buffer limit. Where INFO counts that, or, as Redis 7.0
    does not, where there is such a limit, pages are half as large after a connection was lost in reading one.
    """

    FIRST, GROWTH = 64, 16
    """Entries of a first page, and how many times larger than the one before a page is at most."""

    def __init__(self) -> None:
        self.most = 1 << 20
        self._cuts = 0
        """How many connections the server had closed as their output buffer was over its limit, at the last look."""
        self._lost = 0
        """The entries of the page in which the last connection was lost; 0: no page was lost."""

    def first(self, page: int) -> int:
        """Returns how many entries a connection asks for with the first page of a reading, `page` at most."""
        return max(1, min(page, self.most, self.FIRST))

    def next(self, page: int, most_bytes: int, asked: int, rows: int, size: int) -> int:
        """Returns how many entries a connection asks for with the next page, after one of `rows` rows and `size` bytes.

        `asked` is how many that page asked for; the next has about `most_bytes` at most.
        """
        return max(1, min(page, self.most, asked * self.GROWTH, most_bytes * rows // max(1, size)))

    def lost(self, asked: int, error: RedisLost) -> RedisLost:
        """Notes that the connection was lost in reading a page of `asked` entries, and returns the error to raise.

        The error is in plainer words where the page was one entry.
        """
        self._lost = asked
        if asked > 1 or self.most > 1:
            return error
        hint = "is it larger than the server gives at once? CONFIG SET client-output-buffer-limit 'normal 0 0 0'"
        return RedisLost(f"the connection is lost in reading one entry: {error.what}", where=error.where, hint=hint)

    def met(self, call: Callable[..., Any]) -> None:
        """Asks, over a new connection, why the last was lost, and halves the pages of entries if they were too large.

        `call` is that connection's. Raises RedisLost.
        """
        if not self._lost:
            return
        try:
            told = bytes(call("INFO", "stats"))
            counted = told.partition(CUTS)[2].split()
            cuts = int(counted[0]) if counted else self._cuts + self._limited(call)
        except RedisRefused:  # it may be forbidden to ask: then the page counts as too large
            cuts = self._cuts + 1
        if cuts > self._cuts:
            self.most = max(1, min(self.most, self._lost) // 2)
        self._cuts, self._lost = cuts, 0

    @staticmethod
    def _limited(call: Callable[..., Any]) -> bool:
        found = call("CONFIG", "GET", "client-output-buffer-limit")
        limits = bytes(found[1]).split() if len(found) > 1 else []
        return b"normal" in limits and limits[limits.index(b"normal") + 1 :][:2] != [b"0", b"0"]
