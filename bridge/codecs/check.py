"""How a file's lines would translate: the first ones, how many of all, and each distinct reason for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.errors import SourceError
from bridge.model import as_json

if TYPE_CHECKING:
    from bridge.mapping import Mapping

KEPT_LINES = 5
KEPT_REASONS = 50


@dataclass(slots=True)
class Checked:
    """`first`: (line number, (field, value) pairs). `reasons`: reason → count, first line numbers, an example."""

    translated: int = 0
    rejected: int = 0
    empty: int = 0
    partial: int = 0
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
        """Counts a line that does not translate under its reason; rare reasons beyond the fiftieth share one."""
        self.rejected += 1
        if reason not in self.reasons and len(self.reasons) >= KEPT_REASONS:
            reason = "other reasons"
        count, numbers, example = self.reasons.get(reason, (0, [], line[:400]))
        self.reasons[reason] = (count + 1, [*numbers, number] if len(numbers) < KEPT_LINES else numbers, example)


def check_file(mapping: Mapping, path: Path, first: int) -> Checked:
    """Reads the whole file, a line at a time. Raises SourceError when it cannot be read."""
    codec = mapping.codec(path.name)
    names = [name.decode() for name in codec.fields]
    limit = mapping.format.max_line_bytes
    result, number = Checked(), 0
    try:
        with path.open("rb") as file:
            while raw := file.readline(limit + 2):
                number += 1
                if not raw.endswith(b"\n"):
                    length = len(raw)
                    while raw and not raw.endswith(b"\n"):
                        raw = file.readline(1 << 20)
                        length += len(raw)
                    if not raw:
                        result.partial = length
                    else:
                        result.reject(f"line over max_line_bytes ({limit})", number, b"")
                    continue
                line = raw[:-1]
                row = codec.decode((line,)).rows[0]
                if not line:
                    result.empty += 1
                elif len(line) > limit:
                    result.reject(f"line over max_line_bytes ({limit})", number, line)
                elif isinstance(row, str):
                    result.reject(row, number, line)
                else:
                    result.translated += 1
                    if len(result.first) < first:
                        result.first.append((number, list(zip(names, row, strict=True))))
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    return result
