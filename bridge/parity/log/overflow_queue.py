"""Overflow queue of lines and entry IDs: what exceeds a megabyte waits in a temporary file without a name."""

from __future__ import annotations

import marshal
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import IO

HELD_BYTES = 1 << 20
"""How many bytes an overflow queue keeps in memory."""

QueuedPart = tuple[list[bytes], list[bytes]]


class OverflowQueue:
    """First-in-first-out queue of entry IDs and lines that overflows from memory into a temporary file.

    The file is unlinked as soon as it is made: nothing is left behind, whatever process dies.
    """

    def __init__(self) -> None:
        self._parts: deque[QueuedPart] = deque()
        self._held = 0
        self._file: IO[bytes] | None = None
        self._read_at = self._write_at = 0
        self._left = 0

    def __len__(self) -> int:
        return self._left

    def push(self, ids: list[bytes], lines: list[bytes]) -> None:
        """Adds entry IDs and lines at the end of the overflow queue; the lists are kept, not copied.

        Raises OSError: no room for the temporary file.
        """
        if not ids:
            return
        self._left += len(ids)
        if self._held < HELD_BYTES and self._read_at == self._write_at:
            self._parts.append((ids, lines))
            self._held += sum(map(len, lines)) + 100 * len(ids)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="bridge-parity-")  # noqa: SIM115 - closed by close()
        self._file.seek(self._write_at)
        marshal.dump((ids, lines), self._file)
        self._write_at = self._file.tell()

    def peek(self, count: int) -> QueuedPart:
        """Returns the first `count` entries of the overflow queue, or all there are, and leaves them in."""
        while (have := sum(len(ids) for ids, _ in self._parts)) < count and self._read_at < self._write_at:
            self._load()
        if not have:
            return [], []
        if len(self._parts[0][0]) < min(count, have):
            self._merge(min(count, have))
        ids, lines = self._parts[0]
        return ids[:count], lines[:count]

    def pop(self, count: int) -> QueuedPart:
        """Removes from the overflow queue its first `count` entries, or all there are, and returns them."""
        ids, lines = self.peek(count)
        if ids:
            whole_ids, whole_lines = self._parts.popleft()
            if len(whole_ids) > len(ids):
                self._parts.appendleft((whole_ids[len(ids) :], whole_lines[len(ids) :]))
            self._left -= len(ids)
            if not self._parts:
                self._held = 0
        return ids, lines

    def put_back(self, ids: list[bytes], lines: list[bytes]) -> None:
        """Puts popped entries back at the front of the overflow queue."""
        if ids:
            self._parts.appendleft((ids, lines))
            self._left += len(ids)
            self._held += sum(map(len, lines)) + 100 * len(ids)

    def look(self) -> Iterator[list[bytes]]:
        """Yields all lines of the overflow queue, a part at a time, and takes none out."""
        for _, lines in [*self._parts]:
            yield lines
        at = self._read_at
        while self._file is not None and at < self._write_at:
            self._file.seek(at)
            _, lines = marshal.load(self._file)
            at = self._file.tell()
            yield lines

    def drain(self) -> Iterator[QueuedPart]:
        """Empties the overflow queue, and yields its entries a part at a time."""
        while self._left:
            self.peek(1)
            yield self.pop(len(self._parts[0][0]))

    def close(self) -> None:
        """Discards all that the overflow queue holds, and closes its temporary file."""
        self._parts.clear()
        self._left = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _load(self) -> None:
        if self._file is None:
            return
        self._file.seek(self._read_at)
        self._parts.append(marshal.load(self._file))
        self._read_at = self._file.tell()
        if self._read_at == self._write_at:
            self._file.truncate(0)
            self._read_at = self._write_at = 0

    def _merge(self, count: int) -> None:
        ids, lines = self._parts.popleft()
        ids, lines = [*ids], [*lines]
        while len(ids) < count:
            more = self._parts.popleft()
            ids += more[0]
            lines += more[1]
        self._parts.appendleft((ids, lines))
