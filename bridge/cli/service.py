"""The commands `bridge service install|uninstall|status`: run the bridge as a service started at login."""

from __future__ import annotations

import click

from bridge.cli.common import Options, Verbs, emit, of_root, options, verb

DUAL = click.option("--dual", is_flag=True, help="Mirror too, as `bridge run --dual`")
POLL_OPTION = click.option("--poll", is_flag=True, help="As `bridge run --poll`")


@click.group("service", cls=Verbs, short_help="Run the bridge as a service that starts at login")
@options
def command(**_: object) -> None:
    """Run the bridge as a service, started at login: a systemd user unit on Linux, a launchd agent on macOS."""


def _flags(dual: bool, poll: bool) -> list[str]:
    return ["--dual"] * dual + ["--poll"] * poll


@command.command("install")
@DUAL
@POLL_OPTION
@click.option("--print", "prints", is_flag=True, help="Show the file; write and start nothing")
@verb
def install(given: Options, dual: bool, poll: bool, prints: bool) -> None:
    """Write the service's file and start it, now and at each login.

    It is started again when it failed, but not after a configuration error.
    """
    from bridge.admin import service_manager

    settings = of_root(given.settings())
    service_file, manager = service_manager.here(settings, _flags(dual, poll))
    if prints:
        click.echo(service_file.content.decode(), nl=False)
        return
    service_manager.install(service_file, manager)
    if given.as_json:
        emit({"service": service_file.name, "file": str(service_file.path), "log": manager.logs})
    else:
        click.echo(f"{service_file.name} runs, and starts at each login")
        click.echo(f"  file  {service_file.path}\n  log   {manager.logs}")


@command.command("uninstall")
@verb
def uninstall(given: Options) -> None:
    """Stop the service and remove its file. Ledger, files and stream stay as they are."""
    from bridge.admin import service_manager

    service_file, manager = service_manager.here(given.settings(), [])
    was = service_manager.uninstall(service_file, manager)
    if given.as_json:
        emit({"service": service_file.name, "removed": was})
    else:
        click.echo(f"{service_file.name} is removed" if was else f"{service_file.name} was not installed")


@command.command("status")
@DUAL
@POLL_OPTION
@verb
def status(given: Options, dual: bool, poll: bool) -> int:
    """Say whether the service is installed, and what its manager says of it. Exits 3 when it is not installed."""
    from bridge.admin import service_manager

    service_file, manager = service_manager.here(given.settings(), _flags(dual, poll))
    told = service_manager.status(service_file, manager)
    if given.as_json:
        emit({"service": service_file.name, "installed": told.installed, "current": told.current, "said": told.said,
              "file": str(service_file.path)})  # fmt: skip
    else:
        click.echo(f"{service_file.name}: {'installed' if told.installed else 'not installed'}")
        if told.installed and not told.current:
            click.echo("  its file is another than would be written now: other options, or another installation")
        click.echo(f"  {told.said}")
    return 0 if told.installed else 3
