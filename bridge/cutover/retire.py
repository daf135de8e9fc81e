"""The end of a migration: a last parity, the stream as files, and then nothing is carried any more. And purge."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bridge.carry.shared import Shared
from bridge.carry.translate import pack_fields
from bridge.config import Settings
from bridge.cutover.phase import Reason, sides_of
from bridge.errors import BridgeError
from bridge.ledger.journal import note
from bridge.ledger.quarantine import unacknowledged
from bridge.ledger.retired import retire, retired
from bridge.ledger.state import values
from bridge.ledger.store import Ledger
from bridge.mapping import Mapping
from bridge.model import ORIGIN_FIELD, EntryId, format_id, paired, parse_origin
from bridge.parity.check import Result
from bridge.parity.report import page
from bridge.streams import state
from bridge.streams.components import COMPONENTS, REDIS, all_modes, announced_positions
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import Entry, entries, stream_info
from bridge.streams.writer import read_books

RECENT = 600.0
"""Seconds in which nobody may have written to the files, before they count as left."""

ASIDE = "not-lines.jsonl"
"""Entries that make no line, in the folder of a retired mapping."""

ENTRIES = "entries.jsonl"
"""All entries, where the mapping's files hold no lines."""


def reasons(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, now: float) -> list[Reason]:
    """What speaks against it: somebody who still uses the files, or a message that stands on one side only."""
    keys, found = Keys.of(mapping.stream.key), []
    if mapping.stream.key in retired(ledger):
        return [Reason(f"{mapping.name} is retired already", "`bridge purge` removes what is left of it", firm=True)]
    modes = {name: one for (name, its), one in all_modes(connection).items() if its == mapping.name}
    known = set(modes)
    if mapping.source.kind == "log":  # who reads anything else needs no switch
        known |= {name.split("/")[0] for name in announced_positions(connection, keys)}
    known |= {path.parent.name for path in (settings.state_dir / "components").glob(f"*/{mapping.name}.bookmark")}
    for name in sorted(known):
        one = modes.get(name)
        if one is None or any(getattr(one, side) != REDIS for side in sides_of(mapping.source.kind)):
            reads, writes = (one.reads, one.writes) if one is not None else ("file", "file")
            what = f"{name} reads {'Redis' if reads == REDIS else 'the files'} and writes to"
            if mapping.source.kind != "log":
                what = f"{name} writes to"
            hint = f"bridge cutover {name} --mapping {mapping.name} --execute"
            found.append(Reason(f"{what} {'Redis' if writes == REDIS else 'the files'}", hint, firm=True))
    if not known:
        found.append(Reason("no component of it has ever been switched", "cut them over first: `bridge runbook`"))
    count = unacknowledged(ledger, mapping.stream.key)
    if count:
        what = f"{count} messages are in quarantine, on one side only"
        found.append(Reason(what, "`bridge quarantine list`, then `retry` or `acknowledge` them"))
    shared = Shared(mapping, settings)
    try:
        recent = {name: age for name in shared.source_names() if (age := _age(settings.root / name, now)) < RECENT}
    finally:
        shared.close()
    for name, age in sorted(recent.items()):
        what = f"{name} was written to {age:.0f} s ago: is that the mirror alone?"
        found.append(Reason(what, f"wait {RECENT / 60:.0f} minutes after the last cut-over, or pass with --force"))
    return found


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return RECENT


@dataclass(slots=True)
class Kept:
    """A stream as files, in a folder: how many messages, and each file's digest (BLAKE2b-128)."""

    folder: Path
    messages: int = 0
    aside: int = 0
    last: EntryId = (0, 0)
    digests: dict[str, str] = field(default_factory=dict)


