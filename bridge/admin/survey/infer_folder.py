"""Infers a mapping for an unknown folder from a sample of its files: the kind of source, and what is not sure. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.admin.survey.infer_log import infer, json_objects

IDENTITIES = ("uuid", "id", "message_id", "msg_id", "guid", "key")
ALIKE_SHARE = 0.8
"""Share of the sampled files that must be alike."""

NAMED = {"context": "context", "contexts": "context", "state": "state", "states": "state"}
"""The kind of source that the name of a folder of texts suggests, because the texts' content does not show it."""


@dataclass(slots=True)
class FolderProposal:
    """Proposes a mapping for a folder: the kind of source, the glob of its files, the mapping's tables, and notes.

    `notes` say what is not sure.
    """

    kind: str
    glob: str
    format: dict[str, Any] = field(default_factory=dict)
    message: dict[str, dict[str, Any]] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def infer_folder(name: str, files: Sequence[tuple[str, bytes]]) -> FolderProposal:
    """Infers a mapping for the folder of this name from a sample of its files.

    `files`: paths below the folder, each with the file's first bytes, or all bytes of a small file.
    """
    suffixes = [path.rpartition(".")[2] if "." in path.rpartition("/")[2] else "" for path, _ in files]
    common = max(set(suffixes), key=suffixes.count) if suffixes else ""
    deep = "**/" if any("/" in path for path, _ in files) else ""
    glob = f"{deep}*.{common}" if common and suffixes.count(common) >= ALIKE_SHARE * len(files) else f"{deep}*"
    objects = [(path, value) for path, raw in files if (value := _object(raw)) is not None]
    if len(objects) >= ALIKE_SHARE * len(files):
        return _documents(glob, files, objects)
    lines = _of_lines(glob, files)
    if lines is not None:
        return lines
    texts = sum(_is_text(raw) for _, raw in files)
    if texts < ALIKE_SHARE * len(files):
        return FolderProposal("artifacts", "", message={"role": {"name": "folder"}},
                      notes=["role: it is the name of the folder that a file lies in; edit message.role"])  # fmt: skip
    kind = NAMED.get(name.lower(), "spool")
    if kind != "spool":
        said = f"kind: the folder's name says {kind}, nothing in the files does"
        return FolderProposal(kind, glob, message={"role": {"name": "stem"}}, notes=[said])
    notes = [
        "kind: texts, each taken as one message; for files that grow it is context, for latest values state",
        "role: it is the file's name without its suffix; format.pattern may find role, type and timestamp in it",
        "timestamp: it is the time of writing",
    ]
    rules = {"role": {"name": "stem"}, "type": {"const": "text"}}
    return FolderProposal("spool", glob, {"codec": "document"}, rules, notes=notes)


def _of_lines(glob: str, files: Sequence[tuple[str, bytes]]) -> FolderProposal | None:
    """Infers a log mapping for a folder where most files hold several lines, and most lines have a time; else None."""
    several = [raw.split(b"\n")[:-1] for _, raw in files if raw.count(b"\n") > 1]
    if not several or len(several) < ALIKE_SHARE * len(files):
        return None
    found = infer([line for lines in several for line in lines])
    if found.share < ALIKE_SHARE:
        return None
    notes = ["kind: lines that begin with a time, each a message, as in a log", *found.notes]
    return FolderProposal("log", glob, found.format, found.message, notes=notes)


def _documents(
    glob: str, files: Sequence[tuple[str, bytes]], objects: list[tuple[str, dict[str, Any]]]
) -> FolderProposal:
    lines = [json.dumps(value).encode() for _, value in objects]
    found = FolderProposal("spool", glob, {"codec": "document"})
    proposal = json_objects(lines)
    if proposal is not None:
        found.message |= proposal.message
        if proposal.format["timestamp"] != "iso8601":
            found.format["timestamp"] = proposal.format["timestamp"]
        for name in ("role", "type"):
            if {"const", "name"} & set(found.message[name]):
                found.message[name] = {"const": "inbox" if name == "role" else "document"}
                found.notes.append(
                    f"{name}: nothing in the files looks like one, so it is a constant; edit message.{name}"
                )
    else:
        found.message |= {"role": {"const": "inbox"}, "type": {"const": "document"}}
        found.notes.append("timestamp: nothing in the files looks like one, so it is the time of writing")
    for key in IDENTITIES:
        values = [value.get(key) for _, value in objects]
        if all(isinstance(value, str | int) for value in values) and len(set(map(str, values))) == len(values):
            found.message = {"id": {"pointer": f"/{key}"}, **found.message}
            break
    else:
        found.notes.append("id: no field differs from file to file: a file that is rewritten will be another message")
    odd = sorted({path for path, _ in files} - {path for path, _ in objects})
    found.exclude = [path for path in odd if path.rpartition("/")[2].startswith("index")]
    return found


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_text(raw: bytes) -> bool:
    try:
        text = raw[: len(raw) - 3].decode() if len(raw) > 4096 else raw.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text
