"""Bedrock's Converse where no recording reaches: thoughts, cache points, documents, bounds."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from translated import BEDROCK, fold_of
from wire.recordings import Recording, recordings

from tollway.providers.canon import Usage
from tollway.providers.conversation import (
    Conversation,
    File,
    Format,
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
from tollway.providers.dialects import bedrock
from tollway.providers.dialects.bedrock_errors import exception
from tollway.providers.dialects.bedrock_options import claude
from tollway.providers.dialects.bedrock_read import Reader, usage_of
from tollway.providers.dialects.dialect import Facts, InUrl
from tollway.providers.errors import Untranslatable
from tollway.providers.events import Event as Meant
from tollway.providers.events import Stopped
from tollway.providers.eventstream import EXCEPTION, Splitter
from tollway.providers.sse import Event

SONNET = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"
HI = Message("user", (Text("Hi"),))


def said(*messages: Message, **more: Any) -> Conversation:
    """Return a conversation."""
    return Conversation("", "asked", messages or (HI,), **more)


def body(asked: Conversation, model: str = SONNET, limit: int | None = None) -> dict[str, Any]:
    """Return a request's body."""
    written = BEDROCK.write_request(asked, Facts(model, output_limit=limit))
    return dict(msgspec.json.decode(written.body))


def dropped(asked: Conversation, model: str) -> tuple[str, ...]:
    """Return what a request loses."""
    return BEDROCK.write_request(asked, Facts(model)).dropped


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (SONNET, "claude-sonnet-4-5-20250929"),
        ("anthropic.claude-3-5-haiku-20241022-v1:0", "claude-3-5-haiku-20241022"),
        ("global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        ("arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-opus-4-8",
         "claude-opus-4-8"),
        (NOVA, ""),
    ],
)  # fmt: skip
def test_claude_is_known_by_whatever_name_bedrock_has_for_it(model: str, name: str) -> None:
    """Its rules (thoughts, sampling) are those of the name that Anthropic gives it."""
    assert claude(model) == name


def test_claude_s_thoughts_go_back_with_their_signatures() -> None:
    """They hold wherever Claude runs; what Bedrock redacted goes back to it alone."""
    thoughts = (
        Thinking("Hm.", "sig", by="anthropic_messages"),
        Thinking(encrypted="cmVk", by="bedrock"),
        Text("So."),
    )
    asked = said(HI, Message("assistant", thoughts), HI)
    assert body(asked)["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "cmVk"}},
        {"text": "So."},
    ]
    assert dropped(asked, NOVA) == ("thinking",)


def test_thoughts_are_read_with_their_signatures() -> None:
    """Streamed in pieces, or whole; redacted ones too."""
    reader = BEDROCK.events(said(), frozenset())
    meter = Reader()
    found: list[Meant] = []
    for name, data in (
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"delta": {"reasoningContent": {"text": "Hm"}}}),
        ("contentBlockDelta", {"delta": {"reasoningContent": {"text": "."}}}),
        ("contentBlockDelta", {"delta": {"reasoningContent": {"signature": "sig"}}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("contentBlockDelta", {"delta": {"reasoningContent": {"redactedContent": "cmVk"}}}),
        ("contentBlockStop", {"contentBlockIndex": 1}),
        ("contentBlockDelta", {"delta": {"text": "So."}}),
        ("contentBlockStop", {"contentBlockIndex": 2}),
        ("messageStop", {"stopReason": "end_turn"}),
    ):
        event = Event(b"", msgspec.json.encode(data), name.encode())
        found += reader.event(event)
        assert meter.event(event)
    answer = fold_of(found)
    assert answer.parts == (
        Thinking("Hm.", "sig", by="anthropic_messages"),
        Thinking(encrypted="cmVk", by="bedrock"),
        Text("So."),
    )
    assert meter.produced == len("Hm." + "sig" + "cmVk" + "So.")
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "cmVk"}},
        {"text": "So."},
    ]
    whole = {"output": {"message": {"content": content}}, "stopReason": "end_turn"}
    again = BEDROCK.events(said(), frozenset()).whole(msgspec.json.encode(whole))
    assert again.parts == answer.parts


