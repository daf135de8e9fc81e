"""The import of `bridge import-history`: runs forward at full speed on the same checkpoint (P4), and reports on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from threading import Event
from typing import Any

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, NotYet, RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import format_id
from bridge.engine.account.inventory import account_of
from bridge.engine.forward import BATCH
from bridge.engine.mirror import Mirror
from bridge.engine.run import RETRY
from bridge.engine.worker import carrier_of
from bridge.kinds.carrier import as_stayed, may_pass
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.import_runs import begin_import, save_import
from bridge.ledger.store import CARRYING_CACHE_KIB, Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff, dialler
from bridge.streams.writer import Conflict

RECONNECT_SECONDS = 60.0
"""Seconds that an import goes on trying to reach a Redis that went away."""

TOLD = 0.2
NOTED = 0.5
"""Seconds between two reports of an import's progress to its watcher, and between two saves in the ledger."""

MEASURE_SHARE = 30.0
"""Measuring thousands of sources takes at most about one part in so many of an import's time."""

SMOOTH = 10
"""How many batches an import sends in a second if it has a `max_rate`."""


@dataclass(slots=True)
class SourceReport:
    """The report of an import on one source.

    `bytes` are those on disk: of compressed files the compressed ones; `before` of them an earlier run had carried.
    `unfinished` are the bytes of a last line that has no newline yet.
    """

    source: str
    bytes: int = 0
    before: int = 0
    done: int = 0
    entries: int = 0
    rejected: int = 0
    empty: int = 0
    clamped: int = 0
    unfinished: int = 0
    error: str = ""


