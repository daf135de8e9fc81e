"""Messages of several lines: what follows the first line, newlines and all, goes into data."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.codecs import Codec, Decoded
from bridge.core.model import Row


class MultilineCodec(Codec):
    """Reads the first line of each message as `inner` does; a line that begins no message belongs to the one before."""

    def __init__(self, inner: Codec) -> None:
        self._inner = inner
        self.fields = inner.fields
        self.invertible = inner.invertible

    def begins(self, lines: Sequence[bytes]) -> list[bool]:
        """For each line whether a message begins with it."""
        return [row.__class__ is tuple for row in self._inner.decode(lines).rows]

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """One row or reason a message; `lines` may hold newlines."""
        parts = [line.partition(b"\n") for line in lines]
        rows, times = self._inner.decode([first for first, _, _ in parts])
        return Decoded([self._with(row, *part[1:]) for row, part in zip(rows, parts, strict=True)], times)

    @staticmethod
    def _with(row: Row | str, newline: bytes, rest: bytes) -> Row | str:
        if isinstance(row, str):
            return row if row == "empty line" else f"begins no message, and continues none: {row}"
        return (*row[:3], row[3] + newline + rest, *row[4:]) if newline else row

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """As the inner codec: what the mirror writes is one line."""
        return self._inner.encode_all(rows)

    def encode(self, row: Row) -> bytes | str:
        """As the inner codec."""
        return self._inner.encode(row)
