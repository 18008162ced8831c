"""How an answer ended, beyond its stop reason: why it was refused, and which item was cut short."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, CODECS, RESPONSES, client_call, events, fold_of, no_request

from tollway.providers.conversation import Refusal, Text
from tollway.providers.dialects.dialect import Codec
from tollway.providers.events import (
    Event,
    PartEnd,
    Start,
    Stopped,
    StopReason,
    TextDelta,
    ToolDelta,
    ToolStart,
)

WHY = {"type": "refusal", "category": "cyber", "explanation": "It helps an attack"}
MESSAGE = {"id": "m", "type": "message", "model": "c", "usage": {"output_tokens": 1}}
WORDS = {"type": "text", "text": "I"}


def refused(details: Any) -> tuple[object, object]:
    """Return the parts of a refusal with these details, as it came whole and as a stream."""
    said = {"stop_reason": "refusal", "stop_details": details}
    body = json.dumps({**MESSAGE, "content": [WORDS], **said}).encode()
    whole = ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(body)
    stream = (
        {"type": "message_start", "message": {**MESSAGE, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": WORDS},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": said, "usage": {"output_tokens": 1}},
    )
    chunks = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in stream]
    streamed = fold_of(events(ANTHROPIC, no_request(ANTHROPIC), frozenset(), *chunks))
    assert whole.stop == streamed.stop == "refusal"
    return whole.parts, streamed.parts


def test_why_a_model_refused_is_told() -> None:
    """Anthropic says it beside the answer; clients of other dialects heard nothing of it."""
    parts = (Text("I"), Refusal("It helps an attack"))
    assert refused(WHY) == (parts, parts)


@pytest.mark.parametrize("details", [None, {"type": "refusal", "explanation": None}, "no"])
def test_a_refusal_without_a_word_of_why_is_one_all_the_same(details: Any) -> None:
    """Recorded: most come without."""
    assert refused(details) == ((Text("I"),), (Text("I"),))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_every_client_hears_it(codec: Codec) -> None:
    """In OpenAI's `refusal`; as text where a dialect has no place of its own."""
    body = {**MESSAGE, "content": [], "stop_reason": "refusal", "stop_details": WHY}
    answer = ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(json.dumps(body).encode())
    said = codec.writer(client_call(codec, stream=False)).whole(answer)
    assert b"It helps an attack" in said


def test_a_call_that_is_whole_when_the_limit_comes_is_whole() -> None:
    """It may be done; its arguments are an object."""
    writer = RESPONSES.writer(client_call(RESPONSES))
    found: list[Event] = [
        Start(),
        ToolStart("c", "ls"),
        ToolDelta("{}"),
        PartEnd(),
        Stopped("length"),
    ]
    stream = b"".join(map(writer.event, found)) + writer.end()
    said = json.loads(stream.rpartition(b"data: ")[2])["response"]
    assert (said["status"], said["output"][0]["status"]) == ("incomplete", "completed")


CALLED: tuple[Event, ...] = (ToolStart("c", "ls"), ToolDelta('{"dir":"'), PartEnd())
SPOKEN: tuple[Event, ...] = (TextDelta("So"), PartEnd())


@pytest.mark.parametrize("said", [CALLED, SPOKEN], ids=["call", "text"])
@pytest.mark.parametrize(
    ("stop", "status"),
    [("length", "incomplete"), ("window", "incomplete"), ("tools", "completed")],
)
def test_an_item_that_was_cut_short_says_so(
    said: tuple[Event, ...], stop: StopReason, status: str
) -> None:
    """A call cut by the limit looked as if it were whole, and only the last item was cut."""
    writer = RESPONSES.writer(client_call(RESPONSES))
    found: tuple[Event, ...] = (Start(), TextDelta("Hm"), *CALLED, *said, Stopped(stop))
    stream = b"".join(map(writer.event, found)) + writer.end()
    events = [json.loads(line[6:]) for line in stream.splitlines() if line[:5] == b"data:"]
    output = events[-1]["response"]["output"]
    assert [item["status"] for item in output] == ["completed", "completed", status]
    ends = [one["item"] for one in events if one["type"] == "response.output_item.done"]
    assert ends == output
    answer = fold_of(list(found))
    whole = json.loads(RESPONSES.writer(client_call(RESPONSES, stream=False)).whole(answer))
    assert [item["status"] for item in whole["output"]] == ["completed", "completed", status]
