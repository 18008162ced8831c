"""The `tollway` program: its options and the table of its commands.

To add a command, write a plain function in its module and a row here. Nothing but Typer is
imported to show this table.
"""

from pathlib import Path
from typing import Annotated

import typer

from tollway.cli.lazy import Row, Table

DAEMON = "The gateway"
FILE = "Configuration"

COMMANDS = (
    Row("init", "init:init", "Write a first gateway.toml from what is found on this box", DAEMON),
    Row("up", "start:up", "Start the daemon in the background and wait until it is ready", DAEMON),
    Row("down", "start:down", "Stop the daemon: calls in flight may end", DAEMON),
    Row("restart", "start:restart", "Stop the daemon and start it again", DAEMON),
    Row("status", "status:status", "Show what runs", DAEMON),
    Row("reload", "status:reload", "Make the daemon read gateway.toml again", DAEMON),
    Row("serve", "start:serve", "Run the daemon in the foreground", DAEMON),
    Row("doctor", "doctor:doctor", "Check everything that a call needs, each with a fix", DAEMON),
    Row("config", "", "Check, show and roll back gateway.toml", FILE),
    Row("config check", "config:check", "Say whether gateway.toml is right, with line numbers"),
    Row("config show", "config:show_", "Show the file, or what is in force with --effective"),
    Row("config history", "config:history", "List the versions that were in force, newest first"),
    Row("config rollback", "config:rollback", "Bring an earlier version back"),
    Row("secrets", "", "Keep provider keys out of gateway.toml", FILE),
    Row("secrets set", "secrets:set_", "Store a secret, read from a hidden prompt or stdin"),
    Row("secrets list", "secrets:list_", "List the secrets' names and where each is kept"),
    Row("secrets remove", "secrets:remove", "Forget a secret"),
    Row("secrets backend", "secrets:backend", "Show or choose where secrets are kept"),
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms that only this needs

        typer.echo(f"tollway {version('tollway')}")
        raise typer.Exit


class Program(Table):
    """The table, as Typer's group."""

    rows = COMMANDS


app = typer.Typer(
    name="tollway", cls=Program, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def program(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="PATH",
            help="The gateway.toml to use; else $TOLLWAY_CONFIG, ./gateway.toml, the user's own.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Put one gateway in front of your models: keys, budgets, routes and a one ledger."""
    # `config` is read by options.ConfigFile and `debug` by lazy.take_debug, before this runs.
    del config, debug, version


def main() -> None:
    """Run the program on the process's arguments; never returns."""
    app()
