"""The forms that times have in logs of the world, read to the millisecond or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.core.codecs.timestamps import EPOCHS, UnknownZone, clock_for, shown_time
from bridge.core.errors import ConfigError
from bridge.core.mapping import Mapping
from bridge.core.strict_models import validated

AT = 1772359200000  # 2026-03-01T10:00:00Z
ZONES = {"CEST": "+02:00", "EST": "-0500", "IST": "+0530"}


@pytest.mark.parametrize(
    ("pattern", "raw", "ms"),
    [
        # RFC 3339 in full
        ("iso8601", "2026-03-01t10:00:00z", AT),
        ("iso8601", "2026-03-01T10:00:00z", AT),
        ("iso8601", "2026-03-01 10:00:00Z", AT),
        ("iso8601", "2026-03-01T12:00:00+02:00", AT),
        ("iso8601", "2026-03-01T12:00:00+0200", AT),
        ("iso8601", "2026-03-01T12:00:00+02", AT),
        ("iso8601", "2026-03-01T04:30:00-05:30", AT),
        ("iso8601", "2026-03-01T10:00:00.1Z", AT + 100),
        ("iso8601", "2026-03-01T10:00:00,123Z", AT + 123),
        ("iso8601", "2026-03-01T10:00:00.123456789Z", AT + 123),
        ("iso8601", "2026-03-01t10:00:00,123456789z", AT + 123),
        ("iso8601", "2026-12-31T23:59:60Z", 1798761600000),
        ("iso8601", "2026-12-31T23:59:60.25z", 1798761600250),
        ("iso8601", "2027-01-01T01:59:60+02:00", 1798761600000),
        ("iso8601", "2026-12-31 23:59:60", 1798761600000),
        # a zone behind a blank, or by its name
        ("iso8601", "2026-03-01 12:00:00 +0200", AT),
        ("iso8601", "2026-03-01 12:00:00 +02", AT),
        ("iso8601", "2026-03-01 12:00:00 +02:00", AT),
        ("iso8601", "2026-03-01 12:00:00,250 +0200", AT + 250),
        ("iso8601", "2026-03-01 10:00:00 Z", AT),
        ("iso8601", "2026-03-01 10:00:00 UTC", AT),
        ("iso8601", "2026-03-01 10:00:00.123 GMT", AT + 123),
        ("iso8601", "2026-03-01T10:00:00UTC", AT),
        ("iso8601", "2026-03-01 12:00:00.5 CEST", AT + 500),
        ("iso8601", "2026-03-01 05:00:00 EST", AT),
        ("iso8601", "2026-03-01 15:30:00 IST", AT),
        ("iso8601", "2026-12-31 23:59:60 UTC", 1798761600000),
        # numbers since 1970
        ("epoch_s", "1772359200", AT),
        ("epoch_s", "1772359200.5", AT + 500),
        ("epoch_s", "-1.5", -1500),
        ("epoch_ms", "1772359200123", AT + 123),
        ("epoch_us", "1772359200123456", AT + 123),
        ("epoch_ns", "1772359200123456789", AT + 123),
        # what programs write by default
        ("%d/%b/%Y:%H:%M:%S %z", "01/Mar/2026:12:00:00 +0200", AT),  # Apache, nginx: access
        ("%a %b %d %H:%M:%S.%f %Y", "Sun Mar 01 10:00:00.123456 2026", AT + 123),  # Apache: error
        ("%Y/%m/%d %H:%M:%S", "2026/03/01 10:00:00", AT),  # nginx: error; Go: log
        ("%Y/%m/%d %H:%M:%S.%f", "2026/03/01 10:00:00.123456", AT + 123),  # Go: log.Lmicroseconds
        ("%a %b %d %H:%M:%S %Z %Y", "Sun Mar  1 12:00:00 CEST 2026", AT),  # date(1); Java: Date.toString; Go: UnixDate
        ("%a %b %d %H:%M:%S %Z %Y", "Sun Mar  1 10:00:00 UTC 2026", AT),
        ("%a, %d %b %Y %H:%M:%S %Z", "Sun, 01 Mar 2026 10:00:00 GMT", AT),  # RFC 1123
        ("[%d/%b/%Y:%H:%M:%S %Z]", "[01/Mar/2026:12:00:00 CEST]", AT),
        ("%Y-%m-%dT%H:%M:%S%Z", "2026-03-01T12:00:00CEST", AT),
        ("%Y-%m-%d %H:%M:%S,%f", "2026-03-01 10:00:00,123", AT + 123),  # Python: %(asctime)s
        ("%Y-%m-%d %H:%M:%S.%f", "2026-03-01 10:00:00.123456789", AT + 123),
        ("%d.%m.%Y %H:%M:%S", "31.12.2026 23:59:60", 1798761600000),
    ],
)
def test_forms_of_times(pattern: str, raw: str, ms: int) -> None:
    """Each form is read to the millisecond, alone and in a batch with times in the plainest form."""
    clock = clock_for(pattern, "UTC", ZONES)
    assert clock([raw.encode()]) == [ms]
    plain = shown_time(pattern, "UTC", datetime.fromtimestamp(AT / 1000, UTC)).encode()
    if "%Z" not in pattern:
        assert clock([plain, raw.encode(), plain]) == [AT, ms, AT]


@pytest.mark.parametrize(
    ("pattern", "raw"),
    [
        ("iso8601", "2026-03-01 10:00:00 CET"),
        ("iso8601", "2026-03-01T10:00:00PST"),
        ("%a %b %d %H:%M:%S %Z %Y", "Sun Mar  1 10:00:00 CET 2026"),
    ],
)
def test_a_zone_that_nobody_told(pattern: str, raw: str) -> None:
    """An abbreviation that `format.zones` does not tell is never guessed: the reject names it and the key."""
    with pytest.raises(UnknownZone):
        clock_for(pattern, "UTC", ZONES)([raw.encode()])
    tables = {
        "name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "m"},
        "format": {"codec": "delimited", "delimiter": "|", "columns": ["role", "timestamp", "type", "data"],
                   "timestamp": pattern},
    }  # fmt: skip
    [row] = validated(Mapping, tables, "m.toml").codec("m.log").decode([f"r|{raw}|t|d".encode()]).rows
    assert isinstance(row, str)
    assert "is not in format.zones" in row
    assert ("CET" in row) or ("PST" in row)


@pytest.mark.parametrize(
    ("pattern", "raw"),
    [
        ("iso8601", "2026-03-01T10:00:00+02:00 CEST"), ("iso8601", "2026-03-01T10:00:61Z"), ("iso8601", "10:00:60"),
        ("iso8601", "2026-03-01 10:00:00 +99:99"), ("iso8601", "CEST"), ("iso8601", "2026-03-01 "),
        ("epoch_us", "1772359200.x"), ("epoch_ns", "9" * 25), ("epoch_ns", ""),
        ("%a %b %d %H:%M:%S %Z %Y", "Sun Mar  1 10:00:00 2026"), ("%H:%M", "23:60"),
    ],
)  # fmt: skip
def test_no_time(pattern: str, raw: str) -> None:
    """What only looks like one of the forms is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - the contract is ValueError or a subclass
        clock_for(pattern, "UTC", ZONES)([raw.encode()])


