"""Runs `bridge run --once`: carries all that waits both ways, in one thread, and reports the errors that remain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from bridge.continuity.renamed_instance import check_instance
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, NotYet, TargetError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.engine.account.inventory import account_of
from bridge.engine.mirror import Mirror
from bridge.engine.run import RETRY
from bridge.engine.streams_at_rest import resting_logs
from bridge.engine.worker import carrier_of
from bridge.kinds.carrier import Carrier, as_stayed, may_pass
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.stream_family import StreamFamily
from bridge.ledger.heartbeat import forget_troubles, save_heartbeat
from bridge.ledger.quarantine import quarantine_counts
from bridge.ledger.retired import retired
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import CARRYING_CACHE_KIB, Ledger
from bridge.ledger.switch_requests import lapse
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff, Connections, dialler
from bridge.streams.writer import Conflict


@dataclass(frozen=True, slots=True)
class OnceReport:
    """The report of `bridge run --once` on one mapping; `quarantined` counts what is in its quarantine now."""

    mapping: str
    forwarded: int
    mirrored: int
    quarantined: int
    errors: tuple[BridgeError, ...]
    unaccounted: tuple[str, ...] = ()
    """The unaccounted files of the mapping, in words."""


ONCE_SECONDS = 12.0
"""Seconds that `--once` retries after an error that may pass: a lost connection, a loading server, a lease."""


def once(settings: Settings, *, dual: bool, stop: Event) -> list[OnceReport]:
    """Carries once all that waits in mappings that are not retired: file to stream and, with `dual`, stream to file.

    Raises LedgerError; what fails in a mapping is in its report.
    """
    path = settings.state_dir / "ledger.db"
    ledger = Ledger(path, create=True, cache=CARRYING_CACHE_KIB)
    forget_troubles(ledger)
    lapse(ledger, time.time())
    over = retired(ledger)
    pulse = {"instance": settings.instance, "ledger": ledger.uuid.decode(), "pid": os.getpid(), "dual": dual,
             "once": True, "started": time.time(), "at": time.time(), "stopped": False, "workers": {},
             "troubles": {}}  # fmt: skip
    save_heartbeat(ledger, pulse)
    troubles = Troubles(time.time)
    try:
        check_instance(ledger, settings)
        resting = {key for mapping in settings.families.values() for key in _resting(mapping, settings, ledger, dual)}
        done = [
            _drain(MappingContext(mapping, settings), settings, ledger, troubles, dual, stop)
            if mapping.stream.key not in resting
            else OnceReport(mapping.name, 0, 0, _quarantined(ledger, mapping), ())
            for mapping in settings.mappings
            if mapping.stream.key not in over
        ]
        troubled = {report.mapping: str(error) for report in done for error in report.errors}
        save_heartbeat(ledger, pulse | {"at": time.time(), "stopped": True, "troubles": troubled})
        return done
    finally:
        ledger.close()


def _resting(mapping: Mapping, settings: Settings, ledger: Ledger, dual: bool) -> set[str]:
    """Finds the streams of a mapping with many that `--once` has nothing to do for; none where that cannot be told."""
    try:
        with closing(Connections(settings)) as links:
            family = StreamFamily(mapping, settings, ledger)
            family.catalog.sweep()
            mirrors = dual and mapping.mirror is not None
            return {family.of(log).stream.key for log in resting_logs(family, links, ledger, mirrors=mirrors)}
    except (BridgeError, OSError) as error:  # whoever attends to the streams says why
        logger.debug("%s: its streams at rest cannot be told: %s", mapping.name, error)
        return set()


def _quarantined(ledger: Ledger, mapping: Mapping) -> int:
    return sum(count for _, _, count in quarantine_counts(ledger, mapping.stream.key))


def bring_over(settings: Settings, mapping: Mapping, stop: Event) -> OnceReport:
    """Carries once, late, what others wrote to a retired mapping's files into its stream. Raises LedgerError."""
    ledger, shared = (
        Ledger(settings.state_dir / "ledger.db", cache=CARRYING_CACHE_KIB),
        MappingContext(mapping, settings),
    )
    memory = stream_memory(ledger, mapping.stream.key)
    try:
        if memory is not None and memory.timeline:  # a purge removed it: no entries are lost by that
            with closing(dialler(settings, mapping.stream.key)()) as connection:
                connection.call("HSETNX", shared.keys.meta, "timeline", memory.timeline)
        return _drain(shared, settings, ledger, Troubles(time.time), False, stop)
    finally:
        ledger.close()


