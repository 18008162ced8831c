"""The handler behind every inference path: which dialect and endpoint a path stands for."""

from typing import Final

from tollway.daemon.direct import Direct
from tollway.daemon.gate.pipeline import serve
from tollway.providers.canon import Endpoint
from tollway.providers.dialects.table import DIALECTS

PATHS: Final[dict[str, tuple[Endpoint, str]]] = {
    "/v1/chat/completions": ("chat", "openai_chat"),
    "/v1/completions": ("completions", "openai_chat"),
    "/v1/embeddings": ("embeddings", "openai_chat"),
    "/v1/responses": ("chat", "openai_responses"),
    "/v1/responses/input_tokens": ("count_tokens", "openai_responses"),
    "/v1/messages": ("chat", "anthropic_messages"),
    "/v1/messages/count_tokens": ("count_tokens", "anthropic_messages"),
}


async def handle(call: Direct) -> None:
    """Serve a call; its path says in which dialect, and which endpoint.

    Raises:
        GatewayError: It was refused, or failed before the client was sent anything.
    """
    endpoint, name = PATHS[call.path]
    await serve(call, endpoint, DIALECTS[name].dialect)
