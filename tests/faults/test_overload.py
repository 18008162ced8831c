"""Ten times what fits: what is admitted is served as ever, the rest is refused at once."""

import asyncio
import contextlib
import hashlib
import socket
import statistics
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from gateway import CHAT, KEY, WHOLE, body, config, gateway, whole
from shell import Client, Process, Reply, control, process, short_folder, until, write_config
from upstreams import Peer, Upstream, upstream

from tollway.daemon.ledger.verify import verify
from tollway.daemon.process import BACKLOG
from tollway.daemon.room import part_of

FITS = 10
CROWD = 400
SOMAXCONN = int(Path("/proc/sys/net/core/somaxconn").read_text())


class Busy:
    """An upstream that answers when the test says so, or after a while."""

    def __init__(self, after_s: float | None = None) -> None:
        self.go_on = asyncio.Event()
        self.running = 0
        self.most = 0
        self._after_s = after_s

    async def __call__(self, peer: Peer) -> None:
        """Answer one call."""
        await peer.read_request()
        self.running += 1
        self.most = max(self.most, self.running)
        if self._after_s is None:
            await self.go_on.wait()
        else:
            await asyncio.sleep(self._after_s)
        self.running -= 1
        await peer.say(whole(WHOLE, "Connection: close"))


@contextlib.asynccontextmanager
async def loaded(
    busy: Busy, *, server: str = "", provider: str = ""
) -> AsyncIterator[tuple[Process, Upstream]]:
    """Yield a daemon in a process of its own before a busy upstream."""
    async with upstream([busy]) as up:
        with (
            short_folder() as folder,
            process(write_config(folder, config([up], provider), server=server)) as daemon,
        ):
            assert (await asyncio.to_thread(daemon.ready))["ready"]
            yield daemon, up


async def call(port: int) -> Reply:
    """Make a call; return the answer."""
    said = body()
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    await client.send(
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(said)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + said
    )
    reply = await client.answer()
    client.close()
    return reply


async def answers_its_owner(daemon: Process) -> dict[str, object]:
    """Ask for the health by the public address, and for the status by the owner's socket."""
    client = Client(*await asyncio.open_connection("127.0.0.1", daemon.port))
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer()).status == 200
    client.close()
    socket = daemon.config.parent / "tollway.sock"
    status, said = await asyncio.to_thread(control, socket, "GET", "/control/status")
    assert status == 200
    found: dict[str, object] = said
    return found


@pytest.mark.parametrize(
    ("server", "provider", "waits"),
    [
        # The whole box, a provider's slots with a short line, and with none to speak of.
        (f"limits = {{ concurrent = {FITS} }}", "", 0),
        ("max_queue = 20", f"slots = {FITS}", 20),
        ("max_queue = 1", f"slots = {FITS}", 1),
    ],
)
async def test_what_does_not_fit_is_told_at_once_and_when_to_come_again(
    server: str, provider: str, waits: int
) -> None:
    """429 with Retry-After while the others still run; those all end well; the owner is heard."""
    busy = Busy()
    async with loaded(busy, server=server, provider=provider) as (daemon, _):
        calls = [asyncio.create_task(call(daemon.port)) for _ in range(FITS * 10)]
        refused = FITS * 10 - FITS - waits
        # Not one admitted call has ended: whoever is refused did not wait for that.
        await until(lambda: sum(one.done() for one in calls) == refused)
        await until(lambda: busy.running == FITS)
        for one in calls:
            if one.done():
                reply = one.result()
                assert reply.status == 429
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json()["error"]["source"] == "gateway"
        status = await answers_its_owner(daemon)
        assert status["problems"] == []
        busy.go_on.set()
        found = Counter(reply.status for reply in await asyncio.gather(*calls))
        assert found == {200: FITS + waits, 429: refused}
        assert busy.most == FITS
        ledger = daemon.config.parent / "ledger.db"
        daemon.popen.terminate()
        assert await asyncio.to_thread(daemon.ended) == 0
        assert verify(ledger) == []


