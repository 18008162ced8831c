"""How long to think, asked of providers of whose models most refuse the field."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from clouds import Cloud, cloud
from shell import Running, running

KINDS = ("mistral", "groq", "xai", "cerebras", "ollama")
ANSWER = {
    "id": "c",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
HIGH = {"type": "enabled", "budget_tokens": 31_999}
LOW = {"type": "enabled", "budget_tokens": 2_048}
OFF = {"type": "disabled"}


def config(port: int) -> str:
    """Return a configuration with each of the providers."""
    tables = [
        f"""[providers.{kind}]
kind = "{kind}"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:HOME"
"""
        for kind in KINDS
    ]
    return "\n".join(tables)


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield the providers and the gateway before them."""
    async with cloud() as one, running(config(one.port)) as daemon:
        one.answer = (200, "application/json", msgspec.json.encode(ANSWER))
        yield one, daemon


@pytest.mark.parametrize(
    ("model", "thinking", "there", "dropped"),
    [
        ("mistral/mistral-medium-latest", HIGH, "high", None),
        ("mistral/mistral-medium-3.5", LOW, "high", None),
        ("mistral/mistral-small-2603", OFF, "none", None),
        ("mistral/mistral-large-latest", HIGH, None, "reasoning"),
        ("mistral/devstral-2512", OFF, None, "reasoning.off"),
        ("groq/llama-3.3-70b-versatile", HIGH, None, "reasoning"),
        ("groq/openai/gpt-oss-120b", LOW, "low", None),
        ("groq/qwen/qwen3-32b", HIGH, "default", None),
        ("groq/qwen/qwen3-32b", OFF, "none", None),
        ("xai/grok-code-fast-1", HIGH, None, "reasoning"),
        ("xai/grok-4.3", HIGH, "high", None),
        ("xai/grok-4.5", OFF, None, "reasoning.off"),
        ("xai/grok-3-mini", {"type": "adaptive"}, None, None),
        ("cerebras/gpt-oss-120b", HIGH, "high", None),
        ("cerebras/llama3.1-8b", HIGH, None, "reasoning"),
        ("ollama/qwen2.5-coder:7b", HIGH, None, "reasoning.effort"),
        ("ollama/qwen3:8b", OFF, "none", None),
        ("ollama/qwen3:8b", {"type": "adaptive"}, None, None),
        ("ollama/gpt-oss:20b", HIGH, "high", None),
    ],
)
async def test_only_models_that_know_the_field_are_asked_by_it(
    both: tuple[Cloud, Running],
    model: str,
    thinking: dict[str, Any],
    there: str | None,
    dropped: str | None,
) -> None:
    """Agents ask for thoughts with every call, and each of them came back as a 400."""
    up, daemon = both
    body = {
        "model": model,
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": "Hi"}],
        "thinking": thinking,
    }
    reply = await daemon.ask("POST", "/v1/messages", msgspec.json.encode(body))
    assert reply.status == 200, reply.body
    assert up.asked[-1][2].get("reasoning_effort") == there
    assert reply.headers.get("x-tollway-dropped") == dropped


@pytest.mark.parametrize(
    ("model", "gone", "dropped"),
    [
        ("groq/openai/gpt-oss-120b", {"logprobs", "top_logprobs"}, "logprobs, top_logprobs"),
        ("xai/grok-4.3", {"stop", "presence_penalty"}, "presence_penalty, stop"),
        ("xai/grok-code-fast-1", {"stop", "presence_penalty"}, "presence_penalty, stop"),
        ("xai/grok-4-1-fast-non-reasoning", set(), None),
        ("mistral/mistral-large-latest", set(), None),
    ],
)
async def test_a_field_that_fails_the_whole_call_is_left_out_and_named(
    both: tuple[Cloud, Running], model: str, gone: set[str], dropped: str | None
) -> None:
    """Each of them answers 400 to it, so that no such call of a client of Google's got through."""
    up, daemon = both
    said = {
        "contents": [{"parts": [{"text": "Hi"}]}],
        "generationConfig": {
            "maxOutputTokens": 9,
            "responseLogprobs": True,
            "logprobs": 2,
            "presencePenalty": 1,
            "stopSequences": ["END"],
        },
    }
    path = f"/v1beta/models/{model}:generateContent"
    reply = await daemon.ask("POST", path, msgspec.json.encode(said), admin=False)
    assert reply.status == 200, reply.body
    wanted = {"logprobs", "top_logprobs", "presence_penalty", "stop"}
    assert wanted - up.asked[-1][2].keys() == gone
    assert reply.headers.get("x-tollway-dropped") == dropped


async def test_several_answers_are_refused_where_there_is_but_one(
    both: tuple[Cloud, Running],
) -> None:
    """Fewer would be another answer; a name beside a message is no such thing."""
    up, daemon = both
    path = "/v1beta/models/groq/llama-3.3-70b-versatile:generateContent"
    said: dict[str, Any] = {"contents": [{"parts": [{"text": "Hi"}]}]}
    said["generationConfig"] = {"candidateCount": 2, "maxOutputTokens": 9}
    reply = await daemon.ask("POST", path, msgspec.json.encode(said), admin=False)
    assert reply.status == 400 and "one answer at a time" in reply.json()["error"]["message"]
    assert not up.asked
