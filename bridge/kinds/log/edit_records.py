"""Keeps in Redis the records of edited logs and of redactions, so that a lost ledger can be rebuilt from them.

An edit's record says which lines of the file that took a log's place were carried before, and are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge.core.model import EntryId
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.acknowledgements import RedactedLine, redacted_of
from bridge.ledger.edits import all_carried_spans
from bridge.ledger.sources import all_generations, sources_of
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.edits import LogEditRecord, packed
from bridge.streams.redacted import RedactedEntry, read_deleted, write_deleted


def save_edit_record(
    connection: Connection, shared: MappingContext, source: int, edits: Mapping[int, LogEditRecord]
) -> None:
    """Writes the records of a log's edits into the Redis hash `bridge:{S}:aligned`, by source number and generation.

    Raises NotYet where another process took over, RedisLost, RedisRefused.
    """
    for generation, edit in edits.items():
        shared.hold.write(connection, "HSET", shared.keys.aligned, *packed(source, generation, edit))


def deleted_of(gone: RedactedLine) -> RedactedEntry:
    """Makes the record that Redis keeps of a redacted entry, from the redacted line that the ledger notes."""
    return RedactedEntry(gone.entry, gone.name, gone.generation, gone.offset, gone.length, gone.digest)


def save_edit_records(connection: Connection, shared: MappingContext, ledger: Ledger, *, lost: bool) -> None:
    """Writes the records of a stream's log edits and redactions into Redis again where they are missing there.

    Writes all of them where Redis `lost` entries. Raises NotYet, RedisLost, RedisRefused, LedgerError.
    """
    stream = shared.mapping.stream.key
    if redacted := redacted_of(ledger, stream):
        kept = set[EntryId]() if lost else {gone.entry for gone in read_deleted(connection, shared.keys)}
        write_deleted(connection, shared.keys, (deleted_of(gone) for gone in redacted if gone.entry not in kept))
    stretches = all_carried_spans(ledger, stream)
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
        save_edit_record(connection, shared, source, some)
