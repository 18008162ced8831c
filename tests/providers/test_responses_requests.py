"""Responses requests: what they mean, what bounds them, and what another target is asked."""

import json
from typing import Any

import pytest

from tollway.providers.canon import Call
from tollway.providers.conversation import (
    Conversation,
    HostedTool,
    Message,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.openai_chat_codec import CODEC as CHAT
from tollway.providers.dialects.openai_responses import DIALECT
from tollway.providers.dialects.responses_codec import CODEC
from tollway.providers.dialects.responses_proofs import proof_in
from tollway.providers.errors import RequestInvalid, Untranslatable
from tollway.providers.events import (
    Event,
    Signed,
    Start,
    Stopped,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
)
from tollway.providers.sse import Splitter

FUNCTION = {
    "type": "function",
    "name": "ls",
    "description": "List files",
    "parameters": {"type": "object", "properties": {"dir": {"type": "string"}}},
    "strict": False,
}
PATCH = {"type": "custom", "name": "apply_patch", "format": {"type": "text"}}


def call(**said: Any) -> Call:
    """Return a call with these fields."""
    body = {"model": "m", "input": "Hi", **said}
    return DIALECT.peek("chat", json.dumps(body).encode())


def read(**said: Any) -> Conversation:
    """Return what a request with these fields says."""
    return CODEC.read_request(call(**said))


def written(said: Conversation) -> dict[str, Any]:
    """Return a conversation as a Responses request."""
    body: dict[str, Any] = json.loads(CODEC.write_request(said, Facts(model="t")).body)
    return body


AGENT = [
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Brief"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look"}],
     "encrypted_content": "gAAAA"},
    {"type": "function_call", "call_id": "call_1", "name": "ls", "arguments": "{\"dir\":\".\"}"},
    {"type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin"},
    {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"},
    {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Done"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two"}]},
]  # fmt: skip


def test_items_that_stand_together_are_one_turn() -> None:
    """Thinking and parallel calls are one turn of the model's, their results one of the tools'."""
    said = read(input=AGENT, tools=[FUNCTION, PATCH], instructions="You are an agent")
    assert [message.role for message in said.messages] == [
        *("system", "developer", "user", "assistant", "tool", "assistant")
    ]
    assert said.messages[3].parts == (
        Thinking("Look", encrypted="gAAAA", by="openai_responses", id="rs_1", summary=True),
        ToolCall("call_1", "ls", '{"dir":"."}'),
        ToolCall("call_2", "apply_patch", "*** Begin", "custom"),
    )
    assert said.messages[4].parts == (
        ToolResult("call_1", (Text("a.txt"),)),
        ToolResult("call_2", (Text("Done"),)),
    )


def test_what_is_read_and_written_is_the_same_request() -> None:
    """Items, tools and options come back as they were, so that reading them gives the same."""
    said = read(
        input=AGENT,
        tools=[FUNCTION, PATCH],
        tool_choice={"type": "function", "name": "ls"},
        parallel_tool_calls=False,
        max_output_tokens=100,
        temperature=0.5,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        prompt_cache_key="thread",
        stream=True,
    )
    again = read(**{**written(said), "model": "m"})
    assert again == CODEC.read_request(call(**{**written(again), "model": "m"}))
    for field in ("messages", "tools", "tool_choice", "parallel", "format", "reasoning"):
        assert getattr(again, field) == getattr(said, field)
    for field in ("output_limit", "sampling", "cache_key", "stream"):
        assert getattr(again, field) == getattr(said, field)


def test_tools_of_a_namespace_are_called_by_one_name_and_answered_by_two() -> None:
    """Other dialects have no namespaces; the client hears both names again."""
    tools = [{"type": "namespace", "name": "crm", "description": "", "tools": [FUNCTION]}]
    asked = call(tools=tools, input=[
        {"type": "function_call", "call_id": "c", "namespace": "crm", "name": "ls",
         "arguments": ""},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ])  # fmt: skip
    said = CODEC.read_request(asked)
    assert [tool.name for tool in said.tools if isinstance(tool, Tool)] == ["crm__ls"]
    assert said.messages[0].parts == (ToolCall("c", "crm__ls", ""),)
    writer = CODEC.writer(asked)
    stream = b"".join(
        writer.event(event)
        for event in (Start(), ToolStart("d", "crm__ls"), ToolDelta("{}"), Stopped("tools"))
    )
    stream += writer.end()
    done = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]
    (item,) = done[-1]["response"]["output"]
    assert (item["namespace"], item["name"], item["call_id"]) == ("crm", "ls", "d")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "additional_tools", "role": "developer"},
        {"type": "tool_search_output", "execution": "server", "call_id": None},
    ],
    ids=lambda item: str(item["type"]),
)
def test_tools_that_came_later_are_tools(item: dict[str, Any]) -> None:
    """Codex adds them to a conversation; all of it was refused. Their namespaces are known too."""
    crm = {"type": "namespace", "name": "crm", "description": "Ours", "tools": [FUNCTION]}
    turns = [{"role": "user", "content": "Hi"}, item | {"tools": [crm, FUNCTION]}]
    asked = call(tools=[FUNCTION | {"description": "First"}], input=turns)
    said = CODEC.read_request(asked)
    tools = [tool for tool in said.tools if isinstance(tool, Tool)]
    assert [(tool.name, tool.description[:5]) for tool in tools] == [
        ("ls", "First"),
        ("crm__ls", "Of al"),
    ]
    written = CHAT.write_request(said, Facts(model="t"))
    assert written.dropped == ()
    assert json.loads(written.body)["messages"] == [{"role": "user", "content": "Hi"}]
    writer = CODEC.writer(asked)
    events = (Start(), ToolStart("d", "crm__ls"), ToolDelta("{}"), Stopped("tools"))
    stream = b"".join(map(writer.event, events)) + writer.end()  # type: ignore[arg-type]
    (called,) = json.loads(stream.rpartition(b"data: ")[2])["response"]["output"]
    assert (called["namespace"], called["name"]) == ("crm", "ls")


