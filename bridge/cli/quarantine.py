"""`bridge quarantine list|show|retry|export`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, Verbs, counted, emit, mapping_names, options, verb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.config import Settings
    from bridge.ledger.quarantine import Quarantined
    from bridge.ledger.store import Ledger
    from bridge.mapping import Mapping

SHOWN = 10_000
"""Characters of a message that `show` prints; `export` gives all of them."""


@click.group("quarantine", cls=Verbs)
@options
def command(**_: object) -> None:
    """See and retry what could not be translated: kept whole, with its place and the reason."""


@command.command("list")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--all", "everything", is_flag=True, help="What a retry has brought over as well")
@verb
def list_(given: Options, mappings: tuple[str, ...], everything: bool) -> None:
    """One line each, oldest first."""
    from rich.table import Table

    from bridge.cli.screen import console, safe
    from bridge.model import shown

    settings = given.settings()
    rows = list(_found(settings, mappings, everything))
    if given.as_json:
        emit([_facts(mapping, one) for mapping, one in rows])
        return
    if not rows:
        click.echo("nothing is in quarantine")
        return
    out = console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("number", "where", "reason", "message"):
        table.add_column(name, overflow="fold")
    for _, one in rows:
        reason = one.reason + (f" (now {one.retried})" if one.retried else "")
        table.add_row(str(one.number), safe(_where(one)), safe(reason), safe(shown(one.raw, 60)))
    out.print(table)
    click.echo(f"{counted(len(rows), 'message')}; `bridge quarantine show NUMBER`, `bridge quarantine retry`")


@command.command("show")
@click.argument("number", type=int)
@verb
def show(given: Options, number: int) -> None:
    """All that is known of one, and the message itself."""
    from bridge.cli.screen import console, safe
    from bridge.model import shown

    settings = given.settings()
    with _ledger(settings) as ledger:
        mapping, one = _numbered(settings, ledger, number)
    facts = _facts(mapping, one)
    if given.as_json:
        emit(facts)
        return
    out = console()
    for name in ("number", "mapping", "direction", "where", "reason", "noted", "bytes", "retried"):
        if facts[name] is not None:
            out.print(safe(f"{name:10} {facts[name]}"))
    if len(one.raw) < one.length:
        out.print(safe(f"{'kept':10} its first {len(one.raw):,} bytes; BLAKE2b-128 of all {one.digest or 'not kept'}"))
    out.print()
    out.print(safe(shown(one.raw, SHOWN)), soft_wrap=True)


@command.command("retry")
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER]...")
@verb
def retry(given: Options, numbers: tuple[int, ...]) -> int:
    """Try them all, or those of these numbers, once more with the mapping as it is now.

    Each goes over exactly once, however often this is run or killed, and is marked as late: it stands behind its
    neighbours. The bridge must not run meanwhile. Exits 3 when some still cannot be translated.
    """
    import time

    from bridge.carry.retry import Retry
    from bridge.carry.shared import Shared
    from bridge.ledger.mirrored import intents_of
    from bridge.run import dialler, state_lock

    settings = given.settings()
    given.log(settings.log_format)
    results = []
    with state_lock(settings.state_dir, "quarantine retry"), _ledger(settings, create=True) as ledger:
        wanted: dict[str, list[Quarantined]] = {mapping.name: [] for mapping in settings.mappings}
        for number in numbers:
            mapping, one = _numbered(settings, ledger, number)
            wanted[mapping.name] += [] if one.retried else [one]
            results += [{"number": number, "where": one.retried, "reason": None}] if one.retried else []
        if not numbers:
            for mapping, one in _found(settings, (), everything=False):
                wanted[mapping.name].append(one)
        for mapping in settings.mappings:
            if wanted[mapping.name] or intents_of(ledger, mapping.stream.key):
                shared = Shared(mapping, settings)
                try:
                    work = Retry(shared, ledger, dialler(settings), time.time, time.sleep)
                    for done in work.run(wanted[mapping.name]):
                        results.append(
                            {"number": done.number, "where": done.where or None, "reason": done.reason or None}
                        )
                finally:
                    shared.close()
    stay = [one for one in results if one["reason"]]
    if given.as_json:
        emit(results)
    else:
        _render(results, len(stay))
    return 3 if stay else 0


def _render(results: list[dict[str, Any]], stay: int) -> None:
    from bridge.cli.screen import console, safe

    out = console()
    for one in results:
        said = f"stays: {one['reason']}" if one["reason"] else f"now {one['where']}"
        out.print(safe(f"{one['number']}: {said}"))
    if not results:
        click.echo("nothing is in quarantine")
        return
    click.echo(f"{counted(len(results) - stay, 'message')} went over, {stay} still in quarantine")


@command.command("export")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--all", "everything", is_flag=True, help="What a retry has brought over as well")
@verb
def export(given: Options, mappings: tuple[str, ...], everything: bool) -> None:
    """All of it on stdout, one JSON object a line, with every byte that was kept."""
    for mapping, one in _found(given.settings(), mappings, everything):
        click.echo(json.dumps(_facts(mapping, one), ensure_ascii=False))


def _ledger(settings: Settings, *, create: bool = False) -> Any:
    from contextlib import closing

    from bridge.ledger.store import Ledger

    return closing(Ledger(settings.state_dir / "ledger.db", create=create))


def _found(settings: Settings, mappings: tuple[str, ...], everything: bool) -> Iterator[tuple[Mapping, Quarantined]]:
    from bridge.ledger.quarantine import quarantined

    chosen = [settings.mapping(name) for name in mappings] or settings.mappings
    if not (settings.state_dir / "ledger.db").exists():
        return
    with _ledger(settings) as ledger:
        for mapping in chosen:
            for one in quarantined(ledger, mapping.stream.key, all_of_them=everything):
                yield mapping, one


def _numbered(settings: Settings, ledger: Ledger, number: int) -> tuple[Mapping, Quarantined]:
    from bridge.errors import BridgeError
    from bridge.ledger.quarantine import quarantined_number

    found = quarantined_number(ledger, number)
    for mapping in settings.mappings:
        if found is not None and mapping.stream.key == found[0]:
            return mapping, found[1]
    raise BridgeError(
        f"no message of number {number} is in quarantine", hint="`bridge quarantine list` has the numbers"
    )


def _where(one: Quarantined) -> str:
    if one.direction == "mirror":
        return f"entry {one.entry_id}"
    return f"{one.name}@{one.offset}" + (f" of generation {one.generation}" if one.generation > 1 else "")


def _facts(mapping: Mapping, one: Quarantined) -> dict[str, Any]:
    from datetime import UTC, datetime

    from bridge.model import as_json

    noted = datetime.fromtimestamp(one.noted_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "number": one.number, "mapping": mapping.name, "stream": mapping.stream.key, "direction": one.direction,
        "where": _where(one), "file": one.name or None, "generation": one.generation or None,
        "offset": one.offset if one.direction == "forward" else None, "entry": one.entry_id or None,
        "reason": one.reason, "noted": noted, "bytes": one.length, "digest": one.digest or None,
        "whole": len(one.raw) == one.length, "retried": one.retried or None, "raw": as_json(one.raw),
    }  # fmt: skip
