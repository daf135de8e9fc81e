"""Keeps the retention of streams while the bridge runs: looks at intervals, has parity compare, and trims.

Entries over the limits are trimmed only up to a place at which parity found both sides equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, LockHeld
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.wording import counted
from bridge.kinds.stream_family import with_streams
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff, dialler

if TYPE_CHECKING:
    from bridge.admin.retention.limits import TrimObstacle
    from bridge.admin.retention.trimming import Retention

RETENTION_SECONDS = 2.0
"""Seconds between two looks at the retention of all streams."""

NEW_STREAMS, LOOK_SHARE = 30.0, 4.0
"""Seconds between two looks for new streams of mappings with many, and how long a pause is, in times of a look."""

MORE = 0.05
"""Share by which a stream must have grown before another comparison, to find a place up to which it may be trimmed."""

PROVE, COMPARISON_SHARE = 2.0, 20.0
"""Seconds at least between two comparisons for retention, and how many times as long as the last one took."""


def keep_retention(settings: Settings, stop: Event) -> None:
    """Keeps the streams of a running bridge within their `[retention]`, by trims, until the stop event.

    Returns at once where no mapping limits its stream.
    """
    mappings = [mapping for mapping in settings.mappings if mapping.retention.limited]
    if not mappings:
        return
    from bridge.admin.retention.trimming import Retention  # imported late: it imports much, and few need it

    ledger, pause, troubles = (
        Ledger(settings.state_dir / "ledger.db"),
        Backoff(0.2, RETENTION_SECONDS),
        Troubles(time.time),
    )
    over, kept = retired(ledger), dict[str, _Kept]()
    listed_at, took = 0.0, 0.0
    try:
        while not stop.wait(max(pause.next(), took * LOOK_SHARE)):
            begun = time.monotonic()
            if not kept or begun >= listed_at + NEW_STREAMS:
                listed_at = begun
                for mapping in with_streams(replace(settings, mappings=tuple(mappings))).mappings:
                    if mapping.stream.key in over or mapping.name in kept:
                        continue
                    dial = dialler(settings, mapping.stream.key)
                    retention = Retention(mapping, settings.state_dir, ledger, dial, time.time)
                    kept[mapping.name] = _Kept(settings, retention, ledger)
            for retention_state in kept.values():
                try:
                    retention_state.look(stop)
                    troubles.clear(ledger, retention_state.worker)
                except LockHeld:
                    logger.debug("%s: somebody trims by hand", retention_state.worker)
                except BridgeError as error:
                    troubles.note(ledger, retention_state.worker, error)
                except Exception:  # noqa: BLE001 - a stream that grows is no reason to carry no messages
                    logger.exception("%s failed; the bridge goes on", retention_state.worker)
            took = time.monotonic() - begun
    finally:
        ledger.close()


class _Kept:
    """Keeps the retention of one mapping, and remembers its state from one look of the running bridge to the next."""

    def __init__(self, settings: Settings, retention: Retention, ledger: Ledger) -> None:
        self._retention = retention
        self._settings = settings
        self._ledger = ledger
        self._prove_at = 0.0
        self._said: tuple[str, ...] = ()
        self._waits = False

    @property
    def worker(self) -> str:
        """The name of a mapping's retention worker, as the log and `bridge status` show it."""
        return f"retention {self.name}"

    @property
    def name(self) -> str:
        """The name of the mapping whose retention is kept."""
        return self._retention.mapping.name

    def look(self, stop: Event) -> None:
        """Looks at one stream's retention, has parity compare where that is due, and trims. Raises BridgeError."""
        plan = self._retention.plan()
        due = plan.unproven or (plan.little and plan.fresh > plan.size.length * MORE)
        if due and time.monotonic() >= self._prove_at:
            self._prove(self._retention.mapping, stop)
            plan = self._retention.plan()
        if not plan.waits:
            self._retention.adopt(plan.trimmed)
        if (plan.allowed.upto is not None and not plan.waits) or plan.leftover:
            done = self._retention.trim(stop.is_set, only_finish=plan.waits)
            if done.removed:
                logger.info("%s: %s trimmed", self.name, counted(done.removed, "entry", "entries"))
            plan = self._retention.plan()
        if plan.waits and plan.goes and not self._waits:
            said = "%s: its limits are new, and about %s may go by them: `bridge trim %s --execute` lets them"
            logger.warning(said, self.name, counted(plan.goes, "entry", "entries"), self.name)
        self._waits = plan.waits and bool(plan.goes)
        self._retention.note(plan)
        self._say(plan.allowed.holds)

    def _prove(self, mapping: Mapping, stop: Event) -> None:
        """Has parity compare a mapping's two sides, from where they were equal last, so that more may be trimmed."""
        from bridge.parity.prove import Interrupted  # imported late: it imports much, and few need it
        from bridge.parity.run_parity import ParityRunner

        begun = time.monotonic()
        tell: Callable[[Mapping, int, int], None] = lambda mapping, read, of: None  # noqa: E731
        alone = replace(self._settings, mappings=(mapping,))
        try:
            ParityRunner(alone, [mapping], self._ledger, stop, tell, "bridge run").run(may_start=True, onwards=True)
        except Interrupted:
            return
        took = time.monotonic() - begun
        self._prove_at = time.monotonic() + max(PROVE, COMPARISON_SHARE * took)

    def _say(self, holds: list[TrimObstacle]) -> None:
        """Logs who holds up the trimming of a stream, once for each change."""
        who = tuple(hold.who for hold in holds)
        if who != self._said:
            for name in who:
                logger.warning("%s: nothing is trimmed beyond what is still needed by %s", self.name, name)
            self._said = who
