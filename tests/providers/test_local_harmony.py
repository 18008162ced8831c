"""Answers of gpt-oss: messages with headers, told apart as clients know them."""

import json
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from grammars import sample
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from gguf_files import real_model, with_template
from local_models import chat, model, serving, whole
from local_speech import heard as heard_of
from local_speech import spelled as calls

from tollway.providers.llamacpp.adapter import LocalModels
from tollway.providers.llamacpp.frames import Message, Tool, ToolCall
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.onset import Onset
from tollway.providers.llamacpp.template import ChatTemplate

TEMPLATE = "<|start|>assistant<|channel|>analysis<|message|> tools"
TOOLS = [Tool("get_weather"), Tool("add")]
THINKS = "<|channel|>analysis<|message|>Hm, to=functions.add?<|end|>"
FINAL = "<|channel|>final<|message|>It rains."
# As its prompts' ends leave it to the model: behind `<|start|>assistant`.
WRITTEN: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (FINAL, "It rains.", "", []),
    (f"{FINAL}<|return|>", "It rains.", "", []),
    (f"{THINKS}<|start|>assistant{FINAL}", "It rains.", "Hm, to=functions.add?", []),
    (f"{THINKS}<|start|>assistant{THINKS}<|start|>assistant{FINAL}<|end|>",
     "It rains.", "Hm, to=functions.add?\n\nHm, to=functions.add?", []),
    (f"{THINKS}<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>"
     '{"a": "<|"}<|call|>', "", "Hm, to=functions.add?", [("get_weather", '{"a": "<|"}')]),
    ('<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}',
     "", "", [("add", '{"a": 1}')]),
    ("<|channel|>analysis to=functions.add code<|message|>", "", "", [("add", "{}")]),
    (f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{FINAL}",
     "I look.\n\nIt rains.", "", []),
    (f"<|channel|>analysis<|message|>Lost<|start|>assistant{FINAL}", "It rains.", "Lost", []),
    ("No header <|at all", "No header <|at all", "", []),
    ("<|channel|>fin", "", "", []),
    ("<|channel|>" + "x" * 400, "<|channel|>" + "x" * 400, "", []),
]  # fmt: skip

heard = partial(heard_of, TEMPLATE, tools=TOOLS, thinks=True)


@given(st.data())
def test_an_answer_is_told_apart_wherever_it_is_cut(data: st.DataObject) -> None:
    """A token may end anywhere, also where marks are no tokens of their own."""
    written, text, thought, made = data.draw(st.sampled_from(WRITTEN))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(written) - 1)))))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    said = heard(pieces)
    assert (said.text, said.thought, calls(said)) == (text, thought, made)


def test_without_tools_nothing_is_a_call() -> None:
    """A client that offered none is told what the model said."""
    said = heard(['<|channel|>commentary to=functions.add json<|message|>{"a": 1}'], tools=())
    assert (said.text, said.calls) == ('{"a": 1}', [])


@pytest.mark.parametrize("forced", [True, False])
def test_the_grammar_of_calls_lets_through_what_is_read_as_calls(forced: bool) -> None:
    """Of its own where a call is forced, else behind the mark in a header that names a tool."""
    leaf: dict[str, object] = {"properties": {"n": {"const": 1}}, "required": ["n"],
                               "additionalProperties": False}  # fmt: skip
    tools = [Tool("get_weather", parameters=leaf), Tool("add", parameters=leaf)]
    manner = Manner(TEMPLATE)
    if forced:
        before, grammar = "", manner.calls_grammar(tools, parallel=True)
    else:
        before, grammar = manner.style.begin, manner.later_calls(tools, parallel=True)
    chance = random.Random(7)  # noqa: S311 - not a secret
    for _ in range(60):
        ((name, arguments),) = calls(heard([before + sample(grammar, chance)]))
        assert name in {"get_weather", "add"}
        assert json.loads(arguments) == {"n": 1}


def test_a_grammar_binds_from_the_mark_in_the_header_on() -> None:
    """The tool's name is what it says first; what is thought of tools begins nothing."""
    manner = Manner(TEMPLATE)
    onset = Onset(manner.speech(TOOLS, thinks=True), manner.style.begin.strip())
    assert onset.before(THINKS.encode()) == len(THINKS)
    assert not onset.take(THINKS.encode())
    assert onset.before(b"<|start|>assistant to=functions.add<|ch") == len(
        "<|start|>assistant to=functions."
    )
    assert onset.take(b"<|start|>assistant to=functions.")


