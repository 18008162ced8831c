"""A spend report for people: a table with what stands beside it, and a Markdown document."""

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tollway.cli import show
from tollway.cli.budget_table import Line
from tollway.cli.spend_report import Report, change_of, elsewhere, part_of, share_of, tokens_of
from tollway.cli.wrap import room
from tollway.daemon.commitments import Standing
from tollway.daemon.ledger.rows import LocalTime
from tollway.daemon.ledger.spend import SpendRow

_NO_ONE = "-"
_WIDE = 100  # columns of a terminal that has room for long bars
_BARS = 80  # ... and for any
_UNLIMITED = 1000
_NAME = 14  # columns that a name takes


class Field(NamedTuple):
    """A column of amounts, and the narrowest terminal that has room for it."""

    title: str
    least: int
    cell: Callable[[SpendRow], str]


def as_table(report: Report) -> None:
    """Print the report as a table, with bars on a terminal; the period stands on stderr.

    In a pipe the table is all there is on stdout, so that lines can be counted and added up.
    """
    show.note(f"{report.title}, {report.period.text}")
    if not report.rows:
        _beside(report)
        return
    terminal = sys.stdout.isatty()
    width = room(sys.stdout) or _UNLIMITED
    bars = terminal and width >= _BARS
    # Names want room: each further one sends the least of the amounts away earlier.
    least = width - _NAME * (len(report.by) - 1)
    shown = [one for one in fields(report) if one.least <= least]
    # On paper a column of dashes is noise; in a pipe columns stay where they are.
    noted = not terminal or any(map(notes, report.all_rows)) or bool(report.idle)
    columns = [show.Column(name) for name in report.by]
    columns += [show.Column("")] if bars else []
    columns += [show.Column(one.title, number=True) for one in shown]
    columns += [show.Column("notes")] if noted else []
    drawn: list[list[show.Cell]] = []
    above: tuple[str, ...] = ()
    for row in report.all_rows:
        # On paper a name that repeats is noise; for grep each line must stand alone.
        names = _names(row.group, above if terminal else ())
        above = row.group
        bar = [_bar(report, row, width)] if bars else []
        said = [notes(row)] if noted else []
        drawn.append([*names, *bar, *(one.cell(row) for one in shown), *said])
    blank = [" " if terminal else ""] * (len(report.by) - 1) + ([" "] if bars else [])
    if len(report.all_rows) > 1:
        total = report.total
        cells = ["total", *blank, *(one.cell(total) for one in shown)]
        cells += [notes(total)] if noted else []
        drawn.append([show.Painted(cell, "bold") for cell in cells])
    drawn += [_idle(one, blank, len(shown)) for one in report.idle]
    show.table(columns, drawn)
    _beside(report)


def _beside(report: Report) -> None:
    """Say what stands beside the table: on a terminal below it, else on stderr alone."""
    if line := sparkline(report):
        show.note(line)
    for text in told(report):
        show.note(text)
    if not report.beside.budgets:
        return
    if not sys.stdout.isatty():
        for one in report.beside.budgets:
            show.note(budget_text(one))
        return
    show.say()
    numbers = [show.Column(name, number=True) for name in ("spent", "left", "used")]
    rows: list[list[show.Cell]] = [
        [
            f"{one.state.scope} {one.state.name}".strip(),
            one.state.budget,
            show.money(one.state.settled_nanousd + one.state.held_nanousd),
            show.money(one.state.left_nanousd),
            show.percent(
                one.state.settled_nanousd + one.state.held_nanousd, one.state.limit_nanousd
            ),
        ]
        for one in report.beside.budgets
    ]
    show.table(["budget of", "budget", *numbers], rows)


def budget_text(line: Line) -> str:
    """Return how a budget stands, in a sentence."""
    state = line.state
    taken = state.settled_nanousd + state.held_nanousd
    return (
        f"budget of {state.scope} {state.name}".rstrip() + f", {state.budget}:"
        f" {show.money(taken)} of {show.money(state.limit_nanousd)} used,"
        f" {show.money(state.left_nanousd)} left"
    )


