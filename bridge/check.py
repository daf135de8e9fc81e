"""How a file's lines would translate: the first ones, how many of all, and each kind of reason for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.errors import SourceError
from bridge.model import as_json

if TYPE_CHECKING:
    from bridge.mapping import Mapping

KEPT_LINES = 5
PIECE = 1 << 20


@dataclass(slots=True)
class Checked:
    """`first`: (line number, (field, value) pairs). `reasons`: kind → count, first line numbers, an example.

    `partial` are the bytes of a last line without its newline.
    """

    translated: int = 0
    rejected: int = 0
    empty: int = 0
    partial: int = 0
    size: int = 0
    first: list[tuple[int, list[tuple[str, bytes]]]] = field(default_factory=list)
    reasons: dict[str, tuple[int, list[int], bytes]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "translated": self.translated, "rejected": self.rejected, "empty": self.empty,
            "partial_bytes": self.partial,
            "first": [{"line": n, "fields": {name: as_json(v) for name, v in pairs}} for n, pairs in self.first],
            "reasons": [{"reason": reason, "count": count, "lines": numbers, "example": as_json(example)}
                        for reason, (count, numbers, example) in self.reasons.items()],
        }  # fmt: skip

    def reject(self, reason: str, number: int, line: bytes) -> None:
        """Counts a line that does not translate under the kind of its reason."""
        self.rejected += 1
        kind = reason.partition(":")[0]
        count, numbers, example = self.reasons.get(kind, (0, [], line[:400]))
        self.reasons[kind] = (count + 1, [*numbers, number] if len(numbers) < KEPT_LINES else numbers, example)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, as far as this user may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_file(mapping: Mapping, path: Path, first: int, most: int | None = None) -> Checked:
    """Reads the file, or its first `most` bytes, a megabyte at a time. Raises SourceError when it cannot be read."""
    codec = mapping.codec(path.name)
    names = [name.decode() for name in codec.fields]
    limit = mapping.format.max_line_bytes
    result, number, rest, skipped = Checked(), 0, b"", 0
    if path.exists() and not path.is_file():
        raise SourceError("is not a regular file", where=str(path))
    try:
        with path.open("rb") as file:
            while data := file.read(PIECE if most is None else min(PIECE, most - result.size)):
                result.size += len(data)
                *lines, rest = (rest + data).split(b"\n")
                if skipped and lines:  # the end of a line that was too long to be held
                    number += 1
                    result.reject("over max_line_bytes", number, b"")
                    lines, skipped = lines[1:], 0
                if skipped or len(rest) > limit:
                    skipped, rest = skipped + len(rest), b""
                rows = codec.decode(lines).rows if lines else []
                for line, row in zip(lines, rows, strict=True):
                    number += 1
                    if not line:
                        result.empty += 1
                    elif len(line) > limit:
                        result.reject("over max_line_bytes", number, line)
                    elif isinstance(row, str):
                        result.reject(row, number, line)
                    else:
                        result.translated += 1
                        if len(result.first) < first:
                            result.first.append((number, list(zip(names, row, strict=True))))
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    result.partial = skipped + len(rest)
    return result
