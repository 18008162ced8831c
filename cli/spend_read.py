"""What a spend report shows, read from the ledger."""

import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tollway.cli import budget_table, show
from tollway.cli.periods import Period, before, end_of
from tollway.cli.spend_report import (
    TIMES,
    Before,
    Beside,
    Report,
    made,
    total_of,
    with_sides,
)
from tollway.cli.spend_trend import LOOK_BACK_DAYS, Forecast, forecast
from tollway.daemon.commitments import standings
from tollway.daemon.config import shown
from tollway.daemon.config.schema import Config
from tollway.daemon.ledger.local_time import local_times
from tollway.daemon.ledger.spend import (
    By,
    Only,
    SpendRow,
    began_ms,
    by_day,
    midnight_ms,
    report,
    report_with_imports,
    spans,
)

if TYPE_CHECKING:
    from tollway.cli.spend_html import Days

_DAY = timedelta(days=1)
_MOST_DAYS = 800  # with a sparkline
_MOST_BUDGETS = 8
_MOST_BARS = 62  # of the chart of days
_FEWEST_BARS = 7


def read(config: Config, by: tuple[str, ...], asked: Period, top: int | None, only: Only) -> Report:
    """Return the report of a period, with all that stands beside it.

    Of some alone it has no idle time of models and no commitments, which are nobody's.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    path = config.ledger.path
    if not path.exists():
        show.note(f"No calls yet: there is no ledger at `{path}`")
        return msgspec.structs.replace(made((), by, asked, top), only=only)
    rows = _rows(path, by, asked, only)
    if not rows:
        show.note(f"No calls from {asked.text}")
        _doubt(config, only)
    found = msgspec.structs.replace(made(rows, by, asked, top), only=only)
    between = {"since_ms": asked.since_ms, "until_ms": asked.until_ms}
    times = () if only.said else local_times(path, **between)
    idle = tuple(one for one in times if one.idle_ms)
    sides = report(path, only, by=(By.PROVIDER,), tz=asked.tz, **between)
    return msgspec.structs.replace(with_sides(found, sides, idle), beside=_beside(config, found))


def _doubt(config: Config, only: Only) -> None:
    """Say of a name that gateway.toml does not have that it may be a slip, and no quiet month."""
    for name, value in only.said.items():
        known = getattr(config, f"{name}s", ()) if name != "model" else ()
        if known and value not in {*known, "local", ""}:
            show.note(f"There is no {name} {shown.value(value)} now{shown.meant(value, known)}")


def _rows(path: Path, by: tuple[str, ...], asked: Period, only: Only) -> list[SpendRow]:
    between = {"since_ms": asked.since_ms, "until_ms": asked.until_ms}
    return report_with_imports(path, only, by=by, tz=asked.tz, **between)


def _beside(config: Config, found: Report) -> Beside:
    path, asked = config.ledger.path, found.period
    began = began_ms(path)
    owed = () if found.only.said else tuple(standings(config))
    if began is None:
        return Beside(budgets=_budgets(config, found), commitments=owed)
    return Beside(
        days=_days(path, asked, found.only),
        before=_before(path, found, began),
        forecast=_forecast(path, found, began),
        budgets=_budgets(config, found),
        commitments=owed,
    )


def _days(path: Path, asked: Period, only: Only) -> dict[date, int]:
    """Return what each day of a period cost, those without calls too; {} of a very long one."""
    if asked.until_ms - asked.since_ms > _MOST_DAYS * 86_400_000:
        return {}
    between = {"since_ms": asked.since_ms, "until_ms": asked.until_ms}
    costs = by_day(path, only, tz=asked.tz, **between)
    names = (
        name[By.DAY] for name, _, _ in spans((By.DAY,), asked.since_ms, asked.until_ms, asked.tz)
    )
    days = map(date.fromisoformat, names)
    return {day: costs.get(day, 0) for day in days}


def chart_of(config: Config, found: Report) -> "Days":
    """Return what the chart of days shows: days, or weeks or months of what is longer.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    from tollway.cli.spend_html import shares_of  # noqa: PLC0415 - XML takes time

    asked, path = found.period, config.ledger.path
    length = (asked.until_ms - asked.since_ms) // 86_400_000
    unit = By.DAY if length <= _MOST_BARS else By.WEEK if length <= 7 * _MOST_BARS else By.MONTH
    dimension = next((part for part in found.by if part not in TIMES), By.MODEL.value)
    rows = _rows(path, (unit, dimension), asked, found.only) if path.exists() else []
    first = min((row.group[0] for row in rows), default="")
    names = [name[unit] for name, _, _ in spans((unit,), asked.since_ms, asked.until_ms, asked.tz)]
    names = list(dict.fromkeys(names))
    # Many days before there was anything would only take room.
    empty = sum(name < first for name in names)
    names = names[max(0, min(empty, len(names) - _FEWEST_BARS)) :]
    return shares_of(rows, unit, names, dimension)


def _before(path: Path, found: Report, began: int) -> Before:
    by, asked = found.by, found.period
    then, which = before(asked)
    if began >= then.until_ms or began // 86_400_000 > then.since_ms // 86_400_000:
        at = datetime.fromtimestamp(began // 1000, asked.tz)
        missing = f"the ledger begins on {at:%Y-%m-%d}"
        return Before(then, which, total_of((), by), {}, missing)
    # By days there is no row to compare with, but still a total.
    kept = () if {By.DAY, By.WEEK, By.MONTH} & set(by) else by
    rows = _rows(path, kept, then, found.only)
    return Before(then, which, total_of(rows, by), {row.group: row.cost_nanousd for row in rows})


def _forecast(path: Path, found: Report, began: int) -> Forecast | None:
    asked = found.period
    ends_ms = end_of(asked)
    if ends_ms is None:
        return None
    now_ms = time.time_ns() // 1_000_000
    today = datetime.fromtimestamp(now_ms // 1000, asked.tz).date()
    first = today - LOOK_BACK_DAYS * _DAY
    # The day on which the ledger began is not a whole one.
    first = max(first, datetime.fromtimestamp(began // 1000, asked.tz).date() + _DAY)
    days: dict[date, int] = {}
    if first < today:
        past = Period(midnight_ms(first, asked.tz), midnight_ms(today, asked.tz), asked.tz)
        days = _days(path, past, found.only)
    return forecast(found.total.cost_nanousd, days, now_ms, ends_ms, asked.tz)


def _budgets(config: Config, found: Report) -> tuple[budget_table.Line, ...]:
    """Return the budgets of the box and of what the report is by, the fullest first.

    Of a report of some alone, those that they have.
    """
    kinds = {"box", *(part.partition(":")[0] for part in found.by)}
    said = found.only.said
    lines = [
        line
        for line in budget_table.lines(config).lines
        if (said.get(line.state.scope) == line.state.name if said else line.state.scope in kinds)
    ]
    lines.sort(
        key=lambda line: (
            -(line.state.settled_nanousd + line.state.held_nanousd)
            * 1000
            // max(1, line.state.limit_nanousd)
        )
    )
    return tuple(lines[:_MOST_BUDGETS])
