"""The messages of a log in columns, to be aligned: those of a file, and those that were carried of a generation.

What was carried is read of the generation's own file while that is open; else of the stream and its archive, by origin,
with the mirror's ranges and the quarantine.
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
from bridge.ledger.edits import stretches_of
from bridge.ledger.quarantine import KEPT_LINE_BYTES, carried_aside
from bridge.ledger.ranges import Range, ranges_of
from bridge.ledger.scratch_table import in_order
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import stream_info
from bridge.streams.trim import TrimmedSource, read_trimmed

SPILLED = 1 << 18
"""So many numbers of a column are in memory at most; more of them are in a file."""

CARRIED_PAGE, CARRIED_PAGE_BYTES = 500, 1 << 20

GENERATION = 1 << 44
"""Where a message began is this times its generation's number, and its offset: more than a file ever has bytes."""


class Column:
    """A column of numbers that is filled from its beginning and then read at any place. `close` it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recent = array("q")
        self._file: tempfile._TemporaryFileWrapper[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None

    def add(self, numbers: Iterable[int]) -> None:
        """Puts numbers behind those that the column has."""
        self._recent.extend(numbers)
        if len(self._recent) > SPILLED:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(dir=self._folder, prefix="aligned-")  # noqa: SIM115 - `close` does
        self._recent.tofile(self._file)
        self._recent = array("q")

    def numbers(self) -> memoryview:
        """The column's numbers, of which none come any more."""
        if self._view is None and self._file is not None:
            self._spill()
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._view is None:
            self._view = memoryview(self._map).cast("q") if self._map is not None else memoryview(self._recent)
        return self._view

    def close(self) -> None:
        """Forgets the numbers, and removes their file."""
        if self._view is not None:
            self._view.release()
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class LineColumns:
    """Messages of generations: for each a number that equal ones have too, where it begins, and where the next may.

    Of those that were read of the stream nobody knows where they end; `of_a_file`: they were not. `trimmed`: some that
    were carried are not among them, as their entries were trimmed, and no archive has them. `unknown`: so many bytes at
    the beginning may have held messages whose entries somebody else removed.
    """

    keys: Column
    starts: Column
    ends: Column
    trimmed: bool = False
    unknown: int = 0
    of_a_file: bool = False
    is_of_one: bool = True

    @classmethod
    def kept_in(cls, folder: Path) -> LineColumns:
        """Makes columns for messages; what does not fit into memory lies in files in this folder."""
        return cls(Column(folder), Column(folder), Column(folder))

    def close(self) -> None:
        """Forgets the messages."""
        for column in (self.keys, self.starts, self.ends):
            column.close()


Read = Callable[[int, int], tuple[bytes, list[Cut], bool]]
"""Reads so many bytes from an offset on: the bytes, what of them is not to be looked at, and whether more follow."""


def in_file(
    read: Read, codec: Codec, limit: int, folder: Path, key: Callable[[Sequence[bytes]], Iterable[int]], *, of: int = 0
) -> LineColumns:
    """Reads the messages of a file; `limit` is the longest line in bytes, `key` numbers them. Raises SourceError.

    They begin in generation `of`. One that is over the limit is numbered by its first bytes and its length.
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
    """Numbers a line that is over the limit, or cannot be an entry, by its first bytes; its length counts them all."""
    return hash(kept) if length <= KEPT_LINE_BYTES else hash((kept[:KEPT_LINE_BYTES], length))


def by_bytes(texts: Sequence[bytes]) -> Iterable[int]:
    """Numbers messages by their bytes."""
    return map(hash, texts)


def by_meaning(codec: Codec) -> Callable[[Sequence[bytes]], Iterable[int]]:
    """Makes what numbers messages by what a codec reads in them, as entries hold that; those that are none by bytes."""

    def numbered(texts: Sequence[bytes]) -> Iterable[int]:
        rows = codec.decode(texts).rows
        return (
            hash(row) if row.__class__ is tuple else by_beginning(text, len(text))
            for row, text in zip(rows, texts, strict=True)
        )

    return numbered


def reading(generation: Generation, end: int) -> Read:
    """Makes what reads a generation's file up to a byte."""

    def read(size: int, offset: int) -> tuple[bytes, list[Cut], bool]:
        data = generation.read(min(size, end - offset), offset)
        return data, [], offset + len(data) < end and bool(data)

    return read


