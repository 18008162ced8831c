"""A spend report as one HTML file that can be mailed: no scripts, nothing fetched, light and dark.

The charts are SVG, drawn by pygal once for wide and once for narrow screens, in colours that the
page's style names; each has its numbers in a table beside it.
"""

import sys
from collections.abc import Iterable, Sequence
from html import escape
from itertools import count
from types import ModuleType
from xml.etree import ElementTree

import msgspec

from tollway.cli import show
from tollway.cli.boundary import UsageProblem, printable
from tollway.cli.spend_page import PAGE
from tollway.cli.spend_report import Report, elsewhere, part_of, share_of, worth
from tollway.cli.spend_table import budget_text, commitment_text, fields, notes, told
from tollway.daemon.ledger.spend import SpendRow
from tollway.providers import extras

COLOURS = 6  # series in the chart of days; the last is for all others
_BARS = 12  # groups in the chart of groups
_FULL = ' low="0.8" high="0.999" optimum="0"'  # where a budget's colour changes
_NUMBER = ' class="n"'
_NUMBERS = ("spent", "left", "committed", "used by now")
_SIZES = (("wide", 900, 300), ("narrow", 420, 320))
_MARGIN = 6
_HALF_CHARACTER = 4  # of a scale's label, half of which stands beyond its mark
_STEPS = 8  # of a scale that stands; of one that lies, what its labels leave room for
_STEPS_LYING = {"wide": 5, "narrow": 2}


class Days(msgspec.Struct, frozen=True):
    """What the chart of days shows: for each series what each day, week or month cost.

    `unit` says which; the amounts are nano-dollars, as many in each series as there are `names`.
    Where nothing was paid but something imported, they are `notional`.
    """

    unit: str
    names: tuple[str, ...]
    dimension: str
    series: tuple[tuple[str, tuple[int, ...]], ...]
    notional: bool = False

    @property
    def what(self) -> str:
        """What the amounts are."""
        return "Imported use at list prices" if self.notional else "Cost"


def as_html(report: Report, days: Days, made_at: str) -> None:
    """Print the report as a page; `made_at` is when.

    Raises:
        UsageProblem: stdout is a terminal, or pygal is not installed.
    """
    if sys.stdout.isatty():
        raise UsageProblem(
            "A page is for a file, not for a terminal",
            hint="Write `tollway spend --format html > spend.html`",
        )
    sys.stdout.write(page(report, days, made_at))


def page(report: Report, days: Days, made_at: str) -> str:
    """Return the page. Each amount of its tables has the exact nano-dollars in `data-nanousd`.

    Raises:
        UsageProblem: pygal is not installed.
    """
    pygal = _pygal()
    parts = [
        _tiles(report),
        _days(pygal, days),
        _groups(pygal, report),
        _table(report),
        _budgets(report),
        _commitments(report),
        _days_table(days),
        _notes(report),
    ]
    title = report.title
    return PAGE.format(
        title=_text(title),
        period=_text(report.period.text),
        made=_text(made_at),
        body="\n".join(part for part in parts if part),
    )


def _pygal() -> ModuleType:
    try:
        import pygal  # noqa: PLC0415 - only a page needs it
    except ImportError as fault:
        raise UsageProblem(
            "HTML needs pygal, which draws the charts",
            hint=f"`{extras.install('reports')}` installs it",
        ) from fault
    return pygal  # type: ignore[no-any-return]  # it has no types


def _text(text: str) -> str:
    return escape(printable(text))


# --- what is said in numbers ---------------------------------------------------------------------


