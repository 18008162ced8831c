"""Events that differ in their text alone are known again, and never taken for what they are not."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.recordings import recordings

from tollway.providers.canon import Call
from tollway.providers.dialects.alike import Alike
from tollway.providers.dialects.dialect import AnswerReader
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.http.framing import SIZE_LINES, size_line
from tollway.providers.sse import Event, Splitter

USED = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TEXT = st.sampled_from(
    ["", "a", " b", "delta", "content", "é", "\n", "\r", '"', "\\", "\x01", '","usage":1,"a":"']
)
ENDS = st.sampled_from(["\n\n", "\n\n", "\r\n\r\n"])
PADDING = st.sampled_from(["", "", " ", "    "])


def fresh(dialect: str) -> AnswerReader:
    """Return a reader that has seen nothing."""
    call = Call("chat", dialect, "m", b"{}", stream=True, wants_usage=True)
    return DIALECTS[dialect].dialect.reader(call, frozenset())


def written(said: object, spaced: bool) -> str:
    """Return JSON as providers write it, with or without spaces."""
    separators = (", ", ": ") if spaced else (",", ":")
    return json.dumps(said, separators=separators, ensure_ascii=False)


def openai(field: str, text: str, other: bool, spaced: bool, end: str, padding: str) -> bytes:
    """Return an event of a chat completion; `other` has more than a text in it."""
    choice: dict[str, Any] = {"index": 0, "delta": {field: text}, "finish_reason": None}
    said: dict[str, Any] = {"id": "c", "choices": [choice]}
    if other:
        choice["finish_reason"], said["usage"] = "stop", USED
    return f"data: {written(said, spaced)}{padding}{end}".encode()


def anthropic(field: str, text: str, other: bool, spaced: bool, end: str, padding: str) -> bytes:
    """Return an event of a message, padded as Anthropic does it, or one with counts."""
    said: dict[str, Any] = {
        **{"type": "content_block_delta", "index": 0},
        "delta": {"type": f"{field}_delta", field: text},
    }
    if other:
        said = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": len(text)}}
    data = written(said, spaced)
    return f"event: {said['type']}\ndata: {data[:-1]}{padding}{data[-1]}{end}".encode()


def streams(event: Callable[..., bytes], fields: Sequence[str]) -> st.SearchStrategy[list[bytes]]:
    """Return lists of events that are much alike."""
    other = st.sampled_from([False, False, False, True])
    made = st.builds(event, st.sampled_from(fields), TEXT, other, st.booleans(), ENDS, PADDING)
    return st.lists(made, max_size=30)


def check(dialect: str, events: Sequence[Event]) -> None:
    """Compare one reader of a stream with readers that each see a single event of it."""
    one = fresh(dialect)
    produced = 0
    for event in events:
        alone = fresh(dialect)
        if one.alike is not None:
            framed = b"%x\r\n%b\r\n" % (len(event.raw), event.raw)
            line = size_line(len(framed))
            assert framed.startswith(line)
            assert one.alike.text_in_chunk(framed, line) == one.alike.text(event.raw)
        assert one.event(event) == alone.event(event)
        produced += alone.produced
        assert one.produced == produced
        assert one.ended or one.failed or not alone.ended
        assert one.usage == alone.usage or alone.usage is None
        assert bool(one.failed) >= bool(alone.failed)


@given(streams(openai, ["content", "content", "reasoning_content", "refusal"]))
def test_a_chat_completion_is_counted_as_its_events_one_by_one(events: list[bytes]) -> None:
    """Texts with quotes, escapes, line ends and words of the format; reports in between."""
    check("openai_chat", Splitter().feed(b"".join(events)))


@given(streams(anthropic, ["text", "text", "thinking", "partial_json"]))
def test_a_message_is_counted_as_its_events_one_by_one(events: list[bytes]) -> None:
    """Padded before the last brace and behind it, too."""
    check("anthropic_messages", Splitter().feed(b"".join(events)))


@pytest.mark.parametrize(
    ("dialect", "api"),
    [("openai_chat", ".chat"), ("anthropic_messages", ".messages")],
)
def test_recorded_streams_are_counted_as_their_events_one_by_one(dialect: str, api: str) -> None:
    """Those of every provider that speaks the dialect, padding and all."""
    found = [one for one in recordings() if one.api.endswith(api) and one.streamed]
    assert len(found) > 10
    for stream in found:
        check(dialect, [event for event in Splitter().feed(stream.body) if event.data])


@pytest.mark.parametrize(
    ("dialect", "event", "field"),
    [("openai_chat", openai, "content"), ("anthropic_messages", anthropic, "text")],
)
def test_an_event_that_is_known_again_is_not_decoded(
    dialect: str, event: Callable[..., bytes], field: str
) -> None:
    """What is not even JSON around the known text is decoded, and counts with all of it."""
    reader = fresh(dialect)

    def see(raw: bytes) -> None:
        (one,) = Splitter().feed(raw)
        reader.event(one)

    see(event(field, "Hello", False, False, "\n\n", ""))
    assert reader.alike is not None
    again = event(field, " world", False, False, "\n\n", "")
    assert reader.alike.text(again) == len(" world")
    see(again)
    assert reader.produced == len("Hello world")
    broken = again.replace(b"}", b"", 1)
    assert reader.alike.text(broken) == -1
    see(broken)
    assert reader.produced > len("Hello world") + len(" world")


def test_a_line_end_in_the_text_is_one_of_the_event() -> None:
    """Between the known beginning and end it would be a second line, and no text."""
    known = Alike()
    known.learn(b'data: {"text":"a"}\n\n', "a")
    assert known.text(b'data: {"text":"bc"}\n\n') == 2
    for text in (b"b\nc", b"b\rc", b"b\\", b'b"c', b"\\\\\\"):
        assert known.text(b'data: {"text":"' + text + b'"}\n\n') == -1
        framed = b'data: {"text":"' + text + b'"}\n\n\r\n'
        line = size_line(len(framed) + 4)
        assert known.text_in_chunk(line + framed, line) == -1
    for framed, text_size in {
        b'15\r\ndata: {"text":"bc"}\n\n\r\n': 2,
        b'14\r\ndata: {"text":"b"}\n\n\r\n': 1,
        b'15\r\ndata: {"text":"bc"}\n\n  ': -1,
        b'15\r\ndata: {"text":"bc" }\n\n\r\n': 2,
        b'15\r\ndata: {"text":"bc" }\n\n  ': -1,
    }.items():
        assert known.text_in_chunk(framed, framed[:4]) == text_size
    assert known.text_in_chunk(b'16\r\ndata: {"text":"bc"}\n\n\r\n', b"15\r\n") == -1


def test_an_escape_counts_as_what_it_stands_for() -> None:
    """Code and lists are full of line ends and quotes; four hex digits are left to the decoder."""
    known = Alike()
    known.learn(b'data: {"text":"a"}\n\n', "a")
    for text, size in {b"b\\nc": 3, b'\\"': 1, b"\\\\n": 2, b"\\u00e9": -1, b"\\x": -1}.items():
        event = b'data: {"text":"' + text + b'"}\n\n'
        framed = event + b"\r\n"
        line = size_line(len(framed) + 4)
        assert (known.text(event), known.text_in_chunk(line + framed, line)) == (size, size)


def test_nothing_is_known_before_it_was_learned() -> None:
    """Nor are bytes that stand for none: whatever an event ends with."""
    for end in (b"\0", b"", b"\r\n", b"\0\r\n", b'"\0\r\n'):
        event = b'data: {"text":"bc"}\n\n' + end
        assert Alike().text(event) == -1
        assert Alike().text_in_chunk(b"15\r\n" + event, b"15\r\n") == -1


def test_blanks_within_a_string_are_no_padding() -> None:
    """Behind the text another string may stand, and say another thing with a blank more."""
    known = Alike()
    known.learn(b'data: {"text":"a","why":"no end"}\n\n', "a")
    assert known.text(b'data: {"text":"b","why":"no end"}\n\n') == 1
    assert known.text(b'data: {"text":"b","why":"noend"}\n\n') == -1


def test_where_no_two_are_alike_none_is_learned() -> None:
    """Random letters in each event would be compared for nothing."""
    known = Alike()
    for number in range(20):
        known.learn(b'data: {"text":"a","pad":"%d"}\n\n' % number, "a")
    assert known.hopeless
    assert known.text(b'data: {"text":"a","pad":"19"}\n\n') == -1


def test_a_chunk_s_length_tells_its_first_line() -> None:
    """With its framing; what has a length that no chunk has begins with no such line."""
    lengths = set()
    for size in (*range(1, 5000), 65_535, 65_536, 2**24):
        framed = len(b"%x\r\n" % size) + size + 2
        lengths.add(framed)
        assert size_line(framed) == b"%x\r\n" % size
    assert {size for size in range(4000) if size_line(size) == b"\0"} == (
        set(range(4000)) - lengths
    )
    assert all(SIZE_LINES[length] == size_line(length) for length in range(len(SIZE_LINES)))
