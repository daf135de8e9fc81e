"""Reads and writes timestamps, in milliseconds since 1970: ISO 8601, epoch seconds and ms, strptime patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

Clock = Callable[[Sequence[bytes]], list[int]]
"""Reads many timestamps into milliseconds since 1970; raises ValueError (or a subclass) when one of them is none."""

_LIMIT_MS = 1 << 53
LEAP = 9
"""So many successive years hold one with a 29 February."""


def clock_for(pattern: str, timezone: str, now: Callable[[], datetime] = datetime.now) -> Clock:
    """Makes the reader of timestamps written as `format.timestamp` says.

    A time that names no zone is taken in `timezone`, its year from `now`.
    """
    zone = zone_of(timezone)
    if pattern == "iso8601":

        def iso(raws: Sequence[bytes]) -> list[int]:
            # One decode for all: a timestamp out of a line holds no newline.
            moments = map(datetime.fromisoformat, b"\n".join(raws).decode("ascii").split("\n"))
            return [int(m.timestamp() * 1000) if m.tzinfo else _ms(m, zone) for m in moments] if raws else []

        return iso
    if pattern in ("epoch_s", "epoch_ms"):
        scale = 1000 if pattern == "epoch_s" else 1
        return lambda raws: [_epoch(raw, scale) for raw in raws]
    if not re.search("%[YyGcDxs]", pattern):
        return lambda raws: [_ms(_recent(raw.decode("utf-8"), pattern, now()), zone) for raw in raws]
    return lambda raws: [_ms(datetime.strptime(raw.decode("utf-8"), pattern), zone) for raw in raws]


def shown_time(pattern: str, timezone: str, moment: datetime) -> str:
    """Writes a moment as a timestamp in a mapping's `format.timestamp`; `iso8601` in UTC, to the millisecond."""
    if pattern == "iso8601":
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if pattern in ("epoch_s", "epoch_ms"):
        ms = int(moment.timestamp() * 1000)
        return str(ms) if pattern == "epoch_ms" else f"{ms // 1000}.{ms % 1000:03}"
    return moment.astimezone(zone_of(timezone)).strftime(pattern)


def _recent(text: str, pattern: str, now: datetime) -> datetime:
    """Reads a timestamp that names no year: takes the latest time that is not after tomorrow.

    A timestamp that names no day is of the last 24 h. Raises ValueError.
    """
    if not re.search("%[dmbBjUW]", pattern):
        moment = datetime.strptime(f"{now:%Y-%m-%d} {text}", f"%Y-%m-%d {pattern}")
        return moment if moment.replace(tzinfo=None) <= now else moment - timedelta(days=1)
    for year in range(now.year + 1, now.year - LEAP, -1):
        try:
            moment = datetime.strptime(f"{year} {text}", f"%Y {pattern}")
        except ValueError:  # also 29 February of most years
            if year > now.year - LEAP + 1:
                continue
            raise
        if moment.replace(tzinfo=None) <= now + timedelta(days=1):
            return moment
    raise ValueError("no such date")


def zone_of(name: str) -> tzinfo:
    """Returns the time zone in which timestamps are read, by its name; UTC needs no time zone database.

    Raises ValueError, OSError or KeyError when it is not known.
    """
    return UTC if name == "UTC" else ZoneInfo(name)


def _ms(moment: datetime, zone: tzinfo) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    # OverflowError: a zone that pushes year 1 or 9999 out of range.
    try:
        return int(moment.timestamp() * 1000)
    except (OverflowError, OSError):
        raise ValueError("the time is out of range") from None


def _epoch(raw: bytes, scale: int) -> int:
    whole, dot, fraction = raw.partition(b".")
    if not whole.removeprefix(b"-").isdigit() or (dot and not fraction.isdigit()):
        raise ValueError("not a number")
    value = int(whole[:20]) * scale
    if dot and scale == 1000:
        part = int(fraction[:3].ljust(3, b"0"))
        value += -part if raw.startswith(b"-") else part
    if abs(value) > _LIMIT_MS:
        raise ValueError("the time is out of range")
    return value


def older(raw: bytes, other: bytes) -> bool:
    """Whether one timestamp is before another, as far as both are ISO 8601, or seconds or milliseconds since 1970.

    One in whole seconds is before no other time of the same second.
    """
    times = []
    for stamp in (raw, other):
        try:
            if re.fullmatch(rb"\d{9,14}(\.\d+)?", stamp):
                number = float(stamp)
                times.append(number / 1000 if number > 1e11 else number)
            else:
                moment = datetime.fromisoformat(stamp.decode("ascii"))
                times.append((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            return False
    whole = re.fullmatch(rb"\d{9,11}|[^.,]*[T ][^.,]*", raw) is not None
    return times[0] < (times[1] // 1 if whole else times[1])
