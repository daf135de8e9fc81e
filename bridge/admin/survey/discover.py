"""What lies in a folder that a mapping knows, or nearly knows: for `bridge init`."""

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
"""Of files that no mapping names: how many bytes of each, how many of them, and how deep below the folder."""


@dataclass(slots=True)
class MappingFiles:
    """The files that one mapping names, oldest first, and how their lines translate."""

    mapping: Mapping
    files: list[tuple[Path, CheckReport]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Discovery:
    """What there is. `near`: files of another name whose lines a mapping would translate. `names`: all other files."""

    found: list[MappingFiles]
    near: list[tuple[Path, Mapping, CheckReport]]
    names: list[str]


def discover(root: Path, mappings: list[Mapping]) -> Discovery:
    """Looks through the folder. Files that cannot be read are told in `MappingFiles.unread`."""
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
    """A folder with a file per message counts as one file; one of which none translates is none of this mapping's."""
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
    """The mapping that translates most of a file's first lines; None where none translates most of them."""
    logs = [mapping for mapping in mappings if mapping.kind.lines]
    tried = [(log, check) for log in logs if (check := _sampled(log, path)) is not None]
    return max(tried, key=lambda pair: pair[1].translated) if tried else None


_PLAIN_PATH = re.compile(r"[\w. -]+(/[\w. -]+)*")


def own_mapping(text: str, mapping: Mapping, file: str) -> tuple[str, str]:
    """A mapping's text turned to another file of the same form, with a name and a stream of its own; and that name.

    Raises ValueError for a file whose name would mean something in a glob.
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
    """How the file's first lines translate; None where most do not."""
    try:
        check = check_file(mapping, path, 1, DISCOVERY_BYTES)
    except SourceError:
        return None
    return check if check.translated > check.rejected else None


def _files(root: Path) -> Iterator[Path]:
    """Regular files, not hidden, down to `DEPTH` folders."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        deep = len(here.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep + 1 < DEPTH else []
        for name in sorted(names):
            if not name.startswith(".") and is_regular(here / name) and name != "bridge.toml":
                yield here / name
