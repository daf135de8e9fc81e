"""Ends a mapping, the last step of a migration: gathers reasons against it, writes the stream as files, retires it.

After `bridge retire` nothing is carried for the mapping any more.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bridge.admin.retire.keepsake import Keepsake
from bridge.admin.stream_files import StreamFiles, keep
from bridge.continuity.trim_floor import remember
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, format_id
from bridge.cutover.gate import GateReason, sides_of
from bridge.cutover.position import fingerprint
from bridge.engine.account.inventory import account_of
from bridge.engine.retired_files import written_since
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.journal import note
from bridge.ledger.quarantine import unacknowledged
from bridge.ledger.retired import ending_noted, note_told, retire, retired
from bridge.ledger.sources import sources_of
from bridge.ledger.store import Ledger
from bridge.parity.result import ParityResult
from bridge.streams.component_groups import announced_positions
from bridge.streams.components import REDIS, ComponentHash
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import groups_of
from bridge.streams.retired import Retirement, note_ending
from bridge.streams.trim import cut, read_trimmed

RECENT = 600.0
"""Seconds without a write after which the files of a mapping count as no longer in use."""


def reasons(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, now: float
) -> list[GateReason]:
    """Gathers the reasons against retiring a mapping, such as components that still use its files.

    Others are messages in quarantine, unaccounted bytes, and recent writes to the files.
    """
    keys, found = Keys.of(mapping.stream.key), []
    modes = ComponentHash.of(mapping, settings).all(connection)
    known = set(modes)
    if mapping.kind.lines:  # readers of other kinds need no switch
        known |= {name.split("/")[0] for name in announced_positions(connection, keys)}
    known |= {path.parent.name for path in (settings.home / "components").glob(f"*/{mapping.name}.bookmark")}
    for name in sorted(known):
        component_modes = modes.get(name)
        if component_modes is None or any(getattr(component_modes, side) != REDIS for side in sides_of(mapping.kind)):
            reads, writes = (
                (component_modes.reads, component_modes.writes) if component_modes is not None else ("file", "file")
            )
            what = f"{name} reads {'Redis' if reads == REDIS else 'the files'} and writes to"
            if not mapping.kind.lines:
                what = f"{name} writes to"
            hint = f"bridge cutover {name} --mapping {mapping.name} --execute"
            found.append(GateReason(f"{what} {'Redis' if writes == REDIS else 'the files'}", hint, firm=True))
    if not known:
        found.append(GateReason("no component of it has ever been switched", "cut them over first: `bridge runbook`"))
    count = unacknowledged(ledger, mapping.stream.key)
    if count:
        what = f"{count} messages are in quarantine, on one side only"
        found.append(GateReason(what, "`bridge quarantine list`, then `retry` or `acknowledge` them"))
    shared = MappingContext(mapping, settings)
    try:
        unaccounted = account_of(shared, ledger, lambda: now, running=True).sentences()
        recent = {name: age for name in shared.source_names() if (age := _age(settings.root / name, now)) < RECENT}
    finally:
        shared.close()
    for said in unaccounted:
        found.append(GateReason(said, "`bridge files` shows it, `bridge repair` brings it over"))
    for name, age in sorted(recent.items()):
        what = f"{name} was written to {age:.0f} s ago: is that the mirror alone?"
        found.append(GateReason(what, f"wait {RECENT / 60:.0f} minutes after the last cut-over, or pass with --force"))
    return found


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return RECENT


def folder_of(settings: Settings, mapping: str) -> Path:
    """Returns the folder in which `bridge retire` leaves the stream of a mapping as files."""
    return settings.state_dir / "retired" / mapping


def _unplaced(settings: Settings, mapping: str) -> Path:
    """Returns the temporary folder for a retired mapping's stream files, used until the ledger notes the retirement."""
    return settings.state_dir / "retired" / f".{mapping}.kept"


