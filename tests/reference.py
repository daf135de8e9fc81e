"""The command-line reference, docs/reference.md, made from the commands themselves: `python -m tests.reference` writes it."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from bridge.cli import cli
from tests.support.project import ROOT

NAME = "docs/reference.md"
BEGIN, END = "<!-- reference: begin, written by `make reference` -->", "<!-- reference: end -->"
GLOBAL = {"--config", "--redis", "--json", "--verbose", "--quiet", "--help", "--version"}


def commands(group: click.Group, path: str = "bridge") -> Iterator[tuple[str, click.Command]]:
    """Every verb that does something, with its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph, or an item of a list, in lines of 118 columns at most; code is not broken."""
    held = re.sub(r"`[^`]{1,60}`", lambda code: code[0].replace(" ", "\u00a0"), text)
    lines = textwrap.wrap(held, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\u00a0", " ")


def options(command: click.Command, *, of_all: bool) -> list[str]:
    """A command's options, an item each: those of all commands, or its own."""
    items = []
    for parameter in command.params:
        if (
            isinstance(parameter, click.Option)
            and bool(GLOBAL & set(parameter.opts)) == of_all
            and parameter.opts != ["--version"]
        ):
            value = "" if parameter.is_flag else f" {parameter.make_metavar(click.Context(command))}"
            items.append(wrapped(f"- `{', '.join(parameter.opts)}{value}`: {parameter.help or ''}", "  "))
    return items


def _paragraphs(text: str) -> str:
    """A help text's paragraphs, each wrapped anew."""
    return "\n\n".join(wrapped(" ".join(part.split())) for part in text.strip().split("\n\n"))


def reference() -> str:
    """The whole section."""
    parts = [
        "Before or after every verb:",
        "\n".join(options(cli, of_all=True)),
    ]
    for name, command in commands(cli):
        arguments = " ".join(
            parameter.make_metavar(click.Context(command))
            for parameter in command.params
            if isinstance(parameter, click.Argument)
        )
        help_text = inspect.cleandoc(command.help or "")
        if "\b" in help_text:
            words, _, block = help_text.partition("\b\n")
            help_text = f"{_paragraphs(words)}\n\n```text\n{block.strip()}\n```"
        else:
            help_text = _paragraphs(help_text)
        parts += [f"## `{name}{' ' * bool(arguments)}{arguments}`", help_text]
        own = options(command, of_all=False)
        if own:
            parts.append("\n".join(own))
    return "\n\n".join(parts)


def placed(book: str, section: str) -> str:
    """The book with this section in its place."""
    before, _, rest = book.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    (ROOT / NAME).write_text(placed((ROOT / NAME).read_text(), reference()))
