"""The command `bridge trim`: removes the oldest entries of streams that are over their mappings' [retention]."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, mapping_names, verb, who
from bridge.cli.each_group import each_group, executes
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.admin.retention.trimming import TrimPlan, TrimReport


@click.command("trim", short_help="Remove what is over [retention] and not needed")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]…", shell_complete=mapping_names)
@click.option("--execute", is_flag=True, help="Do it; without, it says what would go and what holds it")
@verb
@each_group("mappings", changes=executes)
def command(options: Options, mappings: tuple[str, ...], execute: bool) -> int:
    """Remove the oldest entries of MAPPINGs' streams that are over their [retention]; of all that have one by default.

    Nothing goes that a consumer group did not acknowledge, that is not in its file yet, or that parity did not find
    equal. A running bridge does the same by itself; but the first time after the limits were changed it waits until you
    say this with --execute, unless the mapping has `confirm = false`. Exits 3 when something that is over is held.
    """
    from bridge.admin.retention.trimming import Retention
    from bridge.core.errors import ConfigError
    from bridge.ledger.retired import retired
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import dialler

    settings = options.settings()
    options.log(settings.log_format)
    chosen = [m for m in settings.chosen(mappings) if mappings or m.retention.limited]
    for mapping in chosen:
        if not mapping.retention.limited:
            hint = "give [retention] keep_days, keep_entries or keep_bytes in its mapping file"
            raise ConfigError(f"{mapping.name} keeps all of its stream", hint=hint)
    if not chosen and not options.as_json:
        click.echo("No mapping has [retention]: every stream keeps everything.")
    if not chosen:
        if options.as_json:
            emit([])
        return 0
    told, held = [], False
    with closing(Ledger(settings.state_dir / "ledger.db")) as ledger:
        over = retired(ledger)
        for mapping in [mapping for mapping in chosen if mapping.stream.key in over]:
            click.echo(f"bridge: {mapping.name} is retired: the bridge trims it no more", err=True)
        for mapping in [mapping for mapping in chosen if mapping.stream.key not in over]:
            dial = dialler(settings, mapping.stream.key, may_start=False)
            retention = Retention(mapping, settings.state_dir, ledger, dial, time.time)
            plan, done = retention.plan(), None
            if execute:
                retention.confirm(who())
                done = retention.trim(lambda: False)
                plan = retention.plan()
            held = held or plan.unproven or bool(plan.allowed.holds)
            told.append({"mapping": mapping.name, "stream": mapping.stream.key, **plan.to_json(), "done": _done(done)})
            if not options.as_json:
                _print(mapping.name, mapping.stream.key, plan, done)
    if options.as_json:
        emit(told)
    return 3 if held else 0


def _done(done: TrimReport | None) -> dict[str, Any] | None:
    return None if done is None else {"removed": done.removed, "archived_bytes": done.archived}


def _print(name: str, stream: str, plan: TrimPlan, done: TrimReport | None) -> None:
    from bridge.core.model import ZERO_ID, format_id, shown
    from bridge.core.wording import size

    click.echo(f"{name} → {stream}")
    click.echo(f"  holds {counted(plan.size.length, 'entry', 'entries')}, {size(plan.size.bytes)}")
    if plan.trimmed.floor > ZERO_ID:
        gone = counted(plan.trimmed.count, "entry", "entries")
        click.echo(f"  {gone} trimmed so far; it begins with {format_id(plan.trimmed.floor).decode()}")
    if done is not None:
        kept = f", {size(done.archived)} added to the archive" if done.archived else ""
        click.echo(f"  {counted(done.removed, 'entry', 'entries')} removed now{kept}")
    if done is not None and done.held is not None:
        group = shown(done.held.group.encode())
        click.echo(f"  group {group} was given some of what stands below: that stays until it acknowledges it")
    if plan.unproven:
        click.echo("  over the limits, and held: parity has not found both sides equal up to there")
        click.echo(f"    try: bridge parity {name}")
    for hold in plan.allowed.holds:
        first = format_id(hold.first).decode()
        click.echo(f"  held from {first} on by {shown(hold.who.encode())}")
        if hold.hint:
            click.echo(f"    try: {shown(hold.hint.encode())}")
    if plan.allowed.upto is not None:
        many = counted(plan.goes, "entry", "entries")
        click.echo(f"  about {many} may go, up to {format_id(plan.allowed.upto.entry).decode()}")
        if done is None and plan.waits:
            click.echo("  the limits are new: a running bridge waits for your word, or for `confirm = false`")
        if done is None:
            click.echo("  Nothing is changed. To do it, say --execute.")
    elif plan.nothing:
        click.echo("  nothing is over the limits")
    elif plan.little:
        click.echo(
            "  something is over the limits, but parity has not yet proved a safe cut point: messages that came on both"
            " sides at once are removed together, as soon as enough entries to keep stand behind them"
        )
