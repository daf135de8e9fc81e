"""Counts the lag: messages that one side holds and the other does not yet, from the files and the stream."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial

from bridge.core.codecs import Codec
from bridge.core.codecs.chunk import CHUNK, ChunkCodec
from bridge.core.mapping import Mapping
from bridge.core.model import UTF8_MARK, EntryId, after
from bridge.files.folder import MessageFolder
from bridge.files.lines import Cut, split
from bridge.files.tail import Tail
from bridge.kinds.provenance import exclude_mirrored
from bridge.ledger.spool_messages import files_known, totals
from bridge.ledger.states import owner_of, values
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import entries

LAG_BLOCK = 1 << 20
MOST_BYTES = 1 << 28
MOST_ENTRIES = 100_000
MOST_SEEN = 300_000
"""The limits up to which lag is counted; `Lag.more` says that there is more."""


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag: whole messages not carried yet, and their bytes: of files as they stand there, of entries their fields'.

    `oldest` is the first one's own time in seconds since 1970, None where there is none or nobody can tell.
    `unfinished` are the bytes of a last line without its newline: it is not due.
    """

    messages: int = 0
    bytes: int = 0
    oldest: float | None = None
    unfinished: int = 0
    more: bool = False

    def __add__(self, other: Lag) -> Lag:
        """Adds two lags: their messages and bytes, with the time of the older message."""
        times = [lag.oldest for lag in (self, other) if lag.oldest is not None]
        return Lag(
            self.messages + other.messages, self.bytes + other.bytes, min(times, default=None),
            self.unfinished + other.unfinished, self.more or other.more,
        )  # fmt: skip


def file_behind(tail: Tail, ledger: Ledger | None, stream: str, codec: Codec) -> Lag:
    """Counts forward's lag in a log's files: lines after its cursor, without the mirror's. Raises BridgeError.

    Bytes that wait for an open intent of the mirror's are counted as the file's own.
    """
    if isinstance(codec, ChunkCodec):  # all that is there will be carried, in one chunk or more
        left = sum(pending.left() for pending in tail.pending())
        times = [pending.written() / 1e9 for pending in tail.pending() if pending.left()]
        return Lag(-(-left // CHUNK), left, min(times, default=None))
    messages = size = unfinished = seen = 0
    oldest: float | None = None
    for generation in tail.pending():
        at, open_line = generation.read_to, 0
        while True:
            if seen >= MOST_BYTES or messages >= MOST_ENTRIES:
                later = [other for other in tail.pending() if other.number > generation.number]
                size += generation.left(at) + sum(other.left() for other in later)
                return Lag(messages, size, oldest, unfinished, more=True)
            raw = tail.read(generation, LAG_BLOCK, at)
            if not raw:
                break
            data, cuts = raw, list[Cut]()
            if ledger is not None:
                visible, cuts, _ = exclude_mirrored(
                    ledger, stream, tail.name, generation.number, at, raw, partial(tail.read, generation)
                )
                data = visible if len(visible) >= len(raw) else raw
            if not messages and oldest is None:
                lines = [line for line in split(data, at, cuts).lines if line]
                oldest = next((time / 1000 for time in codec.decode(lines[:100]).times if time), None)
            begin = at if at or not data.startswith(UTF8_MARK) else len(UTF8_MARK)
            for a, b in [*cuts, (at + len(data), at + len(data))]:
                part = data[begin - at : max(a, begin) - at]
                found = part.count(b"\n")
                messages += found
                open_line = len(part) - part.rfind(b"\n") - 1 if found else open_line + len(part)
                size += len(part)
                begin = max(begin, b)
            seen += len(data)
            at += len(data)
        unfinished += open_line
        size -= open_line
    return Lag(messages, size, oldest if messages else None, unfinished)


def folder_behind(mapping: Mapping, folder: MessageFolder, ledger: Ledger | None, since: float = 0.0) -> Lag:
    """Counts forward's lag in a folder: files that the ledger does not know as they are now, and messages still due.

    A due message counts also if its file is gone. A file that was rewritten counts, until the bridge has seen that it
    holds the same message; a file written before `since`, in seconds since 1970, does not. Raises SourceError.
    """
    stream = mapping.stream.key
    _, due, size, oldest = totals(ledger, stream) if ledger is not None else (0, 0, 0, None)
    messages, seen = due, 0
    for some in folder.scan():
        known = files_known(ledger, stream, [found_file.name for found_file in some]) if ledger is not None else {}
        fresh = [
            found_file
            for found_file in some
            if found_file.name not in known or known[found_file.name][0] != found_file.facts
        ]
        fresh = [file for file in fresh if file.facts.written >= since * 1e9]
        messages += len(fresh)
        size += sum(found_file.facts.size for found_file in fresh)
        times = [found_file.facts.written // 1_000_000 for found_file in fresh]
        oldest = min([*times, *([oldest] if oldest is not None else [])], default=None)
        seen += len(some)
        if seen >= MOST_SEEN:
            return Lag(messages, size, oldest / 1000 if oldest is not None else None, more=True)
    return Lag(messages, size, oldest / 1000 if oldest is not None and messages else None)


def values_behind(mapping: Mapping, folder: MessageFolder, ledger: Ledger | None) -> Lag:
    """Counts the lag of state files whose value is not in Redis; none if Redis owns them. Raises SourceError."""
    if owner_of(ledger, mapping.stream.key, mapping.source.owner).side == "redis":
        return Lag()
    return values_changed(mapping, folder, ledger)


def values_changed(mapping: Mapping, folder: MessageFolder, ledger: Ledger | None, since: float = 0.0) -> Lag:
    """Counts as lag the state files whose value is not the one that the ledger knows, whichever side owns them.

    A file written before `since`, in seconds since 1970, does not count. Raises SourceError.
    """
    known = values(ledger, mapping.stream.key) if ledger is not None else {}
    found = [file for some in folder.scan() for file in some if file.facts.written >= since * 1e9]
    fresh = [
        found_file for found_file in found if known.get(found_file.name, (b"",))[0] != _sha256(folder, found_file.name)
    ]
    times = [found_file.facts.written / 1e9 for found_file in fresh]
    return Lag(len(fresh), sum(found_file.facts.size for found_file in fresh), min(times, default=None))


def _sha256(folder: MessageFolder, name: bytes) -> bytes:
    taken = folder.read(name, 1 << 28)
    return hashlib.sha256(taken.raw).hexdigest().encode() if taken is not None else b""


def stream_behind(connection: Connection, stream: bytes, cursor: EntryId) -> Lag:
    """Counts the mirror's lag: the Redis-born entries of a stream after its cursor. Raises RedisLost, RedisRefused."""
    messages, size, oldest = 0, 0, None
    for seen, entry in enumerate(entries(connection, stream, after(cursor))):
        if seen >= MOST_SEEN:
            return Lag(messages, size, oldest, more=True)
        if entry.origin() is not None:
            continue
        messages += 1
        size += sum(map(len, entry.fields))
        if oldest is None:
            oldest = entry.id[0] / 1000
        if messages >= MOST_ENTRIES:
            return Lag(messages, size, oldest, more=True)
    return Lag(messages, size, oldest)
