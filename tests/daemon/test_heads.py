"""A part of a head behind a whole request is told from the bytes, wherever they were cut."""

import asyncio
import gzip
from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import inf

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st
from shell import running, until

from tollway.daemon.connection import EdgeLimits
from tollway.daemon.heads import Behind

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
PACKED = gzip.compress(b"{}")
REQUESTS = [
    GET,
    HEAD + b"Content-Length: 0\r\n\r\n",
    HEAD + b"Content-Length: 12\r\n\r\n{ 123456789}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
    HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED,
]
BLANKS = HEAD + b"Content-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n"
PART = b"GET /healthz HTTP/1.1\r\nHost: loc"


def told(data: bytes, cuts: set[int]) -> Iterator[tuple[int, bool]]:
    """Yield how far the stream has come after each piece, and what is told then."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        behind = Behind()
        ends = sorted({cut for cut in cuts if 0 < cut < len(data)} | {len(data)})
        begun = False
        for begin, end in pairwise([0, *ends]):
            messages, _, _ = parser.feed_data(data[begin:end])
            begun = begun or bool(messages)
            if begun:  # before that a connection has its first head's time
                yield end, behind.feed(data[begin:end], messages[-1] if messages else None)
    finally:
        loop.close()


@given(st.lists(st.sampled_from(REQUESTS), min_size=1), st.sets(st.integers(1, 1000)))
def test_what_is_behind_does_not_depend_on_where_the_pieces_are_cut(
    requests: list[bytes], cuts: set[int]
) -> None:
    """The network may cut a stream anywhere, also inside a blank line."""
    whole = b"".join(requests)
    *_, (_, half) = told(whole, cuts)
    assert not half
    for length in (1, 5, len(PART)):
        *_, (_, half) = told(whole + PART[:length], cuts)
        assert half


@given(st.lists(st.sampled_from([*REQUESTS, BLANKS]), min_size=1), st.sets(st.integers(1, 1000)))
def test_nobody_between_two_requests_is_taken_for_one_who_has_begun_the_next(
    requests: list[bytes], cuts: set[int]
) -> None:
    """He would be cut off sooner than he may expect; bodies may hold blank lines too."""
    ends = {0, *accumulate(map(len, requests))}
    heads = [
        range(end + 1, end + one.index(b"\r\n\r\n") + 4)
        for end, one in zip(sorted(ends), requests, strict=False)
    ]
    for at, half in told(b"".join(requests), cuts):
        assert not half or any(at in head for head in heads)


SLOW = EdgeLimits(head_s=0.05, sweep_s=0.01)


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_head_that_begins_with_another_request_and_never_ends_is_cut_off(
    request_: bytes,
) -> None:
    """It has a head's time, from when all before it was answered, not an idle connection's."""
    async with running(limits=SLOW) as daemon:
        client = await daemon.connect()
        await client.send(request_ + PART)
        assert (await client.answer()).status in (200, 400)
        assert (await client.all()).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("request_", REQUESTS[2:])
async def test_a_head_that_begins_with_the_end_of_a_body_is_cut_off_too(request_: bytes) -> None:
    """The request before it came in two pieces."""
    async with running(limits=SLOW) as daemon:
        client = await daemon.connect()
        await client.send(request_[:-3])
        connections = daemon.server.connections
        await until(lambda: any(one.idle_s(inf) < 0 for one in connections.open))
        await client.send(request_[-3:] + PART)
        assert (await client.answer()).status in (200, 400)
        assert (await client.all()).startswith(b"HTTP/1.1 408")


async def test_a_client_that_has_asked_and_no_more_has_the_time_between_two_requests() -> None:
    """Whatever it asked; who makes way for another daemon sees that it waits for nothing."""
    async with running() as daemon:
        client = await daemon.connect()
        connections = daemon.server.connections
        for one in REQUESTS:
            await client.send(one)
            assert (await client.answer()).status in (200, 400)
            await until(lambda: all(each.idle_s(inf) > 0 for each in connections.open))
            assert [each.has_asked for each in connections.open] == [True]
        client.close()
