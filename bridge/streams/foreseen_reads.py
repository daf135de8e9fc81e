"""Small reads of many streams, asked for in one write: for a command that only looks at one stream after another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from bridge.core.errors import BridgeError
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys

AT_ONCE = 100
"""Streams of which is asked in one write."""


def foreseeing(
    streams: Sequence[str], connection_to: Callable[[str], Connection | None],
    reads: Callable[[Keys], Iterable[Sequence[bytes]]],
) -> Iterator[str]:  # fmt: skip
    """Yields the streams, each after what `reads` names of it, and of the next ones, was asked for in one write.

    `reads` makes the writes that whoever looks at a stream will make, as packed commands whose replies are short; one
    that is not made costs its reply, and one that is missing a round trip. What fails is left to the read itself.
    """
    asked: set[Connection] = set()
    try:
        for at, stream in enumerate(streams):
            if at % AT_ONCE == 0 and len(streams) > 1:
                by_server: dict[Connection, list[Sequence[bytes]]] = defaultdict(list)
                for other in streams[at : at + AT_ONCE]:
                    if (connection := connection_to(other)) is not None:
                        by_server[connection] += reads(Keys.of(other))
                asked |= by_server.keys()
                for connection, writes in by_server.items():
                    with suppress(BridgeError):
                        connection.foresee(writes)
            yield stream
    finally:  # an answer that nobody took is no later read's
        for connection in asked:
            connection.forget_foreseen()
