"""The command `bridge acl`: prints the smallest ACL rules in Redis for the bridge and for each component."""

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

    every = users(options.together())
    if options.as_json:
        emit(
            [
                {
                    "user": component_user.name,
                    "for": component_user.purpose,
                    "keys": component_user.keys,
                    "channels": component_user.channels,
                    "commands": component_user.commands,
                    "rules": component_user.rules,
                }
                for component_user in every
            ]
        )
        return
    for user in every:
        click.echo(f"# {user.purpose}")
        click.echo(f"ACL SETUSER {user.name} reset on '>PASSWORD' {user.shown}")
