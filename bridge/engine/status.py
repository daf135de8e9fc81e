"""Samples the status of all mappings once from files, ledger and Redis, for `bridge status`.

The sample is one `Status` value, which every printer reads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from bridge.continuity.group_moves import waiting_moves
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, LedgerError, RedisLost, RedisRefused, SourceError
from bridge.core.model import ZERO_ID, Checkpoint, EntryId, Position
from bridge.core.server_address import masked
from bridge.core.state_directory import lock_holder
from bridge.engine.account.accountant import Accountant
from bridge.engine.account.standing import FilesAccount
from bridge.engine.lag import Lag, file_behind, folder_behind, stream_behind, values_behind
from bridge.engine.retired_files import retired_mapping
from bridge.files.outboxes import waiting_of_all
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.edits import ALIGNED, STOPPED, LogEdit, rewrites_of
from bridge.ledger.heartbeat import Trouble, heartbeat, troubles
from bridge.ledger.import_runs import last_import
from bridge.ledger.parity_runs import ParityRun, runs
from bridge.ledger.quarantine import quarantine_counts
from bridge.ledger.sources import in_doubt, sources_of, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.switch_requests import unsettled
from bridge.ledger.trim_points import last_report
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections, dialler
from bridge.streams.foreseen_reads import foreseeing
from bridge.streams.keys import Keys
from bridge.streams.layout import OWN_STREAMS, is_owner, others_stream
from bridge.streams.reader import GroupInfo, StreamInfo, groups_of, stream_info
from bridge.streams.resp import pack
from bridge.streams.stream_metadata import read_metadata, reads_of_metadata


@dataclass(slots=True)
class SourceStatus:
    """The status of one source and its forward lag. `rate` in lines a second, None when no bridge runs."""

    name: str
    position: Position | None = None
    behind: Lag = field(default_factory=Lag)
    rate: float | None = None
    error: str = ""
    noun: str = "line"


@dataclass(slots=True)
class MirrorStatus:
    """The status of one mapping's mirror, with its lag. `behind` is None when Redis cannot be asked."""

    target: str
    cursor: EntryId = ZERO_ID
    behind: Lag | None = None
    rate: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class StreamSize:
    """The size of a stream and its consumer groups in `bridge status`. `bytes` of memory, as Redis reckons it.

    `bytes` or `groups` is None where our rights do not go so far.
    """

    entries: int
    bytes: int | None
    groups: tuple[GroupInfo, ...] | None


@dataclass(slots=True)
class MappingStatus:
    """The status of one mapping. `quarantined`: (direction, kind of reason, count), commonest first.

    `family`: the mapping with many streams of which this is one; of any other mapping its own name.
    """

    name: str
    stream: str
    family: str = ""
    error: str = ""
    hint: str = ""
    retired: float | None = None
    """Since when the mapping is retired, in seconds since 1970; None: it is not."""
    outboxes: dict[str, int] = field(default_factory=dict)
    """How many messages of each component wait on disk to be sent."""
    dead: dict[str, Lag] = field(default_factory=dict)
    """The messages that others wrote to each source of a retired mapping since then: nobody carries them."""
    sources: list[SourceStatus] = field(default_factory=list)
    mirror: MirrorStatus | None = None
    quarantined: list[tuple[str, str, int]] = field(default_factory=list)
    owner: str = ""
    imported: dict[str, Any] | None = None
    """The report of the last import run (`bridge.engine.importer`)."""
    parity: ParityRun | None = None
    retention: dict[str, Any] | None = None
    """The last report on the stream's retention (`bridge.admin.retention.trimming`)."""
    edits: list[LogEdit] = field(default_factory=list)
    """Recent edits of logs, and files that took a log's place and wait for a person to say what they are."""
    account: FilesAccount | None = None
    """The account of the files that the mapping names; None of a mapping whose messages are each a file."""
    size: StreamSize | None = None
    """The size of the stream in Redis; None when Redis cannot be asked."""

    def __post_init__(self) -> None:
        self.family = self.family or self.name


@dataclass(slots=True)
class Status:
    """The status of the whole bridge, as `bridge status` found it at one moment (`at`, seconds since 1970).

    `holder` is the process that has the state directory's lock; `heartbeat` the last one that the ledger knows, of a
    living process or not; `troubles` are those of a living process, `earlier` those that are over.
    """

    at: float
    redis: str
    redis_error: str = ""
    redis_hint: str = ""
    holder: str = ""
    heartbeat: dict[str, Any] | None = None
    mappings: list[MappingStatus] = field(default_factory=list)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    earlier: dict[str, Trouble] = field(default_factory=dict)
    ledger_error: str = ""

    @property
    def running(self) -> bool:
        """Whether `bridge run` runs on this state directory."""
        return self.holder.startswith("bridge run ")

    @property
    def importing(self) -> bool:
        """Whether `bridge import-history` runs on this state directory."""
        return self.holder.startswith("bridge import-history ")

    @property
    def dual(self) -> bool:
        """Whether the present or last process of `bridge run` carries from stream to file as well."""
        return bool(self.heartbeat and self.heartbeat.get("dual"))

    @property
    def files_behind(self) -> Lag:
        """The lag of forward over all mappings, for `bridge status`: lines, bytes, and the time of the oldest."""
        return sum((source.behind for mapping in self.mappings for source in mapping.sources), Lag())

    @property
    def streams_behind(self) -> Lag:
        """The lag of the mirrors over all mappings, for `bridge status`, as far as Redis could be asked."""
        mirrors = [mapping.mirror for mapping in self.mappings if mapping.mirror is not None]
        return sum((mirror.behind for mirror in mirrors if mirror.behind is not None), Lag())


