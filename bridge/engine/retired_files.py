"""Counts what others wrote to a retired mapping's files since it was retired: nobody carries that (DESIGN P10)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge.core.errors import BridgeError
from bridge.engine.lag import Lag, file_behind, folder_behind, values_changed
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.retired import retired
from bridge.ledger.sources import sources_of
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.retired import ending_of


@dataclass(slots=True)
class RetiredMapping:
    """A retired mapping: since when (seconds since 1970), and what others wrote to its files after it was retired.

    `error`: what needs a person, and `hint` what to try; empty: nothing does.
    """

    at: float
    written: dict[str, Lag] = field(default_factory=dict)
    error: str = ""
    hint: str = ""


def retired_mapping(
    shared: MappingContext, ledger: Ledger | None, connection: Connection | None
) -> RetiredMapping | None:
    """Finds out by ledger and Redis whether a mapping is retired, and what others wrote to its files; None: it is not.

    `connection`: None where Redis cannot be asked. Raises LedgerError.
    """
    mapping, ending = shared.mapping, None
    at = retired(ledger).get(mapping.stream.key) if ledger is not None else None
    try:
        ending = ending_of(connection, shared.keys) if connection is not None else None
    except BridgeError:
        connection = None  # the next request over the connection reports the error
    if at is None and ending is None:
        return None
    found = RetiredMapping(at if at is not None else ending.at if ending is not None else 0.0)
    if ending is not None and at is None:
        found.error = f"is retired, says Redis ({ending.said()}), and the ledger here does not know: not carried"
        found.hint = "`bridge repair` lets it know; `bridge unretire` begins it again"
    elif ending is None and connection is not None:
        found.error = "is retired, and Redis does not know it: programs may fall back to its files"
        found.hint = f"bridge retire {mapping.name} --execute"
    try:
        if at is None and ending is not None:
            found.written = written_since(shared, None, ending.files, ending.at)
        else:
            found.written = written_since(shared, ledger, {})
    except (BridgeError, OSError) as error:
        found.error, found.hint = str(error), ""
    count = sum(found.written.values(), Lag())
    if count.messages or count.more:
        files = ", ".join(name for name, behind in found.written.items() if behind.messages or behind.more)
        noun = mapping.noun if count.messages == 1 else f"{mapping.noun}s"
        said = f"{'more than ' * count.more}{count.messages:,} {noun} written to {files}"
        found.error = f"{said} since it was retired: nobody carries that"
        found.hint = "`bridge repair` brings it over. Which program writes there still?"
    return found


def written_since(
    shared: MappingContext, ledger: Ledger | None, ended: Mapping[str, str], at: float = 0.0
) -> dict[str, Lag]:
    """Counts, for each source of a retired mapping, the messages written to its files since the mapping was retired.

    Without a ledger that knows the stream: by `ended`, the checkpoint of each source as Redis keeps it since then, and
    of files that each hold a message by `at`, when that was. A source without any is left out. Raises SourceError,
    LedgerError, OSError.
    """
    mapping, found = shared.mapping, dict[str, Lag]()
    if shared.folder is not None:
        found[mapping.source.path] = folder_behind(mapping, shared.folder, ledger, at)
    elif shared.values is not None:
        found[mapping.source.path] = values_changed(mapping, shared.values, ledger, at)
    else:
        memories = sources_of(ledger, mapping.stream.key) if ledger is not None else {}
        stored: dict[str, bytes | None] = {name: raw.encode() for name, raw in ended.items()}
        stored |= {name: source.stored for name, source in memories.items()}
        shared.look(ledger)
        for name in sorted({*shared.source_names(), *stored}):
            tail, _ = shared.tail_at(name, ledger, stored.get(name))
            found[name] = file_behind(tail, ledger, mapping.stream.key, mapping.codec(name))
    return {name: behind for name, behind in found.items() if behind.messages or behind.unfinished or behind.more}


def files_of(shared: MappingContext) -> set[Path]:
    """Lists all files of a retired mapping, its rotated pieces among them. Raises SourceError."""
    root = shared.settings.root
    folder = shared.folder or shared.values
    if folder is not None:
        return {root / os.fsdecode(file.name) for some in folder.scan() for file in some}
    paths = {root / name for name in (*shared.source_names(), *shared.catalog.names())}
    return {path for path in paths if path.is_file()}
