"""Reads the archive of trimmed entries, packed files of a mapping's lines, and a stream together with its archive.

A file holds the lines of one source for one day (UTC, by the entries' IDs), in the stream's order, as gzip members one
behind the other: so `zcat` reads it, and so does an import. An entry that no line gives back exactly is written as
JSON, one entry a line. The ledger lists which entry lies where, so that each entry is rebuilt as it was.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Names
from contextlib import closing
from heapq import merge
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from bridge.continuity.archive_hand_edits import unedited
from bridge.core.codecs import Codec
from bridge.core.config import ROLE
from bridge.core.errors import SourceError
from bridge.core.globs import is_glob
from bridge.core.mapping import Mapping
from bridge.core.model import (
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
from bridge.ledger.acknowledgements import redacted_of
from bridge.ledger.archive_index import (
    ArchivedEntry,
    ArchivedSpan,
    ArchiveFile,
    ArchivePart,
    drop_span,
    parts_in,
    parts_of,
    redacted_parts,
    spans,
)
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.entry_json import fields_from_json
from bridge.streams.follow import EntryFilter
from bridge.streams.keys import Keys
from bridge.streams.reader import Entry, RidingCommand, pages
from bridge.streams.resp import pack

Redactions = Names[tuple[str, int], tuple[Sequence[ArchiveFile], bytes]]
"""The rest of archive parts in which lines were redacted, by file and offset.

