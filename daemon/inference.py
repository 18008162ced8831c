"""The handlers of the inference paths: each says which dialect and endpoint it is."""

from aiohttp import web

from tollway.daemon.gate.pipeline import serve
from tollway.providers.dialects import openai_chat


async def chat(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/chat/completions`."""
    return await serve(request, "chat", openai_chat.DIALECT)


async def completions(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/completions`."""
    return await serve(request, "completions", openai_chat.DIALECT)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/embeddings`."""
    return await serve(request, "embeddings", openai_chat.DIALECT)
