"""JSON beside tools of Gemini's models before the third generation, which take but one of both."""

from typing import Any

import msgspec
import pytest
from translated import GEMINI, OPENAI

from tollway.providers import events as ev
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import (
    Conversation,
    Format,
    Message,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import Untranslatable
from tollway.providers.fold import fold
from tollway.providers.sse import Splitter

SECOND, THIRD = "gemini-2.5-flash", "gemini-3-flash-preview"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
LOOK = Tool("look", "Looks.", b'{"type":"object","properties":{}}')
SHAPED = Format("json_schema", msgspec.json.encode(SCHEMA), "shape")


def said(choice: ToolChoice | None = None, **more: Any) -> Conversation:
    """Return what asks for JSON of a schema, or for a look."""
    hi = (Message("user", (Text("Hi"),)),)
    fields = {"format": SHAPED, "tools": (LOOK,), **more}
    return Conversation("openai_chat", "route", hi, tool_choice=choice, **fields)


def body(asked: Conversation, model: str = SECOND) -> dict[str, Any]:
    """Return what Google is sent."""
    return dict(msgspec.json.decode(GEMINI.write_request(asked, Facts(model)).body))


def names(sent: dict[str, Any]) -> list[str]:
    """Return the names of the tools that are offered."""
    return [one["name"] for tool in sent.get("tools", ()) for one in tool["functionDeclarations"]]


def calls(*names: str) -> bytes:
    """Return an answer that calls tools, each with the same arguments."""
    parts = [{"functionCall": {"name": name, "args": {"a": 1}}} for name in names]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    return msgspec.json.encode({"candidates": [candidate]})


def test_the_answer_is_a_tool_of_that_shape() -> None:
    """Google answered 400; the model must call a tool, and one of them is its answer."""
    sent = body(said())
    assert names(sent) == ["look", "json_answer"]
    declared = sent["tools"][0]["functionDeclarations"][1]
    assert declared["parametersJsonSchema"] == SCHEMA
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert "generationConfig" not in sent
    free = body(said(format=Format("json_object")))
    assert names(free) == ["look", "json_answer"]


@pytest.mark.parametrize("choice", [ToolChoice("any"), ToolChoice("tool", ("look",))])
def test_where_a_tool_must_be_called_no_shape_is_asked_for(choice: ToolChoice) -> None:
    """There will be no text."""
    sent = body(said(choice))
    assert names(sent) == ["look"] and "generationConfig" not in sent


def test_where_no_tool_may_be_called_none_is_offered() -> None:
    """The shape is asked for as without tools."""
    sent = body(said(ToolChoice("none")))
    assert names(sent) == [] and "toolConfig" not in sent
    assert sent["generationConfig"]["responseJsonSchema"] == SCHEMA


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        (said(), THIRD),
        (said(tools=()), SECOND),
        (said(format=Format("json_schema", b'{"type":"array"}')), SECOND),
    ],
)
def test_others_are_asked_for_json_itself(asked: Conversation, model: str) -> None:
    """The third generation takes both; without tools there is nothing to keep apart."""
    assert "json_answer" not in names(body(asked, model))
    assert body(asked, model)["generationConfig"]["responseMimeType"] == "application/json"


def test_the_call_is_the_answer_and_others_are_calls() -> None:
    """Whole and as a stream."""
    for called, parts, stop in (
        (("json_answer",), ["text"], "end"),
        (("look",), ["call"], "tools"),
        (("json_answer", "look"), ["text", "call"], "tools"),
    ):
        wire = b"data: " + calls(*called) + b"\r\n\r\n"
        reader = GEMINI.events(said(), frozenset())
        found = [one for event in Splitter().feed(wire) for one in reader.event(event)]
        for answer in (
            fold([*found, *reader.end()]),
            GEMINI.events(said(), frozenset()).whole(calls(*called)),
        ):
            kinds = ["call" if isinstance(one, ToolCall) else "text" for one in answer.parts]
            assert (kinds, answer.stop) == (parts, stop)
            if parts[0] == "text":
                assert answer.parts[0] == Text('{"a":1}')


def test_a_text_of_the_third_generation_is_a_text() -> None:
    """Nobody knows by the answer alone how it was asked for."""
    text = {"content": {"parts": [{"text": '{"a":1}'}]}, "finishReason": "STOP"}
    whole: ev.Answer = GEMINI.events(said(), frozenset()).whole(
        msgspec.json.encode({"candidates": [text]})
    )
    assert whole.parts == (Text('{"a":1}'),) and whole.stop == "end"


def test_groq_takes_one_of_both_too() -> None:
    """It answered 400; the call of the tool that stands for the answer comes back as its text."""
    quirks = KINDS["groq"].quirks
    sent = msgspec.json.decode(OPENAI.write_request(said(), Facts("m", quirks=quirks)).body)
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["look", "json_answer"]
    assert (sent["tool_choice"], "response_format" in sent) == ("required", False)
    call = {"index": 0, "id": "c", "type": "function"}
    pieces = [
        {"tool_calls": [{**call, "function": {"name": "json_answer", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    ]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": piece} for piece in pieces]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    reader = OPENAI.events(said(), quirks)
    found = [
        one
        for choice in choices
        for event in Splitter().feed(
            b"data: "
            + msgspec.json.encode({"id": "i", "model": "m", "choices": [choice]})
            + b"\n\n"
        )
        for one in reader.event(event)
    ]
    (answer,) = fold([*found, *reader.end()]).choices
    assert (answer.parts, answer.stop) == ((Text('{"a":1}'),), "end")
    alone = msgspec.json.decode(
        OPENAI.write_request(said(tools=()), Facts("m", quirks=quirks)).body
    )
    assert "response_format" in alone


def test_deepseek_promises_no_schema_so_that_another_target_may() -> None:
    """Its 400 ended the call as its caller's mistake; any JSON it takes."""
    facts = Facts("deepseek-chat", quirks=KINDS["deepseek"].quirks)
    with pytest.raises(Untranslatable) as refused:
        OPENAI.write_request(said(), facts)
    assert refused.value.param == "response_format"
    free = OPENAI.write_request(said(format=Format("json_object")), facts)
    assert msgspec.json.decode(free.body)["response_format"] == {"type": "json_object"}
