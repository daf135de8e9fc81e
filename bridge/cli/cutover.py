"""The commands `bridge cutover` and `bridge rollback`: move a component from the files to Redis, and back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, mapping_names, of_root, verb, who
from bridge.cli.each_group import in_each
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.cutover.operator import Operator, SwitchWish
    from bridge.cutover.plan import SwitchPlan, SwitchReport


def _flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that `bridge cutover` and `bridge rollback` share."""
    for run in reversed((
        click.argument("component"),
        click.option("--mapping", shell_complete=mapping_names, help="One mapping alone; else all that it uses"),
        click.option("--reads", is_flag=True, help="From where it reads, and not where it writes"),
        click.option("--writes", is_flag=True, help="Where it writes, and not from where it reads"),
        click.option("--execute", is_flag=True, help="Do it; without, the plan is printed and nothing is changed"),
        click.option("--reason", default="", help="For the journal"),
        click.option("--from", "given", metavar="POSITION", help="Where a program is that is stopped and has not told:"
                     " the byte up to which it has read the file; on the way back the ID of the last entry it read"),
        click.option("--force", metavar="COMPONENT", help="Pass a closed gate; say the component's name again"),
        click.option("--accept-volatile", is_flag=True, help="Redis need not keep what it is given through a restart"),
    )):  # fmt: skip
        function = run(function)
    return function


@click.command("cutover", short_help="Move a component from the files to Redis")
@_flags
@click.option("--both", is_flag=True, help="With --writes: its program writes both sides itself, and nothing of it is"
              " carried")  # fmt: skip
@verb
def cutover(options: Options, *, both: bool, **flags: Any) -> int:
    """Move a component from the files to Redis: what it reads first, then what it writes.

    Without --execute it prints the plan, and every reason that speaks against it, and changes nothing. Exits 3 when
    the gate is closed.
    """
    from bridge.streams.components import BOTH, REDIS

    if both and (flags["reads"] or not flags["writes"]):
        raise click.UsageError("--both goes with --writes, and not with --reads")
    return _in_each(options, BOTH if both else REDIS, **flags)


@click.command("rollback", short_help="Move a component from Redis back to the files")
@_flags
@verb
def rollback(options: Options, **flags: Any) -> int:
    """Move a component from Redis back to the files: what it writes first, then what it reads.

    Without --execute it prints the plan, and every reason that speaks against it, and changes nothing. Exits 3 when
    the gate is closed.
    """
    from bridge.streams.components import FILE

    return _in_each(options, FILE, **flags)


def _in_each(options: Options, to: str, **flags: Any) -> int:
    """Cuts a component over, or back, in each group that has a mapping which it uses."""

    names = (flags["mapping"],) if flags["mapping"] else ()

    def run(part: Options, names: tuple[str, ...]) -> int:
        if flags["execute"]:
            part.bring_over()
        else:
            part.must_have(names)
        return _run(part, to, **flags)

    parts = _using(options, flags["component"], flags["mapping"])
    return run(parts[0], names) if len(parts) == 1 else in_each([(part, names) for part in parts], run)


def _using(options: Options, component: str, mapping: str | None) -> list[Options]:
    """Returns the options of each group that has a mapping which the component uses, or the mapping that is named.

    Raises ConfigError: none of several groups has one.
    """
    from bridge.core.errors import ConfigError

    parts = options.parts([mapping] if mapping else [])
    if len(parts) == 1:
        return parts
    found = []
    for part in (part for part in parts if (part.as_written().state_dir / "ledger.db").exists()):
        with _operator(part) as operator:
            if operator.is_used_by(component):
                found.append(part)
    if not found:
        names = ", ".join(mapping.name for mapping in options.as_written().mappings if mapping.kind.lines)
        raise ConfigError(f"nothing tells which mapping {component} uses", hint=f"say it with --mapping: {names}")
    return found


def _run(
    options: Options, to: str, *, component: str, mapping: str | None, reads: bool, writes: bool, execute: bool,
    reason: str, given: str | None, force: str | None, accept_volatile: bool,
) -> int:  # fmt: skip
    from bridge.core.errors import ConfigError
    from bridge.cutover.operator import SwitchWish
    from bridge.cutover.position_store import entry_id
    from bridge.streams.components import BOTH, FILE, READS, WRITES

    if force is not None and force != component:
        raise ConfigError(f"--force {force}: the component is {component}", hint=f"--force {component}")
    if given is not None and to == FILE:
        entry_id(given)  # before anything is switched
    sides = tuple(side for side, wanted in ((READS, reads), (WRITES, writes)) if wanted or not (reads or writes))
    wish = SwitchWish(component, sides, to, reason, given, force is not None, accept_volatile)
    told: list[dict[str, Any]] = []
    closed = False
    with _operator(options) as operator:
        for step, outcome in operator.complete():
            click.echo(f"bridge: an earlier switch, {step}, {outcome}", err=True)
        mappings = operator.mappings_of(component, mapping)
        families = {chosen.family for chosen in mappings if chosen.log}
        if execute and families:  # all of them, or none
            planned: list[dict[str, Any]] = []
            for chosen in mappings:
                closed |= _switch(options, operator, wish, chosen.name, planned, execute=False, said=False)
            told += planned if closed else []
            for family in families if not closed and to != BOTH and mapping in (None, *families) else ():
                operator.switch_default(wish, family)
    with _operator(options) as operator:  # anew, for streams that the component met until it knew of the default
        mappings = operator.mappings_of(component, mapping)
        streams = Counter(chosen.family for chosen in mappings if chosen.log)
        for chosen in mappings if not (execute and closed) else ():
            few = streams[chosen.family] <= FEW
            closed |= _switch(options, operator, wish, chosen.name, told, execute=execute, said=few)
            if closed and execute:
                break
        for family, count in streams.items():
            _together(options, wish, family, count, told, said=count > FEW or (execute and closed))
    if options.as_json:
        emit(told)
    return 3 if closed else 0


