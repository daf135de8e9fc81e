"""Rebuilds a lost ledger by aligning the stream's entries with the lines in the files.

File-born entries claim lines by their origin. The unclaimed lines, in file order, are compared with the lines that the
Redis-born entries would make, in stream order: where both agree, the mirror wrote the line. Positions decide wherever
there are any; content only where the ledger, which knew the positions, is gone.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from bridge.continuity.ownership import announced
from bridge.core.errors import NotOwner, NotYet
from bridge.core.model import NO_BYTES, Checkpoint, EntryId, Fingerprint, Position, format_id, parse_origin
from bridge.engine.rebuild_plan import RebuildPlan
from bridge.engine.unclaimed_lines import UnclaimedLine, no_messages, pieces_of, unclaimed
from bridge.files.folder import MessageFolder
from bridge.files.generation_record import GenerationRecord
from bridge.kinds.log.carried_before import Places
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.spool import folder_recovery
from bridge.ledger import dual_writes
from bridge.ledger.acknowledgements import RedactedLine, redacted_of, save_redacted
from bridge.ledger.edits import CarriedSpan, save_carried_spans
from bridge.ledger.process_nonces import adopt_nonces
from bridge.ledger.quarantine import add_quarantined
from bridge.ledger.ranges import Range, add_range, range_digest
from bridge.ledger.sources import (
    SourceMemory,
    agree_with_mark,
    save_generation,
    save_mirror_cursor,
    save_source,
    save_stream,
    save_timeline,
)
from bridge.ledger.states import save_value, set_owner
from bridge.ledger.store import Ledger
from bridge.streams import latest_value
from bridge.streams.components import BOTH
from bridge.streams.connect import Connection
from bridge.streams.edits import LogEditRecord, edits_of
from bridge.streams.heartbeat import read_heartbeat
from bridge.streams.keys import Keys
from bridge.streams.layout import (
    OWN_STREAMS,
    instance_in,
    is_owner,
    others_stream,
    ownership,
    process_in,
    rename_instance,
    say_alive,
)
from bridge.streams.lease import unchanged, watch
from bridge.streams.reader import entries, stream_info
from bridge.streams.redacted import read_deleted
from bridge.streams.resp import pack
from bridge.streams.stream_metadata import StreamMetadata, read_metadata
from bridge.streams.trim import TrimmedSource, read_trimmed

TABLES = (
    "streams", "sources", "generations", "aligned", "intents", "ranges", "state_values", "witness", "seen", "released",
)  # fmt: skip
"""The ledger's tables that a rebuild clears of a stream: they are made anew, or tell of a past that is gone."""


def plan(
    connection: Connection, shared: MappingContext, ledger: Ledger | None, *, take_over: bool, anew: bool = False
) -> RebuildPlan | None:
    """Plans to rebuild a ledger from stream and files; None: nothing to do, this ledger or nobody owns the stream.

    `anew`: plans also where this ledger owns the stream, as it may be an older one. Raises NotOwner when the owner is
    alive, or is another bridge and `take_over` was not said.
    """
    watch(connection, shared.keys)
    books = read_metadata(connection, shared.keys)
    owner, ledger_uuid = books.meta.get(b"owner"), ledger.uuid if ledger is not None else b""
    if (is_owner(owner, ledger_uuid) and not anew) or (owner is None and not (books.checkpoint or books.mirror)):
        return None
    instance = instance_in(books.meta)
    if not is_owner(owner, ledger_uuid):
        whose = others_stream(books.meta, ledger_uuid, shared.settings.instance)
        if whose and not take_over:
            said = f"{whose}: nothing in it is this one's to repair"
            raise NotOwner(said, where=shared.mapping.stream.key, hint=OWN_STREAMS)
        _check_dead(connection, shared, whose, process_in(books.meta), owner)
    info = stream_info(connection, shared.keys.stream)
    made = RebuildPlan(shared.mapping.stream.key, (owner or b"nobody").decode(errors="replace"), instance, info)
    made.redacted = read_deleted(connection, shared.keys)
    modes = replace(shared.components, instance=instance or shared.components.instance).all(connection)
    made.writes = {name: mode.writes for name, mode in modes.items() if mode.epoch}
    made.component_that_owns(shared)
    if shared.folder is not None or shared.values is not None:
        return _folder(connection, shared, ledger, books, made)
    claimed: dict[tuple[int, int], set[int]] = {}
    born: list[tuple[EntryId, str, bytes]] = []
    trimmed, edits = read_trimmed(connection, shared.keys), edits_of(connection, shared.keys)
    for entry in entries(connection, shared.keys.stream, format_id(trimmed.floor)):
        raw = entry.origin()
        origin = parse_origin(raw) if raw is not None else None
        if origin is not None:
            claimed.setdefault((origin.source, origin.generation), set()).add(origin.offset)
        else:
            line = shared.line_of(entry.fields)
            if line is not None:
                born.append((entry.id, *line))
    lines: list[UnclaimedLine] = []
    for raw_name, number in books.sources.items():
        name = os.fsdecode(raw_name)
        gone = trimmed.origins.get(int(number), TrimmedSource(None))
        found = _source(shared, books, made, name, int(number), claimed, edits.get(int(number), {}))
        lines += [
            unclaimed_line
            for unclaimed_line in found
            if not gone.has(Position(unclaimed_line.generation, unclaimed_line.offset))
        ]
    _align(made, lines, born, books, _late(connection, shared.keys.late, [entry_id for entry_id, _, _ in born]))
    return made


