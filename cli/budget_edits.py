"""Changing the budgets and raises of gateway.toml in place: what is beside them stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tollway.daemon.config.schema import Budget, Scope, ScopeKind
from tollway.providers.money import plain_usd

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import Array, Item

    from tollway.cli.edits import Change

# The sections whose entries have budgets, by what one of them is called.
SECTIONS: dict[ScopeKind, str] = {
    "provider": "providers",
    "team": "teams",
    "user": "users",
    "project": "projects",
    "key": "keys",
    "route": "routes",
}


def put(before: Sequence[Budget], scope: Scope, budgets: Sequence[Budget]) -> Change:
    """Return a change that gives a scope other budgets than before.

    Those that stay keep how they are written. A tag's table goes with its last budget.
    """
    kind, name = scope
    if kind == "box":
        names: tuple[str, ...] = ("server",)
    elif kind == "tag":
        names = ("tags", *name.split("=", 1))
    else:
        names = (SECTIONS[kind], name)

    def alter(document: TOMLDocument) -> None:
        import tomlkit  # noqa: PLC0415 - 40 ms

        from tollway.daemon.config.document import table  # noqa: PLC0415

        found = table(document, *names)
        if not budgets:
            found.pop("budget", None)
            if kind == "tag" and not found:
                _drop_tag(document, names)
            return
        old = found.get("budget")
        if isinstance(old, tomlkit.items.Array):
            _change(old, before, budgets)
        else:
            array = found["budget"] = tomlkit.array()
            for one in budgets:
                array.append(_written(one))

    return alter


def _change(array: Array, before: Sequence[Budget], budgets: Sequence[Budget]) -> None:
    """Change an array item by item, so that comments beside the others stay."""
    if len(budgets) < len(before):
        for number in reversed(range(len(before))):
            if before[number] not in budgets:
                del array[number]
        return
    for number, one in enumerate(budgets):
        if number >= len(before):
            array.append(_written(one))
        elif one != before[number]:
            array[number] = _written(one)


def _drop_tag(document: TOMLDocument, names: tuple[str, ...]) -> None:
    _, tag, value = names
    del document["tags"][tag][value]
    if not document["tags"][tag]:
        del document["tags"][tag]
    if not document["tags"]:
        del document["tags"]


def _written(budget: Budget) -> Item | str:
    import tomlkit  # noqa: PLC0415 - 40 ms

    if budget.at == "hard":
        return budget.text
    found = tomlkit.inline_table()
    found.update(
        {
            "usd": tomlkit.value(plain_usd(budget.nanousd)),
            "per": budget.period,
            "at": budget.at,
        }
    )
    return found


def add_raise(entry: Mapping[str, object]) -> Change:
    """Return a change that adds a raise, and drops those whose time is over."""

    def alter(document: TOMLDocument) -> None:
        import tomlkit  # noqa: PLC0415 - 40 ms

        now = time.time()
        _keep_raises(document, lambda one: one["until"].timestamp() > now)
        raises = document.setdefault("raises", tomlkit.aot())
        inline = isinstance(raises, tomlkit.items.Array)
        new = tomlkit.inline_table() if inline else tomlkit.table()
        usd = Decimal(str(entry["usd"]))
        new.update({**entry, "usd": tomlkit.value(f"{usd:f}")})
        raises.append(new)

    return alter


def end_raises(texts: Collection[str]) -> Change:
    """Return a change that drops the raises of some scopes, as `Raise.text` names them."""

    def alter(document: TOMLDocument) -> None:
        _keep_raises(document, lambda one: " ".join(str(one["scope"]).split()) not in texts)

    return alter


def _keep_raises(document: TOMLDocument, keep: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop the raises that a rule does not keep; the array goes with its last one."""
    raises = document.get("raises")
    if raises is None:
        return
    for number in reversed(range(len(raises))):
        if not keep(raises[number]):
            del raises[number]
    if not len(raises):
        del document["raises"]