def test_thinking_is_asked_for_in_the_words_of_a_model_s_maker() -> None:
    """A budget within the limit for Claude, an effort for Nova and gpt-oss."""
    hard = said(reasoning=Reasoning("on", "high"), output_limit=4000)
    assert body(hard)["additionalModelRequestFields"] == {
        "thinking": {"type": "enabled", "budget_tokens": 3200}
    }
    more = body(hard, NOVA)["additionalModelRequestFields"]
    assert more == {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}
    more = body(hard, "openai.gpt-oss-120b-1:0")["additionalModelRequestFields"]
    assert more == {"reasoning_effort": "high"}
    assert dropped(hard, "meta.llama3-1-8b-instruct-v1:0") == ("reasoning",)


@pytest.mark.parametrize("model", ["openai.gpt-oss-20b-1:0", "us.deepseek.r1-v1:0"])
def test_that_a_model_cannot_be_told_not_to_think_is_named(model: str) -> None:
    """It thinks, and bills for that; of the others nothing is lost."""
    still = said(reasoning=Reasoning("off"))
    assert dropped(still, model) == ("reasoning.off",)
    for other in (SONNET, NOVA, "meta.llama3-1-8b-instruct-v1:0"):
        assert dropped(still, other) == ()


def test_cache_points_stand_behind_what_is_to_be_cached() -> None:
    """In the system prompt, in turns, behind tools; else they are named."""
    asked = said(
        Message("system", (Text("Be brief.", cache="1h"),)),
        Message("user", (Text("Hi", cache="5m"),)),
        tools=(Tool("ls", cache="5m"),),
    )
    written = body(asked)
    assert written["system"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert written["messages"][0]["content"][1] == {"cachePoint": {"type": "default"}}
    assert written["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default"}}
    assert dropped(asked, "meta.llama3-1-8b-instruct-v1:0") == ("cache_control",)


def test_a_mark_of_what_is_left_out_is_left_out() -> None:
    """Behind a thought it fails the whole call."""
    thought = Thinking("Hm.", "c2ln", by="anthropic_messages")
    marked = Message("assistant", (thought, Text(" ", cache="5m"), ToolCall("a", "f", "{}")))
    asked = said(HI, marked, tools=(Tool("f"),))
    content = body(asked)["messages"][1]["content"]
    assert [next(iter(block)) for block in content] == ["reasoningContent", "toolUse"]
    assert dropped(asked, SONNET) == ("cache_control",)


def test_nova_takes_no_cache_mark_behind_a_tool_or_in_its_turns() -> None:
    """It answers 400 to the whole call; elsewhere it takes them, for five minutes."""
    turns = (
        Message("system", (Text("Be brief.", cache="1h"),)),
        Message("user", (Text("Hi", cache="5m"),)),
        Message("assistant", (ToolCall("1", "ls", "{}"),)),
        Message("tool", (ToolResult("1", (Text("a"),), cache="5m"),)),
        Message("user", (Text("And?", cache="5m"),)),
    )
    asked = said(*turns, tools=(Tool("ls", cache="5m"),))
    written = body(asked, NOVA)
    point = {"cachePoint": {"type": "default"}}
    assert written["system"] == [{"text": "Be brief."}, point]
    assert written["messages"][0]["content"] == [{"text": "Hi"}, point]
    assert point not in written["messages"][2]["content"]
    assert point not in written["toolConfig"]["tools"]
    assert dropped(asked, NOVA) == ("cache_control.ttl", "cache_control")
    assert dropped(asked, SONNET) == ()
    assert point in body(asked)["toolConfig"]["tools"]
    assert body(asked)["messages"][2]["content"].count(point) == 2


@pytest.mark.parametrize(
    ("model", "hour"),
    [
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", False),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", False),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", False),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", True),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", True),
        ("global.anthropic.claude-opus-5", True),
    ],
)
def test_an_hour_is_asked_of_those_that_keep_it(model: str, hour: bool) -> None:
    """The others keep what is marked for five minutes, which is named."""
    asked = said(Message("user", (Text("Hi", cache="1h"),)))
    (_, point) = body(asked, model)["messages"][0]["content"]
    assert ("ttl" in point["cachePoint"]) is hour
    assert dropped(asked, model) == (() if hour else ("cache_control.ttl",))


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("openai.gpt-oss-120b-1:0", False),
        ("qwen.qwen3-235b-a22b-2507-v1:0", False),
        ("deepseek.v3-v1:0", False),
        ("us.deepseek.r1-v1:0", True),
        (NOVA, True),
    ],
)
def test_stop_sequences_are_named_where_a_model_refuses_them(model: str, takes: bool) -> None:
    """It answers 400 to the whole call."""
    asked = said(stop=("END",))
    assert ("stopSequences" in body(asked, model).get("inferenceConfig", {})) is takes
    assert dropped(asked, model) == (() if takes else ("stop",))


