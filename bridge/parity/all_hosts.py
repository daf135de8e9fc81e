"""Joins what the bridges of all hosts have proved of a mapping whose `stream.key` gives each host its own stream.

A bridge proves its own files alone, and its heartbeat tells the last result. So a bridge that gives no heartbeat has
proved nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.core.mapping_sections import INSTANCE
from bridge.core.model import after, paired, parse_id, shown
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.heartbeat import heartbeat_if_told
from bridge.streams.keys import Keys
from bridge.streams.layout import instance_in
from bridge.streams.reader import entries

MOST_SINCE = 10_000
"""Up to how many entries that came after a proof are counted."""

SCANNED = 1000
"""How many keys SCAN looks at in one call."""


@dataclass(frozen=True, slots=True)
class HostProof:
    """What the bridge of one host has proved of its stream: the verdict of its last run of parity, and when.

    `why` says why the verdict is inconclusive. `at` is in seconds since 1970; `since` counts the entries after those
    that were compared, up to `MOST_SINCE`.
    """

    mapping: str
    stream: str
    instance: str
    host: str
    verdict: str
    why: str = ""
    at: float | None = None
    compared: int = 0
    differences: int = 0
    since: int = 0

    def to_json(self) -> dict[str, Any]:
        """Turns a host's proof into the object that `bridge parity --all-hosts --json` prints."""
        return asdict(self)


def proofs_of_all_hosts(settings: Settings, mappings: Iterable[Mapping], servers: Connections) -> list[HostProof]:
    """Reads what the bridges of all hosts have proved of each mapping, by mapping and stream.

    A stream whose mapping is retired has no bridge any more, and is left out. Raises RedisLost, RedisRefused.
    """
    found: list[HostProof] = []
    for mapping in mappings:
        for stream, connection in sorted(_streams(settings, mapping, servers), key=lambda row: row[0]):
            keys = Keys.of(stream)
            if connection.call("EXISTS", keys.retired):
                continue
            meta = paired(connection.call("HGETALL", keys.meta))
            instance = instance_in(meta)
            if settings.written_keys[mapping.name].replace(INSTANCE, instance) == stream:
                found.append(_proof(settings, mapping, connection, stream, instance, meta.get(b"host", b"")))
    return found


def verdict_of_all_hosts(proofs: Iterable[HostProof]) -> str:
    """Draws one verdict from the proofs of all hosts: differs, inconclusive or equal, the first that one has. Pure."""
    told = {proof.verdict for proof in proofs}
    return next((verdict for verdict in ("differs", "inconclusive", "equal") if verdict in told), "inconclusive")


def _streams(settings: Settings, mapping: Mapping, servers: Connections) -> Iterable[tuple[str, Connection]]:
    """Finds the streams that bridges have claimed for a mapping, each with a connection to its server."""
    before, found, behind = settings.written_keys[mapping.name].partition(INSTANCE)
    if not found:
        yield mapping.stream.key, servers.to(mapping.stream.key)
        return
    parts = (re.sub(r"([*?\\\[\]])", r"\\\1", part) for part in (before, behind.replace(INSTANCE, "\0")))
    pattern = "bridge:{" + "*".join(parts).replace("\0", "*") + "}:meta"
    for connection in servers.everywhere(mapping.stream.key):
        cursor, seen = b"0", set[bytes]()
        while True:
            cursor, names = connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
            seen |= {*names}
            if cursor == b"0":
                break
        for name in seen:
            yield name[len("bridge:{") : -len("}:meta")].decode(errors="surrogateescape"), connection


def _proof(
    settings: Settings, mapping: Mapping, connection: Connection, stream: str, instance: str, host: bytes
) -> HostProof:
    where = shown(host, 64)
    beat = heartbeat_if_told(settings, connection, instance)
    if beat is None or beat.get("stopped"):
        return HostProof(mapping.name, stream, instance, where, "inconclusive", "its bridge is silent")
    run = beat.get("parity", {}).get(mapping.name)
    if run is None:
        why = "it has proved nothing yet: `bridge parity` there"
        return HostProof(mapping.name, stream, instance, where, "inconclusive", why)
    last = parse_id(str(run["position"]["entry"]).encode())
    since = sum(1 for _ in islice(entries(connection, stream.encode(), after(last)), MOST_SINCE))
    why = "the last run there could not tell" if run["verdict"] == "inconclusive" else ""
    return HostProof(mapping.name, stream, instance, where, run["verdict"], why, float(run["at"]),
                     int(run["compared"]), int(run["differences"]), since)  # fmt: skip
