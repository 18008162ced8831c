"""Whatever a provider may send: readers raise nothing but errors of ours, meters nothing at all."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from translated import (
    ANTHROPIC,
    ASKS,
    CODECS,
    COHERE,
    GEMINI,
    OPENAI,
    RESPONSES,
    answered,
    asked,
    call_of,
    client_call,
    codec_of,
    events,
    fold_of,
    no_request,
)
from wire.recordings import Recording

from tollway.providers.canon import Call
from tollway.providers.conversation import Text
from tollway.providers.dialects.dialect import Asks, Codec, Facts, InUrl
from tollway.providers.dialects.table import DIALECTS, UPSTREAMS
from tollway.providers.errors import GatewayError
from tollway.providers.fold import unfold
from tollway.providers.sse import Event

KEYS = """
    type id choices delta content tool_calls function arguments name index usage error message
    content_block text thinking signature partial_json stop_reason input finish_reason logprobs
    reasoning_details annotations audio citation item response output part summary status delta
    output_index candidates parts functionCall args usageMetadata promptTokenCount finishReason
    groundingMetadata groundingChunks web citationMetadata logprobsResult chosenCandidates
    promptFeedback bytes top_logprobs incomplete_details input_tokens output_tokens citations
    sources document tool_output tool_plan billed_units contentBlockIndex toolUse inputTokens
    start reasoningContent stopReason metadata redactedContent
""".split()  # noqa: SIM905
TYPES = """
    message_start content_block_start content_block_delta content_block_stop message_delta
    message_stop error ping response.created response.output_item.added response.output_item.done
    response.output_text.delta response.output_text.annotation.added response.completed
    response.content_part.done response.incomplete response.failed
    response.function_call_arguments.delta response.reasoning_summary_text.delta message-start
    content-delta tool-call-start tool-call-delta citation-start message-end messageStart
    contentBlockStart contentBlockDelta contentBlockStop messageStop metadata exception/a
