"""The stream writer: adds a component's messages to the stream exactly once (DESIGN §6.6).

A script adds the entry and sets the session's number, if that number is still below the message's. So a message may be
sent again as often as a reply is lost: a message that landed does not land twice, however late the first try arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.client.outbox import Outbox, OutboxMessage, left_behind
from bridge.core.errors import BridgeError, RedisLost, RedisRefused, ReplicasBehind, Unfit
from bridge.core.logger import logger
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.replicas import check_disk, wait_for_disk, wait_for_replicas
from bridge.streams.resp import pack

ADD = b"""local number, last = tonumber(ARGV[2]), tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if number <= last then
  redis.call('HSET', KEYS[2], ARGV[1], last)
  return 0
end
if last < tonumber(ARGV[3]) then return -1 end
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
redis.call('HSET', KEYS[2], ARGV[1], number)
return 1"""
"""Script that adds a message, if the one before in the same write (number ARGV[3], 0: none) was not refused.

Else a later message would land, and the refused one would be taken for sent. For a message that landed before, its
number is written again, so that the replicas that are waited for behind it have it too."""

ASK_SECONDS = 0.1
"""Seconds for which replicas are waited for that were behind already."""

WRITE_MESSAGES = 200
"""Messages of an outbox that go out in one write."""


class StreamAppender:
    """Writes the messages of one component's session into the stream; what may have landed waits in its outbox."""

    def __init__(
        self, keys: Keys, folder: Path, component: str, mapping: str, dial: Callable[[], Connection], *,
        replicas: int = 0, replicas_timeout: float = 10.0,
    ) -> None:  # fmt: skip
        self._keys = keys
        self._component = component
        self._dial = dial
        self._replicas, self._patience = replicas, replicas_timeout
        self._behind = False
        """Whether replicas, or the disk, had not what was written last: asked, not waited for, until they have."""
        self._durable, self._fit = False, False
        """Whether a message under way, or that waits, has to be on the server's disk; whether the server can say so."""
        self._number = 0
        self._connection: Connection | None = None
        self._outbox = Outbox(folder, mapping)
        self._earlier = left_behind(folder, mapping, self._outbox.session)

    @property
    def waiting(self) -> int:
        """Counts the messages that wait in the stream writer's outboxes: nobody knows yet whether Redis has them."""
        return sum(len(box.waiting) for box in self.boxes)

    @property
    def boxes(self) -> list[Outbox]:
        """The outboxes from which the stream writer sends, those of earlier sessions first."""
        return [*self._earlier, self._outbox]

    def connect(self) -> Connection:
        """Returns the stream writer's connection to Redis, a new one where the server closed it or there was none.

        Raises RedisLost, RedisRefused.
        """
        if (old := self._connection) is not None and (old.aged or old.replaced() or old.closed()):
            self.disconnect()
        if self._connection is None:
            self._connection = self._dial()
        return self._connection

    def disconnect(self) -> None:
        """Closes the stream writer's connection to Redis; the next use connects anew."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._fit = None, False

    def be_durable(self) -> None:
        """Has the next message count as sent only when it is on the server's disk, or on the replicas.

        So do all that wait, if it comes to wait itself. Raises Unfit: the server cannot say so; RedisRefused.
        """
        self._durable = True
        if not self._replicas and not self._fit:
            try:
                check_disk(self.connect())
                self._fit = True
            except RedisLost:
                return  # it waits in the outbox, on this disk, or the next server is asked for it
            except (Unfit, RedisRefused):
                self._durable = False
                raise

    def send(self, fields: Sequence[bytes]) -> bool:
        """Adds a message to the stream, and returns True; or keeps it in the outbox, and returns False.

        It is kept too while fewer replicas than are wanted have it, or the server has it not on its disk where it must:
        what a failover or a crash takes back is sent again.

        Raises RedisLost when there is no connection to be had, and RedisRefused: the message is in neither.
        """
        durable = self._durable
        if self.waiting and not self.drain():
            return self.keep(fields)
        self._durable = durable
        connection = self.connect()
        self._number += 1
        try:
            self._sent(connection, self._outbox.session, [OutboxMessage(self._number, list(fields))])
        except RedisLost:
            self.disconnect()
            self._outbox.add(self._number, fields, free=False)
            return False
        except ReplicasBehind as error:
            logger.warning("%s: %s; its messages are kept on disk as well", self._component, error)
            self._outbox.add(self._number, fields, free=False)
            return False
        self._durable = False
        return True

    def keep(self, fields: Sequence[bytes]) -> bool:
        """Keeps a message in the stream writer's outbox on disk until it can be sent; returns False."""
        self._number += 1
        self._outbox.add(self._number, fields, free=True)
        return False

    def drain(self) -> bool:
        """Sends to the stream all that waits in a component's outboxes; returns whether nothing waits any more."""
        try:
            for box in self.boxes:
                while box.waiting:
                    self.send_first(box, box.waiting[:WRITE_MESSAGES])
        except ReplicasBehind:
            return False
        except BridgeError as error:
            logger.debug("what waits on disk waits: %s", error)
            self.disconnect()
            return False
        for box in self._earlier:
            box.close()
            self._forget(box.session)
        self._earlier = []
        self._durable = False
        return True

    def send_first(self, box: Outbox, part: Sequence[OutboxMessage]) -> None:
        """Sends the first messages that wait in an outbox to the stream.

        Raises RedisLost, RedisRefused, BridgeError.
        """
        connection = self.connect()
        box.sends(part)
        self._sent(connection, box.session, part)
        box.landed(len(part))

    def _sent(self, connection: Connection, session: str, messages: Sequence[OutboxMessage]) -> None:
        field = f"{self._component}:{session}"
        before = [0, *(message.number for message in messages)]
        packed = [
            pack("EVAL", ADD, 2, self._keys.stream, self._keys.producers, field, message.number, last, *message.fields)
            for message, last in zip(messages, before, strict=False)
        ]
        connection.send(b"".join(packed))
        replies = [connection.read() for _ in packed]
        for reply in replies:
            if isinstance(reply, Refusal):
                raise refused(reply, self._keys.stream.decode(errors="replace"))
        if self._replicas or self._durable:
            patience = ASK_SECONDS if self._behind else self._patience
            try:
                if self._replicas:
                    wait_for_replicas(connection, self._replicas, patience)
                else:
                    wait_for_disk(connection, patience)
            except ReplicasBehind:
                self._behind = True
                raise
            self._behind = False

    def _forget(self, session: str) -> None:
        """Removes from `bridge:{S}:producers` an ended session of the stream writer with nothing left to send."""
        try:
            self.connect().call("HDEL", self._keys.producers, f"{self._component}:{session}")
        except (RedisLost, RedisRefused):
            self.disconnect()

    def close(self) -> None:
        """Closes a component's session of writing to the stream; what waits stays on disk for the next session."""
        if self._number and not self._outbox.waiting and self._connection is not None:
            self._forget(self._outbox.session)
        for box in self.boxes:
            box.close()
        self.disconnect()
