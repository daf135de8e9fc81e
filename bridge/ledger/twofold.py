"""Components that write both sides themselves: from where to where their lines and entries are carried by nobody."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.ledger.store import Ledger
from bridge.model import EntryId, Position, format_id, parse_id


@dataclass(frozen=True, slots=True)
class Stretch:
    """One component's, on one side. `begin` and `end` are None where they are asked for, and not noted yet.

    `open`: no end is asked for.
    """

    number: int
    roles: frozenset[bytes]
    begin: Position | EntryId | None
    end: Position | EntryId | None
    open: bool

    def holds(self, role: bytes, at: Position | EntryId) -> bool:
        """Whether a message of this role that stands there is the component's own on both sides."""
        if role not in self.roles or self.begin is None or at < self.begin:
            return False
        return self.end is None or at < self.end


def begin(ledger: Ledger, stream: str, component: str, roles: Iterable[str]) -> int:
    """Asks both directions to leave alone what these roles write from now on; returns the stretch's number."""
    rows = ledger.rows(
        "INSERT INTO twofold (stream, component, roles, ended) VALUES (?, ?, ?, 0) RETURNING id",
        (stream, component, json.dumps(sorted(roles))),
    )
    return int(rows[0][0])


def end(ledger: Ledger, stream: str, component: str, *, ended: bool) -> None:
    """Asks them to carry again what the component writes from now on; or takes that back."""
    here = "stream = ? AND component = ?"
    with ledger.transaction():
        if ended:
            ledger.write(f"UPDATE twofold SET ended = 1 WHERE {here} AND ended = 0", (stream, component))
            return
        [(last,)] = ledger.rows(f"SELECT max(id) FROM twofold WHERE {here}", (stream, component))
        ledger.write("UPDATE twofold SET ended = 0, entry_to = NULL WHERE id = ?", (last,))
        ledger.write("UPDATE twofold_files SET to_generation = NULL, to_offset = NULL WHERE stretch = ?", (last,))


def forget(ledger: Ledger, number: int) -> None:
    """The stretch never was."""
    with ledger.transaction():
        ledger.write("DELETE FROM twofold WHERE id = ?", (number,))
        ledger.write("DELETE FROM twofold_files WHERE stretch = ?", (number,))


def in_file(ledger: Ledger, stream: str, name: str) -> list[Stretch]:
    """The stretches of one file."""
    rows = ledger.rows(
        "SELECT t.id, t.roles, t.ended, f.from_generation, f.from_offset, f.to_generation, f.to_offset FROM twofold t"
        " LEFT JOIN twofold_files f ON f.stretch = t.id AND f.name = ? WHERE t.stream = ?",
        (name, stream),
    )
    return [
        Stretch(
            number, _roles(roles), None if g is None else Position(g, o), None if tg is None else Position(tg, to),
            not ended,
        )
        for number, roles, ended, g, o, tg, to in rows
    ]  # fmt: skip


def in_stream(ledger: Ledger, stream: str) -> list[Stretch]:
    """The stretches of the stream."""
    rows = ledger.rows("SELECT id, roles, ended, entry_from, entry_to FROM twofold WHERE stream = ?", (stream,))
    return [
        Stretch(
            number, _roles(roles), None if a is None else parse_id(a.encode()),
            None if b is None else parse_id(b.encode()), not ended,
        )
        for number, roles, ended, a, b in rows
    ]  # fmt: skip


def _roles(raw: str) -> frozenset[bytes]:
    return frozenset(role.encode() for role in json.loads(raw))


def note_in_file(ledger: Ledger, number: int, name: str, at: Position, *, begins: bool) -> None:
    """Forward stands there: from there on, or up to there."""
    if begins:
        sql = "INSERT OR IGNORE INTO twofold_files (from_generation, from_offset, stretch, name) VALUES (?, ?, ?, ?)"
    else:
        sql = "UPDATE twofold_files SET to_generation = ?, to_offset = ? WHERE stretch = ? AND name = ?"
    ledger.write(sql, (*at, number, name))


def note_in_stream(ledger: Ledger, number: int, at: EntryId, *, begins: bool) -> None:
    """The mirror stands before that entry: from there on, or up to there."""
    column = "entry_from" if begins else "entry_to"
    ledger.write(f"UPDATE twofold SET {column} = ? WHERE id = ?", (format_id(at).decode(), number))


def roles_of(ledger: Ledger, stream: str) -> frozenset[bytes]:
    """The roles that ever wrote both sides themselves."""
    rows = ledger.rows("SELECT roles FROM twofold WHERE stream = ?", (stream,))
    return frozenset().union(*(_roles(raw) for (raw,) in rows))
