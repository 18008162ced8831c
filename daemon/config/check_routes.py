"""What the keys of a route ask of the rest of the file, and of one another.

A condition that can never hold is refused like any other key that does nothing: whoever wrote it
believes that it guards a budget.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from tollway.daemon.config import shown
from tollway.daemon.config.lines import At
from tollway.daemon.config.schema import (
    Aim,
    Case,
    Config,
    Globs,
    Group,
    Key,
    Member,
    Route,
    Strategy,
)
from tollway.providers.catalog import KINDS

LOCAL = "local"
LOCAL_USER = "local"  # whom a single-user gateway bills

Wrong = Callable[[At, str], None]
Names = Mapping[str, Collection[str]]

# What clients put in "model" has slashes and colons with some providers.
ROUTE_NAME = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._@+:/*?-]{0,127}")
_LEAST_DEADLINE_S = 0.1
_GLOB = re.compile(r"[*?\[]")
# A header that says who somebody is: what stands beside it in the file would be the secret.
_SECRET = re.compile(r"authorization|cookie2?|.*-?api-?key|x-tollway-key", re.IGNORECASE)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What a tag's value is, as callers say it; a glob for one is made of the same.
TAG_VALUE = re.compile(r"[!-+\--~]{1,128}")
_NO_CONDITION = "has no condition, so that nothing behind it would ever have its turn"
_FLAGS = ("stream", "tools", "images", "files", "schema", "reasoning")
_OF_CHATS = ("tools", "images", "files", "schema", "reasoning")
_NAMED = ("team", "user", "project", "key", "model")
_LISTED = ("endpoint", "days")
_CONDITIONS = (
    *(*_NAMED, *_LISTED, *_FLAGS, "tag", "header", "between", "budget_over"),
    *("input_over", "input_under", "output_over", "output_under"),
)

_NO_GROUP = Group(models=())


def check_route(route: Route, at: At, config: Config, names: Names, wrong: Wrong) -> None:
    """Note everything in a route's table that does not fit together."""
    _aims(route.aims, route.strategy, (*at, "to"), names, wrong)
    for number, case in enumerate(route.when):
        here = (*at, "when", number)
        if case.aims:
            _aims(case.aims, case.strategy or route.strategy, (*here, "to"), names, wrong)
        elif case.strategy == "weighted" and not any(aim.share for aim in route.aims):
            wrong((*here, "strategy"), "every weight of the route's `to` is 0")
        for key, why in _never(case, at[-1], route, config, names):
            wrong((*here, *key), why)
        for earlier in range(number):
            if _takes_all_of(route.when[earlier], case):
                wrong(here, f"never has its turn: when[{earlier}] takes every call that it would")
                break


def causes(problems: Sequence[tuple[At, str]]) -> list[tuple[At, str]]:
    """Return what is wrong without what follows from it.

    A condition that is wrong was not read: that its case has none is no fault of its own.
    """
    return [
        (at, what)
        for at, what in problems
        if what != _NO_CONDITION
        or not any(other[: len(at)] == at and len(other) > len(at) for other, _ in problems)
    ]


def check_names(config: Config, wrong: Wrong) -> None:
    """Note every name that two routes have, and every `*` of a target that stands for nothing."""
    owners = {name: name for name in config.routes}
    for name, route in config.routes.items():
        at: At = ("routes", name)
        if route.deadline < _LEAST_DEADLINE_S:
            wrong((*at, "deadline"), 'less than "100ms", in which hardly anybody answers')
        for number, alias in enumerate(route.aliases):
            here = (*at, "aliases", number)
            if not ROUTE_NAME.fullmatch(alias):
                wrong(here, "no name that routes can have")
            elif alias == name:
                wrong(here, "is the route's own name")
            elif owners.setdefault(alias, name) != name:
                wrong(here, f"is a name of the route {shown.value(owners[alias])} already")
        stars = [target for target in route.every if "*" in target]
        for target in stars:
            if target.count("*") > 1 or not all(map(_has_one_star, (name, *route.aliases))):
                wrong(
                    at,
                    f"{shown.value(target)} has a `*`, which stands for that of the name asked"
                    " for: let the target and each name of the route have exactly one, and no `?`",
                )
        for number, other in enumerate(route.fallback):
            if other == name:
                wrong((*at, "fallback", number), "is the route itself, whose targets were tried")
            if other in config.routes and any("*" in one for one in config.routes[other].every):
                wrong((*at, "fallback", number), "its targets hang on the name that is asked for")


