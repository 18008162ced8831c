"""Which targets a name stands for, and by which rule a route chooses among them."""

import re
from collections.abc import Iterator
from fnmatch import translate

import msgspec

from tollway.daemon.config.schema import Aim, Case, Config, Provider, Strategy
from tollway.daemon.config.schema import Route as RouteTable
from tollway.daemon.gate.conditions import Conditions, headers_of
from tollway.providers.canon import Overrides
from tollway.providers.catalog import KINDS, Kind
from tollway.providers.signing import Signer
from tollway.providers.transport import Timeouts

LOCAL = "local"
# A longer name is nobody's model, though a glob takes it: it would be written into the log, the
# ledger and a header that no client reads to its end. Those of clouds have up to 200 characters.
_LONGEST_NAME = 512
_IS_GLOB = re.compile(r"[*?]")


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
    overrides: Overrides | None = None  # what its route changes of requests
    key: str = ""  # the name of the one whose headers these are, where there is a pool
    name: str = ""  # as the target is written: "provider/model"; nobody gives it

    def __post_init__(self) -> None:
        """Write the name: a call asks for it some ten times."""
        msgspec.structs.force_setattr(self, "name", f"{self.provider}/{self.model}")

    def at(self, model: str) -> "Target":
        """Return the same provider with a model there."""
        return msgspec.structs.replace(self, model=model, kind=self.kind.of(model))

    def with_key(self, key: ProviderKey) -> "Target":
        """Return the same target, to be asked with a key of its pool."""
        return msgspec.structs.replace(self, key=key.name, headers=key.headers, signer=key.signer)

    @property
    def local(self) -> bool:
        """Whether this daemon serves it itself: a worker of ours, or a command."""
        return self.provider == LOCAL

    @property
    def worker(self) -> bool:
        """Whether a worker of ours serves it, which counts exactly and speaks no HTTP."""
        return self.local and self.kind is KINDS[LOCAL]


class Option(msgspec.Struct, frozen=True):
    """Targets that a route may choose, and how: an item of its `when`, or what is its own."""

    place: str  # "when[0]"; "" for the route's own
    targets: tuple[str, ...]
    weights: tuple[int, ...] = ()
    strategy: Strategy = "ordered"
    when: Conditions | None = None  # None: it takes every call
    overrides: Overrides | None = None  # what is changed of requests that go there


class Stage(msgspec.Struct, frozen=True):
    """One route on a call's way: the first of its options that takes the call is the one."""

    route: str
    options: tuple[Option, ...]  # the last takes every call


class Found(msgspec.Struct, frozen=True):
    """What a name stands for: a route, and those it falls back to, or a single target."""

    name: str  # the route's name, or "provider/model": what access lists are matched against
    route: str
    targets: tuple[str, ...]  # all that a call may go to, those without a condition first
    how: str  # for `routes explain`: "route", "provider/model", or "served by NAME"
    stages: tuple[Stage, ...]
    also: tuple[str, ...] = ()  # other providers that serve the bare name


