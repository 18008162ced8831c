"""A connection is used again only where both sides agree on where the next answer begins."""

import asyncio
import os
import socket

import pytest
from transports import ask, whole
from upstreams import (
    Peer,
    Upstream,
    answer,
    chunked,
    eventually,
    notes,
    reads,
    resets,
    says,
    stalls,
    upstream,
    waits,
)

from tollway.providers.errors import UpstreamBroke
from tollway.providers.http.client import HttpTransport
from tollway.providers.http.portions import InPortions
from tollway.providers.transport import Progress, Request

OK = [reads(), says(answer(b"ok"))]


async def call(transport: HttpTransport, server: Upstream) -> bytes:
    """Make one call, and return its body."""
    return await whole(await transport.send(ask(server.url)))


async def test_a_connection_is_used_again(transport: HttpTransport) -> None:
    """One connection serves calls that follow each other, chunked ones too."""
    script = [*OK, reads(), says(chunked(b"o", b"k")), *OK, stalls()]
    async with upstream(script) as server:
        for _ in range(3):
            assert await call(transport, server) == b"ok"
            assert transport.idle_connections == 1
        assert server.connections == 1


async def test_an_answer_that_no_one_reads_frees_its_connection_all_the_same(
    transport: HttpTransport,
) -> None:
    """Once the last byte is here the connection has no more to do with it."""
    async with upstream([*OK, *OK, stalls()]) as server:
        first = await transport.send(ask(server.url))
        assert await call(transport, server) == b"ok"
        assert await whole(first) == b"ok"
        assert server.connections == 1


async def test_the_youngest_connection_is_used_first(transport: HttpTransport) -> None:
    """So that the others may grow old and close, and the rest stays warm."""
    go = asyncio.Event()
    script = [reads(), waits(go), says(answer(b"ok")), *OK * 5, stalls()]
    async with upstream(script) as server:
        both = [asyncio.create_task(call(transport, server)) for _ in range(2)]
        await eventually(lambda: len(server.requests) == 2)
        go.set()
        await asyncio.gather(*both)
        assert transport.idle_connections == 2
        for _ in range(5):
            await call(transport, server)
        assert transport.idle_connections == server.connections == 2


async def test_only_so_many_connections_are_kept() -> None:
    """Those beyond the limit close when their answer is whole."""
    transport = HttpTransport(idle_per_place=1)
    go = asyncio.Event()
    async with upstream([reads(), waits(go), says(answer(b"ok")), stalls()]) as server:
        calls = [asyncio.create_task(call(transport, server)) for _ in range(3)]
        await eventually(lambda: len(server.requests) == 3)
        go.set()
        await asyncio.gather(*calls)
        await eventually(lambda: transport.open_connections == transport.idle_connections == 1)
    await transport.close()


async def test_an_idle_connection_closes_by_itself() -> None:
    """After its time, without a task that waits for it."""
    transport = HttpTransport(idle_keep_s=0.05)
    async with upstream([*OK, stalls()]) as server:
        assert await call(transport, server) == b"ok"
        assert transport.idle_connections == 1
        await server.hung_up.wait()
        await eventually(lambda: transport.open_connections == 0)
    await transport.close()


async def test_a_connection_is_kept_no_longer_than_the_provider_says(
    transport: HttpTransport,
) -> None:
    """`Keep-Alive: timeout=0` leaves no time at all."""
    said = says(answer(b"ok", "Connection: keep-alive", "Keep-Alive: timeout=0, max=5"))
    async with upstream([reads(), said, stalls()]) as server:
        assert await call(transport, server) == b"ok"
        assert transport.idle_connections == 0
        await server.hung_up.wait()


async def test_a_provider_that_asks_to_close_is_obeyed(transport: HttpTransport) -> None:
    """`Connection: close` ends the connection with the answer."""
    said = says(answer(b"ok", "Connection: close"))
    async with upstream([reads(), said, stalls()]) as server:
        assert await call(transport, server) == b"ok"
        await server.hung_up.wait()
        await eventually(lambda: transport.open_connections == 0)


@pytest.mark.parametrize("end", [[], [resets()]], ids=["closed", "reset"])
async def test_a_connection_that_died_while_idle_is_not_used(
    transport: HttpTransport, end: list[object]
) -> None:
    """The provider's close is noticed when it comes, and once more right before use."""
    script = [*OK, *([resets()] if end else [])]
    async with upstream(script) as server:
        assert await call(transport, server) == b"ok"
        await eventually(lambda: transport.idle_connections == 0)
        assert await call(transport, server) == b"ok"
        assert server.connections == 2


