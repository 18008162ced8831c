"""Recorded answers of the Responses API: what they used, and that nothing is lost on the way."""

import json
import random

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from wire.recordings import Recording, recordings

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, Part, Thinking
from tollway.providers.dialects.openai_responses import DIALECT
from tollway.providers.dialects.responses_codec import CODEC
from tollway.providers.dialects.responses_proofs import proof_in
from tollway.providers.events import Answer, Event, Failed
from tollway.providers.fold import fold, unfold
from tollway.providers.sse import Splitter

ALL = [one for one in recordings() if one.api.endswith(".responses")]
ANSWERS = [one for one in ALL if one.status == 200]
STREAMS = [one for one in ANSWERS if one.streamed]
FAILED = "openai/responses_stream_mid-stream-error_insufficient-quota_gpt-5-nano"
BACKGROUND = "openai/responses_background_gpt-5-6-sol"
STREAM_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
# Of a client that says nothing of its own: what is read does not depend on it.
NOBODY = Conversation(by="test", model="m", messages=(), logprobs=True)


def name(recording: Recording) -> str:
    """Name a test after its recording."""
    return recording.id


def call(recording: Recording) -> Call:
    """Return the call that was recorded, as the gate sees it."""
    return DIALECT.peek("chat", recording.request)


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


def test_every_provider_of_the_recordings_is_here() -> None:
    """Six servers that speak this dialect, each a little otherwise."""
    spoken = {one.provider for one in ANSWERS}
    assert {"openai", "azure", "deepseek", "lmstudio", "llamacpp", "openrouter", "vllm", "xai"} <= (
        spoken
    )


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_the_meter_reads_the_usage_that_the_answer_reports(recording: Recording) -> None:
    """All tokens are counted, each in one class, and the end of the answer is seen."""
    meter = DIALECT.reader(call(recording), frozenset())
    if recording.streamed:
        splitter = Splitter()
        events = splitter.feed(recording.body)
        assert all(meter.event(event) for event in events)
        last = [event.data for event in events if event.data and b'"usage":{' in event.data]
        said = json.loads(last[-1])["response"] if last else {}
    else:
        meter.whole(recording.body)
        said = json.loads(recording.body)
    used = said.get("usage")
    if used is None:
        assert meter.usage is None
        assert recording.id in (FAILED, BACKGROUND)
        assert bool(meter.failed) == (recording.id == FAILED)
        return
    assert meter.ended
    assert meter.upstream_id == said["id"]
    assert meter.usage is not None
    cached = (used.get("input_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (used.get("output_tokens_details") or {}).get("reasoning_tokens") or 0
    assert meter.usage.input_total == used["input_tokens"]
    assert meter.usage.output_total == used["output_tokens"]
    assert (meter.usage.cache_read, meter.usage.reasoning) == (cached, reasoning)
    assert meter.produced or not used["output_tokens"] - reasoning


def unmarked(part: Part) -> Part:
    """Return a part; a thought that nobody encrypted without what stands in the proof's place."""
    if isinstance(part, Thinking) and (proof := proof_in(part.encrypted)) and not proof.by:
        return msgspec.structs.replace(part, encrypted="", by="", id="")
    return part


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_an_answer_written_again_is_the_same_answer(recording: Recording) -> None:
    """Whole and as a stream: OpenAI's own types take it, and it means what it meant."""
    said = answer(recording)
    events = read(recording.body) if recording.streamed else list(unfold(said))
    if any(isinstance(event, Failed) for event in events):
        assert recording.id == FAILED
        return
    writer = CODEC.writer(call(recording))
    stream = b"".join(writer.event(event) for event in events) + writer.end()
    for event in Splitter().feed(stream):
        assert event.data
        STREAM_EVENT.validate_json(event.data)
    again = fold(read(stream))
    whole = CODEC.writer(call(recording)).whole(said)
    Response.model_validate_json(whole)
    once_more = CODEC.events(NOBODY, frozenset()).whole(whole)
    for written in (again, once_more):
        assert tuple(map(unmarked, written.parts)) == said.parts
        assert written.stop == said.stop
        if said.usage is not None:
            assert written.usage == said.usage


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_a_stream_means_the_same_however_it_is_cut(recording: Recording) -> None:
    """Single bytes, between CR and LF and within characters, and a hundred places by chance."""
    body = recording.body
    if b"\r" not in body:
        windows = body.replace(b"\n", b"\r\n")
        assert read(windows) == read(body)
    whole = read(body)
    assert read(*(body[at : at + 1] for at in range(len(body)))) == whole
    chance = random.Random(len(body))  # noqa: S311 - must repeat itself
    for _ in range(20):
        cuts = sorted(chance.randrange(len(body)) for _ in range(5))
        parts = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert read(*parts) == whole


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_the_hold_bounds_what_was_billed(recording: Recording) -> None:
    """The input bound is no less than the tokens that the provider counted, or says why not."""
    bound = DIALECT.bound(call(recording))
    used = answer(recording).usage
    if used is not None and not (bound.by_window or bound.unbounded):
        assert used.input_total <= bound.input


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_a_request_passes_with_its_bytes(recording: Recording) -> None:
    """But for the model and, where a budget asks for it, the limit."""
    from tollway.providers.dialects.dialect import Edits  # noqa: PLC0415 - of this test alone

    asked = call(recording)
    edited = DIALECT.edit(asked, Edits(model="other"))
    assert edited == asked.body.replace(
        msgspec.json.encode(asked.model), b'"other"', 1
    ) or json.loads(edited) == {**json.loads(asked.body), "model": "other"}
    limited = json.loads(DIALECT.edit(asked, Edits(model=asked.model, output_limit=7)))
    assert limited == {**json.loads(asked.body), "max_output_tokens": 7}
