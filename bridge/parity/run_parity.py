"""Proves parity of several mappings in one run and saves the results in the ledger: `bridge parity` runs this."""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from threading import Event

from bridge.continuity.group_moves import waiting_moves
from bridge.core.config import Settings
from bridge.core.errors import LedgerError, RedisLost, RedisRefused, SourceError
from bridge.core.mapping import Mapping
from bridge.core.wording import duration
from bridge.ledger.parity_runs import ParityRun, runs, save_run, save_verified, verified
from bridge.ledger.store import Ledger
from bridge.ledger.trim_points import TrimPoint, drop_points, points_of, save_points
from bridge.parity.artifacts import ArtifactCheck, of_lines
from bridge.parity.context import ContextCheck
from bridge.parity.proof_point import ProofPoint
from bridge.parity.prove import DIFFERENCE_SETTLE_SECONDS, ParityCheck, spacing
from bridge.parity.result import ParityResult
from bridge.parity.snapshot import NOT_RUNNING
from bridge.parity.spool import SpoolCheck
from bridge.parity.state import StateCheck
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys

MUCH = 1000
"""From how many messages in flight on there are more than is normal."""

TellMapping = Callable[[Mapping, int, int], None]
"""Called with the mapping that parity reads, how many of its entries were read, and of how many."""


def check_of(mapping: Mapping) -> type[ParityCheck]:
    """Returns the class of the parity check that proves a mapping's two sides equal, by its kind of source."""
    kinds: dict[str, type[ParityCheck]] = {
        "spool": SpoolCheck,
        "context": ContextCheck,
        "state": StateCheck,
        "artifacts": ArtifactCheck,
    }
    return kinds.get(mapping.source.kind, ParityCheck)


