"""Lets a retired mapping begin again (`bridge unretire`): where it ended, or from the start with an empty stream."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bridge.admin.retire.end_mapping import folder_of, is_retired
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import ZERO_ID, Checkpoint, format_id
from bridge.engine.lag import Lag, stream_behind
from bridge.engine.retired_files import retired_mapping
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.journal import note
from bridge.ledger.process_nonces import note_begun
from bridge.ledger.retired import ending_noted, unretire
from bridge.ledger.sources import sources_of, stream_memory
from bridge.ledger.spool_recovery import forget_stream
from bridge.ledger.staleness_mark import drop_mark
from bridge.ledger.store import Ledger
from bridge.streams.components import REDIS, ComponentModes
from bridge.streams.connect import Connection
from bridge.streams.reader import stream_info
from bridge.streams.resp import pack
from bridge.streams.retired import Retirement

RETIREMENT, BEGINNING = "retirement", "beginning"


@dataclass(frozen=True, slots=True)
class RestartBacklog:
    """Holds the backlog that waits to be carried once a retired mapping begins again where it ended.

    `entries`: written to Redis since; `lines`: written to the mapping's files since, by others. `rebuild`: the ledger
    was lost meanwhile, so that `bridge repair` must align stream and files first. `empty`: whether the stream holds no
    entries. `gone`: files that were carried and exist no more.
    """

    entries: Lag
    lines: Lag
    rebuild: bool
    empty: bool
    gone: tuple[str, ...] = ()


def plan(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> RestartBacklog:
    """Plans how a retired mapping would begin again: finds its backlog. Raises BridgeError: it is not retired."""
    shared = MappingContext(mapping, settings)
    try:
        over = retired_mapping(shared, ledger, connection)
        if over is None:
            raise BridgeError("is not retired", where=mapping.name, hint="`bridge status` says where it stands")
        if not is_retired(mapping, ledger):
            hint = "`bridge repair --execute` lets it know first"
            raise BridgeError(
                "is retired, says Redis, and the ledger here does not know", where=mapping.name, hint=hint
            )
        info, memory = stream_info(connection, shared.keys.stream), stream_memory(ledger, mapping.stream.key)
        cursor = memory.mirror_cursor if memory is not None else ZERO_ID
        adopted = memory is not None and mapping.mirror is not None and cursor == ZERO_ID < memory.last_id
        waits = Lag()
        if mapping.mirror is not None and info.exists and not adopted:
            waits = stream_behind(connection, shared.keys.stream, cursor)
        lines = sum(over.written.values(), Lag())
        gone = () if shared.folder is not None or shared.values is not None else _gone(shared, ledger)
        return RestartBacklog(waits, lines, adopted, not info.length, gone)
    finally:
        shared.close()


def _gone(shared: MappingContext, ledger: Ledger) -> tuple[str, ...]:
    """Lists the sources that were carried and whose log no longer exists, for a mapping that is to begin again."""
    known = sources_of(ledger, shared.mapping.stream.key)
    return tuple(name for name, source in known.items() if source.stored and not (shared.settings.root / name).exists())


def execute(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, place: str, who: str, reason: str
) -> Path | None:  # fmt: skip
    """Lets a retired mapping begin again, where it ended or from the beginning of its files.

    Moves the folder that `bridge retire` wrote aside, and returns its new path; None: there was none. The ledger is
    changed last: until then the mapping is retired, and `execute` can be run again. Raises BridgeError, OSError,
    RedisLost, RedisRefused.
    """
    found, stream = plan(settings, mapping, ledger, connection), mapping.stream.key
    if place == BEGINNING and not found.empty:
        hint = f"DEL {stream}, if nobody needs what is in it; or begin with --from {RETIREMENT}"
        raise BridgeError("the stream holds entries, which would all come again", where=stream, hint=hint)
    shared = MappingContext(mapping, settings)
    try:
        folder, now = folder_of(settings, mapping.name), time.time()
        aside = None
        if folder.exists():
            aside = folder.with_name(f"{mapping.name}.{time.strftime('%Y-%m-%dT%H-%M-%S', time.gmtime(now))}")
            folder.rename(aside)
        memory = stream_memory(ledger, stream)
        if place == RETIREMENT and memory is not None and memory.timeline:  # removed by a purge, which is no loss
            connection.call("HSETNX", shared.keys.meta, "timeline", memory.timeline)
        if place == BEGINNING:
            connection.call("DEL", *shared.keys.own)
        elif found.rebuild:
            _restore_books(shared, ledger, connection)
        if place == RETIREMENT:
            _restore_components(shared, ledger, connection)
        failpoint("unretire.tell.before")
        connection.call("DEL", shared.keys.retired)
        failpoint("unretire.tell.after")
        failpoint("unretire.note.before")
        if place == BEGINNING or found.rebuild:
            drop_mark(ledger.path, stream)
        with ledger.transaction():
            if place == BEGINNING or found.rebuild:
                forget_stream(ledger, stream)
            unretire(ledger, stream)
            note_begun(ledger, stream)
            note(ledger, now, who, "unretire", stream, {"from": place, "reason": reason or None})
        failpoint("unretire.note.after")
        return aside
    finally:
        shared.close()


def _restore_components(shared: MappingContext, ledger: Ledger, connection: Connection) -> None:
    """Restores in Redis the modes of cut-over components that a purge removed, as a retired mapping begins again."""
    known = ending_noted(ledger, shared.mapping.stream.key)
    ending = Retirement.from_json(known[3]) if known is not None and known[3] is not None else None
    for name, epoch in ending.components.items() if ending is not None else ():
        modes = ComponentModes(REDIS, REDIS, max(1, epoch))
        shared.components.restore_after_end(connection, name, modes)


def _restore_books(shared: MappingContext, ledger: Ledger, connection: Connection) -> None:
    """Restores the bridge's keys by which `bridge repair` aligns stream and files, as a retired mapping begins again.

    Needed where the ledger was lost after the retirement.
    """
    known = ending_noted(ledger, shared.mapping.stream.key)
    if known is None or known[3] is None:
        return
    ending, keys = Retirement.from_json(known[3]), shared.keys
    for name, raw in ending.files.items():
        at = Checkpoint.from_json(raw.encode())
        mirrored = {"id": format_id(ending.last).decode(), "generation": at.generation, "end": at.at.offset}
        connection.calls(
            pack("HSET", keys.sources, os.fsencode(name), json.loads(raw)["number"]),
            pack("HSET", keys.checkpoint, os.fsencode(name), at.to_json()),
            pack("HSET", keys.mirror, os.fsencode(name), json.dumps(mirrored)),
        )
