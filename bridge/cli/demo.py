"""The command `bridge demo`: shows three programs, a bridge and a server at work, and checks both sides at the end."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, emit, verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, Group
    from rich.table import Table

    from bridge.admin.demo.stage import Crossing, Scene
    from bridge.admin.demo.verdict import Verdict

COUNTS_SECONDS = 1.0
"""Seconds between two lines of the demo's counts where there is no terminal."""

BAR = 16
LATENCY_MESSAGES = 50
"""The demo's live latency is the median over so many of the newest messages."""


@click.command("demo", short_help="See it work, on a server of its own")
@click.option("--story", is_flag=True, help="A whole migration: three components cut over one by one, and retired")
@verb
def command(options: Options, story: bool) -> int:
    """See it work: three programs, a bridge, a server, two of them killed, and a check of both sides at the end.

    About a quarter of a minute, with --story half a minute, in a folder of its own that is gone afterwards.
    """
    asked: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        asked.append(number)  # an exception that is raised in a finalizer is lost, this note is not
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return (_story if story else _play)(options, lambda seconds: _sleep(seconds, asked))
    except KeyboardInterrupt:
        click.echo("bridge: interrupted; all that the demo had started is gone", err=True)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)


def _story(options: Options, wait: Callable[[float], None]) -> int:
    from bridge.admin.demo.stage import staged
    from bridge.admin.demo.story import CONFIG, Story
    from bridge.cli.screen import console, safe

    out, begun = console(), time.monotonic()

    def say(text: str) -> None:
        if not options.as_json:
            command = text.startswith("$ ")
            out.print(safe(text, "bold" if command else "" if text.startswith("  ") else "cyan"), soft_wrap=True)

    with staged(CONFIG) as stage:
        told = Story(stage, say, wait).run()
    took = time.monotonic() - begun
    if options.as_json:
        emit({"wrong": told.wrong, "written": told.written, "seconds": round(took, 1),
              "commands": [{"command": c, "exit": e, "output": o} for c, e, o in told.commands]})  # fmt: skip
    else:
        total = f"{sum(told.written.values()):,} messages in {took:.0f} s"
        say("\n".join(told.wrong) if told.wrong else f"{total}; nobody missed one, and nobody was given one twice.")
    return 1 if told.wrong else 0


def _play(options: Options, wait: Callable[[float], None]) -> int:
    from rich.live import Live

    from bridge.admin.demo.stage import play, staged
    from bridge.cli.screen import console

    out = console()
    begun = time.monotonic()
    live = Live(console=out, auto_refresh=False) if out.is_terminal and not options.as_json else None
    with staged() as stage:
        if live is not None:
            live.start()
            show = lambda scene: live.update(_screen(scene), refresh=True)  # noqa: E731
        else:
            show = (lambda scene: None) if options.as_json else _Plain()
        try:
            verdict = play(stage, show, wait)
        finally:
            if live is not None:
                live.stop()
        scene = stage.scene
    took = time.monotonic() - begun
    if options.as_json:
        emit({"equal": verdict.equal, "wrong": list(verdict.wrong), "written": verdict.written, "lines": verdict.lines,
              "entries": verdict.entries, "seconds": round(took, 1),
              "into_stream": _figures(scene.into_stream), "into_file": _figures(scene.into_file),
              "events": [{"at": round(at, 1), "what": what} for at, what in scene.events]})  # fmt: skip
    else:
        _end(out, verdict, scene)
    return 0 if verdict.equal else 1


def _sleep(seconds: float, asked: list[int]) -> None:
    if asked:
        raise KeyboardInterrupt
    time.sleep(seconds)


def _figures(crossing: Crossing) -> dict[str, float]:
    return {
        "count": crossing.count,
        "median_ms": round(1000 * crossing.middle(), 2),
        "longest_s": round(max(crossing.took, default=0.0), 2),
    }


def _ms(crossing: Crossing, newest: int = 0) -> str:
    return f"{1000 * crossing.middle(newest):.1f} ms" if crossing.count else ""


def _screen(scene: Scene) -> Group:
    """Lays out the demo's live picture for a terminal: programs, both directions, processes and events; 60 columns."""
    from rich.console import Group
    from rich.text import Text

    from bridge.admin.demo.stage import FILE_BORN

    programs = _grid()
    for role, count in scene.written.items():
        where = "messages.log" if role in FILE_BORN else "Redis"
        programs.add_row(Text(role, "bold"), Text(f"writes {where}"), Text(f"{count:,} messages", "cyan"))
    ways, last = _grid(), _grid()
    for name, crossing, total in (
        ("file → Redis", scene.into_stream, scene.from_file), ("Redis → file", scene.into_file, scene.written["ui"]),
    ):  # fmt: skip
        done = BAR if not total else min(BAR, BAR * crossing.count // total)
        bar = Text("█" * done, "green" if done == BAR else "yellow") + Text("░" * (BAR - done), "dim")
        counts = f"{crossing.count:,} of {total:,}"
        ways.add_row(Text(name, "bold"), bar, Text(counts, "cyan"), Text(_ms(crossing, LATENCY_MESSAGES)))
        last.add_row(Text(name, "dim"), Text(crossing.last, "dim", no_wrap=True, overflow="ellipsis"))
    alive = Text.assemble(
        "bridge ", ("at work", "green") if scene.bridge else ("dead", "bold red"),
        "   Redis ", ("at work", "green") if scene.server else ("dead", "bold red"),
    )  # fmt: skip
    events = _grid()
    for at, what in scene.events:
        events.add_row(Text(f"{at:4.1f} s"), Text(what))
    return Group(programs, Text(""), ways, last, Text(""), alive, Text(""), events)


def _grid() -> Table:
    from rich.table import Table

    return Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)


class _Plain:
    """Prints the demo without a terminal: a line for each event and, every COUNTS_SECONDS, the counts."""

    def __init__(self) -> None:
        self._told = 0
        self._due = 0.0

    def __call__(self, scene: Scene) -> None:
        for at, what in scene.events[self._told :]:
            click.echo(f"{at:4.1f} s  {what}")
        self._told = len(scene.events)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + COUNTS_SECONDS
            ways = (("file → Redis", scene.into_stream, scene.from_file),
                    ("Redis → file", scene.into_file, scene.written["ui"]))  # fmt: skip
            told = [
                f"{name} {crossing.count:,} of {total:,} {_ms(crossing, LATENCY_MESSAGES)}".rstrip()
                for name, crossing, total in ways
            ]
            click.echo(f"        {'; '.join(told)}")


def _end(out: Console, verdict: Verdict, scene: Scene) -> None:
    from bridge.cli.screen import safe

    total = sum(verdict.written.values())
    out.print()
    for name, crossing in (("file → Redis", scene.into_stream), ("Redis → file", scene.into_file)):
        figures = _figures(crossing)
        out.print(safe(f"{name}: {crossing.count:,} messages, median {_ms(crossing)}, the longest "
                       f"{figures['longest_s']:.1f} s, while one of the two was dead"))  # fmt: skip
    said = (
        f"{verdict.lines:,} lines in the file, {verdict.entries:,} entries in the stream, {total:,} messages written: "
    )
    if verdict.equal:
        out.print(safe(said + "every message on both sides, once, in order", "bold green"))
    else:
        out.print(safe(said + "NOT EQUAL", "bold red"))
        for what in verdict.wrong:
            out.print(safe(f"  {what}", "red"))
    out.print()
    out.print("with your own log: in its folder, `bridge init`, then `bridge run --dual`")
    out.print("README.md has the next steps, MIGRATION.md all of them")
