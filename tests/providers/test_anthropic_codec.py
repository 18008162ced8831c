"""Messages to and from the neutral form: blocks, thinking, tools, and what others carry in them."""

import json
from typing import Any

import msgspec
import pytest
from translated import ANTHROPIC, OPENAI, client_call, events, fold_of, no_request

from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import (
    Audio,
    Citation,
    Conversation,
    File,
    Format,
    HostedTool,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollway.providers.dialects.anthropic_messages import counted, token_count
from tollway.providers.dialects.anthropic_models import takes_sampling, thinks
from tollway.providers.dialects.anthropic_usage import counts, disjoint
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import RequestInvalid, Untranslatable, UpstreamBroke
from tollway.providers.events import (
    Answer,
    Choice,
    CitationAdded,
    Event,
    Logprob,
    LogprobsDelta,
    PartWhole,
    RefusalDelta,
    Signed,
    Start,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageReport,
)
from tollway.providers.sse import Splitter

NAME = "anthropic_messages"
HELLO = (Message("user", (Text("Hi"),)),)
LOST = {"type": "image", "source": {"type": "x"}}
OBJECT = b'{"type":"object","properties":{}}'


def said(**more: Any) -> Conversation:
    """Return a conversation of another dialect that says hello and what `more` holds."""
    return msgspec.structs.replace(Conversation("other", "asked", HELLO), **more)


def ask(model: str = "claude-sonnet-4-5", limit: int | None = None, **more: Any) -> Any:
    """Return the body that becomes of such a conversation, and what was dropped as `dropped`."""
    written = ANTHROPIC.write_request(said(**more), Facts(model, limit))
    return json.loads(written.body) | {"dropped": list(written.dropped)}


def read(**body: Any) -> Conversation:
    """Return what a client's body says."""
    text = json.dumps({"model": "asked", "messages": []} | body).encode()
    return ANTHROPIC.read_request(Call("chat", NAME, "asked", text))


def stream(*found: Event) -> list[dict[str, Any]]:
    """Return the data of the events that are written for others."""
    writer = ANTHROPIC.writer(client_call(ANTHROPIC))
    out = b"".join(map(writer.event, found)) + writer.end()
    return [json.loads(event.data or b"") for event in Splitter().feed(out)]


def whole(*parts: Part) -> Any:
    """Return the message that is written for an answer."""
    writer = ANTHROPIC.writer(client_call(ANTHROPIC))
    return json.loads(writer.whole(Answer((Choice(parts, "end"),), id="a")))


def test_a_turn_of_results_and_words_is_two_messages() -> None:
    """And one turn again when it is written: results first, in the turn behind their calls."""
    content = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "ok"},
        {"type": "tool_result", "tool_use_id": "t2", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    messages = read(messages=[{"role": "user", "content": content}]).messages
    assert messages == (
        Message("tool", (ToolResult("t1", (Text("ok"),)), ToolResult("t2", (), True))),
        Message("user", (Text("And now?"),)),
    )
    assert ask(messages=messages)["messages"] == [{"role": "user", "content": content}]


def test_instructions_in_between_stay_where_they_stood() -> None:
    """In the system prompt they would change it, and all that is cached behind it."""
    turns = (
        Message("system", (Text("A"),)),
        Message("developer", (Text("B"),)),
        *HELLO,
        Message("assistant", (Text("Yes?"),)),
        Message("system", (Text("C"),)),
        *HELLO,
    )
    body = ask(messages=turns)
    assert [block["text"] for block in body["system"]] == ["A", "B"]
    last = body["messages"][-1]["content"]
    assert last[0]["text"] == "<system-reminder>\nC\n</system-reminder>"
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]


def test_a_conversation_begins_with_a_user() -> None:
    """Anthropic refuses another beginning, and texts that are empty."""
    body = ask(messages=(Message("assistant", (Text("Hi."), Text(""))), *HELLO))
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == "Hi."


@pytest.mark.parametrize(
    "schema",
    [b'{"type":"object","required":[{}]}', b'{"required":7}', b"7", b'{"a":[{"type":"object"}]}'],
)
def test_a_schema_is_the_targets_to_judge(schema: bytes) -> None:
    """However odd, it passes as it came; only what is strict by OpenAI's rules is called so."""
    body = b'{"messages":[],"output_config":{"format":{"type":"json_schema","schema":%b}}}' % schema
    asked = ANTHROPIC.read_request(Call("chat", NAME, "m", body))
    written = json.loads(OPENAI.write_request(asked, Facts("m")).body)["response_format"]
    assert written["json_schema"]["schema"] == json.loads(schema)
    assert ("strict" in written["json_schema"]) == (schema in (b"7", b'{"required":7}'))


