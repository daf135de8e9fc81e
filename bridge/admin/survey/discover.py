"""Discovers for `bridge init` the files in a folder that a known mapping names, or whose lines it would translate."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bridge.admin.survey.check_lines import CheckReport, check_file, check_folder, is_regular
from bridge.core.errors import SourceError
from bridge.core.mapping import Mapping
from bridge.files.folder import MessageFolder

DISCOVERY_BYTES = 1 << 16
DISCOVERY_FILES = 200
DEPTH = 2
"""For files that no mapping names: how many bytes of each are tried, how many files, and how many levels of folders."""


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
    """Holds what discovery found in a folder for `bridge init`, by mapping.

    `near`: files of another name whose lines a mapping would translate. `names`: all files that no mapping names.
    """

    found: list[MappingFiles]
    near: list[tuple[Path, Mapping, CheckReport]]
    names: list[str]


def discover(root: Path, mappings: list[Mapping]) -> Discovery:
    """Discovers in a folder the files that the mappings name, and other files whose lines a mapping would translate.

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
        found.append(files)
    near = []
    others = [path for path in _files(root) if path not in claimed]
    for path in others[:DISCOVERY_FILES]:
        best = closest(mappings, path)
        if best is not None:
            near.append((path, *best))
    return Discovery(found, near, [str(path.relative_to(root)) for path in others])


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


def closest(mappings: list[Mapping], path: Path) -> tuple[Mapping, CheckReport] | None:
    """Finds the log mapping that translates the most of a file's first lines, for discovery; None: none fits.

    A mapping fits where it translates more lines than it rejects.
    """
    logs = [mapping for mapping in mappings if mapping.kind.lines]
    tried = [(log, check) for log in logs if (check := _sampled(log, path)) is not None]
    return max(tried, key=lambda pair: pair[1].translated) if tried else None


_PLAIN_PATH = re.compile(r"[\w. -]+(/[\w. -]+)*")


def own_mapping(text: str, mapping: Mapping, file: str) -> tuple[str, str]:
    """Rewrites a mapping's TOML text for another log of the same format, with a name and stream of its own.

    Returns the text and that name. Raises ValueError for a file whose name would mean something in a glob.
    """
    if not _PLAIN_PATH.fullmatch(file):
        raise ValueError(f"{file!a} holds more than letters, digits, spaces and . _ - /")
    name = re.sub(r"[^A-Za-z0-9_-]", "-", Path(file).name.partition(".")[0])[:64] or "log"
    old = mapping.source.path
    for was, now in (
        (f'name = "{mapping.name}"', f'name = "{name}"'), (f'"{old}"', f'"{file}"'),
        (f'"{old}.*"', f'"{file}.*"'), (f'"{old}-*"', f'"{file}-*"'),
        (f'key = "{mapping.stream.key}"', f'key = "{name}:messages"'),
    ):  # fmt: skip
        text = text.replace(was, now)
    return text, name


def _sampled(mapping: Mapping, path: Path) -> CheckReport | None:
    """Checks how an unknown file's first lines translate by a mapping; None where most do not."""
    try:
        check = check_file(mapping, path, 1, DISCOVERY_BYTES)
    except SourceError:
        return None
    return check if check.translated > check.rejected else None


def _files(root: Path) -> Iterator[Path]:
    """Yields the regular files that are not hidden, in a folder and the folders below, down to `DEPTH` levels."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        deep = len(here.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep + 1 < DEPTH else []
        for name in sorted(names):
            if not name.startswith(".") and is_regular(here / name) and name != "bridge.toml":
                yield here / name
