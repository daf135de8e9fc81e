"""Opens the ledger's SQLite database: WAL, migrations, and clear errors when it is damaged, locked, full or newer.

A damaged ledger is never overwritten: without it forward would carry mirrored lines back.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlite_utils
from sqlite_utils.migrations import Migrations

from bridge.core.errors import LedgerError, LedgerFull
from bridge.ledger.staleness_mark import write_mark

VERSION = 16
"""The version of the ledger's tables, in SQLite's user_version, so that an older bridge can tell not to write."""

migrations = Migrations("bridge")


@migrations(name="001_first")
def _first(db: sqlite_utils.Database) -> None:
    position = {"generation": int, "offset": int, "head_len": int, "head": str, "tail": str}
    tables: dict[str, tuple[dict[str, Any], str | tuple[str, ...]]] = {
        "identity": ({"name": str, "value": str}, "name"),
        "streams": ({"stream": str, "last_id": str, "added": int, "mirror_cursor": str}, "stream"),
        "sources": (
            {
                "stream": str, "name": str, "number": int, "stored": bytes, "live": int,
                "history_generation": int, "history_offset": int, "refill_generation": int, "refill_offset": int,
            },
            ("stream", "name"),
        ),
        "generations": (
            {"stream": str, "name": str, "number": int, "device": str, "inode": str, **position, "closed": int},
            ("stream", "name", "number"),
        ),
        "intents": (
            {"id": int, "stream": str, "name": str, "generation": int, "size": int, "content": bytes, "entries": bytes},
            "id",
        ),
        "ranges": (
            {
                "stream": str, "name": str, "generation": int, "start": int, "end": int,
                "digest": bytes, "entries": bytes, "last_ms": int,
            },
            ("stream", "name", "generation", "start"),
        ),
        "quarantine": (
            {
                "id": int, "stream": str, "direction": str, "name": str, "generation": int, "offset": int,
                "entry_id": str, "reason": str, "raw": bytes, "length": int, "digest": str, "noted_at": float,
            },
            "id",
        ),
        "health": ({"worker": str, "error": str, "hint": str, "since": float}, "worker"),
    }  # fmt: skip
    for name, (columns, pk) in tables.items():
        db.table(name).create(columns, pk=pk)
    db.table("quarantine").create_index(
        ["stream", "direction", "name", "generation", "offset", "entry_id"], unique=True
    )
    db.table("identity").insert({"name": "ledger", "value": str(uuid.uuid4())})


@migrations(name="002_retried_and_heartbeat")
def _second(db: sqlite_utils.Database) -> None:
    quarantine = db.table("quarantine")
    quarantine.add_column("retried", str)
    quarantine.add_column("retried_at", float)
    quarantine.add_column("lost", int)
    db.table("health").add_column("over", float)
    db.table("heartbeat").create({"instance": str, "pulse": str}, pk="instance")


@migrations(name="003_packed_and_imports")
def _third(db: sqlite_utils.Database) -> None:
    generations = db.table("generations")
    generations.add_column("packed_size", int)
    generations.add_column("packed_mtime", int)
    db.table("imports").create({"id": int, "stream": str, "began": float, "report": str}, pk="id")


@migrations(name="004_parity_and_journal")
def _fourth(db: sqlite_utils.Database) -> None:
    run = {"id": int, "mapping": str, "stream": str, "began": float, "seconds": float, "who": str, "verdict": str,
           "report": str}  # fmt: skip
    db.table("parity").create(run, pk="id")
    db.table("verified").create({"stream": str, "position": str}, pk="stream")
    db.table("journal").create({"id": int, "at": float, "who": str, "what": str, "stream": str, "facts": str}, pk="id")


@migrations(name="005_spool_and_state")
def _fifth(db: sqlite_utils.Database) -> None:
    facts = {"size": int, "written": int, "device": str, "inode": str}
    known = {"stream": str, "key": bytes, "alike": bytes, "batch": int, "place": int, "digest": bytes}
    db.table("spool_messages").create({**known, "written": int, "inode": str, "mirrored": str}, pk=("stream", "key"))
    db.table("spool_messages").create_index(["stream", "batch", "place"])
    db.table("spool_messages").create_index(["stream", "alike", "written"])
    db.table("spool_files").create({"stream": str, "name": bytes, **facts, "key": bytes}, pk=("stream", "name"))
    db.table("spool_due").create({**known, "name": bytes, "time": int, **facts, "raw": bytes}, pk=("stream", "key"))
    db.table("state_values").create(
        {"stream": str, "name": bytes, "sha256": str, "timestamp": bytes}, pk=("stream", "name")
    )
    mention = {"stream": str, "name": str, "generation": int, "offset": int, "path": bytes}
    db.table("mentions").create(mention, pk=("stream", "name", "generation", "offset"))
    db.table("spool_files").create_index(["stream", "key"])
    db.table("spool_due").create_index(["stream", "name"])
    db.table("spool_due").create_index(["stream", "alike", "written"])
    db.table("spool_due").create_index(["stream", "batch", "time", "name"])


@migrations(name="006_acknowledged")
def _sixth(db: sqlite_utils.Database) -> None:
    quarantine = db.table("quarantine")
    quarantine.add_column("acknowledged", str)
    quarantine.add_column("acknowledged_at", float)
    db.table("retired").create({"stream": str, "mapping": str, "at": float, "who": str}, pk="stream")
    twofold = {"id": int, "stream": str, "component": str, "roles": str, "ended": int, "entry_from": str,
               "entry_to": str}  # fmt: skip
    db.table("twofold").create(twofold, pk="id")
    place = {"from_generation": int, "from_offset": int, "to_generation": int, "to_offset": int}
    db.table("twofold_files").create({"stretch": int, "name": str, **place}, pk=("stretch", "name"))


@migrations(name="007_owner_of_a_state")
def _seventh(db: sqlite_utils.Database) -> None:
    db.table("twofold").add_column("token", str)
    db.table("twofold").add_column("asked_at", float)
    owner = {"stream": str, "owner": str, "component": str, "asked": str, "token": str, "asked_at": float, "noted": int}
    db.table("state_owners").create(owner, pk="stream")


@migrations(name="008_retention")
def _eighth(db: sqlite_utils.Database) -> None:
    db.table("points").create({"stream": str, "entry": str, "added": int, "position": str}, pk=("stream", "entry"))
    db.table("trimmed").create({"stream": str, "floor": bytes, "count": int, "origins": str, "base": str}, pk="stream")
    db.table("streams").add_column("first_id", str)
    db.table("retention").create({"stream": str, "at": float, "report": str}, pk="stream")
    span = {"stream": str, "last": str, "first": str, "base": str}
    db.table("archive_spans").create(span, pk=("stream", "last"))
    part = {"path": str, "name": str, "at": int, "size": int, "digest": bytes, "entries": bytes, "listed": bytes}
    db.table("archive_parts").create(
        {"stream": str, "span": str, "number": int, **part}, pk=("stream", "span", "number")
    )
    db.table("archive_parts").create_index(["stream", "path"])
    db.table("archive_ends").create({"stream": str, "path": str, "until": int}, pk=("stream", "path"))
    db.table("archive_begun").create({"stream": str, "path": str, "at": int}, pk=("stream", "path"))


@migrations(name="009_past")
def _ninth(db: sqlite_utils.Database) -> None:
    db.table("nonces").create({"id": int, "stream": str, "nonce": str, "place": str}, pk="id")
    db.table("seen").create({"stream": str, "way": str, "entries": str}, pk=("stream", "way"))
    span = {"name": str, "generation": int, "start": int, "length": int}
    db.table("state_values").add_column("version", int)
    put = {"stream": str, "label": str, "put": int, "base": str, "removed": int}
    db.table("witness").create(put, pk=("stream", "label"))
    db.table("released").create({"stream": str, "entry": str, "digest": bytes, **span}, pk=("stream", "entry"))


@migrations(name="010_timeline")
def _tenth(db: sqlite_utils.Database) -> None:
    db.table("streams").add_column("timeline", str)
    db.table("streams").add_column("commits", int)
    db.table("spool_unread").create({"stream": str, "name": bytes}, pk=("stream", "name"))


@migrations(name="011_noted")
def _eleventh(db: sqlite_utils.Database) -> None:
    db.table("intents").add_column("noted", bytes)
    db.execute("UPDATE intents SET noted = entries")


@migrations(name="012_ending")
def _twelfth(db: sqlite_utils.Database) -> None:
    db.table("retired").add_column("ending", bytes)
    db.table("confirmed").create({"stream": str, "limits": str, "at": float, "who": str}, pk="stream")


@migrations(name="013_account")
def _thirteenth(db: sqlite_utils.Database) -> None:
    db.table("generations").add_column("born", int)
    db.table("generations").add_column("written", int)
    for name in ("mirror_seen", "mirror_ours", "mirror_gone", "mirror_acknowledged"):
        db.table("streams").add_column(name, int)
    piece = {
        "stream": str,
        "path": str,
        "standing": str,
        "why": str,
        "at": float,
        "facts": str,
        "bytes": int,
        "who": str,
    }
    db.table("pieces").create(piece, pk=("stream", "path"))


@migrations(name="014_decided")
def _fourteenth(db: sqlite_utils.Database) -> None:
    db.table("generations").add_column("decided", str)


@migrations(name="015_aligned")
def _fifteenth(db: sqlite_utils.Database) -> None:
    db.table("generations").add_column("rewrites", int)
    db.table("generations").add_column("in_doubt", int)
    db.table("generations").add_column("crc", int)
    place = {"stream": str, "name": str, "generation": int}
    stretch = {"start": int, "end": int, "of": int, "of_start": int, "crc": int}
    db.table("aligned").create({**place, **stretch}, pk=("stream", "name", "generation", "start"))
    counts = dict.fromkeys(("passed", "changed", "put_in", "taken_out", "again"), int)
    found = {"of": int, "at": float, "how": str, **counts, "why": str}
    db.table("rewrites").create({**place, **found}, pk=("stream", "name", "generation"))
    said = {"kind": str, "first": str, "last": str, "count": int, "digest": str, "at": float, "who": str, "why": str}
    db.table("accepted").create({"id": int, "stream": str, **said}, pk="id")
    line = {"offset": int, "length": int, "digest": str, "at": float, "who": str, "why": str}
    db.table("redacted").create(
        {"stream": str, "entry": str, "name": str, "generation": int, **line}, pk=("stream", "entry")
    )


@migrations(name="016_redacted_parts")
def _sixteenth(db: sqlite_utils.Database) -> None:
    part = {"stream": str, "path": str, "at": int, "pieces": str, "entries": bytes}
    db.table("redacted_parts").create(part, pk=("stream", "path", "at"))


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
        db = sqlite_utils.Database(self.conn)
        if found < VERSION:
            migrations.apply(db)
            self.conn.execute(f"PRAGMA user_version={VERSION}")
        row = self.conn.execute("SELECT value FROM identity WHERE name = 'ledger'").fetchone()
        if row is None:
            raise LedgerError("is damaged: it has no identity", where=str(self.path), hint="`bridge repair`")
        self.uuid: bytes = str(row[0]).encode()

    @property
    def place(self) -> str:
        """Tells which file the ledger is, by the inodes of its folder and its own. Raises OSError.

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
        for (commits,) in counted:
            write_mark(self.path, self.uuid, marked, commits)

    def rows(self, sql: str, args: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Runs a query on the ledger and returns all its rows."""
        with translated(self.path):
            return self.conn.execute(sql, tuple(args)).fetchall()

    def write(self, sql: str, args: Iterable[Any] = ()) -> None:
        """Runs one statement that writes to the ledger: inside a transaction as part of it, else committed at once."""
        with translated(self.path):
            self.conn.execute(sql, tuple(args))

    def close(self) -> None:
        """Closes this connection to the ledger."""
        self.conn.close()
