"""The commands `bridge server start|stop|status|url`, for the embedded server of a state directory."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bridge.cli.common import Options, Verbs, emit, options, verb


@click.group("server", cls=Verbs, short_help="The embedded server")
@options
def command(**_: object) -> None:
    """The embedded server: a real Valkey or Redis of this state directory."""


def _state_dir(given: Options) -> Path:
    from bridge.core.config import find_config, state_dir

    if find_config(given.config, os.environ, Path.cwd()) is not None:
        return given.as_written().home
    return state_dir(os.environ, Path.cwd(), Path.cwd() / ".bridge")


@command.command("start")
@verb
def start(given: Options) -> None:
    """Start it; it stays until `bridge server stop`."""
    from bridge.core.config import find_config
    from bridge.core.server_address import masked
    from bridge.streams.embedded import embedded_server

    state = _state_dir(given)
    server = embedded_server.start(state)
    url = given.as_written().redis_url if find_config(given.config, os.environ, Path.cwd()) else "embedded"
    if url != "embedded":
        click.echo(f"bridge: bridge.toml names {masked(url)}: nobody here uses this server", err=True)
    facts = {"running": True, "pid": embedded_server.pid_of(server), "port": server.port, "socket": server.socket}
    if given.as_json:
        emit(facts)
    else:
        click.echo(f"running on 127.0.0.1:{server.port}, process {facts['pid']}; its url: `bridge server url`")


@command.command("stop")
@verb
def stop(given: Options) -> None:
    """Stop it; its data stays on disk."""
    from bridge.streams.embedded import embedded_server

    was_running = embedded_server.stop(_state_dir(given))
    if given.as_json:
        emit({"stopped": was_running})
    else:
        click.echo("stopped" if was_running else "it was not running")


@command.command("status")
@verb
def status(given: Options) -> int:
    """Whether the embedded server runs; exits 1 when it does not."""
    from bridge.streams.embedded import embedded_server

    state = _state_dir(given)
    server, up = embedded_server.known(state), embedded_server.running(state)
    facts = {"running": up, "state_dir": str(state)}
    if server is not None:
        facts |= {
            "pid": embedded_server.pid_of(server),
            "port": server.port,
            "socket": server.socket,
            "data": str(server.home / "data"),
        }
    if given.as_json:
        emit(facts)
    else:
        for name, value in facts.items():
            click.echo(f"{name:10} {value}")
    return 0 if up else 1


@command.command("url")
@verb
def url(given: Options) -> None:
    """Its url, with the password, for other programs."""
    from bridge.core.errors import ServerError
    from bridge.streams.embedded import embedded_server

    server = embedded_server.known(_state_dir(given))
    if server is None:
        raise ServerError(
            "there is no embedded server here", where=str(_state_dir(given)), hint="`bridge server start`"
        )
    if not embedded_server.alive(server):
        click.echo("bridge: it does not run: `bridge server start`", err=True)
    if given.as_json:
        emit({"url": server.url, "socket": server.socket})
    else:
        click.echo(server.url)
