"""`bridge acl`."""

from __future__ import annotations

import click

from bridge.cli.common import Options, emit, verb


@click.command("acl", short_help="Print the rights in Redis that are enough")
@verb
def command(options: Options) -> None:
    """Print the smallest ACL rules for the bridge and for each component of bridge.toml, as commands for redis-cli.

    Put a password of your own for PASSWORD, and the user with its password into the url. Nothing is sent to a server.
    """
    from bridge.admin.acl_rules import users

    every = users(options.settings())
    if options.as_json:
        emit([
            {"user": one.name, "for": one.purpose, "keys": one.keys, "channels": one.channels, "commands": one.commands,
             "rules": one.rules}
            for one in every
        ])  # fmt: skip
        return
    for one in every:
        click.echo(f"# {one.purpose}")
        click.echo(f"ACL SETUSER {one.name} reset on '>PASSWORD' {one.shown}")
