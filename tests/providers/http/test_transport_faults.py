"""Whatever an upstream does, the caller gets the right error in bounded time, and nothing leaks."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from transports import ask, whole
from upstreams import (
    Step,
    answer,
    chunked,
    drips,
    eventually,
    floods,
    free_port,
    notes,
    reads,
    resets,
    says,
    stalls,
    upstream,
    waits,
)

from tollway.providers.errors import (
    UpstreamBroke,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tollway.providers.http.client import HttpTransport
from tollway.providers.http.connection import Connection
from tollway.providers.http.dial import first_connected
from tollway.providers.http.names import Address
from tollway.providers.transport import Progress, Request, Timeouts

NO_CONNECT = Timeouts(connect_s=0.05, first_s=30.0, idle_s=30.0)
NO_FIRST = Timeouts(connect_s=30.0, first_s=0.05, idle_s=30.0)
NO_IDLE = Timeouts(connect_s=30.0, first_s=30.0, idle_s=0.05)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


async def fault_of(transport: HttpTransport, asked: Request) -> tuple[UpstreamError, bytes]:
    """Return how a call fails, and the body that came before; afterwards nothing may be open."""
    got = b""
    try:
        answered = await transport.send(asked)
        async for piece in answered.chunks():
            got += piece
    except UpstreamError as fault:
        await eventually(lambda: transport.open_connections == 0)
        return fault, got
    raise AssertionError(f"no fault; the body was {got!r}")


@contextmanager
def full_port() -> Iterator[int]:
    """Give a port whose queue is full: the kernel lets further connections wait unanswered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        queued = [socket.socket() for _ in range(4)]
        for each in queued:
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for each in queued:
            each.close()


async def test_a_refused_connection_says_so(transport: HttpTransport) -> None:
    """The message names host and port, and nothing was sent."""
    with free_port() as port:
        asked = ask(f"http://127.0.0.1:{port}/v1?key=hidden")
        fault, _ = await fault_of(transport, asked)
    assert isinstance(fault, UpstreamUnreachable)
    assert fault.message == f"`127.0.0.1:{port}` refused the connection"
    assert fault.hint
    assert not fault.sent


async def test_all_addresses_of_a_name_are_tried(transport: HttpTransport) -> None:
    """`localhost` may stand for ::1 and 127.0.0.1, and the server listen on one of them."""
    async with upstream([reads(), says(answer(b"4"))]) as server:
        got = await transport.send(ask(f"http://localhost:{server.port}/"))
        assert await whole(got) == b"4"
    with free_port() as port:
        fault, _ = await fault_of(transport, ask(f"http://localhost:{port}/"))
    assert fault.message == f"`localhost:{port}` refused the connection"


def address(port: int) -> Address:
    """Return a loopback address as the resolver would."""
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))


async def test_the_first_address_that_connects_wins() -> None:
    """Refused and silent addresses stand in nobody's way, and winners beside it are closed."""
    loop = asyncio.get_running_loop()
    async with upstream([stalls()]) as server:
        good = address(server.port)
        with free_port() as refused, full_port() as silent:
            for others in ([], [refused], [silent], [refused, silent]):
                infos = [*map(address, others), good, good]
                (await first_connected(loop, infos)).close()
            with pytest.raises(ConnectionRefusedError):
                await first_connected(loop, [address(refused), address(refused)])
            task = asyncio.create_task(first_connected(loop, [address(silent)] * 2))
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # a socket that is left over warns, and a warning is an error


