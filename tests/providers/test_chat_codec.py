"""Chat completions and the neutral form: what providers do that a simple reader gets wrong."""

import json
from typing import Any

import msgspec
import pytest
from translated import OPENAI, client_call, no_request

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import (
    Citation,
    Conversation,
    Image,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import RequestInvalid, Untranslatable, UpstreamBroke
from tollway.providers.events import (
    Answer,
    Choice,
    CitationAdded,
    Event,
    Failed,
    PartEnd,
    PartWhole,
    Start,
    Stopped,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
)
from tollway.providers.fold import Fold
from tollway.providers.sse import Splitter

NAME = "openai_chat"
NONE = frozenset[str]()
HELLO = (Message("user", (Text("Hi"),)),)


def said(**more: Any) -> Conversation:
    """Return a conversation of another dialect that says hello and what `more` holds."""
    return msgspec.structs.replace(Conversation("other", "asked", HELLO), **more)


def ask(quirks: frozenset[str] = NONE, facts: Facts | None = None, **more: Any) -> Any:
    """Return the body that becomes of such a conversation, and what was dropped as `dropped`."""
    written = OPENAI.write_request(said(**more), facts or Facts("m", quirks=quirks))
    return json.loads(written.body) | {"dropped": list(written.dropped)}


def read(**body: Any) -> Conversation:
    """Return what a client's body says."""
    text = json.dumps({"model": "asked", "messages": []} | body).encode()
    return OPENAI.read_request(Call("chat", NAME, "asked", text))


def deltas(
    *said: dict[str, Any], asked: Conversation | None = None, quirks: frozenset[str] = NONE
) -> list[Event]:
    """Return the events of a stream whose chunks have these deltas; "finish" is its reason."""
    reader = OPENAI.events(asked or no_request(OPENAI), quirks)
    found: list[Event] = []
    for delta in said:
        finish = delta.pop("finish", None)
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        choice |= {"stop_reason": delta.pop("stop_reason")} if "stop_reason" in delta else {}
        body = {"id": "a", "model": "m", "choices": [choice]}
        for event in Splitter().feed(b"data: " + json.dumps(body).encode() + b"\n\n"):
            found += reader.event(event)
    return found + reader.end()


def call(index: int | None, id_: str | None = None, name: str | None = None, args: str = "") -> Any:
    """Return one entry of a delta's `tool_calls`."""
    place = {} if index is None else {"index": index}
    return place | {"id": id_, "type": "function", "function": {"name": name, "arguments": args}}


def calls_of(found: list[Event]) -> list[ToolCall]:
    """Return the tool calls that events fold to; parts must not interleave."""
    folded = Fold()
    for event in found:
        folded.add(event)
    return [part for part in folded.answer().parts if isinstance(part, ToolCall)]


def test_calls_that_come_mixed_are_told_apart() -> None:
    """Fragments of two calls in turn: each gets its own arguments, the second one waits."""
    found = deltas(
        {"tool_calls": [call(0, "a", "f"), call(1, "b", "g")]},
        {"tool_calls": [call(0, args='{"x":')]},
        {"tool_calls": [call(1, args='{"y":')]},
        {"tool_calls": [call(0, args="1}")]},
        {"tool_calls": [call(1, args="2}")], "finish": "tool_calls"},
    )
    assert calls_of(found) == [ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", '{"y":2}')]
    kinds = [type(event) for event in found]
    assert kinds.index(PartEnd) < kinds.index(ToolStart, kinds.index(ToolStart) + 1)


def test_the_next_call_streams_at_once_when_the_one_before_is_whole() -> None:
    """Nothing is kept back that need not be: agents show arguments while they come."""
    found = deltas(
        {"tool_calls": [call(0, "a", "f", "{}")]},
        {"tool_calls": [call(1, "b", "g", '{"y"')]},
    )
    assert found[-2:] == [ToolDelta('{"y"'), PartEnd()]
    assert found.index(ToolStart("b", "g")) < len(found) - 2


def test_calls_all_at_index_0_are_several() -> None:
    """Some servers number every call 0; the id tells."""
    found = deltas(
        {"tool_calls": [call(0, "a", "f", "{}")]},
        {"tool_calls": [call(0, "b", "f", '{"x":1}')], "finish": "stop"},
    )
    assert calls_of(found) == [ToolCall("a", "f", "{}"), ToolCall("b", "f", '{"x":1}')]
    assert found[-1] == Stopped("tools")


def test_calls_without_index_or_id_get_one() -> None:
    """Whole in one delta: the same ids each time that the answer is read, and no two alike."""
    delta = {"tool_calls": [call(None, None, "f", "{}"), call(None, None, "f", "{}")]}
    first = calls_of(deltas(json.loads(json.dumps(delta))))
    again = calls_of(deltas(json.loads(json.dumps(delta))))
    assert first == again
    assert len({one.id for one in first}) == 2
    assert all(one.id.startswith("call_") for one in first)


def test_arguments_may_come_as_an_object() -> None:
    """Not as the text that the reference asks for."""
    found = deltas({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]})
    assert calls_of(found) == [ToolCall("a", "f", '{"x":1}')]


def test_text_behind_a_call_ends_it() -> None:
    """A part is over when another kind begins."""
    found = deltas({"tool_calls": [call(0, "a", "f", '{"x"')]}, {"content": "So"})
    assert found[-2:] == [PartEnd(), TextDelta("So")]


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_what_comes_within_a_call_waits_for_its_end(field: str) -> None:
    """Some servers put a line of text between a call's arguments: none of them is lost."""
    found = deltas(
        {"tool_calls": [call(0, "a", "f", '{"x":')]},
        {field: "So"},
        {"tool_calls": [call(0, args="1}")]},
        {"content": "!"},
        {"tool_calls": [call(1, "b", "g", "{}")], "finish": "tool_calls"},
    )
    assert calls_of(found) == [ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}")]
    said = TextDelta("So") if field == "content" else ThinkingDelta("So")
    kinds = [type(event) for event in found]
    assert kinds.index(PartEnd) < found.index(said) < found.index(TextDelta("!"))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """Which agents read as JSON, whatever the server left out."""
    found = deltas({"tool_calls": [call(0, "a", "f"), call(1, "b", "g")], "finish": "tool_calls"})
    assert calls_of(found) == [ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")]


def test_why_it_stopped_is_said_once() -> None:
    """OpenRouter repeats it with the usage; usage comes unasked or beside a choice."""
    found = deltas({"content": "a", "finish": "length"}, {"content": "", "finish": "length"})
    assert [event for event in found if isinstance(event, Stopped)] == [Stopped("length")]


@pytest.mark.parametrize(
    ("said", "stopped"),
    [("\n\nHuman:", Stopped("stop_sequence", "\n\nHuman:")), (151645, Stopped("end")),
     (None, Stopped("end"))],
)  # fmt: skip
def test_a_stop_sequence_is_told_where_the_upstream_says_it(said: object, stopped: Stopped) -> None:
    """Our own workers and vLLM do, beside `finish_reason`; a number is a token there."""
    found = deltas({"content": "a"}, {"content": "", "finish": "stop", "stop_reason": said})
    assert [event for event in found if isinstance(event, Stopped)] == [stopped]


@pytest.mark.parametrize(
    ("word", "of_text", "of_calls"),
    [
        ("eos_token", "end", "tools"),
        ("stop_sequence", "stop_sequence", "stop_sequence"),
        ("tool_use", "other", "tools"),
        ("length", "length", "length"),
    ],
)
def test_calls_end_in_tools_by_whatever_word(
    word: str, of_text: StopReason, of_calls: StopReason
) -> None:
    """Servers have their own; an agent that is told of another end does not run the tools."""
    for delta, reason in (
        ({"content": "a"}, of_text),
        ({"tool_calls": [call(0, "a", "f", "{}")]}, of_calls),
    ):
        (*_, stopped) = deltas(delta | {"finish": word})
        assert stopped == Stopped(reason)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Overloaded", "code": 529}},
        {"object": "error", "message": "Overloaded", "code": 529},
        {"choices": "none", "error": {"message": "Overloaded", "code": 529}},
    ],
)
def test_an_error_within_a_stream_is_a_failure(body: Any) -> None:
    """Whatever shape it has."""
    reader = OPENAI.events(no_request(OPENAI), NONE)
    (event,) = Splitter().feed(b"data: " + json.dumps(body).encode() + b"\n\n")
    (failed,) = reader.event(event)
    assert isinstance(failed, Failed) and failed.status == 529
    assert "Overloaded" in failed.message