class _Glob:
    """A name of a route that takes many; the pattern has a group where it has exactly one `*`."""

    def __init__(self, text: str, route: str) -> None:
        self.text = text
        self.route = route
        parts = "".join(f"({part})" if part == ".*" else part for part in _translated(text))
        self.pattern = re.compile(parts)


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
        self._stages = {name: _stage(name, table) for name, table in config.routes.items()}
        names = [(name, name) for name in config.routes]
        names += [(one, name) for name, route in config.routes.items() for one in route.aliases]
        self._named = {said: route for said, route in names if not _IS_GLOB.search(said)}
        self._globs = sorted(
            (_Glob(said, route) for said, route in names if _IS_GLOB.search(said)),
            key=lambda glob: -len(_IS_GLOB.sub("", glob.text)),
        )
        # Every name that can be listed: routes, local models, targets of routes.
        self.names = self._listed()
        # What conditions look at, in lower case: no call keeps any other header for them.
        self.headers = frozenset(
            name for route in config.routes.values() for name in headers_of(route.when)
        )

    def find(self, name: str) -> Found | None:
        """Return what a name stands for, or None for no target at all.

        Tried in turn: a route of this name, one with this alias, one whose name or alias is a
        glob that takes it (the one with the most letters of its own; of two alike the first in
        the file), `provider/model`, what each provider serves (in file order).
        """
        if len(name) > _LONGEST_NAME:
            return None
        if (route := self._named.get(name)) is not None:
            stages = self._chain(route)
            how = "route" if route == name else f"alias of {route}"
            return Found(route, route, _targets(stages), how, stages)
        for glob in self._globs:
            if (part := glob.pattern.match(name)) is None:
                continue
            stages = self._chain(glob.route, part[1] if part.re.groups else None)
            # A route that is a glob has no other name than the one asked for; of an alias, it has.
            own = name if glob.text == glob.route else glob.route
            return Found(own, glob.route, _targets(stages), f"route {glob.text}", stages)
        provider, slash, model = name.partition("/")
        if slash and model and self._known(provider, model):
            return _single(name, "provider/model")
        serving = [who for who, globs in self._serves.items() if globs.match(name)]
        if serving:
            return _single(
                f"{serving[0]}/{name}", f"served by {serving[0]}", also=tuple(serving[1:])
            )
        return None

    def _known(self, provider: str, model: str) -> bool:
        return model in self._models if provider == LOCAL else provider in self._providers

    def _chain(self, name: str, star: str | None = None) -> tuple[Stage, ...]:
        """Return a route and, behind it, its fallback routes; `star` is what its `*` stands for."""
        routes = [name]
        for route in routes:  # grows while it is walked; a circle ends at what was seen
            fallback = self._routes[route].fallback
            routes.extend(other for other in fallback if other not in routes)
        first, *rest = (self._stages[route] for route in routes)
        return (first if star is None else _with_star(first, star), *rest)

    def _listed(self) -> tuple[str, ...]:
        listed = dict.fromkeys(self._named)
        listed.update(dict.fromkeys(f"{LOCAL}/{name}" for name in self._models))
        for route in self._routes.values():
            listed.update(dict.fromkeys(one for one in route.every if "*" not in one))
        return tuple(listed)


def _translated(glob: str) -> list[str]:
    """Return a glob as pieces of a regular expression that matches the whole of a name."""
    words = {"*": ".*", "?": "."}
    one = glob.count("*") == 1 and "?" not in glob
    pieces = [words.get(letter) or re.escape(letter) for letter in glob]
    return [r"(?s:", *(pieces if one else ["".join(pieces)]), r")\Z"]


def _with_star(stage: Stage, star: str) -> Stage:
    options = tuple(
        msgspec.structs.replace(
            option, targets=tuple(one.replace("*", star) for one in option.targets)
        )
        for option in stage.options
    )
    return msgspec.structs.replace(stage, options=options)


def _single(target: str, how: str, also: tuple[str, ...] = ()) -> Found:
    stage = Stage("", (Option("", (target,)),))
    return Found(target, "", (target,), how, (stage,), also)


def _stage(name: str, route: RouteTable) -> Stage:
    cases = [_option(number, case, route) for number, case in enumerate(route.when)]
    targets, weights = _shared(route.aims)
    own = Option("", targets, weights, route.strategy, overrides=_overrides(route, route))
    return Stage(name, (*cases, own))


def _option(number: int, case: Case, route: RouteTable) -> Option:
    targets, weights = _shared(case.aims or route.aims)
    strategy = case.strategy or route.strategy
    overrides = _overrides(case, route)
    return Option(f"when[{number}]", targets, weights, strategy, Conditions(case), overrides)


def _overrides(said: Case | RouteTable, route: RouteTable) -> Overrides | None:
    """Return what a case changes of its requests, or its route where it does not say."""
    found = {
        key: own if (own := getattr(said, key)) is not None else getattr(route, key)
        for key in Overrides.__struct_fields__
    }
    overrides = Overrides(**{key: one for key, one in found.items() if one is not None})
    return None if overrides == Overrides() else overrides


def _shared(aims: tuple[Aim, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return targets, each once, and their weights: those of one that stands twice add up."""
    shares: dict[str, int] = {}
    for aim in aims:
        shares[aim.target] = shares.get(aim.target, 0) + aim.share
    return tuple(shares), tuple(shares.values())


def _targets(stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """Return all targets of some routes, those that need no condition first."""

    def every() -> Iterator[str]:
        for stage in stages:
            yield from stage.options[-1].targets
        for stage in stages:
            for option in stage.options:
                yield from option.targets

    return tuple(dict.fromkeys(every()))


def _served(provider: Provider) -> tuple[str, ...]:
    return KINDS[provider.kind].serves if provider.serves is None else provider.serves