async def test_connections_over_their_number_are_told_at_once_too() -> None:
    """The cap on connections is the last line: its refusal costs neither a parser nor a row."""
    busy = Busy()
    async with loaded(busy, server=f"max_connections = {FITS}") as (daemon, _):
        calls = [asyncio.create_task(call(daemon.port)) for _ in range(FITS)]
        await until(lambda: busy.running == FITS)
        for _ in range(FITS * 3):
            client = Client(*await asyncio.open_connection("127.0.0.1", daemon.port))
            reply = await client.answer()
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            client.close()
        socket = daemon.config.parent / "tollway.sock"
        status, said = await asyncio.to_thread(control, socket, "GET", "/control/status")
        assert (status, said["connections"]) == (200, FITS)
        busy.go_on.set()
        assert {reply.status for reply in await asyncio.gather(*calls)} == {200}


async def test_bodies_that_memory_has_no_room_for_are_refused_and_leave_no_trace() -> None:
    """Each may be as long as `server.max_body` says, and all together no more than the room."""
    busy = Busy()
    async with gateway([[busy]]) as gate:
        room = gate.daemon.server.daemon.room
        room.most = 100_000
        long = body(messages=[{"role": "user", "content": "x" * 60_000}])
        first = asyncio.create_task(gate.ask(long))
        await until(lambda: busy.running == 1)
        assert room.held == len(long)
        refused = await gate.ask(long)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "overloaded"
        assert (await gate.daemon.ask("GET", "/healthz")).status == 200
        busy.go_on.set()
        assert (await gate.ask()).status == 200
        assert (await first).status == 200
        assert (await gate.ask(long)).status == 200
        assert room.held == 0


async def test_a_body_that_never_fits_is_too_large() -> None:
    """To wait and to send fewer at once, as a 503 asks for, would help nobody: clients tried on."""
    async with gateway([[]]) as gate:
        room = gate.daemon.server.daemon.room
        room.most = 100_000
        refused = await gate.ask(body(messages=[{"role": "user", "content": "x" * 90_000}]))
        assert (refused.status, refused.json()["error"]["code"]) == (413, "request_too_large")
        assert "memory" in refused.json()["error"]["message"]
        assert "retry-after" not in refused.headers
        assert room.held == 0