def _has_one_star(name: str) -> bool:
    return name.count("*") == 1 and "?" not in name


def hides(config: Config, names: Names) -> Iterator[tuple[At, str]]:
    """Yield the routes by whose name a target would otherwise be called."""
    for name, route in config.routes.items():
        for said in (name, *route.aliases):
            if not _GLOB.search(said):
                if "/" in said and target_wrong(said, names) is None:
                    yield ("routes", name), "hides the target of the same name"
                continue
            hidden = [one for one in (*names["providers"], LOCAL) if fnmatchcase(f"{one}/m", said)]
            if hidden:
                told = ", ".join(shown.value(f"{one}/...") for one in hidden[:3])
                yield ("routes", name), f"takes calls to {told} too: routes come before targets"


def _aims(aims: tuple[Aim, ...], strategy: Strategy, at: At, names: Names, wrong: Wrong) -> None:
    for number, aim in enumerate(aims):
        if why := target_wrong(aim.target, names):
            wrong((*at, number), why)
        elif aim.weight is not None and len(aims) > 1 and strategy != "weighted":
            wrong(
                (*at, number, "weight"),
                f'shares nothing out: the strategy is "{strategy}"; write strategy = "weighted"',
            )
    if aims and strategy == "weighted" and not any(aim.share for aim in aims):
        wrong(at, "every weight is 0; give one of them some of the calls")


def target_wrong(target: str, names: Names) -> str | None:
    """Return why a text is no target in this configuration, or None where it is one."""
    provider, slash, model = target.partition("/")
    if not slash or not model:
        also = "; routes stand under fallback" if target in names["routes"] else ""
        also = also or next(
            (
                f"; did you mean {name}/{target}?"
                for name in names["providers"]
                if name in KINDS and any(fnmatchcase(target, one) for one in KINDS[name].serves)
            ),
            "",
        )
        return f'{shown.value(target)} is no target, which is "PROVIDER/MODEL"{also}'
    if provider == LOCAL:
        if model in names["models"]:
            return None
        return f"no model {shown.value(model)} in [models]{shown.meant(model, names['models'])}"
    if provider in names["providers"]:
        return None
    known = [*names["providers"], LOCAL]
    return f"no provider {shown.value(provider)} in [providers]{shown.meant(provider, known)}"


def _never(
    case: Case, name: str | int, route: Route, config: Config, names: Names
) -> Iterator[tuple[At, str]]:
    """Yield why a case takes no call at all, or every one, each with its key."""
    if not _conditions(case):
        yield (), _NO_CONDITION
    yield from _nobody(case, config, names)
    yield from _no_size(case)
    yield from _no_header(case)
    for tag, globs in case.tag.items():
        if not all(map(TAG_VALUE.fullmatch, globs)):
            why = "no tag has such a value: it is printable ASCII without space and comma"
            yield ("tag", tag), why
    own = (str(name), *route.aliases)
    for glob in case.model:
        # Whether two globs have a name in common is not seen at a glance.
        if not any(_GLOB.search(one) or fnmatchcase(one, glob) for one in own):
            yield ("model",), f"{shown.value(glob)} is no name of this route"
    if case.budget_over is not None and not _has_budgets(config):
        yield ("budget_over",), "there is no budget that calls are booked on, besides a provider's"
    for number, target in enumerate(case.to):
        if _is_nobodys(target, config):
            yield ("to", number), "is excepted for every key there is, so that none may call it"


def _no_size(case: Case) -> Iterator[tuple[At, str]]:
    """Yield why no call can be of the size, or have the parts, that a case asks for."""
    for key in ("input", "output"):
        over, under = getattr(case, f"{key}_over"), getattr(case, f"{key}_under")
        if under is not None and under <= (0 if over is None else over + 1):
            yield (f"{key}_under",), "no number of tokens is over the one and under the other"
    if case.endpoint and "chat" not in case.endpoint:
        for key in _OF_CHATS:
            if getattr(case, key):
                yield (key,), f"no call to {' or '.join(case.endpoint)} has that"
        if case.stream and set(case.endpoint) == {"embeddings"}:
            yield ("stream",), "embeddings are never streamed"


