"""A LiteLLM proxy configuration in the words of gateway.toml: pure, a parsed file to tables."""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollway.cli import litellm_places as places
from tollway.cli import litellm_words as words
from tollway.cli.taken_over import NotUnderstood, fitting
from tollway.providers.catalog import KINDS

# LiteLLM's name of a provider, where it is not ours (docs.litellm.ai/docs/providers).
_KINDS = {
    "text-completion-openai": "openai",
    "vertex_ai": "vertex",
    "vertex_ai_beta": "vertex",
    "bedrock_converse": "bedrock",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "cohere_chat": "cohere",
    "ollama_chat": "ollama",
    "hosted_vllm": "vllm",
    "lm_studio": "lmstudio",
    "llamafile": "llama-server",
    "litellm_proxy": "openai-compatible",
    "custom_openai": "openai-compatible",
    "openai_like": "openai-compatible",
}
# routing_strategy -> ours (docs.litellm.ai/docs/routing); what is not here has no counterpart.
_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "least-busy",
    "usage-based-routing": "least-busy",
    "usage-based-routing-v2": "least-busy",
    "latency-based-routing": "fastest",
    "cost-based-routing": "cheapest",
}
_PRICES = {  # dollars a token there, a million tokens here
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_reasoning_token": "reasoning",
}
# LiteLLM's budgets of a day, a week and a month begin at midnight, on Mondays, on the first.
_PERIODS = {"1h": "hour", "1d": "day", "24h": "day", "7d": "week", "30d": "month", "1mo": "month"}
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "max_parallel_requests": "concurrent"}
_OF_A_DEPLOYMENT = {"model", "api_key", "api_base", "base_url", "custom_llm_provider", "weight"}
_OF_A_DEPLOYMENT |= {*_LIMITS, *_PRICES}
_OF_ROUTER = {
    "routing_strategy", "num_retries", "timeout", "fallbacks", "default_fallbacks",
    "context_window_fallbacks", "model_group_alias", "provider_budget_config",
}  # fmt: skip
_OF_LITELLM = {
    "num_retries", "request_timeout", "fallbacks", "default_fallbacks",
    "context_window_fallbacks", "max_budget", "budget_duration",
}  # fmt: skip
# Of the file: what is there anyway, so that nothing is lost by leaving it out.
_NEEDLESS = {"set_verbose", "json_logs", "enable_pre_call_checks", "disable_spend_logs"}
_NEEDLESS |= {"store_model_in_db", "proxy_batch_write_at", "turn_off_message_logging"}
_NEEDLESS |= {"background_health_checks", "database_connection_pool_limit"}


class _Around(msgspec.Struct):
    """What all deployments of a file share.

    `known` has the provider made for a kind, an address and a key.
    """

    environ: Mapping[str, str]
    credentials: dict[str, dict[str, Any]]
    known: dict[tuple[str, str, str], str] = {}


class Translated(msgspec.Struct):
    """Tables for gateway.toml, and what of the file has no place there.

    `secrets` are names under which keys must be stored that stand in the file in clear.
    """

    server: dict[str, Any] = {}
    providers: dict[str, dict[str, Any]] = {}
    routes: dict[str, dict[str, Any]] = {}
    prices: dict[str, dict[str, Any]] = {}
    secrets: list[str] = []
    left_out: list[str] = []


def translated(config: object, environ: Mapping[str, str]) -> Translated:
    """Return what a parsed config.yaml says, as tables for gateway.toml.

    Addresses that the file has as `os.environ/NAME` are those of `environ`.

    Raises:
        NotUnderstood: It is no mapping with a `model_list`, or a model of it has no name.
    """
    if not isinstance(config, dict) or not isinstance(config.get("model_list"), list):
        raise NotUnderstood(words.no_models(config))
    found = Translated()
    limits: dict[str, list[dict[str, int]]] = {}
    around = _Around(places.variables(config, environ), places.credentials(config))
    for number, one in enumerate(config["model_list"]):
        _Deployment(one, f"model_list[{number}]", found, around).take(limits)
    router, litellm = _table(config, "router_settings"), _table(config, "litellm_settings")
    _limits(limits, found)
    _settings({**litellm, **router}, found)
    _box(litellm, _table(config, "general_settings"), router, found)
    for name in _table(config, "environment_variables"):
        _leave(
            found,
            f"environment_variables.{name}",
            "set it in the environment that the daemon is started from",
        )
    for section, taken in (
        ("router_settings", _OF_ROUTER),
        ("litellm_settings", _OF_LITELLM),
        ("general_settings", {"max_parallel_requests", "global_max_parallel_requests"}),
    ):
        for key, value in _table(config, section).items():
            if key not in taken | _NEEDLESS and value not in (None, False, [], {}):
                _leave(found, f"{section}.{key}", words.of_the_file(key))
    ours = {"model_list", "router_settings", "litellm_settings", "general_settings"}
    for key in sorted(config.keys() - ours - {"environment_variables", "credential_list"}):
        _leave(found, key, words.of_the_file(key))
    # The first provider that serves a name gets it: who serves all names comes last.
    found.providers = dict(sorted(found.providers.items(), key=lambda one: _serves_all(one[1])))
    return found


