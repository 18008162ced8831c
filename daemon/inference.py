"""The handler behind every inference path: which dialect and endpoint a path stands for."""

from tollway.daemon.direct import Direct
from tollway.daemon.gate.pipeline import serve
from tollway.providers.canon import Endpoint
from tollway.providers.dialects import openai_chat

_ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}


async def handle(call: Direct) -> None:
    """Serve a call in OpenAI's dialect; the path says which endpoint.

    Raises:
        GatewayError: It was refused, or failed before the client was sent anything.
    """
    await serve(call, _ENDPOINTS[call.path], openai_chat.DIALECT)
