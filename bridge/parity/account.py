"""Adds up parity's account of every byte of a mapping's files and of every entry of its stream (DESIGN §6.5, P11).

Each of them is explained, and that is verified. Bytes are those of unpacked files, newlines included. Bytes that no
entry, no quarantine and no copy explains are unaccounted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.parity.log.items import OFFSETS, ComparedFile

BYTE_KINDS = ("carried", "mirrored", "quarantined", "empty", "waiting", "aside")
"""The fates that the account knows for a byte of a compared file."""

Sizes = dict[str, int]

Lost = tuple[str, int, int, str]
"""An unaccounted stretch of bytes: the file's path, the offset where it begins, how many bytes, and why, in words."""


@dataclass(frozen=True, slots=True)
class AsideFile:
    """A file that parity does not compare but keeps in the account: its path below the root, its bytes, and why.

    `standing`: `copy`, `link`, `left`, `aside`, `waiting` or `unaccounted`.
    """

    path: str
    standing: str
    bytes: int
    why: str = ""


@dataclass(slots=True)
class FileBytes:
    """The account of one compared file: how many of its bytes have each fate, such as carried or mirrored.

    `bytes` are all bytes that were read of the file, and those before the place where reading began. `lost` are
    stretches of lines that no entry explains, as offset and length.
    """

    path: str
    source: str
    generation: int
    bytes: int = 0
    sizes: Sizes = field(default_factory=lambda: dict.fromkeys(BYTE_KINDS, 0))
    lost: list[tuple[int, int]] = field(default_factory=list)

    @property
    def unaccounted(self) -> int:
        """How many bytes of a compared file nothing in the account explains."""
        return self.bytes - sum(self.sizes.values())


class ByteAccount:
    """Adds up for parity what became of every byte of a mapping's files, and of every entry of its stream.

    `before`: what an earlier account found of the files up to where this one begins to read them, by source and
    generation.
    """

    def __init__(self, before: Mapping[str, Mapping[str, Sequence[int]]] | None = None) -> None:
        self._before = before or {}
        self._files: dict[object, FileBytes] = {}
        self.aside: list[AsideFile] = []
        self.entries = self.trimmed = self.deleted = self.gone = 0

    def _of(self, file: ComparedFile) -> FileBytes:
        compared = self._files.get(file.section)  # keyed by section: its generation may change later
        if compared is None:
            compared = self._files[file.section] = FileBytes(file.path or file.name, file.source, file.generation)
        compared.generation = file.generation
        return compared

    def add(self, file: ComparedFile, kind: str, size: int) -> None:
        """Adds to the account a number of bytes of a compared file under their fate, one of `BYTE_KINDS`."""
        self._of(file).sizes[kind] += size

    def lost(self, file: ComparedFile, place: int, size: int) -> None:
        """Notes in the account a stretch of a compared file, by its place, that no entry and no quarantine explains."""
        self._of(file).lost.append((place & OFFSETS, size))

    def found(self, file: ComparedFile, place: int) -> bool:
        """Removes the line at a place from the account's lost stretches, as something explains the line after all.

        Returns False when the account did not list it as lost.
        """
        lost = self._of(file).lost
        here = next((stretch for stretch in lost if stretch[0] == place & OFFSETS), None)
        if here is not None:
            lost.remove(here)
        return here is not None

    def end(self, files: Sequence[ComparedFile]) -> None:
        """Completes the account of compared files, once all of them were read to their ends.

        Adds the bytes read, the bytes behind the last newline, and those before the place where reading began.
        """
        for file in files:
            compared = self._of(file)
            read, unended, mine = file.read()
            compared.bytes = read
            compared.sizes["waiting" if mine is None else mine] += unended
            compared.sizes["empty"] += 0 if file.start else file.mark
            if file.start:
                told = self._before.get(file.source, {}).get(str(file.generation))
                if told is not None and sum(told) == file.start:
                    for kind, size in zip(BYTE_KINDS, told, strict=False):
                        compared.sizes[kind] += size
                else:  # the bytes before were proved, and their entries trimmed
                    compared.sizes["carried"] += file.start

    def whole(self, file: ComparedFile, size: int, waiting: int) -> None:
        """Notes in the account how many bytes a compared file holds, and how many of them still wait to be carried."""
        compared = self._of(file)
        compared.bytes = size
        compared.sizes["waiting"] += waiting

    def for_later(self) -> dict[str, dict[str, list[int]]]:
        """Returns the account of each source's generations, so that a later account can continue where this one ended.

        Waiting bytes count as 0, as they are read again.
        """
        found: dict[str, dict[str, list[int]]] = {}
        for compared in self._files.values():
            sizes = [0 if kind == "waiting" else compared.sizes[kind] for kind in BYTE_KINDS]
            found.setdefault(compared.source, {})[str(compared.generation)] = sizes
        return found

    @property
    def compared(self) -> list[FileBytes]:
        """The account's compared files, by source and generation."""
        return sorted(self._files.values(), key=lambda file: (file.source, file.generation))

    def unaccounted(self) -> Iterator[Lost]:
        """Lists the stretches of a mapping's files that nothing in the account explains."""
        for compared in self.compared:
            left = compared.unaccounted
            for offset, size in compared.lost:
                yield compared.path, offset, size, "no entry holds it"
                left -= size
            if left:
                yield compared.path, 0, left, "what became of so many bytes of it is not known"
        for other in self.aside:
            if other.standing == "unaccounted" and other.bytes:
                yield other.path, 0, other.bytes, other.why

    def sentences(self) -> list[str]:
        """Says in one sentence each which bytes of a mapping's files are unaccounted."""
        return [
            f"unaccounted: {path}, {size:,} bytes from byte {offset:,} on: {why}"
            for path, offset, size, why in self.unaccounted()
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Returns the account of bytes and entries as `parity --json` prints it (DESIGN §5.4)."""
        files = self.compared
        sums = {kind: sum(file.sizes[kind] for file in files) for kind in BYTE_KINDS}
        kinds = {"copies": ("copy", "link"), "aside": ("aside", "left"), "waiting": ("waiting",)}
        for name, standings in kinds.items():
            here = sum(file.bytes for file in self.aside if file.standing in standings)
            sums[name] = sums.get(name, 0) + here
        total = sum(file.bytes for file in files) + sum(file.bytes for file in self.aside)
        newest = {file.source: file.generation for file in files}
        pieces = [
            {"path": file.path, "standing": "active" if newest[file.source] == file.generation else "piece",
             "source": file.source, "generation": file.generation, "bytes": file.bytes}
            for file in files
        ]  # fmt: skip
        others = [
            {"path": file.path, "standing": file.standing, "bytes": file.bytes, "why": file.why} for file in self.aside
        ]
        named = [{"path": path, "offset": at, "bytes": size, "why": why} for path, at, size, why in self.unaccounted()]
        return {
            "bytes": total, **sums, "unaccounted": total - sum(sums.values()), "entries": self.entries,
            "trimmed": self.trimmed, "deleted": self.deleted, "gone_before_mirrored": self.gone,
            "unaccounted_at": named, "pieces": pieces + others,
        }  # fmt: skip
