"""Reads and writes timestamps, in milliseconds since 1970: ISO 8601, numbers since 1970, strptime patterns. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from bridge.core.model import shown

Clock = Callable[[Sequence[bytes]], list[int]]
"""Reads many timestamps into milliseconds since 1970, 0: none; raises ValueError when one of them is no timestamp."""

EPOCHS = {"epoch_s": 1, "epoch_ms": 1_000, "epoch_us": 1_000_000, "epoch_ns": 1_000_000_000}
"""The values of `format.timestamp` that are numbers since 1970, each with how many make a second."""

_LIMIT_MS = 1 << 53
_MOST_DIGITS = 20
LEAP = 9
"""So many successive years hold one with a 29 February."""

AHEAD = timedelta(minutes=1)
"""How far a time without a year may lie ahead of the clock, as another machine's clock may be ahead."""

_UTC_NAMES = ("UTC", "GMT", "Z")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)?(?::?\d\d(?:\.\d+)?)?")
_ISO_ZONE = re.compile(r"(.*\d) ?([+-]\d\d(?::?\d\d)?|[A-Za-z]{1,6})", re.DOTALL)
"""A time in ISO 8601, and a zone behind it that `datetime.fromisoformat` does not know: by name, or behind a blank."""

_LEAP_SECOND = re.compile(r"(:\d\d:)60(?!\d)")
_LONG_FRACTION = re.compile(r"([.,:]\d{6})\d+")