@pytest.mark.parametrize("model", ["us.meta.llama4-maverick-17b-instruct-v1:0", NOVA, SONNET])
def test_tools_and_words_stand_apart_where_a_model_demands_it(model: str) -> None:
    """Llama, Mistral and others refuse a turn with both; whoever takes it gets it as it was."""
    turns = (
        HI,
        Message("assistant", (Text("Let me see."), ToolCall("1", "ls", "{}"))),
        Message("tool", (ToolResult("1", (Text("a"),)),)),
        Message("user", (Text("And?"),)),
    )
    written = body(said(*turns, tools=(Tool("ls"),)), model)["messages"]
    kinds = [(turn["role"], [next(iter(block)) for block in turn["content"]]) for turn in written]
    if "llama" not in model:
        assert [kind for _, kind in kinds] == [
            ["text"],
            ["text", "toolUse"],
            ["toolResult", "text"],
        ]
        return
    assert kinds == [
        ("user", ["text"]),
        ("assistant", ["text"]),
        ("user", ["text"]),
        ("assistant", ["toolUse"]),
        ("user", ["toolResult"]),
        ("assistant", ["text"]),
        ("user", ["text"]),
    ]


def test_nova_is_given_schemas_without_references() -> None:
    """It refuses `$defs`; what holds itself says less there, which is named."""
    place = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}}
    schema = {
        "type": "object",
        "properties": {
            "home": {"$ref": "#/$defs/Place", "description": "Where"},
            "away": {"type": "array", "items": {"$ref": "#/definitions/Tree"}},
        },
        "$defs": {"Place": place, "City": {"type": "string"}},
        "definitions": {
            "Tree": {"type": "object", "properties": {"of": {"$ref": "#/definitions/Tree"}}}
        },
    }
    asked = said(tools=(Tool("f", schema=msgspec.json.encode(schema)),))
    (tool,) = body(asked, NOVA)["toolConfig"]["tools"]
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "description": "Where"}
    tree = {"type": "object", "properties": {"of": {}}}
    assert tool["toolSpec"]["inputSchema"]["json"] == {
        "type": "object",
        "properties": {"home": city, "away": {"type": "array", "items": tree}},
    }
    assert dropped(asked, NOVA) == ("tools.parameters.$ref",)
    (tool,) = body(asked)["toolConfig"]["tools"]
    assert tool["toolSpec"]["inputSchema"]["json"] == schema


def test_a_schema_that_multiplies_without_references_is_refused() -> None:
    """Ten lines that refer to each other may stand for more than any memory holds."""
    lots = {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 10} for n in range(12)}
    deep = {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(2000)}
    long = {"0": {"anyOf": [{"$ref": "#/$defs/1"}] * 20}, "1": {"description": "a" * 60_000}}
    for defs in (lots, deep, long):
        schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": defs}
        asked = said(tools=(Tool("f", schema=msgspec.json.encode(schema)),))
        with pytest.raises(Untranslatable, match="too large"):
            body(asked, NOVA)


def test_documents_have_names_that_bedrock_takes() -> None:
    """Letters and a few marks, no two the same, and words beside them."""
    pdf = Source("base64", "JVBERi0=", "application/pdf")
    files = (File(pdf, "Übersicht_2.pdf"), File(pdf, "bersicht 2.pdf", cites=True))
    content = body(said(Message("user", files)))["messages"][0]["content"]
    assert [one["document"]["name"] for one in content[:2]] == ["bersicht 2", "bersicht 2 2"]
    assert content[1]["document"]["citations"] == {"enabled": True}
    assert content[2] == {"text": "bersicht 2, bersicht 2 2"}
    with pytest.raises(Untranslatable):
        body(said(Message("user", (File(Source("url", "https://x.example/a.pdf")),))))


def test_a_schema_is_text_and_stops_are_few() -> None:
    """As the model of AWS's API has them."""
    schema = b'{"type":"object","properties":{},"additionalProperties":false}'
    asked = said(format=Format("json_schema", schema, "place"), stop=("a", "b", "c", "d", "e"))
    shape = body(asked)["outputConfig"]["textFormat"]
    assert shape["structure"]["jsonSchema"] == {"schema": schema.decode(), "name": "place"}
    assert body(asked, NOVA)["inferenceConfig"]["stopSequences"] == ["a", "b", "c", "d"]
    assert dropped(asked, NOVA) == ("stop",)
    with pytest.raises(Untranslatable, match="no JSON without a schema"):
        body(said(format=Format("json_schema")))