def test_garbage_breaks_the_answer() -> None:
    """It is the provider's fault, and said so."""
    reader = OPENAI.events(no_request(OPENAI), NONE)
    (event,) = Splitter().feed(b"data: {not json}\n\n")
    with pytest.raises(UpstreamBroke, match="cannot be read"):
        reader.event(event)
    with pytest.raises(UpstreamBroke):
        reader.whole(b'{"object":"list"}')


def test_plain_text_tools_are_asked_for_as_json_and_turned_back() -> None:
    """Codex edits files by such a tool; most providers have none."""
    tool = Tool("apply_patch", "Edits", b'{"type":"text"}', kind="custom")
    body = ask(tools=(tool,))
    assert body["tools"][0]["function"]["parameters"]["required"] == ["input"]
    assert body["dropped"] == []
    asked = said(tools=(tool,))
    found = deltas(
        {"tool_calls": [call(0, "a", "apply_patch", '{"inp')]},
        {"tool_calls": [call(0, args='ut":"*** Begin"}')], "finish": "tool_calls"},
        asked=asked,
    )
    assert calls_of(found) == [ToolCall("a", "apply_patch", "*** Begin", "custom")]
    own = ask(KINDS["openai"].quirks, tools=(tool,))
    assert own["tools"][0] == {
        "type": "custom",
        "custom": {"name": "apply_patch", "description": "Edits", "format": {"type": "text"}},
    }


