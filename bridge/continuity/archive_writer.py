"""Writes trimmed entries into the archive (`bridge.continuity.archive_reader`), and reads each part again from disk."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import chain, count

from bridge.continuity.archive_reader import ArchiveReader, entries_digest, fields_of, same, source_of_entry
from bridge.core.errors import SourceError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import EntryId, Origin, digest
from bridge.ledger.archive_index import (
    ArchivedEntry,
    ArchivedSpan,
    ArchivePart,
    begin_part,
    begun_at,
    end_of,
    index_of,
    redacted_parts,
    save_span,
)
from bridge.ledger.sources import sources_of
from bridge.ledger.store import Ledger
from bridge.streams.entry_json import entry_as_json
from bridge.streams.reader import Entry

ARCHIVE_ENTRIES, PIECE_BYTES = 1000, 1 << 20
"""Entries, and bytes of their fields, that the archive writer holds in memory at once, about."""

ARCHIVE_ENTRIES_FILE = "entries"
"""The base name of the archive files that hold entries which make no line, as JSON."""

LAST_DAY = 253_402_300_799_000
"""Milliseconds since 1970 at the end of the year 9999: later IDs have no date."""


class ArchiveWriter:
    """Writes all entries of a stream from `first` to `last` into the archive: `add` takes them in order, `end` commits.

    Before `end` none of it counts. `base` is where parity would begin if the archive began here.
    """

    def __init__(
        self, archive: ArchiveReader, mapping: Mapping, ledger: Ledger, first: EntryId, last: EntryId,
        base: dict[str, object] | None,
    ) -> None:  # fmt: skip
        self._archive = archive
        self._mapping = mapping
        self._ledger = ledger
        self._stream = mapping.stream.key
        self._span = ArchivedSpan(first, last, json.dumps(base))
        self._names = {memory.number: name for name, memory in sources_of(ledger, self._stream).items()}
        self._ends: dict[str, int] = {}
        """For each archive file that was written to, the offset at which the next part goes."""
        self._held: list[Entry] = []
        self._bytes = 0

    def add(self, some: Sequence[Entry]) -> None:
        """Takes the next entries for the archive, and writes those that it holds when they are many.

        Raises SourceError where there is no room, or where an archive file does not give back what was written.
        """
        self._held += some
        self._bytes += sum(sum(map(len, entry.fields)) for entry in some)
        if len(self._held) >= ARCHIVE_ENTRIES or self._bytes >= PIECE_BYTES:
            self._keep()

    def end(self, note: Callable[[], None]) -> int:
        """Commits the archived span: lists its parts in the ledger, and returns the bytes that the parts take.

        `note` is called in the same transaction of the ledger.
        """
        self._keep()
        failpoint("trim.archive.before")
        with self._ledger.transaction():
            save_span(self._ledger, self._stream, self._span)
            note()
        failpoint("trim.archive.after")
        return sum(part.size for part in self._span.parts)

    def _keep(self) -> None:
        found, self._held, self._bytes = self._held, [], 0
        parted: dict[tuple[str, str], tuple[list[Entry], list[bytes], list[Origin | None]]] = {}
        for entry, (name, line, origin) in zip(found, self._lines(found), strict=True):
            day = time.strftime("%Y-%m-%d", time.gmtime(entry.id[0] / 1000)) if entry.id[0] < LAST_DAY else "undated"
            entries, lines, origins = parted.setdefault((name, day), ([], [], []))
            entries.append(entry)
            lines.append(line)
            origins.append(origin)
        try:
            parts = [self._write(*where, entries, lines, origins)
                     for where, (entries, lines, origins) in sorted(parted.items())]  # fmt: skip
        except OSError as error:
            raise SourceError(
                f"cannot be written: {error.strerror}", where=str(self._archive.folder),
                hint="make room; what is not archived stays in the stream",
            ) from None  # fmt: skip
        if not same(self._archive.of_parts(parts), found):
            raise SourceError("does not give back what was put in", where=str(self._archive.folder))
        self._span.parts.extend(parts)

    def _write(
        self, name: str, day: str, entries: Sequence[Entry], lines: Sequence[bytes], origins: Sequence[Origin | None]
    ) -> ArchivePart:
        """Appends one packed part to an archive file, syncs it to disk, and describes it for the ledger's index."""
        path = self._path(name, day)
        whole = self._archive.folder / path
        whole.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        raw = b"".join(line + b"\n" for line in lines)
        packed = gzip.compress(raw, compresslevel=6, mtime=0)
        fd = os.open(whole, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b", buffering=0) as file:
            at = self._ends.get(path, -1)
            if at < 0:
                at = self._end(path, os.fstat(fd).st_size)
                begin_part(self._ledger, self._stream, path, at)
            failpoint("trim.part.before")
            file.truncate(at)
            file.seek(at)
            left = memoryview(packed)
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(fd)
            failpoint("trim.part.after")
        self._ends[path] = at + len(packed)
        index = index_of([ArchivedEntry(entry.id, len(line) + 1, origin)
                          for entry, line, origin in zip(entries, lines, origins, strict=True)])  # fmt: skip
        return ArchivePart(path, name, at, len(packed), digest(raw), entries_digest(entries), index)

    def _path(self, name: str, day: str) -> str:
        """Chooses the archive file for a source's day, but no file in which lines were redacted.

        A person may edit such a file by hand.
        """
        edited = {path for path, _ in redacted_parts(self._ledger, self._stream)}
        paths = (
            f"{name}.{day}{n}.gz" if name else f"{ARCHIVE_ENTRIES_FILE}.{day}{n}.jsonl.gz"
            for n in chain([""], map("_{}".format, count(2)))
        )
        return next(path for path in paths if path not in edited)

    def _end(self, path: str, size: int) -> int:
        """Finds the offset in an archive file at which the next part goes, behind all that stands there.

        Only the bytes of a try that did not end are overwritten. A ledger that was lost and rebuilt knows of no part.
        Raises SourceError for a file that was cut.
        """
        known, begun = end_of(self._ledger, self._stream, path), begun_at(self._ledger, self._stream, path)
        if size < known:
            where = str(self._archive.folder / path)
            raise SourceError("is shorter than what was archived in it", where=where, hint="who cut it?")
        return begun if begun is not None and known <= begun <= size else size if begun is None else max(known, size)

    def _lines(self, found: Sequence[Entry]) -> list[tuple[str, bytes, Origin | None]]:
        """Makes the archive's line for each entry: the source's name, the line and the origin; or no name, and JSON.

        A line is used only if the source's codec makes exactly the same entry of it.
        """
        made: dict[int, tuple[str, bytes, Origin | None]] = {}
        groups: dict[str, list[tuple[int, Origin | None]]] = {}
        for i, entry in enumerate(found):
            name, origin = source_of_entry(self._mapping, entry, self._names)
            if not name or not self._mapping.kind.lines or not self._archive.codec(name).invertible:
                continue
            fields = self._archive.codec(name).fields
            if entry.fields[0 : 2 * len(fields) : 2] == [*fields]:
                groups.setdefault(name, []).append((i, origin))
        for name, some in groups.items():
            codec = self._archive.codec(name)
            length = 2 * len(codec.fields)
            rows = [tuple(found[i].fields[1:length:2]) for i, _ in some]
            lines = codec.encode_all(rows)
            again = codec.decode([line if isinstance(line, bytes) else b"" for line in lines]).rows
            for (i, origin), line, row in zip(some, lines, again, strict=True):
                back = isinstance(row, tuple) and fields_of(codec.fields, row, origin) == found[i].fields
                if back and isinstance(line, bytes):
                    made[i] = name, line, origin
        return [made.get(i) or ("", entry_as_json(entry), None) for i, entry in enumerate(found)]