def _serves_all(provider: Mapping[str, Any]) -> bool:
    return "*" in provider.get("serves", ())


def _leave(found: Translated, where: str, instead: str) -> None:
    """Say what is not taken over, and what to do instead."""
    found.left_out.append(words.not_taken(where, instead))


class _Deployment:
    """One entry of `model_list`: a target, and the name that clients ask for."""

    def __init__(self, said: object, where: str, found: Translated, around: _Around) -> None:
        params = said.get("litellm_params") if isinstance(said, dict) else None
        if not isinstance(said, dict) or not isinstance(params, dict):
            raise NotUnderstood(f"{where}: expected a mapping with `litellm_params`")
        if not isinstance(params.get("model"), str):
            raise NotUnderstood(f"{where}.litellm_params.model: expected a text")
        self.name = str(said.get("model_name") or params["model"])
        self.where = f"{where} ({self.name})"
        self.params = places.completed(params, around.environ, around.credentials)
        self.info: dict[str, Any] = said.get("model_info") or {}
        self.found = found
        self.known = around.known

    def take(self, limits: dict[str, list[dict[str, int]]]) -> None:
        """Put its provider, route, price and what is left out where they belong."""
        kind, model = self._kind()
        if not model:
            said = self.params["model"]
            self._leave(
                "", f"`{said}` names a provider and no model; say `{said.strip('/')}/MODEL`"
            )
            return
        if kind not in KINDS:
            self._leave("", words.unknown_kind(kind))
            return
        if variable := places.unset(kind, self.params):
            self._leave("", words.unset(variable))
            return
        base = self._base(kind)
        if base and kind == "openai" and urlsplit(base).hostname != "api.openai.com":
            kind = places.kind_at(base)
        if not base and KINDS[kind].base_url is None:
            self._leave("", words.no_address(kind, KINDS[kind].address))
            return
        provider = self._provider(kind, base)
        name = fitting("routes", self.name)
        self._leave_the_rest(provider, name)
        if "*" in model:
            self._serve(provider, model)
            return
        self._price(f"{provider}/{model}")
        if name != self.name:
            self.found.left_out.append(
                f"{self.where}: renamed; no route can have that name, so clients must ask for"
                f" `{name}`"
            )
        route = self.found.routes.setdefault(name, {"to": []})
        weight = self.params.get("weight")
        target = f"{provider}/{model}"
        aim = target if weight in {None, 1} else {"target": target, "weight": weight}
        route["to"].append(aim)
        said = {ours: self.params.get(theirs) for theirs, ours in _LIMITS.items()}
        limits.setdefault(name, []).append({k: v for k, v in said.items() if isinstance(v, int)})

    def _leave(self, key: str, instead: str) -> None:
        _leave(self.found, f"{self.where}{key}", instead)

    def _leave_the_rest(self, provider: str, route: str) -> None:
        """Say what of this deployment has no place in a route or a provider."""
        budget = f"{self.params.get('max_budget')}/{_period(self.params.get('budget_duration'))}"
        kind = self.found.providers[provider]["kind"]
        taken = _OF_A_DEPLOYMENT | places.parts(kind)
        for key in self.params:
            if key not in taken and self.params[key] is not None:
                said = words.of_a_model(key, route=route, provider=provider, budget=budget)
                self._leave(f".{key}", said)

    def _kind(self) -> tuple[str, str]:
        """Return the kind of provider and the model's name there."""
        prefix, slash, rest = self.params["model"].partition("/")
        said = self.params.get("custom_llm_provider")
        if said:
            whole = self.params["model"]
            return _KINDS.get(said, said), rest if prefix == said and slash else whole
        kind = _KINDS.get(prefix, prefix)
        if slash and kind == "bedrock":  # how LiteLLM asks it; Converse has all of its models
            return kind, rest.removeprefix("converse/").removeprefix("invoke/")
        if slash:
            return kind, rest
        # A bare name is its maker's, as with LiteLLM.
        for name, row in KINDS.items():
            if any(fnmatchcase(prefix, glob) for glob in row.serves):
                return name, prefix
        return "openai", prefix

    def _base(self, kind: str) -> str | None:
        base = self.params.get("api_base") or self.params.get("base_url")
        if not isinstance(base, str) or not base:
            return places.address(kind, self.params)
        base = base.rstrip("/")
        path = urlsplit(base).path
        if kind == "azure" and not path:
            return f"{base}/openai/v1"
        if kind in {"ollama", "lmstudio", "llama-server"} and not path:
            return f"{base}/v1"
        return base

    def _provider(self, kind: str, base: str | None) -> str:
        """Return the provider of this kind, address and key, made where there is none yet."""
        table: dict[str, Any] = {"kind": kind}
        if base and base != KINDS[kind].base_url:
            table["base_url"] = base
        key = self.params.get("api_key")
        if places.needs_no_key(kind, key):
            key = None
        if not key and KINDS[kind].auth == "bearer":  # where LiteLLM looks for it
            key = f"os.environ/{kind.upper().replace('-', '_')}_API_KEY"
        variable = key.removeprefix("os.environ/") if isinstance(key, str) else ""
        if key and variable != key:
            table["api_key"] = f"env:{variable}"
        providers = self.found.providers
        # By what it is asked with: two keys of one address are two providers.
        which = (kind, base or "", str(key or ""))
        if which in self.known:
            return self.known[which]
        names = [kind, *(f"{kind}-{number}" for number in range(2, len(providers) + 2))]
        name = next(one for one in names if one not in providers)
        if key and variable == key:
            # The key itself stands in the file: it is not taken along.
            table["api_key"] = f"keyring:{name}"
            self.found.secrets.append(name)
        providers[name] = table
        self.known[which] = name
        return name

    def _serve(self, provider: str, model: str) -> None:
        """Have a provider answer to what a wildcard stands for."""
        if self.name in {f"{provider}/*", self.params["model"]}:
            return  # `provider/model` works anyway
        serves = self.found.providers[provider].setdefault("serves", [])
        if self.name not in {model, "*"}:
            self._leave(
                ".model",
                f"`{provider}` serves `{self.name}`, but each name is sent to it as clients ask for"
                " it; a route for a name has another one sent",
            )
        serves.append(self.name)

    def _price(self, target: str) -> None:
        said = {**self.info, **self.params}
        table = {ours: _per_million(said[key]) for key, ours in _PRICES.items() if key in said}
        known = {name: value for name, value in table.items() if value is not None}
        if "input" in known or "output" in known:
            self.found.prices[target] = {"input": Decimal(0), "output": Decimal(0), **known}


