"""Names in lists of what may be called that stand for nothing: a slip shuts a door, or opens one.

A list is held against the names of routes and against `provider/model`, whatever name was asked
for. What a provider has is its own to say, so only what can be no target at all is doubted.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from tollway.daemon.config import shown
from tollway.daemon.config.check_routes import LOCAL
from tollway.daemon.config.lines import At
from tollway.daemon.config.schema import Config
from tollway.providers.catalog import KINDS

_WILD = re.compile(r"[*?\[]")


def idle_names(config: Config) -> Iterator[tuple[At, str]]:
    """Yield each name in `models` of groups and keys, and in `except`, that matches nothing."""
    known: dict[tuple[str, bool], str] = {}  # a file of many keys names the same few models
    for at, glob in _names(config):
        asked = (glob, "except" in at[2:])
        if asked not in known:
            known[asked] = _idle(glob, config, any_case=asked[1])
        if known[asked]:
            yield at, known[asked]


def _names(config: Config) -> Iterator[tuple[At, str]]:
    for name, group in config.groups.items():
        for key, globs in (("models", group.models), ("except", group.excluded)):
            yield from ((("groups", name, key, at), glob) for at, glob in enumerate(globs))
    for name, caller in config.keys.items():
        yield from ((("keys", name, "models", at), glob) for at, glob in enumerate(caller.models))


def _idle(glob: str, config: Config, *, any_case: bool) -> str:
    """Return why a glob matches no name that there is, "" where it may match one."""
    said = glob.lower() if any_case else glob
    if glob in config.routes or _may_be_target(said, config):
        return ""
    if any(_meet(said, one.lower() if any_case else one) for one in config.routes):
        return ""
    return (
        f"{shown.value(glob)} is no route, and no `provider/model` of a provider here"
        f"{_meant(glob, config)}"
    )


def _meet(glob: str, route: str) -> bool:
    return glob == route or fnmatchcase(route, glob) or fnmatchcase(glob, route)


def _may_be_target(glob: str, config: Config) -> bool:
    wild = _WILD.search(glob)
    start = glob[: wild.start()] if wild else glob
    if wild is None and start.startswith(f"{LOCAL}/"):
        return start.removeprefix(f"{LOCAL}/") in config.models
    heads = [f"{place}/" for place in (*config.providers, LOCAL)]
    return any(start.startswith(head) or (wild and head.startswith(start)) for head in heads)


def _meant(glob: str, config: Config) -> str:
    for name, route in config.routes.items():
        if glob in route.aliases:
            return f"; {shown.value(name)} is the route that it is an alias of"
    head, slash, rest = glob.partition("/")
    if head == LOCAL and slash:
        return shown.meant(glob, [f"{LOCAL}/{one}" for one in config.models])
    if slash:
        near = get_close_matches(head, [*config.providers, LOCAL], n=1)
        return f"; did you mean {near[0]}/{rest}?" if near else ""
    for name, provider in config.providers.items():
        serves = KINDS[provider.kind].serves if provider.serves is None else provider.serves
        if any(_meet(glob, one) for one in serves):
            return f"; did you mean {name}/{glob}?"
    return shown.meant(glob, [*config.routes, *(f"{LOCAL}/{one}" for one in config.models)])
