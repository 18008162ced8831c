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
USE = "Use and cost"
ACCESS = "Who may call"
MODELS = "What is called"

COMMANDS = (
    Row("init", "init:init", "Write a first gateway.toml from what is found on this box", DAEMON),
    Row("up", "start:up", "Start the daemon in the background and wait until it is ready", DAEMON),
    Row("down", "start:down", "Stop the daemon: calls in flight may end", DAEMON),
    Row(
        "restart",
        "start:restart",
        "Put a new daemon in the old one's place; no connection is refused",
        DAEMON,
    ),
    Row("status", "status:status", "Show what runs", DAEMON),
    Row(
        "top", "top:top", "Show calls, speed, lines, GPUs, local models and spending, live", DAEMON
    ),
    Row("reload", "status:reload", "Make the daemon read gateway.toml again", DAEMON),
    Row("serve", "start:serve", "Run the daemon in the foreground", DAEMON),
    Row("service", "", "The daemon as a service of systemd or launchd", DAEMON),
    Row("service install", "service:install", "Install the daemon as a service, and start it"),
    Row("service uninstall", "service:uninstall", "Stop the service and remove its files"),
    Row("service status", "service:status", "Show how the service manager sees the daemon"),
    Row("doctor", "doctor:doctor", "Check everything that a call needs, each with a fix", DAEMON),
    Row("config", "", "Check, show and roll back gateway.toml", FILE),
    Row("config check", "config:check", "Say whether gateway.toml is right, with line numbers"),
    Row("config show", "config:show_", "Show the file, or what is in force with --effective"),
    Row("config diff", "config_text:diff", "Show what the file changes against what is in force"),
    Row("config edit", "config_text:edit", "Edit it in your editor; only a right file replaces it"),
    Row("config export", "config_text:export", "Write it out as a new document"),
    Row(
        "config import-litellm",
        "config_import:import_litellm",
        "Take the models of a LiteLLM proxy over",
    ),
    Row("config history", "config:history", "List the versions that were in force, newest first"),
    Row("config rollback", "config:rollback", "Bring an earlier version back"),
    Row("config audit", "audit:audit", "Say who changed what, and when"),
    Row("completion", "shells:completion", "Print what makes Tab complete words in a shell", FILE),
    Row("secrets", "", "Keep provider keys out of gateway.toml", FILE),
    Row("secrets set", "secrets:set_", "Store a secret, read from a hidden prompt or stdin"),
    Row("secrets list", "secrets:list_", "List the secrets' names and where each is kept"),
    Row("secrets remove", "secrets:remove", "Forget a secret"),
    Row("secrets backend", "secrets:backend", "Show or choose where secrets are kept"),
    Row("keys", "", "Make, rotate and revoke the keys that callers send", ACCESS),
    Row("keys create", "keys:create", "Make a key, and show its secret once"),
    Row("keys list", "keys:list_", "List the keys: whose, until when, for how much"),
    Row("keys show", "keys:show_", "Show one key, all but its secret, which nobody has"),
    Row("keys set", "keys_set:set_", "Change a key: what is named is replaced"),
    Row("keys rotate", "keys:rotate", "Give a key another secret, and show that once"),
    Row("keys revoke", "keys:revoke", "End a key now, confirmed by the running daemon"),
    Row("teams", "", "Teams: shared groups and budgets", ACCESS),
    Row("teams create", "teams:create", "Make a team"),
    Row("teams list", "teams:list_", "List the teams: groups, budgets and members"),
    Row("teams show", "teams:show_", "Show one team"),
    Row("teams set", "teams:set_", "Change a team: what is named is replaced"),
    Row("teams remove", "teams:remove", "Remove a team that no user and no project names"),
    Row("users", "", "Users: who is billed", ACCESS),
    Row("users create", "users:create", "Make a user"),
    Row("users list", "users:list_", "List the users: team, groups, budgets and keys"),
    Row("users show", "users:show_", "Show one user"),
    Row("users set", "users:set_", "Change a user: what is named is replaced"),
    Row("users remove", "users:remove", "Remove a user that no key names"),
    Row("projects", "", "Projects: what is billed", ACCESS),
    Row("projects create", "projects:create", "Make a project"),
    Row("projects list", "projects:list_", "List the projects: team, groups, budgets and keys"),
    Row("projects show", "projects:show_", "Show one project"),
    Row("projects set", "projects:set_", "Change a project: what is named is replaced"),
    Row("projects remove", "projects:remove", "Remove a project that no key names"),
    Row("budgets", "", "Budgets: how much may be spent", ACCESS),
    Row(
        "budgets list",
        "budgets:list_",
        "List the budgets: limit, spent, held, left, and where they lead",
    ),
    Row(
        "budgets set",
        "budgets:set_",
        "Set a budget: the one of the same period is replaced, others stay",
    ),
    Row("budgets remove", "budgets:remove", "Remove a scope's budgets, or those of one period"),
    Row(
        "budgets raise",
        "budgets:raise_",
        "Raise a scope's budgets for a time, or those of one period",
    ),
    Row("groups", "", "Groups: which models may be called", ACCESS),
    Row("groups create", "groups:create", "Make a group of models"),
    Row("groups list", "groups:list_", "List the groups: models, exceptions, and who is in them"),
    Row("groups show", "groups:show_", "Show one group"),
    Row("groups set", "groups:set_", "Change a group: what is named is replaced"),
    Row("groups remove", "groups:remove", "Remove a group that nobody is in"),
    Row("providers", "", "Providers: who answers calls", MODELS),
    Row("providers add", "providers:add", "Add a provider, and store its key where it needs one"),
    Row(
        "providers list", "providers:list_", "List the providers, and whether their keys are there"
    ),
    Row("providers set", "providers_set:set_", "Change a provider: what is named is replaced"),
    Row("providers test", "providers:test", "Ask a provider for its models, which costs nothing"),
    Row("providers remove", "providers:remove", "Remove a provider that no route needs"),
    Row("providers kinds", "providers:kinds", "List the kinds of providers there are"),
    Row("models", "", "Models of this box: GGUF files, and servers that it starts", MODELS),
    Row("models add", "models_add:add", "Register a GGUF file, to be called as `local/NAME`"),
    Row("models pull", "models_pull:pull", "Fetch a GGUF file from Hugging Face, and register it"),
    Row("models list", "models:list_", "List the registered models"),
    Row("models info", "models_info:info", "Show what a GGUF file is and what memory it needs"),
    Row("models ps", "models:ps", "Show what the models of this box are doing"),
    Row("models logs", "models_logs:logs", "Show what a model's own process has written"),
    Row("models load", "models:load", "Load models now rather than at their first calls"),
    Row("models bench", "models_bench:bench", "Measure a model's speed through the gateway"),
    Row(
        "models import-llama-swap",
        "models_import:import_llama_swap",
        "Take the models of a llama-swap configuration over",
    ),
    Row("models unload", "models:unload", "Free models' memory once their calls have ended"),
    Row("models remove", "models:remove", "Take a model off the list; the file stays"),
    Row("routes", "", "Names that clients ask for, and where they lead", MODELS),
    Row("routes list", "routes:list_", "List the routes: targets in order, strategy, fallbacks"),
    Row("routes explain", "routes:explain", "Say what would become of a call, without sending it"),
    Row(
        "routes test",
        "routes_test:test",
        "Ask each target for one token: who answers, how fast",
    ),
    Row("routes add", "routes_edit:add", "Add a route: a name for targets that are tried in order"),
    Row("routes set", "routes_edit:set_", "Change a route: what is named is replaced"),
    Row("routes remove", "routes_edit:remove", "Remove a route that no other one falls back to"),
    Row(
        "run",
        "run:run",
        "Run an agent or a script through the gateway, and show what it cost",
        USE,
        rest=True,
    ),
    Row("chat", "chat:chat", "Ask a model one question, or talk with it", USE),
    Row("prices", "", "What models cost, and where each price comes from", USE),
    Row("prices list", "prices:list_", "List what models cost"),
    Row("prices show", "prices:show_", "Show all that is known of a target's price"),
    Row(
        "prices set", "prices_set:set_", "State a price in gateway.toml: what is named is replaced"
    ),
    Row("prices unset", "prices_set:unset", "Take a price out of gateway.toml"),
    Row("prices check", "prices:check", "Say which targets have no price, and which differ"),
    Row("prices update", "prices:update", "Show what new price data change, and put them in use"),
    Row("usage", "usage:usage", "Show your own use and what is left, over HTTP with your key", USE),
    Row("spend", "spend:spend", "Show what was used, and what it cost", USE),
    Row(
        "import",
        "imports:import_",
        "Take over what coding agents used elsewhere, by their own logs",
        USE,
    ),
    Row("logs", "logs:logs", "Show the latest calls, or all there is to know about one", USE),
    Row("bench", "bench:bench", "Measure what the gateway adds to a call on this machine", USE),
    Row("ledger", "", "The ledger's file", USE),
    Row("ledger verify", "ledger:verify", "Check that the ledger agrees with itself"),
    Row("ledger reprice", "ledger_bills:reprice", "Price past calls anew; looks first"),
    Row("ledger settle", "ledger_bills:settle", "Say what a call really cost"),
    Row("ledger export", "ledger_files:export", "Write calls or sums as CSV or JSON Lines"),
    Row("ledger backup", "ledger_files:backup", "Copy the ledger, and check the copy"),
    Row("ledger vacuum", "ledger_files:vacuum", "Give room of deleted rows back to the disk"),
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
    name="tollway",
    cls=Program,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,  # `completion` is ours
    context_settings={"help_option_names": ["--help", "-h"]},  # commands take it from here
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
    """Put one gateway in front of your models: keys, budgets, routes and one ledger."""
    # `config` is read by options.ConfigFile and `debug` by lazy.take_debug, before this runs.
    del config, debug, version


def main() -> None:
    """Run the program on the process's arguments; never returns."""
    app()
