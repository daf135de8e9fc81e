"""Lays out what `bridge status` found for a screen of any width: headline, mappings, components and troubles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.cli import status_many
from bridge.core.wording import counted, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group, RenderableType
    from rich.table import Table

    from bridge.cutover.component_status import ComponentStatus
    from bridge.engine.headline import Level
    from bridge.engine.lag import Lag
    from bridge.engine.status import MappingStatus, MirrorStatus, SourceStatus, Status
    from bridge.ledger.parity_runs import ParityRun

EDITS = 3
"""Most edits of logs, of the latest, that the status of a mapping shows."""

SHOWN_SOURCES = 30
"""Most sources of a mapping that `bridge status` shows."""


def screen(found: Status, said: str, level: Level, width: int) -> Group:
    """Lays out all that `bridge status` found, for a screen of any width."""
    from rich.console import Group

    from bridge.cli.screen import STYLES, safe
    from bridge.core.wording import clock, duration

    facts: list[tuple[str, str]] = []
    beat = found.heartbeat
    if found.running and beat:
        ways = "both ways" if found.dual else "file to stream"
        facts.append(("bridge", f"{found.holder.partition('(')[2].rstrip(')')}, {ways}, since "
                                f"{clock(float(beat['started']), found.at)}"))  # fmt: skip
    elif beat:
        facts.append(("bridge", f"not running, last heartbeat {duration(found.at - float(beat['at']))} ago"))
        facts += [("last error", f"{worker}: {error}") for worker, error in beat.get("troubles", {}).items()]
    facts.append(("redis", f"{found.redis}: {found.redis_error or 'reachable'}"))
    if found.redis_error and found.redis_hint:
        facts.append(("", f"try: {found.redis_hint}"))
    parts: list[object] = [safe(said, STYLES[level]), safe("")]
    parts.append(_pairs(facts))
    for mappings in _together(found.mappings):
        mapping, wide = mappings[0], width >= 80
        if len(mappings) == 1:
            parts += [
                safe(""),
                safe(f"{mapping.name} → {mapping.stream}", "bold"),
                *_mapping(mapping, found, wide=wide),
            ]
        else:
            parts += [safe(""), safe(f"{mapping.family} → {counted(len(mappings), 'stream')}", "bold")]
            mirrors = status_many.mirror_row(mappings, found, mapping.family)
            forwards = status_many.forward_row(mappings, found, mapping.family)
            rows = [forwards] if mirrors is None else [forwards, mirrors]
            rest = ("streams", f"`bridge status {mapping.family}:NAME` shows one by itself")
            parts += _laid_out(rows, [*status_many.notes(mappings, found), rest], wide=wide, what="logs")
    waits = []
    for worker, trouble in found.troubles.items():
        hint = f" ({trouble.hint})" if trouble.hint else ""
        waits.append((worker, f"waiting for {duration(found.at - trouble.since)}: {trouble.error}{hint}"))
    for worker, trouble in found.earlier.items():
        over = trouble.over or found.at
        lasted = f"{duration(over - trouble.since)} long, until {clock(over, found.at)}"
        waits.append((worker, f"earlier, {lasted}: {trouble.error}"))
    if waits:
        parts += [safe(""), _pairs(waits)]
    return Group(*parts)  # type: ignore[arg-type]


def _together(mappings: list[MappingStatus]) -> list[list[MappingStatus]]:
    """Groups the mappings of a status: each by itself, but for the streams of one mapping, if it has more than few."""
    groups: dict[str, list[MappingStatus]] = {}
    for mapping in mappings:
        groups.setdefault(mapping.family, []).append(mapping)
    return [
        part for group in groups.values()
        for part in ([group] if len(group) > status_many.FEW else [[mapping] for mapping in group])
    ]  # fmt: skip


def components_of(components: list[ComponentStatus], found: Status) -> Iterator[RenderableType]:
    """Lays out for `bridge status` what each component reads and writes, how far it is, and what it waits for."""
    from bridge.cli.screen import safe
    from bridge.core.wording import clock, duration

    places = {"file": "files", "redis": "Redis", "both": "both sides"}
    for standing in components:
        yield safe("")
        yield safe(f"{standing.component} in {standing.mapping}", "bold")
        if standing.error:
            yield safe(standing.error, "red")
            continue
        upto = f", up to {standing.position}" if standing.position else ""
        rows = [("reads", f"{places[standing.modes.reads]}{upto}")]
        if standing.behind is not None:
            rows.append(("behind", counted(standing.behind, standing.unit)))
        since = f", since {clock(standing.since, found.at)}" if standing.since is not None else ""
        rows.append(("writes", f"{places[standing.modes.writes]}{since}"))
        beat = "none, it does not run" if standing.heartbeat is None else f"{duration(standing.heartbeat)} ago"
        if standing.plain:
            asked = f", asked {duration(standing.asked)} ago" if standing.asked is not None else ""
            beat = f"none: plain client, {standing.behind or 0:,} behind{asked}"
        rows.append(("heartbeat", ", ".join([beat, *(worker.where for worker in standing.workers)])))
        if standing.modes.switch is not None:
            rows.append(("switching", f"{standing.modes.switch.who} is at it"))
        if standing.next is not None:
            said = "; ".join(reason.what for reason in standing.reasons) or "nothing speaks against it"
            rows.append((f"next, {standing.next.side}", said))
        yield _pairs(rows)


def _pairs(rows: list[tuple[str, str]]) -> Table:
    from rich.table import Table

    from bridge.cli.screen import safe

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(safe(name), safe(value))
    return table


def _mapping(mapping: MappingStatus, found: Status, *, wide: bool) -> list[object]:
    from bridge.cli.screen import safe
    from bridge.engine.lag import Lag
    from bridge.kinds.log.edit_summary import in_words

    if mapping.retired is not None:
        from bridge.core.wording import clock

        over = [("error", mapping.error + (f"; try: {mapping.hint}" if mapping.hint else ""))] if mapping.error else []
        for name, written in mapping.dead.items():
            if written.unfinished:
                over.append((name, f"{counted(written.unfinished, 'byte')} of a message that is not ended"))
        over += _outboxes(mapping)
        since = f" since {clock(mapping.retired, found.at)}" if mapping.retired else ""
        return [safe(f"retired{since}: nothing is carried"), *([_pairs(over)] if over else [])]
    shown = mapping.sources
    if len(shown) > SHOWN_SOURCES:  # of thousands of logs only those with an error or a lag are shown
        noted = [source for source in shown if source.error or source.behind != Lag()]
        shown = noted[:SHOWN_SOURCES]
    rows = [_forward(source, found) for source in shown]
    if mapping.mirror is not None:
        rows.append(_mirror(mapping.mirror, found))
    notes: list[tuple[str, str]] = []
    if len(mapping.sources) > len(shown):
        rest = len(mapping.sources) - len(shown)
        others = "more of these" if len(shown) == SHOWN_SOURCES else "of which nothing waits"
        noun = "" if len(shown) == SHOWN_SOURCES else f" {'other ' if shown else ''}sources"
        notes.append(("files", f"{'and ' if shown else ''}{rest:,}{noun} {others}; see `bridge files`"))
    for source in shown:
        if source.behind.unfinished:
            unfinished = counted(source.behind.unfinished, "byte")
            notes.append((source.name, f"{unfinished} of a {source.noun} that is not ended yet"))
        if source.error:
            notes.append((source.name, source.error))
    if mapping.error:
        notes.append(("error", f"{mapping.error}" + (f"; try: {mapping.hint}" if mapping.hint else "")))
    if mapping.account is not None:
        notes += [("unaccounted", said) for said in mapping.account.sentences()]
    notes += [("edited", in_words(edit, found.at)) for edit in mapping.edits[-EDITS:]]
    notes += _outboxes(mapping)
    if mapping.imported is not None:
        notes.append(("import", _imported(mapping.imported, found)))
    if mapping.parity is not None:
        notes.append(("parity", _parity(mapping.parity, found)))
    if mapping.retention is not None:
        notes.append(("retention", _retention(mapping.retention, found)))
    if mapping.quarantined:
        total = sum(count for _, _, count in mapping.quarantined)
        direction, kind, count = mapping.quarantined[0]
        most = "" if count == total else f", {count:,} of them"
        said = f"{counted(total, 'message')}{most}: {kind} ({direction}); see `bridge quarantine list`"
        notes.append(("quarantine", said))
    return _laid_out(rows, notes, wide=wide)


def _laid_out(
    rows: list[tuple[str, ...]], notes: list[tuple[str, str]], *, wide: bool, what: str = "file"
) -> list[object]:
    """Lays out for `bridge status` the rows of both directions, and notes below, on a wide or a narrow screen."""
    from rich.table import Table

    from bridge.cli.screen import safe

    if not wide:
        short = []
        for way, name, at, behind, oldest, rate in rows:
            told = [at, f"{behind} behind" if behind[0].isdigit() else behind, oldest and f"oldest {oldest}", rate]
            short.append((way, f"{name}: " + ", ".join(part for part in told if part)))
        return [_pairs(short + notes)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("", what, "carried up to", "behind", "oldest", "rate"):
        table.add_column(name, overflow="fold")
    for cells in rows:
        table.add_row(*map(safe, cells))
    return [table, _pairs(notes)] if notes else [table]


def _outboxes(mapping: MappingStatus) -> list[tuple[str, str]]:
    """Lays out for `bridge status` how many messages wait in components' outboxes until Redis answers, and they run."""
    return [
        ("outbox", f"{counted(count, 'message')} of {name} wait on disk: it sends them when Redis answers")
        for name, count in sorted(mapping.outboxes.items())
    ]


