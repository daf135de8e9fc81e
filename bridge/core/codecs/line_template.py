"""The template codec writes lines by the mapping's `mirror.template`, for codecs without an inverse."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bridge.core.codecs import Codec, Decoded
from bridge.core.errors import ConfigError
from bridge.core.model import Row

_FIELD = re.compile(r"\{([a-z0-9_]+)\}")


class TemplateCodec(Codec):
    """A codec that reads as `inner` does and writes lines by a template such as `"{timestamp} {role}: {data}"`.

    A line is written only if it reads back the same.
    """

    def __init__(self, inner: Codec, template: str, escape: bool) -> None:
        self._inner = inner
        self._escape = escape
        self.fields = inner.fields
        self.invertible = True
        names = [name.encode() for name in _FIELD.findall(template)]
        unknown = [name.decode() for name in names if name not in self.fields]
        if unknown:
            raise ConfigError(f"mirror.template names {unknown[0]!r}, which is no field of this mapping")
        if "\n" in template:
            raise ConfigError("mirror.template holds a newline: a line is one line")
        pieces = _FIELD.split(template)
        self._pieces = [(p.encode(), self.fields.index(n.encode()) if n else -1)
                        for p, n in zip(pieces[::2], [*pieces[1::2], ""], strict=True)]  # fmt: skip

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes lines with the inner codec, without the template."""
        return self._inner.decode(lines)

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Encodes many rows as lines by filling the template for each."""
        return [self.encode(row) for row in rows]

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row as a line by filling the template, or returns the reason why the line would not read back."""
        if b"\n" in row[3]:
            if not self._escape:
                return "newline in data"
            row = (*row[:3], row[3].replace(b"\n", b"\\n"), *row[4:])
        line = b"".join(text + (row[i] if i >= 0 else b"") for text, i in self._pieces)
        if b"\n" in line:
            return "newline in a field other than data"
        back = self.decode((line,)).rows[0]
        if back == row:
            return line
        return back if isinstance(back, str) else "the line written by mirror.template reads back differently"
