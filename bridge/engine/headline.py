"""Makes the headline of `bridge status`: one sentence on whether the bridge works, its lag and its troubles. Pure."""

from __future__ import annotations

from typing import Literal

from bridge.core.wording import clock, duration, percent
from bridge.engine.lag import Lag
from bridge.engine.status import Status
from bridge.kinds.log.edit_summary import in_words
from bridge.ledger.edits import STOPPED
from bridge.ledger.heartbeat import SILENT_AFTER

Level = Literal["good", "behind", "idle", "bad"]
"""good: at work, no lag. behind: at work, with lag or a trouble. idle: no bridge runs. bad: a person is needed."""


def headline(status: Status) -> tuple[str, Level]:
    """Makes the headline of `bridge status`, and its level, which says how grave it is."""
    broken = [f"{mapping.name}: {mapping.error}" for mapping in status.mappings if mapping.error]
    failed = [
        f"{mapping.name}: {source.error}" for mapping in status.mappings for source in mapping.sources if source.error
    ]
    failed += [
        f"{mapping.name}: {in_words(edit, status.at)}"
        for mapping in status.mappings for edit in mapping.edits if edit.how == STOPPED and not status.running
    ]  # fmt: skip
    waiting = _waiting(status)
    if status.ledger_error:
        return f"The ledger {_after_path(status.ledger_error)}; {waiting}", "bad"
    if broken:
        return f"{broken[0]}{_more(broken)}", "bad"
    unaccounted = [
        f"{mapping.name}: {said}"
        for mapping in status.mappings
        if mapping.account is not None
        for said in mapping.account.sentences()
    ]
    if unaccounted:
        return f"{unaccounted[0]}{_more(unaccounted)}; `bridge files` shows it, `bridge repair` brings it over", "bad"
    if status.mappings and all(mapping.retired is not None for mapping in status.mappings):
        return "Nothing is carried any more: every mapping is retired", "idle"
    if status.running and status.redis_error:
        began = min((trouble.since for trouble in status.troubles.values()), default=None)
        since = f" since {clock(began, status.at)}" if began is not None else ""
        lost = "" if failed else ", nothing lost"
        return f"Redis unreachable{since}, {waiting}{lost}", "behind"
    if not status.running:
        return _not_running(status, waiting, failed)
    ways = "Carrying both ways" if status.dual else "Carrying file to stream"
    beat = status.heartbeat
    if (
        beat is not None
        and not beat.get("stopped")
        and not beat.get("once")
        and status.at - float(beat["at"]) > SILENT_AFTER
    ):
        return f"{status.holder} is there, but gave no heartbeat for {duration(status.at - float(beat['at']))}", "bad"
    if failed:
        return f"{ways}, except {failed[0]}{_more(failed)}", "bad"
    stuck = [f"{worker}: {trouble.error}" for worker, trouble in status.troubles.items()]
    if stuck:
        return f"{ways}, but {stuck[0]}{_more(stuck)}", "behind"
    return (f"{ways}, 0 behind", "good") if _nothing(status) else (f"{ways}, {waiting}", "behind")


def _not_running(status: Status, waiting: str, failed: list[str]) -> tuple[str, Level]:
    if status.importing:
        reports = [
            mapping.imported
            for mapping in status.mappings
            if mapping.imported and mapping.imported["state"] == "running"
        ]
        shares = [
            f"{percent(report['done'], report['bytes'])} of {report['mapping']}"
            for report in reports
            if report["bytes"]
        ]
        said = f"Importing history, {shares[-1]}" if shares else "Importing history"
        return f"{said}; {waiting}", "behind"
    if status.holder:
        return f"Not running: {status.holder} is at work; {waiting}", "idle"
    if failed:
        return f"Not running, and {failed[0]}{_more(failed)}; {waiting}", "bad"
    beat = status.heartbeat
    if beat is None and any(source.position for mapping in status.mappings for source in mapping.sources):
        return f"Not running; {waiting}", "idle"
    if beat is None:
        return f"Never run yet, {waiting}", "idle"
    if any(mapping.mirror is not None and mapping.mirror.behind is None for mapping in status.mappings):
        waiting += " in the files, Redis is not reached"
    ago = duration(status.at - float(beat["at"]))
    if beat.get("stopped"):
        return f"Not running, stopped {ago} ago; {waiting}", "idle"
    return f"Not running: it was killed, its last heartbeat was {ago} ago; {waiting}", "bad"


def _nothing(status: Status) -> bool:
    return not status.files_behind.messages and not (status.dual and status.streams_behind.messages)


def _waiting(status: Status) -> str:
    parts = []
    lines, entries = status.files_behind, status.streams_behind
    if lines.messages:
        nouns = {source.noun for mapping in status.mappings for source in mapping.sources if source.behind.messages}
        noun = nouns.pop() if len(nouns) == 1 else "message"
        parts.append(many(lines, noun, f"{noun}s"))
    if entries.messages and (status.dual or not status.running):
        parts.append(many(entries, "entry", "entries"))
    if not parts:
        return "nothing waiting"
    oldest = (lines + entries).oldest
    age = f", the oldest {duration(status.at - oldest)} old" if oldest is not None and oldest <= status.at else ""
    return f"{' and '.join(parts)} waiting{age}"


def many(behind: Lag, noun: str, nouns: str) -> str:
    """Formats a lag for the headline: `1 line`, `1,204 lines`, `more than 100,000 entries`."""
    if behind.more and not behind.messages:
        return "not all looked at"
    count = f"{behind.messages:,} {noun if behind.messages == 1 else nouns}"
    return f"more than {count}" if behind.more else count


def _more(found: list[str]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _after_path(text: str) -> str:
    return text.partition(": ")[2] or text
