"""Which targets a budget refuses, since nobody knows what they cost: told before a call is."""

from collections.abc import Iterable, Sequence

from tollway.cli import edits
from tollway.cli.budget_edits import SECTIONS
from tollway.daemon.config import shown
from tollway.daemon.config.lines import At
from tollway.daemon.config.load import places
from tollway.daemon.config.schema import Config, Scope
from tollway.daemon.unpriced import Unpriced, capped, lacking_price, refused
from tollway.providers.prices import is_glob

_MOST_NAMED = 8


def without_price(config: Config, scope: Scope) -> list[str]:
    """Return the targets that calls of a scope can reach and that have no price.

    Raises:
        LedgerUnavailable: Which models were called cannot be read.
    """
    return Unpriced(config).of(scope)


def warn_beforehand(targets: Sequence[str]) -> None:
    """Say which targets a budget that is being set will refuse, and what gives them a price."""
    if targets:
        one = len(targets) == 1
        edits.warn(
            f"{_named(targets)} {'has' if one else 'have'} no price: under this budget"
            f" {'its' if one else 'their'} calls are refused"
        )
        hint(targets)


def new_without_price(config: Config, targets: Iterable[str], *, as_json: bool) -> list[str]:
    """Return which of some new targets have no price; say so, and what gives them one."""
    named = [one for one in targets if one.endswith("/*") or not is_glob(one)]
    found = lacking_price(config, named)
    if found and not as_json:
        has, their = ("has", "its") if len(found) == 1 else ("have", "their")
        edits.warn(
            f"{_named(found)} {has} no price: while a budget applies {their} calls are refused,"
            " else what they cost is not known"
        )
        hint(found)
    return found


def hint(targets: Sequence[str]) -> None:
    """Say the command that gives a target a price."""
    name = f"'{targets[0]}'" if "*" in targets[0] else targets[0]
    edits.hint(
        f"`tollway prices set {name} --input USD --output USD` states a price (dollars for a"
        " million tokens), `--free` that there is none to pay"
    )


def doubts(config: Config, changed: Iterable[str] | None = None) -> list[str]:
    """Return a line for each budget that refuses targets for want of a price.

    With `changed`, keys as the daemon tells them, those of budgets that are among them alone. A
    provider some of whose models the file prices is not named whole: that may be all it serves.

    Raises:
        LedgerUnavailable: Which models were called cannot be read.
    """
    keys = None if changed is None else set(changed)
    scopes = [one for one in capped(config) if keys is None or shown.key(_at(one)) in keys]
    begun = {f"{name.partition('/')[0]}/*" for name in config.prices}
    found = {
        _at(scope): left
        for scope, targets in refused(config, scopes).items()
        if (left := [one for one in targets if one not in begun])
    }
    return [
        f"{place}: refuses {_named(targets)}: no price is known; `tollway prices set` states one"
        for place, targets in zip(places(config.path, list(found)), found.values(), strict=True)
    ]


def _at(scope: Scope) -> At:
    kind, name = scope
    if kind == "box":
        return ("server", "budget")
    if kind == "tag":
        return ("tags", *name.split("=", 1), "budget")
    return (SECTIONS[kind], name, "budget")


def _named(targets: Sequence[str]) -> str:
    named = ", ".join(f"`{one}`" for one in targets[:_MOST_NAMED])
    left = len(targets) - _MOST_NAMED
    return named + (f" and {left} more" if left > 0 else "")
