"""Keeps in the ledger the names of the streams of a mapping with many: which log has which, fixed for ever."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.ledger.store import Ledger

TABLE = (
    'CREATE TABLE IF NOT EXISTS "stream_names"'
    ' ("key" TEXT, "log" TEXT, "name" TEXT, "at" REAL, PRIMARY KEY ("key", "log"))'
)
"""Makes the table in a ledger of before, which an earlier bridge can use as it did: it knows no such mapping."""


def _is_there(ledger: Ledger) -> bool:
    return bool(ledger.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'stream_names'"))


def keys_with_names(ledger: Ledger) -> set[str]:
    """Lists the `stream.key` of the mappings of which the ledger has names of streams, with `{name}` in them."""
    if not _is_there(ledger):
        return set()
    return {str(key) for (key,) in ledger.rows("SELECT DISTINCT key FROM stream_names")}


def fixed_names(ledger: Ledger, key: str) -> dict[str, str]:
    """Reads from the ledger the names of a mapping's streams, by the log's path below the root.

    `key` is the mapping's `stream.key` with `{name}` in it.
    """
    if not _is_there(ledger):
        return {}
    rows = ledger.rows("SELECT log, name FROM stream_names WHERE key = ?", (key,))
    return {str(log): str(name) for log, name in rows}


def fix_names(ledger: Ledger, key: str, names: Mapping[str, str], now: float) -> None:
    """Writes the names of a mapping's new streams into the ledger, by log; a name that is there stays.

    `now` in seconds since 1970. In a transaction of its own.
    """
    with ledger.transaction():
        ledger.write(TABLE)
        for log, name in names.items():
            ledger.write("INSERT OR IGNORE INTO stream_names VALUES (?, ?, ?, ?)", (key, log, name, now))


def waiting_streams(ledger: Ledger, since: float) -> set[str]:
    """Lists the streams for which the ledger has something to do, though no file changed.

    That is a write that was begun, a refill, a switch under way, or files that a repair set aside or brings over since
    `since`, in seconds since 1970.
    """
    asked = (
        "SELECT stream FROM intents",
        "SELECT stream FROM sources WHERE refill_generation IS NOT NULL",
        "SELECT stream FROM twofold WHERE token IS NOT NULL",
        "SELECT stream FROM pieces WHERE standing IN ('late', 'left') AND at >= ?",
    )
    return {str(stream) for (stream,) in ledger.rows(" UNION ".join(asked), (since,))}


def naming_streams(ledger: Ledger) -> set[str]:
    """Lists the streams whose lines named artifacts of which Redis is to be told yet."""
    return {str(stream) for (stream,) in ledger.rows("SELECT DISTINCT stream FROM mentions")}


def troubled_streams(ledger: Ledger) -> set[str]:
    """Lists the streams of which the ledger has files, or stretches of files, that nothing explains."""
    return {
        str(stream) for (stream,) in ledger.rows(
            "SELECT DISTINCT stream FROM pieces WHERE standing IN ('unaccounted', 'skipped')")
    }  # fmt: skip