def test_names_that_the_target_does_not_bear_come_back_as_they_were() -> None:
    """The client knows its tool by the name that it gave."""
    tool = Tool("files.read", schema=b'{"type":"object","properties":{}}')
    there = ask(tools=(tool,))["tools"][0]["function"]["name"]
    assert there != "files.read" and there.replace("_", "").isalnum()
    found = deltas({"tool_calls": [call(0, "a", there, "{}")]}, asked=said(tools=(tool,)))
    assert calls_of(found)[0].name == "files.read"


def test_mistral_gets_ids_of_nine_letters() -> None:
    """The call and its result get the same one."""
    turns = (
        *HELLO,
        Message("assistant", (ToolCall("toolu_01ABC", "f", "{}"),)),
        Message("tool", (ToolResult("toolu_01ABC", (Text("ok"),)),)),
    )
    messages = ask(KINDS["mistral"].quirks, messages=turns, sampling=Sampling(seed=3))
    (id_,) = {
        messages["messages"][1]["tool_calls"][0]["id"],
        messages["messages"][2]["tool_call_id"],
    }
    assert len(id_) == 9 and id_.isalnum()
    assert messages["random_seed"] == 3


def test_what_a_tool_shows_follows_its_result() -> None:
    """A tool message holds text alone, so that pictures come next, as the user's."""
    picture = Image(Source("base64", "aGk=", "image/png"))
    results = (ToolResult("a", (Text("done"), picture)), ToolResult("b", (Text("bad"),), True))
    messages = ask(messages=(*HELLO, Message("tool", results)))["messages"]
    assert [message["role"] for message in messages] == ["user", "tool", "tool", "user"]
    assert messages[1]["content"] == "done\n[1 attached below]"
    assert messages[2]["content"] == "Error: bad"
    assert messages[3]["content"][1]["image_url"]["url"] == "data:image/png;base64,aGk="


@pytest.mark.parametrize(
    "part",
    [
        Image(Source("id", "file-1")),
        Opaque("other", b"{}", "search_result"),
    ],
)
def test_what_a_user_says_is_never_dropped(part: Any) -> None:
    """A picture that is stored elsewhere, content of another dialect: the answer would differ."""
    with pytest.raises(Untranslatable) as refusal:
        ask(messages=(Message("user", (part,)),))
    assert refusal.value.param == "messages"


