"""The group reader: reads a stream through a component's consumer group, which the component's workers share.

Each entry is acknowledged by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.errors import RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.core.model import EntryId, format_id, parse_id
from bridge.streams.connect import Connection, Refusal, Reply, refused
from bridge.streams.reader import to_entries
from bridge.streams.resp import pack

COUNT = 200
"""Entries that the group reader asks for at once."""

GROUP_BLOCK_MS = 200
"""Milliseconds that the server is asked to wait for a new entry: a switch waits as long for the component."""


@dataclass(frozen=True, slots=True)
class DeliveredEntry:
    """An entry that the group reader got from the consumer group: its ID, its fields, and how often it was given.

    `before`: how often it was given to a component before; `counted`: what Redis counts; `new`: whether it is new.
    """

    id: EntryId
    fields: list[bytes]
    before: int
    counted: int
    new: bool = False


MINE = b"""local kept = {}
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    kept[#kept + 1] = ARGV[i]
  end
end
return kept"""


class GroupGone(Exception):
    """The component's consumer group does not exist: the component was switched away from it, or Redis lost it."""


class GroupReader:
    """Reads a consumer group as one worker of a component, over a connection of its own.

    After any error from a group reader, make another. Entries that another worker did not acknowledge within `claim_ms`
    milliseconds are taken over. `block_ms`: how long `take` waits for new entries, 0: not at all.
    """

    def __init__(
        self, connection: Connection, stream: bytes, group: str, worker: str, claim_ms: int,
        block_ms: int = GROUP_BLOCK_MS,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._stream = stream
        self._group = group
        self._worker = worker
        self._claim_ms = claim_ms
        self._block = ("BLOCK", block_ms) if block_ms else ()
        self._claim_at = 0.0
        self._claim_from = b"0-0"
        self._owed = 0

    def begin(self, start: str) -> None:
        """Creates the component's consumer group, which begins behind the entry ID `start`."""
        self._call("XGROUP", "CREATE", self._stream, self._group, start, "MKSTREAM")

    def own(self) -> list[DeliveredEntry]:
        """Reads the consumer group's entries that this worker was given earlier and never acknowledged.

        There are some after a reconnection, or a restart by the worker's name.
        """
        found: list[DeliveredEntry] = []
        start = "-"
        while page := self._call("XPENDING", self._stream, self._group, start, "+", COUNT, self._worker):
            found += self._read([row[0] for row in page], [int(row[3]) for row in page])
            start = f"({page[-1][0].decode()}"
        return found

    def take(self) -> list[DeliveredEntry]:
        """Reads the consumer group's next entries: those that another worker left, else new ones, if some come soon.

        Raises GroupGone, RedisRefused, RedisLost; also where it is time for another connection.
        """
        if self._connection.aged or self._connection.replaced():
            raise RedisLost("it is time for another connection", where=self._connection.shown)
        now = time.monotonic()
        if now >= self._claim_at:
            claimed = self._claim()
            if claimed:
                return claimed
            self._claim_at = now + min(self._claim_ms / 4000, 5.0)
        reply = self._call("XREADGROUP", "GROUP", self._group, self._worker, "COUNT", COUNT, *self._block,
                           "STREAMS", self._stream, ">")  # fmt: skip
        found = to_entries(reply[0][1] if reply else [])
        if len(found) > 1:  # they are given one by one: after a kill the counts tell which was
            self.counts([entry.id for entry in found], 0)
        return [DeliveredEntry(entry.id, entry.fields, 0, int(len(found) == 1), True) for entry in found]

    def mine(self, ids: Sequence[EntryId]) -> set[EntryId]:
        """Returns the entries of the consumer group that no other worker has taken over; they count as fresh again."""
        self.settle()
        kept = self._connection.call("EVAL", MINE, 1, self._stream, self._group, self._worker, *map(format_id, ids))
        return {parse_id(raw) for raw in kept}

    def counts(self, entries: Sequence[EntryId], times: int) -> None:
        """Sets in the consumer group how often entries were delivered, as `times` says.

        By itself Redis counts what it sent, and not what the component met.
        """
        ids = [format_id(entry) for entry in entries]
        self._send("XCLAIM", self._stream, self._group, self._worker, 0, *ids, "RETRYCOUNT", times, "JUSTID")

    def done(self, entry: EntryId) -> None:
        """Acknowledges an entry in the consumer group; the server's reply is read with the next answer."""
        self._send("XACK", self._stream, self._group, format_id(entry))

    def _send(self, *args: bytes | str | int) -> None:
        self._connection.send(pack(*args))
        self._owed += 1

    def settle(self) -> None:
        """Waits until Redis has answered all acknowledgements that the group reader sent.

        Raises RedisLost, RedisRefused.
        """
        while self._owed:
            reply = self._connection.read()
            self._owed -= 1
            if isinstance(reply, Refusal):
                raise refused(reply, self._stream.decode(errors="replace"))

    def _claim(self) -> list[DeliveredEntry]:
        """Claims entries of the consumer group that another worker left longest without acknowledging, some at a time.

        Claimed entries keep their delivery count until the component meets them.
        """
        start, claimed, *_ = self._call(
            "XAUTOCLAIM", self._stream, self._group, self._worker, self._claim_ms, self._claim_from, "COUNT", COUNT,
            "JUSTID",
        )  # fmt: skip
        self._claim_from = start
        if claimed:
            page = self._call("XPENDING", self._stream, self._group, claimed[0], claimed[-1], 10 * COUNT, self._worker)
            times = {row[0]: int(row[3]) for row in page}
            found = self._read(claimed, [times.get(raw, 1) for raw in claimed])
            if found:
                return found
        return self._claim() if start != b"0-0" else []

    def _read(self, ids: list[bytes], times: list[int]) -> list[DeliveredEntry]:
        """Reads entries by ID for the group reader, and acknowledges those that were deleted from the stream."""
        self.settle()
        replies = self._connection.calls(*(pack("XRANGE", self._stream, raw, raw) for raw in ids))
        for raw, reply in zip(ids, replies, strict=True):
            if not reply:
                self._send("XACK", self._stream, self._group, raw)
        return [
            DeliveredEntry(entry.id, entry.fields, count, count)
            for reply, count in zip(replies, times, strict=True)
            for entry in to_entries(reply)
        ]

    def _call(self, *args: bytes | str | int) -> Reply:
        try:
            self.settle()
            return self._connection.call(*args) or []
        except RedisRefused as error:
            if error.code in ("NOGROUP", "UNBLOCKED"):
                raise GroupGone from None
            raise

    def close(self) -> None:
        """Closes the group reader's connection, after its last acknowledgement has arrived if that is possible."""
        try:
            self.settle()
        except (RedisLost, RedisRefused) as error:
            logger.debug("the last acknowledgement may not have arrived: %s", error)
        self._connection.close()
