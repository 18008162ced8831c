"""Readers tell which model answered and why it stopped, in each dialect's words."""

import msgspec
import pytest

from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import AnswerReader
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.sse import Splitter

SAID: dict[str, dict[str, object]] = {
    "openai_chat": {
        "model": "m-1",
        "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    },
    "anthropic_messages": {
        "id": "msg_1", "model": "m-1", "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "stop", "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "gemini": {
        "modelVersion": "m-1",
        "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "stop"}],
    },
    "openai_responses": {
        "object": "response", "model": "m-1", "status": "completed", "output": [],
    },
    "cohere": {"id": "c-1", "message": {"content": []}, "finish_reason": "stop"},
}  # fmt: skip
STREAMS: dict[str, list[dict[str, object]]] = {
    "openai_chat": [
        {"model": "m-1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]},
        {"model": "m-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ],
    "anthropic_messages": [
        {"type": "message_start", "message": {"id": "msg_1", "model": "m-1", "usage": {}}},
        {"type": "message_delta", "delta": {"stop_reason": "stop"}, "usage": {}},
    ],
    # Early models said in every chunk that they had stopped.
    "gemini": [SAID["gemini"], SAID["gemini"]],
    "openai_responses": [
        {"type": "response.created", "response": {"id": "resp_1", "model": "m-1"}},
        {"type": "response.completed", "response": SAID["openai_responses"]},
    ],
    "cohere": [
        {"type": "message-start", "id": "c-1"},
        {"type": "message-end", "delta": {"finish_reason": "stop"}},
    ],
}
MODELS = {name: "" if name == "cohere" else "m-1" for name in SAID}  # Cohere's do not say
STOPPED = {name: "completed" if name == "openai_responses" else "stop" for name in SAID}


def reader(dialect: str) -> AnswerReader:
    """Return a reader for a plain call of a dialect."""
    body = b'{"model": "m", "messages": [], "input": "", "contents": []}'
    call = Call(dialect=dialect, endpoint="chat", model="m", stream=True, body=body)
    return UPSTREAMS[dialect].dialect.reader(call, frozenset())


@pytest.mark.parametrize("dialect", SAID)
def test_a_whole_answer_names_its_model_and_its_end(dialect: str) -> None:
    """What a trace says of an answer."""
    found = reader(dialect)
    found.whole(msgspec.json.encode(SAID[dialect]))
    assert (found.model, found.finish_reasons) == (MODELS[dialect], [STOPPED[dialect]])


@pytest.mark.parametrize("dialect", STREAMS)
def test_a_stream_names_them_once(dialect: str) -> None:
    """However often a provider repeats itself."""
    found = reader(dialect)
    for said in STREAMS[dialect]:
        for event in Splitter().feed(b"data: " + msgspec.json.encode(said) + b"\n\n"):
            found.event(event)
    assert (found.model, found.finish_reasons) == (MODELS[dialect], [STOPPED[dialect]])
