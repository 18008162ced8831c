"""A spend report in the order it is shown, and its four forms: table, Markdown, CSV, JSON."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import msgspec

from tollway.cli import show
from tollway.cli.periods import Period
from tollway.daemon.ledger.rows import LocalTime
from tollway.daemon.ledger.schema import TOKENS
from tollway.daemon.ledger.spend import By, SpendRow
from tollway.providers.canon import Price, Rate, Usage
from tollway.providers.money import cost, plain_usd

_LOCAL = "local"
_NO_ONE = "-"
_COUNTS = ("calls", "refused", "attempts", "unpriced")
_MONEY = ("cost_nanousd", "overrun_nanousd", "estimated_nanousd")
_SUMS = (*_COUNTS, *_MONEY, *TOKENS)
_WIDE = 100  # columns of a terminal that has room for bars


class Report(msgspec.Struct, frozen=True):
    """What was spent in a period: a row for each group, the rest in one, and the total.

    `others` is what `--top` left out, of so many groups; None where nothing was.
    """

    by: tuple[By, ...]
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

    @property
    def all_rows(self) -> tuple[SpendRow, ...]:
        """The rows that add up to the total."""
        return (*self.rows, self.others) if self.others else self.rows


def made(rows: Sequence[SpendRow], by: tuple[By, ...], period: Period, top: int | None) -> Report:
    """Return the report of such rows, nested: the dearest first at each level, days in order."""
    ordered = sorted(rows, key=_nested(rows, by))
    dearest = sorted(ordered, key=lambda row: (-row.cost_nanousd, -_tokens(row)))[:top]
    kept = {row.group for row in dearest}
    rest = [row for row in ordered if row.group not in kept]
    name = f"({len(rest)} others)"
    return Report(
        by=by,
        period=period,
        rows=tuple(row for row in ordered if row.group in kept),
        others=_sum(rest, (name, *[""] * (len(by) - 1))) if rest else None,
        other_groups=len(rest),
        total=_sum(rows, ("total", *[""] * (len(by) - 1))),
    )


def beside(report: Report, providers: Sequence[SpendRow], idle: tuple[LocalTime, ...]) -> Report:
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
    """Return a price without the tiers of long prompts: sums do not say how long prompts were."""
    rates = {
        name: msgspec.structs.replace(rate, tiers=())
        for name in price.__struct_fields__
        if isinstance(rate := getattr(price, name), Rate)
    }
    flat = msgspec.structs.replace(price, id=f"{price.id} flat", request_usd=Decimal(0), **rates)
    return msgspec.structs.replace(flat, services=())


def _elsewhere(report: Report, row: SpendRow) -> int:
    """Return what a row's tokens would have cost at the report's reference, in nano-dollars."""
    assert report.price is not None  # noqa: S101 - asked only where there is one
    tokens = (getattr(row, name) for name in TOKENS)
    return cost(Usage(*tokens), report.price)


def _nested(
    rows: Sequence[SpendRow], by: tuple[By, ...]
) -> Callable[[SpendRow], tuple[tuple[int, int, str], ...]]:
    """Return the key to sort by: each level by what all below it came to."""
    sums: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        for depth in range(1, len(by) + 1):
            sums[row.group[:depth]][0] -= row.cost_nanousd
            sums[row.group[:depth]][1] -= _tokens(row)

    def place(level: By, group: tuple[str, ...]) -> tuple[int, int, str]:
        cost, tokens = (0, 0) if level is By.DAY else sums[group]
        return cost, tokens, group[-1]

    def key(row: SpendRow) -> tuple[tuple[int, int, str], ...]:
        return tuple(place(level, row.group[: depth + 1]) for depth, level in enumerate(by))

    return key


def _sum(rows: Iterable[SpendRow], group: tuple[str, ...]) -> SpendRow:
    found = list(rows)
    return SpendRow(group=group, **{n: sum(getattr(row, n) for row in found) for n in _SUMS})


def _tokens(row: SpendRow) -> int:
    return row.input_total + row.output_total


# --- for programs -------------------------------------------------------------------------------


def as_json_data(report: Report) -> dict[str, object]:
    """Return the report for `--json`; money as nano-dollars and as exact dollars in text."""
    period, by = report.period, report.by
    others = report.others and {"groups": report.other_groups, **_told(report, report.others)}
    return {
        "by": list(by),
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
    }


def _told(report: Report, row: SpendRow) -> dict[str, object]:
    found = _amounts(row)
    if report.price:
        found["as_nanousd"] = _elsewhere(report, row)
        found["as_usd"] = plain_usd(_elsewhere(report, row))
    return found


def _amounts(row: SpendRow) -> dict[str, object]:
    return {
        "cost_nanousd": row.cost_nanousd,
        "cost_usd": plain_usd(row.cost_nanousd),
        "estimated_nanousd": row.estimated_nanousd,
        "estimated_usd": plain_usd(row.estimated_nanousd),
        "overrun_nanousd": row.overrun_nanousd,
        **{name: getattr(row, name) for name in _COUNTS},
        "input_total": row.input_total,
        "output_total": row.output_total,
        **{name: getattr(row, name) for name in TOKENS},
    }


def as_csv(report: Report) -> tuple[list[str], list[list[object]]]:
    """Return titles and rows for CSV: dollars as plain decimals, and no totals row."""
    titles = [*report.by, "cost_usd", "estimated_usd", *_COUNTS]
    titles += ["input_total", "output_total", *TOKENS]
    titles += ["as_usd"] if report.price else []
    rows = []
    for row in report.all_rows:
        amounts = _told(report, row)
        rows.append([*row.group, *(amounts[title] for title in titles[len(report.by) :])])
    return titles, rows


# --- for people ---------------------------------------------------------------------------------


def as_table(report: Report) -> None:
    """Print the report as a table, with bars on a terminal; the period stands on stderr."""
    show.note(f"Spending by {', '.join(report.by)}, {report.period.text}")
    if not report.rows:
        return
    terminal = sys.stdout.isatty()
    columns = _columns(report)
    if terminal:
        columns.insert(len(report.by), show.Column(""))
    drawn: list[list[show.Cell]] = []
    above: tuple[str, ...] = ()
    for row in report.all_rows:
        # On paper a name that repeats is noise; for grep each line must stand alone.
        names = _names(row.group, above if terminal else ())
        above = row.group
        drawn.append([*names, *_bar(report, row, terminal), *_cells(report, row)])
    if len(report.all_rows) > 1:
        blank = [" " if terminal else ""] * (len(report.by) - 1)
        cells = ["total", *blank, *([" "] if terminal else [])]
        cells += _cells(report, report.total)
        drawn.append([show.Painted(cell, "bold") for cell in cells])
    drawn += [_idle(report, one, [" "] if terminal else []) for one in report.idle]
    show.table(columns, drawn)
    if (own := report.local) and (others := report.hosted) and own.attempts and others.attempts:
        show.note(f"On this box {_side(report, own)}; elsewhere {_side(report, others)}")


def _idle(report: Report, one: LocalTime, bar: list[str]) -> list[show.Cell]:
    """Return the line of a model's time without work."""
    notes = f"{show.duration(one.idle_ms / 1000)} without work, in no call's cost"
    notes += f"; {show.duration(one.busy_ms / 1000)} at work" if one.busy_ms else ""
    blank = [""] * (len(report.by) - 1)
    cells = [show.money(one.idle_nanousd), *([""] if report.price else []), *[""] * 4, notes]
    return [f"idle: {one.model}", *blank, *bar, *cells]