def _imported(report: dict[str, Any], found: Status) -> str:
    from bridge.core.wording import clock, duration

    state = report["state"]
    if state == "running" and not found.importing:
        state = "was killed"
    said = f"{clock(report['began'], found.at)}: {state}, {counted(report['entries'], 'entry', 'entries')}"
    said += f" in {duration(report['seconds'])}"
    if report["first_id"]:
        said += f", {report['first_id']} to {report['last_id']}"
    if report["rejected"]:
        said += f", {report['rejected']:,} to quarantine"
    if report["clamped"]:
        said += f", {report['clamped']:,} clamped"
    if state != "done" and report["bytes"]:
        said += f"; {percent(report['done'], report['bytes'])} of {counted(report['bytes'], 'byte')}"
    return said + (f"; {report['errors'][0]}" if report["errors"] else "")


def _parity(run: ParityRun, found: Status) -> str:
    from bridge.core.wording import duration

    said = (
        f"{run.verdict}, {duration(max(0.0, found.at - run.ended))} ago: {counted(run.report['compared'], 'message')}"
    )
    said += f" the same, {counted(run.differences, 'difference')}" if run.differences else ""
    return said + f", up to entry {run.report['position']['entry']}"


def _retention(report: dict[str, Any], found: Status) -> str:
    from bridge.core.wording import duration, size

    said = f"{counted(report['length'], 'entry', 'entries')}, {size(report['bytes'])} of memory"
    said += f", {report['trimmed']:,} trimmed so far" if report["trimmed"] else ""
    holds = [f"held from {value['from']} on by {value['who']}" for value in report["holds"]]
    if report.get("waits") and report["goes"]:
        holds.append(f"its limits are new: about {counted(report['goes'], 'entry', 'entries')} may go, and wait for"
                     f" `bridge trim --execute`")  # fmt: skip
    holds += ["over its limits, and parity has not found both sides equal"] * bool(report["unproven"])
    return "; ".join([f"{said} ({duration(max(0.0, found.at - report['at']))} ago)", *holds])


