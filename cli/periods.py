"""The stretch of time that a report is about, from how a person says it."""

import re
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec

from tollway.cli.boundary import UsageProblem
from tollway.daemon.config import shown
from tollway.daemon.ledger.schema import QUARTER_MS
from tollway.daemon.ledger.spend import midnight_ms

_SPANS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_DAY = timedelta(days=1)
_FIRST = date(1900, 1, 1)  # what is compared with begins then at the earliest: far from year 0
_UNITS = {"today": "day", "yesterday": "day", "week": "week", "month": "month"}


class Period(msgspec.Struct, frozen=True):
    """From `since_ms` to before `until_ms`, in unix milliseconds; days are those of `tz`.

    Both lie on quarters of an hour, which is what the ledger's roll-ups can tell. `unit` is
    "day", "week" or "month" where the calendar says how it begins, else "". `open` says that it
    ends now, and so is not over.
    """

    since_ms: int
    until_ms: int
    tz: ZoneInfo
    unit: str = ""
    open: bool = False

    @property
    def text(self) -> str:
        """The period for people: "2026-11-01 00:00 to 2026-11-22 15:15 UTC"."""
        first, last = (_local(ms, self.tz) for ms in (self.since_ms, self.until_ms))
        return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} {self.tz.key}"

    @property
    def since(self) -> str:
        """The beginning, in ISO 8601."""
        return _local(self.since_ms, self.tz).isoformat()

    @property
    def until(self) -> str:
        """The end, in ISO 8601."""
        return _local(self.until_ms, self.tz).isoformat()


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its name.

    Raises:
        UsageProblem: There is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise UsageProblem(
            f"There is no time zone `{name}`{shown.meant(name, available_timezones())}",
            hint="Name one as `Europe/Berlin` or `UTC`",
        ) from fault


