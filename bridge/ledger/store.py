"""Opens the ledger's SQLite database: WAL, migrations, and clear errors when it is damaged, locked, full or newer.

A damaged ledger is never overwritten: without it forward would carry mirrored lines back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.core.errors import LedgerError, LedgerFull
from bridge.ledger.staleness_mark import write_mark

VERSION = 17
"""The version of the ledger's tables, in SQLite's user_version, so that an older bridge can tell not to write."""

OLDEST = 16
"""The oldest version of the ledger's tables that is brought up to date; older ones were never released."""

LATEST_INDEX = "idx_nonces_stream"
"""An index that ledgers of before lack, which have the same tables: with it all indexes are made that they lack."""


FILE_CHECKS, FILE_CHECK_SECONDS = 20, 0.05
"""How often, and after how many seconds, the ledger's file is looked at again while it is still empty."""

CACHE, CARRYING_CACHE_KIB = 1 << 10, 16 << 10
"""KiB of the ledger's pages that a connection keeps in memory, at most; and a connection that carries a folder.

The keys of a folder's messages are digests, so each lands on another page. A bridge has half a dozen connections; what
they free at once, among what stays, is not given back to the system.
"""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors about the ledger, in the block, into LedgerErrors that say what to do.

    Also for a name or a number that SQLite cannot hold.
    """
    try:
        yield
    except (UnicodeEncodeError, OverflowError) as error:
        said = (
            f"cannot note what is no UTF-8, or too large a number: {error.args[1] if len(error.args) > 1 else error!a}"
        )
        raise LedgerError(said[:300], where=str(path), hint="rename what it names") from None
    except sqlite3.Error as error:
        text = str(error)
        code = getattr(error, "sqlite_errorname", "") or ""
        where = str(path)
        if code.startswith("SQLITE_FULL") or "disk is full" in text:
            raise LedgerFull("the disk is full", where=where, hint="make room; the bridge goes on by itself") from None
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LedgerError(
                "is locked by another program", where=where, hint="close what holds it open (a SQLite browser?)"
            ) from None
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise LedgerError(
                f"is damaged: {text}",
                where=where,
                hint="move it aside (keep it) and rebuild it with `bridge repair`",
            ) from None
        raise LedgerError(
            f"cannot be used: {text}", where=where, hint="is the disk in order, and the folder writable?"
        ) from None


class Ledger:
    """A connection to the ledger's SQLite file; each thread of a process opens its own."""

    def __init__(self, path: Path, *, create: bool = False, cache: int = CACHE) -> None:
        self.path = path
        self._cache = cache
        self._after_commit: list[Callable[[], None]] = []
        if not path.exists() and not create:
            raise LedgerError(
                "there is no ledger",
                where=str(path),
                hint="`bridge run` makes one; one that was lost is rebuilt by `bridge repair`",
            )
        with translated(path):
            self.conn = sqlite3.connect(str(path), timeout=5.0, isolation_level=None)
            try:
                self._open(create=create)
            except BaseException:
                self.conn.close()
                raise

    def _open(self, *, create: bool) -> None:
        found = int(self.conn.execute("PRAGMA user_version").fetchone()[0])
        for _ in range(FILE_CHECKS if not create else 0):
            if found:
                break
            time.sleep(FILE_CHECK_SECONDS)  # a process may be creating it right now
            found = int(self.conn.execute("PRAGMA user_version").fetchone()[0])
        if found > VERSION:
            raise LedgerError(
                f"is of version {found}, this bridge knows {VERSION}",
                where=str(self.path),
                hint="use the newer bridge that wrote it; nothing was changed",
            )
        if 0 < found < OLDEST:
            raise LedgerError(
                f"is of version {found}, this bridge brings {OLDEST} and later up to date",
                where=str(self.path),
                hint="move it aside (keep it) and rebuild it with `bridge repair`",
            )
        if found < VERSION and not create:
            raise LedgerError(
                f"is of version {found}, this bridge writes {VERSION}" if found else "is empty",
                where=str(self.path),
                hint="`bridge run` brings it up to date" if found else "move it aside; `bridge repair` rebuilds it",
            )
        self.conn.execute("PRAGMA journal_mode=WAL")
        # Survives kill -9; a power failure may take the last commits, which DESIGN §2 does not promise.
        self.conn.execute("PRAGMA synchronous=NORMAL")
        self.conn.execute(f"PRAGMA cache_size=-{self._cache}")
        if found < VERSION:
            from bridge.ledger.migrations import migrate

            migrate(self.conn)
            self.conn.execute(f"PRAGMA user_version={VERSION}")
        elif create and not self.conn.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (LATEST_INDEX,)).fetchone():
            from bridge.ledger.migrations import statements

            for statement in statements():
                if statement.lstrip().startswith(("CREATE INDEX", "CREATE UNIQUE INDEX")):
                    self.conn.execute(statement)
        row = self.conn.execute("SELECT value FROM identity WHERE name = 'ledger'").fetchone()
        if row is None:
            raise LedgerError("is damaged: it has no identity", where=str(self.path), hint="`bridge repair`")
        self.uuid: bytes = str(row[0]).encode()

    @property
    def place(self) -> str:
        """Identifies the ledger file by the inodes of its folder and of itself, so that a copy is told. Raises OSError.

        A copy, or a ledger that was restored from a backup, has others, as a rule.
        """
        return f"{self.path.parent.stat().st_ino}.{self.path.stat().st_ino}"

    @property
    def birth(self) -> str:
        """Tells the ledger from its copies, by inode and time of change of a file beside it that nobody writes to.

        In a copy, or in what was restored from a backup, that file has another time of change, which no program can
        set. So it has after a `chmod` of all: that a ledger is itself is sure, that it is a copy is not. Raises
        OSError.
        """
        beside = self.path.with_name("place")
        if not beside.exists():
            beside.touch(0o600)
        now = beside.stat()
        return f"{now.st_ino}.{now.st_ctime_ns}"

    def be_reborn(self) -> None:
        """Gives the ledger a new birth, so that no earlier copy of it is taken for it any more.

        What vouched for files by the old birth does so by the new one. Raises OSError, LedgerError. A crash within it
        leaves files that nobody vouches for until they are carried.
        """
        before = self.birth
        self.path.with_name("place").unlink()
        self.write("UPDATE identity SET value = ? WHERE value = ? AND name LIKE 'begun %'", (self.birth, before))

    @contextmanager
    def transaction(self, marked: str = "") -> Iterator[None]:
        """Runs the block as one transaction of the ledger, all or nothing. Raises LedgerError.

        `marked` is a stream whose mark beside the ledger moves with it. Transactions do not nest.
        """
        self._after_commit.clear()
        count = "UPDATE streams SET commits = coalesce(commits, 0) + 1 WHERE stream = ? RETURNING commits"
        counted: list[tuple[int]] = []
        with translated(self.path):
            self.conn.execute("BEGIN IMMEDIATE")
            try:
                yield
                counted = self.conn.execute(count, (marked,)).fetchall() if marked else []
                self.conn.execute("COMMIT")
            except BaseException:
                if self.conn.in_transaction:
                    self.conn.execute("ROLLBACK")
                raise
        actions, self._after_commit = self._after_commit, []
        for action in actions:  # before the mark: it may fail, and all this is committed
            action()
        for (commits,) in counted:
            write_mark(self.path, self.uuid, marked, commits)

    @contextmanager
    def joined_transaction(self) -> Iterator[None]:
        """Runs the block in the ledger's transaction under way, or else in one of its own. Raises LedgerError."""
        if self.conn.in_transaction:
            yield
        else:
            with self.transaction():
                yield

    def after_commit(self, action: Callable[[], None]) -> None:
        """Has the ledger run `action` when the transaction under way is committed; at once where none is under way."""
        if self.conn.in_transaction:
            self._after_commit.append(action)
        else:
            action()

    def rows(self, sql: str, args: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Runs a SQL query on the ledger; returns all rows that it finds, as tuples of their columns."""
        with translated(self.path):
            return self.conn.execute(sql, tuple(args)).fetchall()

    def write(self, sql: str, args: Iterable[Any] = ()) -> None:
        """Runs one statement that writes to the ledger: inside a transaction as part of it, else committed at once."""
        with translated(self.path):
            self.conn.execute(sql, tuple(args))

    def close(self) -> None:
        """Closes this connection to the ledger."""
        self.conn.close()
