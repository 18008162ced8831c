"""Whatever an answer's framing and coding, and wherever it is cut, its bytes arrive the same."""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Sequence

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from transports import ask, whole
from upstreams import Step, answer, chunked, drips, eventually, floods, reads, says, upstream, waits

from tollway.providers.errors import UpstreamBroke
from tollway.providers.http.answer import BUFFER, HttpAnswer
from tollway.providers.http.client import HttpTransport
from tollway.providers.http.inflate import STEP
from tollway.providers.transport import Request, Transport

BODY = b'{"choices": [{"message": {"content": "h\xc3\xa9llo"}}]}'
RAW_DEFLATE = zlib.compressobj(wbits=-15)


async def fetch(transport: HttpTransport, *steps: Step, ending: Sequence[Step] = ()) -> bytes:
    """Return the body that a script's answer gives."""
    async with upstream([reads(), *steps, *ending]) as server:
        return await whole(await transport.send(ask(server.url)))


def test_the_client_is_a_transport() -> None:
    """The gate knows the Protocol alone."""
    client: Transport = HttpTransport()
    assert client


async def test_a_whole_answer_in_one_packet_is_there_without_waiting(
    transport: HttpTransport,
) -> None:
    """The common case: status, headers and body in one read, the connection free at once."""
    async with upstream([reads(), says(answer(BODY, "X-Name: Value", "X-Name: 2"))]) as server:
        got = await transport.send(ask(server.url, ("Content-Type", "application/json")))
        assert transport.idle_connections == 1 or transport.open_connections == 0
        assert got.status == 200
        assert got.headers[:2] == [("X-Name", "Value"), ("X-Name", "2")]
        assert await whole(got) == BODY
        await got.close()
        await got.close()
    assert server.requests == [
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        + f"Host: 127.0.0.1:{server.port}\r\n".encode()
        + b"Content-Type: application/json\r\nAccept-Encoding: identity\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    ]


async def test_chunks_and_trailers_are_undone(transport: HttpTransport) -> None:
    """Chunk sizes, extensions and trailers never show in the body."""
    said = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: no\r\n\r\n"
    )
    async with upstream([reads(), says(said), reads(), says(answer(b"2"))]) as server:
        got = await transport.send(ask(server.url))
        assert await whole(got) == b"hello!"
        assert [name for name, _ in got.headers] == ["Transfer-Encoding"]
        assert await whole(await transport.send(ask(server.url))) == b"2"
        assert server.connections == 1


async def test_a_body_may_run_until_the_connection_closes(transport: HttpTransport) -> None:
    """Without length and chunks the close is the end, and no fault."""
    assert await fetch(transport, says(b"HTTP/1.1 200 OK\r\n\r\nab"), drips([b"c", b"d"])) == (
        b"abcd"
    )


async def test_http_1_0_closes_after_its_answer(transport: HttpTransport) -> None:
    """Its connection is not used again, even when the server leaves it open."""
    go = asyncio.Event()
    said = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with upstream([reads(), says(said), waits(go)]) as server:
        for _ in range(2):
            assert await whole(await transport.send(ask(server.url))) == b"hi"
        assert server.connections == 2


async def test_interim_answers_are_passed_over(transport: HttpTransport) -> None:
    """100 and 103 come before the answer; they are not it."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    async with upstream([reads(), drips([interim[:30], interim[30:], answer(BODY)])]) as server:
        got = await transport.send(ask(server.url))
        assert got.status == 200
        assert "Link" not in dict(got.headers)
        assert await whole(got) == BODY


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_some_statuses_have_no_body(transport: HttpTransport, status: str) -> None:
    """Their headers may state a length all the same."""
    said = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n".encode()
    if status.startswith("204"):
        said = f"HTTP/1.1 {status}\r\n\r\n".encode()
    async with upstream([reads(), says(said), reads(), says(answer(b"2"))]) as server:
        assert await whole(await transport.send(ask(server.url))) == b""
        assert await whole(await transport.send(ask(server.url))) == b"2"
        assert server.connections == 1


async def test_the_answer_to_head_has_no_body(transport: HttpTransport) -> None:
    """Its Content-Length tells of a body that never comes."""
    said = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\n"
    async with upstream([reads(), says(said), reads()]) as server:
        asked = Request(url=server.url, headers=(), method="HEAD")
        assert await whole(await transport.send(asked)) == b""
        assert b"Content-Length" not in server.requests[0]


async def test_a_redirect_is_an_answer(transport: HttpTransport) -> None:
    """Following one would carry a provider's key to wherever the provider says."""
    async with upstream([reads(), says(answer(b"", "Location: /x", status="307 Moved"))]) as server:
        got = await transport.send(ask(server.url))
        assert (got.status, await whole(got)) == (307, b"")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("Deflate", RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush()),
        ("identity", BODY),
        ("UTF-8", BODY),
        ("none", BODY),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_compressed_answers_are_undone(
    transport: HttpTransport, coding: str, body: bytes, size: int
) -> None:
    """In pieces of any size, and `deflate` in both its meanings."""
    said = answer(body, f"Content-Encoding: {coding}")
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    assert await fetch(transport, drips(pieces)) == BODY


async def test_an_empty_body_is_whole_whatever_its_coding(transport: HttpTransport) -> None:
    """Error answers often keep the header and lose the body."""
    assert await fetch(transport, says(answer(b"", "Content-Encoding: gzip"))) == b""


