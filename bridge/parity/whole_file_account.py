"""Parity's account of a mapping whose messages, values or artifacts are whole files (DESIGN §6.5, P11).

Every file of the folder is counted when it is listed, and once more where something explains it. The remainder is
unaccounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from bridge.parity.account import Lost

FATES = ("carried", "mirrored", "quarantined", "empty", "waiting", "aside", "copies")
"""The fates that the account knows for a whole file of a folder."""


class WholeFileAccount:
    """Adds up what became of every whole file of a mapping's folder, and of every entry of its stream."""

    def __init__(self) -> None:
        self.total = 0
        self.entries = self.trimmed = self.deleted = self.gone = 0
        self._fates = Counter[str]()
        self._lost: dict[str, str] = {}

    def add(self, fate: str, count: int = 1) -> None:
        """Adds a number of files to the whole-file account under their fate, one of `FATES`."""
        if fate not in FATES:
            raise AssertionError(f"no fate of a file: {fate}")
        self._fates[fate] += count

    def lost(self, name: str, why: str) -> None:
        """Notes in the whole-file account a file that nothing explains, and why."""
        self._lost[name] = why

    def of_stream(self, length: int, added: int, trimmed: int) -> None:
        """Notes in the whole-file account how many entries the stream holds, ever got, and had trimmed on purpose."""
        self.entries, self.trimmed, self.deleted = length, trimmed, max(0, added - length - trimmed)

    def unaccounted(self) -> Iterator[Lost]:
        """Lists a folder's whole files that nothing explains, by name, and how many others there are without a name."""
        for name, why in sorted(self._lost.items()):
            yield name, 0, 1, why
        if left := self.total - sum(self._fates.values()) - len(self._lost):
            yield "", 0, left, "what became of so many files is not known"

    def sentences(self) -> list[str]:
        """Says in one sentence each which whole files of a folder are unaccounted."""
        return [
            f"unaccounted: {name}: {why}" if name else f"unaccounted: {count:,} files: {why}"
            for name, _, count, why in self.unaccounted()
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the whole-file account as `parity --json` prints it (DESIGN §5.4).

        It counts files, where the account of a log counts bytes.
        """
        fates = {fate: self._fates[fate] for fate in FATES}
        named = [{"path": name or None, "count": count, "why": why} for name, _, count, why in self.unaccounted()]
        return {
            "unit": "file", "files": self.total, **fates, "unaccounted": self.total - sum(fates.values()),
            "entries": self.entries, "trimmed": self.trimmed, "deleted": self.deleted,
            "gone_before_mirrored": self.gone, "unaccounted_at": named,
        }  # fmt: skip
