"""Translates a component's position at a switch between files and stream: exactly, message by message.

In files a component has read all lines before a place, and some behind it; in the stream all entries up to an ID, but
for those that are pending. The two sides interleave differently, so a place is no ID: around it each message is looked
at, and its place on the other side is told by its origin or by the mirror's ranges.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise

from bridge.client.bookmark import ReadSpan, SourcePosition
from bridge.core.errors import BridgeError
from bridge.core.model import (
    ORIGIN_FIELD,
    ZERO_ID,
    Checkpoint,
    EntryId,
    Fingerprint,
    Position,
    after,
    before,
    format_id,
    hex_digest,
    paired,
    parse_id,
    parse_origin,
)
from bridge.cutover.line_cursor import LineCursor, Where
from bridge.files.closed_generations import KEPT_LATE
from bridge.files.content import HEAD_BYTES
from bridge.files.generation import TAIL, Generation
from bridge.files.generation_record import GenerationRecord
from bridge.files.tail import Tail
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.quarantine import still_aside
from bridge.ledger.ranges import unpack_written
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.parity.log.items import OFFSETS, SHIFT
from bridge.streams.component_groups import ComponentGroup
from bridge.streams.connect import Connection
from bridge.streams.reader import Entry, entries, entries_back, existing, stream_info
from bridge.streams.stream_metadata import StreamMetadata, read_metadata
from bridge.streams.trim import read_trimmed

END_OF_GENERATION = 1 << 62
FIRST_OF_NONE = Position(END_OF_GENERATION, 0)
"""The position behind every file's end, and behind every generation."""


@dataclass(frozen=True, slots=True)
class FilePosition:
    """A component's position in files: a place in each file, and the ID up to which it has read what no file holds.

    `only_redis`: unread entries that no file holds. `again`: messages that were given before and not acknowledged.
    `aside`: entries up to the ID that the component has not read all the same. `unclean`: files whose next message may
    have been given, as the component died while it read.
    """

    places: Mapping[str, SourcePosition] = field(default_factory=dict)
    entry: EntryId = ZERO_ID
    only_redis: int = 0
    again: int = 0
    unclean: frozenset[str] = frozenset()
    aside: frozenset[EntryId] = frozenset()
    deleted: bool = False
    """Whether entries behind the ID may have been deleted: nobody can tell which lines in the files those are."""


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """A component's position in the stream: it has read all entries up to `last`, but for those in `unread`.

    `unread` is in order. Those in `again` were given to the component before and not acknowledged.
    """

    last: EntryId
    unread: tuple[EntryId, ...] = ()
    again: frozenset[EntryId] = frozenset()


@dataclass(slots=True)
class _Told:
    """The places in one file of messages that a component's position in the stream says it has read or not.

    `late`: unread, and out of order in the stream. `again`: given before, and not acknowledged.
    """

    unread: list[Position] = field(default_factory=list)
    late: list[Position] = field(default_factory=list)
    read: list[Position] = field(default_factory=list)
    again: list[Position] = field(default_factory=list)


