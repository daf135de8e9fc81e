"""Infers a mapping for a log of JSON objects, one a line: where in them role, type and time are. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bridge.admin.survey.log_forms import ABBREVIATIONS, DAYLESS, TIMES
from bridge.admin.survey.proposal import Proposal, judged, with_constants
from bridge.core.codecs.timestamps import EPOCHS, clock_for
from bridge.core.wording import counted

ROLES = (
    "role", "actor", "sender", "author", "speaker", "agent", "agentname", "from", "participant", "user", "component",
    "logger", "loggername", "service", "syslogidentifier", "source", "name", "program", "app", "host", "nick", "comm",
)  # fmt: skip
"""Names of fields that tell a message's role, the likeliest first; in small letters, without marks between words."""

TYPES = (
    "type", "eventtype", "recordtype", "doctype", "messagetype", "event", "kind", "action", "level", "severity",
    "severitytext", "levelname", "loglevel", "lvl", "status", "method", "priority", "category", "stream",
)  # fmt: skip
STAMPS = (
    "timestamp", "time", "ts", "datetime", "date", "createdat", "created", "at", "asctime", "realtimetimestamp",
    "eventtime", "loggedat", "starttime", "startedat", "start", "when",
)  # fmt: skip

LONGEST_WORD = 64
"""Characters of a field's values that may be a role or a type; longer ones are texts."""

MOST_WORDS, FEW_SHARE = 20, 0.2
"""Values of a field, in number or as a share of the records, up to which they may be roles or types."""

MOSTLY = 0.8
"""Share of a field's values that are times of one form; the others will be told apart as rejects."""

RARE_SHARE = 0.3
"""Share of the records below which a field that tells a role, or a type, is taken only where no other does."""

SHALLOW = 2
"""Levels of objects down to which a name counts more than how deep it stands."""

DEPTH = 4
"""Levels of objects within objects that are looked through."""


def plain(name: str) -> str:
    """Writes a field's name in small letters without marks between its words, to compare it with known names."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def rank(name: str, wanted: Sequence[str]) -> int:
    """Returns at which place a field's name stands among known names; their number when it is none of them."""
    known = plain(name)
    return wanted.index(known) if known in wanted else len(wanted)


@dataclass(slots=True)
class _Records:
    """The records among a log's lines: in which of them stands which value, by JSON pointer."""

    count: int = 0
    values: dict[str, list[Any]] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)

    def take(self, value: dict[str, Any]) -> None:
        for pointer, scalar in _scalars(value, ""):
            self.values.setdefault(pointer, []).append(scalar)
            self.places.setdefault(pointer, []).append(self.count)
        self.count += 1


def is_object(line: bytes) -> dict[str, Any] | None:
    """Parses a line as the JSON object that it holds; None: it holds none."""
    if b"{" not in line[:LONGEST_WORD]:
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_objects(lines: Sequence[bytes]) -> Proposal | None:
    """Proposes a mapping for a log of JSON objects; None where fewer than half of the lines are objects."""
    records = _Records()
    for line in lines:
        if (value := is_object(line)) is not None:
            records.take(value)
    if not records.count or records.count < 0.5 * len(lines):
        return None
    proposal = Proposal({"codec": "jsonl", "timestamp": "iso8601"})
    _role_and_type(proposal, records)
    _timestamp(proposal, records)
    with_constants(proposal.message)
    return judged(proposal, lines)


def _timestamp(proposal: Proposal, records: _Records) -> None:
    """Finds the pointers at which the records of a log tell their times."""
    found = [(p, form) for p, told in records.values.items() if (form := time_of(told, last_name(p)))]
    known = [(p, form) for p, form in found if rank(last_name(p), STAMPS) < len(STAMPS)]
    often = [(p, form) for p, form in found if len(records.values[p]) > 0.8 * records.count]
    ranked = sorted(
        known or often,
        key=lambda pair: (-len(records.values[pair[0]]), rank(last_name(pair[0]), STAMPS), pair[0].count("/")),
    )
    if not ranked:
        proposal.doubts.append(
            "timestamp: no field is a time that is known here, so records are carried in their order, without one; "
            "name the field in message.timestamp if there is one"
        )
        proposal.message["timestamp"] = {"pointer": "/timestamp"}
        proposal.format["no_time"], proposal.timeless = "previous", True
        return
    main = [pair for pair in ranked if len(records.values[pair[0]]) >= 0.8 * len(records.values[ranked[0][0]])]
    first, form = min(main, key=lambda pair: (rank(last_name(pair[0]), STAMPS), pair[0].count("/")))
    pointers, told = [first], set(records.places[first])
    for pointer, other in ranked:
        if other == form and pointer != first and set(records.places[pointer]) - told:
            pointers.append(pointer)
            told |= set(records.places[pointer])
    if not known:
        proposal.doubts.append(f"timestamp: no field is called as times are; {first} is taken")
    better = [p for p in records.values if p not in pointers and _is_better(p, first) and p not in dict(found)]
    if better:
        proposal.doubts.append(f"timestamp: {better[0]} cannot be read as a time in all records; {first} is taken")
    proposal.format["timestamp"] = form
    proposal.message["timestamp"] = {"pointers": pointers} if len(pointers) > 1 else {"pointer": first}
    if missing := records.count - len(told):
        proposal.format["no_time"] = "previous"
        many = counted(missing, "record")
        proposal.notes.append(f"timestamp: {many} of {records.count:,} tried have none, and are carried behind others")