@pytest.mark.parametrize("mib", [400, 1024, 8192])
def test_the_room_for_bodies_is_of_the_memory_that_there_is_for_us(mib: int) -> None:
    """A container of 512 MiB on a large machine was given gigabytes of bodies, and was killed."""
    code = (
        "import resource, sys; from tollway.daemon.room import room_for_bodies;"
        "limit = resource.RLIMIT_AS;"
        f"resource.setrlimit(limit, ({mib} << 20, resource.getrlimit(limit)[1]));"
        "print(room_for_bodies().most)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    most = int(done.stdout)
    assert 0 < most <= mib * 2**20 // 4
    assert most <= max(256 * 2**20, mib * 2**20 // 8)


@pytest.mark.parametrize("mib", [128, 256, 512, 1024, 2048, 65_536])
def test_bodies_fit_with_all_that_is_made_of_them(mib: int) -> None:
    """Six images of 20 MB for another dialect made 530 MiB, and a container of 512 let them in."""
    memory = mib * 2**20
    room = part_of(memory)
    assert room * 4 + 80 * 2**20 <= memory
    # One body as long as the default allows has room in a container of 256 MiB.
    assert mib < 256 or room >= 32 * 2**20


async def test_bodies_of_one_key_leave_room_for_another_s() -> None:
    """Bodies that trickle in held all of it for as long as their sender liked."""
    other = "tw-" + "o" * 40
    more = f"""
[keys.other]
hash = "sha256:{hashlib.sha256(other.encode()).hexdigest()}"
user = "ann"
"""
    busy = Busy()
    async with gateway([[busy]], more=more) as gate:
        room = gate.daemon.server.daemon.room
        room.most = 100_000
        long = body(messages=[{"role": "user", "content": "x" * 40_000}])
        first = asyncio.create_task(gate.ask(long))
        await until(lambda: busy.running == 1)
        refused = await gate.ask(long)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "this key's calls" in refused.json()["error"]["message"]
        second = asyncio.create_task(gate.ask(long, authorization=f"Bearer {other}"))
        await until(lambda: busy.running == 2)
        busy.go_on.set()
        assert {one.status for one in await asyncio.gather(first, second)} == {200}
        assert (await gate.ask(long)).status == 200
        assert room.held == 0


async def test_a_burst_of_new_connections_finds_room_to_wait() -> None:
    """Those that the system turns away try again after a second, then three: none of ours to lose.

    Of a listening socket, Linux tells the room for connections that wait in `tcpi_sacked`.
    """
    async with gateway([[Busy()]]) as gate:
        for one in gate.daemon.server._listening:
            told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
            assert struct.unpack_from("I", told, 28)[0] == min(BACKLOG, SOMAXCONN)


class Flood:
    """Connections of another process that call with one key, each as soon as it was answered."""

    def __init__(self, counter: Path) -> None:
        self._counter = counter

    @property
    def answers(self) -> list[int]:
        """How many answers each connection has had."""
        return list(memoryview(self._counter.read_bytes()).cast("Q"))

    async def during(self, work: Awaitable[object]) -> int:
        """Return how many calls of the flood were answered meanwhile: time that no noise bends."""
        before = sum(self.answers)
        await work
        return sum(self.answers) - before


@contextlib.asynccontextmanager
async def flooded(port: int, key: str, folder: Path) -> AsyncIterator[Flood]:
    """Flood a port; yields once every connection has had an answer."""
    counter = folder / "answers"
    counter.write_bytes(bytes(8 * CROWD))
    program = Path(__file__).parent.parent / "flood.py"
    command = [sys.executable, str(program), str(port), str(CROWD), key, str(counter)]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        flood = Flood(counter)
        await until(lambda: min(flood.answers) > 0)
        yield flood
        assert process.returncode is None
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def test_who_is_admitted_does_not_wait_for_a_crowd_that_is_refused(tmp_path: Path) -> None:
    """While it is served, on its ten ways through the loop, not everybody is refused ten times.

    Counted in refusals and not in seconds: whatever else runs on the machine slows both alike.
    A crowd asks as fast as it is answered, so the daemon has no moment to spare.
    """
    other = "tw-" + "y" * 43
    digest = hashlib.sha256(other.encode()).hexdigest()
    more = f"""[users.crowd]
team = "ml"
[keys.crowd]
hash = "sha256:{digest}"
user = "crowd"
limits = {{ rpm = 1 }}
"""
    server = f'max_connections_per_client = {2 * CROWD}\nlog_level = "warning"'
    async with upstream([Busy(after_s=0)]) as up:
        with (
            short_folder() as folder,
            process(write_config(folder, config([up], "", more), server=server)) as daemon,
        ):
            assert (await asyncio.to_thread(daemon.ready))["ready"]
            async with flooded(daemon.port, other, tmp_path) as flood:
                first = flood.answers
                served = [await flood.during(served_well(daemon.port)) for _ in range(30)]
                owner = [await flood.during(answers_its_owner(daemon)) for _ in range(10)]
                each = [now - then for now, then in zip(flood.answers, first, strict=True)]
            print("REFUSED MEANWHILE", sorted(served), sorted(owner), min(each), max(each))
            assert statistics.median(served) < CROWD
            assert statistics.median(owner) < CROWD
            # One after the other: nobody is refused twice before everybody was once.
            assert max(each) <= min(each) + 2


async def served_well(port: int) -> None:
    """Make a call that is admitted."""
    reply = await call(port)
    assert reply.status == 200, reply
