"""The mirror of a mapping with many streams: one request tells which streams have news, and those are mirrored."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Event

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
from bridge.core.model import format_id, parse_id
from bridge.engine.mirror import Mirror
from bridge.engine.stream_forward import StreamForward
from bridge.engine.stream_sessions import StreamSession, StreamSessions
from bridge.ledger.ranges import streams_begun
from bridge.ledger.retired import retired
from bridge.ledger.sources import mirror_cursors, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff, dialler
from bridge.streams.entry_budget import EntryBudget
from bridge.streams.stream_news import StreamNews

AGAIN, PATIENT = 0.005, 0.5
"""Seconds between two tries of a mirror that waits for forward or another writer, and seconds until that is a trouble.
"""

IDLE = 3.0
"""Seconds without entries after which the mirror lets a stream rest."""

MOST = 128
"""Streams that the mirror is connected to at once, about: those without news rest at once when there are more."""

STEPS, IDLE_STEPS, LATER = 16, 2, 0.3
"""Times that the mirror reads one stream before the next has its turn, and times that it does without news.

After these it looks again `LATER` seconds later, if there is a reason.
"""

PASSING = 0.1
"""Seconds between two looks whether forward has moved the mirror's cursor over its own entries."""

WAIT_MS, WAIT_MS_OF_A_STREAM = 100, 0.2
"""Milliseconds that a request for news waits, and how much longer for each stream that it names: it is not for free."""

PAUSE_OF_A_STREAM = 20e-6
"""Seconds for each stream between two requests for news, so that a server has time for others."""

SAVED = 1.0
"""Seconds between two looks at the ledger for streams that forward has met for the first time."""