QUIET, ROOM = 6.0, 1 << 20
"""After `QUIET` seconds without a heartbeat, less than `ROOM` bytes free on the ledger's disk count as a full disk."""

LATELY, UNSETTLED_AFTER = 86_400.0, 5.0
"""Seconds for which the status tells of an edit of a log, and after which it tells of a switch that is not settled."""


def sample(
    settings: Settings, now: Callable[[], float], *, mirrors: bool = True, waits: dict[str, Trouble] | None = None
) -> Status:
    """Samples the status of the bridge from ledger, files and Redis; changes nothing, and notes what cannot be reached.

    A bridge that samples itself passes the troubles of its workers, `waits`, and whether it counts `mirrors`' lag.
    """
    status = Status(now(), masked(settings.redis_url), holder=lock_holder(settings.state_dir))
    servers, links = Connections(settings, may_start=False), dict[str, Connection]()
    away: dict[str, BridgeError] = {}
    try:
        links, away = servers.reach(mapping.stream.key for mapping in settings.mappings)
    except BridgeError as error:
        status.redis_error, status.redis_hint = error.what, error.hint
    ledger = None
    try:
        path = settings.state_dir / "ledger.db"
        ledger = Ledger(path) if path.exists() else None
    except LedgerError as error:
        status.ledger_error = str(error)
    try:
        if ledger is not None:
            beat = heartbeat(ledger, settings.instance)
            # A process that has the lock and gave no heartbeat yet is not the one that gave the last.
            status.heartbeat = (
                None if status.running and beat and f"(process {beat['pid']})" not in status.holder else beat
            )
            late = beat is not None and status.running and status.at - float(beat["at"]) > QUIET
            if late and shutil.disk_usage(settings.home).free < ROOM:
                status.ledger_error = f"{path}: its disk is full; what waits is carried when there is room"
            known = troubles(ledger)
            status.earlier = {worker: trouble for worker, trouble in known.items() if trouble.over is not None}
            status.troubles = {
                worker: trouble for worker, trouble in known.items() if trouble.over is None and status.running
            }
            status.troubles = status.troubles if waits is None else waits
            for component, since in unsettled(ledger, now() - UNSETTLED_AFTER):
                said = "its switch is asked for and neither made nor taken back: what it concerns waits"
                hint = "a running bridge sees to it within two minutes, and the next `bridge cutover` at once"
                status.troubles[f"switch of {component}"] = Trouble(said, hint, since)
        elsewhere, boxes = waiting_moves(settings), waiting_of_all(settings.home)
        streams = [mapping.stream.key for mapping in settings.mappings]
        for mapping, _ in zip(settings.mappings, foreseeing(streams, links.get, _reads), strict=True):
            with closing(MappingContext(mapping, settings)) as shared:
                found = _mapping(shared, ledger, links.get(mapping.stream.key), status, mirrors=mirrors)
            found.outboxes = boxes.get(mapping.name, {})
            if (move := elsewhere.get(mapping.name)) is not None:
                found.error, found.hint = move.said, move.hint(settings.group)
            if (lost := away.get(mapping.stream.key)) is not None and not found.error:
                found.error, found.hint = lost.what, lost.hint
            status.mappings.append(found)
    finally:
        if ledger is not None:
            ledger.close()
        servers.close()
    return status


def _answers(settings: Settings, stream: str) -> bool:
    """Whether the Redis server of a stream answers over a new connection, though one of the status was lost."""
    try:
        with closing(dialler(settings, stream, may_start=False)()) as connection:
            return connection.call("PING") is not None
    except BridgeError:
        return False


