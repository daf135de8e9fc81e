"""Gathers the facts that the gate of a switch looks at, from files, ledger and Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.cutover.gate import GateFacts
from bridge.engine.status import MappingStatus, Status, sample
from bridge.ledger.heartbeat import SILENT_AFTER
from bridge.ledger.quarantine import unacknowledged
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.reader import durability


def gather_facts(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, *, accepts_volatile: bool,
    now: Callable[[], float] = time.time,
) -> GateFacts:  # fmt: skip
    """Gathers from files, ledger and Redis the gate's facts about a whole mapping, without those of a component.

    Raises RedisLost, RedisRefused, LedgerError.
    """
    status = sample(replace(settings, mappings=(mapping,)), now)
    [carried] = status.mappings
    kept, disk = durability(connection), os.statvfs(settings.root)
    parity, both_ways = carried.parity, mapping.kind.latest  # latest values are carried from the side that owns them
    return GateFacts(
        retired=mapping.stream.key in retired(ledger),
        proof=None
        if parity is None
        else {"at": parity.ended, "verdict": parity.verdict, "digest": parity.report["digest"]},
        parity=None if parity is None else parity.verdict,
        parity_age_s=0.0 if parity is None else max(0.0, now() - parity.ended),
        running=status.running and now() - float((status.heartbeat or {}).get("at", now())) < SILENT_AFTER,
        young=status.running and status.heartbeat is None,
        dual=status.dual or both_ways,
        has_mirror=mapping.mirror is not None or both_ways,
        forward_lag=_forward_lag(carried),
        mirror_lag=0 if both_ways else _mirror_lag(carried),
        troubles=_troubles(status, mapping),
        unaccounted=tuple(carried.account.sentences()) if carried.account is not None else (),
        quarantined=unacknowledged(ledger, mapping.stream.key),
        aof=kept.aof,
        evicts=kept.evicts,
        failing=kept.failing,
        accepts_volatile=accepts_volatile,
        room=disk.f_bavail * disk.f_frsize,
    )


def _forward_lag(mapping_status: MappingStatus) -> int | None:
    if mapping_status.error or any(source.error for source in mapping_status.sources):
        return None
    return sum(source.behind.messages + source.behind.more * (1 << 20) for source in mapping_status.sources)


def _mirror_lag(mapping_status: MappingStatus) -> int | None:
    if mapping_status.mirror is None or mapping_status.mirror.behind is None:
        return None
    return mapping_status.mirror.behind.messages + mapping_status.mirror.behind.more * (1 << 20)


def _troubles(status: Status, mapping: Mapping) -> tuple[str, ...]:
    names = (f"forward {mapping.name}", f"mirror {mapping.name}")
    return tuple(
        trouble.error for worker, trouble in sorted(status.troubles.items())
        if worker in names or worker.startswith(f"forward {mapping.name}: ")
    )  # fmt: skip
