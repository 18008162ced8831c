"""A llama-swap configuration in the words of gateway.toml: pure, but for the environment given."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollway.cli.litellm_places import kind_at
from tollway.cli.llama_swap_matrix import Matrix
from tollway.cli.taken_over import NotUnderstood, fitting
from tollway.daemon.config.check import name_wrong

_MACRO = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
_DEEPEST = 20  # macros in macros
_DEFAULT_WAIT_S = 120
_NEVER = "36500d"  # a hundred years: llama-swap's "never unload"
# Of a model, what there is no key for; said, so that nobody misses it in silence.
_LEFT_OUT = {
    "cmdStop": "the command's process group gets SIGTERM, then SIGKILL",
    "filters": "requests go on as they come, whatever name they call",
    "metadata": "`/v1/models` does not show it",
    "name": "`/v1/models` shows the model's own name",
    "description": "`/v1/models` does not show it",
    "unlisted": "who may call it sees it; groups say who may",
    "timeouts": "connections to this machine have the gateway's time-outs",
    "unloadTimeout": "a command has 5 s to end, and is killed then",
    "capabilities": "`/v1/models` does not show them",
}
_KNOWN = {"cmd", "proxy", "env", "aliases", "checkEndpoint", "ttl", "useModelName", "macros"}
_KNOWN |= {"concurrencyLimit", "sendLoadingState"}
# Of the file: what the gateway has of its own, so that nothing is lost.
_NEEDLESS = {"logLevel", "logTimeFormat", "logToStdout", "metricsMaxInMemory", "captureBuffer"}
_NEEDLESS |= {"startPort", "sendLoadingState", "includeAliasesInList", "healthCheckTimeout"}
_NEEDLESS |= {"globalTTL", "macros", "models", "groups", "hooks", "matrix"}
_NEEDLESS |= {"store", "ui", "performance", "peers"}
_OF_FILE = {
    "apiKeys": "`tollway keys create` makes keys, each with an owner",
    "profiles": "a route says where its name leads, and an edit of `to` where else",
    "unloadTimeout": _LEFT_OUT["unloadTimeout"],
    "upstream": "a model's own pages are not passed on",
}
_OF_GROUP = {"members", "persistent", "swap", "exclusive"}


class Translated(msgspec.Struct):
    """Tables for gateway.toml, and what of the file has no place there."""

    models: dict[str, dict[str, Any]] = {}
    routes: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []


def translated(config: object, environment: Mapping[str, str]) -> Translated:
    """Return what a parsed config.yaml says, as tables for gateway.toml.

    Raises:
        NotUnderstood: It is no mapping with `models`, or one of its macros has no end.
    """
    if not isinstance(config, dict) or not isinstance(config.get("models"), dict):
        raise NotUnderstood("expected a mapping with `models`, as llama-swap has it")
    found = Translated()
    for key in config:
        if key in _OF_FILE and config[key]:
            found.left_out.append(f"{key}: {_OF_FILE[key]}")
        elif key not in _NEEDLESS and key not in _OF_FILE:
            found.left_out.append(f"{key}: not a key that is known here")
    shared = _macros(config.get("macros"))
    for name, said in config["models"].items():
        if not isinstance(said, dict) or not isinstance(said.get("cmd"), str):
            raise NotUnderstood(f"models.{name}: expected a mapping with `cmd`")
        macros = {**shared, **_macros(said.get("macros")), "MODEL_ID": str(name)}
        _model(str(name), said, _Words(macros, environment, f"models.{name}"), config, found)
    if isinstance(matrix := config.get("matrix"), dict):
        _matrix(matrix, config["models"], found)
    else:
        _groups(config.get("groups"), found)
    _hooks(config.get("hooks"), found)
    found.left_out += _peers(config.get("peers"))
    return found


def _peers(said: object) -> Iterator[str]:
    """Yield the command that adds each other server, which is a provider here."""
    for name, peer in (said if isinstance(said, dict) else {}).items():
        base = f"{str(peer.get('proxy')).rstrip('/')}/v1" if isinstance(peer, dict) else "URL"
        kind, own = kind_at(base), fitting("providers", str(name))
        address = f" --base-url {base}" if kind == "openai-compatible" else ""
        yield (
            f"peers.{name}: `tollway providers add {own} --kind {kind}{address}` adds it; its"
            f" models are called as `{own}/MODEL` then, or by the names in `serves` of its table"
        )


class _Words:
    """Texts with their macros filled in; `${PORT}` stays for the gateway."""

    def __init__(
        self, macros: Mapping[str, str], environment: Mapping[str, str], where: str
    ) -> None:
        self._macros = macros
        self._environment = environment
        self._where = where

    def fill(self, text: object) -> str:
        filled = str(text)
        for _ in range(_DEEPEST):
            more = _MACRO.sub(self._one, filled)
            if more == filled:
                return filled
            filled = more
        raise NotUnderstood(f"{self._where}: a macro that contains itself")

    def _one(self, found: re.Match[str]) -> str:
        name = found[1]
        if name in {"PORT", "PID"}:
            return found[0]
        if name.startswith("env."):
            value = self._environment.get(name.removeprefix("env."))
            if value is None:
                raise NotUnderstood(
                    f"{self._where}: the environment has no {name.removeprefix('env.')}"
                )
            return value
        if name not in self._macros:
            raise NotUnderstood(f"{self._where}: there is no macro {name}")
        return self._macros[name]


def _model(
    name: str, said: Mapping[str, Any], words: _Words, config: Mapping[str, Any], found: Translated
) -> None:
    own = _fitting(name)
    where = f"models.{name}"
    called = own if name_wrong("routes", name) else name  # `org/model` is no model's, but a route's
    if own != name:
        calls = "its route keeps the name" if called == name else f"and by callers as `{own}`"
        found.left_out.append(f"{where}: called `local/{own}` here, {calls}")
    table: dict[str, Any] = {"command": _command(words.fill(said["cmd"]))}
    base = words.fill(said.get("proxy") or "http://127.0.0.1:${PORT}").rstrip("/")
    base = base.replace("//localhost", "//127.0.0.1")
    if f"{base}/v1" != "http://127.0.0.1:${PORT}/v1":
        table["base_url"] = f"{base}/v1"
    if urlsplit(base.replace("${PORT}", "1")).scheme == "https":
        found.left_out.append(f"{where}.proxy: only http:// is spoken with a command")
    check = words.fill(said.get("checkEndpoint") or "/health")
    below = urlsplit(base.replace("${PORT}", "1")).path  # llama-swap looks under the proxy's path
    health = "" if check == "none" else f"{below}/{check.lstrip('/')}"
    if health != "/health":
        table["health"] = health
    table["start_within"] = f"{max(15, _whole(config.get('healthCheckTimeout'), _DEFAULT_WAIT_S))}s"
    ttl = _whole(said.get("ttl"), -1)
    ttl = _whole(config.get("globalTTL"), 0) if ttl < 0 else ttl
    table["idle_unload"] = f"{ttl}s" if ttl else _NEVER
    if env := dict(_variables(said.get("env"), words, where, found)):
        table["env"] = env
    # Without it llama-swap passes the name on as the caller wrote it.
    table["served_as"] = words.fill(said.get("useModelName") or name)
    table["slots"] = _whole(said.get("concurrencyLimit"), 0) or 10
    if table["served_as"] == own:
        del table["served_as"]
    for key in said:
        if key in _LEFT_OUT and said[key]:
            found.left_out.append(f"{where}.{key}: {_LEFT_OUT[key]}")
        elif key not in _KNOWN and key not in _LEFT_OUT:
            found.left_out.append(f"{where}.{key}: not a key that is known here")
    found.models[own] = table
    found.routes[called] = {"to": [f"local/{own}"]}
    for alias in _aliases(said.get("aliases")):
        _route(words.fill(alias), own, f"{where}.aliases", found)
    for alias in _named_by_parameters(said.get("filters")):
        # llama-swap makes an alias of each.
        _route(words.fill(alias), own, f"{where}.filters.setParamsByID", found)


def _route(name: str, own: str, where: str, found: Translated) -> None:
    if name_wrong("routes", name):
        found.left_out.append(f"{where}: `{name}` cannot be a route's name")
    else:
        found.routes[name] = {"to": [f"local/{own}"]}


def _command(text: str) -> str:
    """Return a command on one line, without its comments and continuations."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = " ".join(line.rstrip().removesuffix("\\").strip() for line in lines).strip()
    try:
        shlex.split(joined)
    except ValueError as fault:
        raise NotUnderstood(f"cmd: {fault}") from fault
    return joined


