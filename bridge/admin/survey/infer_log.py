"""Infers a mapping for an unknown log from a sample of its lines: the format that fits most, and what is not sure.

Three formats are tried: JSON objects, columns between delimiters, and patterns around a time. Every candidate is judged
by the same codec that would read the log. Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.admin.survey.log_forms import ABBREVIATIONS, AMBIGUOUS, AROUND, DAYLESS, LEVEL, TIMES
from bridge.core.codecs import Codec, FieldRule
from bridge.core.codecs.delimited import DelimitedCodec
from bridge.core.codecs.jsonl import JsonlCodec
from bridge.core.codecs.regexp import RegexCodec
from bridge.core.codecs.timestamps import clock_for

DELIMITERS = ("|", "\t", " | ", ";", ",")
NEARLY = 0.97
"""An earlier pattern, which finds more fields, is taken if it fits this share of the lines that the best one fits."""

FEW_SHARE = 0.2
CONTINUES = re.compile(rb"\s|Caused by|Traceback|\.\.\. |at |[\w.]+(?:Error|Exception)\b|\}|\)|$")

ROLES = ("role", "agent", "user", "component", "logger", "service", "source", "name", "program", "app", "host", "nick")
TYPES = (
    "type",
    "event_type",
    "doc_type",
    "message_type",
    "event",
    "kind",
    "action",
    "level",
    "severity",
    "levelname",
    "status",
    "method",
)
STAMPS = ("timestamp", "@timestamp", "time", "ts", "datetime", "date", "created_at", "created", "at", "asctime")


@dataclass(slots=True)
class Proposal:
    """Proposes the tables of a mapping for a log, inferred from its lines.

    `format` and `message` are the mapping's tables; `share` of the lines translate; `notes` say what is not sure.
    """

    format: dict[str, Any]
    message: dict[str, dict[str, Any]] = field(default_factory=dict)
    share: float = 0.0
    notes: list[str] = field(default_factory=list)


def infer(lines: Sequence[bytes]) -> Proposal:
    """Infers the mapping that fits a log's lines best; the first line may be a heading of columns."""
    some = [line for line in lines if line.strip()]
    found = [proposal for proposal in (json_objects(some), *_columns(some), *_patterns(some)) if proposal is not None]
    best = max(found, key=lambda proposal: (round(proposal.share, 2), "data" not in proposal.message), default=None)
    if best is None or best.share < 0.3:
        return _nothing()
    if best.share < 0.9:
        best.notes.append(
            f"only {100 * best.share:.0f} % of the lines tried translate: look at the others, mend format"
        )
    if best.format["timestamp"] in AMBIGUOUS:
        best.notes.append(f"timestamp: {AMBIGUOUS[best.format['timestamp']]}, see format.timestamp")
    if best.format["timestamp"] in DAYLESS:
        best.notes.append(
            "timestamp: the lines name no day, so all count as of the last 24 hours; entry IDs will be wrong"
        )
    elif "%" in best.format["timestamp"] and not re.search("%[Yy]", best.format["timestamp"]):
        best.notes.append("timestamp: the lines name no year; the latest year that is not in the future is taken")
    if unknown := _abbreviations(best, some):
        wanted = ", ".join(f'{name} = "+hh:mm"' for name in unknown)
        best.notes.insert(0, f"timestamp: say which zone the lines mean: format.zones = {{ {wanted} }}")
    elif not _zoned(best, some):
        yearless = any("no year" in note for note in best.notes)
        than = "; written in a zone east of it, the last hours would count as a year ago" if yearless else ""
        best.notes.append(f"timezone: the lines name none; UTC is taken{than}")
    for name, how in (("role", "it is the file's name"), ("type", "it is a constant")):
        if {"const", "name"} & set(best.message.get(name, {})):
            best.notes.append(f"{name}: nothing in the lines looks like one, so {how}; edit message.{name}")
    rows = [row for row in codec_of(best).decode(some).rows if not isinstance(row, str)]
    for name, at in (("role", 0), ("type", 2)):
        if any(row[at] for row in rows) and not all(row[at] for row in rows):
            best.notes.append(f"{name}: empty in some lines, whose form has none")
    if best.format.get("delimiter") == "," and any(b',"' in line for line in some[:50]):
        best.notes.append(
            "columns: quotes are taken as they stand, and a comma within them divides; the last column may hold any"
        )
    return best


def codec_of(proposal: Proposal) -> Codec:
    """Builds the codec that reads a log by a proposed mapping."""
    rules = {name: _rule(row) for name, row in proposal.message.items()}
    clock = clock_for(proposal.format["timestamp"], "UTC", dict.fromkeys(ABBREVIATIONS.split("|"), "+00:00"))
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


