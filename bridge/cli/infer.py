"""The command `bridge mapping infer`: proposes a mapping, as TOML, for a log or a folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.admin.survey.infer_log import Proposal, infer
from bridge.core.errors import SourceError
from bridge.core.model import shown
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.admin.survey.check_lines import CheckReport

LOG_SAMPLE_BYTES = 1 << 18
"""Bytes of a log that are sampled to infer a mapping, at each of the beginning, the middle and the end."""

CHECKED = 1 << 26
"""Bytes of a log on which the inferred mapping is tried."""


def propose(path: Path, root: Path) -> tuple[str, dict[str, Any], Proposal, CheckReport]:
    """Infers a mapping for a log or a folder; returns it as TOML and as tables, with the proposal and its check.

    The check says how the file translates under the mapping. Raises SourceError, ConfigError.
    """
    from bridge.admin.survey.check_lines import check_file
    from bridge.core.mapping import Mapping
    from bridge.core.strict_models import validated
    from bridge.files.content_form import not_lines
    from bridge.files.generation import open_regular
    from bridge.files.piece_age import bare

    if path.is_dir():
        return _folder(path, root)
    opened = open_regular(path)
    if opened is None or opened.content is None:
        raise SourceError("cannot be read: No such file or directory", where=str(path))
    try:
        begin = opened.content.read(LOG_SAMPLE_BYTES, 0)
        if why := not_lines(begin):
            raise SourceError(f"is {why}", where=str(path))
        lines = begin.split(b"\n")
        lines = lines[:-1] if len(lines) > 1 else lines
        if opened.packed is None:
            for at in (opened.size() // 2, opened.size() - LOG_SAMPLE_BYTES):
                if at > LOG_SAMPLE_BYTES:
                    lines += opened.content.read(LOG_SAMPLE_BYTES, at).split(b"\n")[1:-1]
    finally:
        opened.close()
    if not any(line.strip() for line in lines):
        raise SourceError("is empty", where=str(path), hint="give a file with some lines in it")
    proposal = infer(lines)
    try:
        file = str(path.resolve().relative_to(root.resolve()))
    except ValueError:
        file = path.name
    base, globbed = _source_of(bare(file))
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(base).name.partition(".")[0]).strip("-")[:64] or "log"
    if base != file:
        proposal.notes.append(f"source.path: {path.name} looks like one of several files, so it is {base}")
    tables: dict[str, Any] = {
        "name": name,
        "source": {"kind": "log", "path": base, "rotated": [f"{base}.*"] if globbed else [f"{base}.*", f"{base}-*"]},
        "format": proposal.format,
        **({"message": proposal.message} if proposal.message else {}),
        "stream": {"key": f"{name}:messages"},
    }
    checked = check_file(validated(Mapping, tables, str(path)), path, 0, CHECKED)
    return _toml(tables, proposal, checked), tables, proposal, checked


FILES_SAMPLED, BYTES_SAMPLED = 200, 1 << 16
"""How many files of a folder are sampled to infer a mapping, and how many bytes of each."""


def _folder(path: Path, root: Path) -> tuple[str, dict[str, Any], Proposal, CheckReport]:
    """Infers a mapping for a folder; returns what `propose` returns. Raises SourceError where it holds no file."""
    from itertools import islice

    from bridge.admin.survey.check_lines import check_folder
    from bridge.admin.survey.infer_folder import infer_folder
    from bridge.core.mapping import Mapping
    from bridge.core.strict_models import validated
    from bridge.files.folder import MessageFolder

    folder = MessageFolder(path.resolve(), "**/*")
    files = []
    for raw_name in islice((found_file.name for some in folder.scan() for found_file in some), FILES_SAMPLED):
        taken = folder.read(raw_name, BYTES_SAMPLED)
        if taken is not None:
            files.append((os.fsdecode(raw_name), taken.raw))
    if not files:
        raise SourceError("holds no file", where=str(path), hint="give a folder with some files in it")
    found = infer_folder(path.resolve().name, files)
    try:
        below = str(path.resolve().relative_to(root.resolve()))
    except ValueError:
        below = path.resolve().name
    base = "" if below == "." else f"{below}/"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.resolve().name).strip("-")[:64] or "folder"
    source: dict[str, Any] = {"kind": found.kind, "path": f"{base}{found.glob}" or "**/*"}
    if found.kind == "log":
        source["rotated"] = [f"{source['path']}.*"]
    if found.exclude:
        source["exclude"] = [f"{base}{excluded}" for excluded in found.exclude]
    tables: dict[str, Any] = {
        "name": name, "source": source, **({"format": found.format} if found.format else {}),
        **({"message": found.message} if found.message else {}), "stream": {"key": f"{name}:messages"},
    }  # fmt: skip
    mapping = validated(Mapping, tables, str(path))
    checked = (
        check_folder(mapping, root.resolve(), 0) if base or below == "." else check_folder(mapping, path.parent, 0)
    )
    proposal = Proposal(found.format, found.message, notes=found.notes)
    return _toml(tables, proposal, checked), tables, proposal, checked


def _source_of(file: str) -> tuple[str, bool]:
    """Infers the path of the log that a file is, or is a piece of, and whether the path is a glob over daily files."""
    folder, slash, name = file.rpartition("/")
    piece = re.fullmatch(r"(.+?)(?:\.\d{1,4}|[.-]\d{4}-?\d\d-?\d\d[\dT:_-]*)", name)
    if piece:
        return folder + slash + piece[1], False
    daily = re.fullmatch(r"(.*?)\d{4}-?\d\d-?\d\d[^.]*(\..+)", name)
    return (f"{folder}{slash}{daily[1]}*{daily[2]}", True) if daily else (file, False)


def _toml(tables: dict[str, Any], proposal: Proposal, checked: CheckReport) -> str:
    total = checked.translated + checked.rejected
    share = 100 * checked.translated / total if total else 0.0
    said = [f"{checked.translated:,} of {counted(total, checked.noun)} translate ({share:.1f} %)."]
    if "continuation" in proposal.format:
        said[0] = f"{checked.translated:,} of {total:,} messages, of one line or several, translate ({share:.1f} %)."
    for reason, (count, numbers, example) in checked.reasons.items():
        said.append(f"{count:,} do not, {reason}: {checked.noun} {numbers[0]}: {shown(example, 60)}")
    said += [f"Not sure: {note}." for note in proposal.notes]
    said += [f"The file {checked.damage}."] if checked.damage else []
    more = " Add [mirror] to carry entries back into files." if tables["source"]["kind"] in ("log", "spool") else ""
    said.append(f"Try it with `bridge mapping check THIS.toml`.{more}")
    rows = [f"# {text}" for text in said]
    rows.append(f"name = {_value(tables['name'])}")
    for table, keys in tables.items():
        if isinstance(keys, dict):
            rows += ["", f"[{table}]", *(f"{key} = {_value(value)}" for key, value in keys.items())]
    return "\n".join(rows) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    text = str(value)
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=not text.isprintable())