class ParityRunner:
    """Runs parity for the mappings of one command, and saves each run in the ledger.

    `who` runs it; `ledger` may be None: then the run is not saved.
    """

    def __init__(
        self, settings: Settings, mappings: list[Mapping], ledger: Ledger | None, stop: Event, tell: TellMapping,
        who: str, *, max_rate: float | None = None, settling: float = DIFFERENCE_SETTLE_SECONDS, stats: bool = False,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._mappings = mappings
        self._ledger = ledger
        self._stop = stop
        self._tell = tell
        self._who = who
        self._max_rate = max_rate
        self._settling = settling
        self._stats = stats
        self.unkept = ""
        """Why the ledger did not take the run of parity; empty where it took the run, or where there is no ledger."""

    def run(self, *, may_start: bool = False, onwards: bool = False) -> list[ParityResult]:
        """Proves parity of each mapping, and returns a result for each.

        `may_start`: starts the embedded server where it does not run. `onwards`: continues from the proof point where
        a mapping was found equal the last time, where there is one.
        Raises RedisLost when Redis is not reached at all, RedisRefused, Interrupted.
        """
        with closing(Connections(self._settings, may_start=may_start)) as servers:
            servers.reach(mapping.stream.key for mapping in self._mappings)
            return self._run(servers, onwards=onwards)

    def _run(self, servers: Connections, *, onwards: bool) -> list[ParityResult]:
        results, elsewhere = [], waiting_moves(self._settings)
        for mapping in self._mappings:
            dial, move = servers.lending(mapping.stream.key), elsewhere.get(mapping.name)
            try:
                if move is not None:
                    result = ParityResult(mapping.name, mapping.stream.key, began=time.time(), notes=[move.said])
                else:
                    result = self._one(mapping, dial, onwards=onwards)
            except (RedisLost, RedisRefused, SourceError, OSError) as error:
                told = ("JUNK",) if len(self._mappings) == 1 else ("JUNK", "WRONGTYPE")  # others can be compared
                if isinstance(error, RedisRefused) and error.code not in told:
                    raise
                result = ParityResult(mapping.name, mapping.stream.key, began=time.time(), notes=[str(error)])
            if move is None:
                self._note_growth(result)
                self._keep(result)
            results.append(result)
        return results

    def _one(self, mapping: Mapping, dial: Callable[[], Connection], *, onwards: bool) -> ParityResult:
        def tell(read: int, of: int) -> None:
            self._tell(mapping, read, of)

        check = check_of(mapping)(
            mapping, self._settings, dial, self._ledger, self._stop, tell, max_rate=self._max_rate,
            settling=self._settling, stats=self._stats,
        )  # fmt: skip
        result = check.run(self._since(mapping) if onwards else None)
        if mapping.kind.lines and not result.onwards:
            self._artifacts(mapping, dial, result)
        return result

    def _artifacts(self, mapping: Mapping, dial: Callable[[], Connection], result: ParityResult) -> None:
        """Adds to a mapping's parity result how many artifacts that its lines named are present, changed or gone."""
        with closing(dial()) as connection:
            key = Keys.of(mapping.stream.key).artifacts
            told = of_lines(connection, key, self._settings, self._stop.is_set)
        if told is not None:
            result.artifacts, said = told
            result.notes += said

    def _note_growth(self, result: ParityResult) -> None:
        """Notes in a parity result that much more is in flight than at the last run, although a bridge runs."""
        last = next(iter(runs(self._ledger, result.stream, 1)), None) if self._ledger is not None else None
        if last is None or NOT_RUNNING in result.notes:
            return
        before, now = int(last.report["in_flight"]), result.tally.in_flight
        if now >= max(MUCH, 2 * before):
            ago = duration(result.began - last.ended)
            result.notes.append(f"what is in flight grows: {now:,}, and {before:,} at the last look {ago} ago")

    def _since(self, mapping: Mapping) -> ProofPoint | None:
        facts = verified(self._ledger, mapping.stream.key) if self._ledger is not None else None
        try:
            return ProofPoint.from_json(facts) if facts is not None else None
        except (KeyError, TypeError, ValueError):
            return None  # saved by another version: parity starts from the beginning

    def _keep_points(self, ledger: Ledger, result: ParityResult) -> None:
        """Saves in the ledger the proof points of an equal parity result, up to which entries may be trimmed.

        Runs inside a ledger transaction. Points that are close to a known one are left out.
        """
        if result.verdict != "equal":
            return
        if result.until is None:  # a folder's files have no order: any entry up to the last may be trimmed
            drop_points(ledger, result.stream)
            save_points(ledger, result.stream, [TrimPoint(result.entry, 0, None)])
            return
        known = sorted(trim_point.added for trim_point in points_of(ledger, result.stream))
        some = spacing(result.length)
        for point in result.points:
            at = bisect_left(known, point.added)
            if all(abs(point.added - other) >= some for other in known[max(0, at - 1) : at + 1]):
                known.insert(at, point.added)
                save_points(ledger, result.stream, [TrimPoint(point.resume, point.added, json.dumps(point.to_json()))])

    def _keep(self, result: ParityResult) -> None:
        """Saves a run of parity in the ledger, with its verdict and its proof points.

        A run that continued from the run before it, equal like that one and by the same `who`, replaces it.
        """
        if self._ledger is None:
            return
        report = {name: value for name, value in result.to_json().items() if name != "differences"}
        if "account" in report:  # thousands of pieces would be kept with each run
            report["account"] = {name: value for name, value in report["account"].items() if name != "pieces"}
        run = ParityRun(result.mapping, result.stream, result.began, result.seconds, self._who, result.verdict, report)
        try:
            last = next(iter(runs(self._ledger, result.stream, 1)), None)
            if last is not None and result.onwards and last.verdict == run.verdict == "equal" and last.who == run.who:
                run = replace(run, number=last.number)
            with self._ledger.transaction():
                save_run(self._ledger, run)
                if result.verdict == "differs":
                    drop_points(self._ledger, result.stream)
                self._keep_points(self._ledger, result)
                if result.verdict != "inconclusive":
                    save_verified(self._ledger, result.stream, result.until.to_json() if result.until else None)
        except LedgerError as error:
            self.unkept = str(error)
