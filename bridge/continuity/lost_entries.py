"""Detects that a stream lost entries or is a fork, by entries that were really seen in the stream (DESIGN §6.4).

The stream's counters are not enough: producers raise them again before anybody looks, and a master that was frozen goes
on writing when it wakes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

from bridge.core.model import ZERO_ID, Checkpoint, EntryId, digest, format_id
from bridge.ledger.ranges import Range, add_range, range_digest
from bridge.ledger.seen_entries import ReleasedLine, SeenEntry, forget_released, released_of
from bridge.ledger.sources import SourceMemory, StreamMemory
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import StreamInfo, existing, stream_info
from bridge.streams.stream_metadata import StreamMetadata

LineOf = Callable[[list[bytes]], tuple[str, bytes] | None]
"""Tells the file and the line, with its newline, that the mirror makes of an entry's fields; None: it makes none."""

Offsets = Mapping[tuple[int, int], Collection[int]]
"""The offsets of lines whose entries stand in the stream, by source number and generation."""

ReappearedLine = tuple[ReleasedLine, bytes]
"""A mirrored line whose entry Redis had lost and holds again, and its bytes."""

KEPT_BY_WAY, MOST_FRESH = 64, 4096
"""How many seen entries each direction remembers; and how many that nobody has looked for since, at most."""