def _tiles(report: Report) -> str:
    total = report.total
    found = [("paid", show.money(total.cost_nanousd), "")]
    if total.saved_nanousd:
        listed = total.cost_nanousd + total.saved_nanousd
        found[0] = ("paid", found[0][1], f"of {show.money(listed)} at list prices")
        name = "saved" if total.saved_nanousd > 0 else "surcharge"
        found.append((name, show.money(abs(total.saved_nanousd)), ""))
    then = report.beside.before
    if then and not then.missing:
        change = show.change(total.cost_nanousd, then.total.cost_nanousd) or "0%"
        found.append((f"against {then.which}", change, f"{show.money(then.total.cost_nanousd)}"))
    leads = report.beside.forecast
    if leads and leads.at_end_nanousd is not None:
        span = f"{show.money(leads.low_nanousd)} to {show.money(leads.high_nanousd)}"
        end = show.turn(leads.ends_ms / 1000, report.period.tz)
        found.append((f"forecast to {end}", show.money(leads.at_end_nanousd), span))
    calls = f"{show.tokens(total.refused)} refused" if total.refused else ""
    found.append(("calls", show.tokens(total.calls), calls))
    if total.imported:
        said = f"{show.counted_short(total.imported, 'call')}, at list prices; billed elsewhere"
        found.append(("imported, not paid here", show.money(total.notional_nanousd), said))
    tiles = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}"
        + (f"<small>{_text(more)}</small>" if more else "")
        + "</dd></div>"
        for name, value, more in found
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _table(report: Report) -> str:
    shown = fields(report)
    heads = "".join(f'<th scope="col">{_text(name)}</th>' for name in report.by)
    heads += "".join(f'<th scope="col" class="n">{_text(one.title)}</th>' for one in shown)
    heads += '<th scope="col">notes</th>'
    rows = "".join(_row(report, row) for row in report.all_rows)
    idle = "".join(
        f'<tr><th scope="row">idle: {_text(one.model)}</th>{"<td></td>" * (len(report.by) - 1)}'
        f'<td class="n">{show.money(one.idle_nanousd)}</td>{"<td></td>" * (len(shown) - 1)}'
        f"<td>{show.duration(one.idle_ms / 1000)} without work, in no call's cost</td></tr>"
        for one in report.idle
    )
    return (
        '<section><h2>All of it</h2><div class="scroll" tabindex="0"><table id="spend">'
        f"<caption>{_text(report.title)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}{idle}</tbody>"
        f"<tfoot>{_row(report, report.total)}</tfoot></table></div></section>"
    )


def _row(report: Report, row: SpendRow) -> str:
    names = "".join(
        f'<th scope="row">{_text(name or "-")}</th>' if not at else f"<td>{_text(name or '-')}</td>"
        for at, name in enumerate(row.group)
    )
    exact = {
        "cost": row.cost_nanousd,
        "saved": row.saved_nanousd,
        "imported": row.notional_nanousd,
        **({f"as {report.reference}": elsewhere(report, row)} if report.price else {}),
    }
    cells = "".join(
        '<td class="n"'
        + (f' data-nanousd="{exact[one.title]}"' if one.title in exact else "")
        + f">{_text(one.cell(row))}</td>"
        for one in fields(report)
    )
    return f"<tr>{names}{cells}<td>{_text(notes(row))}</td></tr>"


def _budgets(report: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(f"{one.state.scope} {one.state.name}".strip())}</th>'
        f'<td>{_text(one.state.budget)}</td><td class="n">{show.money(one.state.settled_nanousd)}'
        f'</td><td class="n">{show.money(one.state.left_nanousd)}</td><td>'
        + _meter(one.state.settled_nanousd, one.state.limit_nanousd, budget_text(one), _FULL)
        + "</td></tr>"
        for one in report.beside.budgets
    )
    return _small("Budgets", ("budget of", "budget", "spent", "left", "used"), rows)


def _commitments(report: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(one.provider)}</th>'
        f'<td class="n">{show.money(one.commit_nanousd)} a {one.per}</td>'
        f'<td class="n">{show.money(one.used_nanousd)}</td>'
        f'<td class="n">{show.money(one.left_nanousd)}</td>'
        f"<td>{_meter(one.used_nanousd, one.commit_nanousd, commitment_text(one, report))}</td>"
        "</tr>"
        for one in report.beside.commitments
    )
    return _small("Commitments", ("provider", "committed", "used by now", "left", "used"), rows)


def _meter(part: int, whole: int, said: str, levels: str = "") -> str:
    share = show.percent(part, whole)
    value = min(1.0, part / whole) if whole else 0.0
    return (
        f'<meter value="{value:.3f}"{levels} title="{_text(said)}">{share}</meter> {_text(share)}'
    )


