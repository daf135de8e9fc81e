"""Components that write both sides themselves: from where to where their lines and entries are carried by nobody."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.core.model import EntryId, Position, format_id, parse_id
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class DualWriteWindow:
    """One component's, on one side. `begin` and `end` are None where they are asked for, and not noted yet.

    `open`: no end is asked for. `token`: of the switch that asked, which is not made yet; both directions wait for it.
    """

    number: int
    roles: frozenset[bytes]
    begin: Position | EntryId | None
    end: Position | EntryId | None
    open: bool
    token: str

    def holds(self, role: bytes, at: Position | EntryId) -> bool:
        """Whether a message of this role that stands there is the component's own on both sides."""
        if role not in self.roles or self.begin is None or at < self.begin:
            return False
        return self.end is None or at < self.end


def begin(ledger: Ledger, stream: str, component: str, roles: Iterable[str], token: str, now: float) -> None:
    """Asks both directions to leave alone what these roles write from now on; `token` is the switch's.

    What was asked for this component before is void: who asks now has it to himself. So it is in `end`.
    """
    _void(ledger, stream, component)
    ledger.write(
        "INSERT INTO twofold (stream, component, roles, ended, token, asked_at) VALUES (?, ?, ?, 0, ?, ?)",
        (stream, component, json.dumps(sorted(roles)), token, now),
    )


def end(ledger: Ledger, stream: str, component: str, token: str, now: float) -> None:
    """Asks them to carry again what the component writes from now on."""
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
    """The component was switched: what was asked for holds."""
    ledger.write("UPDATE twofold SET token = NULL, asked_at = NULL WHERE token = ?", (token,))


def undo(ledger: Ledger, token: str) -> None:
    """The component was not switched: what was asked for was not."""
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
    """The switches that asked before then, seconds since 1970, and are not settled: their tokens."""
    return [str(token) for (token,) in ledger.rows("SELECT token FROM twofold WHERE asked_at < ?", (before,))]


def restore(ledger: Ledger, stream: str, component: str, roles: Iterable[str], names: Iterable[str]) -> None:
    """The component writes both sides, and nobody knows since when: it counts as always, from where each side stands.

    Inside a transaction of the caller's.
    """
    rows = ledger.rows(
        "INSERT INTO twofold (stream, component, roles, ended, entry_from) VALUES (?, ?, ?, 0, '0-0') RETURNING id",
        (stream, component, json.dumps(sorted(roles))),
    )
    for name in names:
        note_in_file(ledger, int(rows[0][0]), name, Position(0, 0), begins=True)


def in_file(ledger: Ledger, stream: str, name: str) -> list[DualWriteWindow]:
    """The stretches of one file."""
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
    """The stretches of the stream."""
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
    """Forward stands there: from there on, or up to there; nothing happens when that is not asked any more."""
    if begins:
        sql = "INSERT OR IGNORE INTO twofold_files (from_generation, from_offset, stretch, name)"
        ledger.write(f"{sql} SELECT ?, ?, id, ? FROM twofold WHERE id = ?", (*at, name, number))
    else:
        sql = "UPDATE twofold_files SET to_generation = ?, to_offset = ? WHERE name = ?"
        ledger.write(f"{sql} AND stretch IN (SELECT id FROM twofold WHERE id = ? AND ended)", (*at, name, number))


def note_in_stream(ledger: Ledger, number: int, at: EntryId, *, begins: bool) -> None:
    """The mirror stands before that entry: from there on, or up to there; nothing when that is not asked any more."""
    change = "entry_from = ? WHERE" if begins else "entry_to = ? WHERE ended AND"
    ledger.write(f"UPDATE twofold SET {change} id = ?", (format_id(at).decode(), number))


def roles_of(ledger: Ledger, stream: str) -> frozenset[bytes]:
    """The roles that ever wrote both sides themselves."""
    rows = ledger.rows("SELECT roles FROM twofold WHERE stream = ?", (stream,))
    return frozenset().union(*(_roles(raw) for (raw,) in rows))


def twofold_signature(ledger: Ledger, stream: str) -> tuple[str, bool]:
    """What changes whenever a component begins or ends to write both sides itself; and whether one is at it."""
    asked = "SELECT coalesce(group_concat(id || coalesce(token, '') || coalesce(ended, '')), ''), count(token)"
    [(signature, under_way)] = ledger.rows(f"{asked} FROM twofold WHERE stream = ?", (stream,))
    return str(signature), bool(under_way)
