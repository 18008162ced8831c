"""`config import-litellm`: what a LiteLLM proxy's configuration says, said in gateway.toml."""

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollway.cli import edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.fit import fit
from tollway.cli.init import place
from tollway.cli.litellm_file import Translated, translated
from tollway.cli.litellm_words import not_taken
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.taken_over import NotUnderstood, read_yaml
from tollway.daemon.config import edit, shown
from tollway.daemon.config.load import load

if TYPE_CHECKING:
    from tollway.daemon.config.schema import Config

_HEADING = """\
Tollway's configuration, taken over from LiteLLM's {file}. `tollway config check` says whether
it is right. Secrets are kept elsewhere and only named here."""
_THERE = "gateway.toml has one already, which stays as it is: change it there"
_GONE = "a provider of its targets is not, see there"
_SECTIONS = ("providers", "routes", "prices")


def import_litellm(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="LiteLLM's config.yaml.")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the tables and change nothing.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take the models of a LiteLLM proxy over.

    Providers, routes, prices, limits and budgets: each `model_name` becomes a route to its
    deployments, strategies, fallbacks and retries with it. What is not taken over is
    listed, each with what to do instead. A key that stands in the file is not taken along: you
    are told the command that stores it. Where there is no gateway.toml, one is written. Needs
    PyYAML.

    Examples:
        tollway config import-litellm ./litellm.yaml --dry-run
        tollway config import-litellm ./litellm.yaml
    """
    try:
        found = translated(_whole(file), os.environ)
    except NotUnderstood as fault:
        raise UsageProblem(f"`{file}`: {fault}") from fault
    make_fit(found)
    path = place(config)
    loaded = load(path) if path.exists() else None
    if loaded:
        _leave_what_is_there(found, loaded)
    tables = {name: table for name in _SECTIONS if (table := getattr(found, name))}
    facts: dict[str, object] = {**tables, "server": found.server}
    facts |= {"secrets": found.secrets, "left_out": found.left_out}
    if dry_run or not (tables or found.server):
        if as_json:
            show.emit(facts)
        else:
            _show(tables, found)
            _say(found)
        return
    if loaded is None:
        server = {"single_user": True, **found.server}
        written = edit.write_new(
            path, {"server": server, **tables}, heading=_HEADING.format(file=file.name)
        )
        done = edits.Done(written, changed=True, undo=None)
    else:
        done = edits.apply(path, _change(tables, found, loaded), what="config import-litellm")
    if not as_json:
        show.note(
            f"Wrote {show.counted(len(found.providers), 'provider')} and"
            f" {show.counted(len(found.routes), 'route')} to {path}"
        )
        if loaded is None:
            show.note(
                "Only you may call, without a key; `tollway keys create` makes keys for others"
            )
        _say(found)
    edits.report(done, facts, ("routes", next(iter(found.routes), "")), as_json=as_json)


def _whole(file: Path) -> object:
    """Return what the file says with those that its `include` names, as LiteLLM puts them together.

    Lists are put behind one another, anything else is the last file's.
    """
    said = read_yaml(file)
    if not isinstance(said, dict):
        return said
    others = said.pop("include", None)
    for other in others if isinstance(others, list) else []:
        more = read_yaml(file.expanduser().parent / str(other))
        if not isinstance(more, dict):
            raise NotUnderstood(f"`include` names {other}, which is no mapping")
        for key, value in more.items():
            both = isinstance(value, list) and isinstance(said.get(key), list)
            said[key] = [*said[key], *value] if both else value
    return said


def make_fit(found: Translated) -> None:
    """Leave out what gateway.toml cannot say, with the reason."""
    tables = {name: getattr(found, name) for name in ("server", *_SECTIONS)}
    others = {name: table for name, table in tables.items() if name != "routes"}
    found.left_out += [not_taken(key, why) for key, why in fit(others)]
    found.left_out += [not_taken(shown.key(("routes", name)), _GONE) for name in _hanging(found)]
    found.left_out += [not_taken(key, why) for key, why in fit(tables)]
    found.secrets = [name for name in found.secrets if name in found.providers]


def _hanging(found: Translated) -> Iterator[str]:
    """Take out what leads to providers that are out; yield the routes that lose a target."""
    for name, route in list(found.routes.items()):
        aims = [one for one in route["to"] if _provider(one) in found.providers]
        if len(aims) < len(route["to"]):
            yield name
        route["to"] = aims
        if not aims:
            del found.routes[name]
    for route in found.routes.values():
        if fallback := [one for one in route.pop("fallback", ()) if one in found.routes]:
            route["fallback"] = fallback


def _provider(aim: str | dict[str, str]) -> str:
    return (aim if isinstance(aim, str) else aim["target"]).partition("/")[0]


def _change(
    tables: dict[str, dict[str, dict[str, object]]], found: Translated, config: "Config"
) -> "edits.Change":
    import tomlkit  # noqa: PLC0415 - only here

    def plain(value: object) -> object:
        return tomlkit.float_(str(value)) if isinstance(value, Decimal) else value

    changes = [
        edits.put(section, name, {k: plain(v) for k, v in values.items()}, new=True)
        for section, named in tables.items()
        for name, values in named.items()
    ]
    if server := {k: v for k, v in found.server.items() if not getattr(config.server, k)}:
        changes.append(edits.put_in("server", server))
    whole = changes[0]
    for one in changes[1:]:
        whole = edits.both(whole, one)
    return whole


def _leave_what_is_there(found: Translated, config: "Config") -> None:
    """Take out what gateway.toml has already, which a person wrote there."""
    for section in _SECTIONS:
        there = getattr(config, section)
        tables = getattr(found, section)
        for name in [name for name in tables if name in there]:
            del tables[name]
            if name in found.secrets:
                found.secrets.remove(name)
            found.left_out.append(not_taken(f"{section}.{name}", _THERE))
    for key in [key for key in found.server if getattr(config.server, key) != _unset(key)]:
        del found.server[key]
        found.left_out.append(not_taken(f"server.{key}", _THERE))


def _unset(key: str) -> object:
    from tollway.daemon.config.schema import Server  # noqa: PLC0415 - only here

    return getattr(Server(), key)


def _show(tables: dict[str, object], found: Translated) -> None:
    import tomli_w  # noqa: PLC0415 - only here

    server = {"server": found.server} if found.server else {}
    if server or tables:
        show.write(tomli_w.dumps(server | tables))


def _say(found: Translated) -> None:
    for line in found.left_out:
        edits.warn(line)
    for name in found.secrets:
        edits.hint(f"`tollway secrets set {name}` stores the key that stands in the file")
    if not any(getattr(found, name) for name in ("server", *_SECTIONS)):
        show.note("There is nothing to take over")
