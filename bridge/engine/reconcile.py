"""Reconciles the ledger and Redis as forward connects, and settles losses for both and the mirror (DESIGN §6.4)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence

from bridge.continuity import trim_floor
from bridge.continuity.lost_entries import ReappearedLine, restore, standing_again
from bridge.core.errors import NotOwner
from bridge.core.logger import logger
from bridge.core.model import EntryId, Position, format_id, paired, parse_id
from bridge.engine.lost_lines import forget_lost
from bridge.engine.rebuild_ledger import execute, plan
from bridge.kinds.kind import Source
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.resume import Reconciliation
from bridge.kinds.spool.folder_recovery import learn_all, read_back
from bridge.ledger.bytes_written import forget_puts
from bridge.ledger.file_standings import forget_edited
from bridge.ledger.quarantine import in_doubt, mark_lost
from bridge.ledger.ranges import Range
from bridge.ledger.seen_entries import forget_released
from bridge.ledger.sources import save_mirror_cursor, save_timeline, sources_of
from bridge.ledger.spool_recovery import unread
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import StreamInfo, existing
from bridge.streams.writer import REFILLED


def catch_up(connection: Connection, shared: MappingContext, ledger: Ledger) -> bool:
    """Rebuilds from stream and files a ledger that may be older than what Redis knows; returns whether it did so.

    Raises NotOwner: stream and files do not agree, so nobody can know what was carried; LeaseHeld: another process
    carries.
    """
    stream = shared.mapping.stream.key
    if not (doubt := shared.hold.doubt(connection, ledger)):
        return False
    logger.warning("%s: this ledger may be an older one: %s", stream, doubt)
    with shared.cursor_lock:  # the mirror writes nothing meanwhile
        made = plan(connection, shared, ledger, take_over=False, anew=True)
        if made is None:
            return False
        if made.unproved:
            hint = "put the newer state directory back; or, if the files are right, `bridge repair` tells what would be"
            said = f"this ledger may be an older one ({doubt}), and the files do not show what was carried: "
            said += ", ".join(made.unproved)
            raise NotOwner(said, where=stream, hint=hint)
        execute(connection, shared, ledger, made)
        shared.forget_books()
    logger.warning("%s: the ledger was made anew; %d mirrored lines found in the files", stream, len(made.ranges))
    return True


def settle_loss(
    connection: Connection, shared: MappingContext, ledger: Ledger, compared: Reconciliation,
    sources: Mapping[str, Source], save: Callable[[StreamInfo], None],
) -> StreamInfo:  # fmt: skip
    """Reconciles the ledger with a loss in Redis: lost lines leave the mirror's ranges, lines that reappeared return.

    All in one ledger transaction, in which `save` notes what the stream holds; that is returned. Raises RedisLost,
    RedisRefused, LedgerError.
    """
    stream, keys, line_of = shared.mapping.stream.key, shared.keys, shared.line_of

    def read(span: Range) -> bytes:
        source = sources.get(span.name if shared.folder is None else shared.mapping.source.path)
        if source is not None or shared.folder is not None:
            return source.files.content_of(span) if source is not None else b""
        tail = shared.tail(span.name, ledger)  # a file that only the mirror writes
        tail.look()
        held = tail.of_number(span.generation) or tail.reopen(span.generation)
        return held.read(span.end - span.start, span.start) if held is not None else b""

    was, first = compared.trimmed, compared.info.first_id
    now = trim_floor.put_back(connection, keys, was, first, shared.hold.nonce) if compared.began_behind else was
    info = shared.hold.watch(connection)
    refilled = None
    with shared.cursor_lock:
        lines, found, back = list[ReappearedLine](), None, 0
        if shared.folder is not None and (compared.lost or unread(ledger, stream)):
            # Before the ledger is locked: there may be many files.
            lines = standing_again(connection, keys, ledger, line_of)
            number = next((source.progress.number for source in sources.values()), 0)
            found = read_back(connection, shared, ledger, number, lines)
        with shared.sighted.keeping(compared.seen if compared.lost else None), ledger.transaction():
            if compared.lost:
                for source in sources.values():
                    source.forget_lost(compared)
            if found is not None:
                back = learn_all(ledger, stream, found)
                forget_released(ledger, stream, [line.entry for line, _ in lines])
            elif compared.lost:
                numbers = {name: source.progress.number for name, source in sources.items()}
                back = restore(connection, keys, ledger, line_of, compared.offsets, numbers)
            if compared.lost:
                refilled = forget_lost(connection, keys, ledger, compared, read, line_of)
                _take_back(connection, shared, refilled.mirror_cursor)  # first: Redis may say too little, not too much
                _mark_late(connection, shared, refilled.late)
                _go_back(connection, shared, sources, refilled.first, compared)
                save_mirror_cursor(ledger, stream, refilled.mirror_cursor)
                forget_puts(ledger, stream)
                forget_edited(ledger, stream)
            save(info)
            save_timeline(ledger, stream, shared.hold.nonce if compared.lost else compared.books.timeline)
            shared.hold.confirm(connection)
            trim_floor.settle(ledger, stream, was, now, lost=bool(compared.lost))
        shared.cursor_epoch += refilled is not None
    if back:
        said = "%s: %d messages are back in the stream that Redis had lost, or the ledger did not know"
        logger.warning(said, stream, back)
    if refilled is not None:
        logger.warning("%s: %s", stream, refilled.in_words())
    return info


def _take_back(connection: Connection, shared: MappingContext, cursor: EntryId) -> None:
    """Lowers the mirror's progress in Redis to `cursor` after a loss, as else the ledger would look older than it is.

    The write witness's count is removed: its bytes were born in a stream that is not this one any more.
    """
    mirror = shared.keys.mirror
    for label, raw in paired(connection.call("HGETALL", mirror)).items():
        word = json.loads(raw)
        upto = format_id(min(cursor, parse_id(word["id"].encode()))).decode()
        said = {"id": upto, "generation": word["generation"], "end": word["end"]}
        if said != word:
            shared.hold.write(connection, "HSET", mirror, label, json.dumps(said))


def _go_back(
    connection: Connection, shared: MappingContext, sources: Mapping[str, Source], first: Mapping[str, Position],
    compared: Reconciliation,
) -> None:  # fmt: skip
    """Moves each source's checkpoint back, after a loss, to the first line to be sent again, if that lies before.

    In Redis and in memory; the ledger follows as the source is saved.
    """
    for name, to in first.items():
        source = sources.get(name)
        value = source.go_back(to, compared) if source is not None else None
        if source is not None and value is not None:
            shared.hold.write(connection, "HSET", shared.keys.checkpoint, os.fsencode(name), value)
            source.progress.stored = value


def _mark_late(connection: Connection, shared: MappingContext, late: Sequence[EntryId]) -> None:
    """Marks in Redis, after a loss, the entries whose lines stand out of order in the mirrored file, 500 at a time."""
    for at in range(0, len(late), 500):
        marks = [part for entry in late[at : at + 500] for part in (format_id(entry), REFILLED)]
        shared.hold.write(connection, "HSET", shared.keys.late, *marks)


def put_back(connection: Connection, shared: MappingContext, ledger: Ledger, compared: Reconciliation) -> None:
    """Puts lines that a retry had sent, and whose entries Redis lost, back into quarantine, before forward goes on.

    The mark in `late` was set by the transaction that sent the line: a data set without it does not have the entry.
    With the mark, and for an entry still in quarantine, the stream itself tells: an entry that it cannot have had is
    lost; one that is missing otherwise was removed on purpose, and stays away. Raises NotYet, RedisLost, RedisRefused,
    LedgerError.
    """
    keys, hold = shared.keys, shared.hold
    stream, back, info = shared.mapping.stream.key, 0, compared.info
    whole = compared.anew or not info.exists
    numbers = {name: source.number for name, source in sources_of(ledger, stream).items()}
    rows = [
        line for line in in_doubt(ledger, stream, lost=bool(compared.lost)) if not line.name or line.name in numbers
    ]
    for at in range(0, len(rows), 500):
        part = rows[at : at + 500]
        origins = [b"%d.%d:%d" % (numbers.get(line.name, 0), line.generation, line.offset) for line in part]
        hold.watch(connection)
        marks = connection.call("HMGET", keys.late, *origins)
        ids = [
            parse_id(line.entry_id.encode()) if line.entry_id
            else parse_id(json.loads(mark)["entry"].encode()) if mark and b'"entry"' in mark else None
            for line, mark in zip(part, marks, strict=True)
        ]  # fmt: skip
        standing = existing(connection, keys.stream, [entry_id for entry_id in ids if entry_id is not None])
        hold.confirm(connection)
        for line, origin, mark, entry_id in zip(part, origins, marks, ids, strict=True):
            fields = standing.get(entry_id, []) if entry_id is not None else []
            stands = bool(fields) and (bool(line.entry_id) or origin in fields)
            if entry_id is None and not line.retried:
                if whole and mark is not None:  # the mark of a line that forward sent, and will read again
                    hold.write(connection, "HDEL", keys.late, origin)
                continue
            sent = mark is not None if entry_id is None else not whole and entry_id <= info.last_id
            if stands or sent:
                continue
            if mark is not None and not line.entry_id:
                hold.write(connection, "HDEL", keys.late, origin)
            mark_lost(ledger, line.number)
            back += bool(line.retried)
    if back:
        many = "1 line" if back == 1 else f"{back} lines"
        logger.warning("%s: Redis lost %s that a retry had sent: in quarantine again", stream, many)
