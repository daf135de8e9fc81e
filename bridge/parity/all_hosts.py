"""Joins what the bridges of all hosts have proved of a mapping whose `stream.key` gives each host its own stream.

A bridge proves its own files alone, and its heartbeat tells the last result. So a bridge that gives no heartbeat has
proved nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from bridge.core.config import Settings
from bridge.core.errors import RedisRefused
from bridge.core.mapping import Mapping
from bridge.core.mapping_sections import INSTANCE
from bridge.core.model import after, paired, parse_id, shown
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.heartbeat import heartbeat_if_told
from bridge.streams.keys import Keys
from bridge.streams.layout import instance_in, is_owner, process_in
from bridge.streams.reader import entries, stream_info

MOST_SINCE = 10_000
"""Up to how many entries that came after a proof are counted."""

LASTS = 86_400.0
"""Seconds for which a proof counts."""

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

    The own stream has a row in any case. One whose mapping is retired has no bridge any more, and is left out. Raises
    RedisLost, RedisRefused.
    """
    found: list[HostProof] = []
    try:
        for mapping in mappings:
            streams = {mapping.stream.key: servers.to(mapping.stream.key), **_streams(settings, mapping, servers)}
            proofs = (_of_stream(settings, mapping, stream, streams[stream]) for stream in sorted(streams))
            found += [proof for proof in proofs if proof is not None]
    except RedisRefused as error:
        if error.code == "NOPERM":
            error.hint = "the user needs to read the streams and bridge keys of all hosts: `bridge acl` has one for it"
        raise
    return found


def verdict_of_all_hosts(proofs: Iterable[HostProof]) -> str:
    """Draws one verdict from the proofs of all hosts: differs, inconclusive or equal, the first that one has. Pure."""
    told = {proof.verdict for proof in proofs}
    return next((verdict for verdict in ("differs", "inconclusive", "equal") if verdict in told), "inconclusive")


def _streams(settings: Settings, mapping: Mapping, servers: Connections) -> dict[str, Connection]:
    """Finds the streams that bridges have claimed for a mapping, each with a connection to its server."""
    found: dict[str, Connection] = {}
    before, varies, behind = settings.written_keys[mapping.name].partition(INSTANCE)
    if not varies:
        return found
    parts = (re.sub(r"([*?\\\[\]])", r"\\\1", part) for part in (before, *behind.split(INSTANCE)))
    pattern = "bridge:{" + "*".join(parts) + "}:meta"
    for connection in servers.everywhere(mapping.stream.key):
        cursor = b"0"
        while True:
            cursor, names = connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
            for name in names:
                with suppress(UnicodeDecodeError):  # no bridge has such a name
                    found[name[len("bridge:{") : -len("}:meta")].decode()] = connection
            if cursor == b"0":
                break
    return found


def _of_stream(settings: Settings, mapping: Mapping, stream: str, connection: Connection) -> HostProof | None:
    """Reads what the bridge that owns a stream has proved of it; None: it is retired, or no stream of the mapping."""
    keys, own = Keys.of(stream), stream == mapping.stream.key
    if connection.call("EXISTS", keys.retired):
        return None
    try:
        meta = paired(connection.call("HGETALL", keys.meta))
    except RedisRefused as error:
        if error.code != "WRONGTYPE":
            raise
        return HostProof(mapping.name, stream, "?", "", "inconclusive", "its keys are of another program")
    instance = instance_in(meta) or (settings.instance if own else "")
    if not own and settings.written_keys[mapping.name].replace(INSTANCE, instance) != stream:
        return None
    proof = HostProof(mapping.name, stream, instance, shown(meta.get(b"host", b""), 64), "inconclusive")
    if b"owner" not in meta:
        return replace(proof, why="no bridge has claimed it")
    beat = heartbeat_if_told(settings, connection, process_in(meta) or instance)
    if beat is None or beat.get("stopped"):
        return replace(proof, why="its bridge is silent")
    if not is_owner(meta[b"owner"], str(beat.get("ledger", "")).encode()):
        return replace(proof, why="the bridge that goes by its name has another ledger")
    run = beat.get("parity", {}).get(mapping.name)
    if run is None or run.get("stream") != stream:
        return replace(proof, why="nothing was proved of it yet: `bridge parity` there")
    return _judged(proof, run, connection, limited=mapping.retention.limited)


def why_not(run: dict[str, Any], added: int, length: int, *, limited: bool) -> str:
    """Says why the last verdict that a host's heartbeat tells does not hold any more; empty: it holds. Pure.

    `added` and `length`: how many entries were ever added to what it compared, and how many are there. `limited`:
    entries are trimmed on purpose.
    """
    verdict, there = str(run["verdict"]), "added" in run
    if verdict == "inconclusive":
        return "the last run there could not tell"
    if verdict != "equal":
        return ""
    if time.time() - float(run["at"]) > LASTS:
        return "it was proved more than a day ago: `bridge parity` there"
    if there and added < int(run["added"]):
        return "the stream has fewer entries than were proved: `bridge parity` there"
    if there and not limited and added - length != int(run["added"]) - int(run.get("length", 0)):
        return "entries were removed since: `bridge parity` there"
    return ""


def _judged(proof: HostProof, run: dict[str, Any], connection: Connection, *, limited: bool) -> HostProof:
    """Judges whether what a bridge has proved of its stream holds still. `limited`: entries are trimmed on purpose."""
    last = parse_id(str(run["position"]["entry"]).encode())
    since = sum(1 for _ in islice(entries(connection, proof.stream.encode(), after(last)), MOST_SINCE))
    info, verdict = stream_info(connection, proof.stream.encode()), str(run["verdict"])
    why = why_not(run, info.added, info.length, limited=limited)
    return replace(
        proof, verdict="inconclusive" if why else verdict, why=why, at=float(run["at"]),
        compared=int(run["compared"]), differences=int(run["differences"]), since=since,
    )  # fmt: skip
