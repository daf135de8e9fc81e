"""Infers a mapping for an unknown folder from a sample of its files: the kind of source, and what is not sure. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.admin.survey.infer_json import is_object, json_objects
from bridge.admin.survey.infer_log import doubts_about_time, infer
from bridge.admin.survey.proposal import Proposal
from bridge.core.globs import literal

IDENTITIES = ("uuid", "id", "message_id", "msg_id", "guid", "key")
GLOBAL = ("uuid", "guid")
"""Names of fields that say that no other document has the same value."""

SHORTEST_IDENTITY = 8
"""Characters in which identities differ at least, if they are no counters."""

ALIKE_SHARE = 0.8
"""Share of the sampled files that must be alike."""

OF_LINES = (".jsonl", ".ndjson", ".log")
"""Endings of the names of files that hold lines, even if such a file holds one line alone."""

NAMED = {"context": "context", "contexts": "context", "state": "state", "states": "state"}
"""The kind of source that the name of a folder of texts suggests, because the texts' content does not show it."""


@dataclass(slots=True)
class FolderProposal:
    """Proposes a mapping for a folder: the kind of source, the glob of its files, and the mapping's tables.

    `doubts` say what may be wrong, `notes` what was decided.
    """

    kind: str
    glob: str
    format: dict[str, Any] = field(default_factory=dict)
    message: dict[str, dict[str, Any]] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def infer_folder(name: str, files: Sequence[tuple[str, bytes]]) -> FolderProposal:
    """Infers a mapping for the folder of this name from a sample of its files.

    `files`: paths below the folder, each with the file's first bytes, or all bytes of a small file.
    """
    suffixes = [path.rpartition(".")[2] if "." in path.rpartition("/")[2] else "" for path, _ in files]
    common = max(sorted(set(suffixes)), key=suffixes.count) if suffixes else ""
    deep = "**/" if any("/" in path for path, _ in files) else ""
    alike = common and suffixes.count(common) >= (0.5 if f".{common}" in OF_LINES else ALIKE_SHARE) * len(files)
    glob = f"{deep}*.{literal(common)}" if alike else f"{deep}*"
    if alike and suffixes.count(common) < len(files):
        others = [path for (path, _), suffix in zip(files, suffixes, strict=True) if suffix != common]
        found = infer_folder(name, [file for file, suffix in zip(files, suffixes, strict=True) if suffix == common])
        if not all(path.rpartition("/")[2].startswith("index") for path in others):
            found.doubts.append(f"source.path: {len(others)} of {len(files)} files end otherwise, and are left out")
        found.exclude += [path for path in others if path.endswith(f".{common}")]
        return found
    objects = [(path, value) for path, raw in files if (value := _object(path, raw)) is not None]
    if len(objects) >= ALIKE_SHARE * len(files):
        return _documents(glob, files, objects)
    lines = _of_lines(glob, files)
    if lines is not None:
        return lines
    texts = sum(_is_text(raw) for _, raw in files)
    if texts < ALIKE_SHARE * len(files):
        return FolderProposal("artifacts", "", message={"role": {"name": "folder"}},
                      doubts=["kind: the files are no texts, so they are taken for artifacts, which are not moved"],
                      notes=["role: it is the name of the folder that a file lies in; edit message.role"])  # fmt: skip
    kind = NAMED.get(name.lower(), "spool")
    if kind != "spool":
        said = f"kind: the folder's name says {kind}, nothing in the files does"
        return FolderProposal(kind, glob, message={"role": {"name": "stem"}}, doubts=[said])
    doubts = ["kind: texts, each taken as one message; for files that grow it is context, for latest values state"]
    notes = [
        "role: it is the file's name without its suffix; format.pattern may find role, type and timestamp in it",
        "timestamp: it is the time of writing",
    ]
    rules = {"role": {"name": "stem"}, "type": {"const": "text"}}
    return FolderProposal("spool", glob, {"codec": "document"}, rules, doubts=doubts, notes=notes)