def _small(title: str, heads: Iterable[str], rows: str) -> str:
    if not rows:
        return ""
    cells = "".join(
        f'<th scope="col"{_NUMBER if name in _NUMBERS else ""}>{_text(name)}</th>' for name in heads
    )
    return (
        f'<section><h2>{title}</h2><div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _days_table(days: Days) -> str:
    if len(days.names) < 2:
        return ""
    heads = f'<th scope="col">{days.unit}</th>' + "".join(
        f'<th scope="col" class="n">{_text(name or "-")}</th>' for name, _ in days.series
    )
    rows = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(
            f'<td class="n" data-nanousd="{costs[at]}">{show.money(costs[at])}</td>'
            for _, costs in days.series
        )
        + "</tr>"
        for at, name in enumerate(days.names)
    )
    return (
        f"<section><details><summary>The numbers of the chart by {days.unit}</summary>"
        f'<div class="scroll" tabindex="0"><table id="days"><caption>{days.what} by {days.unit} and'
        f" {_text(days.dimension)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details></section>"
    )


def _notes(report: Report) -> str:
    said = [*told(report)]
    said.append(
        "Costs are what this gateway booked. “estimated” marks the part whose tokens no provider"
        " reported: it is an upper bound. “unpriced” counts calls whose model had no price: they"
        " stand in no cost."
    )
    items = "".join(f"<li>{_text(text)}</li>" for text in said)
    return f"<section><h2>How to read it</h2><ul>{items}</ul></section>"


# --- charts --------------------------------------------------------------------------------------


