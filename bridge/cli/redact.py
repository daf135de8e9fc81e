"""The command `bridge redact`: deletes entries from a stream on purpose, and says which lines to take out."""

from __future__ import annotations

import time

import click

from bridge.cli.common import Options, emit, of_root, verb, who
from bridge.cli.each_group import each_group, executes
from bridge.core.errors import ConfigError
from bridge.core.wording import counted


@click.command("redact", short_help="Delete entries on purpose, and say what to edit")
@click.argument("mapping")
@click.argument("entries", metavar="ENTRY...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="Why, for the journal")
@click.option("--execute", is_flag=True, help="Do it; without, the plan is printed and nothing is changed")
@verb
@each_group("mapping", changes=executes)
def command(options: Options, mapping: str, entries: tuple[str, ...], reason: str | None, execute: bool) -> None:
    """Delete entries from the mapping's stream, by their IDs, and name the lines that a person has to take out.

    The bridge edits no log. It notes the deletion in the journal, sends no such line again, and takes the edit of the
    file, before or after, for what it is: `bridge parity` is equal, with so many acknowledged.
    """
    from contextlib import closing

    from bridge.admin.repair import redaction
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import dialler

    settings = of_root(options.settings())
    options.log(settings.log_format)
    chosen = settings.mapping(mapping)
    if execute and not reason:
        raise ConfigError("--execute needs a --reason", hint="it goes into the journal, for whoever asks later")
    with (
        closing(Ledger(settings.state_dir / "ledger.db")) as ledger,
        closing(dialler(settings, chosen.stream.key, may_start=True)()) as connection,
        closing(MappingContext(chosen, settings)) as shared,
    ):
        targets = redaction.plan(shared, ledger, connection, entries)
        if execute:
            redaction.execute(shared, ledger, connection, targets, who(), reason or "", time.time())
    if options.as_json:
        emit({"executed": execute, "entries": [target.to_json() for target in targets]})
        return
    for target in targets:
        for said in target.in_words():
            click.echo(said.replace("would be deleted", "deleted") if execute else said)
    if not execute:
        click.echo("nothing was changed; `bridge redact … --reason TEXT --execute` does it")
    elif any(target.place.line is not None for target in targets):
        click.echo(f"{counted(len(targets), 'entry', 'entries')} redacted; now edit what is named above, in any editor")
