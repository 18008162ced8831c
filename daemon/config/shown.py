"""How keys and values of gateway.toml are shown to a person, without showing a secret."""

import json
import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from tollway.daemon.config.lines import At

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# How providers' and Tollway's own secrets begin. The look-behind keeps `task-...` out.
_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9_-])"
    r"(?:tw-|sk-|sk_|pk-|gsk_|xai-|pplx-|csk-|fw_|hf_|tgp_|ghp_|glpat-|nvapi-|AIza|AKIA|eyJ)"
    r"[A-Za-z0-9_-]{14,}"
)
_RUN = re.compile(r"[A-Za-z0-9+]{28,}")
_LONGEST = 64
# What people write who know it by another name; the first that a table has is meant.
_CALLED = {
    **dict.fromkeys(("host", "port", "bind", "address"), ("listen",)),
    **dict.fromkeys(("url", "endpoint", "api_base", "baseurl"), ("base_url",)),
    **dict.fromkeys(("type", "provider", "dialect"), ("kind",)),
    **dict.fromkeys(("key", "token", "secret"), ("api_key", "hash")),
    **dict.fromkeys(("target", "targets", "models", "deployments"), ("to",)),
    **dict.fromkeys(("path", "file", "model"), ("gguf", "to")),
    **dict.fromkeys(("ctx", "n_ctx", "ctx_size", "context_length", "num_ctx"), ("context",)),
    **dict.fromkeys(("ngl", "n_gpu_layers"), ("gpu_layers",)),
    **dict.fromkeys(("parallel", "n_parallel", "num_parallel"), ("slots",)),
    **dict.fromkeys(("ttl", "keep_alive"), ("idle_unload",)),
    **dict.fromkeys(("cmd", "exec"), ("command",)),
    **dict.fromkeys(("rpm", "tpm", "rpd", "concurrent", "rate_limit"), ("limits",)),
    **dict.fromkeys(("max_budget", "spend_limit"), ("budget",)),
    **dict.fromkeys(("num_retries", "max_retries"), ("retries",)),
    "routing_strategy": ("strategy",),
}
_TABLES = {
    "budgets": 'budgets stand with what they bound, as `budget = ["5/day"]` in [teams.NAME]',
    "limits": "limits stand with what they bound, as `limits = { rpm = 60 }` in [teams.NAME]",
    "aliases": "a route's other names stand in it, as `aliases` in [routes.NAME]",
    "secrets": "secrets are kept elsewhere: `tollway secrets set NAME`",
}
_MOST_NAMES = 1000  # compared with a wrong one; each takes some 30 microseconds


def holds_secret(text: str) -> bool:
    """Whether a text holds something that begins as known secrets begin."""
    return bool(_PREFIXED.search(text))


def masked(text: str) -> str:
    """Return a text in which what begins as known secrets begin is `***`."""
    return _PREFIXED.sub("***", text)


def looks_secret(text: str) -> bool:
    """Whether a value may be a secret: better hidden once too often than shown once."""
    if holds_secret(text):
        return True
    runs = (found[0] for found in _RUN.finditer(text))
    return any(re.search(r"\d", run) and re.search(r"[A-Za-z]", run) for run in runs)


def value(text: str) -> str:
    """Return a value in backticks for a message: whole, shortened, or hidden."""
    if looks_secret(text):
        return "`***`"
    plain = "".join(one if one.isprintable() else "?" for one in text)
    return f"`{plain[:_LONGEST]}…`" if len(plain) > _LONGEST else f"`{plain}`"


def key(at: At) -> str:
    """Return a key as it would be written: `providers.openai.api_key`, `raises[0].usd`."""
    parts = []
    for part in at:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            parts.append(("." if parts else "") + _name(part))
    return "".join(parts)


def _name(name: str) -> str:
    if looks_secret(name):
        return "***"
    if _BARE.fullmatch(name):
        return name[:_LONGEST] + "…" if len(name) > _LONGEST else name
    return json.dumps(name[:_LONGEST] + "…" if len(name) > _LONGEST else name)


def meant(wrong: str, names: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the nearest of `names`, or "" where none is near."""
    near = get_close_matches(wrong[:_LONGEST], list(names)[:_MOST_NAMES], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def key_meant(wrong: str, known: Collection[str]) -> str:
    """Return what key is meant as `meant` does, or by what other programs call it."""
    if near := meant(wrong, known):
        return near
    if wrong in _TABLES and "server" in known:
        return f"; {_TABLES[wrong]}"
    called = next((one for one in _CALLED.get(wrong.lower(), ()) if one in known), "")
    return f"; did you mean {called}?" if called else ""


def quoted(text: str) -> str:
    """Return a text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False)
