"""Calendar periods in a time zone: where one begins and the next one does."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tollway.daemon.config.schema import Period

# The end of a period that never ends, in unix milliseconds: the year 9999.
FOR_EVER = 253_402_300_799_000
_HOUR = timedelta(hours=1)


def _millis(day: datetime, zone: ZoneInfo) -> int:
    """Return midnight of a local day; where a DST gap swallows it, the first moment after."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    return int(local.astimezone(UTC).timestamp() * 1000)


def window(period: Period, at_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the period that holds a moment, as [start, end) in unix milliseconds.

    Days begin at local midnight, weeks on Monday, hours when the clock first shows them: so the
    repeated hour of a DST change is one hour of two.
    """
    if period == "total":
        return 0, FOR_EVER
    local = datetime.fromtimestamp(at_ms / 1000, zone)
    if period == "hour":
        return _hour(local, at_ms, zone)
    start = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "week":
        start -= timedelta(days=local.weekday())
    if period == "month":
        start = start.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    else:
        end = start + timedelta(days=7 if period == "week" else 1)
    return _millis(start, zone), _millis(end, zone)


def _hour(local: datetime, at_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    shown = local.replace(tzinfo=None, minute=0, second=0, microsecond=0, fold=0)
    start, end = _first(shown, zone), _first(shown + _HOUR, zone)
    # Where the clocks do not change on the hour, or by more than one, it shows one that is over.
    while end <= at_ms:
        shown += _HOUR
        start, end = end, _first(shown + _HOUR, zone)
    while start > at_ms:
        shown -= _HOUR
        start, end = _first(shown, zone), start
    return start, end


def _first(shown: datetime, zone: ZoneInfo) -> int:
    """Return when the clock first shows a time; where a DST gap swallows it, soon after."""
    return int(shown.replace(tzinfo=zone).timestamp() * 1000)


def text(end_ms: int, zone: ZoneInfo) -> str:
    """Return when a period ends, for a person: "2026-12-01 00:00 UTC"; "" for never."""
    if end_ms >= FOR_EVER:
        return ""
    return datetime.fromtimestamp(end_ms / 1000, zone).strftime("%Y-%m-%d %H:%M %Z")
