"""The command `bridge import-history`: brings what the files already hold into the stream, and shows the progress."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bridge.cli.common import (
    Options,
    complain,
    emit,
    emit_line,
    exit_code_of,
    mapping_names,
    of_root,
    say_unaccounted,
    serve,
    verb,
)
from bridge.cli.each_group import each_group
from bridge.core.wording import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from bridge.admin.survey.preview import Preview
    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.engine.importer import Report

SHOWN_REASONS = 8
ORDERS, PIECES = 5, 20
LINE_SECONDS = 5.0
"""Seconds between two lines about an import's progress where there is no terminal."""


@click.command("import-history", short_help="Bring what the files already hold into the stream")
@click.argument("mappings", metavar="[MAPPING]...", nargs=-1, shell_complete=mapping_names)
@click.option("--dry-run", is_flag=True, help="Read everything, say what would come over, and write nothing")
@click.option(
    "--max-rate", type=click.FloatRange(min=1), metavar="N", help="At most N lines a second [as many as can be]"
)
@verb
@each_group("mappings", changes=lambda given: not given["dry_run"])
def command(options: Options, mappings: tuple[str, ...], dry_run: bool, max_rate: float | None) -> int:
    """Bring what the files of MAPPING [all of them] already hold into the stream, with the messages' own times as IDs.

    It can be stopped at any time and goes on from there. `bridge run` goes on behind its last line. Exits 1 if not all
    could be read.
    """
    settings = of_root(options.settings() if dry_run or mappings else options.as_written())
    options.log(settings.log_format)
    chosen = settings.chosen(mappings)
    if dry_run:
        return _preview(options, settings, chosen)
    return _import(options, mappings, max_rate)


def _import(options: Options, mappings: tuple[str, ...], max_rate: float | None) -> int:
    from bridge.continuity.renamed_instance import check_instance
    from bridge.core.errors import BridgeError
    from bridge.core.python_tuning import tune_interpreter
    from bridge.core.state_directory import state_lock
    from bridge.core.stop_signals import stop_on_signals
    from bridge.engine.importer import import_history
    from bridge.kinds.stream_family import with_streams
    from bridge.ledger.retired import retired
    from bridge.ledger.store import Ledger

    settings = options.as_written()
    with state_lock(settings.state_dir, "import-history"):
        settings = with_streams(settings, fix_at=time.time())
        chosen = settings.chosen(mappings)
        path = settings.state_dir / "ledger.db"
        over = set()
        if path.exists():
            with closing(Ledger(path, create=True)) as ledger:
                check_instance(ledger, settings)
                ended = retired(ledger)
                over = {mapping.name for mapping in chosen if mapping.stream.key in ended}
        chosen = [mapping for mapping in chosen if mapping.name not in over]
        if not chosen:
            raise BridgeError("is retired: its files are not carried any more", where=", ".join(sorted(over)))
        stop = stop_on_signals()
        tune_interpreter()
        serve(settings)
        watch = None if options.as_json else _Bars() if sys.stderr.isatty() else _Lines()
        with closing(watch) if watch is not None else nullcontext():
            tell = _Events() if watch is None else _Together(watch, chosen)
            reports, errors = import_history(settings, chosen, stop, tell, max_rate=max_rate)
    for error in errors:
        complain(error)
    if stop.is_set():
        click.echo("bridge: interrupted before the end; run it again and it goes on from here", err=True)
        return 130
    for report in reports:
        say_unaccounted(report.mapping, report.unaccounted)
    if not errors:
        return 3 if any(report.unaccounted for report in reports) else 0
    return exit_code_of(errors, carried=any(mapping_report.lines for mapping_report in reports))