class CarriedLines:
    """Reads what was carried of generations of a log, of the stream and the archive, the ledger's ranges and
    quarantine."""

    def __init__(self, shared: MappingContext, ledger: Ledger, connection: Connection, name: str, number: int) -> None:
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._stream = shared.mapping.stream.key
        self._name = name
        self._number = number
        self._codec = shared.mapping.codec(name)

    def read(self, ends: Mapping[int, int], folder: Path) -> LineColumns:
        """Reads the messages that were carried of these generations in file order; of each, up to which byte is told.

        Raises RedisLost, RedisRefused, SourceError, LedgerError.
        """
        trimmed = read_trimmed(self._connection, self._shared.keys)
        messages = LineColumns.kept_in(folder)
        rows = in_order(self._rows(sorted(ends)))
        while some := list(islice(rows, CARRIED_PAGE)):
            messages.starts.add(start for start, _ in some)
            messages.keys.add(key for _, key in some)
        messages.is_of_one = len(ends) == 1
        if not messages.is_of_one:
            return messages
        [(generation, end)] = ends.items()
        low = trimmed.origins.get(self._number, TrimmedSource(None)).low
        first = next(iter(messages.starts.numbers()), 1 << 62) - generation * GENERATION
        messages.trimmed = (
            low is not None and low >= Position(generation, 0) and (low.generation > generation or first > low.offset)
        )
        info = stream_info(self._connection, self._shared.keys.stream)
        if info.added > info.length:  # of a stream that lost what it held, and is filled again, nothing was removed
            messages.unknown = min(first, end) - self._redacted_before(generation, first)
        return messages

    def _redacted_before(self, generation: int, first: int) -> int:
        """How many bytes the lines take, before this one, whose entries were deleted on purpose."""
        redacted = redacted_of(self._ledger, self._stream, self._name)
        return sum(was.length for was in redacted if was.generation == generation and was.offset < first)

    def _rows(self, generations: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """Where the messages of generations begin, with their numbers, some at a time, in any order."""
        places = []
        for generation in generations:
            earlier = stretches_of(self._ledger, self._stream, self._name, generation)
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
    """Tells where in a generation's file a line stands that was carried as its own, or as an earlier one's.

    `moved` are stretches of earlier generations: which, from where on, how many bytes, and where they begin here.
    """

    def __init__(self, generation: int, moved: Iterable[tuple[int, int, int, int]]) -> None:
        self._generation = generation
        self._moved: dict[int, list[tuple[int, int, int]]] = {}
        for of, of_start, length, start in sorted(moved):
            self._moved.setdefault(of, []).append((of_start, of_start + length, start))

    def here(self, generation: int, offset: int) -> int:
        """The offset here of the line that was carried as this generation's at this offset; -1: it is not here."""
        if generation == self._generation:
            return offset
        moved = self._moved.get(generation, [])
        begin, end, start = moved[at - 1] if (at := bisect_right(moved, (offset, 1 << 62, 0))) else (0, 0, 0)
        return start + offset - begin if begin <= offset < end else -1


class Mirrored:
    """Tells where in generations' files the mirror wrote an entry's line, of the ranges it wrote there."""

    def __init__(self, ranges: Iterable[Range], generations: Collection[int]) -> None:
        self._starts: dict[EntryId, int] = {}
        for span in ranges:
            at = span.generation * GENERATION + span.start
            for entry, length in span.entries if span.generation in generations else ():
                self._starts[entry] = at
                at += length
        self.any = bool(self._starts)

    def start_of(self, entry: EntryId) -> int:
        """Where an entry's line begins; -1: it has none here."""
        return self._starts.get(entry, -1)
