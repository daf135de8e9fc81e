"""Python and its memory, set up for a process that runs for months: short waits, batches of small objects."""

from __future__ import annotations

import ctypes
import gc
import sys

SWITCH_INTERVAL = 0.0005
"""Python's threads hand over after 5 ms by default, which the latency of a message would feel."""

GARBAGE = 50_000
"""Objects between two collections: a batch makes thousands, none in cycles, and looking at them costs a third."""


def tune_interpreter() -> None:
    """Sets Python up for short waits and for batches of small objects; for the whole process, once."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    gc.set_threshold(GARBAGE)


def collect() -> None:
    """What is in cycles is little and holds much (a comparison for retention, a parser of redis-py): now and then."""
    gc.collect(0)


def give_back() -> None:
    """glibc keeps what threads freed, for each of them apart, and most of it for ever. Elsewhere nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
