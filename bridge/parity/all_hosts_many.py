"""Joins what the bridges of all hosts have proved of a mapping with many streams: of each host all streams at once.

A heartbeat tells the worst of the last verdicts of a mapping's streams, and sums of what was compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.core.mapping_sections import INSTANCE, NAME
from bridge.core.model import paired, shown
from bridge.core.wording import counted
from bridge.parity.all_hosts import SCANNED, HostProof, why_not
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.heartbeat import heartbeat_if_told
from bridge.streams.keys import Keys
from bridge.streams.layout import instance_in, is_owner, process_in
from bridge.streams.reader import to_info
from bridge.streams.resp import pack

ASKED = 100
"""Streams that are asked for in one request."""


@dataclass(slots=True)
class HostStreams:
    """The streams that one host's bridge has of a mapping with many: how many, and of how many entries."""

    key: str
    instance: str
    process: str
    connection: Connection
    host: str = ""
    owners: frozenset[bytes] = frozenset()
    streams: int = 0
    length: int = 0
    added: int = 0


def proofs_of_many(settings: Settings, mapping: Mapping, servers: Connections) -> list[HostProof]:
    """Reads what the bridges of all hosts have proved of the streams of a mapping with many: a row for each host.

    `mapping` as bridge.toml has it, with `{name}` in its key. The own host has a row in any case. Retired streams are
    left out. Raises RedisLost, RedisRefused.
    """
    found: dict[tuple[str, str], HostStreams] = {}
    for connection in servers.everywhere(mapping.stream.key):
        for stream, meta in _claimed(settings.written_keys[mapping.name], connection):
            instance = instance_in(meta) or settings.instance
            key = settings.written_keys[mapping.name].replace(INSTANCE, instance)
            before, _, behind = key.partition(NAME)
            if not (stream.startswith(before) and stream.endswith(behind)):
                continue
            process = process_in(meta) or instance
            mine = found.setdefault((key, instance), HostStreams(key, instance, process, connection))
            mine.host = mine.host or shown(meta.get(b"host", b""), 64)
            mine.owners |= {meta.get(b"owner", b"")}
            info = to_info(meta[_INFO], stream.encode())
            mine.streams, mine.length, mine.added = mine.streams + 1, mine.length + info.length, mine.added + info.added
    own, instance = mapping.stream.key, settings.instance
    if (own, instance) not in found:
        process = settings.of_mapping(mapping.name).process_name
        found[own, instance] = HostStreams(own, instance, process, servers.to(own))
    return [_judged(settings, mapping, found[place]) for place in sorted(found)]


_INFO = b""
"""Where the reply of XINFO STREAM stands among a stream's metadata."""


def _claimed(written: str, connection: Connection) -> Iterator[tuple[str, dict[bytes, Any]]]:
    """Yields the streams of such a key that bridges of any host claimed on a server, with metadata and XINFO STREAM."""
    parts = re.split("|".join(map(re.escape, (INSTANCE, NAME))), written)
    pattern = "bridge:{" + "*".join(re.sub(r"([*?\\\[\]])", r"\\\1", part) for part in parts) + "}:meta"
    cursor, seen = b"0", set[bytes]()
    while True:
        cursor, names = connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
        fresh = [name for name in dict.fromkeys(names) if name not in seen]
        seen |= {*fresh}
        for at in range(0, len(fresh), ASKED):
            yield from _looked_at(fresh[at : at + ASKED], connection)
        if cursor == b"0":
            return


def _looked_at(names: list[bytes], connection: Connection) -> Iterator[tuple[str, dict[bytes, Any]]]:
    streams = list[str]()
    for name in names:
        with suppress(UnicodeDecodeError):  # no bridge has such a name
            streams.append(name[len(b"bridge:{") : -len(b"}:meta")].decode())
    keys = [Keys.of(stream) for stream in streams]
    connection.send(b"".join(
        pack("EXISTS", own.retired) + pack("HGETALL", own.meta) + pack("XINFO", "STREAM", own.stream) for own in keys
    ))  # fmt: skip
    replies = [(connection.read(), connection.read(), connection.read()) for _ in keys]
    for stream, (over, meta, info) in zip(streams, replies, strict=True):
        if over == 0 and isinstance(meta, list):
            yield stream, {**paired(meta), _INFO: info}


def _judged(settings: Settings, mapping: Mapping, there: HostStreams) -> HostProof:
    """Judges whether what a host's bridge has proved of its streams of a mapping holds still."""
    proof = HostProof(mapping.name, there.key, there.instance, there.host, "inconclusive")
    if not there.streams:
        return replace(proof, why="no bridge has claimed any")
    beat = heartbeat_if_told(settings, there.connection, there.process)
    if beat is None or beat.get("stopped"):
        return replace(proof, why="its bridge is silent")
    ledger = str(beat.get("ledger", "")).encode()
    if not all(is_owner(owner, ledger) for owner in there.owners):
        return replace(proof, why="the bridge that goes by its name has another ledger")
    run = beat.get("parity", {}).get(mapping.name)
    if run is None or run.get("stream") != there.key or "streams" not in run:
        return replace(proof, why="nothing was proved of it yet: `bridge parity` there")
    verdict, since = str(run["verdict"]), max(0, there.added - int(run["added"]))
    why = why_not(run, there.added, there.length, limited=mapping.retention.limited)
    if verdict == "equal" and int(run["streams"]) < there.streams:
        why = f"{counted(there.streams - int(run['streams']), 'stream')} never compared: `bridge parity` there"
    return replace(proof, verdict="inconclusive" if why else verdict, why=why, at=float(run["at"]),
                   compared=int(run["compared"]), differences=int(run["differences"]), since=since)  # fmt: skip
