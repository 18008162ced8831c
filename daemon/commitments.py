"""What is committed at providers: how much of it is used, and what is left.

Its one rule: **what counts is what was paid,** the cost after a discount, as the provider's own
invoice has it. A period is the calendar's, in `server.timezone`.
"""

import time
from datetime import date, datetime
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.config.schema import Commit, Config
from tollway.daemon.ledger.spend import By, midnight_ms, report

_MONTHS = {"month": 1, "quarter": 3, "year": 12}


class Standing(msgspec.Struct, frozen=True):
    """A commitment in the period that is under way. Money in nano-dollars, times unix milliseconds.

    `at_end_nanousd` is what will be used at the period's end, at its own pace so far. What is then
    left is paid for and not used.
    """

    provider: str
    commit_nanousd: int
    per: str
    used_nanousd: int
    at_end_nanousd: int
    since_ms: int
    ends_ms: int

    @property
    def left_nanousd(self) -> int:
        """What is still to be used, 0 where all of it is."""
        return max(0, self.commit_nanousd - self.used_nanousd)


def standings(config: Config, now_ms: int | None = None) -> list[Standing]:
    """Return how each provider's commitment stands, in the file's order.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    tz = ZoneInfo(config.server.timezone)
    found = []
    used: dict[int, dict[str, int]] = {}
    for name, provider in config.providers.items():
        if provider.commit is None:
            continue
        since_ms, ends_ms = _period(provider.commit, now, tz)
        if since_ms not in used:
            used[since_ms] = _used(config, since_ms, now + 1, tz)
        spent = used[since_ms].get(name, 0)
        at_end = spent * (ends_ms - since_ms) // max(1, now - since_ms)
        found.append(
            Standing(
                *(name, provider.commit.nanousd, provider.commit.per),
                *(spent, at_end, since_ms, ends_ms),
            )
        )
    return found


def _used(config: Config, since_ms: int, until_ms: int, tz: ZoneInfo) -> dict[str, int]:
    path = config.ledger.path
    if not path.exists():
        return {}
    rows = report(path, by=(By.PROVIDER,), since_ms=since_ms, until_ms=until_ms, tz=tz)
    return {row.group[0]: row.cost_nanousd for row in rows}


def _period(commit: Commit, now_ms: int, tz: ZoneInfo) -> tuple[int, int]:
    """Return when the period that a moment lies in begins and ends."""
    today = datetime.fromtimestamp(now_ms // 1000, tz).date()
    months = _MONTHS[commit.per]
    first = today.year * 12 + (today.month - 1) // months * months
    return midnight_ms(_month(first), tz), midnight_ms(_month(first + months), tz)


def _month(count: int) -> date:
    return date(count // 12, count % 12 + 1, 1)
