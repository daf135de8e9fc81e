"""Discovers for `bridge init` the files in a folder that known mappings name, and proposes mappings for others."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bridge.admin.survey.check_lines import CheckReport, check_file, check_folder, is_regular
from bridge.admin.survey.propose import TriedProposal, propose
from bridge.core.errors import ConfigError, SourceError
from bridge.core.mapping import Mapping
from bridge.core.strict_models import validated
from bridge.files.folder import MessageFolder

DEPTH = 2
"""How many levels of folders are searched for files that no mapping names."""

TRIED_BYTES, PROPOSED = 1 << 24, 20
"""Bytes of an unknown log on which a proposed mapping is tried, and most mappings that are proposed."""

ENOUGH = 0.5
"""Share of a log's lines that must translate for a mapping to be proposed for it."""

ALIKE = 3
"""Files of one ending in a folder below, from which on one mapping is proposed for all of them."""


@dataclass(slots=True)
class MappingFiles:
    """Holds the files that discovery found for one mapping, oldest first, and how their lines translate.

    `unread`: why files could not be read.
    """

    mapping: Mapping
    files: list[tuple[Path, CheckReport]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Discovery:
    """Holds what `bridge init` discovered in a folder: the mappings' files, proposals for others, and the rest.

    `proposals`: mappings for logs that no mapping names, each with the path it was proposed for. `names`: all files
    that no mapping names and none was proposed for.
    """

    found: list[MappingFiles]
    proposals: list[tuple[Path, TriedProposal]]
    names: list[str]


def discover(root: Path, mappings: list[Mapping]) -> Discovery:
    """Discovers in a folder the files that the mappings name, and proposes mappings for other logs.

    Why a file cannot be read stands in `MappingFiles.unread`.
    """
    found = []
    claimed: set[Path] = set()
    for mapping in mappings:
        files = MappingFiles(mapping)
        if mapping.kind.whole_files:
            found.append(_folder(files, root, claimed))
            continue
        rotated = sorted({path for glob in mapping.source.rotated for path in root.glob(glob)}, reverse=True)
        for path in [*rotated, *sorted(set(root.glob(mapping.source.path)) - set(rotated))]:
            if is_regular(path) and path not in claimed:
                claimed.add(path)
                try:
                    files.files.append((path, check_file(mapping, path, 3)))
                except SourceError as error:
                    files.unread.append(str(error))
        checks = [check for _, check in files.files]
        if any(check.rejected for check in checks) and not any(check.translated for check in checks):
            claimed -= {path for path, _ in files.files}  # files that happen to have such a name
            files.files = []
        found.append(files)
    unknown = {str(path.relative_to(root)): path for path in _files(root) if path not in claimed}
    proposals = _proposals(root, unknown, {path.parent for path in claimed})
    return Discovery(found, proposals, sorted(unknown))


def _proposals(root: Path, unknown: dict[str, Path], taken: set[Path]) -> list[tuple[Path, TriedProposal]]:
    """Proposes mappings for the logs among unknown files, by their paths below the root; takes those out of `unknown`.

    `taken`: folders of which a mapping names files already. A log comes before the files whose names say that they are
    pieces of one, or one of many.
    """
    found: list[tuple[Path, TriedProposal]] = []
    for name in sorted(unknown, key=lambda name: (bool(re.search(r"\d", Path(name).name)), name)):
        if name not in unknown or len(found) >= PROPOSED:
            continue
        path = unknown[name]
        alike = [other for other in unknown.values() if other.parent == path.parent and other.suffix == path.suffix]
        whole = [path.parent] if path.parent not in {root, *taken} and len(alike) >= ALIKE else []
        for of in [*whole, path]:
            try:
                tried = propose(of, root, TRIED_BYTES)
            except (SourceError, ConfigError):
                continue
            if _is_of_messages(tried):
                break
        else:
            continue
        mapping = validated(Mapping, tried.tables, str(of))
        for other in [other for other in unknown if mapping.claims(other)]:
            del unknown[other]
        found.append((of, tried))
    return found


def _is_of_messages(tried: TriedProposal) -> bool:
    """Whether a proposal reads most of what it was tried on, and finds times, or JSON, in it: else it is mere text."""
    form, checked = tried.tables.get("format", {}), tried.checked
    if "codec" not in form or tried.proposal.timeless:
        return False
    if form["codec"] == "document" and "timestamp" not in tried.tables.get("message", {}):
        return False
    return checked.translated > ENOUGH * (checked.translated + checked.rejected)


def _folder(files: MappingFiles, root: Path, claimed: set[Path]) -> MappingFiles:
    """Discovers the files of a mapping whose source is a folder of whole files, and counts the folder as one file.

    A folder in which no file translates does not belong to the mapping.
    """
    source = files.mapping.source
    folder = MessageFolder(root, files.mapping.files, source.exclude)
    names = [found.name for some in folder.scan() for found in some]
    if not names and not any(path.is_dir() and path != root for path in folder.folders):
        return files
    try:
        check = check_folder(files.mapping, root, 3)
        if check.rejected and not check.translated:
            return files
        files.files.append((root / source.path, check))
    except SourceError as error:
        files.unread.append(str(error))
    claimed |= {root / os.fsdecode(name) for name in names}
    return files


def _files(root: Path) -> Iterator[Path]:
    """Yields the regular files that are not hidden, in a folder and the folders below, down to `DEPTH` levels."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        deep = len(here.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep + 1 < DEPTH else []
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and is_regular(path) and not _is_own(path):
                yield path


def _is_own(path: Path) -> bool:
    """Whether a file is the bridge's own: its configuration, or a mapping."""
    if path.suffix != ".toml":
        return False
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return path.name == "bridge.toml"
    return path.name == "bridge.toml" or ("source" in tables and "stream" in tables)
