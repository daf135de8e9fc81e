"""What was trimmed, as packed files of the mapping's own lines; and a stream with its archive before it.

A file holds the lines of one source for one day (UTC, by the entries' IDs), in the stream's order, as gzip members one
behind the other: so `zcat` reads it, and so does an import. What makes no line that gives exactly its entry back is
written as JSON, one entry a line. The ledger lists which entry lies where, so that each is rebuilt as it was.
"""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Names
from contextlib import closing
from dataclasses import replace
from heapq import merge
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from bridge.carry.translate import told, untold
from bridge.codecs import Codec
from bridge.config import ROLE
from bridge.errors import SourceError
from bridge.globs import is_glob
from bridge.ledger.archive import (
    Listed,
    Part,
    Span,
    begin_part,
    begun_at,
    drop_span,
    end_of,
    parts_of,
    save_span,
    spans,
)
from bridge.ledger.sources import sources_of
from bridge.ledger.store import Ledger
from bridge.mapping import Mapping
from bridge.model import (
    ORIGIN_FIELD,
    ZERO_ID,
    EntryId,
    Origin,
    after,
    before,
    digest,
    format_id,
    paired,
    parse_id,
    parse_origin,
)
from bridge.points import reached
from bridge.streams.connect import Connection
from bridge.streams.follow import Wanted
from bridge.streams.keys import Keys
from bridge.streams.reader import Beside, Entry, pages
from bridge.streams.resp import pack

ENTRIES = "entries"
"""The name of the file that holds what is no line."""

LAST_DAY = 253_402_300_799_000
"""Milliseconds since 1970 at the end of the year 9999: later IDs have no date."""


