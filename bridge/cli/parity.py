"""The command `bridge parity`: compares files and streams message by message, and prints the proof or a page."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, complain, emit, emit_line, mapping_names, of_root, verb, who
from bridge.cli.each_group import shares
from bridge.cli.parity_screen import print_hosts, print_results

if TYPE_CHECKING:
    from threading import Event

    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.ledger.store import Ledger
    from bridge.parity.result import ParityResult
    from bridge.parity.run_parity import ParityRunner

WATCH_SECONDS = 2.0
"""Seconds between two runs of `parity --watch`; more after a long run, so that runs take a tenth of the time."""

SAID = 5.0
"""Seconds between two lines of parity's progress where there is no terminal."""

CODES = {"equal": 0, "differs": 3, "inconclusive": 4}


@click.command("parity", short_help="Prove that both sides hold the same")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--html", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
              help="Write the result as a page, too")  # fmt: skip
@click.option("--watch", is_flag=True, help="Keep it up to date, reading only what is new, until interrupted")
@click.option("--full", is_flag=True, help="With --watch: read everything anew at first")
@click.option("--max-rate", type=click.FloatRange(min=1), metavar="N", help="At most N entries a second")
@click.option("--history", is_flag=True, help="List earlier runs instead")
@click.option("--all-hosts", is_flag=True, help="Join what the bridges of all hosts have proved, instead")
@verb
def command(
    options: Options, mappings: tuple[str, ...], html: Path | None, watch: bool, full: bool, max_rate: float | None,
    history: bool, all_hosts: bool,
) -> int:  # fmt: skip
    """Read the files and the streams of MAPPING [all of them] anew, and compare them message by message.

    It runs beside a running bridge: what is merely under way is no difference. Exits 0 when both sides are equal, 3
    when they differ, 4 when that cannot be told.

    With --all-hosts it compares nothing itself: of each host that has a stream of its own by MAPPING it tells the last
    verdict there, which the host's running bridge knows, and joins them.
    """
    if watch and (html is not None or history):
        raise click.UsageError("--watch goes with neither --html nor --history")
    if html is not None:
        if history:
            raise click.UsageError("--history goes without --html")
        _may_write(html)
    if all_hosts:
        if watch or full or history or html is not None or max_rate is not None:
            raise click.UsageError("--all-hosts goes with no other option of parity")
        everything = of_root(options.together())
        options.log(everything.log_format)
        return _all_hosts(options, everything, mappings)
    if full and not watch:
        raise click.UsageError("--full goes with --watch; without, everything is read anyway")
    with ExitStack() as opened:
        parts = [_part(group, names, opened) for group, names in shares(options, mappings)]
        if history:
            return _history(options, parts)
        return _prove(options, parts, html=html, watch=watch, full=full, max_rate=max_rate)


@dataclass(frozen=True, slots=True)
class _Part:
    """What parity compares of one group, or of all without groups: the mappings, and the ledger if it can be opened.

    `why`: why it cannot.
    """

    settings: Settings
    chosen: list[Mapping]
    ledger: Ledger | None
    why: str


def _part(options: Options, names: tuple[str, ...], opened: ExitStack) -> _Part:
    """Chooses for parity the mappings of these names in a group, or all that are not retired, and opens its ledger."""
    from bridge.core.errors import LedgerError
    from bridge.ledger.retired import retired
    from bridge.ledger.store import Ledger

    settings = of_root(options.settings())
    options.log(settings.log_format)
    ledger, why, path = None, "there is no ledger", settings.state_dir / "ledger.db"
    chosen = settings.chosen(names)
    if path.exists():
        try:
            ledger = Ledger(path)
            opened.callback(ledger.close)
        except LedgerError as error:
            why = str(error)
    if ledger is not None and not names:
        over = retired(ledger)
        chosen = [mapping for mapping in chosen if mapping.stream.key not in over] or chosen
    return _Part(settings, chosen, ledger, why)


