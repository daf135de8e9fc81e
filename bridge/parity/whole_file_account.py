"""Parity's account of a mapping whose messages, values or artifacts are whole files (DESIGN §6.5, P11).

Every file that lies there is counted as it is listed, and once more where something explains it. What is left over is
unaccounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from bridge.parity.account import Lost

FATES = ("carried", "mirrored", "quarantined", "empty", "waiting", "aside", "copies")
"""What may have become of a file of a folder."""


class WholeFileAccount:
    """Adds up what became of every file of a mapping's folder, and of every entry of its stream."""

    def __init__(self) -> None:
        self.total = 0
        self.entries = self.trimmed = self.deleted = self.gone = 0
        self._fates = Counter[str]()
        self._lost: dict[str, str] = {}

    def add(self, fate: str, count: int = 1) -> None:
        """Notes what became of so many files: one of `FATES`."""
        if fate not in FATES:
            raise AssertionError(f"no fate of a file: {fate}")
        self._fates[fate] += count

    def lost(self, name: str, why: str) -> None:
        """Notes a file that nothing explains."""
        self._lost[name] = why

    def of_stream(self, length: int, added: int, trimmed: int) -> None:
        """Notes how many entries stand in the stream, were ever added to it, and were trimmed of it on purpose."""
        self.entries, self.trimmed, self.deleted = length, trimmed, max(0, added - length - trimmed)

    def unaccounted(self) -> Iterator[Lost]:
        """Lists the files of a folder that nothing explains, by name, and how many there are without one."""
        for name, why in sorted(self._lost.items()):
            yield name, 0, 1, why
        if left := self.total - sum(self._fates.values()) - len(self._lost):
            yield "", 0, left, "what became of so many files is not known"

    def sentences(self) -> list[str]:
        """Says in words, a sentence each, which files of a folder nothing in the account explains."""
        return [
            f"unaccounted: {name}: {why}" if name else f"unaccounted: {count:,} files: {why}"
            for name, _, count, why in self.unaccounted()
        ]

    def to_json(self) -> dict[str, Any]:
        """The account as `parity --json` prints it (DESIGN §5.4); it counts files, where that of a log counts bytes."""
        fates = {fate: self._fates[fate] for fate in FATES}
        named = [{"path": name or None, "count": count, "why": why} for name, _, count, why in self.unaccounted()]
        return {
            "unit": "file", "files": self.total, **fates, "unaccounted": self.total - sum(fates.values()),
            "entries": self.entries, "trimmed": self.trimmed, "deleted": self.deleted,
            "gone_before_mirrored": self.gone, "unaccounted_at": named,
        }  # fmt: skip
