"""Runs every check of `bridge doctor`, and collects the findings in the order in which the command prints them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bridge.admin.doctor import failover, installation, machine, redis_server, retired_mappings
from bridge.admin.doctor.cluster import look_at_cluster
from bridge.admin.doctor.finding import Finding, Judgement, asked, worst
from bridge.admin.doctor.strange_streams import look_at_strange_streams
from bridge.admin.doctor.unaccounted_files import look_at_files
from bridge.continuity.group_moves import waiting_moves
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.groups import GROUPS
from bridge.core.server_address import masked, sentinel_address
from bridge.streams.dial import Connections, cluster_of
from bridge.streams.embedded import embedded_server


def examine(whole: Settings, parts: Sequence[Settings]) -> list[Finding]:
    """Runs every check of `bridge doctor` once, and returns the findings; starts and changes nothing.

    `whole`: the settings with all mappings; `parts`: those of each group that has a ledger of its own, without groups
    one. A check that cannot look at its subject makes a finding with the verdict "unknown". What is found the same for
    all groups is one finding; any other names the group in its check, as `ledger (a)`.
    """
    findings, address = _examine_server(whole), sentinel_address(whole.redis_url)
    if address is not None:
        findings.append(asked("sentinels", lambda: failover.look_at_sentinels(whole, address)))
    if (cluster := cluster_of(whole)) is not None:
        findings += look_at_cluster(cluster)
    looked = [_examine_part(settings) for settings in parts]
    every = [found for found, _ in looked]
    for at, (settings, found) in enumerate(zip(parts, every, strict=True)):
        for finding in found:
            if all(finding in others for others in every):
                findings += [finding] if not at else []
            else:
                findings.append(replace(finding, check=f"{finding.check} ({settings.group or 'no group'})"))
    findings.append(installation.mappings({name: some for _, files in looked for name, some in files.items()}))
    if whole.groups or (whole.home / GROUPS).exists():
        findings.append(_look_at_moves(parts))
    return findings


def _look_at_moves(parts: Sequence[Settings]) -> Finding:
    """Makes the doctor's finding on mappings that bridge.toml has moved to another group, and that wait there."""
    waits: list[Judgement] = [
        ("bad", f"{name} is not carried: {move.said}", move.hint(settings.group))
        for settings in parts for name, move in waiting_moves(settings).items()
    ]  # fmt: skip
    named = ", ".join(settings.group for settings in parts if settings.group) or "none"
    return worst("moves", waits or [("good", f"no mapping waits to be brought over to its group ({named})", "")])


def _examine_server(settings: Settings) -> list[Finding]:
    """Runs the doctor's checks of the Redis server, or of each server, and of what all mappings have there."""
    findings: list[Finding] = []
    try:
        with closing(Connections(settings, may_start=False)) as servers:
            links, away = servers.reach(mapping.stream.key for mapping in settings.mappings)
            findings += [Finding("server", "bad", f"{key}: {error.what}", error.hint) for key, error in away.items()]
            there = replace(settings, mappings=tuple(m for m in settings.mappings if m.stream.key in links))
            findings += redis_server.examine(servers, there, time.time)
            findings.append(asked("components", lambda: installation.look_at_components(servers, there)))
            findings.append(asked("origins", lambda: installation.look_at_origins(servers, there)))
            findings.append(asked("groups", lambda: installation.look_at_groups(servers, there)))
    except BridgeError as error:
        findings = [_silent(settings, error)]
    return findings


def _examine_part(settings: Settings) -> tuple[list[Finding], Mapping[str, Sequence[Path]]]:
    """Runs the doctor's checks of what belongs to one ledger: its files, its process, and its streams' retirement.

    Returns also the files that each mapping reads, by the mapping's name.
    """
    findings: list[Finding] = []
    try:
        with closing(Connections(settings, may_start=False)) as servers:
            links, _ = servers.reach(mapping.stream.key for mapping in settings.mappings)
            there = replace(settings, mappings=tuple(m for m in settings.mappings if m.stream.key in links))
            findings.append(asked("retired", lambda: retired_mappings.look(servers, there)))
            if settings.families:
                findings.append(asked("streams", lambda: look_at_strange_streams(servers, settings)))
    except BridgeError:  # the finding on the server tells
        findings = [asked("retired", lambda: retired_mappings.look(None, settings))]
    findings.append(asked("account", lambda: look_at_files(settings)))
    findings.append(asked("outboxes", lambda: retired_mappings.look_at_outboxes(settings)))
    found, files = machine.examine(settings)
    return [*findings, *found, *installation.examine(settings)], files


def _silent(settings: Settings, error: BridgeError) -> Finding:
    """Makes the doctor's finding about a Redis server that does not answer.

    An embedded server that was not started yet is no fault ("note"): the program that needs it starts it.
    """
    mine = embedded_server.known(settings.home) if settings.redis_url == "embedded" else None
    pid = embedded_server.pid_of(mine) if mine is not None else None
    if mine is not None and pid is not None and not embedded_server.alive(mine):
        said = f"our own server died (process {pid}): nobody stopped it"
        return Finding("server", "bad", said, f"`bridge server start`; {mine.home / 'server.log'} says what happened")
    idle = settings.redis_url == "embedded" and pid is None
    said = f"{masked(settings.redis_url)}: {error.what}"
    return Finding("server", "note" if idle else "bad", said, error.hint or "is it running, and is the url right?")
