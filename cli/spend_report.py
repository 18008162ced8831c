"""A spend report in the order it is shown, and its forms for programs: JSON and CSV."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from operator import add, attrgetter
from typing import Any

import msgspec

from tollway.cli import budget_table
from tollway.cli.periods import Period
from tollway.cli.spend_trend import Forecast
from tollway.daemon.commitments import Standing
from tollway.daemon.ledger.rows import LocalTime
from tollway.daemon.ledger.schema import TOKENS
from tollway.daemon.ledger.spend import ALL, By, Only, SpendRow
from tollway.providers.canon import Price, Rate, Usage
from tollway.providers.money import cost, plain_usd
from tollway.providers.words import counted

_LOCAL = "local"
_COUNTS = ("calls", "refused", "attempts", "unpriced")
_MONEY = ("cost_nanousd", "overrun_nanousd", "estimated_nanousd", "saved_nanousd")
_IMPORTED = ("imported_unpriced", "imported_input_total", "imported_output_total")
_SUMS = (*_COUNTS, *_MONEY, *TOKENS, "imported", *_IMPORTED, "notional_nanousd")
_amounts_of = attrgetter(*_SUMS)
TIMES = (By.DAY, By.WEEK, By.MONTH)


class Before(msgspec.Struct, frozen=True):
    """The period before, and which one that is; `groups` has the cost of each, in nano-dollars.

    `missing` says why there is no comparison, "" where there is one.
    """

    period: Period
    which: str
    total: SpendRow
    groups: dict[tuple[str, ...], int]
    missing: str = ""


class Beside(msgspec.Struct, frozen=True):
    """What stands beside a report: where its total leads, and what it is held against."""

    days: dict[date, int] = {}  # what each day of the period cost, in nano-dollars, none missing
    before: Before | None = None
    forecast: Forecast | None = None
    budgets: tuple[budget_table.Line, ...] = ()
    commitments: tuple[Standing, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """What was spent in a period: a row for each group, the rest in one, and the total.

    `others` is what `--top` left out, of so many groups; None where nothing was.
    """

    by: tuple[str, ...]
    period: Period
    rows: tuple[SpendRow, ...]
    others: SpendRow | None
    other_groups: int
    total: SpendRow
    local: SpendRow | None = None  # what the models of this box had of it
    hosted: SpendRow | None = None
    idle: tuple[LocalTime, ...] = ()  # models of this box in memory without work
    reference: str = ""  # the target that the same tokens are priced at
    price: Price | None = None
    beside: Beside = Beside()
    only: Only = ALL

    @property
    def title(self) -> str:
        """What it adds up, and of whom: "Spending of team ml by model"."""
        of = ", ".join(f"{name} {value or '-'}" for name, value in self.only.said.items())
        return f"Spending{f' of {of}' if of else ''} by {', '.join(self.by)}"

    @property
    def all_rows(self) -> tuple[SpendRow, ...]:
        """The rows that add up to the total."""
        return (*self.rows, self.others) if self.others else self.rows


def made(rows: Sequence[SpendRow], by: tuple[str, ...], period: Period, top: int | None) -> Report:
    """Return the report of such rows, nested: the dearest first at each level, days in order."""
    place = _nested(rows, by)
    shown = rows
    if top is not None and top < len(rows):  # of which there may be as many as sessions
        first = place if _is_flat(by) else lambda row: (*_dearest_first(row), *place(row))
        shown = heapq.nsmallest(top, rows, key=first)
    kept = {row.group for row in shown}
    rest = [row for row in rows if row.group not in kept]
    name = f"({counted(len(rest), 'other')})"
    return Report(
        by=by,
        period=period,
        rows=tuple(sorted(shown, key=place)),
        others=_sum(rest, (name, *[""] * (len(by) - 1))) if rest else None,
        other_groups=len(rest),
        total=total_of(rows, by),
    )


def with_sides(
    report: Report, providers: Sequence[SpendRow], idle: tuple[LocalTime, ...]
) -> Report:
    """Return the report with what ran on this box and what did not, of rows by provider."""
    own = [row for row in providers if row.group == (_LOCAL,)]
    others = [row for row in providers if row.group != (_LOCAL,)]
    return msgspec.structs.replace(
        report, local=_sum(own, (_LOCAL,)), hosted=_sum(others, ("hosted",)), idle=idle
    )


def compared(report: Report, reference: str, price: Price) -> Report:
    """Return the report with what the same tokens would have cost at a target's price."""
    return msgspec.structs.replace(report, reference=reference, price=_flat(price))


