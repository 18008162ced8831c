"""The service tier that an answer was made in, as the clients of each API are told of it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from matrix_requests import ANTHROPIC, CHAT, RESPONSES
from matrix_world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLAUDE = "anthropic/claude-sonnet-4-5"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before scripted upstreams."""
    async with world() as one:
        yield one


def sse(*events: dict[str, Any]) -> bytes:
    """Return events as a stream."""
    return b"".join(
        f"event: {one.get('type', 'message')}\ndata: {json.dumps(one)}\n\n".encode()
        for one in events
    )


def claude(tier: str, *, stream: bool) -> bytes:
    """Return a message of Anthropic's that was made in a tier."""
    used = {"input_tokens": 7, "output_tokens": 3, "service_tier": tier}
    message: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant"}
    message |= {"model": "m", "content": [], "stop_reason": None, "usage": used}
    text = {"type": "text", "text": "Hi"}
    if not stream:
        return json.dumps(message | {"content": [text], "stop_reason": "end_turn"}).encode()
    return sse(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": used},
        {"type": "message_stop"},
    )


def chat(tier: str, *, stream: bool) -> bytes:
    """Return a chat completion that was made in a tier."""
    said = {"role": "assistant", "content": "Hi"}
    used = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body |= {"service_tier": tier, "usage": used}
    choice = {"index": 0, "finish_reason": "stop"}
    if not stream:
        return json.dumps(body | {"choices": [choice | {"message": said}]}).encode()
    return sse(body | {"choices": [choice | {"delta": said}]})


def told(client: str, found: Any, *, stream: bool) -> object:
    """Return what the client's library has of it."""
    if client == CHAT:
        return found[-1].service_tier if stream else found.service_tier
    if client == RESPONSES:
        return found[-1].response.service_tier if stream else found.service_tier
    return (found[0].message if stream else found).usage.service_tier


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("client", "model", "tier", "is_told"),
    [
        (CHAT, CLAUDE, "priority", "priority"),
        (CHAT, CLAUDE, "standard", "default"),
        (RESPONSES, CLAUDE, "priority", "priority"),
        (RESPONSES, CLAUDE, "standard", "default"),
        (RESPONSES, "compatible/m", "flex", "flex"),
        (RESPONSES, "compatible/m", "on_demand", "default"),
        (RESPONSES, "compatible/m", "mine", "default"),
        (ANTHROPIC, "compatible/m", "priority", "priority"),
        (ANTHROPIC, "compatible/m", "default", "standard"),
    ],
)
async def test_the_tier_of_an_answer_is_told(
    through: World, client: str, model: str, tier: str, is_told: str, stream: bool
) -> None:
    """In the words of the client's API; it was the usual one, whatever the provider said."""
    body = (claude if model == CLAUDE else chat)(tier, stream=stream)
    kind = "text/event-stream" if stream else "application/json"
    through.upstream.answer = (200, kind, body)
    found = await through.ask(client, model, stream)
    assert told(client, found, stream=stream) == is_told


async def test_a_tier_that_an_api_has_no_word_for_is_none_of_its_own(through: World) -> None:
    """To say "standard" of what was made cheaper would be wrong."""
    through.upstream.answer = (200, "application/json", chat("flex", stream=False))
    assert told(ANTHROPIC, await through.ask(ANTHROPIC, "compatible/m"), stream=False) is None