def _folder(
    connection: Connection, shared: MappingContext, ledger: Ledger | None, books: StreamMetadata, made: RebuildPlan
) -> RebuildPlan:
    """Fills the plan of a ledger's rebuild for a mapping whose files each hold a message, artifact or latest value."""
    made.cursor = announced(books)
    for raw, number in books.sources.items():
        name = os.fsdecode(raw)
        stored = books.checkpoint.get(raw)
        made.sources[name], made.generations[name] = SourceMemory(int(number), stored, live=True), []
        if name != shared.mapping.source.path:
            continue
        if shared.values is not None:
            made.values = _values(connection, shared.keys, shared.values)
        elif shared.mapping.kind.announced:
            made.folder = folder_recovery.read_announced(connection, shared, int(number))
        elif shared.folder is not None:
            made.folder = folder_recovery.read_both(connection, shared, ledger, int(number), made.cursor)
            made.ranges, made.unmatched = (
                [written_range for _, written_range in made.folder.mirrored],
                made.folder.unmatched,
            )
    return made


def _values(connection: Connection, own: Keys, folder: MessageFolder) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    for some in folder.scan():
        for found_file in some:
            taken, there = (
                folder.read(found_file.name, latest_value.LIMIT),
                latest_value.read(connection, own, found_file.name),
            )
            if taken is not None and there is not None and there[0].data == taken.raw:
                found.append((found_file.name, there[0].sha256, there[0].timestamp))
    return found


def execute(connection: Connection, shared: MappingContext, ledger: Ledger, made: RebuildPlan) -> None:
    """Writes a rebuilt ledger from its plan, then makes that ledger the stream's owner in Redis.

    Raises NotYet: the stream was replaced meanwhile.
    """
    stream, asked = made.stream, connection.call("HMGET", shared.keys.meta, "nonce", "timeline")
    last, timeline = ((found or b"").decode(errors="replace") for found in asked)
    with ledger.transaction():
        for table in TABLES:
            ledger.write(f"DELETE FROM {table} WHERE stream = ?", (stream,))
        save_stream(ledger, stream, made.info.last_id, made.info.added, made.info.first_id)
        save_mirror_cursor(ledger, stream, made.cursor)
        save_timeline(ledger, stream, timeline)
        agree_with_mark(ledger, stream)
        for name, memory in made.sources.items():
            save_source(ledger, stream, name, memory)
            for known in made.generations[name]:
                save_generation(ledger, stream, name, known)
            for generation, edit in made.edits.get(name, {}).items():
                save_carried_spans(
                    ledger, stream, name, generation, [CarriedSpan(*stretch) for stretch in edit.stretches]
                )
        for written_range in made.ranges if made.folder is None else ():
            add_range(ledger, stream, written_range)
        add_quarantined(ledger, stream, made.aside, time.time())
        for value in made.values:
            save_value(ledger, stream, *value)
        if made.folder is not None:
            folder_recovery.write(ledger, stream, made.folder)
        noted = {was.entry for was in redacted_of(ledger, stream)}
        for deleted in made.redacted:
            if deleted.entry not in noted:
                save_redacted(ledger, stream, RedactedLine(*deleted), "", "as Redis had it", time.time())
        adopt_nonces(ledger, stream, last)
        _restore_switches(ledger, shared, made)
        if not unchanged(connection, shared.keys):
            raise NotYet("the stream was replaced as it was read", where=stream, hint="run it again")
    instance = shared.settings.instance
    rename_instance(connection, shared.keys, made.instance, instance)
    say_alive(connection, shared.keys, ledger.uuid, instance)
    connection.calls(
        pack("HSET", shared.keys.meta, *ownership(shared.keys, ledger.uuid, instance)),
        pack("HDEL", shared.keys.meta, "nonce"),
    )


