"""Keeps in the ledger the dual-write windows: a component writes file and stream itself, and nothing is carried."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.core.model import EntryId, Position, format_id, parse_id
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class DualWriteWindow:
    """A dual-write window of one component, in one file or in the stream.

    `begin` and `end` are None while they are asked for and not noted yet. `open`: no end is asked for. `token` is that
    of the switch that asked and is not made yet; both directions wait for it.
    """

    number: int
    roles: frozenset[bytes]
    begin: Position | EntryId | None
    end: Position | EntryId | None
    open: bool
    token: str

    def holds(self, role: bytes, at: Position | EntryId) -> bool:
        """Whether a dual-write window holds a message: the component of this role wrote it on both sides itself."""
        if role not in self.roles or self.begin is None or at < self.begin:
            return False
        return self.end is None or at < self.end


def begin(ledger: Ledger, stream: str, component: str, roles: Iterable[str], token: str, now: float) -> None:
    """Asks forward and mirror, through the ledger, to begin a dual-write window for a component's roles.

    From then on they leave alone what these roles write. `token` is the switch's. What was asked for this component
    before is void, as only one switch of a component is under way; so it is in `end`.
    """
    _void(ledger, stream, component)
    ledger.write(
        "INSERT INTO twofold (stream, component, roles, ended, token, asked_at) VALUES (?, ?, ?, 0, ?, ?)",
        (stream, component, json.dumps(sorted(roles)), token, now),
    )


def end(ledger: Ledger, stream: str, component: str, token: str, now: float) -> None:
    """Asks forward and mirror, through the ledger, to end a component's dual-write window and carry it again."""
    _void(ledger, stream, component)
    ledger.write(
        "UPDATE twofold SET ended = 1, token = ?, asked_at = ? WHERE stream = ? AND component = ? AND ended = 0",
        (token, now, stream, component),
    )


def _void(ledger: Ledger, stream: str, component: str) -> None:
    here = "stream = ? AND component = ? AND token IS NOT NULL"
    for (token,) in ledger.rows(f"SELECT token FROM twofold WHERE {here}", (stream, component)):
        undo(ledger, token)


def made(ledger: Ledger, token: str) -> None:
    """Notes in the ledger that the switch to or from dual writes was made: what was asked with this token holds."""
    ledger.write("UPDATE twofold SET token = NULL, asked_at = NULL WHERE token = ?", (token,))


def undo(ledger: Ledger, token: str) -> None:
    """Takes back in the ledger what a switch asked for about dual writes, as the component was not switched."""
    for number, ended in ledger.rows("SELECT id, ended FROM twofold WHERE token = ?", (token,)):
        with ledger.transaction():
            if ended:
                change = "ended = 0, entry_to = NULL, token = NULL, asked_at = NULL"
                ledger.write(f"UPDATE twofold SET {change} WHERE id = ?", (number,))
                change = "to_generation = NULL, to_offset = NULL"
                ledger.write(f"UPDATE twofold_files SET {change} WHERE stretch = ?", (number,))
            else:
                ledger.write("DELETE FROM twofold WHERE id = ?", (number,))
                ledger.write("DELETE FROM twofold_files WHERE stretch = ?", (number,))


def asked(ledger: Ledger, before: float) -> list[str]:
    """Reads from the ledger the tokens of switches that asked about dual writes before `before` and are not settled.

    `before` is in seconds since 1970.
    """
    return [str(token) for (token,) in ledger.rows("SELECT token FROM twofold WHERE asked_at < ?", (before,))]


def restore(ledger: Ledger, stream: str, component: str, roles: Iterable[str], names: Iterable[str]) -> None:
    """Notes in the ledger a dual-write window from the beginning of files and stream, for a component that writes both.

    Nobody knows since when it does. Inside a transaction of the caller's.
    """
    rows = ledger.rows(
        "INSERT INTO twofold (stream, component, roles, ended, entry_from) VALUES (?, ?, ?, 0, '0-0') RETURNING id",
        (stream, component, json.dumps(sorted(roles))),
    )
    for name in names:
        note_in_file(ledger, int(rows[0][0]), name, Position(0, 0), begins=True)


def in_file(ledger: Ledger, stream: str, name: str) -> list[DualWriteWindow]:
    """Reads from the ledger the dual-write windows of a stream's components, with their positions in one file."""
    rows = ledger.rows(
        "SELECT t.id, t.roles, t.ended, t.token, f.from_generation, f.from_offset, f.to_generation, f.to_offset"
        " FROM twofold t LEFT JOIN twofold_files f ON f.stretch = t.id AND f.name = ? WHERE t.stream = ?",
        (name, stream),
    )
    return [
        DualWriteWindow(
            number, _roles(roles), None if g is None else Position(g, o), None if tg is None else Position(tg, to),
            not ended, token or "",
        )
        for number, roles, ended, token, g, o, tg, to in rows
    ]  # fmt: skip


def in_stream(ledger: Ledger, stream: str) -> list[DualWriteWindow]:
    """Reads from the ledger the dual-write windows of a stream's components, with their entry IDs in the stream."""
    rows = ledger.rows("SELECT id, roles, ended, token, entry_from, entry_to FROM twofold WHERE stream = ?", (stream,))
    return [
        DualWriteWindow(
            number, _roles(roles), None if a is None else parse_id(a.encode()),
            None if b is None else parse_id(b.encode()), not ended, token or "",
        )
        for number, roles, ended, token, a, b in rows
    ]  # fmt: skip


def _roles(raw: str) -> frozenset[bytes]:
    return frozenset(role.encode() for role in json.loads(raw))


def note_in_file(ledger: Ledger, number: int, name: str, at: Position, *, begins: bool) -> None:
    """Notes in the ledger that forward stands where a dual-write window begins, or ends, in a file.

    Nothing happens when that is not asked any more.
    """
    if begins:
        sql = "INSERT OR IGNORE INTO twofold_files (from_generation, from_offset, stretch, name)"
        ledger.write(f"{sql} SELECT ?, ?, id, ? FROM twofold WHERE id = ?", (*at, name, number))
    else:
        sql = "UPDATE twofold_files SET to_generation = ?, to_offset = ? WHERE name = ?"
        ledger.write(f"{sql} AND stretch IN (SELECT id FROM twofold WHERE id = ? AND ended)", (*at, name, number))


def note_in_stream(ledger: Ledger, number: int, at: EntryId, *, begins: bool) -> None:
    """Notes in the ledger that the mirror stands before the entry where a dual-write window begins, or ends.

    Nothing happens when that is not asked any more.
    """
    change = "entry_from = ? WHERE" if begins else "entry_to = ? WHERE ended AND"
    ledger.write(f"UPDATE twofold SET {change} id = ?", (format_id(at).decode(), number))


def roles_of(ledger: Ledger, stream: str) -> frozenset[bytes]:
    """Reads from the ledger the roles that ever wrote both sides themselves, in a dual-write window."""
    rows = ledger.rows("SELECT roles FROM twofold WHERE stream = ?", (stream,))
    return frozenset().union(*(_roles(raw) for (raw,) in rows))


def dual_write_signature(ledger: Ledger, stream: str) -> tuple[str, bool]:
    """Makes a text that changes whenever a dual-write window begins or ends, or a switch asks for that.

    Returns also whether such a switch is under way.
    """
    asked = "SELECT coalesce(group_concat(id || coalesce(token, '') || coalesce(ended, '')), ''), count(token)"
    [(signature, under_way)] = ledger.rows(f"{asked} FROM twofold WHERE stream = ?", (stream,))
    return str(signature), bool(under_way)
