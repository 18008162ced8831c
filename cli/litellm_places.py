"""Where a deployment of LiteLLM's is, and what lets it in: said by several parameters together."""

from collections.abc import Mapping
from typing import Any

from tollway.providers.catalog import KINDS

_ENVIRON = "os.environ/"
_BASES = ("api_base", "base_url")
_PROJECTS = ("vertex_project", "vertex_ai_project")
_LOCATIONS = ("vertex_location", "vertex_ai_location")
_REGIONS = ("aws_region_name",)
# What an address is made of where a kind has none of its own (`address` of its row).
_PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "vertex": {"PROJECT": _PROJECTS, "LOCATION": _LOCATIONS},
    "bedrock": {"REGION": _REGIONS},
}
# Words that people give to a server which asks for no key, since a client wants one.
_NO_KEYS = {
    *("any", "anything", "dummy", "empty", "fake", "fake-key", "lm-studio", "lmstudio", "local"),
    *("n/a", "na", "no-key", "no-key-required", "none", "not-needed", "not-required", "null"),
    *("ollama", "placeholder", "sk-1234", "sk-no-key-required", "unused", "vllm", "x", "xxx"),
}


def variables(config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that the proxy has: its own, and what its file sets."""
    own = config.get("environment_variables")
    said = own if isinstance(own, dict) else {}
    return {**environ, **{k: v for k, v in said.items() if isinstance(v, str)}}


def credentials(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what `credential_list` has, by name."""
    found = {}
    listed = config.get("credential_list")
    for one in listed if isinstance(listed, list) else []:
        values = one.get("credential_values") if isinstance(one, dict) else None
        if isinstance(values, dict):
            found[str(one.get("credential_name"))] = values
    return found


def completed(
    params: Mapping[str, Any],
    environ: Mapping[str, str],
    named: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a deployment's parameters with those of the credential that it names.

    Of addresses the environment's variables are put in: they are no secrets, and gateway.toml has
    them in clear. Keys stay names of variables.
    """
    whole = dict(params)
    if (credential := named.get(str(params.get("litellm_credential_name")))) is not None:
        del whole["litellm_credential_name"]
        whole = {**credential, **whole}
    for key in (*_BASES, *_PROJECTS, *_LOCATIONS, *_REGIONS):
        if (name := _variable(whole.get(key))) and environ.get(name):
            whole[key] = environ[name]
    return whole


def unset(kind: str, params: Mapping[str, Any]) -> str:
    """Return the variable that its address needs and that is not set, or ""."""
    if any(params.get(key) for key in _BASES):
        needed: tuple[str, ...] = _BASES
    else:
        needed = tuple(key for keys in _PARTS.get(kind, {}).values() for key in keys)
    return next(filter(None, (_variable(params.get(key)) for key in needed)), "")


def address(kind: str, params: Mapping[str, Any]) -> str | None:
    """Return the address that project and location, or region, make; None where they are not said.

    A location may be left out of LiteLLM's file: it then takes us-central1
    (docs.litellm.ai/docs/providers/vertex).
    """
    made = KINDS[kind].address
    if kind not in _PARTS or not made:
        return None
    for word, keys in _PARTS[kind].items():
        said = next((params[key] for key in keys if params.get(key)), None)
        if said is None and word == "LOCATION":
            said = "us-central1"
        if not isinstance(said, str):
            return None
        made = made.replace(word, said)
    return made.replace("https://global-", "https://")


def parts(kind: str) -> set[str]:
    """Return the parameters that `address` reads of this kind."""
    return {key for keys in _PARTS.get(kind, {}).values() for key in keys}


def kind_at(base: str) -> str:
    """Return the kind of provider that has this address for its own, else "openai-compatible"."""
    for name, row in KINDS.items():
        if row.base_url == base and row.auth == "bearer" and row.dialect == "openai_chat":
            return name
    return "openai-compatible"


def needs_no_key(kind: str, key: object) -> bool:
    """Whether this is a word in a key's place, for a server that may do without one."""
    return KINDS[kind].auth == "optional" and isinstance(key, str) and key.lower() in _NO_KEYS


def _variable(said: object) -> str:
    if isinstance(said, str) and said.startswith(_ENVIRON):
        return said.removeprefix(_ENVIRON)
    return ""
