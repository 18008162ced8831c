"""How budgets stand, in a table with bars, as CSV and as JSON."""

import sys
import time
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import msgspec

from tollway.cli import show
from tollway.cli.control import Control, convert
from tollway.cli.wrap import room
from tollway.daemon import standing
from tollway.daemon.config.schema import Config, Raise, Scope
from tollway.daemon.errors import DaemonUnreachable
from tollway.daemon.standing import BudgetState, Forecast
from tollway.providers.money import plain_usd

_WIDE = 120  # columns of a terminal that has room for bars
_NARROW = 100  # below it a column of nothing costs others their place
_MAY_GO = ("forecast", "notes")
# From which part of its limit on a budget is shown in which colour.
_COLOURS: tuple[tuple[int, show.Colour], ...] = ((100, "red"), (80, "yellow"), (0, "green"))
_CSV = (
    *("scope", "name", "budget", "at", "limit_usd", "raised_usd", "settled_usd", "held_usd"),
    *("left_usd", "turns_over", "forecast_usd", "forecast_method", "runs_out"),
)


class Line(msgspec.Struct, frozen=True):
    """A budget, and where its spending leads."""

    state: BudgetState
    forecast: Forecast

    @property
    def turns_over_ms(self) -> int | None:
        """When it turns over, in unix milliseconds; None for never."""
        return None if self.state.ends_ms >= standing.NEVER_MS else self.state.ends_ms


class Lines(msgspec.Struct, frozen=True):
    """All budgets; `live`: a daemon told, so that what is held is known.

    `zone` is the one in whose days they turn over.
    """

    lines: list[Line]
    raises: tuple[Raise, ...]
    live: bool
    zone: ZoneInfo