def _mapping(
    shared: MappingContext, ledger: Ledger | None, connection: Connection | None, status: Status, *, mirrors: bool
) -> MappingStatus:
    mapping, settings = shared.mapping, shared.settings
    found = MappingStatus(mapping.name, mapping.stream.key, mapping.family)
    stored: dict[str, bytes | None] = {}
    if mapping.mirror is not None:
        found.mirror = MirrorStatus(mapping.mirror.path, rate=_rate(status, f"mirror {found.name}"))
    over = retired_mapping(shared, ledger, connection)
    if over is not None:
        found.mirror, found.retired, found.dead = None, over.at, over.written
        found.error, found.hint = over.error, over.hint
        return found
    if ledger is not None:
        stored = {name: memory.stored for name, memory in sources_of(ledger, found.stream).items()}
        found.quarantined = quarantine_counts(ledger, found.stream)
        found.imported = last_import(ledger, found.stream)
        found.parity = next(iter(runs(ledger, found.stream, 1)), None)
        doubtful = in_doubt(ledger, found.stream)
        edits = rewrites_of(ledger, found.stream)
        late = [edit for edit in edits if status.at - edit.at < LATELY and (edit.how == ALIGNED or edit.again)]
        found.edits = [edit for edit in edits if edit in late or (edit.how == STOPPED and edit.name in doubtful)]
        looked = last_report(ledger, found.stream) if mapping.retention.limited else None
        found.retention = {"at": looked[0], **looked[1]} if looked is not None else None
    if shared.folder is None and shared.values is None:
        try:
            found.account = Accountant(shared, ledger, lambda: status.at).whole(stored, running=status.running)
        except (SourceError, LedgerError) as error:
            found.error, found.hint = error.what, error.hint
    memory = stream_memory(ledger, found.stream) if ledger is not None else None
    if found.mirror is not None and memory is not None:
        found.mirror.cursor = memory.mirror_cursor
    if connection is not None:
        try:
            info = stream_info(connection, shared.keys.stream)
            if found.mirror is not None and mirrors:
                news = info.last_id > found.mirror.cursor
                cursor, stream = found.mirror.cursor, shared.keys.stream
                found.mirror.behind = stream_behind(connection, stream, cursor) if news else Lag(0, 0, None)
            found.size = stream_size(connection, shared.keys.stream, info)
            books = read_metadata(connection, shared.keys)
            owner = books.meta.get(b"owner")
            found.owner = (owner or b"").decode(errors="replace")
            whose = others_stream(books.meta, ledger.uuid if ledger is not None else b"", settings.instance)
            if whose and not status.ledger_error:
                found.error, found.hint = f"{whose}: standing by", OWN_STREAMS
            elif ledger is None and found.owner and not status.ledger_error:
                found.error = "its ledger is lost, so it is not carried"
                found.hint = "`bridge repair` rebuilds it"
            elif ledger is not None and owner is not None and not is_owner(owner, ledger.uuid):
                found.error = "the stream was carried with another ledger of this bridge: standing by"
                found.hint = "if that one was lost or moved, `bridge repair` rebuilds it"
            stored |= {os.fsdecode(name): raw for name, raw in books.checkpoint.items() if not whose}
        except RedisLost as error:
            if _answers(settings, found.stream):
                said = "the server answers, and closed the connection as entries were read"
                found.error, found.hint = said, error.hint or "`bridge doctor` tells of its limits"
            else:
                status.redis_error, status.redis_hint = error.what, error.hint
        except BridgeError as error:
            found.error, found.hint = error.what, error.hint
    trouble = status.troubles.get(f"mirror {found.name}")
    if found.mirror is not None and trouble is not None:
        found.mirror.error = trouble.error
    for name in sorted({*shared.source_names(), *stored}):
        settled = found.account is not None and found.account.settles(name)
        found.sources.append(_source(shared, ledger, name, stored.get(name), status, settled=settled))
    return found


def stream_size(connection: Connection, stream: bytes, info: StreamInfo) -> StreamSize:
    """Asks Redis for the status of a stream: its size and consumer groups. Raises RedisLost, RedisRefused."""
    used, groups = None, None
    with suppress(RedisRefused):
        used = int(connection.calls(_usage(stream))[0] or 0)
    with suppress(RedisRefused):
        groups = tuple(groups_of(connection, stream))
    return StreamSize(info.length, used, groups)


def _usage(stream: bytes) -> bytes:
    return pack("MEMORY", "USAGE", stream)


def _reads(keys: Keys) -> list[Sequence[bytes]]:
    """Makes the writes of a status of one stream whose replies are short, for `foreseeing`."""
    return [
        [pack("GET", keys.retired)], [_usage(keys.stream)], [pack("XINFO", "GROUPS", keys.stream)],
        reads_of_metadata(keys),
    ]  # fmt: skip


def _rate(status: Status, worker: str) -> float | None:
    workers = (status.heartbeat or {}).get("workers", {})
    if not status.running or worker.partition(":")[0] not in workers:
        return None
    return float(workers[worker]["rate"]) if worker in workers else 0.0  # a source that rests is not named


def _source(
    shared: MappingContext, ledger: Ledger | None, name: str, stored: bytes | None, status: Status, *, settled: bool
) -> SourceStatus:
    worker = f"forward {shared.mapping.name}: {name}"
    source = SourceStatus(name, rate=_rate(status, worker), noun=shared.mapping.noun)
    try:
        if shared.folder is not None:
            source.position = Checkpoint.from_json(stored).position if stored else None
            source.behind = folder_behind(shared.mapping, shared.folder, ledger)
        elif settled:
            source.position = Checkpoint.from_json(stored).position if stored else None
        elif shared.values is not None:
            source.behind = values_behind(shared.mapping, shared.values, ledger)
        else:
            tail, source.position = shared.tail_at(name, ledger, stored)
            source.behind = file_behind(tail, ledger, shared.mapping.stream.key, shared.mapping.codec(name))
    except (SourceError, LedgerError, OSError) as error:
        source.error = str(error)
    if worker in status.troubles:
        source.error = status.troubles[worker].error
    return source