class StreamMirror:
    """The mirror of one mapping with many streams. `run` is for one thread, with its own ledger."""

    def __init__(
        self, sessions: StreamSessions, forward: StreamForward, settings: Settings, troubles: Troubles, stop: Event, *,
        dual: bool,
    ) -> None:  # fmt: skip
        self.sessions = sessions
        self.worker = f"mirror {sessions.mapping.name}"
        self._forward, self._settings, self._troubles, self._stop = forward, settings, troubles, stop
        self._dual = dual
        self._cursors: dict[bytes, bytes] = {}
        """Up to which entry each stream is mirrored, by its key, as Redis writes both."""
        self._logs: dict[bytes, str] = {}
        """The log of each of these streams."""
        self._over: dict[str, float] = {}
        self._hear_at = 0.0
        self._due: dict[str, float] = {}
        """The logs whose streams are to be mirrored, and when in seconds of the monotonic clock."""
        self._fresh: set[str] = set()
        """Those of them of which a server said that there is news: it may be forward's own."""
        self._used: dict[str, float] = {}
        """The logs whose streams the mirror is connected to, and when it last found entries there."""
        self._later: dict[str, float] = {}
        """The logs whose streams the mirror looks at once more, and when, though there may be no news."""
        self._pauses: dict[str, Backoff] = {}
        self._news: StreamNews | None = None
        self._budget = EntryBudget()

    @property
    def carried(self) -> int:
        """How many entries of a mapping's streams the mirror made into lines."""
        return self.sessions.mirror.messages

    def leave_replaced(self) -> None:
        """Ends, from another thread, the mirror's wait for news from a master that an election replaced."""
        if (news := self._news) is not None and news.replaced():
            news.interrupt()

    def interrupt(self) -> None:
        """Ends, from another thread, the mirror's wait for news of its streams."""
        if (news := self._news) is not None:
            news.interrupt()

    def run(self, ledger: Ledger) -> None:
        """Mirrors the streams until the stop event; without `dual` only what an earlier process had begun."""
        begun = streams_begun(ledger)
        while not self._stop.is_set() and self._forward.family is None:
            self._stop.wait(AGAIN)
        family = self._forward.family
        if family is not None:
            self._due = {log: 0.0 for log in family.logs if family.of(log).stream.key in begun}
        try:
            self._carry(ledger)
        finally:  # forward's thread waits for this, to release the leases
            for log in [*self._used]:
                self._let_rest(log)
            self._close_news()

    def _carry(self, ledger: Ledger) -> None:
        pause, saved = Backoff(), 0.0
        while not self._stop.is_set() and (self._dual or self._due):
            try:
                if self._dual:
                    if time.monotonic() >= saved:
                        saved = time.monotonic() + SAVED
                        self._meet(ledger)
                    self._hear()
                    self._troubles.clear(ledger, self.worker)
                    pause.reset()
                else:
                    self._stop.wait(AGAIN)
            except (BridgeError, OSError) as error:
                if self._stop.is_set():
                    break
                self._close_news()
                self._troubles.note(ledger, self.worker, as_bridge_error(error))
                self._stop.wait(pause.next())
            self._mirror_due(ledger)

    def _close_news(self) -> None:
        if self._news is not None:
            self._news.close()
        self._news = None

    def _meet(self, ledger: Ledger) -> None:
        """Has the mirror take up streams that forward has met for the first time, and drop retired ones."""
        family = self._forward.family
        if family is None:
            return
        over = retired(ledger)
        if over == self._over and len(self._logs) == len(family):
            return
        self._over = over
        for stream, cursor in mirror_cursors(ledger).items():
            key, log = stream.encode(), family.log_of(stream)
            if log is None or stream in over:
                self._cursors.pop(key, None)
            elif key not in self._cursors:
                self._cursors[key], self._logs[key] = cursor, log

    def _hear(self) -> None:
        """Has the mirror wait for news of streams that are not being mirrored. Raises RedisLost, RedisRefused."""
        family, now = self._forward.family, time.monotonic()
        if family is None:
            return
        until = min([*self._due.values(), *self._later.values()], default=now + 1.0)
        if now < self._hear_at:  # what is due goes on meanwhile
            self._stop.wait(max(0.0, min(until, self._hear_at) - now))
            return
        asked = dict(self._cursors)
        for log in self._due:
            asked.pop(family.of(log).stream.key.encode(), None)
        wait = min(
            (WAIT_MS + WAIT_MS_OF_A_STREAM * len(asked)) / 1000, max(0.0, until - now), 0.5 if self._used else 9.9
        )
        news = self._news = self._news or self._asker(len(asked))
        found = news.ask(asked, int(wait * 1000))
        for stream in found:
            self._due[self._logs[stream]] = 0.0
            self._fresh.add(self._logs[stream])
        for stream in news.refused:
            self._due[self._logs[stream]] = time.monotonic() + 1.0  # the mirror of that stream says what is wrong
        self._hear_at = time.monotonic() + PAUSE_OF_A_STREAM * len(asked)
        if not found and not (news.waits and asked):
            self._stop.wait(wait)

    def _asker(self, streams: int) -> StreamNews:
        return StreamNews(self._settings, timeout=WAIT_MS_OF_A_STREAM * streams + 10.0, budget=self._budget)

    def _mirror_due(self, ledger: Ledger) -> None:
        """Mirrors the streams that are due, each for some steps, and lets those rest that had no news for a while."""
        now = time.monotonic()
        self._pass_own(ledger, now)
        for log in [log for log, at in self._later.items() if at <= now]:
            self._due.setdefault(log, self._later.pop(log))
        for log in [log for log, at in self._due.items() if at <= now]:
            if self._stop.is_set():
                return
            session = self.sessions.want(log)
            if session is None:
                self._due[log] = now + AGAIN
                continue
            self._used.setdefault(log, now)
            again = self._mirror(session, ledger)
            if again is None:
                del self._due[log]
            else:
                self._due[log] = time.monotonic() + again
        for log, used in sorted(self._used.items(), key=lambda row: row[1]):
            if log not in self._due and log not in self._later and (now - used > IDLE or len(self._used) > MOST):
                self._let_rest(log)

    def _pass_own(self, ledger: Ledger, now: float) -> None:
        """Leaves streams alone whose news are forward's own entries: forward moves the mirror's cursor over them.

        It knows that as it writes where nobody else may meanwhile, as with history.
        """
        for log in [log for log in self._fresh if self._due.get(log, 0.0) <= now]:
            session, family = self.sessions.of(log), self._forward.family
            if session is not None and session.forward.passing:
                self._due[log] = now + PASSING
                continue
            self._fresh.discard(log)
            if family is None or log not in self._due:
                continue
            key = family.of(log).stream.key
            with suppress(LedgerError):  # the mirror of that stream meets it, and says so
                memory = stream_memory(ledger, key)
                if memory is not None and memory.mirror_cursor > parse_id(self._cursors[key.encode()]):
                    self._cursors[key.encode()] = format_id(memory.mirror_cursor)
                    del self._due[log]

    def _mirror(self, session: StreamSession, ledger: Ledger) -> float | None:
        """Mirrors one stream; returns after how many seconds it is to be gone on with, None: when there is news."""
        pause = self._pauses.setdefault(session.log, Backoff())
        try:
            mirror = session.mirror = session.mirror or self._made(session, ledger)
        except (BridgeError, OSError) as error:
            self._troubles.note(ledger, self.worker, as_bridge_error(error))
            return pause.next()
        try:
            mirror.resolve(self._stop.wait)
            if not mirror.finish():
                if mirror.waits_for is not None and time.time() - mirror.waits_for[1] >= PATIENT:
                    self._troubles.note(ledger, mirror.worker, mirror.waits_for[0])
                return AGAIN
            if not self._dual:
                self._troubles.clear(ledger, mirror.worker)
                return None
            if mirror.aged:
                mirror.detach()
            if not mirror.attached:
                mirror.attach()
            again = self._steps(mirror, session)
            if mirror.caught_up():
                self._troubles.clear(ledger, mirror.worker)
                pause.reset()
            return again
        except NotYet:
            mirror.detach()
            return 4 * AGAIN
        except Unfit:
            raise
        except (BridgeError, OSError) as error:
            self.sessions.mirror.retries += 1
            if not isinstance(error, TargetError | SourceError):
                mirror.detach()
            if not isinstance(error, RedisLost):  # forward says that, once for all streams
                self._troubles.note(ledger, mirror.worker, as_bridge_error(error))
            return pause.next()

    def _steps(self, mirror: Mirror, session: StreamSession) -> float | None:
        """Reads one stream some times for the mirror; returns as `_mirror` does, and raises as `Mirror.step`."""
        idle = 0
        for _ in range(STEPS):
            before = mirror.at
            works = mirror.step(0)
            if not mirror.caught_up():
                return AGAIN
            self._cursors[session.context.keys.stream] = format_id(mirror.at)
            if mirror.at != before:
                self._used[session.log] = session.used_at = time.monotonic()
                continue
            idle += 1
            if not works:
                return None
            if idle > IDLE_STEPS:  # it counts what was removed, in a moment
                self._later[session.log] = time.monotonic() + LATER
                return None
        return 0.0

    def _made(self, session: StreamSession, ledger: Ledger) -> Mirror:
        dial = dialler(self._settings, session.context.keys.stream)
        return Mirror(session.context, ledger, self._troubles, time.time, dial)

    def _let_rest(self, log: str) -> None:
        """Saves the mirror's cursor of a stream in the ledger, and lets forward's thread close the stream's session."""
        session = self.sessions.of(log)
        del self._used[log]
        if session is None:
            return
        if session.mirror is not None:
            try:
                session.mirror.keep()
            except LedgerError as error:
                logger.debug("%s: its cursor is not saved, so it reads again: %s", session.mirror.worker, error)
        try:
            if session.mirror is not None:
                session.mirror.close()
        finally:  # else forward could never close the session
            self.sessions.done(session)
