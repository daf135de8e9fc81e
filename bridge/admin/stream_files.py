"""Writes a stream, or a range of it, into a folder as files: its archived entries, and those still in Redis.

`bridge snapshot` and `bridge retire` make such stream files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bridge.continuity.archive_reader import ArchiveReader, history, source_of_entry
from bridge.continuity.trim_floor import remembered
from bridge.core.errors import BridgeError
from bridge.core.model import ZERO_ID, EntryId, paired
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.sources import sources_of
from bridge.ledger.states import values
from bridge.ledger.store import Ledger
from bridge.streams import latest_value
from bridge.streams.connect import Connection
from bridge.streams.entry_json import entry_as_json
from bridge.streams.reader import Entry, stream_info, to_entries
from bridge.streams.stream_metadata import read_metadata
from bridge.streams.trim import read_trimmed

ASIDE_FILE = "not-lines.jsonl"
"""The file for entries that the codec makes no line of, in the folder of a log's stream files."""

FILES_PAGE, FILES_PAGE_BYTES = 1000, 1 << 20

ENTRIES_FILE = "entries.jsonl"
"""The file for all entries, where the mapping's own files hold no lines."""


@dataclass(slots=True)
class StreamFiles:
    """Describes a stream that was written into a folder as files: message count, last entry, and each file's SHA-256.

    `aside`: messages that the codec makes no line of. `trimmed`: entries that were trimmed before, and are in no
    archive.
    """

    folder: Path
    messages: int = 0
    aside: int = 0
    last: EntryId = (0, 0)
    trimmed: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    """How many messages each file of lines holds, by the file's name."""
    digests: dict[str, str] = field(default_factory=dict)


class _Files:
    """Writes stream files into a temporary folder beside the target, which one rename puts in place.

    One file is open at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new = folder.with_name(f".{folder.name}.new")
        self._digests: dict[str, Any] = {}
        self._last: tuple[str, IO[bytes]] | None = None
        _remove(self._new)
        self._new.mkdir(parents=True, mode=0o700)

    def write(self, name: str, raw: bytes) -> None:
        if self._last is None or self._last[0] != name:
            self._end()
            path = self._new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._last = name, path.open("ab")
        self._last[1].write(raw)
        self._digests.setdefault(name, hashlib.sha256()).update(raw)

    def _end(self) -> None:
        if self._last is not None:
            self._last[1].close()
        self._last = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: object) -> None:
        """Removes the temporary folder of stream files that were not finished."""
        self._end()
        _remove(self._new)

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each of the stream files that were written, by name."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def close(self) -> None:
        """Syncs the stream files to disk, reads them again and compares, and renames their folder into place.

        Raises BridgeError: a file does not hold what was written to it.
        """
        self._end()
        for name, digest in self._digests.items():
            again = hashlib.sha256()
            with (self._new / name).open("rb") as written:
                os.fsync(written.fileno())
                while piece := written.read(1 << 20):
                    again.update(piece)
            if again.digest() != digest.digest():
                raise BridgeError("does not hold what was written to it", where=str(self._new / name))
        _remove(self.folder)
        self._new.rename(self.folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def keep(
    shared: MappingContext, ledger: Ledger | None, connection: Connection, folder: Path,
    since: EntryId = ZERO_ID, until: EntryId | None = None, *,
    beside: Callable[[StreamFiles], Mapping[str, bytes]] = lambda kept: {},
) -> StreamFiles:  # fmt: skip
    """Writes a stream's entries from `since` on, below `until`, into a folder as the files of its mapping, in order.

    Entries that the codec makes no line of are written as JSON, one a line; latest values as files of their own, where
    the whole stream is written. `beside` makes further files that lie beside the messages. A folder of that name is
    replaced when all is written.
    Raises BridgeError, OSError, RedisLost, RedisRefused.
    """
    books = read_metadata(connection, shared.keys)
    names = {int(number): os.fsdecode(raw) for raw, number in books.sources.items()}
    if ledger is not None:  # Redis knows them no more once a retired mapping is purged
        names = {source.number: name for name, source in sources_of(ledger, shared.mapping.stream.key).items()} | names
    kept, lines = StreamFiles(folder), shared.mapping.kind.lines
    last = stream_info(connection, shared.keys.stream).last_id
    with _Files(folder) as files:
        for entry in _history(shared, ledger, connection, since, last):
            if until is not None and entry.id >= until:
                break
            name, line = _line(shared, entry, names) if lines else (ENTRIES_FILE, None)
            if line is None:
                kept.aside += lines
                files.write(ASIDE_FILE if lines else ENTRIES_FILE, entry_as_json(entry) + b"\n")
            else:
                files.write(name, line)
                kept.lines[name] = kept.lines.get(name, 0) + 1
            kept.messages += 1
        if shared.values is not None and since == ZERO_ID and until is None:
            known = {file.name for some in shared.values.scan() for file in some}
            known |= values(ledger, shared.mapping.stream.key).keys() if ledger is not None else set()
            for raw in sorted(known):
                found = latest_value.read(connection, shared.keys, raw)
                if found is not None:
                    files.write(os.fsdecode(raw), found[0].data)
                    kept.messages += 1
        kept.last, kept.trimmed, kept.digests = last, _gone(shared, ledger, connection), files.digests
        for name, raw in beside(kept).items():
            files.write(name, raw)
        files.close()
    return kept


def _gone(shared: MappingContext, ledger: Ledger | None, connection: Connection) -> int:
    """Counts the entries of a stream that were trimmed and are in no archive, so that no stream file holds them."""
    now = read_trimmed(connection, shared.keys)
    if now.floor == ZERO_ID and ledger is not None:
        now = remembered(ledger, shared.mapping.stream.key) or now
    archive = ArchiveReader(shared.mapping, shared.settings.state_dir, ledger) if ledger is not None else None
    chain = archive.chain(now.floor) if archive is not None else []
    if not chain:
        return now.count
    base = json.loads(chain[0].base)
    return int(base["added"]) if base is not None else 0


def _history(
    shared: MappingContext, ledger: Ledger | None, connection: Connection, since: EntryId, last: EntryId
) -> Iterator[Entry]:
    """Yields the entries of a stream to write as files: trimmed ones from the archive, if it has them, then Redis's.

    From `since` to `last`.
    """
    archive = ArchiveReader(shared.mapping, shared.settings.state_dir, ledger) if ledger is not None else None
    was = remembered(ledger, shared.mapping.stream.key) if ledger is not None else None
    floor = was.floor if was is not None else ZERO_ID
    for rows in history(connection, shared.keys, archive, since, last, FILES_PAGE, FILES_PAGE_BYTES, floor):
        yield from to_entries(rows)


def _line(shared: MappingContext, entry: Entry, names: dict[int, str]) -> tuple[str, bytes | None]:
    """Encodes a stream's entry as a line, and names the file that the line belongs to; None where it makes no line."""
    values = paired(entry.fields)
    name, _ = source_of_entry(shared.mapping, entry, names)
    if not name:
        return "", None
    codec = shared.mapping.codec(name)
    if any(field not in values for field in codec.fields):
        return "", None
    line = codec.encode(tuple(values[field] for field in codec.fields))
    return name, None if isinstance(line, str) else line + b"\n"
