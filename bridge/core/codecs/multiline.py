"""The multiline codec: a message of several lines, of which those behind the first go into data, newlines and all."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.codecs import Codec, Decoded
from bridge.core.model import Row


class MultilineCodec(Codec):
    """A codec of multiline messages, whose first lines `inner` reads.

    A line that begins no message belongs to the message before it.
    """

    def __init__(self, inner: Codec) -> None:
        self._inner = inner
        self.fields = inner.fields
        self.invertible = inner.invertible

    def begins(self, lines: Sequence[bytes]) -> list[bool]:
        """Tells for each line whether a multiline message begins with it."""
        return [row.__class__ is tuple for row in self._inner.decode(lines).rows]

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes messages of several lines by the inner codec: into one row for each, or the reason there is none.

        Each of `lines` is a whole message, with the newlines in it.
        """
        parts = [line.partition(b"\n") for line in lines]
        rows, times = self._inner.decode([first for first, _, _ in parts])
        return Decoded([self._with(row, *part[1:]) for row, part in zip(rows, parts, strict=True)], times)

    @staticmethod
    def _with(row: Row | str, newline: bytes, rest: bytes) -> Row | str:
        if isinstance(row, str):
            return row if row == "empty line" else f"begins no message, and continues none: {row}"
        return (*row[:3], row[3] + newline + rest, *row[4:]) if newline else row

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Encodes many rows with the inner codec: the mirror never writes multiline messages, but one line each."""
        return self._inner.encode_all(rows)

    def whole(self, row: Row) -> bytes | str:
        """Encodes a row as a message of several lines, as programs write them that the codec reads.

        As one line, like `encode`, where a further line would begin a message or is empty at the end.
        """
        first, newline, rest = row[3].partition(b"\n")
        if not newline or not rest.strip() or rest.endswith(b"\n") or any(self.begins(rest.split(b"\n"))):
            return self.encode(row)
        line = self._inner.encode((*row[:3], first, *row[4:]))
        return line if isinstance(line, str) else line + newline + rest

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row with the inner codec: the mirror never writes a multiline message, but one line."""
        return self._inner.encode(row)
