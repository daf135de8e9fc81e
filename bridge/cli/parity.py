"""The command `bridge parity`: compares files and streams message by message, and prints the proof or a page."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, complain, emit, emit_line, mapping_names, of_root, verb, who

if TYPE_CHECKING:
    from threading import Event

    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.ledger.store import Ledger
    from bridge.parity.all_hosts import HostProof
    from bridge.parity.result import ParityResult
    from bridge.parity.run_parity import ParityRunner

WATCH_SECONDS = 2.0
"""Seconds between two runs of `parity --watch`; more after a long run, so that runs take a tenth of the time."""

SAID = 5.0
"""Seconds between two lines of parity's progress where there is no terminal."""

LISTED_DIFFERENCES = 20
"""Most differences that `bridge parity` prints."""

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
    from bridge.ledger.store import Ledger

    settings = of_root(options.settings())
    options.log(settings.log_format)
    chosen = settings.chosen(mappings)
    if watch and (html is not None or history):
        raise click.UsageError("--watch goes with neither --html nor --history")
    if html is not None:
        if history:
            raise click.UsageError("--history goes without --html")
        _may_write(html)
    if all_hosts:
        if watch or full or history or html is not None or max_rate is not None:
            raise click.UsageError("--all-hosts goes with no other option of parity")
        return _all_hosts(options, settings, chosen)
    if full and not watch:
        raise click.UsageError("--full goes with --watch; without, everything is read anyway")
    ledger, why = None, "there is no ledger"
    path = settings.state_dir / "ledger.db"
    if path.exists():
        from bridge.core.errors import LedgerError

        try:
            ledger = Ledger(path)
        except LedgerError as error:
            why = str(error)
    if ledger is not None and not mappings:
        from bridge.ledger.retired import retired

        over = retired(ledger)
        chosen = [mapping for mapping in chosen if mapping.stream.key not in over] or chosen
    try:
        if history:
            return _history(options, ledger, why, chosen)
        return _prove(options, settings, ledger, why, chosen, html=html, watch=watch, full=full, max_rate=max_rate)
    finally:
        if ledger is not None:
            ledger.close()


def _prove(
    options: Options, settings: Settings, ledger: Ledger | None, why: str, chosen: list[Mapping], *,
    html: Path | None, watch: bool, full: bool, max_rate: float | None,
) -> int:  # fmt: skip
    from bridge.core.python_tuning import tune_interpreter
    from bridge.core.stop_signals import stop_on_signals
    from bridge.parity.prove import Interrupted
    from bridge.parity.result import verdict_of_all
    from bridge.parity.run_parity import ParityRunner

    stop = stop_on_signals()
    tune_interpreter()
    with closing(_Progress(quiet=options.verbosity < 0 or watch)) as progress:
        proof = ParityRunner(settings, chosen, ledger, stop, progress, who(), max_rate=max_rate, stats=html is not None)
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
        _print(results, {mapping.name: mapping.family for mapping in chosen})
    if ledger is None or proof.unkept:
        click.echo(f"bridge: this run is not kept: {proof.unkept or why}", err=True)
    return CODES[verdict_of_all(results)]


def _all_hosts(options: Options, settings: Settings, chosen: list[Mapping]) -> int:
    """Prints what the bridges of all hosts have proved, and the verdict of all together (`--all-hosts`)."""
    from bridge.parity.all_hosts import proofs_of_all_hosts, verdict_of_all_hosts
    from bridge.streams.dial import Connections

    many = sorted({mapping.family for mapping in chosen if mapping.log})
    if many:
        click.echo(
            f"bridge: {', '.join(many)}: of many streams heartbeats tell no proof: `bridge parity` there", err=True
        )
    with closing(Connections(settings, may_start=False)) as servers:
        proofs = proofs_of_all_hosts(settings, [mapping for mapping in chosen if not mapping.log], servers)
    verdict = "inconclusive" if many and verdict_of_all_hosts(proofs) == "equal" else verdict_of_all_hosts(proofs)
    if options.as_json:
        emit({"verdict": verdict, "hosts": [proof.to_json() for proof in proofs]})
    else:
        _print_hosts(proofs, verdict)
    return CODES[verdict]