def _no_header(case: Case) -> Iterator[tuple[At, str]]:
    for header in case.header:
        if not _HEADER.fullmatch(header):
            yield ("header", header), "is no name that a header can have"
        elif _SECRET.fullmatch(header):
            yield ("header", header), "is a credential, which must not stand in this file; use key"


def _is_nobodys(target: str, config: Config) -> bool:
    """Whether groups except a target for every key in the file."""
    return bool(config.keys) and all(_excepts(key, target, config) for key in config.keys.values())


def _excepts(key: Key, target: str, config: Config) -> bool:
    members = [config.users.get(key.user or ""), config.projects.get(key.project or "")]
    teams = [config.teams.get(one.team or "") for one in members if one]
    groups = [name for one in (*members, *teams) if one for name in one.groups]
    globs = [glob for name in groups for glob in config.groups.get(name, _NO_GROUP).excluded]
    return any(fnmatchcase(target.lower(), glob.lower()) for glob in globs)


def _nobody(case: Case, config: Config, names: Names) -> Iterator[tuple[At, str]]:
    """Yield why nobody can be whom a case asks for."""
    for key in ("team", "user", "project", "key"):
        globs: Globs = getattr(case, key)
        known = set(names[f"{key}s"])
        if key == "user" and config.server.single_user:
            known.add(LOCAL_USER)
        for glob in globs:
            if not any(fnmatchcase(one, glob) for one in known):
                near = "" if _GLOB.search(glob) else shown.meant(glob, known)
                yield (key,), f"no {key} {shown.value(glob)} in [{key}s]{near}"
    if not case.team:
        return
    tables: tuple[tuple[str, Globs, Mapping[str, Member]], ...] = (
        ("user", case.user, config.users),
        ("project", case.project, config.projects),
    )
    for key, globs, members in tables:
        found = [one for name, one in members.items() if _any(globs, name)]
        teams = {one.team for one in found}
        if found and None not in teams and not any(_any(case.team, team or "") for team in teams):
            yield (key,), "is in another team than the one that stands beside it"


def _any(globs: Globs, name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _has_budgets(config: Config) -> bool:
    tables: tuple[Collection[object], ...] = (
        *(config.teams.values(), config.users.values(), config.projects.values()),
        *(config.keys.values(), config.routes.values()),
        *(values.values() for values in config.tags.values()),
    )
    return bool(config.server.budget) or any(
        getattr(one, "budget", ()) for table in tables for one in table
    )


def _conditions(case: Case) -> dict[str, object]:
    """Return the conditions that a case has, by their key."""
    said = {key: getattr(case, key) for key in _CONDITIONS}
    return {key: value for key, value in said.items() if value not in (None, (), {})}


def _takes_all_of(earlier: Case, later: Case) -> bool:
    """Whether each call that the later case would take is taken by the earlier one.

    False too where that is not seen at a glance: an error must be one.
    """
    first, second = _conditions(earlier), _conditions(later)
    return bool(first) and all(
        key in second and _wider(key, wanted, second[key]) for key, wanted in first.items()
    )


def _wider(key: str, first: object, second: object) -> bool:
    """Whether a condition holds wherever another one of the same key does."""
    if first == second:
        return True
    if isinstance(first, int) and isinstance(second, int) and not isinstance(first, bool):
        return first <= second if key.endswith("_over") else first >= second
    if key == "budget_over":
        return bool(first <= second)  # type: ignore[operator]
    if isinstance(first, tuple) and isinstance(second, tuple):
        return all(
            any(one == glob or (not _GLOB.search(one) and fnmatchcase(one, glob)) for glob in first)
            for one in second
        )
    if isinstance(first, dict) and isinstance(second, dict):
        return all(
            name in second and _wider(name, globs, second[name]) for name, globs in first.items()
        )
    return False