async def test_an_ipv6_address_is_called(transport: HttpTransport) -> None:
    """Brackets in the URL and in Host, none in the socket's address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with upstream([reads(), says(answer(b"6"))], host="::1") as server:
        got = await transport.send(ask(f"http://[::1]:{server.port}/"))
        assert await whole(got) == b"6"
        assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0]


async def test_a_name_that_does_not_exist_says_so(transport: HttpTransport) -> None:
    """`.invalid` resolves nowhere, by RFC 2606."""
    fault, _ = await fault_of(transport, ask("http://nowhere.invalid/"))
    assert isinstance(fault, UpstreamUnreachable)
    assert fault.message.startswith("`nowhere.invalid:80` cannot be found: ")
    assert fault.hint == "Check the name, and this machine's DNS"


async def test_an_address_without_a_way_to_it_says_so(transport: HttpTransport) -> None:
    """No TCP goes to a broadcast address; what may be wrong is named."""
    fault, _ = await fault_of(transport, ask("http://255.255.255.255/"))
    assert isinstance(fault, UpstreamUnreachable)
    assert fault.message.startswith("`255.255.255.255:80` cannot be reached: ")
    assert fault.hint == "Check the address, and this machine's network"


async def test_a_connection_that_hangs_is_given_up(transport: HttpTransport) -> None:
    """A full queue answers no SYN."""
    with full_port() as port:
        progress = Progress()
        asked = Request(
            url=f"http://127.0.0.1:{port}/", headers=(), timeouts=NO_CONNECT, progress=progress
        )
        fault, _ = await fault_of(transport, asked)
    assert isinstance(fault, UpstreamTimeout)
    assert (fault.phase, fault.sent, progress.sent) == ("connect", False, False)
    assert fault.message == f"`127.0.0.1:{port}` could not be connected to within 0.05 s"
    assert fault.hint == "Is it up, and does a firewall on the way drop the connection?"


@pytest.mark.parametrize(
    "steps",
    [
        [stalls()],
        [reads(), stalls()],
        [reads(), says(b"HTTP/1.1 200 OK\r\nX-"), stalls()],
        [reads(), says(b"HTTP/1.1 100 Continue\r\n\r\n"), stalls()],
    ],
    ids=["reads nothing", "says nothing", "half its headers", "only 100"],
)
async def test_silence_before_the_answer_is_a_time_out(
    transport: HttpTransport, steps: Sequence[Step]
) -> None:
    """`first_s` runs until the answer's own headers are whole: a drip must not outlast it."""
    async with upstream(steps) as server:
        progress = Progress()
        asked = Request(url=server.url, headers=(), timeouts=NO_FIRST, progress=progress)
        fault, _ = await fault_of(transport, asked)
        await server.hung_up.wait()
    assert isinstance(fault, UpstreamTimeout)
    assert (fault.phase, fault.sent, progress.sent) == ("first", True, True)
    assert fault.message.endswith("did not begin to answer within 0.05 s")


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (HEAD, b""),
        (HEAD + b"part", b"part"),
        (CHUNKS, b"hello"),
        (b"HTTP/1.1 200 OK\r\n\r\nopen", b"open"),
    ],
)
async def test_silence_in_the_answer_is_a_time_out(
    transport: HttpTransport, said: bytes, body: bytes
) -> None:
    """What came before is delivered first."""
    async with upstream([reads(), says(said), stalls()]) as server:
        fault, got = await fault_of(transport, ask(server.url, timeouts=NO_IDLE))
        await server.hung_up.wait()
    assert got == body
    assert isinstance(fault, UpstreamTimeout)
    assert (fault.phase, fault.sent) == ("idle", True)
    assert fault.message.endswith("fell silent for 0.05 s in the middle of its answer")


async def test_a_provider_that_reads_nothing_of_a_large_body_is_given_up(
    transport: HttpTransport,
) -> None:
    """Writing counts towards `first_s`, or a peer that never reads would hold a call for ever."""
    held = asyncio.Event()

    async def reads_nothing(_peer: object) -> None:
        await held.wait()

    async with upstream([reads_nothing]) as server:
        asked = ask(server.url, body=bytes(50_000_000), timeouts=NO_FIRST)
        fault, _ = await fault_of(transport, asked)
    assert isinstance(fault, UpstreamTimeout)
    assert fault.phase == "first"


async def test_time_in_which_our_own_loop_stood_still_is_not_the_providers(
    transport: HttpTransport,
) -> None:
    """Timers come before what can be read, when a loop goes on."""
    go = asyncio.Event()

    def stand_still() -> None:
        time.sleep(0.7)
        go.set()

    patient = Timeouts(connect_s=30.0, first_s=0.3, idle_s=30.0)
    async with upstream([reads(), waits(go), says(answer(b"late"))]) as server:
        asyncio.get_running_loop().call_later(0.05, stand_still)
        assert await whole(await transport.send(ask(server.url, timeouts=patient))) == b"late"


