"""What a program needs so that its model calls go through the gateway: words and environment."""

import json
from collections.abc import Mapping, Sequence

import msgspec

from tollway.cli.boundary import UsageProblem
from tollway.cli.run_agents import CLAUDE, CODEX, agent_at, agent_of

KEY = "TOLLWAY_KEY"
URL = "TOLLWAY_URL"
HEADER = "x-tollway-key"

# What would send a program elsewhere, or with another credential.
_ELSEWHERE = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),
    *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_BASE", "ANTHROPIC_API_BASE"),
    *("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_GCA"),
    *("COPILOT_PROVIDER_BEARER_TOKEN", "COPILOT_PROVIDER_API_KEY_COMMAND"),
    *("COPILOT_PROVIDER_TRANSPORT", "COPILOT_PROVIDER_WIRE_MODEL"),
)
# Claude Code asks for these by names of its own, in the background and for its parts.
_CLAUDE_MODELS = (
    *("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"),
    *("ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL"),
)
# How much it believes to fit, and at what of that it sums up: unset it does so once it is refused.
_CLAUDE_WINDOWS = ("CLAUDE_CODE_MAX_CONTEXT_TOKENS", "CLAUDE_CODE_AUTO_COMPACT_WINDOW")
# It wants 33,000 tokens of room: in a smaller window it would sum up at every turn.
_CLAUDE_SUMS_UP = 100_000
# Its own instructions and tools are some 10,000: in less it would sum up at every turn.
_CODEX_SUMS_UP = 16_000
# What opencode, and Kilo's program that is made from it, read beside their files and above them.
_OPENCODES = ("OPENCODE_CONFIG_CONTENT", "KILO_CONFIG_CONTENT")
_OPENCODE_KEY = f"{{env:{KEY}}}"
_OPENCODE_PATHS = {"anthropic": "/v1", "openai": "/v1", "google": "/v1beta"}
_OUTPUT = 32_000  # what opencode asks for at most
_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


class Gateway(msgspec.Struct, frozen=True):
    """Where the calls go, and with what. `url` is the gateway's own, without a path."""

    url: str
    key: str
    model: str | None = None
    own_login: bool = False  # the program keeps its own credential, and its owner pays
    capped: bool = False  # a budget of the run's own bounds each call
    window: int | None = None  # the tokens that `model` takes, where that is known


class Launch(msgspec.Struct, frozen=True):
    """A program as it is to be started."""

    words: tuple[str, ...]
    env: dict[str, str]


def launch(words: Sequence[str], environ: Mapping[str, str], gateway: Gateway) -> Launch:
    """Return a command with what leads its calls to the gateway.

    Every program gets the variables of the OpenAI, Anthropic and Google libraries, also an agent:
    what it starts calls models too.

    Raises:
        UsageProblem: The program keeps its own login, and no header can be added to its calls.
    """
    agent = agent_of(words)
    if gateway.own_login and agent not in (CLAUDE, CODEX):
        raise UsageProblem(
            f"`{words[0]}` cannot be told to send the Tollway key beside its own login",
            hint=f"In a script, send ${KEY} in the header `{HEADER}` yourself",
        )
    env = dict(environ) if gateway.own_login else _without_other_ways(environ)
    env |= {URL: gateway.url, KEY: gateway.key}
    env |= _past_proxies(environ)
    if not gateway.own_login:
        env |= _libraries(gateway)
        env |= {name: _opencode(env.get(name, ""), gateway) for name in _OPENCODES}
    if gateway.model:
        env |= _models(env, gateway.model, gateway)
    if agent == CLAUDE:
        env = _claude(env, gateway)
    more = _codex(gateway) if agent == CODEX else ()
    behind = agent_at(words) + 1
    return Launch((*words[:behind], *more, *words[behind:]), env)


def _without_other_ways(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in _ELSEWHERE}


def _libraries(gateway: Gateway) -> dict[str, str]:
    v1 = f"{gateway.url}/v1"
    return {
        **{"OPENAI_BASE_URL": v1, "OPENAI_API_KEY": gateway.key},
        **{"ANTHROPIC_BASE_URL": gateway.url, "ANTHROPIC_API_KEY": gateway.key},
        **{"GOOGLE_GEMINI_BASE_URL": gateway.url, "GEMINI_API_KEY": gateway.key},
        # LiteLLM, which asks Google itself without it; OpenAI's and Anthropic's it reads above.
        "GEMINI_API_BASE": f"{gateway.url}/v1beta",
        # GitHub's Copilot CLI; by this API it names the key under which a prompt is cached.
        **{"COPILOT_PROVIDER_BASE_URL": v1, "COPILOT_PROVIDER_API_KEY": gateway.key},
        **{"COPILOT_PROVIDER_TYPE": "openai", "COPILOT_PROVIDER_WIRE_API": "responses"},
    }