@dataclass(slots=True)
class Report:
    """The report of an import on one mapping. `state`: running, done, interrupted or failed.

    Times are seconds since 1970; `earliest` and `latest` those of the messages, in ms.
    """

    mapping: str
    stream: str
    began: float
    state: str = "running"
    seconds: float = 0.0
    sources: list[SourceReport] = field(default_factory=list)
    earliest: int | None = None
    latest: int | None = None
    first_id: str | None = None
    last_id: str | None = None
    noun: str = "line"
    errors: list[str] = field(default_factory=list)
    unaccounted: list[str] = field(default_factory=list)
    """The unaccounted files of the mapping, in words."""

    def total(self, name: str) -> int:
        """Adds up one count over all sources of the import: `bytes`, `done`, `entries` …"""
        return sum(getattr(source, name) for source in self.sources)

    @property
    def lines(self) -> int:
        """How many lines, or messages of several lines, the import read."""
        return self.total("entries") + self.total("rejected") + self.total("empty")

    @property
    def rate(self) -> float:
        """How many lines a second the import read."""
        return self.lines / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON report of an import, as the ledger keeps it and `--json` prints it."""
        names = ("bytes", "before", "done", "entries", "rejected", "empty", "clamped", "unfinished")
        sums = {name: self.total(name) for name in names}
        told: dict[str, Any] = {name: getattr(self, name) for name in _REPORTED}
        told["sources"] = [{name: getattr(source, name) for name in _OF_SOURCE} for source in self.sources]
        return {**told, "lines": self.lines, "rate": round(self.rate, 1), **sums}


_REPORTED, _OF_SOURCE = (tuple(field.name for field in fields(made)) for made in (Report, SourceReport))

TellImport = Callable[[str, Report], None]
"""Called with an event of an import and its report: started, waiting (for Redis), progress, ended."""


class Import:
    """Imports one mapping's files as history. `clock` in seconds since 1970, `steady` a monotonic clock."""

    def __init__(
        self, mapping: Mapping, settings: Settings, ledger: Ledger, stop: Event, tell: TellImport, *,
        max_rate: float | None, steady: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._stop = stop
        self._tell = tell
        self._max_rate = max_rate
        self._steady, self._clock = steady, clock
        dial = dialler(settings, mapping.stream.key)
        self._shared = MappingContext(mapping, settings)
        troubles = Troubles(clock)
        self._forward = carrier_of(self._shared, ledger, troubles, clock, dial)
        self._mirror = Mirror(self._shared, ledger, troubles, clock, dial) if mapping.mirror else None
        if max_rate is not None:
            self._forward.batch = max(1, min(BATCH, int(max_rate / SMOOTH)))
        self.report = Report(mapping.name, mapping.stream.key, clock(), noun=mapping.noun)
        self.errors: list[BridgeError] = []
        self._began = 0.0
        self._number = 0

    def run(self) -> Report:
        """Imports a mapping's files to their end, or up to a whole batch if stopped; `errors` holds its errors."""
        self._began = self._steady()
        self._number = begin_import(self._ledger, self.report.stream, self.report.began, self.report.to_json())
        try:
            self._patiently()
        except (BridgeError, Conflict, OSError) as error:
            self.errors.append(_explained(as_stayed(error)))
        finally:
            self._forward.let_go()
            if self._mirror is not None:
                self._mirror.close()
            self._measure()
            stopped = "interrupted" if self._stop.is_set() else "done"
            self.report.state = "failed" if self.errors else stopped
            damage = [error for source in self._forward.sources for error in source.damage.values()]
            self.errors += damage  # what could be read of those is in: the import is done as far as it can be
            try:
                account = account_of(self._shared, self._ledger, self._clock, running=False)
                self.report.unaccounted = account.sentences() if not self._stop.is_set() else []
            except BridgeError as error:
                self.errors.append(error)
            self.report.errors = [str(error) for error in self.errors]
            save_import(self._ledger, self._number, self.report.to_json())
            self._shared.close()
        self._tell("ended", self.report)
        return self.report

    def _patiently(self) -> None:
        """Runs the import, with retries from what Redis confirmed while its error may pass."""
        pause, since, begun = Backoff(), self._steady(), False
        while not self._stop.is_set():
            before = self.report.total("entries")
            try:
                if not begun:
                    self._begin()
                    begun = True
                self._drain()
                return
            except (Conflict, NotYet, RedisLost, RedisRefused) as error:
                self._forward.detach()
                if self._mirror is not None:
                    self._mirror.detach()
                self._measure()
                if self.report.total("entries") > before:
                    since = self._steady()
                    pause.reset()
                if not may_pass(error, reached=begun) or self._steady() - since > RECONNECT_SECONDS:
                    raise
                if isinstance(error, RedisLost):
                    logger.debug("%s", error)
                    self._tell("waiting", self.report)
                self._stop.wait(pause.next())

    def _begin(self) -> None:
        if self._mirror is not None:  # what an earlier process had begun to mirror stands in the files first
            self._mirror.settle(self._stop.wait)
        self._forward.look()
        self._readable()
        self._forward.attach()
        self._forward.take_as_history()
        for source in self._forward.sources:
            lag = source.lag()
            before = lag.on_disk - lag.left
            self.report.sources.append(SourceReport(source.name, bytes=lag.on_disk, before=before, done=before))
        for name, size in sorted(self._forward.resting.items()):
            self.report.sources.append(SourceReport(name, bytes=size, before=size, done=size))
        self._tell("started", self.report)

    def _readable(self) -> None:
        """Raises the trouble of a file that cannot be read, which stops the import.

        The lines of such a file could not be merged among those of the others later.
        """
        for source in self._forward.sources:
            if source.trouble is not None:
                raise source.trouble

    def _drain(self) -> None:
        if not self._forward.attached:
            self._forward.attach()
        told = noted = self._steady()
        sent, since, pause = self._forward.carried, told, TOLD
        while not self._stop.is_set():
            worked = self._forward.step()
            now = self._steady()
            if now - told >= pause:
                told = now
                self._measure()
                pause = max(TOLD, MEASURE_SHARE * (self._steady() - now))
                self._tell("progress", self.report)
                if now - noted >= NOTED:
                    noted = now
                    save_import(self._ledger, self._number, self.report.to_json())
            if not worked:
                self._readable()
                if not self._forward.waits or self._stop.wait(RETRY):
                    break
            elif self._max_rate is not None:
                under_way = self._forward.carried - sent + self._forward.batch
                self._stop.wait(max(0.0, since + under_way / self._max_rate - now))
        self._forward.flush()

    def _measure(self) -> None:
        report, by_name = self.report, {source_report.source: source_report for source_report in self.report.sources}
        report.seconds = self._steady() - self._began
        for source in self._forward.sources:
            if source.name not in by_name:
                continue
            source_report, tally, lag = by_name[source.name], source.counts, source.lag()
            source_report.done = max(source_report.done, source_report.bytes - lag.left)
            source_report.entries, source_report.empty, source_report.clamped, source_report.rejected = (
                tally.entries, tally.empty, tally.clamped, tally.rejected,
            )  # fmt: skip
            source_report.unfinished = lag.unfinished
            source_report.error = str(source.trouble) if source.trouble is not None else ""
            if tally.latest:
                report.earliest = min(report.earliest or tally.earliest, tally.earliest)
                report.latest = max(report.latest or tally.latest, tally.latest)
        if self._forward.span is not None:
            report.first_id, report.last_id = (format_id(entry_id).decode() for entry_id in self._forward.span)


def _explained(error: BridgeError) -> BridgeError:
    if isinstance(error, RedisRefused) and error.code == "OOM":
        return RedisRefused(
            "Redis is out of memory; the import stopped at a whole batch and nothing is lost", code="OOM",
            where=error.where, hint="give it more (`maxmemory`) or make room, then run it again: it goes on from there",
        )  # fmt: skip
    return error


def import_history(
    settings: Settings, mappings: list[Mapping], stop: Event, tell: TellImport, *, max_rate: float | None
) -> tuple[list[Report], list[BridgeError]]:
    """Imports the history of mappings, one after the other. Raises LedgerError; a mapping's errors are returned."""
    ledger = Ledger(settings.state_dir / "ledger.db", create=True, cache=CARRYING_CACHE_KIB)
    reports: list[Report] = []
    errors: list[BridgeError] = []
    try:
        for mapping in mappings:
            import_run = Import(mapping, settings, ledger, stop, tell, max_rate=max_rate)
            reports.append(import_run.run())
            errors += import_run.errors
            if stop.is_set():
                break
    finally:
        ledger.close()
    return reports, errors
