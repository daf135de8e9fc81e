"""`bridge status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, counted, emit, verb

if TYPE_CHECKING:
    from bridge.status import Status


@click.command("status")
@verb
def command(options: Options) -> int:
    """Show where both directions stand, how far behind they are, and what they wait for. Exits 5 without Redis."""
    from bridge.status import sample

    found = sample(options.settings())
    if options.as_json:
        emit(found.to_json())
    else:
        _render(found, time.time())
    return 5 if found.redis_error else 0


def _render(found: Status, now: float) -> None:
    from bridge.model import ZERO_ID, format_id

    if found.heartbeat is not None:
        ways = "both ways" if found.heartbeat.get("dual") else "file to stream"
        click.echo(f"running: {ways}, process {found.heartbeat.get('pid')}")
    else:
        click.echo("not running" if not found.redis_error else "running or not cannot be told without Redis")
    click.echo(f"redis: {found.redis}" + (f": {found.redis_error}" if found.redis_error else ""))
    for one in found.mappings:
        click.echo(f"{one.name} ({one.stream})")
        for source in one.sources:
            where = (
                f"generation {source.generation}, byte {source.offset}" if source.generation else "nothing carried yet"
            )
            click.echo(
                f"  forward  {source.name}: {where}, {counted(source.behind, 'byte')} behind {source.error}".rstrip()
            )
        if one.mirror_target is not None:
            behind = "? entries" if one.mirror_behind is None else counted(one.mirror_behind, "entry", "entries")
            cursor = format_id(one.mirror_cursor).decode()
            at = f"read up to entry {cursor}" if one.mirror_cursor > ZERO_ID else "nothing mirrored yet"
            click.echo(f"  mirror   {one.mirror_target}: {at}, {behind} to go")
        for direction, reason, count in one.quarantined[:3]:
            click.echo(f"  quarantine, {direction}: {count} × {reason}")
        if one.quarantined[3:]:
            rest = sum(count for _, _, count in one.quarantined[3:])
            click.echo(f"  quarantine: {rest} more, for {counted(len(one.quarantined) - 3, 'other reason')}")
    for worker, (error, since) in found.troubles.items():
        click.echo(f"waiting for {now - since:.0f} s: {worker}: {error}")
