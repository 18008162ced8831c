"""The handler behind every inference path: which dialect and endpoint a path stands for."""

from typing import Final
from urllib.parse import unquote

from tollway.daemon.direct import Direct, Serve
from tollway.daemon.gate.pipeline import serve
from tollway.providers.canon import Endpoint
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.units import UNITS

_PATHS: Final[dict[str, tuple[Endpoint, str]]] = {
    "/v1/chat/completions": ("chat", "openai_chat"),
    "/v1/completions": ("completions", "openai_chat"),
    "/v1/embeddings": ("embeddings", "openai_chat"),
    **{f"/v1{unit.path}": (endpoint, "openai_chat") for endpoint, unit in UNITS.items()},
    "/v1/responses": ("chat", "openai_responses"),
    "/v1/responses/input_tokens": ("count_tokens", "openai_responses"),
    "/v1/responses/compact": ("compact", "openai_responses"),
    "/v1/messages": ("chat", "anthropic_messages"),
    "/v1/messages/count_tokens": ("count_tokens", "anthropic_messages"),
}
# Google's own library has gone from the one to the other.
_MODELS: Final = ("/v1beta/models/", "/v1/models/")
METHODS: Final[dict[str, Endpoint]] = {
    "generateContent": "chat",
    "streamGenerateContent": "chat",
    "countTokens": "count_tokens",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
}
# The endpoint behind every path of model calls, written as aiohttp writes patterns.
PATHS: Final[dict[str, Endpoint]] = {
    **{path: endpoint for path, (endpoint, _) in _PATHS.items()},
    **{
        f"{models}{{model:.+}}:{method}": endpoint
        for models in _MODELS
        for method, endpoint in METHODS.items()
    },
}

# Which endpoints there are in which dialect.
ASKED: Final = frozenset(_PATHS.values()) | {(one, "gemini") for one in METHODS.values()}


class Calls:
    """Which paths are model calls."""

    def get(self, path: str) -> Serve | None:
        """Return what serves a path, None where it is no model call."""
        if path in _PATHS:
            return handle
        if path.startswith(_MODELS):
            model, _, method = _named(path)
            if model and method in METHODS:
                return handle_by_name
        return None


def _named(path: str) -> tuple[str, str, str]:
    """Return the model and the method behind a path of models."""
    return path.partition("/models/")[2].rpartition(":")


async def handle(call: Direct) -> None:
    """Serve a call; its path says in which dialect, and which endpoint.

    Raises:
        GatewayError: It was refused, or failed before the client was sent anything.
    """
    endpoint, name = _PATHS[call.path]
    await serve(call, endpoint, DIALECTS[name].dialect)


async def handle_by_name(call: Direct) -> None:
    """Serve a call of Gemini's, whose path names the model and what is asked of it.

    Raises:
        GatewayError: It was refused, or failed before the client was sent anything.
    """
    model, _, method = _named(call.path)
    stream = method == "streamGenerateContent"
    as_events = call.query is not None and call.query.get("alt") == "sse"
    lone = method == "embedContent"
    url = InUrl(unquote(model), stream, one_array=stream and not as_events, lone=lone)
    await serve(call, METHODS[method], DIALECTS["gemini"].dialect, url)
