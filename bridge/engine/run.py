"""The process of `bridge run`: one lock, a thread for each direction of each mapping, signals, the heartbeat."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event, Thread

from bridge.continuity.renamed_instance import check_instance
from bridge.core.config import Settings
from bridge.core.errors import (
    BridgeError,
    LedgerError,
    NotYet,
    RedisLost,
    SourceError,
    TargetError,
    Unfit,
    as_bridge_error,
)
from bridge.core.logger import logger
from bridge.core.python_tuning import collect, give_back
from bridge.engine.many_streams import ManyStreams
from bridge.engine.mirror import Mirror
from bridge.engine.stream_forward import StreamForward
from bridge.engine.stream_mirror import StreamMirror
from bridge.engine.worker import carrier_of
from bridge.files.descriptor_pool import POOL
from bridge.files.watch import Watcher
from bridge.kinds.carrier import Carrier
from bridge.kinds.direction_stats import DirectionStats, Rates
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.heartbeat import forget_troubles, save_heartbeat
from bridge.ledger.parity_runs import runs, told_proof
from bridge.ledger.retired import retired
from bridge.ledger.store import CACHE, CARRYING_CACHE_KIB, Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams import keys
from bridge.streams.connect import Connection
from bridge.streams.dial import Backoff, dialler
from bridge.streams.writer import Conflict

GLANCE = 0.1
"""Seconds between two checks of the files that events named, while Redis is away."""

SWEEP = 1.0
POLL_SECONDS = 0.1
"""Seconds between two looks at every file: `SWEEP` with events between, `POLL_SECONDS` with `--poll` and no events."""

RETRY = 0.005
PATIENT = 0.5
"""Seconds between two tries of a mirror that waits for another writer, and seconds until that is a trouble."""

MIRROR_BLOCK_MS = 1000
HEARTBEAT = 2.0
HEARTBEAT_EXPIRES = 10
GIVE_BACK = 60.0
"""Seconds between two times that the process gives freed memory back to the system."""


class Process:
    """The process of `bridge run`: carries all mappings, each direction in a thread with its own open ledger."""

    def __init__(
        self, settings: Settings, *, dual: bool, poll: bool, stop: Event,
        tell: Callable[..., None] = lambda *states: None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self.dual = dual
        """Whether the process mirrors, besides forwarding."""
        self._poll, self._sweep = poll, POLL_SECONDS if poll else SWEEP
        self._stop = stop
        self._tell = tell
        self._ledger_path = settings.state_dir / "ledger.db"
        self.troubles = Troubles(time.time)
        self._started = time.time()
        self._shared = [MappingContext(m, settings) for m in settings.mappings if not m.many_streams]
        self._many = [ManyStreams(m, settings, self.troubles, stop, self._sweep, dual=dual)
                      for m in settings.mappings if m.many_streams]  # fmt: skip
        self._forwards: list[Carrier] = []
        self._mirrors: list[Mirror] = []
        self._crashed = False
        self._unfit: Unfit | None = None
        self._rates = Rates()
        self._beat = time.monotonic()

    def run(self, beside: Sequence[Callable[[Settings, Event], None]] = ()) -> int:
        """Runs `bridge run`: carries all mappings but retired ones until the stop event; returns its exit code.

        The exit code is 1 if a worker crashed. Each function in `beside` runs in a thread of its own. Raises Unfit
        where a server cannot be used.
        """
        ledger = Ledger(self._ledger_path, create=True)
        forget_troubles(ledger)
        over = retired(ledger)
        try:
            check_instance(ledger, self._settings)
        finally:
            ledger.close()
        for mapping_context in [context for context in self._shared if context.mapping.stream.key in over]:
            logger.info("%s is retired: it is not carried", mapping_context.mapping.name)
            self._shared.remove(mapping_context)
        works: list[tuple[str, Callable[[Ledger], None], MappingContext | None]] = [
            (f"forward {context.mapping.name}", partial(self._forward, context), context) for context in self._shared
        ]
        works += [(f"mirror {context.mapping.name}", partial(self._mirror, context), context)
                  for context in self._shared if context.mapping.mirror]  # fmt: skip
        works += [(name, work, None) for many in self._many for name, work in many.works()]
        threads = [Thread(target=self._guard, args=(work, context), name=name) for name, work, context in works]
        POOL.carriers = len(threads)
        threads += [
            Thread(target=callable, args=(self._settings, self._stop), name=callable.__name__) for callable in beside
        ]
        watcher = None
        if not self._poll:
            watcher = Watcher(self._folders(), self._wake, logger.warning)
        for thread in threads:
            thread.start()
        self._tell("READY=1", f"STATUS=carrying {'both ways' if self.dual else 'file to stream'}")
        logger.info("carrying %s", "both ways" if self.dual else "file to stream", extra={"facts": {"dual": self.dual}})
        self._supervise(watcher)
        self._tell("STOPPING=1", "STATUS=finishing what is under way")
        for mapping_context in self._shared:
            mapping_context.wake()
        for many in self._many:
            many.end()
        for mirror in list(self._mirrors):
            mirror.interrupt()
        for thread in threads:
            thread.join()
        if watcher is not None:
            watcher.close()
        for mapping_context in self._shared:
            mapping_context.close()
        logger.info("stopped")
        if self._unfit is not None:
            raise self._unfit
        return 1 if self._crashed else 0

    def silent(self) -> float:
        """Returns the seconds since the last heartbeat of the process of `bridge run`."""
        return time.monotonic() - self._beat

    def flows(self) -> dict[tuple[str, str], DirectionStats]:
        """Returns the statistics of `bridge run`, by mapping and direction (`forward` or `mirror`). For any thread."""
        found = {(mapping_context.mapping.name, "forward"): mapping_context.forward for mapping_context in self._shared}
        if self.dual:
            found |= {
                (mapping_context.mapping.name, "mirror"): mapping_context.mirror
                for mapping_context in self._shared
                if mapping_context.mapping.mirror
            }
        for many in self._many:
            found |= many.flows()
        for forward in list(self._forwards):
            name, flow = forward.shared.mapping.name, forward.measure()
            if flow is not forward.shared.forward:  # latest values go the way that their owner says
                del found[name, "forward"]
                found[name, "mirror"] = flow
        for name, way in found:
            if way == "forward" and found[name, way].parts is None:
                found[name, way].parts = {}
        return found

    def _wake(self, path: str, removed: bool) -> None:
        for mapping_context in self._shared:
            if removed and mapping_context.folder is not None:
                mapping_context.folder.was_removed(path)
            mapping_context.wake(path)
        for many in self._many:
            many.wake(path)

    def _folders(self) -> set[Path]:
        """Lists the folders of all mappings of `bridge run`, to be watched."""
        of_one = {folder for context in self._shared for folder in context.folders()}
        return of_one | {folder for many in self._many for folder in many.folders()}

    def _supervise(self, watcher: Watcher | None) -> None:
        """Tends the file watcher of `bridge run` and sends its heartbeat, until the stop event."""
        connection: Connection | None = None
        health = keys.health(self._settings.process_name)
        dial, due, given = dialler(self._settings, health), 0.0, time.monotonic()
        if (ledger := self._opened(CACHE)) is None:
            return
        while not self._stop.is_set():
            self._tell("WATCHDOG=1")
            if watcher is not None:
                try:
                    watcher.folders = self._folders()
                    watcher.tend()
                except OSError as error:  # the sweep goes on, and so does this with its next round
                    logger.debug("the folders to watch could not be looked at: %s", error)
            if time.monotonic() >= due and (self._forwards or self._many):
                due = time.monotonic() + HEARTBEAT
                collect()
                if time.monotonic() >= given + GIVE_BACK:
                    given = time.monotonic()
                    give_back()
                try:
                    pulse = self._pulse(ledger)
                    attached = [forward.attached for forward in list(self._forwards)]
                    if any(attached) or any(many.forward.attached for many in self._many):
                        if connection is not None and connection.aged:
                            connection.close()
                            connection = None
                        connection = connection or dial()
                        connection.call("SET", health, json.dumps(pulse), "EX", HEARTBEAT_EXPIRES)
                except (BridgeError, OSError) as error:
                    logger.debug("no heartbeat: %s", error)
                    if connection is not None:
                        connection.close()
                    connection = None
            if connection is not None:
                connection.look()
            if self._settings.replicas:  # else what others write to the old master is rescued until it is told
                for worker in self._workers():
                    worker.leave_replaced()
            self._stop.wait(SWEEP if due else GLANCE)  # the first heartbeat says what this process does
        if connection is not None:
            try:
                connection.call("DEL", health)
            except BridgeError as error:
                logger.debug("the heartbeat stays until it expires: %s", error)
            connection.close()
        try:
            self._pulse(ledger, stopped=True)
        except LedgerError as error:
            logger.debug("the ledger could not note the stop: %s", error)
        ledger.close()

    def _pulse(self, ledger: Ledger, *, stopped: bool = False) -> dict[str, object]:
        """Makes the heartbeat of `bridge run` and saves it in the ledger, where `status` reads it without Redis."""
        counts: dict[str, int] = {worker.worker: worker.carried for worker in self._workers()}
        always = {*counts}
        for forward in list(self._forwards):
            counts |= forward.counts()
        for many in self._many:
            counts |= many.counts()
        rates = dict.fromkeys(always, 0.0) | self._rates.of(counts, time.monotonic())
        pulse: dict[str, object] = {
            "instance": self._settings.instance, "ledger": ledger.uuid.decode(), "pid": os.getpid(), "dual": self.dual,
            "started": self._started, "at": time.time(), "stopped": stopped,
            "workers": {name: {"carried": counts[name], "rate": round(rates[name], 3)}
                        for name in rates if name in counts},
            "troubles": {name: trouble.error for name, trouble in self.troubles.now().items()},
            "parity": {mapping_context.mapping.name: told_proof(ledger, run, time.time())
                       for mapping_context in self._shared
                       for run in runs(ledger, mapping_context.mapping.stream.key, 1)}
                      | {name: proof for many in self._many for name, proof in many.proof(ledger).items()},
        }  # fmt: skip
        save_heartbeat(ledger, pulse)
        self.troubles.save(ledger)
        self._beat = time.monotonic()
        return pulse

    def _workers(self) -> Iterator[Carrier | Mirror | StreamForward | StreamMirror]:
        yield from list(self._forwards)
        yield from list(self._mirrors)
        for many in self._many:
            yield from many.workers()

    def _guard(self, work: Callable[[Ledger], None], shared: MappingContext | None) -> None:
        """Runs a worker thread of `bridge run` with its own ledger; an unexpected error is logged and ends the process.

        The bridge must not go on without one of its workers.
        """
        try:
            ledger = self._opened(CARRYING_CACHE_KIB if shared is None or shared.folder is not None else CACHE)
            if ledger is None:
                return
            try:
                work(ledger)
            finally:
                ledger.close()
        except Unfit as error:
            self._unfit = self._unfit or error
            self._stop.set()
        except Exception:  # noqa: BLE001 - logged with its trace, and the process ends
            logger.exception("unexpected error; no data is lost; the bridge stops")
            self._crashed = True
            self._stop.set()

    def _opened(self, cache: int) -> Ledger | None:
        """Opens the ledger for a thread of `bridge run`, with retries; None: the process ends before that succeeds."""
        while not self._stop.wait(0.0):
            try:
                return Ledger(self._ledger_path, cache=cache)
            except (LedgerError, OSError) as error:
                logger.warning("%s; it is tried again", error)
                self._stop.wait(SWEEP)
        return None

    # -- the workers -----------------------------------------------------------------------------------------

    def _forward(self, shared: MappingContext, ledger: Ledger) -> None:
        forward = carrier_of(shared, ledger, self.troubles, time.time, dialler(self._settings, shared.keys.stream))
        self._forwards.append(forward)
        pause, sweep, due = Backoff(), self._sweep, 0.0
        if shared.folder is not None:
            shared.folder.watched = not self._poll
        while not self._stop.is_set():
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + sweep
                    forward.look()
                if forward.aged:
                    forward.flush()
                    forward.detach()
                if not forward.attached:
                    forward.attach()
                landed = shared.forward.batches
                worked = forward.step()
                if not worked or shared.forward.batches != landed:  # what is only sent may be lost yet
                    self.troubles.clear(ledger, forward.worker)
                    pause.reset()
                if not worked:
                    rest = min(forward.rest(), max(0.0, due - time.monotonic()))
                    paths = shared.wake.wait(rest)
                    if paths:
                        forward.look(paths)
            except Unfit:
                forward.detach()
                raise
            except (Conflict, BridgeError, OSError) as error:
                forward.detach()
                shared.forward.retries += 1
                if not isinstance(error, Conflict):
                    self.troubles.note(ledger, forward.worker, as_bridge_error(error))
                self._rest(pause.next(), forward)
        forward.let_go(flush=True)

    def _rest(self, seconds: float, forward: Carrier) -> None:
        """Waits in `bridge run` before forward's next try, and follows the files meanwhile.

        So files that are rotated away or rewritten during the wait are seen all the same.
        """
        until, due = time.monotonic() + seconds, 0.0
        while (left := until - time.monotonic()) > 0 and not self._stop.wait(min(left, GLANCE)):
            paths = forward.shared.wake.wait(0)
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + SWEEP
                    forward.look()
                if paths:
                    forward.look(paths)
            except (BridgeError, OSError) as error:  # forward waits anyway, and looks at all files with its next try
                logger.debug("%s: %s", forward.worker, error)

    def _mirror(self, shared: MappingContext, ledger: Ledger) -> None:
        dial = dialler(self._settings, shared.keys.stream, timeout=MIRROR_BLOCK_MS / 1000 + 5)
        mirror = Mirror(shared, ledger, self.troubles, time.time, dial)
        if self.dual:
            self._mirrors.append(mirror)
        pause = Backoff()
        while not self._stop.is_set():
            try:
                mirror.resolve(self._stop.wait)
                if not mirror.finish():
                    if mirror.waits_for is not None and time.time() - mirror.waits_for[1] >= PATIENT:
                        self.troubles.note(ledger, mirror.worker, mirror.waits_for[0])
                    self._stop.wait(RETRY)
                    continue
                if not self.dual:
                    break  # what an earlier process had begun is finished
                if mirror.aged:
                    mirror.detach()
                if not mirror.attached:
                    mirror.attach()
                mirror.step(MIRROR_BLOCK_MS)
                if mirror.caught_up():
                    self.troubles.clear(ledger, mirror.worker)
                    pause.reset()
            except NotYet:
                mirror.detach()
                self._stop.wait(0.05)
            except Unfit:
                mirror.close()
                raise
            except (BridgeError, OSError) as error:
                if isinstance(error, RedisLost) and self._stop.is_set():
                    break
                shared.mirror.retries += 1
                if not isinstance(error, TargetError | SourceError):
                    mirror.detach()
                self.troubles.note(ledger, mirror.worker, as_bridge_error(error))
                self._stop.wait(pause.next())
        mirror.close()
