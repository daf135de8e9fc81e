"""Reads the stream metadata: all that the bridge keeps in Redis about one stream (DESIGN §5.3), in one go."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bridge.core.errors import BridgeError, NotYet
from bridge.core.model import Checkpoint, EntryId, format_id, paired, parse_id
from bridge.streams.connect import Connection, Refusal, Reply, refused
from bridge.streams.keys import Keys
from bridge.streams.layout import NO_GENERATION, NO_SOURCE, check_layout
from bridge.streams.reader import RidingCommand, StreamInfo, to_info
from bridge.streams.resp import pack
from bridge.streams.validation import a_checkpoint, a_generation, a_target, checked, parsed


@dataclass(frozen=True, slots=True)
class StreamMetadata:
    """The stream metadata that the bridge keeps in Redis about one stream, as it was read in one go."""

    meta: dict[bytes, bytes]
    checkpoint: dict[bytes, bytes]
    sources: dict[bytes, bytes]
    generations: dict[bytes, bytes]
    mirror: dict[bytes, bytes]
    floor: EntryId | None

    @property
    def timeline(self) -> str:
        """The nonce under which the last loss of the stream's data was settled, as `meta` has it; empty: no loss."""
        return self.meta.get(b"timeline", b"").decode(errors="replace")

    def of_the_same(self, other: StreamMetadata) -> bool:
        """Whether two readings of a stream's metadata agree in what forward alone writes.

        The mirror and trimming go on meanwhile, so their keys may differ.
        """
        mine, theirs = ((books.meta, books.checkpoint, books.generations) for books in (self, other))
        return mine == theirs

    def number_for(self, name: bytes, taken: Collection[int]) -> int:
        """Returns the number that stands for a source in origins: as Redis has it, or one above all `taken`."""
        found = self.sources.get(name)
        return int(found) if found is not None else max(taken, default=0) + 1

    def batch(self, path: str) -> int:
        """The number of the last batch of a folder's messages, by its checkpoint in Redis; 0: there was none."""
        stored = self.checkpoint.get(os.fsencode(path))
        return Checkpoint.from_json(stored).generation if stored else 0


def read_metadata(connection: Connection, keys: Keys) -> StreamMetadata:
    """Reads the stream metadata that the bridge keeps in Redis about a stream.

    Raises RedisRefused when one of the bridge's keys has another type, or holds what the bridge never wrote.
    """
    return _books(keys, connection.calls(*reads_of_metadata(keys)))


def read_stream(
    connection: Connection, keys: Keys, beside: RidingCommand | None = None
) -> tuple[StreamInfo, StreamMetadata]:
    """Reads, at one moment, the facts about a stream (XINFO STREAM) and the bridge's stream metadata.

    `meta` is watched from there on, and nothing else: `lease.unchanged` tells whether what is read behind this is of
    the same data. `beside` is asked at the same moment. Raises NotYet where the stream was replaced meanwhile, and
    what `read_metadata` raises.
    """
    where = keys.stream.decode(errors="replace")
    asked = [pack("XINFO", "STREAM", keys.stream), *reads_of_metadata(keys)]
    asked += [beside.command] if beside else []
    watch = (pack("WATCH", keys.meta), pack("HGETALL", keys.meta))
    *_, found, _, meta = connection.calls(pack("UNWATCH"), pack("MULTI"), *asked, pack("EXEC"), *watch)
    for reply in found[1:]:
        if isinstance(reply, Refusal):
            raise refused(reply, where)
    if beside is not None:
        beside.reply = found.pop()
    books = _books(keys, found[1:])
    if paired(meta) != books.meta:
        raise NotYet("the stream was replaced as it was read", where=where)
    return to_info(found[0], keys.stream), books


def read_streams(
    connection: Connection, streams: Sequence[tuple[Keys, EntryId]]
) -> list[tuple[StreamInfo, StreamMetadata, list[bytes]] | BridgeError]:
    """Reads of several streams what `read_stream` does, each as of one moment, in one write; watches none of them.

    With each comes an entry by its ID: its fields, empty where it is not there. In the place of a stream that cannot be
    read stands what `read_stream` would raise. Raises RedisLost.
    """
    asked = []
    for keys, entry in streams:
        commands = (pack("XINFO", "STREAM", keys.stream), *reads_of_metadata(keys),
                    pack("XRANGE", keys.stream, format_id(entry), format_id(entry)))  # fmt: skip
        asked.append((pack("MULTI"), *commands, pack("EXEC")))
    connection.send(b"".join(command for commands in asked for command in commands))
    found: list[tuple[StreamInfo, StreamMetadata, list[bytes]] | BridgeError] = []
    replies = [[connection.read() for _ in commands] for commands in asked]
    for (keys, _), (*_, reply) in zip(streams, replies, strict=True):
        where = keys.stream.decode(errors="replace")
        rest = [reply] if isinstance(reply, Refusal) else reply[1:]
        try:
            for refusal in rest:
                if isinstance(refusal, Refusal):
                    raise refused(refusal, where)
            info, *books, entries = reply
            found.append((to_info(info, keys.stream), _books(keys, books), entries[0][1] if entries else []))
        except BridgeError as error:
            found.append(error)
    return found


def reads_of_metadata(keys: Keys) -> list[bytes]:
    """Packs the commands by which `read_metadata` reads the stream metadata, which go out in one write."""
    hashes = (keys.meta, keys.checkpoint, keys.sources, keys.generations, keys.mirror)
    return [*(pack("HGETALL", key) for key in hashes), pack("GET", keys.floor)]


def _books(keys: Keys, replies: list[Reply]) -> StreamMetadata:
    meta, checkpoint, sources, generations, mirror = (paired(reply) for reply in replies[:-1])
    checkpoint.pop(NO_SOURCE, None)
    generations.pop(NO_GENERATION, None)
    check_layout(meta, keys.stream)
    checked(keys.checkpoint, checkpoint, a_checkpoint)
    checked(keys.sources, sources, int)
    checked(keys.generations, generations, a_generation)
    checked(keys.mirror, mirror, a_target)
    raw = replies[-1]
    floor = parsed(keys.floor, raw, lambda: parse_id(raw)) if raw else None
    return StreamMetadata(meta, checkpoint, sources, generations, mirror, floor)
