"""Copies all that a ledger knows of some streams to another ledger, and makes a ledger forget them.

So a mapping moves from one group to another. Every table with a column `stream` counts, and the names of streams.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.ledger.staleness_mark import drop_mark, read_mark, write_mark
from bridge.ledger.store import Ledger, translated
from bridge.ledger.stream_names import TABLE

_KNOWN_BY = ("streams", "sources", "nonces", "retired", "quarantine", "imports")
"""Tables by whose rows a ledger knows a stream."""


def known_streams(ledger: Ledger) -> set[str]:
    """Lists the streams of which a ledger knows anything."""
    return {str(stream) for table in _KNOWN_BY for (stream,) in ledger.rows(f"SELECT DISTINCT stream FROM {table}")}


def moving_from(ledger: Ledger, key: str) -> str:
    """Returns the UUID of the ledger from which a mapping's rows were copied into this one; empty: it has its own.

    While it is told, the copy counts for nothing: the other ledger's rows do. `key` is the mapping's `stream.key`.
    """
    rows = ledger.rows("SELECT value FROM identity WHERE name = ?", (f"moving {key}",))
    return str(rows[0][0]) if rows else ""


def has_moved(ledger: Ledger, key: str) -> None:
    """Notes that a mapping's rows in this ledger are its own from now on, and no copy of another ledger's."""
    ledger.write("DELETE FROM identity WHERE name = ?", (f"moving {key}",))


def copy_rows(origin: Ledger, to: Ledger, streams: Collection[str], key: str) -> None:
    """Copies a ledger's rows of these streams into another ledger, in one transaction, over an earlier copy.

    `key` is their mapping's `stream.key`, under which the copy is noted as one until `has_moved`. The processes that
    carried the streams count as such that did so with the new ledger. What the other ledger has by itself, such as a
    record of its journal, stays. Raises LedgerError, OSError.
    """
    again = bool(moving_from(to, key))
    with _attached(to, origin.path), to.transaction():
        _choose(to, [*streams, key])
        to.write(TABLE)
        if again:
            _delete(to, key)
        for table, columns in _tables(to):
            if "id" not in columns:
                names = ", ".join(f'"{column}"' for column in columns)
                to.write(
                    f'INSERT OR REPLACE INTO main."{table}" ({names})'
                    f' SELECT {names} FROM origin."{table}" WHERE {_CHOSEN}'
                )
                continue
            names = ", ".join(f'"{column}"' for column in columns if column != "id")
            marks = ", ".join("?" for column in columns if column != "id")
            found = to.rows(f'SELECT id, {names} FROM origin."{table}" WHERE {_CHOSEN} ORDER BY id')
            for number, *row in found:  # one by one: numbers of one ledger are taken in another
                to.write(f'INSERT OR REPLACE INTO main."{table}" ({names}) VALUES ({marks})', row)
                if table == "twofold":
                    to.write("INSERT INTO main.twofold_files SELECT last_insert_rowid(), name, from_generation,"
                             " from_offset, to_generation, to_offset FROM origin.twofold_files WHERE stretch = ?",
                             (number,))  # fmt: skip
        if to.rows("SELECT 1 FROM origin.sqlite_master WHERE name = 'stream_names'"):
            to.write("INSERT OR REPLACE INTO main.stream_names SELECT * FROM origin.stream_names WHERE key = ?", (key,))
        to.write("UPDATE main.nonces SET place = '' WHERE " + _CHOSEN)
        to.write("INSERT OR REPLACE INTO main.identity VALUES (?, ?)", (f"moving {key}", origin.uuid.decode()))
    for stream in streams:
        if count := read_mark(origin.path, origin.uuid, stream):
            write_mark(to.path, to.uuid, stream, count)


def forget_rows(ledger: Ledger, streams: Collection[str], key: str) -> None:
    """Makes a ledger forget all that it knows of these streams, in one transaction. Raises LedgerError, OSError.

    `key` is their mapping's `stream.key`.
    """
    for stream in streams:
        drop_mark(ledger.path, stream)
    with ledger.transaction():
        ledger.write(TABLE)
        _choose(ledger, [*streams, key])
        _delete(ledger, key)


_CHOSEN = "stream IN (SELECT stream FROM temp.chosen)"


def _choose(ledger: Ledger, streams: Collection[str]) -> None:
    ledger.write("CREATE TEMP TABLE IF NOT EXISTS chosen (stream TEXT PRIMARY KEY)")
    ledger.write("DELETE FROM temp.chosen")
    for stream in streams:
        ledger.write("INSERT OR IGNORE INTO temp.chosen VALUES (?)", (stream,))


def _delete(ledger: Ledger, key: str) -> None:
    ledger.write(f"DELETE FROM main.twofold_files WHERE stretch IN (SELECT id FROM main.twofold WHERE {_CHOSEN})")
    for table, _ in _tables(ledger):
        ledger.write(f'DELETE FROM main."{table}" WHERE {_CHOSEN}')
    for (stream,) in ledger.rows("SELECT stream FROM temp.chosen"):
        ledger.write("DELETE FROM main.identity WHERE name = ?", (f"begun {stream}",))
    ledger.write("DELETE FROM main.stream_names WHERE key = ?", (key,))
    ledger.write("DELETE FROM main.identity WHERE name = ?", (f"moving {key}",))


def _tables(ledger: Ledger) -> list[tuple[str, list[str]]]:
    """Lists the tables of a ledger that have a column `stream`, each with its columns."""
    found = []
    for (table,) in ledger.rows("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name"):
        columns = [str(row[1]) for row in ledger.rows(f'PRAGMA main.table_info("{table}")')]
        if "stream" in columns:
            found.append((str(table), columns))
    return found


@contextmanager
def _attached(ledger: Ledger, other: Path) -> Iterator[None]:
    """Attaches another ledger's file as `origin` to a ledger's connection in the block."""
    with translated(other):
        ledger.conn.execute("ATTACH DATABASE ? AS origin", (str(other),))
    try:
        yield
    finally:
        ledger.conn.execute("DETACH DATABASE origin")
