"""Recorded answers of Gemini: what they used, and that nothing is lost on the way."""

import json
import random
from typing import Any
from urllib.parse import unquote

import pytest
from google.genai.types import GenerateContentResponse
from wire.recordings import Recording, recordings

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, Text, Thinking, ToolCall, ToolResult
from tollway.providers.dialects.dialect import Edits, Facts, InUrl
from tollway.providers.dialects.gemini import DIALECT
from tollway.providers.dialects.gemini_codec import CODEC
from tollway.providers.errors import RequestInvalid, Untranslatable
from tollway.providers.events import Answer, Choice, Event
from tollway.providers.fold import fold, unfold
from tollway.providers.sse import Splitter

ALL = [one for one in recordings() if "enerateContent" in one.path]
# One stream was recorded as an array, which is not the form that we take or ask for.
ANSWERS = [one for one in ALL if one.status == 200 and (one.streamed or one.body[:1] == b"{")]
STREAMS = [one for one in ANSWERS if one.streamed]
NOBODY = Conversation(by="test", model="m", messages=())


def name(recording: Recording) -> str:
    """Name a test after its recording."""
    return recording.id


def body_of(recording: Recording) -> bytes:
    """Return the request's body; its model stands in the path."""
    return json.dumps(recording.asked).encode()


def call(recording: Recording) -> Call:
    """Return the call that was recorded, as the gate sees it."""
    model = unquote(recording.path.partition("/models/")[2].partition(":")[0])
    return DIALECT.peek("chat", body_of(recording), InUrl(model, recording.streamed))


def asked(**said: Any) -> Call:
    """Return a call with these fields."""
    return DIALECT.peek("chat", json.dumps(said).encode(), InUrl("gemini-2.5-flash"))


def read(*chunks: bytes) -> list[Event]:
    """Return the neutral events of a stream that came in these chunks."""
    splitter, reader = Splitter(), CODEC.events(NOBODY, frozenset())
    found = [
        one for chunk in chunks for event in splitter.feed(chunk) for one in reader.event(event)
    ]
    return [*found, *reader.end()]


def answer(recording: Recording) -> Answer:
    """Return a recorded answer in the neutral form."""
    if recording.streamed:
        return fold(read(recording.body))
    return CODEC.events(NOBODY, frozenset()).whole(recording.body)


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_the_meter_reads_the_usage_that_the_answer_reports(recording: Recording) -> None:
    """Cached tokens within the prompt, thoughts and what tools read beside it; the last wins."""
    meter = DIALECT.reader(call(recording), frozenset())
    if recording.streamed:
        events = Splitter().feed(recording.body)
        assert all(meter.event(event) for event in events)
        chunks = [json.loads(event.data) for event in events if event.data]
        said = [chunk["usageMetadata"] for chunk in chunks if "usageMetadata" in chunk][-1]
    else:
        meter.whole(recording.body)
        said = json.loads(recording.body)["usageMetadata"]
    assert meter.ended
    assert meter.usage is not None
    tools = said.get("toolUsePromptTokenCount", 0)
    assert meter.usage.input_total == said["promptTokenCount"] + tools
    assert meter.usage.cache_read == said.get("cachedContentTokenCount", 0)
    assert meter.usage.reasoning == said.get("thoughtsTokenCount", 0)
    made = said.get("candidatesTokenCount", 0)
    assert meter.usage.output_total == made + meter.usage.reasoning


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_an_answer_written_again_is_the_same_answer(recording: Recording) -> None:
    """Whole and as a stream: Google's own types take it, and it means what it meant."""
    said = answer(recording)
    events = read(recording.body) if recording.streamed else list(unfold(said))
    writer = CODEC.writer(call(recording))
    stream = b"".join(writer.event(event) for event in events) + writer.end()
    for event in Splitter().feed(stream):
        assert event.data
        GenerateContentResponse.model_validate_json(event.data)
    whole = CODEC.writer(call(recording)).whole(said)
    GenerateContentResponse.model_validate_json(whole)
    for again in (fold(read(stream)), CODEC.events(NOBODY, frozenset()).whole(whole)):
        assert again.parts == said.parts
        assert again.stop == said.stop
        assert again.usage == said.usage


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_a_stream_means_the_same_however_it_is_cut(recording: Recording) -> None:
    """Google ends its lines with CR and LF; a cut may fall between them, or within a character."""
    body = recording.body
    whole = read(body)
    assert read(*(body[at : at + 1] for at in range(len(body)))) == whole
    chance = random.Random(len(body))  # noqa: S311 - must repeat itself
    for _ in range(20):
        cuts = sorted(chance.randrange(len(body)) for _ in range(5))
        parts = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert read(*parts) == whole


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_the_hold_bounds_what_was_billed(recording: Recording) -> None:
    """The input bound is no less than the tokens that Google counted, or says why not."""
    bound = DIALECT.bound(call(recording))
    used = answer(recording).usage
    if used is not None and not (bound.by_window or bound.unbounded):
        assert used.input_total <= bound.input


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_a_request_passes_with_its_bytes(recording: Recording) -> None:
    """But for the limit, where a budget asks for one; in whichever spelling it stands."""
    one = call(recording)
    assert DIALECT.edit(one, Edits(model="other")) == one.body
    limited = json.loads(DIALECT.edit(one, Edits(model="other", output_limit=7)))
    config = limited.pop("generationConfig")
    before = dict(recording.asked)
    before_config = before.pop("generationConfig", {})
    assert config == {**before_config, "maxOutputTokens": 7}
    assert limited == before


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_a_request_read_and_written_is_the_same_conversation(recording: Recording) -> None:
    """Turns, calls with their signatures, results; hosted tools and kept content are refused."""
    one = call(recording)
    try:
        said = CODEC.read_request(one)
        written = CODEC.write_request(said, Facts(model=one.model))
    except Untranslatable as refusal:
        assert refusal.param in ("cachedContent", "tools")
        return
    again = CODEC.read_request(
        DIALECT.peek("chat", written.body, InUrl(one.model, recording.streamed))
    )
    for field in ("messages", "tool_choice", "format", "stop", "sampling", "output_limit"):
        assert getattr(again, field) == getattr(said, field), field
    assert [tool.name for tool in again.tools if hasattr(tool, "name")] == [
        tool.name for tool in said.tools if hasattr(tool, "name")
    ]


