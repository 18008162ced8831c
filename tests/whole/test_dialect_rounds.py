"""Two turns with a tool: what a provider signed comes back to it, through any client's library."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from matrix_requests import ANTHROPIC, CHAT, GEMINI, HI, RESPONSES
from matrix_world import CLIENTS, TARGETS, World, compact, world
from translated import CODECS, answered, client_call, codec_of, recorded
from wire.recordings import Recording

from tollway.providers.conversation import Thinking, ToolCall

pytestmark = pytest.mark.asyncio(loop_scope="module")

FROM = {
    RESPONSES: TARGETS["openai, reasoning"],
    ANTHROPIC: TARGETS["anthropic"],
    GEMINI: TARGETS["gemini"],
}


def proofs(recording: Recording) -> list[str]:
    """Return what of a recorded answer its provider signed or encrypted, calls' included."""
    found: list[str] = []
    for part in recorded(recording)[1].parts:
        if isinstance(part, Thinking):
            found += filter(None, (part.signature, part.encrypted))
        elif isinstance(part, ToolCall) and part.signature:
            found.append(part.signature)
    return found


SIGNED = [
    one
    for one in answered()
    if (codec := codec_of(one)) is not None
    and codec.name in FROM
    and one.provider in ("anthropic", "gemini", "openai")
    and proofs(one)
    and any(isinstance(part, ToolCall) for part in recorded(one)[1].parts)
    and not one.features & {"server_tool_use", "mcp_call", "code_interpreter_call"}
]
REDACTED = [
    one for one in answered() if one.provider == "anthropic" and "redacted_thinking" in one.features
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before all upstreams."""
    async with world() as one:
        yield one


def back(client: str, reply: Any) -> dict[str, Any]:
    """Return the next request as programs make it: the answer as it came, and results."""
    if client == CHAT:
        message = reply.choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "done"}
            for call in message.tool_calls or ()
        ]
        said = message.model_dump(exclude_none=True)
        return {"messages": [{"role": "user", "content": HI}, said, *results, *_more(results)]}
    if client == RESPONSES:
        items = [item.model_dump(exclude_none=True) for item in reply.output]
        results = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
            for item in reply.output
            if item.type == "function_call"
        ]
        return {"input": [{"role": "user", "content": HI}, *items, *results, *_more(results)]}
    if client == ANTHROPIC:
        blocks = [block.model_dump(exclude_none=True) for block in reply.content]
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
            for block in reply.content
            if block.type == "tool_use"
        ]
        turns: list[Any] = [
            {"role": "user", "content": HI},
            {"role": "assistant", "content": blocks},
        ]
        return {"messages": [*turns, {"role": "user", "content": results or "Go on"}]}
    content = reply.candidates[0].content
    calls = [part.function_call for part in content.parts if part.function_call]
    parts: list[Any] = [
        {"function_response": {"id": call.id, "name": call.name, "response": {"result": "done"}}}
        for call in calls
    ]
    turns = [{"role": "user", "parts": [{"text": HI}]}, content]
    return {"contents": [*turns, {"role": "user", "parts": parts or [{"text": "Go on"}]}]}


def _more(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [] if results else [{"role": "user", "content": "Go on"}]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("recording", [*SIGNED, *REDACTED], ids=lambda one: one.id)
async def test_what_a_provider_signed_comes_back_to_it(
    through: World, client: str, recording: Recording
) -> None:
    """Byte for byte, thoughts before the calls they led to, whatever carried it in between."""
    found = codec_of(recording)
    assert found is not None
    codec = CODECS[found.name]
    source = codec.name
    if source == client or (client, source) == (CHAT, RESPONSES):
        pytest.skip("the same bytes pass")
    whole = codec.writer(client_call(CODECS[source], stream=False)).whole(recorded(recording)[1])
    through.upstream.answer = (200, "application/json", whole)
    reply = await through.ask(client, FROM[source])
    through.upstream.answer = None
    await through.ask(client, FROM[source], **back(client, reply))
    spoken, body = through.upstream.asked[-1]
    assert spoken == source
    sent = compact(body)
    for proof in proofs(recording):
        assert proof in sent or _url_safe(proof) in sent, through.heads.get("x-tollway-dropped")
    if source == ANTHROPIC:
        (turn,) = [one for one in body["messages"] if one["role"] == "assistant"]
        assert turn["content"][0]["type"] in ("thinking", "redacted_thinking")


def _url_safe(proof: str) -> str:
    """Return base64 as Google's library writes it."""
    try:
        return base64.urlsafe_b64encode(base64.b64decode(proof)).decode()
    except ValueError:
        return proof
