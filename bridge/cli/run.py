"""The command `bridge run`: carries lines into the stream and, with `--dual`, entries into the files."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, complain, emit, exit_code_of, of_root, say_unaccounted, serve, verb
from bridge.core.errors import BridgeError, ConfigError, LockHeld
from bridge.core.groups import BRING_OVER
from bridge.core.wording import counted

if TYPE_CHECKING:
    from threading import Event

    from bridge.core.config import Settings
    from bridge.engine.once import OnceReport


@click.command("run", short_help="Carry lines into the stream, and back with --dual")
@click.option("--dual", is_flag=True, help="Mirror too: Redis-born entries become lines in the files")
@click.option(
    "--once", is_flag=True, help="Carry what is there and exit: 0, 1 if a source failed, or 130 if interrupted"
)
@click.option("--poll", is_flag=True, help="Do not rely on file events: for bind mounts and network file systems")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the log on stderr [text]")
@verb
def command(options: Options, dual: bool, once: bool, poll: bool, log_format: str | None) -> int:
    """Carry lines into the stream; with --dual, carry entries into the files as well."""
    from bridge.admin.retention.keep import keep_retention
    from bridge.core.python_tuning import tune_interpreter
    from bridge.core.state_directory import state_lock
    from bridge.core.stop_signals import stop_on_signals
    from bridge.cutover.finish_switches import finish_switches
    from bridge.engine.run import Process
    from bridge.engine.service_notify import ServiceNotifier
    from bridge.kinds.stream_family import with_streams

    settings = of_root(_carried(options, log_format))
    options.log(settings.log_format)
    _bring_over(options, settings)
    with state_lock(settings.state_dir, "run"):
        stop = stop_on_signals()
        tune_interpreter()
        if once:
            serve(settings)
            settings = with_streams(settings, fix_at=time.time())
            return _once(options, settings, dual, stop)
        process = Process(settings, dual=dual, poll=poll, stop=stop, tell=ServiceNotifier(os.environ))
        beside = [finish_switches, keep_retention]
        if settings.metrics_port is not None:
            from bridge.admin.metrics.metrics_server import MetricsServer  # prometheus-client is an extra

            beside.append(MetricsServer(settings, process).serve)
        serve(settings)
        return process.run(beside)


BRINGING = 10.0
"""Seconds for which a process waits, as it begins, until another one that begins has brought mappings over."""


def _bring_over(options: Options, settings: Settings) -> None:
    """Brings over mappings that bridge.toml has moved: to this group, and to others that stand still.

    So groups that exchange mappings may be started at once. Raises as `Options.bring_over`, of this group alone.
    """
    _patiently(replace(options, group=settings.group))
    for part in replace(options, group=None).as_written().parts():
        if part.group != settings.group:
            with suppress(BridgeError, OSError):  # it runs, or says why as it begins
                _patiently(replace(options, group=part.group))


def _patiently(options: Options) -> None:
    """Brings mappings over to a group, and waits while another process does such a thing. Raises as `bring_over`."""
    until, held = time.monotonic() + BRINGING, ""
    while True:
        try:
            options.bring_over()
            return
        except LockHeld as error:  # at first it may have brought over what was looked for, and run since
            if (BRING_OVER not in error.what and error.what == held) or time.monotonic() > until:
                raise
            held = error.what
            time.sleep(0.1)


def _carried(options: Options, log_format: str | None) -> Settings:
    """Loads the settings of the process: a group's that was named, or those of the mappings in no group.

    Raises ConfigError: all mappings are in groups.
    """
    settings = options.as_written(log_format)
    if not settings.groups or options.group:
        return settings
    rest = settings.of_group("")
    if not rest.mappings:
        names = ", ".join(f"bridge run --group {group}" for group in settings.groups)
        said = "all mappings are in groups, and a process carries one group"
        raise ConfigError(said, where=str(settings.path), hint=names)
    return rest


def _once(options: Options, settings: Settings, dual: bool, stop: Event) -> int:
    from bridge.engine.once import once as drain

    results = drain(settings, dual=dual, stop=stop)
    for did in results:
        for error in did.errors:
            complain(error)
    if options.as_json:
        emit([
            {"mapping": did.mapping, "forwarded": did.forwarded, "mirrored": did.mirrored,
             "quarantined": did.quarantined, "errors": [str(error) for error in did.errors],
             "unaccounted": did.unaccounted}
            for did in results
        ])  # fmt: skip
    else:
        nouns = {name: mapping.noun for mapping in settings.mappings for name in (mapping.name, mapping.family)}
        for did in _together(results, {mapping.name: mapping.family for mapping in settings.mappings}):
            done = f"carried {counted(did.forwarded, nouns[did.mapping])}"
            done += f", mirrored {counted(did.mirrored, 'entry', 'entries')}" if dual else ""
            done += f"; {did.quarantined:,} in quarantine, see `bridge quarantine list`" if did.quarantined else ""
            click.echo(f"{did.mapping}: not done, see above; {done}" if did.errors else f"{did.mapping}: {done}")
            say_unaccounted(did.mapping, did.unaccounted)
    errors = [error for did in results for error in did.errors]
    if stop.is_set():
        click.echo("bridge: interrupted before the end; the next run goes on from here", err=True)
        return 130
    if not errors:
        return 3 if any(did.unaccounted for did in results) else 0
    return exit_code_of(errors, carried=any(did.forwarded for did in results))


def _together(results: list[OnceReport], families: dict[str, str]) -> list[OnceReport]:
    """Adds the reports of one mapping's streams up, where nothing failed in them."""
    from bridge.engine.once import OnceReport

    found: dict[str, OnceReport] = {}
    for did in results:
        name = did.mapping if did.errors or did.unaccounted else families[did.mapping]
        before = found.get(name, OnceReport(name, 0, 0, 0, ()))
        found[name] = OnceReport(
            name, before.forwarded + did.forwarded, before.mirrored + did.mirrored,
            before.quarantined + did.quarantined, before.errors + did.errors, before.unaccounted + did.unaccounted,
        )  # fmt: skip
    return list(found.values())