def test_thoughts_go_back_to_who_takes_them() -> None:
    """As text, with their signatures, or not at all; what is dropped is named."""
    thought = Thinking("Hm.", "sig", by="anthropic_messages")
    turns = (Message("assistant", (thought, Text("So."))),)
    plain = ask(messages=turns)
    assert plain["dropped"] == ["thinking", "prefill"]
    assert plain["messages"][0] == {"role": "assistant", "content": "So."}
    texts = ask(KINDS["deepseek"].quirks, messages=turns)
    assert texts["messages"][0]["reasoning_content"] == "Hm."
    full = ask(KINDS["openrouter"].quirks, messages=turns)["messages"][0]["reasoning_details"]
    assert (full[0]["signature"], full[0]["format"]) == ("sig", "anthropic-claude-v1")


@pytest.mark.parametrize(
    ("kind", "asked", "fields"),
    [
        ("openai", Reasoning("on", budget=20_000), {"reasoning_effort": "high"}),
        ("openai", Reasoning("on", "xhigh"), {"reasoning_effort": "high"}),
        ("openai", Reasoning("adaptive"), {}),
        ("openai", Reasoning("off"), {}),
        ("groq", Reasoning("on", "minimal"), {"reasoning_effort": "low"}),
        ("openrouter", Reasoning("on", budget=2000), {"reasoning": {"max_tokens": 2000}}),
        ("openrouter", Reasoning("off"), {"reasoning": {"enabled": False}}),
        ("deepseek", Reasoning("off"), {"thinking": {"type": "disabled"}}),
        ("deepseek", Reasoning("off", "high"), {"thinking": {"type": "disabled"}}),
        ("deepseek", Reasoning("on"), {"thinking": {"type": "enabled"}}),
        *(
            ("deepseek", asked, {"thinking": {"type": "enabled"}, "reasoning_effort": word})
            for asked, word in (
                (Reasoning("on", "high"), "high"),
                (Reasoning("on", "max"), "max"),
                (Reasoning("on", "minimal"), "low"),
                (Reasoning("on", budget=60_000), "max"),
            )
        ),
        (
            "vllm",
            Reasoning("off"),
            {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
        ),
        ("local", Reasoning("on", "high"), {}),
    ],
)
def test_each_kind_is_asked_to_think_in_its_own_words(
    kind: str, asked: Reasoning, fields: dict[str, Any]
) -> None:
    """By effort, by budget, by a switch, or not at all."""
    body = ask(facts=Facts("gpt-5.2", quirks=KINDS[kind].quirks), reasoning=asked)
    names = ("reasoning_effort", "reasoning", "thinking", "chat_template_kwargs")
    assert {name: body[name] for name in names if name in body} == fields


@pytest.mark.parametrize(
    ("model", "there", "dropped"),
    [
        ("gpt-4o", ["temperature"], ["reasoning"]),
        ("gpt-5-chat-latest", ["temperature"], ["reasoning"]),
        ("gpt-5", ["reasoning_effort"], ["temperature"]),
        ("gpt-5.2", ["reasoning_effort"], ["temperature"]),
        ("o4-mini", ["reasoning_effort"], ["temperature"]),
        ("gpt-6", ["reasoning_effort"], ["temperature"]),
    ],
)
def test_openais_models_get_either_an_effort_or_a_temperature(
    model: str, there: list[str], dropped: list[str]
) -> None:
    """Those that do not reason refuse the one, those that do the other."""
    facts = Facts(model, quirks=KINDS["openai"].quirks)
    body = ask(facts=facts, reasoning=Reasoning("on", "high"), sampling=Sampling(temperature=0.2))
    assert [name for name in ("reasoning_effort", "temperature") if name in body] == there
    assert body["dropped"] == dropped


def test_a_newer_model_that_is_not_asked_to_reason_takes_a_temperature() -> None:
    """And a stop sequence; the first of them take neither, but for what is the default anyway."""
    more: Any = {"sampling": Sampling(temperature=0.2, top_p=1.0), "stop": ("x",)}
    newer = ask(facts=Facts("gpt-5.2", quirks=KINDS["openai"].quirks), **more)
    assert (newer["temperature"], newer["stop"], newer["dropped"]) == (0.2, ["x"], [])
    first = ask(facts=Facts("gpt-5-mini", quirks=KINDS["openai"].quirks), **more)
    assert not {"temperature", "top_p", "stop"} & first.keys()
    assert first["dropped"] == ["temperature", "stop"]


def test_what_the_gate_knows_of_a_model_wins() -> None:
    """A name may say too little."""
    quirks = KINDS["openai"].quirks
    asked = Reasoning("on", "high")
    assert "reasoning_effort" in ask(
        facts=Facts("mine", quirks=quirks, thinks=True), reasoning=asked
    )
    never = ask(facts=Facts("mine", thinks=False), reasoning=asked)
    assert "reasoning_effort" not in never and never["dropped"] == ["reasoning"]


def test_the_holds_limit_wins_and_stands_where_the_target_reads_it() -> None:
    """A limit in a field that the provider ignores is none."""
    new = ask(facts=Facts("m", 50, quirks=KINDS["openai"].quirks), output_limit=90)
    old = ask(facts=Facts("m", 50, quirks=KINDS["ollama"].quirks), output_limit=90)
    assert new["max_completion_tokens"] == 50 and "max_tokens" not in new
    assert old["max_tokens"] == 50 and "max_completion_tokens" not in old


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"text": 1}]}]}, "messages[0].content[0].text"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"temperature": "warm"}, "temperature"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(body: dict[str, Any], param: str) -> None:
    """With its place, so that a person finds it."""
    with pytest.raises(RequestInvalid) as refusal:
        read(**body)
    assert refusal.value.param == param


