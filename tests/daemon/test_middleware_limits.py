"""Slow and greedy clients are refused early, with flat memory, and hurt nobody else."""

import asyncio
import gzip
import resource
import socket
import zlib
from math import inf

import msgspec
import pytest
import uvloop
from aiohttp import web
from shell import PATIENCE_S, Client, Running, parse, running, until

from tollway.daemon import app as application
from tollway.daemon.app import Route
from tollway.daemon.connection import EdgeLimits
from tollway.daemon.turns import client_of

CHAT = "/v1/chat/completions"
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
SMALL = 'single_user = true\nmax_body = "64KiB"'
MIB = 2**20


def chunk(data: bytes) -> bytes:
    """Return data as one chunk."""
    return b"%x\r\n" % len(data) + data + b"\r\n"


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    """A gigabyte need not be sent to learn that it is too much."""
    async with running(server=SMALL) as daemon:
        client = await daemon.connect()
        await client.send(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        answer = await client.answer()
        client.close()
        assert answer.status == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert "65,536 bytes" in answer.json()["error"]["message"]


async def test_a_body_without_a_length_is_refused_once_it_is_too_large() -> None:
    """Chunks have no length to look at: they are counted."""
    async with running(server=SMALL) as daemon:
        client = await daemon.connect()
        await client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b" " * 70_000))
        assert (await client.answer()).status == 413
        client.close()


async def test_a_body_at_the_limit_is_read() -> None:
    """The limit is what may come, not what may not."""
    async with running(server=SMALL) as daemon:
        assert (await daemon.ask("POST", CHAT, b" " * 65_536)).status == 400
        assert (await daemon.ask("POST", CHAT, b" " * 65_537)).status == 413


async def test_the_limit_is_that_of_the_configuration_in_force() -> None:
    """The limit that aiohttp has is fixed when the application is made; ours follows a reload."""
    async with running(server=SMALL) as daemon:
        body = b" " * 100_000
        assert (await daemon.ask("POST", CHAT, body)).status == 413
        daemon.config.write_text(daemon.config.read_text().replace("64KiB", "256KiB"))
        await daemon.server.reloader.reload()
        assert (await daemon.ask("POST", CHAT, body)).status == 400