class _Together:
    """Adds up the reports of the imports of one mapping's streams, so that they are told of as one import."""

    def __init__(self, watch: _Lines, chosen: list[Mapping]) -> None:
        self._watch = watch
        self._family = {mapping.name: mapping.family for mapping in chosen}
        self._left = Counter(mapping.family for mapping in chosen)
        self._done: dict[str, Report] = {}

    def __call__(self, event: str, report: Report) -> None:
        family = self._family[report.mapping]
        if family == report.mapping:
            self._watch(event, report)
            return
        whole = _sum(self._done.get(family), report, family)
        if event == "ended":
            self._done[family] = whole
            self._left[family] -= 1
        if event in ("waiting", "progress") or (event == "ended" and self._left[family]):
            self._watch("progress" if event == "ended" else event, whole)
        elif event == "ended":
            self._watch("ended", whole)


def _sum(done: Report | None, report: Report, family: str) -> Report:
    """Adds a stream's report to that of the streams of the same mapping which were imported before."""
    if done is None:
        return replace(report, mapping=family, stream="1 stream", errors=[*report.errors])
    times = [ms for ms in (done.earliest, report.earliest, done.latest, report.latest) if ms is not None]
    states = {done.state, report.state}
    return replace(
        report, mapping=family, stream=counted(int(done.stream.split()[0].replace(",", "")) + 1, "stream"),
        seconds=done.seconds + report.seconds, sources=[*done.sources, *report.sources], first_id=None, last_id=None,
        earliest=min(times, default=None), latest=max(times, default=None), errors=[*done.errors, *report.errors],
        state=next((state for state in ("failed", "interrupted", "running") if state in states), "done"),
    )  # fmt: skip


class _Events:
    """Reports an import to a program: one JSON object per line on stdout (started, waiting, progress or ended)."""

    def __call__(self, event: str, report: Report) -> None:
        emit_line({"event": event, **report.to_json(), "seconds_left": _seconds_left(report)})


class _Lines:
    """Reports an import without a terminal: a line every few seconds on stderr, and the summary on stdout."""

    def __init__(self) -> None:
        self._due = 0.0

    def __call__(self, event: str, report: Report) -> None:
        if event == "started":
            self._say(_beginning(report))
            self._due = time.monotonic() + LINE_SECONDS
        elif event == "waiting":
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + LINE_SECONDS
                self._say(f"{report.mapping}: Redis is away; {_so_far(report)}; waiting, nothing is lost")
        elif event == "progress" and time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_SECONDS
            self._say(f"{report.mapping}: {_so_far(report)}")
        elif event == "ended":
            click.echo(summary(report))

    def close(self) -> None:
        """Ends the report of an import's progress; without a terminal there is nothing to end."""

    def _say(self, text: str) -> None:
        click.echo(text, err=True)