Runs of lines between the redacted ones, and the digest of the entries that stay.
"""


class ArchiveReader:
    """Reads one mapping's archive of trimmed entries, as the ledger's index of the archive lists them.

    Used by one thread.
    """

    def __init__(self, mapping: Mapping, state_dir: Path, ledger: Ledger) -> None:
        self.folder = state_dir / "archive" / mapping.name
        self._mapping = mapping
        self._ledger = ledger
        self._stream = mapping.stream.key
        self._codecs: dict[str, Codec] = {}

    def every(self) -> list[ArchivedSpan]:
        """Lists all spans of entries that the archive of a mapping holds, oldest first."""
        return spans(self._ledger, self._stream, ZERO_ID)

    def begun(self, first: EntryId) -> EntryId | None:
        """Returns the last entry of the span that an earlier try archived from `first` on; None: there was no try."""
        return next((span.last for span in spans(self._ledger, self._stream, first) if span.first == first), None)

    def chain(self, floor: EntryId, start: EntryId = ZERO_ID) -> list[ArchivedSpan]:
        """Lists the archived spans that follow each other without a gap up to the trim floor, oldest first.

        Together with the stream they are one history. Only the spans that hold something from `start` on are listed.
        """
        found: list[ArchivedSpan] = []
        wanted = floor
        for span in reversed(spans(self._ledger, self._stream, start)):
            if _next(span.last) == wanted:
                found.append(span)
                wanted = span.first
        return found[::-1]

    # -- reading ---------------------------------------------------------------------------------------------

    def entries(self, floor: EntryId, start: EntryId = (0, 0), end: EntryId | None = None) -> Iterator[Entry]:
        """Reads the archived entries below the trim floor, from `start` to `end`, in order.

        Raises SourceError for an archive file that is not as it was written.
        """
        for span in self.chain(floor, start):
            if end is None or span.first <= end:
                for entry in self.of_span(span):
                    if start <= entry.id and (end is None or entry.id <= end):
                        yield entry

    def entries_back(self, floor: EntryId, end: EntryId | None = None, start: EntryId = (0, 0)) -> Iterator[Entry]:
        """Reads the archived entries below the trim floor from `end` back to `start`, newest first.

        Raises SourceError.
        """
        for span in reversed(self.chain(floor, start)):
            if end is None or span.first <= end:
                for entry in reversed(list(self.of_span(span))):
                    if start <= entry.id and (end is None or entry.id <= end):
                        yield entry

    def pages(self, floor: EntryId, start: EntryId, page: int) -> Iterator[list[list[Any]]]:
        """Reads the archived entries below the trim floor from `start` on, `page` at a time, as XRANGE would reply."""
        found = ([format_id(entry.id), entry.fields] for entry in self.entries(floor, start))
        while rows := list(islice(found, page)):
            yield rows

    def newest(self, floor: EntryId, wanted: EntryFilter, count: int | None) -> list[Entry]:
        """Returns the last `count` archived entries (None: all) that pass the filter `wanted`, oldest first."""
        start = wanted.since or (0, 0)
        end = before(wanted.until) if wanted.until is not None else None
        if count is None:
            return [*filter(wanted.has, self.entries(floor, start, end))]
        return [*islice(filter(wanted.has, self.entries_back(floor, end, start)), count)][::-1]

    def get(self, floor: EntryId, entry_id: EntryId) -> Entry | None:
        """Reads the entry of this ID from the archive; None: the archive does not hold it."""
        return next(self.entries(floor, entry_id, entry_id), None)

    def find(self, floor: EntryId, origin: Origin) -> EntryId | None:
        """Finds in the archive the ID of the entry with this origin; None: the archive does not hold it."""
        for span in reversed(self.chain(floor)):
            for part in parts_of(self._ledger, self._stream, span):
                for kept in part.listed:
                    if kept.origin == origin:
                        return kept.id if self.get(floor, kept.id) is not None else None
        return None

    def of_span(self, span: ArchivedSpan) -> Iterator[Entry]:
        """Reads all archived entries of a span, in order. Raises SourceError."""
        yield from self.of_parts(parts_of(self._ledger, self._stream, span))

    def of_parts(self, parts: Sequence[ArchivePart]) -> Iterator[Entry]:
        """Reads the archived entries of these parts, merged in order; of each archive file one part is in memory.

        Raises SourceError.
        """
        files: dict[str, list[ArchivePart]] = {}
        for part in parts:
            files.setdefault(part.path, []).append(part)
        redacted = redacted_parts(self._ledger, self._stream)
        yield from merge(
            *(chain.from_iterable(self._of_part(part, redacted) for part in some) for some in files.values())
        )

    def lines_of(self, part: ArchivePart) -> tuple[list[ArchivedEntry], list[bytes]]:
        """Returns the entries of an archive part that are not redacted, and their lines with newlines.

        Raises SourceError.
        """
        return self._lines_of(part, redacted_parts(self._ledger, self._stream))

    def _lines_of(self, part: ArchivePart, redacted: Redactions) -> tuple[list[ArchivedEntry], list[bytes]]:
        listed = part.listed
        try:
            raw = self._unpacked(part)
        except SourceError as error:
            if not any(path == part.path for path, _ in redacted):
                raise
            raw, edited = self._edited(part, redacted, error), True
        else:
            edited = False
        here = (part.path, part.at) in redacted
        gone = {told.entry for told in redacted_of(self._ledger, self._stream)} if here else set[EntryId]()
        found, lines, at = [], [], 0
        for kept in listed:
            if kept.id not in gone:
                found.append(kept)
                lines.append(raw[at : at + kept.length])
            at += kept.length if kept.id not in gone or not edited else 0
        return found, lines

    def _edited(self, part: ArchivePart, redacted: Redactions, error: SourceError) -> bytes:
        """Finds the rest of a part in an archive file from which a person cut redacted lines by hand.

        Raises `error` where it is not found.
        """
        try:
            with gzip.open(self.folder / part.path) as file:
                raw = file.read()
        except (OSError, EOFError, zlib.error):
            raise error from None
        parts = parts_in(self._ledger, self._stream, part.path)
        whole = [(other, redacted.get((other.path, other.at), ([_all_of(other)], b""))[0]) for other in parts]
        found = unedited(raw, whole).get(part.at)
        if found is None:
            raise error
        return found

    def _of_part(self, part: ArchivePart, redacted: Redactions) -> list[Entry]:
        listed, whole = self._lines_of(part, redacted)
        lines = [line[:-1] for line in whole]
        if not part.name:
            found = [Entry(archived.id, fields_from_json(line)) for archived, line in zip(listed, lines, strict=True)]
        else:
            rows, names = self.codec(part.name).decode(lines).rows, self.codec(part.name).fields
            found = [
                Entry(archived.id, fields_of(names, row, archived.origin) if isinstance(row, tuple) else [])
                for archived, row in zip(listed, rows, strict=True)
            ]
        if entries_digest(found) != redacted.get((part.path, part.at), ([], part.entries))[1]:
            raise SourceError(
                "its lines are read differently than when they were archived", where=str(self.folder / part.path),
                hint=f"put [format] and [message] of {self._mapping.name} back as they were",
            )  # fmt: skip
        return found

    def _unpacked(self, part: ArchivePart) -> bytes:
        """Unpacks a part of an archive file and compares the bytes with the digest that the ledger has of them.

        Raises SourceError unless they are the bytes that were put there.
        """
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

    def stands(self, first: EntryId, last: EntryId, read: Callable[[EntryId, EntryId], Iterator[Entry]]) -> bool:
        """Whether the archive holds from an earlier try exactly the entries of a stream from `first` to `last`.

        Other spans from `first` on are dropped from the ledger's index; the bytes of a span stay where Redis lost an
        entry of it. `read` gives the stream's entries from one ID to another. Raises SourceError, and what `read`
        raises.
        """
        for span in spans(self._ledger, self._stream, first):
            if (span.first, span.last) == (first, last) and same(self.of_span(span), read(first, last)):
                return True
            lost = any(_alone(self.of_span(span), read(span.first, span.last)))
            with self._ledger.transaction():  # entries that Redis lost since stand only here
                drop_span(self._ledger, self._stream, span, keep=lost)
        return False

    def codec(self, name: str) -> Codec:
        """Returns the codec of a source, by which archived lines become entries again."""
        if name not in self._codecs:
            self._codecs[name] = self._mapping.codec(name)
        return self._codecs[name]


def _all_of(part: ArchivePart) -> ArchiveFile:
    return ArchiveFile(0, sum(kept.length for kept in part.listed), part.digest)


def same(some: Iterable[Entry], others: Iterable[Entry]) -> bool:
    """Whether two sequences, the archived entries and those of the stream, are equal entry by entry. Pure."""
    return all(entry == other for entry, other in zip_longest(some, others))


def _alone(kept: Iterator[Entry], there: Iterator[Entry]) -> Iterator[Entry]:
    """Yields the archived entries that the stream does not hold, or holds with other fields.

    Both iterators are in order.
    """
    other = next(there, None)
    for entry in kept:
        while other is not None and other.id < entry.id:
            other = next(there, None)
        if entry != other:
            yield entry


def entries_digest(found: Sequence[Entry]) -> bytes:
    """Computes the digest of entries, IDs and fields, by which an archive part is verified when it is read. Pure."""
    return digest(b"", *(part for entry in found for part in (format_id(entry.id), *entry.fields)))


def history(
    connection: Connection, keys: Keys, archive: ArchiveReader | None, start: EntryId, last: EntryId, page: int,
    most_bytes: int, known: EntryId = ZERO_ID,
) -> Iterator[list[Any]]:  # fmt: skip
    """Reads a stream with its archive, from `start` to `last`, as XRANGE replies: below the floor from the archive.

    Somebody may trim meanwhile. The floor is set before any entry is removed, so a page is whole if the floor, read
    after the page, is not above the page's beginning; else the archive is read for that part.

    Raises SourceError, RedisLost, RedisRefused.
    """
    at, floor = start, RidingCommand(pack("GET", keys.floor))
    floor.reply = connection.call("GET", keys.floor)

    def now() -> EntryId:
        return parse_id(floor.reply) if isinstance(floor.reply, bytes) else known

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


def source_of_entry(mapping: Mapping, entry: Entry, names: Names[int, str]) -> tuple[str, Origin | None]:
    """Tells to which source, by name, the line of an entry belongs in the archive; and the entry's origin.

    `names` has the sources by number. The name is empty where there is no such source, or where the entry's role cannot
    be part of a file's name.
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


def fields_of(names: Sequence[bytes], row: Sequence[bytes], origin: Origin | None) -> list[bytes]:
    """Makes the fields of an archived entry from its decoded line (`names` and `row`) and its origin. Pure."""
    fields = [part for pair in zip(names, row, strict=True) for part in pair]
    return fields if origin is None else [*fields, ORIGIN_FIELD, b"%d.%d:%d" % origin]
