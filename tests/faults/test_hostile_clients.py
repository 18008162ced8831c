"""Clients that attack with raw sockets, all at once: refused early, memory flat, nobody disturbed.

What a single malformed request is answered with stands in tests/daemon/test_middleware_*.py.
"""

import asyncio
import contextlib
import gzip
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from gateway import CHAT, HEAD, KEY, WHOLE, Gateway, chunk, config, gateway, whole
from shell import Client, Process, control, process, running, short_folder, until, write_config
from upstreams import Peer, Upstream, floods, reads, says, upstream

from tollway.daemon.connection import EdgeLimits

MIB = 2**20
POST = (
    f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {KEY}\r\n"
).encode()
BODY = b'{"model":"up/m","max_tokens":10,"messages":[{"role":"user","content":"Hi"}]}'
STREAM = BODY.replace(b"{", b'{"stream":true,', 1).replace(b":10,", b":100000,")


def post(body: bytes, *headers: str) -> bytes:
    """Return a whole call."""
    more = "".join(f"{line}\r\n" for line in headers).encode()
    return POST + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def answers(peer: Peer) -> None:
    """Answer whole, or stream without end at the pace of whoever reads."""
    if b'"stream":true' in await peer.read_request():
        await peer.say(HEAD)
        await floods(chunk("x" * 1000))(peer)
    else:
        await peer.say(whole(WHOLE, "Connection: close"))


@contextlib.asynccontextmanager
async def attacked(server: str = "") -> AsyncIterator[tuple[Process, Upstream]]:
    """Yield a daemon in a process of its own before an upstream."""
    async with upstream([answers]) as up:
        with (
            short_folder() as folder,
            process(write_config(folder, config([up]), server=server)) as daemon,
        ):
            assert (await asyncio.to_thread(daemon.ready))["ready"]
            yield daemon, up


async def connect(daemon: Process) -> Client:
    """Open a connection."""
    return Client(*await asyncio.open_connection("127.0.0.1", daemon.port))


async def served(daemon: Process) -> None:
    """Make a call as anybody would; it is answered."""
    client = await connect(daemon)
    await client.send(post(BODY))
    assert (await client.answer()).status == 200
    client.close()