def _of_lines(glob: str, files: Sequence[tuple[str, bytes]]) -> FolderProposal | None:
    """Infers a log mapping for a folder where most files hold lines that have a time or are JSON; else None."""
    several = [
        raw.split(b"\n")[:-1]
        for path, raw in files
        if raw.count(b"\n") > 1 or (b"\n" in raw and path.endswith(OF_LINES))
    ]
    if not several or len(several) < ALIKE_SHARE * len(files):
        return None
    found = infer([line for lines in several for line in lines])
    if found.share < ALIKE_SHARE or (found.format["codec"] != "jsonl" and "no_time" in found.format):
        return None
    notes = ["kind: lines, each a message, as in a log", *found.notes]
    return FolderProposal("log", glob, found.format, found.message, doubts=found.doubts, notes=notes)


def _documents(
    glob: str, files: Sequence[tuple[str, bytes]], objects: list[tuple[str, dict[str, Any]]]
) -> FolderProposal:
    lines = [json.dumps(value).encode() for _, value in objects]
    found = FolderProposal("spool", glob, {"codec": "document"})
    proposal = json_objects(lines)
    for name, other in (("role", "inbox"), ("type", "document")):
        told = proposal.message[name] if proposal is not None else {}
        if not told or {"const", "name"} & set(told):
            found.message[name] = {"const": other}
            found.notes.append(f"{name}: nothing in the files looks like one, so it is a constant; edit message.{name}")
        else:
            found.message[name] = told
    timed = _with_time(proposal, [value for _, value in objects])
    if 0 < timed < ALIKE_SHARE * len(objects):
        found.doubts.append(
            f"timestamp: {timed} of {len(objects)} files tell one, but it is the time of writing for all"
        )
    elif 0 < timed < len(objects):
        found.doubts.append(f"timestamp: {len(objects) - timed} of {len(objects)} files tell none, and are quarantined")
    if proposal is not None and timed >= ALIKE_SHARE * len(objects):
        found.message["timestamp"] = proposal.message["timestamp"]
        doubts_about_time(proposal, lines)
        found.doubts += proposal.doubts
        if proposal.format["timestamp"] != "iso8601":
            found.format["timestamp"] = proposal.format["timestamp"]
    else:
        found.notes.append("timestamp: it is the time of writing")
    _identity(found, [value for _, value in objects])
    odd = sorted({path for path, _ in files} - {path for path, _ in objects})
    found.exclude = [path for path in odd if path.rpartition("/")[2].startswith("index")]
    return found


def _with_time(proposal: Proposal | None, objects: Sequence[dict[str, Any]]) -> int:
    """Counts the documents that tell their time where a proposal looks for it."""
    section = proposal.message["timestamp"] if proposal is not None else {}
    pointers = section.get("pointers") or [pointer for pointer in [section.get("pointer")] if pointer is not None]
    return sum(any(_at(value, pointer) is not None for pointer in pointers) for value in objects)


def _at(value: Any, pointer: str) -> Any:
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _identity(found: FolderProposal, objects: Sequence[dict[str, Any]]) -> None:
    """Finds the field that is a document's own identity: one that differs from file to file, and is no counter.

    A counter begins anew in the next session, or folder, and the documents there would count as known ones.
    """
    counters = []
    for key in IDENTITIES:
        values = [value.get(key) for value in objects]
        if not all(isinstance(value, str | int) for value in values) or len(set(map(str, values))) != len(values):
            continue
        if key not in GLOBAL and _may_be_counter([*map(str, values)]):
            counters.append(key)
            continue
        found.message = {"id": {"pointer": f"/{key}"}, **found.message}
        return
    if counters:
        found.notes.append(f"id: {counters[0]} may begin anew elsewhere, so it is not taken for an identity")
    found.notes.append("id: no field is an identity: a file that is rewritten will be another message")


def _may_be_counter(values: Sequence[str]) -> bool:
    """Whether values that differ may be counted: what they do not have in common is short, or digits alone."""
    begin, end = _in_common(values), _in_common([value[::-1] for value in values])
    own = [value[begin : max(begin, len(value) - end)] for value in values]
    return min(map(len, own)) < SHORTEST_IDENTITY or all(part.isdigit() for part in own)


def _in_common(values: Sequence[str]) -> int:
    """Counts the characters with which all values begin."""
    first, last = min(values), max(values)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _object(path: str, raw: bytes) -> dict[str, Any] | None:
    """Parses the JSON object that is all of a file; None: it is none, or the file holds lines."""
    if path.endswith(OF_LINES):
        return None
    return is_object(raw)


def _is_text(raw: bytes) -> bool:
    try:
        text = raw[: len(raw) - 3].decode() if len(raw) > 4096 else raw.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text
