"""Wording of counts, sizes, durations and times of day, the same in all printed output. Pure, but for the time zone."""

from __future__ import annotations

import time


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Words a number together with its noun: `1 line`, `1,204 lines`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def size(number: int) -> str:
    """Words a number of bytes as a size: `512 bytes`, `1.4 MiB`."""
    if number < 1024:
        return counted(number, "byte")
    power = min(4, (number.bit_length() - 1) // 10)
    scaled = number / 1024**power
    return f"{scaled:.{1 if scaled < 10 else 0}f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def percent(part: int, whole: int) -> str:
    """Words a share: `99.9 %`. Only all of it is `100 %`: what is left of nearly all is never rounded away."""
    if part >= whole:
        return "100 %"
    return f"{part * 1000 // whole / 10:.1f} %"


def duration(seconds: float) -> str:
    """Words a number of seconds as a duration, in about two digits: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 days`."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < 100 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def clock(moment: float, now: float) -> str:
    """Words a moment as the local time of day, with the date when it is another day than `now`."""
    then = time.localtime(moment)
    same = time.strftime("%Y-%m-%d", then) == time.strftime("%Y-%m-%d", time.localtime(now))
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", then)
