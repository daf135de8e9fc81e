"""Sends and writes single messages out of order for a retry or a repair, each exactly once and marked late.

A line is sent with its origin; the same transaction sets the mark in the Redis hash `bridge:{S}:late`, guarded by
compare-and-set as forward's cursor is. An entry's line goes through the mirror, with an intent and a range.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.continuity.lost_entries import what_was_lost
from bridge.continuity.ownership import claim_stream
from bridge.core.codecs import Codec
from bridge.core.codecs.named_path import EXTRA
from bridge.core.errors import NotOwner, RedisRefused
from bridge.core.failpoints import failpoint
from bridge.core.model import ZERO_ID, EntryId, Origin, Row, format_id
from bridge.engine.forward import Forward
from bridge.engine.mirror import BLOCKED_PAUSE, Mirror
from bridge.kinds.artifacts.mentions import mentions_of
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.target import PendingWrite
from bridge.ledger.ranges import WrittenEntry
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from bridge.streams.resp import entry_packer, pack
from bridge.streams.stream_metadata import read_stream
from bridge.streams.writer import Conflict, Cursor, StreamWriter, Transaction


class OutOfOrderSender:
    """Carries single messages of one mapping out of order, for a retry or a repair, and marks them late.

    The caller holds the state directory's lock, so no bridge runs meanwhile. `why` is the value of the marks.
    """

    def __init__(
        self, shared: MappingContext, ledger: Ledger, connection: Connection, why: bytes,
        dial: Callable[[], Connection], clock: Callable[[], float], settle: Callable[[float], object],
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._why = why
        self._dial = dial
        self._clock = clock
        self._settle = settle
        self._writer: StreamWriter | None = None
        self._exists = False

    def own(self) -> None:
        """Takes the lease on the stream, to send out of order, after checking that this ledger owns the stream.

        Also checks that Redis lost no entries at the stream's end, which `bridge run` has to send again first.

        Raises NotOwner, RedisRefused.
        """
        stream, keys = self._shared.mapping.stream.key, self._shared.keys
        known = stream_memory(self._ledger, stream)
        claim_stream(self._connection, self._shared.components, self._ledger, known, self._shared.settings.group)
        doubt = self._shared.hold.doubt(self._connection, self._ledger)
        if doubt:
            hint = "let `bridge run` compare it with stream and files first"
            raise NotOwner(f"this ledger may be an older one: {doubt}", where=stream, hint=hint)
        self._shared.hold.take(self._connection, self._ledger)
        info, books = read_stream(self._connection, keys)
        self._exists = info.exists
        lost = what_was_lost(known, {}, info, books)
        if lost:
            hint = "let `bridge run` fill it again first"
            raise RedisRefused(f"Redis lost its tail: {lost}", code="LOST", where=stream, hint=hint)

    def mark(self, origin: bytes) -> bytes | None:
        """Reads the late mark of an origin from the Redis hash `bridge:{S}:late`; None where there is none."""
        found = self._connection.call("HGET", self._shared.keys.late, origin)
        return None if found is None else bytes(found)

    def send(self, origin: Origin, name: str, row: Row, codec: Codec, mark: bytes | None) -> str:
        """Sends one line of the named source to the stream, out of order and marked late; returns its entry's ID.

        Only if `bridge:{S}:late` still has the value `mark` for the origin.

        Raises RedisRefused, RedisLost, LedgerError.
        """
        prefix = b"%d.%d:" % origin[:2]
        text = prefix + b"%d" % origin.offset
        keys = self._shared.keys
        writer = self._writer = self._writer or StreamWriter(
            self._connection, keys, self._shared.hold.holder(self._ledger)
        )
        mentions = mentions_of(self._shared, name, self._ledger)
        if mentions is not None:
            [row] = mentions.widened([row], origin.generation, [origin.offset])
        fields = codec.fields + EXTRA[: len(row) - len(codec.fields)]
        packed = entry_packer(keys.stream, fields)([row], None, prefix, [origin.offset], self._exists)
        failpoint("retry.send.before")
        writer.stage(Transaction((Cursor(keys.late, text, self._why),), packed, 1, text))
        try:
            writer.execute((mark,))
            landed = writer.finish()
        except Conflict:
            raise RedisRefused("another client wrote meanwhile; run it again", code="OVERTAKEN") from None
        failpoint("retry.send.after")
        writer.publish(self._shared.mapping.notify.encode(), landed)
        writer.quiet()
        self._exists = True
        return format_id(landed.last).decode() if landed.last else ""

    def finished(self) -> Mirror:
        """Creates the mapping's mirror for writes out of order, and lets it finish the intents of an earlier process.

        The caller closes the mirror. Raises TargetError.
        """
        mirror = Mirror(self._shared, self._ledger, Troubles(self._clock), self._clock, self._dial)
        try:
            mirror.settle(self._settle)
        except BaseException:
            mirror.close()
            raise
        return mirror

    def carry_files(self) -> None:
        """Has forward, for the out-of-order sender, send all due files of a folder with a file per message.

        Raises RedisLost, RedisRefused, SourceError.
        """
        forward = Forward(self._shared, self._ledger, Troubles(self._clock), self._clock, self._dial)
        try:
            forward.look()
            forward.attach()
            while forward.step() or forward.waits:
                if forward.waits:
                    self._settle(BLOCKED_PAUSE)
            forward.flush()
            for error in forward.failures():
                raise error
        except Conflict:
            raise RedisRefused("another client wrote meanwhile; run it again", code="OVERTAKEN") from None
        finally:
            forward.detach()

    def write(self, mirror: Mirror, name: str, lines: bytes, entries: list[WrittenEntry], numbers: list[int]) -> None:
        """Marks entries late in Redis, and has the mirror append their lines, whole, to a file, out of order.

        `entries`: those the lines were made of; `numbers`: the quarantined messages that leave quarantine by this. An
        entry 0-0 is in Redis no more: its line will be file-born. Raises TargetError, LedgerError.
        """
        # The marks first: a mark without its line does no harm, a line without its mark looks like a wrong order.
        late: list[EntryId] = [entry_id for entry_id, _ in entries if entry_id != ZERO_ID]
        self._connection.calls(*(pack("HSET", self._shared.keys.late, format_id(i), self._why) for i in late))
        mirror.write_late([PendingWrite(name, lines, entries)], [(number, name) for number in numbers])
        mirror.settle(self._settle)
