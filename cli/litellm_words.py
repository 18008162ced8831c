"""What is said of settings of LiteLLM's that are not taken over: why, and what to do instead."""

from collections.abc import Mapping
from typing import Any

_BY_REQUEST = "a request says it itself: have clients send `{key}`"
_TIMEOUT = (
    '`timeout = {{ first = "60s", idle = "60s" }}` of `[providers.{provider}]` holds for all its'
    " models"
)
_OF_A_MODEL = {
    "api_version": "not needed: Azure is asked through its `v1` API, which has no versions",
    "order": 'list the targets of `[routes."{route}"]` in that order; `strategy = "ordered"` keeps'
    " to it",
    "timeout": _TIMEOUT,
    "stream_timeout": _TIMEOUT,
    "max_retries": '`retries` of `[routes."{route}"]` holds for all its targets',
    "max_budget": "`tollway budgets set route {route} {budget}` caps what its calls cost",
    "budget_duration": "it is the period of `max_budget`, see there",
    "tags": '`when` of `[routes."{route}"]` chooses targets by the tags of a call',
    "organization": "no such header is sent: use a key that belongs to that organization",
    "extra_headers": "no headers can be added to a provider's requests",
    "headers": "no headers can be added to a provider's requests",
    "temperature": "a request says it itself; `max_temperature` of"
    ' `[routes."{route}"]` is the highest it may be',
    "max_tokens": 'a request says it itself; `max_output` of `[routes."{route}"]` is the most it'
    " may be",
    "reasoning_effort": '`reasoning_effort` of `[routes."{route}"]` holds for all its calls',
    "top_p": _BY_REQUEST,
    "top_k": _BY_REQUEST,
    "seed": _BY_REQUEST,
    "stop": _BY_REQUEST,
    "presence_penalty": _BY_REQUEST,
    "frequency_penalty": _BY_REQUEST,
    "response_format": _BY_REQUEST,
    "thinking": _BY_REQUEST,
    "tools": _BY_REQUEST,
    "user": _BY_REQUEST,
}
_NO_CACHE = "answers are not cached: each call is sent, and paid for"
_FIGURES = "`/metrics`, `tollway logs` and `[telemetry]` (OpenTelemetry) have the figures"
_RESTS = "a target that fails rests by itself; `breaker` of a provider says after how many failures"
_ONE_BOX = "not needed: one process keeps all counts"
_OF_FILE = {
    "master_key": "whoever owns the daemon's socket administers it; `tollway keys create NAME`"
    " makes a key for a caller",
    "database_url": "not needed: the ledger is one SQLite file, `ledger.path`",
    "drop_params": "not needed: what a target's API cannot say is left out and named in the answer;"
    ' `on_loss = "refuse"` of a route does not call such a target',
    "cache": _NO_CACHE,
    "cache_params": _NO_CACHE,
    "success_callback": _FIGURES,
    "failure_callback": _FIGURES,
    "callbacks": _FIGURES,
    "alerting": "`alerts` of `[server]` calls a webhook or a command",
    "allowed_fails": _RESTS,
    "cooldown_time": _RESTS,
    "redis_host": _ONE_BOX,
    "redis_port": _ONE_BOX,
    "redis_password": _ONE_BOX,
    "content_policy_fallbacks": "a refusal by a content filter is passed on to the client",
    "pass_through_endpoints": "only paths whose calls can be metered are served",
}
_NO_SUCH = "there is no such setting here, and calls go without it"


def not_taken(where: str, instead: str) -> str:
    """Return the line that says what was not taken over and what to do instead."""
    return f"{where}: not taken over; {instead}"


def of_a_model(key: str, *, route: str, provider: str, budget: str) -> str:
    """Return what to do instead of a setting of a deployment; `budget` is as "5/day"."""
    return _OF_A_MODEL.get(key, _NO_SUCH).format(
        key=key, route=route, provider=provider, budget=budget
    )


def of_the_file(key: str) -> str:
    """Return what to do instead of a setting of the whole proxy."""
    return _OF_FILE.get(key, _NO_SUCH)


def unknown_kind(kind: str) -> str:
    """Return what to do about a provider that there is no kind for."""
    return (
        f"there is no kind of provider `{kind}` (`tollway providers kinds` lists them); where it"
        " speaks OpenAI's API, `tollway providers add NAME --kind openai-compatible --base-url URL`"
        " adds it"
    )


def several_limits(limits: Mapping[str, Any]) -> str:
    """Return what to do about the limits of one target among several."""
    said = ", ".join(f"{name} = {value}" for name, value in limits.items())
    return (
        f"`{said}` was of one target among several; `limits` of a provider, a route, a team, a user"
        " or a key can say it"
    )
