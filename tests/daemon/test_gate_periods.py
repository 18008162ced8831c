"""Calendar periods in every time zone."""

from datetime import UTC, datetime
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.config.schema import Calendar, Period
from tollway.daemon.gate import periods

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe",
         "America/Santiago", "Pacific/Apia", "Africa/Casablanca"]  # fmt: skip
QUARTER_MS = 15 * 60 * 1000


def _ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


moments = st.integers(_ms("2020-01-01"), _ms("2035-12-31"))
calendar = st.sampled_from([period for period in get_args(Calendar) if period != "total"])


@given(calendar, moments, st.sampled_from(ZONES))
def test_periods_tile_time(period: Period, at_ms: int, zone: str) -> None:
    """Every moment lies in exactly one period, and the next begins where it ends."""
    start, end = periods.window(period, at_ms, ZoneInfo(zone))
    assert start <= at_ms < end
    assert periods.window(period, start, ZoneInfo(zone)) == (start, end)
    assert periods.window(period, end - 1, ZoneInfo(zone)) == (start, end)
    assert periods.window(period, end, ZoneInfo(zone))[0] == end


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-10-25"),
        ("Pacific/Chatham", "2026-04-05"),  # from 3:45 back to 2:45: the hour begins before that
        ("Antarctica/Troll", "2026-10-25"),  # two hours back
        ("Australia/Lord_Howe", "2026-04-05"),  # half an hour
        ("America/St_Johns", "2011-03-13"),  # on, a minute past midnight
        ("America/Havana", "2026-11-01"),  # back to midnight
    ],
)
@pytest.mark.parametrize("period", ["hour", "day", "week", "month"])
def test_periods_tile_the_day_on_which_the_clocks_change(
    period: Period, zone: str, day: str
) -> None:
    """An hour without end would be a budget without end: each call had one of its own."""
    for at_ms in range(_ms(day) - 24 * 4 * QUARTER_MS, _ms(day) + 48 * 4 * QUARTER_MS, QUARTER_MS):
        start, end = periods.window(period, at_ms, ZoneInfo(zone))
        assert start <= at_ms < end
        assert periods.window(period, start, ZoneInfo(zone)) == (start, end)
        assert periods.window(period, end - 1, ZoneInfo(zone)) == (start, end)
        assert periods.window(period, end, ZoneInfo(zone))[0] == end


@given(calendar, moments, st.sampled_from(ZONES))
def test_periods_begin_on_a_quarter_of_an_hour(period: Period, at_ms: int, zone: str) -> None:
    """The ledger's roll-ups are by quarters of an hour, so a period's sum is a sum of them."""
    assert periods.window(period, at_ms, ZoneInfo(zone))[0] % QUARTER_MS == 0


@pytest.mark.parametrize(
    ("period", "at", "start", "end"),
    [
        ("day", "2026-03-29T12:00", "2026-03-29", "2026-03-30"),  # 23 hours: the clocks go on
        ("day", "2026-10-25T12:00", "2026-10-25", "2026-10-26"),  # 25 hours: they go back
        ("week", "2026-11-22T23:59", "2026-11-16", "2026-11-23"),  # Monday to Monday
        ("month", "2028-02-29T00:00", "2028-02-01", "2028-03-01"),
        ("month", "2026-12-31T23:59", "2026-12-01", "2027-01-01"),
    ],
)
def test_periods_in_berlin(period: Period, at: str, start: str, end: str) -> None:
    """Days begin at local midnight, also when the clocks change."""
    zone = "Europe/Berlin"
    found = periods.window(period, _ms(at, zone), ZoneInfo(zone))
    assert found == (_ms(start, zone), _ms(end, zone))


def test_the_repeated_hour_is_one() -> None:
    """When the clocks go back, the hour that comes twice is one period of two hours."""
    zone = ZoneInfo("Europe/Berlin")
    first = int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp() * 1000)
    start, end = periods.window("hour", first, zone)
    assert end - start == 2 * 3_600_000
    assert periods.window("hour", first + 3_600_000, zone) == (start, end)


def test_a_total_never_ends() -> None:
    """A budget in total has one period, and says no date on which it turns over."""
    start, end = periods.window("total", _ms("2026-01-01"), ZoneInfo("UTC"))
    assert (start, periods.text(end, ZoneInfo("UTC"))) == (0, "")
