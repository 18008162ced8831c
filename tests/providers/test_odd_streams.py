"""Streams whose events come otherwise than their dialect's own provider sends them."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, OPENAI, RESPONSES, fold_of, no_request

from tollway.providers.conversation import Part, Refusal, Text, ToolCall
from tollway.providers.dialects.dialect import Asks
from tollway.providers.events import Event, PartEnd, ToolDelta, ToolStart
from tollway.providers.sse import Event as Sse

CALLED = {"type": "function_call", "call_id": "a", "name": "ls", "arguments": '{"a":1}'}
ANSWERED = {"type": "message", "role": "assistant", "content": [{"type": "output_text"}]}
ANSWERED["content"][0]["text"] = "Hi"  # type: ignore[index]
TEXT = {"type": "response.output_text.delta", "delta": "Hi"}
STARTED = {"type": "response.created", "response": {"id": "r", "model": "m", "output": []}}


def events(codec: Asks, *said: dict[str, Any]) -> list[Event]:
    """Return the events of a stream of these."""
    reader = codec.events(no_request(codec), frozenset())
    found: list[Event] = []
    for one in said:
        found += reader.event(Sse(b"", json.dumps(one).encode()))
    return found + reader.end()


def response(*said: dict[str, Any], output: tuple[Any, ...] = ()) -> tuple[Part, ...]:
    """Return the parts of a streamed response that ends with these items in all."""
    whole = {"id": "r", "status": "completed", "output": list(output)}
    last = {"type": "response.completed", "response": whole}
    return fold_of(events(RESPONSES, STARTED, *said, last)).parts


@pytest.mark.parametrize(
    "parts",
    [
        response(TEXT | {"output_index": None}),
        response({"type": "response.output_text.done", "output_index": 0, "text": "Hi"}),
        response(TEXT, {"type": "response.output_text.done", "output_index": 0, "text": "Hi"}),
        response(output=(ANSWERED,)),
        response(TEXT | {"output_index": 0}, output=(ANSWERED,)),
    ],
    ids=["no place", "no pieces", "both", "at the end alone", "twice"],
)
def test_a_text_is_heard_once_wherever_it_stands(parts: tuple[Part, ...]) -> None:
    """Some servers send no pieces of an item, some no items before the last event."""
    assert parts == (Text("Hi"),)


def test_arguments_of_a_call_that_was_not_announced_come_with_its_end() -> None:
    """They were told of a call without a name, and the call itself was not."""
    piece = {"type": "response.function_call_arguments.delta", "output_index": 0}
    done = {"type": "response.output_item.done", "output_index": 0, "item": CALLED}
    expected = (ToolCall("a", "ls", '{"a":1}'),)
    assert response(piece | {"delta": '{"a":1}'}, done) == expected
    assert response(output=(CALLED,)) == expected


def block(kind: str, index: int, **more: Any) -> dict[str, Any]:
    """Return an event of a block of Anthropic's."""
    return {"type": f"content_block_{kind}", "index": index} | more


def begun(index: int, name: str) -> dict[str, Any]:
    """Return the beginning of a call."""
    said = {"type": "tool_use", "id": f"id_{name}", "name": name, "input": {}}
    return block("start", index, content_block=said)


def argued(index: int, text: str) -> dict[str, Any]:
    """Return some of a call's arguments."""
    return block("delta", index, delta={"type": "input_json_delta", "partial_json": text})


MESSAGE = {"type": "message_start", "message": {"id": "m", "model": "m"}}
MIXED = (
    begun(0, "f"),
    begun(1, "g"),
    argued(0, '{"a"'),
    argued(1, '{"b"'),
    argued(0, ":1}"),
    argued(1, ":2}"),
)
STOP = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}


@pytest.mark.parametrize(
    "ends",
    [
        (block("stop", 0), block("stop", 1), STOP),
        (block("stop", 1), block("stop", 0), STOP),
        (STOP,),
        (),
    ],
    ids=["in order", "the other way", "never", "cut"],
)
def test_blocks_that_come_mixed_are_told_apart(ends: tuple[dict[str, Any], ...]) -> None:
    """One call had the arguments of both, the other none."""
    found = events(ANTHROPIC, MESSAGE, *MIXED, *ends)
    calls = (ToolCall("id_f", "f", '{"a":1}'), ToolCall("id_g", "g", '{"b":2}'))
    assert fold_of(found).parts == calls
    kinds = [type(one) for one in found if isinstance(one, ToolStart | PartEnd)]
    assert kinds == [ToolStart, PartEnd] * 2


def test_the_next_block_goes_on_as_it_comes() -> None:
    """Once the one before it has ended."""
    reader = ANTHROPIC.events(no_request(ANTHROPIC), frozenset())
    for one in (MESSAGE, *MIXED[:4], block("stop", 0)):
        reader.event(Sse(b"", json.dumps(one).encode()))
    (more,) = reader.event(Sse(b"", json.dumps(argued(1, ":2}")).encode()))
    assert more == ToolDelta(":2}")


def test_a_refusal_within_a_call_waits_for_its_end() -> None:
    """The call's arguments were cut in two by it."""
    calls = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    deltas: list[dict[str, Any]] = [
        {"tool_calls": calls[:1]},
        {"refusal": "No"},
        {"tool_calls": calls[1:]},
    ]
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    parts = fold_of(events(OPENAI, *chunks)).parts
    assert parts == (ToolCall("a", "f", '{"a":1}'), Refusal("No"))


def test_a_source_that_google_names_again_is_one_source() -> None:
    """Chunks may each repeat what was found on the web."""
    web = [{"web": {"uri": "https://a.example", "title": "A"}}]
    chunks = [
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": text}]},
                    "index": 0,
                    "groundingMetadata": {"groundingChunks": web},
                }
            ]
        }
        for text in ("Hello", " world")
    ]
    (text,) = fold_of(events(GEMINI, *chunks)).parts
    assert isinstance(text, Text) and text.text == "Hello world"
    assert [cited.url for cited in text.citations] == ["https://a.example"]