def test_both_spellings_are_read_and_not_both_at_once() -> None:
    """Which of two limits Google goes by is not said, so that neither can be promised."""
    snake = asked(contents=[], generation_config={"max_output_tokens": 5})
    assert snake.output_limit == 5
    edited = json.loads(DIALECT.edit(snake, Edits(model="m", output_limit=3)))
    assert edited == {"contents": [], "generation_config": {"max_output_tokens": 3}}
    pairs: tuple[dict[str, Any], ...] = (
        {"generationConfig": {}, "generation_config": {}},
        {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
    )
    for twice in pairs:
        with pytest.raises(RequestInvalid) as caught:
            asked(**twice)
        assert "two spellings" in caught.value.message


def test_results_find_their_calls_by_name_and_order() -> None:
    """Google's calls often have no id; other dialects cannot do without."""
    said = CODEC.read_request(
        asked(
            contents=[
                {"role": "model", "parts": [
                    {"functionCall": {"name": "add", "args": {"a": 1}}},
                    {"functionCall": {"name": "add", "args": {"a": 2}}},
                    {"functionCall": {"name": "mul", "args": {}}},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "mul", "response": {"result": "m"}}},
                    {"functionResponse": {"name": "add", "response": {"result": "one"}}},
                    {"functionResponse": {"name": "add", "response": {"error": "two"}}},
                ]},
            ]
        )
    )  # fmt: skip
    calls = [part for part in said.messages[0].parts if isinstance(part, ToolCall)]
    results = [part for part in said.messages[1].parts if isinstance(part, ToolResult)]
    assert len({call.id for call in calls}) == 3
    assert [result.id for result in results] == [calls[2].id, calls[0].id, calls[1].id]
    assert [result.is_error for result in results] == [False, False, True]


def test_a_signature_of_another_provider_comes_back_to_it() -> None:
    """Google's libraries take base64 alone, so it is carried as that."""
    thought = Thinking("Hm", "c2ln", by="anthropic_messages")
    call_ = ToolCall("t", "ls", '{"a":1}', signature="x", by="openai_responses")
    whole = CODEC.writer(asked(contents=[])).whole(Answer((Choice((thought, call_), "tools"),)))
    GenerateContentResponse.model_validate_json(whole)
    content = json.loads(whole)["candidates"][0]["content"]
    (turn,) = CODEC.read_request(asked(contents=[content])).messages
    assert turn.parts == (thought, call_)


@pytest.mark.parametrize(
    "recording", [one for one in ALL if one.body[:1] == b"[" and one.status == 200], ids=name
)
def test_a_stream_as_an_array_means_what_its_elements_mean_as_events(recording: Recording) -> None:
    """What Google sends without `alt=sse`: each element is an event, and none is lost."""
    elements = json.loads(recording.body)
    chunks = [b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in elements]
    found = fold(read(*chunks))
    texts = [
        part["text"]
        for element in elements
        for candidate in element.get("candidates", ())
        for part in candidate.get("content", {}).get("parts", ())
        if part.get("text") and not part.get("thought")
    ]
    assert text_of(found) == "".join(texts)
    used = elements[-1]["usageMetadata"]
    assert found.usage is not None
    assert found.usage.input_total == used["promptTokenCount"]
    made = used.get("candidatesTokenCount", 0) + used.get("thoughtsTokenCount", 0)
    assert found.usage.output_total == made


def text_of(answer: Answer) -> str:
    """Return what an answer says aloud."""
    return "".join(part.text for part in answer.choices[0].parts if isinstance(part, Text))