SEVERAL = [
    Message("user", "hi"),
    Message("assistant", "I look.", thought="Hm.",
            calls=[ToolCall("a", "get_weather", "{}"), ToolCall("b", "add", '{"a": 1}')]),
    Message("tool", "2", name="add", call_id="b"),
    Message("tool", "rain", name="get_weather", call_id="a"),
]  # fmt: skip


def test_a_thought_and_calls_are_told_as_its_template_takes_them() -> None:
    """It writes one call a message, with its result behind it, and text or a thought before it."""
    source = (
        "{# <|channel|> tools #}{% for m in messages %}[{{ m.role }}"
        "{% if m.tool_calls %}{% if m.content and m.thinking %}{{ raise_exception('both') }}"
        "{% endif %}|{{ m.thinking }}|{{ m.tool_calls[0].function.name }}{% endif %}"
        "|{{ m.content }}]{% endfor %}"
    )
    text = ChatTemplate(source, bos="", eos="").render(SEVERAL)
    assert text == (
        "[user|hi][assistant|Hm.\n\nI look.|get_weather|][tool|rain][assistant||add|][tool|2]"
    )


def test_a_template_that_takes_one_call_a_message_has_them_one_by_one() -> None:
    """Llama 3.1's refuses two, and the model writes them all the same."""
    source = (
        "{% for m in messages %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}"
        "{% endif %}[{{ m.role }}{% for c in m.tool_calls %}:{{ c.function.name }}{% endfor %}]"
        "{% endfor %}{# tools #}"
    )
    text = ChatTemplate(source, bos="", eos="").render(SEVERAL)
    assert text == "[user][assistant:get_weather][tool][assistant:add][tool]"


def test_a_template_may_queue_calls_in_a_list_of_its_own() -> None:
    """Kimi's does, to name each result's call."""
    source = (
        "{% set q = namespace(ids=[]) %}{% for m in messages %}{% for c in m.tool_calls %}"
        "{% set _ = q.ids.append(c.id) %}{% endfor %}"
        "{% if m.role == 'tool' %}{{ q.ids.pop(0) }};{% endif %}{% endfor %}{# tools #}"
    )
    assert ChatTemplate(source, bos="", eos="").render(SEVERAL) == "a;b;"


# It leads the small model to write as gpt-oss does, with arguments that are not the tool's.
LEADING = "{% for m in messages %}{% endfor %}{% for city in ['Rome', 'Oslo', 'Bern'] %}" + (
    "<|start|>user<|message|>Weather in {{ city }}?<|end|><|start|>assistant"
    "<|channel|>analysis<|message|>I must look at {{ city }}.<|end|>"
    "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>"
    '{"place": "{{ city }}", "days": "two"}<|call|>'
) + ("{% endfor %}<|start|>user<|message|>Weather in Paris?<|end|>"
     "<|start|>assistant{{ '' if tools else '' }}")  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
LOOK = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": {"a": 1}}}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """Serve the small real model as one that writes as gpt-oss does."""
    folder = tmp_path_factory.mktemp("harmony")
    path = folder / "harmony.gguf"
    with_template(real_model(), path, LEADING)
    async with serving(folder, model(path, slots=1)) as models:
        yield models


@pytest.mark.local
@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fields", [{}, {"tool_choice": "required"}, {"response_format": FORM}])
async def test_calls_of_its_tools_are_valid(local: LocalModels, fields: dict[str, Any]) -> None:
    """Forced, free, or beside a schema of answers: headers are no part of any."""
    told = await whole(local, chat("hi", tools=LOOK, temperature=0, max_tokens=80, **fields))
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]).keys() == {"city", "days"}


@pytest.mark.local
@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_is_held_to_its_schema_behind_its_header(local: LocalModels) -> None:
    """The model's own thoughts and headers are free."""
    told = await whole(local, chat("hi", temperature=0, max_tokens=120, response_format=FORM))
    (choice,) = told["choices"]
    assert json.loads(choice["message"]["content"]) == {"a": 1}
    assert told["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