""".split()  # noqa: SIM905
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
STREAMS = st.lists(st.tuples(st.sampled_from(TYPES), SHAPES), max_size=4)
readers = pytest.mark.parametrize("codec", ASKS.values(), ids=list(ASKS))


def bodies(shapes: list[tuple[str, Any]], noise: bytes) -> list[tuple[bytes, bytes]]:
    """Return what events say, and their names, which some dialects go by."""
    found = [
        (
            msgspec.json.encode({"type": kind, **shape} if isinstance(shape, dict) else shape),
            kind.encode(),
        )
        for kind, shape in shapes
    ]
    return [*found, (noise, b"contentBlockDelta")]


@readers
@settings(max_examples=50, deadline=None)
@given(
    shapes=STREAMS,
    noise=st.binary(max_size=30),
)
def test_a_reader_raises_nothing_but_its_own_errors(
    codec: Asks, shapes: list[tuple[str, Any]], noise: bytes
) -> None:
    """Whatever a provider sends is an answer, or an error with words for a person."""
    reader = codec.events(no_request(codec), frozenset())
    for body, name in bodies(shapes, noise):
        try:
            reader.event(Event(b"data: " + body + b"\n\n", body, name))
        except GatewayError as error:
            assert error.message
        try:
            codec.events(no_request(codec), frozenset()).whole(body)
        except GatewayError as error:
            assert error.message
    fold_of(reader.end())


@readers
@settings(max_examples=50, deadline=None)
@given(
    shapes=STREAMS,
    noise=st.binary(max_size=30),
)
def test_a_meter_never_raises(codec: Asks, shapes: list[tuple[str, Any]], noise: bytes) -> None:
    """It looks over the client's shoulder: what it cannot read is the client's all the same."""
    dialect = UPSTREAMS[codec.name].dialect
    meter = dialect.reader(client_call(codec), frozenset())
    for body, name in bodies(shapes, noise):
        meter.event(Event(b"data: " + body + b"\n\n", body, name))
        dialect.reader(client_call(codec), frozenset()).whole(body)
        assert dialect.read_error(400, body).message
    assert meter.end_early() or codec.name not in CODECS


RECORDED = [one for one in answered() if len(one.body) < 30_000 and one.status == 200]


@settings(max_examples=50, deadline=None)
@given(
    recording=st.sampled_from(RECORDED),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_spoilt_answer_raises_nothing_but_our_own_errors(
    recording: Recording, places: list[tuple[float, int]]
) -> None:
    """Bytes of recorded answers changed: half characters, broken JSON, fields of other types."""
    codec = codec_of(recording)
    assert codec is not None
    body = bytearray(recording.body)
    for place, byte in places:
        body[int(place * len(body))] = byte
    said = asked(recording)
    try:
        if recording.streamed:
            fold_of(events(codec, said, recording.quirks, bytes(body)))
        else:
            codec.events(said, recording.quirks).whole(bytes(body))
    except GatewayError as error:
        assert error.message


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every value within a JSON value stands."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value[:3]))
    return [found for key, one in inner for found in [(*path, key), *places(one, (*path, key))]]


def changed(body: bytes, share: float, value: object) -> bytes:
    """Return a JSON body in which one value, so far into it, is another."""
    said = msgspec.json.decode(body)
    found = places(said)
    *path, last = found[int(share * len(found))]
    inner = said
    for key in path:
        inner = inner[key]
    inner[last] = value
    return msgspec.json.encode(said)


def written(codec: Asks, said: Any, body: bytes) -> None:
    """Read a whole answer, and write it for clients of each dialect."""
    answer = codec.events(said, frozenset()).whole(body)
    for client in CODECS.values():
        client.writer(client_call(client)).whole(answer)
        writer = client.writer(client_call(client))
        for event in unfold(answer):
            writer.event(event)
        writer.end()


OTHERS: list[Any] = [5, True, "x", None, [], {}, [5], [[]], [{}], {"a": 1}]
WHOLE = [one for one in RECORDED if not one.streamed]
ASKED = [one for one in RECORDED if codec_of(one) in CODECS.values() and len(one.request) < 20_000]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WHOLE), st.floats(0, 0.999), st.sampled_from(OTHERS))
def test_an_answer_with_a_field_of_another_type_is_an_answer_or_an_error_of_ours(
    recording: Recording, share: float, value: object
) -> None:
    """Servers differ in everything; what cannot be read is left out or told."""
    codec = codec_of(recording)
    assert codec is not None
    body = changed(recording.body, share, value)
    UPSTREAMS[codec.name].dialect.reader(client_call(codec, stream=False), frozenset()).whole(body)
    try:
        written(codec, asked(recording), body)
    except GatewayError as error:
        assert error.message


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ASKED), st.floats(0, 0.999), st.sampled_from(OTHERS))
def test_a_request_with_a_field_of_another_type_is_a_request_or_an_error_of_ours(
    recording: Recording, share: float, value: object
) -> None:
    """Whatever a client sends is bounded and written for each target, or refused in words."""
    call = call_of(recording)
    body = changed(call.body, share, value)
    dialect = DIALECTS[call.dialect].dialect
    try:
        dialect.bound(dialect.peek("chat", body, InUrl("m", recording.streamed)))
        said = CODECS[call.dialect].read_request(msgspec.structs.replace(call, body=body))
    except GatewayError as error:
        assert error.message
        return
    for target in ASKS.values():
        try:
            target.write_request(said, Facts("claude-sonnet-4-5", default_output=4096))
        except GatewayError as error:
            assert error.message


@pytest.mark.parametrize(
    ("codec", "answer"),
    [
        (RESPONSES, {"output": [{"type": ["x"]}]}),
        (RESPONSES, {"output": [{"type": "reasoning", "summary": 5}]}),
        (RESPONSES, {"output": [{}]}),
        (RESPONSES, {"output": [], "status": ["x"]}),
        (RESPONSES, {"output": [{"type": "message", "content": [{"annotations": [5]}]}]}),
        (COHERE, {"message": {}, "finish_reason": []}),
        (OPENAI, {"choices": [{"message": {"content": [{"type": "thinking", "thinking": 5}]}}]}),
        (GEMINI, {"candidates": [{"citationMetadata": "x"}]}),
        (GEMINI, {"candidates": [{"logprobsResult": {
            "chosenCandidates": [{}], "topCandidates": [{"candidates": 5}]}}]}),
    ],
)  # fmt: skip
def test_what_a_field_of_another_type_says_is_left_out(codec: Asks, answer: Any) -> None:
    """As if it were not there: the rest of the answer is good."""
    body = msgspec.json.encode(answer)
    UPSTREAMS[codec.name].dialect.reader(client_call(codec, stream=False), frozenset()).whole(body)
    written(codec, no_request(codec), body)


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (ANTHROPIC, {"messages": [{"role": "user", "content": [{"type": ["x"]}]}]}),
        (ANTHROPIC, {"messages": [{"role": "user", "content": [{"source": {"type": {}}}]}]}),
        (RESPONSES, {"input": [{"type": ["x"]}]}),
        (RESPONSES, {"input": [{"type": 5}]}),
    ],
)
def test_a_request_of_other_types_is_bounded(codec: Codec, said: dict[str, Any]) -> None:
    """What it may cost is known before anybody says what is wrong with it."""
    dialect = DIALECTS[codec.name].dialect
    body = msgspec.json.encode({"model": "m", "max_tokens": 5, **said})
    assert dialect.bound(dialect.peek("chat", body)).input > 0


def test_a_client_s_annotations_and_parts_may_be_anything() -> None:
    """They are read where they are what the API says, and nowhere else."""
    text = {"type": "output_text", "text": "a", "annotations": 5}
    body = {"input": [{"role": "assistant", "content": [text]}]}
    said = RESPONSES.read_request(Call("chat", RESPONSES.name, "m", msgspec.json.encode(body)))
    assert said.messages[0].parts == (Text("a"),)
    result = {"functionResponse": {"name": "f", "response": {"result": "a"}, "parts": 5}}
    body = {"contents": [{"parts": [result]}]}
    said = GEMINI.read_request(Call("chat", GEMINI.name, "m", msgspec.json.encode(body)))
    assert [message.role for message in said.messages] == ["tool"]