@pytest.mark.parametrize(
    ("zones", "said"), [({"CE1": "+02:00"}, "abbreviation"), ({"CEST": "2 h"}, "offset"), ({"CEST": "+2"}, "offset")]
)
def test_zones_that_are_none(zones: dict[str, str], said: str) -> None:
    """A mapping whose `format.zones` cannot be read is refused as it is loaded."""
    tables = {"name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "m"},
              "format": {"codec": "jsonl", "zones": zones}}  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        validated(Mapping, tables, "m.toml")


SYSLOG = "%b %d %H:%M:%S"
NOW = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "raw", "there"),
    [
        (NOW, "Mar  1 09:59:59", datetime(2026, 3, 1, 9, 59, 59)),
        (NOW, "Mar  1 10:00:30", datetime(2026, 3, 1, 10, 0, 30)),  # another machine's clock is ahead
        (NOW, "Mar  1 11:00:00", datetime(2025, 3, 1, 11)),  # a year ago but for 23 hours: not to come
        (NOW, "Mar  2 06:00:00", datetime(2025, 3, 2, 6)),
        (NOW, "Dec 31 23:59:59", datetime(2025, 12, 31, 23, 59, 59)),
        (NOW, "Dec 31 23:59:60", datetime(2026, 1, 1)),
        (NOW, "Feb 29 12:00:00", datetime(2024, 2, 29, 12)),
        (datetime(2024, 2, 29, 13, tzinfo=UTC), "Feb 29 12:00:00", datetime(2024, 2, 29, 12)),
        (datetime(2024, 2, 29, 11, tzinfo=UTC), "Feb 29 12:00:00", datetime(2020, 2, 29, 12)),
        (datetime(2103, 3, 1, tzinfo=UTC), "Feb 29 12:00:00", datetime(2096, 2, 29, 12)),  # 2100 has none
        (datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC), "Dec 31 23:59:59", datetime(2025, 12, 31, 23, 59, 59)),
        (datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC), "Jan  1 00:00:00", datetime(2026, 1, 1)),
    ],
)
def test_a_time_without_a_year(now: datetime, raw: str, there: datetime) -> None:
    """A time without a year is the latest such time that is not to come, over New Year and leap days."""
    want = int(there.replace(tzinfo=UTC).timestamp() * 1000)
    assert clock_for(SYSLOG, "UTC", now=lambda: now)([raw.encode()]) == [want]


