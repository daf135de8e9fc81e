"""The command `bridge snapshot`: writes a mapping's stream, with its archive, as files into a new folder."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path

import click

from bridge.cli.common import Options, emit, mapping_names, verb
from bridge.cli.each_group import each_group
from bridge.cli.tail import moment
from bridge.core.wording import counted


@click.command("snapshot", short_help="Write a stream, or a range, as files")
@click.argument("mapping", shell_complete=mapping_names)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--since", metavar="WHEN", help="From a time (2026-03-02T09:14), an age (10m, 2h, 3d) or an entry ID on")
@click.option("--until", metavar="WHEN", help="Before a time, an age or an entry ID")
@verb
@each_group("mapping")
def command(options: Options, mapping: str, folder: Path, since: str | None, until: str | None) -> None:
    """Write MAPPING's stream as the files it would be into a new FOLDER: what was archived of it, and what stands.

    What makes no line is written as JSON, one entry a line. Nothing is changed.
    """
    from bridge.admin.stream_files import keep
    from bridge.core.errors import ConfigError
    from bridge.core.model import ZERO_ID
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import dialler

    settings = options.settings()
    chosen, now = settings.mapping(mapping), time.time()
    if folder.exists():
        raise ConfigError("is there already", where=str(folder), hint="name a folder that is not")
    first, end = moment(since, now, "--since"), moment(until, now, "--until")
    with ExitStack() as stack:
        path = settings.state_dir / "ledger.db"
        ledger = Ledger(path) if path.exists() else None
        if ledger is not None:
            stack.callback(ledger.close)
        dial = dialler(settings, chosen.stream.key, may_start=False)
        connection = stack.enter_context(closing(dial()))
        shared = MappingContext(chosen, settings)
        stack.callback(shared.close)
        kept = keep(shared, ledger, connection, folder.absolute(), first or ZERO_ID, end)
    if options.as_json:
        facts = {
            "messages": kept.messages,
            "trimmed": kept.trimmed,
            "not_lines": kept.aside,
            "folder": str(kept.folder),
            "files": kept.digests,
        }
        emit({"mapping": mapping, **facts})
        return
    click.echo(f"{counted(kept.messages, 'message')} of {chosen.stream.key} written to {kept.folder}")
    if kept.trimmed and first is None:
        click.echo(f"  {counted(kept.trimmed, 'entry', 'entries')} had been trimmed before, and are in no archive")
    for name, digest in sorted(kept.digests.items()):
        click.echo(f"  {name}  {digest}")
