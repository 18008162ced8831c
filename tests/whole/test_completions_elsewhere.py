"""Legacy completions, and OpenAI's summaries, asked of models that hold conversations alone."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI
from matrix_world import TARGETS, World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "Name a city."
SPOKEN = {"anthropic": ANTHROPIC, "gemini": GEMINI, "cohere": COHERE, "bedrock": BEDROCK}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before scripted upstreams, whose calls all have a hold."""
    async with world(budget='budget = ["1000/day"]') as one:
        yield one


async def complete(one: World, target: str, **said: Any) -> Any:
    """Return what OpenAI's library makes of a completion."""
    one.upstream.answer = None
    asked = {"prompt": PROMPT, **said}
    return await one.chat.completions.create(model=TARGETS.get(target, target), **asked)


@pytest.mark.parametrize("target", SPOKEN)
async def test_a_prompt_is_what_a_user_says(through: World, target: str) -> None:
    """LiteLLM asks so too, without a word; here the reply and the ledger say what it was."""
    found = await complete(through, target, max_tokens=50, stop=["\n"])
    assert found.object == "text_completion"
    assert found.choices[0].text
    assert found.choices[0].finish_reason in ("stop", "length")
    spoken, body = through.upstream.asked[-1]
    assert spoken == SPOKEN[target]
    turn = json.dumps((body.get("messages") or body["contents"])[0])
    assert PROMPT in turn
    assert "50" in json.dumps(body)
    row = await through.row()
    assert "raw_prompt" in row.call.dropped.split(",")
    assert through.heads["x-tollway-dropped"].startswith("raw_prompt")
    assert (row.call.ending, row.call.endpoint) == ("answered", "completions")
    assert row.call.output_total == found.usage.completion_tokens


async def test_who_speaks_openai_s_dialect_without_completions_is_asked_so_too(
    through: World,
) -> None:
    """Groq, Mistral and Perplexity: their own 404 told nobody what to do."""
    found = await complete(through, "groq/llama-3.3-70b-versatile", max_tokens=50)
    assert (found.object, found.choices[0].finish_reason) == ("text_completion", "stop")
    spoken, body = through.upstream.asked[-1]
    assert (spoken, body["messages"]) == (CHAT, [{"role": "user", "content": PROMPT}])
    assert through.heads["x-tollway-dropped"] == "raw_prompt"
    with pytest.raises(openai.BadRequestError, match="no tokens"):
        await complete(through, "groq/llama-3.3-70b-versatile", prompt=[1, 2])


@pytest.mark.parametrize(
    "target", ["anthropic", "gemini", "cohere", "groq/llama-3.3-70b-versatile"]
)
async def test_a_stream_says_the_same(through: World, target: str) -> None:
    """In pieces of text, an end, and the usage where it was asked for."""
    stream = await complete(through, target, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [end for end in ends if end] == ["stop"]
    assert chunks[-1].choices == []
    row = await through.row()
    assert row.call.output_total == chunks[-1].usage.completion_tokens


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"suffix": "b"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_no_conversation_is_is_refused(
    through: World, said: dict[str, Any], param: str
) -> None:
    """A text to be filled in or repeated, tokens, several prompts: and it says what to do."""
    with pytest.raises(openai.BadRequestError) as refusal:
        await complete(through, "anthropic", **said)
    assert refusal.value.param == param
    if param != "n":
        assert "/v1/chat/completions" in str(refusal.value)


async def test_a_route_that_allows_no_loss_takes_no_completion(through: World) -> None:
    """A prompt that is gone on with and one that is answered are not the same."""
    strict = f"strict/{list(TARGETS).index('anthropic')}"
    with pytest.raises(openai.BadRequestError, match="raw_prompt"):
        await complete(through, strict)


async def test_where_completions_are_served_they_pass(through: World) -> None:
    """The bytes are the client's own."""
    whole = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    choice = {"index": 0, "text": "Rome", "finish_reason": "stop", "logprobs": None}
    body = json.dumps(whole | {"choices": [choice]}).encode()
    through.upstream.answer = (200, "application/json", body)
    found = await through.chat.completions.create(
        model=TARGETS["openai-compatible"], prompt=PROMPT, suffix="b"
    )
    assert found.choices[0].text == "Rome"
    assert through.upstream.asked[-1][1]["prompt"] == PROMPT


async def test_openai_s_own_summary_is_refused_with_what_to_do(through: World) -> None:
    """Codex fails at it in either form, and has no other way but by its provider's name."""
    model = TARGETS["anthropic"]
    items = [{"role": "user", "content": "Hi"}, {"type": "compaction_trigger"}]
    for path, said in (("/responses/compact", items[:1]), ("/responses", items)):
        reply = await through.post(f"/v1{path}", {"model": model, "input": said})
        assert reply.status_code == 400
        assert "Codex does so by itself" in reply.json()["error"]["message"]
