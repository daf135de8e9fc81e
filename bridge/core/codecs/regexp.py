"""The regexp codec: lines are read by a regular expression with named groups, which has to match the whole line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bridge.core.codecs import Codec, Decoded, FieldRule
from bridge.core.codecs.timestamps import Clock, not_understood
from bridge.core.errors import ConfigError
from bridge.core.model import FIELDS, Row


class RegexCodec(Codec):
    """The codec of lines read by a regular expression: the message's fields are the groups of their names.

    Other groups become fields of the entry; `data` is the whole line without a group of that name.
    """

    invertible = False

    def __init__(self, pattern: str, rules: dict[str, FieldRule], clock: Clock) -> None:
        self._pattern = re.compile(pattern.encode())
        self._clock = clock
        groups = list(self._pattern.groupindex)
        self.fields = FIELDS + tuple(name.encode() for name in groups if name.encode() not in FIELDS)
        for field in FIELDS:
            name = field.decode()
            rule = rules.get(name)
            if name in groups and rule is not None and rule.const is not None:
                raise ConfigError(f"message.{name} and a group of that name: keep one")
            if name not in groups and field != b"data" and (rule is None or rule.const is None):
                raise ConfigError(
                    f"no group is named '{name}'",
                    hint=f"write (?P<{name}>…) in format.pattern, or give message.{name} a const or name",
                )
            if rule is not None and rule.pointers:
                raise ConfigError(f"message.{name}: a pointer is for codec 'jsonl'")
        self._takes = [self._taker(field, rules.get(field.decode()), groups) for field in self.fields]

    @staticmethod
    def _taker(field: bytes, rule: FieldRule | None, groups: list[str]) -> tuple[str, bytes | None]:
        """Returns a field's group in the regular expression and the value for no match.

        Without a group: the constant, or None, the whole line.
        """
        name = field.decode()
        if name in groups:
            return name, b""
        return "", rule.const if rule is not None else None

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes lines by the regular expression into one row each, or the reason why a line is no message."""
        match = self._pattern.fullmatch
        rows: list[Row | str] = []
        for line in lines:
            found = match(line)
            if found is None:
                rows.append("does not match format.pattern" if line else "empty line")
                continue
            rows.append(tuple([
                (found[group] or b"") if group else line if other is None else other for group, other in self._takes
            ]))  # fmt: skip
        return self._timed(rows)

    def _timed(self, rows: list[Row | str]) -> Decoded:
        good = [i for i, row in enumerate(rows) if not isinstance(row, str)]
        times = [0] * len(rows)
        try:
            for i, time in zip(good, self._clock([rows[i][1] for i in good]), strict=True):  # type: ignore[misc]
                times[i] = time
        except ValueError:
            for i in good:
                raw = rows[i][1]
                try:
                    [times[i]] = self._clock((raw,))  # type: ignore[arg-type]
                except ValueError as error:
                    rows[i] = not_understood(raw, error)  # type: ignore[arg-type]
        return Decoded(rows, times)

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Returns for each row the reason that it has no line: a regular expression has no inverse."""
        return [self.encode(row) for row in rows]

    def encode(self, row: Row) -> bytes | str:
        """Returns the reason that a row has no line: a regular expression has no inverse.

        `mirror.template` makes one.
        """
        return "this codec has no inverse"
