"""The command `bridge config schema`: prints the JSON Schema of bridge.toml."""

from __future__ import annotations

import click

from bridge.cli.common import Options, Verbs, emit, options, verb


@click.group("config", cls=Verbs, short_help="The form of bridge.toml")
@options
def command(**_: object) -> None:
    """The form of bridge.toml, the configuration file."""


@command.command("schema")
@verb
def schema(given: Options) -> None:
    """The JSON Schema of bridge.toml, with which editors complete it and find mistakes.

    `bridge init` writes it to .bridge/schema/config.json, where the first line of bridge.toml points editors to.
    """
    from bridge.core.schemas import config_schema

    emit(config_schema())
