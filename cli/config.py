"""`config`: check, show and roll back gateway.toml. None of it needs the daemon."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomli_w
import typer

from tollway.cli import complete, show
from tollway.cli.broken import find, rough
from tollway.cli.control import load_config, reload_daemon
from tollway.cli.edits import agreed, tell_waiting
from tollway.cli.options import AsJson, ConfigFile, Yes, me
from tollway.cli.secretless import without_secrets
from tollway.daemon import secrets
from tollway.daemon.config import edit
from tollway.daemon.config.check import NARROWING
from tollway.daemon.config.history import versions
from tollway.daemon.config.load import SECTIONS, load
from tollway.daemon.config.paths import find_config, state_paths
from tollway.daemon.config.schema import (
    Aim,
    Between,
    Budget,
    Bytes,
    Case,
    Commit,
    Config,
    PreviousHash,
    Raise,
    Seconds,
)
from tollway.daemon.config.toml import read_text
from tollway.daemon.errors import ConfigError
from tollway.providers.errors import GatewayError

Effective = Annotated[
    bool, typer.Option("--effective", help="Every setting in force, defaults included.")
]


# A key as messages write it: parts with points between, quoted where they hold more than words.
_KEY = r"""(?:"(?:\\.|[^"\\])*"|[^\s":])+"""


def check(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say whether gateway.toml is right, with line numbers.

    Each mistake is one line of file, line, key and reason, and the exit code is 2. What is right
    but doubtful is a warning, and does not change the exit code; so is a secret that cannot be
    had from here. With --json the mistakes stand on stdout too.

    Example:
        tollway config check --config ./gateway.toml
    """
    path = find_config(config)
    try:
        loaded = load(path)
    except ConfigError as error:
        if as_json:
            show.emit({"ok": False, "path": path.absolute(), "problems": _problems(error, path)})
        raise
    _, missing = secrets.fetch(loaded, shown=path)
    warnings = [*loaded.warnings, *(error.message for error in missing), *_refused(loaded)]
    if as_json:
        show.emit({"ok": True, "path": loaded.path, "warnings": warnings})
        return
    for line in warnings:
        show.note([show.Painted("warning", "yellow"), f": {line}"])
    show.say(f"{loaded.path} is right")


def _refused(config: Config) -> list[str]:
    from tollway.cli.budget_prices import doubts  # noqa: PLC0415 - reads the price data

    try:
        return doubts(config)
    except GatewayError:  # a ledger that cannot be read is no fault of this file
        return []


class Problem(msgspec.Struct, frozen=True):
    """One mistake in the file: "gateway.toml:14", and the key where it is one key's."""

    where: str
    key: str | None
    message: str


def _problems(error: ConfigError, path: Path) -> list[Problem]:
    placed = re.compile(rf"({re.escape(str(path))}:\d+): (?:({_KEY}): )?(.*)")
    found = []
    for line in error.message.splitlines():
        said = placed.fullmatch(line)
        found.append(Problem(*said.groups()) if said else Problem(str(path), None, line))
    return found


def show_(config: ConfigFile = None, effective: Effective = False, as_json: AsJson = False) -> None:
    """Show the file, or what is in force with --effective.

    Secrets are never in either: gateway.toml names where they are kept. In one that is refused for
    a secret, `***` stands for it.

    Examples:
        tollway config show
        tollway config show --effective --json
    """
    if not effective and not as_json:
        path = find_config(config)
        show.write(without_secrets(read_text(path), path))
        return
    settings = in_force(load_config(config))
    if as_json:
        show.emit(settings)
    else:
        show.write(tomli_w.dumps(settings))


Number = Annotated[
    int,
    typer.Argument(
        min=1, help="A number that `config history` lists.", autocompletion=complete.versions
    ),
]


