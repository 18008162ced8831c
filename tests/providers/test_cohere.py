"""Cohere's dialect where no recording reaches: streamed calls, failures, what a bill is made of."""

import msgspec
import pytest
from translated import COHERE, events, fold_of
from wire.recordings import recordings

from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import (
    Conversation,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tollway.providers.dialects import cohere
from tollway.providers.dialects.cohere_embed import read
from tollway.providers.dialects.cohere_read import usage_of
from tollway.providers.dialects.dialect import Facts
from tollway.providers.embedding import Embedding
from tollway.providers.errors import UpstreamBroke
from tollway.providers.events import Failed
from tollway.providers.sse import Splitter


def stream(*said: dict[str, object]) -> bytes:
    """Return events as Cohere frames them."""
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (str(one["type"]).encode(), msgspec.json.encode(one))
        for one in said
    )


def message(**said: object) -> dict[str, object]:
    """Return what an event adds to a message."""
    return {"message": said}


def call(place: int, name: str, *pieces: str) -> list[dict[str, object]]:
    """Return the events of one call, as the reference of "Chat with streaming" has them."""
    function = {"name": name, "arguments": ""}
    begun = {"id": f"{name}_1", "type": "function", "function": function}
    return [
        {"type": "tool-call-start", "index": place, "delta": message(tool_calls=begun)},
        *(
            {
                "type": "tool-call-delta",
                "index": place,
                "delta": message(tool_calls={"function": {"arguments": piece}}),
            }
            for piece in pieces
        ),
        {"type": "tool-call-end", "index": place},
    ]


CALLED = stream(
    {"type": "message-start", "id": "m1", "delta": message(role="assistant")},
    {"type": "tool-plan-delta", "delta": message(tool_plan="I will ")},
    {"type": "tool-plan-delta", "delta": message(tool_plan="look.")},
    *call(0, "weather", '{"city":', '"Rome"}'),
    *call(1, "clock"),
    *call(2, "patch", '{"input":"***', ' Begin"}'),
    {
        "type": "message-end",
        "delta": {
            "finish_reason": "TOOL_CALL",
            "usage": {"billed_units": {"input_tokens": 7, "output_tokens": 3}},
        },
    },
)


def test_streamed_calls_come_one_after_the_other_behind_the_plan() -> None:
    """The plan is what the model says first; a call without arguments has an empty object."""
    said = Conversation("", "m", (), tools=(Tool("weather"), Tool("patch", kind="custom")))
    answer = fold_of(events(COHERE, said, frozenset(), CALLED))
    assert answer.parts == (
        Text("I will look."),
        ToolCall("weather_1", "weather", '{"city":"Rome"}'),
        ToolCall("clock_1", "clock", "{}"),
        ToolCall("patch_1", "patch", "*** Begin", "custom"),
    )
    assert (answer.stop, answer.usage) == ("tools", Usage(input=7, output=3))


def test_what_came_before_a_cut_bounds_what_is_billed() -> None:
    """Plans, names and arguments count like text; a citation only repeats it."""
    reader = cohere.DIALECT.reader(Call("chat", "cohere", "m", b""), frozenset())
    for event in Splitter().feed(CALLED):
        reader.event(event)
    said = (
        "I will look." + "weather" + '{"city":"Rome"}' + "clock" + "patch" + '{"input":"*** Begin"}'
    )
    assert len(said) <= reader.produced <= len(said) + 3 * 64
    assert (reader.begun, reader.ended, reader.upstream_id) == (True, True, "m1")


