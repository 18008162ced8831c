"""Calls and their results, in the order that each dialect demands; proofs between turns."""

import json

import pytest
from translated import ANTHROPIC, ASKS, BEDROCK, GEMINI, OPENAI, RESPONSES

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import (
    Conversation,
    Image,
    Message,
    Opaque,
    Reasoning,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from tollway.providers.dialects.dialect import Asks, Codec, Facts

ALL = Facts("claude-sonnet-4-5")


@pytest.mark.parametrize("codec", [OPENAI, ANTHROPIC, GEMINI], ids=lambda one: one.name)
def test_results_stand_right_behind_their_calls(codec: Codec) -> None:
    """In Responses a user may speak between a call and its result; elsewhere that is refused."""
    between = Message("user", (Text("Wait"),))
    turns = (
        Message("user", (Text("Hi"),)),
        Message("assistant", (ToolCall("a", "ls", "{}"), ToolCall("b", "ls", "{}"))),
        between,
        Message("tool", (ToolResult("a", (Text("one"),)),)),
        Message("tool", (ToolResult("b", (Text("two"),)),)),
    )
    said = Conversation("openai_responses", "m", turns)
    again = codec.read_request(Call("chat", codec.name, "m", codec.write_request(said, ALL).body))
    assert [message.role for message in again.messages][-1] == "user"
    results = [p for m in again.messages if m.role == "tool" for p in m.parts]
    assert [part.id for part in results if isinstance(part, ToolResult)] == ["a", "b"]
    assert again.messages[-1].parts == between.parts


@pytest.mark.parametrize("arguments", ["", "null", " null "])
def test_a_call_without_arguments_has_an_object_of_none(arguments: str) -> None:
    """Some models write null; Anthropic and Google were given a text that says so."""
    called = Message("assistant", (ToolCall("a", "ls", arguments),))
    turns = (Message("user", (Text("Hi"),)), called, Message("tool", (ToolResult("a", ()),)))
    said = Conversation("openai_chat", "m", turns)
    for codec, field in ((ANTHROPIC, b'"input":{}'), (GEMINI, b'"args":{}')):
        assert field in codec.write_request(said, ALL).body
    block = {"type": "tool_use", "id": "a", "name": "ls", "input": None}
    body = {"model": "m", "messages": [{"role": "assistant", "content": [block]}]}
    read = ANTHROPIC.read_request(Call("chat", ANTHROPIC.name, "m", json.dumps(body).encode()))
    assert read.messages[0].parts == (ToolCall("a", "ls", "{}"),)


@pytest.mark.parametrize("known", [False, True], ids=["without proof", "with proof"])
def test_anthropic_is_not_asked_to_think_on_without_its_own_thoughts(known: bool) -> None:
    """It refuses to, in the middle of calls whose client gave no thoughts back."""
    proof = (Thinking("Hm", "sig", by="anthropic_messages"),) if known else ()
    said = Conversation(
        "openai_chat",
        "m",
        (
            Message("user", (Text("Hi"),)),
            Message("assistant", (*proof, ToolCall("a", "ls", "{}"))),
            Message("tool", (ToolResult("a", (Text("one"),)),)),
        ),
        reasoning=Reasoning("on", "high"),
        output_limit=9000,
    )
    written = ANTHROPIC.write_request(said, ALL)
    assert (b'"thinking":{"type":"enabled"' in written.body) is known
    assert written.dropped == (() if known else ("reasoning",))


@pytest.mark.parametrize(
    ("codec", "turns"), [(ANTHROPIC, "messages"), (BEDROCK, "messages"), (GEMINI, "contents")]
)
def test_instructions_alone_are_asked_as_a_user_does(codec: Asks, turns: str) -> None:
    """OpenAI answers to them; these refuse a request without a turn."""
    said = Conversation("openai_chat", "m", (Message("system", (Text("Say hi"),)),))
    written = json.loads(codec.write_request(said, ALL).body)
    assert len(written[turns]) == 1
    assert written[turns][0]["role"] == "user"
    assert not written.keys() & {"system", "systemInstruction"}


@pytest.mark.parametrize("codec", ASKS.values(), ids=list(ASKS))
def test_what_a_provider_searched_is_history_to_another(codec: Asks) -> None:
    """A conversation that began at one goes on at the next: its own work is left out by name."""
    found = Opaque("openai_responses", b'{"type":"web_search_call","id":"w"}', "web_search_call")
    turns = (
        Message("user", (Text("Hi"),)),
        Message("assistant", (found, Text("So"))),
        Message("user", (Text("And?"),)),
    )
    written = codec.write_request(Conversation("openai_responses", "m", turns), ALL)
    own = codec.name == "openai_responses"
    assert ("web_search_call" in written.dropped) is not own
    assert (b"web_search_call" in written.body) is own


@pytest.mark.parametrize("codec", [OPENAI, RESPONSES, ANTHROPIC, BEDROCK], ids=lambda one: one.name)
@pytest.mark.parametrize("schema", [b"{}", b'{"description":"none"}'])
def test_a_schema_without_a_type_is_an_object_s(codec: Asks, schema: bytes) -> None:
    """Open servers take any; these refuse a tool whose schema does not say so."""
    said = Conversation(
        "", "m", (Message("user", (Text("Hi"),)),), tools=(Tool("ls", schema=schema),)
    )
    written = codec.write_request(said, ALL).body
    assert b'"type":"object","properties":{}' in written


@pytest.mark.parametrize("kind", ["openrouter", "vllm"])
def test_a_turn_of_thoughts_alone_is_none_in_a_chat(kind: str) -> None:
    """Behind OpenRouter Claude refuses it, as at Anthropic; with a word it is a turn."""
    thought = Thinking("Hm", "sig", by="anthropic_messages")
    hi = Message("user", (Text("Hi"),))
    facts = Facts("m", quirks=KINDS[kind].quirks)

    def turns(*parts: Text) -> list[str]:
        said = Conversation("", "m", (hi, Message("assistant", (thought, *parts)), hi))
        written = OPENAI.write_request(said, facts)
        if not parts:
            assert written.dropped == ("thinking",)
        return [one["role"] for one in json.loads(written.body)["messages"]]

    assert turns() == ["user"]
    assert turns(Text("So")) == ["user", "assistant", "user"]


def test_what_is_attached_names_a_result_by_its_id_there() -> None:
    """Mistral's ids are others, and the model reads them."""
    picture = Image(Source("base64", "aGk=", "image/png"))
    turns = (
        Message("user", (Text("Hi"),)),
        Message("assistant", (ToolCall("toolu_1", "ls", "{}"),)),
        Message("tool", (ToolResult("toolu_1", (picture,)),)),
    )
    facts = Facts("m", quirks=KINDS["mistral"].quirks)
    written = OPENAI.write_request(Conversation("", "m", turns), facts)
    *_, result, _, shown = json.loads(written.body)["messages"]
    about = f"Attached to the result of {result['tool_call_id']}:"
    assert shown["content"][0]["text"] == about
