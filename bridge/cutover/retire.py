"""The end of a migration: a last parity, the stream as files, and then nothing is carried any more. And purge."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from bridge.carry.shared import Shared
from bridge.config import Settings
from bridge.cutover.phase import Reason, sides_of
from bridge.errors import BridgeError
from bridge.ledger.journal import note
from bridge.ledger.quarantine import unacknowledged
from bridge.ledger.retired import retire, retired
from bridge.ledger.store import Ledger
from bridge.mapping import Mapping
from bridge.model import format_id, paired
from bridge.parity.check import Result
from bridge.parity.report import page
from bridge.snapshot import Kept, keep
from bridge.streams.components import COMPONENTS, REDIS, all_modes, announced_positions
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys

RECENT = 600.0
"""Seconds in which nobody may have written to the files, before they count as left."""


def reasons(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, now: float) -> list[Reason]:
    """What speaks against it: somebody who still uses the files, or a message that stands on one side only."""
    keys, found = Keys.of(mapping.stream.key), []
    if mapping.stream.key in retired(ledger):
        return [Reason(f"{mapping.name} is retired already", "`bridge purge` removes what is left of it", firm=True)]
    modes = {name: one for (name, its), one in all_modes(connection).items() if its == mapping.name}
    known = set(modes)
    if mapping.source.kind == "log":  # who reads anything else needs no switch
        known |= {name.split("/")[0] for name in announced_positions(connection, keys)}
    known |= {path.parent.name for path in (settings.state_dir / "components").glob(f"*/{mapping.name}.bookmark")}
    for name in sorted(known):
        one = modes.get(name)
        if one is None or any(getattr(one, side) != REDIS for side in sides_of(mapping.source.kind)):
            reads, writes = (one.reads, one.writes) if one is not None else ("file", "file")
            what = f"{name} reads {'Redis' if reads == REDIS else 'the files'} and writes to"
            if mapping.source.kind != "log":
                what = f"{name} writes to"
            hint = f"bridge cutover {name} --mapping {mapping.name} --execute"
            found.append(Reason(f"{what} {'Redis' if writes == REDIS else 'the files'}", hint, firm=True))
    if not known:
        found.append(Reason("no component of it has ever been switched", "cut them over first: `bridge runbook`"))
    count = unacknowledged(ledger, mapping.stream.key)
    if count:
        what = f"{count} messages are in quarantine, on one side only"
        found.append(Reason(what, "`bridge quarantine list`, then `retry` or `acknowledge` them"))
    shared = Shared(mapping, settings)
    try:
        recent = {name: age for name in shared.source_names() if (age := _age(settings.root / name, now)) < RECENT}
    finally:
        shared.close()
    for name, age in sorted(recent.items()):
        what = f"{name} was written to {age:.0f} s ago: is that the mirror alone?"
        found.append(Reason(what, f"wait {RECENT / 60:.0f} minutes after the last cut-over, or pass with --force"))
    return found


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return RECENT


def folder_of(settings: Settings, mapping: str) -> Path:
    """Where the files of a retired mapping are."""
    return settings.state_dir / "retired" / mapping


def execute(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, result: Result, who: str, reason: str,
    forced: list[str], now: Callable[[], float] = time.time,
) -> Kept:  # fmt: skip
    """Retires it, after a parity that said equal: writes files and report, then the ledger has it, then Redis.

    The ledger's word is what counts: a crash before leaves all as it was, one after is told to Redis by the next start.
    Raises BridgeError, OSError, RedisLost.
    """
    if result.verdict != "equal":
        raise BridgeError(f"the last parity says '{result.verdict}'", where=mapping.name, hint="`bridge repair`")
    shared = Shared(mapping, settings)
    try:
        kept = keep(shared, ledger, connection, folder_of(settings, mapping.name))
    finally:
        shared.close()
    report = {
        "mapping": mapping.name, "stream": mapping.stream.key, "at": now(), "who": who, "reason": reason or None,
        "forced": forced or None,
        "messages": kept.messages, "not_lines": kept.aside, "last": format_id(kept.last).decode(),
        "files": kept.digests, "parity": {k: v for k, v in result.to_json().items() if k != "differences"},
    }  # fmt: skip
    (kept.folder / "report.html").write_text(page([result], now()))
    (kept.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    with ledger.transaction():
        retire(ledger, mapping.stream.key, mapping.name, who, now())
        told = {name: report[name] for name in ("messages", "not_lines", "last", "forced", "reason", "files")}
        note(ledger, now(), who, "retire", mapping.stream.key, told)
    connection.call("HSET", Keys.of(mapping.stream.key).meta, "retired", str(int(now())))
    return kept


def purge(mapping: Mapping, ledger: Ledger, connection: Connection, who: str, *, really: bool) -> list[str]:
    """Removes our own keys of a retired mapping, and says which there are. Raises BridgeError: it is not retired."""
    if mapping.stream.key not in retired(ledger):
        hint = f"bridge retire {mapping.name}"
        raise BridgeError("is not retired, its keys are in use", where=mapping.name, hint=hint)
    keys = Keys.of(mapping.stream.key)
    found = [key for key in keys.own if connection.call("EXISTS", key)]
    fields = [
        name for name in paired(connection.call("HGETALL", COMPONENTS)) if name.endswith(f"/{mapping.name}".encode())
    ]
    told = [key.decode(errors="replace") for key in found]
    told += [f"{COMPONENTS.decode()} {name.decode(errors='replace')}" for name in fields]
    if really and told:
        if found:
            connection.call("DEL", *found)
        if fields:
            connection.call("HDEL", COMPONENTS, *fields)
        note(ledger, time.time(), who, "purge", mapping.stream.key, {"keys": told})
    return told