def _judged(proposal: Proposal, lines: Sequence[bytes]) -> Proposal:
    """Sets the share of the log's lines that a proposed mapping translates, and detects continuation lines.

    Where most of the other lines continue the line before, they count as translated.
    """
    good = [row.__class__ is tuple for row in codec_of(proposal).decode(lines).rows]
    proposal.share = sum(good) / len(good) if good else 0.0
    others = [line for line, begins in zip(lines, good, strict=True) if not begins]
    first = good.index(True) if True in good else 0
    continuing = sum(1 for line in others if CONTINUES.match(line))
    if others and proposal.share >= 0.1 and continuing > 0.5 * len(others):
        proposal.format["continuation"] = True
        proposal.share = 1 - first / len(good)
    return proposal


def _nothing() -> Proposal:
    notes = [
        "no time was found that most lines have: this mapping is a beginning, to be edited",
        "write format.pattern with a group (?P<timestamp>…) that matches your lines, and format.timestamp for it",
        "if the lines have no time at all, they cannot be carried as they are",
    ]
    around = {"codec": "regex", "pattern": r"(?P<timestamp>\S+) (?P<data>.*)", "timestamp": "iso8601"}
    return Proposal(around, _constants({}), notes=notes)


def _constants(message: dict[str, dict[str, Any]], *present: str) -> dict[str, dict[str, Any]]:
    """Fills in constants for the fields that a log's lines do not tell: role from the file's name, one type for all."""
    for name, value in (("role", {"name": "stem"}), ("type", {"const": "line"})):
        if name not in present and name not in message:
            message[name] = dict(value)
    return message


def _abbreviations(proposal: Proposal, lines: Sequence[bytes]) -> list[str]:
    """Lists the abbreviated zones in a log's times that nobody can read without `format.zones`."""
    rows = [row for row in codec_of(proposal).decode(lines).rows if not isinstance(row, str)]
    return sorted({word.decode() for row in rows for word in re.findall(ABBREVIATIONS.encode(), row[1])})


def _zoned(proposal: Proposal, lines: Sequence[bytes]) -> bool:
    if proposal.format["timestamp"] != "iso8601":
        return (
            proposal.format["timestamp"].startswith("epoch")
            or re.search("%[zZ]", proposal.format["timestamp"]) is not None
        )
    rows = [row for row in codec_of(proposal).decode(lines[:200]).rows if not isinstance(row, str)]
    return all(re.search(rb"([Zz]|UTC|GMT|[+-]\d\d(:?\d\d)?)$", row[1]) for row in rows)


# -- JSON ----------------------------------------------------------------------------------------------------


def json_objects(lines: Sequence[bytes]) -> Proposal | None:
    """Proposes a mapping for a log of JSON objects; None where most lines are no objects, or no field is a time."""
    values: dict[str, list[Any]] = {}
    objects = 0
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            objects += 1
            for pointer, scalar in _scalars(value, ""):
                values.setdefault(pointer, []).append(scalar)
    if objects < 0.5 * len(lines) or not objects:
        return None
    stamps = [(p, f) for p, found in values.items() if len(found) > 0.8 * objects and (f := _time_of(found))]
    if not stamps:
        return None
    pointer, form = min(stamps, key=lambda pair: (_rank(pair[0], STAMPS), pair[0].count("/")))
    message: dict[str, dict[str, Any]] = {}
    for name, wanted in (("role", ROLES), ("type", TYPES)):
        fit = [p for p, found in values.items() if p != pointer and _few(found) and _rank(p, wanted) < len(wanted)]
        if fit:
            chosen = sorted(fit, key=lambda p: (_rank(p, wanted), p.count("/")))
            message[name] = {"pointer": chosen[0]}
            if len(values[chosen[0]]) < objects:
                message[name] |= {"default": "log" if name == "role" else "line"}
    message["timestamp"] = {"pointer": pointer}
    return _judged(Proposal({"codec": "jsonl", "timestamp": form}, _constants(message)), lines)


