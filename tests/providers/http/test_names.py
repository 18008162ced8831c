"""Names that nobody answers for keep no other name from being found, and nothing from ending."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from transports import ask, whole
from upstreams import answer, eventually, reads, says, upstream

from tollway.providers.errors import UpstreamTimeout, UpstreamUnreachable
from tollway.providers.http.client import HttpTransport
from tollway.providers.http.names import THREAD, Address, Names
from tollway.providers.transport import Timeouts

IMPATIENT = Timeouts(connect_s=0.05, first_s=30.0, idle_s=30.0)
LOOPBACK: Address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
SILENT = Path(__file__).parents[2] / "silent_resolver.py"


class Resolver:
    """Knows `localhost`, and hangs over everything else until told: then there is no such name."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answers = threading.Event()

    def __call__(self, host: str) -> list[Address]:
        """Return loopback, or nothing for a while."""
        self.asked[host] += 1
        if host != "localhost":
            self.answers.wait()
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [LOOPBACK]


def looking() -> int:
    """Return how many threads look a name up."""
    return sum(thread.name == THREAD for thread in threading.enumerate())


@asynccontextmanager
async def resolving(resolver: Resolver, most_threads: int = 64) -> AsyncIterator[HttpTransport]:
    """Yield a transport that asks `resolver`; at the end all its threads have ended."""
    client = HttpTransport(names=Names(resolver, most_threads=most_threads))
    try:
        yield client
    finally:
        await client.close()
        resolver.answers.set()
        await eventually(lambda: looking() == 0)


async def test_a_name_is_looked_up_once_for_all_who_wait() -> None:
    """One thread for each name that hangs, however often it is asked for, and on which port."""
    resolver = Resolver()
    async with resolving(resolver) as client, upstream([reads(), says(answer(b"ok"))]) as server:
        gone = "http://models.example:9/"
        hasty = [asyncio.create_task(client.send(ask(gone, timeouts=IMPATIENT))) for _ in range(9)]
        for one in hasty:
            with pytest.raises(UpstreamTimeout):
                await one
        ports = range(9, 18)
        patient = [
            asyncio.create_task(client.send(ask(f"http://models.example:{port}/")))
            for port in ports
        ]
        for _ in range(3):
            got = await client.send(ask(f"http://localhost:{server.port}/"))
            assert await whole(got) == b"ok"
        # One look-up for all of them, those who have left included: one thread that hangs.
        assert resolver.asked["models.example"] == 1
        await eventually(lambda: looking() == 1)
        resolver.answers.set()
        for one in patient:
            with pytest.raises(UpstreamUnreachable, match="cannot be found: no such name"):
                await one
        # Nothing is kept: the name may be known now.
        with pytest.raises(UpstreamUnreachable):
            await client.send(ask(gone))
        assert resolver.asked["models.example"] == 2
        resolver.answers.clear()
        left = asyncio.create_task(client.send(ask(gone)))
        await eventually(lambda: resolver.asked["models.example"] == 3)
        await client.close()
        with pytest.raises(UpstreamUnreachable):
            await left
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_names_that_hang_keep_no_other_from_being_found() -> None:
    """Each has a thread of its own, of which there is a most; past that a name waits its turn."""
    resolver = Resolver()
    async with (
        resolving(resolver, most_threads=8) as client,
        upstream([reads(), says(answer(b"ok"))]) as server,
    ):
        hung = [
            asyncio.create_task(client.send(ask(f"http://gone-{number}.example/")))
            for number in range(7)
        ]
        await eventually(lambda: len(resolver.asked) == 7)
        for _ in range(3):  # a thread that has answered makes room for the next
            got = await client.send(ask(f"http://localhost:{server.port}/"))
            assert await whole(got) == b"ok"
        hung += [
            asyncio.create_task(client.send(ask(f"http://gone-{number}.example/")))
            for number in range(7, 30)
        ]
        await eventually(lambda: len(resolver.asked) == 9)  # localhost is one of them
        waits = asyncio.create_task(client.send(ask(f"http://localhost:{server.port}/")))
        with pytest.raises(UpstreamTimeout):
            await client.send(ask("http://gone-99.example/", timeouts=IMPATIENT))
        assert looking() == 8
        resolver.answers.set()
        assert await whole(await waits) == b"ok"
        for one in hung:
            with pytest.raises(UpstreamUnreachable, match="cannot be found: no such name"):
                await one
        assert max(resolver.asked[f"gone-{number}.example"] for number in range(30)) == 1


async def test_a_machine_without_threads_left_says_so() -> None:
    """Whoever asked hears it at once, and the name is tried again by the next who asks."""
    before = threading.stack_size(1 << 46)  # more than any machine has
    async with resolving(Resolver()) as client, upstream([reads(), says(answer(b"ok"))]) as server:
        try:
            with pytest.raises(UpstreamUnreachable, match="no thread is left"):
                await client.send(ask(f"http://localhost:{server.port}/"))
        finally:
            threading.stack_size(before)
        assert await whole(await client.send(ask(f"http://localhost:{server.port}/"))) == b"ok"


async def test_what_can_be_no_name_is_not_found() -> None:
    """A label may be neither empty nor longer than 63 bytes: an answer as any, not a crash."""
    async with resolving(Resolver()) as client:
        for host in ("a..example", "a" * 64 + ".example"):
            with pytest.raises(UpstreamUnreachable, match="cannot be found: that can be no name"):
                await client.send(ask(f"http://{host}/"))


def test_a_resolver_that_is_silent_keeps_no_process_from_ending() -> None:
    """With the system's own resolver, whose server says nothing for minutes.

    In a network of its own, where this machine lets anybody make one.
    """
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
    try:
        subprocess.run([*apart, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody make a network of his own")
    # The resolver would wait for 150 s.
    ended = subprocess.run(
        [*apart, sys.executable, str(SILENT)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "found while 12 hung\n"
