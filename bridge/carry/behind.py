"""How much one side holds that the other does not yet: counted anew from the files and the stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from bridge.carry.provenance import foreign
from bridge.codecs import Codec
from bridge.files.lines import Cut, split
from bridge.files.tail import Tail
from bridge.ledger.store import Ledger
from bridge.model import EntryId, after
from bridge.streams.connect import Connection
from bridge.streams.reader import entries

PIECE = 1 << 20
MOST_BYTES = 1 << 28
MOST_ENTRIES = 100_000
MOST_SEEN = 300_000
"""Up to here messages are counted; `more` says that there are more."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Whole messages that are not carried yet, and their bytes (files only).

    `oldest` is the first one's own time in seconds since 1970, None where there is none or nobody can tell.
    `unfinished` are the bytes of a last line without its newline: it is not due.
    """

    messages: int = 0
    bytes: int = 0
    oldest: float | None = None
    unfinished: int = 0
    more: bool = False

    def __add__(self, other: Behind) -> Behind:
        """Both together."""
        times = [one.oldest for one in (self, other) if one.oldest is not None]
        return Behind(
            self.messages + other.messages, self.bytes + other.bytes, min(times, default=None),
            self.unfinished + other.unfinished, self.more or other.more,
        )  # fmt: skip


def file_behind(tail: Tail, ledger: Ledger | None, stream: str, codec: Codec) -> Behind:
    """What a source holds behind its reader's place, without what the mirror wrote. Raises SourceError, LedgerError.

    Bytes that wait for an open intent of the mirror's are counted as the file's own.
    """
    messages = size = unfinished = seen = 0
    oldest: float | None = None
    for one in tail.pending():
        at, open_line = one.read_to, 0
        while True:
            if seen >= MOST_BYTES:
                later = [other for other in tail.pending() if other.number > one.number]
                size += one.left(at) + sum(other.left() for other in later)
                return Behind(messages, size, oldest, unfinished, more=True)
            raw = tail.read(one, PIECE, at)
            if not raw:
                break
            data, cuts = raw, list[Cut]()
            if ledger is not None:
                visible, cuts, _ = foreign(ledger, stream, tail.name, one.number, at, raw, partial(tail.read, one))
                data = visible if len(visible) >= len(raw) else raw
            if not messages and oldest is None:
                lines = [line for line in split(data, at, cuts).lines if line]
                oldest = next((time / 1000 for time in codec.decode(lines[:100]).times if time), None)
            begin = at
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
    return Behind(messages, size, oldest if messages else None, unfinished)


def stream_behind(connection: Connection, stream: bytes, cursor: EntryId) -> Behind:
    """The Redis-born entries behind the mirror's cursor. Raises RedisLost, RedisRefused."""
    messages, oldest = 0, None
    for seen, entry in enumerate(entries(connection, stream, after(cursor))):
        if seen >= MOST_SEEN:
            return Behind(messages, oldest=oldest, more=True)
        if entry.origin() is not None:
            continue
        messages += 1
        if oldest is None:
            oldest = entry.id[0] / 1000
        if messages >= MOST_ENTRIES:
            return Behind(messages, oldest=oldest, more=True)
    return Behind(messages, oldest=oldest)
