"""Many calls at once on the real small model: the same answers as alone, and shapes that hold."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from json_validity import valid
from local_models import NAME, body_of, chat, model, serving, state_of, text_of, until, whole

from tollway.providers.llamacpp.adapter import LocalModels

pytestmark = [
    pytest.mark.local,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

TOPICS = [
    "a lighthouse", "why the sky is blue", "bread", "a dragon", "the water cycle", "a robot",
    "bridges", "a market", "cats", "paper", "a train", "vaccines", "a garden", "chess", "whales",
    "a clock",
]  # fmt: skip
SYSTEM = "You are a careful assistant."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """Serve the small real model with four slots."""
    folder = tmp_path_factory.mktemp("local")
    async with serving(folder, model(slots=4, context=1024)) as models:
        yield models


def asked(at: int, **fields: Any) -> bytes:
    """Return a call of its own length, with the same beginning as the others."""
    said = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Write about {TOPICS[at]}." + " Short words." * (at % 5) * 8},
    ]
    return chat("", messages=said, **{"max_tokens": 10, **fields})


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    """Return what the first calls get alone, as far as that has been asked."""
    return []


@pytest.mark.parametrize(
    "callers", [2, 4, 8, pytest.param(16, marks=pytest.mark.long)], ids=lambda n: f"{n}-callers"
)
async def test_answers_are_those_that_each_gets_alone(
    tmp_path: Path, callers: int, alone: list[Any]
) -> None:
    """Greedy and at once, in any company, every token is what the same prompt gives alone.

    Alone: with one slot and nothing kept in its memory. The prompts are of different lengths, so
    that answers run beside prompts that are read; their common beginning is copied.
    """
    async with serving(tmp_path, model(slots=callers, context=512)) as local:
        said = await asyncio.gather(*(whole(local, asked(at)) for at in range(callers)))
    async with serving(tmp_path, model(slots=1, context=512)) as local:
        for at in range(len(alone), callers):
            clear = json.dumps({"model": NAME, "prompt": [at + 5, 7], "max_tokens": 1}).encode()
            await whole(local, clear, "completions")
            one = await whole(local, asked(at))
            assert one["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            alone.append(one["choices"])
    for at in range(callers):
        assert said[at]["choices"] == alone[at], at


async def test_a_long_prompt_stops_no_stream(local: LocalModels) -> None:
    """While it is read, the stream that runs goes on: both end, the short one first."""
    order: list[str] = []

    async def ask(name: str, request: bytes, endpoint: Any) -> None:
        await whole(local, request, endpoint)
        order.append(name)

    await local.load(NAME)
    long = json.dumps({"model": NAME, "prompt": "word " * 700, "max_tokens": 1}).encode()
    reading = asyncio.create_task(ask("long", long, "completions"))
    await until(lambda: state_of(local).running == 1)
    await ask("short", asked(0, max_tokens=2), "chat")
    await reading
    assert order == ["short", "long"]


async def test_a_call_that_leaves_frees_its_slot_alone(local: LocalModels) -> None:
    """The others do not notice, and say what they would have said."""
    alone = await whole(local, asked(1))
    leaving = await local.send(NAME, "chat", asked(0, max_tokens=500, stream=True))
    staying = asyncio.create_task(whole(local, asked(1)))
    await anext(leaving.chunks())
    await leaving.close()
    assert (await staying)["choices"] == alone["choices"]
    assert state_of(local).running == 0


async def test_probabilities_are_those_of_the_model(local: LocalModels) -> None:
    """The chosen token stands among the likeliest where nothing is left to chance."""
    found = await whole(local, asked(2, logprobs=True, top_logprobs=3, max_tokens=3))
    entries = found["choices"][0]["logprobs"]["content"]
    assert len(entries) == 3
    for entry in entries:
        top = entry["top_logprobs"]
        assert [one["logprob"] for one in top] == sorted((x["logprob"] for x in top), reverse=True)
        assert (top[0]["token"], top[0]["logprob"]) == (entry["token"], entry["logprob"])
        assert 0 < sum(math.exp(one["logprob"]) for one in top) <= 1.0001
        assert bytes(entry["bytes"]).decode() == entry["token"]
    text = "".join(entry["token"] for entry in entries)
    assert text == found["choices"][0]["message"]["content"]


async def test_probabilities_end_where_the_text_does(local: LocalModels) -> None:
    """No token of a stop string is told of, as none of its text is: whole or in pieces."""
    plain = await text_of(local, asked(2, max_tokens=12))
    stop = plain[len(plain) // 2 :][:6]
    asks = {"max_tokens": 12, "logprobs": True, "stop": [stop]}
    choice = (await whole(local, asked(2, **asks)))["choices"][0]
    told = [one["token"] for one in choice["logprobs"]["content"]]
    text = choice["message"]["content"]
    assert text == plain[: plain.index(stop)]
    assert "".join(told).startswith(text)
    assert len("".join(told[:-1])) < len(text)
    answer = await local.send(NAME, "chat", asked(2, stream=True, **asks))
    *blocks, _, _ = (await body_of(answer)).split(b"\n\n")
    parts = [json.loads(one.removeprefix(b"data: "))["choices"][0] for one in blocks]
    likely = [part["logprobs"]["content"] for part in parts if "logprobs" in part]
    assert [one for some in likely for one in some] == choice["logprobs"]["content"]


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8},
     "age": {"type": "integer", "minimum": 3, "maximum": 99}}, "required": ["name", "age"]},
    {"type": "array", "items": {"enum": ["red", "green", 7, None]}, "minItems": 2, "maxItems": 3},
    {"type": "object", "properties": {"at": {"type": "string", "pattern": "^\\d{2}:\\d{2}$"},
     "ok": {"type": "boolean"}}, "required": ["at"]},
    {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": {"a": [1, "x\n"]}}]},
]  # fmt: skip


@pytest.mark.parametrize("temperature", [0, 1.5])
async def test_answers_are_valid_by_their_schema(local: LocalModels, temperature: float) -> None:
    """Whatever a small model would rather say, also at a high temperature."""

    async def ask(schema: dict[str, Any]) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        request = chat(
            "Tell me.", response_format=form, max_tokens=120, temperature=temperature, seed=5
        )
        choice = (await whole(local, request))["choices"][0]
        assert choice["finish_reason"] == "stop", choice
        assert valid(json.loads(choice["message"]["content"]), schema), choice

    await asyncio.gather(*map(ask, SCHEMAS))


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_forced_tool_is_called(local: LocalModels, stream: bool) -> None:
    """Its arguments are valid, also streamed, and the answer's end says why it ended."""
    request = chat("Weather in Paris?", tools=[TOOL], tool_choice="required", max_tokens=60,
                   parallel_tool_calls=False, stream=stream)  # fmt: skip
    answer = await local.send(NAME, "chat", request)
    data = await body_of(answer)
    if stream:
        blocks = data.split(b"\n\n")[:-2]
        chunks = [json.loads(block.removeprefix(b"data: "))["choices"][0] for block in blocks]
        pieces = [one for chunk in chunks for one in chunk["delta"].get("tool_calls", [])]
        name = pieces[0]["function"]["name"]
        arguments = "".join(piece["function"]["arguments"] for piece in pieces)
        reason = chunks[-1]["finish_reason"]
    else:
        (choice,) = json.loads(data)["choices"]
        (call,) = choice["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        reason = choice["finish_reason"]
        assert choice["message"]["content"] is None
    assert (name, reason) == ("get_weather", "tool_calls")
    assert valid(json.loads(arguments), TOOL["function"]["parameters"])  # type: ignore[index]


async def test_a_conversation_with_tools_is_read(local: LocalModels) -> None:
    """Calls and their results of before, told in words where the template knows none."""
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    said = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "It rains."},
    ]
    found = await whole(local, chat("", messages=said, tools=[TOOL], max_tokens=4))
    assert found["usage"]["prompt_tokens"] > 40