def _flat(price: Price) -> Price:
    """Return a price of tokens alone, without the tiers of long prompts.

    Sums do not say how long prompts were. Nor do they tell searches from images, documents that
    were ranked, seconds heard and characters spoken: all of them are counted as searches.
    """
    rates = {
        name: msgspec.structs.replace(rate, tiers=())
        for name in price.__struct_fields__
        if isinstance(rate := getattr(price, name), Rate)
    }
    flat = msgspec.structs.replace(price, id=f"{price.id} flat", services=(), **rates)
    return msgspec.structs.replace(flat, request_usd=Decimal(0), search_usd=None)


def elsewhere(report: Report, row: SpendRow) -> int:
    """Return what a row's tokens would have cost at the report's reference, in nano-dollars."""
    assert report.price is not None  # noqa: S101 - asked only where there is one
    tokens = (getattr(row, name) for name in TOKENS)
    return cost(Usage(*tokens), report.price)


_Place = tuple[Any, ...]


def _is_flat(by: tuple[str, ...]) -> bool:
    return len(by) == 1 and by[0] not in TIMES


def _dearest_first(row: SpendRow) -> _Place:
    paid, listed, tokens = worth(row)
    return -paid, -listed, -tokens


def _nested(rows: Sequence[SpendRow], by: tuple[str, ...]) -> Callable[[SpendRow], _Place]:
    """Return the key to sort by: each level by what all below it came to."""
    if _is_flat(by):
        return lambda row: (*_dearest_first(row), row.group[0])
    sums: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        for depth in range(1, len(by) + 1):
            for at, amount in enumerate(worth(row)):
                sums[row.group[:depth]][at] -= amount

    def place(level: str, group: tuple[str, ...]) -> tuple[int, int, int, str]:
        paid, listed, tokens = (0, 0, 0) if level in TIMES else sums[group]
        return paid, listed, tokens, group[-1]

    def key(row: SpendRow) -> _Place:
        return tuple(place(level, row.group[: depth + 1]) for depth, level in enumerate(by))

    return key


def total_of(rows: Iterable[SpendRow], by: tuple[str, ...]) -> SpendRow:
    """Return what rows add up to, under the name of a total."""
    return _sum(rows, ("total", *[""] * (len(by) - 1)))


def _sum(rows: Iterable[SpendRow], group: tuple[str, ...]) -> SpendRow:
    sums = [0] * len(_SUMS)
    for row in rows:  # there may be as many as there were sessions
        sums = list(map(add, sums, _amounts_of(row)))
    return SpendRow(group=group, **dict(zip(_SUMS, sums, strict=True)))


def tokens_of(row: SpendRow) -> int:
    """Return all tokens of a group, those of imported calls with them."""
    imported = row.imported_input_total + row.imported_output_total
    return row.input_total + row.output_total + imported


def worth(row: SpendRow) -> tuple[int, int, int]:
    """Return what a group is placed by: what was paid; then list prices of imports; then tokens.

    They are never added up: nobody paid here what was imported.
    """
    return row.cost_nanousd, row.notional_nanousd, tokens_of(row)


def part_of(report: Report, row: SpendRow) -> tuple[int, int]:
    """Return a group's part and the whole that its share is of, which `share_of` names."""
    whole = worth(report.total)
    at = _shared_by(report)
    return worth(row)[at], whole[at]


def share_of(report: Report) -> str:
    """Return what shares are parts of: what was "paid"; else "imported" list prices; else "tokens".

    Of the first of them that there is any of.
    """
    return ("paid", "imported", "tokens")[_shared_by(report)]


def _shared_by(report: Report) -> int:
    paid, listed, _ = worth(report.total)
    return 0 if paid else 1 if listed else 2


def change_of(report: Report, row: SpendRow) -> tuple[int, int] | None:
    """Return what a group cost and what it did before; None where that says nothing.

    It does not of days, which have others before them, nor where the ledger began later.
    """
    then = report.beside.before
    if then is None or then.missing or any(part in TIMES for part in report.by):
        return None
    if row.group == report.total.group:
        return row.cost_nanousd, then.total.cost_nanousd
    if report.others and row.group == report.others.group:
        return None
    return row.cost_nanousd, then.groups.get(row.group, 0)


# --- for programs -------------------------------------------------------------------------------


