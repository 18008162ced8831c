"""One gateway before upstreams of every dialect, and the four official libraries in front of it."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import anthropic
import httpx2
import openai
from aiohttp import web
from aiohttp.test_utils import TestServer
from gateway import KEY
from google import genai
from google.genai.types import HttpOptions
from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI, HI, RESPONSES
from shell import Running, running, until
from wire.recordings import recordings

from tollway.daemon.ledger.calls import CallDetail, one

CLIENTS = (CHAT, RESPONSES, ANTHROPIC, GEMINI)
# What people call them, and the model that is asked for.
TARGETS = {
    "openai-compatible": "compatible/m",
    "openai": "openai/gpt-4o",
    "openai, reasoning": "openai/gpt-5.2",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "cohere": "cohere/command-a-plus-05-2026",
    "bedrock": "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}
_WHOLE = {
    CHAT: "openai/chat_gpt-4o",
    RESPONSES: "openai/responses_tool-result_previous-response-id_gpt-4-1",
    ANTHROPIC: "anthropic/messages_claude-haiku-4-5",
    GEMINI: "gemini/generatecontent_gemini-2-5-flash",
    COHERE: "cohere/v2-chat_parallel-tools_cache-read_tool-call_command-a-03-2025",
    BEDROCK: "bedrock/converse_document_cache-write_cache-read_claude-sonnet-4-5",
}
_STREAMED = {
    CHAT: "openai/chat_stream_gpt-4o",
    RESPONSES: "openai/responses_stream_gpt-4o-mini",
    ANTHROPIC: "anthropic/messages_stream_claude-haiku-4-5",
    GEMINI: "gemini/streamgeneratecontent_stream_gemini-2-5-flash",
    COHERE: "cohere/v2-chat_stream_citations_cache-read_tool-result_command-a-03-2025",
}
_DIALECTS = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": ANTHROPIC,
    "/v2/chat": COHERE,
}
_PRICES = "input = 1\noutput = 2\ncached_input = 0.5\ncache_write = 3\nsearch = 0.001\n"


@dataclass
class Scripted:
    """An upstream that says what it is told to, and remembers what it was asked."""

    port: int = 0
    answer: tuple[int, str, bytes] | None = None  # status, content type, body; None: any text
    script: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # dialect and body

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        other = BEDROCK if request.path.startswith("/model/") else GEMINI
        dialect = _DIALECTS.get(request.path, other)
        self.asked.append((dialect, await request.json()))
        if self.script is not None:
            return await self.script(request)
        usual = 200, "application/json", _BODIES[dialect]
        if self.asked[-1][1].get("stream") or ":streamGenerateContent" in request.path:
            body, said = _STREAMS[dialect], self.asked[-1][1].get("generationConfig", {})
            if said.get("candidateCount", 1) > 1:
                body += body.replace(b'"index": 0', b'"index": 1')
            usual = 200, "text/event-stream", body
        status, kind, body = self.answer or usual
        return web.Response(status=status, body=body, headers={"content-type": kind})


def _bodies(named: dict[str, str]) -> dict[str, bytes]:
    return {
        dialect: next(one.body for one in recordings() if one.id == name)
        for dialect, name in named.items()
    }


_BODIES, _STREAMS = _bodies(_WHOLE), _bodies(_STREAMED)


@dataclass
class World:
    """The gateway, its upstream, and the libraries; `heads` are those of the last reply."""

    daemon: Running
    upstream: Scripted
    chat: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    gemini: genai.Client
    over: httpx2.AsyncClient
    heads: dict[str, str]

    async def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """Return the answer to a request that no library made."""
        url = f"http://127.0.0.1:{self.daemon.port}{path}"
        return await self.over.post(url, json=body, headers={"authorization": f"Bearer {KEY}"})

    async def ask(self, client: str, model: str, stream: bool = False, /, **said: Any) -> Any:
        """Return what a library makes of an answer: its object, or the list of its chunks."""
        if client == CHAT:
            if stream:
                said.setdefault("stream_options", {"include_usage": True})
            hi: dict[str, Any] = {"messages": [{"role": "user", "content": HI}]}
            found = await self.chat.chat.completions.create(
                **{**hi, **said, "model": model, "stream": stream}
            )
        elif client == RESPONSES:
            found = await self.chat.responses.create(
                **{"input": HI, **said, "model": model, "stream": stream}
            )
        elif client == ANTHROPIC:
            # Its library knows these no more, though the API does.
            older = {
                name: said.pop(name) for name in ("temperature", "top_p", "top_k") if name in said
            }
            said |= {"extra_body": older} if older else {}
            hi = {"messages": [{"role": "user", "content": HI}], "max_tokens": 16384}
            found = await self.anthropic.messages.create(
                **{**hi, **said, "model": model, "stream": stream}
            )
        else:
            models = self.gemini.aio.models
            call = models.generate_content_stream if stream else models.generate_content
            asking: Any = call(**{"contents": HI, **said, "model": model})
            found = await asking
        return [chunk async for chunk in found] if stream else found

    async def row(self) -> CallDetail:
        """Return the last call's row once it is settled."""
        path = self.daemon.server.daemon.ledger.path
        call_id = self.heads["x-tollway-request-id"]
        await until(lambda: one(path, call_id).call.state != "open")
        return one(path, call_id)


