"""Which targets have no price, so that a budget that caps refuses their calls."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.check_routes import LOCAL_USER
from tollway.daemon.config.schema import Config, Key, Scope
from tollway.daemon.gate.authorise import (
    Level,
    allowed,
    levels_of,
    owner_of,
    who_of,
)
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.unpriced import unpriced
from tollway.daemon.pricing import LOCAL, local_price, price_table
from tollway.providers.catalog import KINDS
from tollway.providers.prices import PriceSource, PriceTable, is_glob


def lacking_price(config: Config, targets: Iterable[str]) -> list[str]:
    """Return the targets that have no price, in their order, each once.

    "box2/*" stands for a provider; it has a price where price data are of it.
    """
    table = price_table(config, PriceSource())
    now = datetime.now(UTC)
    return [one for one in dict.fromkeys(targets) if not _has_price(config, table, one, now)]


def _has_price(config: Config, table: PriceTable, target: str, now: datetime) -> bool:
    provider, _, model = target.partition("/")
    if provider == LOCAL:
        found = config.models.get(model)
        return found is None or local_price(model, found, table) is not None
    said = config.providers.get(provider)
    if said is None or said.auth == "caller":
        return True  # not here any more, or paid by who calls
    prices_id = KINDS[said.kind].of(model).prices
    if model == "*" and prices_id is not None:
        return True  # the data have those of its models that they know
    return table.price(provider, prices_id, model, now) is not None


class Unpriced:
    """The targets of one configuration that have no price.

    They are those that a route, a group, a key or the ledger names, and the models of this box. A
    provider that no price data are of, and of whose models none but those that are named has a
    price, stands there whole: "box2/*".
    """

    def __init__(self, config: Config) -> None:
        """Look all targets' prices up.

        Raises:
            LedgerUnavailable: Which models were called cannot be read.
        """
        self._config = config
        whole = [f"{name}/*" for name in config.providers]
        named = [*_routed(config), *_local(config), *_allowed(config), *_called(config)]
        self.targets = lacking_price(config, [*named, *whole])

    def of(self, scope: Scope) -> list[str]:
        """Return those that calls of a scope can reach."""
        kind, name = scope
        match kind:
            case "provider":
                return [one for one in self.targets if one.partition("/")[0] == name]
            case "route":
                known = set(_behind(self._config, name))
                return [one for one in self.targets if one in known]
            case "key" | "user" | "project" | "team":
                return self._allowed(kind, name)
            case _:
                return list(self.targets)

    def _allowed(self, kind: str, name: str) -> list[str]:
        config = self._config
        if config.server.single_user:
            is_owner = (kind, name) in (("user", LOCAL_USER), ("team", owner_of(config).team))
            return list(self.targets) if is_owner else []
        keys = [(who_of(config, one, key), key) for one, key in config.keys.items()]
        levels = [levels_of(config, key, who) for who, key in keys if getattr(who, kind) == name]
        reach: set[str] = set()
        for one in levels or [self._own_levels(kind, name)]:
            reach.update(self._reached(one))
        return [target for target in self.targets if target in reach]

    def _own_levels(self, kind: str, name: str) -> tuple[Level, ...]:
        """Return what a scope without keys will allow those that it gets."""
        members = self._config.users if kind == "user" else self._config.projects
        team = name if kind == "team" else (members[name].team or "" if name in members else "")
        who = Who(**({"team": team} | {kind: name}))
        return levels_of(self._config, Key(hash=""), who)

    def _reached(self, levels: tuple[Level, ...]) -> Iterator[str]:
        for one in self.targets:
            yield from allowed(levels, one, [one])
        for name in self._config.routes:
            yield from allowed(levels, name, _behind(self._config, name))


def capped(config: Config) -> list[Scope]:
    """Return the scopes with budgets that do more than warn."""
    return [scope for scope, budgets in budgets_of(config) if any(one.caps for one in budgets)]


def refused(config: Config, scopes: Sequence[Scope]) -> dict[Scope, list[str]]:
    """Return the targets without a price that budgets of scopes refuse, where there are any.

    Raises:
        LedgerUnavailable: Which models were called cannot be read.
    """
    if not scopes:
        return {}
    found = Unpriced(config)
    return {scope: targets for scope in scopes if (targets := found.of(scope))}


def _routed(config: Config) -> Iterator[str]:
    for route in config.routes.values():
        yield from (one for one in route.every if not is_glob(one))


def _behind(config: Config, name: str) -> Sequence[str]:
    """Return the targets of a route and of those behind it."""
    found: dict[str, None] = {}
    waiting, seen = [name], {name}
    while waiting:
        route = config.routes.get(waiting.pop(0))
        if route is None:
            continue
        found |= dict.fromkeys(route.every)
        waiting += [one for one in route.fallback if one not in seen]
        seen.update(route.fallback)
    return list(found)


def _local(config: Config) -> Iterator[str]:
    yield from (f"{LOCAL}/{name}" for name in config.models)


def _allowed(config: Config) -> Iterator[str]:
    lists: list[Iterable[str]] = [group.models for group in config.groups.values()]
    lists += [key.models for key in config.keys.values()]
    for names in lists:
        yield from (one for one in names if "/" in one and not is_glob(one))


def _called(config: Config) -> Iterator[str]:
    path: Path = config.ledger.path
    known: Callable[[str], bool] = config.providers.__contains__
    for row in unpriced(path) if path.exists() else ():
        if known(row.provider):
            yield f"{row.provider}/{row.model}"