class Archive:
    """One mapping's. Used by one thread."""

    def __init__(self, mapping: Mapping, state_dir: Path, ledger: Ledger) -> None:
        self.folder = state_dir / "archive" / mapping.name
        self._mapping = mapping
        self._ledger = ledger
        self._stream = mapping.stream.key
        self._codecs: dict[str, Codec] = {}

    def begun(self, first: EntryId) -> EntryId | None:
        """Up to where an earlier try kept what stands from `first` on; None: there was none."""
        return next((one.last for one in spans(self._ledger, self._stream, first) if one.first == first), None)

    def chain(self, floor: EntryId, start: EntryId = ZERO_ID) -> list[Span]:
        """The spans that follow each other up to the floor, oldest first: with the stream they are one history.

        Of these the ones that hold something from `start` on.
        """
        found: list[Span] = []
        wanted = floor
        for span in reversed(spans(self._ledger, self._stream, start)):
            if _next(span.last) == wanted:
                found.append(span)
                wanted = span.first
        return found[::-1]

    # -- reading ---------------------------------------------------------------------------------------------

    def entries(self, floor: EntryId, start: EntryId = (0, 0), end: EntryId | None = None) -> Iterator[Entry]:
        """Those below the floor, from `start` to `end`, in order. Raises SourceError: a file is not as it was."""
        for span in self.chain(floor, start):
            if end is None or span.first <= end:
                for entry in self.of_span(span):
                    if start <= entry.id and (end is None or entry.id <= end):
                        yield entry

    def entries_back(self, floor: EntryId, end: EntryId | None = None, start: EntryId = (0, 0)) -> Iterator[Entry]:
        """The same, newest first."""
        for span in reversed(self.chain(floor, start)):
            if end is None or span.first <= end:
                for entry in reversed(list(self.of_span(span))):
                    if start <= entry.id and (end is None or entry.id <= end):
                        yield entry

    def pages(self, floor: EntryId, start: EntryId, page: int) -> Iterator[list[list[Any]]]:
        """The same as `entries`, as XRANGE would reply, `page` at a time."""
        found = ([format_id(entry.id), entry.fields] for entry in self.entries(floor, start))
        while rows := list(islice(found, page)):
            yield rows

    def newest(self, floor: EntryId, wanted: Wanted, count: int | None) -> list[Entry]:
        """The last `count` (None: all) of those that are wanted, oldest first."""
        start = wanted.since or (0, 0)
        end = before(wanted.until) if wanted.until is not None else None
        if count is None:
            return [*filter(wanted.has, self.entries(floor, start, end))]
        return [*islice(filter(wanted.has, self.entries_back(floor, end, start)), count)][::-1]

    def get(self, floor: EntryId, entry_id: EntryId) -> Entry | None:
        """The entry of this ID; None: it is not here."""
        return next(self.entries(floor, entry_id, entry_id), None)

    def find(self, floor: EntryId, origin: Origin) -> EntryId | None:
        """The entry of this origin; None: it is not here."""
        for span in reversed(self.chain(floor)):
            for part in parts_of(self._ledger, self._stream, span):
                for one in part.listed:
                    if one.origin == origin:
                        return one.id
        return None

    def of_span(self, span: Span) -> Iterator[Entry]:
        """All entries of a span, in order. Raises SourceError."""
        yield from merge(*(self._of_part(part) for part in parts_of(self._ledger, self._stream, span)))

    def _of_part(self, part: Part) -> list[Entry]:
        raw = self._unpacked(part)
        lines, at = [], 0
        for one in part.listed:
            lines.append(raw[at : at + one.length - 1])
            at += one.length
        if not part.name:
            found = [Entry(one.id, untold(line)) for one, line in zip(part.listed, lines, strict=True)]
        else:
            rows, names = self._codec(part.name).decode(lines).rows, self._codec(part.name).fields
            found = [
                Entry(one.id, _fields(names, row, one.origin) if isinstance(row, tuple) else [])
                for one, row in zip(part.listed, rows, strict=True)
            ]
        if _digest(found) != part.entries:
            raise SourceError(
                "its lines are read otherwise than when they were archived", where=str(self.folder / part.path),
                hint=f"put [format] and [message] of {self._mapping.name} back as they were",
            )  # fmt: skip
        return found

    def _unpacked(self, part: Part) -> bytes:
        """Raises SourceError unless they are the bytes that were put there."""
        path = self.folder / part.path
        try:
            with path.open("rb") as file:
                file.seek(part.at)
                raw = gzip.decompress(file.read(part.size))
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"cannot be read: {error}", where=str(path), hint="is there a copy of it?") from None
        if digest(raw) != part.digest:
            raise SourceError("does not hold what was archived", where=str(path), hint="is there a copy of it?")
        return raw

    # -- writing ---------------------------------------------------------------------------------------------

    def take(
        self, found: Sequence[Entry], first: EntryId, last: EntryId, base: dict[str, object] | None,
        note: Callable[[], None],
    ) -> int:  # fmt: skip
        """Keeps all entries of a stream from `first` to `last`, on disk and read again; returns the bytes that took.

        `note` is called in the ledger's transaction that lists them.

        What an earlier try kept of them, and is the same, is taken for it. Raises SourceError, OSError.
        """
        stand = {entry.id: entry.fields for entry in found}
        for span in spans(self._ledger, self._stream, first):
            held = [*self.of_span(span)]
            if (span.first, span.last) == (first, last) and held == [*found]:
                return 0
            lost = any(stand.get(one.id) != one.fields for one in held)  # since then Redis has: they are only here
            with self._ledger.transaction():
                drop_span(self._ledger, self._stream, span, keep=lost)
        names = {one.number: name for name, one in sources_of(self._ledger, self._stream).items()}
        parted: dict[tuple[str, str], list[tuple[Listed, bytes]]] = {}
        whole: dict[tuple[str, str], list[Entry]] = {}
        for entry, (name, line, origin) in zip(found, self._lines(found, names), strict=True):
            day = time.strftime("%Y-%m-%d", time.gmtime(entry.id[0] / 1000)) if entry.id[0] < LAST_DAY else "undated"
            parted.setdefault((name, day), []).append((Listed(entry.id, len(line) + 1, origin), line))
            whole.setdefault((name, day), []).append(entry)
        span = Span(first, last, json.dumps(base))
        for (name, day), lines in sorted(parted.items()):
            try:
                part = self._write(name, day, lines)
            except OSError as error:
                raise SourceError(
                    f"cannot be written: {error.strerror}", where=str(self.folder), hint="make room; nothing is trimmed"
                ) from None
            span.parts.append(replace(part, entries=_digest(whole[name, day])))
        reached("trim.archive.before")
        with self._ledger.transaction():
            save_span(self._ledger, self._stream, span)
            note()
        reached("trim.archive.after")
        if any(one != other for one, other in zip_longest(self.of_span(span), found)):
            raise SourceError("does not give back what was put in", where=str(self.folder))
        return sum(part.size for part in span.parts)

    def _write(self, name: str, day: str, lines: list[tuple[Listed, bytes]]) -> Part:
        """One part, behind what stands in its file."""
        path = f"{name}.{day}.gz" if name else f"{ENTRIES}.{day}.jsonl.gz"
        whole = self.folder / path
        whole.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        raw = b"".join(line + b"\n" for _, line in lines)
        packed = gzip.compress(raw, compresslevel=6, mtime=0)
        fd = os.open(whole, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b", buffering=0) as file:
            at = self._end(path, os.fstat(fd).st_size)
            begin_part(self._ledger, self._stream, path, at)
            file.truncate(at)
            file.seek(at)
            left = memoryview(packed)
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(fd)
        return Part(path, name, at, len(packed), digest(raw), b"", [one for one, _ in lines])

    def _end(self, path: str, size: int) -> int:
        """Where the next part goes: behind all that stands there, but for what a try left that was not ended.

        A ledger that was lost and rebuilt knows of none of it.
        """
        known, begun = end_of(self._ledger, self._stream, path), begun_at(self._ledger, self._stream, path)
        if size < known:
            raise SourceError(
                "is shorter than what was archived in it", where=str(self.folder / path), hint="who cut it?"
            )
        return begun if begun is not None and known <= begun <= size else size if begun is None else max(known, size)

    def _lines(self, found: Sequence[Entry], names: dict[int, str]) -> list[tuple[str, bytes, Origin | None]]:
        """For each entry the source whose line it is, the line and the origin; or no name, and JSON."""
        made: list[tuple[str, bytes, Origin | None]] = [("", told(entry), None) for entry in found]
        groups: dict[str, list[tuple[int, Origin | None]]] = {}
        for i, entry in enumerate(found):
            name, origin = home(self._mapping, entry, names)
            if not name or self._mapping.source.kind != "log" or not self._codec(name).invertible:
                continue
            if entry.fields[0 : 2 * len(self._codec(name).fields) : 2] == [*self._codec(name).fields]:
                groups.setdefault(name, []).append((i, origin))
        for name, some in groups.items():
            codec = self._codec(name)
            length = 2 * len(codec.fields)
            rows = [tuple(found[i].fields[1:length:2]) for i, _ in some]
            lines = codec.encode_all(rows)
            again = codec.decode([line if isinstance(line, bytes) else b"" for line in lines]).rows
            for (i, origin), line, row in zip(some, lines, again, strict=True):
                same = isinstance(row, tuple) and _fields(codec.fields, row, origin) == found[i].fields
                if same and isinstance(line, bytes):
                    made[i] = name, line, origin
        return made

    def _codec(self, name: str) -> Codec:
        if name not in self._codecs:
            self._codecs[name] = self._mapping.codec(name)
        return self._codecs[name]


def _digest(found: Sequence[Entry]) -> bytes:
    return digest(b"", *(part for entry in found for part in (format_id(entry.id), *entry.fields)))


def history(
    connection: Connection, keys: Keys, archive: Archive | None, start: EntryId, last: EntryId, page: int,
    most_bytes: int,
) -> Iterator[list[Any]]:  # fmt: skip
    """XRANGE's replies from `start` to `last`: those below the floor from the archive, as far as that has them.

    While it reads somebody may trim. The floor is set before anything goes, so a page is whole if the floor, looked at
    after it was read, is not above its beginning; else the archive is asked again.
    Raises SourceError, RedisLost, RedisRefused.
    """
    at, floor = start, Beside(pack("GET", keys.floor))
    floor.reply = connection.call("GET", keys.floor)

    def now() -> EntryId:
        return parse_id(floor.reply) if isinstance(floor.reply, bytes) else ZERO_ID

    while at <= last:
        if at < now():
            end = now()
            for rows in archive.pages(end, at, page) if archive is not None else ():
                yield rows
            at, floor.reply = end, connection.call("GET", keys.floor)
            continue
        span = format_id(at), format_id(last)
        with closing(pages(connection, keys.stream, *span, page, most_bytes=most_bytes, beside=floor)) as stream:
            for rows in stream:
                if now() > at:
                    break
                yield rows
                at = _next(parse_id(rows[-1][0])) if rows else at
            else:
                return


def home(mapping: Mapping, entry: Entry, names: Names[int, str]) -> tuple[str, Origin | None]:
    """The file that an entry's line belongs to, of the sources by number, and its origin.

    Empty: there is none, or its role is no name for one.
    """
    raw = entry.origin()
    if raw is not None:
        origin = parse_origin(raw)
        return (names.get(origin.source, ""), origin) if origin is not None else ("", None)
    path = mapping.mirror.path if mapping.mirror is not None else mapping.source.path
    if "{role}" in path:
        role = paired(entry.fields).get(b"role", b"").decode("ascii", "replace")
        path = path.replace("{role}", role) if ROLE.fullmatch(role) else ""
    return "" if is_glob(path) else path, None


def _next(entry: EntryId) -> EntryId:
    ms, _, seq = after(entry).partition(b"-")
    return int(ms), int(seq)


def _fields(names: Sequence[bytes], row: Sequence[bytes], origin: Origin | None) -> list[bytes]:
    fields = [part for pair in zip(names, row, strict=True) for part in pair]
    return fields if origin is None else [*fields, ORIGIN_FIELD, b"%d.%d:%d" % origin]
