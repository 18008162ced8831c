"""`routes add`, `set` and `remove`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.budget_prices import new_without_price
from tollway.cli.control import load_config
from tollway.cli.members import chosen
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.routes import Name
from tollway.daemon.config import shown
from tollway.daemon.config.check_routes import LOCAL
from tollway.daemon.config.schema import Config
from tollway.providers.catalog import KINDS

New = Annotated[str, typer.Argument(metavar="NAME", help="The route's name.")]


class Strategy(StrEnum):
    """How the targets of a route are ordered."""

    ORDERED = "ordered"
    WEIGHTED = "weighted"
    FASTEST = "fastest"
    CHEAPEST = "cheapest"
    LEAST_BUSY = "least-busy"


To = typer.Option(
    "--to",
    metavar="PROVIDER/MODEL[=WEIGHT]",
    help="A target; repeated: in order.",
    autocompletion=complete.targets,
)
Fallback = Annotated[
    list[str] | None,
    typer.Option(
        "--fallback",
        metavar="ROUTE",
        help="Where to go on when all failed.",
        autocompletion=complete.entries("routes"),
    ),
]
Order = typer.Option("--strategy", help="In which order they are tried.")
Alias = Annotated[
    list[str] | None, typer.Option("--alias", metavar="NAME", help="Another name for it.")
]


def add(  # noqa: PLR0913 - an argument is an option
    name: New,
    to: Annotated[list[str], To],
    *,
    fallback: Fallback = None,
    strategy: Annotated[Strategy, Order] = Strategy.ORDERED,
    alias: Alias = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a route: a name for targets that are tried in order.

    It names those that have no price, and what gives them one.

    Examples:
        tollway routes add fast --to local/smollm2 --to openai/gpt-4o-mini
        tollway routes add both --strategy weighted --to openai/gpt-5=3 --to openai/gpt-4o-mini=1
    """
    loaded = load_config(config)
    edits.require_new(loaded, "routes", name, hint=f"`tollway routes set {name}` changes it")
    values: dict[str, object] = {"to": [_aim(one) for one in to]}
    values |= {"strategy": strategy.value} if strategy is not Strategy.ORDERED else {}
    values |= {"aliases": alias} if alias else {}
    values |= {"fallback": fallback} if fallback else {}
    with _provider_missing(loaded, to):
        done = edits.apply(
            loaded.path, edits.put("routes", name, values, new=True), what=f"routes add {name}"
        )
    if not as_json:
        show.note(f"Added the route `{name}`")
    unpriced = new_without_price(done.config, done.config.routes[name].every, as_json=as_json)
    facts = {"name": name, **values, "fallback": fallback or [], "unpriced": unpriced}
    edits.report(done, facts, ("routes", name), as_json=as_json)


def set_(  # noqa: PLR0913 - an argument is an option
    name: Name,
    to: Annotated[list[str] | None, To] = None,
    *,
    fallback: Fallback = None,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Nowhere else to go on.")
    ] = False,
    strategy: Annotated[Strategy | None, Order] = None,
    alias: Alias = None,
    no_aliases: Annotated[
        bool, typer.Option("--no-aliases", "--no-alias", help="It has no other name.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a route: what is named is replaced.

    The rest stays as it is, `when` and all other settings of gateway.toml too.

    Example:
        tollway routes set fast --to local/smollm2 --to openai/gpt-5-mini
    """
    loaded = load_config(config)
    edits.require_known(loaded, "routes", name)
    values: dict[str, object] = {
        **({"to": [_aim(one) for one in to]} if to else {}),
        **chosen(fallback, no_fallback, "fallback"),
        **({"aliases": alias or None} if chosen(alias, no_aliases, "alias") else {}),
    }
    if strategy is not None:
        values["strategy"] = None if strategy is Strategy.ORDERED else strategy.value
    if not values:
        raise UsageProblem(
            "Nothing to change was named", hint="`tollway routes set --help` lists what can be"
        )
    with _provider_missing(loaded, to or ()):
        done = edits.apply(
            loaded.path, edits.put("routes", name, values), what=f"routes set {name}"
        )
    if not as_json:
        state = "Changed the route {}" if done.changed else "The route {} is so already"
        show.note(state.format(shown.value(name)))
    unpriced = new_without_price(done.config, done.config.routes[name].every, as_json=as_json)
    facts = {"name": name, **values, "unpriced": unpriced}
    edits.report(done, facts, ("routes", name), as_json=as_json)


@contextmanager
def _provider_missing(config: Config, to: Sequence[str]) -> Iterator[None]:
    """Say of a refused route what adds the provider that it lacks, where that is a kind's name."""
    try:
        yield
    except UsageProblem as error:
        names = dict.fromkeys(one.partition("/")[0] for one in to)
        adds = [
            f"`tollway providers add {one} --kind {one}` adds it"
            for one in names
            if one not in config.providers and one in KINDS and one != LOCAL
        ]
        error.hint = "\n".join(adds) or error.hint
        raise


def _aim(said: str) -> object:
    """Return a target as the file has it: with its weight, where one is said."""
    target, equals, weight = said.rpartition("=")
    if not equals or not (weight.isdecimal() and weight.isascii()):
        return said
    return {"target": target, "weight": int(weight)}


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a route that no other one falls back to.

    Example:
        tollway routes remove fast
    """
    loaded = load_config(config)
    edits.require_known(loaded, "routes", name)
    needed = [
        f"route {other}"
        for other, one in loaded.routes.items()
        if name in one.fallback and other != name
    ]
    edits.refuse_while("routes", name, needed, hint="It stands in their `fallback`")
    done = edits.apply(loaded.path, edits.drop("routes", name), what=f"routes remove {name}")
    if not as_json:
        show.note(f"Removed the route {shown.value(name)}")
    edits.report(done, {"name": name, "removed": True}, ("routes", name), as_json=as_json)