def test_what_is_not_known_is_kept_by_its_name() -> None:
    """Fields as extras, parts as they came; whoever writes them says what is lost."""
    part = {"type": "hologram", "x": 1}
    found = read(verbosity="low", messages=[{"role": "user", "content": [part]}], seed=None)
    assert found.extras == (("verbosity", b'"low"'),)
    (message,) = found.messages
    assert message.parts == (Opaque(NAME, json.dumps(part).encode(), "hologram"),)


def test_a_citation_stands_where_its_text_does() -> None:
    """Anthropic's are about a part; OpenAI's are characters of the whole content."""
    writer = OPENAI.writer(client_call(OPENAI))
    cited = Citation("https://x.example", "X")
    events: list[Event] = [
        Start("a"),
        TextDelta("One. "),
        PartEnd(),
        TextDelta("Two."),
        CitationAdded(cited),
    ]
    out = b"".join(map(writer.event, events))
    chunks = [json.loads(event.data or b"") for event in Splitter().feed(out)]
    place = chunks[-1]["choices"][0]["delta"]["annotations"][0]["url_citation"]
    assert (place["start_index"], place["end_index"], place["url"]) == (5, 9, "https://x.example")
    writer.event(CitationAdded(Citation(title="A book")))
    assert writer.dropped == {"citations"}


def test_what_the_client_cannot_be_told_is_named() -> None:
    """A hosted tool's work is history of the provider's; its text goes on."""
    writer = OPENAI.writer(client_call(OPENAI))
    work = PartWhole(Opaque("anthropic_messages", b"{}", "server_tool_use"))
    assert writer.event(Start("a")) and not writer.event(work)
    assert writer.dropped == {"server_tool_use"}


def test_a_client_that_did_not_ask_for_usage_gets_none() -> None:
    """As from OpenAI itself."""
    asked = Call("chat", NAME, "m", b"{}", stream=True, wants_usage=False)
    writer = OPENAI.writer(asked)
    out = writer.event(Start("a")) + writer.event(Stopped("end")) + writer.end()
    assert b"usage" not in out


def test_signatures_survive_in_reasoning_details() -> None:
    """A client that sends them back as it got them gives the provider its own again."""
    writer = OPENAI.writer(client_call(OPENAI))
    parts = (
        Thinking("Hm.", "sig", by="anthropic_messages"),
        Thinking(encrypted="enc", by="anthropic_messages"),
        Text("So."),
        Refusal(""),
    )
    whole = json.loads(writer.whole(Answer((Choice(parts, "end"),), id="a")))
    message = whole["choices"][0]["message"]
    (again,) = read(messages=[message]).messages
    assert again.parts == parts[:3]
