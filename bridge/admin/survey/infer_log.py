"""Infers a mapping for an unknown log from a sample of its lines: the format that fits most, and what is not sure.

Lines that are JSON are read as JSON; else columns between delimiters and patterns around a time are tried. Every
candidate is judged by the same codec that would read the log. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from bridge.admin.survey.infer_json import ROLES as JSON_ROLES
from bridge.admin.survey.infer_json import STAMPS, TYPES, is_plausible, json_objects, rank, time_of
from bridge.admin.survey.log_forms import (
    ABBREVIATED,
    ABBREVIATIONS,
    AMBIGUOUS,
    AROUND,
    DAYLESS,
    FEW_NAMES,
    LEVEL,
    NO_ZONE,
    TIMES,
    WITHOUT_TIME,
    ZONE_LIKE,
)
from bridge.admin.survey.proposal import CONTINUES, Proposal, codec_of, judged, rows_of, with_constants
from bridge.core.codecs.timestamps import EPOCHS
from bridge.core.model import shown
from bridge.core.wording import counted

DELIMITERS = ("|", "\t", " | ", ";", ",")
NEARLY = 0.97
"""An earlier pattern, which finds more fields, is taken if it fits this share of the lines that the best one fits."""

FEW_SHARE, SEVERAL, CUT_SHARE = 0.2, 10, 0.05
_DECIMAL_COMMA = re.compile(rb"\d\d:\d\d:\d\d,\d{3}(?!\d)")
KNOWN_COLUMNS = (["role", "timestamp", "type", "data"], ["timestamp", "type", "data"])
"""The orders of columns that HestAI's programs use, so that none of them is a guess."""

TRIED = 1000
"""Lines on which every candidate is tried; the best ones are tried on all lines of the sample."""