def _per_million(said: object) -> Decimal | None:
    try:
        price = Decimal(str(said)) * 10**6
    except InvalidOperation:
        return None
    return Decimal(f"{price.normalize():f}") if price >= 0 else None


def _limits(limits: Mapping[str, list[dict[str, int]]], found: Translated) -> None:
    """Give limits of a deployment to its route, where the route has no other target."""
    for name, deployments in limits.items():
        if len(deployments) == 1 and deployments[0]:
            found.routes[name]["limits"] = deployments[0]
        elif any(deployments):
            for one in filter(None, deployments):
                _leave(found, name, words.several_limits(one))


def _settings(said: Mapping[str, Any], found: Translated) -> None:
    """Put what holds for all routes into each: strategy, retries, deadline, fallbacks."""
    strategy = _STRATEGIES.get(str(said.get("routing_strategy") or "simple-shuffle"))
    if strategy is None:
        _leave(
            found,
            "router_settings.routing_strategy",
            "targets are tried in their order; `strategy` of a route can be weighted, fastest,"
            " cheapest or least-busy",
        )
    for route in found.routes.values():
        route["to"] = _in_whole_numbers(route["to"])
        if len(route["to"]) > 1 and strategy:
            route["strategy"] = strategy
        if retries := said.get("num_retries"):
            route["retries"] = int(retries)
        if seconds := said.get("timeout") or said.get("request_timeout"):
            route["deadline"] = f"{max(1, int(seconds))}s"
    groups = dict(_aliases(said.get("model_group_alias"), found))
    for kind in ("fallbacks", "context_window_fallbacks", "default_fallbacks"):
        for name, others in _pairs(said.get(kind), kind):
            for one in found.routes if name == "*" else [name]:
                _fall_back(one, others, "default_fallbacks" if name == "*" else kind, groups, found)