def _scalars(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and pointer.count("/") < 4:
        for key, inner in value.items():
            yield from _scalars(inner, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield pointer, value


def _rank(pointer: str, wanted: Sequence[str]) -> int:
    name = pointer.rpartition("/")[2].lower()
    return wanted.index(name) if name in wanted else len(wanted)


def _time_of(values: Sequence[Any]) -> str:
    """Infers the `format.timestamp` of a log's field or column from its values; empty when they are no times."""
    texts = [str(value).encode() for value in values if not isinstance(value, bool)]
    for look, form in TIMES:
        if form in DAYLESS or not all(re.fullmatch(look.encode(), text) for text in texts[:50]):
            continue
        try:
            clock_for(form, "UTC")(texts)
        except ValueError:
            continue
        if form.startswith("epoch") and not _plausible(form, texts):
            continue
        return form
    return ""


def _plausible(form: str, texts: Sequence[bytes]) -> bool:
    """Whether numbers in a log that could be times since 1970 lie between 1990 and 2100."""
    times = clock_for(form, "UTC")(texts)
    return all(631_152_000_000 < time < 4_102_444_800_000 for time in times)


def _few(values: Sequence[Any]) -> bool:
    return len(set(map(str, values))) <= max(3, FEW_SHARE * len(values)) and all(
        isinstance(value, str) for value in values
    )


# -- columns -------------------------------------------------------------------------------------------------


def _columns(lines: Sequence[bytes]) -> Iterator[Proposal]:
    for delimiter in DELIMITERS:
        raw = delimiter.encode()
        heading = _heading(lines[0].split(raw)) if lines else []
        counts = Counter(line.count(raw) + 1 for line in lines)
        most = [n for n in sorted(counts) if sum(m for k, m in counts.items() if k >= n) >= 0.9 * len(lines)]
        wide = max(most, default=1)
        wide = len(heading) if 3 <= len(heading) <= wide else wide  # what goes beyond it is in the last column
        if wide < 3 or wide > 40:
            continue
        steady = counts[wide] >= 0.9 * len(lines)
        rows = [line.split(raw, wide - 1) for line in lines if line.count(raw) >= wide - 1]
        proposal = _of_columns(delimiter, rows, heading, steady=steady and len(heading) in (0, max(most, default=1)))
        if proposal is not None:
            yield _judged(proposal, lines)


def _heading(cells: list[bytes]) -> list[str]:
    """Reads the names of columns from a log's first line if that is a heading; empty when it is none."""
    names = [cell.decode("utf-8", "replace").strip().strip('"').lower() for cell in cells]
    named = all(re.fullmatch(r"[a-z_][\w .@/-]{0,40}", name) for name in names)
    return names if named and len(set(names)) == len(names) and set(names) & {*STAMPS, "when"} else []


def _of_columns(delimiter: str, rows: list[list[bytes]], heading: list[str], *, steady: bool) -> Proposal | None:
    body = rows[1:] if heading and len(rows) > 1 else rows
    heading = heading or [""] * len(rows[0])
    columns = [[row[i].decode("utf-8", "replace") for row in body] for i in range(len(rows[0]))]
    stamps = [(i, form) for i, values in enumerate(columns) if (form := _time_of(values))]
    if not stamps:
        return None
    at, form = stamps[0]
    rest = [i for i in range(len(columns)) if i != at]
    data = rest[-1]
    if steady:  # else the last column holds delimiters, so it is the text
        data = max(
            rest, key=lambda i: (len(set(columns[i])) > max(3, FEW_SHARE * len(body)), sum(map(len, columns[i])))
        )
    names = {at: "timestamp", data: "data"}
    few = [i for i in rest if i != data and _few(columns[i])]
    for name, wanted in (("type", TYPES), ("role", ROLES)):
        by_name = [i for i in few if i not in names and heading[i] in wanted]
        by_look = [i for i in few if i not in names and name == "type" and _levels(columns[i])]
        if by_name or by_look:
            names[(by_name or by_look)[0]] = name
    for name in ("type", "role") if len(few) == 1 else ("role", "type"):
        left = [i for i in few if i not in names and any(columns[i])]
        if name not in names.values() and left:
            names[left[0]] = name
    titles = {i: re.sub(r"[^a-z0-9]+", "_", heading[i]).strip("_") for i in range(len(columns))}
    taken = set(names.values()) | {"origin"}
    for i in range(len(columns)):
        if i not in names:
            title = titles[i]
            names[i] = title if title and title not in taken else f"column{i + 1}"
            taken.add(names[i])
    form_table = {"codec": "delimited", "delimiter": delimiter, "columns": [names[i] for i in range(len(columns))],
                  "timestamp": form}  # fmt: skip
    return Proposal(form_table, _constants({}, *names.values()))


def _levels(values: Sequence[str]) -> bool:
    return any(re.fullmatch(LEVEL, value.strip()) for value in values)


# -- patterns ------------------------------------------------------------------------------------------------


def _patterns(lines: Sequence[bytes]) -> Iterator[Proposal]:
    """Proposes the best line pattern for each form of time that a tenth of the log's lines have near their start."""
    for look, form in TIMES:
        if sum(1 for line in lines if re.search(rb"(?<!\d)" + look.encode(), line[:120])) < 0.1 * len(lines):
            continue
        tried: list[Proposal] = []
        for around in AROUND:
            pattern = around.replace("@", f"(?P<timestamp>{look})", 1)
            groups = re.findall(r"\(\?P<(\w+)>", pattern)
            proposal = Proposal({"codec": "regex", "pattern": pattern, "timestamp": form}, _constants({}, *groups))
            tried.append(_judged(proposal, lines))
        best = max(candidate.share for candidate in tried)
        chosen = next(candidate for candidate in tried if candidate.share >= NEARLY * best)
        rows = [row for row in codec_of(chosen).decode(lines).rows if not isinstance(row, str)]
        if rows and (not form.startswith("epoch") or _plausible(form, [row[1] for row in rows])):
            yield chosen
