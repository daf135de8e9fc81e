"""The command `bridge files`: prints the account of the files that a mapping names, and sets files aside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, of_root, verb, who
from bridge.cli.each_group import each_group
from bridge.core.errors import ConfigError
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.engine.account.standing import FilesAccount, FileStanding

SHOWN_FILES = 30
"""Files of a mapping that `bridge files` shows without `--all`; files that need a person are always shown."""

TIMES_WIDTH = 110
"""Columns of a screen from which on the times of a file's first and last message are shown side by side."""

STANDING_ORDER = ("unaccounted", "waiting", "left", "aside", "copy", "link", "active", "piece")
"""The standings of files in the order in which they are shown: those that need a person first."""


@click.command("files", short_help="Say what became of every file that a mapping names")
@click.argument("mapping", required=False)
@click.option("--all", "everything", is_flag=True, help="Show every file, however many there are")
@click.option("--leave", metavar="PATH", help="Set this file aside for good: it is none of the mapping's")
@click.option("--take", metavar="PATH", help="Undo --leave")
@click.option("--reason", metavar="TEXT", help="Why, for the journal")
@verb
@each_group("mapping", changes=lambda given: bool(given["leave"] or given["take"]), alone="leave")
def command(
    options: Options, mapping: str | None, everything: bool, leave: str | None, take: str | None, reason: str | None
) -> int:
    """Show each file that a mapping names: its standing, generation, bytes, the times of its first and last message.

    And what decided its standing, or its place among the pieces of its log.

    Standings: active, piece, copy, link, waiting, left (by --leave), aside (never read, and why), unaccounted. Exits 3
    when a file, or a part of one, is unaccounted: no message of it is in the stream, and nothing says why not.
    """
    from bridge.engine.account.inventory import accounts

    settings = of_root(options.settings())
    chosen = settings.chosen([mapping] if mapping else [])
    if reason and not leave and not take:
        raise ConfigError("--reason is given without --leave", hint="say which file is left alone: --leave PATH")
    if leave or take:
        return _say(options, chosen, leave, take, reason)
    found = accounts(settings, chosen, time.time)
    if options.as_json:
        parts = [*chosen, *(settings.families[name] for name in settings.families if name in found)]
        emit({"mappings": [_json(settings, candidate, found[candidate.name]) for candidate in parts]})
    else:
        for at, (candidate, account) in enumerate(_together(settings, chosen, found)):
            _show(settings, candidate, account, everything=everything, first=not at)
    return 3 if any(account.sentences() for account in found.values()) else 0


FEW = 5
"""Streams of one mapping of which the files are shown stream by stream; those of more are shown together."""


def _together(
    settings: Settings, chosen: list[Mapping], found: dict[str, FilesAccount]
) -> list[tuple[Mapping, FilesAccount]]:
    """Pairs the mappings with their accounts; many streams of one mapping count as one mapping."""
    from bridge.engine.account.inventory import together

    parts: list[tuple[Mapping, FilesAccount]] = []
    for family in dict.fromkeys(mapping.family for mapping in chosen):
        mine = [mapping for mapping in chosen if mapping.family == family]
        if family not in settings.families or (len(mine) <= FEW and not found[family].pieces):
            parts += [(mapping, found[mapping.name]) for mapping in mine]
        else:
            names = [family, *(mapping.name for mapping in mine)]
            parts.append((settings.families[family], together([found[name] for name in names])))
    return parts


def _say(options: Options, chosen: list[Mapping], leave: str | None, take: str | None, reason: str | None) -> int:
    from bridge.engine.account import inventory

    if leave and take:
        raise ConfigError("--leave and --take are given", hint="give one of them")
    if leave and not reason:
        raise ConfigError("--leave needs a --reason", hint="it goes into the journal, for whoever asks later")
    root = f"{of_root(options.settings()).root}/"
    leave, take = (path and path.removeprefix(root) for path in (leave, take))
    act, path = (inventory.leave, leave) if leave else (inventory.take, take)
    click.echo(act(of_root(options.settings()), chosen, path or "", reason or "", who(), time.time()))
    return 0


def _json(settings: Settings, mapping: Mapping, account: FilesAccount) -> dict[str, Any]:
    from bridge.engine.account.inventory import dated

    pieces = dated(settings, mapping, _sorted(account))
    return {"mapping": mapping.name, **account.to_json(), "pieces": [piece.to_json() for piece in pieces]}


def _sorted(account: FilesAccount) -> list[FileStanding]:
    return sorted(
        account.pieces,
        key=lambda piece: (STANDING_ORDER.index(piece.standing), piece.log, piece.generation or 0, piece.path),
    )


def _why(piece: FileStanding) -> str:
    """Says for `bridge files` what decided a file's standing, or a generation's place among the others of its log."""
    from bridge.core.globs import is_glob
    from bridge.files.piece_age import HOW

    told = not piece.log or is_glob(piece.log) or piece.path.startswith(piece.log)
    of = "" if told else f"of {piece.log}"
    if piece.decided == "path" and piece.standing == "piece":
        return "; ".join(said for said in (of, piece.why or "it was the log itself") if said)
    several = piece.standing == "piece" or (piece.generation or 1) > 1
    placed = f"placed by {HOW.get(piece.decided, piece.decided)}" if piece.decided and several else ""
    return "; ".join(said for said in (of, piece.why, placed if not piece.why else "") if said)


def _times(piece: FileStanding, between: str) -> str:
    from bridge.cli.import_history import moment

    if piece.span is None:
        return ""
    first, last = (moment(ms).removesuffix("+00:00") for ms in piece.span)
    return first if first == last else f"{first}{between}{last}"


def _show(settings: Settings, mapping: Mapping, account: FilesAccount, *, everything: bool, first: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from bridge.cli.screen import console, safe, show
    from bridge.engine.account.inventory import dated

    out, sums = console(), account.sums()
    if not first:
        show(out, safe(""))
    of = counted(sums["files"], "file")
    said = [f"{sums[kind]:,} {kind}" for kind in ("carried", "waiting", "aside", "copies", "unaccounted") if sums[kind]]
    show(out, safe(f"{mapping.name}: {of}, {counted(sums['bytes'], 'byte')}: {', '.join(said) or 'nothing'}", "bold"))
    if account.gone:
        show(
            out, safe(f"{counted(account.gone, 'entry', 'entries')} of the stream went before the mirror came to them")
        )
    rows = _sorted(account)
    urgent = [standing for standing in rows if standing.standing not in STANDING_ORDER[-2:]]
    shown = rows if everything or len(rows) <= SHOWN_FILES else urgent or rows[:10]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    shown = dated(settings, mapping, shown[: None if everything else 10 * SHOWN_FILES])
    waits = any(piece.behind for piece in shown)
    for column in ("file", "standing", "gen.", "bytes", *["waiting"] * waits, "first and last message, UTC", "why"):
        right = column in ("gen.", "bytes", "waiting")
        table.add_column(column, overflow="fold", justify="right" if right else "left")
    between = " – " if out.width >= TIMES_WIDTH else "\n"
    for piece in shown:
        number = "" if piece.generation is None else f"{piece.generation:,}"
        behind = [f"{piece.behind:,}" if piece.behind else ""] * waits
        before = map(safe, (piece.path, piece.standing, number, f"{piece.bytes:,}", *behind))
        table.add_row(*before, Text(_times(piece, between)), safe(_why(piece)))
    show(out, table)
    left = len(rows) - len(shown)
    if left:
        show(out, safe(f"and {counted(left, 'more file')} with nothing to say: --all shows them", "dim"))
