"""What the ledger remembers of files that are no generation: left alone by somebody, a copy, or unaccounted."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.files.named_file import FileStamp
from bridge.ledger.store import Ledger

LEFT, COPY, UNACCOUNTED, LATE, SKIPPED, EDITED = "left", "copy", "unaccounted", "late", "skipped", "edited"
"""The standings that are remembered: somebody said `--leave`; its bytes are another file's; nothing explains it; a
repair brings it over, or has: it is a log by itself; a stretch of it was passed over unread (`path:offset`); a repair
found that most of its lines are in the stream, as those of a generation that was edited since."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that is no generation of a log: its standing, why, since when (seconds since 1970), and who said so.

    `facts` are those that it had, None: it is meant whatever it holds. `bytes` are those that the standing is about.
    """

    path: str
    standing: str
    why: str
    at: float
    facts: FileStamp | None = None
    bytes: int = 0
    who: str = ""


def remembered_pieces(ledger: Ledger, stream: str) -> dict[str, FileRecord]:
    """All files of a stream's mapping that the ledger remembers by themselves, by path."""
    rows = ledger.rows(
        "SELECT path, standing, why, at, facts, bytes, who FROM pieces WHERE stream = ? ORDER BY path", (stream,)
    )
    return {
        path: FileRecord(path, standing, why, at, _read(facts), size, who)
        for path, standing, why, at, facts, size, who in rows
    }


def save_piece(ledger: Ledger, stream: str, piece: FileRecord) -> None:
    """Writes the standing of a mapping's file into the ledger, in the place of what that had of it."""
    facts = None if piece.facts is None else " ".join(map(str, piece.facts))
    ledger.write(
        "INSERT OR REPLACE INTO pieces (stream, path, standing, why, at, facts, bytes, who)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, piece.path, piece.standing, piece.why, piece.at, facts, piece.bytes, piece.who),
    )


def forget_piece(ledger: Ledger, stream: str, path: str) -> None:
    """Forgets what was remembered of a file."""
    ledger.write("DELETE FROM pieces WHERE stream = ? AND path = ?", (stream, path))


def forget_skipped(ledger: Ledger, stream: str) -> None:
    """The ledger drops its notes of stretches passed over unread, once a repair has sent their lines."""
    ledger.write("DELETE FROM pieces WHERE stream = ? AND standing = ?", (stream, SKIPPED))


def forget_edited(ledger: Ledger, stream: str) -> None:
    """The ledger drops its notes of pieces that were edited, as Redis lost entries: perhaps they are not there now."""
    ledger.write("DELETE FROM pieces WHERE stream = ? AND standing = ?", (stream, EDITED))


def _read(facts: str | None) -> FileStamp | None:
    if facts is None:
        return None
    device, inode, size, written, changed = map(int, facts.split())
    return device, inode, size, written, changed