def _models(env: Mapping[str, str], model: str, gateway: Gateway) -> dict[str, str]:
    """Return the variables by which agents are told of a model.

    For every program: an agent may be started by a script, `npx` or a library (Claude's is).
    """
    made = {"OPENAI_MODEL": model, "GEMINI_MODEL": model, "AIDER_MODEL": f"openai/{model}"}
    made["COPILOT_MODEL"] = model
    if gateway.window:
        output = _output(gateway.window)
        made["COPILOT_PROVIDER_MAX_OUTPUT_TOKENS"] = str(output)
        made["COPILOT_PROVIDER_MAX_PROMPT_TOKENS"] = str(gateway.window - output)
    made |= dict.fromkeys(_CLAUDE_MODELS, model)
    if gateway.window and gateway.window >= _CLAUDE_SUMS_UP:
        made |= {name: env.get(name, str(gateway.window)) for name in _CLAUDE_WINDOWS}
    return made


def _claude(env: Mapping[str, str], gateway: Gateway) -> dict[str, str]:
    """Return the environment of Claude Code, which asks a person about an ANTHROPIC_API_KEY."""
    made = {name: value for name, value in env.items() if name != "ANTHROPIC_API_KEY"}
    made["ANTHROPIC_BASE_URL"] = gateway.url
    if gateway.own_login:
        said = env.get("ANTHROPIC_CUSTOM_HEADERS", "")
        made["ANTHROPIC_CUSTOM_HEADERS"] = "\n".join(
            line for line in (said, f"{HEADER}: {gateway.key}") if line
        )
        if "ANTHROPIC_API_KEY" in env:
            made["ANTHROPIC_API_KEY"] = env["ANTHROPIC_API_KEY"]
    else:
        made["ANTHROPIC_AUTH_TOKEN"] = gateway.key
    return made


def _codex(gateway: Gateway) -> tuple[str, ...]:
    """Return words that make Tollway Codex's provider; its files are left as they are.

    The key is in the environment: words can be seen by everyone on the machine.
    """
    own: dict[str, object] = {"name": "Tollway", "base_url": f"{gateway.url}/v1"}
    own["wire_api"] = "responses"
    if gateway.own_login:
        own["requires_openai_auth"] = True
    else:
        own["env_key"] = KEY
    said = [f"model_providers.tollway.{name}={json.dumps(value)}" for name, value in own.items()]
    if gateway.own_login:
        said.append(f'model_providers.tollway.env_http_headers={{"{HEADER}"="{KEY}"}}')
    said.append('model_provider="tollway"')
    if gateway.model:
        said.append(f"model={json.dumps(gateway.model)}")
    if gateway.window and gateway.window >= _CODEX_SUMS_UP:
        said.append(f"model_context_window={gateway.window}")
    if gateway.capped and not gateway.own_login:
        # It offers OpenAI's search with every call, whose cost nothing bounds: each was a 402.
        said.append('web_search="disabled"')
    return tuple(word for one in said for word in ("-c", one))


def _opencode(said: str, gateway: Gateway) -> str:
    """Return opencode's settings, by which the providers that it knows are asked here.

    The libraries' variables do not do it: it wants addresses with a path. A model that is named
    is in use, by the Responses API: that names the key under which a prompt is cached, which its
    other ways to a server of one's own do not.
    """
    try:
        own = json.loads(said or "{}")
    except ValueError:
        own = {}
    own = own if isinstance(own, dict) else {}
    found = own.get("provider")
    providers = found if isinstance(found, dict) else {}
    for name, path in _OPENCODE_PATHS.items():
        one = providers.get(name)
        one = one if isinstance(one, dict) else {}
        options = one.get("options")
        options = options if isinstance(options, dict) else {}
        ours = {"baseURL": f"{gateway.url}{path}", "apiKey": _OPENCODE_KEY}
        providers = providers | {name: one | {"options": options | ours}}
    if gateway.model is None:
        return json.dumps(own | {"provider": providers})
    limit = {}
    if gateway.window:
        limit = {"limit": {"context": gateway.window, "output": _output(gateway.window)}}
    tollway = {
        "npm": "@ai-sdk/openai",
        "name": "Tollway",
        "options": {"baseURL": f"{gateway.url}/v1", "apiKey": _OPENCODE_KEY},
        "models": {gateway.model: {"name": gateway.model, **limit}},
    }
    chosen = f"tollway/{gateway.model}"
    led = {"provider": providers | {"tollway": tollway}, "model": chosen, "small_model": chosen}
    return json.dumps(own | led)


def _output(window: int) -> int:
    """Return how much of a model's window an answer may take; the rest is the conversation's."""
    return min(_OUTPUT, window // 4)


def _past_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what keeps a company's proxy from being asked for this box."""
    if not any(environ.get(name) for name in _PROXIES):
        return {}
    said = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = ",".join(part for part in (said, "127.0.0.1,localhost,::1") if part)
    return {"no_proxy": hosts, "NO_PROXY": hosts}
