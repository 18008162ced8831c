"""Which targets a name stands for, in order."""

import re
from fnmatch import translate

import msgspec

from tollway.daemon.config.schema import Config, Provider
from tollway.daemon.config.schema import Route as RouteTable
from tollway.providers.catalog import KINDS, Kind
from tollway.providers.signing import Signer
from tollway.providers.transport import Timeouts

LOCAL = "local"


class ProviderKey(msgspec.Struct, frozen=True):
    """One key of a provider's pool: where it is kept, and the headers that bear it."""

    name: str  # "keyring:NAME", never the key itself
    headers: tuple[tuple[str, str], ...]
    signer: Signer | None = None


class Target(msgspec.Struct, frozen=True):
    """A provider and a model there: where one attempt can go."""

    provider: str
    model: str
    kind: Kind
    base_url: str = ""
    headers: tuple[tuple[str, str], ...] = ()  # the credential and what the kind always wants
    timeouts: Timeouts = Timeouts()
    proxy: str | None = None
    ca_file: str | None = None
    on_disconnect: str = "cancel"
    callers: bool = False  # it gets its caller's own credential, and its caller pays
    signer: Signer | None = None  # makes the proof that each request needs, where one does
    keys: tuple[ProviderKey, ...] = ()  # the provider's pool, where it has more than one
    key: str = ""  # the name of the one whose headers these are, where there is a pool

    def at(self, model: str) -> "Target":
        """Return the same provider with a model there."""
        return msgspec.structs.replace(self, model=model, kind=self.kind.of(model))

    def with_key(self, key: ProviderKey) -> "Target":
        """Return the same target, to be asked with a key of its pool."""
        return msgspec.structs.replace(self, key=key.name, headers=key.headers, signer=key.signer)

    @property
    def name(self) -> str:
        """The target as it is written: "provider/model"."""
        return f"{self.provider}/{self.model}"

    @property
    def local(self) -> bool:
        """Whether this daemon serves it itself: a worker of ours, or a command."""
        return self.provider == LOCAL

    @property
    def worker(self) -> bool:
        """Whether a worker of ours serves it, which counts exactly and speaks no HTTP."""
        return self.local and self.kind is KINDS[LOCAL]


class Found(msgspec.Struct, frozen=True):
    """What a name stands for: its targets in order, and the route it is, if it is one."""

    name: str  # the route's name, or "provider/model": what access lists are matched against
    route: str
    targets: tuple[str, ...]
    how: str  # for `routes explain`: "route", "provider/model", or "served by NAME"
    also: tuple[str, ...] = ()  # other providers that serve the bare name


class Router:
    """Names to targets, for one configuration."""

    def __init__(self, config: Config) -> None:
        self._routes = config.routes
        self._models = config.models
        self._providers = config.providers
        self._serves = {
            name: re.compile("|".join(map(translate, globs)))
            for name, provider in config.providers.items()
            if (globs := _served(provider))
        }

    def find(self, name: str) -> Found | None:
        """Return what a name stands for, or None for no target at all.

        Tried in turn: a route, `provider/model`, what each provider serves (in file order).
        """
        if name in self._routes:
            return Found(name, name, self._chain(name), "route")
        provider, slash, model = name.partition("/")
        if slash and model and self._known(provider, model):
            return Found(name, "", (name,), "provider/model")
        serving = [who for who, globs in self._serves.items() if globs.match(name)]
        if serving:
            target = f"{serving[0]}/{name}"
            also = tuple(serving[1:])
            return Found(target, "", (target,), f"served by {serving[0]}", also)
        return None

    def _known(self, provider: str, model: str) -> bool:
        return model in self._models if provider == LOCAL else provider in self._providers

    def _chain(self, name: str) -> tuple[str, ...]:
        """Return a route's targets and, behind them, those of its fallback routes."""
        seen: dict[str, None] = {}
        routes = [name]
        for route in routes:  # grows while it is walked; a circle ends at what was seen
            table: RouteTable = self._routes[route]
            seen.update(dict.fromkeys(table.to))
            routes.extend(other for other in table.fallback if other not in routes)
        return tuple(seen)

    def names(self) -> list[str]:
        """Return every name that can be listed: routes, local models, targets of routes."""
        listed = dict.fromkeys(self._routes)
        listed.update(dict.fromkeys(f"{LOCAL}/{name}" for name in self._models))
        for route in self._routes.values():
            listed.update(dict.fromkeys(route.to))
        return list(listed)


def _served(provider: Provider) -> tuple[str, ...]:
    return KINDS[provider.kind].serves if provider.serves is None else provider.serves