@contextmanager
def _operator(options: Options) -> Iterator[Operator]:
    from bridge.cutover.operator import Operator
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import Connections

    settings = of_root(options.settings())
    options.log(settings.log_format)
    with ExitStack() as stack:
        ledger = Ledger(settings.state_dir / "ledger.db")
        stack.callback(ledger.close)
        servers = stack.enter_context(closing(Connections(settings, may_start=False)))
        operator = Operator(settings, ledger, servers, who(), threading.Event().wait)
        stack.callback(operator.close)
        yield operator


FEW = 5
"""Streams of one mapping of which each switch is told by itself."""


def _together(
    options: Options, wish: SwitchWish, family: str, count: int, told: list[dict[str, Any]], *, said: bool
) -> None:
    """Says what came of a switch in all streams of one mapping, if it is `said` here and not stream by stream."""
    if options.as_json or not said:
        return
    mine = [facts for facts in told if str(facts["mapping"]).startswith(f"{family}:")]
    reasons = Counter(reason["what"] for facts in mine for reason in facts["reasons"])
    done = [facts["done"] for facts in mine if facts["done"] is not None]
    click.echo(f"{family}: {counted(len(mine), 'switch', 'switches')} of {wish.component} in {count:,} streams")
    for what, times in reasons.most_common():
        click.echo(f"  closed         {what} (in {counted(times, 'switch', 'switches')})")
    if not reasons:
        click.echo("  the gate       open in all of them")
    if done:
        again = sum(facts["again"] for facts in done)
        seconds = sum(facts["seconds"] for facts in done)
        click.echo(
            f"  done           {len(done):,} in {seconds:.1f} s" + (f", {again:,} may be read again" if again else "")
        )
    elif not reasons:
        click.echo("Nothing is changed. To do it, say --execute.")


def _switch(
    options: Options, operator: Operator, wish: SwitchWish, mapping: str, told: list[dict[str, Any]], *,
    execute: bool, said: bool,
) -> bool:  # fmt: skip
    """Plans, and with `execute` makes, the steps of a cut-over or roll-back in one mapping; True: a gate was closed.

    `said`: each is told of by itself.
    """
    said = said and not options.as_json
    steps, modes = operator.steps(wish, mapping)
    if not steps:
        where = {"file": "the files", "redis": "Redis", "both": "both sides"}[wish.to]
        if said:
            click.echo(f"{mapping}: nothing to do, {wish.component} is at {where} already")
        return False
    closed = False
    for step in steps:
        plan = operator.plan(wish, step, then=None if execute else modes)
        modes = modes.after(step.side, step.to)
        facts = plan.to_json() | {"done": None}
        told.append(facts)
        if said:
            _print_plan(plan, execute=execute)
        passed = plan.open or (wish.forced and not any(reason.firm for reason in plan.reasons))
        closed |= not passed
        if execute and not passed:
            return True
        if execute:
            done = operator.make(wish, plan)
            facts["done"] = {"seconds": round(done.seconds, 3), "epoch": done.modes.epoch, "again": done.again,
                             "before": done.before, "after": done.after, "went_on": done.went_on}  # fmt: skip
            if said:
                _print_done(done)
    if not execute and said:
        click.echo("Nothing is changed." + ("" if closed else " To do it, say --execute."))
    return closed


def _print_plan(plan: SwitchPlan, *, execute: bool) -> None:
    from bridge.cli.screen import console, safe

    out = console()
    out.print(safe(f"{plan.step}", "bold"), soft_wrap=True)
    if plan.before or plan.after:
        out.print(safe(f"  it has read    {plan.before}"), soft_wrap=True)
        if plan.after:
            out.print(safe(f"  which is       {plan.after}"), soft_wrap=True)
        out.print(safe(f"  read again     {plan.again or 'nothing'}"), soft_wrap=True)
    if plan.notice:
        out.print(safe(f"  notice         {plan.notice}"), soft_wrap=True)
    running = ", ".join(worker.where for worker in plan.workers) or "nobody: it does not run, or not with our client"
    out.print(safe(f"  it runs as     {running}"), soft_wrap=True)
    if plan.open:
        out.print(safe("  the gate       open", "green"), soft_wrap=True)
    for reason in plan.reasons:
        out.print(safe(f"  closed         {reason.what}", "red"), soft_wrap=True)
        out.print(safe(f"    try          {reason.hint}"), soft_wrap=True)


def _print_done(done: SwitchReport) -> None:
    from bridge.cli.screen import console, safe

    goes_on = "and it goes on" if done.went_on else "it was not seen to go on: it does not run, or is busy"
    out = console()
    out.print(safe(f"  done in {done.seconds:.2f} s, {goes_on}"), soft_wrap=True)
    if done.before:
        again = f"; {done.again} may be read again, and are marked so" if done.again else ""
        out.print(safe(f"  from {done.before} to {done.after}{again}"), soft_wrap=True)
