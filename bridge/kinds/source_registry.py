"""The registry of kinds: makes the source of a mapping's kind; the only place where forward asks for that kind."""

from __future__ import annotations

from collections.abc import Callable

from bridge.kinds.artifacts.mentions import mentions_of
from bridge.kinds.artifacts.source import ArtifactIntake, ArtifactSource
from bridge.kinds.context.source import ContextSource
from bridge.kinds.kind import Source
from bridge.kinds.log.edited_log import EditedLog
from bridge.kinds.log.source import LogSource
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.spool.scanner import FolderScanner
from bridge.kinds.spool.source import SpoolSource
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection


def source_of(
    shared: MappingContext, name: str, ledger: Ledger, clock: Callable[[], float], dial: Callable[[], Connection]
) -> Source:
    """Makes forward's source of this name as the mapping's kind says: log, spool, context or artifacts."""
    mapping, keys, folder = shared.mapping, shared.keys, shared.folder
    if folder is not None and mapping.kind.announced:
        intake = ArtifactIntake(mapping, folder, ledger, clock, shared.hasher)
        return ArtifactSource(mapping, keys, intake, ledger, clock, shared.settings.paths)
    if folder is not None:
        scanner = FolderScanner(mapping, folder, ledger, clock, shared.ask_to_compare)
        return SpoolSource(mapping, keys, scanner, ledger, clock)
    if mapping.kind.chunked:
        return ContextSource(mapping, keys, shared.tail(name, ledger), ledger, clock)
    tail = shared.tail(name, ledger)
    log_source = LogSource(mapping, keys, tail, ledger, clock)
    log_source.files.edited = EditedLog(shared, tail, ledger, lambda: log_source.progress.number, clock, dial)
    log_source.comes_late = name in shared.catalog.late.values()
    log_source.mentions = mentions_of(shared, name, ledger)
    return log_source
