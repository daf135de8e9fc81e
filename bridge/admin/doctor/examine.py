"""Runs every check of `bridge doctor`, and collects the findings in the order in which the command prints them."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

from bridge.admin.doctor import failover, installation, machine, redis_server, retired_mappings
from bridge.admin.doctor.cluster import look_at_cluster
from bridge.admin.doctor.finding import Finding, asked
from bridge.admin.doctor.strange_streams import look_at_strange_streams
from bridge.admin.doctor.unaccounted_files import look_at_files
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.server_address import masked, sentinel_address
from bridge.streams.dial import Connections, cluster_of
from bridge.streams.embedded import embedded_server


def examine(settings: Settings) -> list[Finding]:
    """Runs every check of `bridge doctor` once, and returns the findings; starts and changes nothing.

    A check that cannot look at its subject makes a finding with the verdict "unknown".
    """
    findings: list[Finding] = []
    address = sentinel_address(settings.redis_url)
    try:
        with closing(Connections(settings, may_start=False)) as servers:
            links, away = servers.reach(mapping.stream.key for mapping in settings.mappings)
            findings += [Finding("server", "bad", f"{key}: {error.what}", error.hint) for key, error in away.items()]
            there = replace(settings, mappings=tuple(m for m in settings.mappings if m.stream.key in links))
            findings += redis_server.examine(servers, there, time.time)
            findings.append(asked("components", lambda: installation.look_at_components(servers, there)))
            findings.append(asked("origins", lambda: installation.look_at_origins(servers, there)))
            findings.append(asked("groups", lambda: installation.look_at_groups(servers, there)))
            findings.append(asked("retired", lambda: retired_mappings.look(servers, there)))
            if settings.families:
                findings.append(asked("streams", lambda: look_at_strange_streams(servers, settings)))
    except BridgeError as error:
        findings = [_silent(settings, error), asked("retired", lambda: retired_mappings.look(None, settings))]
    if address is not None:
        findings.append(asked("sentinels", lambda: failover.look_at_sentinels(settings, address)))
    if (cluster := cluster_of(settings)) is not None:
        findings += look_at_cluster(cluster)
    findings.append(asked("account", lambda: look_at_files(settings)))
    findings.append(asked("outboxes", lambda: retired_mappings.look_at_outboxes(settings)))
    found, files = machine.examine(settings)
    return [*findings, *found, *installation.examine(settings, files)]


def _silent(settings: Settings, error: BridgeError) -> Finding:
    """Makes the doctor's finding about a Redis server that does not answer.

    An embedded server that was not started yet is no fault ("note"): the program that needs it starts it.
    """
    mine = embedded_server.known(settings.state_dir) if settings.redis_url == "embedded" else None
    pid = embedded_server.pid_of(mine) if mine is not None else None
    if mine is not None and pid is not None and not embedded_server.alive(mine):
        said = f"our own server died (process {pid}): nobody stopped it"
        return Finding("server", "bad", said, f"`bridge server start`; {mine.home / 'server.log'} says what happened")
    idle = settings.redis_url == "embedded" and pid is None
    said = f"{masked(settings.redis_url)}: {error.what}"
    return Finding("server", "note" if idle else "bad", said, error.hint or "is it running, and is the url right?")