def _variables(
    said: object, words: _Words, where: str, found: Translated
) -> Iterator[tuple[str, str]]:
    for one in said if isinstance(said, list) else []:
        name, equals, value = words.fill(one).partition("=")
        if equals:
            yield name, value
        else:
            found.left_out.append(f"{where}.env: `{name}` has no value")


def _aliases(said: object) -> list[str]:
    entries = said if isinstance(said, list) else []
    names = (one.get("id") if isinstance(one, dict) else one for one in entries)
    return [str(name) for name in names if name]


def _named_by_parameters(filters: object) -> list[str]:
    """Return the names with which a model is asked for with parameters of their own."""
    by_name = filters.get("setParamsByID") if isinstance(filters, dict) else None
    return list(map(str, by_name)) if isinstance(by_name, dict) else []


def _matrix(said: Mapping[str, Any], models: Mapping[str, object], found: Translated) -> None:
    """Put a matrix into `apart_from`: who is in no set with another may not run beside it."""
    matrix = Matrix(said)
    called = {_fitting(str(name)): str(name) for name in models}
    for own, table in found.models.items():
        apart = [
            one for one in found.models if one != own and matrix.apart(called[own], called[one])
        ]
        if apart:
            table["apart_from"] = apart
    for name in matrix.unknown(models):
        found.left_out.append(f"matrix.vars: there is no model `{name}`")
    if said.get("evict_costs"):
        found.left_out.append("matrix.evict_costs: who was idle for longest makes room")
    if not matrix.is_pairs:
        found.left_out.append(
            "matrix.sets: models that may run together two by two may here all run together"
        )


