"""Where spending leads: a forecast from the days that are over. Pure; whole nano-dollars."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from math import isqrt
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.ledger.spend import midnight_ms
from tollway.daemon.standing import too_few

LOOK_BACK_DAYS = 28  # four of each weekday
_DAY = timedelta(days=1)
_DAY_MS = 86_400_000


class Forecast(msgspec.Struct, frozen=True):
    """What a period will have cost at its end, between `low` and `high`, in nano-dollars.

    All three are None where there is too little to go by; then `method` says so.
    """

    at_end_nanousd: int | None
    low_nanousd: int | None
    high_nanousd: int | None
    ends_ms: int
    method: str


def forecast(
    spent: int, days: Mapping[date, int], now_ms: int, ends_ms: int, tz: ZoneInfo
) -> Forecast:
    """Return where a period leads, of which `spent` is gone at `now_ms`.

    Each day that is left will cost what its weekday did on average; of today, the part of it that
    is left. The range is where four in five such sums would lie, if days differ from their
    average as they did.

    Args:
        spent: Nano-dollars so far.
        days: What complete days before today cost; at most `LOOK_BACK_DAYS` of them, none missing.
        now_ms: Unix milliseconds.
        ends_ms: When the period ends.
        tz: Whose days.
    """
    if why := too_few(len(days)):
        return Forecast(None, None, None, ends_ms, why)
    rest, left_ms = 0, 0
    day = datetime.fromtimestamp(now_ms // 1000, tz).date()
    at_ms = now_ms
    while at_ms < ends_ms:
        # A day of 23 or 25 hours counts as one of 24.
        next_ms = min(midnight_ms(day + _DAY, tz), ends_ms)
        rest += _expected(day, days) * min(next_ms - at_ms, _DAY_MS) // _DAY_MS
        left_ms += next_ms - at_ms
        at_ms, day = next_ms, day + _DAY
    squares = sum((cost - _expected(one, days)) ** 2 for one, cost in days.items())
    # 1.28 standard deviations hold four in five.
    width = isqrt(squares // (len(days) - 1) * left_ms // _DAY_MS) * 128 // 100
    method = (
        f"each day left at the mean of its weekday over the last {len(days)} complete days;"
        " range: 4 in 5, from how those days differed from it"
    )
    return Forecast(
        spent + rest, spent + max(0, rest - width), spent + rest + width, ends_ms, method
    )


def _expected(day: date, days: Mapping[date, int]) -> int:
    """Return the mean of a day's weekday, or of all days where that came but once."""
    same = [cost for one, cost in days.items() if one.weekday() == day.weekday()]
    chosen = same if len(same) > 1 else list(days.values())
    return sum(chosen) // len(chosen)
