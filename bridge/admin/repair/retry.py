"""Retries quarantined messages (DESIGN §5.4, P7): carries each exactly once through its mapping, and marks it late.

A line is sent with its origin; the same transaction sets the mark in `bridge:{S}:late`, guarded as forward's cursor is.
A line that an earlier retry sent but could not note is found in the stream. An entry leaves quarantine in the ledger's
transaction that notes the mirror's intent, so its line is written exactly once, also after a crash. An entry that Redis
lost comes back as a file-born line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bridge.admin.repair.out_of_order import OutOfOrderSender
from bridge.core.codecs import Codec
from bridge.core.codecs.jsonl import JsonlCodec, whole_records
from bridge.core.errors import SourceError
from bridge.core.failpoints import failpoint
from bridge.core.model import (
    UTF8_MARK,
    ZERO_ID,
    Checkpoint,
    EntryId,
    Fingerprint,
    Origin,
    Position,
    Row,
    before,
    hex_digest,
    parse_id,
    shown,
    without_mark,
)
from bridge.core.wording import counted
from bridge.engine.mirror import Mirror
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.quarantine import (
    KEPT_LINE_BYTES,
    TAKEN_APART,
    QuarantinedMessage,
    add_quarantined,
    mark_retried,
    note_reason,
    quarantined_number,
    records_within,
)
from bridge.ledger.ranges import WrittenEntry, intents_of, range_of, written_above
from bridge.ledger.sources import sources_of
from bridge.ledger.spool_recovery import forget_aside
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.entry_json import unpack_fields
from bridge.streams.reader import Entry, existing, file_born
from bridge.streams.stream_metadata import StreamMetadata, read_metadata
from bridge.streams.writer import RETRIED

INTENT_ENTRIES, BYTES_AT_ONCE = 500, 1 << 22
"""Most entries, and about most bytes, that a retry writes with one intent."""


@dataclass(frozen=True, slots=True)
class RetriedMessage:
    """Reports the retry of a quarantined message: `where` it is now, entry ID or file; or the `reason` it stays."""

    number: int
    where: str = ""
    reason: str = ""


class QuarantineRetry:
    """Retries the quarantined messages of one mapping.

    The caller holds the state directory's lock, so no bridge runs meanwhile.
    """

    def __init__(
        self, shared: MappingContext, ledger: Ledger, dial: Callable[[], Connection], clock: Callable[[], float],
        settle: Callable[[float], object],
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._dial = dial
        self._clock = clock
        self._settle = settle
        self._stream = shared.mapping.stream.key
        self._late: OutOfOrderSender

    def run(self, wanted: list[QuarantinedMessage], *, records: bool = False) -> Iterator[RetriedMessage]:
        """Retries the given quarantined messages, and yields for each where it is now, or why it stays in quarantine.

        `records`: whole JSON records are first taken out of lines that are none, each as a message of its own.

        Only their facts are needed; the bytes that quarantine kept are read when a message's turn comes. May be run
        again after an error. Raises RedisLost, RedisRefused, NotOwner, TargetError, LedgerError.
        """
        connection = self._dial()
        self._late = OutOfOrderSender(
            self._shared, self._ledger, connection, RETRIED, self._dial, self._clock, self._settle
        )
        try:
            self._late.own()
            lines = [kept for kept in wanted if kept.direction != "mirror"]
            for done in self._taken_apart(lines) if records else ():
                yield done
            for done in self._lines(connection, lines) if self._shared.folder is None else self._files(lines):
                yield self._noted(done)
            entries = [kept for kept in wanted if kept.direction == "mirror"]
            entries.sort(key=lambda kept: parse_id(kept.entry_id.encode()))
            mirrored = self._shared.mapping.mirror is not None
            if mirrored and not entries and intents_of(self._ledger, self._stream):
                self._late.finished().close()
            for some in _portions(entries):
                for done in self._entries(connection, some):
                    yield self._noted(done)
        finally:
            connection.close()

    def _whole(self, kept: QuarantinedMessage) -> QuarantinedMessage:
        found = quarantined_number(self._ledger, kept.number)
        return found[1] if found is not None else kept

    def _noted(self, done: RetriedMessage) -> RetriedMessage:
        if done.reason:
            note_reason(self._ledger, done.number, done.reason)
        return done

    def _left(self, kept: QuarantinedMessage, where: str) -> RetriedMessage:
        failpoint("retry.mark.before")
        mark_retried(self._ledger, kept.number, where, self._clock())
        failpoint("retry.mark.after")
        return RetriedMessage(kept.number, where)

    # -- lines -----------------------------------------------------------------------------------------------

    def _lines(self, connection: Connection, wanted: list[QuarantinedMessage]) -> Iterator[RetriedMessage]:
        if not wanted:
            return
        for kept in [kept for kept in wanted if kept.direction == "forward"]:
            if records_within(self._ledger, self._stream, kept):
                wanted.remove(kept)  # what is left of it: a record that stood within may have its place
                yield RetriedMessage(kept.number, reason=kept.reason)
        stream, sources = self._shared.keys.stream, sources_of(self._ledger, self._stream)
        origins = {
            Origin(sources[kept.name].number, kept.generation, self._offset(kept)): kept
            for kept in wanted
            if kept.name in sources
        }
        yield from (
            RetriedMessage(kept.number, reason="its source is not known") for kept in wanted if kept.name not in sources
        )
        standing = {origin for _, origin in file_born(connection, stream) if origin in origins}
        books = read_metadata(connection, self._shared.keys)
        codecs: dict[str, Codec] = {}
        for origin, kept in origins.items():
            text = b"%d.%d:%d" % origin
            mark = self._late.mark(text)
            if mark is not None or origin in standing:  # a retry or forward has sent it, even if it was removed since
                yield self._left(kept, str(json.loads(mark or b"{}").get("entry", f"origin {text.decode()}")))
                continue
            codec = codecs.setdefault(kept.name, self._shared.mapping.codec(kept.name))
            row = self._row(self._whole(kept), codec)
            if not isinstance(row, str) and not _passed(books, kept.name, origin):
                row = "the bridge has not passed it yet: `bridge run` meets it again"
            if isinstance(row, str):
                yield RetriedMessage(kept.number, reason=row)
                continue
            yield self._left(kept, self._late.send(origin, kept.name, row, codec, mark))

    def _files(self, wanted: list[QuarantinedMessage]) -> Iterator[RetriedMessage]:
        """Retries quarantined files of a spool or artifacts: has forward read them again and send all that is due."""
        if not wanted:
            return
        forget_aside(self._ledger, self._stream)
        self._late.carry_files()
        for kept in wanted:
            now = self._whole(kept)
            reason = "" if now.retried else self._gone(now) or now.reason
            yield RetriedMessage(kept.number, now.retried, reason)

    def _gone(self, quarantined: QuarantinedMessage) -> str:
        """Explains that a quarantined file is gone, so that the retry could not read it; empty: the file is there."""
        folder = self._shared.folder
        if folder is None or folder.exists(quarantined.name):
            return ""
        kept = (
            "all of it"
            if len(quarantined.raw) == quarantined.length
            else f"only its first {len(quarantined.raw):,} bytes"
        )
        return f"its file is gone: {kept} was kept, put that into the folder again (`bridge quarantine export` has it)"

    def _taken_apart(self, wanted: list[QuarantinedMessage]) -> Iterator[RetriedMessage]:
        """Takes whole records out of quarantined lines of JSON, into quarantine as messages of their own, to be sent.

        A line that held nothing else has left; of any other the rest stays. Both lists change accordingly.
        """
        for kept in [kept for kept in wanted if kept.direction == "forward"]:
            codec = self._shared.mapping.codec(kept.name)
            line = self._bytes_of(self._whole(kept))
            if not isinstance(codec, JsonlCodec) or isinstance(line, str):
                continue
            if isinstance(codec.decode((line,)).rows[0], tuple):
                continue  # the mapping was mended: the line is a message by itself
            found, left = whole_records(codec, line)
            before = records_within(self._ledger, self._stream, kept)
            known = {record.offset for record in before}
            place, why = self._offset(kept), f"it stands within the line at offset {kept.offset}"
            new = [
                QuarantinedMessage("record", kept.name, kept.generation, place + at, "", why, record[:KEPT_LINE_BYTES],
                                   len(record), hex_digest(record))
                for at, record in found if place + at not in known
            ]  # fmt: skip
            if not found:
                continue
            failpoint("retry.records.before")
            many = f"{counted(len(found), 'whole record')} taken out of it"
            with self._ledger.transaction():
                add_quarantined(self._ledger, self._stream, new, self._clock())
                if left:
                    note_reason(self._ledger, kept.number, f"{many}: left is {shown(left, 80)}")
                else:
                    mark_retried(self._ledger, kept.number, TAKEN_APART, self._clock())
            failpoint("retry.records.after")
            wanted.remove(kept)
            numbers = {kept.number for kept in wanted}
            now = records_within(self._ledger, self._stream, kept)
            wanted += [record for record in now if not record.retried and record.number not in numbers]
            yield RetriedMessage(
                kept.number, "" if left else TAKEN_APART, f"{many}: left is {shown(left, 80)}" if left else ""
            )

    def _row(self, kept: QuarantinedMessage, codec: Codec) -> Row | str:
        """Decodes a quarantined line into a row for the retry, or returns the reason why that fails."""
        line = self._bytes_of(kept)
        return line if isinstance(line, str) else codec.decode((line,)).rows[0]

    def _bytes_of(self, kept: QuarantinedMessage) -> bytes | str:
        """Returns all bytes of a quarantined line for the retry, or the reason why they are not to be had."""
        limit = self._shared.mapping.format.max_line_bytes
        if kept.length > limit:
            return f"over max_line_bytes: a line of {kept.length} bytes, the limit is {limit}"
        raw = kept.raw
        if len(raw) < kept.length:
            raw = self._from_file(kept)
            if hex_digest(raw) != kept.digest:
                return "only its first bytes were kept, and its file does not hold it any more"
        return raw if kept.offset else without_mark(raw)

    def _offset(self, kept: QuarantinedMessage) -> int:
        """Returns where a quarantined line begins for the retry: behind a UTF-8 mark that was kept as part of it."""
        return kept.offset or (len(UTF8_MARK) if self._whole(kept).raw.startswith(UTF8_MARK) else 0)

    def _from_file(self, kept: QuarantinedMessage) -> bytes:
        tail = self._shared.tail(kept.name, self._ledger)
        try:
            tail.look()
            found = tail.of_number(kept.generation) or tail.reopen(kept.generation)
            return tail.read(found, kept.length, kept.offset) if found is not None else b""
        except SourceError:
            return b""

    # -- entries ---------------------------------------------------------------------------------------------

    def _entries(self, connection: Connection, wanted: list[QuarantinedMessage]) -> Iterator[RetriedMessage]:
        if self._shared.mapping.mirror is None:
            yield from (RetriedMessage(kept.number, reason="this mapping has no [mirror]") for kept in wanted)
            return
        mirror = self._late.finished()
        try:
            by_id = {parse_id(kept.entry_id.encode()): kept for kept in wanted}
            written = written_above(self._ledger, self._stream, before(min(by_id)))
            standing = existing(connection, self._shared.keys.stream, [*by_id])
            floor = read_metadata(connection, self._shared.keys).floor or ZERO_ID
            lines: dict[tuple[str, bytes], tuple[list[bytes], list[WrittenEntry], list[QuarantinedMessage]]] = {}
            ending = mirror.translator.ending
            for entry_id in sorted(by_id):
                kept = by_id[entry_id]
                if entry_id in written:  # the mirror has met it again since
                    found = range_of(self._ledger, self._stream, entry_id)
                    yield self._left(kept, found[0].name if found is not None else self._shared.mapping.mirror.path)
                    continue
                fields = standing.get(entry_id)
                if entry_id < floor:
                    yield RetriedMessage(
                        kept.number, reason="its entry was trimmed since: its line would be without one"
                    )
                    continue
                name, line, reason = self._line(mirror, entry_id, fields, self._whole(kept))
                if reason:
                    yield RetriedMessage(kept.number, reason=reason)
                    continue
                own = b"" if ending else kept.entry_id.encode()
                whole, entries, quarantined = lines.setdefault((name, own), ([], [], []))
                whole.append(line + ending)
                lost = fields is None and kept.lost  # its line will be file-born, and forward sends it
                entries.append((ZERO_ID if lost else entry_id, len(line + ending)))
                quarantined.append(kept)
            for (name, _), (whole, entries, quarantined) in lines.items():
                self._late.write(mirror, name, b"".join(whole), entries, [kept.number for kept in quarantined])
                yield from (RetriedMessage(kept.number, name) for kept in quarantined)
        finally:
            mirror.close()

    def _line(
        self, mirror: Mirror, entry_id: EntryId, fields: list[bytes] | None, kept: QuarantinedMessage
    ) -> tuple[str, bytes, str]:
        if fields is None and len(kept.raw) < kept.length:
            return "", b"", "only its first bytes were kept, and the stream does not hold it any more"
        return mirror.translator.line(Entry(entry_id, unpack_fields(kept.raw) if fields is None else fields))


def _portions(entries: list[QuarantinedMessage]) -> Iterator[list[QuarantinedMessage]]:
    """Splits the quarantined entries of a retry into groups that one intent of the mirror may hold."""
    some: list[QuarantinedMessage] = []
    for kept in entries:
        if some and (len(some) >= INTENT_ENTRIES or sum(other.length for other in some) + kept.length > BYTES_AT_ONCE):
            yield some
            some = []
        some.append(kept)
    if some:
        yield some


def _passed(books: StreamMetadata, name: str, origin: Origin) -> bool:
    """Whether forward's checkpoint has passed a quarantined line, so that a retry may send it.

    An origin in the stream means that all lines before it were sent.
    """
    stored = books.checkpoint.get(os.fsencode(name))
    closed = books.generations.get(b"%d.%d" % origin[:2])
    at = Position(origin.generation, origin.offset)
    if stored is None or at >= Checkpoint.from_json(stored).position:
        return False
    return closed is None or origin.offset < Fingerprint.from_json(closed).offset
