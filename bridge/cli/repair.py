"""The command `bridge repair`: rebuilds a lost ledger, and mends the differences that parity found."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, of_root, verb, who
from bridge.cli.each_group import each_group
from bridge.cli.repair_files import LateFiles
from bridge.core.errors import ConfigError
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.admin.repair.mend import RepairAction, RepairPlan
    from bridge.core.config import Settings
    from bridge.engine.rebuild_plan import RebuildPlan
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.store import Ledger
    from bridge.parity.result import ParityResult
    from bridge.streams.connect import Connection

LISTED_ACTIONS = 20


def _changes(given: dict[str, Any]) -> bool:
    return bool(given["execute"] or given["accept"] or given["as_edit"] or given["as_new"])


@click.command("repair", short_help="Rebuild a lost ledger, and mend what parity found")
@click.option("--execute", is_flag=True, help="Do it; without, the plan is printed and nothing is changed")
@click.option("--take-over", is_flag=True, help="Also where the stream belongs to another bridge that is gone")
@click.option("--accept", is_flag=True, help="Acknowledge the differences NAME… of parity, at once; needs --reason")
@click.option("--as-edit", is_flag=True, help="What took log NAME's place is an edit: pass over what it was; at once")
@click.option("--as-new", is_flag=True, help="What took log NAME's place is a new file: send all of it; at once")
@click.option("--layout", type=click.Choice(["1"]), help="Give the keys the layout of versions before this one")
@click.option("--reason", metavar="TEXT", help="Why, for the journal")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@verb
@each_group(changes=_changes, alone="names")
def command(
    options: Options, execute: bool, take_over: bool, accept: bool, as_edit: bool, as_new: bool, layout: str | None,
    reason: str | None, names: tuple[str, ...],
) -> int:  # fmt: skip
    """Rebuild a lost ledger by aligning stream and files. Then send what is missing in Redis, append what is missing in
    the files. To a retired mapping's stream, send what others wrote to its files since.

    Nothing is rewritten or deleted. What cannot be mended so is explained; then it exits 3, and 4 where a stream's node
    of a cluster was not reached.

    With --accept, names are entry IDs, FIRST..LAST, or lines as FILE:LINE, as `bridge parity` names them; with
    --as-edit and --as-new, mappings or logs. With --layout 1, an earlier version of the bridge can go on.
    """
    from bridge.cli.repair_retired import DeadFiles
    from bridge.core.state_directory import state_lock
    from bridge.engine.retired_files import retired_mapping
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import Connections

    settings = of_root(options.settings())
    options.log(settings.log_format)
    if accept or as_edit or as_new:
        return _say(options, names, accept=accept, as_edit=as_edit, as_new=as_new, reason=reason)
    if names or reason:
        raise ConfigError("names are given without --accept, --as-edit or --as-new", where=" ".join(names),
                          hint="`bridge repair` alone mends what it can of all mappings")  # fmt: skip
    if layout is not None:
        return _back(options, settings, execute=execute)
    told = []
    with ExitStack() as stack:
        path = settings.state_dir / "ledger.db"
        if execute:
            stack.enter_context(state_lock(settings.state_dir, "repair"))
        ledger = Ledger(path, create=execute) if execute or path.exists() else None
        if ledger is not None:
            stack.callback(ledger.close)
        servers = stack.enter_context(closing(Connections(settings, may_start=execute)))
        reached, away = servers.reach(mapping.stream.key for mapping in settings.mappings)
        for mapping in settings.mappings:
            if (connection := reached.get(mapping.stream.key)) is None:
                click.echo(f"{mapping.name} is not looked at: {away[mapping.stream.key]}", err=True)
                continue
            shared = MappingContext(mapping, settings)
            stack.callback(shared.close)
            over = retired_mapping(shared, ledger, connection)
            work: _Repair | DeadFiles
            if over is not None:
                work = DeadFiles(shared, ledger, connection, over, execute=execute)
            else:
                work = _Repair(shared, ledger, connection, execute=execute, take_over=take_over)
            work.run()
            told.append(work)
            if not options.as_json:
                work.print()
    if options.as_json:
        lost = [{"mapping": mapping.name, "error": str(away[mapping.stream.key])}
                for mapping in settings.mappings if mapping.stream.key in away]  # fmt: skip
        emit([*(work.to_json() for work in told), *lost])
    return 3 if any(work.left for work in told) else 4 if away else 0


def _back(options: Options, settings: Settings, *, execute: bool) -> int:
    """Moves the keys of all mappings back to layout 1, for an earlier version of the bridge, and prints which."""
    from bridge.core.state_directory import state_lock
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import Connections
    from bridge.streams.keys import Keys
    from bridge.streams.layout import FORMAT, move_back

    moved = []
    with (
        state_lock(settings.state_dir, "repair"),
        closing(Ledger(settings.state_dir / "ledger.db")) as ledger,
        closing(Connections(settings, may_start=execute)) as servers,
    ):
        for mapping in settings.mappings if execute else ():
            keys = Keys.of(mapping.stream.key)
            if move_back(servers.to(keys.stream), keys, ledger.uuid, settings.instance):
                moved.append(mapping.name)
    if options.as_json:
        emit({"executed": execute, "moved": moved})
    elif execute:
        click.echo(f"{counted(len(moved), 'mapping')} moved to layout 1: the next `bridge run` of this version moves "
                   f"{'them' if len(moved) != 1 else 'it'} to layout {FORMAT} again")  # fmt: skip
    else:
        click.echo("nothing was changed; `bridge repair --layout 1 --execute` does it, while the bridge is stopped")
    return 0


def _say(
    options: Options, names: tuple[str, ...], *, accept: bool, as_edit: bool, as_new: bool, reason: str | None
) -> int:
    """Notes what a person says with `bridge repair`: known differences (`--accept`), or what took a log's place."""
    from contextlib import closing
    from threading import Event

    from bridge.admin.repair.acknowledge import acknowledge_difference as acknowledge
    from bridge.admin.repair.acknowledge import declare_edit
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.edits import AS_EDIT, AS_NEW
    from bridge.ledger.store import Ledger
    from bridge.parity.run_parity import check_of
    from bridge.streams.dial import dialler

    if accept + as_edit + as_new > 1:
        raise ConfigError("--accept, --as-edit and --as-new are different things", hint="give one of them")
    if accept and not (names and reason):
        missing = "no difference is named" if not names else "--accept needs a --reason"
        raise ConfigError(missing, hint="bridge repair --accept ID… --reason TEXT: the reason goes into the journal")
    settings = of_root(options.settings())
    with closing(Ledger(settings.state_dir / "ledger.db")) as ledger, ExitStack() as stack:
        mappings = [MappingContext(mapping, settings) for mapping in settings.mappings]
        for shared in mappings:
            stack.callback(shared.close)
        if not accept:
            declare_edit(
                ledger, mappings, names, AS_EDIT if as_edit else AS_NEW, who(), reason or "", time.time(), click.echo
            )
            return 0
        results = []
        for shared in mappings:
            dial = dialler(settings, shared.mapping.stream.key, may_start=True)
            check = check_of(shared.mapping)(shared.mapping, settings, dial, ledger, Event(), lambda read, of: None)
            results.append((shared, check.run()))
        count = acknowledge(ledger, results, names, who(), reason or "", time.time())
    if options.as_json:
        emit({"accepted": count})
    else:
        click.echo(f"{counted(count, 'difference')} acknowledged: `bridge parity` does not name them any more")
    return 0