class _Bars(_Lines):
    """Reports an import on a terminal: a progress bar for each source, and one for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: str, report: Report) -> None:
        if event == "started":
            self._say(_beginning(report))
            self._start(report)
        many = len(self._tasks) > 1
        for source in report.sources:
            self._show(source.source, source.done, source.bytes, f"{source.entries:,} {report.noun}s")
        note = " (Redis is away)" if event == "waiting" else ""
        said = f"{report.lines:,} {report.noun}s, {report.rate:,.0f}/s{note}"
        self._show("" if many else report.mapping, report.total("done"), report.total("bytes"), said)
        if event == "ended":
            self.close()
            click.echo(summary(report))

    def _start(self, report: Report) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        from bridge.cli.screen import console, safe
        from bridge.core.logger import redirect

        out = console(stderr=True)
        size = DownloadColumn() if out.width >= NARROW else TaskProgressColumn()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), size,
            TextColumn("{task.fields[lines]}", markup=False), TimeRemainingColumn(compact=True), console=out,
        )  # fmt: skip
        names = [source.source for source in report.sources] if 1 < len(report.sources) <= BARS else []
        for name in [*names, "" if names else report.mapping]:
            self._tasks[name] = self._progress.add_task(str(safe(name or "all")), lines="")
        self._progress.start()
        redirect(sys.stderr)  # stderr now belongs to the bars: lines of the log go above them

    def close(self) -> None:
        """Ends the progress bars of an import, which stay on the screen as they are."""
        from bridge.core.logger import redirect

        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()
            redirect(sys.stderr)

    def _show(self, name: str, done: int, total: int, lines: str) -> None:
        if self._progress is not None and name in self._tasks:
            self._progress.update(self._tasks[name], completed=done, total=total, lines=lines)


NARROW = 76
BARS = 20
"""Most sources that each have a progress bar; more sources have one bar together."""


def _seconds_left(report: Report) -> float | None:
    fresh, left = report.total("done") - report.total("before"), report.total("bytes") - report.total("done")
    return round(left * report.seconds / fresh, 1) if fresh > 0 and report.seconds > 0 else None


def _beginning(report: Report) -> str:
    from bridge.core.wording import percent

    before, size = report.total("before"), report.total("bytes")
    files = counted(len(report.sources), "source")
    if not size:
        return f"{report.mapping}: nothing to import, {files} without a byte"
    goes_on = f", goes on at {percent(before, size)}: {before:,} of them are in the stream already" if before else ""
    return f"{report.mapping}: {counted(size, 'byte')} of {files}{goes_on}"


def _so_far(report: Report) -> str:
    from bridge.core.wording import duration, percent

    size, left = report.total("bytes"), _seconds_left(report)
    share = percent(report.total("done"), size)
    ends = f", about {duration(left)} left" if left is not None else ""
    return f"{share}, {counted(report.lines, report.noun)}, {report.rate:,.0f}/s{ends}"


def summary(report: Report) -> str:
    """Summarises for people, in a few rows, what an import brought over."""
    from bridge.core.wording import duration, percent

    entries, rejected, clamped = report.total("entries"), report.total("rejected"), report.total("clamped")
    word = {"done": "imported", "running": "importing", "interrupted": "interrupted", "failed": "stopped"}[report.state]
    word += ", but not what is damaged" if report.state == "done" and report.errors else ""
    rate = f" ({report.rate:,.0f}/s)" if report.seconds >= 1 else ""
    where = f" → {counted(entries, 'entry', 'entries')} in {report.stream}" if report.noun != "value" else ""
    took = f"{counted(report.lines, report.noun)} in {duration(report.seconds)}{rate}"
    rows = [f"{report.mapping}: {word}, {took}{where}"]
    if report.earliest is not None and report.latest is not None:
        rows.append(f"  times    {moment(report.earliest)} to {moment(report.latest)}")
    if report.first_id:
        rows.append(f"  IDs      {report.first_id} to {report.last_id}")
    if clamped:
        rows.append(
            f"  clamped  {counted(clamped, 'entry', 'entries')} with another time in the ID than the message's own"
        )
    if rejected:
        rows.append(f"  aside    {counted(rejected, report.noun)} in quarantine, see `bridge quarantine list`")
    if report.total("empty"):
        rows.append(f"  empty    {counted(report.total('empty'), 'line')}")
    waiting = [source for source in report.sources if source.unfinished and report.state == "done"]
    if waiting:
        many = counted(sum(source_report.unfinished for source_report in waiting), "byte")
        what = "last lines without a newline" if report.noun == "line" else "files that are not complete"
        rows.append(
            f"  waiting  {many} of {what}, in {', '.join(source_report.source for source_report in waiting[:3])}"
        )
    if report.state != "done" and report.total("bytes"):
        size, done = report.total("bytes"), report.total("done")
        rows.append(f"  so far   {done:,} of {counted(size, 'byte')} ({percent(done, size)})")
    return "\n".join(rows)


def moment(ms: int) -> str:
    """Formats milliseconds since 1970 as a time in UTC, to the second, for the summary of an import."""
    from datetime import UTC, datetime, timedelta

    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat(" ", "seconds")
    except OverflowError:
        return f"{ms} ms after 1970"


def _preview(options: Options, settings: Settings, chosen: list[Mapping]) -> int:
    """Prints what an import would do (`--dry-run`); returns 3 where something is unreadable, set aside or too big."""
    from bridge.admin.survey.preview import preview, too_big

    found, room, said = preview(settings, chosen)
    big = too_big(found, room) if room is not None else ""
    errors = [error for mapping_preview in found for _, _, _, error in mapping_preview.sources if error]
    damage = [
        checked.damage for mapping_preview in found for _, _, checked, _ in mapping_preview.sources if checked.damage
    ]
    if options.as_json:
        memory = None if room is None else {"used": room.used, "maxmemory": room.limit, "policy": room.policy}
        emit(
            {
                "mappings": [mapping_preview.to_json() for mapping_preview in found],
                "server": memory,
                "server_error": said or None,
                "warning": big or None,
            }
        )
    else:
        for mapping_preview in found:
            _describe(mapping_preview)
        wanted = sum(mapping_preview.memory for mapping_preview in found)
        has = f"not known, {said}"
        if room is not None:
            has = f"{room.used:,} in use" + (f" of {room.limit:,} (maxmemory)" if room.limit else ", no limit set")
        click.echo(f"memory   about {counted(wanted, 'byte')} of Redis; the server: {has}")
        click.echo("nothing was written; without --dry-run it is imported")
    for text in [*errors, *damage]:
        click.echo(f"bridge: {text}", err=True)
    if big:
        click.echo(f"bridge: it would not fit: {big}", err=True)
        click.echo("  try: a higher maxmemory, fewer mappings at once, or trim what is not needed", err=True)
    aside = any(mapping_preview.aside or mapping_preview.total("rejected") for mapping_preview in found)
    return 3 if errors or damage or big or aside else 0


def _describe(plan: Preview) -> None:
    import os

    from bridge.core.model import shown, shown_name
    from bridge.files.piece_age import HOW

    size, read = sum(size for _, size, _, _ in plan.sources), plan.total("translated") + plan.total("rejected")
    click.echo(f"{plan.mapping} → {plan.stream}: {counted(size, 'byte')} in {counted(len(plan.sources), 'source')}")
    if plan.before:
        click.echo(f"  before   {counted(plan.before, 'byte')} are in the stream already")
    noun = next((f"{checked.noun}s" for _, _, checked, _ in plan.sources), "lines")
    click.echo(f"  {noun:8} {read + plan.total('empty'):,}: {counted(plan.total('translated'), 'entry', 'entries')},"
               f" {plan.total('rejected'):,} to quarantine, {plan.total('empty'):,} empty")  # fmt: skip
    span = plan.span()
    if span is not None:
        click.echo(f"  times    {moment(span[0])} to {moment(span[1])}")
        clamped = plan.total("clamped")
        if clamped:
            said = "whose times run back, or are to come, get another time as ID"
            click.echo(f"  clamped  {counted(clamped, 'entry', 'entries')} {said}")
    for name in ("roles", "types"):
        values = plan.count(name)
        shows = ", ".join(f"{shown(value, 40)} {n:,}" for value, n in values.most_common(SHOWN_REASONS))
        more = f" and {len(values) - SHOWN_REASONS} more" if len(values) > SHOWN_REASONS else ""
        if values:
            click.echo(f"  {name:8} {shows}{more}")
    for name, order in [*plan.orders.items()][:ORDERS]:
        click.echo(f"  order    {shown_name(os.fsencode(name))}, the oldest first:")
        for path, why in order[:PIECES]:
            click.echo(f"           {shown_name(os.fsencode(path))}, by {HOW.get(why, why)}")
        if len(order) > PIECES:
            click.echo(f"           and {len(order) - PIECES:,} more, which --json lists")
    if len(plan.orders) > ORDERS:
        click.echo(f"  order    of {len(plan.orders) - ORDERS:,} more sources, which --json lists")
    for path, why in plan.aside:
        click.echo(f"  aside    {shown_name(os.fsencode(path))}: {why}")
    for name, _, checked, _ in plan.sources:
        for reason, (count, offsets, example) in checked.reasons.items():
            more = " …" if count > len(offsets) else ""
            at = ("at byte " if checked.noun == "line" else "in ") + ", ".join(map(str, offsets)) + more
            click.echo(f"  aside    {name}: {count:,} × {reason}, {at}")
            click.echo(f"           {shown(example, 100)}")
        if checked.partial:
            click.echo(f"  waiting  {name}: {counted(checked.partial, 'byte')} of last lines without a newline")
