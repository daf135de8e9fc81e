"""Where everything stands: sampled once, from files, ledger and Redis, into one value that every printer reads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from bridge.carry.shared import Shared
from bridge.config import Settings, masked
from bridge.errors import BridgeError, RedisLost, SourceError
from bridge.ledger.health import troubles
from bridge.ledger.quarantine import quarantine_counts
from bridge.ledger.sources import sources_of, stream_memory
from bridge.ledger.store import Ledger
from bridge.model import ZERO_ID, Checkpoint, EntryId, after, format_id
from bridge.run import dialler
from bridge.server import embedded
from bridge.streams import keys
from bridge.streams.connect import Connection
from bridge.streams.reader import entries
from bridge.streams.writer import read_books

COUNTED = 100_000
"""Entries behind the mirror are counted up to here."""


@dataclass(slots=True)
class SourceStatus:
    """One source's forward cursor. `behind` in bytes."""

    name: str
    generation: int = 0
    offset: int = 0
    behind: int = 0
    error: str = ""


@dataclass(slots=True)
class MappingStatus:
    """One mapping. `mirror_behind` in entries; None without a mirror, or when Redis cannot be asked."""

    name: str
    stream: str
    sources: list[SourceStatus] = field(default_factory=list)
    mirror_target: str | None = None
    mirror_cursor: EntryId = ZERO_ID
    mirror_behind: int | None = None
    quarantined: list[tuple[str, str, int]] = field(default_factory=list)
    owner: str = ""


@dataclass(slots=True)
class Status:
    """Everything, at one moment."""

    redis: str
    redis_error: str = ""
    heartbeat: dict[str, Any] | None = None
    mappings: list[MappingStatus] = field(default_factory=list)
    troubles: dict[str, tuple[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        beat = self.heartbeat
        return {
            "redis": {"url": self.redis, "reachable": not self.redis_error, "error": self.redis_error or None},
            "running": beat is not None,
            "heartbeat": beat,
            "troubles": {name: {"error": error, "since": since} for name, (error, since) in self.troubles.items()},
            "mappings": [
                {
                    "mapping": one.name,
                    "stream": one.stream,
                    "owner": one.owner or None,
                    "forward": [
                        {"source": s.name, "generation": s.generation, "offset": s.offset, "behind_bytes": s.behind,
                         "error": s.error or None}
                        for s in one.sources
                    ],
                    "mirror": None if one.mirror_target is None else {
                        "target": one.mirror_target, "entry": format_id(one.mirror_cursor).decode(),
                        "behind_entries": one.mirror_behind,
                    },
                    "quarantined": [{"direction": d, "reason": r, "count": n} for d, r, n in one.quarantined],
                }
                for one in self.mappings
            ],
        }  # fmt: skip


def sample(settings: Settings) -> Status:
    """Reads everything once. Raises LedgerError; Redis out of reach is part of the answer."""
    status = Status(masked(settings.redis_url))
    connection = None
    try:
        if settings.redis_url == "embedded" and not embedded.running(settings.state_dir):
            raise RedisLost("the embedded server does not run", hint="`bridge server start`")
        connection = dialler(settings)()
        beat = connection.call("GET", keys.health(settings.instance))
        status.heartbeat = json.loads(beat) if beat else None
    except BridgeError as error:
        status.redis_error = error.what
    path = settings.state_dir / "ledger.db"
    ledger = Ledger(path) if path.exists() else None
    try:
        if ledger is not None:
            status.troubles = {name: (one.error, one.since) for name, one in troubles(ledger).items()}
        for mapping in settings.mappings:
            status.mappings.append(_mapping(Shared(mapping, settings), ledger, connection, status))
    finally:
        if ledger is not None:
            ledger.close()
        if connection is not None:
            connection.close()
    return status


def _mapping(shared: Shared, ledger: Ledger | None, connection: Connection | None, status: Status) -> MappingStatus:
    mapping = shared.mapping
    one = MappingStatus(mapping.name, mapping.stream.key)
    stored: dict[str, bytes | None] = {}
    if mapping.mirror is not None:
        one.mirror_target = mapping.mirror.path
    if ledger is not None:
        stored = {name: memory.stored for name, memory in sources_of(ledger, mapping.stream.key).items()}
        memory = stream_memory(ledger, mapping.stream.key)
        one.mirror_cursor = memory.mirror_cursor if memory else ZERO_ID
        one.quarantined = quarantine_counts(ledger, mapping.stream.key)
    if connection is not None:
        try:
            books = read_books(connection, shared.keys)
            one.owner = books.meta.get(b"owner", b"").decode()
            stored |= {name.decode("utf-8", "surrogateescape"): raw for name, raw in books.checkpoint.items()}
            if mapping.mirror is not None:
                one.mirror_behind = _behind(connection, shared.keys.stream, one.mirror_cursor)
        except BridgeError as error:
            status.redis_error = error.what
    for name in sorted({*shared.source_names(), *stored}):
        one.sources.append(_source(shared, ledger, name, stored.get(name)))
    shared.close()
    return one


def _behind(connection: Connection, stream: bytes, cursor: EntryId) -> int:
    count = 0
    for entry in entries(connection, stream, after(cursor)):
        count += entry.origin() is None
        if count >= COUNTED:
            break
    return count


def _source(shared: Shared, ledger: Ledger | None, name: str, stored: bytes | None) -> SourceStatus:
    one = SourceStatus(name)
    path = shared.settings.root / name
    try:
        if ledger is None:
            one.behind = path.stat().st_size if path.exists() else 0
            return one
        tail = shared.tail(name, ledger)
        tail.look()
        if stored:
            checkpoint = Checkpoint.from_json(stored)
            one.generation, one.offset = checkpoint.position
            tail.seek(checkpoint.generation, checkpoint.at)
        one.behind = sum(max(0, g.size() - g.read_to) for g in tail.pending())
    except (SourceError, OSError) as error:
        one.error = str(error)
    return one
