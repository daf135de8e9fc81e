"""Makes the tables of the ledger, and brings those of before up to date; apart, as only the bridge itself does that."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

import sqlite_utils
from sqlite_utils.migrations import Migrations

SCHEMA = Path(__file__).with_name("schema.sql")

migrations = Migrations("bridge")


def statements() -> list[str]:
    """Reads the statements that make the ledger's tables and indexes."""
    script = "\n".join(line for line in SCHEMA.read_text().splitlines() if not line.startswith("--"))
    return script.split(";\n")


@migrations(name="schema")
def _schema(db: sqlite_utils.Database) -> None:
    """Makes the ledger's tables, as `schema.sql` has them, and gives a new ledger its identity."""
    for statement in statements():
        db.execute(statement)
    db.execute("INSERT OR IGNORE INTO identity (name, value) VALUES ('ledger', ?)", (str(uuid.uuid4()),))


def migrate(conn: sqlite3.Connection) -> None:
    """Brings the ledger's tables up to date. Raises sqlite3.Error."""
    migrations.apply(sqlite_utils.Database(conn))