def _restore_switches(ledger: Ledger, shared: MappingContext, made: RebuildPlan) -> None:
    """Restores in a rebuilt ledger the switches of components, as far as Redis still knows them."""
    owner = made.component_that_owns(shared)
    ledger.write("DELETE FROM state_owners WHERE stream = ?", (made.stream,))
    if owner:
        set_owner(ledger, made.stream, owner, made.writes[owner], "")
    ledger.write("DELETE FROM twofold_files WHERE stretch IN (SELECT id FROM twofold WHERE stream = ?)", (made.stream,))
    ledger.write("DELETE FROM twofold WHERE stream = ?", (made.stream,))
    for name in sorted(name for name, side in made.writes.items() if side == BOTH):
        roles = shared.settings.components.get(name, frozenset())
        dual_writes.restore(ledger, made.stream, name, roles, shared.source_names(made.sources))


def _check_dead(connection: Connection, shared: MappingContext, whose: str, process: str, owner: bytes | None) -> None:
    beat = read_heartbeat(shared.settings, connection, process) if process else None
    where = shared.mapping.stream.key
    if beat is not None and owner is not None and is_owner(owner, str(beat.get("ledger", "")).encode()):
        said = f"{whose}, which is alive" if whose else "its bridge is alive"
        raise NotOwner(said, where=where, hint="stop it; its heartbeat is gone ten seconds later")


def _source(
    shared: MappingContext, books: StreamMetadata, made: RebuildPlan, name: str, number: int,
    claimed: dict[tuple[int, int], set[int]], edits: dict[int, LogEditRecord],
) -> list[UnclaimedLine]:  # fmt: skip
    """Matches a source's files with generations that Redis knows, for a rebuild, and reads their unclaimed lines."""
    stored = books.checkpoint.get(os.fsencode(name))
    made.sources[name] = SourceMemory(number, stored, live=True)
    made.generations[name] = []
    wanted: dict[int, GenerationRecord] = {}
    for key, raw in books.generations.items():
        source, _, which = key.partition(b".")
        if int(source) == number:
            wanted[int(which)] = GenerationRecord(int(which), 0, 0, Fingerprint.from_json(raw), closed=True)
    if stored:
        checkpoint = Checkpoint.from_json(stored)
        wanted[checkpoint.generation] = GenerationRecord(checkpoint.generation, 0, 0, checkpoint.at)
    made.edits[name] = edits
    for generation in sorted(edits, reverse=True):
        if generation not in wanted:
            del edits[generation]  # nothing of the edited generation was carried: forward finds the edit anew
            continue
        before = edits[generation].rewrites
        wanted[generation] = replace(wanted[generation], rewrites=before)
        wanted.setdefault(before, GenerationRecord(before, 0, 0, NO_BYTES, closed=True))
    replaced = {edit.rewrites for edit in edits.values()}
    files, others, current = pieces_of(shared, name)
    lines: list[UnclaimedLine] = []
    taken: set[tuple[int, int]] = set()
    for generation in sorted(wanted):
        known = wanted[generation]
        order = files if known.closed else [*([current] if current else []), *files[::-1]]
        order = [*order, *(file for file in others if known.closed and file.size() == known.at.offset)]
        free = [file for file in order if file.identity not in taken] if known.at.head_len else []
        piece = next((file for file in free if file.place(known.at)), None)
        if piece is None:
            made.missing += [f"{name} generation {generation}"] if generation not in replaced else []
            made.generations[name].append(known)
            continue
        taken.add(piece.identity)
        crc = -1 if known.closed else piece.sum_of(0, known.at.offset)
        here = GenerationRecord(
            generation, *piece.identity, known.at, known.closed, born=piece.born, rewrites=known.rewrites, crc=crc
        )
        made.generations[name].append(here)
        codec = shared.mapping.codec(name)
        passed = edits[generation].stretches if generation in edits else []
        places = Places(generation, ((of, at, end - start, start) for start, end, of, at, _ in passed))
        mine = {places.here(which, at) for (n, which), some in claimed.items() if n == number for at in some}
        fresh = unclaimed(piece, name, generation, mine, codec)
        carried = [line for line in fresh if line.offset < known.at.offset]
        made.aside += no_messages(carried, codec, shared.mapping.format.max_line_bytes)
        lines += fresh
    if current is not None and current.identity not in taken and current.size():
        newest = max(wanted, default=0)
        found = newest in wanted and f"{name} generation {newest}" not in made.missing
        # Or nothing of the source was ever carried: all that was added to the stream stands there, and none is from it.
        found = found or (not wanted and made.info.added == made.info.length and all(n != number for n, _ in claimed))
        if not (found and _take_newer(shared, made, name, current.identity, lines)):
            made.strangers.append(name)
    for piece in [*files, *others, *([current] if current else [])]:
        piece.close()
    return lines


