"""`bridge repair`."""

from __future__ import annotations

import click

from bridge.cli.common import Options, counted, emit, verb


@click.command("repair", short_help="Rebuild a lost ledger")
@click.option("--execute", is_flag=True, help="Do it; without, the plan is printed and nothing is changed")
@click.option("--take-over", is_flag=True, help="Also where the stream belongs to another bridge that is gone")
@verb
def command(options: Options, execute: bool, take_over: bool) -> None:
    """Rebuild a lost ledger by aligning stream and files."""
    from contextlib import ExitStack

    from bridge.carry import repair
    from bridge.carry.shared import Shared
    from bridge.ledger.store import Ledger
    from bridge.run import dialler, state_lock

    settings = options.settings()
    options.log(settings.log_format)
    with ExitStack() as stack:
        path = settings.state_dir / "ledger.db"
        ledger = None
        if execute:
            stack.enter_context(state_lock(settings.state_dir, "repair"))
        if execute or path.exists():
            ledger = Ledger(path, create=execute)
            stack.callback(ledger.close)
        connection = dialler(settings, may_start=execute)()
        stack.callback(connection.close)
        results = []
        for mapping in settings.mappings:
            shared = Shared(mapping, settings)
            made = repair.plan(connection, shared, ledger.uuid if ledger else b"", take_over=take_over)
            if made is not None and execute and ledger is not None:
                repair.execute(connection, shared, ledger, made)
            results.append((mapping.name, made))
    if options.as_json:
        emit([
            {"mapping": name, "executed": execute and made is not None, "plan": made.to_json() if made else None}
            for name, made in results
        ])  # fmt: skip
        return
    for name, made in results:
        if made is None:
            click.echo(f"{name}: the ledger is in order, nothing to repair")
            continue
        click.echo(f"{name}: {'rebuilt' if execute else 'would rebuild'} the ledger of stream {made.stream}")
        click.echo(
            f"  {counted(len(made.ranges), 'mirrored line')} found in the files, {made.ambiguous} with an equal twin"
        )
        click.echo(f"  {counted(made.unmatched, 'entry', 'entries')} still to be mirrored")
        for one in made.missing:
            click.echo(f"  {one} is not to be found")
        for one in made.strangers:
            click.echo(f"  {one} is not a file that was carried: all of it will be carried as new")
        if not execute:
            flags = "--take-over --execute" if take_over else "--execute"
            click.echo(f"  nothing was changed; `bridge repair {flags}` does it")
