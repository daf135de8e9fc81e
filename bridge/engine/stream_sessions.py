"""Streams that are attended to, of a mapping with many: each with its context, its forward and, at times, its mirror.

A stream at rest costs no connection, no lease and no open file. Forward's thread attends to a stream whose files have
something to carry, or whose entries wait for the mirror; the mirror's thread only asks for that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from bridge.continuity.ownership import StreamLease
from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.engine.forward import Forward
from bridge.engine.mirror import Mirror
from bridge.files.log_catalog import LogCatalog
from bridge.kinds.direction_stats import DirectionStats, SourceRates
from bridge.kinds.mapping_context import MappingContext, WakeUp
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import Backoff, dialler


@dataclass(slots=True)
class StreamSession:
    """One stream that is attended to. `forward` is used by forward's thread, `mirror` by the mirror's alone.

    Times in seconds of the monotonic clock: `look_at` when its files are looked at again, `step_at` when forward goes
    on, `used_at` when either direction carried something last.
    """

    log: str
    context: MappingContext
    forward: Forward
    mirror: Mirror | None = None
    mirrors: bool = False
    """Whether the mirror's thread uses the session, so that forward keeps the stream's lease."""
    look_at: float = 0.0
    step_at: float = 0.0
    used_at: float = 0.0
    paths: set[str] = field(default_factory=set)
    pause: Backoff = field(default_factory=Backoff)

    @property
    def catalog(self) -> LogCatalog:
        """The catalog of the log whose stream the session attends to."""
        assert isinstance(self.context.catalog, LogCatalog)
        return self.context.catalog


class StreamSessions:
    """All sessions of one mapping with many streams, and the statistics of both directions. Thread-safe."""

    def __init__(self, mapping: Mapping, settings: Settings, troubles: Troubles) -> None:
        self.mapping = mapping
        self.wake = WakeUp()
        self.forward, self.mirror = DirectionStats(), DirectionStats()
        self._settings, self._troubles = settings, troubles
        self._lock = Lock()
        self._open: dict[str, StreamSession] = {}
        self._wanted: set[str] = set()
        self._leases: dict[str, StreamLease] = {}
        self._rejected, self._counted = 0, dict[str, int]()

    def open(self, log: str, mapping: Mapping, ledger: Ledger) -> StreamSession:
        """Returns the session of a log's stream, a new one where it rests. For forward's thread, with its ledger."""
        found = self._open.get(log)
        if found is not None:
            return found
        context = MappingContext(mapping, self._settings)
        context.forward, context.mirror, context.wake = self.forward, self.mirror, self.wake
        context.hold = self._leases.setdefault(log, context.hold)  # one process has one nonce for a stream
        dial = dialler(self._settings, mapping.stream.key)
        forward = Forward(context, ledger, self._troubles, time.time, dial)
        session = StreamSession(log, context, forward, used_at=time.monotonic())
        with self._lock:
            self._open[log] = session
        return session

    def of(self, log: str) -> StreamSession | None:
        """Returns the session in which a log's stream is attended to; None: the stream rests."""
        return self._open.get(log)

    def all(self) -> list[StreamSession]:
        """Lists the sessions of all streams that are attended to."""
        with self._lock:
            return [*self._open.values()]

    def want(self, log: str) -> StreamSession | None:
        """Has forward's thread attend to a stream, for the mirror's; returns its session, None: it is to come.

        From then on the session stays open until the mirror's thread calls `done`.
        """
        with self._lock:
            session = self._open.get(log)
            if session is not None:
                session.mirrors = True
                return session
            self._wanted.add(log)
        self.wake()
        return None

    def wanted(self) -> set[str]:
        """Takes the logs whose streams the mirror's thread wants attended to since the last call."""
        with self._lock:
            wanted, self._wanted = self._wanted, set()
            return wanted

    def done(self, session: StreamSession) -> None:
        """Lets forward's thread close a stream's session, as the mirror's thread needs it no more."""
        session.mirror = None
        session.used_at = time.monotonic()
        session.mirrors = False

    def close(self, session: StreamSession) -> bool:
        """Closes a stream's session and releases its lease: the stream rests; False: the mirror's thread wants it.

        For forward's thread.
        """
        with self._lock:
            if session.mirrors:
                return False
            del self._open[session.log]
        session.forward.let_go(flush=True)
        self._rejected += sum(source.counts.rejected for source in session.forward.sources)
        for name, count in session.forward.counts().items():
            self._counted[name] = self._counted.get(name, 0) + count
        session.context.close()
        return True

    def end(self) -> None:
        """Closes the sessions of all streams, as the process ends: both threads are done."""
        for session in self.all():
            session.mirrors = False
            self.close(session)

    def measure(self) -> DirectionStats:
        """Brings the statistics of forward up to date, and returns them. For any thread."""
        sources = [source for session in self.all() for source in session.forward.sources]
        self.forward.rejects = self._rejected + sum(source.counts.rejected for source in sources)
        self.forward.parts = {source.name: SourceRates(source.counts.read, source.files.settling) for source in sources}
        return self.forward

    def counts(self) -> dict[str, int]:
        """Returns how many entries forward made of each log that is attended to, by the log's name in `troubles`."""
        now = {name: count for session in self.all() for name, count in session.forward.counts().items()}
        return {name: count + self._counted.get(name, 0) for name, count in now.items()}

    def leave_replaced(self) -> None:
        """Ends, from another thread, what sessions of streams await of a master that an election replaced."""
        for session in self.all():
            session.forward.leave_replaced()
            if (mirror := session.mirror) is not None:
                mirror.leave_replaced()
