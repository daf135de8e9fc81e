"""The command `bridge locate`: says where a message, given as a line or an entry, stands on the other side."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bridge.cli.common import Options, emit, verb


@click.command("locate", short_help="Find a message on the other side")
@click.argument("what", metavar="[FILE:LINE|FILE@OFFSET|FILE|ID]", required=False)
@click.option("--text", metavar="TEXT", help="The newest messages whose data holds TEXT")
@click.option("--at", metavar="TIME", help="The first message of each stream that is of TIME, or later")
@click.option("--most", type=click.IntRange(min=1), default=10, show_default=True, help="Messages of each stream")
@verb
def command(options: Options, what: str | None, text: str | None, at: str | None, most: int) -> None:
    """Say where a message stands on the other side.

    A line of a file by its number (messages.log:12) or by any of its bytes (messages.log@3041); an entry by its ID
    (1771004967322-0) or by its origin (1.2:3041). A whole file, where each is a message, a value or an artifact. Or
    what the streams hold, by text or by time: so a place is found for `bridge cutover --from`.
    """
    from contextlib import closing

    from bridge.admin.locate_in_mapping import MessagePlace
    from bridge.admin.locate_message import locate, locate_text, locate_time
    from bridge.cli.screen import console, safe
    from bridge.client.replay import milliseconds
    from bridge.core.errors import BridgeError
    from bridge.core.model import shown
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import Connections

    if sum(given is not None for given in (what, text, at)) != 1:
        raise click.UsageError("say a place, or --text, or --at")
    ms = None if at is None else milliseconds(at)
    parts, places, errors = options.parts(), list[MessagePlace](), list[BridgeError]()
    for part in parts:
        try:
            part.must_have()
            settings = part.settings()
            if len(parts) > 1 and not (settings.state_dir / "ledger.db").exists():
                continue
            with (
                closing(Ledger(settings.state_dir / "ledger.db")) as ledger,
                closing(Connections(settings, may_start=False)) as servers,
            ):
                if text is not None:
                    places += locate_text(settings, ledger, servers, os.fsencode(text), most)
                elif ms is not None:
                    places += locate_time(settings, ledger, servers, ms)
                else:
                    places += locate(settings, ledger, servers, what or "", Path.cwd())
        except BridgeError as error:  # another group may have it
            errors.append(error)
    if errors and not places:
        raise errors[0]
    if options.as_json:
        emit([place.to_json() for place in places])
        return
    out = console()
    for place in places:
        if place.file is not None and place.line is not None:
            later = f" of generation {place.generation}" if (place.generation or 0) > 1 else ""
            out.print(safe(f"file   {place.file}:{place.line}, byte {place.offset:,}{later}"))
        elif place.file is not None:
            out.print(safe(f"file   {shown(os.fsencode(place.file), None)}"))
        born = f", born in {'the file' if place.born == 'file' else 'Redis'}" if place.born else ""
        kept = ", in the archive by now" if place.said.endswith("in the archive") else ""
        out.print(safe(f"stream {place.stream}" + (f", entry {place.entry}" if place.entry else "") + born + kept))
        if not place.said.startswith(("it is entry", "it is line", "it is the file")):  # that stands above already
            out.print(safe(place.said))
        if place.raw is not None:
            out.print(safe("  " + shown(place.raw.removesuffix(b"\n"))), soft_wrap=True)
