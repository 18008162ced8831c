"""`spend`: what was used and what it cost, from the ledger alone; no daemon is needed."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tollway.cli import show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.periods import Period, period, zone
from tollway.cli.spend_report import (
    Report,
    as_csv,
    as_json_data,
    as_markdown,
    as_table,
    beside,
    compared,
    made,
)
from tollway.daemon.ledger.local_time import local_times
from tollway.daemon.ledger.spend import By, report
from tollway.providers.canon import Price


class Format(StrEnum):
    """How the report is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


Since = Annotated[
    str, typer.Option(metavar="WHEN", help="7d, 12h, today, yesterday, week, month, or a date.")
]
Until = Annotated[
    str | None, typer.Option(metavar="WHEN", help="As --since; a day counts whole. Else now.")
]
Zone = Annotated[
    str | None, typer.Option("--tz", metavar="ZONE", help="Whose days; else server.timezone.")
]
Top = Annotated[int | None, typer.Option(min=1, help="Show the dearest only; add up the others.")]


def spend(  # noqa: PLR0913, PLR0917 - each is an option that people type
    config: ConfigFile = None,
    by: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Comma-separated, of: {', '.join(By)}.")
    ] = "model",
    since: Since = "month",
    until: Until = None,
    tz: Zone = None,
    top: Top = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="How to print it.", show_choices=True)
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--as", metavar="TARGET", help="What these tokens would cost at that price."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was used, and what it cost.

    From the start of this month unless said otherwise. Costs that rest on an estimate, and calls
    whose model had no price, are marked. What models of this box cost while they were in memory
    without work stands in lines of its own: it is in no call's cost. `--as` adds what the same
    tokens would have cost elsewhere, long prompts at the price of short ones. CSV has no totals
    row, so that its columns can be added up; amounts in CSV and JSON are exact.

    Examples:
        tollway spend --by team,model --since 7d
        tollway spend --by day --format csv > days.csv
        tollway spend --by provider --as openai/gpt-4o-mini
    """
    if as_json and form not in (None, Format.JSON):
        raise UsageProblem(f"`--json` and `--format {form}` cannot both be", hint="Give one")
    loaded = load_config(config)
    groups = _groups(by)
    asked = period(since, until, zone(tz or loaded.server.timezone), time.time_ns() // 1_000_000)
    found = _read(loaded.ledger.path, groups, asked, top)
    if reference is not None:
        found = compared(found, reference, _price_of(reference, config))
    match Format.JSON if as_json else form or Format.TABLE:
        case Format.JSON:
            show.emit(as_json_data(found))
        case Format.CSV:
            show.emit_csv(*as_csv(found))
        case Format.MARKDOWN:
            as_markdown(found)
        case Format.TABLE:
            as_table(found)


def _groups(text: str) -> tuple[By, ...]:
    words = [word.strip().lower() for word in text.split(",")]
    unknown = [word for word in words if word not in list(By)]
    if unknown:
        raise UsageProblem(
            f"Spending cannot be added up by `{unknown[0]}`", hint=f"Choose of {', '.join(By)}"
        )
    return tuple(dict.fromkeys(By(word) for word in words))


def _read(path: Path, by: tuple[By, ...], asked: Period, top: int | None) -> Report:
    if not path.exists():
        show.note(f"No calls yet: there is no ledger at `{path}`")
        return made((), by, asked, top)
    rows = report(path, by=by, since_ms=asked.since_ms, until_ms=asked.until_ms, tz=asked.tz)
    if not rows:
        show.note(f"No calls from {asked.text}")
    found = made(rows, by, asked, top)
    between = {"since_ms": asked.since_ms, "until_ms": asked.until_ms}
    idle = tuple(one for one in local_times(path, **between) if one.idle_ms)
    sides = report(path, by=(By.PROVIDER,), tz=asked.tz, **between)
    return beside(found, sides, idle)


def _price_of(target: str, config: Path | None) -> Price:
    from tollway.cli.price_views import Prices  # noqa: PLC0415 - reading price data takes time

    price = Prices(config).of(target).price
    if price is None or price.gpu_hour_usd is not None:
        raise UsageProblem(
            f"`{target}` has no price by tokens", hint="`tollway prices list` shows those that have"
        )
    return price