class SeenEntries:
    """Remembers the last entries that forward and mirror of one mapping saw in the stream. For both threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_way: dict[str, deque[SeenEntry]] = {
            "forward": deque(maxlen=KEPT_BY_WAY),
            "mirror": deque(maxlen=KEPT_BY_WAY),
        }
        self._fresh: deque[SeenEntry] = deque(maxlen=MOST_FRESH)

    def note(self, way: str, entry: EntryId, fields: Sequence[bytes]) -> None:
        """Remembers an entry that forward sent to the stream, or that the mirror read from the stream."""
        sighting = entry, digest(*fields)
        with self._lock:
            self._by_way[way].append(sighting)
            self._fresh.append(sighting)

    def of(self, way: str) -> list[SeenEntry]:
        """Returns ID and digest of the last entries that forward, or the mirror, saw in the stream, in that order."""
        with self._lock:
            return list(self._by_way[way])

    @property
    def all(self) -> list[SeenEntry]:
        """ID and digest of the last entries that forward and mirror saw in the stream, oldest first."""
        return sorted({*self.of("forward"), *self.of("mirror"), *self.fresh})

    @property
    def fresh(self) -> list[SeenEntry]:
        """The entries that forward and mirror saw in the stream and that nobody looked for since, in that order."""
        with self._lock:
            return list(self._fresh)

    def found(self, count: int) -> None:
        """Drops so many of the `fresh` seen entries, which forward has looked for and found in the stream."""
        with self._lock:
            for _ in range(min(count, len(self._fresh))):
                self._fresh.popleft()

    @contextmanager
    def keeping(self, standing: set[EntryId] | None) -> Iterator[None]:
        """Forgets all entries seen in the stream but those in `standing`, which it still holds; None: forgets nothing.

        An exception in the block brings them back.
        """
        with self._lock:
            before, fresh = dict(self._by_way), self._fresh.copy()
            if standing is not None:
                kept = {way: [sighting for sighting in seen if sighting[0] in standing] for way, seen in before.items()}
                self._by_way = {way: deque(seen, maxlen=KEPT_BY_WAY) for way, seen in kept.items()}
                self._fresh.clear()
        try:
            yield
        except BaseException:
            with self._lock:
                self._by_way, self._fresh = before, fresh
            raise


def missing_entries(
    connection: Connection, keys: Keys, seen: Sequence[SeenEntry], info: StreamInfo, floor: EntryId
) -> tuple[str, set[EntryId]]:
    """Says in words why the stream lost its tail or is a fork (empty: neither), and which seen entries still stand.

    An entry that is gone may have been removed on purpose: trimmed, which takes the oldest, or deleted, of which
    `max-deleted-entry-id` tells the highest. An empty digest: any entry of that ID will do. Raises RedisLost,
    RedisRefused.
    """
    found = existing(connection, keys.stream, [entry for entry, _ in seen])
    standing = {entry for entry, told in seen if entry in found and (not told or digest(*found[entry]) == told)}
    for entry, _ in seen:
        if entry in found and entry not in standing:
            return f"{format_id(entry).decode()} is another entry by now", standing
    gone = [entry for entry, _ in seen if entry not in found and entry >= max(floor, info.first_id)]
    if not gone or not info.exists:
        return "", standing
    removed = info.added - info.length
    if removed == 0 or info.deleted < max(gone):  # newer ones prove nothing: others add
        begins = stream_info(connection, keys.stream).first_id  # a producer may trim meanwhile
        if (info.length == 0 and removed) or max(gone) < begins:  # XTRIM took them all
            return "", standing
        return f"{format_id(max(gone)).decode()} had been seen, and is not in it", standing
    if not standing and removed < len(gone):
        return f"{len(gone)} entries had been seen and are not in it, and {removed} were ever removed", standing
    return "", standing


def what_was_lost(
    memory: StreamMemory | None, sources: dict[str, SourceMemory], info: StreamInfo, books: StreamMetadata | None
) -> str:
    """Says in words what Redis lost of a stream since the ledger last saw the stream; empty: nothing. Pure."""
    if memory is None:
        return ""
    if memory.last_id > ZERO_ID and not info.exists:
        return "the stream is gone"
    if info.last_id < memory.last_id:
        return f"its last ID went back from {_shown(memory.last_id)} to {_shown(info.last_id)}"
    if info.added < memory.added and (info.added or not info.length):  # a server that does not count says 0
        return f"it counts {info.added} entries ever added, and counted {memory.added} before"
    if began_anew(memory, info):
        return f"it began anew with {_shown(info.first_id)}, after {_shown(memory.last_id)} had been seen"
    if books is None:
        return ""
    if books.timeline != memory.timeline:
        return "it holds other data than those that were settled when it had lost entries"
    sent = [entry for raw in books.checkpoint.values() if (entry := Checkpoint.from_json(raw).entry) is not None]
    if max(sent, default=ZERO_ID) > info.last_id:
        return f"entries up to {_shown(max(sent))} had been sent, and its last ID is {_shown(info.last_id)}"
    for name, source in sources.items():
        raw = books.checkpoint.get(os.fsencode(name))
        if raw and source.stored and Checkpoint.from_json(raw).position < Checkpoint.from_json(source.stored).position:
            return f"the checkpoint of {name} went back"
    return ""


def began_anew(memory: StreamMemory, info: StreamInfo) -> bool:
    """Whether a new stream has the name of the stream that the ledger saw.

    Nothing was ever removed from the new stream, and it does not hold what was seen.
    """
    whole = info.added == info.length > 0
    return whole and (info.added < memory.added or info.first_id > memory.last_id > ZERO_ID)


def restore(
    connection: Connection, keys: Keys, ledger: Ledger, line_of: LineOf, offsets: Offsets, numbers: dict[str, int]
) -> int:
    """Gives lines back to the mirror whose entries Redis had lost and holds again; inside a ledger transaction.

    Not where the stream holds an entry that forward made of the line meanwhile (`offsets`, by source and generation).
    Returns how many. Raises RedisLost, RedisRefused.
    """
    stream, back = keys.stream.decode(), list[EntryId]()
    for line, content in standing_again(connection, keys, ledger, line_of):
        if line.start in offsets.get((numbers.get(line.name, 0), line.generation), ()):
            continue
        end, written = line.start + line.length, [(line.entry, line.length)]
        add_range(ledger, stream, Range(line.name, line.generation, line.start, end, range_digest(content), written))
        back.append(line.entry)
    forget_released(ledger, stream, back)
    return len(back)


def standing_again(connection: Connection, keys: Keys, ledger: Ledger, line_of: LineOf) -> list[ReappearedLine]:
    """Finds mirrored lines whose entries Redis had lost and holds again. Raises RedisLost, RedisRefused."""
    back = list[ReappearedLine]()
    for some in released_of(ledger, keys.stream.decode()):
        found = existing(connection, keys.stream, [line.entry for line in some])
        for line in some:
            fields = found.get(line.entry)
            made = line_of(fields) if fields is not None else None
            told = made is not None and (line.digest or len(made[1]) == line.length)  # no digest: it was unreadable
            if made is not None and told and line.digest in (b"", digest(made[1]), range_digest(made[1])):
                back.append((line, made[1]))
    return back


def _shown(entry_id: EntryId) -> str:
    return format_id(entry_id).decode()