class _Repair:
    """Repairs one mapping: rebuilds a lost ledger, and mends the differences that parity finds."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger | None, connection: Connection, *, execute: bool, take_over: bool
    ) -> None:  # fmt: skip
        self.shared = shared
        self._ledger = ledger
        self._connection = connection
        self._execute = execute
        self._take_over = take_over
        self.rebuilt: RebuildPlan | None = None
        self.result: ParityResult | None = None
        self.plan: RepairPlan | None = None
        self.done: list[tuple[RepairAction, str]] = []
        self.restored = 0
        self.late: LateFiles | None = None

    @property
    def left(self) -> int:
        """How many differences a repair leaves in the mapping; 1 where Redis lost entries; 0: nothing was compared."""
        if self.plan is None:
            return 0
        if self.result is not None and self.result.lost:
            return 1
        return (self.late.left if self.late is not None else 0) + len(self.plan.of("")) + self.plan.untold

    def run(self) -> None:
        """Plans the repair of a mapping's ledger and of its differences, and carries the plans out with `--execute`."""
        from bridge.engine import rebuild_ledger
        from bridge.streams.layout import is_owner

        ledger = self._ledger
        uuid = ledger.uuid if ledger is not None else b""
        keys, anew = self.shared.keys, False
        if ledger is not None and is_owner(self._connection.call("HGET", keys.meta, "owner"), uuid):
            anew = bool(self.shared.hold.doubt(self._connection, ledger))
        self.rebuilt = rebuild_ledger.plan(self._connection, self.shared, ledger, take_over=self._take_over, anew=anew)
        if self.rebuilt is not None and (not self._execute or ledger is None):
            return  # without a ledger parity would find other differences
        if self.rebuilt is not None and ledger is not None:
            rebuild_ledger.execute(self._connection, self.shared, ledger, self.rebuilt)
        if ledger is not None and self.shared.mapping.kind.lines:
            self.late = LateFiles(self.shared, ledger, self._connection)
            if self._execute:
                self.late.execute()
        if self._execute and ledger is not None:
            self._mend(ledger)
        else:
            self._look()

    def _look(self) -> None:
        from threading import Event

        from bridge.admin.repair.mend import plan
        from bridge.parity.run_parity import check_of
        from bridge.streams.dial import dialler
        from bridge.streams.reader import origins_taken
        from bridge.streams.stream_metadata import read_metadata

        settings, mapping = self.shared.settings, self.shared.mapping
        dial = dialler(settings, mapping.stream.key, may_start=False)
        check = check_of(mapping)(mapping, settings, dial, self._ledger, Event(), lambda read, of: None)
        self.result = check.run()
        books = read_metadata(self._connection, self.shared.keys)
        self._numbers = {os.fsdecode(name): int(n) for name, n in books.sources.items()}
        taken = partial(origins_taken, self._connection, self.shared.keys)
        self.plan = plan(self.result, mapping, self._numbers, settings.roles, taken)

    def _mend(self, ledger: Ledger) -> None:
        from bridge.admin.repair.mend import Mender
        from bridge.admin.repair.out_of_order import OutOfOrderSender
        from bridge.ledger.file_standings import forget_skipped
        from bridge.streams.dial import dialler
        from bridge.streams.writer import REPAIRED

        settings = self.shared.settings
        dial = dialler(settings, self.shared.keys.stream)
        late = OutOfOrderSender(self.shared, ledger, self._connection, REPAIRED, dial, time.time, time.sleep)
        late.own()
        if self.shared.mapping.mirror is not None:
            late.finished().close()
        self._look()
        mender = Mender(self.shared, ledger, late, who(), time.time)
        if self.plan is not None and self.plan.restores:
            for restore in self.plan.restores:
                mender.restore(restore)
                self.restored += restore.lines
            self._look()  # with these lines in place again, other places may be right as well
        if self.plan is not None:
            self.done = list(mender.run(self.plan, self._numbers))
            if not self.plan.of("") and not self.plan.untold:
                forget_skipped(ledger, self.shared.mapping.stream.key)

    def to_json(self) -> dict[str, Any]:
        """Makes a JSON object of the repair of one mapping, for `--json`: its plans, and what was done of them."""
        acts = self.plan.acts if self.plan is not None else []
        where = {id(act): place for act, place in self.done}
        did = bool(self.rebuilt or self.done or self.restored or (self.late and self.late.done))
        return {
            "mapping": self.shared.mapping.name, "executed": self._execute and did,
            "plan": self.rebuilt.to_json() if self.rebuilt is not None else None,
            "parity": self.result.verdict if self.result is not None else None, "restored": self._put_back(),
            "acts": [
                {"action": act.action or None, "advice": act.advice or None, "now": where.get(id(act)),
                 **act.difference.to_json()}
                for act in acts
            ],
            "untold": self.plan.untold if self.plan is not None else 0,
            "unaccounted": self.late.to_json() if self.late is not None else None,
        }  # fmt: skip

    def _put_back(self) -> int:
        """Counts the lines that the repair put back, or would put back, at the end of files that were cut."""
        if self._execute or self.plan is None:
            return self.restored
        return sum(restore.lines for restore in self.plan.restores)

    # -- for people ------------------------------------------------------------------------------------------

    def print(self) -> None:
        """Prints for people what the repair did to the mapping, or would do."""
        name = self.shared.mapping.name
        self._print_rebuilt()
        if self.late is not None:
            self.late.print()
        if self.plan is None:
            return
        if self.result is not None and self.result.lost:
            click.echo(f"{name}: {self.result.warnings()[0]}")
            return
        sends, appends, left = self.plan.of("send"), self.plan.of("append"), self.plan.of("")
        restores = self._put_back()
        if not (sends or appends or left or restores or self.plan.untold):
            from bridge.parity.report import verdict_in_words

            if self.late is not None and (self.late.found or self.late.edited):
                return
            unknown = self.result is not None and self.result.verdict == "inconclusive"
            said = f". {verdict_in_words(self.result)}" if self.result and unknown else ", nothing to repair"
            click.echo(f"{name}: the ledger is in order{said}")
            return
        did = "" if self._execute else "would "
        mends = sends or appends or restores
        said = (
            f"{did}{'mended' if self._execute else 'mend'} what parity found" if mends else "nothing that can be mended"
        )
        click.echo(f"{name}: {said}")
        for warning in self.result.warnings() if self.result is not None else ():
            click.echo(f"  {warning}")
        verbs = ("put back", "sent", "appended") if self._execute else ("put back", "send", "append")
        if restores:
            click.echo(f"  {did}{verbs[0]} {counted(restores, 'line')} at the end of a file that was cut")
        for action, acts in ((verbs[1], sends), (verbs[2], appends)):
            for act in acts[:LISTED_ACTIONS]:
                click.echo(f"  {did}{action} {self._said(act)}")
            if len(acts) > LISTED_ACTIONS:
                click.echo(f"  … and {counted(len(acts) - LISTED_ACTIONS, 'more line')}")
        for act in left[:LISTED_ACTIONS]:
            click.echo(f"  left alone, {self._said(act)}: {act.advice}")
        if len(left) > LISTED_ACTIONS:
            click.echo(f"  … and {len(left) - LISTED_ACTIONS:,} more left alone")
        if self.plan.untold:
            click.echo(f"  {counted(self.plan.untold, 'more difference')}: run it again when these are mended")
        if not self._execute and (sends or appends or restores):
            click.echo("  nothing was changed; `bridge repair --execute` does it, while the bridge is stopped")

    def _said(self, act: RepairAction) -> str:
        from bridge.parity.report import WORDS, where

        now = next((f", now {place}" for action, place in self.done if action is act), "")
        return f"{WORDS[act.difference.kind]}: {where(act.difference)}{now}"

    def _print_rebuilt(self) -> None:
        made, name = self.rebuilt, self.shared.mapping.name
        if made is None:
            return
        click.echo(f"{name}: {'rebuilt' if self._execute else 'would rebuild'} the ledger of stream {made.stream}")
        if self.shared.mapping.mirror is not None:
            found = counted(len(made.ranges), "mirrored file" if self.shared.folder is not None else "mirrored line")
            click.echo(f"  {found} found, {made.ambiguous} with an equal twin")
            click.echo(f"  {counted(made.unmatched, 'entry', 'entries')} still to be mirrored")
        for missing_name in made.missing:
            click.echo(f"  {missing_name} is not to be found")
        for stranger in made.strangers:
            click.echo(f"  {stranger} is not a file that was carried: all of it will be carried as new")
        if not self._execute:
            flags = "--take-over --execute" if self._take_over else "--execute"
            click.echo(f"  nothing was changed; `bridge repair {flags}` does it")