class _Files:
    """Files in a folder, written beside under a temporary name and renamed together. One is open at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new = folder.with_name(f".{folder.name}.new")
        self._digests: dict[str, hashlib.blake2b] = {}
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
        self._digests.setdefault(name, hashlib.blake2b(digest_size=16)).update(raw)

    def _end(self) -> None:
        if self._last is not None:
            self._last[1].close()
        self._last = None

    def close(self) -> dict[str, str]:
        """On disk, read again and compared, and in place. Raises BridgeError."""
        self._end()
        for name, digest in self._digests.items():
            again = hashlib.blake2b(digest_size=16)
            with (self._new / name).open("rb") as written:
                os.fsync(written.fileno())
                while piece := written.read(1 << 20):
                    again.update(piece)
            if again.digest() != digest.digest():
                raise BridgeError("does not hold what was written to it", where=str(self._new / name))
        _remove(self.folder)
        self._new.rename(self.folder)
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


def _remove(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def keep(shared: Shared, ledger: Ledger, connection: Connection, folder: Path) -> Kept:
    """Writes a stream as the files it would be, in stream order. Raises BridgeError, OSError, RedisLost.

    Entries that are no lines of a log are written as JSON, one a line; latest values as files of their own.
    """
    books = read_books(connection, shared.keys)
    names = {int(number): os.fsdecode(raw) for raw, number in books.sources.items()}
    kept, files, lines = Kept(folder), _Files(folder), shared.mapping.source.kind == "log"
    last = stream_info(connection, shared.keys.stream).last_id
    for entry in entries(connection, shared.keys.stream, end=format_id(last)):
        name, line = _line(shared, entry, names) if lines else (ENTRIES, None)
        if line is None:
            kept.aside += lines
            told = {"entry": format_id(entry.id).decode(), "fields": json.loads(pack_fields(entry.fields))}
            files.write(ASIDE if lines else ENTRIES, json.dumps(told).encode() + b"\n")
        else:
            files.write(name, line)
        kept.messages += 1
    if shared.values is not None:
        known = {one.name for some in shared.values.scan() for one in some} | values(
            ledger, shared.mapping.stream.key
        ).keys()
        for raw in sorted(known):
            found = state.read(connection, shared.keys, raw)
            if found is not None:
                files.write(os.fsdecode(raw), found[0].data)
                kept.messages += 1
    kept.last, kept.digests = last, files.close()
    return kept


def _line(shared: Shared, entry: Entry, names: dict[int, str]) -> tuple[str, bytes | None]:
    """The file a message belongs to and its line there; None where it makes none."""
    values = paired(entry.fields)
    origin = parse_origin(values.get(ORIGIN_FIELD, b""))
    if origin is None or origin.source not in names:
        made = shared.line_of(entry.fields)
        return made if made is not None else ("", None)
    name = names[origin.source]
    codec = shared.mapping.codec(name)
    if any(field not in values for field in codec.fields):
        return "", None
    line = codec.encode(tuple(values[field] for field in codec.fields))
    return name, None if isinstance(line, str) else line + b"\n"


def folder_of(settings: Settings, mapping: str) -> Path:
    """Where the files of a retired mapping are."""
    return settings.state_dir / "retired" / mapping


def execute(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, result: Result, who: str, reason: str,
    forced: list[str], now: Callable[[], float] = time.time,
) -> Kept:  # fmt: skip
    """Retires it, after a parity that said equal: writes files and report, then the ledger has it, then Redis.

    The ledger's word is what counts: a crash before leaves all as it was, one after is told to Redis by the next start.
    Raises BridgeError, OSError, RedisLost.
    """
    if result.verdict != "equal":
        raise BridgeError(f"the last parity says '{result.verdict}'", where=mapping.name, hint="`bridge repair`")
    shared = Shared(mapping, settings)
    try:
        kept = keep(shared, ledger, connection, folder_of(settings, mapping.name))
    finally:
        shared.close()
    report = {
        "mapping": mapping.name, "stream": mapping.stream.key, "at": now(), "who": who, "reason": reason or None,
        "forced": forced or None,
        "messages": kept.messages, "not_lines": kept.aside, "last": format_id(kept.last).decode(),
        "files": kept.digests, "parity": {k: v for k, v in result.to_json().items() if k != "differences"},
    }  # fmt: skip
    (kept.folder / "report.html").write_text(page([result], now()))
    (kept.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    with ledger.transaction():
        retire(ledger, mapping.stream.key, mapping.name, who, now())
        told = {name: report[name] for name in ("messages", "not_lines", "last", "forced", "reason", "files")}
        note(ledger, now(), who, "retire", mapping.stream.key, told)
    connection.call("HSET", Keys.of(mapping.stream.key).meta, "retired", str(int(now())))
    return kept


def purge(mapping: Mapping, ledger: Ledger, connection: Connection, who: str, *, really: bool) -> list[str]:
    """Removes our own keys of a retired mapping, and says which there are. Raises BridgeError: it is not retired."""
    if mapping.stream.key not in retired(ledger):
        hint = f"bridge retire {mapping.name}"
        raise BridgeError("is not retired, its keys are in use", where=mapping.name, hint=hint)
    keys = Keys.of(mapping.stream.key)
    found = [key for key in keys.own if connection.call("EXISTS", key)]
    fields = [
        name for name in paired(connection.call("HGETALL", COMPONENTS)) if name.endswith(f"/{mapping.name}".encode())
    ]
    told = [key.decode(errors="replace") for key in found]
    told += [f"{COMPONENTS.decode()} {name.decode(errors='replace')}" for name in fields]
    if really and told:
        if found:
            connection.call("DEL", *found)
        if fields:
            connection.call("HDEL", COMPONENTS, *fields)
        note(ledger, time.time(), who, "purge", mapping.stream.key, {"keys": told})
    return told
