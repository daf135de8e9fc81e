"""`bridge files`: the account of the files that a mapping names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, of_root, verb, who
from bridge.errors import ConfigError
from bridge.words import counted

if TYPE_CHECKING:
    from bridge.carry.standing import Account, Standing
    from bridge.mapping import Mapping

SHOWN = 30
"""Files that are shown of a mapping unless all are asked for; those that need a person always are."""

FIRST = ("unaccounted", "waiting", "left", "aside", "copy", "link", "active", "piece")
"""The standings in the order in which they are shown: what needs a person stands first."""


@click.command("files", short_help="Say what became of every file that a mapping names")
@click.argument("mapping", required=False)
@click.option("--all", "everything", is_flag=True, help="Show every file, however many there are")
@click.option("--leave", metavar="PATH", help="Set this file aside for good: it is none of the mapping's")
@click.option("--take", metavar="PATH", help="Undo --leave")
@click.option("--reason", metavar="TEXT", help="Why, for the journal")
@verb
def command(
    options: Options, mapping: str | None, everything: bool, leave: str | None, take: str | None, reason: str | None
) -> int:
    """Show each file that a mapping names: its standing, what it is a piece of, its bytes, and what decided that.

    Standings: active, piece, copy, link, waiting, left (by --leave), aside (never read, and why), unaccounted. Exits 3
    when a file, or a part of one, is unaccounted: no message of it is in the stream, and nothing says why not.
    """
    from bridge.carry.inventory import accounts

    settings = of_root(options.settings())
    chosen = [candidate for candidate in settings.mappings if mapping in (None, candidate.name)]
    if not chosen:
        known = ", ".join(candidate.name for candidate in settings.mappings)
        raise ConfigError(f"there is no mapping '{mapping}' here", hint=f"there is: {known}")
    if leave or take:
        return _say(options, chosen, leave, take, reason)
    found = accounts(settings, chosen, time.time)
    if options.as_json:
        emit({"mappings": [_json(name, account) for name, account in found.items()]})
    else:
        for at, (name, account) in enumerate(found.items()):
            _show(name, account, everything=everything, first=not at)
    return 3 if any(account.sentences() for account in found.values()) else 0


def _say(options: Options, chosen: list[Mapping], leave: str | None, take: str | None, reason: str | None) -> int:
    from bridge.carry import inventory

    if leave and take:
        raise ConfigError("--leave and --take are given", hint="give one of them")
    if leave and not reason:
        raise ConfigError("--leave needs a --reason", hint="it goes into the journal, for whoever asks later")
    act, path = (inventory.leave, leave) if leave else (inventory.take, take)
    click.echo(act(of_root(options.settings()), chosen, path or "", reason or "", who(), time.time()))
    return 0


def _json(name: str, account: Account) -> dict[str, Any]:
    return {"mapping": name, **account.to_json(), "pieces": [piece.to_json() for piece in _sorted(account)]}


def _sorted(account: Account) -> list[Standing]:
    return sorted(
        account.pieces, key=lambda piece: (FIRST.index(piece.standing), piece.log, piece.generation or 0, piece.path)
    )


def _show(name: str, account: Account, *, everything: bool, first: bool) -> None:
    from rich.table import Table

    from bridge.cli.screen import console, safe, show

    out, sums = console(), account.sums()
    if not first:
        show(out, safe(""))
    of = counted(sums["files"], "file")
    said = [f"{sums[kind]:,} {kind}" for kind in ("carried", "waiting", "aside", "copies", "unaccounted") if sums[kind]]
    show(out, safe(f"{name}: {of}, {counted(sums['bytes'], 'byte')}: {', '.join(said) or 'nothing'}", "bold"))
    if account.gone:
        show(
            out, safe(f"{counted(account.gone, 'entry', 'entries')} of the stream went before the mirror came to them")
        )
    rows = _sorted(account)
    urgent = [standing for standing in rows if standing.standing in FIRST[:2]]
    shown = rows if everything or len(rows) <= SHOWN else urgent or rows[:10]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("file", "standing", "piece of", "bytes", "waiting", "why"):
        table.add_column(column, overflow="fold", justify="right" if column in ("bytes", "waiting") else "left")
    for standing in shown[: None if everything else 10 * SHOWN]:
        piece = f"{standing.log}, generation {standing.generation}" if standing.generation is not None else standing.log
        behind = f"{standing.behind:,}" if standing.behind else ""
        table.add_row(
            *map(safe, (standing.path, standing.standing, piece, f"{standing.bytes:,}", behind, standing.why))
        )
    show(out, table)
    left = len(rows) - len(shown)
    if left:
        show(out, safe(f"and {counted(left, 'more file')} with nothing to say: --all shows them", "dim"))