def test_what_no_other_parser_may_read_is_refused() -> None:
    """Numbers past any type, within what is passed on as it came."""
    schema = b'{"type":"object","properties":{"a":1e400}}'
    body = b'{"messages":[],"tools":[{"name":"f","input_schema":%b}]}' % schema
    with pytest.raises(RequestInvalid):
        ANTHROPIC.read_request(Call("chat", NAME, "m", body))


def test_requests_that_anthropic_would_refuse_are_mended() -> None:
    """Instructions alone, an answer to go on with that ends in a space, a name for JPEG."""
    alone = ask(messages=(Message("system", (Text("Say hi."),)),))
    assert alone["messages"] == [{"role": "user", "content": "Say hi."}] and "system" not in alone
    begun = ask(messages=(*HELLO, Message("assistant", (Text("So \n"),))))
    assert begun["messages"][-1]["content"] == "So"
    picture = ask(messages=(Message("user", (Image(Source("base64", "x", "image/jpg")),)),))
    assert picture["messages"][0]["content"][0]["source"]["media_type"] == "image/jpeg"


def test_what_a_client_found_by_itself_is_said_in_words_elsewhere() -> None:
    """Search results of its own, and tools that it looked up."""
    found = {
        **{"type": "search_result", "source": "https://x.example", "title": "X"},
        "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
    }
    tool = {"type": "tool_reference", "tool_name": "get_weather"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [tool]}
    asked = read(messages=[{"role": "user", "content": [result, found]}])
    written = json.loads(OPENAI.write_request(asked, Facts("m")).body)["messages"]
    assert written[0]["content"] == "The tool `get_weather` is available"
    assert written[1]["content"][0]["text"] == "X https://x.example\n\nOne.\nTwo."


def test_thinking_goes_back_as_it_came_and_nobody_elses() -> None:
    """Signed and redacted blocks in their order before the calls; others it would refuse."""
    turn = [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "enc"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, {"b": None}]}},
    ]
    messages = read(messages=[{"role": "assistant", "content": turn}]).messages
    assert ask(messages=(*HELLO, *messages))["messages"][1]["content"] == turn
    foreign = ask(messages=(*HELLO, Message("assistant", (Thinking("Hm."), Text("So.")))))
    assert foreign["messages"][1]["content"] == "So."
    assert foreign["dropped"] == ["thinking"]


@pytest.mark.parametrize(
    "part",
    [
        Thinking("Hm.", "sig", by="gemini"),
        Thinking(encrypted="enc", by="openai_responses", id="rs_1"),
        Thinking("In short.", encrypted="enc", by="openai_responses", id="rs_1", summary=True),
    ],
)
def test_what_others_sign_is_carried_through_a_client_of_this_dialect(part: Thinking) -> None:
    """Such a client gives thinking back untouched, and with it what its provider must have."""
    (again,) = read(messages=[{"role": "assistant", "content": whole(part)["content"]}]).messages
    assert again.parts == (part,)


def test_a_signed_call_is_carried_too() -> None:
    """Gemini refuses a turn whose calls lost their signature; a call has no place for it here."""
    call = ToolCall("t1", "f", "{}", signature="sig", by="gemini")
    (again,) = read(messages=[{"role": "assistant", "content": whole(call)["content"]}]).messages
    assert again.parts == (call,)
    written = stream(
        Start("a"),
        ToolStart("t1", "f", signature="sig", by="gemini"),
        ToolDelta("{}"),
        Stopped("tools"),
    )
    blocks = [one["content_block"] for one in written if one["type"] == "content_block_start"]
    assert [block["type"] for block in blocks] == ["redacted_thinking", "tool_use"]