class UnknownZone(ValueError):
    """Raised for a timestamp with an abbreviated time zone that `format.zones` does not tell: nobody guesses it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def not_understood(raw: bytes, error: ValueError) -> str:
    """Makes the reason why a message is rejected whose timestamp is `raw` and could not be read for this error."""
    if isinstance(error, UnknownZone):
        return f"time zone {error.name} is not in format.zones: {shown(raw, 40)}"
    return "timestamp not understood: " + shown(raw, 40)


def or_none(clock: Clock) -> Clock:
    """Makes a reader of timestamps that gives 0, no time, for an empty one, and else reads as `clock` does."""

    def read(raws: Sequence[bytes]) -> list[int]:
        if b"" not in raws:
            return clock(raws)
        told = iter(clock([raw for raw in raws if raw]))
        return [next(told) if raw else 0 for raw in raws]

    return read


BEGIN, MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
"""What times are counted from, and in: as whole numbers, since a float is a millisecond short from 2038 on."""


def clock_for(
    pattern: str, zone_name: str, zones: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Clock:  # fmt: skip
    """Makes the reader of timestamps written as `format.timestamp` says.

    A time that names no zone is taken in the zone `zone_name`, its year from `now`. `zones` are the offsets, such as
    `+02:00`, of abbreviations that the timestamps use.
    """
    zone = zone_of(zone_name)
    offsets = {name: offset_of(offset) for name, offset in (zones or {}).items()}
    if pattern == "iso8601":

        def iso(raws: Sequence[bytes]) -> list[int]:
            if not raws:
                return []
            # One decode for all: a timestamp out of a line holds no newline.
            texts = b"\n".join(raws).decode("ascii").split("\n")
            try:
                moments = map(datetime.fromisoformat, texts)
                return [(m - BEGIN) // MILLISECOND if m.tzinfo else _ms(m, zone) for m in moments]
            except ValueError:
                return [_iso(text, zone, offsets) for text in texts]

        return iso
    if pattern in EPOCHS:
        return lambda raws: [_epoch(raw, EPOCHS[pattern]) for raw in raws]
    dated = re.search("%[YyGcDxs]", pattern) is not None
    if "%Z" not in pattern and dated:

        def plain(raws: Sequence[bytes]) -> list[int]:
            texts = [raw.decode("utf-8") for raw in raws]
            try:
                return [_ms(datetime.strptime(text, pattern), zone) for text in texts]
            except ValueError:
                return [_by_pattern(text, pattern, zone, offsets, None) for text in texts]

        return plain
    return lambda raws: [
        _by_pattern(raw.decode("utf-8"), pattern, zone, offsets, None if dated else now()) for raw in raws
    ]


def offset_of(text: str) -> tzinfo:
    """Returns the time zone of an offset such as `+02:00`, `+0200` or `+02`. Raises ValueError."""
    found = _OFFSET.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no offset such as +02:00")
    ahead = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
    return timezone(-ahead if found[1] == "-" else ahead)


def _named_zone(name: str, offsets: Mapping[str, tzinfo]) -> tzinfo:
    """Returns the time zone of an abbreviation or an offset as a timestamp has it. Raises UnknownZone, ValueError."""
    if name in offsets:
        return offsets[name]
    if name.upper() in _UTC_NAMES:
        return UTC
    if name[0] in "+-":
        return offset_of(name)
    raise UnknownZone(name)


def _leap_second(text: str) -> tuple[str, int]:
    """Takes a leap second, `:60`, as the second before it and 1,000 ms; returns the text without it, and those ms."""
    whole, count = _LEAP_SECOND.subn(r"\g<1>59", text, count=1)
    return whole, 1000 * count


def _iso(text: str, zone: tzinfo, offsets: Mapping[str, tzinfo]) -> int:
    """Reads a timestamp in ISO 8601 or RFC 3339 in full: `t`, `z`, `:60`, and a zone behind a blank or by its name.

    Raises ValueError.
    """
    text, more = _leap_second(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        found = _ISO_ZONE.fullmatch(text)
        if found is None:
            raise
        moment = datetime.fromisoformat(found[1])
        if moment.tzinfo is not None:
            raise
        moment = moment.replace(tzinfo=_named_zone(found[2], offsets))
    return _ms(moment, zone) + more


def _by_pattern(text: str, pattern: str, zone: tzinfo, offsets: Mapping[str, tzinfo], now: datetime | None) -> int:
    """Reads a timestamp by a strptime pattern; with `now`, the year or the day is found by the clock.

    An abbreviated zone (`%Z`) is looked up in `offsets`. Digits beyond microseconds are dropped. Raises ValueError.
    """
    text, more = _leap_second(text)
    if "%f" in pattern:
        text = _LONG_FRACTION.sub(r"\1", text)
    if "%Z" in pattern:
        text, pattern, zone = _without_zone(text, pattern, offsets)
    moment = datetime.strptime(text, pattern) if now is None else _recent(text, pattern, zone, now)
    return _ms(moment, zone) + more


def _without_zone(text: str, pattern: str, offsets: Mapping[str, tzinfo]) -> tuple[str, str, tzinfo]:
    """Takes the word at `%Z` out of a timestamp and its pattern; returns both, and the zone that it names.

    Raises ValueError.
    """
    words, parts = text.split(), pattern.split()
    at = next(n for n, part in enumerate(parts) if "%Z" in part)
    before, _, after = parts[at].partition("%Z")
    found = re.fullmatch(f"(.*?)([A-Za-z]+){re.escape(after)}", words[at]) if len(words) == len(parts) else None
    if found is None:
        raise ValueError("it has another form than the pattern")
    words[at], parts[at] = found[1] + after, before + after
    return " ".join(words), " ".join(parts), _named_zone(found[2], offsets)


def shown_time(pattern: str, zone_name: str, moment: datetime) -> str:
    """Writes a moment as a timestamp in a mapping's `format.timestamp`; `iso8601` in UTC, to the millisecond."""
    if pattern == "iso8601":
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if pattern in EPOCHS:
        ms = (moment - BEGIN) // MILLISECOND
        return f"{ms // 1000}.{ms % 1000:03}" if pattern == "epoch_s" else str(ms * (EPOCHS[pattern] // 1000))
    return moment.astimezone(zone_of(zone_name)).strftime(pattern)


def _recent(text: str, pattern: str, zone: tzinfo, now: datetime) -> datetime:
    """Reads a timestamp that names no year: takes the latest time that is not to come.

    A timestamp that names no day is of the last 24 h. Raises ValueError.
    """
    here, latest = now.astimezone(zone), now + AHEAD
    if not re.search("%[dmbBjUW]", pattern):
        moment = datetime.strptime(f"{here:%Y-%m-%d} {text}", f"%Y-%m-%d {pattern}")
        return moment if _in_zone(moment, zone) <= latest else moment - timedelta(days=1)
    for year in range(here.year + 1, here.year - LEAP, -1):
        try:
            moment = datetime.strptime(f"{year} {text}", f"%Y {pattern}")
        except ValueError:  # also 29 February of most years
            if year > here.year - LEAP + 1:
                continue
            raise
        if _in_zone(moment, zone) <= latest:
            return moment
    raise ValueError("no such date")


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def zone_of(name: str) -> tzinfo:
    """Returns the time zone in which timestamps are read, by its name; UTC needs no time zone database.

    Raises ValueError, OSError or KeyError when it is not known.
    """
    return UTC if name == "UTC" else ZoneInfo(name)


def _ms(moment: datetime, zone: tzinfo) -> int:
    # OverflowError: a zone that pushes year 1 or 9999 out of range.
    try:
        return (_in_zone(moment, zone) - BEGIN) // MILLISECOND
    except (OverflowError, OSError):
        raise ValueError("the time is out of range") from None


def _epoch(raw: bytes, per_second: int) -> int:
    whole, dot, fraction = raw.partition(b".")
    if not whole.removeprefix(b"-").isdigit() or (dot and not fraction.isdigit()):
        raise ValueError("not a number")
    value = int(whole) if len(whole) <= _MOST_DIGITS else _LIMIT_MS * per_second
    if per_second == 1:
        part = int(fraction[:3].ljust(3, b"0")) if dot else 0
        value = value * 1000 + (-part if raw.startswith(b"-") else part)
    else:
        value //= per_second // 1000
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
