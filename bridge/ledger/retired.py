"""Keeps in the ledger which streams are retired, and tells whether a ledger can vouch that a stream is not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from bridge.core.errors import LedgerError
from bridge.ledger.store import Ledger


def retired(ledger: Ledger) -> dict[str, float]:
    """Reads from the ledger the streams that are retired, and since when, in seconds since 1970."""
    return {str(stream): float(at) for stream, at in ledger.rows("SELECT stream, at FROM retired")}


def ending_noted(ledger: Ledger, stream: str) -> tuple[str, str, float, bytes | None] | None:
    """Reads from the ledger how a stream was retired: its mapping, who, when, and what Redis is to say of it.

    The last is None where it was never noted. Returns None for a stream that is not retired.
    """
    rows = ledger.rows("SELECT mapping, who, at, ending FROM retired WHERE stream = ?", (stream,))
    return (str(rows[0][0]), str(rows[0][1]), float(rows[0][2]), rows[0][3]) if rows else None


def retire(ledger: Ledger, stream: str, mapping: str, who: str, at: float, ending: bytes) -> None:
    """Notes in the ledger that a stream is retired, and what Redis is to say of that (`ending`)."""
    ledger.write(
        "INSERT OR IGNORE INTO retired (stream, mapping, at, who, ending) VALUES (?, ?, ?, ?, ?)",
        (stream, mapping, at, who, ending),
    )


def note_told(ledger: Ledger, stream: str, ending: bytes) -> None:
    """Notes in the ledger what Redis is to say from now on of a retired stream."""
    ledger.write("UPDATE retired SET ending = ? WHERE stream = ?", (ending, stream))


def unretire(ledger: Ledger, stream: str) -> None:
    """Notes in the ledger that a stream is not retired any more."""
    ledger.write("DELETE FROM retired WHERE stream = ?", (stream,))


def is_retired(path: Path, stream: str) -> bool:
    """Whether the ledger at this path knows that a stream is retired; a ledger that cannot be read knows nothing."""
    return _noted(path, stream) is not None


def ending_told(path: Path, stream: str) -> bytes | None:
    """Reads from the ledger at this path what Redis is to say of a retired stream; None: the ledger knows of none."""
    known = _noted(path, stream)
    return known[3] if known is not None else None


def _noted(path: Path, stream: str) -> tuple[str, str, float, bytes | None] | None:
    if not path.exists():
        return None
    try:
        with closing(Ledger(path)) as ledger:
            return ending_noted(ledger, stream)
    except LedgerError:
        return None


def doubt(path: Path, stream: str) -> str:
    """Says why the ledger at this path cannot vouch that a stream is still carried and not retired; empty: it vouches.

    For a program that cannot ask Redis. A ledger elsewhere than the one that carried last is a copy, or was restored
    from a backup: it knows nothing of what came later. Nor does one that never carried the stream.
    """
    if not path.exists():
        return f"there is no ledger at {path}"
    try:
        with closing(Ledger(path)) as ledger:
            begun = ledger.rows("SELECT value FROM identity WHERE name = ?", (f"begun {stream}",))
            older = ledger.rows("SELECT place FROM nonces WHERE stream = ? ORDER BY id DESC LIMIT 1", (stream,))
            if stream in retired(ledger):
                return f"{stream} is retired"
            if not begun and not older:
                return f"{path} has never carried {stream}"
            mine = begun[0][0] == ledger.birth if begun else older[0][0] in ("", ledger.place)
            return "" if mine else f"{path} is a copy, or was put back"
    except (LedgerError, OSError) as error:
        return str(error)
