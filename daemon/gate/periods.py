"""Calendar periods in a time zone: where one begins and the next one does."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tollway.daemon.config.schema import Period

# The end of a period that never ends, in unix milliseconds: the year 9999.
FOR_EVER = 253_402_300_799_000


def _millis(day: datetime, zone: ZoneInfo) -> int:
    """Return midnight of a local day; where a DST gap swallows it, the first moment after."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    return int(local.astimezone(UTC).timestamp() * 1000)


def window(period: Period, at_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the period that holds a moment, as [start, end) in unix milliseconds.

    Days begin at local midnight, weeks on Monday. An hour is 60 minutes of real time that
    begin on the zone's full hour, so the repeated hour of a DST change is one hour of two.
    """
    if period == "total":
        return 0, FOR_EVER
    local = datetime.fromtimestamp(at_ms / 1000, zone)
    if period == "hour":
        return _hour(local, zone)
    start = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "week":
        start -= timedelta(days=local.weekday())
    if period == "month":
        start = start.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    else:
        end = start + timedelta(days=7 if period == "week" else 1)
    return _millis(start, zone), _millis(end, zone)


def _hour(local: datetime, zone: ZoneInfo) -> tuple[int, int]:
    start = local.replace(minute=0, second=0, microsecond=0, fold=0)
    end = (start.replace(tzinfo=None) + timedelta(hours=1)).replace(tzinfo=zone, fold=0)
    return int(start.timestamp() * 1000), int(end.timestamp() * 1000)


def text(end_ms: int, zone: ZoneInfo) -> str:
    """Return when a period ends, for a person: "2026-12-01 00:00 UTC"; "" for never."""
    if end_ms >= FOR_EVER:
        return ""
    return datetime.fromtimestamp(end_ms / 1000, zone).strftime("%Y-%m-%d %H:%M %Z")
