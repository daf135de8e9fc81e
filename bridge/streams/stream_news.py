"""Tells which of many streams have entries behind a cursor, in one request to each server (XREAD)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, RedisLost
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.dial import Connections
from bridge.streams.entry_budget import EntryBudget
from bridge.streams.resp import pack

ASKED_AT_ONCE = 500
"""Streams of which a server is asked in one write, where each is asked by a command of its own."""


class StreamNews:
    """Tells which of many streams have entries behind a cursor. Used by one thread, but for `interrupt`.

    One server waits for the first of them (BLOCK). The nodes of a cluster cannot, as streams lie in many slots: there,
    and where one of the keys is no stream, each stream is asked by itself, and nobody waits.
    """

    def __init__(self, settings: Settings, *, timeout: float, budget: EntryBudget | None = None) -> None:
        """Makes an object to ask for news. `budget`: a reply has an entry for each stream with news, at most so many.

        Where a server cuts long replies, fewer streams are asked for at once, and nobody waits.
        """
        self._budget = budget or EntryBudget()
        self._servers = Connections(settings, timeout=timeout, budget=self._budget)
        self._whole = True
        self._single = not settings.redis_url.startswith("cluster")
        self._blocked: Connection | None = None
        self.refused: dict[bytes, BridgeError] = {}
        """The streams of which a server refused to tell, in the last request, and why."""

    def ask(self, cursors: Mapping[bytes, bytes], block_ms: int) -> list[bytes]:
        """Asks Redis which streams have entries behind their cursor, and waits for one, `block_ms` at most, if it can.

        `cursors` are entry IDs as Redis writes them, by stream. Raises RedisLost, RedisRefused.
        """
        self.refused = {}
        if not cursors:
            return []
        self._whole = len(cursors) <= self._budget.most
        if self._single and self._whole:
            connection = self._blocked = self._servers.to(next(iter(cursors)))
            head = pack("XREAD", "COUNT", 1, "BLOCK", max(1, block_ms), "STREAMS").partition(b"\r\n")[2]
            parts = [b"$%d\r\n%b\r\n" % (len(part), part) for part in (*cursors, *cursors.values())]
            connection.send(b"".join((b"*%d\r\n" % (6 + len(parts)), head, *parts)))
            try:
                found = connection.read()
            except RedisLost as error:
                raise self._budget.lost(len(cursors), error) from None
            if not isinstance(found, Refusal):
                return [row[0] for row in found or ()]
            if "WRONGTYPE" not in str(found):
                raise refused(found, connection.shown)
        return self._each(cursors)

    def _each(self, cursors: Mapping[bytes, bytes]) -> list[bytes]:
        by_server: dict[Connection, list[bytes]] = defaultdict(list)
        for stream in cursors:
            by_server[self._servers.to(stream)].append(stream)
        news: list[bytes] = []
        at_once = max(1, min(ASKED_AT_ONCE, self._budget.most))
        for connection, streams in by_server.items():
            for at in range(0, len(streams), at_once):
                some = streams[at : at + at_once]
                asked = [pack("XREAD", "COUNT", 1, "STREAMS", name, cursors[name]) for name in some]
                connection.send(b"".join(asked))
                for name in some:
                    try:
                        found = connection.read()
                    except RedisLost as lost:
                        raise self._budget.lost(len(some), lost) from None
                    if isinstance(found, Refusal):
                        self.refused[name] = refused(found, name.decode(errors="replace"))
                    elif found:
                        news.append(name)
        for error in self.refused.values():
            if isinstance(error, RedisLost):  # the stream is at another node by now
                raise error
        return news

    @property
    def waits(self) -> bool:
        """Whether a request for news of streams waits on the server; else the caller waits between two requests."""
        return self._single and self._whole and not self.refused

    def interrupt(self) -> None:
        """Ends, from another thread, the wait for news of streams."""
        if (connection := self._blocked) is not None:
            connection.interrupt()

    def replaced(self) -> bool:
        """Whether another master was elected than the one asked for news of streams, as far as its Sentinels tell."""
        connection = self._blocked
        if connection is None:
            return False
        connection.look()
        return connection.replaced()

    def close(self) -> None:
        """Closes the connections over which streams are asked for."""
        self._blocked = None
        self._servers.close()
