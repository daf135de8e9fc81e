"""Finds one message of a mapping on both sides: its line in a file, its entry in the stream, or why there is none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.continuity.archive_reader import ArchiveReader
from bridge.core.errors import BridgeError, SourceError
from bridge.core.model import (
    FIELDS,
    UTF8_MARK,
    ZERO_ID,
    Checkpoint,
    EntryId,
    Origin,
    Position,
    as_json,
    format_id,
    paired,
    parse_id,
    parse_origin,
    shown_name,
    without_mark,
)
from bridge.files.generation import Generation, open_regular
from bridge.files.tail import Tail
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger import spool_messages
from bridge.ledger.edits import sent_as, stands_at
from bridge.ledger.quarantine import QuarantinedMessage, find_quarantined
from bridge.ledger.ranges import range_at, range_of, ranges_of
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.latest_value import key_of
from bridge.streams.layout import others_stream
from bridge.streams.reader import existing, file_born
from bridge.streams.stream_metadata import StreamMetadata, read_metadata

SEARCH_BLOCK = 1 << 20
DAY_MS = 86_400_000


@dataclass(slots=True)
class MessagePlace:
    """Holds the place of a message in file and stream, as far as it was found; `said` tells the same in a sentence.

    `born`: "file" or "Redis", empty where that is not known. `line` counts from 1, as editors do; `offset` in bytes.
    """

    mapping: str
    stream: str
    said: str = ""
    born: str = ""
    file: str | None = None
    line: int | None = None
    offset: int | None = None
    generation: int | None = None
    entry: str | None = None
    origin: str | None = None
    raw: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Turns the place of a message into the object that `bridge locate --json` prints."""
        names = ("mapping", "stream", "said", "born", "file", "line", "offset", "generation", "entry", "origin")
        facts: dict[str, Any] = {name: getattr(self, name) for name in names}
        return facts | {"raw": None if self.raw is None else as_json(self.raw)}


