"""Proposes a mapping for an unknown log or folder, and tries it on all its files before anybody is shown it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bridge.admin.survey.check_lines import CheckReport, check_file, check_folder, is_regular
from bridge.admin.survey.infer_folder import infer_folder
from bridge.admin.survey.infer_log import infer
from bridge.admin.survey.proposal import Proposal, template_of
from bridge.core.errors import SourceError
from bridge.core.globs import literal
from bridge.core.mapping import Mapping
from bridge.core.model import shown, without_mark
from bridge.core.strict_models import validated
from bridge.core.wording import counted
from bridge.files.content_form import is_binary, not_lines
from bridge.files.folder import MessageFolder
from bridge.files.generation import open_regular
from bridge.files.piece_age import bare
from bridge.files.temporary_names import leftover

SAMPLE_BYTES = 1 << 18
"""Bytes of a log that are sampled to infer a mapping, at each of the beginning, the middle and the end."""

DAY = 86_400
"""Seconds by which a time may lie ahead of the clock, as zones differ."""

TRIED_BYTES = 1 << 26
"""Bytes of all files on which the inferred mapping is tried."""

_DATE = r"\d{4}-?\d\d-?\d\d[\d._T-]*"
_PIECE = re.compile(r"\.(\d[\w.-]*|gz|bz2|xz|zst|bak|old)$")
"""Matches the end of a rotated piece's name."""

FILES_SAMPLED, FOLDER_BYTES = 200, 1 << 24
"""How many files of a folder are sampled to infer a mapping, and how many bytes of all of them."""


@dataclass(slots=True)
class TriedProposal:
    """A proposal for a log or a folder that was tried: its tables, what was doubted and decided, and how it translates.

    `files`: on how many files it was tried; `whole`: on all their bytes.
    """

    tables: dict[str, Any]
    proposal: Proposal
    checked: CheckReport
    files: int = 1
    whole: bool = True

    @property
    def sure(self) -> bool:
        """Whether every line, or file, that the proposal was tried on is a message, and nothing is in doubt."""
        return not (self.proposal.doubts or self.checked.rejected or self.checked.damage or not self.checked.translated)


def propose(path: Path, root: Path, most: int = TRIED_BYTES) -> TriedProposal:
    """Proposes a mapping for a log or a folder, by a path below `root`, and tries it on `most` bytes of its files.

    Raises SourceError, ConfigError.
    """
    return _of_folder(path, root, most) if path.is_dir() else _of_log(path, root, most)


def _of_log(path: Path, root: Path, most: int) -> TriedProposal:
    lines = sampled(path)
    if not any(line.strip() for line in lines):
        raise SourceError("is empty", where=str(path), hint="give a file with some lines in it")
    proposal = infer(lines)
    inside, file = _below(path, root)
    base, several = _source_of(bare(file))
    source: dict[str, Any] = {"kind": "log", "path": base if several else literal(base)}
    if several or base != file:
        proposal.doubts.append(f"source.path: {shown(os.fsencode(path.name))} looks like one of several files: {base}")
    if several:
        source["rotated"] = [f"{base}.*"]
        _note_shared_stream(proposal)
    else:
        source["rotated"] = _rotated(base, path.parent)
    if Path(base).name.startswith(".") and "name" in proposal.message.get("role", {}):
        proposal.message["role"] = {"const": Path(base).name.lstrip(".").partition(".")[0] or "log"}
    if leftover(path.name):
        proposal.doubts.insert(0, "source.path: files of such a name are never read, as editors and writers leave them")
    if not several and base != file and not (root / base).exists():
        proposal.doubts.append(f"source.path: there is no {shown(os.fsencode(base), 80)} beside it")
    name = _name(str(Path(base).parent / Path(base).name.lstrip(".").partition(".")[0]), "log")
    tables: dict[str, Any] = {
        "name": name, "source": source, "format": proposal.format,
        **({"message": proposal.message} if proposal.message else {}), "stream": {"key": f"{name}:messages"},
    }  # fmt: skip
    _mirror(tables, proposal, lines, base, several=several)
    mapping = validated(Mapping, tables, str(path))
    files = _files_of(mapping, root) if inside else [path]
    return _tried(tables, proposal, mapping, files or [path], most)


