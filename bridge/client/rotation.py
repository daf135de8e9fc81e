"""Rotates a log that a component writes, by time or by size, as the handlers of `logging` do, while it writes files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from bridge.core.errors import ConfigError, TargetError
from bridge.core.globs import literal
from bridge.core.mapping import Mapping
from bridge.files.appender import Appender
from bridge.files.name_patterns import NamePatterns

STAMPS = {"midnight": "%Y-%m-%d", "hour": "%Y-%m-%d_%H"}
"""How a rotated piece is named for the time in which it was written last, in local time."""

MOST_PIECES = 10_000
"""Pieces of one name that are looked for, at most."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a component rotates the log that it writes: `when` a day or an hour is over, or at `max_bytes`, 0: never.

    `backups`: how many pieces are kept, the oldest are deleted beyond; 0: all. A piece is named with the day, or the
    hour, behind a dot; or, by size, with 1, 2 … from the newest on. After the switch to Redis nothing is rotated.
    """

    when: Literal["midnight", "hour"] | None = None
    max_bytes: int = 0
    backups: int = 0

    def check(self, mapping: Mapping) -> None:
        """Checks that a mapping would know the component's rotated pieces by their names. Raises ConfigError."""
        if self.when is not None and self.when not in STAMPS:
            raise ConfigError(f"a log is rotated at 'midnight' or each 'hour', not {self.when!r}")
        if self.when is not None and self.max_bytes:
            raise ConfigError("a log is rotated by time or by size, not by both")
        if self.max_bytes < 0 or self.backups < 0:
            raise ConfigError("max_bytes and backups of a rotation are not below 0")
        source = mapping.source
        patterns = NamePatterns(source.path, source.rotated, source.exclude)
        name = f"{source.path}.{'1' if self.when is None else datetime(2026, 1, 1).strftime(STAMPS[self.when])}"
        if (self.when or self.max_bytes) and not patterns.is_rotated(name):
            raise ConfigError(f"the mapping would not know a rotated piece {name!r}", where=f"mapping '{mapping.name}'",
                              hint=f'source.rotated = ["{source.path}.*"]')  # fmt: skip

    def is_due(self, file: Appender, more: int, now: float) -> bool:
        """Whether a component's file is to be rotated before so many `more` bytes go into it. Raises TargetError."""
        size = file.size()
        if not size:
            return False
        if self.when is None:
            return 0 < self.max_bytes < size + more
        return self._stamp(file.written()) != self._stamp(now)

    def rotate(self, file: Appender) -> None:
        """Renames a component's file, which its caller has locked, and its older pieces. Raises TargetError."""
        path = file.path
        try:
            if self.when is None:
                self._shift(path)
            else:
                self._date(path, file.written())
        except OSError as error:
            hint = "the message was not written"
            raise TargetError(f"cannot be rotated: {error.strerror}", where=str(path), hint=hint) from None

    def _shift(self, path: Path) -> None:
        last = next((n for n in range(1, self.backups or MOST_PIECES) if _is_free(_piece(path, n))), self.backups or 1)
        for number in range(last, 1, -1):
            _piece(path, number - 1).replace(_piece(path, number))
        path.replace(_piece(path, 1))

    def _date(self, path: Path, written: float) -> None:
        dated = path.with_name(f"{path.name}.{self._stamp(written)}")
        names = (dated, *(_piece(dated, n) for n in range(1, MOST_PIECES)))
        path.replace(next(name for name in names if _is_free(name)))
        if self.backups:
            named = path.parent.glob(f"{literal(path.name)}.[0-9]*-*")
            for old in sorted(piece for piece in named if self._is_dated(path, piece))[: -self.backups]:
                old.unlink()

    def _is_dated(self, path: Path, piece: Path) -> bool:
        stamp = piece.name.removeprefix(f"{path.name}.").split(".")[0]
        try:
            datetime.strptime(stamp, STAMPS[self.when or "midnight"])
        except ValueError:
            return False
        return True

    def _stamp(self, at: float) -> str:
        return datetime.fromtimestamp(at).strftime(STAMPS[self.when or "midnight"])


NEVER = Rotation()
"""The rotation of a component that leaves its log to others to rotate."""


def _is_free(path: Path) -> bool:
    """Whether no file had this name: then an empty file has it, of the component, until a piece takes its place."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def _piece(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