def test_ids_and_names_fit_the_pattern_and_stay_apart() -> None:
    """Kimi's ids hold a dot and a colon; two that differ stay two, and results find their calls."""
    turns = (
        *HELLO,
        Message("assistant", (ToolCall("f.a:0", "f.a", "{}"), ToolCall("f.a.0", "f.a", "{}"))),
        Message("tool", (ToolResult("f.a:0", ()), ToolResult("f.a.0", ()))),
    )
    body = ask(messages=turns, tools=(Tool("f.a", schema=OBJECT),))
    calls, results = (turn["content"] for turn in body["messages"][1:])
    ids = [call["id"] for call in calls]
    assert ids == [result["tool_use_id"] for result in results] and len(set(ids)) == 2
    assert all(id_.replace("_", "").isalnum() for id_ in ids)
    name = calls[0]["name"]
    assert name == body["tools"][0]["name"] != "f.a"
    raw = {"type": "tool_use", "id": "t", "name": name, "input": {}}
    reader = ANTHROPIC.events(said(tools=(Tool("f.a", schema=OBJECT),)), frozenset())
    answer = reader.whole(json.dumps({"type": "message", "content": [raw]}).encode())
    assert answer.parts == (ToolCall("t", "f.a", "{}"),)


def test_arguments_that_are_no_object_are_shown_to_the_model_as_they_are() -> None:
    """Models err, and streams are cut; a request with them must still be one."""
    for text, there in (
        ("", {}),
        ('{"a":1}', {"a": 1}),
        ('{"a"', {"input": '{"a"'}),
        ("[1]", {"input": "[1]"}),
    ):
        body = ask(messages=(*HELLO, Message("assistant", (ToolCall("t", "f", text),))))
        assert body["messages"][1]["content"][0]["input"] == there


def test_plain_text_tools_are_asked_for_as_json_and_turned_back() -> None:
    """Streamed or whole, the client gets the text that it asked for."""
    tool = Tool("apply_patch", "", b'{"type":"grammar","grammar":{}}', kind="custom")
    body = ask(tools=(tool,))
    assert body["tools"][0]["input_schema"]["required"] == ["input"]
    assert body["dropped"] == ["tools.format"]
    asked = said(tools=(tool,))
    block = {"type": "tool_use", "id": "t", "name": "apply_patch", "input": {}}
    pieces = ('{"input":"*** ', 'Begin"}')
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    wire = b"".join(
        b"data: " + json.dumps(one).encode() + b"\n\n"
        for one in (
            {"type": "content_block_start", "index": 0, "content_block": block},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
        )
    )
    found = events(ANTHROPIC, asked, frozenset(), wire)
    assert fold_of(found).parts == (ToolCall("t", "apply_patch", "*** Begin", "custom"),)


@pytest.mark.parametrize(
    ("model", "asked", "limit", "thinking", "effort", "dropped"),
    [
        ("claude-sonnet-4-5", Reasoning("on", "high"), 64_000, 24_576, None, []),
        ("claude-sonnet-4-5", Reasoning("on", "high"), 10_000, 8_000, None, []),
        ("claude-sonnet-4-5", Reasoning("on", "low"), 1_100, 1_024, None, []),
        ("claude-sonnet-4-5", Reasoning("on", "low"), 1_024, None, None, ["reasoning"]),
        ("claude-sonnet-4-5", Reasoning("on", budget=5000), 9000, 5000, None, []),
        ("claude-sonnet-4-5", Reasoning("off"), 9000, None, None, []),
        ("claude-opus-5", Reasoning("on", "xhigh"), 9000, "adaptive", "xhigh", []),
        ("claude-opus-5", Reasoning("on", "minimal"), 9000, "adaptive", "low", []),
        ("claude-opus-5", Reasoning("on", budget=30_000), 64_000, "adaptive", "xhigh", []),
        ("claude-opus-5", Reasoning("off"), 9000, "disabled", None, []),
        ("claude-3-5-haiku-latest", Reasoning("on", "high"), 9000, None, None, ["reasoning"]),
    ],
)
def test_each_model_is_asked_to_think_in_the_way_it_knows(
    model: str, asked: Reasoning, limit: int, thinking: Any, effort: Any, dropped: list[str]
) -> None:
    """By a budget within the limit, by effort, or not at all."""
    body = ask(model, limit, reasoning=asked)
    said_ = body.get("thinking", {})
    assert said_.get("budget_tokens", said_.get("type")) == thinking
    assert body.get("output_config", {}).get("effort") == effort
    assert body["dropped"] == dropped


