"""Retention beside a bridge that runs: looks now and then, has parity prove what is over, and trims it."""

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
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff, dialler

if TYPE_CHECKING:
    from bridge.admin.retention.limits import TrimObstacle
    from bridge.admin.retention.trimming import Retention

RETENTION_SECONDS = 2.0
"""Seconds between two looks."""

MORE = 0.05
"""By this share of it a stream must have grown for another comparison to bring a place where it may be cut."""

PROVE, COMPARISON_SHARE = 2.0, 20.0
"""Seconds at least between two comparisons for what is over, and how much longer than the last one took."""


def keep_retention(settings: Settings, stop: Event) -> None:
    """Trims a running bridge's streams by their `[retention]` until the stop event; ends at once where none has it."""
    mappings = [mapping for mapping in settings.mappings if mapping.retention.limited]
    if not mappings:
        return
    from bridge.admin.retention.trimming import Retention  # much is read in with it, and mostly for nothing

    ledger, pause, troubles = (
        Ledger(settings.state_dir / "ledger.db"),
        Backoff(0.2, RETENTION_SECONDS),
        Troubles(time.time),
    )
    dial = dialler(settings)
    try:
        over = retired(ledger)
        kept = [
            _Kept(settings, Retention(mapping, settings.state_dir, ledger, dial, time.time), ledger)
            for mapping in mappings
            if mapping.stream.key not in over
        ]
        while not stop.wait(pause.next()):
            for retention_state in kept:
                try:
                    retention_state.look(stop)
                    troubles.clear(ledger, retention_state.worker)
                except LockHeld:
                    logger.debug("%s: somebody trims by hand", retention_state.worker)
                except BridgeError as error:
                    troubles.note(ledger, retention_state.worker, error)
                except Exception:  # noqa: BLE001 - a stream that grows is no reason to carry no messages
                    logger.exception("%s failed; the bridge goes on", retention_state.worker)
    finally:
        ledger.close()


class _Kept:
    """Remembers one mapping's retention from one look of the running bridge to the next."""

    def __init__(self, settings: Settings, retention: Retention, ledger: Ledger) -> None:
        self._retention = retention
        self._settings = settings
        self._ledger = ledger
        self._prove_at = 0.0
        self._said: tuple[str, ...] = ()
        self._waits = False

    @property
    def worker(self) -> str:
        """Names the retention of a mapping as the log and `status` do."""
        return f"retention {self.name}"

    @property
    def name(self) -> str:
        """The mapping's."""
        return self._retention.mapping.name

    def look(self, stop: Event) -> None:
        """Looks at one stream's retention, has parity prove what is over, and trims it. Raises BridgeError."""
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
        """Both sides compared from where they were equal the last time."""
        from bridge.parity.log.check import Interrupted  # much is read in with it, and mostly for nothing
        from bridge.parity.prove import ParityRunner

        begun = time.monotonic()
        tell: Callable[[Mapping, int, int], None] = lambda mapping, read, of: None  # noqa: E731
        alone = replace(self._settings, mappings=(mapping,))
        try:
            ParityRunner(alone, [mapping], self._ledger, stop, tell, "bridge run").run(dialler(alone), onwards=True)
        except Interrupted:
            return
        took = time.monotonic() - begun
        self._prove_at = time.monotonic() + max(PROVE, COMPARISON_SHARE * took)

    def _say(self, holds: list[TrimObstacle]) -> None:
        """Who holds up trimming, once."""
        who = tuple(hold.who for hold in holds)
        if who != self._said:
            for name in who:
                logger.warning("%s: nothing is trimmed beyond what is still needed by %s", self.name, name)
            self._said = who