def infer(lines: Sequence[bytes]) -> Proposal:
    """Infers from sample lines of a log the mapping that reads most of them; the first may be a heading of columns."""
    some = [line for line in lines if line.strip()]
    best = json_objects(some)
    if best is None:
        few = some[:: -(-len(some) // TRIED)] if len(some) > TRIED else some
        found = [judged(proposal, some) for proposal in (*_columns(few), *_patterns(few))]
        best = max(found, key=_worth, default=None)
        if best is None or best.share < 0.3:
            best = _without_time(some)
        doubts_about_time(best, some)
    elif "no_time" not in best.format or "pointers" in best.message["timestamp"]:
        doubts_about_time(best, some)
    if "continuation" in best.format:
        _doubts_about_continuation(best, some)
    for name, how in (("role", "it is the file's name"), ("type", "it is a constant")):
        if {"const", "name"} & set(best.message.get(name, {})):
            best.notes.append(f"{name}: nothing in the lines looks like one, so {how}; edit message.{name}")
    rows = rows_of(best, some)
    for name, at in (("role", 0), ("type", 2)):
        if any(row[at] for row in rows) and not all(row[at] for row in rows):
            best.notes.append(f"{name}: empty in some lines, whose form has none")
    if best.format.get("delimiter") == "," and any(b',"' in line for line in some[:50]):
        best.notes.append(
            "columns: quotes are taken as they stand, and a comma within them divides; the last column may hold any"
        )
    return best


def _worth(proposal: Proposal) -> tuple[float, int]:
    """Orders proposals: by the share of lines that translate, then by how many of role and type lines tell."""
    constants = sum(bool({"const", "name"} & set(proposal.message.get(name, {}))) for name in ("role", "type"))
    return round(proposal.share, 2), -constants


def _doubts_about_continuation(best: Proposal, lines: Sequence[bytes]) -> None:
    """Notes that lines continue the message before them, and doubts it where one looks like a message of its own."""
    others = [line for line, row in zip(lines, codec_of(best).decode(lines).rows, strict=True) if isinstance(row, str)]
    best.notes.append(f"continuation: {counted(len(others), 'line')} of those tried go on with the message before")
    looks = re.compile("|".join(look for look, form in TIMES if form not in (*DAYLESS, *EPOCHS)).encode())
    odd = [line for line in others if looks.search(line[:60]) or not CONTINUES.match(line)]
    if odd:
        best.doubts.append(
            f"continuation: {counted(len(odd), 'line')} may be no part of the message before: {shown(odd[0], 60)}"
        )


def doubts_about_time(best: Proposal, lines: Sequence[bytes]) -> None:
    """Adds to a proposal what its times leave open: zone, year, day, and the order of month and day."""
    form = best.format["timestamp"]
    rows = rows_of(best, lines)
    stamps = [row[1] for row in rows if row[1]]
    if not stamps:
        return
    if len(stamps) >= SEVERAL and len(set(stamps)) == 1:
        best.doubts.append("timestamp: it is the same in all lines tried")
    if best.format.get("pattern", "").startswith(".*?"):
        best.doubts.append("timestamp: it stands within the text, and may be something else than the message's time")
    if form in AMBIGUOUS:
        best.doubts.append(f"timestamp: {AMBIGUOUS[form]}, see format.timestamp")
    yearless = "%" in form and not re.search("%[Yy]", form)
    if form in DAYLESS:
        best.doubts.append(
            "timestamp: the lines name no day, so all count as of the last 24 hours; entry IDs will be wrong"
        )
    elif yearless:
        best.doubts.append("timestamp: the lines name no year; the latest year that is not in the future is taken")
    if unknown := sorted({word.decode() for stamp in stamps for word in re.findall(ABBREVIATED, stamp)}):
        wanted = ", ".join(f'{name} = "+hh:mm"' for name in unknown)
        best.doubts.insert(0, f"timestamp: say which zone the lines mean: format.zones = {{ {wanted} }}")
    elif not _zoned(form, stamps):
        behind = _behind(best, lines)
        than = "; if they were written east of it, the last hours count as a year ago" if yearless else ""
        some = "some lines name" if any(map(_named_zone, stamps[:200])) else "the lines name"
        why = f"{behind} behind the time looks like a zone that cannot be read" if behind else f"{some} none"
        best.doubts.append(f"timezone: {why}; UTC is taken{than}")


def _zoned(form: str, stamps: Sequence[bytes]) -> bool:
    if form != "iso8601":
        return form in EPOCHS or re.search("%[zZ]", form) is not None
    return all(map(_named_zone, stamps[:200]))


def _named_zone(stamp: bytes) -> bool:
    return (
        re.search(rb":[\d.,]+ ?([Zz]|UTC|GMT|[+-]\d\d(:?\d\d)?)$|\dT\d{6}.*([Zz]|[+-]\d\d:?(\d\d)?)$", stamp)
        is not None
    )


def _behind(best: Proposal, lines: Sequence[bytes]) -> str:
    """Finds the word behind the times of a log that looks like a zone and stands in all lines; empty: there is none."""
    if best.format["codec"] != "regex":
        return ""
    look = re.compile(ZONE_LIKE.encode())
    compiled, found = re.compile(best.format["pattern"].encode()), Counter[str]()
    tried = [match for line in lines[:TRIED] if (match := compiled.fullmatch(line)) is not None]
    for match in tried:
        if (behind := look.match(match.string, match.end("timestamp"))) is not None:
            found[behind[1].decode()] += 1
    fine = [word for word in found if word not in NO_ZONE]
    return fine[0] if fine and len(found) <= 2 and sum(found[word] for word in fine) >= 0.9 * len(tried) else ""


def _without_time(lines: Sequence[bytes]) -> Proposal:
    """Proposes a mapping for a log in whose lines no time was found: they are carried in their order, without one."""
    tried = []
    for around in WITHOUT_TIME:
        groups = re.findall(r"\(\?P<(\w+)>", around)
        form = {"codec": "regex", "pattern": f"(?P<timestamp>){around}", "timestamp": "iso8601", "no_time": "previous"}
        tried.append(judged(Proposal(form, with_constants({}, *groups)), lines))
    chosen = next((candidate for candidate in tried if candidate.share >= NEARLY), tried[-1])
    chosen.timeless = True
    chosen.doubts = [
        "no time was found that most lines have, so they are carried in their order, without one",
        "if they have one, write format.pattern with a group (?P<timestamp>…) that matches it, and format.timestamp",
    ]
    return chosen


# -- columns -------------------------------------------------------------------------------------------------


def _columns(lines: Sequence[bytes]) -> Iterator[Proposal]:
    for delimiter in DELIMITERS:
        raw = delimiter.encode()
        heading = _heading(lines[0].split(raw)) if lines else []
        counts = Counter(line.count(raw) + 1 for line in lines)
        enough = min(0.9 * len(lines), max(2, len(lines) - 1))
        most = [n for n in sorted(counts) if sum(m for k, m in counts.items() if k >= n) >= enough]
        wide = max(most, default=1)
        wide = len(heading) if 3 <= len(heading) <= wide else wide  # what goes beyond it is in the last column
        if wide < 3 or wide > 40:
            continue
        if delimiter == "," and sum(1 for line in lines if _DECIMAL_COMMA.search(line[:60])) >= 0.5 * len(lines):
            continue
        whole = _uncut(delimiter, [line.split(raw, wide - 1) for line in lines if line.count(raw) >= wide - 1])
        steady, wide = counts[wide] >= enough and whole == wide, whole
        if wide < 3:
            continue
        rows = [line.split(raw, wide - 1) for line in lines if line.count(raw) >= wide - 1]
        proposal = _of_columns(delimiter, rows, heading, steady=steady and len(heading) in (0, max(most, default=1)))
        if proposal is not None:
            yield judged(proposal, lines)


def _uncut(delimiter: str, rows: list[list[bytes]]) -> int:
    """Returns how many columns there are if the first one that cuts a text takes the rest of the line.

    A text is cut where a quote or a bracket opens in a column and closes in a later one, or, between bars, where blanks
    stand around the bar.
    """
    for n in range(len(rows[0]) - 1 if rows else 0):
        cells = [row[n] for row in rows]
        open_ended = sum(cell.count(b'"') % 2 == 1 or cell.count(b"{") != cell.count(b"}") for cell in cells)
        padded = sum(cell != cell.strip() for cell in cells) if delimiter == "|" else 0
        if open_ended > CUT_SHARE * len(cells) or padded > CUT_SHARE * len(cells):
            return n + 1
    return len(rows[0]) if rows else 0


def _heading(cells: list[bytes]) -> list[str]:
    """Reads the names of columns from a log's first line if that is a heading; empty when it is none."""
    names = [cell.decode("utf-8", "replace").strip().strip('"').lower() for cell in cells]
    named = all(re.fullmatch(r"[a-z_][\w .@/-]{0,40}", name) for name in names)
    return names if named and len(set(names)) == len(names) and _has_stamp(names) else []


def _has_stamp(names: Sequence[str]) -> bool:
    return any(rank(name, STAMPS) < len(STAMPS) for name in names)


def _of_columns(delimiter: str, rows: list[list[bytes]], heading: list[str], *, steady: bool) -> Proposal | None:
    body = rows[1:] if heading and len(rows) > 1 else rows
    titled = bool(heading)
    heading = heading or [""] * len(rows[0])
    columns = [[row[i].decode("utf-8", "replace") for row in body] for i in range(len(rows[0]))]
    stamps = [(i, form) for i, values in enumerate(columns) if (form := time_of(values, heading[i]))]
    stamps.sort(key=lambda stamp: len(body) >= SEVERAL and len(set(columns[stamp[0]])) == 1)
    if not stamps or (delimiter == " | " and _padded(columns)):
        return None
    at, form = stamps[0]
    rest = [i for i in range(len(columns)) if i != at]
    data = rest[-1]
    if steady and len(body) >= SEVERAL:  # else the last column holds delimiters, or nothing tells which one is the text
        data = max(
            rest, key=lambda i: (len(set(columns[i])) > max(3, FEW_SHARE * len(body)), sum(map(len, columns[i])))
        )
    names = {at: "timestamp", data: "data"}
    few = [i for i in rest if i != data and _few(columns[i])]
    for name, wanted in (("type", TYPES), ("role", JSON_ROLES)):
        by_name = sorted(
            (rank(heading[i], wanted), i) for i in few if i not in names and rank(heading[i], wanted) < len(wanted)
        )
        by_look = [i for i in few if i not in names and name == "type" and _levels(columns[i])]
        if by_name or by_look:
            names[by_name[0][1] if by_name else by_look[0]] = name
    guessed = []
    for name in ("type", "role") if len(few) == 1 else ("role", "type"):
        left = [i for i in few if i not in names and any(columns[i])]
        if name not in names.values() and left:
            names[left[0]] = name
            guessed.append(name)
    titles = {i: re.sub(r"[^a-z0-9]+", "_", heading[i]).strip("_") for i in range(len(columns))}
    taken = set(names.values()) | {"origin"}
    for i in range(len(columns)):
        if i not in names:
            title = titles[i]
            names[i] = title if title and title not in taken else f"column{i + 1}"
            taken.add(names[i])
    form_table = {"codec": "delimited", "delimiter": delimiter, "columns": [names[i] for i in range(len(columns))],
                  "timestamp": form}  # fmt: skip
    notes = ["columns: the first line is a heading, and no message: it goes into quarantine"] if titled else []
    doubts = []
    if guessed and [names[i] for i in range(len(columns))] not in KNOWN_COLUMNS:
        doubts.append(f"columns: {' and '.join(guessed)} guessed, from a column with few different values")
    if any(row[-1].endswith(b"\r") for row in body) and names[len(columns) - 1] != "data":
        doubts.append(f"columns: lines end with CR, which is part of the last column, {names[len(columns) - 1]}")
    return Proposal(form_table, with_constants({}, *names.values()), doubts=doubts, notes=notes)


def _padded(columns: Sequence[Sequence[str]]) -> bool:
    """Whether the words of some column are filled up with blanks, as programs do that write by a pattern."""
    return any(any(value != value.strip() for value in values) and _few(values) for values in columns)


def _few(values: Sequence[str]) -> bool:
    return len(set(values)) <= max(3, FEW_SHARE * len(values))


def _levels(values: Sequence[str]) -> bool:
    return any(re.fullmatch(LEVEL, value.strip()) for value in values)


# -- patterns ------------------------------------------------------------------------------------------------


def _patterns(lines: Sequence[bytes]) -> Iterator[Proposal]:
    """Proposes the best line pattern for each form of time that a tenth of the log's lines have near their start."""
    for form_look, form in TIMES:
        look = _with_zones(form_look, lines)
        if sum(1 for line in lines if re.search(rb"(?<!\d)" + look.encode(), line[:120])) < 0.1 * len(lines):
            continue
        tried: list[Proposal] = []
        for around in AROUND[:-1] if form in EPOCHS else AROUND:  # a number within a text is no time
            pattern = around.replace("@", f"(?P<timestamp>{look})", 1)
            groups = re.findall(r"\(\?P<(\w+)>", pattern)
            proposal = Proposal({"codec": "regex", "pattern": pattern, "timestamp": form}, with_constants({}, *groups))
            judged(proposal, lines)
            if around not in FEW_NAMES or _few([row[0].decode("utf-8", "replace") for row in rows_of(proposal, lines)]):
                tried.append(proposal)
        best = max((candidate.share for candidate in tried), default=0.0)
        if not best:
            continue
        chosen = next(candidate for candidate in tried if candidate.share >= NEARLY * best)
        rows = rows_of(chosen, lines)
        if rows and (form not in EPOCHS or is_plausible(form, [row[1] for row in rows])):
            yield chosen


def _with_zones(look: str, lines: Sequence[bytes]) -> str:
    """Fits a pattern of times to whether abbreviated zones stand behind the times: then any may, else none."""
    if ABBREVIATIONS[0] not in look:
        return look
    listed = "|".join(ABBREVIATIONS)
    behind = re.compile(look.replace(listed, f"(?P<zone>{listed})", 1).encode())
    some = sum(1 for line in lines if (found := behind.search(line[:120])) is not None and found["zone"])
    return look.replace(listed, "[A-Z]{3,5}" if some >= 0.1 * len(lines) else "Z")