def sampled(path: Path) -> list[bytes]:
    """Reads sample lines of a log: from its beginning, and of a plain one from its middle and its end.

    Raises SourceError, also for what is none of lines, or no text.
    """
    opened = open_regular(path)
    if opened is None or opened.content is None:
        raise SourceError("cannot be read: No such file or directory", where=str(path))
    try:
        begin = opened.content.read(SAMPLE_BYTES, 0)
        if why := not_lines(begin, json=True):
            raise SourceError(f"is {why}", where=str(path))
        if is_binary(begin):
            raise SourceError("is no text: control characters stand all over it", where=str(path))
        lines = without_mark(begin).split(b"\n")
        lines = lines[:-1] if len(lines) > 1 else lines
        if opened.packed is None:
            for at in (opened.size() // 2, opened.size() - SAMPLE_BYTES):
                if at > SAMPLE_BYTES:
                    lines += opened.content.read(SAMPLE_BYTES, at).split(b"\n")[1:-1]
    finally:
        opened.close()
    return lines


def _tried(
    tables: dict[str, Any], proposal: Proposal, mapping: Mapping, files: Sequence[Path], most: int
) -> TriedProposal:
    """Tries a proposed mapping on the lines of files, up to `most` bytes."""
    checked, left, tried = CheckReport(), most, 0
    for file in files:
        if left <= 0:
            break
        report = check_file(mapping, file, 0, left)
        left -= report.size
        checked.add(report)
        tried += 1
    total = checked.translated + checked.rejected
    if checked.rejected:
        proposal.doubts.insert(
            0, f"{counted(checked.rejected, 'line')} of {total:,} are no messages so, see the reasons"
        )
    if checked.latest is not None and checked.latest > (time.time() + DAY) * 1000:
        proposal.doubts.append("timestamp: some times are still to come, so it may be something else than a time")
    if checked.clamped:
        proposal.notes.append(f"order: {counted(checked.clamped, 'line')} of those tried stand behind a later time")
    return TriedProposal(tables, proposal, checked, tried, tried == len(files) and left > 0)


def _mirror(
    tables: dict[str, Any], proposal: Proposal, lines: Sequence[bytes], base: str, *, several: bool
) -> None:  # fmt: skip
    """Adds [mirror] to a proposed mapping of one log if entries go back into it exactly; else notes why not."""
    template = template_of(proposal, [line for line in lines if line])
    if several:
        proposal.notes.append("mirror: there are several files, so [mirror] has to say which one entries go back into")
    elif proposal.timeless:
        proposal.notes.append("mirror: nothing tells that these lines are messages, so entries do not go into the file")
    elif template is None:
        proposal.notes.append("mirror: no template writes these lines back exactly, so entries do not go into the file")
    else:
        tables["mirror"] = {"path": base, **({"template": template} if template else {})}


def _below(path: Path, root: Path) -> tuple[bool, str]:
    """Returns whether a path is below the root, and the path relative to it; else its name alone."""
    try:
        return True, str(path.resolve().relative_to(root.resolve()))
    except ValueError:
        return False, path.name


def _name(text: str, other: str) -> str:
    """Makes the name of a proposed mapping from the name of a file or a folder."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:64] or other


def _source_of(file: str) -> tuple[str, bool]:
    """Infers the path of the log that a file is, or is a piece of, and whether the path is a glob over daily files."""
    folder, slash, name = file.rpartition("/")
    piece = re.fullmatch(r"(.+?)(?:\.\d{1,4}|[.-]\d{4}-?\d\d-?\d\d[\dT:_-]*)", name)
    if piece:
        return folder + slash + piece[1], False
    daily = re.fullmatch(r"(.*?)\d{4}-?\d\d-?\d\d[^.]*(\..+)", name)
    return (f"{literal(folder + slash + daily[1])}*{literal(daily[2])}", True) if daily else (file, False)


def _rotated(base: str, folder: Path) -> list[str]:
    """Lists globs of a log's older pieces: of those that lie beside it, and of the commonest names."""
    name = Path(base).name
    stem, dot, suffix = name.rpartition(".")
    beside = {entry.name for entry in os.scandir(folder)} - {name}
    others = [other for other in beside if other.startswith(f"{name}.")]
    found = [f"{literal(base)}.*" if all(map(_PIECE.search, others)) else f"{literal(base)}.[0-9]*"]
    if any(other.startswith(f"{name}-") for other in beside):
        found.append(f"{literal(base)}-*")
    for mark, numbers, digits in (("-", _DATE, 4), ("_", _DATE, 4), (".", r"\d[\d._T-]*", 1)):
        piece = re.compile(rf"{re.escape(stem + mark)}{numbers}\.{re.escape(suffix)}(\.(gz|bz2|xz|zst))?")
        if dot and stem and any(map(piece.fullmatch, beside)):  # `worker-1.log` is another worker's log
            before = literal(base.removesuffix(name) + stem)
            found.append(f"{before}{mark}{'[0-9]' * digits}*.{literal(suffix)}*")
    return found


def _note_shared_stream(proposal: Proposal) -> None:
    proposal.notes.append("stream.key: all files go into one stream, in the order of their times")


def _files_of(mapping: Mapping, root: Path) -> list[Path]:
    """Lists the files that a proposed mapping of logs names below the root: rotated pieces first."""
    globs = (*mapping.source.rotated, mapping.source.path)
    found = {path: None for glob in globs for path in sorted(root.glob(glob))}
    return [path for path in found if is_regular(path) and mapping.claims(str(path.relative_to(root)))]


# -- folders -------------------------------------------------------------------------------------------------


def _of_folder(path: Path, root: Path, most: int) -> TriedProposal:
    folder = MessageFolder(path.resolve(), "**/*")
    files, left = list[tuple[str, bytes]](), FOLDER_BYTES
    names: Iterable[bytes] = (found_file.name for some in folder.scan() for found_file in some)
    for raw_name in islice(names, FILES_SAMPLED):
        taken = folder.read(raw_name, max(1, left // 2))
        if taken is not None:
            files.append((os.fsdecode(raw_name), without_mark(taken.raw)))
            left -= len(taken.raw)
    if not files:
        raise SourceError("holds no file", where=str(path), hint="give a folder with some files in it")
    found = infer_folder(path.resolve().name, files)
    inside, below = _below(path, root)
    below = below if inside else path.resolve().name
    base = "" if below == "." else f"{literal(below)}/"
    name = _name(path.resolve().name, "folder")
    source: dict[str, Any] = {"kind": found.kind, "path": f"{base}{found.glob}" or "**/*"}
    proposal = Proposal(found.format, found.message, doubts=found.doubts, notes=found.notes)
    if found.kind == "log":
        source["rotated"] = [f"{source['path']}.*"]
        if len(files) > 1:
            _note_shared_stream(proposal)
    excluded = [f"{base}{literal(path)}" for path in found.exclude]
    if not base and found.glob.endswith(("*", ".toml")):
        excluded.append("*.toml")  # the bridge's own configuration
    if excluded:
        source["exclude"] = excluded
    tables: dict[str, Any] = {
        "name": name, "source": source, **({"format": found.format} if found.format else {}),
        **({"message": found.message} if found.message else {}), "stream": {"key": f"{name}:messages"},
    }  # fmt: skip
    mapping = validated(Mapping, tables, str(path))
    where = root.resolve() if inside else path.resolve().parent
    if found.kind == "log":
        return _tried(tables, proposal, mapping, _files_of(mapping, where), most)
    checked = check_folder(mapping, where, 0, most=most)
    if checked.repeated:
        proposal.doubts.append(
            f"id: {counted(checked.repeated, 'file')} of those tried have the identity of another one, and would be "
            "taken for it: choose another field for message.id, or leave it out"
        )
    many = checked.translated + checked.rejected
    return TriedProposal(tables, proposal, checked, many, checked.size < most)