def test_the_year_in_another_zone_than_the_clock() -> None:
    """Whether a time is still to come is judged in the zone of the lines, not in that of the machine."""
    now = datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))  # 23:30 UTC, in the old year
    [ms] = clock_for(SYSLOG, "Asia/Tokyo", now=lambda: now)([b"Jan  1 08:30:00"])
    assert ms == int(datetime(2025, 12, 31, 23, 30, tzinfo=UTC).timestamp() * 1000)
    [ms] = clock_for("%H:%M:%S", "Asia/Tokyo", now=lambda: now)([b"08:29:00"])
    assert ms == int(datetime(2025, 12, 31, 23, 29, tzinfo=UTC).timestamp() * 1000)


@given(
    st.lists(st.datetimes(datetime(2025, 3, 2, 10), datetime(2026, 3, 1, 10)).map(lambda at: at.replace(microsecond=0)),
             min_size=2, max_size=30)
)  # fmt: skip
def test_a_year_of_a_log_without_years_keeps_its_order(moments: Sequence[datetime]) -> None:
    """All times of the last year come back as they were, from whichever day of it."""
    ordered = sorted(moments)
    times = clock_for(SYSLOG, "UTC", now=lambda: NOW)([f"{at:%b %d %H:%M:%S}".encode() for at in ordered])
    assert times == [int(at.replace(tzinfo=UTC).timestamp() * 1000) for at in ordered]
    assert all(before <= after for before, after in pairwise(times))


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.sampled_from(["iso8601", *EPOCHS]))
@example(datetime(2038, 2, 1, 0, 0, 0, 910_001), "iso8601")
def test_a_shown_time_is_read_again(moment: datetime, pattern: str) -> None:
    """What the bridge writes as a timestamp in a mapping's form, it reads as the same millisecond."""
    moment = moment.replace(tzinfo=UTC)
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert clock_for(pattern, "UTC")([shown_time(pattern, "UTC", moment).encode()]) == [exact]