async def test_a_close_that_the_loop_has_not_seen_yet_is_seen_before_use(
    transport: HttpTransport,
) -> None:
    """Close and next call in the same turn of the loop: a poll shows what no callback told."""
    peers: list[Peer] = []

    async def introduces(peer: Peer) -> None:
        peers.append(peer)

    async with upstream([*OK, introduces, stalls()]) as server:
        assert await call(transport, server) == b"ok"
        await eventually(lambda: bool(peers))
        # Straight to the kernel; `send` runs up to its poll without giving the loop a turn.
        with socket.socket(fileno=os.dup(peers[0].writer.get_extra_info("socket").fileno())) as raw:
            raw.shutdown(socket.SHUT_WR)
        assert transport.idle_connections == 1
        assert await call(transport, server) == b"ok"
        assert server.connections == 2


async def test_bytes_that_nobody_asked_for_close_an_idle_connection(
    transport: HttpTransport,
) -> None:
    """They would be taken for the answer to the next call: another caller's, perhaps."""
    go = asyncio.Event()
    planted = says(answer(b"planted"))
    async with upstream([*OK, waits(go), planted, stalls()], [*OK, stalls()]) as server:
        assert await call(transport, server) == b"ok"
        go.set()
        await eventually(lambda: transport.idle_connections == 0)
        assert await call(transport, server) == b"ok"


# The second is as long as what is taken at once: what is planted waits when it is whole.
@pytest.mark.parametrize(
    "body", [b"ok", b"o" * (InPortions.PORTION - len(answer(b"o" * 8000)) + 8000)]
)
@pytest.mark.parametrize("extra", [answer(b"planted"), b"x", b"HTTP/1.1 101 X\r\n\r\n"])
async def test_bytes_behind_an_answer_close_its_connection(
    transport: HttpTransport, extra: bytes, body: bytes
) -> None:
    """The answer itself is whole by its own framing, and is delivered."""
    async with upstream([reads(), says(answer(body) + extra), stalls()]) as server:
        assert await call(transport, server) == body
        assert await call(transport, server) == body
        assert server.connections == 2


async def race(transport: HttpTransport, method: str, progress: Progress) -> Upstream:
    """Let a provider close a kept connection upon the next request, without a word."""
    async with upstream([*OK, reads()], [*OK, stalls()]) as server:
        assert await call(transport, server) == b"ok"
        asked = Request(url=server.url, headers=(), method=method, progress=progress)
        await whole(await transport.send(asked))
        return server


async def test_a_post_on_a_connection_that_closes_is_not_repeated(
    transport: HttpTransport,
) -> None:
    """It was sent: whether it was read, and is billed, nobody knows (RFC 9110, 9.2.2)."""
    progress = Progress()
    with pytest.raises(UpstreamBroke, match="closed the connection before it answered") as caught:
        await race(transport, "POST", progress)
    assert caught.value.sent
    assert progress.sent
    await eventually(lambda: transport.open_connections == 0)


async def test_a_get_on_a_connection_that_closes_is_sent_once_more(
    transport: HttpTransport,
) -> None:
    """Asking twice for a list of models changes nothing."""
    server = await race(transport, "GET", Progress())
    assert [request[:4] for request in server.requests] == [b"POST", b"GET ", b"GET "]


async def test_a_get_is_not_repeated_on_a_fresh_connection(transport: HttpTransport) -> None:
    """A server that closes at every request is broken, not idle."""
    async with upstream([reads()]) as server:
        with pytest.raises(UpstreamBroke):
            await transport.send(Request(url=server.url, headers=(), method="GET"))
        assert server.connections == 1


async def test_an_early_refusal_ends_a_large_request(transport: HttpTransport) -> None:
    """A 413 arrives though the body is still being written; the connection is closed then."""
    early = says(answer(b"too much", status="413 Content Too Large"))

    async def reads_some(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")

    async with upstream([reads_some, early, stalls()]) as server:
        got = await transport.send(ask(server.url, body=bytes(50_000_000)))
        assert got.status == 413
        assert await whole(got) == b"too much"
        await server.hung_up.wait()
        await eventually(lambda: transport.open_connections == 0)


async def test_an_early_answer_lets_the_request_go_on(transport: HttpTransport) -> None:
    """A 200 may begin before the body is in; what is left of it is still wanted."""
    body = bytes(range(256)) * 40_000
    begun = asyncio.Event()

    async def answers_early(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await begun.wait()
        assert await peer.reader.readexactly(len(body)) == body
        await peer.say(b"whole")

    async with upstream([answers_early, *OK, stalls()]) as server:
        got = await transport.send(ask(server.url, body=body))
        begun.set()
        assert await whole(got) == b"whole"
        assert await call(transport, server) == b"ok"
        assert server.connections == 1


async def test_a_large_body_arrives_whole_at_a_slow_reader(transport: HttpTransport) -> None:
    """Pieces follow the socket's flow; the answer waits for the last of them."""
    body = bytes(range(256)) * 40_000
    reached, go = asyncio.Event(), asyncio.Event()
    script = [notes(reached), waits(go), *OK, stalls()]
    async with upstream(script) as server:
        task = asyncio.create_task(transport.send(ask(server.url, body=body)))
        await reached.wait()
        go.set()
        assert await whole(await task) == b"ok"
        assert server.requests[0].endswith(body)
        assert transport.idle_connections == 1
