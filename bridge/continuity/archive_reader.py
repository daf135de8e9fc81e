"""What was trimmed, as packed files of the mapping's own lines; and a stream with its archive before it.

A file holds the lines of one source for one day (UTC, by the entries' IDs), in the stream's order, as gzip members one
behind the other: so `zcat` reads it, and so does an import. What makes no line that gives exactly its entry back is
written as JSON, one entry a line. The ledger lists which entry lies where, so that each is rebuilt as it was.
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
"""What stands beside redacted lines, by file and place of a part: pieces, and the digest of the entries that stay."""


class ArchiveReader:
    """One mapping's. Used by one thread."""

    def __init__(self, mapping: Mapping, state_dir: Path, ledger: Ledger) -> None:
        self.folder = state_dir / "archive" / mapping.name
        self._mapping = mapping
        self._ledger = ledger
        self._stream = mapping.stream.key
        self._codecs: dict[str, Codec] = {}

    def every(self) -> list[ArchivedSpan]:
        """All spans that the archive holds, oldest first."""
        return spans(self._ledger, self._stream, ZERO_ID)

    def begun(self, first: EntryId) -> EntryId | None:
        """Up to where an earlier try kept what stands from `first` on; None: there was none."""
        return next((span.last for span in spans(self._ledger, self._stream, first) if span.first == first), None)

    def chain(self, floor: EntryId, start: EntryId = ZERO_ID) -> list[ArchivedSpan]:
        """The spans that follow each other up to the floor, oldest first: with the stream they are one history.

        Of these the ones that hold something from `start` on.
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

    def newest(self, floor: EntryId, wanted: EntryFilter, count: int | None) -> list[Entry]:
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
                for kept in part.listed:
                    if kept.origin == origin:
                        return kept.id if self.get(floor, kept.id) is not None else None
        return None

    def of_span(self, span: ArchivedSpan) -> Iterator[Entry]:
        """All entries of a span, in order. Raises SourceError."""
        yield from self.of_parts(parts_of(self._ledger, self._stream, span))

    def of_parts(self, parts: Sequence[ArchivePart]) -> Iterator[Entry]:
        """The same, of these parts: of each file one is in memory. Raises SourceError."""
        files: dict[str, list[ArchivePart]] = {}
        for part in parts:
            files.setdefault(part.path, []).append(part)
        redacted = redacted_parts(self._ledger, self._stream)
        yield from merge(
            *(chain.from_iterable(self._of_part(part, redacted) for part in some) for some in files.values())
        )

    def lines_of(self, part: ArchivePart) -> tuple[list[ArchivedEntry], list[bytes]]:
        """What a part lists and holds still, but for what was redacted; lines with newlines. Raises SourceError."""
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
        """What is left of a part in a file that was edited by hand, as something in it was redacted; else the error."""
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
                "its lines are read otherwise than when they were archived", where=str(self.folder / part.path),
                hint=f"put [format] and [message] of {self._mapping.name} back as they were",
            )  # fmt: skip
        return found

    def _unpacked(self, part: ArchivePart) -> bytes:
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

    def stands(self, first: EntryId, last: EntryId, read: Callable[[EntryId, EntryId], Iterator[Entry]]) -> bool:
        """Whether an earlier try kept what a stream holds from `first` to `last`; what else it kept is forgotten.

        `read` gives the stream's entries from one ID to another. Raises SourceError, and what `read` raises.
        """
        for span in spans(self._ledger, self._stream, first):
            if (span.first, span.last) == (first, last) and same(self.of_span(span), read(first, last)):
                return True
            lost = any(_alone(self.of_span(span), read(span.first, span.last)))
            with self._ledger.transaction():  # what Redis has lost since then is only here
                drop_span(self._ledger, self._stream, span, keep=lost)
        return False

    def codec(self, name: str) -> Codec:
        """That of a source."""
        if name not in self._codecs:
            self._codecs[name] = self._mapping.codec(name)
        return self._codecs[name]


def _all_of(part: ArchivePart) -> ArchiveFile:
    return ArchiveFile(0, sum(kept.length for kept in part.listed), part.digest)


def same(some: Iterable[Entry], others: Iterable[Entry]) -> bool:
    """Whether both are the same entries. Pure."""
    return all(entry == other for entry, other in zip_longest(some, others))


def _alone(kept: Iterator[Entry], there: Iterator[Entry]) -> Iterator[Entry]:
    """Of those that are kept the ones that are not there as they are. Both are in order."""
    other = next(there, None)
    for entry in kept:
        while other is not None and other.id < entry.id:
            other = next(there, None)
        if entry != other:
            yield entry


def entries_digest(found: Sequence[Entry]) -> bytes:
    """What a part notes of the entries it was made of. Pure."""
    return digest(b"", *(part for entry in found for part in (format_id(entry.id), *entry.fields)))


def history(
    connection: Connection, keys: Keys, archive: ArchiveReader | None, start: EntryId, last: EntryId, page: int,
    most_bytes: int, known: EntryId = ZERO_ID,
) -> Iterator[list[Any]]:  # fmt: skip
    """XRANGE's replies from `start` to `last`: those below the floor from the archive, as far as that has them.

    While it reads somebody may trim. The floor is set before anything goes, so a page is whole if the floor, looked at
    after it was read, is not above its beginning; else the archive is asked again.
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


def fields_of(names: Sequence[bytes], row: Sequence[bytes], origin: Origin | None) -> list[bytes]:
    """An entry's fields, as a line and its origin make them. Pure."""
    fields = [part for pair in zip(names, row, strict=True) for part in pair]
    return fields if origin is None else [*fields, ORIGIN_FIELD, b"%d.%d:%d" % origin]
