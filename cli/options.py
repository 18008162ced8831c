"""The options that several commands share."""

import getpass
import os
from pathlib import Path
from typing import Annotated, cast

import typer

from tollway.cli import complete


def _of_the_program(ctx: typer.Context, value: Path | None) -> Path | None:
    """Return the option's value, else the one given before the command's name."""
    return value or cast("Path | None", ctx.find_root().params.get("config"))


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        callback=_of_the_program,
        help="The gateway.toml to use; else $TOLLWAY_CONFIG, ./gateway.toml, the user's own.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
AsKey = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="KEY",
        help="A key's name; else as the owner.",
        autocompletion=complete.entries("keys"),
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="USD/PERIOD", help="Such as 5/day; may be repeated."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        "--groups",
        metavar="NAME",
        help="A group; may be repeated.",
        autocompletion=complete.entries("groups"),
    ),
]
Globs = Annotated[
    list[str] | None,
    typer.Option(
        "--models",
        "--model",
        metavar="GLOB",
        help="What it may call; may be repeated.",
        autocompletion=complete.callables,
    ),
]


def me() -> str:
    """Return who is at the terminal, for the history of gateway.toml."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
