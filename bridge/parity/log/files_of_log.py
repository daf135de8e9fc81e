"""Finds the files of one log among many, for the parity of a stream that is this log's alone.

By its own globs and by inodes, without the catalog of the bridge: a file is the log's if it was seen to be one of its
generations, or if it is named like the log and was never seen to be another log's.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.core.config import Settings
from bridge.core.globs import translated
from bridge.core.mapping import Mapping
from bridge.files.birth_time import born
from bridge.files.folder_listing import leads_out
from bridge.files.generation_record import GenerationRecord
from bridge.files.piece_names import PieceNames
from bridge.files.temporary_names import leftover
from bridge.ledger.sources import generations_by_inode
from bridge.ledger.store import Ledger

LISTED_FOR, SHARE = 1.0, 20.0
"""Seconds at least for which the list of all logs' files serves, and how many times as long as it took.

Parity looks at each file that it uses anew.
"""

Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Listing:
    """All files of a mapping with many streams, as they lay at a time: by name, by the log that the name says."""

    until: float
    named: dict[str, set[str]]
    """The paths of files, by the log that they belong to by their name, or were seen to be a generation of."""
    seen: dict[Inode, list[tuple[str, GenerationRecord]]]
    """The generations that a file of each device and inode was seen to be, with their logs."""


def files_of_log(
    mapping: Mapping, settings: Settings, ledger: Ledger | None, others: Collection[str]
) -> dict[Path, Inode]:
    """Maps each path that may be a piece of a mapping's one log to the device and inode behind it now.

    `others` are the names of pieces that a repair brought over late into the log's stream.
    """
    listing = settings.shared.get(f"parity of {mapping.family}")
    if not isinstance(listing, _Listing) or time.monotonic() > listing.until:
        listing = settings.shared[f"parity of {mapping.family}"] = _listed(mapping, settings.root, ledger)
    mine = {mapping.log, *others}
    names = mine.union(*(listing.named.get(log, ()) for log in mine))
    found: dict[Path, Inode] = {}
    for name in sorted(names):
        path = settings.root / name
        try:
            now = path.stat()
        except OSError:
            continue
        inode = (now.st_dev, now.st_ino)
        if _is_of(mine, path, listing.seen.get(inode, ())):
            found[path] = inode
    return found


def _is_of(mine: set[str], path: Path, seen: Sequence[tuple[str, GenerationRecord]]) -> bool:
    """Whether a file may be a log's, by which logs its inode was seen to be of: a file made since is none of these."""
    made = born(str(path)) if seen else 0
    logs = {log for log, known in seen if not (made and known.born) or made == known.born}
    return not logs or bool(logs & mine)


def _listed(mapping: Mapping, root: Path, ledger: Ledger | None) -> _Listing:
    source, begun = mapping.source, time.monotonic()
    path, unwanted = translated(source.path), [translated(pattern) for pattern in source.exclude]
    rotated = [translated(pattern) for pattern in source.rotated]
    inodes: dict[str, Inode] = {}
    pieces = PieceNames(lambda name: _matches(name, [path]) and not _matches(name, rotated))
    for file in {file for pattern in (source.path, *source.rotated) for file in root.glob(pattern)}:
        name = str(file.relative_to(root))
        special = _matches(name, rotated)  # then a number behind its name is a piece's
        beside = (lambda other: False) if special else lambda other, file=file: file.with_name(other).exists()
        hidden = _matches(name, unwanted) or not name.isprintable() or leftover(file.name, beside)
        if hidden or leads_out(file, root):
            continue
        try:
            now = file.stat()
        except OSError:
            continue
        if stat.S_ISREG(now.st_mode):
            inodes[name] = (now.st_dev, now.st_ino)
            pieces.add(name)
    seen = generations_by_inode(ledger, {*inodes.values()}) if ledger is not None else {}
    named: dict[str, set[str]] = defaultdict(set)
    for name, inode in inodes.items():
        is_log = _matches(name, [path]) and not _matches(name, rotated)
        named[name if is_log else pieces.log_of(name) or name].add(name)
        for log, _ in seen.get(inode, ()):
            named[log].add(name)
    ended = time.monotonic()
    return _Listing(ended + max(LISTED_FOR, SHARE * (ended - begun)), named, seen)


def _matches(name: str, patterns: Sequence[re.Pattern[bytes]]) -> bool:
    raw = os.fsencode(name)
    return any(pattern.fullmatch(raw) is not None for pattern in patterns)
