"""Makes the source of the kind that a mapping has: the only place of forward's that asks for the kind."""

from __future__ import annotations

from collections.abc import Callable

from bridge.carry.artifacts import ArtifactSource
from bridge.carry.context import ContextSource
from bridge.carry.logsource import LogSource
from bridge.carry.mentions import mentions_of
from bridge.carry.rewritten import Rewritten
from bridge.carry.shared import Shared
from bridge.carry.source import Source
from bridge.carry.spool import SpoolSource
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection


def source_of(
    shared: Shared, name: str, ledger: Ledger, clock: Callable[[], float], dial: Callable[[], Connection]
) -> Source:
    """Makes the source of this name that forward carries, of the kind that its mapping has."""
    if shared.folder is not None and shared.mapping.source.kind == "artifacts":
        return ArtifactSource(
            shared.mapping, shared.keys, shared.folder, ledger, clock, shared.hasher, shared.settings.paths
        )
    if shared.folder is not None:
        return SpoolSource(shared.mapping, shared.keys, shared.folder, ledger, clock, shared.ask_to_compare)
    if shared.mapping.source.kind == "context":
        return ContextSource(shared.mapping, shared.keys, shared.tail(name, ledger), ledger, clock)
    tail = shared.tail(name, ledger)
    log_source = LogSource(shared.mapping, shared.keys, tail, ledger, clock)
    log_source.rewritten = Rewritten(shared, tail, ledger, lambda: log_source.memory.number, clock, dial)
    log_source.comes_late = name in shared.catalog.late.values()
    log_source.mentions = mentions_of(shared, name, ledger)
    return log_source
