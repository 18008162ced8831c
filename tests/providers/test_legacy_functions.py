"""Clients that offer `functions`, as before there were tools, are answered in those words."""

import json
from typing import Any

from translated import ANTHROPIC, OPENAI

from tollway.providers.canon import Call
from tollway.providers.conversation import ToolCall
from tollway.providers.dialects.dialect import Facts
from tollway.providers.events import Answer, Choice, Event, Start, Stopped, ToolDelta, ToolStart

FUNCTION = {"name": "ls", "parameters": {"type": "object", "properties": {}}}
CALLED: list[Event] = [
    Start("c", "m"),
    ToolStart("a", "ls"),
    ToolDelta('{"x":'),
    ToolDelta("1}"),
    ToolStart("b", "ls"),
    ToolDelta("{}"),
    Stopped("tools"),
]


def call(**more: Any) -> Call:
    """Return a client's call."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | more
    return Call("chat", OPENAI.name, "m", json.dumps(body).encode(), wants_usage=True)


def chunks(asked: Call) -> list[dict[str, Any]]:
    """Return the chunks of a stream that tells of two calls, and what was dropped."""
    writer = OPENAI.writer(asked)
    text = b"".join(writer.event(event) for event in CALLED) + writer.end()
    lines = [line[6:] for line in text.decode().split("\n\n") if line]
    assert writer.dropped == {"tool_calls"}
    return [json.loads(line)["choices"][0] for line in lines if line != "[DONE]"]


def test_a_stream_tells_the_one_call_as_a_function_call() -> None:
    """Such a client reads no `tool_calls`; a second call is named as dropped."""
    found = chunks(call(functions=[FUNCTION]))
    assert not any("tool_calls" in one["delta"] for one in found)
    told = [one["delta"]["function_call"] for one in found if "function_call" in one["delta"]]
    assert told[0] == {"name": "ls", "arguments": ""}
    assert "".join(one["arguments"] for one in told) == '{"x":1}'
    assert found[-1]["finish_reason"] == "function_call"


def test_a_whole_answer_does_too() -> None:
    """The same call, and why it ended."""
    calls = (ToolCall("a", "ls", '{"x":1}'), ToolCall("b", "ls", "{}"))
    writer = OPENAI.writer(call(functions=[FUNCTION]))
    (choice,) = json.loads(writer.whole(Answer((Choice(calls, "tools"),))))["choices"]
    assert choice["message"]["function_call"] == {"name": "ls", "arguments": '{"x":1}'}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"
    assert writer.dropped == {"tool_calls"}


def test_it_is_asked_for_one_call_at_a_time() -> None:
    """Two have no place in its answer."""
    said = OPENAI.read_request(call(functions=[FUNCTION]))
    written = ANTHROPIC.write_request(said, Facts("claude-sonnet-4-5", default_output=100))
    choice = json.loads(written.body)["tool_choice"]
    assert choice == {"type": "auto", "disable_parallel_tool_use": True}


def test_the_word_elsewhere_in_a_request_means_nothing() -> None:
    """Tools of today are told as such, whatever the conversation is about."""
    tool = {"type": "function", "function": FUNCTION}
    asked = call(tools=[tool], messages=[{"role": "user", "content": 'say "functions"'}])
    writer = OPENAI.writer(asked)
    answer = Answer((Choice((ToolCall("a", "ls", "{}"),), "tools"),))
    (choice,) = json.loads(writer.whole(answer))["choices"]
    assert choice["message"]["tool_calls"][0]["id"] == "a"
    assert choice["finish_reason"] == "tool_calls"
