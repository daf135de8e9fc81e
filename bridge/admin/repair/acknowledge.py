"""Notes in the ledger what a person acknowledges: a difference that parity found, or what replaced a log's file.

`bridge repair --accept` calls `accept`; `--as-edit` and `--as-new` call `declare`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.core.errors import ConfigError
from bridge.core.model import EntryId, format_id, parse_id
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.acknowledgements import AcknowledgedDifference, save_accepted
from bridge.ledger.edits import STOPPED, LogEdit, rewrites_of, save_rewrite
from bridge.ledger.journal import note
from bridge.ledger.store import Ledger
from bridge.parity.acknowledgements import MISSING, TakenOut, both_sides, name_of
from bridge.parity.log.classify import Difference
from bridge.parity.result import ParityResult


def acknowledge_difference(
    ledger: Ledger, results: Sequence[tuple[MappingContext, ParityResult]], ids: Sequence[str], who: str, why: str,
    at: float,
) -> int:  # fmt: skip
    """Acknowledges in ledger and journal the named differences that parity just found; returns how many.

    A name is an entry's ID, `FIRST..LAST` of entries whose lines were taken out of a log, or `log:generation:offset` of
    a line without an entry. All names are acknowledged, or none. Raises ConfigError: parity finds no difference of a
    name; LedgerError.
    """
    found: list[tuple[MappingContext, list[AcknowledgedDifference]]] = []
    left = set(ids)
    for shared, result in results:
        mine = [row for name in ids for row in _named(result, name, left)]
        found.append((shared, mine))
    if left:
        hint = "`bridge parity` names what there is: an entry's ID, or a line as messages.log:12 or messages.log@3041"
        raise ConfigError("is no difference that parity finds now", where=", ".join(sorted(left)), hint=hint)
    with ledger.transaction():
        for shared, mine in found:
            stream = shared.mapping.stream.key
            save_accepted(ledger, stream, mine, who, why, at)
            for row in mine:
                facts = {
                    "kind": row.kind,
                    "first": row.first,
                    "last": row.last,
                    "count": row.count,
                    "reason": why,
                }
                note(ledger, at, who, "accept", stream, facts)
    return sum(row.count for _, mine in found for row in mine)


def _named(result: ParityResult, name: str, left: set[str]) -> list[AcknowledgedDifference]:
    """Finds the differences of one parity result that a person may acknowledge by a name.

    Takes the name out of `left` where there are any.
    """
    first, dots, last = name.partition("..")
    try:
        span = (parse_id(first.encode()), parse_id((last if dots else first).encode()))
    except ValueError:
        span = None
    rows = (
        [row for row in result.tally.taken_out if span and span[0] <= row.first and row.last <= span[1]] if dots else []
    )
    found = [AcknowledgedDifference(MISSING, _said(row.first), _said(row.last), row.count) for row in rows]
    for difference in result.tally.differences:
        if name not in _names(difference) and not (span and dots and _within(difference.entry, span, rows)):
            continue
        entry = difference.entry or ""
        if difference.kind == MISSING and entry:
            found.append(AcknowledgedDifference(MISSING, entry, entry))
        else:
            found.append(
                AcknowledgedDifference(
                    difference.kind, name_of(difference), name_of(difference), 1, both_sides(difference)
                )
            )
    if found:
        left.discard(name)
    return found


def _names(difference: Difference) -> set[str]:
    """Lists the names by which a person may acknowledge a difference: the entry's ID, or the line's place.

    The place of a line is written as `bridge locate` takes it.
    """
    line = {f"{difference.file}:{difference.line}", f"{difference.file}@{difference.offset}"}
    return {name_of(difference), *(line if difference.entry is None and difference.file else ())}


def _said(entry: EntryId) -> str:
    return format_id(entry).decode()


def _within(entry: str | None, span: tuple[EntryId, EntryId], rows: Sequence[TakenOut]) -> bool:
    """Whether a difference's entry lies in a span of IDs, and in none of the rows that are acknowledged as a whole."""
    if entry is None:
        return False
    at = parse_id(entry.encode())
    return span[0] <= at <= span[1] and not any(row.first <= at <= row.last for row in rows)


def declare_edit(
    ledger: Ledger, mappings: Sequence[MappingContext], names: Sequence[str], how: str, who: str, why: str, at: float,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Notes in the ledger a person's word on the file that replaced a log: an edit of the log, or a new log.

    Only for logs that wait for that word; forward acts on it at its next look. `names`: mappings, or logs by their
    paths; empty: the one log that waits. `how`: "as-edit" or "as-new". Raises ConfigError: none of the named logs
    waits, or no name is given and several logs wait.
    """
    waiting: list[tuple[MappingContext, LogEdit]] = []
    for shared in mappings:
        stream = shared.mapping.stream.key
        latest = {found.name: found for found in rewrites_of(ledger, stream)}
        waiting += [(shared, found) for found in latest.values() if found.how == STOPPED]
    chosen = [
        (shared, found) for shared, found in waiting if not names or {shared.mapping.name, found.name} & {*names}
    ]  # fmt: skip
    if not names and len(chosen) > 1:
        hint = f"name those that it is true of: {', '.join(found.name for _, found in chosen)}"
        raise ConfigError(f"{len(chosen)} logs wait to be told what took their place", hint=hint)
    if not chosen:
        there = ", ".join(found.name for _, found in waiting)
        hint = f"there waits: {there}" if there else "`bridge status` says when one does"
        raise ConfigError("no log waits to be told what took its place", where=", ".join(names), hint=hint)
    with ledger.transaction():
        for shared, found in chosen:
            stream = shared.mapping.stream.key
            save_rewrite(ledger, stream, LogEdit(found.name, found.generation, found.of, found.at, how, why=found.why))
            note(ledger, at, who, how, stream, {"log": found.name, "generation": found.generation, "reason": why})
    for _, found in chosen:
        what = "an edit of it: what stood there before is passed over" if how == "as-edit" else "new: all of it is sent"
        tell(f"{found.name}: the file that took its place is {what}, by `bridge run` at its next look")
