"""Python and its memory, set up for a process that runs for months: short waits, batches of small objects."""

from __future__ import annotations

import ctypes
import gc
import sys

SWITCH_INTERVAL = 0.0005
"""Python's threads hand over after 5 ms by default, which the latency of a message would feel."""

GARBAGE = 50_000
"""Objects between two collections: a batch makes thousands, none in cycles, and looking at them costs a third."""

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""glibc's names, in malloc.h."""

LARGE_BLOCK = 64 << 10
"""Bytes from which on a block is taken from the system, and given back to it, on its own."""


def tune_interpreter() -> None:
    """Sets Python up for short waits and for batches of small objects; for the whole process, before its threads.

    glibc gives each thread a heap of its own, and keeps in each what a batch took at its largest. One is enough where
    one thread runs at a time. Left alone it also puts ever larger blocks into the heap, as soon as one was freed, and
    small ones that stay come to lie between them.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    gc.set_threshold(GARBAGE)
    limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if limit is not None:
        limit(M_ARENA_MAX, 1)
        limit(M_MMAP_THRESHOLD, LARGE_BLOCK)


def collect() -> None:
    """What is in cycles is little and holds much (a comparison for retention, a parser of redis-py): now and then.

    Nothing else collects what lived longer than from one call to the next: `GARBAGE` is never reached.
    """
    gc.collect(1)


def give_back() -> None:
    """All that is in cycles; and glibc keeps what was freed, most of it for ever. Elsewhere it does not."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