def as_json_data(report: Report) -> dict[str, object]:
    """Return the report for `--json`; money as nano-dollars and as exact dollars in text."""
    period, by = report.period, report.by
    others = report.others and {"groups": report.other_groups, **_told(report, report.others)}
    return {
        "by": list(by),
        "only": report.only.said,
        "since": period.since,
        "until": period.until,
        "since_ms": period.since_ms,
        "until_ms": period.until_ms,
        "timezone": period.tz.key,
        "rows": [
            {"group": dict(zip(by, row.group, strict=True)), **_told(report, row)}
            for row in report.rows
        ],
        "others": others,
        "total": _told(report, report.total),
        "local": report.local and _told(report, report.local),
        "hosted": report.hosted and _told(report, report.hosted),
        "local_time": [
            {
                **{name: getattr(one, name) for name in ("model", "busy_ms", "idle_ms")},
                "idle_nanousd": one.idle_nanousd,
                "idle_usd": plain_usd(one.idle_nanousd),
            }
            for one in report.idle
        ],
        "reference": report.reference or None,
        **_beside(report),
    }


def _beside(report: Report) -> dict[str, object]:
    found = report.beside
    then = found.before
    return {
        "days": [
            {"day": day.isoformat(), "cost_nanousd": spent, "cost_usd": plain_usd(spent)}
            for day, spent in found.days.items()
        ],
        "before": then
        and {
            "since": then.period.since,
            "until": then.period.until,
            "which": then.which,
            "missing": then.missing or None,
            "total": None if then.missing else _amounts(then.total),
        },
        "forecast": found.forecast and forecast_data(found.forecast),
        "budgets": [budget_table.line_data(line) for line in found.budgets],
        "commitments": [
            {
                **msgspec.structs.asdict(one),
                "left_nanousd": one.left_nanousd,
                "commit_usd": plain_usd(one.commit_nanousd),
                "used_usd": plain_usd(one.used_nanousd),
                "left_usd": plain_usd(one.left_nanousd),
                "at_end_usd": plain_usd(one.at_end_nanousd),
            }
            for one in found.commitments
        ],
    }


def forecast_data(found: Forecast) -> dict[str, object]:
    """Return a forecast for `--json`."""
    usd = {
        f"{name}_usd": None
        if (nanousd := getattr(found, f"{name}_nanousd")) is None
        else plain_usd(nanousd)
        for name in ("at_end", "low", "high")
    }
    return {**msgspec.structs.asdict(found), **usd}


def _told(report: Report, row: SpendRow) -> dict[str, object]:
    found = _amounts(row)
    if pair := change_of(report, row):
        found["before_nanousd"] = pair[1]
        found["before_usd"] = plain_usd(pair[1])
    if report.price:
        found["as_nanousd"] = elsewhere(report, row)
        found["as_usd"] = plain_usd(elsewhere(report, row))
    return found


def _amounts(row: SpendRow) -> dict[str, object]:
    return {
        "cost_nanousd": row.cost_nanousd,
        "cost_usd": plain_usd(row.cost_nanousd),
        "estimated_nanousd": row.estimated_nanousd,
        "estimated_usd": plain_usd(row.estimated_nanousd),
        "overrun_nanousd": row.overrun_nanousd,
        "list_nanousd": row.cost_nanousd + row.saved_nanousd,
        "list_usd": plain_usd(row.cost_nanousd + row.saved_nanousd),
        "saved_nanousd": row.saved_nanousd,
        "saved_usd": plain_usd(row.saved_nanousd),
        **{name: getattr(row, name) for name in _COUNTS},
        "input_total": row.input_total,
        "output_total": row.output_total,
        **{name: getattr(row, name) for name in TOKENS},
        "imported": {
            "calls": row.imported,
            "notional_nanousd": row.notional_nanousd,
            "notional_usd": plain_usd(row.notional_nanousd),
            "unpriced": row.imported_unpriced,
            "input_total": row.imported_input_total,
            "output_total": row.imported_output_total,
        },
    }


def as_csv(report: Report) -> tuple[list[str], list[list[object]]]:
    """Return titles and rows for CSV: dollars as plain decimals, and no totals row."""
    titles = [*report.by, "cost_usd", "estimated_usd", *_COUNTS]
    titles += ["input_total", "output_total", *TOKENS]
    titles += ["list_usd", "saved_usd", "imported", *_IMPORTED, "notional_usd"]
    titles += ["as_usd"] if report.price else []
    rows = []
    for row in report.all_rows:
        amounts = {**_told(report, row), **{name: getattr(row, name) for name in _IMPORTED}}
        amounts |= {"imported": row.imported, "notional_usd": plain_usd(row.notional_nanousd)}
        rows.append([*row.group, *(amounts[title] for title in titles[len(report.by) :])])
    return titles, rows
