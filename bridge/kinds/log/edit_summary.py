"""Summarises an edit of a log: how many lines were changed, put in and taken out, as counts and in words. Pure.

An edit is that another file took the log's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bridge.core.wording import clock, counted
from bridge.files.alignment import MatchedRun
from bridge.ledger.edits import ALIGNED, NEW, STOPPED, LogEdit


def edited(found: LogEdit, runs: Sequence[MatchedRun], old: Sequence[int], new: Sequence[int]) -> LogEdit:
    """Counts for an edit's summary the lines that were changed, put in and taken out between the runs of equal lines.

    Also counts how many of the lines that were put in stood in the file before. `old` and `new` are the keys of the
    messages in the file before and in the new one.
    """
    changed = put_in = taken_out = 0
    last = runs[-1] if runs else MatchedRun(0, 0, 0)
    behind = last.new + last.count if last.old + last.count == len(old) else len(new)
    i = j = 0
    fresh = set[int]()
    for run in [*runs, MatchedRun(len(old), max(behind, last.new + last.count), 0)]:
        gone, more = run.old - i, run.new - j
        changed += min(gone, more)
        taken_out += max(0, gone - more)
        put_in += max(0, more - gone)
        fresh.update(new[j : run.new])
        i, j = run.old + run.count, run.new + run.count
    fresh.update(new[j:])
    known = {key for key in old if key in fresh} if fresh else set()
    i, again = 0, 0
    for run in [*runs, MatchedRun(0, len(new), 0)] if known else []:
        again += sum(key in known for key in new[i : run.new])
        i = run.new + run.count
    passed = sum(run.count for run in runs)
    return replace(found, passed=passed, changed=changed, put_in=put_in, taken_out=taken_out, again=again)


def in_words(found: LogEdit, now: float, why: str = "") -> str:
    """Summarises an edit of a log in one sentence; an empty string: nothing that anybody must know."""
    if found.how == NEW and not (why or found.again):
        return ""
    if found.how == NEW:
        again = (
            f", with {counted(found.again, 'line')} that stood in the one before: sent as new" if found.again else ""
        )
        seen = f" ({why})" if why else ""
        return f"{found.name}: another file since {clock(found.at, now)}{seen}: it is carried from its beginning{again}"
    if found.how == STOPPED:
        told = f"`bridge repair --as-edit {found.name}` or `--as-new` says what it is"
        seen = f"another file took its place at {clock(found.at, now)}, and {found.why}"
        return f"{found.name}: {seen}: not carried until {told}"
    if found.how != ALIGNED:
        return (
            f"{found.name}: somebody said `--{found.how}` of the file that took its place: the next look acts on that"
        )
    parts = [
        said for count, said in (
            (found.changed, f"{counted(found.changed, 'line')} changed"), (found.put_in, f"{found.put_in:,} put in"),
            (found.taken_out, f"{found.taken_out:,} taken out"),
        ) if count
    ]  # fmt: skip
    again = f"{found.again:,} sent again" if found.again else "none sent again"
    return f"{found.why or found.name} was saved anew at {clock(found.at, now)}: {', '.join([*parts, again])}"
