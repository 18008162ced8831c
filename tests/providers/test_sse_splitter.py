"""The splitter: no byte is lost or changed, and it does not care where the chunks fall."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.sse import Event, Splitter

# Pieces that collide in every way: line ends of all kinds, a character of several bytes, a BOM.
PIECES = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"data", b":", b" ", b"x", b"event: error", "é".encode()),
        *(b"data: ", b"\xef\xbb\xbf", b": note", b"data: {}\n\n", b"data: [DONE]\r\n\r\n"),
    ]
)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


def split(*chunks: bytes, most: int | None = None) -> tuple[list[Event], bytes]:
    """Feed a splitter; return its events and what is left."""
    splitter = Splitter() if most is None else Splitter(most)
    return [event for chunk in chunks for event in splitter.feed(chunk)], splitter.rest()


def pieces(stream: bytes, cuts: set[int]) -> list[bytes]:
    """Cut a stream at the given places."""
    marks = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
    return [stream[a:b] for a, b in pairwise(marks)]


@given(STREAMS, st.sets(st.integers(1, 200)))
def test_no_byte_is_lost_added_or_changed(stream: bytes, cuts: set[int]) -> None:
    """The raw bytes of all events and the rest behind them are the input."""
    events, rest = split(*pieces(stream, cuts))
    assert b"".join(event.raw for event in events) + rest == stream


@given(STREAMS, st.sets(st.integers(1, 200)))
def test_events_do_not_depend_on_where_the_chunks_fall(stream: bytes, cuts: set[int]) -> None:
    """The network may cut a stream anywhere: in a character, between CR and LF."""
    assert split(*pieces(stream, cuts)) == split(stream)


@given(STREAMS, st.sets(st.integers(1, 200)), st.integers(4, 30))
def test_an_event_too_large_to_keep_passes_in_pieces(
    stream: bytes, cuts: set[int], most: int
) -> None:
    """Past the limit nothing is read and nothing is lost, and no more than the limit is kept."""
    splitter = Splitter(most)
    out = b""
    for chunk in pieces(stream, cuts):
        for event in splitter.feed(chunk):
            out += event.raw
            assert event.data is None or not event.cut
        assert len(splitter.rest()) <= most
    assert out + splitter.rest() == stream


def test_an_event_behind_a_large_one_is_read_again() -> None:
    """Reading starts again at the first blank line behind the event that was let through."""
    events, rest = split(b"data: " + b"x" * 50, b"yy\n", b"\ndata: small\n\n", most=20)
    assert [event.data for event in events if not event.cut] == [b"small"]
    assert rest == b""


def test_every_line_ending_ends_an_event() -> None:
    """LF, CRLF and CR are line ends by the standard; Gemini and Perplexity send CRLF."""
    for end in (b"\n", b"\r\n", b"\r"):
        stream = b"data: 1" + end + end + b"data: 2" + end + end
        assert [event.data for event in split(stream)[0]] == [b"1", b"2"], end


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    """Holding an event back until the next chunk would delay every token by one."""
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        assert len(split(b"data: 1" + end)[0]) == 1, end


def test_data_lines_are_joined_and_comments_hold_none() -> None:
    """The standard: data lines join with newlines, one leading space goes, comments are noise."""
    stream = b": OPENROUTER PROCESSING\n\nevent: error\ndata:a\ndata: b\ndata\nid: 7\n\n"
    comment, event = split(stream)[0]
    assert (comment.data, comment.name) == (None, None)
    assert (event.data, event.name) == (b"a\nb\n", b"error")


def test_a_byte_order_mark_is_passed_on_but_not_read() -> None:
    """It may stand at the very beginning, and only there."""
    stream = b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n"
    events = split(stream)[0]
    assert [event.data for event in events] == [b"1", None]
    assert b"".join(event.raw for event in events) == stream


def test_what_lacks_its_blank_line_is_the_rest() -> None:
    """Some servers close right behind the last line; the gate reads the rest as an event."""
    events, rest = split(b"data: 1\n\ndata: [DONE]\n")
    assert ([event.data for event in events], rest) == ([b"1"], b"data: [DONE]\n")
    splitter = Splitter()
    splitter.feed(b"data: [DONE]")
    assert splitter.feed(b"\n\n")[0].data == b"[DONE]"


@given(st.lists(st.dictionaries(st.text(), st.text()), max_size=5), st.sets(st.integers(1, 400)))
def test_json_in_events_comes_back(payloads: list[dict[str, str]], cuts: set[int]) -> None:
    """Whatever a provider writes as one line of JSON is read as it was written."""
    stream = b"".join(
        b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"
        for payload in payloads
    )
    events, _ = split(*pieces(stream, cuts))
    assert [json.loads(event.data or b"") for event in events] == payloads