def _is_better(pointer: str, chosen: str) -> bool:
    """Whether a field's name says sooner than the chosen one's that it is a record's time."""
    place = rank(last_name(pointer), STAMPS)
    deeper = pointer.count("/") - chosen.count("/")
    return place < len(STAMPS) and (place + 10 * deeper < rank(last_name(chosen), STAMPS) or deeper < 0)


def _role_and_type(proposal: Proposal, records: _Records) -> None:
    for name, wanted, numbers in (("role", ROLES, False), ("type", TYPES, True)):
        fit = [p for p, told in records.values.items()
               if rank(last_name(p), wanted) < len(wanted) and _words(told, numbers=numbers)]  # fmt: skip
        if not fit:
            continue
        chosen = min(fit, key=partial(_unlikely, records, wanted))
        proposal.message[name] = {"pointer": chosen}
        if (has := len(records.values[chosen])) < records.count:
            default = "log" if name == "role" else "line"
            proposal.message[name] |= {"default": default}
            proposal.notes.append(
                f"{name}: {chosen} is in {has:,} of {counted(records.count, 'record')}; else it is {default}"
            )


def _unlikely(records: _Records, wanted: Sequence[str], pointer: str) -> tuple[bool, bool, int]:
    """Orders the pointers to a role, or a type: the likeliest first. A level deeper counts as much as ten names."""
    rare, depth = len(records.values[pointer]) < RARE_SHARE * records.count, pointer.count("/")
    return rare, depth > SHALLOW, rank(last_name(pointer), wanted) + 10 * depth


def _scalars(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and pointer.count("/") < DEPTH:
        for key, inner in value.items():
            yield from _scalars(inner, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield pointer, value


def last_name(pointer: str) -> str:
    """Returns the name of the field that a JSON pointer leads to."""
    return pointer.rpartition("/")[2]


def time_of(values: Sequence[Any], name: str = "") -> str:
    """Infers the `format.timestamp` of a log's field or column from its values; empty when they are no times.

    Numbers are times only in a field whose name says so, where it has a name.
    """
    texts = [str(value).encode("utf-8", "surrogatepass") for value in values if not isinstance(value, bool)]
    for look, form in TIMES:
        fit = [text for text in texts if re.fullmatch(look.encode(), text)] if form not in DAYLESS else []
        if not fit or len(fit) < MOSTLY * len(texts):
            continue
        try:
            clock_for(form, "UTC", dict.fromkeys(ABBREVIATIONS, "+00:00"))(fit)
        except ValueError:
            continue
        if form in EPOCHS and not (is_plausible(form, fit) and (not name or rank(name, STAMPS) < len(STAMPS))):
            continue
        return form
    return ""


def is_plausible(form: str, texts: Sequence[bytes]) -> bool:
    """Whether numbers in a log that could be times since 1970 lie between 1990 and 2100."""
    times = clock_for(form, "UTC")(texts)
    return all(631_152_000_000 < time < 4_102_444_800_000 for time in times)


def _words(values: Sequence[Any], *, numbers: bool) -> bool:
    """Whether the values of a field are few different short words, or numbers, such as roles and types are."""
    if not all(isinstance(value, str) or (numbers and isinstance(value, int)) for value in values):
        return False
    words = {word for word in map(str, values) if word}
    short = all(len(word) <= LONGEST_WORD and word.isprintable() for word in words)
    return bool(words) and short and len(words) <= max(MOST_WORDS, FEW_SHARE * len(values))