def test_a_signature_of_another_provider_comes_back_to_it() -> None:
    """Thinking that Anthropic signed goes through a Responses client and back, byte for byte."""
    asked = call()
    writer = CODEC.writer(asked)
    events: tuple[Event, ...] = (
        Start(),
        ThinkingDelta("Hm"),
        Signed("anthropic_messages", "c2ln"),
        ToolStart("t", "ls", signature="Z29vZ2xl", by="gemini"),
        ToolDelta("{}"),
        Stopped("tools"),
    )
    stream = b"".join(map(writer.event, events)) + writer.end()
    output = json.loads(stream.rpartition(b"data: ")[2])["response"]["output"]
    proof = proof_in(output[0]["encrypted_content"])
    assert proof == ("anthropic_messages", "signature", "c2ln", "Hm")
    (turn,) = read(input=output).messages
    assert turn == Message(
        "assistant",
        (
            Thinking("Hm", "c2ln", by="anthropic_messages"),
            ToolCall("t", "ls", "{}", signature="Z29vZ2xl", by="gemini"),
        ),
    )


@pytest.mark.parametrize(
    "said",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_its_provider_keeps_is_not_translated(said: dict[str, Any]) -> None:
    """The answer would be one to another conversation."""
    with pytest.raises(Untranslatable):
        read(**said)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"background": True}, "background"),
        ({"n_predict": -1}, "n_predict"),
        ({"service_tier": ["default"]}, "service_tier"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"tools": [{"type": "web_search"}]}, "tools[].web_search"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[].mcp"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[].code_interpreter"),
    ],
)
def test_what_no_limit_bounds_is_named(said: dict[str, Any], named: str) -> None:
    """Tools that the provider runs, and work that goes on behind the answer."""
    assert DIALECT.bound(call(**said)).unbounded == (named,)


@pytest.mark.parametrize(
    "said",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}]},
        {"input": [{"type": "compaction", "encrypted_content": "gAAAA"}]},
    ],
)
def test_what_is_not_in_the_request_is_bounded_by_the_window_alone(said: dict[str, Any]) -> None:
    """The provider knows what stands behind an id; the request does not tell."""
    assert DIALECT.bound(call(**said)).by_window


def test_a_file_elsewhere_has_no_bound() -> None:
    """Not even its size is known here."""
    part = {"type": "input_file", "file_url": "https://example.com/a.pdf"}
    bound = DIALECT.bound(call(input=[{"role": "user", "content": [part]}]))
    assert bound.unbounded == ("input[].content[].input_file",)


def test_own_tools_are_bounded_as_they_are_printed() -> None:
    """Each tool's schema as templates print it, those within a namespace too."""
    plain = DIALECT.bound(call()).input
    one = DIALECT.bound(call(tools=[FUNCTION])).input
    within = DIALECT.bound(call(tools=[{"type": "namespace", "name": "n", "tools": [FUNCTION]}]))
    assert within.input > one > plain + len(json.dumps(FUNCTION, indent=4))
    assert not within.unbounded


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 1}, "model"),
        ({"input": 7}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"Stream": True}, "Stream"),
    ],
)
def test_a_wrong_field_is_named(said: dict[str, Any], param: str) -> None:
    """The gate reads these fields, so they must be what it takes them for."""
    with pytest.raises(RequestInvalid) as caught:
        call(**said)
    assert caught.value.param == param


def test_a_hosted_tool_keeps_its_own_words() -> None:
    """Only OpenAI can run it, and its JSON is needed for that."""
    (tool,) = read(tools=[{"type": "web_search", "search_context_size": "low"}]).tools
    assert isinstance(tool, HostedTool)
    assert json.loads(tool.payload)["search_context_size"] == "low"


def test_an_agents_request_is_written_for_a_chat_server() -> None:
    """Custom tools become functions of one text; parallel results follow their calls."""
    said = read(input=AGENT, tools=[FUNCTION, PATCH], stream=True)
    out = CHAT.write_request(said, Facts(model="t"))
    body = json.loads(out.body)
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["ls", "apply_patch"]
    calls = body["messages"][2]["tool_calls"]
    assert [one["id"] for one in calls] == ["call_1", "call_2"]
    assert json.loads(calls[1]["function"]["arguments"]) == {"input": "*** Begin"}
    assert "thinking" in out.dropped


def test_what_an_answer_repeats_of_its_request_stays_on_one_line() -> None:
    """A line's end in a client's own JSON would end an event's data."""
    body = b'{"model":"m","input":"Hi","stream":true,"metadata":{\n  "a": "b\\nc"\n}}'
    writer = CODEC.writer(Call("chat", CODEC.name, "m", body, stream=True))
    for event in Splitter().feed(writer.event(Start()) + writer.end()):
        assert event.data is not None
        assert json.loads(event.data)["response"]["metadata"] == {"a": "b\nc"}
