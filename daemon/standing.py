"""How budgets stand by the ledger alone, and where their spending leads: no daemon is needed."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.config.schema import Config, ScopeKind
from tollway.daemon.config.units import rolling_ms
from tollway.daemon.gate import periods
from tollway.daemon.gate.books import Books, BudgetState
from tollway.daemon.gate.purse import Purse
from tollway.daemon.ledger import spend
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import SpentQuery
from tollway.providers.words import counted

if TYPE_CHECKING:
    from tollway.daemon.ledger.writer import Ledger

__all__ = ("NEVER_MS", "BudgetState", "Forecast", "forecast", "forecasts", "states")

NEVER_MS = periods.FOR_EVER  # when a period ends that never does
_HOUR_MS = 3_600_000
_TOO_LITTLE = "too little to go by"
_DAY_MS = 24 * _HOUR_MS
_WEEK_MS = 7 * _DAY_MS
# How far back the pace of a budget is taken from; a day has all hours of a day in it.
_LOOK_BACK_MS = {"hour": _HOUR_MS, "day": _DAY_MS}
# Complete days without which nobody can say where days lead, those of `tollway spend` too.
FEWEST_DAYS = 7
# At a pace that fills a total later than this, no moment is told: it says nothing of such years.
_FORESEEN_MS = 3650 * _DAY_MS


class Forecast(msgspec.Struct, frozen=True):
    """Where a budget's spending leads, if it goes on as it did lately.

    `at_end_nanousd` is what will be spent at the end of its period, or of a rolling budget what
    its window will hold; None for a total, which has no end. `runs_out_ms`, unix milliseconds, is
    when the limit is reached; None where it is not, before the period turns over, or for ten years.
    Both are None where there is too little to go by; then `method` says so.
    """

    at_end_nanousd: int | None
    runs_out_ms: int | None
    method: str

    @property
    def missing(self) -> str:
        """Why there is no forecast, "" where there is one."""
        return self.method if self.method.startswith(_TOO_LITTLE) else ""


class _ReadOnly:
    """Answers what a `Ledger` is asked about spending, from the file as it stands."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def spent(self, queries: Sequence[SpentQuery]) -> list[int]:
        if not self._path.exists():
            return [0] * len(queries)
        with reading(self._path) as db:
            return spend.spent(db, queries)

    async def spread(self, queries: Sequence[SpentQuery]) -> list[dict[int, int]]:
        if not self._path.exists():
            return [{} for _ in queries]
        with reading(self._path) as db:
            return spend.spread(db, queries)


def states(config: Config) -> list[BudgetState]:
    """Return all budgets of a configuration as the ledger has them; nothing is held.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    purse = Purse(config, Books())
    asyncio.run(purse.open(cast("Ledger", _ReadOnly(config.ledger.path))))
    return purse.states()


def forecasts(
    path: Path, budgets: Sequence[BudgetState], now_ms: int, zone: ZoneInfo
) -> list[Forecast]:
    """Return where each budget's spending leads, by its pace in the ledger.

    None is told of a budget for a day or longer while the ledger has fewer than seven complete
    days, which begin in `zone`; nor of a shorter one before the ledger is as old as its span.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    spans = [_look_back(one) for one in budgets]
    began = spend.began_ms(path) if path.exists() else None
    if began is None:
        return [Forecast(None, None, _too_little(one, now_ms, now_ms, zone)) for one in budgets]
    queries = [
        SpentQuery(cast("ScopeKind", one.scope), one.name, now_ms - span)
        for one, span in zip(budgets, spans, strict=True)
    ]
    with reading(path) as db:
        recent = spend.spent(db, queries)
    return [
        Forecast(None, None, why)
        if (why := _too_little(one, began, now_ms, zone))
        else forecast(one, spent, span, now_ms)
        for one, spent, span in zip(budgets, recent, spans, strict=True)
    ]


def too_few(days: int) -> str:
    """Return why so many complete days say nothing of those to come; "" where they do."""
    if days >= FEWEST_DAYS:
        return ""
    known = counted(days, "complete day")
    return f"{_TOO_LITTLE}: {known}, and {FEWEST_DAYS} are needed"


def complete_days(began_ms: int, now_ms: int, zone: ZoneInfo) -> int:
    """Return how many whole days are over since a moment; the day in which it lies is none."""
    first, today = (
        datetime.fromtimestamp(at_ms // 1000, zone).date() for at_ms in (began_ms, now_ms)
    )
    return max(0, (today - first).days - 1)


def _too_little(state: BudgetState, began_ms: int, now_ms: int, zone: ZoneInfo) -> str:
    span = _look_back(state)
    period = state.budget.rpartition("/")[2]
    if period == "hour" or (rolling_ms(period) or _DAY_MS) < _DAY_MS:
        age = now_ms - began_ms
        return "" if age >= span else f"{_TOO_LITTLE}: less than {_span(span)} of calls"
    return too_few(complete_days(began_ms, now_ms, zone))


def forecast(state: BudgetState, recent_nanousd: int, span_ms: int, now_ms: int) -> Forecast:
    """Return where a budget's spending leads, which was so much in the last `span_ms`."""
    method = f"the pace of the last {_span(span_ms)}"
    left = state.limit_nanousd - state.settled_nanousd
    reach_ms = left * span_ms // recent_nanousd if recent_nanousd and left > 0 else 0
    runs_out = now_ms + reach_ms if recent_nanousd else None
    if state.rolling:
        width = rolling_ms(state.budget.rpartition("/")[2]) or span_ms
        level = recent_nanousd * width // span_ms
        return Forecast(level, runs_out if level > state.limit_nanousd else None, method)
    if state.ends_ms >= periods.FOR_EVER:
        return Forecast(None, runs_out if reach_ms <= _FORESEEN_MS else None, method)
    at_end = state.settled_nanousd + recent_nanousd * max(0, state.ends_ms - now_ms) // span_ms
    return Forecast(at_end, runs_out if at_end > state.limit_nanousd else None, method)


def _look_back(state: BudgetState) -> int:
    period = state.budget.rpartition("/")[2]
    return _LOOK_BACK_MS.get(period) or min(rolling_ms(period) or _WEEK_MS, _WEEK_MS)


def _span(span_ms: int) -> str:
    if span_ms >= 2 * _DAY_MS:
        return f"{span_ms // _DAY_MS}d"
    if span_ms >= _HOUR_MS:
        return f"{span_ms // _HOUR_MS}h"
    return f"{span_ms // 60_000}m"