async def test_a_loop_that_is_late_each_time_gives_up_all_the_same(
    transport: HttpTransport,
) -> None:
    """Its own lateness is taken off once: bounded time holds on a busy machine too."""
    loop = asyncio.get_running_loop()
    pauses: list[float] = []

    def pause() -> None:
        pauses.append(loop.time())
        time.sleep(0.05)
        if len(pauses) < 100:
            loop.call_soon(pause)

    async with upstream([reads(), stalls()]) as server:
        asked = ask(server.url, timeouts=NO_FIRST)
        loop.call_later(0.02, pause)
        fault, _ = await fault_of(transport, asked)
        given_up_after = len(pauses)
        pauses += [0.0] * 100
    assert isinstance(fault, UpstreamTimeout)
    assert given_up_after < 100


async def test_a_server_that_hangs_up_on_everyone_is_a_fault(transport: HttpTransport) -> None:
    """Whether the request left before the close was seen is chance; an error it is for sure."""
    async with upstream([]) as server:
        for body in (b"{}", bytes(5_000_000)):
            progress = Progress()
            asked = Request(url=server.url, headers=(), body=body, progress=progress)
            fault, _ = await fault_of(transport, asked)
            assert isinstance(fault, UpstreamBroke | UpstreamUnreachable)
            assert fault.sent is progress.sent


async def test_a_server_that_speaks_first_is_no_provider(transport: HttpTransport) -> None:
    """A mail or shell server greets whoever connects."""
    async with upstream([says(b"220 mail.example ESMTP\r\n"), stalls()]) as server:
        fault, _ = await fault_of(transport, ask(server.url))
        await server.hung_up.wait()
    assert isinstance(fault, UpstreamBroke | UpstreamUnreachable)


async def test_a_slow_drip_is_no_fault(transport: HttpTransport) -> None:
    """There is no time-out for a whole answer, only for silence."""
    said = chunked(b"abc", b"def")
    async with upstream([reads(), drips([bytes([each]) for each in said])]) as server:
        assert await whole(await transport.send(ask(server.url))) == b"abcdef"


@pytest.mark.parametrize(
    ("steps", "body", "words"),
    [
        ([], b"", "before it answered"),
        ([says(b"HTTP/1.1 2")], b"", "in the middle of its headers"),
        ([says(HEAD)], b"", "in the middle of its answer"),
        ([says(HEAD + b"part")], b"part", "in the middle of its answer"),
        ([says(CHUNKS)], b"hello", "in the middle of its answer"),
        ([says(CHUNKS + b"0\r\n")], b"hello", "in the middle of its answer"),
    ],
)
@pytest.mark.parametrize("end", [None, resets()], ids=["closed", "reset"])
async def test_a_connection_that_ends_early_is_a_fault(
    transport: HttpTransport, steps: list[Step], body: bytes, words: str, end: Step | None
) -> None:
    """Half an answer never passes for a whole one, and the request may have been billed."""
    go = asyncio.Event()

    async def held(_peer: object) -> None:
        await go.wait()

    script = [reads(), *steps, held, *([end] if end else [])]
    async with upstream(script) as server:
        task = asyncio.create_task(fault_of(transport, ask(server.url)))
        # A reset drops what lies unread in the client's kernel, so it must have been read.
        await eventually(lambda: bool(server.requests))
        for _ in range(20):
            await asyncio.sleep(0)
        go.set()
        fault, got = await task
    how = "reset" if end else "closed"
    assert fault.message == f"`127.0.0.1:{server.port}` {how} the connection {words}"
    assert isinstance(fault, UpstreamBroke)
    assert fault.sent
    assert got == body


