"""`bridge journal`."""

from __future__ import annotations

import time

import click

from bridge.cli.common import Options, emit, verb


@click.command("journal", short_help="List what was repaired, by whom and when")
@click.option("-n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many, at most")
@verb
def command(options: Options, count: int) -> None:
    """List what `bridge repair` sent, appended and put back: when, who, where; the latest last."""
    from bridge.cli.screen import console, safe
    from bridge.ledger.journal import journal
    from bridge.ledger.store import Ledger

    ledger = Ledger(options.settings().state_dir / "ledger.db")
    try:
        found = journal(ledger, count)
    finally:
        ledger.close()
    if options.as_json:
        emit(found)
        return
    out = console()
    for one in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at"]))
        facts = ", ".join(f"{name} {value}" for name, value in one["facts"].items() if value is not None)
        out.print(safe(f"{when}  {one['who']}  {one['what']}  {one['stream']}: {facts}"), soft_wrap=True)
    if not found:
        click.echo("nothing yet")
