"""Chunks that differ in their text alone are known again, and never taken for what they are not."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from wire.recordings import recordings

from tollway.providers.canon import Call
from tollway.providers.dialects.openai_chat import DIALECT
from tollway.providers.dialects.openai_read import Reader
from tollway.providers.sse import Event, Splitter

CALL = Call("chat", DIALECT.name, "m", b"{}", stream=True, wants_usage=True)
USED = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TEXT = st.sampled_from(
    ["", "a", " b", "delta", "content", "é", "\n", '"', "\\", '","usage":1,"a":"']
)


def fresh() -> Reader:
    """Return a reader that has seen nothing."""
    return Reader(CALL, frozenset())


def chunk(field: str, text: str, finish: str | None, usage: Any, spaced: bool) -> bytes:
    """Return a chunk as providers write it, with or without spaces."""
    said: dict[str, Any] = {"id": "c", "choices": [{"index": 0, "delta": {field: text}}]}
    said["choices"][0]["finish_reason"] = finish
    if usage:
        said["usage"] = usage
    separators = (", ", ": ") if spaced else (",", ":")
    return json.dumps(said, separators=separators, ensure_ascii=False).encode()


chunks = st.lists(
    st.builds(
        chunk,
        st.sampled_from(["content", "content", "reasoning_content", "refusal"]),
        TEXT,
        st.sampled_from([None, None, None, "stop"]),
        st.sampled_from([None, None, None, USED]),
        st.booleans(),
    ),
    max_size=30,
)


def check(data: list[bytes]) -> None:
    """Compare one reader of a stream with readers that each see a single event of it."""
    one = fresh()
    produced = 0
    for each in data:
        alone = fresh()
        event = Event(b"data: " + each + b"\n\n", each)
        assert one.event(event) == alone.event(event)
        produced += alone.produced
        assert one.produced == produced
        assert one.ended or one.failed or not alone.ended
        assert one.usage == alone.usage or alone.usage is None
        assert bool(one.failed) >= bool(alone.failed)


@given(chunks)
def test_a_stream_is_counted_as_its_chunks_one_by_one(data: list[bytes]) -> None:
    """Texts with quotes, escapes and words of the format; ends and reports in between."""
    check(data)


def test_recorded_streams_are_counted_as_their_chunks_one_by_one() -> None:
    """Those of every provider that speaks the dialect, padding and all."""
    streams = [one for one in recordings() if one.endpoint == "chat" and one.streamed]
    assert len(streams) > 20
    for stream in streams:
        check([event.data for event in Splitter().feed(stream.body) if event.data])


def test_a_chunk_that_is_known_again_is_not_decoded() -> None:
    """What is not even JSON behind the known beginning is decoded, and counts with all of it."""
    reader = fresh()
    for text in ("Hello", " world"):
        data = chunk("content", text, None, None, spaced=False)
        reader.event(Event(b"", data))
    assert reader.produced == len("Hello world")
    broken = chunk("content", "x", None, None, spaced=False)[:-1]
    reader.event(Event(b"", broken))
    assert reader.produced == len("Hello world") + len(broken)
