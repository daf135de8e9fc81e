"""A proposal of how a log is read: the tables of a mapping, what they are sure of, and what they are not. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.admin.survey.log_forms import ABBREVIATIONS
from bridge.core.codecs import Codec, FieldRule
from bridge.core.codecs.delimited import DelimitedCodec
from bridge.core.codecs.jsonl import JsonlCodec
from bridge.core.codecs.line_template import TemplateCodec
from bridge.core.codecs.regexp import RegexCodec
from bridge.core.codecs.timestamps import clock_for, or_none
from bridge.core.model import Row

CONTINUES = re.compile(
    rb"\s|Caused by|Traceback|\.\.\. |at [\w.$<>]+\(|[\w.]+(?:Error|Exception)\b|[a-z]\w*(?:\.\w+)+: |\}|\)|$"
)
"""Matches the beginning of a line that probably continues the message before it, such as a stack trace's."""


@dataclass(slots=True)
class Proposal:
    """Proposes the tables of a mapping for a log, inferred from its lines.

    `format` and `message` are the mapping's tables; `share` of the lines tried translate. `doubts` say what may be
    wrong, and `notes` what was decided; both in plain words, to be read by the mapping's user.
    """

    format: dict[str, Any]
    message: dict[str, dict[str, Any]] = field(default_factory=dict)
    share: float = 0.0
    timeless: bool = False
    """Whether no time was found in any line."""
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def codec_of(proposal: Proposal) -> Codec:
    """Builds the codec that reads a log by a proposed mapping, as if all abbreviated zones in its times were told."""
    rules = {name: _rule(row) for name, row in proposal.message.items()}
    clock = clock_for(proposal.format["timestamp"], "UTC", dict.fromkeys(ABBREVIATIONS, "+00:00"))
    if "no_time" in proposal.format:
        clock = or_none(clock)
        if "timestamp" in rules:
            rules["timestamp"] = FieldRule(rules["timestamp"].pointers, None, b"")
    if proposal.format["codec"] == "jsonl":
        return JsonlCodec(rules, clock)
    if proposal.format["codec"] == "delimited":
        return DelimitedCodec(proposal.format["delimiter"], proposal.format["columns"], rules, clock, True)
    return RegexCodec(proposal.format["pattern"], rules, clock)


def _rule(row: dict[str, Any]) -> FieldRule:
    const, default = row.get("const", "stem" if "name" in row else None), row.get("default")
    return FieldRule(
        tuple(row.get("pointers", ())) or ((row["pointer"],) if "pointer" in row else ()),
        None if const is None else const.encode(), None if default is None else default.encode(),
    )  # fmt: skip


def judged(proposal: Proposal, lines: Sequence[bytes]) -> Proposal:
    """Sets the share of the log's lines that a proposed mapping translates, and detects continuation lines.

    Where most of the other lines continue the line before, they count as translated.
    """
    good = [row.__class__ is tuple for row in codec_of(proposal).decode(lines).rows]
    proposal.share = sum(good) / len(good) if good else 0.0
    others = [line for line, begins in zip(lines, good, strict=True) if not begins]
    first = good.index(True) if True in good else 0
    continuing = sum(1 for line in others if CONTINUES.match(line))
    if others and proposal.share >= 0.1 and continuing >= 0.5 * len(others):
        proposal.format["continuation"] = True
        proposal.share = 1 - first / len(good)
    return proposal


def rows_of(proposal: Proposal, lines: Sequence[bytes]) -> list[Row]:
    """Decodes lines of a log by a proposed mapping, and leaves out those that are no messages."""
    return [row for row in codec_of(proposal).decode(lines).rows if not isinstance(row, str)]


def with_constants(message: dict[str, dict[str, Any]], *present: str) -> dict[str, dict[str, Any]]:
    """Fills in constants for the fields that a log's lines do not tell: role from the file's name, one type for all."""
    for name, value in (("role", {"name": "stem"}), ("type", {"const": "line"})):
        if name not in present and name not in message:
            message[name] = dict(value)
    return message


def template_of(proposal: Proposal, lines: Sequence[bytes]) -> str | None:
    """Finds the `mirror.template` by which a proposed mapping's messages become exactly the lines they were made of.

    Empty: the mapping's codec does so without one. None: nothing does, so that no line may be written back. The
    template is made of the first line that is a message, and tried on all.
    """
    if "continuation" in proposal.format:
        return None
    inner, template = codec_of(proposal), ""
    codec: Codec = inner
    if proposal.format["codec"] == "regex":
        found = _literal_parts(proposal.format["pattern"], lines)
        if found is None:
            return None
        template = found
        codec = TemplateCodec(inner, template, True)
    rows = inner.decode(lines).rows
    exact = [codec.encode(row) == line for row, line in zip(rows, lines, strict=True) if not isinstance(row, str)]
    return template if exact and all(exact) else None


def _literal_parts(pattern: str, lines: Sequence[bytes]) -> str | None:
    """Writes the first line that a pattern matches as a template: its groups by name, and what stands between them."""
    compiled = re.compile(pattern.encode())
    match = next(filter(None, map(compiled.fullmatch, lines)), None)
    if match is None:
        return None
    if "data" not in compiled.groupindex:
        return "{data}"
    at, parts = 0, list[str]()
    for name, number in sorted(compiled.groupindex.items(), key=lambda item: match.span(item[1])):
        begin, end = match.span(number)
        if begin < at:  # it takes no part, or stands within another group
            continue
        parts += [match.string[at:begin].decode("utf-8", "replace"), f"{{{name}}}"]
        at = end
    return "".join(parts) + match.string[at:].decode("utf-8", "replace")
