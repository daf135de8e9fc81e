"""Names the streams of a mapping that gives each log a stream of its own, by `{name}` in `stream.key`. Pure.

A log's name for this is its path below the fixed part of the glob, without suffix. It is fixed when the log is first
carried: what other logs come later, or what becomes of the file's name, changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from itertools import count
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from bridge.core.globs import is_glob

LONGEST = 180
"""Bytes of the longest name of a stream that is used as it is in file names; of a longer one a digest is."""


def fixed_part(glob: str) -> str:
    """Returns the folders of a glob that stand before its first part with a wildcard, with a `/` behind, or nothing."""
    parts = glob.split("/")
    first = next((i for i, part in enumerate(parts) if is_glob(part)), len(parts) - 1)
    return "".join(f"{part}/" for part in parts[:first])


def name_in(glob: str, log: str, *, suffix: bool = False) -> str:
    """Returns the part of a log's path that names its stream: below the glob's fixed part, with or without suffix."""
    short = log.removeprefix(fixed_part(glob))
    return short if suffix else short.removesuffix(PurePosixPath(short).suffix)


def escaped(name: str) -> str:
    """Escapes in a stream's name what a key of Redis must not hold: braces and blanks, and the `%` that escapes."""
    return "".join(quote(c) if c in "{}%" or c.isspace() or not c.isprintable() else c for c in name)


def log_named(glob: str, name: str) -> str:
    """Returns the path that the log of a stream of this name would have, where the stream came first."""
    last = glob.rpartition("/")[2]
    return f"{fixed_part(glob)}{unquote(name)}{PurePosixPath(last).suffix}"


def candidates(glob: str, log: str) -> Iterator[str]:
    """Yields the names that a log's stream may have, the first that is free counts: with suffix, then with a number."""
    longer = escaped(name_in(glob, log, suffix=True))
    yield escaped(name_in(glob, log)) or longer
    yield longer
    for number in count(2):
        yield f"{longer}:{number}"


def names_of(glob: str, logs: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Names the streams of logs that have none yet, by log; `taken` are the names that other streams have.

    Where two logs would have one name, the second keeps its suffix, and a number where that is taken as well.
    """
    found: dict[str, str] = {}
    used = {*taken}
    for log in sorted(logs):
        found[log] = next(name for name in candidates(glob, log) if name not in used)
        used.add(found[log])
    return found


def as_mapping_name(mapping: str, name: str) -> str:
    """Returns the name by which commands, files and logs know one stream of a mapping: `mapping:name`, without a `/`.

    A name that is too long for a file's name ends in a digest.
    """
    safe = name.replace("/", "%2F")
    if len(safe.encode()) > LONGEST:
        told = hashlib.sha256(safe.encode()).hexdigest()[:16]
        safe = f"{safe.encode()[: LONGEST - 17].decode(errors='ignore')}~{told}"
    return f"{mapping}:{safe}"
