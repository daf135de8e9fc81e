"""Restores the trim floor when Redis lost a stream: what was trimmed on purpose is not sent again (DESIGN §6.1)."""

from __future__ import annotations

from dataclasses import replace

from bridge.core.errors import NotYet
from bridge.core.model import HIGHEST_ID, ZERO_ID, EntryId, Position, before, format_id
from bridge.ledger.ranges import forget_entries_below
from bridge.ledger.store import Ledger
from bridge.ledger.trim_points import drop_points, save_trimmed, trimmed_of
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.trim import TrimState, put_floor


def remembered(ledger: Ledger, stream: str) -> TrimState | None:
    """Reads from the ledger the trim floor of a stream and its trimmed lines; None: nothing was trimmed."""
    row = trimmed_of(ledger, stream)
    if row is None:
        return None
    floor, count, origins, base = row
    return TrimState.of(floor, b"%d" % count, origins.encode(), base.encode())


def remember(ledger: Ledger, stream: str, now: TrimState) -> None:
    """Copies a stream's trim floor and trimmed lines from Redis to the ledger, inside a transaction.

    Only for a stream that can be refilled from behind a floor, and only if something changed.
    """
    if now.base is None or now == remembered(ledger, stream):
        return
    save_trimmed(ledger, stream, format_id(now.floor), now.count, now.origins_json(), now.base_json())


def put_back(connection: Connection, keys: Keys, was: TrimState, first: EntryId, nonce: str) -> TrimState:
    """Writes the trim floor and the trimmed lines of the stream that was lost to Redis, where the stream begins anew.

    Raises NotYet where the process of this nonce does not carry the stream any more, RedisLost, RedisRefused.

    The floor stays: new entries get IDs above it. Only entries that somebody added below it, from `first` on, lower it.
    """
    floor, base = was.floor if first == ZERO_ID else min(was.floor, first), was.base
    if base is not None:  # `last`: untrimmed lines that stood among trimmed ones come back too
        begins = _text(before(floor))
        base = base | {"resume": begins, "due": begins, "first": "0-0", "last": _text(HIGHEST_ID), "targets": {}}
    now = replace(was, floor=floor, base=base)
    if not put_floor(connection, keys, now, nonce):
        raise NotYet("the stream was replaced", where=keys.stream.decode(errors="replace"))
    return now


def settle(ledger: Ledger, stream: str, was: TrimState, now: TrimState, *, lost: bool) -> None:
    """Brings the ledger's copy of the trim floor up to what Redis says now; inside a transaction.

    After a loss the trim points that parity noted are not true any more; nor are, in a new stream, the IDs of mirrored
    lines that went below the floor.
    """
    if lost:
        drop_points(ledger, stream)
    if now != was:  # the name is another stream's now
        forget_entries_below(ledger, stream, was.floor)
    remember(ledger, stream, now)


def _text(entry_id: EntryId) -> str:
    return format_id(entry_id).decode()


def passed_over(trimmed: TrimState) -> dict[tuple[int, int], set[int]]:
    """Collects the offsets of lines trimmed below the floor that stand behind a line still to be sent."""
    found: dict[tuple[int, int], set[int]] = {}
    for source, gone in trimmed.origins.items():
        for generation, offset in gone.beyond:
            found.setdefault((source, generation), set()).add(offset)
    return found


def last_of(positions: tuple[Position | None, ...]) -> Position | None:
    """Returns the highest of the positions of trimmed lines that are not None; None: there is none."""
    return max((position for position in positions if position is not None), default=None)
