"""Renders the proposal of `bridge mapping infer` as TOML: doubts first, then how it translates, then the mapping."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.core.model import as_json, shown
from bridge.core.schemas import directive
from bridge.core.wording import counted, percent, size

if TYPE_CHECKING:
    from bridge.admin.survey.propose import TriedProposal

SHOWN_WORDS = 5
"""How many roles, and types, are named; all of them are in the output of `--json`."""


def as_toml(tried: TriedProposal) -> str:
    """Renders a tried proposal as the TOML of a mapping file, with what is to be known of it as comments before."""
    proposal, checked = tried.proposal, tried.checked
    said = [f"Not sure: {doubt}." for doubt in proposal.doubts]
    said += [f"The file {checked.damage}."] if checked.damage else []
    said += _translated(tried)
    said += [f"Note: {note}." for note in proposal.notes]
    said.append("Try it with `bridge mapping check THIS.toml`.")
    rows = [directive(".bridge", "mapping"), *map(_comment, said), f"name = {_value(tried.tables['name'])}"]
    for table, keys in tried.tables.items():
        if isinstance(keys, dict):
            rows += ["", f"[{table}]", *(f"{key} = {_value(value)}" for key, value in keys.items())]
    return "\n".join(rows) + "\n"


def as_facts(tried: TriedProposal) -> dict[str, Any]:
    """Turns a tried proposal into the object that `--json` prints."""
    checked, proposal = tried.checked, tried.proposal
    return {
        "mapping": tried.tables, "sure": tried.sure, "doubts": proposal.doubts, "notes": proposal.notes,
        "files": tried.files, "bytes": checked.size, "whole": tried.whole,
        "translated": checked.translated, "rejected": checked.rejected, "untimed": checked.untimed,
        "earliest": checked.earliest, "latest": checked.latest, "clamped": checked.clamped,
        "roles": [{"role": as_json(value), "count": n} for value, n in checked.roles.most_common()],
        "types": [{"type": as_json(value), "count": n} for value, n in checked.types.most_common()],
        "reasons": [{"reason": reason, "count": count} for reason, (count, _, _) in checked.reasons.items()],
    }  # fmt: skip


def _translated(tried: TriedProposal) -> list[str]:
    """Words how the files translate under a proposal on which it was tried."""
    checked = tried.checked
    total = checked.translated + checked.rejected
    what = "messages, of one line or several," if "continuation" in tried.proposal.format else f"{checked.noun}s"
    of_lines = checked.noun in ("line", "chunk")
    where = f"{counted(tried.files, 'file')}, {size(checked.size)}" if of_lines else size(checked.size)
    part = "all of" if tried.whole else "the first part of"
    share = f"{checked.translated:,} of {total:,} {what} translate ({percent(checked.translated, total)})"
    said = [f"{share if total else f'No {checked.noun} is whole'}, tried on {part} {where}."]
    for reason, (count, numbers, example) in checked.reasons.items():
        said.append(f"{count:,} do not, {reason}: {checked.noun} {numbers[0]}: {shown(example, 60)}")
    if checked.translated:
        said.append(f"Roles: {_most(checked.roles)}; types: {_most(checked.types)}.")
    if checked.identities:
        said.append(f"Each is known by its identity: {len(checked.identities):,} different ones.")
    if checked.earliest is not None and checked.latest is not None:
        said.append(f"From {_moment(checked.earliest)} to {_moment(checked.latest)}.")
    return said


def _most(counter: Counter[bytes]) -> str:
    named = ", ".join(f"{shown(value, 40) or '(empty)'} {count:,}" for value, count in counter.most_common(SHOWN_WORDS))
    more = len(counter) - SHOWN_WORDS
    return f"{named} and {more} more" if more > 0 else named


def _moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms since 1970"


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
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    """Escapes a character of a TOML basic string where it needs that. A lone surrogate has no form in TOML."""
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def _comment(text: str) -> str:
    """Writes a text as a comment of one line, whatever stands in it."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"# {plain}"


def propose_file(path: Path) -> tuple[int, str, dict[str, Any]]:
    """Proposes a mapping for a log or a folder in this folder; returns the exit code, the TOML, and the facts.

    Raises SourceError, ConfigError.
    """
    from bridge.admin.survey.propose import propose

    tried = propose(path, Path.cwd())
    return 0 if tried.sure else 3, as_toml(tried), as_facts(tried)
