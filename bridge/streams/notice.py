"""Packs the notices that tell of new entries of a stream on its Pub/Sub channel: only a reason to read."""

from __future__ import annotations

from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.resp import pack


def shard_channel(stream: bytes) -> bytes:
    """Makes the name of a stream's channel in a cluster, `{S}:notify`: the stream's own node has it, and no other."""
    return b"{%b}:notify" % stream


def packed_notice(connection: Connection, keys: Keys, channel: bytes, word: str) -> bytes:
    """Packs a notice for a stream's channel.

    In a cluster every node would be told of every batch. So where the channel is the default one, it is a channel of
    the stream's slot there (SSUBSCRIBE); one that a mapping names is what it is.
    """
    if connection.in_cluster and channel == keys.stream + b":notify":
        return pack("SPUBLISH", shard_channel(keys.stream), word)
    return pack("PUBLISH", channel, word)
