"""Codecs translate between bytes and messages: lines into rows, and rows back into lines, byte for byte. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bridge.core.model import Row

FORMATS = ("iso8601", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns")


@dataclass(frozen=True, slots=True)
class FieldRule:
    """A codec's rule for a message field that no column holds: JSON pointers to try, or a constant; else `default`."""

    pointers: tuple[str, ...] = ()
    const: bytes | None = None
    default: bytes | None = None


class Decoded(NamedTuple):
    """The result of a codec's decoding: for each line its row, or the reason there is none, and its time.

    Times are in milliseconds since 1970; 0: none.
    """

    rows: list[Row | str]
    times: list[int]


class Codec(Protocol):
    """A codec: the protocol of all codecs that translate lines to rows and rows to lines.

    `fields` are the entry's field names, in the entry's order: the four, then extra columns.
    """

    fields: tuple[bytes, ...]
    invertible: bool

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes lines (without newlines) into one row for each, or the reason why a line is no message."""
        ...

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row as the line (without its newline) that decodes to the row, or returns the reason for none."""
        ...

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Encodes many rows as lines, as the codec encodes one."""
        ...

    def agree(self, lines: Sequence[bytes], rows: Sequence[Row]) -> bool:
        """Whether the codec decodes each line to the row at the same place."""
        return self.decode(lines).rows == rows

    def joined(self, rows: Sequence[Row]) -> list[bytes] | None:
        """Joins rows to lines quickly, where a codec can; None: use `encode_all`.

        The lines are those of `encode_all`, if the rows can be lines at all.
        """
        return None
