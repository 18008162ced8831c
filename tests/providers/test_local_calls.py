"""Tool calls that nobody forced: free text before them, and arguments that always validate."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gguf_files import real_model, with_template
from json_validity import valid
from local_gateway import ask, said
from local_gateway import serving as serving_gateway
from local_models import NAME, body_of, chat, model, serving, whole

from tollway.providers.llamacpp.adapter import LocalModels
from tollway.providers.llamacpp.answer import LocalAnswer

pytestmark = [
    pytest.mark.local,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

# It leads the small model to calls whose arguments are not those of the tool.
LEADING = """{% for m in messages %}{% endfor %}{% for city in ['Rome', 'Oslo', 'Bern'] %}<|im_start|>user
Weather in {{ city }}?<|im_end|>
<|im_start|>assistant
I will look.
<tool_call>
{"name": "get_weather", "arguments": {"place": "{{ city }}", "days": "two"}}
</tool_call><|im_end|>
{% endfor %}<|im_start|>user
Weather in Paris?<|im_end|>
<|im_start|>assistant
{{ "" if tools else "" }}"""  # noqa: E501
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
NEVER = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}


def tool(schema: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    """Return a tool whose arguments are of a schema."""
    return {"type": "function", "function": {"name": "get_weather", "parameters": schema, **more}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """Serve the small real model as one of a family that marks its calls."""
    folder = tmp_path_factory.mktemp("calls")
    path = folder / "calls.gguf"
    with_template(real_model(), path, LEADING)
    async with serving(folder, model(path, slots=2)) as models:
        yield models


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"parallel_tool_calls": False},
        # While it may come, the mark itself is held back from the client.
        {"stop": ['<tool_call>\n{"name": "get_weather", "arguments": {"place"']},
        {"logprobs": True, "top_logprobs": 2, "n": 2},
    ],
    ids=["plain", "one call", "a stop string that begins as the mark does", "logprobs"],
)
async def test_a_call_that_nobody_forced_has_valid_arguments(
    local: LocalModels, more: dict[str, Any]
) -> None:
    """What is said before it is the model's own; from its mark on the grammar binds."""
    found = await whole(local, chat("", tools=[tool()], max_tokens=80, **more))
    for choice in found["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"].strip() == "I will look."
        for one in choice["message"]["tool_calls"]:
            assert one["function"]["name"] == "get_weather"
            assert valid(json.loads(one["function"]["arguments"]), SCHEMA)


async def test_a_streamed_call_that_nobody_forced_has_valid_arguments(local: LocalModels) -> None:
    """The same in pieces."""
    answer = await local.send(NAME, "chat", chat("", tools=[tool()], max_tokens=80, stream=True))
    *blocks, _, _ = (await body_of(answer)).split(b"\n\n")
    deltas = [json.loads(one.removeprefix(b"data: "))["choices"][0]["delta"] for one in blocks]
    pieces = [one for delta in deltas for one in delta.get("tool_calls", []) if one["index"] == 0]
    assert valid(json.loads("".join(one["function"]["arguments"] for one in pieces)), SCHEMA)


async def test_what_no_grammar_can_promise_binds_strict_tools_only(local: LocalModels) -> None:
    """A strict one is refused; else arguments are an object, as the model writes it."""
    answer = await local.send(NAME, "chat", chat("", tools=[tool(NEVER, strict=True)]))
    refused = json.loads(await body_of(answer))["error"]
    assert (answer.status, refused["param"]) == (400, "tools")
    assert "The arguments of `get_weather`: `uniqueItems` in a schema" in refused["message"]
    found = await whole(local, chat("", tools=[tool(NEVER)], max_tokens=80))
    (one, *_) = found["choices"][0]["message"]["tool_calls"]
    assert json.loads(one["function"]["arguments"])["place"] == "Paris"


async def test_a_family_without_marks_says_that_strict_is_not_held_to(tmp_path: Path) -> None:
    """Its calls are told from text too late. A forced call is held to its schema all the same."""
    async with serving(tmp_path) as local:
        for more, dropped in (
            ({}, ("tools.strict",)),
            ({"tool_choice": "required"}, ()),
            ({"tools": [tool()]}, ()),
        ):
            fields = {"tools": [tool(strict=True)], "max_tokens": 2, **more}
            answer = await local.send(NAME, "chat", chat("hi", **fields))
            assert isinstance(answer, LocalAnswer)
            assert answer.dropped == dropped
            await body_of(answer)


async def test_callers_are_told_what_was_not_held_to() -> None:
    """In the header and in the row, as for what a provider cannot be told."""
    async with serving_gateway() as daemon:
        reply = await ask(daemon, said(tools=[tool(strict=True)], max_tokens=2))
        assert reply.status == 200
        assert reply.headers["x-tollway-dropped"] == "tools.strict"
        reply = await ask(daemon, said(tools=[tool()], max_tokens=2))
        assert "x-tollway-dropped" not in reply.headers