def execute(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, result: ParityResult, who: str,
    reason: str, forced: list[str], now: Callable[[], float] = time.time,
) -> StreamFiles:  # fmt: skip
    """Retires a mapping whose sides parity found equal: writes the stream as files, then notes it in ledger and Redis.

    The mapping is retired once the ledger notes it: a crash before leaves all as it was; after a later one `settle`
    finishes the rest.
    Raises BridgeError, OSError, RedisLost.
    """
    if result.verdict != "equal":
        raise BridgeError(f"the last parity says '{result.verdict}'", where=mapping.name, hint="`bridge repair`")
    stream, keys, at = mapping.stream.key, Keys.of(mapping.stream.key), now()
    held = cut(connection, keys)
    with ledger.transaction():
        remember(ledger, stream, read_trimmed(connection, keys))
    failpoint("retire.keep.before")
    shared = MappingContext(mapping, settings)
    try:
        report = {
            "mapping": mapping.name, "stream": stream, "at": at, "who": who, "reason": reason or None,
            "forced": forced or None, "parity": {k: v for k, v in result.to_json().items() if k != "differences"},
        }  # fmt: skip
        made = Keepsake(settings, mapping, ledger, connection, result, report, held)
        kept = keep(shared, ledger, connection, _unplaced(settings, mapping.name), beside=made.files)
        ends = _ends(shared, ledger)
    finally:
        shared.close()
    failpoint("retire.keep.after")
    groups = [row.name.decode(errors="replace") for row in groups_of(connection, keys.stream)]
    modes = ComponentHash.of(mapping, settings).all(connection)
    epochs = {name: said.epoch for name, said in modes.items() if REDIS in (said.reads, said.writes)}
    ending = Retirement(mapping.name, who, at, kept.last, ends, groups, epochs)
    failpoint("retire.note.before")
    with ledger.transaction():
        retire(ledger, stream, mapping.name, who, at, ending.to_json())
        told = {"messages": kept.messages, "not_lines": kept.aside, "last": format_id(kept.last).decode(),
                "forced": forced or None, "reason": reason or None, "files": kept.digests}  # fmt: skip
        note(ledger, at, who, "retire", stream, told)
    failpoint("retire.note.after")
    ledger.be_reborn()
    settle(settings, mapping, ledger, connection)
    kept.folder = folder_of(settings, mapping.name)
    return kept


def settle(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> bool:
    """Finishes the retirement of a mapping after a crash: renames its stream files into place, and notes it in Redis.

    Returns whether there was anything to do; does nothing for a mapping that is not retired. Raises OSError, RedisLost,
    RedisRefused.
    """
    stream = mapping.stream.key
    known = ending_noted(ledger, stream)
    if known is None:
        return False
    name, who, at, told = known
    beside, place = _unplaced(settings, mapping.name), folder_of(settings, mapping.name)
    failpoint("retire.place.before")
    placed = beside.exists() and not place.exists()
    if placed:
        beside.rename(place)
        _sync(place.parent)
    failpoint("retire.place.after")
    ending = Retirement.from_json(told) if told is not None else Retirement(name, who, at)
    failpoint("retire.tell.before")
    new = note_ending(connection, Keys.of(stream), ending)
    failpoint("retire.tell.after")
    return placed or new


def retell(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> None:
    """Updates in ledger and Redis the positions up to which the files of a retired mapping are carried by now.

    Raises LedgerError, SourceError, RedisLost, RedisRefused.
    """
    known = ending_noted(ledger, mapping.stream.key)
    if known is None or known[3] is None:
        return
    shared = MappingContext(mapping, settings)
    try:
        ending = replace(Retirement.from_json(known[3]), files=_ends(shared, ledger))
    finally:
        shared.close()
    note_told(ledger, mapping.stream.key, ending.to_json())
    connection.call("SET", shared.keys.retired, ending.to_json())


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _ends(shared: MappingContext, ledger: Ledger) -> dict[str, str]:
    """Finds up to where each source of a mapping to be retired was carried, as a checkpoint in JSON with its number.

    That is the file's end, where no message behind the stored checkpoint waits; else the stored checkpoint.
    """
    if shared.folder is not None or shared.values is not None:
        return {}
    waits, found = written_since(shared, ledger, {}), dict[str, str]()
    for name, source in sources_of(ledger, shared.mapping.stream.key).items():
        stored = source.stored
        tail, _ = shared.tail_at(name, ledger, stored)
        current, behind = tail.current(), waits.get(name)
        if current is not None and (behind is None or not (behind.messages or behind.more)):
            end = current.size() - (behind.unfinished if behind is not None else 0)
            stored = Checkpoint(current.number, fingerprint(current, end)).to_json()
        if stored is not None:
            found[name] = json.dumps(json.loads(stored) | {"number": source.number})
    return found


def is_retired(mapping: Mapping, ledger: Ledger) -> bool:
    """Whether the ledger notes that a mapping is retired."""
    return mapping.stream.key in retired(ledger)