def told(report: Report) -> Iterator[str]:
    """Yield the sentences that stand below a report."""
    own, others = report.local, report.hosted
    if own and others and own.attempts and others.attempts:
        yield f"On this box {_side(report, own)}; elsewhere {_side(report, others)}"
    total = report.total
    if total.imported:
        yield (
            f"Imported, and in no budget: {show.counted_short(total.imported, 'call')} that did not"
            " pass this gateway; at list prices"
            f" {show.money(total.notional_nanousd)}, which nobody billed here"
            + ("; shares are of what was paid here" if total.cost_nanousd else "")
        )
    if total.saved_nanousd:
        listed = total.cost_nanousd + total.saved_nanousd
        apart = abs(total.saved_nanousd)
        yield (
            f"List price {show.money(listed)}, paid {show.money(total.cost_nanousd)},"
            f" {'saved' if total.saved_nanousd > 0 else 'surcharge'}"
            f" {show.money(apart)} ({show.percent(apart, listed)})"
        )
    for one in report.beside.commitments:
        yield commitment_text(one, report)
    if then := report.beside.before:
        if then.missing:
            yield f"No comparison with {then.which}: {then.missing}"
        else:
            before = then.total.cost_nanousd
            difference = show.change(total.cost_nanousd, before) or "the same"
            yield (f"{show.money(before)} in {then.which} ({then.period.text}): {difference}")
    if leads := report.beside.forecast:
        end = show.turn(leads.ends_ms / 1000, report.period.tz)
        if leads.at_end_nanousd is None:
            yield f"No forecast to {end}: {leads.method}"
        else:
            yield (
                f"Forecast to {end}: {show.money(leads.at_end_nanousd)}"
                f" ({show.money(leads.low_nanousd)} to {show.money(leads.high_nanousd)});"
                f" {leads.method}"
            )


def commitment_text(one: Standing, report: Report) -> str:
    """Return how a commitment stands, in a sentence."""
    over = one.used_nanousd - one.commit_nanousd
    rest = f"{show.money(over)} beyond it" if over > 0 else f"{show.money(one.left_nanousd)} left"
    return (
        f"committed at {one.provider}, {show.money(one.commit_nanousd)} a {one.per}:"
        f" {show.money(one.used_nanousd)} used"
        f" ({show.percent(one.used_nanousd, one.commit_nanousd)}), {rest} until"
        f" {show.turn(one.ends_ms / 1000, report.period.tz)}; at this pace"
        f" {show.money(one.at_end_nanousd)} will be used"
    )


