"""Any JSON of a target that promises none without a schema: it is the argument of a tool."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from translated import ASKS

from tollway.providers import events as ev
from tollway.providers.conversation import (
    Conversation,
    Format,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from tollway.providers.dialects.dialect import Facts
from tollway.providers.fold import fold
from tollway.providers.sse import Splitter

CLAUDE = {
    "anthropic_messages": Facts("claude-sonnet-4-5", default_output=1000),
    "bedrock": Facts("us.anthropic.claude-sonnet-4-5-20250929-v1:0", default_output=1000),
}
ANTHROPIC = ASKS["anthropic_messages"]
LOOK = Tool("look", "Looks.", b'{"type":"object","properties":{}}')


def said(**more: Any) -> Conversation:
    """Return what asks for any JSON object."""
    hi = (Message("user", (Text("Which JSON?"),)),)
    return Conversation("openai_chat", "m", hi, **{"format": Format("json_object"), **more})


def body(asked: Conversation, dialect: str = "anthropic_messages") -> dict[str, Any]:
    """Return what a target is sent."""
    found: dict[str, Any] = json.loads(ASKS[dialect].write_request(asked, CLAUDE[dialect]).body)
    return found


def whole(blocks: list[dict[str, Any]], stop: str, asked: Conversation) -> ev.Answer:
    """Return what a message means to who asked."""
    message = {
        **{"id": "msg_1", "type": "message", "model": "c", "content": blocks},
        **{"stop_reason": stop, "usage": {"input_tokens": 3, "output_tokens": 4}},
    }
    return ANTHROPIC.events(asked, frozenset()).whole(msgspec.json.encode(message))


def use(name: str, given: object, id_: str = "toolu_1") -> dict[str, Any]:
    """Return a call of a tool, as Anthropic writes it."""
    return {"type": "tool_use", "id": id_, "name": name, "input": given}


def streamed(pieces: list[tuple[str, list[str]]], stop: str, asked: Conversation) -> ev.Answer:
    """Return what a stream of calls, each with the pieces of its arguments, folds to."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "model": "c", "usage": {}}}
    ]
    for at, (name, parts) in enumerate(pieces):
        block = {**use(name, {}, f"toolu_{at}")}
        events.append({"type": "content_block_start", "index": at, "content_block": block})
        for part in parts:
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append({"type": "content_block_delta", "index": at, "delta": delta})
        events.append({"type": "content_block_stop", "index": at})
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {}})
    events.append({"type": "message_stop"})
    wire = b"".join(
        b"event: %b\ndata: %b\n\n" % (one["type"].encode(), msgspec.json.encode(one))
        for one in events
    )
    reader = ANTHROPIC.events(asked, frozenset())
    found = [meant for event in Splitter().feed(wire) for meant in reader.event(event)]
    return fold([*found, *reader.end()])


def test_the_answer_is_the_argument_of_a_tool_that_must_be_called() -> None:
    """A tool's argument is always an object; which one, its schema leaves open."""
    sent = body(said())
    assert [tool["name"] for tool in sent["tools"]] == ["json_answer"]
    assert sent["tools"][0]["input_schema"] == {"type": "object", "additionalProperties": True}
    assert sent["tool_choice"] == {"type": "tool", "name": "json_answer"}
    assert "output_config" not in sent
    config = body(said(), "bedrock")["toolConfig"]
    assert config["toolChoice"] == {"tool": {"name": "json_answer"}}
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["json_answer"]


def test_beside_tools_one_of_them_or_the_answer_must_be_called() -> None:
    """The model would have called a tool or answered in JSON: it still has that choice alone."""
    for choice in (None, ToolChoice("auto")):
        sent = body(said(tools=(LOOK,), tool_choice=choice))
        assert [tool["name"] for tool in sent["tools"]] == ["look", "json_answer"]
        assert sent["tool_choice"]["type"] == "any"
    sent = body(said(tools=(LOOK, Tool("hear")), tool_choice=ToolChoice("auto", ("hear",))))
    assert [tool["name"] for tool in sent["tools"]] == ["hear", "json_answer"]


def test_where_no_tool_may_be_called_the_answer_alone_is() -> None:
    """The others stand in the conversation, and are not for now."""
    sent = body(said(tools=(LOOK,), tool_choice=ToolChoice("none")))
    assert sent["tool_choice"] == {"type": "tool", "name": "json_answer"}


@pytest.mark.parametrize("choice", [ToolChoice("any"), ToolChoice("tool", ("look",))])
def test_where_a_tool_must_be_called_no_answer_is_asked_for(choice: ToolChoice) -> None:
    """There will be no text that could be JSON."""
    sent = body(said(tools=(LOOK,), tool_choice=choice))
    assert [tool["name"] for tool in sent["tools"]] == ["look"]
    assert sent["tool_choice"]["type"] == choice.mode
    answer = whole([use("look", {})], "tool_use", said(tools=(LOOK,), tool_choice=choice))
    assert answer.stop == "tools"


def test_the_clients_own_tool_keeps_its_name() -> None:
    """A call of it is a call."""
    own = Tool("json_answer", "", b'{"type":"object"}')
    asked = said(tools=(own,))
    assert [tool["name"] for tool in body(asked)["tools"]] == ["json_answer", "json_answer_"]
    called = whole([use("json_answer", {"a": 1})], "tool_use", asked)
    assert isinstance(called.parts[0], ToolCall)
    assert called.stop == "tools"
    answered = whole([use("json_answer_", {"a": 1})], "tool_use", asked)
    assert answered.parts == (Text('{"a":1}'),)
    assert answered.stop == "end"


def test_what_no_model_may_do_beside_is_named() -> None:
    """Claude does not think before a tool that it must call."""
    asked = said(reasoning=Reasoning("on", "high"), output_limit=30_000)
    assert ANTHROPIC.write_request(asked, CLAUDE["anthropic_messages"]).dropped == ("reasoning",)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9)), st.data())
def test_the_argument_is_the_text_whole_and_as_a_stream(given: Any, data: st.DataObject) -> None:
    """Wherever the pieces of a stream are cut."""
    text = json.dumps(given)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)))))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for answer in (
        whole([use("json_answer", given)], "tool_use", said()),
        streamed([("json_answer", parts)], "tool_use", said()),
    ):
        (part,) = answer.parts
        assert isinstance(part, Text)
        assert json.loads(part.text) == given
        assert answer.stop == "end"


def test_an_answer_without_members_is_an_empty_object() -> None:
    """The pieces of a stream are then none."""
    assert streamed([("json_answer", [])], "tool_use", said()).parts == (Text("{}"),)


def test_calls_beside_the_answer_are_calls() -> None:
    """Of several at once each is what it is, and the client has tools to run."""
    asked = said(tools=(LOOK,))
    for answer in (
        whole([use("json_answer", {"a": 1}), use("look", {}, "toolu_2")], "tool_use", asked),
        streamed([("json_answer", ['{"a":1}']), ("look", [])], "tool_use", asked),
    ):
        text, call = answer.parts
        assert text == Text('{"a":1}')
        assert isinstance(call, ToolCall)
        assert answer.stop == "tools"


@pytest.mark.parametrize(("stop", "meant"), [("max_tokens", "length"), ("refusal", "refusal")])
def test_an_answer_that_was_cut_says_so(stop: str, meant: str) -> None:
    """As OpenAI's does: what has come is the beginning of some JSON."""
    answer = streamed([("json_answer", ['{"a'])], stop, said())
    assert answer.parts == (Text('{"a'),)
    assert answer.stop == meant
