"""The commands `bridge retire`, `bridge purge`, `bridge unretire` and `bridge runbook`: end a mapping's migration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, complain, emit, mapping_names, of_root, verb, who
from bridge.cli.each_group import each_group, executes
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.ledger.store import Ledger
    from bridge.streams.connect import Connection


@click.command("retire", short_help="End a migration: nothing is carried any more")
@click.argument("mapping", shell_complete=mapping_names)
@click.option("--execute", is_flag=True, help="Do it; without, it says what speaks against it and changes nothing")
@click.option("--reason", default="", help="For the journal")
@click.option("--force", metavar="MAPPING", help="Pass a closed gate; say the mapping's name again")
@verb
@each_group("mapping", changes=executes)
def retire(options: Options, mapping: str, execute: bool, reason: str, force: str | None) -> int:
    """End MAPPING's migration, after a last parity: its files and its stream are carried in neither direction any more.

    The stream is written as files below the state directory, in a folder that tells all by itself. What nobody needs
    any more is named, and what somebody does. The only way back is `bridge unretire`. Exits 3 when somebody still uses
    the files, or the two sides are not the same.
    """
    from bridge.core.errors import ConfigError
    from bridge.core.state_directory import state_lock

    if force is not None and force != mapping:
        raise ConfigError(f"--force {force}: the mapping is {mapping}", hint=f"--force {mapping}")
    settings = of_root(options.settings())
    options.log(settings.log_format)
    with state_lock(settings.state_dir, "retire") if execute else nullcontext():
        codes = [_retire(options, settings, chosen, execute=execute, reason=reason, force=force is not None)
                 for chosen in _streams(settings, mapping)]  # fmt: skip
    return max(codes)


def _streams(settings: Settings, name: str) -> list[Mapping]:
    """Returns the mapping of this name, or all streams of a mapping with many. Raises ConfigError where it has none."""
    found = settings.chosen([name])
    return found if len(found) > 1 else [settings.mapping(name)]


def _retire(options: Options, settings: Settings, chosen: Mapping, *, execute: bool, reason: str, force: bool) -> int:
    """Retires one stream, or says what speaks against it, as `bridge retire`; returns the exit code."""
    from bridge.admin.retire import end_mapping

    mapping = chosen.name
    with _both(settings, chosen) as (ledger, connection):
        if end_mapping.is_retired(chosen, ledger):
            return _again(options, settings, chosen, ledger, connection, execute=execute)
        reasons = end_mapping.reasons(settings, chosen, ledger, connection, time.time())
        passed = not any(reason.firm for reason in reasons) if force else not reasons
        facts = {"mapping": mapping, "stream": chosen.stream.key, "open": not reasons, "done": None,
                 "reasons": [{"what": r.what, "hint": r.hint, "firm": r.firm} for r in reasons]}  # fmt: skip
        for barrier in reasons if not options.as_json else ():
            passes = force and not barrier.firm
            of = f"{mapping}: " if chosen.log else ""
            click.echo(f"{of}{'passed by --force' if passes else 'closed'}: {barrier.what}")
            if not passes:
                click.echo(f"  try: {barrier.hint}{' (--force does not pass this)' if barrier.firm else ''}")
        if execute and passed:
            forced = [reason.what for reason in reasons]
            facts["done"] = _end(options, settings, chosen, ledger, connection, reason, forced)
            if facts["done"] is not None:
                facts |= _left(options, settings, chosen, ledger, connection)
                facts["written"] = _written(settings, chosen, ledger, connection)
        elif not reasons and not options.as_json:
            click.echo(f"Nothing speaks against it. To retire {mapping}, stop the bridge and say --execute.")
    if options.as_json:
        emit(facts)
    if facts["done"] is not None and facts["written"]:
        return 3
    return 3 if not passed or (execute and facts["done"] is None) else 0


def _again(
    options: Options, settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, *, execute: bool
) -> int:  # fmt: skip
    """Finishes the retirement of a mapping that a crash has cut short, and prints what the mapping leaves."""
    from bridge.admin.retire.end_mapping import settle

    did = settle(settings, mapping, ledger, connection) if execute else False
    if not options.as_json:
        said = "" if execute else "closed: "
        click.echo(f"{said}{mapping.name} is retired already{', and what a crash left undone is done' if did else ''}")
    facts = {"mapping": mapping.name, "stream": mapping.stream.key, "retired": True, "settled": did}
    left = _left(options, settings, mapping, ledger, connection)
    if options.as_json:
        emit(facts | left)
    return 0 if execute else 3


def _written(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> dict[str, int]:
    """Counts by source the messages that somebody wrote to a mapping's files while the mapping was being retired.

    For example a program that lost Redis just then. Prints the error that was found with these files, if any.
    """
    from bridge.core.errors import BridgeError
    from bridge.engine.retired_files import retired_mapping
    from bridge.kinds.mapping_context import MappingContext

    shared = MappingContext(mapping, settings)
    try:
        over = retired_mapping(shared, ledger, connection)
    finally:
        shared.close()
    if over is not None and over.error:
        complain(BridgeError(over.error, where=mapping.name, hint=over.hint))
    written = over.written if over is not None else {}
    return {name: behind.messages for name, behind in written.items() if behind.messages}


LISTED_LEFTOVERS = 12


def _left(
    options: Options, settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection
) -> dict[str, object]:  # fmt: skip
    """Prints what a retired mapping leaves, what may go and what must stay; returns both for `--json`."""
    from bridge.admin.retire.purge import leftovers_of
    from bridge.core.model import shown

    found = leftovers_of(settings, mapping, ledger, connection)
    for head, some in (("nobody needs any more:", found.goes), ("must stay:", found.stays)):
        if some and not options.as_json:
            click.echo(head)
            for what, why in some[:LISTED_LEFTOVERS]:
                click.echo(f"  {shown(what.encode())}: {shown(why.encode())}")
            if len(some) > LISTED_LEFTOVERS:
                click.echo(f"  … and {len(some) - LISTED_LEFTOVERS:,} more (--json lists all)")
    return {
        "goes": [{"what": what, "why": why} for what, why in found.goes],
        "stays": [{"what": what, "why": why} for what, why in found.stays],
    }


def _end(
    options: Options, settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, reason: str,
    forced: list[str],
) -> dict[str, object] | None:  # fmt: skip
    """Retires a mapping after both directions have run once more and parity is equal; None: it did not come so far.

    Prints why it did not.
    """
    from dataclasses import replace
    from threading import Event

    from bridge.admin.retire import end_mapping
    from bridge.core.model import format_id
    from bridge.engine.once import once
    from bridge.parity.run_parity import ParityRunner

    alone = replace(settings, mappings=(mapping,))
    drained = once(alone, dual=mapping.mirror is not None, stop=Event())
    for error in [error for report in drained for error in report.errors]:
        complain(error)
        return None
    proof = ParityRunner(alone, [mapping], ledger, Event(), lambda m, read, of: None, who())
    [result] = proof.run(may_start=True)
    if result.verdict != "equal":
        click.echo(f"bridge: {mapping.name}: the last parity says '{result.verdict}': it is not retired", err=True)
        click.echo(f"  try: bridge parity {mapping.name}", err=True)
        return None
    kept = end_mapping.execute(settings, mapping, ledger, connection, result, who(), reason, forced)
    if not options.as_json:
        click.echo(f"{mapping.name} is retired: {counted(kept.messages, 'message')}, written to {kept.folder}")
        click.echo(
            f"  up to entry {format_id(kept.last).decode()}; what comes after it is in {mapping.stream.key} alone"
        )
        click.echo(f"  nobody trims {mapping.stream.key} any more: {kept.folder / 'README.md'} says how to")
        if kept.trimmed:
            click.echo(f"  {counted(kept.trimmed, 'entry', 'entries')} had been trimmed before, and are in no archive")
    return {
        "messages": kept.messages,
        "trimmed": kept.trimmed,
        "not_lines": kept.aside,
        "folder": str(kept.folder),
        "last": format_id(kept.last).decode(),
        "files": kept.digests,
    }


@click.command("purge", short_help="Remove our own keys of a retired mapping")
@click.argument("mapping", shell_complete=mapping_names)
@click.option("--execute", is_flag=True, help="Do it; without, what would go is listed and nothing is changed")
@verb
@each_group("mapping", changes=executes)
def purge(options: Options, mapping: str, execute: bool) -> None:
    """Remove the keys that the bridge keeps in Redis for a retired MAPPING, and the marks of its components.

    The stream and its groups stay, and one key: it keeps programs from falling back to the files.
    """
    settings = of_root(options.settings())
    for chosen in _streams(settings, mapping):
        _purge(options, settings, chosen, execute=execute)


def _purge(options: Options, settings: Settings, chosen: Mapping, *, execute: bool) -> None:
    """Purges one retired stream, as `bridge purge`."""
    from bridge.admin.retire.purge import purge as remove

    with _both(settings, chosen) as (ledger, connection):
        removed = remove(settings, chosen, ledger, connection, who(), really=execute)
        if not options.as_json:
            for what in removed:
                click.echo(what)
            said = "removed" if execute else "would be removed: say --execute"
            click.echo(f"{counted(len(removed), 'key or file', 'keys and files')} {said}" if removed
                       else "there is nothing of ours left but what must stay")  # fmt: skip
        left = _left(options, settings, chosen, ledger, connection)
    if options.as_json:
        emit({"mapping": chosen.name, "keys": removed, "removed": execute, **left})


@click.command("unretire", short_help="Let a retired mapping begin again")
@click.argument("mapping", shell_complete=mapping_names)
@click.option(
    "--from",
    "place",
    type=click.Choice(["retirement", "beginning"]),
    help="Where it goes on: where it ended; or with an empty stream and the beginning of the files",
)
@click.option("--execute", is_flag=True, help="Do it; without, what waits to be carried is told and nothing is changed")
@click.option("--reason", default="", help="For the journal")
@verb
@each_group("mapping", changes=executes)
def unretire(options: Options, mapping: str, place: str | None, execute: bool, reason: str) -> None:
    """Let a retired MAPPING begin again, at a place that you say: `bridge run --dual` carries it from there on.

    From its retirement: what was written to the stream since goes to the files, and what others wrote to the files goes
    to the stream. Programs with our client stay on Redis; `bridge rollback` moves them.
    """
    from bridge.core.errors import ConfigError
    from bridge.core.state_directory import state_lock

    settings = of_root(options.settings())
    if execute and place is None:
        hint = "--from retirement goes on where it ended; --from beginning needs an empty stream"
        raise ConfigError("say where it begins", where=mapping, hint=hint)
    with state_lock(settings.state_dir, "unretire") if execute else nullcontext():
        for chosen in _streams(settings, mapping):
            _unretire(options, settings, chosen, place, execute=execute, reason=reason)


def _unretire(
    options: Options, settings: Settings, chosen: Mapping, place: str | None, *, execute: bool, reason: str
) -> None:
    """Lets one retired stream begin again, or says what would come of it, as `bridge unretire`."""
    from bridge.admin.retire import begin_again
    from bridge.engine.headline import many

    mapping = chosen.name
    with _both(settings, chosen) as (ledger, connection):
        found, aside = begin_again.plan(settings, chosen, ledger, connection), None
        if execute and place is not None:
            aside = begin_again.execute(settings, chosen, ledger, connection, place, who(), reason)
    if options.as_json:
        emit({"mapping": mapping, "executed": execute, "from": place, "entries": found.entries.messages,
              "lines": found.lines.messages, "rebuild": found.rebuild, "empty": found.empty, "gone": list(found.gone),
              "folder": str(aside) if aside is not None else None})  # fmt: skip
        return
    entries, lines = many(found.entries, "entry", "entries"), many(found.lines, chosen.noun, f"{chosen.noun}s")
    if place != "beginning":
        click.echo(
            f"from retirement: {entries} of {chosen.stream.key} go to the files, {lines} of the files to the stream"
        )
    if place != "retirement":
        click.echo(f"from beginning: all of the files{'' if found.empty else '; not while the stream holds entries'}")
    if found.gone and place != "beginning":
        names = ", ".join(found.gone)
        click.echo(f"{names}: no more there; what it held does not come back, and parity will name it as gone")
    if found.rebuild:
        click.echo("its ledger was lost: `bridge repair --execute` must align stream and files before `bridge run`")
    if execute:
        click.echo(f"{mapping} is retired no more: `bridge run --dual` carries it")
        if aside is not None:
            click.echo(f"  what `bridge retire` wrote lies in {aside}")
    else:
        click.echo("Nothing is changed. To do it, say --from, and --execute.")


@click.command("runbook", short_help="Write this deployment's plan as Markdown")
@verb
def runbook(options: Options) -> None:
    """Write the plan for these components: in which order, with which commands, what to see, and how to go back."""
    from contextlib import closing

    from bridge.core.errors import BridgeError
    from bridge.core.server_address import masked
    from bridge.cutover.gate import GateFacts, durable
    from bridge.cutover.runbook import RunbookMapping
    from bridge.cutover.runbook import runbook as written
    from bridge.ledger.retired import retired
    from bridge.ledger.store import Ledger
    from bridge.streams.components import ComponentHash, ComponentModes
    from bridge.streams.dial import Connections
    from bridge.streams.reader import durability

    settings = options.together()
    over: dict[str, float] = {}
    wrong, modes = "", dict[tuple[str, str], ComponentModes]()
    try:
        for part in options.parts():
            with closing(Ledger(part.as_written().state_dir / "ledger.db")) as ledger:
                over |= retired(ledger)
        with closing(Connections(settings, may_start=False)) as servers:
            said = set[str]()
            for mapping in settings.mappings:
                connection, components = servers.to(mapping.stream.key), ComponentHash.of(mapping, settings)
                kept = durability(connection)
                said |= {r.what for r in durable(GateFacts(aof=kept.aof, evicts=kept.evicts, failing=kept.failing))}
                modes |= {(name, mapping.name): now for name, now in components.all(connection).items()}
            wrong = "; ".join(sorted(said))
    except BridgeError as error:
        wrong = f"it was not asked ({error})"
    alive = [mapping for mapping in settings.mappings if mapping.stream.key not in over]
    left = list({mapping.family: mapping for mapping in alive}.values())  # of many streams one stands for all
    logs = [mapping for mapping in left if mapping.kind.lines]
    others = {
        mapping.family: mapping.source.kind
        for mapping in left
        if mapping.kind.whole_files and not mapping.kind.announced
    }
    parts = [
        RunbookMapping(name, log.family, roles, now.reads, now.writes)
        for log in logs for name, roles in settings.components.items()
        for now in [modes.get((name, log.name), ComponentModes())]
    ]  # fmt: skip
    text = written(
        parts, {mapping.family: mapping.stream.key for mapping in left}, others, redis=masked(settings.redis_url),
        root=str(settings.root), durable=wrong, at=time.strftime("%Y-%m-%d"),
        groups=[part.group or "" for part in options.parts()],
    )  # fmt: skip
    if options.as_json:
        emit({"markdown": text})
    else:
        click.echo(text, nl=False)


@contextmanager
def _both(settings: Settings, mapping: Mapping) -> Iterator[tuple[Ledger, Connection]]:
    """Opens the ledger and a connection to a mapping's Redis, for `bridge retire` and the like; closes both."""
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import dialler

    with ExitStack() as stack:
        ledger = Ledger(settings.state_dir / "ledger.db")
        stack.callback(ledger.close)
        connection = dialler(settings, mapping.stream.key, may_start=False)()
        stack.callback(connection.close)
        yield ledger, connection
