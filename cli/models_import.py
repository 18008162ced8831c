"""`models import-llama-swap`: the models of a llama-swap configuration, as they are run here."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollway.cli import edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.fit import fit
from tollway.cli.llama_swap import Translated, translated
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.taken_over import NotUnderstood, read_yaml

if TYPE_CHECKING:
    from tollway.daemon.config.schema import Config


def import_llama_swap(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="llama-swap's config.yaml.")],
    *,
    free: Annotated[
        bool, typer.Option("--free", help="Calls of these models cost nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the tables and change nothing.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take the models of a llama-swap configuration over.

    Each command becomes a model of this gateway, its aliases and its own name routes to it,
    groups say which models are kept apart. What has no place in gateway.toml is listed. Macros
    and variables of the environment are filled in. Needs PyYAML.

    Examples:
        tollway models import-llama-swap ~/llama-swap/config.yaml --dry-run
        tollway models import-llama-swap config.yaml --free
    """
    loaded = load_config(config)
    try:
        found = translated(read_yaml(file), os.environ)
    except NotUnderstood as fault:
        raise UsageProblem(f"`{file}`: {fault}") from fault
    _make_fit(found)
    if free:
        for table in found.models.values():
            table["price"] = "free"
    _leave_what_is_there(found, loaded)
    facts: dict[str, object] = {
        "models": found.models,
        "routes": found.routes,
        "left_out": found.left_out,
    }
    if dry_run or not found.models:
        _show(found, facts, as_json=as_json)
        if not found.models:
            show.note("There is nothing to take over")
        return
    change = None
    for section, tables in (("models", found.models), ("routes", found.routes)):
        for name, values in tables.items():
            one = edits.put(section, name, values, new=True)
            change = one if change is None else edits.both(change, one)
    assert change is not None  # noqa: S101 - there are models
    done = edits.apply(loaded.path, change, what="models import-llama-swap")
    if not as_json:
        models = show.counted(len(found.models), "model")
        show.note(f"Registered {models} and {show.counted(len(found.routes), 'route')}")
        _say_left_out(found)
        if not free:
            edits.hint("A `price` for each lets budgets apply to them: `--free` for none")
    edits.report(done, facts, ("models", next(iter(found.models))), as_json=as_json)


def _make_fit(found: Translated) -> None:
    """Leave out what gateway.toml cannot say, with the reason, and what hangs on such a model."""
    models = {"models": found.models}
    gone = [(key, why) for key, why in fit(models) if ".apart_from[" not in key]
    found.left_out += [f"{key}: not taken over; {why}" for key, why in gone]
    for name, table in list(found.routes.items()):
        if table["to"][0].partition("/")[2] not in found.models:
            del found.routes[name]
    fitted = fit({**models, "routes": found.routes})
    found.left_out += [f"{key}: not taken over; {why}" for key, why in fitted]


def _leave_what_is_there(found: Translated, config: "Config") -> None:
    for name in [name for name in found.models if name in config.models]:
        found.left_out.append(f"models.{name}: there is a model of that name already")
        del found.models[name]
    taken = {one for name, route in config.routes.items() for one in (name, *route.aliases)}
    for name, table in list(found.routes.items()):
        target = table["to"][0].partition("/")[2]
        if name in taken or target not in found.models:
            if target in found.models:
                found.left_out.append(f"{name}: there is a route of that name already")
            del found.routes[name]
    for table in found.models.values():
        known = found.models.keys() | config.models.keys()
        if not (apart := [one for one in table.pop("apart_from", []) if one in known]):
            continue
        table["apart_from"] = apart


def _show(found: Translated, facts: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        show.emit(facts)
        return
    import tomli_w  # noqa: PLC0415 - only this needs it

    tables = {"models": found.models, "routes": found.routes}
    show.write(tomli_w.dumps({name: table for name, table in tables.items() if table}))
    _say_left_out(found)


def _say_left_out(found: Translated) -> None:
    for line in found.left_out:
        edits.warn(line)