def test_no_tool_is_offered_where_none_may_be_called() -> None:
    """Where some were called before, it takes no request without tools: one stands there unnamed.

    So it is where the client offers none: when an agent has its conversation summed up.
    """
    none = ToolChoice("none")
    assert "toolConfig" not in body(said(tools=(Tool("ls"),), tool_choice=none))
    turns = (
        HI,
        Message("assistant", (ToolCall("1", "ls", "{}"),)),
        Message("tool", (ToolResult("1", ()),)),
    )
    for asked in (said(*turns, tools=(Tool("ls"),), tool_choice=none), said(*turns)):
        config = body(asked)["toolConfig"]
        assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["no_tool"]
        assert "toolChoice" not in config


def test_a_cache_mark_within_a_result_stands_behind_it() -> None:
    """A result's content has no cache points of its own in Converse."""
    marked = ToolResult("1", (Text("a", cache="1h"), Text("b", cache="5m")))
    turns = (HI, Message("assistant", (ToolCall("1", "ls", "{}"),)), Message("tool", (marked,)))
    content = body(said(*turns, tools=(Tool("ls"),)))["messages"][2]["content"]
    assert content[0]["toolResult"]["content"] == [{"text": "a"}, {"text": "b"}]
    assert content[1:] == [{"cachePoint": {"type": "default"}}]


