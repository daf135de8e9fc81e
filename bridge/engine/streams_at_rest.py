"""Tells which streams are at rest, of a mapping with many: all is carried both ways, and Redis has it still.

Nobody has to attend to such a stream. Many are asked for in one write.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import starmap

from bridge.continuity.lost_entries import missing_entries, what_was_lost
from bridge.core.errors import BridgeError, RedisLost
from bridge.core.model import ZERO_ID, Checkpoint, digest, parse_id
from bridge.kinds.stream_family import StreamFamily
from bridge.ledger.seen_entries import all_seen
from bridge.ledger.sources import SourceMemory, mirror_cursors, sources_of, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.stream_names import naming_streams, troubled_streams, waiting_streams
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys
from bridge.streams.layout import is_owner
from bridge.streams.reader import StreamInfo
from bridge.streams.stream_metadata import StreamMetadata, read_streams

AT_ONCE, ENTRIES = 100, 3
"""Streams that are asked for in one write, and entries that come with each, whose length nobody knows."""


def busy_logs(family: StreamFamily, ledger: Ledger, logs: Iterable[str]) -> set[str]:
    """Finds by files and ledger the logs of a mapping to whose streams a process must attend as it begins.

    These are those of `logs` whose files are not carried whole or have changed, and of all logs those whose streams
    were never carried, or for which the ledger has something to do. The catalog has just looked. Raises LedgerError.
    """
    met, waiting = mirror_cursors(ledger), waiting_streams(ledger, 0.0) | naming_streams(ledger)
    busy = {log for log in logs if not _is_carried(family, log, ledger)}
    return busy | {log for log in family.logs if (key := family.of(log).stream.key) not in met or key in waiting}


def resting_logs(family: StreamFamily, links: Connections, ledger: Ledger, *, mirrors: bool) -> set[str]:
    """Finds the logs of a mapping for which a process that begins has nothing to do at all.

    The catalog has just looked. `mirrors`: entries that are not mirrored yet are something to do. Raises LedgerError,
    RedisLost, RedisRefused.
    """
    troubled, cursors = troubled_streams(ledger), mirror_cursors(ledger)
    busy = busy_logs(family, ledger, family.logs)
    quiet = [log for log in family.logs if log not in busy and family.of(log).stream.key not in troubled]
    return {
        log for log, info in standing_logs(family, links, ledger, quiet)
        if not mirrors or info.last_id <= parse_id(cursors[family.of(log).stream.key])
    }  # fmt: skip


def standing_logs(
    family: StreamFamily, links: Connections, ledger: Ledger, logs: Iterable[str]
) -> Iterator[tuple[str, StreamInfo]]:
    """Finds the logs whose streams are ours and have lost nothing of what the ledger knows; entries may have come.

    Each with the facts about its stream. Where a server refuses to tell, a stream is not among them: whoever attends to
    it then says why. Raises RedisLost, RedisRefused, LedgerError.
    """
    by_server: dict[Connection, list[str]] = defaultdict(list)
    for log in logs:
        by_server[links.to(family.of(log).stream.key)].append(log)
    for connection, mine in by_server.items():
        budget = connection.budget
        at_once = max(1, min(AT_ONCE, budget.most // ENTRIES))
        for begin in range(0, len(mine), at_once):
            some = mine[begin : begin + at_once]
            try:
                found = _standing(family, connection, ledger, some)
            except RedisLost as error:
                raise budget.lost(ENTRIES * len(some), error) from None
            yield from found


def _standing(
    family: StreamFamily, connection: Connection, ledger: Ledger, logs: list[str]
) -> list[tuple[str, StreamInfo]]:
    standing: list[tuple[str, StreamInfo]] = []
    streams = [family.of(log).stream.key for log in logs]
    seen = [sorted(all_seen(ledger, stream))[-1:] for stream in streams]
    asked = [(Keys.of(stream), last[0][0] if last else ZERO_ID) for stream, last in zip(streams, seen, strict=True)]
    found = read_streams(connection, asked)
    for log, stream, last, read in zip(logs, streams, seen, found, strict=True):
        memory = stream_memory(ledger, stream)
        if isinstance(read, RedisLost):
            raise read
        if memory is None:
            standing.append((log, StreamInfo(ZERO_ID, 0, 0)))  # never carried: what its files hold makes it due
            continue
        if isinstance(read, BridgeError):
            continue
        info, books, fields = read
        owner = books.meta.get(b"owner")
        if owner is None or not is_owner(owner, ledger.uuid):
            continue
        sources = sources_of(ledger, stream)
        if what_was_lost(memory, sources, info, books) or not all(starmap(partial(_agrees, books), sources.items())):
            continue
        if any(not fields or (told and digest(*fields) != told) for _, told in last):
            try:  # it may have been trimmed
                if missing_entries(connection, Keys.of(stream), last, info, ZERO_ID)[0]:
                    continue
            except RedisLost:
                raise
            except BridgeError:
                continue
        standing.append((log, info))
    return standing


def _agrees(books: StreamMetadata, name: str, source: SourceMemory) -> bool:
    """Whether Redis has of a source at rest the checkpoint that the ledger has."""
    return (books.checkpoint.get(os.fsencode(name)) or b"") == (source.stored or b"")


def _is_carried(family: StreamFamily, log: str, ledger: Ledger) -> bool:
    """Whether a log's files are all carried, and unchanged, by catalog and ledger."""
    if log not in family:
        return False
    memory = sources_of(ledger, family.of(log).stream.key).get(log)
    if memory is None or not memory.stored or memory.refill is not None:
        return False
    position, there = Checkpoint.from_json(memory.stored).position, False
    for listed in family.catalog.of_logs([log]):
        known = family.catalog.known(listed)
        if listed.of or listed.aside:
            continue
        if known is None or listed.facts is None:
            return False
        _, _, size, written, _ = listed.facts
        if known.packed:
            stands = known.closed and known.packed == (size, written)
        else:
            stands = size == known.at.offset and written == known.written
        if not stands:
            return False
        there = there or position == (known.number, size)
    return there
