"""The command `bridge move`: moves all that the embedded server holds to a Redis server of your own."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

import click

from bridge.cli.common import Options, emit, of_root, verb, who
from bridge.core.wording import counted


@click.command("move", short_help="Move from the embedded server to one of your own")
@click.option("--to", "url", metavar="URL", required=True, help="The server, as redis://user:password@host:6379/0")
@click.option("--execute", is_flag=True, help="Do it; without, the plan is printed and nothing is changed")
@verb
def command(options: Options, url: str, execute: bool) -> int:
    """Move all that the embedded server holds to a server of your own, while nothing runs.

    Streams with their groups and pending entries, and all other keys; each copy is compared with what it was made of.
    bridge.toml is changed last, and the old data stay. Exits 3 when something speaks against it.
    """
    from bridge.admin.move_server import ServerMove, check_source
    from bridge.core.state_directory import state_lock
    from bridge.ledger.journal import note
    from bridge.ledger.store import Ledger

    settings = of_root(options.settings())
    check_source(settings.path, options.redis, os.environ)
    options.log(settings.log_format)

    def tell(key: str, count: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"copying {key}, of {count} keys", err=True)

    move = ServerMove(settings, url, tell)
    with ExitStack() as stack:
        if execute:
            for part in settings.parts():
                stack.enter_context(state_lock(part.state_dir, "move"))
        plan = move.execute() if execute else move.plan()
        done = execute and not plan.reasons
        if done:
            facts = {"to": plan.to, "keys": len(plan.keys), "streams": len(plan.streams)}
            for path in (part.state_dir / "ledger.db" for part in settings.parts()):
                if path.exists():
                    ledger = Ledger(path)
                    stack.callback(ledger.close)
                    note(ledger, time.time(), who(), "move", "", facts)
    old = settings.home / "server"
    if options.as_json:
        emit({
            "to": plan.to, "done": done, "old_data": str(old),
            "reasons": [{"what": what, "hint": hint} for what, hint in plan.reasons], "notes": plan.notes,
            "keys": [
                {"key": key.decode(errors="backslashreplace"), "type": held.kind, "size": held.size,
                 "groups": held.groups, "pending": held.pending, "sha256": held.digest, "there": key in plan.there}
                for key, held in plan.keys.items()
            ],
        })  # fmt: skip
        return 3 if plan.reasons else 0
    for key, held in plan.streams.items():
        groups = f", {counted(held.groups, 'group')} with {held.pending:,} pending" if held.groups else ""
        already = ", is there already" if key in plan.there else ""
        click.echo(
            f"{key.decode(errors='backslashreplace')}: {counted(held.size, 'entry', 'entries')}{groups}{already}"
        )
    others = len(plan.keys) - len(plan.streams)
    click.echo(f"and {counted(others, 'other key')}")
    for said in plan.notes:
        click.echo(f"note: {plan.to}: {said}")
    for what, hint in plan.reasons:
        click.echo(f"closed: {what}\n  try: {hint}")
    if done:
        click.echo(f"moved to {plan.to}, compared key by key; bridge.toml names it now")
        click.echo(f"  the old data stay in {old} until you remove them, and its server is stopped")
    elif not plan.reasons:
        click.echo("Nothing is changed. To do it, stop what runs, and say --execute.")
    return 3 if plan.reasons else 0
