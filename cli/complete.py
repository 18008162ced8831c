"""What a shell is offered for a value: names of gateway.toml, read as fast as it can be.

Nothing here may fail or ask anybody: whoever presses Tab wants names, or silence.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import typer

Complete = Callable[[typer.Context, str], list[str]]
Names = Callable[[typer.Context], Iterable[str]]

_SCOPES = {
    "team": "teams", "user": "users", "key": "keys", "project": "projects",
    "provider": "providers", "route": "routes",
}  # fmt: skip
_PERIODS = ("today", "yesterday", "week", "month", "7d", "30d", "24h")
_BUDGET_PERIODS = ("day", "week", "month", "total")


def _completing(names: Names) -> Complete:
    """Return names as a completion that never fails."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return [name for name in dict.fromkeys(names(ctx)) if name.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - a file of any shape; a traceback on Tab helps nobody
            return []

    return complete


def among(*words: str) -> Complete:
    """Return a completion of fixed words."""
    return _completing(lambda _ctx: words)


def entries(*sections: str) -> Complete:
    """Return a completion of the names of tables: `[users.ada]` is "ada" of "users"."""
    return _completing(lambda ctx: _names(_tables(ctx), *sections))


def _targets(ctx: typer.Context) -> list[str]:
    """Return `provider/model` of all that gateway.toml names."""
    tables = _tables(ctx)
    found = [f"local/{name}" for name in _names(tables, "models")]
    for route in _table(tables, "routes").values():
        to = route.get("to", []) if isinstance(route, dict) else []
        for one in [to] if isinstance(to, str) else to:
            name = one.get("target", "") if isinstance(one, dict) else str(one)
            if "/" in name and not re.search(r"[*?]", name):
                found.append(name)
    return found


def _priced(ctx: typer.Context) -> list[str]:
    """Return what gateway.toml says a price of."""
    tables = _tables(ctx)
    models = _table(tables, "models")
    own = [
        f"local/{name}" for name, one in models.items() if isinstance(one, dict) and "price" in one
    ]
    return _names(tables, "prices") + own


def _callable(ctx: typer.Context) -> list[str]:
    """Return what a client may ask for: routes, their other names, and targets."""
    tables = _tables(ctx)
    found = _names(tables, "routes")
    for route in _table(tables, "routes").values():
        if isinstance(route, dict):
            found += [str(one) for one in route.get("aliases", [])]
    return [name for name in found if not re.search(r"[*?]", name)] + _targets(ctx)


def _with_models(names: Names) -> Complete:
    """Return names, and behind `openai/` the models of that provider that have a price."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        provider = incomplete.partition("/")[0] if "/" in incomplete else ""
        known = _completing(lambda ctx: [*names(ctx), *_models_of(ctx, provider)])
        return known(ctx, incomplete)

    return complete


def _models_of(ctx: typer.Context, provider: str) -> list[str]:
    """Return a provider's models by the price data; not fine-tuned and other kinds, `ft:...`."""
    kind = str(_table(_table(_tables(ctx), "providers"), provider).get("kind", ""))
    if not kind:
        return []
    from tollway.providers.catalog import KINDS  # noqa: PLC0415 - only where it is asked
    from tollway.providers.prices import PriceSource  # noqa: PLC0415 - as above

    models = PriceSource().models(KINDS[kind].prices or "")
    return [f"{provider}/{one.id}" for one in models if ":" not in one.id]


def _secrets(ctx: typer.Context) -> list[str]:
    """Return the secrets that gateway.toml names as `keyring:NAME`."""
    return re.findall(r'"keyring:([^"]+)"', _path(ctx).read_text())


def _versions(ctx: typer.Context) -> list[str]:
    from tollway.daemon.config.history import versions  # noqa: PLC0415 - only where it is asked
    from tollway.daemon.config.paths import data_folder, state_paths  # noqa: PLC0415 - as above

    said = _table(_tables(ctx), "ledger").get("path", "ledger.db")
    ledger = data_folder() / Path(str(said)).expanduser()
    folder = state_paths(ledger).history
    return [str(one.number) for one in versions(folder, _path(ctx).absolute())]


def _kinds(_ctx: typer.Context) -> list[str]:
    from tollway.providers.catalog import KINDS  # noqa: PLC0415 - only where it is asked

    return list(KINDS)


def _zones(_ctx: typer.Context) -> Iterable[str]:
    from zoneinfo import available_timezones  # noqa: PLC0415 - only where it is asked

    return sorted(available_timezones())


targets = _with_models(_targets)
priced = _completing(_priced)
callables = _with_models(_callable)
secrets = _completing(_secrets)
versions = _completing(_versions)
kinds = _completing(_kinds)
zones = _completing(_zones)
periods = among(*_PERIODS)


def scope(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Return what may come next of `team ml month`: a kind, its names, then periods."""
    del args  # a shell's, which Typer leaves empty
    lists = [one for one in ctx.params.values() if isinstance(one, list | tuple)]
    said = [str(word) for word in next(iter(lists), [])]
    if not said:
        return [one for one in (*_SCOPES, "box", "tag") if one.startswith(incomplete)]
    if len(said) == 1 and said[0] in _SCOPES:
        return entries(_SCOPES[said[0]])(ctx, incomplete)
    return [one for one in _BUDGET_PERIODS if one.startswith(incomplete)]


def only(*names: str) -> Complete:
    """Return a completion of `team=ml`: a name, then what gateway.toml has of it."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        name, equals, begun = last.partition("=")
        if not equals:
            return [f"{before}{comma}{one}=" for one in names if one.startswith(name)]
        found = entries(_SCOPES.get(name, ""))(ctx, begun)
        return [f"{before}{comma}{name}={one}" for one in found]

    return complete


def by(choices: Iterable[str]) -> Complete:
    """Return a completion of names with commas between them: `team,mo` becomes `team,model`."""

    def complete(_ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [
            f"{before}{comma}{one}" for one in choices if one.startswith(last) and one not in taken
        ]

    return complete


# --- gateway.toml, as far as it can be read -----------------------------------------------------


def _path(ctx: typer.Context) -> Path:
    from tollway.daemon.config.paths import find_config  # noqa: PLC0415 - only where it is asked

    said = ctx.params.get("config") or ctx.find_root().params.get("config")
    return find_config(Path(said) if said else None)


def _tables(ctx: typer.Context) -> dict[str, Any]:
    text = _path(ctx).read_text()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # it is being edited: its headings still stand
        found: dict[str, Any] = {}
        for section, name in re.findall(r'^\[(\w+)\."?([^\]"]+)"?\]', text, re.MULTILINE):
            found.setdefault(section, {})[name] = {}
        return found


def _table(tables: Mapping[str, Any], section: str) -> dict[str, Any]:
    found = tables.get(section)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _names(tables: Mapping[str, Any], *sections: str) -> list[str]:
    return [name for section in sections for name in _table(tables, section)]
