"""AWS's event streams: whatever the cuts, the same messages; whatever is wrong, our error."""

import struct
from zlib import crc32

import pytest
from eventstreams import header, message
from hypothesis import given, settings
from hypothesis import strategies as st
from wire.recordings import Recording, recordings

from tollway.providers.errors import UpstreamBroke
from tollway.providers.eventstream import EXCEPTION, Splitter

STREAMS = [one for one in recordings("bedrock/*.json") if one.streamed]
BODY = min((one.body for one in STREAMS), key=len)


@pytest.mark.parametrize("recording", STREAMS, ids=lambda one: one.id)
def test_messages_do_not_depend_on_where_the_chunks_fall(recording: Recording) -> None:
    """Byte by byte, and in two pieces; the bytes of all messages are the stream's own."""
    body = recording.body[:8000]
    whole = Splitter().feed(body)
    assert (
        whole and b"".join(one.raw for one in whole) == body[: sum(len(one.raw) for one in whole)]
    )
    single = Splitter()
    assert [one for at in range(len(body)) for one in single.feed(body[at : at + 1])] == whole
    for at in range(1, len(body), max(1, len(body) // 40)):
        splitter = Splitter()
        assert splitter.feed(body[:at]) + splitter.feed(body[at:]) == whole


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    """The sums cover all of it, so that what a reader gets is what was sent."""
    body = bytearray(BODY)
    body[place] ^= change
    splitter = Splitter()
    try:
        found = splitter.feed(bytes(body))
    except UpstreamBroke as error:
        assert error.message
        return
    assert len(found) < len(Splitter().feed(BODY))  # a length that waits for more


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise_raises_nothing_but_our_own_error(noise: bytes) -> None:
    """A page of HTML, random bytes."""
    try:
        Splitter().feed(noise)
    except UpstreamBroke as error:
        assert error.message


def test_headers_of_every_kind_are_passed_over() -> None:
    """Only text is read; the others are as long as their kind says."""
    kinds = {0: b"", 1: b"", 2: b"1", 3: b"12", 4: b"1234", 5: b"12345678", 8: b"12345678"}
    others = [header(f"h{kind}", value, kind) for kind, value in kinds.items()]
    others += [header("h6", b"abc", 6), header("h9", b"0123456789abcdef", 9)]
    raw = message(b"{}", *others, header(":event-type", b"metadata"))
    (event,) = Splitter().feed(raw)
    assert (event.name, event.data, event.raw) == (b"metadata", b"{}", raw)
    with pytest.raises(UpstreamBroke):
        Splitter().feed(message(b"", b"\x01a\x63"))
    with pytest.raises(UpstreamBroke):
        Splitter().feed(message(b"", header("a", b"12345", 7)[:-2]))


def test_an_error_without_a_payload_has_its_words_in_a_header() -> None:
    """What no service foresaw is told so."""
    raw = message(
        b"",
        header(":message-type", b"error"),
        header(":error-code", b"InternalError"),
        header(":error-message", b"Oh"),
    )
    (event,) = Splitter().feed(raw)
    assert (event.name, event.data) == (EXCEPTION + b"InternalError", b'{"message": "Oh"}')


def test_a_message_of_an_impossible_size_is_refused_at_once() -> None:
    """It must not fill the memory."""
    prelude = struct.pack(">II", 2**31, 4)
    with pytest.raises(UpstreamBroke):
        Splitter().feed(prelude + struct.pack(">I", crc32(prelude)))
