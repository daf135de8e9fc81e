"""The command-line reference in MIGRATION.md, made from the commands themselves: `python -m tests.reference` writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from bridge.cli import cli
from tests.support.project import ROOT

BOOK = ROOT / "MIGRATION.md"
BEGIN, END = "<!-- reference: begin, written by `make reference` -->", "<!-- reference: end -->"
GLOBAL = {"--config", "--redis", "--json", "--verbose", "--quiet", "--help", "--version"}


def commands(group: click.Group, path: str = "bridge") -> Iterator[tuple[str, click.Command]]:
    """Every verb that does something, with its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def options(command: click.Command, *, of_all: bool) -> list[str]:
    """Table rows of a command's options: those of all commands, or its own."""
    rows = []
    for one in command.params:
        if isinstance(one, click.Option) and bool(GLOBAL & set(one.opts)) == of_all and one.opts != ["--version"]:
            value = "" if one.is_flag else f" {one.make_metavar(click.Context(command))}"
            cells = (f"`{', '.join(one.opts)}{value}`", one.help or "")
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows


def reference() -> str:
    """The whole section."""
    parts = [
        "Before or after every verb:",
        "\n".join(["| option | meaning |", "|---|---|", *options(cli, of_all=True)]),
    ]
    for name, command in commands(cli):
        arguments = " ".join(
            one.make_metavar(click.Context(command)) for one in command.params if isinstance(one, click.Argument)
        )
        help_text = inspect.cleandoc(command.help or "")
        if "\b" in help_text:
            words, _, block = help_text.partition("\b\n")
            help_text = f"{words.strip()}\n\n```text\n{block.strip()}\n```"
        parts += [f"### `{name}{' ' * bool(arguments)}{arguments}`", re.sub(r"(?<!\n)\n(?![\n|`])", " ", help_text)
                  if "```" not in help_text else help_text]  # fmt: skip
        own = options(command, of_all=False)
        if own:
            parts.append("\n".join(["| option | meaning |", "|---|---|", *own]))
    return "\n\n".join(parts)


def placed(book: str, section: str) -> str:
    """The book with this section in its place."""
    before, _, rest = book.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    BOOK.write_text(placed(BOOK.read_text(), reference()))