class _Runners:
    """Runs parity in each of several groups, one after another: each has a ledger of its own."""

    def __init__(self, runners: list[ParityRunner]) -> None:
        self._runners = runners

    def run(self, *, onwards: bool = False) -> list[ParityResult]:
        """Proves parity of all mappings of all groups. Raises as `ParityRunner.run`."""
        return [result for runner in self._runners for result in runner.run(onwards=onwards)]

    @property
    def unkept(self) -> str:
        """Why the ledger of a group did not take its run of parity; empty where all did."""
        return next((runner.unkept for runner in self._runners if runner.unkept), "")


def _prove(
    options: Options, parts: list[_Part], *, html: Path | None, watch: bool, full: bool, max_rate: float | None
) -> int:
    from bridge.core.python_tuning import tune_interpreter
    from bridge.core.stop_signals import stop_on_signals
    from bridge.parity.prove import Interrupted
    from bridge.parity.result import verdict_of_all
    from bridge.parity.run_parity import ParityRunner

    stop = stop_on_signals()
    tune_interpreter()
    with closing(_Progress(quiet=options.verbosity < 0 or watch)) as progress:
        proof = _Runners([
            ParityRunner(part.settings, part.chosen, part.ledger, stop, progress, who(), max_rate=max_rate,
                         stats=html is not None)
            for part in parts
        ])  # fmt: skip
        try:
            if watch:
                return _watch(options, proof, stop, full=full)
            results = proof.run()
        except Interrupted:
            progress.close()
            click.echo("bridge: interrupted: there is no verdict", err=True)
            return 130
    if html is not None:
        from bridge.parity.report import page

        _write(html, page(results, time.time()))
    if options.as_json:
        emit({"verdict": verdict_of_all(results), "mappings": [parity_result.to_json() for parity_result in results]})
        for result in results:
            _notes(result)
    else:
        print_results(results, {mapping.name: mapping.family for part in parts for mapping in part.chosen})
    lost = [part.why for part in parts if part.ledger is None]
    if lost or proof.unkept:
        click.echo(f"bridge: this run is not kept: {proof.unkept or lost[0]}", err=True)
    return CODES[verdict_of_all(results)]


def _all_hosts(options: Options, settings: Settings, names: tuple[str, ...]) -> int:
    """Prints what the bridges of all hosts have proved, and the verdict of all together (`--all-hosts`).

    Of mappings of these names, or of all; of a mapping with many streams not by stream. Raises ConfigError.
    """
    from bridge.core.errors import ConfigError
    from bridge.parity.all_hosts import proofs_of_all_hosts, verdict_of_all_hosts
    from bridge.parity.all_hosts_many import proofs_of_many
    from bridge.streams.dial import Connections

    chosen = settings.chosen(names)
    many = [family for name, family in settings.families.items() if name in names or not names]
    single = [mapping.name for mapping in chosen if mapping.log and mapping.family not in {m.name for m in many}]
    if single:
        raise ConfigError(f"{single[0]} is one of many streams, of which a bridge proves all together",
                          hint=f"bridge parity --all-hosts {single[0].partition(':')[0]}")  # fmt: skip
    with closing(Connections(settings, may_start=False)) as servers:
        proofs = proofs_of_all_hosts(settings, [mapping for mapping in chosen if not mapping.log], servers)
        proofs += [proof for mapping in many for proof in proofs_of_many(settings, mapping, servers)]
    verdict = verdict_of_all_hosts(proofs)
    if options.as_json:
        emit({"verdict": verdict, "hosts": [proof.to_json() for proof in proofs]})
    else:
        print_hosts(proofs, verdict)
    return CODES[verdict]


HTML_HEADER = "<!doctype html>\n<!-- bridge parity -->"
"""The first bytes of an HTML page of parity, by which an earlier page is recognised."""


def _may_write(path: Path) -> None:
    """Checks that a parity page (`--html`) would overwrite no file but an earlier page. Raises BridgeError."""
    from bridge.core.errors import BridgeError

    try:
        with path.open("rb") as file:
            known = file.read(len(HTML_HEADER)) == HTML_HEADER.encode()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BridgeError(f"the page cannot be written: {error.strerror}", where=str(path)) from None
    if not known:
        raise BridgeError("is there already, and is no page of parity: it is left alone", where=str(path),
                          hint="give another name")  # fmt: skip