def _print_hosts(proofs: list[HostProof], verdict: str) -> None:
    from rich.table import Table

    from bridge.cli.screen import LEVELS, STYLES, console, safe, show
    from bridge.core.wording import counted, duration
    from bridge.parity.all_hosts import MOST_SINCE

    out, now = console(), time.time()
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in ("host", "bridge", "stream", "verdict", "compared", "proved", "entries since"):
        table.add_column(name, overflow="fold", justify="right" if name in ("compared", "entries since") else "left")
    for proof in proofs:
        said = f"{proof.verdict}: {proof.why}" if proof.why else proof.verdict
        said += f", {counted(proof.differences, 'difference')}" if proof.differences else ""
        since = f"{proof.since:,}{' or more' if proof.since == MOST_SINCE else ''}" if proof.at is not None else ""
        row = [proof.host, proof.instance, proof.stream, said, f"{proof.compared:,}" if proof.at is not None else "",
               f"{duration(max(0.0, now - proof.at))} ago" if proof.at is not None else "", since]  # fmt: skip
        table.add_row(*map(safe, row))
    show(out, table)
    out.print(safe(verdict.upper(), STYLES[LEVELS[verdict]]))


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


FEW = 5
"""Streams of one mapping that parity tells of each by itself; of more the equal ones are told of together."""


def _print(results: list[ParityResult], families: dict[str, str]) -> None:
    from bridge.cli.screen import LEVELS, STYLES, console, safe
    from bridge.core.model import shown
    from bridge.core.wording import counted
    from bridge.parity.report import (
        WORDS,
        counts_in_words,
        facts,
        sides,
        verdict_in_words,
        what_to_try,
        where,
        without,
    )
    from bridge.parity.result import verdict_of_all

    out = console()

    def say(text: str, style: str = "") -> None:
        out.print(safe(text, style), soft_wrap=not out.is_terminal)

    equal = [result for result in results if result.verdict == "equal" and not result.warnings()]
    many = Counter(families[result.mapping] for result in equal if families[result.mapping] != result.mapping)
    for family, count in many.items():
        if count > FEW:
            mine = [result for result in equal if families[result.mapping] == family]
            compared, born = sum(r.tally.compared for r in mine), sum(r.tally.file_born for r in mine)
            flying = sum(result.tally.in_flight for result in mine)
            say(f"{family} → {counted(count, 'stream')}", "bold")
            said = f"  Equal: {counted(compared, 'message')}, each once on both sides, in order within its stream"
            say(said, STYLES[LEVELS["equal"]])
            say(f"  {born:,} file-born, {compared - born:,} Redis-born{f'; {flying:,} in flight' if flying else ''}")
            for fact, streams in Counter(fact for r in mine for fact in facts(r, time.time())).most_common():
                if not fact.startswith("up to ") and " file-born, " not in fact and " in flight" not in fact:
                    say(f"  {fact}" + (f" (in {counted(streams, 'stream')})" if streams < count else ""))
            say("")
    told = {result.mapping for result in equal if many[families[result.mapping]] > FEW}
    for result in (result for result in results if result.mapping not in told):
        say(f"{result.mapping} → {result.stream}", "bold")
        say(f"  {verdict_in_words(result)}", STYLES[LEVELS[result.verdict]])
        for warning in result.warnings():
            say(f"  {warning}", STYLES["bad"])
        for fact in facts(result, time.time()):
            say(f"  {fact}")
        if result.verdict == "differs":
            say(f"  {counts_in_words(result)}")
        for difference in result.tally.differences[:LISTED_DIFFERENCES]:
            say("")
            say(f"  {WORDS[difference.kind]}: {where(difference)}", "bold")
            for name, raw in zip(("file ", "Redis"), sides(difference), strict=True):
                say(f"    {name}  {without(difference) if raw is None else shown(raw, 500)}")
        more = sum(result.counts().values()) - LISTED_DIFFERENCES
        if more > 0:
            say("")
            say(f"  … and {counted(more, 'difference')} more: `--json` or `--html FILE` shows them")
        say("")
    whole = verdict_of_all(results)
    lost = any(parity_result.lost for parity_result in results)
    hint = f": {what_to_try(results)}" if whole == "differs" and not lost else ""
    say(f"{whole.upper()}{hint}", STYLES[LEVELS[whole]])


def _watch(options: Options, proof: ParityRunner, stop: Event, *, full: bool) -> int:
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


def _history(options: Options, ledger: Ledger | None, why: str, chosen: list[Mapping]) -> int:
    from bridge.cli.screen import console, safe, show
    from bridge.core.errors import LedgerError
    from bridge.ledger.parity_runs import runs

    if ledger is None:
        raise LedgerError(f"no runs are kept: {why}")
    found = sorted(
        (run for mapping in chosen for run in runs(ledger, mapping.stream.key, 100)), key=lambda run: run.number
    )
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
