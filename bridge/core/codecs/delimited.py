"""The codec of delimited lines: columns between delimiters; the last takes the rest of the line, delimiters and all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import itemgetter

from bridge.core.codecs import Codec, Decoded, FieldRule
from bridge.core.codecs.timestamps import Clock, not_understood
from bridge.core.errors import ConfigError
from bridge.core.model import FIELDS, Row, shown


class DelimitedCodec(Codec):
    """The codec of delimited lines such as `role|timestamp|type|data`.

    Columns may stand in any order; fields without a column come from `rules`.
    """

    def __init__(
        self, delimiter: str, columns: Sequence[str], rules: dict[str, FieldRule], clock: Clock, escape: bool
    ) -> None:
        self._delimiter = delimiter.encode()
        self._columns = [column.encode() for column in columns]
        extras = tuple(column for column in self._columns if column not in FIELDS)
        self.fields = FIELDS + extras
        self.invertible = True
        self._clock = clock
        self._escape = escape
        self._consts: list[bytes] = []
        slots: list[int] = []
        for name in self.fields:
            rule = rules.get(name.decode())
            if rule is not None and name in self._columns:
                raise ConfigError(f"message.{name.decode()} and a column of that name: keep one")
            if name in self._columns:
                slots.append(self._columns.index(name))
            elif rule is not None and rule.const is not None:
                slots.append(len(self._columns) + len(self._consts))
                self._consts.append(rule.const)
            else:
                raise ConfigError(
                    f"no column holds '{name.decode()}'",
                    hint=f"add it to format.columns, or give message.{name.decode()} a const or name",
                )
        self._straight = slots == list(range(len(self._columns)))
        self._pick = itemgetter(*slots)
        self._time_at = slots[1] if slots[1] < len(self._columns) else -1
        self._out = [self.fields.index(column) for column in self._columns]
        self._const_at = [
            (i, self._consts[s - len(self._columns)]) for i, s in enumerate(slots) if s >= len(self._columns)
        ]

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes delimited lines into one row each, or a reason: too few columns, or a timestamp that is none."""
        delimiter, splits, at = self._delimiter, len(self._columns) - 1, self._time_at
        found = [line.split(delimiter, splits) for line in lines]
        try:
            times = self._clock([parts[at] for parts in found])
        except (ValueError, IndexError):
            times = []
        if not times or set(map(len, found)) != {splits + 1}:
            return self._decode_each(lines, found)
        return Decoded(
            [*map(tuple, found)] if self._straight else [self._pick(parts + self._consts) for parts in found], times
        )

    def _decode_each(self, lines: Sequence[bytes], found: Sequence[list[bytes]]) -> Decoded:
        """Decodes delimited lines one by one, where at least one of them is not a message."""
        rows: list[Row | str] = []
        times: list[int] = []
        for line, parts in zip(lines, found, strict=True):
            time = 0
            if len(parts) != len(self._columns):
                row: Row | str = f"{len(parts)} of {len(self._columns)} columns" if line else "empty line"
            else:
                row = tuple(parts) if self._straight else self._pick(parts + self._consts)
                try:
                    [time] = self._clock((row[1],))
                except ValueError as error:
                    row = not_understood(row[1], error)
            rows.append(row)
            times.append(time)
        return Decoded(rows, times)

    def agree(self, lines: Sequence[bytes], rows: Sequence[Row]) -> bool:
        """Whether delimited lines decode to these rows; quicker where the columns stand in the entry's order."""
        joined = self.joined(rows)
        return joined == lines if joined is not None else self.decode(lines).rows == rows

    def joined(self, rows: Sequence[Row]) -> list[bytes] | None:
        """Joins rows with the delimiter into lines; None: the delimited lines might not read back the same.

        That needs columns in the entry's order, a delimiter in none but the last column, and a newline in none.
        """
        if not self._straight or not rows:
            return None
        # Without a delimiter in the first columns, the joined line splits into the same columns again.
        firsts = [b"".join(column) for column in islice(zip(*rows, strict=True), len(self._columns) - 1)]
        lines = list(map(self._delimiter.join, rows))
        if any(self._delimiter in column for column in firsts) or b"\n" in b"".join(lines):
            return None
        return lines

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Encodes many rows as delimited lines, which are decoded again in one go to check them."""
        if self._straight and rows:
            lines = list(map(self._delimiter.join, rows))
            if b"\n" not in b"".join(lines) and self.decode(lines).rows == rows:
                return lines  # type: ignore[return-value]
        return [self.encode(row) for row in rows]

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row as a delimited line, or returns the reason there is none.

        Newlines inside data become the two characters `\\n` when the mapping says so.
        """
        for i, const in self._const_at:
            if row[i] != const:
                field = self.fields[i].decode()
                return f"{field} is not the one this file is for: {shown(row[i], 40)}, not {shown(const, 40)}"
        wanted = row
        if b"\n" in row[3]:
            if not self._escape:
                return "newline in data"
            wanted = (*row[:3], row[3].replace(b"\n", b"\\n"), *row[4:])
        line = self._delimiter.join([wanted[i] for i in self._out])
        if b"\n" in line:
            return "newline in a field other than data"
        back = self.decode((line,)).rows[0]
        if back == wanted:
            return line
        shifts = any(self._delimiter in wanted[i] for i in self._out[:-1])
        return back if isinstance(back, str) and not shifts else "a delimiter inside a field would shift its columns"