async def test_a_body_that_runs_until_a_reset_is_not_whole(transport: HttpTransport) -> None:
    """Only a proper close ends it."""
    go = asyncio.Event()

    async def held(_peer: object) -> None:
        await go.wait()

    said = says(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    async with upstream([reads(), said, held, resets()]) as server:
        chunks = (await transport.send(ask(server.url))).chunks()
        assert await anext(chunks) == b"half"
        go.set()
        with pytest.raises(UpstreamBroke, match="reset the connection"):
            await anext(chunks)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_fault(transport: HttpTransport, said: bytes) -> None:
    """Strictly: what two readers could read differently is refused (no response splitting)."""
    async with upstream([reads(), says(said), stalls()]) as server:
        fault, _ = await fault_of(transport, ask(server.url))
        await server.hung_up.wait()
    assert isinstance(fault, UpstreamBroke)
    assert fault.sent
    assert fault.message.startswith(f"`127.0.0.1:{server.port}` ")


@pytest.mark.parametrize(
    ("begin", "piece", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n", "64 KiB of headers"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 4096, "without end"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "without end"),
        (b"", b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n", "64 KiB of headers"),
        (CHUNKS + b"0\r\n", b"X-Trailer: and more\r\n", "64 KiB of headers"),
        (CHUNKS + b"1;x=", b"x" * 4096, "without end"),
    ],
    ids=["headers", "one header", "100s", "103s", "trailers", "chunk extension"],
)
async def test_endless_headers_are_cut_off(
    transport: HttpTransport, begin: bytes, piece: bytes, words: str
) -> None:
    """Time-outs see no silence here; a limit on bytes must."""
    async with upstream([reads(), says(begin), floods(piece)]) as server:
        fault, _ = await fault_of(transport, ask(server.url))
    assert isinstance(fault, UpstreamBroke)
    assert words in fault.message


@pytest.mark.parametrize("said", [b"", HEAD + b"part"], ids=["before", "in the answer"])
async def test_a_caller_that_is_cancelled_closes_the_connection(
    transport: HttpTransport, said: bytes
) -> None:
    """The provider should stop working at once; half a connection never goes to the pool."""
    reached = asyncio.Event()
    async with upstream([reads(), says(said), notes(reached), stalls()]) as server:

        async def call() -> None:
            await whole(await transport.send(ask(server.url)))

        task = asyncio.create_task(call())
        await reached.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.hung_up.wait()
        await eventually(lambda: transport.open_connections == 0)


async def test_a_caller_that_is_cancelled_while_connecting_leaves_nothing(
    transport: HttpTransport,
) -> None:
    """The half-open socket is closed with its task."""
    with full_port() as port:
        task = asyncio.create_task(transport.send(ask(f"http://127.0.0.1:{port}/")))
        await eventually(lambda: transport.open_connections == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.open_connections == 0


async def test_a_caller_that_is_cancelled_just_as_it_is_connected_leaves_nothing() -> None:
    """The loop of the daemon tells nobody of such an end: closing waited for it for ever."""
    made: list[Connection] = []

    class Telling(HttpTransport):
        def opened(self, connection: Connection) -> None:
            super().opened(connection)
            made.append(connection)
            task.cancel()

    async with upstream([stalls()]) as server:
        transport = Telling()
        task = asyncio.create_task(transport.send(ask(server.url)))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(made) == 1
        assert transport.open_connections == 0
        async with asyncio.timeout(30):
            await transport.close()


async def test_closing_an_unfinished_answer_closes_its_connection(
    transport: HttpTransport,
) -> None:
    """At once, and what was not read stays unread."""
    async with upstream([reads(), says(CHUNKS), stalls()]) as server:
        got = await transport.send(ask(server.url))
        await got.close()
        await got.close()
        await server.hung_up.wait()
        await eventually(lambda: transport.open_connections == 0)
        with pytest.raises(UpstreamBroke, match="closed before its end"):
            await whole(got)


async def test_closing_the_transport_ends_what_is_under_way() -> None:
    """Whoever waits hears of it; whoever comes later is refused; no socket is left."""
    transport = HttpTransport()
    async with upstream([reads(), says(CHUNKS), stalls()]) as server:
        chunks = (await transport.send(ask(server.url))).chunks()
        assert await anext(chunks) == b"hello"
        reading = asyncio.create_task(anext(chunks, b""))
        with full_port() as port:
            dialling = asyncio.create_task(transport.send(ask(f"http://127.0.0.1:{port}/")))
            await eventually(lambda: transport.open_connections == 2)
            await transport.close()
        assert transport.open_connections == 0
        with pytest.raises(UpstreamBroke, match="The gateway closed its connection"):
            await reading
        with pytest.raises(UpstreamUnreachable, match="is stopping"):
            await dialling
        with pytest.raises(UpstreamUnreachable, match="is stopping"):
            await transport.send(ask(server.url))
        await server.hung_up.wait()
        await transport.close()
