"""The command `bridge status`: shows where both directions stand, how far they lag, and what is wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, emit_line, mapping_names, of_root, verb
from bridge.cli.each_group import shares, worst
from bridge.cli.status_screen import components_of, screen
from bridge.core.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from bridge.cutover.component_status import ComponentStatus
    from bridge.engine.headline import Level
    from bridge.engine.status import Status

STATUS_SECONDS = 1.0
"""Seconds between two looks of `status --watch`."""


@click.command("status", short_help="Say where both directions stand")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--watch", is_flag=True, help="Look again every second, until interrupted")
@verb
def command(options: Options, mappings: tuple[str, ...], watch: bool) -> int:
    """Show where both directions of MAPPING [all of them] stand, how far behind they are, and what is wrong.

    Many streams of one mapping are shown together, and those that need a look by themselves. Exits 3 when something is
    wrong that does not mend itself, 5 without Redis.
    """
    from bridge.cli.screen import console, show

    if watch:
        return _watch(options, mappings)
    looks = _looks(options, mappings)
    if options.as_json:
        emit(_document(looks))
    else:
        out = console()
        for part in _screens(looks, out.width):
            show(out, part)
    return worst(look.exit_code for look in looks)


@dataclass(frozen=True, slots=True)
class _Look:
    """A look of `bridge status` at the mappings of a group, or at all without groups: status, headline, components."""

    group: str
    found: Status
    said: str
    level: Level
    components: list[ComponentStatus]

    @property
    def exit_code(self) -> int:
        """The exit code of `bridge status`, as if it had looked at this group alone."""
        return 5 if self.found.redis_error else 3 if self.level == "bad" else 0

    @property
    def name(self) -> str:
        """The name for people of the group that `bridge status` looked at."""
        return f"group {self.group}" if self.group else "in no group"

    def document(self) -> dict[str, Any]:
        """The JSON of what `bridge status` saw of a group."""
        from bridge.engine.status_json import to_json

        told = to_json(self.found, self.said, self.level)
        return told | {"components": [standing.to_json() for standing in self.components]}


def _looks(options: Options, mappings: tuple[str, ...]) -> list[_Look]:
    from bridge.cutover.component_status import sample_component
    from bridge.engine.headline import headline
    from bridge.engine.status import sample

    looks = []
    for group, names in shares(options, mappings):
        settings = of_root(group.settings())
        settings = replace(settings, mappings=tuple(settings.chosen(names)))
        found = sample(settings, time.time)
        said, level = headline(found)
        components = [] if found.redis_error else sample_component(settings)
        looks.append(_Look(settings.group, found, said, level, components))
    return looks


GRAVE = ("bad", "idle", "behind", "good")
"""The levels of headlines, the gravest first: where a group is idle, nobody carries its mappings."""


def _headline(looks: list[_Look]) -> tuple[str, Level]:
    """Makes one headline of those of all groups: the gravest, with its group's name unless all say the same."""
    first = min(looks, key=lambda look: GRAVE.index(look.level))
    if all(look.said == first.said for look in looks):
        return first.said, first.level
    others = sum(look.level == first.level for look in looks) - 1
    more = f" (and {counted(others, 'other group')})" if others and first.level != "good" else ""
    return f"{first.name}: {first.said}{more}", first.level


def _document(looks: list[_Look]) -> dict[str, Any]:
    """Makes the JSON of `bridge status`: of one look, or of several groups, each by itself and mappings together."""
    if len(looks) == 1:
        return looks[0].document()
    said, level = _headline(looks)
    every = [(look, look.document()) for look in looks]
    return {
        "headline": said, "level": level, "at": every[0][1]["at"], "redis": every[0][1]["redis"],
        "running": all(document["running"] for _, document in every),
        "troubles": {name: trouble for _, document in every for name, trouble in document["troubles"].items()},
        "groups": [{"group": look.group, **document} for look, document in every],
        "mappings": [mapping for _, document in every for mapping in document["mappings"]],
        "components": [component for _, document in every for component in document["components"]],
    }  # fmt: skip


def _screens(looks: list[_Look], width: int) -> Iterator[RenderableType]:
    """Lays out `bridge status` for a screen: of several groups one headline, and then each under its name."""
    from bridge.cli.screen import STYLES, safe

    if len(looks) > 1:
        said, level = _headline(looks)
        yield safe(said, STYLES[level])
    for look in looks:
        if len(looks) > 1:
            yield safe("")
            yield safe(look.name, "bold underline")
        yield screen(look.found, look.said, look.level, width)
        yield from components_of(look.components, look.found)


def _watch(options: Options, mappings: tuple[str, ...]) -> int:
    from rich.console import Group
    from rich.live import Live

    from bridge.cli.screen import console, show

    out, last = console(), ""
    live = Live(console=out, screen=False, auto_refresh=False) if out.is_terminal and not options.as_json else None
    try:
        if live is not None:
            live.start()
        while True:
            looks = _looks(options, mappings)
            said, _ = _headline(looks)
            if options.as_json:
                emit_line(_document(looks))
            elif live is not None:
                live.update(Group(*_screens(looks, out.width)), refresh=True)
            elif said != last:
                click.echo(time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(looks[0].found.at)))
                for part in _screens(looks, out.width):
                    show(out, part)
                click.echo()
                last = said
            time.sleep(STATUS_SECONDS)
    finally:
        if live is not None:
            live.stop()
