"""Finds where a component's position is stored: bookmark, consumer group, `bridge:{S}:positions`, or given by hand."""

from __future__ import annotations

from typing import Any

from bridge.client.bookmark import Bookmark, SourcePosition
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ConfigError
from bridge.core.model import ZERO_ID, EntryId, format_id, parse_id
from bridge.cutover.gate import SwitchStep
from bridge.cutover.position import FilePosition, PositionTranslator, StreamPosition, fingerprint
from bridge.files.generation_record import GenerationRecord
from bridge.files.lines import begins_line
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import ComponentGroup, ComponentWorker, group_of, to_id
from bridge.streams.components import FILE, REDIS, ComponentModes
from bridge.streams.connect import Connection


class PositionStore:
    """Finds how far the components of one mapping have read, wherever a position is stored.

    `given` is a position said by hand, which goes before all others.
    """

    def __init__(
        self, shared: MappingContext, settings: Settings, ledger: Ledger, connection: Connection, given: str | None
    ) -> None:
        self.given = given
        self._shared = shared
        self._settings = settings
        self._ledger = ledger
        self._connection = connection
        self._keys = shared.keys
        self._name = shared.mapping.name

    def reads(self, step: SwitchStep, modes: ComponentModes, announced: dict[str, dict[str, Any]]) -> bool:
        """Whether a component reads this mapping at all, as far as any stored position tells."""
        marks = self.bookmark(step).load()
        group = group_of(self._connection, self._keys.stream, step.component) if modes.reads == REDIS else None
        said = [row for name, row in announced.items() if name.startswith(f"{step.component}/")]
        following = any(row.get("following") for row in said)
        return bool(marks.places or group or following or step.component in announced or self.given)

    def never_read(self, step: SwitchStep) -> bool:
        """Whether a component's bookmark is stored here, and says that it has never read: it only writes."""
        bookmark = self.bookmark(step)
        marks = bookmark.load()
        return bookmark.path.exists() and not (marks.begun or marks.places or marks.following)

    def bookmark(self, step: SwitchStep) -> Bookmark:
        """Returns the bookmark in which a component stores its position in files."""
        return Bookmark(self._settings.home, step.component, self._name)

    def in_files(
        self,
        step: SwitchStep,
        modes: ComponentModes,
        announced: dict[str, dict[str, Any]],
        alive: list[ComponentWorker],
    ) -> FilePosition:
        """Finds a component's stored position in files, as told by hand, by its worker, or by its bookmark.

        A worker that reads tells it while it lives, and the bookmark when none does; a program without our client names
        no epoch. Raises BridgeError: the position is not known.
        """
        if self.given is not None:
            return self._by_hand(self.given)
        said = announced.get(step.component, {})
        told = isinstance(said.get("files"), dict) and said.get("epoch", modes.epoch) == modes.epoch
        reads = any(worker.following and worker.reads == FILE for worker in alive)
        marks = self.bookmark(step).load()
        if told and (reads or "epoch" not in said):
            return self.told(said)
        if marks.epoch == modes.epoch and marks.reads == FILE and (marks.places or marks.following):
            aside = frozenset(map(to_id, marks.aside))
            unclean = frozenset(marks.places if marks.following else marks.unclean)
            return FilePosition(marks.places, to_id(marks.entry), unclean=unclean, aside=aside)
        if told:
            return self.told(said)
        raise BridgeError("it has not told where it is")

    def told(self, said: dict[str, Any]) -> FilePosition:
        """Parses a component's stored position in files, as `bridge:{S}:positions` has it.

        It holds a place for each file, or the offset in it alone.
        """
        places = {}
        for name, place in said["files"].items():
            try:
                places[name] = (
                    self._at_offset(name, place) if isinstance(place, int) else SourcePosition.from_json(place)
                )
            except ValueError as error:
                raise BridgeError(f"what it says of {name} is no place: {error}") from None
        lists = {name: row if isinstance(row := said.get(name), list) else [] for name in ("aside", "unclean")}
        aside, unclean = frozenset(map(to_id, lists["aside"])), frozenset(map(str, lists["unclean"]))
        return FilePosition(places, to_id(said.get("entry")), unclean=unclean, aside=aside)

    def _by_hand(self, given: str) -> FilePosition:
        """Parses a position that `--from` gives by hand: an offset, or `file:offset` where there are several files."""
        places = {}
        for part in given.split(","):
            name, colon, offset = part.rpartition(":")
            names = self._shared.source_names()
            if not colon and len(names) != 1:
                raise BridgeError(f"--from {given}: there are {len(names)} files, say FILE:OFFSET,FILE:OFFSET …")
            if not offset.isdigit():
                raise BridgeError(f"--from {given}: {offset!r} is no offset in bytes")
            places[name or names[0]] = self._at_offset(name or names[0], int(offset))
        return FilePosition(places)

    def _at_offset(self, name: str, offset: int) -> SourcePosition:
        """Makes a component's place at an offset of the file that is at a path now, for a position by hand."""
        tail = self._shared.tail(name, self._ledger)
        tail.look()
        generation = tail.current()
        if generation is None or offset > generation.size():
            raise BridgeError(f"has no {offset} bytes" if generation else "is not there", where=name)
        if not begins_line(generation.read, offset):
            raise BridgeError(f"byte {offset} is in the middle of a line", where=name)
        return SourcePosition(
            (GenerationRecord(generation.number, *generation.identity, fingerprint(generation, offset)),)
        )

    def before(self, step: SwitchStep) -> str:
        """Describes in words the position that a component's group stores in the stream; empty without a group."""
        group = group_of(self._connection, self._keys.stream, step.component)
        return (
            "" if group is None else stream_position_in_words(StreamPosition(group.last, tuple(sorted(group.pending))))
        )

    def to_stream(self, position: FilePosition, *, at_rest: bool = True) -> StreamPosition:
        """Translates a component's stored position in files to one in the stream.

        The component pauses or does not run. Raises BridgeError.
        """
        return PositionTranslator(self._shared, self._ledger, self._connection).to_stream(position, at_rest=at_rest)

    def to_files(self, step: SwitchStep) -> FilePosition:
        """Translates the position that a component's consumer group stores to one in files. Raises BridgeError."""
        return PositionTranslator(self._shared, self._ledger, self._connection).to_files(self.group(step))

    def group(self, step: SwitchStep) -> ComponentGroup:
        """Returns a component's consumer group, which stores its position, or one at the ID that was given by hand.

        Raises BridgeError.
        """
        if self.given is not None:
            return ComponentGroup(entry_id(self.given), {})
        group = group_of(self._connection, self._keys.stream, step.component)
        if group is None:
            raise BridgeError("it has no consumer group in the stream")
        return group


def entry_id(given: str) -> EntryId:
    """Parses the entry ID that `bridge rollback --from` gives as a component's place in the stream.

    Raises ConfigError.
    """
    try:
        return parse_id(given.encode())
    except ValueError:
        hint = "on the way back it is the ID of the last entry that was read: --from 1771004967322-0"
        raise ConfigError(f"--from {given} is no entry ID", hint=hint) from None


def file_position_in_words(position: FilePosition) -> str:
    """Describes in words a component's stored position in files."""
    said = []
    for name, place in sorted(position.places.items()):
        at = place.position
        behind = sum(1 for _ in place.skip)
        more = f" ({behind} stretch{'es' * (behind != 1)} behind it read)" if behind else ""
        said.append(f"{name} up to byte {at.offset if at else 0}{more}")
    return ", ".join(said) or "nothing read yet"


def stream_position_in_words(position: StreamPosition) -> str:
    """Describes in words a component's stored position in the stream."""
    if position.last == ZERO_ID:
        return "the stream's beginning"
    more = f", without {len(position.unread)} before it" if position.unread else ""
    return f"entry {format_id(position.last).decode()}{more}"
