"""Piece times: the earliest and the latest time that the lines near a piece's beginning and end tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.files.generation import Generation
from bridge.files.piece_age import TimeSpan

END_BYTES = 1 << 16
"""Bytes at the beginning of a piece, and at its end, from whose lines times are read."""

ENDS = 1 << 12
"""Bytes at both ends of a piece that mostly hold its first and its last message."""

SLACK = 86_400_000
"""Milliseconds by which a line may be younger than its file's last change: zones and clocks differ by so much."""

Times = Callable[[Sequence[bytes]], Sequence[int]]
"""Reads the times of lines, in ms since 1970, 0 of a line that tells none."""


def first_and_last(file: Generation, times: Times) -> TimeSpan | None:
    """Reads the first and the last time that the lines at the ends of a piece tell; None: no line there tells one.

    A compressed file is unpacked to its end for it. Raises SourceError.
    """
    size = file.size()
    for sample in (ENDS, END_BYTES):
        first = file.read(sample, 0)
        last = file.read(sample, max(0, size - sample))
        whole = first.split(b"\n") if len(first) == size else [*first.split(b"\n")[:-1], *last.split(b"\n")[1:]]
        told = [time for time in times([line for line in whole if line]) if time > 0]
        if told:
            return told[0], told[-1]
    return None


def span_of(file: Generation, times: Times) -> TimeSpan | None:
    """Reads the earliest and the latest time that the lines at both ends of a piece tell; None: no line tells one.

    A time that lies after the last change of the file does not count: no line was written at it. A compressed file is
    unpacked to its end for it. Raises SourceError.
    """
    if file.content is None:
        return None
    first = file.read(END_BYTES, 0)
    lines = first.split(b"\n")[:-1]
    if len(first) == END_BYTES:
        size = file.size()
        lines += file.read(END_BYTES, max(len(first), size - END_BYTES)).split(b"\n")[1:-1]
    latest = file.content.stat().st_ctime_ns // 1_000_000 + SLACK
    told = [time for time in times([line for line in lines if line]) if 0 < time <= latest]
    return (min(told), max(told)) if told else None