def test_sampling_is_within_what_bedrock_takes() -> None:
    """None above 1; further fields in the words of the model's maker."""
    asked = said(sampling=Sampling(temperature=1.5, top_p=0.5, top_k=5))
    assert body(asked, NOVA)["inferenceConfig"] == {"temperature": 1.0, "topP": 0.5}
    assert body(asked, NOVA)["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    assert dropped(asked, NOVA) == ("temperature above 1",)


def test_what_was_cached_for_an_hour_has_a_price_of_its_own() -> None:
    """Written tokens by their life; more than were written at all is a mistake."""
    used = {"inputTokens": 3, "outputTokens": 5, "cacheWriteInputTokens": 100}
    details = [{"ttl": "1h", "inputTokens": 60}, {"ttl": "5m", "inputTokens": 40}]
    assert usage_of(used | {"cacheDetails": details}) == Usage(
        input=3, cache_write=40, cache_write_1h=60, output=5
    )
    assert usage_of(used | {"cacheDetails": [{"ttl": "1h", "inputTokens": 600}]}) == Usage(
        input=3, cache_write_1h=100, output=5
    )
    assert usage_of({"outputTokens": 5}) is None


def test_no_recorded_answer_used_more_than_its_request_is_bounded_by() -> None:
    """But for documents, whose bytes bound nothing; what has a fee beside tokens is named."""
    tried = 0
    for recording in recordings("bedrock/converse*.json"):
        if recording.status != 200:
            continue
        asked = bedrock.DIALECT.peek("chat", recording.request, InUrl("m", recording.streamed))
        bound = bedrock.DIALECT.bound(asked)
        assert bound.by_window == bool(recording.features & {"document", "vision"})
        rails = ("guardrailConfig",) if "param_guardrailConfig" in recording.features else ()
        assert bound.unbounded == rails
        meter = Reader()
        if recording.streamed:
            for event in Splitter().feed(recording.body):
                meter.event(event)
        else:
            meter.whole(recording.body)
        if meter.usage and not bound.by_window:
            assert meter.usage.input_total <= bound.input
            tried += 1
    assert tried >= 4


def test_a_budget_beside_the_limit_counts_with_it() -> None:
    """Interleaved thoughts may use it up beside what is answered."""
    more = {"thinking": {"type": "enabled", "budget_tokens": 9000}}
    config = {"maxTokens": 1000}
    raw = {"messages": [], "inferenceConfig": config, "additionalModelRequestFields": more}
    call = bedrock.DIALECT.peek("chat", msgspec.json.encode(raw), InUrl("m"))
    assert bedrock.DIALECT.bound(call).output == 10_000


def parts_of(*messages: tuple[str, dict[str, Any]]) -> tuple[Part, ...]:
    """Return what a stream of messages says."""
    reader = BEDROCK.events(said(), frozenset())
    found = [
        meant
        for name, payload in messages
        for meant in reader.event(Event(b"", msgspec.json.encode(payload), name.encode()))
    ]
    return fold_of([*found, *reader.end()]).parts


def whole(*content: dict[str, Any]) -> tuple[Part, ...]:
    """Return what a whole answer says."""
    message = {"role": "assistant", "content": list(content)}
    answer = {"output": {"message": message}, "stopReason": "end_turn"}
    return BEDROCK.events(said(), frozenset()).whole(msgspec.json.encode(answer)).parts


def test_a_picture_of_an_answer_is_one_whole_or_in_pieces() -> None:
    """A stream lost it in silence; its pieces are each padded by themselves."""
    picture = Image(Source("base64", b64encode(b"abcd").decode(), "image/jpeg"))
    data = {"format": "jpeg", "source": {"bytes": b64encode(b"abcd").decode()}}
    assert whole({"image": data}) == (picture,)
    pieces = [{"image": {"source": {"bytes": b64encode(one).decode()}}} for one in (b"ab", b"cd")]
    assert parts_of(
        ("contentBlockStart", {"start": {"image": {"format": "jpeg"}}}),
        *(("contentBlockDelta", {"delta": one}) for one in pieces),
        ("contentBlockStop", {}),
    ) == (picture,)


def test_a_tool_that_the_provider_runs_is_no_call_for_the_client() -> None:
    """It has no such tool; what came of it is named as lost."""
    called = {"toolUseId": "t", "name": "nova_grounding", "type": "server_tool_use"}
    result = {"toolUseId": "t", "type": "nova_grounding_result"}
    found = whole({"toolUse": {**called, "input": {}}}, {"toolResult": {**result, "content": []}})
    assert [part.type for part in found if isinstance(part, Opaque)] == ["toolUse", "toolResult"]
    found = parts_of(
        ("contentBlockStart", {"start": {"toolUse": called}}),
        ("contentBlockDelta", {"delta": {"toolUse": {"input": "{}"}}}),
        ("contentBlockStop", {}),
        ("contentBlockStart", {"start": {"toolResult": result}}),
        ("contentBlockDelta", {"delta": {"toolResult": [{"json": {}}]}}),
        ("contentBlockStop", {}),
    )
    assert [part.type for part in found if isinstance(part, Opaque)] == ["toolUse", "toolResult"]


def test_a_model_that_failed_in_its_stream_is_no_fault_of_the_caller_s() -> None:
    """AWS says 424, which clients take for a mistake of theirs, and never try again."""
    assert exception(EXCEPTION + b"modelStreamErrorException", b'{"message":"Bad"}').status == 502


def test_claude_says_which_sequence_stopped_it() -> None:
    """It is asked to, and Anthropic's clients are told: they got none beside the reason."""
    asked = said(stop=("END",))
    assert body(asked)["additionalModelResponseFieldPaths"] == ["/stop_sequence"]
    assert "additionalModelResponseFieldPaths" not in body(said())
    assert "additionalModelResponseFieldPaths" not in body(asked, NOVA)
    stopped = {
        "stopReason": "stop_sequence",
        "additionalModelResponseFields": {"stop_sequence": "END"},
    }
    answer = {"output": {"message": {"role": "assistant", "content": [{"text": "A"}]}}, **stopped}
    whole = BEDROCK.events(asked, frozenset()).whole(msgspec.json.encode(answer))
    assert (whole.choices[0].stop, whole.choices[0].sequence) == ("stop_sequence", "END")
    event = Event(b"", msgspec.json.encode(stopped), b"messageStop")
    assert BEDROCK.events(asked, frozenset()).event(event) == [Stopped("stop_sequence", "END")]


def test_a_picture_that_could_not_be_made_is_named() -> None:
    """Bedrock tells the error in its place; it was a picture of no bytes."""
    failed = {"image": {"format": "png", "source": {}, "error": {"message": "No"}}}
    (part,) = whole(failed)
    assert isinstance(part, Opaque) and part.type == "image"


@pytest.mark.parametrize("recording", recordings("bedrock/*guardrail*"), ids=lambda one: one.id)
def test_a_guardrail_s_trace_is_named(recording: Recording) -> None:
    """Whoever asks for it in another dialect has no place for it, which was not told."""
    reader = BEDROCK.events(said(), frozenset())
    if recording.streamed:
        for event in Splitter().feed(recording.body):
            reader.event(event)
    else:
        reader.whole(recording.body)
    assert reader.dropped == {"trace"}