def resident(daemon: Process) -> int:
    """Return the bytes of memory that the daemon has."""
    pages = int(Path(f"/proc/{daemon.popen.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def files(daemon: Process) -> int:
    """Return how many files it has open."""
    return len(os.listdir(f"/proc/{daemon.popen.pid}/fd"))


async def connections(daemon: Process) -> int:
    """Return how many connections it says that it has."""
    socket = daemon.config.parent / "tollway.sock"
    _, said = await asyncio.to_thread(control, socket, "GET", "/control/status")
    found: int = said["connections"]
    return found


async def half_head(client: Client) -> None:
    """Begin a head, and go on with it a byte at a time."""
    await client.send(b"GET / HTTP/1.1\r\nX-A: ")
    for _ in range(5):
        await client.send(b"a")
        await asyncio.sleep(0)


async def half_body(client: Client) -> None:
    """Begin a body, and never end it."""
    await client.send(POST + b"Content-Length: 1000\r\n\r\n{")


async def unread(client: Client) -> None:
    """Ask for a stream without end, and read none of it."""
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(post(STREAM))


async def bomb(client: Client) -> None:
    """Send a megabyte that unpacks to a gigabyte."""
    await client.send(post(BOMB, "Content-Encoding: gzip"))


async def nested(client: Client) -> None:
    """Send JSON that is a hundred thousand levels deep."""
    await client.send(post(b'{"messages":' * 50_000 + b"[" * 50_000))


async def heads(client: Client) -> None:
    """Send a million headers."""
    await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    for _ in range(100):
        await client.send(b"X-A: b\r\n" * 10_000)


async def garbage(client: Client) -> None:
    """Send what is no HTTP."""
    await client.send(bytes(range(256)) * 100)


async def half_closed(client: Client) -> None:
    """Ask, and say that nothing more will come."""
    await client.send(post(STREAM))
    client.writer.write_eof()


async def resets(client: Client) -> None:
    """Ask, and hang up at once."""
    await client.send(post(STREAM))
    client.writer.transport.abort()


BOMB = gzip.compress(b"\0" * (256 * MIB), 9) * 4  # a gigabyte in four members
ATTACKS: tuple[tuple[Callable[[Client], Awaitable[None]], int], ...] = (
    (half_head, 60),
    (half_body, 60),
    (unread, 20),
    (bomb, 5),
    (nested, 5),
    (heads, 5),
    (garbage, 30),
    (half_closed, 20),
    (resets, 20),
)


async def attack(daemon: Process, way: Callable[[Client], Awaitable[None]]) -> Client:
    """Attack in one way, and leave the connection as it is."""
    client = await connect(daemon)
    with contextlib.suppress(ConnectionError):  # refused in the middle of it, as it should be
        await way(client)
    return client


async def test_attackers_of_every_kind_at_once_disturb_nobody() -> None:
    """Calls are answered while all of them hold what they can; afterwards nothing is left."""
    async with attacked() as (daemon, _):
        for _ in range(20):
            await served(daemon)
        before, open_before = resident(daemon), files(daemon)
        attackers = await asyncio.gather(
            *(attack(daemon, way) for way, count in ATTACKS for _ in range(count))
        )
        for _ in range(20):
            await served(daemon)
        socket = daemon.config.parent / "tollway.sock"
        status, _ = await asyncio.to_thread(control, socket, "GET", "/control/status")
        assert status == 200
        assert resident(daemon) - before < 120 * MIB
        for client in attackers:
            client.writer.transport.abort()
        await until(lambda: connections_gone(daemon))
        await served(daemon)
        await until(lambda: files(daemon) <= open_before + 8)


async def connections_gone(daemon: Process) -> bool:
    """Return whether no client is connected any more."""
    return await connections(daemon) == 0


@pytest.mark.parametrize(
    "count", [1000, pytest.param(9000, marks=pytest.mark.long)], ids=lambda count: f"{count}"
)
async def test_idle_connections_cost_little_and_keep_nobody_out(count: int) -> None:
    """Twenty kilobytes each; who asks is answered as before."""
    async with attacked("max_connections_per_client = 10_000") as (daemon, _):
        await served(daemon)
        before = resident(daemon)
        idle = []
        for _ in range(count // 100):
            idle += await asyncio.gather(*(connect(daemon) for _ in range(100)))
        await until(lambda: enough(daemon, count))
        assert (resident(daemon) - before) / count < 20_000
        for _ in range(20):
            await served(daemon)
        for client in idle:
            client.writer.transport.abort()
        await until(lambda: connections_gone(daemon))


async def enough(daemon: Process, count: int) -> bool:
    """Return whether so many are connected."""
    return await connections(daemon) >= count


async def test_a_client_that_reads_none_of_its_stream_is_cut_off_and_billed() -> None:
    """What waits for it is bounded, the provider is left, and the call's row is right."""
    limits = EdgeLimits(unread_s=0.05, sweep_s=0.01)
    async with upstream([answers]) as up, running(config([up]), server="", limits=limits) as daemon:
        client = await daemon.connect()
        await unread(client)
        await until(lambda: up.connections == 1 and not up._running)
        await until(lambda: not daemon.server.daemon.exchanges and not daemon.server.daemon.tasks)
        # Nobody waits for the row of a call whose client is gone.
        row = (await Gateway(daemon, [up]).only_row()).call
        assert (row.state, row.ending) == ("settled", "client_left")
        assert row.cost_nanousd > 0


HOPS = (
    "Connection: authorization, x-tollway-key, keep-alive",
    "Proxy-Authorization: Basic c2VjcmV0",
    "Proxy-Connection: keep-alive",
    "Keep-Alive: timeout=1000",
    "TE: trailers",
    "Trailer: authorization",
    "X-Forwarded-For: 127.0.0.1",
    "Forwarded: for=127.0.0.1",
    "X-Forwarded-Host: evil.example",
    "X-Original-URL: /control/stop",
    "X-Rewrite-URL: /control/stop",
    "X-HTTP-Method-Override: DELETE",
    "Cookie: session=secret",
)


async def test_headers_of_one_hop_go_no_further_and_change_nothing() -> None:
    """`Connection` can name no header away that says who calls; no path or method is put over."""
    async with gateway([[reads(), says(whole())]]) as gate:
        client = await gate.daemon.connect()
        await client.send(post(BODY, *HOPS))
        assert (await client.answer()).status == 200
        head = gate.ups[0].requests[0].partition(b"\r\n\r\n")[0].lower()
        names = {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]}
        sent = {line.partition(":")[0].lower().encode() for line in HOPS}
        assert names & sent <= {b"connection"}
        for value in (b"secret", b"x-tollway-key", b"evil.example", b"/control/", b"delete"):
            assert value not in head
        row = await gate.only_row()
        assert row.call.key == "laptop"


async def test_an_upgrade_to_another_protocol_is_not_made() -> None:
    """Neither to a web socket nor to HTTP/2: what follows would be read by nobody's rules."""
    async with gateway([[reads(), says(whole())]]) as gate:
        for upgrade in ("websocket", "h2c"):
            said = post(BODY, "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}",
                        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")  # fmt: skip
            answer = await gate.daemon.raw(said + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not answer.startswith(b"HTTP/1.1 101")
            assert answer.count(b"HTTP/1.1 ") <= 1
