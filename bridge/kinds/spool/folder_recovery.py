"""Recovers what a lost ledger knew of a spool folder, by comparing the folder's files with the stream's entries.

A message with an identity is recognised by it, any other by all its content. A message whose file is gone stays known,
so that it is not carried again when its file comes back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge.continuity.lost_entries import ReappearedLine
from bridge.core.codecs.artifact import announcement
from bridge.core.codecs.document import DocumentMessage
from bridge.core.errors import SourceError
from bridge.core.model import FIELDS, ZERO_ID, EntryId, Origin, Row, digest, paired, parse_origin
from bridge.files.folder import FileFacts
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.spool.identity import keys_of, read_document
from bridge.kinds.spool.target import number_of
from bridge.ledger import spool_messages
from bridge.ledger.ranges import Range, add_range, all_ranges, range_digest
from bridge.ledger.sources import stream_memory
from bridge.ledger.spool_recovery import (
    NOBODY,
    KnownMessage,
    forget_all,
    is_among,
    kept_due,
    learn,
    messages_at,
    messages_known,
    messages_mirrored,
    save_unread,
    unread,
)
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import Entry, entries


@dataclass(slots=True)
class FolderRecovery:
    """The result of a spool folder's recovery, for the ledger: file-born messages by origin, mirrored ones with ranges.

    `unmatched` counts the Redis-born entries after the mirror's cursor for which no file was found.
    """

    born: list[tuple[KnownMessage, Origin, bytes]] = field(default_factory=list)
    mirrored: list[tuple[KnownMessage, Range]] = field(default_factory=list)
    unmatched: int = 0
    unread: list[bytes] = field(default_factory=list)
    """Names of spool files that could not be read for the recovery: their messages may stand in the stream."""


def read_both(
    connection: Connection, shared: MappingContext, ledger: Ledger | None, number: int, cursor: EntryId
) -> FolderRecovery:  # fmt: skip
    """Compares the files of a spool folder with the entries of its stream, to recover what a lost ledger knew.

    Entries up to `cursor` were mirrored, whether their files are still there or not. Raises SourceError, RedisLost,
    RedisRefused, LedgerError.
    """
    stream = shared.mapping.stream.key
    by_key, by_row, unreadable = _files(shared, ledger)
    found, put = FolderRecovery(unread=unreadable), _mirrored_by_entry(ledger, stream) if ledger is not None else {}
    for entry in entries(connection, shared.keys.stream):
        values = paired(entry.fields)
        if any(name not in values for name in FIELDS):
            continue
        row = tuple(values[name] for name in FIELDS)
        raw = entry.origin()
        origin = parse_origin(raw) if raw is not None else None
        known = put.get(entry.id, []) if raw is None else []
        if origin is not None and ledger is not None:
            known = messages_at(ledger, stream, origin.generation, origin.offset, digest(*row))
        held = _known(known, by_key, by_row) if known else _held(shared, row, by_key, by_row)
        if origin is not None and origin.source == number and held is not None:
            found.born.append((held, origin, digest(*row)))
        elif raw is None:
            _mirrored(shared, found, entry, held, cursor)
    return found


def read_announced(connection: Connection, shared: MappingContext, number: int) -> FolderRecovery:
    """Recovers from the stream which files of a folder of artifacts were announced.

    Each file is hashed again when it is met. Raises RedisLost, RedisRefused.
    """
    found = FolderRecovery()
    fields = shared.mapping.codec("x").fields
    for entry in entries(connection, shared.keys.stream):
        values = paired(entry.fields)
        raw = entry.origin()
        origin = parse_origin(raw) if raw is not None else None
        if origin is None or origin.source != number or any(name not in values for name in fields):
            continue
        path, sha256 = shared.settings.paths.back(values[b"path"]), values[b"sha256"]
        name = shared.folder.below(os.fsdecode(path)) if shared.folder is not None else None
        key = announcement(name if name is not None else path, values[b"timestamp"], sha256)
        row = tuple(values[name] for name in fields)
        found.born.append((KnownMessage(key, sha256, name or b""), origin, digest(*row)))
    return found


def _files(
    shared: MappingContext, ledger: Ledger | None
) -> tuple[dict[bytes, KnownMessage], dict[bytes, list[KnownMessage]], list[bytes]]:
    """Reads a spool folder's messages for its recovery: by key, by digest of row, and the names of unreadable files.

    A file that is as the ledger knows it is not read again. A due message whose bytes the ledger keeps counts even if
    its file is gone.
    """
    mapping, folder, stream = shared.mapping, shared.folder, shared.mapping.stream.key
    by_key: dict[bytes, KnownMessage] = {}
    by_row: dict[bytes, list[KnownMessage]] = {}
    unreadable: list[bytes] = []

    def add(held: KnownMessage) -> None:
        by_key[held.key] = held
        by_row.setdefault(held.digest, []).append(held)

    kept: dict[bytes, FileFacts] = {}
    for waiting in kept_due(ledger, stream) if ledger is not None else ():
        for due in waiting:
            row = mapping.document(os.fsdecode(due.name or b"x"), due.facts.written).read(due.raw or b"").row
            if isinstance(row, tuple):
                kept[due.name] = due.facts
                add(KnownMessage(due.key, due.alike, due.name, due.facts, digest(*row)))
    for some in folder.scan() if folder is not None else ():
        known = messages_known(ledger, stream, [file.name for file in some]) if ledger is not None else {}
        for file in some:
            if kept.get(file.name) == file.facts:
                continue
            before = known.get(file.name)
            if before is not None and before.digest and before.facts == file.facts:
                add(before)
                continue
            try:
                taken = folder.read(file.name, mapping.format.max_line_bytes) if folder is not None else None
            except SourceError:
                unreadable.append(file.name)
                continue
            if taken is None:
                continue
            message = mapping.document(os.fsdecode(file.name), taken.facts.written).read(taken.raw)
            if isinstance(message.row, str) or not taken.raw:
                continue
            add(KnownMessage(*keys_of(message, taken.raw, taken.facts), file.name, taken.facts, digest(*message.row)))
    unreadable += [name + b"/" for name in folder.unlisted] if folder is not None else []
    return by_key, by_row, unreadable


def _known(
    known: list[KnownMessage], by_key: dict[bytes, KnownMessage], by_row: dict[bytes, list[KnownMessage]]
) -> KnownMessage:
    """Returns the spool message that the ledger knows for an entry, with its file if the folder still has that."""
    held = next((by_key[message.key] for message in known if message.key in by_key), known[0])
    alike = by_row.get(held.digest, [])
    if held in alike:
        alike.remove(held)
    return held


def _held(
    shared: MappingContext, row: Row, by_key: dict[bytes, KnownMessage], by_row: dict[bytes, list[KnownMessage]]
) -> KnownMessage | None:
    """Finds the spool file that holds an entry's message; a file without an identity is used for one entry only.

    A message with an identity is returned even where no file holds it. None: no file has this content.
    """
    message = (
        read_document(shared.mapping, b"x", row[3]) if shared.mapping.message.data is None else DocumentMessage("")
    )
    if message.identity is not None:
        key, _ = keys_of(message, row[3], NOBODY)
        return by_key.get(key) or KnownMessage(key, b"")
    alike = by_row.get(digest(*row))
    return alike.pop(0) if alike else None


def _mirrored(
    shared: MappingContext, found: FolderRecovery, entry: Entry, held: KnownMessage | None, cursor: EntryId
) -> None:
    made = shared.line_of(entry.fields)
    if made is None:
        return
    if held is None or not (held.name or entry.id <= cursor):
        found.unmatched += entry.id > cursor
        return
    name = os.fsdecode(held.name)
    name = name if name and name.isprintable() else made[0]  # a range has a printable name; the file's own is in `held`
    written = [(entry.id, len(made[1]))]
    span = Range(name, number_of(entry.id, made[1]), 0, len(made[1]), range_digest(made[1]), written)
    found.mirrored.append((held, span))


def write(ledger: Ledger, stream: str, found: FolderRecovery) -> None:
    """Replaces, in a transaction, all that the ledger knows of a spool folder by what the recovery found."""
    forget_all(ledger, stream)
    learn_all(ledger, stream, found)


def read_back(
    connection: Connection, shared: MappingContext, ledger: Ledger, number: int, back: Sequence[ReappearedLine]
) -> FolderRecovery:  # fmt: skip
    """Recovers what a stream that lost entries now holds of a spool folder: perhaps a past that the ledger forgot.

    `back` are mirrored lines whose entries the stream had lost and holds again. Raises SourceError, RedisLost,
    RedisRefused, LedgerError.
    """
    if shared.mapping.kind.announced:
        return read_announced(connection, shared, number)
    stream, before = shared.mapping.stream.key, stream_memory(ledger, shared.mapping.stream.key)
    cursor = before.mirror_cursor if before is not None else ZERO_ID
    found = read_both(connection, shared, ledger, number, ZERO_ID)
    lines, born = {line.entry: (line, content) for line, content in back}, {held.key for held, _, _ in found.born}
    doubtful, ranges = unread(ledger, stream), _entries(ledger, stream)

    def mirrored(held: KnownMessage, entry: EntryId) -> bool:
        """Whether the mirror made a spool file from this entry; if not, the file is another one of the same content."""
        return (
            not held.alike or entry in lines or entry in ranges or (is_among(held.name, doubtful) and entry <= cursor)
        )

    again = [(held, span) for held, span in found.mirrored if held.key not in born]
    found.mirrored = [(held, span) for held, span in again if mirrored(held, span.entries[0][0])]
    with_file = {span.entries[0][0] for _, span in found.mirrored}
    for entry, (line, content) in lines.items():
        if entry not in with_file:  # a program has taken the file since
            message = read_document(shared.mapping, os.fsencode(line.name), content)
            key, alike = keys_of(message, content, NOBODY)
            if key not in born:
                digest = range_digest(content)
                span = Range(line.name, line.generation, 0, line.length, digest, [(entry, line.length)])
                found.mirrored.append((KnownMessage(key, alike), span))
    return found


def learn_all(ledger: Ledger, stream: str, found: FolderRecovery) -> int:
    """Notes in the ledger, in a transaction, the messages that a spool folder's recovery found in the stream.

    Returns how many of them the ledger had not known.
    """
    last, fresh = {held.name: held.key for held, _, _ in found.born}, 0
    for held, origin, sent in found.born:
        name = held.name if last[held.name] == held.key else b""  # announced earlier; the file was replaced since
        place = origin.generation, origin.offset
        fresh += learn(ledger, stream, held.key, held.alike, *place, sent, held.facts, name)
    ranges = _entries(ledger, stream)
    for held, span in found.mirrored:
        known = ranges.get(span.entries[0][0])
        if known is not None and (not held.name or spool_messages.carried(ledger, stream, held.name) is not None):
            continue
        if known is None:
            add_range(ledger, stream, span)
        spool_messages.mirrored(
            ledger, stream, held.key, held.alike, held.name, held.facts,
            known or spool_messages.mirrored_as(span.name, span.generation),
        )  # fmt: skip
        spool_messages.drop_due(ledger, stream, held.key)
        fresh += known is None
    save_unread(ledger, stream, found.unread)
    return fresh


def _mirrored_by_entry(ledger: Ledger, stream: str) -> dict[EntryId, list[KnownMessage]]:
    """Reads from the ledger the mirrored spool messages that have a file, by their entries, for a recovery."""
    by_mark = messages_mirrored(ledger, stream)
    return {entry: by_mark[mark] for entry, mark in _entries(ledger, stream).items() if mark in by_mark}


def _entries(ledger: Ledger, stream: str) -> dict[EntryId, str]:
    """Makes from the ledger's ranges the marks of all mirrored spool messages, by their entries, for a recovery."""
    return {
        entry: spool_messages.mirrored_as(span.name, span.generation)
        for span in all_ranges(ledger, stream) for entry, _ in span.entries
    }  # fmt: skip