def _aliases(said: object, found: Translated) -> Iterator[tuple[str, str]]:
    """Give routes their other names; yield each with the route's own."""
    for alias, group in (said if isinstance(said, dict) else {}).items():
        name = fitting("routes", str(group.get("model") if isinstance(group, dict) else group))
        if name in found.routes and alias not in found.routes:
            found.routes[name].setdefault("aliases", []).append(alias)
            yield str(alias), name
        else:
            why = f"`{name}` is not among" if name not in found.routes else "the name is one of"
            _leave(
                found,
                f"router_settings.model_group_alias.{alias}",
                f"{why} the models taken over; `aliases` of a route are other names for it",
            )


def _in_whole_numbers(aims: list[Any]) -> list[Any]:
    """Return a route's targets with weights that have no fractions, in the same proportions."""
    weights = [one["weight"] if isinstance(one, dict) else 1 for one in aims]
    if not any(isinstance(one, float) and one % 1 for one in weights):
        return aims
    names = [one["target"] if isinstance(one, dict) else one for one in aims]
    # Of no number at all nothing is made: what is wrong with it is told.
    more = [round(one * 100) if isinstance(one, int | float) else one for one in weights]
    return [{"target": name, "weight": one} for name, one in zip(names, more, strict=True)]


def _pairs(said: object, kind: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each name and what it falls back to; "*" is every name that says nothing itself."""
    if kind == "default_fallbacks":
        said = [{"*": said}] if isinstance(said, list) else []
    for one in said if isinstance(said, list) else []:
        for name, others in one.items() if isinstance(one, dict) else ():
            yield str(name), [str(other) for other in others or []]


def _fall_back(
    name: str, others: list[str], kind: str, groups: Mapping[str, str], found: Translated
) -> None:
    name = groups.get(name, fitting("routes", name))
    route = found.routes.get(name)
    if route is None:
        _leave(found, kind, f"there is no model `{name}` that could fall back")
        return
    there = route.get("fallback", [])
    for said in others:
        other = groups.get(said, fitting("routes", said))
        if other not in found.routes:
            _leave(
                found,
                f"{kind} of {name}",
                f"there is no model `{said}`; `fallback` of a route names other routes",
            )
        elif other != name and other not in there:
            there = [*there, other]
    if there:
        route["fallback"] = there


def _box(
    litellm: Mapping[str, Any],
    general: Mapping[str, Any],
    router: Mapping[str, Any],
    found: Translated,
) -> None:
    """Take the budgets and limits of the whole proxy, and those of providers."""
    if budget := litellm.get("max_budget"):
        period = _period(litellm.get("budget_duration"))
        found.server["budget"] = [f"{_plain(budget)}/{period}"]
    most = general.get("global_max_parallel_requests") or general.get("max_parallel_requests")
    if isinstance(most, int):
        found.server["limits"] = {"concurrent": most}
    budgets = router.get("provider_budget_config")
    for name, said in (budgets if isinstance(budgets, dict) else {}).items():
        kind = _KINDS.get(name, name)
        usd = said.get("budget_limit", said.get("max_budget")) if isinstance(said, dict) else None
        if kind not in found.providers or usd is None:
            _leave(
                found,
                f"router_settings.provider_budget_config.{name}",
                "no model of it was taken over; `tollway budgets set provider NAME USD/PERIOD`"
                " caps one",
            )
            continue
        period = _period(said.get("time_period") or said.get("budget_duration"))
        found.providers[kind]["budget"] = [f"{_plain(usd)}/{period}"]


def _plain(usd: object) -> str:
    """Return an amount without an exponent: "0.00001"."""
    try:
        return f"{Decimal(str(usd)):f}"
    except InvalidOperation:
        return str(usd)


def _period(said: object) -> str:
    text = str(said or "")
    return _PERIODS.get(text, text or "total")


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    said = config.get(name)
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise NotUnderstood(f"{name}: expected a mapping")
    return said
