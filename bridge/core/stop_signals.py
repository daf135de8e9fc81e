"""The stop event of a command that carries or compares for long: SIGINT and SIGTERM set it."""

from __future__ import annotations

import _thread
import os
import signal
from threading import Event


def stop_on_signals() -> Event:
    """Returns a stop event for `bridge run` that SIGINT and SIGTERM set; a second signal exits at once with 130."""
    stop, asked = Event(), False

    def on_signal(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(130)
        asked = True
        # In a thread: what the signal interrupted may be holding the lock that `set` needs.
        _thread.start_new_thread(stop.set, ())

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop
