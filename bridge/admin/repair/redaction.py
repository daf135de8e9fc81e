"""Redaction: deletes entries from a stream on purpose, and names the lines that a person has to take out of files.

The bridge itself edits no log and no archive. The ledger notes a redaction before the deletion: from then on the line
counts as redacted, and is not sent again after a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.admin.locate_in_mapping import MessageFinder, MessagePlace
from bridge.continuity.archive_hand_edits import pieces_of
from bridge.continuity.archive_reader import ArchiveReader, entries_digest
from bridge.core.errors import BridgeError, ConfigError, SourceError
from bridge.core.failpoints import failpoint
from bridge.core.model import EntryId, Position, format_id, hex_digest, parse_id
from bridge.kinds.log.edit_records import deleted_of
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.acknowledgements import RedactedLine, redacted_of, save_redacted
from bridge.ledger.archive_index import ArchiveFile, ArchivePart, parts_of, save_pieces
from bridge.ledger.edits import sent_as
from bridge.ledger.journal import note
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import existing
from bridge.streams.redacted import write_deleted


@dataclass(frozen=True, slots=True)
class RedactionTarget:
    """Holds an entry that a redaction deletes: whether it is in the stream, its line, and its file in the archive."""

    entry: EntryId
    stands: bool
    place: MessagePlace
    name: str = ""
    """The log that holds the entry's line; empty: none does, or it is not known."""
    archived: str = ""
    """The archive's file that holds the entry; empty: none does."""
    parts: tuple[ArchivePart, ...] = ()
    """The parts of the archive that hold the entry."""

    def in_words(self) -> list[str]:
        """Describes the target of a redaction in lines of text: the entry to delete, and the files to edit by hand."""
        what = "would be deleted" if self.stands else "stands in the stream no more"
        said = [f"entry {format_id(self.entry).decode()}: {what}"]
        if self.place.line is not None:
            said.append(f"  edit by hand: line {self.place.line:,} of {self.place.file} (byte {self.place.offset:,})")
        elif self.place.said:
            said.append(f"  no line to edit: {self.place.said}")
        if self.archived:
            said.append(f"  and the archive: {self.archived} (unpack it, take the line out, pack it with gzip)")
        return said

    def to_json(self) -> dict[str, Any]:
        """Turns the target of a redaction into the object that `bridge redact --json` prints."""
        return {
            "entry": format_id(self.entry).decode(), "stands": self.stands, "file": self.place.file,
            "line": self.place.line, "offset": self.place.offset, "archived": self.archived or None,
        }  # fmt: skip


def plan(
    shared: MappingContext, ledger: Ledger, connection: Connection, entries: Sequence[str]
) -> list[RedactionTarget]:
    """Plans a redaction: finds where each of the entries, given by ID, stands in stream, files and archive.

    Raises ConfigError: an ID is not one, no such entry ever was, or the entry is not mirrored yet.
    """
    search = MessageFinder(shared, ledger, connection)
    done = {gone.entry: gone for gone in redacted_of(ledger, shared.mapping.stream.key)}
    ids = [_parsed(text) for text in entries]
    standing = existing(connection, shared.keys.stream, ids)
    memory, found = stream_memory(ledger, shared.mapping.stream.key), list[RedactionTarget]()
    for entry in ids:
        text, place = format_id(entry).decode(), search.of_entry(entry)
        if place is None and entry not in done:
            raise ConfigError("there is no such entry, and there was none", where=f"{shared.mapping.stream.key} {text}")
        was = done.get(entry)
        where = (
            f"; its line was byte {was.offset:,} of generation {was.generation} of {was.name}"
            if was and was.name
            else ""
        )
        known = f"it was redacted before{where}"
        place = place or MessagePlace(shared.mapping.name, shared.mapping.stream.key, known, entry=text)
        waits = place.born == "Redis" and shared.mapping.mirror is not None and entry in standing
        if waits and memory is not None and entry > memory.mirror_cursor:
            hint = "let `bridge run --dual` write its line first: else it counts as lost before it was mirrored"
            raise ConfigError("is not mirrored yet", where=text, hint=hint)
        archived, parts = _archived(shared, ledger, entry)
        found.append(RedactionTarget(entry, entry in standing, place, _log_of(shared, ledger, place), archived, parts))
    return found


def _parsed(text: str) -> EntryId:
    with suppress(ValueError):
        return parse_id(text.encode())
    raise ConfigError(
        "is no entry's ID", where=text, hint="`bridge tail` and `bridge locate` show them: 1771004967322-0"
    )