@pytest.mark.parametrize(
    ("model", "way", "samples"),
    [
        ("claude-3-5-sonnet-20241022", "never", True),
        ("claude-3-7-sonnet-latest", "budget", True),
        ("claude-sonnet-4-20250514", "budget", True),
        ("claude-opus-4-1-20250805", "budget", True),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", "budget", True),
        ("claude-opus-4-6", "adaptive", True),
        ("claude-opus-4-7", "adaptive", False),
        ("claude-opus-4-10", "adaptive", False),
        ("claude-sonnet-5", "adaptive", False),
        ("claude-fable-5", "adaptive", False),
        ("kimi-k2", "budget", True),
    ],
)
def test_what_a_model_takes_is_known_by_its_name(model: str, way: str, samples: bool) -> None:
    """Names that are newer than the table do as the newest in it."""
    assert (thinks(model), takes_sampling(model)) == (way, samples)


@pytest.mark.parametrize(
    ("model", "asked", "there", "dropped"),
    [
        ("claude-sonnet-4-5", Sampling(0.5, 0.9, 40), {"temperature": 0.5, "top_k": 40}, ["top_p"]),
        ("claude-sonnet-4-5", Sampling(1.0, 0.9), {"top_p": 0.9}, []),
        ("claude-sonnet-4-5", Sampling(1.0, 1.0), {"temperature": 1.0}, []),
        ("claude-sonnet-4-5", Sampling(1.5, 0.9), {"top_p": 0.9}, ["temperature above 1"]),
        ("claude-sonnet-4-5", Sampling(1.5), {"temperature": 1.0}, ["temperature above 1"]),
        ("claude-opus-5", Sampling(0.5, 0.9, 40), {}, ["temperature", "top_p", "top_k"]),
        ("claude-opus-5", Sampling(1.0, 1.0), {}, []),
    ],
)
def test_sampling_is_what_the_model_takes(
    model: str, asked: Sampling, there: dict[str, Any], dropped: list[str]
) -> None:
    """Both temperature and top_p it refuses, so that one goes; newer models take neither."""
    body = ask(model, sampling=asked)
    names = ("temperature", "top_p", "top_k")
    assert {name: body[name] for name in names if name in body} == there
    assert body["dropped"] == dropped


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ("text", "audio")}, "modalities"),
        ({"format": Format("json_schema")}, "response_format"),
        ({"tools": (HostedTool("openai_chat", "web_search_options", b"{}"),)}, "tools"),
        (
            {"messages": (Message("user", (Audio(Source("base64", "x", "audio/wav")),)),)},
            "messages",
        ),
        ({"messages": (Message("user", (Image(Source("id", "f")),)),)}, "messages"),
        (
            {"messages": (Message("user", (Image(Source("base64", "x", "image/bmp")),)),)},
            "messages",
        ),
        ({"messages": (Message("user", (File(Source("base64", "x", "text/csv")),)),)}, "messages"),
        ({"messages": (Message("user", (Opaque("gemini", b"{}", "x"),)),)}, "messages"),
    ],
)
def test_what_would_change_the_answers_meaning_is_refused(more: dict[str, Any], param: str) -> None:
    """By the field's name, before anything is sent."""
    with pytest.raises(Untranslatable) as refusal:
        ask(**more)
    assert (refusal.value.param, refusal.value.status) == (param, 400)


def test_the_limit_is_always_written() -> None:
    """The hold's, the client's, or the default: Anthropic demands one."""
    assert ask(limit=5, output_limit=9)["max_tokens"] == 5
    assert ask(output_limit=9)["max_tokens"] == 9
    assert ask()["max_tokens"] == 16_384