def sparkline(report: Report) -> str:
    """Return the days of the period as a line of bars, "" where there are fewer than two."""
    days = report.beside.days
    if len(days) < 2 or not any(days.values()) or not sys.stderr.isatty():
        return ""
    most = max(10, (room(sys.stderr) or _UNLIMITED) - 26)
    each = -(-len(days) // most)  # days to a bar, where a bar for each does not fit
    values = list(days.values())
    bars = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    first, last = next(iter(days)), next(reversed(days))
    return f"{first} {show.spark(bars)} {last:%m-%d}"


def as_markdown(report: Report) -> None:
    """Print the report as a Markdown document: the period, a table, and what stands beside it."""
    show.say(f"{report.title}, {report.period.text}\n")
    columns = [show.Column(name) for name in report.by]
    shown = fields(report)
    columns += [show.Column(one.title, number=True) for one in shown] + [show.Column("notes")]
    rows = [
        [*map(str, _names(row.group)), *(one.cell(row) for one in shown), notes(row)]
        for row in (*report.all_rows, report.total)
    ]
    blank = [""] * (len(report.by) - 1)
    rows += [[str(cell) for cell in _idle(one, blank, len(shown))] for one in report.idle]
    show.emit_markdown(columns, rows)
    for text in (*told(report), *map(budget_text, report.beside.budgets)):
        show.say(f"\n{show.markdown(text)}")


def fields(report: Report) -> list[Field]:
    """Return the columns of amounts, in their order; those that would be empty are left out."""
    total = report.total
    found = [Field("cost", 0, _cost)]
    if total.saved_nanousd:
        found.append(Field("saved", 68, lambda row: show.money(row.saved_nanousd)))
    if total.imported:
        found.append(Field("imported", 0, _notional))
    if report.price:
        title = f"as {report.reference}"
        found.append(Field(title, 0, lambda row: _elsewhere(report, row)))
    of = share_of(report)
    title = "share" if of == "paid" and not total.imported else f"of {of}"
    found.append(Field(title, 0, lambda row: _share(report, row)))
    if change_of(report, total):
        found.append(Field("change", 58, lambda row: _change(report, row)))
    return [
        *found,
        Field("calls", 60, lambda row: show.tokens(row.calls + row.imported)),
        Field("in", 76, lambda row: show.tokens(row.input_total + row.imported_input_total)),
        Field("out", 76, lambda row: show.tokens(row.output_total + row.imported_output_total)),
    ]


def _cost(row: SpendRow) -> str:
    if row.unpriced and not row.cost_nanousd:
        return "unpriced"
    # What was only imported cost nothing here, and not $0.00.
    return _NO_ONE if _only_imported(row) else show.money(row.cost_nanousd)


def _notional(row: SpendRow) -> str:
    if row.imported_unpriced and not row.notional_nanousd:
        return "unpriced"
    return f"({show.money(row.notional_nanousd)})" if row.imported else ""


def _change(report: Report, row: SpendRow) -> str:
    pair = change_of(report, row)
    return show.change(*pair) if pair else ""


def _elsewhere(report: Report, row: SpendRow) -> str:
    return _NO_ONE if _only_imported(row) else show.money(elsewhere(report, row))


def _share(report: Report, row: SpendRow) -> str:
    part, whole = part_of(report, row)
    if not part:
        # Of what nobody knows, or nobody paid here, there is no share.
        match share_of(report):
            case "paid" if row.unpriced or _only_imported(row):
                return ""
            case "imported" if row.imported_unpriced or not row.imported:
                return ""
    return show.percent(part, whole)


def _only_imported(row: SpendRow) -> bool:
    return bool(row.imported and not row.attempts)


def _idle(one: LocalTime, blank: list[str], amounts: int) -> list[show.Cell]:
    """Return the line of a model's time without work."""
    said = f"{show.duration(one.idle_ms / 1000)} without work, in no call's cost"
    said += f"; {show.duration(one.busy_ms / 1000)} at work" if one.busy_ms else ""
    return [f"idle: {one.model}", *blank, show.money(one.idle_nanousd), *[""] * (amounts - 1), said]


def _side(report: Report, row: SpendRow) -> str:
    said = f"{show.counted_short(tokens_of(row), 'token')} for {show.money(row.cost_nanousd)}"
    if report.price:
        said += f" (as {report.reference}: {show.money(elsewhere(report, row))})"
    return said


def _names(group: tuple[str, ...], above: tuple[str, ...] = ()) -> list[show.Cell]:
    same = 0
    while same < len(group) - 1 and group[: same + 1] == above[: same + 1]:
        same += 1
    return [" " if at < same else name or _NO_ONE for at, name in enumerate(group)]


def _bar(report: Report, row: SpendRow, width: int) -> show.Cell:
    # The cells of an empty bar are blank, not a dash.
    bar = show.bar(*part_of(report, row), 20 if width >= _WIDE else 8)
    return show.Painted(bar or " ", "cyan")


def notes(row: SpendRow) -> str:
    """Return what is to be known of a row's amounts: estimates, what has no price, refusals."""
    found = []
    if row.estimated_nanousd:
        found.append(f"{show.percent(row.estimated_nanousd, row.cost_nanousd)} estimated")
    if row.unpriced:
        found.append(f"{row.unpriced} unpriced")
    if row.refused:
        found.append(f"{row.refused} refused")
    if row.imported:
        found.append(f"{show.tokens(row.imported)} imported")
    if row.imported_unpriced:
        found.append(f"{row.imported_unpriced} of them unpriced")
    return ", ".join(found)
