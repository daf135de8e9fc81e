"""`bridge parity`."""

from __future__ import annotations

import click

from bridge.cli.common import Options, emit, mapping_names, verb


@click.command("parity", short_help="Prove that both sides hold the same")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N entries a second")
@verb
def command(options: Options, mappings: tuple[str, ...], max_rate: float | None) -> None:
    """Read files and stream anew and compare them, message by message."""
    from threading import Event

    from bridge.ledger.store import Ledger
    from bridge.parity.check import Check, verdict_of_all
    from bridge.run import dialler

    settings = options.settings()
    options.log(settings.log_format)
    wanted = [settings.mapping(name) for name in mappings] or list(settings.mappings)
    path = settings.state_dir / "ledger.db"
    ledger = Ledger(path) if path.exists() else None
    connection = dialler(settings, may_start=False)()
    results = [
        Check(one, settings, connection, ledger, Event(), lambda read, of: None, max_rate=max_rate).run()
        for one in wanted
    ]
    emit({"verdict": verdict_of_all(results), "mappings": [one.to_json() for one in results]})
    for one in results:
        click.echo(f"{one.seconds:.2f} {one.notes} {one.tally.why}", err=True)
    raise SystemExit({"equal": 0, "differs": 3, "inconclusive": 4}[verdict_of_all(results)])