def test_a_forced_tool_and_a_budget_do_not_go_together() -> None:
    """Anthropic refuses both at once; the tool is what the client needs."""
    tool = Tool("f", schema=OBJECT)
    body = ask(tools=(tool,), tool_choice=ToolChoice("any"), reasoning=Reasoning("on", "low"))
    assert "thinking" not in body and body["tool_choice"] == {"type": "any"}
    assert body["dropped"] == ["reasoning"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [LOST]}]},
            "messages[0].content[0].source",
        ),
        ({"tool_choice": {"type": "sometimes"}}, "tool_choice"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_named(body: dict[str, Any], param: str) -> None:
    """With its place, so that a person finds it."""
    with pytest.raises(RequestInvalid) as refusal:
        read(**body)
    assert refusal.value.param == param


def test_the_usage_known_at_the_start_stands_in_its_head() -> None:
    """And all of it at the end: clients show what a prompt took before the answer is whole."""
    early, late = Usage(input=7, cache_read=5), Usage(input=7, cache_read=5, output=3)
    written = stream(
        Start("a", "m"), UsageReport(early), TextDelta("Hi"), UsageReport(late), Stopped("length")
    )
    head, end = written[0]["message"], written[-2]
    assert (head["usage"]["input_tokens"], head["usage"]["cache_read_input_tokens"]) == (7, 5)
    assert end["usage"]["output_tokens"] == 3
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert written[-1] == {"type": "message_stop"}


def test_an_answer_of_nothing_is_still_a_message() -> None:
    """A provider may stop before it says anything."""
    assert [one["type"] for one in stream()] == ["message_start", "message_delta", "message_stop"]
    assert stream(Start("a"), Stopped("end"))[0]["type"] == "message_start"


def test_a_refusal_is_said_in_words_and_in_the_reason() -> None:
    """OpenAI has a field for it, Anthropic a reason."""
    written = stream(Start("a"), RefusalDelta("No."), Stopped("end"))
    assert written[2]["delta"] == {"type": "text_delta", "text": "No."}
    assert written[-2]["delta"]["stop_reason"] == "refusal"


def test_what_the_client_cannot_be_told_is_named() -> None:
    """Second choices, likelihoods, citations of no URL, another's hosted tools."""
    writer = ANTHROPIC.writer(client_call(ANTHROPIC))
    for event in (
        TextDelta("b", choice=1),
        LogprobsDelta((Logprob("a", -0.1),)),
        CitationAdded(Citation(title="A book")),
        PartWhole(Opaque("openai_chat", b"{}", "audio")),
        TextDelta("a"),
        Signed("gemini", "sig"),
    ):
        writer.event(event)
    assert writer.dropped == {"n", "logprobs", "citations", "audio", "signature"}


def test_a_whole_block_within_thoughts_ends_them() -> None:
    """Blocks never nest."""
    enc = PartWhole(Thinking(encrypted="e", by=NAME))
    kinds = [one["type"] for one in stream(Start("a"), ThinkingDelta("Hm"), enc, TextDelta("So"))]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3


def test_compactions_are_billed_beside_the_totals() -> None:
    """The totals are of the messages alone; a summary was written, and paid for."""
    report = {
        "input_tokens": 10,
        "output_tokens": 5,
        "iterations": [
            {"type": "compaction", "input_tokens": 100, "output_tokens": 50},
            {"type": "message", "input_tokens": 10, "output_tokens": 5},
        ],
    }
    assert disjoint(counts(report)) == Usage(input=110, output=55)
    assert disjoint(counts({"input_tokens": 3})) is None
    assert counts("none") == {}


def test_garbage_breaks_the_answer() -> None:
    """It is the provider's fault, and said so."""
    for data in (b"data: {not json}\n\n", b'data: {"type":1}\n\n'):
        with pytest.raises(UpstreamBroke, match="cannot be read"):
            events(ANTHROPIC, no_request(ANTHROPIC), frozenset(), data)
    with pytest.raises(UpstreamBroke):
        ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(b'{"type":"error","error":{}}')


def test_an_agents_billing_header_is_no_part_of_the_prompt() -> None:
    """It changes from call to call, and would spoil a local model's prompt cache each time."""
    system = [{"type": "text", "text": f"x-anthropic-billing-header: v={n}"} for n in (1, 2)]
    system.append({"type": "text", "text": "You are an agent."})
    found = read(system=system)
    assert found.messages == (Message("system", (Text("You are an agent."),)),)
    written = OPENAI.write_request(found, Facts("m"))
    assert written.dropped == ("x-anthropic-billing-header",)


def test_a_request_to_count_holds_the_prompt_alone() -> None:
    """The endpoint refuses a limit, sampling, and a wish for a stream."""
    more: dict[str, Any] = {"output_limit": 9, "sampling": Sampling(0.5), "stop": ("x",)}
    asked = said(tools=(Tool("f", schema=OBJECT),), stream=True, user="ann", **more)
    written = ANTHROPIC.write_request(asked, Facts("claude-sonnet-4-5", counts=True))
    assert json.loads(written.body).keys() == {"model", "messages", "tools"}
    assert counted(token_count(671)) == 671
    assert counted(b'{"input_tokens":"many"}') is None
