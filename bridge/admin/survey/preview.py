"""Previews an import for `import-history --dry-run`: reads all files, writes nothing, and estimates Redis's memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bridge.admin.survey.check_lines import CheckReport, continuing
from bridge.core.codecs.chunk import CHUNK
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, LedgerError, SourceError
from bridge.core.mapping import Mapping
from bridge.core.model import as_json
from bridge.files.folder import MessageFolder
from bridge.files.generation import Generation
from bridge.files.lines import Cut, walk
from bridge.files.tail import Tail
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.provenance import exclude_mirrored
from bridge.ledger.sources import sources_of
from bridge.ledger.spool_messages import files_known
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.reader import ServerMemory, room
from bridge.streams.stream_metadata import read_metadata

PER_ENTRY = 23
PER_BYTE = 1.06
"""Bytes of Redis memory for an entry, and for each byte of its values: measured on Redis 7.0 and Valkey 9.1 for data
of 5 to 5,000 bytes, where the estimate is right to about 6 %."""

ORIGIN = 16
"""About how many bytes an origin takes."""


@dataclass(slots=True)
class Preview:
    """Holds the preview of an import for one mapping: how the files of each source would translate.

    `sources`: name, bytes on disk, the report of checked lines, and why the source cannot be read, if it cannot.
    `before`: bytes on disk that are in the stream already.
    """

    mapping: str
    stream: str
    orders: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """For each source of several pieces: their paths, oldest first, and what decided each one's place in that order."""
    sources: list[tuple[str, int, CheckReport, str]] = field(default_factory=list)
    before: int = 0
    aside: list[tuple[str, str]] = field(default_factory=list)
    """The files that are none of lines, by path, each with what it is and what to do."""

    def total(self, name: str) -> int:
        """Sums a count of the import's preview over all sources.

        `name`: `translated`, `rejected`, `empty`, `partial` or `clamped`.
        """
        return sum(int(getattr(report, name)) for _, _, report, _ in self.sources)

    @property
    def memory(self) -> int:
        """About how many bytes of Redis memory the imported entries will take."""
        entries = self.total("translated")
        return int(entries * PER_ENTRY + PER_BYTE * (self.total("values") + ORIGIN * entries))

    def count(self, name: str) -> Counter[bytes]:
        """Counts the `roles` or the `types` of the messages of all sources in the import's preview."""
        found: Counter[bytes] = Counter()
        for _, _, report, _ in self.sources:
            found.update(getattr(report, name))
        return found

    def span(self) -> tuple[int, int] | None:
        """Finds the times of the earliest and the latest message that would be imported, in ms since 1970."""
        first = [report.earliest for _, _, report, _ in self.sources if report.earliest is not None]
        last = [report.latest for _, _, report, _ in self.sources if report.latest is not None]
        return (min(first), max(last)) if first else None

    def to_json(self) -> dict[str, Any]:
        """Turns the preview of a mapping's import into the object that `--json` prints."""
        span = self.span()
        return {
            "mapping": self.mapping, "stream": self.stream, "before": self.before,
            "lines": self.total("translated") + self.total("rejected") + self.total("empty"),
            "entries": self.total("translated"), "rejected": self.total("rejected"), "empty": self.total("empty"),
            "unfinished": self.total("partial"), "clamped": self.total("clamped"), "memory": self.memory,
            "earliest": span[0] if span else None, "latest": span[1] if span else None,
            "roles": [{"role": as_json(value), "count": n} for value, n in self.count("roles").most_common()],
            "types": [{"type": as_json(value), "count": n} for value, n in self.count("types").most_common()],
            "aside": [{"path": path, "why": why} for path, why in self.aside],
            "sources": [{"source": name, "bytes": size, "error": error or None, **checked.to_json(),
                         "pieces": [{"path": path, "decided": why} for path, why in self.orders.get(name, ())]}
                        for name, size, checked, error in self.sources],
        }  # fmt: skip


def preview(settings: Settings, mappings: list[Mapping]) -> tuple[list[Preview], ServerMemory | None, str]:
    """Previews what an import of the mappings would do, and asks the server for its memory; starts and changes nothing.

    Returns the previews, the server's memory, and why that is not known, if it is not.
    """
    path = settings.state_dir / "ledger.db"
    ledger = Ledger(path) if path.exists() else None
    servers, said = Connections(settings, may_start=False), ""
    try:
        links: dict[str, Connection] = {}
        try:
            links, away = servers.reach(mapping.stream.key for mapping in mappings)
            said = str(next(iter(away.values()), ""))
        except BridgeError as error:
            said = str(error)
        found = [_mapping(MappingContext(mapping, settings), ledger, links.get(mapping.stream.key))
                 for mapping in mappings]  # fmt: skip
        first = next(iter(links.values()), None)
        return found, room(first) if first is not None else None, said
    finally:
        servers.close()
        if ledger is not None:
            ledger.close()