def _log_of(shared: MappingContext, ledger: Ledger, place: MessagePlace) -> str:
    """Finds the log that the file of a redacted message is a piece of; empty where the message is no line of a log."""
    if place.file is None or place.line is None or not shared.mapping.kind.lines:
        return ""
    shared.claim_all(ledger)
    path = str(shared.settings.root / place.file)
    mirror = shared.mapping.mirror.path if shared.mapping.mirror is not None else ""
    return shared.catalog.log_at(path) or (mirror if place.file.startswith(mirror) else place.file)


def _archived(shared: MappingContext, ledger: Ledger, entry: EntryId) -> tuple[str, tuple[ArchivePart, ...]]:
    """Finds the archive's file, and its parts, that hold a trimmed entry which is to be redacted; empty: none does."""
    archive = ArchiveReader(shared.mapping, shared.settings.state_dir, ledger)
    spans = [span for span in archive.every() if span.first <= entry <= span.last]
    parts = [part for span in spans for part in parts_of(ledger, shared.mapping.stream.key, span)]
    holding = tuple(part for part in parts if any(kept.id == entry for kept in part.listed))
    return str(Path(archive.folder) / holding[0].path) if holding else "", holding


def execute(
    shared: MappingContext, ledger: Ledger, connection: Connection, targets: Sequence[RedactionTarget], who: str,
    why: str, at: float,
) -> int:  # fmt: skip
    """Deletes the entries of a redaction from the stream, after noting them in ledger and journal; returns how many.

    May be repeated after a crash. Raises BridgeError: somebody else deleted some meanwhile; RedisLost, RedisRefused,
    LedgerError.
    """
    stream = shared.mapping.stream.key
    spared = list(_spared(shared, ledger, targets))
    with ledger.transaction():
        for target in targets:
            save_redacted(ledger, stream, _noted(shared, ledger, target), who, why, at)
            facts = {"entry": format_id(target.entry).decode(), "file": target.place.file, "line": target.place.line,
                     "reason": why}  # fmt: skip
            note(ledger, at, who, "redact", stream, facts)
        for part, pieces, stay in spared:
            save_pieces(ledger, stream, part, pieces, stay)
    kept = [gone for gone in redacted_of(ledger, stream) if gone.entry in {target.entry for target in targets}]
    write_deleted(connection, shared.keys, map(deleted_of, kept))
    failpoint("redact.delete.before")
    gone = connection.call("XDEL", shared.keys.stream, *(format_id(target.entry) for target in targets))
    failpoint("redact.delete.after")
    if gone < sum(target.stands for target in targets):
        raise BridgeError("some entries were deleted by somebody else meanwhile", where=stream)
    return int(gone)


def _spared(
    shared: MappingContext, ledger: Ledger, targets: Sequence[RedactionTarget]
) -> Iterator[tuple[ArchivePart, list[ArchiveFile], bytes]]:
    """Yields, for each part of the archive with redacted lines, the pieces between these lines, and a digest.

    The digest is of the entries that stay. By the pieces the part is recognized after a person has taken the redacted
    lines out.
    """
    archive = ArchiveReader(shared.mapping, shared.settings.state_dir, ledger)
    gone = {was.entry for was in redacted_of(ledger, shared.mapping.stream.key)} | {target.entry for target in targets}
    parts = {(part.path, part.at): part for target in targets for part in target.parts}
    for part in parts.values():
        with suppress(SourceError):  # whoever reads the archive reports its damage
            listed, lines = archive.lines_of(part)
            there = dict(zip((kept.id for kept in listed), lines, strict=True))
            pieces = pieces_of(part.listed, [there.get(kept.id, b"") for kept in part.listed], gone)
            yield part, pieces, entries_digest([entry for entry in archive.of_parts([part]) if entry.id not in gone])


def _noted(shared: MappingContext, ledger: Ledger, target: RedactionTarget) -> RedactedLine:
    """Makes the ledger's record of a redacted entry: where its line was sent from, and a digest, but not the line."""
    place, known = target.place, {gone.entry: gone for gone in redacted_of(ledger, shared.mapping.stream.key)}
    if not target.name or place.generation is None or place.offset is None or not place.raw:
        return known.get(target.entry, RedactedLine(target.entry))
    was = sent_as(ledger, shared.mapping.stream.key, target.name, Position(place.generation, place.offset))
    line = place.raw.removesuffix(b"\n")
    return RedactedLine(target.entry, target.name, *was, len(line) + 1, hex_digest(line))
