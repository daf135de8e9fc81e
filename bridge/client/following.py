"""When a component's following ends: nothing came for a while, its time is over, or somebody wants it to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Event


class Ending:
    """Tells when following is to end: `over` says so, `stop` is set, or the time is over.

    `idle`: seconds without a message; `timeout`: seconds from its beginning; None: no limit.
    """

    def __init__(self, over: Callable[[], bool], stop: Event | None, idle: float | None, timeout: float | None) -> None:
        self._over, self._stop = over, stop
        self._idle = math.inf if idle is None else idle
        self._until = math.inf if timeout is None else time.monotonic() + timeout
        self._met_at = time.monotonic()

    def met(self) -> None:
        """Notes for the ending of following that a message came."""
        self._met_at = time.monotonic()

    @property
    def quiet(self) -> float:
        """Seconds since a message came, or since following began."""
        return time.monotonic() - self._met_at

    def is_idle(self) -> bool:
        """Whether following is to end as nothing came for long enough."""
        return self.quiet >= self._idle

    def is_due(self) -> bool:
        """Whether following is to end with the message in hand."""
        return self._over() or (self._stop is not None and self._stop.is_set()) or time.monotonic() >= self._until

    def at_most(self, seconds: float) -> float:
        """Returns how long following may wait now: these seconds, or less where its time is over before."""
        return max(0.0, min(seconds, self._until - time.monotonic()))
