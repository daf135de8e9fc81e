"""Replay: gives a component once more the messages that it has read already, from a time on, up to where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from bridge.client.bookmark import Bookmark, BookmarkState, SourcePosition
from bridge.client.file_reader import FileReader
from bridge.client.message import Message, made
from bridge.core.errors import ConfigError
from bridge.core.model import Fingerprint, Position, format_id, paired
from bridge.files.generation_record import GenerationRecord
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.component_groups import group_of
from bridge.streams.connect import Connection
from bridge.streams.reader import entries


def milliseconds(since: datetime | str | float) -> int:
    """Converts the time from which to replay, a datetime, ISO 8601 text or seconds, to milliseconds since 1970.

    A time without a zone is UTC if it is text or a datetime. Raises ConfigError.
    """
    try:
        moment = datetime.fromisoformat(since) if isinstance(since, str) else since
    except ValueError:
        raise ConfigError(f"{since!r} is no time", hint='a datetime, seconds, or "2026-03-02T09:14:05Z"') from None
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return int(moment * 1000)


class _Scratch(Bookmark):
    """A scratch bookmark for a replay, which is never written to disk."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), "x", "x")

    def save(self) -> None:
        """Writes nothing: the scratch bookmark of a replay is not kept."""

    def note(self, name: str, number: int, at: Fingerprint) -> None:
        """Notes nothing: the scratch bookmark of a replay keeps no position."""


def from_files(
    shared: MappingContext, marks: BookmarkState, since_ms: int, clock: Callable[[], float]
) -> Iterator[Message]:
    """Replays from files the messages of a time and later that a component's bookmark says were read.

    Raises SourceError.
    """
    reader, scratch = None, _Scratch()
    try:
        reader = FileReader(shared, scratch, clock)
        while found := reader.take():
            for given in found:
                known = next(
                    generation
                    for generation in scratch.marks.places[given.name].generations
                    if generation.number == given.number
                )
                if given.time >= since_ms and _was_read(marks.places.get(given.name), known, given.begin):
                    yield given.message.again()
    finally:
        if reader is not None:
            reader.close()


def _was_read(place: SourcePosition | None, held: GenerationRecord, begin: int) -> bool:
    """Whether a component had already read a message that a replay meets in a file, by its bookmark.

    A replay counts the generations anew, so the file's device and inode tell which generation it is.
    """
    if place is None:
        return False
    for generation in place.generations:
        if (generation.device, generation.inode) == (held.device, held.inode):
            return place.has_read(Position(generation.number, begin))
    oldest = min((record.number for record in place.generations), default=0)
    return held.number < oldest


def from_stream(connection: Connection, stream: bytes, component: str, since_ms: int) -> Iterator[Message]:
    """Replays from the stream the entries of a time and later that the component's group has acknowledged.

    Raises RedisLost.
    """
    group = group_of(connection, stream, component)
    if group is None:
        return
    for entry in entries(connection, stream, b"%d-0" % max(0, since_ms), format_id(group.last)):
        if entry.id not in group.pending:
            yield made(paired(entry.fields), format_id(entry.id).decode(), redelivered=True)
