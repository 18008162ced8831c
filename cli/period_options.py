"""The options by which a command is told which stretch of time is meant."""

from typing import Annotated

import typer

from tollway.cli import complete

Since = Annotated[
    str,
    typer.Option(
        metavar="WHEN",
        help="7d, 12h, today, yesterday, week, month, a date, or 2026-11.",
        autocompletion=complete.periods,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="As --since; a day or month counts whole. Else now.",
        autocompletion=complete.periods,
    ),
]
Zone = Annotated[
    str | None,
    typer.Option(
        "--tz",
        metavar="ZONE",
        help="Whose days; else server.timezone.",
        autocompletion=complete.zones,
    ),
]
