"""Finishes switches whose operator is gone, in a thread of a running bridge: makes them, or takes them back."""

from __future__ import annotations

import time
from threading import Event

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, NotYet
from bridge.core.logger import logger
from bridge.kinds.stream_family import with_streams
from bridge.ledger.journal import unfinished
from bridge.ledger.store import Ledger
from bridge.ledger.switch_requests import LAPSES, lapse
from bridge.streams.dial import Backoff, Connections


def finish_switches(settings: Settings, stop: Event) -> None:
    """Makes or takes back, beside a running bridge, the switches that were decided by an operator who is gone.

    At first all that are decided, then those that are older than any operator takes.
    """

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise NotYet("the bridge ends")

    ledger, pause = Ledger(settings.state_dir / "ledger.db"), Backoff(0.5, 5.0)
    due: float | None = None
    told: set[str] = set()
    try:
        while not stop.wait(pause.next()):
            try:
                lapse(ledger, time.time())
                if not unfinished(ledger, due):
                    due = time.time() - LAPSES
                    continue
                from bridge.cutover.operator import Operator  # a slow import, and mostly nothing needs it

                servers = Connections(settings)
                operator = Operator(with_streams(settings), ledger, servers, "bridge run", wait)
                try:
                    for step, outcome in operator.complete(due):
                        said = f"an earlier switch, {step}, {outcome}"
                        logger.log(10 if said in told else 20, "%s", said)
                        told.add(said)
                finally:
                    operator.close()
                    servers.close()
            except BridgeError as error:
                logger.debug("an earlier switch is not made yet: %s", error)
            except Exception:  # noqa: BLE001 - this thread is needed as long as the bridge runs
                logger.exception("an earlier switch is not made yet")
    finally:
        ledger.close()
