"""The chunk codec of context files: a chunk is bytes that were appended in one go, cut between characters.

Role and type are the mapping's.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.codecs import Codec, Decoded, FieldRule
from bridge.core.errors import ConfigError
from bridge.core.model import FIELDS, Row

CHUNK = 1 << 16
"""Bytes after which a chunk of a context ends although the writer goes on."""

STARTED = b"context_started"
"""The type of the entry without data that says that a context file began anew."""


def no_pointers(rules: dict[str, FieldRule]) -> None:
    """Raises ConfigError where a rule points into JSON for a field of a chunk, or of another file not read as JSON."""
    for name, rule in rules.items():
        if rule.pointers:
            raise ConfigError(f"message.{name}: a pointer finds nothing here", hint="a const, or a name")


class ChunkCodec(Codec):
    """The codec of chunks, forward only: no newline stands between two chunks, so there are no lines to write."""

    fields: tuple[bytes, ...] = FIELDS
    invertible = False

    def __init__(self, rules: dict[str, FieldRule]) -> None:
        for name in ("timestamp", "data"):
            if name in rules:
                raise ConfigError(
                    f"message.{name} means nothing for a context: it is the time of writing, and the bytes"
                )
        no_pointers(rules)
        told = {name: rule.const if rule.const is not None else rule.default for name, rule in rules.items()}
        self._role, self._type = told.get("role"), told.get("type", b"context_chunk")
        if self._role is None or self._type is None:
            raise ConfigError("a context needs message.role", hint='a const, or { name = "stem" }')

    def row(self, chunk: bytes, written: bytes) -> Row:
        """Codec: makes the row of one chunk of a context, written at this time; no bytes: the file began anew."""
        return self._role or b"", written, (self._type or b"") if chunk else STARTED, chunk

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes chunks into rows without their times, which only the context file tells."""
        return Decoded([self.row(chunk, b"") for chunk in lines], [0] * len(lines))

    def encode(self, row: Row) -> bytes | str:
        """Returns the reason that a row has no line: chunks of a context are not lines."""
        return "a context has no lines"

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Returns for each row the reason that it has no line: chunks of a context are not lines."""
        return ["a context has no lines"] * len(rows)


def whole_characters(data: bytes) -> int:
    """Counts the bytes of a chunk before a UTF-8 character at its end that more bytes could still complete. Pure."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if 0xC2 <= byte <= 0xDF else 3 if 0xE0 <= byte <= 0xEF else 4 if 0xF0 <= byte <= 0xF4 else 1
        return len(data) - back if length > back else len(data)
    return len(data)