def _take_newer(
    shared: MappingContext, made: RebuildPlan, name: str, current: tuple[int, int], lines: list[UnclaimedLine]
) -> bool:
    """Adds to a rebuilt ledger's plan the generations after the last one that Redis knows, and their lines.

    The log was rotated since, and of these generations only what the mirror wrote is in the stream. False: the file at
    the source's path is none of these generations, and nothing is added.
    """
    known = made.generations[name]
    tail, last = shared.new_tail(name, known), known[-1].number if known else 0
    try:
        tail.look()
        newer = [generation for generation in tail.pending() if generation.number > last]
        if not any(generation.identity == current for generation in newer):
            return False
        for generation in newer:
            lines += unclaimed(generation, name, generation.number, set(), shared.mapping.codec(name))
            known.append(generation.known(closed=False))
    finally:
        tail.close()
    return True


def _late(connection: Connection, key: bytes, ids: list[EntryId]) -> set[EntryId]:
    """Asks Redis, to rebuild a ledger, which entries' lines a retry from quarantine wrote out of order into a file.

    `key` is the Redis hash `bridge:{S}:late`, which marks such entries.
    """
    late: set[EntryId] = set()
    for at in range(0, len(ids), 500):
        part = ids[at : at + 500]
        marks = connection.call("HMGET", key, *map(format_id, part))
        late.update(entry_id for entry_id, mark in zip(part, marks, strict=True) if mark is not None)
    return late


def _align(
    made: RebuildPlan,
    lines: list[UnclaimedLine],
    born: list[tuple[EntryId, str, bytes]],
    books: StreamMetadata,
    late: set[EntryId],
) -> None:
    """Aligns unclaimed lines with Redis-born entries, both in order; where both agree the rebuilt ledger gets a range.

    Each line is used once. The late entries come last, and take what is left wherever it stands.
    """
    made.cursor = announced(books)
    places: dict[tuple[str, bytes], list[int]] = {}
    for i, line in enumerate(lines):
        places.setdefault((line.name, line.content + b"\n"), []).append(i)
    at: dict[str, int] = {}
    for entry_id, name, content in sorted(born, key=lambda pair: pair[0] in late):
        in_order = entry_id not in late
        found = [i for i in places.get((name, content), ()) if not in_order or i >= at.get(name, 0)]
        if not found:
            made.unmatched += in_order and entry_id > made.cursor
            continue
        made.ambiguous += len(found) > 1
        i = found[0]
        if in_order:
            at[name] = i + 1
        places[(name, content)].remove(i)
        line = lines[i]
        end = line.offset + len(content)
        written = [(entry_id, len(content))]
        made.ranges.append(Range(name, line.generation, line.offset, end, range_digest(content), written))
        made.cursor = max(made.cursor, entry_id)
