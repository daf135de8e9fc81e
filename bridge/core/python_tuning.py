"""Tunes the Python interpreter and its memory for a process that runs for months with short waits and small objects."""

from __future__ import annotations

import ctypes
import gc
import sys

SWITCH_INTERVAL = 0.0005
"""Seconds after which Python's threads hand over; Python's default of 5 ms would add to the latency of messages."""

GARBAGE = 50_000
"""Objects between two runs of the garbage collector.

A batch makes thousands of objects, none in cycles, and looking at them costs a third.
"""

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""The numbers of two options of glibc's mallopt, from malloc.h."""

LARGE_BLOCK = 64 << 10
"""Size in bytes from which on a block of memory is taken from the system, and given back to it, on its own."""


def tune_interpreter() -> None:
    """Tunes the Python interpreter for short waits and for batches of small objects, before any thread is started.

    This holds for the whole process. glibc gives each thread a heap of its own, and keeps in each heap the largest
    amount that a batch ever took. One heap is enough where one thread runs at a time. By default glibc also puts ever
    larger blocks into the heap, as soon as one of that size was freed, and small blocks that stay come to lie between
    them.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    gc.set_threshold(GARBAGE)
    limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if limit is not None:
        limit(M_ARENA_MAX, 1)
        limit(M_MMAP_THRESHOLD, LARGE_BLOCK)


def collect() -> None:
    """Runs the interpreter's garbage collector over the younger objects in reference cycles; called now and then.

    Few objects are in cycles, but they hold much (a comparison for retention, a parser of redis-py). Nothing else
    collects what lived longer than from one call to the next: `GARBAGE` is never reached.
    """
    gc.collect(1)


def give_back() -> None:
    """Runs the interpreter's garbage collector over all objects and makes glibc give freed memory back to the system.

    glibc keeps most of what was freed for ever; other C libraries do not.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
