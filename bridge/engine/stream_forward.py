"""Forward of a mapping with many streams: one thread sweeps over all files, and carries the logs that need it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from threading import Event

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, LedgerError, RedisLost, SourceError, Unfit, as_bridge_error
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.engine.resting_streams import RestingStreams
from bridge.engine.stream_sessions import StreamSession, StreamSessions
from bridge.engine.streams_at_rest import busy_logs
from bridge.files.named_file import NamedFile
from bridge.kinds.stream_family import StreamFamily
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.ledger.stream_names import waiting_streams
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff
from bridge.streams.writer import Conflict

TURN = 8
"""Batches that forward carries of one log before the next has its turn."""

IDLE = 3.5
"""Seconds without anything to carry after which a stream rests: some sweeps, so that the account is made."""

MOST = 256
"""Streams that are attended to at once; beyond, those that wait longest with nothing to carry rest at once."""

END_SECONDS = 10.0
"""Seconds that forward waits at the end for the mirror, which needs its leases until then."""


class StreamForward:
    """Forward of one mapping with many streams. `run` is for one thread, with its own ledger."""

    def __init__(
        self, sessions: StreamSessions, settings: Settings, troubles: Troubles, stop: Event, sweep: float
    ) -> None:
        self.sessions = sessions
        self.worker = f"forward {sessions.mapping.name}"
        self.family: StreamFamily | None = None
        self._settings, self._troubles, self._stop, self._sweep = settings, troubles, stop, sweep
        self._due: dict[str, None] = {}
        self._lost: set[str] = set()
        self._over: frozenset[str] = frozenset()
        self._resting: RestingStreams | None = None
        self._asked_since = self._look_at = 0.0
        self._swept = False
        self._changed: list[NamedFile] = []
        self._changed_logs: set[str] = set()

    @property
    def carried(self) -> int:
        """How many lines of a mapping's logs forward made into entries of its streams."""
        return self.sessions.forward.messages

    @property
    def attached(self) -> bool:
        """Whether forward of many streams reached Redis at its last try: it attended to a stream, or none needed it."""
        return self._swept and not self._lost

    def leave_replaced(self) -> None:
        """Ends, from another thread, what forward of many streams awaits of a master that an election replaced."""
        self.sessions.leave_replaced()

    def folders(self) -> set[Path]:
        """Lists the folders of the mapping's logs, to be watched for changes."""
        family, root = self.family, self._settings.root
        if family is None:
            return set()
        try:
            names = {name.rpartition("/")[0] for name in family.catalog.logs()}
        except SourceError:
            names = set()  # the sweep meets the same error, and reports it
        return {root / name for name in names} | {(root / self.sessions.mapping.source.path).parent}

    def run(self, ledger: Ledger) -> None:
        """Carries a mapping's logs into their streams until the stop event. Raises Unfit: a server cannot be used."""
        pause = Backoff()
        while not self._stop.is_set():
            try:
                if time.monotonic() >= self._look_at:
                    self._look_at = time.monotonic() + self._sweep
                    self._look(ledger)
                    self._troubles.clear(ledger, f"{self.worker}: {self.sessions.mapping.source.path}")
                    pause.reset()
                reviewing = self._review(ledger)
                worked = self._attend(ledger)
                rest = 0.0 if worked or reviewing else max(0.0, min(self._look_at, self._next()) - time.monotonic())
                self._heard(self.sessions.wake.wait(rest))
            except (SourceError, LedgerError, OSError) as error:
                where = f"{self.worker}: {self.sessions.mapping.source.path}"
                self._troubles.note(ledger, where, as_bridge_error(error))
                self._stop.wait(pause.next())
        until = time.monotonic() + END_SECONDS
        while any(session.mirrors for session in self.sessions.all()) and time.monotonic() < until:
            time.sleep(0.002)
        self.sessions.end()
        if self._resting is not None:
            self._resting.close()

    # -- which streams are due -------------------------------------------------------------------------------

    def _look(self, ledger: Ledger) -> None:
        """Has forward sweep over all files, name the streams of new logs, and find streams that it must attend to."""
        if self.family is None or self._resting is None:
            self.family = StreamFamily(self.sessions.mapping, self._settings, ledger)
            self._resting = RestingStreams(self.family, self._settings, self._sweep)
        family, resting, first = self.family, self._resting, not self._swept
        self._over = frozenset(retired(ledger))
        now = time.time()
        waiting = waiting_streams(ledger, self._asked_since)
        changed, logs = family.catalog.sweep()
        self._changed += changed  # until they are taken up: what raises before that must lose none
        self._changed_logs |= logs
        for said in family.catalog.notices:
            logger.warning("%s", said)
        family.catalog.notices.clear()
        resting.name_new(ledger)
        if new := family.unfixed:
            failpoint("streams.name.before")
            family.fix(ledger, now)
            self._changed_logs |= {*new}
            failpoint("streams.name.after")
        by_log: dict[str, list[NamedFile]] = defaultdict(list)
        for listed in self._changed:
            by_log[self._owner(listed.log or "")].append(listed)
        logs = {self._owner(log) for log in self._changed_logs}
        if first:
            logs = busy_logs(family, ledger, logs)
            resting.doubt()
        for log in {*logs, *filter(None, map(family.log_of, waiting))}:
            if log not in family or family.of(log).stream.key in self._over:
                continue
            if (session := self.sessions.of(log)) is not None:
                session.catalog.hand(by_log.get(log, ()))
                session.look_at = session.step_at = 0.0
            self._due[log] = None
        self._asked_since, self._swept = now, True
        self._changed, self._changed_logs = [], set()

    def _owner(self, log: str) -> str:
        """Returns the log into whose stream a file goes that the catalog has as a log: itself, but for late pieces."""
        late = self.family.catalog.late_of if self.family is not None else {}
        return next((name for name, mine in late.items() if log in mine.values()), log)

    def _review(self, ledger: Ledger) -> bool:
        """Has forward attend to streams at rest that are not as the ledger knows them; returns whether more may be."""
        if self._resting is None or self.family is None:
            return False
        changed, more = self._resting.review(ledger, lambda log: self.sessions.of(log) is not None)
        self._due |= dict.fromkeys(log for log in changed if self.family.of(log).stream.key not in self._over)
        return more

    def _heard(self, paths: set[str]) -> None:
        """Has forward attend to logs whose files changed, by the file system's events, and as the mirror wishes."""
        family = self.family
        if wanted := self.sessions.wanted():
            self._due = dict.fromkeys([*wanted, *self._due])
        if family is None or not paths:
            return
        if not all(family.catalog.holds(path) for path in paths):
            try:
                family.catalog.refresh()
            except SourceError as error:  # the sweep meets the error again, and notes it
                logger.debug("%s: %s", self.worker, error)
        for path in paths:
            log = self._owner(family.catalog.log_at(path) or "")
            if log not in family:
                self._look_at = 0.0 if log else self._look_at  # a new log: the sweep names its stream
                continue
            if family.of(log).stream.key in self._over:
                continue
            self._due[log] = None
            if (session := self.sessions.of(log)) is not None:
                session.paths.add(path)
                session.step_at = 0.0

    # -- attending -------------------------------------------------------------------------------------------

    def _attend(self, ledger: Ledger) -> bool:
        """Has forward attend once to each stream that is due or has a session; returns whether any has more at once."""
        family = self.family
        if family is None:
            return False
        worked, down = False, False
        room = MOST - len(self.sessions.all())
        for log in [log for i, log in enumerate(self._due) if i < room or self.sessions.of(log) is not None]:
            self.sessions.open(log, family.of(log), ledger)
            del self._due[log]  # not before: the ledger may fail as a session is made
        for session in self.sessions.all():
            if self._stop.is_set():
                return False
            now = time.monotonic()
            if down and not session.forward.attached and not self._in_cluster:
                continue
            if now < session.step_at and now < session.look_at and not session.paths:
                continue
            try:
                if self._turn(session, ledger):
                    worked = True
                    session.used_at, session.step_at = time.monotonic(), 0.0
            except Unfit:
                raise
            except (Conflict, BridgeError, OSError) as error:
                self._failed(session, error, ledger)
                down = down or isinstance(error, RedisLost)
        self._let_rest(ledger)
        return worked

    @property
    def _in_cluster(self) -> bool:
        return self._settings.redis_url.startswith("cluster")

    def _turn(self, session: StreamSession, ledger: Ledger) -> bool:
        """Has forward carry some batches of one log; returns whether there is more. Raises as `Forward.step` does."""
        forward, now = session.forward, time.monotonic()
        if now >= session.look_at:
            session.look_at = now + self._sweep
            session.paths.clear()
            forward.look()
        elif session.paths:
            paths, session.paths = session.paths, set()
            forward.look(paths)
        if now < session.step_at:
            return False
        if forward.aged:
            forward.flush()
            forward.detach()
        if not forward.attached:
            forward.attach()
        if session.log in self._lost:
            self._lost.discard(session.log)
            if not self._lost:
                self._troubles.clear(ledger, self.worker)
        for turn in range(TURN):
            if not forward.step():
                self._troubles.clear(ledger, forward.worker)
                session.pause.reset()
                session.step_at = time.monotonic() + forward.rest()
                session.used_at = max(session.used_at, now if turn or forward.waits else 0.0)
                return False
        return True

    def _failed(self, session: StreamSession, error: Conflict | BridgeError | OSError, ledger: Ledger) -> None:
        session.forward.detach()
        self.sessions.forward.retries += 1
        session.step_at = time.monotonic() + session.pause.next()
        session.used_at = time.monotonic()
        if isinstance(error, RedisLost):
            self._lost.add(session.log)
            self._troubles.note(ledger, self.worker, error)  # once for all streams
            if self._resting is not None:
                self._resting.doubt()
        elif not isinstance(error, Conflict):
            self._troubles.note(ledger, session.forward.worker, as_bridge_error(error))

    def _let_rest(self, ledger: Ledger) -> None:
        """Has forward close sessions of streams with nothing to carry for a while, at once where there are too many."""
        now, held = time.monotonic(), self.sessions.all()
        spare = len(held) + len(self._due) - MOST
        for session in sorted(held, key=_used) if spare > 0 else held:
            idle = now - session.used_at > IDLE or spare > 0
            busy = session.log in self._due or session.step_at <= now or session.forward.waits
            kept = busy or session.mirrors or session.forward.failures()
            if idle and not kept and self.sessions.close(session):
                spare -= 1

    def _next(self) -> float:
        """Returns when forward is to go on with a stream that it attends to, in seconds of the monotonic clock."""
        return min((min(s.step_at, s.look_at) for s in self.sessions.all()), default=time.monotonic() + self._sweep)


_used: Callable[[StreamSession], float] = lambda session: session.used_at  # noqa: E731