async def test_a_small_body_that_swells_is_refused_with_flat_memory() -> None:
    """The limit counts decompressed bytes, and decompression stops there."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(b" " * MIB) for _ in range(160)] + [packer.flush()])
    assert len(bomb) < MIB
    async with running(server='single_user = true\nmax_body = "2MiB"') as daemon:
        assert (await daemon.ask("POST", CHAT, b"{}")).status == 400
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = await daemon.ask("POST", CHAT, bomb, Content_Encoding="gzip")
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert answer.status == 413
        assert grown_kib < 64 * 1024


async def test_a_packed_body_is_unpacked() -> None:
    """Some clients compress; the error shows that the JSON inside was read."""
    async with running() as daemon:
        body = msgspec.json.encode({"model": "no-such-model", "messages": []})
        answer = await daemon.ask("POST", CHAT, gzip.compress(body), Content_Encoding="gzip")
        assert answer.status == 404
        answer = await daemon.ask("POST", CHAT, b"no gzip at all", Content_Encoding="gzip")
        assert answer.status == 400


async def test_a_head_that_never_ends_is_cut_off() -> None:
    """Slowloris: a connection that has begun a head and drips it is closed with 408."""
    async with running(limits=EdgeLimits(head_s=0.05, sweep_s=0.01)) as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: loc")
        assert (await client.all()).startswith(b"HTTP/1.1 408")


def test_a_head_that_begins_with_its_connection_is_cut_off_too() -> None:
    """The daemon's loop reads it before anything of the connection's own has run."""

    async def live() -> None:
        async with running(limits=EdgeLimits(head_s=0.05, sweep_s=0.01)) as daemon:
            with socket.create_connection(("127.0.0.1", daemon.port)) as one:
                one.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")  # the loop has not turned
                one.setblocking(False)
                async with asyncio.timeout(PATIENCE_S):
                    said = await asyncio.get_running_loop().sock_recv(one, 100)
                assert said.startswith(b"HTTP/1.1 408")

    uvloop.run(live())


def test_a_first_head_that_is_on_its_way_is_waited_for() -> None:
    """A restart must not hang up on it, however soon its first part came."""

    async def live() -> None:
        async with running(limits=EdgeLimits(still_s=0.0, new_s=0.0)) as daemon:
            with socket.create_connection(("127.0.0.1", daemon.port)) as one:
                one.sendall(b"GET /healthz HTTP/1.1\r\n")
                connections = daemon.server.connections
                await until(lambda: any(each.idle_s(inf) < 0 for each in connections.open))
                for _ in range(9):
                    assert not connections.still()
                    await asyncio.sleep(0)

    uvloop.run(live())


async def test_a_second_head_that_never_ends_is_cut_off_too() -> None:
    """The clock starts again with each request of a connection."""
    limits = EdgeLimits(head_s=0.05, sweep_s=0.01)
    async with running(limits=limits) as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer()).status == 200
        await client.send(b"GET /healthz HTT")
        assert (await client.all()).startswith(b"HTTP/1.1 408")


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """It holds a file, and nobody is behind it."""
    async with running(limits=EdgeLimits(head_s=0.05, sweep_s=0.01)) as daemon:
        client = await daemon.connect()
        assert (await client.all()).startswith(b"HTTP/1.1 408")
        await until(lambda: _open(daemon) == 0)


async def test_a_connection_between_two_requests_is_kept_for_a_while_and_then_closed() -> None:
    """Keep-alive has an end; it is quiet, since no request went wrong."""
    async with running(limits=EdgeLimits(idle_s=0.05, sweep_s=0.01)) as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer()).status == 200
        assert await client.all() == b""


async def test_a_body_that_stalls_is_408() -> None:
    """The head was whole and the body is not: its time-out is between two pieces."""
    async with running(limits=EdgeLimits(body_idle_s=0.05, linger_s=0.05)) as daemon:
        client = await daemon.connect()
        await client.send(HEAD + b"Content-Length: 10\r\n\r\n{")
        answer = await client.answer()
        assert answer.status == 408
        assert answer.json()["error"]["code"] == "request_timeout"
        assert await client.all() == b""


async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for it holds memory, a connection, and the call's budget."""
    ended = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 65_536)
        finally:
            ended.set()

    routes = (*application.ROUTES, Route("GET", "/flood", flood, "open", "free"))
    monkeypatch.setattr(application, "ROUTES", routes)
    async with running(limits=EdgeLimits(unread_s=0.05, sweep_s=0.01)) as daemon:
        client = await daemon.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        await until(lambda: _open(daemon) == 0)


async def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    """A cap on connections keeps files for the calls that are under way."""
    async with running(limits=EdgeLimits(connections=3, spare_s=3600)) as daemon:
        clients = [await daemon.connect() for _ in range(3)]
        for client in clients:
            await _healthy(client)
        assert (await daemon.raw(b"")).startswith(b"HTTP/1.1 503")
        for client in clients:
            await _healthy(client)
        clients.pop().close()
        await until(lambda: _open(daemon) == 2)
        assert (await daemon.ask("GET", "/healthz")).status == 200
        for client in clients:
            client.close()


async def test_a_client_that_has_sent_its_request_can_read_why_it_is_refused() -> None:
    """Closed while that lay unread, the connection was reset, and the refusal lost with it."""
    async with running(limits=EdgeLimits(connections=1, spare_s=3600, linger_s=3600)) as daemon:
        held = await daemon.connect()
        await _healthy(held)
        for _ in range(5):
            sock = socket.create_connection(("127.0.0.1", daemon.port))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            sock.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=sock)
            assert (await reader.read()).startswith(b"HTTP/1.1 503")
            writer.close()
        await until(lambda: daemon.server.connections.parting.staying == 0)


async def test_who_is_refused_and_stays_is_hung_up_on() -> None:
    """For a while, and only so many: the others are closed at once."""
    limits = EdgeLimits(connections=1, spare_s=3600, linger_s=0, sweep_s=0.01)
    async with running(limits=limits) as daemon:
        held = await daemon.connect()
        await _healthy(held)
        for _ in range(100):
            await daemon.connect()
        await until(lambda: daemon.server.connections.refused == 100)
        await until(lambda: daemon.server.connections.parting.staying == 0)
        await _healthy(held)


async def test_those_who_are_refused_and_stay_take_few_of_few_files() -> None:
    """With 64 files all were theirs: the ledger and `status` had none for as long as they came."""
    limits = EdgeLimits(connections=16, spare_s=3600, linger_s=3600)
    async with running(limits=limits) as daemon:
        clients = [await daemon.connect() for _ in range(40)]
        await until(lambda: daemon.server.connections.refused == 40 - 16)
        assert daemon.server.connections.parting.staying == 4
        for client in clients:
            client.close()


