"""Defines the standing of a file that a mapping names, and the account of a mapping with its sums. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge.files.named_file import FileStamp
from bridge.files.piece_age import TimeSpan
from bridge.ledger.file_standings import COPY, LEFT, UNACCOUNTED

ACTIVE, PIECE, LINK, WAITING, ASIDE = "active", "piece", "link", "waiting", "aside"
"""Standings of files: being written; carried as a generation; another name of a file; waiting; set aside unread.

The others (copy, left, unaccounted) are those that the ledger remembers.
"""


@dataclass(frozen=True, slots=True)
class FileStanding:
    """The standing of one file that a mapping names, by its path below the root.

    `log` and `generation` are those that the file is a piece of. `bytes` counts what it holds, of a packed file as far
    as it was unpacked; `behind` counts the bytes not carried yet. `why` says in words what decided the standing.
    """

    path: str
    standing: str
    log: str = ""
    generation: int | None = None
    bytes: int = 0
    behind: int = 0
    why: str = ""
    facts: FileStamp | None = None
    decided: str = ""
    """What put the generation behind the one before, as `bridge.files.piece_age` has it."""
    span: TimeSpan | None = None
    """The times of the first and the last message, in ms since 1970, where somebody looked for them."""

    @property
    def first(self) -> int:
        """The offset from which on the file of this standing is unaccounted, or waits."""
        return self.bytes - self.behind

    def to_json(self) -> dict[str, Any]:
        """Makes a JSON object of a file's standing, as `bridge files --json` prints it."""
        return {
            "path": self.path, "standing": self.standing, "source": self.log or None, "generation": self.generation,
            "bytes": self.bytes, "behind": self.behind, "why": self.why or None, "decided": self.decided or None,
            "first": self.span[0] if self.span else None, "last": self.span[1] if self.span else None,
        }  # fmt: skip


@dataclass(slots=True)
class FilesAccount:
    """The account of a mapping: the standing of each of its files.

    `gone` counts the entries that were removed from the stream before the mirror came to them.
    """

    pieces: list[FileStanding] = field(default_factory=list)
    gone: int = 0
    acknowledged: int = 0
    """How many of the entries in `gone` somebody acknowledged."""
    logs: set[str] = field(default_factory=set)
    """The logs of which the account has a file."""
    unsettled: set[str] = field(default_factory=set)
    """The logs with a file that catalog and records do not explain: not carried, or written to since it was carried."""

    @property
    def unaccounted(self) -> list[FileStanding]:
        """The standings in the account of unaccounted files, or parts of files, which nothing explains."""
        return [piece for piece in self.pieces if piece.standing == UNACCOUNTED]

    def settles(self, log: str) -> bool:
        """Whether all files of a log are, by the account, carried and unchanged since."""
        return log in self.logs and log not in self.unsettled

    def sums(self) -> dict[str, int]:
        """Sums up the account's bytes by standing, and counts its files; what waits of a carried file counts apart."""
        found = dict.fromkeys(("bytes", "carried", "waiting", "aside", "copies", "unaccounted", "files"), 0)
        for piece in self.pieces:
            found["files"] += 1
            found["bytes"] += piece.bytes
            waits = "unaccounted" if piece.standing == UNACCOUNTED else "waiting"
            kind = {ASIDE: "aside", LEFT: "aside", COPY: "copies"}.get(piece.standing, "carried")
            found[kind] += piece.bytes - piece.behind
            found[waits] += piece.behind
        return found

    def to_json(self) -> dict[str, Any]:
        """Makes a JSON object of an account, as `status --json` prints it: sums, and standings of unaccounted files."""
        named = [piece.to_json() for piece in self.unaccounted]
        return {**self.sums(), "gone_before_mirrored": self.gone, "files_unaccounted": named}

    def sentences(self) -> list[str]:
        """Says in words which files of the account are unaccounted, the greatest stretch first; empty: none.

        And how many entries were removed from the stream before the mirror came to them, unless acknowledged.
        """
        found = [
            f"{piece.path} is unaccounted, bytes {piece.first:,} to {piece.bytes:,}: {piece.why}"
            for piece in sorted(self.unaccounted, key=lambda piece: -piece.behind)
        ]  # fmt: skip
        if fresh := self.gone - self.acknowledged:
            noun = "entry was" if fresh == 1 else "entries were"
            found.append(f"{fresh:,} {noun} removed from the stream before the mirror came to them")
        return found