def lines(config: Config, scope: Scope | None = None) -> Lines:
    """Return all budgets, or those of one scope, from the daemon where one runs.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    live = True
    try:
        said = Control(config.admin_socket).get("/control/status").get("budgets", [])
        found = convert(said, list[standing.BudgetState])
    except DaemonUnreachable:
        found = []
    if not found:
        # No daemon, or one that waits for its ledger: what can be read is better than nothing.
        live, found = False, standing.states(config)
    if scope is not None:
        found = [one for one in found if (one.scope, one.name) == scope]
    now_ms = time.time_ns() // 1_000_000
    zone = ZoneInfo(config.server.timezone)
    leads = standing.forecasts(config.ledger.path, found, now_ms, zone)
    return Lines(
        [Line(*pair) for pair in zip(found, leads, strict=True)],
        tuple(
            one for one in config.raises if one.until * 1000 > now_ms and scope in (None, one.scope)
        ),
        live,
        zone,
    )


def as_json_data(found: Lines) -> dict[str, object]:
    """Return them for `--json`; money as nano-dollars and as exact dollars in text."""
    return {
        "live": found.live,
        "budgets": [line_data(line) for line in found.lines],
        "raises": [raise_data(one) for one in found.raises],
    }


def line_data(line: Line) -> dict[str, object]:
    """Return one of them for `--json`."""
    return {
        **msgspec.structs.asdict(line.state),
        "limit_usd": plain_usd(line.state.limit_nanousd),
        "settled_usd": plain_usd(line.state.settled_nanousd),
        "held_usd": plain_usd(line.state.held_nanousd),
        "left_usd": plain_usd(line.state.left_nanousd),
        "turns_over_ms": line.turns_over_ms,
        "forecast": line.forecast,
    }


def raise_data(one: Raise) -> dict[str, object]:
    """Return a temporary raise for `--json`."""
    return {
        "scope": one.text,
        "usd": plain_usd(one.nanousd),
        "until_ms": int(one.until * 1000),
        "by": one.by,
    }


def as_csv(found: Lines) -> tuple[Sequence[str], list[list[object]]]:
    """Return titles and rows for CSV: dollars as plain decimals, moments in ISO 8601."""
    rows: list[list[object]] = []
    for line in found.lines:
        state, leads = line.state, line.forecast
        at_end = leads.at_end_nanousd
        rows.append(
            [
                *(state.scope, state.name, state.budget, state.at),
                *(plain_usd(state.limit_nanousd), plain_usd(state.raised_nanousd)),
                *(plain_usd(state.settled_nanousd), plain_usd(state.held_nanousd)),
                *(plain_usd(state.left_nanousd), _iso(line.turns_over_ms)),
                *("" if at_end is None else plain_usd(at_end), leads.method),
                _iso(leads.runs_out_ms),
            ]
        )
    return _CSV, rows


def _iso(at_ms: int | None) -> str:
    return show.iso(None if at_ms is None else at_ms / 1000)


def as_table(found: Lines) -> None:
    """Print them as a table, with bars on a wide terminal."""
    if not found.lines:
        return
    wide = sys.stdout.isatty() and (room(sys.stdout) or 0) >= _WIDE
    numbers = [
        show.Column(name, number=True) for name in ("limit", "spent", "held", "left", "used")
    ]
    bars: list[str | show.Column] = [show.Column("")] if wide else []
    titles = ["budget of", "budget", *bars, *numbers, "turns over", *_MAY_GO]
    rows = [_cells(line, found.zone, wide=wide) for line in found.lines]
    if (room(sys.stdout) or _NARROW) < _NARROW:
        kept = [at for at in range(len(titles)) if titles[at] not in _MAY_GO or _says(rows, at)]
        titles = [titles[at] for at in kept]
        rows = [[row[at] for at in kept] for row in rows]
    show.table(titles, rows)
    if not all(line.forecast.missing for line in found.lines):
        show.note(
            "forecast: spent so far, and the pace of late until the period ends"
            " (`--json` says which)"
        )
    for why in dict.fromkeys(line.forecast.missing for line in found.lines):
        if why:
            which = dict.fromkeys(
                one.state.budget for one in found.lines if one.forecast.missing == why
            )
            show.note(f"no forecast of {', '.join(which)}: {why}")
    if not found.live:
        show.note("no daemon runs: nothing is held")
    for one in found.raises:
        until = show.turn(one.until, found.zone)
        by = f", by {one.by}" if one.by else ""
        show.note(f"raised: {one.text} +{show.money(one.nanousd)} until {until}{by}")


def _says(rows: Sequence[Sequence[show.Cell]], at: int) -> bool:
    return any(row[at] not in {"", show.money(None)} for row in rows)


def _cells(line: Line, zone: ZoneInfo, *, wide: bool) -> list[show.Cell]:
    state = line.state
    taken = state.settled_nanousd + state.held_nanousd
    colour = _colour(taken, state.limit_nanousd)
    bar: list[show.Cell] = []
    if wide:
        bar = [show.Painted(show.bar(taken, state.limit_nanousd, 12) or " ", colour)]
    return [
        f"{state.scope} {state.name}".strip(),
        state.budget,
        *bar,
        show.money(state.limit_nanousd),
        show.money(state.settled_nanousd),
        show.money(state.held_nanousd),
        show.money(state.left_nanousd),
        show.Painted(show.percent(taken, state.limit_nanousd), colour),
        _turns_over(line, zone),
        show.money(line.forecast.at_end_nanousd),
        _notes(line),
    ]


def _turns_over(line: Line, zone: ZoneInfo) -> str:
    """Return when it does, as refusals and alerts say it."""
    at_ms = line.turns_over_ms
    if at_ms is None:
        return "never"
    return "rolls on" if line.state.rolling else show.turn(at_ms / 1000, zone)


def _colour(taken: int, limit: int) -> show.Colour:
    share = 100 * taken // limit if limit else 100
    return next(colour for least, colour in _COLOURS if share >= least)


def _notes(line: Line) -> str:
    state = line.state
    found: list[str] = [] if state.at == "hard" else [state.at]
    if state.raised_nanousd:
        found.append(f"+{show.money(state.raised_nanousd)} for a time")
    if state.left_nanousd <= 0:
        found.append("full")
    elif line.forecast.runs_out_ms:
        found.append(f"full on {show.when(line.forecast.runs_out_ms / 1000)}")
    return ", ".join(found)
