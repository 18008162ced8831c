"""Names of tools' arguments that Claude refuses, on the way there and back."""

import json
import re
from typing import Any

import pytest
from translated import ANTHROPIC, ASKS, BEDROCK, OPENAI

from tollway.providers import events as ev
from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, ToolCall
from tollway.providers.dialects.dialect import Facts
from tollway.providers.sse import Event

BORNE = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
ODD = ["$top", "filter[id]", "名前", "x" * 65, "a b", ""]
ARGUMENTS: dict[str, Any] = {"plain": 1, **{name: {"$top": 2} for name in ODD}}
SCHEMA = {
    "type": "object",
    "properties": {"plain": {"type": "integer"}}
    | {name: {"type": "object", "description": "Odd"} for name in ODD},
    "required": ["plain", "$top"],
}
MODELS = {ANTHROPIC.name: "claude-sonnet-4-5", BEDROCK.name: "us.anthropic.claude-sonnet-4-5"}


def said() -> Conversation:
    """Return a chat client's conversation with such a tool, which was called."""
    function = {"name": "find", "arguments": json.dumps(ARGUMENTS)}
    call = {"id": "call_1", "type": "function", "function": function}
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "None"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "find", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "ls"}},
        ],
    }
    return OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))


def asked(target: str, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tool's schema there, and the arguments of its earlier call."""
    body = json.loads(ASKS[target].write_request(said(), Facts(model)).body)
    block = body["messages"][1]["content"][0]
    if target == BEDROCK.name:
        tool = body["toolConfig"]["tools"][0]["toolSpec"]
        return tool["inputSchema"]["json"], block["toolUse"]["input"]
    return body["tools"][0]["input_schema"], block["input"]


@pytest.mark.parametrize("target", MODELS)
def test_names_that_claude_refuses_are_others_there(target: str) -> None:
    """One tool of one MCP server made every call of a session a 400."""
    schema, arguments = asked(target, MODELS[target])
    names = list(schema["properties"])
    assert len(names) == len(ODD) + 1 and all(map(BORNE.fullmatch, names))
    assert schema["required"] == ["plain", names[1]]
    assert schema["properties"][names[1]]["description"] == "`$top`: Odd"
    assert list(arguments) == names  # as the model is to call it again
    assert list(arguments.values()) == list(ARGUMENTS.values())


def test_other_models_get_the_names_as_they_are() -> None:
    """Who serves them bears them, or says so."""
    assert asked(ANTHROPIC.name, "qwen3") == (SCHEMA, ARGUMENTS)


def block(kind: str, **more: Any) -> Event:
    """Return an event of Anthropic's about a block."""
    body = json.dumps({"type": f"content_block_{kind}", "index": 0} | more).encode()
    return Event(b"", body)


def call(name: str, *pieces: str) -> list[Event]:
    """Return the events of a call of a tool."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    started = block("start", content_block=tool)
    return [started, *(block("delta", delta=delta) for delta in deltas), block("stop")]


def test_what_it_calls_is_called_by_the_client_s_names() -> None:
    """The arguments wait for that until they are whole; those of other tools do not."""
    _, there = asked(ANTHROPIC.name, MODELS[ANTHROPIC.name])
    text = json.dumps(there)
    reader = ANTHROPIC.events(said(), frozenset())
    found = [one for event in call("find", text[:9], text[9:]) for one in reader.event(event)]
    start, delta, end = found
    assert isinstance(start, ev.ToolStart) and isinstance(end, ev.PartEnd)
    assert isinstance(delta, ev.ToolDelta) and json.loads(delta.arguments) == ARGUMENTS
    found = [one for event in call("ls", '{"a"', ":1}") for one in reader.event(event)]
    assert [one.arguments for one in found if isinstance(one, ev.ToolDelta)] == ['{"a"', ":1}"]


@pytest.mark.parametrize(
    "value", ["1e999", "123456789012345678901234567890", "0.10", '{"a" : "\\u00e9"}', r'"\ud83d"']
)
def test_what_an_argument_holds_stays_as_it_is_written(value: str) -> None:
    """But for half a character: for one the names stayed those that the client does not know."""
    _, there = asked(ANTHROPIC.name, MODELS[ANTHROPIC.name])
    name = list(there)[1]
    reader = ANTHROPIC.events(said(), frozenset())
    events = call("find", "{" + json.dumps(name), f":{value}}}")
    found = [one for event in events for one in reader.event(event)]
    kept = value.replace("ud83d", "ufffd")
    assert found[1] == ev.ToolDelta(f'{{"$top":{kept}}}')


def test_a_whole_answer_says_the_same() -> None:
    """And what was cut short stays as it came."""
    _, there = asked(ANTHROPIC.name, MODELS[ANTHROPIC.name])
    tool = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": there}
    body = {"type": "message", "id": "msg_1", "content": [tool], "stop_reason": "tool_use"}
    answer = ANTHROPIC.events(said(), frozenset()).whole(json.dumps(body).encode())
    (part,) = answer.parts
    assert isinstance(part, ToolCall) and json.loads(part.arguments) == ARGUMENTS
    reader = ANTHROPIC.events(said(), frozenset())
    cut = [one for event in call("find", '{"pla')[:-1] for one in reader.event(event)]
    assert [*cut, *reader.end()][1:] == [ev.ToolDelta('{"pla'), ev.PartEnd()]
