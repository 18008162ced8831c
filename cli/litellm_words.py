"""What is said of settings of LiteLLM's that are not taken over: why, and what to do instead."""

from collections.abc import Mapping
from typing import Any

_BY_REQUEST = "a request says it itself: have clients send `{key}`"
_TIMEOUT = (
    '`timeout = {{ first = "60s", idle = "60s" }}` of `[providers.{provider}]` holds for all its'
    " models"
)
_AWS = (
    "`tollway secrets set {provider}` takes `ID:SECRET`, and"
    ' `api_key = "keyring:{provider}"` of `[providers.{provider}]` uses it; without it calls are'
    " signed with what the machine has"
)
_DROPPED = (
    "not needed: what a target's API cannot say is left out and named in the answer;"
    ' `on_loss = "refuse"` of a route does not call such a target'
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
    "vertex_credentials": '`api_key = "file:PATH"` of `[providers.{provider}]` names the file of'
    " credentials; without it calls are signed with what the machine has",
    "aws_access_key_id": _AWS,
    "aws_secret_access_key": _AWS,
    "aws_session_token": _AWS,
    "aws_profile_name": "start the daemon with AWS_PROFILE set to it",
    "litellm_credential_name": "`credential_list` has none of that name",
    "drop_params": _DROPPED,
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
_USERS = "`tollway users create NAME --team TEAM --budget USD/PERIOD` makes a user with a budget"
_TAGS = "`tollway budgets set tag NAME=VALUE USD/PERIOD` caps the calls with a tag"
_TEAMS = "`tollway teams create NAME --budget USD/PERIOD` makes a team with a budget"
_KEYS = "`tollway keys create NAME --user USER` makes a key; callers are known by nothing else"
_RETRIES = "`retries` of a route says how often; a provider's `Retry-After` says how long it rests"
_NO_PLUGINS = "no plugin is called"
_OF_FILE = {
    "master_key": "whoever owns the daemon's socket administers it; `tollway keys create NAME`"
    " makes a key for a caller",
    "database_url": "not needed: the ledger is one SQLite file, `ledger.path`",
    "drop_params": _DROPPED,
    "cache": _NO_CACHE,
    "cache_params": _NO_CACHE,
    "success_callback": _FIGURES,
    "failure_callback": _FIGURES,
    "callbacks": _FIGURES,
    "alerting": "`alerts` of `[server]` calls a webhook or a command",
    "alert_types": "`alerts` of `[server]` says of what you are told",
    "service_callback": _FIGURES,
    "max_budget": "`tollway budgets set box USD/PERIOD` caps all calls together",
    "budget_duration": "it is the period of `max_budget`, see there",
    "max_internal_user_budget": _USERS,
    "internal_user_budget_duration": _USERS,
    "default_internal_user_params": _USERS,
    "max_end_user_budget": _TAGS,
    "tag_budget_config": _TAGS,
    "default_team_settings": _TEAMS,
    "default_team_params": _TEAMS,
    "default_key_generate_params": _KEYS,
    "upperbound_key_generate_params": _KEYS,
    "custom_auth": _KEYS,
    "enable_jwt_auth": _KEYS,
    "retry_policy": _RETRIES,
    "retry_after": _RETRIES,
    "model_group_retry_policy": _RETRIES,
    "store_prompts_in_spend_logs": '`bodies` of `[ledger]` keeps prompts and replies; "off" else',
    "maximum_spend_logs_retention_period": "`keep` of `[ledger]` says how long calls are kept",
    "guardrails": _NO_PLUGINS,
    "prompts": _NO_PLUGINS,
    "custom_provider_map": _NO_PLUGINS,
    "mcp_servers": "tools are the clients' own: MCP servers are not served",
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


def no_models(config: object) -> str:
    """Return what is wrong with a file that lists no models."""
    said = "expected a mapping with `model_list`, as LiteLLM has it"
    settings = {"general_settings", "litellm_settings", "router_settings"}
    if isinstance(config, dict) and settings & config.keys() and "model_list" not in config:
        return f"{said}; models that it keeps in its database are not in the file"
    return said


def unset(variable: str) -> str:
    """Return what to do about an address in a variable that is not set."""
    return (
        f"its address is in `${variable}`, which is not set here, and gateway.toml has addresses in"
        " clear: set it where this command runs"
    )


def no_address(kind: str, made: str) -> str:
    """Return what to do about a provider without an address; `made` is how its kind's are made."""
    such = f", such as {made}" if made else ""
    return f"a provider of kind `{kind}` needs its address: say it as `api_base`{such}"