class MessageFinder:
    """Finds messages of one mapping, by file, entry or origin, in its files, its stream, its archive and the ledger."""

    def __init__(self, shared: MappingContext, ledger: Ledger, connection: Connection) -> None:
        self.shared = shared
        self._ledger = ledger
        self._connection = self.connection = connection
        self._stream = shared.mapping.stream.key
        self._books: StreamMetadata = read_metadata(connection, shared.keys)
        self.whose = others_stream(self._books.meta, ledger.uuid, shared.settings.instance)
        """Whose stream it is, in words, where another bridge owns it; empty: nobody else does."""
        self._archive = ArchiveReader(shared.mapping, shared.settings.state_dir, ledger)
        self._floor = self._books.floor or ZERO_ID

    # -- from the file ---------------------------------------------------------------------------------------

    def of_whole_file(self, path: Path) -> MessagePlace | None:
        """Finds the message of a file that is a message, a value or an artifact; None: it is not the mapping's."""
        folder = self.shared.folder or self.shared.values
        name = folder.below(str(path)) if folder is not None else None
        if folder is None or name is None or not folder.has(name):
            return None
        found, known = folder.find(name), spool_messages.carried(self._ledger, self._stream, name)
        if found is None and known is None:
            return None
        place = MessagePlace(self.shared.mapping.name, self._stream, file=os.fsdecode(name))
        if self.shared.values is not None:
            hashed = key_of(self.shared.keys, name).decode(errors="backslashreplace")
            place.said = f"its latest value is in the hash {hashed}"
            return place
        aside = find_quarantined(self._ledger, self._stream, name=shown_name(name))
        if known is None and aside is not None and not aside.retried:
            place.said = _in_quarantine(aside)
        elif known is None:
            place.said = "it is not carried yet"
        elif known[2]:
            generation, _, written = known[2].partition(":")
            held = [
                written_range
                for written_range in ranges_of(self._ledger, self._stream, written)
                if written_range.generation == int(generation)
            ]
            ids = [entry_id for written_range in held for entry_id, _ in written_range.entries]
            place.born, place.entry = "Redis", format_id(ids[0]).decode() if ids else None
            place.said = f"the mirror wrote it, of entry {place.entry}"
        else:
            number = self._books.sources.get(os.fsencode(self.shared.mapping.source.path), b"0")
            origin = Origin(int(number), known[0], known[1])
            entry_id = self._find(origin, found.facts.written // 1_000_000 if found is not None else 0)
            place.born, place.origin = "file", f"{origin.source}.{origin.generation}:{origin.offset}"
            place.entry = format_id(entry_id).decode() if entry_id is not None else None
            place.said = self._its_entry(entry_id)
        if found is None:
            place.said += "; there is no such file any more: it was removed, or moved"
        return place

    def _in_folder(self, place: MessagePlace, names: list[bytes], written: str = "") -> None:
        """Fills the file that holds a message of a spool or artifacts now into the message's place."""
        place.offset = place.generation = None
        if names:
            place.file = os.fsdecode(names[0])
            place.said = f"it is the file {place.file}"
        else:
            place.said = f"its file{f' {written}' if written else ''} is not known to be there any more"

    def of_file(self, path: Path, number: int, *, by_line: bool) -> MessagePlace | None:
        """Finds the message of a line, by line number or by a byte within; None: the file is not the mapping's."""
        source, root = self.shared.mapping.source, self.shared.settings.root
        rotated = {p.resolve() for pattern in source.rotated for p in root.glob(pattern)}
        names = {*self.shared.source_names(), *(os.fsdecode(n) for n in self._books.mirror)}
        names = {n for n in names if (root / n).resolve() == path or path in rotated}
        if self.shared.mapping.kind.appended:  # the file may have been renamed, or be another name of a log
            self.shared.claim_all(self._ledger)
            self.shared.leave(self._ledger)
            names |= {log} if (log := self.shared.catalog.log_at(str(path))) is not None else set()
        opened = open_regular(path)
        if opened is None or not names:
            return None
        try:
            for name in sorted(names):
                tail = self.shared.tail(name, self._ledger)
                generation = _held(tail, opened.identity)
                if generation is not None:
                    return self._of_line(tail, generation, path, number, by_line=by_line)
            offset, line, raw = _line_in(opened, number, by_line=by_line)
            said = "no bridge has carried anything of this file yet"
            return MessagePlace(
                self.shared.mapping.name, self._stream, said, "", self._shown(path), line, offset, raw=raw
            )
        finally:
            opened.close()

    def _of_line(self, tail: Tail, generation: Generation, path: Path, number: int, *, by_line: bool) -> MessagePlace:
        offset, line, raw = _line_in(generation, number, by_line=by_line)
        place = MessagePlace(self.shared.mapping.name, self._stream, file=self._shown(path), line=line, offset=offset,
                      generation=generation.number, raw=raw)  # fmt: skip
        mirrored = range_at(self._ledger, self._stream, tail.name, generation.number, offset)
        if mirrored is not None:
            at, place.born = mirrored.start, "Redis"
            for entry_id, length in mirrored.entries:
                if at <= offset < at + length:
                    place.entry = format_id(entry_id).decode()
                at += length
            place.said = f"the mirror wrote it, of entry {place.entry}"
            if place.entry is not None and (found := self._fields(parse_id(place.entry.encode()))) is None:
                place.said += ", which is in the stream no more"
            elif place.entry is not None and found is not None and found[1]:
                place.said += ", which is in the archive"
            return place
        place.born = "file"
        if self.shared.mapping.kind.chunked:
            return self._in_chunk(place, tail.name, Position(generation.number, offset if by_line else number))
        if not raw.endswith(b"\n") and offset + len(raw) >= generation.size():
            place.said = "the line is not ended yet: it is carried when it is"
            return place
        if raw == b"\n":
            place.said = "an empty line: it is passed over"
            return place
        return self._of_own(place, tail.name, Position(generation.number, offset), raw.removesuffix(b"\n"))

    def _in_chunk(self, place: MessagePlace, name: str, at: Position) -> MessagePlace:
        """Finds the entry whose chunk holds a byte of a context file, and fills it into the message's place."""
        number = int(self._books.sources.get(os.fsencode(name), 0))
        for entry, origin in file_born(self._connection, self.shared.keys.stream):
            data = paired(entry.fields).get(FIELDS[3], b"")
            mine = (origin.source, origin.generation) == (number, at.generation)
            if mine and origin.offset <= at.offset < origin.offset + len(data):
                place.entry = format_id(entry.id).decode()
                place.origin = f"{origin.source}.{origin.generation}:{origin.offset}"
                place.said = f"it is in the chunk from byte {origin.offset}, entry {place.entry}"
                return place
        place.said = "no entry holds it: it is not carried yet, or its entry was trimmed"
        return place

    def _shown(self, path: Path) -> str:
        """Returns the name of a message's file as `bridge locate` takes it."""
        root = self.shared.settings.root
        return str(path.relative_to(root)) if path.is_relative_to(root) else path.name

    def _of_own(self, place: MessagePlace, name: str, at: Position, line: bytes) -> MessagePlace:
        """Finds the entry of a file-born line, or why there is none, and fills it into the message's place."""
        encoded, here = os.fsencode(name), at
        at = sent_as(self._ledger, self._stream, name, here)
        aside = find_quarantined(self._ledger, self._stream, name=name, generation=at.generation, offset=at.offset)
        if aside is not None and not aside.retried:
            place.said = _in_quarantine(aside)
            return place
        stored, number = self._books.checkpoint.get(encoded), self._books.sources.get(encoded)
        behind = number is None or stored is None or here >= Checkpoint.from_json(stored).position
        if number is None or (behind and at == here):
            place.said = "it is not carried yet"
            return place
        origin = Origin(int(number), at.generation, at.offset)
        place.origin = f"{origin.source}.{origin.generation}:{origin.offset}"
        entry_id = self._find(origin, self.shared.mapping.codec(name).decode((line,)).times[0])
        place.entry = format_id(entry_id).decode() if entry_id is not None else None
        place.said = self._its_entry(entry_id)
        return place

    def _its_entry(self, entry_id: EntryId | None) -> str:
        if entry_id is None:
            return "it was carried, and its entry is in the stream no more: trimmed, or deleted"
        archived = ", in the archive" if self._archive.get(self._floor, entry_id) is not None else ""
        return f"it is entry {format_id(entry_id).decode()}{archived}"

    def _fields(self, entry_id: EntryId) -> tuple[list[bytes], bool] | None:
        """Finds an entry's fields in the stream or the archive, and whether in the archive; None: in neither."""
        found = existing(self._connection, self.shared.keys.stream, [entry_id]).get(entry_id)
        if found is not None:
            return found, False
        kept = self._archive.get(self._floor, entry_id)
        return (kept.fields, True) if kept is not None else None

    def _find(self, origin: Origin, time_ms: int) -> EntryId | None:
        """Finds the entry of an origin, from a day before the message's time on, then in all, then in the archive."""
        starts = [b"%d-0" % (time_ms - DAY_MS), b"-"] if time_ms > DAY_MS else [b"-"]
        for start in starts:
            for entry, found in file_born(self._connection, self.shared.keys.stream, start):
                if found == origin:
                    return entry.id
        return self._archive.find(self._floor, origin)

    # -- from the stream -------------------------------------------------------------------------------------

    def of_entry(self, entry_id: EntryId) -> MessagePlace | None:
        """Finds the message of an entry ID, and its line; None: neither stream, archive nor ledger knows the entry."""
        found = self._fields(entry_id)
        fields = found[0] if found is not None else None
        text = format_id(entry_id).decode()
        place = MessagePlace(self.shared.mapping.name, self._stream, entry=text)
        if fields is not None:
            values = paired(fields)
            origin = parse_origin(values.get(b"origin", b""))
            if origin is not None:
                place.origin = values[b"origin"].decode()
                return self._of_known_origin(place, origin)
        place.born = "Redis"
        written = range_of(self._ledger, self._stream, entry_id)
        aside = find_quarantined(self._ledger, self._stream, entry_id=text)
        if written is not None:
            span, offset = written
            if self.shared.folder is not None:
                mark = spool_messages.mirrored_as(span.name, span.generation)
                self._in_folder(place, spool_messages.files_of(self._ledger, self._stream, 0, 0, mark), span.name)
                return place
            self._in_file(place, span.name, Position(span.generation, offset))
            return place
        if fields is None and aside is None:
            return None
        if aside is not None and not aside.retried:
            place.said = _in_quarantine(aside)
            return place
        known = stream_memory(self._ledger, self._stream)
        if self.shared.mapping.mirror is None:
            place.said = "this mapping has no mirror: it stays in the stream"
        elif known is None or entry_id > known.mirror_cursor:
            place.said = "it is not mirrored yet"
        else:
            place.said = "the mirror has passed it, and the ledger knows no line of it"
        return place

    def of_origin(self, origin: Origin) -> MessagePlace | None:
        """Finds the message of an origin, its line and its entry; None when no source has the origin's number."""
        if not any(int(number) == origin.source for number in self._books.sources.values()):
            return None
        entry_id = self._find(origin, 0)
        place = MessagePlace(
            self.shared.mapping.name,
            self._stream,
            entry=format_id(entry_id).decode() if entry_id else None,
            origin=f"{origin.source}.{origin.generation}:{origin.offset}",
        )
        self._of_known_origin(place, origin)
        if place.offset is not None and place.offset != origin.offset:  # a byte within the line
            return self.of_origin(Origin(origin.source, origin.generation, place.offset))
        return place

    def _of_known_origin(self, place: MessagePlace, origin: Origin) -> MessagePlace:
        place.born = "file"
        names = [raw for raw, number in self._books.sources.items() if int(number) == origin.source]
        if not names:
            place.said = f"its origin names source {origin.source}, which this stream does not have"
            return place
        if self.shared.folder is not None:
            self._in_folder(
                place, spool_messages.files_of(self._ledger, self._stream, origin.generation, origin.offset)
            )
            return place
        self._in_file(place, os.fsdecode(names[0]), Position(origin.generation, origin.offset))
        return place

    def _in_file(self, place: MessagePlace, name: str, at: Position) -> None:
        """Fills the present file, line and offset of a source's line into the message's place."""
        now = stands_at(self._ledger, self._stream, name, at)
        if now is None:
            place.said = f"it stood in generation {at.generation} of {name}, and was changed or taken out of it since"
            return
        at = now
        place.generation, place.offset = at
        tail = self.shared.tail(name, self._ledger)
        try:
            tail.look()
            generation = tail.of_number(at.generation) or tail.reopen(at.generation)
            if all(record.number != at.generation for record in tail.records()):
                raise BridgeError(f"has no generation {at.generation}", where=name)
            if generation is None or generation.content is None:
                place.said = f"it stood in generation {at.generation} of {name}, which is gone"
                return
            place.offset, place.line, place.raw = _line_in(generation, at.offset, by_line=False)
            place.file = self._shown(generation.path)
            if self.shared.mapping.kind.chunked:
                place.offset = at.offset
                place.said = f"it is the chunk from byte {place.offset} of {place.file}"
            else:
                place.said = f"it is line {place.line} of {place.file}"
        except SourceError as error:
            place.said = str(error)


def _in_quarantine(quarantined: QuarantinedMessage) -> str:
    return f"it is in quarantine: {quarantined.reason} (`bridge quarantine show {quarantined.number}`)"


def _held(tail: Tail, identity: tuple[int, int]) -> Generation | None:
    """Finds the generation of a source whose file has this identity, for a message: an open one, or one found again."""
    tail.look()
    generation = tail.of_identity(identity)
    for record in tail.records()[::-1]:
        if generation is not None:
            break
        found = tail.of_number(record.number) or tail.reopen(record.number)
        generation = found if found is not None and found.identity == identity else None
    return generation


def _line_in(generation: Generation, number: int, *, by_line: bool) -> tuple[int, int, bytes]:
    """Finds a message's line in a file by number or by a byte within: its first byte, number, and bytes with newline.

    Raises BridgeError when the file has no such line.
    """
    if by_line and number < 1:
        raise BridgeError("lines are counted from 1", where=str(generation.path))
    size, at, line, begin = generation.size(), 0, 1, 0
    if not by_line and number >= size:
        raise BridgeError(f"has {size} bytes", where=str(generation.path))
    while at < size:
        data = generation.read(SEARCH_BLOCK, at)
        if not data:
            break
        newlines = data.count(b"\n") if by_line else data[: max(0, number - at)].count(b"\n")
        if (by_line and line + newlines < number) or (not by_line and at + len(data) <= number):
            line += newlines
            begin = at + data.rfind(b"\n") + 1 if b"\n" in data else begin
            at += len(data)
            continue
        place = 0
        while line < number if by_line else newlines:
            place = data.index(b"\n", place) + 1
            begin = at + place
            line += 1
            newlines -= 1
        raw = generation.read(SEARCH_BLOCK, begin)
        if not raw:
            break
        if not begin and raw.startswith(UTF8_MARK):
            begin, raw = len(UTF8_MARK), without_mark(raw)
        return begin, line, raw[: raw.find(b"\n") + 1] if b"\n" in raw else raw
    raise BridgeError(f"has {line - (begin >= size)} lines", where=str(generation.path))
