"""Keeps in Redis what of edited logs was passed over, and what was redacted: of that a lost ledger is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.core.model import EntryId
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.acknowledgements import RedactedLine, redacted_of
from bridge.ledger.edits import all_stretches
from bridge.ledger.sources import all_generations, sources_of
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.edits import LogEditRecord, packed
from bridge.streams.redacted import RedactedEntry, read_deleted, write_deleted


def record(connection: Connection, shared: MappingContext, source: int, edits: Mapping[int, LogEditRecord]) -> None:
    """Writes the edits of the source of this number into Redis, by generation.

    Raises NotYet where another process took over, RedisLost, RedisRefused.
    """
    for generation, edit in edits.items():
        shared.hold.write(connection, "HSET", shared.keys.aligned, *packed(source, generation, edit))


def deleted_of(gone: RedactedLine) -> RedactedEntry:
    """What Redis keeps of an entry that was deleted on purpose."""
    return RedactedEntry(gone.entry, gone.name, gone.generation, gone.offset, gone.length, gone.digest)


def record_again(connection: Connection, shared: MappingContext, ledger: Ledger, *, lost: bool) -> None:
    """Writes those edits and redactions of a stream into Redis that are not there; all, where it `lost` entries.

    Raises NotYet, RedisLost, RedisRefused, LedgerError.
    """
    stream = shared.mapping.stream.key
    if redacted := redacted_of(ledger, stream):
        kept = set[EntryId]() if lost else {gone.entry for gone in read_deleted(connection, shared.keys)}
        write_deleted(connection, shared.keys, (deleted_of(gone) for gone in redacted if gone.entry not in kept))
    stretches = all_stretches(ledger, stream)
    numbers = {name: memory.number for name, memory in sources_of(ledger, stream).items()} if stretches else {}
    edits: dict[int, dict[int, LogEditRecord]] = {}
    for name, known in all_generations(ledger, stream) if stretches else ():
        if known.rewrites and not known.in_doubt and name in numbers:
            found = stretches.get(name, {}).get(known.number, [])
            edits.setdefault(numbers[name], {})[known.number] = LogEditRecord(known.rewrites, found)
    wanted = {
        field for source, some in edits.items() for n, edit in some.items() for field in [*packed(source, n, edit)][::2]
    }
    if not wanted or (not lost and wanted <= {*connection.call("HKEYS", shared.keys.aligned)}):
        return
    for source, some in edits.items():
        record(connection, shared, source, some)