def test_an_error_that_ends_a_stream_is_told() -> None:
    """It comes as the reason why a message ended."""
    body = stream(
        {"type": "message-start", "id": "m1", "delta": message()},
        {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "Out of memory"}},
    )
    found = events(COHERE, Conversation("", "m", ()), frozenset(), body)
    assert isinstance(found[-1], Failed) and "Out of memory" in found[-1].message
    reader = cohere.DIALECT.reader(Call("chat", "cohere", "m", b""), frozenset())
    for event in Splitter().feed(body):
        reader.event(event)
    assert reader.failed is not None and not reader.ended


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"billed_units": {"input_tokens": 8.0}, "tokens": {"input_tokens": 99}}, Usage(input=8)),
        ({"tokens": {"input_tokens": 9, "output_tokens": 2}}, Usage(input=9, output=2)),
        ({"billed_units": {"input_tokens": 1, "image_tokens": 5}}, Usage(input=1, image_input=5)),
        ({"billed_units": {"search_units": 1}}, None),
        ({"billed_units": {"input_tokens": -1}}, None),
    ],
)
def test_what_is_billed_is_what_cohere_bills(said: dict[str, object], usage: Usage | None) -> None:
    """`tokens` count its own instructions too, for which nothing is charged."""
    assert usage_of(said) == usage


def test_no_recorded_answer_bills_more_than_its_request_is_bounded_by() -> None:
    """Of the tokens of its own instructions, which are many, none is billed."""
    for recording in recordings("cohere/*.json"):
        if recording.status != 200 or "embed" in recording.id:
            continue
        asked = cohere.DIALECT.peek("chat", recording.request)
        reader = cohere.DIALECT.reader(asked, frozenset())
        if recording.streamed:
            for event in Splitter().feed(recording.body):
                reader.event(event)
        else:
            reader.whole(recording.body)
        assert reader.usage is not None
        assert reader.usage.input_total <= cohere.DIALECT.bound(asked).input


def test_thoughts_fit_within_the_limit() -> None:
    """The limit holds for thoughts and answer together."""
    said = Conversation("", "m", (), output_limit=1000)
    hard = msgspec.structs.replace(said, reasoning=Reasoning("on", "high"))
    body = msgspec.json.decode(
        COHERE.write_request(hard, Facts("command-a-reasoning-08-2025")).body
    )
    assert body["thinking"] == {"type": "enabled", "token_budget": 800}
    plain = COHERE.write_request(hard, Facts("command-r-plus-08-2024"))
    assert plain.dropped == ("reasoning",)


def test_an_answer_without_vectors_is_none() -> None:
    """Of another type of vectors, or another shape."""
    with pytest.raises(UpstreamBroke):
        read(Embedding("embed-v4.0", ("Hi",)), b'{"embeddings":{"int8":[[1]]}}')


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", ["PLAN", "THINKING_CONTENT"])
def test_what_a_plan_rests_on_is_named(kind: str, place: int) -> None:
    """No other API has a place for it; whole and streamed answers lost it in silence."""
    cited = {"start": 0, "end": 1, "text": "I", "sources": [], "type": kind}
    said = {"content": [{"type": "text", "text": "Hi"}], "citations": [cited]}
    cited["content_index"] = place
    whole = COHERE.events(Conversation("", "m", ()), frozenset())
    whole.whole(msgspec.json.encode({"id": "m1", "message": said, "finish_reason": "COMPLETE"}))
    streamed = COHERE.events(Conversation("", "m", ()), frozenset())
    body = stream({"type": "citation-start", "delta": message(citations=cited)})
    for event in Splitter().feed(body):
        streamed.event(event)
    assert whole.dropped == streamed.dropped == {"citations"}


def test_arguments_that_were_cut_short_are_an_object_all_the_same() -> None:
    """They are JSON to it; a client gives back what a limit cut off."""
    turns = (
        Message("user", (Text("Hi"),)),
        Message("assistant", (ToolCall("c", "f", '{"a": "b'),)),
        Message("tool", (ToolResult("c", (Text("no JSON"),)),)),
    )
    said = Conversation("openai_chat", "m", turns, tools=(Tool("f"),))
    body = msgspec.json.decode(COHERE.write_request(said, Facts("command-a-03-2025")).body)
    (called,) = body["messages"][1]["tool_calls"]
    assert msgspec.json.decode(called["function"]["arguments"]) == {"input": '{"a": "b'}