def _config(port: int, more: str, budget: str) -> str:
    providers = {
        "compatible": ("openai-compatible", "/v1"),
        "openai": ("openai", "/v1"),
        "anthropic": ("anthropic", "/v1"),
        "groq": ("groq", "/v1"),
        "gemini": ("gemini", "/v1beta"),
        "cohere": ("cohere", ""),
        "bedrock": ("bedrock", ""),
    }
    tables = [
        f'[providers.{name}]\nkind = "{kind}"\napi_key = "env:HOME"\n'
        f'base_url = "http://127.0.0.1:{port}{path}"\n{more}\n[prices."{name}/*"]\n{_PRICES}'
        for name, (kind, path) in providers.items()
    ]
    routes = [
        f'[routes."strict/{place}"]\nto = ["{model}"]\non_loss = "refuse"\n'
        for place, model in enumerate(TARGETS.values())
    ]
    return "\n".join(
        [
            *tables,
            *routes,
            f'[groups.all]\nmodels = ["*"]\n[users.ann]\ngroups = ["all"]\n{budget}',
            f'[keys.laptop]\nhash = "sha256:{sha256(KEY.encode()).hexdigest()}"\nuser = "ann"',
        ]
    )


@contextlib.asynccontextmanager
async def world(more: str = "", budget: str = "", server: str = "") -> AsyncIterator[World]:
    """Yield a world; `more` are further lines of each provider, `budget` of the user."""
    upstream = Scripted()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{tail:.*}", upstream.handle)
    heads: dict[str, str] = {}

    async def note(response: Any) -> None:
        heads.clear()
        heads.update({name.lower(): value for name, value in response.headers.items()})

    async with contextlib.AsyncExitStack() as stack:
        behind = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
        daemon = await stack.enter_async_context(
            running(_config(behind.port or 0, more, budget), server=server)
        )
        # One for all three: Google's own choice, aiohttp, makes that library warn.
        over = await stack.enter_async_context(
            httpx2.AsyncClient(event_hooks={"response": [note]}, timeout=30)
        )
        url = f"http://127.0.0.1:{daemon.port}"
        yield World(
            daemon,
            upstream,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, http_client=over),
            anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0, http_client=over),
            genai.Client(
                api_key=KEY, http_options=HttpOptions(base_url=url, httpx_async_client=over)
            ),
            over,
            heads,
        )


def compact(body: dict[str, Any]) -> str:
    """Return JSON without spaces."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)
