"""Keeps in the ledger the standings of files that are no generation: left alone by somebody, a copy, or unaccounted."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.files.named_file import FileStamp
from bridge.ledger.store import Ledger

LEFT, COPY, UNACCOUNTED, LATE, SKIPPED, EDITED = "left", "copy", "unaccounted", "late", "skipped", "edited"
"""The standings of files that the ledger keeps.

Somebody said `--leave`; its bytes are another file's; nothing explains it; a repair brings it over, or has: it is a log
by itself; a stretch of it was passed over unread (`path:offset`); a repair found that most of its lines are in the
stream, as those of a generation that was edited since.
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The ledger's record of a file that is no generation of a log: its standing, why, since when, and who said so.

    `at` is in seconds since 1970. `facts` are the file's facts at that time, None: the file is meant whatever it holds.
    `bytes` is the number of bytes that the standing is about.
    """

    path: str
    standing: str
    why: str
    at: float
    facts: FileStamp | None = None
    bytes: int = 0
    who: str = ""


def remembered_pieces(ledger: Ledger, stream: str) -> dict[str, FileRecord]:
    """Reads from the ledger the standings of a stream's files that are no generations, by path."""
    rows = ledger.rows(
        "SELECT path, standing, why, at, facts, bytes, who FROM pieces WHERE stream = ? ORDER BY path", (stream,)
    )
    return {
        path: FileRecord(path, standing, why, at, _read(facts), size, who)
        for path, standing, why, at, facts, size, who in rows
    }


def save_piece(ledger: Ledger, stream: str, piece: FileRecord) -> None:
    """Writes the standing of a file that is no generation into the ledger, in place of an older one."""
    facts = None if piece.facts is None else " ".join(map(str, piece.facts))
    ledger.write(
        "INSERT OR REPLACE INTO pieces (stream, path, standing, why, at, facts, bytes, who)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, piece.path, piece.standing, piece.why, piece.at, facts, piece.bytes, piece.who),
    )


def forget_piece(ledger: Ledger, stream: str, path: str) -> None:
    """Deletes the standing of a file from the ledger."""
    ledger.write("DELETE FROM pieces WHERE stream = ? AND path = ?", (stream, path))


def forget_skipped(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger the `skipped` standings of stretches passed over unread, once a repair has sent them."""
    ledger.write("DELETE FROM pieces WHERE stream = ? AND standing = ?", (stream, SKIPPED))


def forget_edited(ledger: Ledger, stream: str) -> None:
    """Deletes from the ledger the `edited` standings of files, as Redis lost entries.

    The files' lines may not be in the stream any more.
    """
    ledger.write("DELETE FROM pieces WHERE stream = ? AND standing = ?", (stream, EDITED))


def _read(facts: str | None) -> FileStamp | None:
    if facts is None:
        return None
    device, inode, size, written, changed = map(int, facts.split())
    return device, inode, size, written, changed