def _groups(said: object, found: Translated) -> None:
    """Put groups into `apart_from` and `pinned`.

    Who is in no group is in one of its own that swaps and excludes, as with llama-swap.
    """
    groups = dict(_each_group(said, found))
    grouped = {_fitting(str(one)) for group in groups.values() for one in group["members"]}
    if rest := [name for name in found.models if name not in grouped]:
        groups["(default)"] = {"members": rest}
    members = {
        name: [one for one in map(_fitting, map(str, group["members"])) if one in found.models]
        for name, group in groups.items()
    }
    for name, group in groups.items():
        if group.get("persistent") and _swaps(group):
            found.left_out.append(
                f"groups.{name}.persistent: its models swap with one another, so none is pinned"
            )
        for one in members[name]:
            found.models[one]["pinned"] = bool(group.get("persistent")) and not _swaps(group)
            found.models[one]["apart_from"] = _apart(name, one, groups, members)
    pinned = {name for name, table in found.models.items() if table.get("pinned")}
    for table in found.models.values():
        if not table.get("pinned"):
            table.pop("pinned", None)
        if others := [one for one in table.pop("apart_from", []) if one not in pinned]:
            table["apart_from"] = others


def _each_group(said: object, found: Translated) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each group with its members, a list at any rate; note what is not known of it."""
    for name, group in said.items() if isinstance(said, dict) else ():
        where = f"groups.{name}"
        members = group.get("members") or [] if isinstance(group, dict) else None
        if not isinstance(members, list):
            raise NotUnderstood(f"{where}: expected a mapping with `members`, a list")
        for one in members:
            if _fitting(str(one)) not in found.models:
                found.left_out.append(f"{where}.members: there is no model `{one}`")
        for key in group.keys() - _OF_GROUP:
            found.left_out.append(f"{where}.{key}: not a key that is known here")
        yield str(name), {**group, "members": members}


def _swaps(group: Mapping[str, Any]) -> bool:
    return bool(group.get("swap", True))


def _apart(
    name: str, one: str, groups: Mapping[str, Any], members: Mapping[str, list[str]]
) -> list[str]:
    """Return the models that one of a group may not run beside."""
    apart: dict[str, None] = {}
    if _swaps(groups[name]):
        apart |= dict.fromkeys(other for other in members[name] if other != one)
    if groups[name].get("exclusive", True):
        for other, theirs in groups.items():
            if other != name and not theirs.get("persistent"):
                apart |= dict.fromkeys(members[other])
    return list(apart)


def _hooks(said: object, found: Translated) -> None:
    for key in said.keys() - {"on_startup"} if isinstance(said, dict) else ():
        found.left_out.append(f"hooks.{key}: not a key that is known here")
    start = said.get("on_startup") if isinstance(said, dict) else None
    for one in (start or {}).get("preload") or [] if isinstance(start, dict) else []:
        target = found.models.get(_fitting(str(one)))
        if target is None:
            found.left_out.append(f"hooks.on_startup.preload: there is no model `{one}`")
        else:
            target["load_at_start"] = True


def _macros(said: object) -> dict[str, str]:
    if not isinstance(said, dict):
        return {}
    return {str(name): _plain(value) for name, value in said.items()}


def _plain(value: object) -> str:
    # YAML's words, not Python's.
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _whole(said: object, default: int) -> int:
    return said if isinstance(said, int) and not isinstance(said, bool) else default


def _fitting(name: str) -> str:
    return fitting("models", name)
