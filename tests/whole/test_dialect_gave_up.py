"""Answers that their provider itself says are none: an error to the client, never an end."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from aiohttp import web
from eventstreams import framed
from google.genai import errors as google
from matrix_requests import ANTHROPIC, CHAT, GEMINI, RESPONSES
from matrix_world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAISED: dict[str, type[Exception]] = {
    CHAT: openai.APIError,
    RESPONSES: openai.APIError,
    ANTHROPIC: anthropic.APIStatusError,
    GEMINI: google.APIError,
}
CALL = {"functionCall": {"name": "undeclared", "args": {}}}


def chat(reason: str, *, whole: bool = False) -> list[dict[str, Any]]:
    """Return chat chunks, or a whole answer, with some text and a reason."""
    said = {"role": "assistant", "content": "Half"}
    used = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    if whole:
        choice = {"index": 0, "message": said, "finish_reason": reason}
        return [head | {"object": "chat.completion", "choices": [choice], "usage": used}]
    first = {"index": 0, "delta": said, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    return [head | {"choices": [first]}, head | {"choices": [last], "usage": used}]


def gemini(reason: str, *parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the one chunk of an answer of Google's that ends for a reason."""
    content = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    candidate = {**content, "finishReason": reason, "finishMessage": "Oh dear", "index": 0}
    used = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
    return [{"candidates": [candidate], "usageMetadata": used, "modelVersion": "m"}]


def sse(chunks: list[dict[str, Any]]) -> bytes:
    """Return chunks as a stream."""
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before scripted upstreams, whose calls all have a hold."""
    async with world(budget='budget = ["1000/day"]') as one:
        yield one


async def heard(one: World, client: str, model: str, *, stream: bool) -> Exception | None:
    """Return what a library raised; Responses tell a broken stream as an event of it."""
    try:
        found = await one.ask(client, model, stream)
    except Exception as error:  # noqa: BLE001 - of three libraries, each its own
        return error
    last: Any = found[-1] if stream else found
    if client == RESPONSES and getattr(last, "type", "") in ("error", "response.failed"):
        return openai.APIError(str(last), None, body=None)  # type: ignore[arg-type]
    return None


@pytest.mark.parametrize("client", [RESPONSES, ANTHROPIC, GEMINI])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("reason", ["insufficient_system_resource", "network_error", "error"])
async def test_a_chat_answer_broken_off_is_no_whole_one(
    through: World, client: str, stream: bool, reason: str
) -> None:
    """An agent would take half an answer for all of it; what was made is billed."""
    body = sse(chat(reason)) if stream else json.dumps(chat(reason, whole=True)[0]).encode()
    through.upstream.answer = (200, "text/event-stream" if stream else "application/json", body)
    error = await heard(through, client, "compatible/m", stream=stream)
    assert isinstance(error, RAISED[client]), error
    row = await through.row()
    assert (row.call.ending, row.call.input_total, row.call.output_total) == (
        "upstream_broke",
        7,
        3,
    )


@pytest.mark.parametrize("client", [RESPONSES, ANTHROPIC, GEMINI])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("reason", ["error", "stop"])
async def test_why_one_of_openrouter_s_is_none_is_told(
    through: World, client: str, stream: bool, reason: str
) -> None:
    """It stands within the choice: clients heard of a `finish_reason`, or took half for all."""
    chunks = chat(reason, whole=not stream)
    why = {"code": 502, "message": "Upstream ran out of memory", "metadata": {"raw": "CUDA OOM"}}
    chunks[-1]["choices"][0]["error"] = why
    body = sse(chunks) if stream else json.dumps(chunks[0]).encode()
    through.upstream.answer = (200, "text/event-stream" if stream else "application/json", body)
    error = await heard(through, client, "compatible/m", stream=stream)
    assert isinstance(error, RAISED[client]), error
    assert "Upstream ran out of memory: CUDA OOM" in str(error)


@pytest.mark.parametrize("client", [CHAT, RESPONSES, ANTHROPIC])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE"])
async def test_a_call_that_google_cannot_read_is_no_empty_answer(
    through: World, client: str, stream: bool, reason: str
) -> None:
    """An agent would think its task done, where asking again helps."""
    chunks = gemini(reason)
    body = sse(chunks) if stream else json.dumps(chunks[0]).encode()
    through.upstream.answer = (200, "text/event-stream" if stream else "application/json", body)
    error = await heard(through, client, "gemini/gemini-2.5-flash", stream=stream)
    assert isinstance(error, RAISED[client]), error
    assert "Oh dear" in str(error)
    row = await through.row()
    assert (row.call.ending, row.call.input_total, row.call.output_total) == (
        "upstream_broke",
        7,
        3,
    )


async def test_a_call_of_a_tool_that_was_not_declared_is_a_call(through: World) -> None:
    """Every other provider gives it as one, and agents answer that there is no such tool."""
    chunks = gemini("UNEXPECTED_TOOL_CALL", CALL)
    through.upstream.answer = (200, "application/json", json.dumps(chunks[0]).encode())
    found = await through.ask(ANTHROPIC, "gemini/gemini-2.5-flash")
    assert (found.stop_reason, found.content[0].name) == ("tool_use", "undeclared")


async def test_a_filter_is_told_as_one(through: World) -> None:
    """Z.ai calls it `sensitive`, Google `MODEL_ARMOR`."""
    body = json.dumps(chat("sensitive", whole=True)[0]).encode()
    through.upstream.answer = (200, "application/json", body)
    assert (await through.ask(ANTHROPIC, "compatible/m")).stop_reason == "refusal"
    body = json.dumps(gemini("MODEL_ARMOR", {"text": "Half"})[0]).encode()
    through.upstream.answer = (200, "application/json", body)
    found = await through.ask(CHAT, "gemini/gemini-2.5-flash")
    assert found.choices[0].finish_reason == "content_filter"


async def test_amazon_says_it_too(through: World) -> None:
    """`malformed_tool_use` and its kin."""
    stop = framed(b'{"stopReason":"malformed_tool_use"}', event_type=b"messageStop")

    async def script(_: web.Request) -> web.Response:
        kind = "application/vnd.amazon.eventstream"
        start = framed(b'{"role":"assistant"}', event_type=b"messageStart")
        return web.Response(body=start + stop, headers={"content-type": kind})

    through.upstream.script = script
    model = "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    error = await heard(through, ANTHROPIC, model, stream=True)
    through.upstream.script = None
    assert isinstance(error, anthropic.APIStatusError), error