def _forward(source: SourceStatus, found: Status) -> tuple[str, ...]:
    from bridge.engine.headline import many

    at = "nothing yet"
    if source.position is not None:
        number = source.position.generation
        at = f"byte {source.position.offset:,}" + (f" of generation {number}" if number > 1 else "")
        at = f"batch {number:,}" if source.noun in ("file", "artifact") else at
    if source.noun == "value":
        at = "the latest"
    behind = many(source.behind, source.noun, f"{source.noun}s")
    behind += f", {counted(source.behind.bytes, 'byte')}" if source.behind.bytes else ""
    return "forward", source.name, at, behind, _age(source.behind, found), _rate(source.rate)


def _mirror(mirror: MirrorStatus, found: Status) -> tuple[str, ...]:
    from bridge.core.model import ZERO_ID, format_id
    from bridge.engine.headline import many

    at = f"entry {format_id(mirror.cursor).decode()}" if mirror.cursor > ZERO_ID else "nothing yet"
    behind = "not known without Redis" if mirror.behind is None else many(mirror.behind, "entry", "entries")
    if found.running and not found.dual:
        behind += ", waiting for --dual"
    return "mirror", mirror.target, at, behind, _age(mirror.behind, found), _rate(mirror.rate)


def _age(behind: Lag | None, found: Status) -> str:
    from bridge.core.wording import duration

    return duration(found.at - behind.oldest) if behind and behind.oldest is not None else ""


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.1f}/s" if 0 < rate < 100 else f"{rate:,.0f}/s"