def _drain(
    shared: MappingContext, settings: Settings, ledger: Ledger, troubles: Troubles, dual: bool, stop: Event
) -> OnceReport:
    dial = dialler(settings, shared.keys.stream)
    forward = carrier_of(shared, ledger, troubles, time.time, dial)
    mirror = Mirror(shared, ledger, troubles, time.time, dial) if shared.mapping.mirror else None
    errors: list[BridgeError] = []

    def forward_all() -> None:
        forward.look()
        if not forward.attached:
            forward.attach()
        while not stop.is_set() and (forward.step() or (forward.waits and not stop.wait(RETRY))):
            pass
        forward.flush()
        forward.tell(stop.wait)

    def finished() -> None:
        """Has the mirror of `--once` finish its writes. Raises WaitingDirections while another writer is in the way."""
        if mirror is not None and not mirror.finish():
            raise WaitingDirections

    def begun() -> None:
        """Has the mirror of `--once` finish what an earlier process had begun, before forward reads."""
        if mirror is not None:
            mirror.resolve(stop.wait)
            finished()

    def mirror_all() -> None:
        if mirror is None:
            return
        begun()
        if not dual:
            return
        if not mirror.attached:
            mirror.attach()
        while mirror.step(0) and not stop.is_set():
            finished()
        mirror.keep()

    for work in (begun, forward_all, mirror_all, forward_all):
        patience = 0.0 if errors else ONCE_SECONDS  # after one direction failed, the other does not wait too
        error = _patiently(work, forward, mirror, stop, patience)
        if error is not None:
            errors.append(error)
    errors += forward.failures()
    forward.let_go()
    if mirror is not None:
        mirror.close()
    try:
        unaccounted = tuple(account_of(shared, ledger, time.time, running=False).sentences())
    except BridgeError as error:
        unaccounted = ()
        errors.append(error)
    shared.close()
    if any(not isinstance(error, NotYet) for error in errors):  # the mirror waits for forward: that tells nothing
        errors = [error for error in errors if not isinstance(error, NotYet)]
    unique = {str(error): error for error in errors}
    aside, mirrored = _quarantined(ledger, shared.mapping), mirror.carried if mirror else 0
    return OnceReport(shared.mapping.name, forward.carried, mirrored, aside, tuple(unique.values()), unaccounted)


class WaitingDirections(Exception):
    """Raised in `bridge run --once` as the mirror waits for another writer of its file."""


def _patiently(
    work: Callable[[], None], forward: Carrier, mirror: Mirror | None, stop: Event, patience: float
) -> BridgeError | None:
    """Runs a step of `--once`, with retries while its error may pass; returns the error that stayed, or None."""
    begun, pause = time.monotonic(), Backoff()
    while True:
        try:
            work()
            return None
        except WaitingDirections:
            waits = mirror.waits_for if mirror is not None else None
            if waits is None or time.monotonic() > begun + min(2, patience) or stop.wait(RETRY):
                return waits[0] if waits else None
        except TargetError as error:
            return error
        except (Conflict, BridgeError, OSError) as error:
            forward.detach()
            if mirror is not None:
                mirror.detach()
            reached = forward.carried > 0 or "cannot connect" not in str(error)
            passing = isinstance(error, OSError) or may_pass(error, reached=reached)
            if not passing or time.monotonic() > begun + patience or stop.wait(pause.next()):
                return as_stayed(error)