class PositionTranslator:
    """Translates a component's position in one mapping between files and stream, both ways.

    The component pauses meanwhile, and both directions have passed what stood there then.
    """

    def __init__(self, shared: MappingContext, ledger: Ledger, connection: Connection) -> None:
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._keys = shared.keys
        self._stream = shared.mapping.stream.key
        self.books: StreamMetadata = read_metadata(connection, shared.keys)
        info = stream_info(connection, self._keys.stream)
        self._deleted, self._first, self.last = info.deleted, info.first_id, info.last_id
        """The stream's last ID, read after the checkpoints: every line before a checkpoint is an entry up to it."""
        self._trimmed = read_trimmed(connection, self._keys)
        self._names = {int(number): os.fsdecode(raw) for raw, number in self.books.sources.items()}
        self._lines = LineCursor(ledger, self._stream)
        late = paired(connection.call("HGETALL", self._keys.late))
        self._late: Set[bytes] = late.keys()

    # -- from files to the stream ----------------------------------------------------------------------------

    def to_stream(self, position: FilePosition, *, at_rest: bool = True) -> StreamPosition:
        """Translates a position in files to one in the stream, walking back to where all has been read.

        `at_rest`: the component does not read on meanwhile. Raises BridgeError: a place is not there.
        """
        places = {name: self.resolved(name, place) for name, place in position.places.items()}
        if at_rest:  # else the component reads on, and its last word is old
            self._nothing_trimmed(places)
        last, unread, open_ends = ZERO_ID, list[EntryId](), self._open_ends(places)
        lowest, again, firsts = self.last, set[EntryId](), dict[str, tuple[Position, EntryId]]()
        for entry in entries_back(self._connection, self._keys.stream, format_id(self.last)):
            lowest = entry.id
            self._lines.load(entry.id[0])
            where = self._where(entry)
            if where is None:
                has_read = entry.id <= position.entry and entry.id not in position.aside
            else:
                has_read = where[0] in places and places[where[0]].has_read(where[1])
            if not has_read and where is not None and where[0] in places:
                firsts[where[0]] = min((where[1], entry.id), firsts.get(where[0], (FIRST_OF_NONE, ZERO_ID)))
                if places[where[0]].repeats(where[1]):
                    again.add(entry.id)
            if has_read and last == ZERO_ID:
                last = entry.id
            if not has_read and last != ZERO_ID:
                unread.append(entry.id)
            if has_read and where is not None and not self._marked(entry):
                open_ends.discard(self._end_of(entry, where, places))
                if not open_ends:
                    break
        unread += self._aside_below(lowest, position)
        again |= {entry_id for name, (_, entry_id) in firsts.items() if name in position.unclean}
        if again and max(again) > last:  # only a pending entry can be marked as given before
            stream, rest = self._keys.stream, (after(last), format_id(max(again)))
            unread += [entry.id for entry in entries(self._connection, stream, *rest)]
            last = max(again)
        return StreamPosition(last, tuple(sorted(unread)), frozenset(again))

    def _nothing_trimmed(self, places: Mapping[str, SourcePosition]) -> None:
        """Checks that nothing was trimmed from the stream which a component's position has still to read.

        Raises BridgeError when the stream begins behind that.
        """
        for name, (at, *_) in (self._trimmed.base or {}).get("places", {}).items():
            begins, place = Position(at >> SHIFT, at & OFFSETS), places.get(name, SourcePosition())
            tail = self._shared.tail(name, self._ledger)
            tail.look()
            if not place.generations and tail.current() is None and self._held(tail, begins.generation) is None:
                continue  # nothing is left of the file to read
            if not place.generations or (place.position or FIRST_OF_NONE) < begins:
                raise BridgeError(
                    "what the component is to read next was trimmed from the stream", where=name,
                    hint=f"let it read on in the files, to byte {begins.offset} of generation {begins.generation}",
                )  # fmt: skip

    def _open_ends(self, places: Mapping[str, SourcePosition]) -> set[tuple[str, bool]]:
        """Lists what a position's walk back through the stream must meet: of each file a read line, own and mirrored.

        Each is a file and a kind of lines, own (True) or mirrored (False). From a line that was read back all of its
        kind has been read, as each kind stands in the same order on both sides.
        """
        sources = {(name, True) for name in self._names.values()}
        targets = {(os.fsdecode(name), False) for name in self.books.mirror}
        return sources | targets

    @staticmethod
    def _end_of(entry: Entry, where: Where, places: Mapping[str, SourcePosition]) -> tuple[str, bool] | None:
        """Names the file and kind of line for which a read entry ends the walk that translates a position.

        None for one outside the generation that is read now, whose order is unsure.
        """
        name, at = where
        position = places[name].position
        if position is None or at.generation != position.generation:
            return None
        return name, ORIGIN_FIELD in entry.fields

    def _aside_below(self, lowest: EntryId, position: FilePosition) -> list[EntryId]:
        """Lists the entries below `lowest` in no file that a component's position leaves unread.

        They are in quarantine, or were left when the component went back.
        """
        aside = {parse_id(raw.encode()) for _, _, raw in still_aside(self._ledger, self._stream, "mirror")}
        wanted = [
            entry_id
            for entry_id in {*aside, *position.aside}
            if entry_id < lowest and (entry_id > position.entry or entry_id in position.aside)
        ]
        return list(existing(self._connection, self._keys.stream, wanted))

    # -- from the stream to files ----------------------------------------------------------------------------

    def to_files(self, group: ComponentGroup) -> FilePosition:
        """Translates a consumer group's position in the stream to a component's position in files.

        What is pending and was given to somebody may have been read. Raises BridgeError.
        """
        begin = min([*group.pending, parse_id(after(group.last))])
        memory = stream_memory(self._ledger, self._stream)
        mirrored_to = memory.mirror_cursor if memory is not None else ZERO_ID
        self._lines.load(begin[0])  # read after the checkpoints, so a newer line is behind them
        found: dict[str, _Told] = {}
        only_redis, aside = 0, set[EntryId]()
        mirrors = self._shared.mapping.mirror is not None
        for entry in entries(self._connection, self._keys.stream, format_id(begin), format_id(self.last)):
            where, pending = self._where(entry), group.pending.get(entry.id)
            if where is None:
                unread = entry.id > group.last or pending is not None
                if unread and ORIGIN_FIELD not in entry.fields and (not mirrors or entry.id <= mirrored_to):
                    only_redis += 1
                    aside |= {entry.id} if entry.id <= group.last else set()
                continue
            told = found.setdefault(where[0], _Told())
            if entry.id <= group.last and pending is None:
                told.read.append(where[1])
                continue
            (told.late if self._marked(entry) else told.unread).append(where[1])
            if pending:
                told.again.append(where[1])
        for entry_id, (name, at) in self._lines.all():
            if entry_id <= group.last and entry_id not in group.pending:  # even if it was trimmed since
                found.setdefault(name, _Told()).read.append(at)
        names = {*self._names.values(), *(os.fsdecode(name) for name in self.books.mirror)}
        placed = ((name, self._place(name, found.get(name, _Told()), begin)) for name in sorted(names))
        places = {name: place for name, place in placed if place is not None}
        again = sum(len(told.again) for told in found.values())
        begins = self._trimmed.floor if self._trimmed.floor > ZERO_ID else self._first
        deleted = max(self._deleted, before(begins)) > group.last
        return FilePosition(places, group.last, only_redis, again, aside=frozenset(aside), deleted=deleted)

    def _place(self, name: str, told: _Told, begin: EntryId) -> SourcePosition | None:
        """Finds a position's place in a file: the lowest unread line, else the checkpoint; and what was read behind."""
        tail = self._shared.tail(name, self._ledger)
        tail.look()
        stored = self.books.checkpoint.get(os.fsencode(name))
        current = tail.current()
        if stored:
            frontier = Checkpoint.from_json(stored).position
        elif current is not None:
            frontier = Position(current.number, current.size())
        else:
            return None
        at = min([*told.unread, frontier])
        has_read = {
            *self._mirrored_behind(name, at, begin),
            *(line_at for line_at in told.read if line_at > at),
        }
        marked = sorted([(line_at, False) for line_at in {*told.unread}] + [(line_at, True) for line_at in has_read])
        spans: list[ReadSpan] = []
        for (number, was_read), run in groupby(marked, key=lambda pair: (pair[0].generation, pair[1])):
            if was_read:
                offsets = [pair[0].offset for pair in run]
                spans.append(ReadSpan(number, offsets[0], offsets[-1] + 1))
        late = sorted(
            line_at for line_at in {*told.late} if line_at < at and self._held(tail, line_at.generation) is not None
        )
        for position, following in pairwise([*late, at]):  # the lines around a late one were all read
            spans += between(position, following)
        repeats = tuple(
            ReadSpan(line_at.generation, line_at.offset, line_at.offset + 1) for line_at in sorted(told.again)
        )
        return SourcePosition(tuple(self._known_from(tail, min([*late, at]))), tuple(spans), repeats)

    @staticmethod
    def _held(tail: Tail, number: int) -> Generation | None:
        generation = tail.of_number(number) or tail.reopen(number)
        return generation if generation is not None and generation.content is not None else None

    def _mirrored_behind(self, name: str, at: Position, begin: EntryId) -> list[Position]:
        """Lists lines from `at` on that the mirror wrote of entries before `begin`: the position has read them."""
        rows = self._ledger.rows(
            "SELECT generation, start, entries FROM ranges WHERE stream = ? AND name = ?"
            " AND (generation > ? OR (generation = ? AND start >= ?))",
            (self._stream, name, at.generation, at.generation, at.offset),
        )
        found = []
        for generation, start, blob in rows:
            for entry_id, length in unpack_written(blob):
                if entry_id < begin:
                    found.append(Position(generation, start))
                start += length
        return found

    def _known_from(self, tail: Tail, at: Position) -> list[GenerationRecord]:
        """Makes a position's records of a file's generations: older ones are finished, that of `at` is read up to it.

        Raises BridgeError: the generation of `at` is gone.
        """
        done, found = [], []
        for record in tail.records():
            generation = self._held(tail, record.number)
            if record.number < at.generation:
                ended = record.at if record.closed or generation is None else fingerprint(generation, generation.size())
                done.append(replace(record.at_place(ended), closed=True))
                continue
            if generation is not None:
                offset = at.offset if record.number == at.generation else 0
                found.append(GenerationRecord(record.number, *generation.identity, fingerprint(generation, offset)))
            elif record.number == at.generation:
                raise BridgeError(f"generation {record.number} is gone, and the position is in it", where=tail.name)
        return done[-KEPT_LATE:] + found

    # -- both ------------------------------------------------------------------------------------------------

    def _where(self, entry: Entry) -> Where | None:
        """Locates an entry in the files for a position, by its origin or the mirror's ranges; None: in none."""
        if ORIGIN_FIELD not in entry.fields:
            return self._lines.of(entry.id)
        raw = entry.origin()
        origin = parse_origin(raw) if raw is not None else None
        if origin is None or origin.source not in self._names:
            return None
        return self._names[origin.source], Position(origin.generation, origin.offset)

    def _marked(self, entry: Entry) -> bool:
        """Whether `bridge:{S}:late` marks an entry, by its ID or its origin, as out of order for a position."""
        return bool(self._late) and (format_id(entry.id) in self._late or entry.origin() in self._late)

    def resolved(self, name: str, place: SourcePosition) -> SourcePosition:
        """Renumbers the generations of a component's position in a file as the ledger counts them.

        A component that reads a file by itself counts its generations by itself. Raises BridgeError: what was read last
        is not to be found any more.
        """
        tail = self._shared.tail(name, self._ledger)
        tail.look()
        numbers: dict[int, int] = {}
        known: list[GenerationRecord] = []
        for generation in place.generations:
            found = self._found(tail, generation, set(numbers.values()))
            if found is None and not generation.closed and generation.at.offset:
                hint = "let the component read on first, or say from where with --from"
                raise BridgeError("the file that the component reads was not found", where=name, hint=hint)
            if found is not None:
                numbers[generation.number] = found
                known.append(replace(generation, number=found))
        spans = [
            tuple(replace(span, generation=numbers[span.generation]) for span in some if span.generation in numbers)
            for some in (place.skip, place.again)
        ]
        return SourcePosition(tuple(sorted(known, key=lambda record: record.number)), spans[0], spans[1])

    @staticmethod
    def _found(tail: Tail, wanted: GenerationRecord, taken: Set[int]) -> int | None:
        """Finds the ledger's number of a generation that a component's position names: same file, else same content."""
        alike = []
        for record in tail.records()[::-1]:
            if record.number in taken:
                continue
            generation = tail.of_number(record.number) or tail.reopen(record.number)
            if generation is None or generation.content is None or not generation.holds(wanted.at):
                continue
            if generation.identity == (wanted.device, wanted.inode):
                return record.number
            if wanted.at.head_len:
                alike.append(record.number)
        return alike[-1] if alike else None


def between(begin: Position, end: Position) -> list[ReadSpan]:
    """Makes the spans of a position in files that hold all messages behind `begin` and before `end`. Pure."""
    if begin.generation == end.generation:
        return [ReadSpan(begin.generation, begin.offset + 1, end.offset)]
    whole = [ReadSpan(number, 0, END_OF_GENERATION) for number in range(begin.generation + 1, end.generation)]
    return [
        ReadSpan(begin.generation, begin.offset + 1, END_OF_GENERATION),
        *whole,
        ReadSpan(end.generation, 0, end.offset),
    ]


def fingerprint(generation: Generation, offset: int) -> Fingerprint:
    """Makes a generation's fingerprint for a position: digests of its head and of the bytes before the offset."""
    head = generation.read(HEAD_BYTES, 0)
    head = head[:offset] if offset else head
    back = min(TAIL, offset)
    return Fingerprint(offset, len(head), hex_digest(head), hex_digest(generation.read(back, offset - back)))