def _write(path: Path, text: str) -> None:
    from bridge.core.errors import BridgeError

    _may_write(path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BridgeError(f"the page cannot be written: {error.strerror}", where=str(path)) from None


class _Progress:
    """Shows on stderr how far parity has read: one line in place on a terminal, else a line every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._due = time.monotonic() + (0.5 if sys.stderr.isatty() else SAID)
        self._open = False

    def __call__(self, mapping: Mapping, read: int, of: int) -> None:
        now = time.monotonic()
        if self._quiet or now < self._due:
            return
        said = f"{mapping.name}: {read:,} of {of:,} entries read"
        if sys.stderr.isatty():
            self._due, self._open = now + 0.2, True
            click.echo(f"\r\x1b[K{said}", err=True, nl=False)
        else:
            self._due = now + SAID
            click.echo(said, err=True)

    def close(self) -> None:
        """Clears the line of parity's progress from the terminal."""
        if self._open:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._open = False


def _notes(result: ParityResult) -> None:
    for note in [*result.warnings(), *result.notes, *(why for why in result.tally.why if why not in result.notes)]:
        click.echo(f"bridge: {result.mapping}: {note}", err=True)


def _watch(options: Options, proof: _Runners, stop: Event, *, full: bool) -> int:
    """Runs parity again and again until interrupted (`--watch`), and prints each new verdict as a line on stdout.

    With `--json` every run is a line.
    """
    from rich.live import Live

    from bridge.cli.screen import console, safe
    from bridge.core.errors import BridgeError
    from bridge.parity.prove import Interrupted
    from bridge.parity.report import verdict_in_words
    from bridge.parity.result import verdict_of_all

    out, last, onwards = console(), "", not full
    live = Live(console=out, auto_refresh=False) if out.is_terminal and not options.as_json else None
    with live or nullcontext():
        while not stop.is_set():
            begun = time.monotonic()
            try:
                results = proof.run(onwards=onwards)
                onwards = True
                said = "; ".join(f"{result.mapping}: {result.verdict}" for result in results)
                at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                words = [f"{at} {result.mapping}: {verdict_in_words(result)}" for result in results]
                if options.as_json:
                    emit_line(
                        {"verdict": verdict_of_all(results), "mappings": [result.to_json() for result in results]}
                    )
                elif live is not None:
                    live.update(safe("\n".join(words)), refresh=True)
                elif said != last:
                    click.echo("\n".join(words))
            except Interrupted:
                break
            except BridgeError as error:
                said = str(error)
                if said != last:
                    complain(error)
            last = said
            stop.wait(max(WATCH_SECONDS, 9 * (time.monotonic() - begun)))
    return 130


def _history(options: Options, parts: list[_Part]) -> int:
    from bridge.cli.screen import console, safe, show
    from bridge.core.errors import LedgerError
    from bridge.ledger.parity_runs import runs

    if all(part.ledger is None for part in parts):
        raise LedgerError(f"no runs are kept: {parts[0].why}")
    every = [
        run for part in parts if part.ledger is not None
        for mapping in part.chosen for run in runs(part.ledger, mapping.stream.key, 100)
    ]  # fmt: skip
    found = sorted(every, key=lambda run: (run.ended, run.number))
    if options.as_json:
        emit([{"began": run.began, "seconds": run.seconds, "who": run.who, **run.report} for run in found])
        return 0
    if not found:
        click.echo("no runs yet")
        return 0
    from rich.table import Table

    out = console()
    names = ["when", "verdict", "compared", "differ", "up to entry", "mapping"] + ["took", "who"] * (out.width >= 110)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in names:
        right = name in ("compared", "differ", "took")
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=name in ("when", "verdict")
        )
    for run in found:
        cells = [
            time.strftime("%m-%d %H:%M:%S", time.localtime(run.began)), run.verdict, f"{run.report['compared']:,}",
            f"{run.differences:,}", run.report["position"]["entry"], run.mapping, f"{run.seconds:.1f} s", run.who,
        ]  # fmt: skip
        table.add_row(*map(safe, cells[: len(names)]))
    show(out, table)
    return 0
