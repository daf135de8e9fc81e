"""Pure: bytes ↔ message. A codec reads lines into rows and writes rows back into lines, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bridge.core.model import Row

FORMATS = ("iso8601", "epoch_s", "epoch_ms")


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Where a field comes from when no column holds it: JSON pointers to try, or a constant; else `default`."""

    pointers: tuple[str, ...] = ()
    const: bytes | None = None
    default: bytes | None = None


class Decoded(NamedTuple):
    """For each line its row, or the reason there is none; and its time in milliseconds since 1970, or 0."""

    rows: list[Row | str]
    times: list[int]


class Codec(Protocol):
    """Line ↔ row. `fields` are the entry's field names, in the entry's order: the four, then extra columns."""

    fields: tuple[bytes, ...]
    invertible: bool

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """One row for each line (without its newline), or the reason it is not a message."""
        ...

    def encode(self, row: Row) -> bytes | str:
        """The line (without its newline) that decodes to `row`, or the reason there is none."""
        ...

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """`encode` of many rows."""
        ...

    def agree(self, lines: Sequence[bytes], rows: Sequence[Row]) -> bool:
        """Whether each line decodes to its row."""
        return self.decode(lines).rows == rows

    def joined(self, rows: Sequence[Row]) -> list[bytes] | None:
        """Lines that are those of `encode_all` if they can be lines at all; None: ask that. Not every codec can."""
        return None