def history(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the versions that were in force, newest first.

    Commands that change gateway.toml keep each version beside the ledger, and so does the
    daemon when it takes up what a person wrote. A version that may hold a secret is not kept.

    Example:
        tollway config history
    """
    path = find(config)
    try:
        ledger = load(path).ledger.path
    except ConfigError:
        # A file that is broken now is what its history is for.
        ledger = rough(path).ledger
    found = versions(state_paths(ledger).history, path)
    if as_json:
        show.emit(found)
        return
    if not found:
        show.note("No version is kept yet: the first change keeps two")
        return
    show.table(
        [show.Column("n", number=True), "since", "who", "what"],
        [(str(one.number), show.when(_moment(one.at)), one.who, one.what) for one in found],
    )


def _moment(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def rollback(
    number: Number, yes: Yes = False, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Bring an earlier version back.

    The version is checked first, the file that it replaces is kept, and a running daemon takes
    it up at once. Where keys that were revoked, rotated or removed since would work again, it
    names them and asks.

    Example:
        tollway config rollback 3
    """
    path = find(config)
    names, text = edit.revived_by_rollback(path, number)
    if names:
        keys = ", ".join(f"`{name}`" for name in names)
        agreed(f"Secrets out of service would work again, of the keys {keys}. Go on?", yes=yes)
    done = edit.rollback(path, number, who=me(), expect=text)
    reloaded = reload_daemon(done.config)
    if as_json:
        show.emit({"changed": done.changed, "undo": done.version, "reloaded": reloaded})
        return
    if not done.changed:
        show.note(f"Version {number} is what {path} says already")
        return
    show.note(f"{path} is version {number} again")
    if done.version is not None:
        show.note(f"`tollway config rollback {done.version}` undoes this")
    if reloaded is not None:
        show.note("The daemon has taken it up")
        tell_waiting(reloaded)


def in_force(config: Config) -> dict[str, object]:
    """Return every setting as it would stand in gateway.toml: read again, it is the same."""
    found: dict[str, Any] = _settings(msgspec.structs.replace(config, stated={}))
    for section, key in NARROWING:
        for table in found[section].values():
            if not table[key]:
                del table[key]  # an empty one is refused
    server = _settings(config.server)
    host, port = config.server.host, config.server.port
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    del server["host"], server["port"]
    tables: dict[str, object] = {"server": {"listen": listen, **server}}
    tables |= {name: found[name] for name in SECTIONS if name != "server"}
    return {name: table for name, table in tables.items() if table}


def _settings(struct: msgspec.Struct) -> dict[str, object]:
    values = {
        field.encode_name: getattr(struct, field.name) for field in msgspec.structs.fields(struct)
    }
    # TOML has no null: what is not set is not there.
    return {name: _written(value) for name, value in values.items() if value is not None}


def _written(value: object) -> object:  # noqa: C901, PLR0911, PLR0912 - one line for each type that TOML lacks
    match value:
        case Budget():
            return value.text if value.at == "hard" else _longer(value)
        case Aim() | Between() | Case():
            return _routed(value)
        case Commit():
            return {"usd": _usd(value.nanousd), "per": value.per}
        case PreviousHash():
            return {"hash": value.hash, "until": datetime.fromtimestamp(value.until, UTC)}
        case Raise():
            until = datetime.fromtimestamp(value.until, UTC)
            return {"scope": value.text, "usd": _usd(value.nanousd), "until": until, "by": value.by}
        case msgspec.Struct():
            return _settings(value)
        case dict():
            return {name: _written(inner) for name, inner in value.items()}
        case tuple():
            return [_written(inner) for inner in value]
        case Seconds():
            return f"{Decimal(repr(float(value))).normalize():f}s"
        case Bytes():
            return _size(value)
        case Path():
            return str(value)
        case str():
            return str(value)  # a SecretRef is a name, and no TOML type
        case _:
            assert isinstance(value, bool | int | float | Decimal | date)  # noqa: S101
            return value


def _size(count: int) -> str:
    """Return bytes as a person writes them, exactly: in the largest unit that divides them."""
    units = {"GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6, "KiB": 2**10, "kB": 1000}
    unit = next((one for one, size in units.items() if count and not count % size), "B")
    return f"{count // units.get(unit, 1)}{unit}"


def _routed(value: Aim | Between | Case) -> object:
    if isinstance(value, Aim):
        return value.target if value.weight is None else _settings(value)
    if isinstance(value, Between):
        return [value.clock(value.start), value.clock(value.end)]
    # What it has no condition on is not there: an empty list of names would be refused.
    return {name: one for name, one in _settings(value).items() if one not in ([], {})}


def _longer(budget: Budget) -> dict[str, object]:
    return {"usd": _usd(budget.nanousd), "per": budget.period, "at": budget.at}


def _usd(nanousd: int) -> Decimal:
    return Decimal(nanousd) / 10**9
