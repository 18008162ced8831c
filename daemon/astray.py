"""A path that is not served here: what to say to who asked for it.

The commonest mistake of all is a base URL with too much at its end, or too little. It is named,
not mended: a second spelling of a path would be one more to guard, and the next path that the
client asks for would be wrong again.
"""

import re
from typing import Final

from aiohttp import hdrs, web

from tollway.daemon.errors import NotFound
from tollway.daemon.inference import METHODS, PATHS
from tollway.daemon.state import DAEMON

# Siblings of paths that are served, which nothing here can bound the cost of; or what stands for
# what a provider keeps, of which only answers are kept here.
_UNBOUNDED = ("/v1/audio/", "/v1/images/", "/v1/videos", "/v1/realtime")
_KEPT = ("/v1/responses/", "/v1/conversations", "/v1/files", "/v1/batches", "/v1/assistants")

# Where other gateways have them, by the first part of the path.
_HEALTH: Final = {"health", "livez", "ping", "status", "health_check", "healthcheck", "ready"}
_ADMINISTRATION: Final = {
    *("key", "user", "team", "model", "spend", "budget", "customer", "organization", "config"),
    *("global", "running", "unload", "upstream", "logs", "admin"),
}

# Paths that client libraries make whatever their base URL is: no address would mend the next call.
_OF_OTHERS: Final = (
    (re.compile(r"/deployments/[^/]+/"), "Azure's client puts the deployment in the path"),
    (re.compile(r"/model/[^/]+/(invoke|converse)"), "Bedrock's own API is not spoken here"),
    (re.compile(r"/(projects|publishers)/.+:"), "Vertex AI's clients put the project in the path"),
    (re.compile(r"/v2/(chat|embed|rerank)\Z"), "Cohere's own API is not spoken here"),
    (re.compile(r"/openai/v1/"), "Groq's client puts `/openai/v1` behind each base URL"),
)

_PLAIN: Final = sorted((path for path in PATHS if "{" not in path), key=len, reverse=True)
_OF_A_MODEL: Final = re.compile(rf"/models/[^/]+:(?:{'|'.join(METHODS)})\Z")
_SLASHES: Final = re.compile("/{2,}")


def is_astray(method: str, path: str) -> bool:
    """Whether a path is none of ours though it has the form of one, for another method.

    A method of Google's that there is none of stands where the name of a model does, and the end
    of `/v1/responses/responses` where the id of an answer does.
    """
    of_models = path.startswith(("/v1beta/models/", "/v1/models/"))
    if method != "POST":
        return False
    if of_models and ":" in path.rpartition("/")[2]:
        return True
    meant = _meant(path)
    return meant is not None and meant[0].startswith("POST")


def no_path(request: web.Request) -> NotFound:
    """Return the refusal of a path that is not here, with what may have been meant."""
    path = request.raw_path.partition("?")[0]
    return NotFound(
        f"There is no `{request.method} {path[:200]}` here",
        hint=_of_others(path, _address(request))
        or _elsewhere(path)
        or _right(path, _address(request)),
    )


def _of_others(path: str, address: str) -> str:
    """Return which clients to use in place of one that asks for paths of its own, else ""."""
    for pattern, why in _OF_OTHERS:
        if pattern.search(path):
            return (
                f"{why}: use OpenAI's client, with `{address}/v1` as its base URL, or Anthropic's"
                f" or Google's, with `{address}`"
            )
    return ""


def _elsewhere(path: str) -> str:
    """Return why what others serve under a path is not here, "" where that is not known."""
    if path.startswith(_UNBOUNDED):
        return "What it costs could not be bounded before the call: ask the provider itself"
    if path.startswith(_KEPT) and _meant(path) is None:
        return "The gateway keeps no conversations, files or batches: send all with each call"
    first = path.removeprefix("/v1").split("/")[1:2]
    if _HEALTH.intersection(first):
        return "`/healthz` says that the process answers, `/readyz` that a call would be taken"
    if _ADMINISTRATION.intersection(first) and _meant(path) is None:
        return "Administration is the command `tollway` on the gateway's own machine"
    return ""


def _right(path: str, address: str) -> str:
    if meant := _meant(path):
        asked, base = meant
        end = f"base URLs end in `{base}` here" if base else "nothing stands behind the host here"
        return f"`{asked}` is: give the client `{address}{base}` as its base URL ({end})"
    if path.startswith("/v1beta/") or is_astray("POST", path):
        *first, last = (f"`{one}`" for one in METHODS)
        return f"Of Google's there are {', '.join(first)} and {last}"
    if path.startswith("/api/"):
        return (
            f"Ollama's own API is not spoken here, but OpenAI's, whose clients take `{address}/v1`"
        )
    return (
        f"Base URLs of OpenAI clients end in `/v1` (`{address}/v1`), those of Anthropic's and"
        " Google's have nothing behind the host"
    )


def _meant(path: str) -> tuple[str, str] | None:
    """Return the request that a path stands for, and what ends the base URL that leads to it."""
    plain = _SLASHES.sub("/", path).rstrip("/")
    if found := _OF_A_MODEL.search(plain):
        return f"POST /v1beta{found[0]}", _base(path, plain, "/v1beta", found[0])
    for one in _PLAIN:
        tail = one.removeprefix("/v1")
        if plain.endswith(tail):
            return f"POST {one}", _base(path, plain, "/v1", tail)
    if plain.endswith("/models"):
        return "GET /v1/models", _base(path, plain, "/v1", "/models")
    return None


def _base(path: str, plain: str, version: str, tail: str) -> str:
    """Return what must end the base URL: nothing where the client adds the version by itself."""
    before = plain.removesuffix(tail)
    if not before.endswith(version):
        return version
    rest = before.removesuffix(version)
    # A version or an end that is there twice stood once in the base URL; as did `//` in front.
    return "" if version in rest or tail in rest or path.startswith("//") else version


def _address(request: web.Request) -> str:
    """Return where the client has found us; without a scheme where a proxy has that."""
    host = request.headers.get(hdrs.HOST, "")
    if request.app[DAEMON].config.server.behind_proxy:
        return host
    return f"{request.scheme}://{host}" if host else ""
