"""Whatever a provider may send: readers raise nothing but errors of ours, meters nothing at all."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from translated import (
    ASKS,
    CODECS,
    answered,
    asked,
    client_call,
    codec_of,
    events,
    fold_of,
    no_request,
)
from wire.recordings import Recording

from tollway.providers.dialects.dialect import Asks
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.errors import GatewayError
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
