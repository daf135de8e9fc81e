"""Reads the messages that were carried before from a log's generations, and those in a file, into columns to align.

Messages carried before are read from the generation's own file while that is open; else from the stream and its
archive, by origin, with the mirror's ranges and the quarantine.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bridge.continuity.archive_reader import ArchiveReader, history
from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import ORIGIN_FIELD, ZERO_ID, EntryId, Position, paired, parse_id, parse_origin
from bridge.files.generation import Generation
from bridge.files.lines import Cut, walk
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.acknowledgements import redacted_of
from bridge.ledger.edits import carried_spans
from bridge.ledger.quarantine import KEPT_LINE_BYTES, carried_aside
from bridge.ledger.ranges import Range, ranges_of
from bridge.ledger.scratch_table import in_order
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import stream_info
from bridge.streams.trim import TrimmedSource, read_trimmed

SPILLED = 1 << 18
"""Numbers that a column keeps in memory; when there are more, the column spills them into a temporary file."""

CARRIED_PAGE, CARRIED_PAGE_BYTES = 500, 1 << 20

GENERATION = 1 << 44
"""Joins generation and offset of a message in one integer, `generation * GENERATION + offset`.

No file ever has so many bytes.
"""


class Column:
    """A column of 64-bit numbers about carried messages, filled from its beginning and then read at any place.

    Numbers that do not fit into memory are in a temporary file. Call `close` at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recent = array("q")
        self._file: tempfile._TemporaryFileWrapper[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None

    def add(self, numbers: Iterable[int]) -> None:
        """Appends numbers to the column about carried messages, and spills it into a file when it grows large."""
        self._recent.extend(numbers)
        if len(self._recent) > SPILLED:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(dir=self._folder, prefix="aligned-")  # noqa: SIM115 - `close` does
        self._recent.tofile(self._file)
        self._recent = array("q")

    def numbers(self) -> memoryview:
        """Returns all numbers of the column about carried messages; none may be added afterwards."""
        if self._view is None and self._file is not None:
            self._spill()
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._view is None:
            self._view = memoryview(self._map).cast("q") if self._map is not None else memoryview(self._recent)
        return self._view

    def close(self) -> None:
        """Releases the column's numbers about carried messages, and removes the temporary file that held them."""
        if self._view is not None:
            self._view.release()
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class LineColumns:
    """Columns about a log's messages, carried before or in a file, to align them: each one's key, start and end.

    `keys`: a number that equal messages share. `starts`: where each message begins. `ends`: where the next one may
    begin; empty for messages that were read from the stream, as nobody knows that there. `of_a_file`: they were read
    from a file. `trimmed`: some that were carried are missing, as their entries were trimmed and no archive has them.
    `unknown`: so many bytes at the beginning may have held messages whose entries somebody else removed.
    `of_one_generation`: all are of one generation.
    """

    keys: Column
    starts: Column
    ends: Column
    trimmed: bool = False
    unknown: int = 0
    of_a_file: bool = False
    of_one_generation: bool = True

    @classmethod
    def kept_in(cls, folder: Path) -> LineColumns:
        """Makes empty columns for carried messages; what does not fit into memory is spilled to files in `folder`."""
        return cls(Column(folder), Column(folder), Column(folder))

    def close(self) -> None:
        """Closes the columns about carried messages, and so removes their temporary files."""
        for column in (self.keys, self.starts, self.ends):
            column.close()


Read = Callable[[int, int], tuple[bytes, list[Cut], bool]]
"""Reads so many bytes of a file from an offset on; returns them, the cuts to leave out, and whether more follow."""


def in_file(
    read: Read, codec: Codec, limit: int, folder: Path, key: Callable[[Sequence[bytes]], Iterable[int]], *, of: int = 0
) -> LineColumns:
    """Reads the messages of a log's file into columns, to align them with those that were carried before.

    `limit` is the longest line in bytes; `key` makes the keys of messages. A message over the limit gets its key from
    its first bytes and its length. `of` is the generation that the starts are counted in, where one is given. Raises
    SourceError.
    """
    found = LineColumns.kept_in(folder)
    found.of_a_file = True
    begins = codec.begins if isinstance(codec, MultilineCodec) else None
    end = 0
    for lines, cut in walk(read, 0, begins, limit):
        texts, starts, ends = lines.lines, lines.offsets, lines.ends
        if cut or not all(texts) or max(map(len, texts), default=0) > limit:
            long = {
                n: by_beginning(text[:KEPT_LINE_BYTES], len(text)) for n, text in enumerate(texts) if len(text) > limit
            }
            if cut:  # its beginning was in the pieces before
                starts[0] = end
                long[0] = by_beginning(read(KEPT_LINE_BYTES, end)[0], ends[0] - 1 - end)
            good = [n for n, text in enumerate(texts) if text or n in long]
            keys = iter(key([texts[n] for n in good if n not in long]))
            found.keys.add([long[n] if n in long else next(keys) for n in good])
            starts, ends = [starts[n] for n in good], [ends[n] for n in good]
        else:
            found.keys.add(key(texts))
        end = lines.end
        found.starts.add([of * GENERATION + start for start in starts] if of else starts)
        found.ends.add(ends)
    return found


def by_beginning(kept: bytes, length: int) -> int:
    """Makes an alignment key for a line that is over the limit or cannot be an entry, from first bytes and length.

    `kept` are the first bytes of the line, `length` counts all its bytes.
    """
    return hash(kept) if length <= KEPT_LINE_BYTES else hash((kept[:KEPT_LINE_BYTES], length))


def by_bytes(texts: Sequence[bytes]) -> Iterable[int]:
    """Makes alignment keys for messages in a log's file: the hashes of their bytes."""
    return map(hash, texts)


def by_meaning(codec: Codec) -> Callable[[Sequence[bytes]], Iterable[int]]:
    """Makes the function that computes the alignment keys of lines carried before, from the fields a codec decodes.

    Entries hold the same fields, so a line and a carried entry of one message get the same key. A text that is no
    message gets its key from its bytes.
    """

    def numbered(texts: Sequence[bytes]) -> Iterable[int]:
        rows = codec.decode(texts).rows
        return (
            hash(row) if row.__class__ is tuple else by_beginning(text, len(text))
            for row, text in zip(rows, texts, strict=True)
        )

    return numbered


def reading(generation: Generation, end: int) -> Read:
    """Makes a function that reads a generation's file up to the byte `end`, for columns of carried messages."""

    def read(size: int, offset: int) -> tuple[bytes, list[Cut], bool]:
        data = generation.read(min(size, end - offset), offset)
        return data, [], offset + len(data) < end and bool(data)

    return read


class CarriedLines:
    """Reads the messages carried before from a log's generations, out of stream, archive, ranges and quarantine."""

    def __init__(self, shared: MappingContext, ledger: Ledger, connection: Connection, name: str, number: int) -> None:
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._stream = shared.mapping.stream.key
        self._name = name
        self._number = number
        self._codec = shared.mapping.codec(name)

    def read(self, ends: Mapping[int, int], folder: Path) -> LineColumns:
        """Reads into columns, in file order, the messages that were carried before from some generations of a log.

        `ends` holds the generations, each with the byte up to which it was carried. Raises RedisLost, RedisRefused,
        SourceError, LedgerError.
        """
        trimmed = read_trimmed(self._connection, self._shared.keys)
        messages = LineColumns.kept_in(folder)
        rows = in_order(self._rows(sorted(ends)))
        while some := list(islice(rows, CARRIED_PAGE)):
            messages.starts.add(start for start, _ in some)
            messages.keys.add(key for _, key in some)
        messages.of_one_generation = len(ends) == 1
        if not messages.of_one_generation:
            return messages
        [(generation, end)] = ends.items()
        low = trimmed.origins.get(self._number, TrimmedSource(None)).low
        first = next(iter(messages.starts.numbers()), 1 << 62) - generation * GENERATION
        messages.trimmed = (
            low is not None and low >= Position(generation, 0) and (low.generation > generation or first > low.offset)
        )
        info = stream_info(self._connection, self._shared.keys.stream)
        if info.added > info.length:  # not so when the stream lost all entries and was filled again: none was removed
            messages.unknown = min(first, end) - self._redacted_before(generation, first)
        return messages

    def _redacted_before(self, generation: int, first: int) -> int:
        """Sums the bytes of those lines of a generation before the offset `first` whose entries `redact` took away."""
        redacted = redacted_of(self._ledger, self._stream, self._name)
        return sum(was.length for was in redacted if was.generation == generation and was.offset < first)

    def _rows(self, generations: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """Yields, page by page and in any order, the starts and alignment keys of messages carried before."""
        places = []
        for generation in generations:
            earlier = carried_spans(self._ledger, self._stream, self._name, generation)
            moved = ((at.of, at.of_start, at.end - at.start, at.start) for at in earlier)
            places.append((generation * GENERATION, Places(generation, moved)))

        def here(which: int, offset: int) -> int:
            return next((base + at for base, some in places if (at := some.here(which, offset)) >= 0), -1)

        mirrored = Mirrored(ranges_of(self._ledger, self._stream, self._name), generations)
        names = self._codec.fields
        archive = ArchiveReader(self._shared.mapping, self._shared.settings.state_dir, self._ledger)
        last = stream_info(self._connection, self._shared.keys.stream).last_id
        prefix = b"%d." % self._number
        for rows in history(
            self._connection, self._shared.keys, archive, ZERO_ID, last, CARRIED_PAGE, CARRIED_PAGE_BYTES
        ):
            found, ours = list[tuple[int, int]](), list[tuple[int, bytes]]()
            for raw_id, fields in rows:
                if fields is None:
                    continue
                if ORIGIN_FIELD not in fields[0::2]:
                    start = mirrored.start_of(parse_id(raw_id)) if mirrored.any else -1
                    line = self._shared.line_of(fields) if start >= 0 else None
                    if line is not None:
                        ours.append((start, line[1][:-1]))
                    continue
                values = paired(fields)
                raw = values[ORIGIN_FIELD]
                origin = parse_origin(raw) if raw.startswith(prefix) else None
                start = here(origin.generation, origin.offset) if origin is not None else -1
                if start >= 0:
                    found.append((start, hash(tuple(values.get(field) for field in names))))
            texts = [text for _, text in ours]
            yield found
            yield list(zip((start for start, _ in ours), by_meaning(self._codec)(texts), strict=True))
        aside = carried_aside(self._ledger, self._stream, self._name)
        yield [
            (start, by_beginning(raw, length)) for n, offset, raw, length in aside if (start := here(n, offset)) >= 0
        ]


class Places:
    """Finds the offset in a generation's file of a line that was carried from this generation or from an earlier one.

    `moved` are stretches of earlier generations, each as (generation, start there, bytes, start in this file).
    """

    def __init__(self, generation: int, moved: Iterable[tuple[int, int, int, int]]) -> None:
        self._generation = generation
        self._moved: dict[int, list[tuple[int, int, int]]] = {}
        for of, of_start, length, start in sorted(moved):
            self._moved.setdefault(of, []).append((of_start, of_start + length, start))

    def here(self, generation: int, offset: int) -> int:
        """Returns a carried line's offset in this file, by the generation and offset it was carried from; -1: none."""
        if generation == self._generation:
            return offset
        moved = self._moved.get(generation, [])
        begin, end, start = moved[at - 1] if (at := bisect_right(moved, (offset, 1 << 62, 0))) else (0, 0, 0)
        return start + offset - begin if begin <= offset < end else -1


class Mirrored:
    """Finds where in a log's generations the mirror wrote the line of an entry, by the mirror's ranges."""

    def __init__(self, ranges: Iterable[Range], generations: Collection[int]) -> None:
        self._starts: dict[EntryId, int] = {}
        for span in ranges:
            at = span.generation * GENERATION + span.start
            for entry, length in span.entries if span.generation in generations else ():
                self._starts[entry] = at
                at += length
        self.any = bool(self._starts)

    def start_of(self, entry: EntryId) -> int:
        """Returns where the mirror wrote an entry's line, as generation * GENERATION + offset; -1: in none of them."""
        return self._starts.get(entry, -1)