async def test_connections_that_idle_make_room_for_those_that_ask() -> None:
    """Who holds connections and says nothing keeps nobody out: the oldest is closed first."""
    async with running(
        server="single_user = true\nmax_connections = 3", limits=EdgeLimits(spare_s=0)
    ) as daemon:
        idle, loop = [], asyncio.get_running_loop()
        for count in (1, 2, 3):
            idle.append(await daemon.connect())
            await until(lambda count=count: _open(daemon) == count)
            at = loop.time()  # which has whole milliseconds; two of one moment have no order
            await until(lambda at=at: loop.time() > at)
        assert (await daemon.ask("GET", "/healthz")).status == 200
        assert await idle[0].all() == b""
        await _healthy(idle[2])


async def test_who_has_a_request_under_way_is_not_closed_to_make_room() -> None:
    """A head that has begun is one too, for as long as a head may take."""
    async with running(
        server="single_user = true\nmax_connections = 1", limits=EdgeLimits(spare_s=0)
    ) as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\n")
        await until(lambda: next(iter(daemon.server.connections.open)).idle_s(0) == -1)
        answer = parse(await daemon.raw(b""))
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "too_many_connections"
        await client.send(b"Host: localhost\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_one_address_cannot_take_all_connections() -> None:
    """It is told so with 429; other addresses are served; a reload changes the number."""
    async with running(
        server="single_user = true\nwatch = false\nmax_connections_per_client = 2",
        limits=EdgeLimits(spare_s=3600),
    ) as daemon:
        held = [await daemon.connect() for _ in range(2)]
        await until(lambda: _open(daemon) == 2)
        answer = parse(await daemon.raw(b""))
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        assert answer.json()["error"]["code"] == "too_many_connections"
        assert daemon.server.connections.refused == 1
        other = Client(
            *await asyncio.open_connection("127.0.0.1", daemon.port, local_addr=("127.0.0.2", 0))
        )
        await _healthy(other)
        other.close()
        daemon.config.write_text(daemon.config.read_text().replace("client = 2", "client = 3"))
        await daemon.server.reloader.reload()
        assert (await daemon.ask("GET", "/healthz")).status == 200
        for one in held:
            one.close()
        await until(lambda: _open(daemon) == 0)
        assert daemon.server.connections._clients == {}


async def test_a_proxy_may_have_all_connections() -> None:
    """Behind one, every client has its address."""
    async with running(
        server="behind_proxy = true\nmax_connections_per_client = 1",
    ) as daemon:
        clients = [await daemon.connect() for _ in range(3)]
        for client in clients:
            await _healthy(client)


async def test_the_owner_gets_through_however_many_clients_there_are() -> None:
    """`status` must answer when nothing else does."""
    async with running(
        server="single_user = true\nmax_connections = 1", limits=EdgeLimits(spare_s=3600)
    ) as daemon:
        await _healthy(await daemon.connect())
        assert (await daemon.raw(b"")).startswith(b"HTTP/1.1 503")
        said = (await daemon.ask("GET", "/control/status", admin=True)).json()
        assert said["connections"] == 1


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("192.0.2.7", 5000), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.7", 5000, 0, 0), "192.0.2.7"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_client_is_told_by_its_address_or_its_network(peer: object, client: str) -> None:
    """A host has one address of IPv4, and all of a /64 of IPv6."""
    assert client_of(peer) == client


async def test_slow_clients_do_not_slow_the_others() -> None:
    """Three hundred half-sent requests are as nothing to one whole one."""
    async with running() as daemon:
        slow = await asyncio.gather(*(daemon.connect() for _ in range(300)))
        for number, client in enumerate(slow):
            await client.send((HEAD + b"Content-Length: 100\r\n\r\n{")[: 20 + number])
        for _ in range(20):
            assert (await daemon.ask("GET", "/healthz")).status == 200
        for client in slow:
            client.close()
        await until(lambda: _open(daemon) == 0)


async def test_json_nested_without_end_is_a_400_and_no_crash() -> None:
    """A parser that recurses must stop in time."""
    async with running() as daemon:
        for body in (b"[" * 100_000, b'{"messages":' * 100_000, b'{"messages":' + b"[" * 100_000):
            assert (await daemon.ask("POST", CHAT, body)).status == 400


def _open(daemon: Running) -> int:
    return len(daemon.server.connections.open)


async def _healthy(client: Client) -> None:
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer()).status == 200