def _mapping(shared: MappingContext, ledger: Ledger | None, connection: Connection | None) -> Preview:
    stream = shared.mapping.stream.key
    planned, stored = Preview(shared.mapping.name, stream), dict[str, bytes | None]()
    if ledger is not None:
        stored = {name: memory.stored for name, memory in sources_of(ledger, stream).items()}
    if connection is not None:
        books = read_metadata(connection, shared.keys)
        stored |= {os.fsdecode(name): raw for name, raw in books.checkpoint.items()}
    try:
        if (folder := shared.folder or shared.values) is not None:
            _folder(planned, shared.mapping, folder, ledger)
        for name in shared.source_names(stored) if folder is None else ():
            checked, error = CheckReport(), ""
            try:
                tail, _ = shared.tail_at(name, ledger, None)
                size = sum(generation.left(0) for generation in tail.pending())
                shared.tail_at(name, ledger, stored.get(name))
                pieces = [
                    (str(piece.path.relative_to(shared.settings.root)), piece.decided) for piece in tail.pending()
                ]
                if len(pieces) > 1:
                    planned.orders[name] = pieces
                left = sum(generation.left() for generation in tail.pending())
                ended = [
                    known.packed[0] if known.packed else known.at.offset for known in tail.records() if known.closed
                ]
                planned.before += max(0, size - left) + sum(ended)
                for generation in tail.pending():
                    _read(shared.mapping, tail, generation, ledger, checked)
                planned.sources.append((name, left, checked, error))
            except (SourceError, LedgerError) as failed:
                planned.sources.append((name, 0, checked, str(failed)))
        foreign = sorted(listed.name for listed in shared.catalog.named.values() if listed.foreign)
        planned.aside = [(path, shared.catalog.named[path].aside) for path in foreign]
    finally:
        shared.close()
    return planned


def _folder(planned: Preview, mapping: Mapping, folder: MessageFolder, ledger: Ledger | None) -> None:
    """Previews the import of a folder of whole files: reads those that the ledger does not know unchanged.

    Files that the ledger knows count as carried before.
    """
    checked, limit, error = CheckReport(noun=mapping.noun), mapping.format.max_line_bytes, ""
    try:
        for some in folder.scan():
            known = files_known(ledger, mapping.stream.key, [found.name for found in some]) if ledger else {}
            for found in some:
                if found.name in known and known[found.name][0] == found.facts:
                    planned.before += found.facts.size
                elif (taken := folder.read(found.name, limit + 1)) is not None:
                    checked.document(mapping, found.name, taken, limit, 3)
    except (SourceError, LedgerError) as failed:
        error = str(failed)
    planned.sources.append((mapping.source.path, checked.size, checked, error))


def _read(mapping: Mapping, tail: Tail, generation: Generation, ledger: Ledger | None, checked: CheckReport) -> None:
    """Previews the import of one generation: checks its lines or chunks behind the reader's position, block by block.

    Leaves out the lines that the mirror wrote.
    """
    codec, limit, end = mapping.codec(tail.name), mapping.format.max_line_bytes, generation.read_to
    if mapping.kind.chunked:
        size = generation.size() - end
        checked.noun, checked.size, checked.values = "chunk", checked.size + size, checked.values + size
        checked.translated += -(-size // CHUNK)
        return

    def read(size: int, offset: int) -> tuple[bytes, list[Cut], bool]:
        raw = tail.read(generation, size, offset)
        if ledger is None:
            return raw, [], len(raw) == size
        stream, name, number = mapping.stream.key, tail.name, generation.number
        data, cuts, _ = exclude_mirrored(ledger, stream, name, number, offset, raw, partial(tail.read, generation))
        return data, cuts, len(raw) == size <= len(data)

    for lines, cut in walk(read, end, continuing(codec), limit):
        checked.take(codec, lines.lines, lines.offsets, limit, 3, cut=cut, now=int(time.time() * 1000))
        end = lines.end
    left, damage = generation.size() - end, generation.content.damage() if generation.content else ""
    if left and generation.packed and not damage:
        checked.reject("unfinished: the compressed file ends without a newline", end, generation.read(400, end))
    else:
        checked.partial += left
    checked.size += generation.size() - generation.read_to
    if damage:
        checked.damage = f"{generation.path.name} {damage}"


def too_big(previews: list[Preview], room: ServerMemory) -> str:
    """Words a warning where an import's entries would not fit into the server's memory; else empty. Pure."""
    wanted = sum(mapping_preview.memory for mapping_preview in previews)
    if room.limit and room.used + wanted > room.limit:
        return (
            f"maxmemory is {room.limit:,} bytes and {room.used:,} are in use: this import needs about {wanted:,} more"
        )
    if not room.limit and room.system and room.used + wanted > room.system * 0.8:
        has = f"the machine has {room.system:,} bytes of memory and Redis uses {room.used:,}"
        return f"{has}: this import needs about {wanted:,} more"
    return ""
