"""The commands `bridge service install|uninstall|status`: run the bridge as a service started at login."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, Verbs, emit, of_root, options, verb

if TYPE_CHECKING:
    from bridge.admin.service_manager import Manager, ServiceFile

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
    """Write the service's file and start it, now and at each login; with groups, a service for each.

    It is started again when it failed, but not after a configuration error.
    """
    from bridge.admin import service_manager

    services = _services(given, _flags(dual, poll))
    if prints:
        contents = {service_file.path: service_file.content.decode() for service_file, _ in services}
        for path, content in contents.items():
            click.echo((f"# {path.name}\n" if len(contents) > 1 else "") + content, nl=False)
        return
    for service_file, manager in services:
        service_manager.install(service_file, manager)
    if given.as_json:
        told = [{"service": service_file.name, "file": str(service_file.path), "log": manager.logs}
                for service_file, manager in services]  # fmt: skip
        emit(told if len(told) > 1 else told[0])
        return
    for service_file, manager in services:
        click.echo(f"{service_file.name} runs, and starts at each login")
        click.echo(f"  file  {service_file.path}\n  log   {manager.logs}")


@command.command("uninstall")
@verb
def uninstall(given: Options) -> None:
    """Stop the service and remove its file. Ledger, files and stream stay as they are."""
    from bridge.admin import service_manager

    services, told = _installed(given), list[dict[str, object]]()
    for at, (service_file, manager) in enumerate(services):
        keep = any(other.path == service_file.path for other, _ in services[at + 1 :])
        told.append({"service": service_file.name,
                     "removed": service_manager.uninstall(service_file, manager, keep=keep)})  # fmt: skip
    if given.as_json:
        emit(told if len(told) > 1 else told[0])
        return
    for row in told:
        click.echo(f"{row['service']} is removed" if row["removed"] else f"{row['service']} was not installed")


@command.command("status")
@DUAL
@POLL_OPTION
@verb
def status(given: Options, dual: bool, poll: bool) -> int:
    """Say whether the service is installed, and what its manager says of it. Exits 3 when it is not installed."""
    from bridge.admin import service_manager

    services = _services(given, _flags(dual, poll))
    found = [(service_file, service_manager.status(service_file, manager)) for service_file, manager in services]
    if given.as_json:
        rows = [{"service": service_file.name, "installed": told.installed, "current": told.current, "said": told.said,
                 "file": str(service_file.path)} for service_file, told in found]  # fmt: skip
        emit(rows if len(rows) > 1 else rows[0])
    for service_file, told in found if not given.as_json else ():
        click.echo(f"{service_file.name}: {'installed' if told.installed else 'not installed'}")
        if told.installed and not told.current:
            click.echo("  its file is another than would be written now: other options, or another installation")
        click.echo(f"  {told.said}")
    return 0 if all(told.installed for _, told in found) else 3


def _installed(given: Options) -> list[tuple[ServiceFile, Manager]]:
    """Builds the service of each process that there is, or was: also of groups that bridge.toml names no more."""
    from bridge.admin import service_manager
    from bridge.core.groups import GROUPS

    wanted, whole = _services(given, []), given.as_written()
    names = {path.name for path in (whole.home / GROUPS).glob("*")} if given.group is None else set()
    others = [service_manager.here(replace(whole, group=name), []) for name in sorted({"", *names})]
    known = {service_file.name for service_file, _ in wanted}
    return wanted + [other for other in others if other[0].name not in known and other[0].path.exists()]


def _services(given: Options, flags: list[str]) -> list[tuple[ServiceFile, Manager]]:
    """Builds the service of each process: one for each group, and one for the mappings in no group."""
    from bridge.admin import service_manager

    return [service_manager.here(of_root(part.as_written()), flags) for part in given.parts()]
