"""Computes the expected line of a Redis-born entry, and the file in which parity must find it. Pure.

The mapping is interpreted here anew, and not by the mirror's code.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.mapping import Mapping
from bridge.core.model import FIELDS, UTF8_MARK
from bridge.core.path_rules import Paths


class ExpectedLine:
    """Computes, for one mapping with a mirror, the expected line and file of Redis-born entries.

    `roles` are the declared ones: no other may name a file (DESIGN §10).
    """

    def __init__(self, mapping: Mapping, roles: frozenset[str], paths: Paths | None = None) -> None:
        self._mapping = mapping
        self._roles = roles
        self._path = mapping.mirror.path if mapping.mirror is not None else ""
        self._codecs = {self._path: mapping.codec(self._path or "x")}
        self._paths = paths or Paths()
        self._naming = frozenset(kind.encode() for kind in mapping.message.artifact_types if self._paths.rules)
        self._names = list(self._codecs[self._path].fields)

    @property
    def several(self) -> bool:
        """Whether the mirror writes more than one file, so that an entry's role names the expected line's file."""
        return "{role}" in self._path

    def straight(self, entries: Sequence[Sequence[bytes]]) -> tuple[str, list[bytes]] | None:
        """Computes the expected lines of entries in the commonest case: all go into one file. None: call `lines`.

        Whether each entry can be a line is not asked: an entry whose line is not in the file is looked at once more.
        """
        if self.several or any(fields[0::2] != self._names for fields in entries):
            return None
        if self._naming and any(fields[5] in self._naming for fields in entries):
            return None
        rows, codec = [tuple(fields[1::2]) for fields in entries], self._codecs[self._path]
        made: Sequence[bytes | str] = codec.joined(rows) or codec.encode_all(rows)
        if any(line.__class__ is str for line in made):
            return None
        if max(map(len, made), default=0) > self._mapping.format.max_line_bytes:
            return None
        if UTF8_MARK in b"".join(made):  # type: ignore[arg-type]
            return None  # no line may begin with it
        return self._path, made  # type: ignore[return-value]

    def lines(self, entries: Sequence[Sequence[bytes]]) -> list[tuple[str, bytes] | None]:
        """Computes from each entry's fields and values its file and expected line, without newline; None: no line."""
        found: list[tuple[str, bytes] | None] = [None] * len(entries)
        by_path: dict[str, list[int]] = {}
        values = [self._values(fields) for fields in entries]
        for n, row in enumerate(values):
            if row is not None and (path := self._target(row)) is not None:
                by_path.setdefault(path, []).append(n)
        for path, places in by_path.items():
            if path not in self._codecs:
                self._codecs[path] = self._mapping.codec(path)
            rows = [row for n in places if (row := values[n]) is not None]
            for n, line in zip(places, self._codecs[path].encode_all(rows), strict=True):
                fits = isinstance(line, bytes) and len(line) <= self._mapping.format.max_line_bytes
                if isinstance(line, bytes) and fits and not line.startswith(UTF8_MARK):
                    found[n] = path, line
        return found

    def _values(self, fields: Sequence[bytes]) -> tuple[bytes, ...] | None:
        names = fields[0::2]
        if names == self._names and not self._naming:
            return tuple(fields[1::2])
        values = dict(zip(names, fields[1::2], strict=True))
        if values.get(FIELDS[2]) in self._naming and FIELDS[3] in values:
            values[FIELDS[3]] = self._paths.data_back(values[FIELDS[3]])
        if len(values) != len(names) or any(name not in values for name in self._names):
            return None
        return tuple(values[name] for name in self._names)

    def _target(self, row: tuple[bytes, ...]) -> str | None:
        if "{role}" not in self._path:
            return self._path
        role = row[self._names.index(FIELDS[0])].decode("utf-8", "replace")
        if role not in self._roles:
            return None
        return self._path.replace("{role}", role)