async def test_a_compressed_body_expands_in_bounded_steps(transport: HttpTransport) -> None:
    """A piece never exceeds one step, so memory stays flat however far it expands."""
    plain = bytes(range(256)) * 8192
    async with upstream(
        [reads(), says(answer(gzip.compress(plain, mtime=0), "Content-Encoding: gzip"))]
    ) as server:
        got = await transport.send(ask(server.url))
        pieces = [piece async for piece in got.chunks()]
    assert max(map(len, pieces)) <= STEP
    assert b"".join(pieces) == plain


async def test_a_bomb_is_refused(transport: HttpTransport) -> None:
    """A body that expands a thousandfold is made to fill memory; 100 MB of zeros do not arrive."""
    bomb = gzip.compress(bytes(100_000_000), compresslevel=9)
    got = 0
    async with upstream([reads(), says(answer(bomb, "Content-Encoding: gzip"))]) as server:
        answered = await transport.send(ask(server.url))
        with pytest.raises(UpstreamBroke, match="expands more than 200 times") as caught:
            async for piece in answered.chunks():
                got += len(piece)
        assert caught.value.sent
    assert got < 8_000_000


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(gzip.compress(BODY, mtime=0)[:-4], "Content-Encoding: gzip"), "compressed half"),
        (answer(zlib.compress(BODY)[:1], "Content-Encoding: deflate"), "compressed half"),
        (answer(b"not gzip at all", "Content-Encoding: gzip"), "compressed body is damaged"),
        (answer(zlib.compress(BODY) + b"x", "Content-Encoding: deflate"), "behind its end"),
        (answer(BODY, "Content-Encoding: br"), "in a way that the gateway did not ask for"),
        (answer(BODY, "Content-Encoding: gzip, gzip"), "did not ask for"),
        (answer(BODY, "Content-Encoding: gzip", "Content-Encoding: gzip"), "did not ask for"),
    ],
)
async def test_a_body_that_cannot_be_decompressed_is_a_fault(
    transport: HttpTransport, said: bytes, words: str
) -> None:
    """Half a body must never pass for a whole one."""
    async with upstream([reads(), says(said)]) as server:
        with pytest.raises(UpstreamBroke, match=words):
            await whole(await transport.send(ask(server.url)))
    await eventually(lambda: transport.open_connections == 0)


async def test_a_caller_that_takes_compressed_answers_may_ask_for_them(
    transport: HttpTransport,
) -> None:
    """`identity` is asked for only where the caller's headers say nothing."""
    async with upstream([reads(), says(answer())]) as server:
        await whole(await transport.send(ask(server.url, ("accept-encoding", "gzip"))))
        assert b"identity" not in server.requests[0]
        assert b"accept-encoding: gzip\r\n" in server.requests[0]


async def test_a_slow_reader_makes_the_provider_wait(transport: HttpTransport) -> None:
    """What piles up is bounded; reading on brings all of it, in order."""
    piece = bytes(64 * 1024)
    async with upstream([reads(), says(b"HTTP/1.1 200 OK\r\n\r\n"), floods(piece)]) as server:
        got = await transport.send(ask(server.url))
        assert isinstance(got, HttpAnswer)
        await eventually(lambda: got.size > BUFFER)
        for _ in range(100):  # the upstream goes on trying; nothing more may come in
            await asyncio.sleep(0)
        assert got.size <= 3 * BUFFER
        seen = 0
        async for data in got.chunks():
            seen += len(data)
            if seen > 20 * BUFFER:
                break
        await got.close()
        await eventually(lambda: transport.open_connections == 0)


async def test_a_big_answer_arrives_whole_and_its_connection_is_kept(
    transport: HttpTransport,
) -> None:
    """A reader that was slow for a while has stopped and restarted the flow many times."""
    body = bytes(range(256)) * 32_768
    async with upstream([reads(), says(chunked(body)), reads(), says(answer(b"2"))]) as server:
        got = await transport.send(ask(server.url))
        assert await whole(got) == body
        assert await whole(await transport.send(ask(server.url))) == b"2"
        assert server.connections == 1


STREAM = chunked(b"data: one\n\n", b"data: tw\xc3\xa9\n\n", b"data: [DONE]\n\n", headers="A: b\r\n")
ZIPPED = answer(gzip.compress(BODY, mtime=0), "Content-Encoding: gzip", "Keep-Alive: timeout=5")


@pytest.mark.parametrize("said", [STREAM, ZIPPED, answer(BODY)], ids=["chunks", "gzip", "length"])
@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_an_answer_does_not_depend_on_where_the_network_cuts_it(
    said: bytes, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Also inside a status line, a header, a chunk size, a character."""

    async def both(cuts: set[int]) -> tuple[bytes, bytes]:
        ends = [*sorted(cuts), len(said)]
        pieces = [said[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        client = HttpTransport()
        got = await fetch(client, drips(pieces)), await fetch(client, says(said))
        await client.close()
        return got

    with asyncio.Runner(loop_factory=loop) as runner:

        @settings(max_examples=40, deadline=None)
        @given(st.sets(st.integers(1, len(said) - 1), max_size=40))
        def check(cuts: set[int]) -> None:
            cut, uncut = runner.run(both(cuts))
            assert cut == uncut

        check()