def _side(report: Report, row: SpendRow) -> str:
    said = f"{show.tokens(_tokens(row))} tokens for {show.money(row.cost_nanousd)}"
    if report.price:
        said += f" (as {report.reference}: {show.money(_elsewhere(report, row))})"
    return said


def as_markdown(report: Report) -> None:
    """Print the report as a Markdown document: a line with the period, and a table."""
    show.say(f"Spending by {', '.join(report.by)}, {report.period.text}\n")
    rows = [*report.all_rows, report.total]
    idle = [[str(cell) for cell in _idle(report, one, [])] for one in report.idle]
    show.emit_markdown(
        _columns(report), [[*_names(row.group), *_cells(report, row)] for row in rows] + idle
    )


def _columns(report: Report) -> list[show.Column]:
    share = "share" if report.total.cost_nanousd else "of tokens"
    names = ["cost", *([f"as {report.reference}"] if report.price else []), share]
    names += ["calls", "in", "out"]
    numbers = [show.Column(name, number=True) for name in names]
    return [*(show.Column(name) for name in report.by), *numbers, show.Column("notes")]


def _names(group: tuple[str, ...], above: tuple[str, ...] = ()) -> list[str]:
    same = 0
    while same < len(group) - 1 and group[: same + 1] == above[: same + 1]:
        same += 1
    return [" " if at < same else name or _NO_ONE for at, name in enumerate(group)]


def _bar(report: Report, row: SpendRow, terminal: bool) -> list[show.Cell]:
    if not terminal:
        return []
    width = 20 if shutil.get_terminal_size().columns >= _WIDE else 8
    # The cells of an empty bar are blank, not a dash.
    return [show.Painted(show.bar(*_part(report, row), width) or " ", "cyan")]


def _part(report: Report, row: SpendRow) -> tuple[int, int]:
    """Return a row's part and the whole: of the cost, or of tokens where nothing cost anything."""
    if report.total.cost_nanousd:
        return row.cost_nanousd, report.total.cost_nanousd
    return _tokens(row), _tokens(report.total)


def _cells(report: Report, row: SpendRow) -> list[str]:
    # Of what nobody knows there is no share, unless it is one of tokens.
    no_share = bool(row.unpriced and not row.cost_nanousd and report.total.cost_nanousd)
    return [
        "unpriced" if row.unpriced and not row.cost_nanousd else show.money(row.cost_nanousd),
        *([show.money(_elsewhere(report, row))] if report.price else []),
        "" if no_share else show.percent(*_part(report, row)),
        show.tokens(row.calls),
        show.tokens(row.input_total),
        show.tokens(row.output_total),
        _notes(row),
    ]


def _notes(row: SpendRow) -> str:
    found = []
    if row.estimated_nanousd:
        found.append(f"{show.percent(row.estimated_nanousd, row.cost_nanousd)} estimated")
    if row.unpriced:
        found.append(f"{row.unpriced} unpriced")
    if row.refused:
        found.append(f"{row.refused} refused")
    return ", ".join(found)