def _days(pygal: ModuleType, days: Days) -> str:
    if len(days.names) < 2 or not any(any(costs) for _, costs in days.series):
        return ""
    drawn = []
    for screen, width, height in _SIZES:
        chart = pygal.StackedBar(**_look(pygal, f"days-{screen}", width, height))
        # The year stands in the table; on the axis it would take the room of the days.
        labels = [name.removeprefix(_year(days)) for name in days.names]
        chart.x_labels = labels
        every = max(1, -(-len(days.names) // (12 if screen == "wide" else 5)))
        chart.x_labels_major = labels[::every]
        most = max(sum(costs) for costs in zip(*(costs for _, costs in days.series), strict=True))
        chart.y_labels = [mark / 1e9 for mark in scale(most, _STEPS)]
        for name, costs in days.series:
            chart.add(printable(name or "-"), [cost / 1e9 for cost in costs])
        drawn.append(_svg(chart, screen, f"{days.what} by {days.unit} and {days.dimension}"))
    keys = "".join(
        f'<li><i class="c{at}"></i>{_text(name or "-")}</li>'
        for at, (name, _) in enumerate(days.series)
    )
    said = "<p>Imported: at list prices, not paid here.</p>" if days.notional else ""
    return (
        f'<section><h2>By {days.unit}</h2>{said}{"".join(drawn)}<ul class="keys">{keys}</ul>'
        "</section>"
    )


def _year(days: Days) -> str:
    """Return what all names begin with where they are days of one year, "" else."""
    years = {name[:5] for name in days.names}
    return years.pop() if len(years) == 1 else ""


def _groups(pygal: ModuleType, report: Report) -> str:
    rows = [row for row in report.rows if row.cost_nanousd or row.notional_nanousd]
    rows = sorted(rows, key=worth, reverse=True)[:_BARS]
    if len(rows) < 2:
        return ""
    names = [" / ".join(printable(name or "-") for name in row.group) for row in rows]
    drawn = []
    for screen, width, _ in _SIZES:
        # From the bottom up, so that the dearest stands on top.
        imported = bool(report.total.notional_nanousd)
        each = 44 if imported else 28
        look = _look(pygal, f"groups-{screen}", width, 60 + each * len(rows))
        # Beside each other: what was paid and what was not are no sum.
        chart = (pygal.HorizontalBar if imported else pygal.HorizontalStackedBar)(**look)
        longest = 40 if screen == "wide" else 16
        chart.x_labels = [_cut(name, longest) for name in reversed(names)]
        most = max(max(row.cost_nanousd, row.notional_nanousd) for row in rows)
        marks = scale(most, _STEPS_LYING[screen])
        chart.y_labels = [mark / 1e9 for mark in marks]
        chart.show_minor_x_labels = True  # the scale's, which lies
        chart.margin_right = _MARGIN + _HALF_CHARACTER * len(show.money(marks[-1]))
        chart.add("paid", [row.cost_nanousd / 1e9 for row in reversed(rows)])
        if imported:
            chart.add("imported", [row.notional_nanousd / 1e9 for row in reversed(rows)])
        drawn.append(_svg(chart, screen, f"Cost by {', '.join(report.by)}"))
    parts = [part_of(report, row) for row in rows]
    share = show.percent(sum(part for part, _ in parts), parts[0][1])
    some = f"The {len(rows)} dearest: {share} of what was {share_of(report)}."
    keys = ""
    if report.total.notional_nanousd:
        keys = (
            '<ul class="keys"><li><i class="c0"></i>paid</li><li><i class="c1"></i>imported: at'
            " list prices, not paid here</li></ul>"
        )
    return (
        f"<section><h2>By {_text(', '.join(report.by))}</h2><p>{some}</p>"
        f"{''.join(drawn)}{keys}</section>"
    )


def scale(most: int, steps: int) -> list[int]:
    """Return a scale's marks in nano-dollars, from 0 to `most` or above, at most so many steps.

    pygal's own are rounded in a way that leaves sums under a cent without any but $0.00. A step is
    1, 2 or 5 with noughts behind it, so that `show.money` writes each mark as it is.
    """
    step = next(
        step for power in count() for step in (10**power, 2 * 10**power, 5 * 10**power)
        if most <= steps * step
    )  # fmt: skip
    return [step * at for at in range(-(-most // step) + 1)]


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _look(pygal: ModuleType, name: str, width: int, height: int) -> dict[str, object]:
    colours = tuple(f"var(--c{at})" for at in range(COLOURS))
    style = pygal.style.Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--text)",
        foreground_strong="var(--text)",
        foreground_subtle="var(--line)",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
        guide_stroke_dasharray="0",
        major_guide_stroke_dasharray="0",
        colors=colours,
        font_family="system-ui, sans-serif",
        label_font_size=12,
        major_label_font_size=12,
        opacity="1",
        opacity_hover="1",
        transition="0s",
    )
    return {
        "style": style,
        "defs": [],
        "js": [],
        "width": width,
        "height": height,
        "show_legend": False,
        "show_minor_x_labels": False,
        "include_x_axis": True,
        "margin": _MARGIN,
        "spacing": 6,
        "value_formatter": _dollars,
        "classes": ("chart", name),
        "disable_xml_declaration": True,
        "truncate_label": -1,
    }


def _dollars(usd: float) -> str:
    return show.money(round(usd * 1e9))


def _svg(chart: object, screen: str, said: str) -> str:
    """Return a chart as an element of a page: no script, and words for those who cannot see it."""
    root: ElementTree.Element = chart.render_tree()  # type: ignore[attr-defined]  # no types
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.rpartition("}")[2] == "script":
                parent.remove(child)
    root.set("role", "img")
    root.set("aria-label", f"{said}; the numbers stand in the tables below")
    text = ElementTree.tostring(root, encoding="unicode", method="html")
    return f'<figure class="{screen}">{text}</figure>'


def shares_of(rows: Sequence[SpendRow], unit: str, names: Sequence[str], dimension: str) -> Days:
    """Return the chart's data of rows by unit and dimension: the dearest, and all others in one."""
    notional = not any(row.cost_nanousd for row in rows) and any(row.imported for row in rows)
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        of_name = sums.setdefault(row.group[1], {})
        amount = row.notional_nanousd if notional else row.cost_nanousd
        of_name[row.group[0]] = of_name.get(row.group[0], 0) + amount
    ordered = sorted(sums, key=lambda name: (-sum(sums[name].values()), name))
    most = COLOURS if len(ordered) <= COLOURS else COLOURS - 1
    series = [(name, tuple(sums[name].get(one, 0) for one in names)) for name in ordered[:most]]
    if rest := ordered[most:]:
        others = tuple(sum(sums[name].get(one, 0) for name in rest) for one in names)
        series.append((f"({show.counted(len(rest), 'other')})", others))
    return Days(unit, tuple(names), dimension, tuple(series), notional)
