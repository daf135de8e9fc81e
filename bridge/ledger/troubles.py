"""Tracks the troubles of a running bridge's workers: logged once per change, and kept in the ledger for `status`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from bridge.core.errors import BridgeError, LedgerError
from bridge.core.logger import logger
from bridge.ledger.heartbeat import Trouble, note_trouble
from bridge.ledger.store import Ledger


class Troubles:
    """The present troubles of all workers: logged once per change and not once per try, and kept for `status`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock, self._saving = Lock(), Lock()
        self._now: dict[str, Trouble] = {}
        self._unsaved: dict[str, Trouble] = {}
        """The troubles that the ledger could not note when they happened."""

    def note(self, ledger: Ledger, worker: str, error: BridgeError) -> None:
        """Records that a worker is in trouble and cannot go on; the worker tries again by itself."""
        with self._lock:
            old = self._now.get(worker)
            if old is not None and old.error == str(error):
                return
            since = old.since if old else self._clock()
            trouble = self._now[worker] = Trouble(str(error), error.hint, since, plain=error.plain)
        logger.warning(
            "%s: %s%s", worker, error, f" ({error.hint})" if error.hint else "",
            extra={"facts": {"worker": worker, "error": str(error), "hint": error.hint}},
        )  # fmt: skip
        self._keep(ledger, worker, trouble)

    def clear(self, ledger: Ledger, worker: str) -> None:
        """Records that a worker's trouble is over."""
        with self._lock:
            old = self._now.pop(worker, None)
        if old is not None:
            logger.info(
                "%s: goes on after %.1f s", worker, self._clock() - old.since, extra={"facts": {"worker": worker}}
            )
            self._keep(ledger, worker, replace(old, over=self._clock()))

    def now(self) -> dict[str, Trouble]:
        """Returns the present trouble of each worker that has one."""
        with self._lock:
            return dict(self._now)

    def _keep(self, ledger: Ledger, worker: str, trouble: Trouble) -> None:
        with self._lock:
            self._unsaved[worker] = trouble
        self.save(ledger)

    def save(self, ledger: Ledger) -> None:
        """Writes the troubles that the ledger does not hold yet into it, also those that it could not note before."""
        with self._saving:  # else an older trouble could be written after a newer one
            with self._lock:
                unsaved = dict(self._unsaved)
            for worker, trouble in unsaved.items():
                try:
                    note_trouble(ledger, worker, trouble)
                except LedgerError as error:
                    logger.debug("%s: the ledger could not note it: %s", worker, error)
                    return
                with self._lock:
                    if self._unsaved.get(worker) is trouble:
                        del self._unsaved[worker]
