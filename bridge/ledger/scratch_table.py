"""Makes temporary SQLite tables for the time of a comparison: on disk when they are large, gone afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple


def in_order(pairs: Iterable[Iterable[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    """Sorts pairs of numbers in a temporary SQLite table by the first number; of equal ones one is left.

    The pairs come some at a time.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as db:  # a temporary file of SQLite's own, without a name
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("CREATE TABLE found (at INTEGER PRIMARY KEY, number INTEGER)")
        db.execute("BEGIN")
        for some in pairs:
            db.executemany("INSERT OR IGNORE INTO found VALUES (?, ?)", some)
        yield from db.execute("SELECT at, number FROM found ORDER BY at")


class ScratchFile(NamedTuple):
    """A row of the scratch table: a file's name, its message's identity (empty: none), and a digest of its row."""

    name: bytes
    identity: bytes
    row: bytes


class ScratchTable:
    """A temporary table of the messages that lie in a folder, for comparing them with a stream. `close` it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file of SQLite's own, without a name
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE found (name BLOB, identity BLOB, row BLOB, claimed INTEGER DEFAULT 0)")
        self._db.execute("BEGIN")
        self._indexed = False

    def add(self, found: Iterable[ScratchFile]) -> None:
        """Adds files of a folder to the scratch table, in any order, before anything is asked of it."""
        self._db.executemany("INSERT INTO found (name, identity, row) VALUES (?, ?, ?)", found)

    def _index(self) -> None:
        if not self._indexed:
            self._db.execute("CREATE INDEX by_row ON found (row)")
            self._db.execute("CREATE INDEX by_name ON found (name)")
            self._db.execute("CREATE INDEX by_identity ON found (identity)")
            self._indexed = True

    def claim(self, row: bytes) -> bytes | None:
        """Claims a file in the scratch table that has this row and is not claimed yet; returns its name, or None."""
        self._index()
        found = self._db.execute(
            "SELECT rowid, name FROM found WHERE row = ? AND NOT claimed LIMIT 1", (row,)
        ).fetchone()
        if found is None:
            return None
        self._db.execute("UPDATE found SET claimed = 1 WHERE rowid = ?", (found[0],))
        return bytes(found[1])

    def same(self, identity: bytes, row: bytes) -> tuple[bytes, bool] | None:
        """Finds a file in the scratch table with this identity, or, where that is empty, with this row.

        Returns its name and whether it is claimed; None: no file.
        """
        self._index()
        column, value = ("identity", identity) if identity else ("row", row)
        found = self._db.execute(f"SELECT name, claimed FROM found WHERE {column} = ? LIMIT 1", (value,)).fetchone()
        return (bytes(found[0]), bool(found[1])) if found is not None else None

    def take(self, name: bytes) -> bool:
        """Claims the file of this name in the scratch table; False when it was claimed before, or there is none."""
        self._index()
        done = self._db.execute("UPDATE found SET claimed = 1 WHERE name = ? AND NOT claimed", (name,))
        return done.rowcount > 0

    def left(self) -> Iterator[ScratchFile]:
        """Yields the files in the scratch table that nothing has claimed, by name."""
        self._index()
        for row in self._db.execute("SELECT name, identity, row FROM found WHERE NOT claimed ORDER BY name"):
            yield ScratchFile(*row)

    def claimed(self, identity: bytes) -> bool:
        """Whether a file in the scratch table with this identity is claimed."""
        found = self._db.execute("SELECT 1 FROM found WHERE identity = ? AND claimed LIMIT 1", (identity,)).fetchone()
        return found is not None

    def close(self) -> None:
        """Closes the scratch table, which deletes it."""
        self._db.close()
