"""`spend`: what was used and what it cost, from the ledger alone; no daemon is needed."""

import re
import time
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tollway.cli import complete, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.broken import load_to_read
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.period_options import Since, Until, Zone
from tollway.cli.periods import period, zone
from tollway.cli.spend_read import chart_of, read
from tollway.cli.spend_report import as_csv, as_json_data, compared
from tollway.cli.spend_table import as_markdown, as_table
from tollway.daemon.config import shown
from tollway.daemon.config.check import tag_wrong
from tollway.daemon.ledger.spend import TAG, By, Only
from tollway.providers.canon import Price


class Format(StrEnum):
    """How the report is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    HTML = "html"


Top = Annotated[int | None, typer.Option(min=1, help="Show the dearest only; add up the others.")]


_ByOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help=f"Comma-separated, of: {', '.join(By)}, tag:NAME. Else model.",
        autocompletion=complete.by(By),
    ),
]


_OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help=f"Of one alone: {', '.join(Only.__struct_fields__)}; may be repeated.",
        autocompletion=complete.only(*Only.__struct_fields__),
    ),
]


_FormOption = Annotated[
    Format | None, typer.Option("--format", help="How to print it.", show_choices=True)
]


def spend(  # noqa: PLR0913, PLR0917 - each is an option that people type
    config: ConfigFile = None,
    by: _ByOption = None,
    only: _OnlyOption = None,
    since: Since = "month",
    until: Until = None,
    tz: Zone = None,
    top: Top = None,
    form: _FormOption = None,
    reference: Annotated[
        str | None,
        typer.Option("--as", metavar="TARGET", help="What these tokens would cost at that price."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was used, and what it cost.

    From the start of this month unless said otherwise. Costs that rest on an estimate, and calls
    whose model had no price, are marked. What models of this box cost while they were in memory
    without work stands in lines of its own: it is in no call's cost. What `tollway import` took
    over was not paid here: its list prices stand in brackets, and shares and order are by what
    was paid; by list prices where only those are known. `--as` adds what the tokens that passed
    the gateway would have cost elsewhere, long prompts at the price of short ones. CSV has no
    totals row, so that its columns can be added up; amounts in CSV and JSON are exact.

    Beside it stand the period before, a forecast to the period's end, and the budgets. A session
    is what the header `x-tollway-session` or the tag `session` says, else an agent's own session,
    else the run of `tollway run`.

    Examples:
        tollway spend --by team,model --since 7d
        tollway spend --by tag:branch,model --since week
        tollway spend --only team=ml --by user,model
        tollway spend --by team --since 2026-11 --until 2026-11 --format csv > november.csv
        tollway spend --by team --since month --format html > spend.html
        tollway spend --by provider --as openai/gpt-4o-mini
    """
    if as_json and form not in (None, Format.JSON):
        raise UsageProblem(f"`--json` and `--format {form}` cannot both be", hint="Give one")
    loaded = load_to_read(config)
    groups = _groups(",".join(by or [By.MODEL]))
    asked = period(since, until, zone(tz or loaded.server.timezone), time.time_ns() // 1_000_000)
    found = read(loaded, groups, asked, top, _only(only or ()))
    if reference is not None:
        found = compared(found, reference, _price_of(reference, config))
    match Format.JSON if as_json else form or Format.TABLE:
        case Format.JSON:
            show.emit(as_json_data(found))
        case Format.CSV:
            show.emit_csv(*as_csv(found))
        case Format.MARKDOWN:
            as_markdown(found)
        case Format.HTML:
            from tollway.cli.spend_html import as_html  # noqa: PLC0415 - XML takes time

            made_at = datetime.now(asked.tz)
            as_html(found, chart_of(loaded, found), f"{made_at:%Y-%m-%d %H:%M %Z}")
        case Format.TABLE:
            as_table(found)


def _groups(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_group(word.strip()) for word in text.split(",")))


# A model's name may have a comma: one parts where another NAME=VALUE, or its name alone, begins.
_PARTS = re.compile(rf",(?=\s*(?:\w+=|(?:{'|'.join(Only.__struct_fields__)})\s*(?:,|$)))")


def _only(said: Sequence[str]) -> Only:
    """Return whose spending is asked for.

    Raises:
        UsageProblem: It is no NAME=VALUE, of no such name, or of one twice.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for text in said for part in _PARTS.split(text)):
        name, equals, value = part.partition("=")
        if not equals or name not in Only.__struct_fields__:
            known = name in Only.__struct_fields__
            near = "" if known else shown.meant(name, Only.__struct_fields__)
            raise UsageProblem(
                f"`--only {part}` {'says no value' if known else 'names nothing to go by'}{near}",
                hint=f"Such as `--only team=ml`; there are {', '.join(Only.__struct_fields__)}",
            )
        if found.setdefault(name, value) != value:
            raise UsageProblem(
                f"`--only {name}` says two things", hint=f"`--by {name}` shows them beside another"
            )
    return Only(**found)


def _group(word: str) -> str:
    lowered = word.lower()
    if lowered in list(By):
        return By(lowered)
    if lowered.startswith(TAG) and not tag_wrong(word[len(TAG) :]):
        return TAG + word[len(TAG) :]
    raise UsageProblem(
        f"Spending cannot be added up by `{word}`{shown.meant(lowered, list(By))}",
        hint=f"Choose of {', '.join(By)}, or a tag as `tag:run`",
    )


def _price_of(target: str, config: Path | None) -> Price:
    from tollway.cli.price_views import Prices  # noqa: PLC0415 - reading price data takes time

    price = Prices(config).of(target).price
    if price is None or price.gpu_hour_usd is not None:
        raise UsageProblem(
            f"`{target}` has no price by tokens", hint="`tollway prices list` shows those that have"
        )
    return price