def period(since: str, until: str | None, tz: ZoneInfo, now_ms: int) -> Period:
    """Return the period between what a person wrote; without `until` it ends now.

    A day in `until` is in the period. The ends are moved outwards to quarters of an hour.

    Raises:
        UsageProblem: One of them cannot be read, or the period would be empty.
    """
    begin_ms = moment(since, tz, now_ms, "--since")
    end_ms = now_ms if until is None else moment(until, tz, now_ms, "--until", whole_day=True)
    first = begin_ms // QUARTER_MS * QUARTER_MS
    last = -(-end_ms // QUARTER_MS) * QUARTER_MS
    require_some(begin_ms, end_ms, tz)
    unit = _UNITS.get(since.strip().lower(), "")
    return Period(first, last, tz, unit or _unit(first, last, tz), until is None)


def _unit(first_ms: int, last_ms: int, tz: ZoneInfo) -> str:
    """Return "month" for whole months, "day" for whole days, else ""."""
    first, last = _local(first_ms, tz), _local(last_ms, tz)
    if any(midnight_ms(at.date(), tz) != int(at.timestamp()) * 1000 for at in (first, last)):
        return ""
    return "month" if first.day == last.day == 1 else "day"


def before(asked: Period) -> tuple[Period, str]:
    """Return the period to compare with, and which one it is in words.

    Of calendar days, weeks and months it is as many of them before, up to the same local time;
    of anything else the same length of time.
    """
    tz, unit = asked.tz, asked.unit
    if not unit:
        length = asked.until_ms - asked.since_ms
        return Period(asked.since_ms - length, asked.since_ms, tz), "the same length of time before"
    first, last = _local(asked.since_ms, tz), _local(asked.until_ms, tz)
    final = _local(asked.until_ms - 1, tz).date()
    count, begin = _back(first.date(), final, unit)
    days = (last.date() - first.date()).days
    at = datetime.combine(begin + days * _DAY, last.time(), tz)
    since_ms = midnight_ms(begin, tz)
    until_ms = min(int(at.timestamp()) // 900 * QUARTER_MS, asked.since_ms)
    if unit == "month" and last == datetime(last.year, last.month, 1, tzinfo=tz):
        until_ms = asked.since_ms  # whole months, however long each
    many = f"{count} {unit}s" if count > 1 else unit
    some = "" if until_ms == asked.since_ms else ", to the same time"
    return Period(since_ms, until_ms, tz, unit), f"the {many} before{some}"


def _back(first: date, final: date, unit: str) -> tuple[int, date]:
    """Return how many units two days and what lies between touch, and the day so many before."""
    if unit == "month":
        count = (final.year - first.year) * 12 + final.month - first.month + 1
        month = max(first.year * 12 + first.month - 1 - count, _FIRST.year * 12)
        return count, date(month // 12, month % 12 + 1, 1)
    size = 7 if unit == "week" else 1
    count = (final - first).days // size + 1
    return count, first - min(count * size, (first - _FIRST).days) * _DAY


def end_of(asked: Period) -> int | None:
    """Return when the day, week or month that is under way ends, in unix milliseconds, or None."""
    if not asked.open or not asked.unit:
        return None
    today = _local(asked.until_ms - 1, asked.tz).date()
    if _back(_local(asked.since_ms, asked.tz).date(), today, asked.unit)[0] > 1:
        return None  # more than one of them: "yesterday", until now
    if asked.unit == "month":
        return midnight_ms((today.replace(day=1) + 32 * _DAY).replace(day=1), asked.tz)
    left = 7 - today.weekday() if asked.unit == "week" else 1
    return midnight_ms(today + left * _DAY, asked.tz)


def require_some(begin_ms: int, end_ms: int, tz: ZoneInfo | None) -> None:
    """Return where there is time between two moments.

    Raises:
        UsageProblem: There is none.
    """
    if begin_ms >= end_ms:
        raise UsageProblem(
            f"The period is empty: it would begin at {_local(begin_ms, tz):%Y-%m-%d %H:%M}"
            f" and end at {_local(end_ms, tz):%Y-%m-%d %H:%M}",
            hint="`--since` must be before `--until`, and before now",
        )


def moment(
    text: str, tz: ZoneInfo | None, now_ms: int, option: str, *, whole_day: bool = False
) -> int:
    """Return a moment in unix milliseconds; of a day its beginning, or its end if `whole_day`.

    So it is of a month (`2026-11`). Without `tz` days are those of this box. Before 1970 there is
    none: it is 0 then.

    Raises:
        UsageProblem: It cannot be read.
    """
    said = text.strip().lower()
    if found := _SPAN.fullmatch(said):
        return max(0, now_ms - int(found[1]) * _SPANS_MS[found[2]])
    today = _local(now_ms, tz).date()
    words = {"today": today, "yesterday": today - _DAY}
    if not whole_day:
        words |= {"week": today - today.weekday() * _DAY, "month": today.replace(day=1)}
    try:
        day = words.get(said) or _date(said, last=whole_day)
        if day:
            return max(0, midnight_ms(day + _DAY if whole_day else day, tz))
        at = datetime.fromisoformat(text.strip())
        return max(0, int((at if at.tzinfo else at.replace(tzinfo=tz)).timestamp() * 1000))
    except (ValueError, OverflowError) as fault:
        raise UsageProblem(
            f"`{option} {text}` is no moment{shown.meant(said, words)}",
            hint=f"Say `7d`, `12h`, `{'`, `'.join(words)}`, `2026-11`, `2026-11-01`"
            " or `2026-11-01T15:00`",
        ) from fault


def _date(text: str, *, last: bool) -> date | None:
    """Return a day, or of a month its first or its last; None for what is neither."""
    if re.fullmatch(r"\d{4}-\d{2}", text):
        first = date.fromisoformat(f"{text}-01")
        return (first + 31 * _DAY).replace(day=1) - _DAY if last else first
    return date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None


def _local(ms: int, tz: ZoneInfo | None) -> datetime:
    return datetime.fromtimestamp(ms // 1000, tz)
