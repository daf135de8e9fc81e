"""The document codec: a whole file is one message: JSON with fields at pointers, or text with fields in its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from bridge.core.codecs import Codec, Decoded, FieldRule
from bridge.core.codecs.chunk import no_pointers
from bridge.core.codecs.jsonl import JsonlCodec, parsed, scalar
from bridge.core.codecs.timestamps import Clock, not_understood
from bridge.core.errors import ConfigError
from bridge.core.model import FIELDS, MARKED, UTF8_MARK, Row, shown, without_mark


class DocumentMessage(NamedTuple):
    """The message that a document holds: its row, or why it is no message, its time and its identity.

    `time` is in ms since 1970. `identity` is None where the document has none of its own. `partly`: the file may be
    half-written. `named`: what the name tells, of a document that has no identity.
    """

    row: Row | str
    time: int = 0
    identity: bytes | None = None
    partly: bool = False
    named: bytes = b""


class JsonDocumentCodec(JsonlCodec):
    """The codec of JSON documents: `data` is the whole file, newlines and all, unless a pointer is given."""

    spans_lines = True

    def __init__(self, rules: dict[str, FieldRule], clock: Clock, identity: FieldRule | None) -> None:
        super().__init__(rules, clock)
        self._identity = identity

    def read(self, raw: bytes) -> DocumentMessage:
        """Reads the message in a JSON document's bytes; a UTF-8 mark that they begin with is no part of it."""
        raw = without_mark(raw)
        found = parsed(raw) if raw.strip() else "an empty file"
        if isinstance(found, str):
            return DocumentMessage(found.replace("line", "file"), partly=not found.startswith(("more", "not a")))
        row, time = self._row(raw, *found)
        return DocumentMessage(
            row, time, (scalar(found[1], self._identity) if self._identity is not None else None) or None
        )

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes JSON documents, each the bytes of a file, into a row each, or the reason why it is no message."""
        return super().decode([*map(without_mark, lines)])

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row as a JSON document, as a JSON line is encoded; or returns the reason."""
        return MARKED if row[3].startswith(UTF8_MARK) else super().encode(row)


class TextDocumentCodec(Codec):
    """The codec of a text document: any bytes are `data`; role, timestamp and type are those of `head`.

    Where there is no head, `reason` says why.
    """

    fields: tuple[bytes, ...] = FIELDS
    invertible = True

    def __init__(self, head: tuple[bytes, bytes, bytes], clock: Clock, reason: str = "", named: bytes = b"") -> None:
        self._head = head
        self._named = named
        self._reason = reason
        self._time = 0
        if not reason:
            try:
                [self._time] = clock((head[1],))
            except ValueError as error:
                self._reason = not_understood(head[1], error)

    def read(self, raw: bytes) -> DocumentMessage:
        """Reads the message in a text document's bytes; a UTF-8 mark that they begin with is no part of it."""
        return DocumentMessage(self._reason or (*self._head, without_mark(raw)), self._time, named=self._named)

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Decodes each text document's bytes into a row, or the reason why it is no message."""
        found = [self.read(raw) for raw in lines]
        return Decoded([message.row for message in found], [message.time for message in found])

    def encode(self, row: Row) -> bytes | str:
        """Encodes a row as a text document: `data` itself, when the file's name says the same role, timestamp and type.

        Else returns the reason.
        """
        if self._reason:
            return self._reason
        for name, ours, theirs in zip(FIELDS, row, self._head, strict=False):
            if ours != theirs:
                return f"{name.decode()} is not what the file's name says: {shown(ours, 40)}, not {shown(theirs, 40)}"
        return MARKED if row[3].startswith(UTF8_MARK) else row[3]

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Encodes many rows as text documents, each as `encode` does."""
        return [self.encode(row) for row in rows]


def iso_time(ns: int) -> bytes:
    """Formats a document's time of writing, in nanoseconds since 1970, as a timestamp: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(ns // 1_000_000 / 1000, UTC).isoformat(timespec="milliseconds")[:23].encode() + b"Z"


def text_of(
    name: str, rules: dict[str, FieldRule], pattern: str | None, written: bytes, clock: Clock
) -> TextDocumentCodec:
    """Makes the codec of one text document from its file's name and time of writing.

    Raises ConfigError when nothing tells its role or its type.
    """
    if "data" in rules:
        raise ConfigError("message.data means nothing for a text: it is all of the file")
    no_pointers(rules)
    told = {"timestamp": written}
    reason, named = "", b""
    if pattern is not None:
        groups = re.compile(pattern).groupindex
        match = re.fullmatch(pattern, name)
        found = match.groupdict() if match is not None else {}
        told |= {group: _raw(found.get(group) or "") for group in groups}
        named = b"\0".join(told[group] for group in sorted(groups))
        reason = "" if match is not None else "its name does not match format.pattern: " + shown(_raw(name), 80)
    told |= {field: rule.const if rule.const is not None else rule.default or b"" for field, rule in rules.items()}
    for field in ("role", "type"):
        if field not in told:
            raise ConfigError(
                f"codec 'document' of text needs message.{field}", hint="a const, a name, or a group in format.pattern"
            )
    return TextDocumentCodec((told["role"], told["timestamp"], told["type"]), clock, reason, named)


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
